"""The house: floors of the core, no cycles, light imports, one door for plugins."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = ROOT / "pystream_core"

FLOORS: list[list[str]] = [
    ["_errors"],
    [
        "_graph",
        "_handle",
        "_stage",
        "_ledger",
        "_branches",
        "_ticker",
        "_channel",
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


def test_every_module_that_uses_annotations_freely_is_typed() -> None:
    """Each distribution ships py.typed."""
    packages = [CORE, *(ROOT / "plugins" / folder / name for folder, name in PLUGINS.items())]
    assert [package.name for package in packages if not (package / "py.typed").exists()] == []


def test_importing_pystream_is_light() -> None:
    """No scan of entry points, no numpy, sqlite3 or threads plugin until they are used."""
    heavy = ["importlib_metadata", "numpy", "av", "sqlite3", "platformdirs", "pystream_threads"]
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


def test_names_are_exported_once() -> None:
    """Each public name of the core has one origin, and every exported name is there."""
    import pystream_core

    tree = ast.parse((CORE / "__init__.py").read_text())
    exported = [
        alias.asname
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    ]
    assert len(exported) == len(set(exported))
    assert all(hasattr(pystream_core, name) for name in exported)
