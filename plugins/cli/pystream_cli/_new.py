"""A new distribution for a plugin: written from templates, complete, its tests pass at once."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Final, Literal, get_args

from pystream_core import PlanError, PyStreamError, near_miss

from ._options import in_toml

Kind = Literal["stage", "executor", "placement", "observer"]
License = Literal["MIT", "none"]
KINDS: Final[tuple[str, ...]] = get_args(Kind)
LICENSES: Final[tuple[str, ...]] = get_args(License)

_LONGEST: Final = 30  # characters of a name, so that no line of the code grows too long
_LEGAL: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z][a-z0-9]*)+")
_OURS: Final = ("pystream", "video")
_TAKEN: Final = frozenset({"Any", "PlanError", "Stage"})  # names that the code of a stage uses

_DESCRIPTIONS: Final[Mapping[str, str]] = {
    "stage": "A PyStream stage that passes on what has changed",
    "executor": "A PyStream executor that runs all stages in one thread of their own",
    "placement": "A PyStream placement that calls stages in helper threads",
    "observer": "A PyStream observer that writes every call as a line of JSON",
}
_COMMON: Final[Mapping[str, str]] = {
    "pyproject.toml": "common/pyproject.toml",
    "README.md": "common/README.md",
    "CHANGELOG.md": "common/CHANGELOG.md",
    "LICENSE": "common/LICENSE",
    ".gitignore": "common/gitignore",
    "conftest.py": "common/conftest.py",
    "{package}/__init__.py": "{kind}/init.py",
    "{package}/py.typed": "",
    "{package}/plugin.py": "{kind}/plugin.py",
    "{package}/{kind}.py": "{kind}/{kind}.py",
    "tests/test_{kind}.py": "{kind}/test.py",
    "example/pipeline.toml": "{kind}/pipeline.toml",
    "example/readings.py": "common/readings.py",
}
"""The files of a distribution, and the template of each; ``""`` for an empty file."""


@dataclass(frozen=True, kw_only=True)
class Project:
    """What there is to write.

    Attributes:
        kind: what the distribution provides.
        distribution: its name, ``"acme-blur"``.
        package: its only package, ``"acme_blur"``.
        name: what users write, ``"acme.blur"``.
        class_name: the class, ``"Blur"``.
    """

    kind: str
    distribution: str
    package: str
    name: str
    class_name: str


@dataclass(frozen=True, kw_only=True)
class Written:
    """What has been written.

    Attributes:
        kind, distribution, name: see Project.
        folder: the distribution's own.
        files: relative to it.
        commands: what to do next.
    """

    kind: str
    distribution: str
    name: str
    folder: str
    files: tuple[str, ...]
    commands: tuple[str, ...]


def plan_project(kind: str, distribution: str) -> Project:
    """What to write for a name.

    Raises:
        PlanError: there is no such kind, or the name is not legal, with legal ones.
    """
    if kind not in KINDS:
        raise PlanError(
            f"there is no kind {kind!r}{near_miss(kind, KINDS)}. Kinds: {', '.join(KINDS)}"
        )
    _check_name(distribution)
    prefix, *rest = distribution.split("-")
    if len(rest) > 1 and rest[-1] == kind:  # acme-line-executor
        rest.pop()
    name = f"{prefix}.{'_'.join(rest)}"
    title = "".join(part.capitalize() for part in rest)
    if rest == [kind]:  # acme-executor
        title = prefix.capitalize()
    if kind != "stage" or rest == [kind] or title in _TAKEN:
        title += kind.capitalize()
    return Project(
        kind=kind,
        distribution=distribution,
        package=distribution.replace("-", "_"),
        name=name,
        class_name=title,
    )


def _check_name(name: str) -> None:
    meant = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    guess = f" (did you mean {meant!r}?)" if _is_legal(meant) and meant != name else ""
    if not _LEGAL.fullmatch(name):
        raise PlanError(
            f"{name!r} is no name for a plugin{guess}: take a prefix of your own, '-', and what it "
            f"is, as in acme-blur or acme-gaussian-blur; lower-case letters and digits, each part "
            f"beginning with a letter"
        )
    if len(name) > _LONGEST:
        raise PlanError(
            f"{name!r} has {len(name)} characters: take a name of at most {_LONGEST}, such as "
            f"acme-blur"
        )
    prefix = name.partition("-")[0]
    if prefix in _OURS:
        raise PlanError(
            f"the prefix {prefix!r} is PyStream's own: begin with your own or your company's name, "
            f"as in acme-{name.partition('-')[2]}"
        )


def _is_legal(name: str) -> bool:
    fits = _LEGAL.fullmatch(name) is not None and len(name) <= _LONGEST
    return fits and name.partition("-")[0] not in _OURS


def write_project(
    project: Project, folder: Path, *, author: str | None = None, license_name: str = "MIT"
) -> Written:
    """Write a distribution into a new folder of its name.

    Args:
        project: what to write.
        folder: where the new folder is made.
        author: who wrote it; by default "The … developers".
        license_name: ``"MIT"``, or ``"none"`` for no licence.

    Raises:
        PlanError: the folder is there already, or the author is no line of text.
        PyStreamError: the disk refused it; nothing is left.
    """
    author = f"The {project.distribution} developers" if author is None else author
    if not author.strip() or not author.isprintable():
        raise PlanError(f"--author must be a name on one line, not {author!r}")
    target = folder / project.distribution
    contents = _contents(project, author, license_name)
    try:
        target.mkdir()
    except FileExistsError:
        raise PlanError(
            f"{target} is there already: take another name, or another place with --folder"
        ) from None
    except OSError as error:
        raise PyStreamError(f"{target} cannot be made: {error.strerror}") from error
    try:
        for name, text in contents.items():
            path = target / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        shutil.rmtree(target, ignore_errors=True)
        raise PyStreamError(f"{target} cannot be written: {error.strerror}") from error
    return Written(
        kind=project.kind,
        distribution=project.distribution,
        name=project.name,
        folder=str(target),
        files=tuple(contents),
        commands=(
            f"cd {target}",
            'python -m pip install -e ".[test]" && python -m pytest',
            "pystream run example/pipeline.toml",
        ),
    )


def _contents(project: Project, author: str, license_name: str) -> dict[str, str]:
    """The files, by their names."""
    words = {
        "kind": project.kind,
        "distribution": project.distribution,
        "package": project.package,
        "name": project.name,
        "Class": project.class_name,
        "VARIABLE": f"{project.package.upper()}_FILE",
        "description": _DESCRIPTIONS[project.kind],
        "entry_points": _entry_points(project),
        "author": author,
        "author_text": in_toml(author) or "",
        "license": "" if license_name == "none" else f'license = "{license_name}"\n',
        "year": str(time.localtime().tm_year),
    }
    words["usage"] = _filled(f"{project.kind}/usage.md", words)
    found = {}
    for pattern, template in _COMMON.items():
        if pattern == "LICENSE" and license_name == "none":
            continue
        if pattern == "{package}/plugin.py" and project.kind == "stage":
            continue
        name = pattern.format(package=project.package, kind=project.kind)
        source = template.format(kind=project.kind)
        found[name] = _filled(source, words) if source else ""
    return found


def _filled(template: str, words: Mapping[str, str]) -> str:
    path = files("pystream_cli") / "templates" / f"{template}.txt"
    return Template(path.read_text(encoding="utf-8")).substitute(words)


def _entry_points(project: Project) -> str:
    if project.kind == "stage":
        return (
            '[project.entry-points."pystream.stages"]\n'
            f'"{project.name}" = "{project.package}.stage:{project.class_name}"'
        )
    return (
        "[project.entry-points.pystream]\n"
        f'{project.name.partition(".")[2]} = "{project.package}.plugin"'
    )
