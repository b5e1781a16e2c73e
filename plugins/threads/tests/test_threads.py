"""What is particular to the threads executor; the rest is the conformance suite's."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from pystream_core import Pipeline, PlacedStage, Placement, PlanError, Stage, StageSpec
from pystream_core.testing import Gate, Tracker, in_thread, wait_until


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Opens at the end of the test in any case, so that no thread is left behind."""
    event = threading.Event()
    yield event
    event.set()


def test_threads_are_named_after_their_stage() -> None:
    """A stack dump or a debugger tells which stage a thread serves."""
    names: list[str] = []
    pipeline = Pipeline()
    pipeline.add(lambda item: names.append(threading.current_thread().name), "Detect")
    with pipeline.parallelize(name_prefix="camera-1"):
        pipeline.run([1])
    assert names == ["camera-1 MainPipeline__Detect"]


def test_unknown_options_are_refused_with_the_known_ones() -> None:
    """A typing mistake is answered when the mode is chosen."""
    pipeline = Pipeline()
    with pytest.raises(PlanError, match="name_prefix"):
        pipeline.parallelize(name_prefx="x")


def test_workers_of_one_stage_run_side_by_side() -> None:
    """Four workers meet at a barrier that no single one could pass."""
    barrier = threading.Barrier(4)

    def meet(item: int) -> int:
        barrier.wait(10)
        return item

    pipeline = Pipeline()
    pipeline.add(meet, workers=4)
    with pipeline.parallelize():
        assert list(pipeline.stream(range(8))) == list(range(8))


def test_drop_oldest_never_blocks_its_sender(gate: threading.Event) -> None:
    """Also when everything inside the bound is in hands or waits behind a slow worker."""
    started = threading.Event()

    def slow_first(item: int) -> int:
        if item == 0:
            started.set()
            gate.wait(15)
        return item

    pipeline = Pipeline()
    pipeline.add(slow_first, workers=2, capacity=1, overflow="drop_oldest")
    with pipeline.parallelize():
        pipeline.forward(0)
        assert started.wait(10)
        assert all(pipeline.forward(number) for number in range(1, 200))
        gate.set()
        pipeline.drain()
        statistics = pipeline.statistics()
    assert statistics.admitted == 200
    assert statistics.completed + statistics.dropped["overflow"] == 200
    assert statistics.completed >= 2


@pytest.mark.parametrize("before", [(), (lambda item: item,)], ids=["source", "stage"])
def test_what_waits_for_a_placed_stage_has_been_brought(
    gate: threading.Event, tracked_placement: Tracker, before: tuple[Any, ...]
) -> None:
    """By whoever handed it on, while the stage worked on another item."""
    pipeline = Pipeline()
    for stage in before:
        pipeline.add(stage)
    pipeline.add(lambda item: gate.wait(10) and item, capacity=3, placement="tracked")
    with pipeline.parallelize():
        results = in_thread(lambda: list(pipeline.stream(range(9))))
        # In hand, three that wait, and one that waits for room.
        assert wait_until(lambda: tracked_placement.brought == 5)
        assert tracked_placement.owned() == list(range(5))
        gate.set()
        assert results.wait().value == list(range(9))
    assert tracked_placement.owned() == tracked_placement.broken == []


class BreaksItsWord(PlacedStage):
    """What is brought to it raises."""

    def __call__(self, item: Any) -> Any:
        """The item."""
        return item

    def bring(self, value: Any) -> Any:
        """It must not do that."""
        raise ValueError(value)

    def cleanup(self) -> None:
        """Nothing to do."""


class BringsNothing(Placement):
    """Calls no stage at all."""

    def wrap(self, spec: StageSpec) -> StageSpec:
        """The specification."""
        return replace(spec, make=BreaksItsWord, shared=False)


@pytest.mark.parametrize("before", [(), (lambda item: item,)], ids=["source", "stage"])
def test_a_value_that_cannot_be_brought_waits_as_it_is(
    before: tuple[Any, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """A placed stage that breaks its word costs no item, and is named."""
    pipeline = Pipeline()
    for stage in before:
        pipeline.add(stage)
    pipeline.add(lambda item: item, name="Bad", placement=BringsNothing())
    with pipeline.parallelize():
        assert list(pipeline.stream(range(5))) == list(range(5))
    assert caplog.text.count("bring() of stage 'MainPipeline__Bad' raised ValueError") == 5


def test_what_may_be_dropped_is_not_brought(
    gate: threading.Event, tracked_placement: Tracker
) -> None:
    """It would be for nothing."""
    pipeline = Pipeline()
    pipeline.add(lambda item: gate.wait(10) and item, overflow="drop_newest", placement="tracked")
    with pipeline.parallelize():
        results = in_thread(lambda: list(pipeline.stream(range(9))))
        assert wait_until(lambda: pipeline.statistics().dropped.get("overflow", 0) > 3)
        gate.set()
        assert results.wait().value[0] == 0
    assert tracked_placement.brought == 0


def test_a_trivial_stage_before_a_slow_one_holds_a_handful(gate: threading.Event) -> None:
    """The bound follows the whole cycle, not the service time."""
    seen = threading.Semaphore(0)

    def slow(item: int) -> int:
        seen.release()
        gate.wait(0.002)
        return item

    pipeline = Pipeline()
    pipeline.add(lambda item: item)
    pipeline.add(slow)
    with pipeline.parallelize() as running:
        results = running.stream(iter(int, 1))
        for _ in range(50):
            next(results)
        in_flight = running.statistics().in_flight
        results.close()
    assert in_flight <= 20


def test_a_thread_hit_from_outside_stops_the_pipeline_loudly(
    gate: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception thrown into a waiting worker is a failure like any other, not silence."""
    import ctypes

    from pystream_core import StageError

    idents: list[int] = []
    pipeline = Pipeline()
    pipeline.add(lambda item: idents.append(threading.get_ident()), "A")
    pipeline.parallelize()
    pipeline.run([1])
    with caplog.at_level(logging.ERROR, logger="PyStream"):
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(idents[0]), ctypes.py_object(KeyError)
        )
        with pytest.raises(StageError, match="MainPipeline__A"):
            for _ in range(1000):
                pipeline.forward(2)
                pipeline.drain(1)
    pipeline.cleanup()
    assert "MainPipeline__A" in caplog.text


@pytest.mark.skipif(not hasattr(sys, "setswitchinterval"), reason="CPython only")
def test_nothing_is_lost_with_a_tiny_switch_interval(tiny_switch_interval: None) -> None:
    """Order and ledger hold when threads are switched all the time."""

    def twice(item: int) -> Iterator[int]:
        yield item
        yield item

    pipeline = Pipeline()
    pipeline.add(lambda item: item)
    pipeline.add(twice, workers=3)
    pipeline.add(lambda item: item, workers=2)
    with pipeline.parallelize():
        got = list(pipeline.stream(range(300)))
        statistics = pipeline.statistics()
    assert got == [number for number in range(300) for _ in range(2)]
    assert statistics.completed == 600
    assert statistics.in_flight == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_while_a_worker_is_being_started_is_what_is_raised(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """G21: every worker whose thread runs is known and stopped."""
    begin = threading.Thread.start
    cleanups = []

    class Lives(Stage[Any]):
        def __call__(self, item: Any) -> Any:
            return item

        def cleanup(self) -> None:
            cleanups.append(self)
            if self.name == "First":  # comes back last
                wait_until(lambda: not any("Second" in one.name for one in threading.enumerate()))

    def start(thread: threading.Thread) -> None:
        second = thread.name.endswith("Second")
        if error is KeyboardInterrupt or not second:
            begin(thread)
        if second:
            raise error("now")

    pipeline = Pipeline()
    pipeline.add(Lives, name="First")
    pipeline.add(Lives, name="Second")
    pipeline.parallelize()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(error, match="now"):
            pipeline.start()
    assert wait_until(lambda: not any("MainPipeline" in one.name for one in threading.enumerate()))
    assert len(cleanups) == (2 if error is KeyboardInterrupt else 1)
    assert "left behind" not in caplog.text
    pipeline.cleanup()


def test_what_was_brought_for_a_reader_that_has_left_is_given_back(
    tracked_placement: Tracker,
) -> None:
    """Also when it waits in an envelope that another item has had before."""
    gate = Gate()
    pipeline = Pipeline()
    pipeline.add(gate, placement="tracked", capacity=1)
    pipeline.parallelize()
    try:
        gate.let(20)
        assert list(pipeline.stream(range(20))) == list(range(20))
        session = pipeline._session
        assert session is not None
        executor: Any = session.executor
        assert session.run.spares
        results = pipeline.stream(range(100))
        assert wait_until(lambda: executor._waiting == 1)
        before = tracked_placement.brought, pipeline.statistics().admitted
        assert session._results is not None
        feeding = session._results.feeder._feeding
        leaving = in_thread(results.close)
        assert wait_until(lambda: feeding.stopping)
        gate.open()
        leaving.wait()
    finally:
        gate.open()
        pipeline.cleanup()
    assert before == (23, 22)
    assert wait_until(lambda: tracked_placement.owned() == [])
    assert pipeline.statistics().admitted == 22
