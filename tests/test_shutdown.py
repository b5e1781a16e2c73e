"""Shutdown: cleanup always ends, once, for everybody (G14 to G19, and G21 inside one process)."""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from time import monotonic, perf_counter
from typing import Any

import pytest

from pystream_core import (
    CleanupError,
    DrainTimeout,
    Pipeline,
    PipelineBusy,
    PipelineTerminated,
    PlanError,
    PyStreamError,
    Stage,
    StageError,
    _session as session_module,
    factory,
)
from pystream_core._executor import Envelope
from pystream_core._lifecycle import Instance

MODES = ["serial", "threads"]
SAFETY = 15.0  # no wait of a test is longer


class Probe(Stage[Any]):
    """Counts its life and notices a call or cleanup that comes when it must not."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.setups = self.calls = self.cleanups = 0
        self.wrong: list[str] = []
        self.cleanup_thread = ""
        self._inside = 0
        self._set_up = False

    def setup(self) -> None:
        if self._inside or self._set_up:
            self.wrong.append("set up while it was in use")
        self.setups += 1
        self._set_up = True

    def __call__(self, item: Any) -> Any:
        if not self._set_up:
            self.wrong.append("called before its setup or after its cleanup")
        if self._inside:
            self.wrong.append("called during a call")
        self._inside += 1
        try:
            return self.work(item)
        finally:
            self.calls += 1
            self._inside -= 1

    def work(self, item: Any) -> Any:
        if self.seconds:
            threading.Event().wait(self.seconds)
        return item

    def cleanup(self) -> None:
        if self._inside:
            self.wrong.append("cleaned up during a call")
        self.cleanup_thread = threading.current_thread().name
        self.cleanups += 1
        self._set_up = False


class Stuck(Probe):
    """Blocks in its call, its setup or its cleanup until the test lets it go."""

    def __init__(self, let_go: threading.Event, where: str = "call") -> None:
        super().__init__()
        self.let_go = let_go
        self.where = where
        self.entered = threading.Event()
        self.cleaned = threading.Event()

    def _block(self, where: str) -> None:
        if where == self.where:
            self.entered.set()
            assert self.let_go.wait(SAFETY)

    def setup(self) -> None:
        super().setup()
        self._block("setup")

    def work(self, item: Any) -> Any:
        self._block("call")
        return item

    def cleanup(self) -> None:
        super().cleanup()
        self._block("cleanup")
        self.cleaned.set()


class Failing(Probe):
    """Raises in its call, its setup or its cleanup."""

    def __init__(self, where: str, error: BaseException) -> None:
        super().__init__()
        self.where = where
        self.error: BaseException | None = error

    def _fail(self, where: str) -> None:
        if where == self.where and self.error is not None:
            raise self.error

    def setup(self) -> None:
        super().setup()
        self._fail("setup")

    def work(self, item: Any) -> Any:
        self._fail("call")
        return item

    def cleanup(self) -> None:
        super().cleanup()
        self._fail("cleanup")


@pytest.fixture
def let_go() -> Iterator[threading.Event]:
    """What stuck stages wait for; set in the end, so that no thread is left."""
    event = threading.Event()
    yield event
    event.set()
    join_own_threads()


def own_threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name.startswith("pystream")]


def join_own_threads() -> None:
    for thread in own_threads():
        thread.join(SAFETY)
    assert own_threads() == []


def build(
    mode: str, *stages: Any, generator: Callable[[], Any] | None = None, **options: Any
) -> Pipeline:
    pipeline = Pipeline(generator)
    for stage in stages:
        pipeline.add(stage)
    return choose(pipeline, mode, **options)


def choose(pipeline: Pipeline, mode: str, **options: Any) -> Pipeline:
    if mode == "serial":
        return pipeline.serialize()
    return pipeline.parallelize(**options)


def best_of_three(bound: float, attempt: Callable[[], float]) -> None:
    took = []
    for _ in range(3):
        took.append(attempt())
        if took[-1] <= bound:
            return
    pytest.fail(f"took {took} s, more than {bound} s")


def timed(action: Callable[[], object]) -> float:
    start = perf_counter()
    action()
    return perf_counter() - start


def in_thread(action: Callable[[], object]) -> tuple[threading.Thread, list[Any]]:
    """Run something in a thread; what it returned or raised is the last of the list."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(action())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, name="test-caller")
    thread.start()
    return thread, outcome


def wait_for(condition: Callable[[], bool], seconds: float = SAFETY) -> None:
    """Until something without an event of its own holds: at most that long."""
    deadline = perf_counter() + seconds
    tick = threading.Event()
    while not condition():
        assert perf_counter() < deadline, "waited in vain"
        tick.wait(0.002)


# -- G14: cleanup always ends ------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stages", [0, 1, 5])
def test_idle_cleanup_ends_within_50_ms(mode: str, stages: int) -> None:
    """G14: cleanup of an idle pipeline takes at most 50 ms."""

    def attempt() -> float:
        pipeline = build(mode, *(Probe() for _ in range(stages)))
        for number in range(3):
            pipeline.forward(number)
        pipeline.drain()
        return timed(pipeline.cleanup)

    best_of_three(0.05, attempt)


def test_idle_cleanup_with_workers_and_loop_ends_within_50_ms() -> None:
    """G14: it makes no difference that a stage has four workers and a slow loop runs."""

    def attempt() -> float:
        pipeline = Pipeline(lambda: 1)
        pipeline.add(Probe, workers=4)
        pipeline.parallelize().start_loop(60.0)
        wait_for(lambda: pipeline.statistics().completed == 1)
        return timed(pipeline.cleanup)

    best_of_three(0.05, attempt)


def test_busy_cleanup_ends_within_the_time_of_its_items() -> None:
    """G14: cleanup finishes what was admitted, within its time and 100 ms."""

    def attempt() -> float:
        probe = Probe(0.02)
        pipeline = Pipeline()
        pipeline.add(probe, capacity=10)
        pipeline.parallelize()
        for number in range(10):
            assert pipeline.forward(number)
        took = timed(pipeline.cleanup)
        assert probe.calls == 10
        assert pipeline.statistics().completed == 10
        return took

    best_of_three(10 * 0.02 + 0.1, attempt)


@pytest.mark.parametrize("how", ["abort", "timeout=0"])
def test_abort_ends_within_the_running_calls(how: str) -> None:
    """G14: abort and cleanup(timeout=0) wait for the running call only, and count the rest."""

    def attempt() -> float:
        probe = Probe(0.05)
        pipeline = Pipeline()
        pipeline.add(probe, capacity=50)
        pipeline.parallelize()
        for number in range(50):
            assert pipeline.forward(number)

        def stop() -> None:
            if how == "abort":
                pipeline.abort()
                pipeline.cleanup()
            else:
                pipeline.cleanup(timeout=0)

        took = timed(stop)
        statistics = pipeline.statistics()
        assert statistics.dropped_total + statistics.completed == 50
        assert statistics.dropped_total > 0
        assert probe.cleanups == 1
        return took

    best_of_three(0.05 + 0.1, attempt)


def test_abort_itself_returns_at_once() -> None:
    """G14: abort() does not wait for a running call."""

    def attempt() -> float:
        let_go = threading.Event()
        stuck = Stuck(let_go)
        pipeline = build("threads", stuck)
        pipeline.forward(1)
        assert stuck.entered.wait(SAFETY)
        took = timed(pipeline.abort)
        let_go.set()
        pipeline.cleanup()
        assert stuck.cleanups == 1
        return took

    best_of_three(0.1, attempt)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("mode", MODES)
def test_stuck_stage_is_named_and_left_behind(
    mode: str, let_go: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """G14: a stage that never returns is named, its item abandoned, the others cleaned up."""
    before, stuck, behind = Probe(), Stuck(let_go), Probe()
    pipeline = Pipeline()
    for stage, name in ((before, "before"), (stuck, "culprit"), (behind, "behind")):
        pipeline.add(stage, name)
    choose(pipeline, mode, drain_timeout=0.5, stuck_timeout=0.1)
    if mode == "serial":
        pipeline._session.settings = session_module.Settings(  # type: ignore[union-attr]
            input_timeout=None, drain_timeout=0.5, stuck_timeout=0.1
        )
    caller, _ = in_thread(lambda: pipeline.forward("x"))
    assert stuck.entered.wait(SAFETY)
    took = timed(pipeline.cleanup)
    assert took < 0.5 + 0.2 + 2.0  # not drain_timeout's or stuck_timeout's defaults
    named = [one for one in caplog.records if "culprit" in one.getMessage()]
    assert [one.levelno for one in named] == [logging.WARNING]
    assert pipeline.statistics().dropped == {"abandoned": 1}
    assert (before.cleanups, stuck.cleanups, behind.cleanups) == (1, 0, 1)
    with pytest.raises(PipelineTerminated):
        pipeline.get_results()
    let_go.set()
    assert stuck.cleaned.wait(SAFETY)
    caller.join(SAFETY)
    join_own_threads()
    assert stuck.cleanups == 1
    assert behind.calls == 0
    assert pipeline.statistics().dropped == {"abandoned": 1}
    assert pipeline.statistics().completed == 0
    assert before.wrong + stuck.wrong + behind.wrong == []


def test_stuck_stage_does_not_hold_cleanup_longer_than_promised(let_go: threading.Event) -> None:
    """G14: the bound is stuck_timeout and the 2 s of stage cleanups, with all items counted."""
    stuck = Stuck(let_go)
    pipeline = Pipeline()
    pipeline.add(stuck, capacity=5)
    pipeline.parallelize(drain_timeout=0.3, stuck_timeout=0.1)
    for number in range(5):
        assert pipeline.forward(number)
    assert stuck.entered.wait(SAFETY)
    assert timed(pipeline.cleanup) < 0.3 + 2.0 + 0.3
    statistics = pipeline.statistics()
    assert statistics.dropped["abandoned"] == 1
    assert statistics.dropped_total == 5


@pytest.mark.usefixtures("hurried")
def test_drain_timeout_ends_a_drain_whose_items_still_move() -> None:
    """G14: when drain_timeout is over the rest is dropped, although items still move."""

    def attempt() -> float:
        pipeline = Pipeline()
        pipeline.add(Probe(0.02), capacity=100)
        pipeline.parallelize(drain_timeout=0.2)
        for number in range(100):
            assert pipeline.forward(number)
        took = timed(pipeline.cleanup)
        statistics = pipeline.statistics()
        assert statistics.completed >= 1
        assert statistics.dropped["abort"] >= 50
        assert statistics.completed + statistics.dropped_total == 100
        return took

    best_of_three(0.2 + 0.02 + 0.1, attempt)


@pytest.mark.usefixtures("hurried")
def test_stuck_cleanup_is_named_and_the_others_run(
    let_go: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """G14, G15: cleanups run side by side; one that is stuck is named and left behind."""
    probes = [Probe(), Stuck(let_go, "cleanup"), Probe()]
    pipeline = build("threads", *probes, drain_timeout=0.3)
    pipeline.forward(1)
    assert timed(pipeline.cleanup) < 0.3 + 0.2 + 0.3
    assert [one.cleanups for one in probes] == [1, 1, 1]
    assert any(
        "Stage_2" in one.getMessage() and one.levelno == logging.WARNING for one in caplog.records
    )
    assert pipeline.statistics().completed == 1
    assert pipeline.statistics().dropped_total == 0


@pytest.mark.usefixtures("hurried")
def test_stuck_serial_cleanup_is_named(
    let_go: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """G14: a serial cleanup that does not return is named while it blocks the caller."""
    stuck = Stuck(let_go, "cleanup")
    pipeline = build("serial", stuck)
    pipeline._session.settings = session_module.Settings(  # type: ignore[union-attr]
        drain_timeout=0.2, stuck_timeout=0.1
    )
    pipeline.forward(1)
    caller, outcome = in_thread(pipeline.cleanup)
    wait_for(lambda: any("Stage_1" in one.getMessage() for one in caplog.records))
    assert caller.is_alive()
    let_go.set()
    caller.join(SAFETY)
    assert outcome == [None]
    assert stuck.cleanups == 1


@pytest.mark.usefixtures("hurried")
def test_one_stuck_worker_does_not_hold_the_other_ones_of_a_generator_stage(
    let_go: threading.Event,
) -> None:
    """G14: a worker that waits for its turn behind a stuck one is released by the stop."""
    entered = threading.Event()
    made: list[Probe] = []

    class Spread(Probe):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

        def __call__(self, item: int) -> Any:
            if item == 0:
                entered.set()
                assert let_go.wait(SAFETY)
            yield from range(3)

    pipeline = Pipeline()
    pipeline.add(Spread, workers=2, capacity=4)
    pipeline.parallelize(drain_timeout=0.3, stuck_timeout=0.1)
    pipeline.forward(0)
    assert entered.wait(SAFETY)
    pipeline.forward(1)
    pipeline.cleanup()
    assert sorted(one.cleanups for one in made) == [0, 1]
    let_go.set()
    join_own_threads()
    assert [one.cleanups for one in made] == [1, 1]


# -- G15 and G16: exactly once, never during a call --------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_cleanup_runs_once_however_often_it_is_called(mode: str) -> None:
    """G15: called twice, each stage's cleanup runs once."""
    probes = [Probe(), Probe()]
    pipeline = build(mode, *probes)
    pipeline.forward(1)
    pipeline.cleanup()
    pipeline.cleanup()
    assert [one.cleanups for one in probes] == [1, 1]


@pytest.mark.parametrize("mode", MODES)
def test_cleanup_from_many_threads_runs_once(mode: str) -> None:
    """G15, G16: called from 16 threads while 8 others forward, it runs once, after the calls."""
    for _ in range(5):
        probes = [Probe(0.001), Probe()]
        pipeline = build(mode, *probes)
        pipeline.start()
        gate = threading.Barrier(24)

        def use(gate: threading.Barrier = gate, pipeline: Pipeline = pipeline) -> None:
            gate.wait(SAFETY)
            while True:
                pipeline.forward(0)

        def end(gate: threading.Barrier = gate, pipeline: Pipeline = pipeline) -> int:
            gate.wait(SAFETY)
            pipeline.cleanup()
            return sum(one.cleanups for one in probes)  # noqa: B023  (ends in this round)

        users = [in_thread(use) for _ in range(8)]
        closers = [in_thread(end) for _ in range(16)]
        for thread, _ in users + closers:
            thread.join(SAFETY)
        assert [outcome for _, outcome in closers] == [[2]] * 16
        assert {type(outcome[0]) for _, outcome in users} == {PipelineTerminated}
        assert [one.cleanups for one in probes] == [1, 1]
        assert [one.wrong for one in probes] == [[], []]
        statistics = pipeline.statistics()
        assert statistics.admitted == statistics.completed
        assert statistics.in_flight == 0


@pytest.mark.parametrize("mode", MODES)
def test_cleanup_runs_once_after_a_failure(mode: str) -> None:
    """G15: a failed pipeline's stages are cleaned up once, and cleanup does not raise again."""
    probes = [Probe(), Failing("call", ValueError("no")), Probe()]
    pipeline = build(mode, *probes)
    if mode == "serial":
        with pytest.raises(StageError):
            pipeline.forward(1)
    else:
        pipeline.forward(1)
        wait_for(lambda: pipeline.statistics().failed == 1)
    pipeline.cleanup()
    pipeline.cleanup()
    assert [one.cleanups for one in probes] == [1, 1, 1]


@pytest.mark.parametrize("mode", MODES)
def test_several_cleanup_errors_come_as_one(mode: str) -> None:
    """G15: every cleanup runs beside raising ones, and all errors are in one CleanupError."""
    first, second = ValueError("first"), SystemExit(3)
    probes = [Probe(), Failing("cleanup", first), Failing("cleanup", second), Probe()]
    pipeline = build(mode, *probes)
    pipeline.forward(1)
    with pytest.raises(CleanupError) as caught:
        pipeline.cleanup()
    assert caught.value.errors == (first, second)
    assert caught.value.__cause__ is first
    assert str(caught.value) == (
        "2 stage cleanups raised ('MainPipeline__Stage_2', 'MainPipeline__Stage_3'), the first: "
        "ValueError: first; every other stage was cleaned up"
    )
    assert [one.cleanups for one in probes] == [1, 1, 1, 1]
    pipeline.cleanup()
    assert [one.cleanups for one in probes] == [1, 1, 1, 1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("started", [True, False])
def test_a_cleanup_error_names_its_stage(mode: str, started: bool) -> None:
    """G15: which cleanup raised and what, also at a second start after one that was whole."""
    bad = Failing("", OSError("disk"))
    pipeline = build(mode, Probe(), bad)
    if started:
        pipeline.forward(1)
        pipeline.cleanup()
        build_again = {"serial": pipeline.serialize, "threads": pipeline.parallelize}[mode]
        build_again().start()
    bad.where = "cleanup"
    with pytest.raises(CleanupError) as caught:
        pipeline.cleanup()
    assert str(caught.value) == (
        "1 stage cleanup raised ('MainPipeline__Stage_2'), OSError: disk; every other stage was "
        "cleaned up"
    )


@pytest.mark.parametrize(("count", "late"), [(1, "1 item was"), (2, "2 items were")])
def test_what_is_late_and_what_is_lost_is_counted_in_plain_words(
    count: int, late: str, let_go: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """One item is not "1 items", in the error of ``drain`` and in the warning of a stop."""
    pipeline = Pipeline()
    pipeline.add(lambda item: let_go.wait(SAFETY), capacity=count)
    pipeline.parallelize()
    assert all(pipeline.forward(number) for number in range(count))
    with pytest.raises(DrainTimeout, match=f"^{late} still in flight after 0 s: "):
        pipeline.drain(0)
    pipeline.abort()
    let_go.set()
    pipeline.cleanup()
    expected = f"{late.replace(' ', ' admitted ', 1)} not finished: {count} abort"
    assert expected in [one.getMessage() for one in caplog.records]


@pytest.mark.usefixtures("hurried")
def test_raising_and_stuck_cleanups_are_told_together(
    let_go: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """G15: beside a stuck and a raising cleanup the third one runs, and both are told."""
    probes = [Stuck(let_go, "cleanup"), Failing("cleanup", OSError("disk")), Probe()]
    pipeline = build("threads", *probes, drain_timeout=0.2)
    pipeline.forward(1)
    with pytest.raises(CleanupError) as caught:
        pipeline.cleanup()
    assert [type(error) for error in caught.value.errors] == [OSError]
    assert any("left behind" in one.getMessage() for one in caplog.records)
    assert [one.cleanups for one in probes] == [1, 1, 1]


def test_an_impatient_cleanup_ends_the_draining_of_another(let_go: threading.Event) -> None:
    """G14: the second caller's time is over, so what the first one would drain is dropped."""
    stuck = Stuck(let_go)
    pipeline = Pipeline()
    pipeline.add(stuck, capacity=3)
    pipeline.parallelize(drain_timeout=SAFETY, stuck_timeout=SAFETY)
    for number in range(3):
        pipeline.forward(number)
    assert stuck.entered.wait(SAFETY)
    session = pipeline._session
    assert session is not None
    patient = in_thread(pipeline.cleanup)
    wait_for(session._close_lock.locked)
    impatient = in_thread(lambda: pipeline.cleanup(timeout=0))
    wait_for(lambda: session.run.halted)
    let_go.set()
    for caller, outcome in (patient, impatient):
        caller.join(SAFETY)
        assert outcome == [None]
    assert session.closed.is_set()
    assert stuck.calls == 1
    assert pipeline.statistics().dropped_total >= 2


@pytest.mark.usefixtures("hurried")
def test_a_second_cleanup_does_not_wait_for_a_stuck_one_for_ever(let_go: threading.Event) -> None:
    """G14: while the first caller is held up by a serial stage's cleanup, the second returns."""
    stuck = Stuck(let_go, "cleanup")
    pipeline = build("serial", stuck)
    pipeline.forward(1)
    first, outcome = in_thread(pipeline.cleanup)
    assert stuck.entered.wait(SAFETY)
    assert timed(lambda: pipeline.cleanup(timeout=0)) < 0.2 + 1.0 + 0.5
    assert outcome == []
    let_go.set()
    first.join(SAFETY)
    assert outcome == [None]
    assert stuck.cleanups == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_cleanup_that_raises_without_any_start_is_told(mode: str) -> None:
    """G15: the others are cleaned up all the same."""
    probes = [Probe(), Failing("cleanup", OSError("disk")), Probe()]
    pipeline = build(mode, *probes)
    with pytest.raises(CleanupError) as caught:
        pipeline.cleanup()
    assert [type(error) for error in caught.value.errors] == [OSError]
    assert [one.cleanups for one in probes] == [1, 1, 1]


def test_a_cleanup_that_raises_in_a_handed_on_instance_is_told() -> None:
    """G15: instances that a mode with fewer workers does not need are cleaned up at its end."""
    made: list[Failing] = []

    def make() -> Failing:
        made.append(Failing("cleanup", OSError("disk")))
        return made[-1]

    pipeline = Pipeline()
    pipeline.add(factory(make), workers=3)
    pipeline.parallelize().start()
    pipeline.serialize().start()
    with pytest.raises(CleanupError) as caught:
        pipeline.cleanup()
    assert [one.cleanups for one in made] == [1, 1, 1]
    assert len(caught.value.errors) == 3


def test_a_cleanup_that_raises_after_a_stage_asked_for_it_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """G15, G16: nobody waits for it, so there is nobody to raise it to."""
    pipelines: list[Pipeline] = []

    class Ends(Failing):
        def work(self, item: Any) -> Any:
            pipelines[0].cleanup()
            return item

    ends = Ends("cleanup", OSError("disk"))
    pipelines.append(build("threads", ends))
    pipelines[0].forward(1)
    assert pipelines[0]._session is not None
    assert pipelines[0]._session.closed.wait(SAFETY)
    join_own_threads()
    assert ends.cleanups == 1
    assert any("cleanup of stage" in one.getMessage() for one in caplog.records)


@pytest.mark.usefixtures("hurried")
def test_a_stage_whose_stuck_cleanup_has_returned_can_be_started_again(
    let_go: threading.Event,
) -> None:
    """G15: until then it is busy; afterwards it is set up anew."""
    stuck = Stuck(let_go, "cleanup")
    pipeline = build("threads", stuck, drain_timeout=0.2)
    pipeline.forward(1)
    pipeline.cleanup()
    pipeline.parallelize()
    with pytest.raises(PipelineBusy):
        pipeline.start()
    let_go.set()
    assert stuck.cleaned.wait(SAFETY)
    join_own_threads()
    pipeline.forward(2)
    pipeline.cleanup()
    assert (stuck.setups, stuck.calls, stuck.cleanups) == (2, 2, 2)
    assert stuck.wrong == []


def test_an_instance_whose_cleanup_has_just_ended_is_set_up_anew() -> None:
    """G15: a start may find it between the end of a stuck cleanup and the next look at it."""
    probe = Probe()
    pipeline = build("serial", probe)
    assert pipeline._session is not None
    (spec,) = pipeline._session.plan.stages
    instance = Instance()
    for _ in range(2):
        instance.prepare(spec)
        assert instance.cleanup() is None
    assert (probe.setups, probe.cleanups) == (2, 2)


@pytest.mark.parametrize("inner", MODES)
@pytest.mark.parametrize("outer", MODES)
def test_parent_and_child_clean_up_once(outer: str, inner: str) -> None:
    """G15: a child's stages are cleaned up by the parent, once, whoever is asked first."""
    shared = Probe()
    child = build(inner, shared)
    pipeline = build(outer, Probe(), child.as_stage())
    pipeline.forward(1)
    child.cleanup()
    assert shared.cleanups == 0
    pipeline.cleanup()
    child.cleanup()
    pipeline.cleanup()
    assert shared.cleanups == 1
    assert shared.wrong == []


@pytest.mark.parametrize("mode", MODES)
def test_cleanup_of_a_pipeline_that_was_never_started(mode: str) -> None:
    """G15: stages of a pipeline that was never started are cleaned up, in the caller's thread."""
    probe = Probe()
    pipeline = build(mode, probe)
    pipeline.cleanup()
    pipeline.cleanup()
    assert (probe.setups, probe.cleanups) == (0, 1)
    assert probe.cleanup_thread == threading.current_thread().name
    with pytest.raises(PipelineTerminated):
        pipeline.forward(1)


def test_cleanup_before_any_mode_does_nothing() -> None:
    """Cleanup of a pipeline that has not been initialized does nothing."""
    probe = Probe()
    pipeline = Pipeline()
    pipeline.add(probe)
    pipeline.cleanup()
    assert probe.cleanups == 0


@pytest.mark.parametrize("mode", MODES)
def test_after_cleanup_it_starts_afresh(mode: str) -> None:
    """G15: after cleanup and a new mode the same object is set up and cleaned up again."""
    probe = Probe()
    pipeline = build(mode, probe)
    pipeline.forward(1)
    pipeline.cleanup()
    choose(pipeline, mode)
    probe.cleanups = 0
    pipeline.forward(2)
    pipeline.cleanup()
    assert (probe.setups, probe.calls, probe.cleanups) == (2, 2, 1)


def test_a_change_of_mode_hands_stages_on() -> None:
    """G15: stages are set up once and cleaned up once across changes of mode."""
    probe = Probe()
    pipeline = build("serial", probe)
    for mode in ("threads", "serial", "threads", "threads"):
        pipeline.forward(1)
        choose(pipeline, mode)
    pipeline.forward(1)
    pipeline.cleanup()
    assert (probe.setups, probe.calls, probe.cleanups) == (1, 5, 1)


# -- G17: everybody who waits is released ------------------------------------------------------


def released(
    pipeline: Pipeline, calls: list[Callable[[], object]], stop: Any, let_go: threading.Event
) -> float:
    """Seconds from the stop until every caller has its exception."""
    callers = [in_thread(call) for call in calls]
    wait_for(lambda: sum(one.is_alive() for one, _ in callers) == len(calls))
    threading.Event().wait(0.05)  # let them reach their wait; too early is no failure
    start = perf_counter()
    stopper, _ = in_thread(stop)
    for thread, _ in callers:
        thread.join(SAFETY)
    took = perf_counter() - start
    for _, outcome in callers:
        assert isinstance(outcome[0], PipelineTerminated), outcome
    let_go.set()
    stopper.join(SAFETY)
    return took


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("how", ["cleanup", "abort"])
def test_64_blocked_forwards_are_released(mode: str, how: str) -> None:
    """G17: cleanup releases 64 blocked forwards within 100 ms, with an exception."""

    def attempt() -> float:
        let_go = threading.Event()
        stuck = Stuck(let_go)
        pipeline = Pipeline()
        pipeline.add(stuck, capacity=1)
        choose(pipeline, mode, input_timeout=SAFETY, drain_timeout=1.0)
        first, _ = in_thread(lambda: pipeline.forward(0))
        assert stuck.entered.wait(SAFETY)
        if mode == "threads":
            assert pipeline.forward(1)
        try:
            calls: list[Callable[[], object]] = [lambda: pipeline.forward(2)] * 64
            return released(pipeline, calls, getattr(pipeline, how), let_go)
        finally:
            let_go.set()
            first.join(SAFETY)
            pipeline.cleanup()
            join_own_threads()

    best_of_three(0.1, attempt)


@pytest.mark.parametrize("how", ["cleanup", "abort"])
@pytest.mark.parametrize("started", [True, False])
def test_64_blocked_readers_are_released(how: str, started: bool) -> None:
    """G17: cleanup releases 64 blocked get_results within 100 ms, also before the start."""

    def attempt() -> float:
        pipeline = build("threads", Probe(), block_output=True, output_timeout=SAFETY)
        if started:
            pipeline.start()
        calls = [pipeline.get_results] * 64
        took = released(pipeline, calls, getattr(pipeline, how), threading.Event())
        pipeline.cleanup()
        return took

    best_of_three(0.1, attempt)


def test_results_drained_by_cleanup_are_superseded() -> None:
    """G17: what cleanup drains is completed, and superseded since nobody can read it."""
    pipeline = Pipeline()
    pipeline.add(Probe(0.01), capacity=10)
    pipeline.parallelize()
    for number in range(5):
        pipeline.forward(number)
    pipeline.cleanup()
    statistics = pipeline.statistics()
    assert (statistics.completed, statistics.superseded) == (5, 5)


def test_blocked_callers_of_the_stage_are_released(let_go: threading.Event) -> None:
    """G17: calls of as_stage() that wait for their result are released by a stop."""
    stuck = Stuck(let_go)
    pipeline = build("threads", stuck)
    stage = pipeline.as_stage()
    callers = [in_thread(lambda: stage(1)) for _ in range(8)]
    assert stuck.entered.wait(SAFETY)
    pipeline.abort()
    let_go.set()
    pipeline.cleanup()
    for thread, _ in callers:
        thread.join(SAFETY)
        assert not thread.is_alive()


@pytest.mark.parametrize("mode", MODES)
def test_cleanup_from_another_thread_ends_an_open_stream(mode: str) -> None:
    """G14, G17: a reader of a stream is told that the pipeline was stopped, within its item."""

    def attempt() -> float:
        def endless() -> Iterator[int]:
            number = 0
            while True:
                yield number
                number += 1

        pipeline = build(mode, Probe(0.005))
        some = threading.Event()

        def read() -> None:
            for number in pipeline.stream(endless()):
                if number == 5:
                    some.set()

        reader, outcome = in_thread(read)
        assert some.wait(SAFETY)
        took = timed(pipeline.cleanup)
        reader.join(SAFETY)
        assert isinstance(outcome[0], PipelineTerminated), outcome
        return took

    best_of_three(0.005 * 20 + 0.1, attempt)


@pytest.mark.parametrize("mode", MODES)
def test_a_paused_reader_is_told_that_its_stream_was_cut(mode: str) -> None:
    """A stream that cleanup cuts while its reader is elsewhere does not look like its end."""
    pipeline = build(mode, Probe())
    results = pipeline.stream(iter(range(1000)))
    assert next(results) == 0
    closer, outcome = in_thread(pipeline.cleanup)
    closer.join(SAFETY)
    assert outcome == [None]
    with pytest.raises(PipelineTerminated):
        list(results)
    statistics = pipeline.statistics()
    assert statistics.in_flight == 0


def test_a_reader_that_meets_the_closer_inside_a_generator_stage_is_told() -> None:
    """G14, G17: the closer ends the stage's generator while the reader asks for the next one."""
    closing, go = threading.Event(), threading.Event()

    def expand(item: int) -> Iterator[int]:
        try:
            while True:
                yield item
        finally:
            closing.set()
            assert go.wait(SAFETY)

    pipeline = build("serial", expand)
    results = pipeline.stream([1])
    assert next(results) == 1
    closer, outcome = in_thread(pipeline.cleanup)
    assert closing.wait(SAFETY)
    with pytest.raises(PipelineTerminated):
        next(results)
    go.set()
    closer.join(SAFETY)
    assert outcome == [None]
    assert pipeline.statistics().in_flight == 0


def test_closing_a_stream_releases_a_reader_in_another_thread(let_go: threading.Event) -> None:
    """G17: its loop ends, and the pipeline can be used again."""

    def source() -> Iterator[int]:
        assert let_go.wait(SAFETY)
        yield 1

    pipeline = build("threads", Probe())
    results = pipeline.stream(source())
    reader, outcome = in_thread(lambda: list(results))

    def waits() -> bool:
        frame = sys._current_frames().get(reader.ident)  # type: ignore[arg-type]
        return frame is not None and frame.f_code.co_filename.endswith("_channel.py")

    wait_for(waits)
    results.close()
    reader.join(SAFETY)
    assert outcome == [[]]
    assert list(pipeline.stream([2])) == [2]
    let_go.set()
    pipeline.cleanup()


def test_a_result_that_the_reader_has_just_taken_is_accounted_for() -> None:
    """G3, G14: a session that closes between a reader's take and its next line adds up."""
    pipeline = build("threads", Probe())
    results = pipeline.stream(iter([1, 2, 3]))
    results._fed._stream.channel.receive()  # type: ignore[union-attr]  # as the reader does
    pipeline.cleanup()
    statistics = pipeline.statistics()
    assert statistics.completed >= 1
    assert statistics.completed + statistics.dropped_total == statistics.admitted
    assert pipeline._session.run.ledger.violations() == []  # type: ignore[union-attr]
    with pytest.raises(PipelineTerminated):
        list(results)


# -- G18: the loop -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("period", [0.001, 60.0, 1e6])
def test_stop_loop_ends_within_100_ms(mode: str, period: float) -> None:
    """G18: stop_loop returns within 100 ms, whatever the period, and nothing is forwarded."""

    def attempt() -> float:
        pipeline = build(mode, Probe(), generator=lambda: 1)
        pipeline.start_loop(period)
        wait_for(lambda: pipeline.statistics().admitted >= 1)
        took = timed(pipeline.stop_loop)
        admitted = pipeline.statistics().admitted
        pipeline.cleanup()
        assert pipeline.statistics().admitted == admitted
        return took

    best_of_three(0.1, attempt)


@pytest.mark.parametrize("mode", MODES)
def test_stop_loop_does_not_wait_for_a_stuck_generator(mode: str, let_go: threading.Event) -> None:
    """G18: a generator that blocks does not hold stop_loop, and its item is not admitted."""
    inside = threading.Event()

    def generate() -> int:
        inside.set()
        assert let_go.wait(SAFETY)
        return 1

    pipeline = build(mode, Probe(), generator=generate)
    pipeline.start_loop(0.01)
    assert inside.wait(SAFETY)
    best_of_three(0.1, lambda: timed(pipeline.stop_loop))
    let_go.set()
    join_own_threads() if mode == "serial" else None
    pipeline.cleanup()
    assert pipeline.statistics().admitted == 0


def test_stop_loop_does_not_wait_for_a_full_pipeline(let_go: threading.Event) -> None:
    """G18: a loop that is blocked at a full front is stopped within 100 ms all the same."""
    stuck = Stuck(let_go)
    pipeline = build("threads", stuck, generator=lambda: 1, input_timeout=SAFETY)
    pipeline.start_loop(0.001)
    assert stuck.entered.wait(SAFETY)
    best_of_three(0.1, lambda: timed(pipeline.stop_loop))
    let_go.set()
    pipeline.cleanup()


@pytest.mark.parametrize("mode", MODES)
def test_wrong_uses_of_the_loop_are_refused(mode: str) -> None:
    """G18: a second loop and a period that is not above 0 are refused; a stop is harmless."""
    pipeline = build(mode, Probe(), generator=lambda: 1)
    pipeline.stop_loop()
    for period in (0, -1, float("nan"), "fast"):
        with pytest.raises(PlanError):
            pipeline.start_loop(period)  # type: ignore[arg-type]
    pipeline.start_loop()
    with pytest.raises(PipelineBusy):
        pipeline.start_loop()
    pipeline.stop_loop()
    pipeline.stop_loop()
    pipeline.start_loop()
    pipeline.cleanup()
    with pytest.raises(PipelineTerminated):
        pipeline.start_loop()


@pytest.mark.parametrize("mode", MODES)
def test_cleanup_is_not_held_by_a_stuck_generator(mode: str, let_go: threading.Event) -> None:
    """G14: a generator that blocks the loop does not hold cleanup."""
    inside = threading.Event()

    def generate() -> int:
        inside.set()
        assert let_go.wait(SAFETY)
        return 1

    pipeline = build(mode, Probe(), generator=generate)
    pipeline.start_loop(0.01)
    assert inside.wait(SAFETY)
    assert timed(pipeline.cleanup) < 0.5
    assert pipeline.statistics().admitted == 0


# -- cleanup from inside -----------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("driver", ["forward", "loop", "stream"])
def test_a_stage_may_clean_up_its_own_pipeline(mode: str, driver: str) -> None:
    """G14, G16: cleanup called by a stage requests the stop, and the stages are cleaned up."""
    pipelines: list[Pipeline] = []

    class Ends(Probe):
        def __init__(self) -> None:
            super().__init__()
            self.cleaned = threading.Event()

        def work(self, item: int) -> int:
            if item == 3:
                pipelines[0].cleanup()
            return item

        def cleanup(self) -> None:
            super().cleanup()
            self.cleaned.set()

    numbers = iter(range(10**9))
    ends = Ends()
    pipeline = build(mode, ends, generator=lambda: next(numbers))
    pipelines.append(pipeline)
    if driver == "forward":
        with pytest.raises(PipelineTerminated):
            for number in range(10**9):
                pipeline.forward(number)
    elif driver == "stream":
        with pytest.raises(PipelineTerminated):
            for _ in pipeline.stream(iter(range(10**9))):
                pass
    else:
        pipeline.start_loop(0.001)
    assert ends.cleaned.wait(SAFETY)
    pipeline.cleanup()
    join_own_threads()
    assert ends.cleanups == 1
    assert ends.wrong == []
    assert pipeline.statistics().in_flight == 0
    with pytest.raises(PipelineTerminated):
        pipeline.forward(1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("driver", ["loop", "stream"])
def test_a_source_may_clean_up_its_own_pipeline(mode: str, driver: str) -> None:
    """G14: cleanup called by the generator or the source of a stream ends everything."""
    numbers = iter(range(10**9))

    def generate() -> int:
        number = next(numbers)
        if number == 3:
            pipeline.cleanup()
        return number

    def endless() -> Iterator[int]:
        while True:
            yield generate()

    probe = Probe()
    pipeline = build(mode, probe, generator=generate)
    if driver == "loop":
        pipeline.start_loop(0.001)
    else:
        with pytest.raises(PipelineTerminated):
            for _ in pipeline.stream(endless()):
                pass
    wait_for(lambda: probe.cleanups == 1)
    pipeline.cleanup()
    join_own_threads()
    assert probe.cleanups == 1
    assert probe.wrong == []
    assert pipeline.statistics().in_flight == 0


# -- with --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_with_leaves_by_drain(mode: str) -> None:
    """Leaving `with` drains what was admitted and cleans up."""
    probe = Probe(0.005)
    with build(mode, probe) as pipeline:
        for number in range(10):
            pipeline.forward(number)
    assert pipeline.statistics().completed == 10
    assert probe.cleanups == 1


def test_with_leaves_by_abort_on_an_exception() -> None:
    """Leaving `with` on an exception drops what is in flight, and the exception passes."""
    probe = Probe(0.02)
    pipeline = Pipeline()
    pipeline.add(probe, capacity=100)
    pipeline.parallelize()
    with pytest.raises(ZeroDivisionError):
        with pipeline:
            for number in range(100):
                pipeline.forward(number)
            raise ZeroDivisionError
    assert pipeline.statistics().dropped["abort"] > 50
    assert probe.cleanups == 1


def test_entering_with_starts_nothing() -> None:
    """Entering `with` sets nothing up."""
    probe = Probe()
    with build("threads", probe):
        assert probe.setups == 0


# -- setup -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("error", [ValueError("no"), StopIteration()])
def test_failing_setup_cleans_what_was_set_up_and_may_be_tried_again(
    mode: str, error: BaseException
) -> None:
    """G15: after a failing setup the others are cleaned up; the next call tries again."""
    probes = [Probe(), Failing("setup", error), Probe()]
    pipeline = build(mode, *probes)
    with pytest.raises(StageError) as caught:
        pipeline.forward(1)
    assert caught.value.__cause__ is error
    assert "Stage_2" in str(caught.value)
    assert own_threads() == []
    assert probes[1].cleanups == 0
    for one in (probes[0], probes[2]):
        assert one.setups == one.cleanups
    probes[1].error = None  # type: ignore[attr-defined]
    for one in probes:
        one.setups = one.cleanups = 0
    assert pipeline.forward(2)
    pipeline.cleanup()
    assert [one.setups for one in probes] == [1, 1, 1]
    assert [one.cleanups for one in probes] == [1, 1, 1]
    assert pipeline.statistics().completed == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("how", ["cleanup", "abort"])
def test_cleanup_after_a_failing_setup_is_final(mode: str, how: str) -> None:
    """G15: cleanup after a failing setup cleans nothing twice, and the pipeline is terminated."""
    probes = [Probe(), Failing("setup", ValueError("no"))]
    pipeline = build(mode, *probes)
    with pytest.raises(StageError):
        pipeline.start()
    if how == "abort":
        pipeline.abort()
    else:
        pipeline.cleanup()
    with pytest.raises(PipelineTerminated):
        pipeline.forward(1)
    pipeline.cleanup()
    assert [one.cleanups for one in probes] == [1, 0]


@pytest.mark.usefixtures("hurried")
def test_cleanup_ends_while_a_setup_is_stuck(
    let_go: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """G14, G17: a stuck setup holds neither cleanup nor the callers that wait for the start."""
    other, stuck = Probe(), Stuck(let_go, "setup")
    pipeline = Pipeline()
    pipeline.add(other, "other")
    pipeline.add(stuck, "culprit")
    pipeline.parallelize(drain_timeout=0.2)
    caller, outcome = in_thread(lambda: pipeline.forward(1))
    assert stuck.entered.wait(SAFETY)
    assert timed(pipeline.cleanup) < 1.0
    assert other.cleanups == 1
    caller.join(3.0)
    assert not caller.is_alive()
    assert isinstance(outcome[0], PipelineTerminated)
    assert any(
        "culprit" in one.getMessage() and one.levelno == logging.WARNING for one in caplog.records
    )
    let_go.set()
    assert stuck.cleaned.wait(SAFETY)
    join_own_threads()
    assert stuck.cleanups == 1


# -- a change of mode with a stuck stage ---------------------------------------------------------


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("after", MODES)
@pytest.mark.parametrize("before", MODES)
def test_a_new_mode_refuses_a_stage_that_is_stuck_in_the_old_one(
    before: str, after: str, let_go: threading.Event
) -> None:
    """G16: a stage that is stuck in a call of the old mode is neither called nor cleaned up."""
    first, stuck, last = Probe(), Stuck(let_go), Probe()
    pipeline = build(before, first, stuck, last, drain_timeout=0.2, stuck_timeout=0.1)
    if before == "serial":
        pipeline._session.settings = session_module.Settings(  # type: ignore[union-attr]
            input_timeout=None, drain_timeout=0.2, stuck_timeout=0.1
        )
    caller, _ = in_thread(lambda: pipeline.forward(1))
    assert stuck.entered.wait(SAFETY)
    choose(pipeline, after, drain_timeout=0.2)
    for _ in range(2):
        with pytest.raises(PipelineBusy, match="Stage_2"):
            pipeline.forward(2)
    assert stuck.cleanups == 0
    let_go.set()
    caller.join(SAFETY)
    join_own_threads()
    assert pipeline.forward(3)
    pipeline.cleanup()
    assert stuck.wrong == []
    assert stuck.cleanups == 1
    for probe in (first, last):
        assert probe.setups == probe.cleanups
        assert probe.wrong == []


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("tried", [True, False])
@pytest.mark.parametrize("after", MODES)
@pytest.mark.parametrize("before", MODES)
def test_cleanup_after_a_new_mode_leaves_a_stuck_stage_to_its_worker(
    before: str, after: str, tried: bool, let_go: threading.Event
) -> None:
    """G15, G16: cleaned up when its call has come back, and the others at once, each once."""
    first, stuck, last = Probe(), Stuck(let_go), Probe()
    pipeline = build(before, first, stuck, last, drain_timeout=0.2, stuck_timeout=0.1)
    if before == "serial":
        pipeline._session.settings = session_module.Settings(  # type: ignore[union-attr]
            input_timeout=None, drain_timeout=0.2, stuck_timeout=0.1
        )
    caller, _ = in_thread(lambda: pipeline.forward(1))
    assert stuck.entered.wait(SAFETY)
    choose(pipeline, after, drain_timeout=0.2)
    if tried:
        with pytest.raises(PipelineBusy):
            pipeline.start()
    pipeline.cleanup()
    assert stuck.cleanups == 0
    assert (first.cleanups, last.cleanups) == (1, 1)
    let_go.set()
    assert stuck.cleaned.wait(SAFETY)
    caller.join(SAFETY)
    join_own_threads()
    assert stuck.wrong + first.wrong + last.wrong == []
    assert (first.cleanups, stuck.cleanups, last.cleanups) == (1, 1, 1)


# -- G21: an interrupted cleanup -----------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_ctrl_c_in_a_serial_stage_passes_and_counts_its_item(mode: str) -> None:
    """G21: a KeyboardInterrupt leaves a pipeline that can be cleaned up, all items counted."""
    probes = [Probe(), Failing("call", KeyboardInterrupt())]
    pipeline = build(mode, *probes)
    if mode == "serial":
        with pytest.raises(KeyboardInterrupt):
            pipeline.forward(1)
        assert pipeline.statistics().dropped == {"interrupted": 1}
    else:
        pipeline.forward(1)
        wait_for(lambda: pipeline.statistics().failed == 1)
    pipeline.cleanup()
    assert [one.cleanups for one in probes] == [1, 1]


@pytest.mark.usefixtures("hurried")
def test_an_interrupted_cleanup_aborts_and_can_be_finished(
    let_go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G21: Ctrl-C in cleanup drops what it drained, and the next cleanup finishes the work."""
    busy, other = Probe(0.02), Probe()
    pipeline = Pipeline()
    pipeline.add(busy, capacity=200)
    pipeline.add(other)
    pipeline.parallelize()
    for number in range(200):
        pipeline.forward(number)
    session = pipeline._session
    assert session is not None

    def interrupt(_timeout: float | None) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(session.executor, "drain", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pipeline.cleanup()
    assert timed(pipeline.cleanup) < 1.0
    assert (busy.cleanups, other.cleanups) == (1, 1)
    assert own_threads() == []
    statistics = pipeline.statistics()
    assert statistics.in_flight == 0
    assert statistics.completed + statistics.dropped_total == 200


# -- G19: nothing is left ----------------------------------------------------------------------


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def cycle(mode: str) -> None:
    """Start, use in every way, stop."""
    numbers = iter(range(3))
    pipeline = Pipeline(lambda: next(numbers))
    pipeline.add(Probe())
    if mode == "nested":
        child = Pipeline()
        child.add(Probe())
        child.add(Probe())
        pipeline.add(child.parallelize().as_stage())
        mode = "threads"
    pipeline.add(Probe, workers=1 if mode == "serial" else 2)
    choose(pipeline, mode)
    pipeline.forward(1)
    assert list(pipeline.stream(range(5))) == list(range(5))
    pipeline.start_loop(0.0001)
    pipeline.get_results()
    pipeline.cleanup()


def growth(mode: str, cycles: int) -> tuple[int, list[tracemalloc.Statistic]]:
    """What these cycles leave in memory, bytes, and the five places that left the most."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(cycles):
            cycle(mode)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
        return grown, tracemalloc.take_snapshot().statistics("lineno")[:5]
    finally:
        tracemalloc.stop()


def leaves_nothing(mode: str, cycles: int) -> None:
    """A leak comes again with the next cycles. A table of the interpreter's that has grown, like
    that of all threads, does not, so what is too much is looked for twice."""
    for _ in range(5):
        cycle(mode)
    gc.collect()
    threads, descriptors = set(threading.enumerate()), open_descriptors()
    most = 5_000_000 * max(cycles, 100) / 1000
    grown, largest = growth(mode, cycles)
    if grown >= most:
        grown, largest = growth(mode, cycles)
    assert set(threading.enumerate()) <= threads
    assert open_descriptors() <= descriptors
    assert grown < most, "\n".join(map(str, largest))
    assert len([one for one in session_module._live if one.started]) == 0


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors in /proc")
@pytest.mark.parametrize("mode", [*MODES, "nested"])
def test_50_cycles_leave_nothing(mode: str) -> None:
    """G19: 50 cycles of starting and stopping leave no thread, descriptor or memory."""
    leaves_nothing(mode, 50)


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors in /proc")
@pytest.mark.parametrize("mode", [*MODES, "nested"])
def test_1000_cycles_leave_nothing(mode: str) -> None:
    """G19: the same with 1,000 cycles."""
    leaves_nothing(mode, 1000)


# -- who has never been started, who is in his own way -----------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_change_of_mode_before_the_start_cleans_nothing_up(mode: str) -> None:
    """G15: stages that were never set up are handed on too, and cleaned up once in the end."""
    probe = Probe()
    pipeline = build("serial", probe)
    choose(pipeline, mode)
    assert probe.cleanups == 0
    pipeline.cleanup()
    choose(pipeline, mode)
    pipeline.cleanup()
    assert (probe.setups, probe.cleanups) == (0, 1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("between", ["nothing", "read", "mode"])
def test_after_a_failed_start_everyone_is_cleaned_up_once(mode: str, between: str) -> None:
    """G15: who was set up is not cleaned up again, who never was is cleaned up in the end."""
    probes = [Probe(), Failing("setup", ValueError("no")), Probe()]
    pipeline = build(mode, *probes)
    with pytest.raises(StageError):
        pipeline.start()
    if between == "read":
        assert pipeline.get_results() is None
    elif between == "mode":
        choose(pipeline, mode)
    pipeline.cleanup()
    assert [one.cleanups for one in probes] == [1, 0, 1]


@pytest.mark.parametrize("mode", MODES)
def test_draining_from_inside_is_refused_at_once(mode: str) -> None:
    """A stage that drains its own pipeline would wait for the item in its own hand."""
    outcome: list[BaseException] = []

    def drains(item: int) -> int:
        try:
            pipeline.drain(SAFETY)
        except PyStreamError as error:
            outcome.append(error)
        return item

    pipeline = build(mode, drains)
    assert timed(lambda: pipeline.forward(1)) < 1.0
    pipeline.drain()
    pipeline.cleanup()
    assert [type(error) for error in outcome] == [PipelineBusy]


def test_draining_by_the_reader_of_a_serial_stream_is_refused_at_once() -> None:
    """It holds the turn that it would wait for."""
    pipeline = build("serial", Probe())
    stream = pipeline.stream([1, 2])
    assert next(stream) == 1
    with pytest.raises(PipelineBusy):
        pipeline.drain(SAFETY)
    assert list(stream) == [2]
    pipeline.drain()
    pipeline.cleanup()


def test_a_stage_may_clean_up_beside_a_stream_that_is_never_read() -> None:
    """G14: a second stream that nobody has begun to read does not hide who is in the stage."""
    took: list[float] = []

    def ends(item: int) -> int:
        took.append(timed(pipeline.cleanup))
        return item

    pipeline = build("serial", ends)
    first, second = pipeline.stream([1]), pipeline.stream([2])
    assert list(first) == [1]
    assert took[0] < SAFETY / 3  # it does not wait for itself, drain_timeout long
    with pytest.raises(PipelineTerminated):
        list(second)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("stages", [0, 1])
def test_a_source_that_blocks_a_serial_stream_is_left_behind(
    stages: int, let_go: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """G14, G15: cleanup names the source and cleans up the stages, which are in no call."""
    inside = threading.Event()

    def source() -> Iterator[int]:
        inside.set()
        assert let_go.wait(SAFETY)
        yield 1

    probes = [Probe() for _ in range(stages)]
    pipeline = build("serial", *probes)
    reader, outcome = in_thread(lambda: list(pipeline.stream(source())))
    assert inside.wait(SAFETY)
    pipeline.cleanup(timeout=0)
    assert [one.cleanups for one in probes] == [1] * stages
    assert "the source of a stream has not returned" in caplog.text
    let_go.set()
    reader.join(SAFETY)
    assert isinstance(outcome[0], PipelineTerminated)
    assert [one.cleanups for one in probes] == [1] * stages


def test_of_many_loops_at_once_one_starts() -> None:
    """G18: a loop that is just being started counts as running."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20):
            pipeline = build("serial", Probe(), generator=lambda: 1)
            ready = threading.Barrier(4)

            def start(pipeline: Pipeline = pipeline, ready: Any = ready) -> None:
                ready.wait(SAFETY)
                pipeline.start_loop(60)

            callers = [in_thread(start) for _ in range(4)]
            for thread, _ in callers:
                thread.join(SAFETY)
            assert [outcome[0] for _, outcome in callers].count(None) == 1
            pipeline.cleanup()
    finally:
        sys.setswitchinterval(interval)


def test_a_loop_that_starts_during_the_setup_keeps_the_stream_out(
    let_go: threading.Event,
) -> None:
    """G18: stream() looks for a loop once more when the pipeline has started."""
    stuck = Stuck(let_go, "setup")
    pipeline = build("threads", stuck, generator=lambda: 7)
    reader, outcome = in_thread(lambda: list(pipeline.stream([0, 1])))
    assert stuck.entered.wait(SAFETY)
    pipeline.start_loop(60)
    let_go.set()
    reader.join(SAFETY)
    assert isinstance(outcome[0], PipelineBusy)
    pipeline.cleanup()


def test_a_change_of_mode_that_is_interrupted_can_be_cleaned_up() -> None:
    """G21: Ctrl-C while the earlier mode drains leaves that mode for cleanup to finish."""
    probe = Probe()
    pipeline = build("threads", probe)
    pipeline.forward(1)
    session = pipeline._session
    assert session is not None
    drain = session.executor.drain

    def interrupt(timeout: float | None) -> bool:
        session.executor.drain = drain  # type: ignore[method-assign]
        raise KeyboardInterrupt

    session.executor.drain = interrupt  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        pipeline.serialize()
    pipeline.cleanup()
    assert session.closed.is_set()
    assert probe.cleanups == 1
    with pytest.raises(PipelineTerminated):
        pipeline.forward(2)


# -- the end of the process --------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_pipeline_that_was_just_cleaned_up_is_left_alone_at_exit(mode: str) -> None:
    """G20: another thread's cleanup may end between the look for open pipelines and the stop."""
    probe = Probe()
    pipeline = build(mode, probe)
    pipeline.forward(1)
    session = pipeline._session
    assert session is not None
    pipeline.cleanup()
    helper = session.close_at_exit(perf_counter())
    assert helper is not None
    helper.join(SAFETY)
    assert not helper.is_alive()
    assert probe.cleanups == 1


@pytest.mark.parametrize("mode", MODES)
def test_stages_are_cleaned_up_at_exit_where_no_thread_can_be_started(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G15, G20: Python 3.12.0 and 3.12.1 start no thread any more when their exit has begun."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    probe = Probe()
    pipeline = build(mode, probe)
    pipeline.forward(1)
    session = pipeline._session
    assert session is not None
    session.abort("interpreter exit")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert session.close_at_exit(monotonic() + SAFETY) is None
    assert probe.cleanups == 1
    pipeline.cleanup()
    assert probe.cleanups == 1


# -- one item at a time ------------------------------------------------------------------------


def test_forwarding_to_its_own_serial_pipeline_is_refused_at_once() -> None:
    """G14: the stage would wait for itself."""
    pipelines: list[Pipeline] = []
    pipelines.append(build("serial", lambda item: pipelines[0].forward(item)))
    with pytest.raises(StageError) as caught:
        pipelines[0].forward(1)
    assert isinstance(caught.value.__cause__, PipelineBusy)
    pipelines[0].cleanup()


def test_a_serial_executor_that_is_busy_rejects_when_the_time_is_over(
    let_go: threading.Event,
) -> None:
    """As every executor does; the pipeline itself waits without a limit."""
    stuck = Stuck(let_go)
    pipeline = build("serial", stuck)
    caller, outcome = in_thread(lambda: pipeline.forward(1))
    assert stuck.entered.wait(SAFETY)
    assert pipeline._session is not None
    assert not pipeline._session.executor.admit(Envelope(2), 0.01)
    let_go.set()
    caller.join(SAFETY)
    assert outcome == [True]
    pipeline.cleanup()
    assert (pipeline.statistics().admitted, stuck.calls) == (1, 1)
