"""What a distribution that plugs into PyStream is checked for; plain functions, without pytest.

Each check looks at the facts and returns what is wrong, each with what to do about it. Facts that
need the plugin's own code to run come from another interpreter (see :mod:`._probe`).
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any, Final

from .._errors import PluginNotFound
from .._installed import CORE, excludes, foreign, normalised, read_installed, version_of_core
from .._options import near_miss
from .._registry import home_of

PATIENCE: Final = 60.0  # seconds for everything that the distribution provides to be imported

_ATTEMPTS: Final = 3  # a busy machine is slow, too: the fastest one counts
_LIGHT: Final = frozenset({"pystream_core", "pluggy", "importlib_metadata", "zipp"})
_NAME: Final = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*(\.[a-z0-9]+([_-][a-z0-9]+)*)+")
_RESERVED: Final = frozenset({"pystream", "video"})
_REQUIREMENT: Final = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s*(\[[^]]*\])?\s*\(?(?P<range>[^;)]*)\)?\s*(;(?P<marker>.*))?",
    re.DOTALL,
)
_HOOKS: Final = ("pystream_executors", "pystream_placements", "pystream_observers")
_RANGE: Final = "pystream-core>=1.0,<2"


@dataclass(frozen=True, kw_only=True)
class Check:
    """What became of one check of a distribution.

    Attributes:
        name: of the check, one word.
        claim: what holds if it passed.
        problems: what is wrong, each with what to do about it; none if it passed.
    """

    name: str
    claim: str
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


@dataclass(frozen=True)
class Found:
    """The facts about one installed distribution.

    Attributes:
        name: its normalised name.
        dist: its metadata, as ``importlib.metadata`` gives it.
        facts: what the probe printed; empty if it came to no end.
        crash: why it came to no end.
        roots: the files and folders of its top-level packages and modules, by their name.
    """

    name: str
    dist: metadata.Distribution
    facts: dict[str, Any]
    crash: str
    roots: dict[str, list[Path]]

    def read(self, key: str) -> str:
        """A line of the metadata, empty if there is none."""
        text = str((self.dist.metadata.get_all(key) or [""])[0])
        return "" if text == "UNKNOWN" else text

    def requirements(self) -> list[tuple[str, str]]:
        """Version range and marker of everything it requires of the core."""
        parts = (_REQUIREMENT.match(each) for each in self.dist.requires or ())
        return [
            (match["range"].strip(), (match["marker"] or "").strip())
            for match in parts
            if match and normalised(match["name"]) == CORE
        ]

    def sources(self) -> Iterator[tuple[Path, ast.Module]]:
        """Its own modules that speak of the core, parsed."""
        for paths in self.roots.values():
            for root in paths:
                for path in [root] if root.is_file() else sorted(root.rglob("*.py")):
                    try:
                        code = path.read_bytes()
                        if b"pystream_core" in code:
                            yield path, ast.parse(code)
                    except (OSError, SyntaxError, ValueError):  # its import tells
                        continue


def check_plugin(distribution: str, *, patience: float = PATIENCE) -> tuple[Check, ...]:
    """Check an installed distribution for what its users, and PyStream, rely on.

    Its code runs in another interpreter, which takes about a second; blocks at most three times
    ``patience`` seconds.

    Args:
        distribution: its name, ``"acme-stages"``.
        patience: seconds for everything that it provides to be imported.

    Raises:
        PluginNotFound: no such distribution is installed.
    """
    found = examine(distribution, patience=patience)
    return tuple(
        Check(name=name, claim=claim(check), problems=tuple(check(found)))
        for name, check in CHECKS.items()
    )


def claim(check: Callable[[Found], Sequence[str]]) -> str:
    """What holds where a check finds nothing wrong."""
    return (check.__doc__ or "").partition("\n")[0].rstrip(".")


def examine(distribution: str, *, patience: float = PATIENCE) -> Found:
    """Gather the facts about a distribution; see :func:`check_plugin`."""
    name = normalised(distribution)
    try:
        dist = metadata.distribution(distribution)
    except (metadata.PackageNotFoundError, ValueError):
        offering = {each.partition("/")[0] for each in read_installed().distributions}
        listed = ", ".join(sorted(offering)) or "none"
        raise PluginNotFound(
            f"no distribution {distribution!r} is installed{near_miss(name, sorted(offering))}. "
            f"Those that plug into PyStream: {listed}. Install yours first, for example with "
            f"python -m pip install -e ."
        ) from None
    tops = {
        point.value.partition(":")[0].strip().partition(".")[0]
        for point in dist.entry_points
        if point.group in _GROUPS
    }
    facts, crash = probed(name, patience)
    for _ in range(_ATTEMPTS - 1):
        if crash or not any(_is_slow(facts, module) for module in facts["modules"]):
            break
        again, failed = probed(name, patience)
        facts = facts if failed else again
    return Found(name, dist, facts, crash, {top: roots_of(top) for top in sorted(tops) if top})


def probed(name: str, patience: float) -> tuple[dict[str, Any], str]:
    """What the probe says of a distribution; or nothing, and why."""
    code = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "from time import perf_counter; begin = perf_counter(); import pystream_core\n"
        "seconds = perf_counter() - begin\n"
        f"from pystream_core.testing._probe import main; main({name!r}, seconds)"
    )
    environ = {key: text for key, text in os.environ.items() if not key.startswith("PYSTREAM_")}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {}, f"importing what it provides did not end within {patience:g} s"
    lines = done.stdout.decode(errors="replace").splitlines()
    if done.returncode or not lines:
        told = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        return {}, (
            f"importing what it provides ended the interpreter with code {done.returncode}"
            + "".join(f": {line}" for line in told)
        )
    facts: dict[str, Any] = json.loads(lines[-1])
    return facts, ""


def roots_of(top: str) -> list[Path]:
    """The folders of a top-level package, or the file of a module; nothing is imported."""
    try:
        with foreign("its package"):
            spec = util.find_spec(top)
    except Exception:  # its import tells
        return []
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        return [Path(each) for each in spec.submodule_search_locations]
    return [Path(spec.origin)] if spec.origin and spec.origin.endswith(".py") else []


# -- the checks ------------------------------------------------------------------------


def entry_points(found: Found) -> list[str]:
    """It offers something to PyStream, and every entry point can be used."""
    if not any(point.group in _GROUPS for point in found.dist.entry_points):
        return [
            "it offers nothing: name what it provides in its pyproject.toml, for example "
            '[project.entry-points."pystream.stages"] with "acme.blur" = "acme_stages:Blur"'
        ]
    if found.crash:
        return [f"{found.crash}: find out which module does with `python -X importtime -c ...`"]
    return [
        f"{each['identity']} is left out: {each['reason']}" for each in found.facts["refused"]
    ] + [f"the registry raised: {text}" for text in [found.facts["registry_error"]] if text]


def loads(found: Found) -> list[str]:
    """Everything it provides loads and is what its kind promises."""
    return [
        f"{each['kind']} {each['name']!r} ({each['value']}): {each['problem']}"
        for each in found.facts.get("offers", ())
        if each["problem"]
    ]


def names(found: Found) -> list[str]:
    """Its names begin with a prefix of their own, and nobody else has them."""
    wrong = []
    for each in found.facts.get("offers", ()):
        kind, name = each["kind"], each["name"]
        if home_of(kind, name) == found.name:  # PyStream's own
            continue
        if not _NAME.fullmatch(name):
            wrong.append(
                f"the {kind} {name!r} must have a prefix of its own, as in 'acme.blur': lower-case "
                f"letters and digits in parts with '.', '_' or '-' between them, at least one '.'"
            )
        elif name.partition(".")[0] in _RESERVED:
            wrong.append(
                f"the {kind} {name!r}: the prefix {name.partition('.')[0]!r} is PyStream's own; "
                f"use your own or your company's name"
            )
    return wrong + [
        f"the {each['kind']} {each['name']!r} is provided by {each['by']} as well, so the bare "
        f"name is ambiguous: choose another one, or uninstall one of them"
        for each in found.facts.get("taken", ())
    ]


def hooks(found: Found) -> list[str]:
    """Its hooks are known ones, and marked."""
    wrong = []
    for module in found.facts.get("modules", ()):
        wrong += [
            f"{module['module']}: there is no hook {name!r}{near_miss(name, _HOOKS)}. Known: "
            f"{', '.join(_HOOKS)}"
            for name in module["marked"]
            if name not in _HOOKS
        ]
        for name in module["unmarked"]:
            meant = "" if name in _HOOKS else near_miss(name, _HOOKS)
            wrong.append(
                f"{module['module']}: the function {name!r}{meant} is not marked and is never "
                f"called: write @pystream_core.hookimpl above it, or give it another name"
            )
    return wrong


def light(found: Found) -> list[str]:
    """Listing it imports little and quickly, and does nothing else."""
    wrong = []
    own = set(found.roots)
    for module in found.facts.get("modules", ()):
        name = module["module"]
        tops = {each.partition(".")[0] for each in module["imported"]}
        heavy = sorted(
            top for top in tops - own - _LIGHT - sys.stdlib_module_names if not _is_helper(top)
        )
        if heavy:
            wrong.append(
                f"{name} imports {', '.join(heavy)} while plugins are listed: import them in the "
                f"module of the factory, which is loaded on first use (and not in __init__.py)"
            )
        if _is_slow(found.facts, module):
            ratio = module["seconds"] / found.facts["core_time"]
            wrong.append(
                f"{name} takes {ratio:.1f} times as long to import as PyStream itself: move what "
                f"is slow into the module of the factory (python -X importtime -c "
                f"'import {name}' finds it)"
            )
        wrong += [
            f"{name} {effect} when it is imported: do that when the factory is called"
            for effect in module["effects"]
        ]
    return wrong


def core(found: Found) -> list[str]:
    """It depends on the core, in a range that ends before the next major version."""
    ranges = found.requirements()
    release = version_of_core() or "1.0"
    following = f"{int(release.partition('.')[0]) + 1}.0"
    advice = f'write "{_RANGE}" in the dependencies of its pyproject.toml'
    if not any("extra" not in marker for _, marker in ranges):
        # A stage needs no PyStream code, so neither does a distribution of such stages.
        if ranges or any(True for _ in found.sources()):
            return [f"it imports pystream_core and does not depend on {CORE}: {advice}"]
        return []
    wrong = []
    for text, _ in ranges:
        clauses = [clause.strip() for clause in text.split(",")]
        if not any(excludes(clause, "0.0") for clause in clauses):
            wrong.append(f"{CORE} {text!r} has no lower bound: {advice}")
        if not any(excludes(clause, following) for clause in clauses):
            wrong.append(
                f"{CORE} {text!r} allows {following}, which may break it: {advice}".replace(
                    "''", "without a range"
                )
            )
    return wrong


def python(found: Found) -> list[str]:
    """It says from which Python on it works."""
    text = found.read("Requires-Python")
    if re.search(r"(>=|>|~=|==)\s*\d", text):
        return []
    return ['say it in its pyproject.toml: [project] requires-python = ">=3.10"']


def summary(found: Found) -> list[str]:
    """It and everything it provides says in one line what it does."""
    wrong = []
    if not found.read("Summary"):
        wrong.append("give it a line in its pyproject.toml: [project] description = ...")
    for each in found.facts.get("offers", ()):
        if not each["summary"] and not each["problem"]:
            how = (
                "begin its docstring with a line that says what it does"
                if each["kind"] in ("stage", "source")
                else "give its record a summary="
            )
            wrong.append(f"`pystream plugins` has nothing to say of {each['name']!r}: {how}")
    return wrong


def typed(found: Found) -> list[str]:
    """Type checkers may use its annotations."""
    wrong = []
    for top, paths in found.roots.items():
        if any(path.is_file() for path in paths):
            wrong.append(
                f"{top}.py is a single module, which cannot carry py.typed: make it a package, "
                f"{top}/__init__.py, and put an empty file {top}/py.typed beside it"
            )
        elif paths and not any(any(path.rglob("py.typed")) for path in paths):
            wrong.append(f"put an empty file py.typed into the package {top} (PEP 561)")
    return wrong


def public(found: Found) -> list[str]:
    """It uses public names of the core only."""
    wrong = []
    for path, tree in found.sources():
        for node in ast.walk(tree):
            wrong += [
                f"{path.name}:{getattr(node, 'lineno', 0)} uses {name}, which may change at any "
                f"time: take what pystream_core exports, and ask for what is missing there"
                for name in _private(node)
            ]
    return wrong


CHECKS: Final[dict[str, Callable[[Found], list[str]]]] = {
    "entry-points": entry_points,
    "loads": loads,
    "names": names,
    "hooks": hooks,
    "light": light,
    "core": core,
    "python": python,
    "summary": summary,
    "typed": typed,
    "public": public,
}
"""All of them, by name, in the order in which they are told."""

_GROUPS: Final = frozenset({"pystream", "pystream.stages", "pystream.sources"})


def _is_slow(facts: dict[str, Any], module: dict[str, Any]) -> bool:
    return bool(module["seconds"] > facts["core_time"])


def _is_helper(top: str) -> bool:
    """What an editable installation imports to find its packages."""
    return top.startswith(("__editable__", "_distutils", "_virtualenv"))


def _private(node: ast.AST) -> list[str]:
    """Private names of the core that a piece of code uses."""
    if isinstance(node, ast.Import):
        dotted = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and not node.level:
        dotted = [f"{node.module}.{alias.name}" for alias in node.names]
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        dotted = [f"{node.value.id}.{node.attr}"]
    else:
        return []
    return [
        name
        for name in dotted
        if name.partition(".")[0] == "pystream_core"
        and any(part.startswith("_") and not part.startswith("__") for part in name.split("."))
    ]
