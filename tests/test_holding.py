"""What a batching stage may keep and give out, beyond what lists of items show."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import numpy as np
import pytest

from pystream_core import SKIP, Pipeline, Stage
from pystream_core.testing import PATIENCE, Gate, broken_law, in_thread, wait_until


class Neighbours(Stage[Any]):
    """Neighbouring equal items together: a call that gives out a list keeps its own item."""

    def __init__(self, max_wait: float | None = None) -> None:
        self.max_wait = max_wait
        self._items: list[Any] = []

    def __call__(self, item: Any) -> Any:
        done = self.flush() if self._items and self._items[-1] != item else []
        self._items.append(item)
        return done[0] if done else SKIP

    def flush(self) -> list[list[Any]]:
        items, self._items = self._items, []
        return [items] if items else []

    def cleanup(self) -> None:
        self._items = []


class KeepsThenRaises(Neighbours):
    """Fails on an item that it has already taken in."""

    def __call__(self, item: Any) -> Any:
        self._items.append(item)
        if item == "bad":
            raise ValueError(item)
        return SKIP


class GivesArray(Neighbours):
    """Its flush returns an array, which has no truth."""

    def flush(self) -> Any:
        items, self._items = self._items, []
        return np.array(items)


@pytest.fixture(params=["serial", "threads"])
def chosen(request: pytest.FixtureRequest) -> Callable[[Pipeline], Pipeline]:
    """Chooses the mode of a pipeline."""
    serial = request.param == "serial"
    return lambda pipeline: pipeline.serialize() if serial else pipeline.parallelize()


def test_an_item_kept_by_a_call_that_gave_something_out_does_not_wait_for_ever() -> None:
    """max_wait holds for it as for those that a silent call has taken in."""
    came = threading.Event()

    def source() -> Iterator[str]:
        yield "a"
        yield "b"
        assert came.wait(PATIENCE)

    results = []
    pipeline = Pipeline()
    pipeline.add(Neighbours(max_wait=0.01))
    with pipeline.parallelize():
        for result in pipeline.stream(source()):
            results.append(result)
            if result == ["b"]:
                came.set()
    assert results == [["a"], ["b"]]


@pytest.mark.parametrize("max_wait", [1e-12, 0.01])
def test_a_short_max_wait_is_no_missing_one(max_wait: float) -> None:
    """Less than a nanosecond, too, is a limit."""
    came = threading.Event()

    def source() -> Iterator[str]:
        yield "a"
        assert came.wait(PATIENCE)

    pipeline = Pipeline()
    pipeline.add(Neighbours(max_wait=max_wait))
    with pipeline.parallelize():
        for result in pipeline.stream(source()):
            assert result == ["a"]
            came.set()


def test_what_a_flush_gives_out_is_as_old_as_what_it_holds(
    chosen: Callable[[Pipeline], Pipeline],
) -> None:
    """Not as old as what has left before: it does not expire for that."""
    pipeline = Pipeline()
    pipeline.add(Neighbours())
    pipeline.add(lambda items: items, max_age=0.2)
    seen: list[Any] = []
    pipeline.add(seen.append)
    with chosen(pipeline):
        pipeline.forward("a")
        begin = perf_counter()
        assert wait_until(lambda: perf_counter() - begin > 0.2)
        pipeline.forward("b")
        pipeline.drain(PATIENCE)
        ledger = pipeline.statistics()
    assert ledger.expired == 1
    assert seen == [["b"]]


def test_what_is_kept_of_a_failed_item_does_not_reach_the_next_stream(
    chosen: Callable[[Pipeline], Pipeline],
) -> None:
    """A stage whose only call has failed is flushed like any other."""
    pipeline = Pipeline()
    pipeline.add(KeepsThenRaises(), on_error="skip")
    with chosen(pipeline):
        assert list(pipeline.stream(["bad"])) == [["bad"]]
        assert list(pipeline.stream(["good"])) == [["good"]]
        ledger = pipeline.statistics()
    assert broken_law(ledger) == []
    assert (ledger.failed, ledger.absorbed, ledger.completed) == (1, 1, 2)


def test_a_flush_may_return_an_array(chosen: Callable[[Pipeline], Pipeline]) -> None:
    """What it returns is iterated and never asked for its truth."""
    pipeline = Pipeline()
    pipeline.add(GivesArray())
    with chosen(pipeline):
        assert [int(each) for each in pipeline.stream([0, 0, 0])] == [0, 0, 0]
        assert wait_until(lambda: not pipeline.statistics().in_flight)


class Stuck(Neighbours):
    """Comes to a gate in its flush, or in the call with ``at``."""

    def __init__(self, gate: Gate, at: Any = None) -> None:
        super().__init__()
        self._gate, self._at = gate, at

    def __call__(self, item: Any) -> Any:
        if item == self._at:
            self._gate(item)
        self._items.append(item)
        return SKIP

    def flush(self) -> list[list[Any]]:
        if self._at is None:
            self._gate(None)
        return super().flush()


@pytest.mark.parametrize("at", [None, "c"])
@pytest.mark.usefixtures("hurried")
def test_what_waits_in_a_stage_that_is_left_behind_counts_as_abandoned(
    at: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """No item ends as absorbed whose list never comes out."""
    gate = Gate()
    pipeline = Pipeline()
    pipeline.add(Stuck(gate, at))
    pipeline.parallelize(drain_timeout=0.2, stuck_timeout=0.2)
    try:
        for item in "abc":
            pipeline.forward(item)
        pipeline.cleanup()
        ledger = pipeline.statistics()
    finally:
        gate.open()
    assert broken_law(ledger) == []
    assert (ledger.absorbed, dict(ledger.dropped)) == (0, {"abandoned": 3})
    assert "left behind" in caplog.text


@pytest.mark.usefixtures("hurried")
def test_what_waits_while_the_source_of_a_serial_stream_is_left_behind_is_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The next run begins with nothing, and the count says so."""
    gate = Gate()

    def source() -> Iterator[str]:
        yield "a"
        yield gate("b")

    pipeline = Pipeline()
    pipeline.add(Neighbours())
    pipeline.serialize()
    reader = in_thread(lambda: list(pipeline.stream(source())))
    try:
        assert gate.wait_entered()
        pipeline.cleanup(timeout=0.2)
        ledger = pipeline.statistics()
    finally:
        gate.open()
    reader.wait()
    assert broken_law(ledger) == []
    assert (ledger.admitted, ledger.absorbed, ledger.dropped_total) == (1, 0, 1)
