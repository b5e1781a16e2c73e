"""The house: floors of the core, no cycles, light imports, one door for plugins."""

from __future__ import annotations

import ast
import dis
import gc
import graphlib
import importlib
import inspect
import re
import subprocess
import sys
import textwrap
import threading
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import pystream_core

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
CORE = ROOT / "pystream_core"

FLOORS: list[list[str]] = [
    ["_errors"],
    [
        "_graph",
        "_handle",
        "_inside",
        "_stage",
        "_ledger",
        "_branches",
        "_mailbox",
        "_ticker",
        "_channel",
        "_bell",
        "_report",
        "_options",
        "_installed",
        "_picture",
    ],
    ["_plan", "_drawing", "_coroutines"],
    ["_observer", "_placement", "_lifecycle", "_executor", "_output"],
    ["_call", "_chain", "hookspecs"],
    ["_serial", "_input", "_results"],
    ["_registry", "_region", "_session"],
    ["_pipeline"],
    ["__init__"],
]
PLUGINS = {
    "threads": "pystream_threads",
    "sqlite": "pystream_sqlite",
    "stages": "pystream_stages",
    "video": "pystream_video",
    "processes": "pystream_processes",
    "cli": "pystream_cli",
    "bundle": "pystream",
}
PACKAGES = {
    "pystream_core": CORE,
    **{name: ROOT / "plugins" / folder / name for folder, name in PLUGINS.items()},
}
DISTRIBUTIONS = {"core": ROOT, **{folder: ROOT / "plugins" / folder for folder in PLUGINS}}
PACKAGE_OF = {"core": "pystream_core", **PLUGINS}
MAY_IMPORT = {"bundle": {"pystream_sqlite", "pystream_cli"}, "cli": {"pystream", "pystream_sqlite"}}


def imports(path: Path) -> list[tuple[str, bool, ast.stmt]]:
    """Every imported module (absolute, or with its leading dots), and whether at import time
    of the module rather than inside a function or for type checkers only."""
    found: list[tuple[str, bool, ast.stmt]] = []

    def visit(node: ast.AST, eager: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend((alias.name, eager, child) for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                found.append(("." * child.level + child.module, eager, child))
            elif isinstance(child, ast.ImportFrom):  # from . import module
                dots = "." * child.level
                found.extend((dots + alias.name, eager, child) for alias in child.names)
            inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            visit(child, eager and not inside and not typing_only)

    visit(ast.parse(path.read_text()), True)
    return found


def rank(module: str) -> tuple[int, int]:
    """Floor of a core module and its place on that floor."""
    for floor, modules in enumerate(FLOORS):
        if module in modules:
            return floor, modules.index(module)
    pytest.fail(f"pystream_core/{module}.py stands on no floor: give it one in docs/design.md")


def core_modules() -> list[Path]:
    """The modules of the core, the testing kit aside."""
    return sorted(CORE.glob("*.py"))


def test_every_module_of_the_core_imports_from_lower_floors_only() -> None:
    """Imports go one way, so there is no cycle; on one floor they follow the table's order."""
    wrong = []
    for path in core_modules():
        for name, eager, _ in imports(path):
            if not name.startswith(".") or not eager:
                continue
            target = name.lstrip(".")
            if rank(target) >= rank(path.stem):
                wrong.append(f"{path.stem} imports {target}")
    assert not wrong


def test_the_design_page_draws_the_same_floors() -> None:
    """docs/design.md names every module of the core on its floor."""
    page = (ROOT / "docs" / "design.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and "`_" in line]
    for floor, modules in enumerate(FLOORS):
        row = next(line for line in rows if line.startswith(f"| {floor} |"))
        for module in modules:
            assert f"`{module}`" in row, f"{module} is missing from floor {floor}"


@pytest.mark.parametrize(
    ("package", "allowed"),
    [("pluggy", {"hookspecs", "_registry"}), ("importlib_metadata", {"_installed"})],
)
def test_plugin_machinery_is_imported_in_its_own_place_only(
    package: str, allowed: set[str]
) -> None:
    """pluggy and importlib_metadata stay behind the registry."""
    users = {
        path.stem
        for path in core_modules()
        for name, _, _ in imports(path)
        if name.split(".")[0] == package
    }
    assert users <= allowed


def test_importlib_metadata_is_imported_inside_functions_only() -> None:
    """The scan of entry points costs nothing before it is needed."""
    eager = [
        path.stem
        for path in core_modules()
        for name, at_import, _ in imports(path)
        if name.split(".")[0] == "importlib_metadata" and at_import
    ]
    assert not eager


@pytest.mark.parametrize("folder", sorted(PLUGINS))
def test_a_plugin_uses_public_names_of_the_core_only(folder: str) -> None:
    """A plugin imports pystream_core, its hookspecs or its testing kit; never a private
    module, never another plugin that it does not name as its default."""
    wrong = []
    others = set(PLUGINS.values()) - {PLUGINS[folder]} - MAY_IMPORT.get(folder, set())
    for path in (ROOT / "plugins" / folder / PLUGINS[folder]).rglob("*.py"):
        for name, _, statement in imports(path):
            top, *rest = name.split(".")
            if top == "pystream_core" and any(part.startswith("_") for part in rest):
                wrong.append(f"{path.name}: {name}")
            if top == "pystream_core" and isinstance(statement, ast.ImportFrom):
                wrong += [
                    f"{path.name}: {name}.{alias.name}"
                    for alias in statement.names
                    if alias.name.startswith("_")
                ]
            if top in others:
                wrong.append(f"{path.name}: {name}")
    assert not wrong


def test_importing_pystream_is_light() -> None:
    """No scan of entry points, no numpy, sqlite3, asyncio or plugin until they are used."""
    heavy = [
        *("importlib_metadata", "importlib.metadata", "typing_extensions", "pystream_core.testing"),
        *("numpy", "av", "platformdirs", "cloudpickle", "click", "rich", "pytest", "hypothesis"),
        *("asyncio", "multiprocessing", "socket", "tempfile", "sqlite3"),
        *("json", "pickle", "tomllib", "tomli", "zipfile", "email"),
        *(package for package in PACKAGES if package not in ("pystream", "pystream_core")),
    ]
    code = (
        "import sys; before = set(sys.modules); "  # tracers and site files import things, too
        "import pystream; pystream.Pipeline().serialize().cleanup(); "
        f"print([name for name in {heavy!r} if name in set(sys.modules) - before])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=15, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_core_runs_alone() -> None:
    """A serial pipeline needs nothing but the core; the missing plugins are named on use."""
    code = """
import sys
for name in ("pystream_threads", "pystream_sqlite", "pystream_stages", "pystream_video"):
    sys.modules[name] = None
import pystream_core
pipeline = pystream_core.Pipeline()
pipeline.add(lambda item: item + 1)
with pipeline.serialize():
    print(list(pipeline.stream([1, 2])))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=15,
        check=True,
        env={"PYSTREAM_PLUGINS": ""},
    )
    assert done.stdout.strip() == "[2, 3]"


# -- cycles and doors ----------------------------------------------------------------------


def modules(package: str) -> dict[str, Path]:
    """The modules of a package by their full names; a package stands for its ``__init__``."""
    found = {}
    for path in sorted(PACKAGES[package].rglob("*.py")):
        parts = path.relative_to(PACKAGES[package].parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def eager_imports(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of its own package that a module imports when it is imported itself."""
    home = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for imported, eager, statement in imports(path):
        if not eager:
            continue
        dots = len(imported) - len(imported.lstrip("."))
        target = imported
        if dots:
            parent = home.split(".")[: len(home.split(".")) - (dots - 1)]
            target = ".".join([*parent, imported.lstrip(".")])
        if target not in known:  # a name of a package: from . import name
            target = target.rpartition(".")[0] if dots else ""
        if target in known:
            yield target
        if isinstance(statement, ast.ImportFrom):
            yield from (
                inner for each in statement.names if (inner := f"{target}.{each.name}") in known
            )


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_no_imports_of_a_package_run_in_a_circle(package: str) -> None:
    """Also inside each plugin and in the testing kit a module can be read without those above."""
    known = modules(package)
    graph = {name: set(eager_imports(name, path, known)) for name, path in known.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_what_users_read_imports_public_names_only() -> None:
    """Examples, pages and the files that ``pystream new`` writes use no private name."""
    private = re.compile(
        r"^\W*(?:from|import)\s+pystream\w*(?:\.\w+)*\._"
        r"|^\W*from\s+pystream[\w.]*\s+import\s[^\n]*\b_[a-z]",
        re.MULTILINE,
    )
    texts = [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "docs" / "examples").rglob("*.py"),
        *(ROOT / "plugins").glob("*/README.md"),
        *(path for path in PACKAGES["pystream_cli"].rglob("*") if _is_template(path)),
    ]
    assert len(texts) > 10
    assert [str(path.relative_to(ROOT)) for path in texts if private.search(path.read_text())] == []


def _is_template(path: Path) -> bool:
    """What is written out for users: files that are no modules, and modules of templates."""
    return path.is_file() and (
        path.suffix not in (".py", ".pyc", ".typed")
        or any("template" in part for part in path.relative_to(ROOT).parts)
    )


# -- names ---------------------------------------------------------------------------------


def door(package: str) -> list[ast.ImportFrom]:
    """How an ``__init__`` imports what it exports: at once, or for type checkers only and then
    on first use."""
    folder = PACKAGES.get(package) or CORE / "testing"
    tree = ast.parse((folder / "__init__.py").read_text())
    blocks = [node.body for node in tree.body if isinstance(node, ast.If)]
    return [
        node
        for node in [*tree.body, *(each for block in blocks for each in block)]
        if isinstance(node, ast.ImportFrom) and (node.level or _is_ours(node.module))
    ]


def exported(package: str) -> dict[str, Any]:
    """What a package offers: the names that its ``__init__`` imports or defines."""
    module = importlib.import_module(package)
    tree = ast.parse((PACKAGES[package] / "__init__.py").read_text())
    names = {alias.asname or alias.name for node in door(package) for alias in node.names}
    names |= {node.name for node in _public(tree)}
    return {name: getattr(module, name) for name in sorted(names) if not name.startswith("_")}


def _is_ours(module: str | None) -> bool:
    return (module or "").split(".")[0] in PACKAGES


@pytest.mark.parametrize("package", [*sorted(PACKAGES), "pystream_core.testing"])
def test_an_init_exports_in_the_explicit_form_and_sorted(package: str) -> None:
    """``from ._home import Name as Name``, which type checkers take for an export; each name
    once."""
    aliases = [
        alias
        for node in door(package)
        if node.level < 2  # what a part takes from the core it uses, and does not export
        for alias in node.names
        if not (alias.asname or "").startswith("_")
    ]
    names = [alias.name for alias in aliases]
    assert [alias.name for alias in aliases if alias.asname != alias.name] == []
    assert len(names) == len(set(names))
    path = (PACKAGES.get(package) or CORE / "testing") / "__init__.py"
    sorting = [sys.executable, "-m", "ruff", "check", "--select", "I", str(path)]
    done = subprocess.run(sorting, cwd=ROOT, capture_output=True, text=True, timeout=15)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_a_public_name_has_one_home(package: str) -> None:
    """Nothing is exported under two names, and what a package exports is its own: only the
    bundle, which is the documented door, shows what others define."""
    by_object: dict[int, list[str]] = {}
    for name, value in exported(package).items():
        by_object.setdefault(id(value), []).append(name)
        home = getattr(value, "__module__", package)
        if isinstance(value, types.GenericAlias):  # a class to Python 3.10, but no home
            continue
        if isinstance(value, (type, types.FunctionType)):
            assert home.split(".")[0] == package or package == "pystream", f"{name} is of {home}"
    assert [names for names in by_object.values() if len(names) > 1] == []


def test_the_bundle_exports_names_under_their_own_names() -> None:
    """``pystream.X`` is ``pystream_core.X``."""
    for name, value in exported("pystream").items():
        if hasattr(pystream_core, name):
            assert getattr(pystream_core, name) is value


@pytest.mark.parametrize("folder", sorted(PLUGINS))
def test_what_an_entry_point_names_is_exported(folder: str) -> None:
    """A stage or source that is found by its name can be imported from its package, too."""
    offered = exported(PLUGINS[folder])
    groups = project(folder).get("entry-points", {})
    for group in ("pystream.stages", "pystream.sources"):
        for target in groups.get(group, {}).values():
            module, name = target.split(":")
            assert offered.get(name) is getattr(importlib.import_module(module), name)


def _guarded(tree: ast.AST) -> Iterator[tuple[int, int]]:
    """The lines of each block whose end must see an interrupt."""
    for node in ast.walk(tree):
        whatever = isinstance(node, ast.Try) and (
            node.finalbody
            or any(
                each.type is None or "BaseException" in ast.unparse(each.type)
                for each in node.handlers
            )
        )
        if whatever or isinstance(node, ast.With):
            yield node.body[0].lineno, node.body[-1].end_lineno or 0  # type: ignore[attr-defined]


def _unguarded_jumps(code: types.CodeType) -> Iterator[tuple[types.CodeType, int, int]]:
    """Jumps back that are in no guarded block: where, with the lines of the jump and its target."""
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from _unguarded_jumps(each)
    table = dis._parse_exception_table(code)  # type: ignore[attr-defined]
    steps = {each.offset: each for each in dis.get_instructions(code)}
    for offset, step in steps.items():
        if step.opname == "JUMP_BACKWARD" and not any(
            entry.start <= offset < entry.end for entry in table
        ):
            source, target = step.positions, steps[step.argval].positions
            if source and target and source.lineno and target.lineno:
                yield code, source.lineno, target.lineno


@pytest.mark.skipif(sys.version_info < (3, 12), reason="these versions guard every jump")
@pytest.mark.parametrize("package", ["pystream_core", "pystream_threads", "pystream_processes"])
def test_ctrl_c_finds_every_handler(package: str) -> None:
    """From Python 3.12 on, a jump back to the head of a loop that a condition ends with is in no
    ``try`` and no ``with`` around that: Ctrl-C there skips their ends, and a lock stays taken.
    ``while condition`` ends so, and ``for`` with an ``if`` at its end; ``while True`` and
    ``continue`` do not."""
    wrong = []
    for path in sorted(PACKAGES[package].glob("*.py")):
        text = path.read_text()
        guarded = list(_guarded(ast.parse(text)))
        for code, line, head in _unguarded_jumps(compile(text, str(path), "exec")):
            for begin, end in guarded:
                if begin >= code.co_firstlineno and begin <= line <= end and begin <= head <= end:
                    wrong.append(f"{path.name}:{line} {code.co_name}")
    assert not wrong


@pytest.mark.parametrize("folder", [CORE, *(ROOT / "plugins" / each for each in PLUGINS)])
def test_no_wait_with_a_timeout_is_one_of_a_simple_queue(folder: Path) -> None:
    """Before Python 3.13 these may last for ever: ``Mailbox.get_within`` does not."""
    sources = [*folder.rglob("*.py"), *folder.rglob("*.py.txt")]
    assert sources
    wrong = []
    for path in sources:
        if "tests" in path.relative_to(folder).parts:
            continue
        for node in ast.walk(ast.parse(path.read_text().replace("$", "_"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            named = {each.arg for each in node.keywords} & {"block", "timeout"}
            first = (
                node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else 0
            )
            if node.func.attr == "get" and (
                named or first is True or (first == 1 and node.args[1:])
            ):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not wrong


def test_every_error_of_the_core_is_exported() -> None:
    """Whoever can meet an error can name it in ``except``, from the bundle as well."""
    tree = ast.parse((CORE / "_errors.py").read_text())
    errors = {node.name for node in _public(tree) if isinstance(node, ast.ClassDef)}
    assert errors
    assert errors <= set(exported("pystream_core"))
    assert errors <= set(exported("pystream"))


# The core's own, that others only hand on:
HANDED_ON = {"Branches", "Counters", "Gathered", "Reply"}


def test_what_public_signatures_name_is_public() -> None:
    """A plugin's author can import each class of the core that he may want to name."""
    offered = exported("pystream_core")
    hidden = set()
    for value in offered.values():
        if not isinstance(value, (type, types.FunctionType)) or isinstance(
            value, types.GenericAlias
        ):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(value)))
        namespace = vars(sys.modules[value.__module__])
        for annotation in _signatures(tree):
            for each in ast.walk(annotation):
                named = namespace.get(each.id) if isinstance(each, ast.Name) else None
                home = getattr(named, "__module__", "")
                ours = isinstance(named, type) and home.split(".")[0] == "pystream_core"
                if ours and named not in offered.values():
                    hidden.add(each.id)  # type: ignore[attr-defined]
    assert hidden == HANDED_ON


def _signatures(tree: ast.Module) -> Iterator[ast.AST]:
    """The annotations of a public class or function: arguments, results, attributes."""
    (own,) = tree.body
    body = own.body if isinstance(own, ast.ClassDef) else [own]
    for node in body:
        if isinstance(node, ast.AnnAssign) and not ast.unparse(node.target).startswith("_"):
            yield node.annotation
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            if node.name.startswith("_") and node.name != "__init__":
                continue
            if node.name == "__init__":  # the core makes these: its attributes count, if annotated
                yield from (
                    each.annotation
                    for each in ast.walk(node)
                    if isinstance(each, ast.AnnAssign)
                    and not ast.unparse(each.target).startswith("self._")
                )
                continue
            yield node.args
            if node.returns is not None:
                yield node.returns


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_everything_public_says_what_it_is(package: str) -> None:
    """Each module, public class, function and method has a docstring; a method that overrides
    one may inherit it."""
    silent = []
    for name, path in modules(package).items():
        tree = ast.parse(path.read_text())
        if not ast.get_docstring(tree):
            silent.append(name)
        for node in _public(tree):
            if not ast.get_docstring(node):
                silent.append(f"{name}.{node.name}")
            if isinstance(node, ast.ClassDef):
                silent += [
                    f"{name}.{node.name}.{method.name}"
                    for method in _public(node)
                    if not ast.get_docstring(method)
                    and not _is_overload(method)
                    and not (node.bases and _inherits(name, node.name, method.name))
                ]
    assert not silent


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _public(tree: ast.Module | ast.ClassDef) -> list[Definition]:
    return [
        node
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        and not node.name.startswith("_")
    ]


def _inherits(module: str, name: str, method: str) -> bool:
    """Whether a class has a method from another one, which says what it does."""
    made = getattr(importlib.import_module(module), name)
    return any(getattr(getattr(base, method, None), "__doc__", "") for base in made.__mro__[1:])


def _is_overload(method: Definition) -> bool:
    return any(ast.unparse(each) == "overload" for each in method.decorator_list)


def test_no_module_has_a_name_that_says_nothing() -> None:
    """A file is named after one idea of the word table."""
    empty = {"utils", "util", "common", "general", "base", "helpers", "misc", "tools", "core"}
    named = [name for package in PACKAGES for name in modules(package)]
    assert [name for name in named if name.split(".")[-1].strip("_") in empty] == []


# -- distributions -------------------------------------------------------------------------

# Import names of what is not ours, where the distribution is called otherwise.
CALLED = {"importlib_metadata": "importlib-metadata"}
# What is needed without an import, with the reason.
NEEDED = {
    "bundle": {"pystream-threads"},  # the default executor, found by its entry point
    "cli": {"pystream-bundle"},  # with the executor that `pystream run` takes by default
}
OPTIONAL = {"bundle": {"pystream-cli"}}  # what an extra brings, asked for when it is used
OLDER = {"tomllib": (3, 11)}  # of the standard library, since


def project(folder: str) -> dict[str, Any]:
    """The project table of a distribution."""
    found = tomllib.loads((DISTRIBUTIONS[folder] / "pyproject.toml").read_text())
    table: dict[str, Any] = found["project"]
    return table


def normal(name: str) -> str:
    """A distribution's name as installers compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(folder: str, *, testing: bool) -> set[str]:
    """The distributions whose modules a package imports, at import time or later."""
    names = {"pystream": "pystream-bundle", "pystream_core": "pystream-core"}
    found = set()
    for module, path in modules(PACKAGE_OF[folder]).items():
        if (".testing" in module) != testing:
            continue
        for imported, eager, statement in imports(path):
            top = imported.split(".")[0]
            if not top or top in sys.stdlib_module_names or top in OLDER:
                continue
            if top == PACKAGE_OF[folder] or (not eager and _for_type_checkers(path, statement)):
                continue
            found.add(normal(names.get(top, CALLED.get(top, top))))
    return found


def _for_type_checkers(path: Path, statement: ast.stmt) -> bool:
    """Whether an import stands in a block for type checkers."""
    return any(
        isinstance(each, (ast.Import, ast.ImportFrom)) and each.lineno == statement.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in node.body
        for each in ast.walk(inner)
    )


@pytest.mark.parametrize("folder", sorted(DISTRIBUTIONS))
def test_a_distribution_depends_on_what_it_imports(folder: str) -> None:
    """On nothing less, and on nothing more: each dependency is another one's installation."""
    stated = {normal(Requirement(each).name) for each in project(folder)["dependencies"]}
    optional = OPTIONAL.get(folder, set())
    extras = _extras(folder).values()
    brought = {normal(Requirement(each).name) for listed in extras for each in listed}
    assert optional <= brought
    assert stated == needed(folder, testing=False) - optional | NEEDED.get(folder, set())


def test_the_extra_for_tests_brings_what_the_kit_imports() -> None:
    """``pystream-core[testing]`` is enough for an author's tests."""
    extra = {normal(Requirement(each).name) for each in _extras("core")["testing"]}
    own = {normal(Requirement(each).name) for each in project("core")["dependencies"]}
    hypothesis = {"hypothesis"}  # the suites draw their plans and schedules with it
    assert extra == needed("core", testing=True) - own | hypothesis


def _extras(folder: str) -> dict[str, list[str]]:
    return dict(project(folder).get("optional-dependencies", {}))


@pytest.mark.parametrize("folder", sorted(DISTRIBUTIONS))
def test_versions_are_bounded_as_the_design_says(folder: str) -> None:
    """Our own distributions go together below the next major version, all others have a
    lowest version that is known to do; pluggy is bounded above as well."""
    table = project(folder)
    extras = [each for listed in _extras(folder).values() for each in listed]
    for each in map(Requirement, [*table["dependencies"], *extras]):
        bounds = {str(bound) for bound in each.specifier}
        if normal(each.name).startswith("pystream"):
            assert bounds == {">=1.0", "<2"}, each
        elif each.name == "pluggy":
            assert bounds == {">=1.5", "<2"}, each
        else:
            assert any(bound.startswith(">=") for bound in bounds), each
        assert not any(bound.startswith(("==", "~=")) for bound in bounds), each
    assert table["requires-python"] == ">=3.10"


def test_all_distributions_have_one_version() -> None:
    """They are released together, by one build backend."""
    tables = [project(folder) for folder in DISTRIBUTIONS]
    assert len({table["version"] for table in tables}) == 1
    files = [folder / "pyproject.toml" for folder in DISTRIBUTIONS.values()]
    builds = [tomllib.loads(path.read_text())["build-system"] for path in files]
    assert all(build["build-backend"] == "flit_core.buildapi" for build in builds)


@pytest.mark.parametrize("folder", sorted(DISTRIBUTIONS))
def test_a_wheel_holds_all_that_its_users_need(folder: str, tmp_path: Path) -> None:
    """README, licence and ``py.typed`` are in the folder and in what is built of it."""
    for name in ("README.md", "LICENSE", "pyproject.toml"):
        assert (DISTRIBUTIONS[folder] / name).stat().st_size > 0
    build = f"from flit_core.buildapi import build_wheel; build_wheel({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=DISTRIBUTIONS[folder], check=True, timeout=15)
    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    package = PACKAGE_OF[folder]
    assert f"{package}/py.typed" in names
    assert any(name.endswith("LICENSE") for name in names)
    tops = {name.split("/")[0] for name in names}
    assert tops == {package, next(top for top in tops if top.endswith(".dist-info"))}
    [metadata] = [name for name in names if name.endswith("METADATA")]
    assert "# pystream" in zipfile.ZipFile(wheel).read(metadata).decode().lower()


# -- the tree ------------------------------------------------------------------------------


# What only looks like one: a name for a stage that storage must not take for a path.
NO_PLACES = {"pystream_core/testing/_observer_suite.py: /ro" + "ot/"}


def test_no_file_names_a_machine_or_a_package_registry() -> None:
    """What is published works everywhere: no absolute path of somebody's, no index of theirs."""
    words = [
        *("/" + place + "/" for place in ("home", "Users", "root", "tmp", "work", "opt")),
        *("pypi." + "org", "python" + "hosted", "npm" + "js", "index" + "-url", "arti" + "factory"),
    ]
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, timeout=15
    )
    if listed.returncode:
        pytest.skip("not a checkout of git, so nobody knows which files are published")
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        try:
            text = (ROOT / name).read_text()
        except (UnicodeDecodeError, FileNotFoundError):  # a picture; deleted, not committed yet
            continue
        found += [f"{name}: {word}" for word in words if word in text]
    assert set(found) <= NO_PLACES


# -- the tests -----------------------------------------------------------------------------


@pytest.mark.parametrize("turn", ["one", "other"])
def test_a_test_that_is_over_keeps_no_timer(turn: str) -> None:
    """Else a run keeps thousands of threads that have ended, and the set that `threading` has of
    all threads grows by half a megabyte amid the measuring of some test, which takes it for a
    leak of its own. The one that comes second sees what the first has left."""
    gc.collect()
    ended = [
        each
        for each in gc.get_objects()
        if isinstance(each, threading.Timer) and each.finished.is_set() and not each.is_alive()
    ]
    assert ended == []
