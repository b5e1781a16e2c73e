"""Figures, what they should be, and the table of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Figure:
    """One measured value, with a bound when it belongs to a goal.

    Attributes:
        value: nan when it could not be measured.
        unit: what stands behind the value.
    """

    what: str
    value: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def bounded(self) -> bool:
        return self.at_most is not None or self.at_least is not None

    @property
    def reached(self) -> bool:
        """Whether it was measured and lies within its bound."""
        low = -math.inf if self.at_least is None else self.at_least
        high = math.inf if self.at_most is None else self.at_most
        return low <= self.value <= high

    @property
    def goal(self) -> str:
        if self.at_most is not None:
            return f"at most {_number(self.at_most)} {self.unit}".rstrip()
        if self.at_least is not None:
            return f"at least {_number(self.at_least)} {self.unit}".rstrip()
        return ""

    @property
    def shown(self) -> str:
        if math.isnan(self.value):
            return "not measured"
        return f"{_number(self.value)} {self.unit}".rstrip()

    @property
    def verdict(self) -> str:
        return ("pass" if self.reached else "MISSED") if self.bounded else ""


@dataclass(frozen=True)
class Outcome:
    """What was measured for one goal.

    Attributes:
        missing: peers that could not be measured, and why.
    """

    title: str
    figures: Sequence[Figure]
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def reached(self) -> bool:
        return all(figure.reached for figure in self.figures if figure.bounded)

    def to_json(self) -> dict[str, object]:
        return {
            "title": self.title,
            "reached": self.reached,
            "figures": [
                {
                    "what": figure.what,
                    "value": None if math.isnan(figure.value) else figure.value,
                    "unit": figure.unit,
                    "goal": figure.goal,
                    "reached": figure.reached if figure.bounded else None,
                }
                for figure in self.figures
            ],
            "missing": dict(self.missing),
        }


def table(outcomes: Mapping[int, Outcome]) -> str:
    """A line for each goal, below it one for each of its figures. Markdown, aligned."""
    rows = [("#", "Figure", "Measured", "Goal", "")]
    for number, outcome in outcomes.items():
        verdict = "pass" if outcome.reached else "MISSED"
        rows.append((f"**{number}**", f"**{outcome.title}**", "", "", f"**{verdict}**"))
        rows.extend(("", f.what, f.shown, f.goal, f.verdict) for f in outcome.figures)
        rows.extend(
            ("", f"{peer}: not installed ({why})", "", "", "")
            for peer, why in outcome.missing.items()
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = tuple("-" * width for width in widths)
    return "\n".join(_line(row, widths) for row in [rows[0], rule, *rows[1:]])


def _line(cells: Iterable[str], widths: Iterable[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return f"| {' | '.join(padded)} |"


def _number(value: float) -> str:
    """Three digits that matter; whole numbers from 100 on."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:#.3g}"
