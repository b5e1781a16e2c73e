"""What a placement's stage is told about the run, so that it can end its call from outside."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

import pytest

from pystream_core import (
    CalledBack,
    Observer,
    Pipeline,
    PipelineTerminated,
    PlacedStage,
    Retry,
    StageError,
    WorkerLost,
    factory,
)
from pystream_core._executor import Reply
from pystream_core._graph import Gathered
from pystream_core._handle import joined
from pystream_core._lifecycle import Instance
from pystream_core.testing import PATIENCE, Gate, Tracked, Tracker, in_thread, wait_until

Choose = Callable[[Pipeline], Pipeline]


@pytest.fixture(params=["serial", "threads"])
def choose(request: pytest.FixtureRequest) -> Choose:
    """Chooses an executor."""
    if request.param == "serial":
        return lambda pipeline: pipeline.serialize()
    return lambda pipeline: pipeline.parallelize()


class Far(PlacedStage):
    """A stage whose call ends when it is called off, or only when it is forsaken."""

    def __init__(self, *, obeys: bool = True) -> None:
        self.told: list[str] = []
        self.entered = threading.Event()
        self.ended = threading.Event()
        self._obeys = obeys

    def __call__(self, data: Any) -> Any:
        if data == "quick":
            return data
        self.entered.set()
        assert self.ended.wait(PATIENCE)
        raise CalledBack

    def begin(self) -> None:
        self.told.append("begin")

    def call_off(self) -> None:
        self.told.append("call off")
        if self._obeys:
            self.ended.set()

    def forsake(self) -> None:
        self.told.append("forsake")
        self.ended.set()

    def cleanup(self) -> None:
        self.told.append("cleanup")


def with_stage(stage: Any, **options: Any) -> Pipeline:
    """A pipeline of one."""
    pipeline = Pipeline()
    pipeline.add(stage, "A", **options)
    return pipeline


def test_a_stop_calls_a_running_call_off(choose: Choose) -> None:
    """Its item is dropped like any other, and its cleanup follows."""
    stage = Far()
    pipeline = choose(with_stage(stage))
    call = in_thread(lambda: pipeline.forward(1))
    assert stage.entered.wait(PATIENCE)
    pipeline.abort()
    call.wait()
    pipeline.cleanup()
    assert pipeline.statistics().dropped == {"abort": 1}
    assert stage.told.count("cleanup") == 1  # calling off may come again
    assert "forsake" not in stage.told


def test_a_stop_that_comes_before_a_stage_is_made_calls_its_setup_off(choose: Choose) -> None:
    """Otherwise a start that was stopped in its first moment would wait for every setup."""

    class FarSetup(Far):
        def setup(self) -> None:
            assert self.ended.wait(PATIENCE)
            raise CalledBack

    stage = FarSetup()

    def make() -> FarSetup:
        pipeline.abort()
        return stage

    pipeline = choose(with_stage(factory(make)))
    start = in_thread(pipeline.start)
    assert stage.ended.wait(PATIENCE)
    assert start.wait().error is not None
    pipeline.cleanup()
    assert "call off" in stage.told
    assert "forsake" not in stage.told


@pytest.mark.parametrize(
    ("first", "second"),
    [(Pipeline.serialize, Pipeline.parallelize), (Pipeline.parallelize, Pipeline.serialize)],
)
def test_a_stop_that_comes_while_a_run_begins_is_not_forgotten(
    first: Choose, second: Choose
) -> None:
    """A stage that is handed on forgets what called off the last run, but not this one."""

    class Begun(Far):
        def begin(self) -> None:
            pipeline.abort()
            self.told.clear()  # what it was told before it forgot

    stage = Begun()
    pipeline = first(with_stage(stage))
    pipeline.run(["quick"])
    with pytest.raises(PipelineTerminated):
        second(pipeline).run(["quick"])
    assert "call off" in stage.told
    pipeline.cleanup()


class Fails(Instance):
    """Whose worker takes the stage away, since its setup failed, between any two looks at it."""

    def __init__(self, stage: Any) -> None:
        self._looks: list[Any] = []
        super().__init__()
        self._looks = [None, stage]
        self._in_use = True

    @property
    def stage(self) -> Any:
        return self._looks.pop() if self._looks else None

    @stage.setter
    def stage(self, stage: Any) -> None:
        """Nothing."""


def test_a_stop_may_come_as_a_setup_fails() -> None:
    """It finds the stage or none, and does not stumble."""
    stage = Far()
    Fails(stage).call_off()
    Fails(stage).leave_behind()
    assert stage.told == ["call off", "forsake"]


@pytest.mark.usefixtures("hurried")
def test_a_stage_that_is_left_behind_is_told(choose: Choose) -> None:
    """Nobody waits for it any more, so it can end at once."""
    stage = Far(obeys=False)
    pipeline = choose(with_stage(stage))
    call = in_thread(lambda: pipeline.forward(1))
    assert stage.entered.wait(PATIENCE)
    pipeline.cleanup(timeout=0)
    call.wait()
    assert "forsake" in stage.told
    assert wait_until(lambda: stage.told.count("cleanup") == 1)


def test_a_stage_that_is_handed_on_is_told_of_the_next_run() -> None:
    """What called it off before no longer counts."""
    stage = Far()
    pipeline = with_stage(stage).serialize()
    pipeline.run(["quick"])
    pipeline.parallelize()
    pipeline.run(["quick"])
    pipeline.cleanup()
    assert [said for said in stage.told if said != "call off"] == ["begin", "cleanup"]


def test_unless_it_says_otherwise_a_placed_stage_goes_on() -> None:
    """Nothing has to be overridden."""

    class Plain(PlacedStage):
        def __call__(self, data: Any) -> Any:
            return data

        def cleanup(self) -> None:
            """Nothing."""

    pipeline = with_stage(Plain()).serialize()
    pipeline.run([1])
    pipeline.parallelize()
    pipeline.run([1])
    pipeline.cleanup()
    Plain().forsake()


@pytest.mark.parametrize("policy", ["skip", Retry(1, then="skip"), lambda failure: 0])
def test_a_worker_lost_for_good_stops_the_pipeline(choose: Choose, policy: Any) -> None:
    """Whatever the policy for an item is: every other one would fail as well."""

    def dead(item: Any) -> Any:
        raise WorkerLost("no other process is started", final=True)

    pipeline = choose(with_stage(dead, on_error=policy))
    with pytest.raises(StageError, match="no other process is started"):
        list(pipeline.stream([1, 2]))
    pipeline.cleanup()
    assert pipeline.statistics().failed == 1


class Timed(PlacedStage):
    """Far away an hour has passed, or a moment, or it is not known."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __call__(self, data: Any) -> Any:
        now = perf_counter_ns()
        self.span_ns = {"known": (now, now + 1), "earlier": (1, 2), "unknown": (0, 0)}[self.how]
        if data == "fail":
            raise ValueError(data)
        return data

    def cleanup(self) -> None:
        """Nothing."""


class Spans(Observer):
    """Keeps the spans."""

    def __init__(self) -> None:
        self.spans: list[Any] = []

    def collect(self, spans: Any, items: Any) -> None:
        self.spans += spans


@pytest.mark.parametrize("item", ["pass", "fail"])
@pytest.mark.parametrize("how", ["known", "earlier", "unknown"])
def test_a_span_has_the_times_of_the_place(choose: Choose, how: str, item: str) -> None:
    """So the way there and back is no work of the stage; readings of an earlier call, or none,
    do not count."""
    observer = Spans()
    pipeline = Pipeline(observers=[observer])
    pipeline.add(Timed(how), on_error="skip")
    pipeline.add(lambda item: item)
    choose(pipeline)
    pipeline.run([item])
    pipeline.cleanup()
    first, *rest = sorted(observer.spans)
    _, _, _, queued, start, end, outcome = first
    assert outcome == ("failed" if item == "fail" else "emitted")
    assert (end - start == 1) is (how == "known")
    assert queued <= start
    for span in rest:
        assert span[3] == end  # what follows has waited since then


def test_the_times_of_calls_that_are_made_again_are_those_of_the_place(choose: Choose) -> None:
    """Each of them has a span of its own."""
    observer = Spans()
    pipeline = Pipeline(observers=[observer])
    pipeline.add(Timed("known"), on_error=Retry(2, then="skip"))
    choose(pipeline)
    pipeline.run(["fail"])
    pipeline.cleanup()
    assert [end - start for _, _, _, _, start, end, _ in observer.spans] == [1, 1, 1]


# -- handles ------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [False, True], ids=["unread", "late"])
def test_an_answer_that_nobody_takes_gives_its_handle_back(late: bool) -> None:
    """Ctrl-C has sent the caller away, before or after the item was done."""
    tracker = Tracker()
    reply = Reply()
    if late:
        reply.give_up()
    reply.settle(Tracked(tracker, 1))
    if not late:
        assert tracker.owned() == [1]
        reply.give_up()
    assert tracker.owned() == []
    assert tracker.broken == []


def test_what_is_left_in_a_stream_is_given_back(
    tracked_placement: Tracker, pipelines: Callable[..., Pipeline]
) -> None:
    """Results that wait for a reader when the pipeline is stopped, and nobody reads on."""
    pipeline = pipelines()
    pipeline.add(lambda item: item, placement="tracked")
    pipeline.parallelize()
    results = pipeline.stream(range(1000))
    assert next(results) == 0
    assert wait_until(lambda: len(tracked_placement.owned()) >= 2)
    pipeline.abort()
    pipeline.cleanup()
    assert wait_until(lambda: tracked_placement.owned() == [])
    assert tracked_placement.broken == []


def test_handles_without_placement_are_items() -> None:
    """In a pipeline whose stages are all here, they are nobody's business."""
    tracker = Tracker()
    pipeline = Pipeline()
    pipeline.add(lambda item: Tracked(tracker, item))
    pipeline.serialize()
    assert [type(result) for result in pipeline.stream([1])] == [Tracked]
    assert tracker.owned() == [1]
    pipeline.cleanup()


def test_ctrl_c_in_a_call_gives_its_handle_back(
    tracked_placement: Tracker, pipelines: Callable[..., Pipeline]
) -> None:
    """The item goes on to its end, and nobody is there to take the result."""
    gate = Gate()
    pipeline = pipelines()
    pipeline.add(gate, placement="tracked")
    stage = pipeline.parallelize().as_stage()
    noticed = threading.Event()

    def on_signal(*_: object) -> None:
        if not noticed.is_set():
            noticed.set()
            raise KeyboardInterrupt

    def interrupt() -> None:  # again, since one just before a wait begins is not noticed in it
        while gate.wait_entered() and not noticed.wait(0.5):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        interrupter = in_thread(interrupt)
        with pytest.raises(KeyboardInterrupt):
            stage(1)
        interrupter.wait()
    finally:
        signal.signal(signal.SIGINT, before)
    gate.open()
    pipeline.drain(PATIENCE)
    assert pipeline.statistics().completed == tracked_placement.made == 1
    assert tracked_placement.owned() == []


def test_what_a_join_brings_together_is_owned_as_one() -> None:
    """Its handles get an owner more and one less together; other parts are left alone."""
    tracker = Tracker()
    whole = joined(Gathered((0, 1)), {0: Tracked(tracker, "a"), 1: "b"})
    whole.retain()
    whole.release()
    assert whole.resolve() == ("a", "b")
    assert tracker.owned() == ["a"]
    whole.release()
    assert tracker.owned() == tracker.broken == []
