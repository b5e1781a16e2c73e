"""The mistakes of one pipeline file, gathered so that all are reported at once."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pystream_core import PlanError


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """One thing that is wrong with a pipeline file.

    Attributes:
        key: where, for example ``stage[2].capacity``.
        message: what is wrong, with what would be right.
        line: line of the file, None when the mistake has no place in it.
        column: column of the line, None where it is not known.
    """

    key: str
    message: str
    line: int | None = None
    column: int | None = None


class BadFile(PlanError):
    """A pipeline file cannot be run. Its text names every mistake.

    Attributes:
        mistakes: what is wrong, in the order of the file.
        lines: each of them as ``file:line: key: message``.
        summary: how many there are.
    """

    def __init__(self, path: str, mistakes: Iterable[Mistake]) -> None:
        # What has no line concerns the file as a whole, or the command line: it comes last.
        self.mistakes = tuple(sorted(mistakes, key=lambda one: one.line or sys.maxsize))
        number = len(self.mistakes)
        self.lines = tuple(_line(path, one) for one in self.mistakes)
        self.summary = f"{number} mistake{'s' if number > 1 else ''} in {path}; nothing was run"
        super().__init__("\n".join([*self.lines, self.summary]))


@dataclass
class Mistakes:
    """Collects mistakes while a file is read and its pipeline is built.

    Attributes:
        path: the file, as messages name it.
        lines: the line of each key, by its path.
    """

    path: str
    lines: dict[tuple[str | int, ...], int] = field(default_factory=dict)
    _found: list[Mistake] = field(default_factory=list)

    def add(self, place: tuple[str | int, ...], message: str, *, called: str = "") -> None:
        """Note a mistake.

        Args:
            place: the key, for example ``("stage", 2, "capacity")``; stages count from 1.
            message: what is wrong, with what would be right.
            called: what the stage is called, for readers who do not count.
        """
        key = shown_key(place) + (f" ({called})" if called else "")
        self._found.append(Mistake(key=key, message=message, line=self._line(place)))

    def __len__(self) -> int:
        return len(self._found)

    def refuse(self) -> None:
        """Raise BadFile if anything was noted."""
        if self._found:
            raise BadFile(self.path, self._found)

    def _line(self, place: tuple[str | int, ...]) -> int | None:
        """The line of a key, or of the table that it should be in."""
        for length in range(len(place), 0, -1):
            if (line := self.lines.get(place[:length])) is not None:
                return line
        return None


def shown_key(place: tuple[str | int, ...]) -> str:
    """``("stage", 2, "capacity")`` as people write it: ``stage[2].capacity``."""
    return "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in place).lstrip(".")


def key_lines(text: str) -> dict[tuple[str | int, ...], int]:
    """The line of every table and key of a TOML document, as far as a look at its lines tells.

    For messages only: quoted keys with dots in them, and keys of inline tables, have none.
    """
    lines: dict[tuple[str | int, ...], int] = {}
    counts: dict[str, int] = {}
    table: tuple[str | int, ...] = ()
    for number, line in _outside_of_long_texts(text):
        content = line.strip()
        if content.startswith("[["):
            name = content[2:].partition("]]")[0].strip()
            counts[name] = counts.get(name, 0) + 1
            table = (name, counts[name])
        elif content.startswith("[") and "=" not in content.partition("]")[0]:
            table = _parts(content[1:].partition("]")[0])
            if table and table[0] in counts:  # a table of the last stage
                table = (table[0], counts[str(table[0])], *table[1:])
        elif "=" in content and not content.startswith("#"):
            lines.setdefault((*table, *_parts(content.partition("=")[0])), number)
            continue
        else:
            continue
        lines.setdefault(table, number)
        lines.setdefault(table[:1], number)
    return lines


def _parts(key: str) -> tuple[str | int, ...]:
    return tuple(part.strip().strip("\"'") for part in key.split("."))


def _outside_of_long_texts(text: str) -> Iterator[tuple[int, str]]:
    """The numbered lines that do not begin inside a text of three quotes."""
    inside = ""
    for number, line in enumerate(text.splitlines(), 1):
        began_inside = inside
        rest = line
        while True:
            if inside:
                _, closed, rest = rest.partition(inside)
                if not closed:
                    break
                inside = ""
            places = [(rest.find(quotes), quotes) for quotes in ('"""', "'''") if quotes in rest]
            if not places:
                break
            place, inside = min(places)
            rest = rest[place + 3 :]
        if not began_inside:
            yield number, line


def _line(path: str, mistake: Mistake) -> str:
    place = "".join(f":{one}" for one in (mistake.line, mistake.column) if one is not None)
    return f"{path}{place}: {mistake.key}{': ' if mistake.key else ''}{mistake.message}"
