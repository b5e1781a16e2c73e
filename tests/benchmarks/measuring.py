"""How everything here is measured: subjects take turns, and medians are compared."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import chain, repeat
from queue import SimpleQueue
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


def take_turns(
    subjects: Mapping[str, Callable[[], float | Mapping[str, float]]], rounds: int
) -> Rounds:
    """Measure every subject once a round, or several in one go, which are returned by their names.
    One that cannot be imported is noted as missing."""
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
                several = value if isinstance(value, Mapping) else {name: value}
                for each, one in several.items():
                    found.taken.setdefault(each, []).append(one)
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


class Portions:
    """A source that gives its item out so many times whenever it is told to. What it feeds rests
    in between, while something else is measured."""

    def __init__(self, item: Any) -> None:
        self._item = item
        self._told: SimpleQueue[int] = SimpleQueue()

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(repeat(self._item, n) for n in iter(self._told.get, 0))

    def give(self, number: int) -> None:
        """Let so many items go; 0 ends the source."""
        self._told.put(number)


def portion_by_portion(
    runner: Runner,
    stages: Sequence[Stage],
    item: Any,
    *,
    portion: int,
    portions: int,
    warm: float,
    beside: Mapping[str, Callable[[int], float]],
) -> dict[str, float]:
    """Seconds per item of a runner (by the name "runner") and of what it is compared with, taking
    turns after each portion of items. A machine that is faster and slower from second to second
    is so for all of them. Filling and emptying the runner's stages counts in each portion.

    Args:
        portion: so many items at once.
        portions: that are measured.
        warm: seconds before that.
        beside: by name, what takes the number of items and returns the seconds that they took.
    """
    source = Portions(item)
    taken = dict.fromkeys(("runner", *beside), 0.0)
    with runner(source, stages) as results:
        arrived = iter(results)

        def go_on(number: int) -> float:
            begin = time.perf_counter()
            source.give(number)
            for _ in range(number):
                next(arrived)  # and let go of at once
            return time.perf_counter() - begin

        heated = 0.0
        while heated < warm:
            heated += go_on(portion)
        for _ in range(portions):
            for name, measure in {"runner": go_on, **beside}.items():
                taken[name] += measure(portion)
        source.give(0)
        assert next(arrived, None) is None, "there were more results than items"
    return {name: seconds / (portion * portions) for name, seconds in taken.items()}


def same(item: Any) -> Any:
    """The trivial stage."""
    return item
