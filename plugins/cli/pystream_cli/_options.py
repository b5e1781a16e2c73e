"""The options of stages, sources and plugins: names, types, defaults and docs, laid open.

From the signature and the Google-style docstring of what takes them. Values of a file are
judged by annotations as far as these speak of what TOML can hold; whatever else they say, the
stage itself decides.
"""

from __future__ import annotations

import datetime as dt
import inspect
import os
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from pystream_core import Parameter, StageFactory, near_miss, parameters


@dataclass(frozen=True, kw_only=True)
class Option(Parameter):
    """One option, with what its annotation and the docstring say of it.

    Attributes:
        name, type, default, required: see ``Parameter``.
        doc: what the docstring says of it, on one line.
        hint: its annotation, ``Any`` where that is not known.
    """

    doc: str = ""
    hint: Any = Any


@dataclass(frozen=True, kw_only=True)
class Signature:
    """What something takes by keyword.

    Attributes:
        options: in the order of the signature.
        open: whether it takes any others too, or its signature is not known.
    """

    options: tuple[Option, ...]
    open: bool

    def wrong(
        self, given: Mapping[str, Any], beside: Mapping[str, Iterable[str]] | None = None
    ) -> list[tuple[str, str]]:
        """Each option that is unknown, missing or of a wrong type, with what would be right.

        Args:
            given: what a file gives.
            beside: further names that can have been meant by some of them.
        """
        known = {option.name: option for option in self.options}
        listing = (
            f"its options: {', '.join(map(_brief, self.options))}"
            if known
            else "it takes no options"
        )
        found = []
        for name, value in given.items():
            if name not in known:
                if not self.open:
                    names = [*known, *(beside or {}).get(name, ())]
                    found.append((name, f"no such option{near_miss(name, names)}; {listing}"))
            elif not fits(value, known[name].hint):
                option = known[name]
                hint = near_miss(value, _choices(option.hint)) if isinstance(value, str) else ""
                found.append((name, f"must be {words(option.hint)}, not {shown(value)}{hint}"))
        for option in self.options:
            if option.required and option.name not in given:
                found.append((option.name, f"is missing; {listing}"))
        return found


def signature(target: Any, *, item: bool) -> Signature:
    """The options of a loaded stage, source or factory.

    Args:
        target: the loaded object.
        item: it is a stage, so the first parameter of a function is the item.
    """
    call = target.make if isinstance(target, StageFactory) else target
    hints, docs = _hints(call), _docs(call)
    known = parameters(target, item=item)
    named = [one for one in known if not one.name.startswith("**")]
    return Signature(
        options=tuple(
            Option(
                name=one.name,
                type=one.type,
                default=one.default,
                required=one.required,
                doc=plain(docs.get(one.name, "")),
                hint=hints.get(one.name, Any),
            )
            for one in named
        ),
        open=len(named) < len(known),
    )


def prose(doc: str) -> str:
    """What a docstring says before its first section."""
    lines = doc.splitlines()
    end = next(
        (number for number, line in enumerate(lines) if _SECTION.fullmatch(line)), len(lines)
    )
    return plain("\n".join(lines[:end]).strip())


def plain(doc: str) -> str:
    """A docstring in which code stands between single backticks, as messages show it."""
    return _MARKED.sub(r"`\1`", doc)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value of a TOML file can be meant by an annotation; yes when in doubt."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, each) for each in arguments)
    if origin is Literal:
        return any(type(value) is type(each) and value == each for each in arguments)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str, *_TIMES):
        return isinstance(value, hint)
    if hint in (None, type(None)):
        return value is None
    kind = origin or hint
    if not isinstance(kind, type):
        return True
    if issubclass(kind, os.PathLike):
        return isinstance(value, str)
    if kind in _FUNCTIONS:
        return False  # TOML has none
    if issubclass(kind, Mapping):
        return isinstance(value, dict)
    if kind in (list, tuple, set, frozenset) or origin in (Iterable, Sequence):
        return isinstance(value, list)
    return True


def words(hint: Any) -> str:
    """What an annotation allows, in the words of TOML."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        parts = [words(each) for each in arguments if each is not type(None)]
        return " or ".join(dict.fromkeys(part for part in parts if part))
    if origin is Literal:
        return " or ".join(shown(each) for each in arguments)
    kind = origin or hint
    if isinstance(kind, type):
        if issubclass(kind, os.PathLike):
            return "text"
        if kind in _FUNCTIONS:
            return ""
        for known, text in _WORDS.items():
            if issubclass(kind, known):
                return text
    return inspect.formatannotation(hint) if isinstance(hint, type) else str(hint)


def in_toml(value: Any) -> str | None:
    """A value as TOML writes it, None when it cannot."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        # JSON's texts are valid in TOML, but for DEL, which nobody has in an option
        import json

        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, (list, tuple)):
        parts = [in_toml(each) for each in value]
        return None if None in parts else f"[{', '.join(map(str, parts))}]"
    return None


def shown(value: Any) -> str:
    """A value as TOML writes it, short, for messages."""
    text = in_toml(value)
    if text is None:
        text = "a table" if isinstance(value, dict) else str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


_FUNCTIONS: Final[tuple[Any, ...]] = (Callable, types.FunctionType)
_TIMES: Final = (dt.datetime, dt.date, dt.time)
_WORDS: Final[Mapping[type, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Mapping: "a table",
    list: "a list",
    tuple: "a list",
    Sequence: "a list",
}
_SECTION: Final = re.compile(
    r"(Args|Arguments|Parameters|Attributes|Raises|Returns|Yields|Example|Examples|Note|Notes):\s*"
)
_MARKED: Final = re.compile(r"(?::\w+:|`)`~?([^`]+)``?")
_ITEM: Final = re.compile(r"(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)*)\s*(?:\([^)]*\))?:\s*(?P<doc>.*)")


def _hints(call: Any) -> dict[str, Any]:
    """The annotations, evaluated; none where one of them names what is not there."""
    source = _constructor(call) if isinstance(call, type) else call
    try:
        return typing.get_type_hints(getattr(source, "func", source))
    except Exception:  # annotations may hold anything
        return {}


def _constructor(made: type[Any]) -> Any:
    return made.__init__


def _docs(call: Any) -> dict[str, str]:
    """What the sections ``Args`` of the docstrings say, by name; the constructor's counts."""
    documents = (
        [call, _constructor(call)] if isinstance(call, type) else [getattr(call, "func", call)]
    )
    found: dict[str, str] = {}
    for document in documents:
        found |= args_section(inspect.getdoc(document) or "")
    return found


def args_section(doc: str) -> dict[str, str]:
    """The section ``Args`` of a Google-style docstring, by name, each on one line."""
    lines = doc.splitlines()
    start = next(
        (n for n, line in enumerate(lines) if re.fullmatch(r"(Args|Arguments):\s*", line)), None
    )
    if start is None:
        return {}
    body = []
    for line in lines[start + 1 :]:
        if line and not line[0].isspace():
            break
        body.append(line)
    found: dict[str, str] = {}
    names: list[str] = []
    for line in textwrap.dedent("\n".join(body)).splitlines():
        if line and not line[0].isspace() and (item := _ITEM.match(line)):
            names = [name.lstrip("*") for name in item["names"].split(", ")]
            found |= dict.fromkeys(names, item["doc"].strip())
        else:
            found |= {name: f"{found[name]} {line.strip()}".strip() for name in names}
    return found


def _choices(hint: Any) -> list[str]:
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return [each for each in arguments if isinstance(each, str)]
    return [choice for each in arguments for choice in _choices(each)]


def _brief(option: Option) -> str:
    if option.required:
        return f"{option.name} (required)"
    default = in_toml(option.default)
    return option.name if default is None else f"{option.name} = {default}"
