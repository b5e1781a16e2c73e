"""Pipelines that were dropped without cleanup (G22)."""

from __future__ import annotations

import gc
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from pystream_core import Observer, Pipeline, Stage, Statistics
from pystream_core.testing import frantic_switching

MODES = ["serial", "threads"]
SAFETY = 10.0


class Probe(Stage[Any]):
    """Tells when it is cleaned up."""

    def __init__(self) -> None:
        self.setups = self.cleanups = 0
        self.called, self.cleaned = threading.Event(), threading.Event()

    def setup(self) -> None:
        self.setups += 1

    def __call__(self, item: Any) -> Any:
        self.called.set()
        return item

    def cleanup(self) -> None:
        self.cleanups += 1
        self.cleaned.set()


def build(mode: str, *stages: Any, generator: Any = None, **options: Any) -> Pipeline:
    pipeline = Pipeline(generator)
    for stage in stages:
        pipeline.add(stage)
    return pipeline.serialize() if mode == "serial" else pipeline.parallelize(**options)


def join_own_threads() -> None:
    """Also those that are started meanwhile."""
    while own := [one for one in threading.enumerate() if one.name.startswith("pystream")]:
        for thread in own:
            thread.join(SAFETY)
            assert not thread.is_alive()


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Nothing of the tests before is collected in the middle of one."""
    gc.collect()
    yield
    join_own_threads()


def test_a_dropped_pipeline_is_stopped() -> None:
    """G22: its threads end, its stages are cleaned up, and a ResourceWarning says so."""
    probes = [Probe(), Probe()]
    pipeline = build("threads", *probes)
    pipeline.forward(1)
    with pytest.warns(ResourceWarning, match="cleanup"):
        del pipeline
        gc.collect()
    join_own_threads()
    assert [one.cleanups for one in probes] == [1, 1]


def test_a_dropped_pipeline_with_a_running_loop_is_stopped() -> None:
    """G22: a running loop does not keep its pipeline alive."""
    probe = Probe()
    pipeline = build("threads", probe, generator=lambda: 1)
    pipeline.start_loop(0.001)
    assert probe.called.wait(SAFETY)
    with pytest.warns(ResourceWarning):
        del pipeline
        gc.collect()
    join_own_threads()
    assert probe.cleanups == 1


def test_a_pipeline_dropped_while_its_loop_starts_cleans_up_what_it_set_up() -> None:
    """G22: the loop's thread starts the pipeline, or comes too late for that."""
    seen = set()
    with frantic_switching():
        for number in range(60):
            probe = Probe()
            pipeline = build("threads", probe, generator=lambda: 1)
            pipeline.start_loop(0.001)
            probe.called.wait(number % 3 * 0.001)
            with pytest.warns(ResourceWarning):
                del pipeline
                gc.collect()
            join_own_threads()
            seen.add((probe.setups, probe.cleanups))
    assert seen <= {(0, 0), (1, 1)}


def test_a_dropped_pipeline_releases_its_blocked_callers() -> None:
    """G22: a stage that blocks a worker does not hold the collection."""
    let_go, entered = threading.Event(), threading.Event()

    def stuck(item: Any) -> Any:
        entered.set()
        assert let_go.wait(SAFETY)
        return item

    probe = Probe()
    pipeline = build("threads", stuck, probe)
    pipeline.forward(1)
    assert entered.wait(SAFETY)
    with pytest.warns(ResourceWarning):
        del pipeline
        gc.collect()
    assert probe.cleaned.wait(SAFETY)
    let_go.set()
    join_own_threads()
    assert probe.cleanups == 1


@pytest.mark.parametrize("mode", MODES)
def test_the_observers_of_a_dropped_pipeline_are_told_the_end(mode: str) -> None:
    """G22: with the final figures, and their collector ends."""
    ends: list[Statistics] = []

    class Seen(Observer):
        def closed(self, statistics: Statistics) -> None:
            ends.append(statistics)

    pipeline = Pipeline(observers=[Seen()])
    pipeline.add(Probe())
    pipeline = pipeline.serialize() if mode == "serial" else pipeline.parallelize()
    pipeline.forward(1)
    pipeline.drain()
    with pytest.warns(ResourceWarning):
        del pipeline
        gc.collect()
    join_own_threads()
    assert [one.completed for one in ends] == [1]


def test_a_dropped_serial_pipeline_is_named() -> None:
    """G22: a serial one has no thread to stop; the ResourceWarning names the omission."""
    pipeline = build("serial", Probe())
    pipeline.forward(1)
    reference = weakref.ref(pipeline)
    with pytest.warns(ResourceWarning):
        del pipeline
        gc.collect()
    assert reference() is None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("use", ["nothing", "mode", "cleanup", "with"])
def test_no_warning_when_there_is_nothing_to_clean_up(mode: str, use: str) -> None:
    """G22: a pipeline that was never started, or was cleaned up, is dropped in silence."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline = Pipeline()
        pipeline.add(Probe())
        if use != "nothing":
            pipeline = build(mode, Probe())
        if use == "cleanup":
            pipeline.forward(1)
            pipeline.cleanup()
        if use == "with":
            with pipeline:
                pipeline.forward(1)
        del pipeline
        gc.collect()


@pytest.mark.parametrize("mode", MODES)
def test_a_pipeline_that_its_stage_refers_to_is_not_collected(mode: str) -> None:
    """G22: the documented exception: a stage that knows its pipeline keeps it alive."""
    probe = Probe()
    probe.pipeline = build(mode, probe)  # type: ignore[attr-defined]
    probe.pipeline.forward(1)  # type: ignore[attr-defined]
    reference = weakref.ref(probe.pipeline)  # type: ignore[attr-defined]
    gc.collect()
    assert reference() is not None
    assert probe.cleanups == 0
    probe.pipeline.cleanup()  # type: ignore[attr-defined]
    assert probe.cleanups == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_stage_made_of_it_keeps_a_pipeline_alive(mode: str) -> None:
    """G22: as_stage() that is still held keeps the pipeline, also after its name is gone."""
    probe = Probe()
    stage = build(mode, probe).as_stage()
    gc.collect()
    assert stage(5) == 5
    gc.collect()
    assert stage(6) == 6
    with pytest.warns(ResourceWarning):
        del stage
        gc.collect()


@pytest.mark.parametrize("mode", MODES)
def test_a_parent_keeps_its_children_alive(mode: str) -> None:
    """G22: a nested pipeline lives as long as the one that it is part of."""
    probe = Probe()
    pipeline = build(mode, build("threads", probe).as_stage())
    gc.collect()
    assert list(pipeline.stream([1, 2])) == [1, 2]
    pipeline.cleanup()
    assert probe.cleanups == 1


def test_collection_in_a_worker_thread_never_blocks() -> None:
    """G22: pipelines in reference cycles are collected wherever the collector happens to run."""
    interval, threshold = sys.getswitchinterval(), gc.get_threshold()
    probes: list[Probe] = []

    def litter(item: Any) -> Any:
        cycle: list[Any] = [item]
        cycle.append(cycle)
        return item

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        sys.setswitchinterval(1e-6)
        gc.set_threshold(20, 2, 2)
        try:
            with build("threads", litter, litter) as busy:
                for number in range(60):
                    probe = Probe()
                    probes.append(probe)
                    dropped = build("threads", probe, litter, generator=lambda: 1)
                    dropped.cycle = dropped  # type: ignore[attr-defined]
                    dropped.forward(number)
                    if number % 3 == 0:
                        dropped.start_loop(0.001)
                    del dropped
                    busy.forward(number)
                gc.collect()
        finally:
            gc.set_threshold(*threshold)
            sys.setswitchinterval(interval)
        # gc.collect() does nothing while another thread is collecting: ask until it is done
        deadline = time.monotonic() + SAFETY
        for probe in probes:
            while not probe.cleaned.wait(0.01) and time.monotonic() < deadline:
                gc.collect()
            assert probe.cleaned.is_set()
        join_own_threads()
    assert {one.cleanups for one in probes} == {1}


def test_a_stream_is_collected_even_under_the_lock_of_the_front() -> None:
    """G22: a forgotten stream is closed wherever the collector happens to run."""
    pipeline = Pipeline()
    pipeline.add(lambda item: item, overflow="drop_oldest", capacity=1)
    pipeline.parallelize()
    stream = pipeline.stream(iter(range(10**9)))
    next(stream)
    reference = weakref.ref(stream)
    cycle: list[Any] = [stream]
    cycle.append(cycle)
    del stream, cycle
    locks = (pipeline._session.executor._front, pipeline._session.run.ledger._lock)  # type: ignore[union-attr,attr-defined]
    with locks[0], locks[1]:
        gc.collect()  # runs its destructor here
    assert reference() is None
    for thread in threading.enumerate():
        if thread.name == "pystream-forgotten":
            thread.join(SAFETY)
    assert pipeline.forward(1)
    pipeline.cleanup()
    join_own_threads()


def test_a_stream_that_no_thread_can_close_is_left_to_cleanup() -> None:
    """G22: where no more threads can be started, forgetting a stream raises nothing."""
    pipeline = build("threads", Probe())
    stream = pipeline.stream(iter(range(10**9)))
    next(stream)
    before = threading.stack_size(2**60)  # more than there is: no thread can start
    try:
        del stream
        gc.collect()
    finally:
        threading.stack_size(before)
    pipeline.cleanup()
    assert pipeline.statistics().in_flight == 0
