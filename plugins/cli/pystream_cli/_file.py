"""What a pipeline file says: read, checked for its form, and frozen.

Whether the names in it exist is the business of ``_build``. Both note what is wrong in the same
:class:`Mistakes`, so that a user sees everything at once.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pystream_core import PlanError, Retry, StageOptions, near_miss

from ._mistakes import BadFile, Mistake, Mistakes, key_lines
from ._options import shown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

HERE: Final = "{here}"
"""In texts of a pipeline file: the folder of that file."""

_A_PLACEMENT: Final = 'the name of a placement, or with options {use = "process", timeout = 2.0}'
_TABLES: Final = ("pipeline", "source", "stage")
_RETRY: Final = ("retry", "backoff", "then")

# The core judges the values; what it would say in Python's words is said in those of TOML.
_ALLOWED: Final[Mapping[str, str]] = {
    "workers": "a whole number from 1",
    "ordered": "true or false",
    "capacity": 'a whole number from 1, or "auto"',
    "overflow": '"block", "drop_oldest" or "drop_newest"',
    "on_error": '"stop", "skip", {retry = 3, backoff = 0.1, then = "skip"} or "module:attr" '
    "of a function",
    "max_age": "seconds above 0",
    "placement": _A_PLACEMENT,
    "after": "the name of a stage, or a list of at least one",
}
ADD_OPTIONS: Final = tuple(each.name for each in dataclasses.fields(StageOptions))
"""What ``Pipeline.add`` takes beside the stage and its name."""

_NAMES_OF_PYSTREAM: Final = frozenset(ADD_OPTIONS) | {"use", "name", "options"}

# What the parser says, and what it leaves out.
_SLIPS: Final[Mapping[str, str]] = {
    "Invalid value": ": text stands in quotes, true and false have small letters",
    "Cannot overwrite a value": ": this key is given twice",
}


@dataclass(frozen=True, kw_only=True)
class PlacementTable:
    """A placement with options."""

    use: str
    options: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class PipelineTable:
    """The table ``[pipeline]``.

    Attributes:
        executor: name of the executor.
        profile: whether to profile; None when the file does not say.
        profiler: name of the profiler.
        observers: names of observers.
        settings: what ``parallelize`` takes by these names: drain_timeout, stuck_timeout,
            placement.
        options: options of the executor.
    """

    executor: str = "threads"
    profile: bool | None = None
    profiler: str = "sqlite"
    observers: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SourceTable:
    """The table ``[source]``: what to use, and its options."""

    use: str
    options: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class StageTable:
    """One ``[[stage]]``.

    Attributes:
        place: its key, ``("stage", 2)`` for the second one.
        use: a registered name, or ``module:attr``.
        name: what it shall be called, None when the file does not say.
        add: options of ``Pipeline.add``.
        own: options of the stage itself.
        beside: which of those stand beside ``use``, the others in ``[stage.options]``.
    """

    place: tuple[str | int, ...]
    use: str
    name: str | None
    add: Mapping[str, Any]
    own: Mapping[str, Any]
    beside: frozenset[str]

    @property
    def called(self) -> str:
        """What messages call it."""
        return self.name or self.use

    @property
    def slips(self) -> Mapping[str, Sequence[str]]:
        """Names of PyStream's own that an option beside ``use`` can be a misspelling of."""
        return dict.fromkeys(self.beside, sorted(_NAMES_OF_PYSTREAM))

    def option(self, name: str) -> tuple[str | int, ...]:
        """The key of one of its own options: where it stands, or where a missing one belongs."""
        missing = name not in self.own and name not in _NAMES_OF_PYSTREAM
        beside = name in self.beside or missing
        return (*self.place, *(() if beside else ("options",)), name)


@dataclass(frozen=True, kw_only=True)
class PipelineFile:
    """A pipeline file; what was wrong in it is left out here.

    Attributes:
        path: the file.
        source: None when its table is missing or wrong.
        left_out: names of the stages that are left out, ``""`` for one without a name.
    """

    path: Path
    pipeline: PipelineTable
    source: SourceTable | None
    stages: tuple[StageTable, ...]
    left_out: frozenset[str] = frozenset()

    @property
    def folder(self) -> Path:
        """The folder that ``{here}`` and the modules of ``module:attr`` are in."""
        return self.path.absolute().parent


def read(path: Path, mistakes: Mistakes) -> PipelineFile:
    """Read a pipeline file and note what is wrong with its form.

    Raises:
        BadFile: it is no TOML at all, so there is nothing to go on with.
    """
    document = _parse(path, mistakes)
    for key in document:
        if key not in _TABLES:
            _unknown(mistakes, (key,), key, _TABLES)
    document = _placed(document, str(path.absolute().parent))
    tables = document.get("stage", [])
    stages = _stages(tables, mistakes)
    return PipelineFile(
        path=path,
        pipeline=_pipeline(_table(document, "pipeline", mistakes), mistakes),
        source=_source(document, mistakes),
        stages=stages,
        left_out=_left_out(tables, stages),
    )


def _parse(path: Path, mistakes: Mistakes) -> dict[str, Any]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wrong = Mistake(key="", message=f"not UTF-8 text ({error.reason}): TOML files are")
        raise BadFile(str(path), [wrong]) from None
    except OSError as error:
        wrong = Mistake(key="", message=f"cannot be read: {error.strerror or error}")
        raise BadFile(str(path), [wrong]) from None
    try:
        document: dict[str, Any] = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadFile(str(path), [_syntax(str(error), text)]) from None
    mistakes.lines |= key_lines(text)
    return document


def _syntax(message: str, text: str) -> Mistake:
    """The parser tells the place in its message: ``… (at line 3, column 5)``."""
    found = re.search(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)$", message)
    if found is None:
        return Mistake(key="", message=f"no TOML: {message}")
    said = message[: found.start()]
    what = f"no TOML: {said}{_SLIPS.get(said, '')}"
    if found[1] is None:
        return Mistake(key="", message=f"{what} at the end", line=len(text.splitlines()))
    return Mistake(key="", message=what, line=int(found[1]), column=int(found[2]))


def _placed(value: Any, folder: str) -> Any:
    """The value with ``{here}`` filled in, also in the lists and tables inside it."""
    if isinstance(value, str):
        return value.replace(HERE, folder)
    if isinstance(value, list):
        return [_placed(each, folder) for each in value]
    if isinstance(value, dict):
        return {key: _placed(each, folder) for key, each in value.items()}
    return value


def _table(document: Mapping[str, Any], name: str, mistakes: Mistakes) -> dict[str, Any]:
    table = document.get(name, {})
    if isinstance(table, dict):
        return table
    wanted = f"a table, written [{name}]"
    mistakes.add((name,), f"must be {wanted}, not {shown(table)}")
    return {}


def _pipeline(table: Mapping[str, Any], mistakes: Mistakes) -> PipelineTable:
    fields: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for key, value in table.items():
        place = ("pipeline", key)
        if key not in _PIPELINE:
            _unknown(mistakes, place, key, _PIPELINE)
            continue
        allowed, fits = _PIPELINE[key]
        if not fits(value):
            mistakes.add(place, f"must be {allowed}, not {shown(value)}")
        elif key == "placement":
            settings[key] = _placement(value)
        elif key in ("drain_timeout", "stuck_timeout"):
            settings[key] = value
        else:
            fields[key] = tuple(value) if isinstance(value, list) else value
    return PipelineTable(**fields, settings=settings)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _placement(value: object) -> str | PlacementTable | None:
    """A placement as the file gives it; None when it is neither a name nor such a table."""
    if isinstance(value, dict):
        options = dict(value)
        use = options.pop("use", None)
        return PlacementTable(use=use.strip(), options=options) if _is_name(use) else None
    return str(value) if _is_name(value) else None


def _is_seconds(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


_PIPELINE: Final[Mapping[str, tuple[str, Callable[[Any], bool]]]] = {
    "executor": ('the name of an executor, for example "threads" or "serial"', _is_name),
    "profile": ("true or false", lambda value: isinstance(value, bool)),
    "profiler": ('the name of a profiler, for example "sqlite"', _is_name),
    "observers": (
        "a list of names of observers",
        lambda value: isinstance(value, list) and all(map(_is_name, value)),
    ),
    "placement": (_A_PLACEMENT, lambda value: _placement(value) is not None),
    "drain_timeout": ("seconds from 0", _is_seconds),
    "stuck_timeout": ("seconds from 0", _is_seconds),
    "options": ("a table of the executor's options", lambda value: isinstance(value, dict)),
}


def _source(document: Mapping[str, Any], mistakes: Mistakes) -> SourceTable | None:
    if "source" not in document:
        mistakes.add(
            ("source",),
            'is missing: say where items come from, [source] with use = "registered name" '
            'or "module:attr"',
        )
        return None
    table = _table(document, "source", mistakes)
    use = _use(table, ("source",), mistakes) if isinstance(document["source"], dict) else None
    if use is None:
        return None
    options = {key: value for key, value in table.items() if key != "use"}
    return SourceTable(use=use, options=options)


def _stages(tables: Any, mistakes: Mistakes) -> tuple[StageTable, ...]:
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        mistakes.add(
            ("stage",), "must be a list of tables: write [[stage]], with two brackets, for each"
        )
        return ()
    found = (_stage(("stage", number), each, mistakes) for number, each in enumerate(tables, 1))
    return tuple(each for each in found if each is not None)


def _left_out(tables: Any, stages: Sequence[StageTable]) -> frozenset[str]:
    if not isinstance(tables, list):
        return frozenset({""})
    kept = {table.place[1] for table in stages}
    lost = (each for number, each in enumerate(tables, 1) if number not in kept)
    names = (each.get("name") if isinstance(each, dict) else None for each in lost)
    return frozenset(name if isinstance(name, str) else "" for name in names)


def _stage(
    place: tuple[str | int, ...], table: Mapping[str, Any], mistakes: Mistakes
) -> StageTable | None:
    table = dict(table)
    name = table.pop("name", None)
    if name is not None and not isinstance(name, str):
        mistakes.add((*place, "name"), f"must be text, not {shown(name)}", called=_label(table))
        name = None
    use = _use(table, place, mistakes, called=name or "")
    table.pop("use", None)
    called = name or use or ""
    inside = table.pop("options", {})
    if not isinstance(inside, dict):
        mistakes.add(
            (*place, "options"),
            f"must be a table of the stage's own options, not {shown(inside)}; one that is "
            f"itself called options is written options = {{options = …}}",
            called=called,
        )
        inside = {}
    add = {
        key: _add_option(place, key, table.pop(key), mistakes, called)
        for key in ADD_OPTIONS
        if key in table
    }
    for key in sorted(table.keys() & inside.keys()):
        mistakes.add(
            (*place, key), "is given twice: beside use, and in its [stage.options]", called=called
        )
    if use is None:
        return None
    return StageTable(
        place=place,
        use=use,
        name=name,
        add={key: value for key, value in add.items() if value is not None},
        own={**table, **inside},
        beside=frozenset(table),
    )


def _label(table: Mapping[str, Any]) -> str:
    use = table.get("use")
    return use if isinstance(use, str) else ""


def _use(
    table: Mapping[str, Any], place: tuple[str | int, ...], mistakes: Mistakes, *, called: str = ""
) -> str | None:
    use = table.get("use")
    if _is_name(use):
        return str(use).strip()
    found = "is missing" if use is None else f"must be text, not {shown(use)}"
    mistakes.add(
        (*place, "use"), f'{found}: give a registered name or "module:attr"', called=called
    )
    return None


def _add_option(
    place: tuple[str | int, ...], key: str, value: Any, mistakes: Mistakes, called: str
) -> Any:
    """The value if it is one that ``add`` takes, else None. A function is still text here."""
    place, given = (*place, key), value
    if key == "on_error":
        if isinstance(value, dict):
            return _retry(place, value, mistakes, called)
        if isinstance(value, str) and ":" in value:
            return value
    if key == "placement" and isinstance(value, dict):
        found = _placement(value)
        if found is None:
            mistakes.add(place, f"must be {_ALLOWED[key]}, not {shown(given)}", called=called)
        return found
    if key == "after":
        value = tuple(value) if isinstance(value, list) else (value,)
    try:
        StageOptions(**{key: value})
    except PlanError as error:
        if key not in _ALLOWED:
            mistakes.add(place, str(error), called=called)
            return None
        hint = (
            near_miss(value, re.findall(r'"(\w+)"', _ALLOWED[key]))
            if isinstance(value, str)
            else ""
        )
        mistakes.add(place, f"must be {_ALLOWED[key]}, not {shown(given)}{hint}", called=called)
        return None
    return value


def _retry(
    place: tuple[str | int, ...], table: Mapping[str, Any], mistakes: Mistakes, called: str
) -> Retry | None:
    before = len(mistakes)
    for key in table:
        if key not in _RETRY:
            _unknown(mistakes, (*place, key), key, _RETRY, called)
    if "retry" not in table:
        mistakes.add((*place, "retry"), "is missing: how many further calls", called=called)
    for key, field_name, allowed in (
        ("retry", "times", "a whole number from 1"),
        ("backoff", "backoff", "seconds from 0"),
        ("then", "then", '"stop" or "skip"'),
    ):
        if key in table:
            try:
                Retry(**{"times": 1, field_name: table[key]})
            except PlanError:
                mistakes.add(
                    (*place, key), f"must be {allowed}, not {shown(table[key])}", called=called
                )
    if len(mistakes) > before:
        return None
    return Retry(table["retry"], table.get("backoff", 0.0), table.get("then", "stop"))


def _unknown(
    mistakes: Mistakes, place: tuple[str | int, ...], key: str, known: Any, called: str = ""
) -> None:
    mistakes.add(
        place, f"unknown key{near_miss(key, known)}; known: {', '.join(known)}", called=called
    )
