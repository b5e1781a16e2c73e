"""How everything here is measured: subjects take turns, and medians are compared."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

Stage = Callable[[Any], Any]
Runner = Callable[[Iterable[Any], Sequence[Stage]], AbstractContextManager[Iterable[Any]]]
"""One way to run stages over a source; inside the context one reads the results."""


@dataclass(frozen=True)
class Settings:
    """How long to measure.

    Attributes:
        rounds: how often each subject has its turn.
        quick: a tenth of the items: to see that everything runs, not for figures to publish.
    """

    rounds: int = 5
    quick: bool = False

    def items(self, number: int) -> int:
        return max(number // 10, 20) if self.quick else number

    def seconds(self, number: float) -> float:
        return number / 4 if self.quick else number


@dataclass
class Rounds:
    """What the subjects took, round by round.

    Attributes:
        taken: the measured values by subject.
        missing: subjects that are not installed, and why.
    """

    taken: dict[str, list[float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def median(self, subject: str) -> float:
        """Of all rounds; nan for a missing subject."""
        return statistics.median(self.taken[subject]) if self.taken.get(subject) else math.nan

    def ratio(self, over: str, under: str) -> float:
        """The median of the ratios, each of two neighbours in one round; nan when missing."""
        pairs = zip(self.taken.get(over, ()), self.taken.get(under, ()), strict=False)
        ratios = [one / other for one, other in pairs]
        return statistics.median(ratios) if ratios else math.nan


def take_turns(subjects: Mapping[str, Callable[[], float]], rounds: int) -> Rounds:
    """Measure every subject once a round. One that cannot be imported is noted as missing."""
    found = Rounds()
    for _ in range(rounds):
        for name, measure in subjects.items():
            if name in found.missing:
                continue
            try:
                value = measure()
            except ImportError as error:
                found.missing[name] = str(error)
            else:
                found.taken.setdefault(name, []).append(value)
    return found


def time_per_item(runner: Runner, items: int, stages: Sequence[Stage]) -> float:
    """Microseconds that an item takes, start of the runner included.

    Raises:
        AssertionError: a result was lost or came out of order.
    """
    begin = time.perf_counter()
    with runner(range(items), stages) as results:
        received = list(results)
        took = time.perf_counter() - begin
    assert received == list(range(items)), "results were lost or came out of order"
    return took / items * 1e6


def same(item: Any) -> Any:
    """The trivial stage."""
    return item
