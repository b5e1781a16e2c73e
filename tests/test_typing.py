"""What mypy and pyright see in user code: the snippets in typing/, the README's, the examples.

A line of a snippet that a checker should refuse names what it should say: mypy's codes and
pyright's rules, as in ``# error: arg-type, reportArgumentType``.
"""

from __future__ import annotations

import ast
import builtins
import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SNIPPETS = sorted((ROOT / "tests" / "typing").glob("*.py"))
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))
PAGES = sorted(
    page
    for pattern in ("README.md", "plugins/*/README.md", "docs/*.md")
    for page in ROOT.glob(pattern)
)
PACKAGES = [
    "pystream",
    "pystream_core",
    "pystream_threads",
    "pystream_sqlite",
    "pystream_stages",
    "pystream_video",
    "pystream_processes",
    "pystream_cli",
]
# What a fragment of a page takes as given.
GIVEN = {
    "pipeline": "import pystream\npipeline = pystream.Pipeline()",
    "frame": "import numpy\nfrom pystream_video import MotionFrame\n"
    "frame = MotionFrame(numpy.zeros((4, 4), numpy.uint8))",
}
MYPY = """
[mypy]
strict = true
python_version = 3.10
[mypy-plain.*]
disallow_untyped_defs = false
disallow_incomplete_defs = false
disallow_untyped_calls = false
disallow_any_generics = false
disallow_untyped_decorators = false
disable_error_code = import-untyped
"""
PYRIGHT = {
    "typeCheckingMode": "strict",
    "pythonVersion": "3.10",
    "reportUnusedExpression": False,
    "reportUnusedImport": False,
}
RELAXED = "# pyright: standard\n"

Found = dict[str, set[tuple[int, str]]]  # by file: lines, and the rule that they break

pytestmark = pytest.mark.timeout(180)


def blocks(page: Path) -> list[str]:
    """The Python of a page, each block with what it takes from those before it."""
    whole: list[str] = []
    names: dict[str, str] = {}
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        defined, used = _names(block)
        needed = dict.fromkeys(
            names.get(name) or GIVEN.get(name, "") for name in sorted(used - defined)
        )
        text = "\n".join([*(each for each in needed if each and each != block), block])
        whole.append(text)
        names |= dict.fromkeys(defined, text)
    return whole


def _names(block: str) -> tuple[set[str], set[str]]:
    """The names that a block makes, and those that it uses."""
    defined: set[str] = set()
    used: set[str] = set()
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else defined).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            defined.add(node.name)
        elif isinstance(node, ast.arg):
            defined.add(node.arg)
        elif isinstance(node, ast.alias):
            defined.add((node.asname or node.name).split(".")[0])
    return defined, used - set(dir(builtins))


@pytest.fixture(scope="session")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that is checked, and the settings of both checkers."""
    folder = tmp_path_factory.mktemp("typing")
    plain = folder / "plain"  # says little about its own types, and need not
    plain.mkdir()
    (plain / "__init__.py").touch()
    for path in SNIPPETS:
        shutil.copy(path, folder if path.stem != "plain" else plain)
    for path in EXAMPLES:
        (plain / f"example_{path.name}").write_text(RELAXED + path.read_text())
    for page in PAGES:
        for number, block in enumerate(blocks(page), start=1):
            (plain / f"{_module(page)}_{number}.py").write_text(RELAXED + block)
    (folder / "mypy.ini").write_text(MYPY)
    (folder / "pyrightconfig.json").write_text(json.dumps(PYRIGHT))
    return folder


def _module(page: Path) -> str:
    return "page_" + "_".join(page.relative_to(ROOT).with_suffix("").parts)


def _run(folder: Path, *arguments: str) -> str:
    # pyright asks the first interpreter that it finds where packages are.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr  # 1: it found something
    return done.stdout


@pytest.fixture(scope="session")
def mypy(checked: Path) -> Found:
    """What mypy finds."""
    output = _run(checked, "mypy", "--output=json", "--cache-dir=.mypy_cache", ".")
    found: Found = defaultdict(set)
    for line in output.splitlines():
        each = json.loads(line)
        if each["severity"] == "error":
            found[Path(each["file"]).name].add((each["line"], each["code"]))
    return found


@pytest.fixture(scope="session")
def pyright(checked: Path) -> Found:
    """What pyright finds."""
    output = _run(checked, "pyright", "--outputjson", f"--pythonpath={sys.executable}")
    found: Found = defaultdict(set)
    for each in json.loads(output)["generalDiagnostics"]:
        if each["severity"] == "error":
            where = each["range"]["start"]["line"] + 1
            found[Path(each["file"]).name].add((where, each.get("rule", each["message"])))
    return found


@pytest.fixture(params=["mypy", "pyright"])
def checker(request: pytest.FixtureRequest) -> str:
    """Each of the two."""
    return request.param


@pytest.fixture
def found(checker: str, request: pytest.FixtureRequest) -> Found:
    """What it finds."""
    return request.getfixturevalue(checker)


def _expected(path: Path, checker: str) -> set[tuple[int, str]]:
    return {
        (number, rule)
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if "# error: " in line
        for rule in line.split("# error: ")[1].split(", ")
        if rule.startswith("report") == (checker == "pyright")
    }


@pytest.mark.parametrize("path", SNIPPETS, ids=lambda path: path.stem)
def test_a_checker_refuses_the_marked_lines_and_no_other(
    path: Path, checker: str, found: Found
) -> None:
    """Types are seen as ``assert_type`` says, and mistakes reported where they are made."""
    assert found[path.name] == _expected(path, checker)


def test_the_snippets_expect_mistakes_of_both_checkers() -> None:
    """A marked line names what each of the two says, so that neither is left out."""
    for path in SNIPPETS:
        lines = [{line for line, _ in _expected(path, each)} for each in ("mypy", "pyright")]
        assert lines[0] == lines[1], path.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_python_of_a_page_is_typed_as_it_says(page: Path, checked: Path, found: Found) -> None:
    """Readers who copy a block get no complaint from a checker."""
    complaints = {name: each for name, each in found.items() if name.startswith(_module(page))}
    shown = {name: (checked / "plain" / name).read_text() for name in complaints}
    assert not complaints, shown


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_typed(path: Path, found: Found) -> None:
    """So are the examples."""
    assert not found[f"example_{path.name}"]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_of_a_distribution_has_a_type(package: str, tmp_path: Path) -> None:
    """pyright finds ``py.typed``, and no public name whose type it does not know."""
    output = _run(tmp_path, "pyright", "--verifytypes", package, "--ignoreexternal", "--outputjson")
    report = json.loads(output)["typeCompleteness"]
    assert report["pyTypedPath"]
    assert report["exportedSymbolCounts"]["withUnknownType"] == 0
    assert report["otherSymbolCounts"]["withUnknownType"] == 0
