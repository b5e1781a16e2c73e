"""The ledger: bins, sums, and what happens when they do not add up."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pystream_core import StageStatistics, Statistics, _ledger
from pystream_core._ledger import Ledger


def filled() -> Ledger:
    """10 admitted and 3 spawned items through two stages, all ended."""
    ledger = Ledger(["M__A", "M__B"])
    ledger.admitted = 10
    first, second = ledger.counters(0), ledger.counters(1)
    first.received, first.emitted, first.filtered = 9, 10, 1
    first.spawned, first.expanded = 3, 1
    ledger.lose(0, "overflow")
    second.received, second.emitted, second.failed, second.expired = 10, 7, 1, 1
    second.drop("abort")
    ledger.lose(2, "reader left", 2)
    ledger.completed = 4
    ledger.streamed = 1
    return ledger


def test_totals_are_the_sums_of_the_bins() -> None:
    """Every bin in total, drops by reason, results of slot and stream together."""
    statistics = filled().snapshot()
    assert statistics.admitted == 10
    assert statistics.spawned == 3
    assert statistics.completed == 5
    assert statistics.dropped == {"overflow": 1, "abort": 1, "reader left": 2}
    assert statistics.dropped_total == 4
    assert (statistics.filtered, statistics.expanded) == (1, 1)
    assert (statistics.failed, statistics.expired) == (1, 1)
    assert statistics.ended == 13
    assert statistics.in_flight == 0


def test_a_whole_ledger_has_no_violations() -> None:
    """The law holds for each stage and for the output."""
    assert filled().violations() == []


@pytest.mark.parametrize(
    ("stage", "counter", "expected"),
    [
        (0, "received", "M__A: received 10, but 10 were sent to it and 1 lost"),
        (0, "emitted", "M__B: received 10, but 11 were sent"),
        (1, "failed", "M__B: -1 items have no bin"),
        (1, "emitted", "output: completed 5, but 8 were sent"),
        (1, "received", "M__B: 1 item has no bin"),
    ],
)
def test_one_wrong_counter_is_named(stage: int, counter: str, expected: str) -> None:
    """An item counted twice, in whichever counter, shows as a line in words."""
    ledger = filled()
    counters = ledger._workers[stage][0]
    setattr(counters, counter, getattr(counters, counter) + 1)
    assert any(line.startswith(expected) for line in ledger.violations())


def test_workers_are_summed() -> None:
    """Each worker has counters of its own."""
    ledger = Ledger(["M__A"])
    ledger.admitted = ledger.completed = 6
    for _ in range(3):
        counters = ledger.counters(0)
        counters.received = counters.emitted = 2
    [stage] = ledger.snapshot().stages
    assert (stage.path, stage.received, stage.emitted, stage.in_hand) == ("M__A", 6, 6, 0)
    assert ledger.violations() == []


def test_what_has_not_ended_is_in_flight() -> None:
    """Derived from the others, never below zero."""
    ledger = Ledger(["M__A"])
    ledger.admitted = 5
    ledger.counters(0).received = 2
    assert ledger.snapshot().in_flight == 5
    assert ledger.snapshot().stages[0].in_hand == 2
    ledger.completed = 9
    assert ledger.snapshot().in_flight == 0


def test_finishing_counts_what_never_came_back_as_abandoned() -> None:
    """An item in the hands of a stuck worker; what it does later changes nothing."""
    ledger = Ledger(["M__A"])
    ledger.admitted = 1
    counters = ledger.counters(0)
    counters.received = 1
    final = ledger.finish()
    assert final.dropped == {"abandoned": 1}
    assert final.in_flight == 0
    counters.emitted = 1
    ledger.completed = 1
    assert ledger.snapshot() is ledger.finish() is final


def test_statistics_cannot_be_changed() -> None:
    """Neither the record nor its mappings, also not through the ledger's own."""
    ledger = filled()
    statistics = ledger.snapshot()
    with pytest.raises(dataclasses.FrozenInstanceError):
        statistics.admitted = 0  # type: ignore[misc]
    with pytest.raises(TypeError):
        statistics.dropped["overflow"] = 0  # type: ignore[index]
    ledger.lose(0, "overflow")
    assert statistics.dropped["overflow"] == 1
    assert statistics.stages[0].lost_before == {"overflow": 1}


def test_the_text_is_the_law() -> None:
    """Bins that are zero are left out; rejected and superseded stand beside."""
    assert str(Statistics()) == "0 admitted = 0"
    statistics = Statistics(
        admitted=5, spawned=2, completed=4, dropped={"overflow": 2}, in_flight=1, superseded=3
    )
    assert str(statistics) == (
        "5 admitted + 2 spawned = 4 completed + 2 dropped (overflow) + 1 in flight (3 superseded)"
    )


def test_the_text_of_a_stage_is_its_own_law_on_one_line() -> None:
    """What it took in and made is what became of it; losses that it never saw stand beside."""
    assert str(StageStatistics(path="MainPipeline__a")) == "MainPipeline__a: 0 received = 0"
    assert str(StageStatistics(path="a", received=9, emitted=9)) == "a: 9 received = 9 emitted"
    stage = StageStatistics(
        path="a",
        received=9,
        spawned=4,
        emitted=3,
        filtered=1,
        expanded=1,
        absorbed=1,
        expired=1,
        failed=1,
        dropped={"cleanup": 1, "abort": 2},
        lost_before={"overflow": 5},
        unjoined={"MainPipeline__b": 6},
    )
    assert str(stage) == (
        "a: 9 received + 4 spawned = 3 emitted + 1 filtered + 1 expanded + 1 absorbed + "
        "2 dropped (abort) + 1 dropped (cleanup) + 1 expired + 1 failed + 2 in hand "
        "(5 lost before it (overflow), 6 unjoined from MainPipeline__b)"
    )


def test_rejections_are_beside_the_law() -> None:
    """They are offers, not items."""
    ledger = Ledger([])
    ledger.reject()
    assert ledger.snapshot().rejected == 1
    assert ledger.snapshot().in_flight == 0
    assert ledger.violations() == []


def test_a_result_that_is_forfeited_while_the_figures_are_read_is_in_one_bin() -> None:
    """G3: a reader may leave at that very moment; it is still completed then, and never nowhere."""
    ledger = Ledger([])
    ledger.admitted = ledger.streamed = 2
    ledger.forfeit()
    before = ledger._read()
    ledger.forfeit()
    statistics = ledger._totals(before)
    assert (statistics.completed, statistics.dropped) == (1, {"reader left": 1})
    assert statistics.in_flight == 0
    assert ledger.snapshot().dropped == {"reader left": 2}


def test_a_snapshot_beside_a_running_stage_never_shows_more_ends_than_items(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is made and ends while the figures are read shows as made only, or not at all."""
    ledger = Ledger(["A", "B"])
    first, second = ledger.counters(0), ledger.counters(1)
    ledger.admitted = 1
    read_ends = _ledger._ends

    def read_while_items_pass(workers: Any) -> Any:
        ends = read_ends(workers)
        first.spawned += 2  # a generator gives out two items, which
        second.filtered += 1  # end in the next stage
        ledger.completed += 1  # and at the output
        return ends

    monkeypatch.setattr(_ledger, "_ends", read_while_items_pass)
    for _ in range(3):
        statistics = ledger.snapshot()
        assert statistics.ended <= statistics.admitted + statistics.spawned
