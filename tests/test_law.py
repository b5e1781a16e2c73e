"""The checker that every other test relies on finds what is wrong with a ledger."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pystream_core import SKIP, Pipeline, Statistics
from pystream_core.testing import broken_law


def figures() -> Statistics:
    """Those of a plan with a join inside and one at the output."""
    with Pipeline() as pipeline:
        pipeline.add(lambda item: item, name="A")
        pipeline.add(lambda item: SKIP if item % 3 == 0 else item, name="B", after="A")
        pipeline.add(lambda item: SKIP if item % 2 == 0 else item, name="C", after="A")
        pipeline.add(sum, name="D", after=["B", "C"])
        pipeline.add(lambda item: item, name="E", after=["D", "C"])
        pipeline.serialize()
        return pipeline.run(range(12))


def stage(index: int, **changes: Any) -> Callable[[Statistics], Statistics]:
    """One stage's figures are others."""

    def change(statistics: Statistics) -> Statistics:
        stages = list(statistics.stages)
        stages[index] = replace(stages[index], **changes)
        return replace(statistics, stages=stages)

    return change


def total(**changes: Any) -> Callable[[Statistics], Statistics]:
    """The figures of the whole are others."""
    return lambda statistics: replace(statistics, **changes)


WRONG = {
    "a copy too few in a branch": stage(1, received=11),
    "an output too many": stage(2, emitted=7),
    "a copy without a bin": stage(2, filtered=5),
    "a join too often": stage(3, received=5, emitted=5),
    "nothing unjoined": stage(3, unjoined={}),
    "lost and yet received": stage(4, lost_before={"overflow": 1}),
    "in flight": total(in_flight=1),
    "a completed one too many": total(completed=5, filtered=7),
    "counted twice": total(filtered=9),
    "in a bin that no stage has": total(filtered=7, failed=1),
    "negative": total(filtered=9, dropped={"abort": -1}),
    "superseded without a result": total(superseded=9),
    "rejected less than nothing": total(rejected=-1),
}


def plan() -> list[tuple[int, ...]]:
    """Who feeds the stages and the output of that plan."""
    return [(), (0,), (0,), (1, 2), (3, 2), (4,)]


def test_the_law_holds_for_a_plan_with_branches() -> None:
    """What a real run counts is right."""
    assert broken_law(figures(), plan()) == []


@pytest.mark.parametrize("what", list(WRONG))
def test_a_wrong_figure_is_found(what: str) -> None:
    """In every line of the law."""
    assert broken_law(WRONG[what](figures()), plan()) != []


def test_a_branching_plan_is_not_taken_for_a_chain() -> None:
    """Without the graph its figures cannot be right."""
    assert broken_law(figures()) != []
