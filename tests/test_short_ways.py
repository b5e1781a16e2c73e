"""The ways that spare calls: forward and get_results of a serial pipeline, reading a stream,
lots of items in threads. Whatever deviates goes the long way, and everything is counted."""

from __future__ import annotations

import ctypes
import gc
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pystream_core import (
    SKIP,
    Envelope,
    Feeding,
    Observer,
    Pipeline,
    PipelineBusy,
    PipelineTerminated,
    Retry,
    StageError,
)
from pystream_core.testing import PATIENCE, Gate, broken_law, in_thread, wait_until


def same(item: Any) -> Any:
    return item


def serial(*stages: Any, **options: Any) -> Pipeline:
    pipeline = Pipeline()
    for stage in stages:
        pipeline.add(stage, **options)
    return pipeline.serialize()


def took_short_way(pipeline: Pipeline) -> bool:
    """Whether its items went past the counters of each stage."""
    session = pipeline._session
    assert session is not None
    return session.run.ledger.passed > 0


# -- forward and get_results -------------------------------------------------------------------


def test_forward_takes_the_short_way_and_counts_as_ever() -> None:
    """Every stage has received and emitted every item, also one that was superseded."""
    with serial(same, same) as pipeline:
        assert pipeline.forward(1)
        assert pipeline.forward(None)
        assert pipeline.forward(3)
        assert pipeline.get_results() == 3
        assert pipeline.get_results() is None
        assert took_short_way(pipeline)
        statistics = pipeline.statistics()
    assert (statistics.admitted, statistics.completed, statistics.superseded) == (3, 3, 2)
    assert [stage.emitted for stage in statistics.stages] == [3, 3]
    assert broken_law(pipeline.statistics()) == []


@pytest.mark.parametrize("profiled", [False, True])
def test_what_deviates_from_the_short_way_is_counted(*, profiled: bool) -> None:
    """A filtered item, one that fails, one that is tried again, one that is replaced."""

    def fate(item: int) -> Any:
        if item == 1:
            return SKIP
        if item == 2:
            raise ValueError("two")
        return item

    seen: list[int] = []
    pipeline = Pipeline(use_profiler=profiled)
    pipeline.add(lambda item: (seen.append(item), item)[1])
    pipeline.add(fate, on_error=Retry(times=1, backoff=0, then="skip"))
    pipeline.add(fate, on_error=lambda failure: -failure.item)
    pipeline.serialize()
    for item in (0, 1, 2, 3):
        assert pipeline.forward(item)
    assert pipeline.get_results() == 3
    statistics = pipeline.statistics()
    assert (statistics.completed, statistics.filtered, statistics.failed) == (2, 1, 1)
    assert [stage.received for stage in statistics.stages] == [4, 4, 2]
    assert seen == [0, 1, 2, 3]
    assert broken_law(statistics) == []
    if profiled:
        calls = {path: each.calls for path, each in pipeline.profile().stages.items()}
        assert list(calls.values()) == [4, 5, 2]  # one was tried twice
    pipeline.cleanup()


@pytest.mark.parametrize("profiled", [False, True])
def test_a_failure_comes_out_of_forward_and_the_next_item_goes_on(
    caplog: pytest.LogCaptureFixture, *, profiled: bool
) -> None:
    """And leaves nothing behind that only the garbage collector finds."""
    caplog.set_level(logging.CRITICAL, "PyStream")  # a log record that is kept keeps the item

    class Item:
        pass

    def fail(item: Any) -> Any:
        if isinstance(item, Item):
            raise ValueError("no")
        return item

    pipeline = Pipeline(use_profiler=profiled)
    pipeline.add(fail)
    pipeline.serialize()
    item = Item()
    watched = weakref.ref(item)
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(StageError, match="ValueError: no"):
            pipeline.forward(item)
        del item
        assert pipeline.forward(1)
        assert pipeline.get_results() == 1
        assert watched() is None
    finally:
        gc.enable()
        pipeline.cleanup()
    assert pipeline.statistics().failed == 1


def test_a_stage_that_forwards_to_its_own_pipeline_is_told() -> None:
    """The turn is taken, by this very thread."""
    caught: list[BaseException] = []

    def stage(item: int) -> int:
        with pytest.raises(PipelineBusy) as info:
            pipeline.forward(item)
        caught.append(info.value)
        return item

    pipeline = serial(stage)
    assert pipeline.forward(1)
    assert len(caught) == 1
    pipeline.cleanup()


def test_forward_waits_for_its_turn() -> None:
    """Another thread is inside: the item goes the long way and gets through."""
    gate = Gate()
    pipeline = serial(gate)
    first = in_thread(lambda: pipeline.forward(1))
    assert gate.wait_entered()
    second = in_thread(lambda: pipeline.forward(2))
    gate.open()
    assert first.wait().value is second.wait().value is True
    assert pipeline.get_results() == 2
    pipeline.cleanup()


def test_a_stage_that_cleans_up_ends_its_pipeline_after_this_item() -> None:
    """Also on the short way: whoever leaves the stages finishes the cleanup."""
    pipeline = serial(lambda item: (pipeline.cleanup(), item)[1])
    pipeline.forward(1)
    with pytest.raises(PipelineTerminated):
        pipeline.forward(2)
    with pytest.raises(PipelineTerminated):
        pipeline.get_results()
    assert pipeline.statistics().in_flight == 0


def test_an_item_whose_last_stage_aborts_is_dropped() -> None:
    """Also on the short way, which is taken from the second item on."""
    pipeline = serial(lambda item: (pipeline.abort() if item else None, item)[1])
    pipeline.forward(0)
    assert pipeline.get_results() == 0
    pipeline.forward(1)
    pipeline.cleanup()
    assert (pipeline.statistics().completed, pipeline.statistics().dropped) == (1, {"abort": 1})
    assert broken_law(pipeline.statistics()) == []


def test_an_abort_between_two_stages_is_seen_by_the_next_one() -> None:
    """Its item ends as dropped, and no further stage gets it."""
    seen: list[int] = []
    pipeline = serial(lambda item: (pipeline.abort(), item)[1], seen.append)
    pipeline.forward(1)
    assert seen == []
    pipeline.cleanup()
    assert pipeline.statistics().dropped == {"abort": 1}
    assert broken_law(pipeline.statistics()) == []


@pytest.mark.parametrize("what", ["stream", "loop", "abort"])
def test_get_results_takes_the_long_way_when_there_is_something_to_say(what: str) -> None:
    """Although a result lies there."""
    numbers = iter(range(1))
    pipeline = Pipeline(lambda: next(numbers))
    pipeline.add(same)
    pipeline.serialize()
    pipeline.forward(1)
    if what == "stream":
        results = pipeline.stream([2, 3])
        assert next(results) == 2
        with pytest.raises(PipelineBusy):
            pipeline.get_results()
        with pytest.raises(PipelineBusy):
            pipeline.forward(4)
        results.close()
        assert pipeline.get_results() == 1
    elif what == "abort":
        pipeline.abort()
        with pytest.raises(PipelineTerminated):
            pipeline.get_results()
    else:
        pipeline.start_loop(0.001)
        assert wait_until(lambda: pipeline.statistics().admitted == 2)
        assert pipeline.get_results() == 0
    pipeline.cleanup()


def test_a_waiting_reader_is_woken_by_the_short_way() -> None:
    """It waits in get_results, which a serial pipeline does not; so at the output."""
    pipeline = serial(same)
    pipeline.start()
    session = pipeline._session
    assert session is not None
    for number in range(200):
        reader = in_thread(lambda: session.output.read(PATIENCE))
        pipeline.forward(number)
        assert reader.wait().value == (True, number)
    pipeline.cleanup()


# -- reading a stream --------------------------------------------------------------------------


def test_a_reader_that_was_interrupted_can_go_on() -> None:
    """G21: Ctrl-C ends the step, not the stream: what comes afterwards is not lost."""
    go, waiting = threading.Event(), threading.Event()

    def source() -> Iterator[int]:
        yield 1
        waiting.set()
        assert go.wait(PATIENCE)
        yield from (2, 3)

    class Interrupted(BaseException):
        pass

    pipeline = Pipeline()
    pipeline.add(same)
    with pipeline.parallelize():
        results = pipeline.stream(source())
        assert next(results) == 1
        reader = in_thread(lambda: next(results))
        assert waiting.wait(PATIENCE)
        raise_in(reader.thread, Interrupted, until=go.set)
        assert isinstance(reader.wait().error, Interrupted)
        assert list(results) == [2, 3]
    assert pipeline.statistics().completed == 3


def raise_in(
    thread: threading.Thread, error: type[BaseException], until: Callable[[], None]
) -> None:
    """Have an exception raised in another thread; it comes when that has something to do."""
    assert wait_until(lambda: thread.ident is not None)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident or 0), ctypes.py_object(error)
    )
    until()


# -- lots of items in threads ------------------------------------------------------------------


@pytest.mark.parametrize("rare", [7, 64, 1000])
def test_what_deviates_within_a_lot_is_counted(rare: int) -> None:
    """Items that are filtered, fail and are replaced among many that pass, in order."""

    def fate(item: int) -> Any:
        if item % rare == 1:
            return SKIP
        if item % rare == 3:
            raise ValueError(item)
        return item

    pipeline = Pipeline()
    pipeline.add(same)
    pipeline.add(fate, on_error="skip")
    pipeline.add(fate, on_error=lambda failure: failure.item)
    pipeline.add(same)
    with pipeline.parallelize():
        assert list(pipeline.stream(range(5000))) == [
            item for item in range(5000) if item % rare not in (1, 3)
        ]
        statistics = pipeline.statistics()
    assert broken_law(pipeline.statistics()) == []
    assert statistics.filtered + statistics.failed + statistics.completed == 5000


def test_a_failure_within_a_lot_stops_the_pipeline() -> None:
    """Under "stop": what was passed before comes out, the rest is dropped and counted."""

    def fail(item: int) -> int:
        if item == 3000:
            raise ValueError(item)
        return item

    pipeline = Pipeline()
    for stage in (same, fail, same):
        pipeline.add(stage)
    pipeline.parallelize()
    results = []
    with pytest.raises(StageError, match="item 3000"):
        for result in pipeline.stream(range(100_000)):
            results.append(result)
    pipeline.cleanup()
    assert results == list(range(len(results)))
    assert len(results) <= 3000
    assert broken_law(pipeline.statistics()) == []


def test_a_stuck_call_within_a_lot_is_one_abandoned_item(caplog: pytest.LogCaptureFixture) -> None:
    """What the lot had passed counts as passed, the one in hand as abandoned."""
    go, inside = threading.Event(), threading.Event()

    def stick(item: int) -> int:
        if item == 3000:
            inside.set()
            assert go.wait(PATIENCE)
        return item

    pipeline = Pipeline()
    for stage in (same, stick, same):
        pipeline.add(stage)
    pipeline.parallelize(stuck_timeout=0.05)
    reader = in_thread(lambda: list(pipeline.stream(range(4000))))
    assert inside.wait(PATIENCE)
    assert wait_until(lambda: pipeline.statistics().completed == 3000)
    pipeline.cleanup(timeout=0)
    statistics = pipeline.statistics()
    go.set()
    reader.wait()
    assert statistics.dropped["abandoned"] == 1
    assert statistics.stages[1].received == 3001
    assert statistics.stages[1].emitted == 3000
    assert broken_law(statistics) == []


def test_figures_are_whole_when_a_result_is_there() -> None:
    """Whoever reads the last result that is on its way finds every stage's count complete."""
    pipeline = Pipeline()
    for _ in range(3):
        pipeline.add(same)
    with pipeline.parallelize(block_output=True, output_timeout=PATIENCE):
        for number in range(1, 300):
            pipeline.forward(number)
            assert pipeline.get_results() == number
            emitted = [stage.emitted for stage in pipeline.statistics().stages]
            assert emitted == [number] * 3


def test_many_forwards_share_the_room_of_a_front() -> None:
    """G7: sixteen threads forward at once in front of a channel whose credits come in lots;
    nobody is forgotten, and what each one forwards stays in its order."""
    got: list[tuple[int, int]] = []
    pipeline = Pipeline()
    pipeline.add(lambda item: (got.append(item), item)[1])
    each = 500

    def forward(thread: int) -> None:
        for number in range(each):
            assert pipeline.forward((thread, number))

    with pipeline.parallelize(input_timeout=PATIENCE):
        outcomes = [in_thread(lambda thread=thread: forward(thread)) for thread in range(16)]
        for outcome in outcomes:
            assert outcome.wait().error is None
        pipeline.drain(PATIENCE)
    assert len(got) == 16 * each
    for thread in range(16):
        assert [number for one, number in got if one == thread] == list(range(each))


def test_a_withdrawn_wait_leaves_the_room_to_others() -> None:
    """A forward whose time is over has not taken a credit with it."""
    go = threading.Event()
    pipeline = Pipeline()
    pipeline.add(lambda item: go.wait(PATIENCE), capacity=1)
    pipeline.parallelize(input_timeout=0.01)
    while pipeline.forward(0):
        pass
    late = [in_thread(lambda: pipeline.forward(0)) for _ in range(8)]
    assert [outcome.wait().value for outcome in late] == [False] * 8
    go.set()
    pipeline.drain(PATIENCE)
    assert [pipeline.forward(0) for _ in range(2)] == [True, True]
    pipeline.cleanup()
    assert broken_law(pipeline.statistics()) == []


# -- closing what another thread reads ---------------------------------------------------------


def test_a_serial_stream_is_not_closed_while_another_thread_is_inside() -> None:
    """It ends there by itself; to close a generator that runs may crash the interpreter."""
    gate = Gate()
    pipeline = serial(gate)
    results = pipeline.stream([1, 2, 3])
    reader = in_thread(lambda: list(results))
    assert gate.wait_entered()
    with pytest.raises(PipelineBusy, match="read by another thread"):
        results.close()
    closer = in_thread(pipeline.cleanup)
    session = pipeline._session
    assert session is not None
    assert wait_until(lambda: session.executor._turn.closed)  # type: ignore[attr-defined]
    gate.open()
    assert closer.wait().error is None
    assert isinstance(reader.wait().error, PipelineTerminated)
    assert broken_law(pipeline.statistics()) == []


# -- what an executor does when a source is to stop ----------------------------------------------


def test_a_feeding_that_stops_takes_nothing_from_its_source() -> None:
    """Not even the next item."""
    with serial(same) as pipeline:
        pipeline.start()
        session = pipeline._session
        assert session is not None
        feeding = Feeding()
        feeding.stopping = True
        source = iter([1])
        session.executor.feed(source, feeding)
        assert next(source) == 1
        withdrawn = Envelope(1, wanted=feeding.wanted)
        assert not session.executor.admit(withdrawn, None)
    assert pipeline.statistics().admitted == 0


@pytest.mark.parametrize("observed", [False, True])
def test_a_replacement_in_a_short_way_goes_on(observed: bool) -> None:
    """To the stages behind and to the reader."""

    def broken(item: int) -> int:
        raise ValueError(item)

    pipeline = Pipeline(observers=[Observer()] if observed else [])
    pipeline.add(broken, on_error=lambda failure: -failure.item)
    pipeline.add(lambda item: item * 2)
    with pipeline.serialize():
        assert pipeline.forward(3)
        assert pipeline.get_results() == -6
        assert list(pipeline.stream([4, 5])) == [-8, -10]


@pytest.mark.parametrize("observed", [False, True])
def test_a_stop_between_two_results_is_told_to_the_reader(observed: bool) -> None:
    """Of a serial stream, at its next step."""
    pipeline = Pipeline(observers=[Observer()] if observed else [])
    pipeline.add(same)
    pipeline.serialize()
    results = pipeline.stream(range(5))
    assert next(results) == 0
    session = pipeline._session
    assert session is not None
    session.run.halt("test")
    with pytest.raises(PipelineTerminated, match="test"):
        next(results)
    pipeline.cleanup()
