"""Failures: every kind of exception in every place surfaces, named and soon (G8 to G12)."""

from __future__ import annotations

import functools
import gc
import logging
import pickle
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from queue import Empty, SimpleQueue
from time import monotonic, perf_counter_ns
from typing import Any

import pytest
from pystream import (
    SKIP,
    CleanupError,
    InputExhausted,
    Observer,
    Pipeline,
    PipelineTerminated,
    PlanError,
    Retry,
    Stage,
    StageError,
    WorkerLost,
    factory,
)

from pystream_core.testing import side_by_side

DEADLINE = 10.0
PROMPT = 0.1  # seconds within which a failure surfaces
PASSING = ("KeyboardInterrupt", "SystemExit", "GeneratorExit")
Choose = Callable[..., Pipeline]


class Mute(Exception):
    """Neither its str nor its repr can be had."""

    def __str__(self) -> str:
        raise RuntimeError("no str")

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class Demanding(Exception):
    """Cannot be constructed again from its ``args``."""

    def __init__(self, *, code: int, place: str) -> None:
        super().__init__()
        self.code = code


KINDS: dict[str, Callable[[], BaseException]] = {
    "ValueError": lambda: ValueError("bad"),
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "StopIteration": lambda: StopIteration(1),
    "MemoryError": MemoryError,
    "Mute": Mute,
    "huge": lambda: ValueError("x" * 3_000_000),
    "Demanding": lambda: Demanding(code=1, place="here"),
}


class Log(logging.Handler):
    """What the PyStream logger said, and when."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[tuple[float, logging.LogRecord, str]] = []
        self.errors: SimpleQueue[float] = SimpleQueue()

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append((monotonic(), record, record.getMessage()))
        if record.levelno >= logging.ERROR:
            self.errors.put(monotonic())

    def wait_error(self) -> float:
        """When the next ERROR was logged."""
        try:
            return self.errors.get(True, DEADLINE)
        except Empty:
            raise AssertionError("nothing was logged at ERROR") from None

    def messages(self, level: int) -> list[str]:
        """What was said at this level."""
        return [message for _, record, message in self.records if record.levelno == level]


@pytest.fixture
def log() -> Iterator[Log]:
    """Listen to the PyStream logger."""
    handler = Log()
    logger = logging.getLogger("PyStream")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.fixture(params=["serial", "threads"])
def mode(request: pytest.FixtureRequest) -> str:
    """Each of the two modes."""
    return request.param


@pytest.fixture
def choose(mode: str) -> Choose:
    """Choose the mode; the options of ``parallelize`` count in threads only."""

    def choose(pipeline: Pipeline, **options: Any) -> Pipeline:
        return pipeline.serialize() if mode == "serial" else pipeline.parallelize(**options)

    return choose


class Failing(Stage[Any]):
    """Raises on the item ``"bad"``."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.raised_at = 0.0
        self.cleanups = 0

    def __call__(self, data: Any) -> Any:
        if data == "bad":
            self.raised_at = monotonic()
            raise self.error
        return data

    def cleanup(self) -> None:
        self.cleanups += 1


def as_function(stage: Failing) -> Any:
    return lambda item: stage(item)


def as_object(stage: Failing) -> Any:
    return stage


def as_generator(stage: Failing) -> Any:
    def expand(item: Any) -> Iterator[Any]:
        yield stage(item)

    return expand


def as_late_generator(stage: Failing) -> Any:
    def expand(item: Any) -> Iterator[Any]:
        yield "early"
        yield stage(item)

    return expand


def as_factory(stage: Failing) -> Any:
    return factory(lambda: stage)


def as_class(stage: Failing) -> Any:
    class Made(Stage[Any]):
        def __call__(self, data: Any) -> Any:
            return stage(data)

        def cleanup(self) -> None: ...

    return Made


FORMS = [as_function, as_object, as_generator, as_late_generator, as_factory, as_class]


def cause_of(failure: BaseException) -> BaseException | None:
    """What the stage raised; Python itself wraps a StopIteration inside of a generator."""
    cause = failure.__cause__
    if isinstance(cause, RuntimeError) and isinstance(cause.__cause__, StopIteration):
        return cause.__cause__
    return cause


# -- G8 to G10: a stage that raises --------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_in_threads_every_failure_surfaces_soon_and_for_good(
    kind: str, form: Callable[[Failing], Any], log: Log
) -> None:
    """At ERROR within 100 ms, then from every call as a fresh StageError; cleanup is silent."""
    waits = []
    for _ in range(3):
        error = KINDS[kind]()
        stage = Failing(error)
        pipeline = Pipeline()
        pipeline.add(lambda item: item, "before")
        pipeline.add(form(stage), "A", workers=1 if form is as_object else 2)
        pipeline.parallelize()
        assert pipeline.forward("good")
        pipeline.drain()
        assert pipeline.forward("bad")
        waits.append(log.wait_error() - stage.raised_at)
        assert type(_raised(pipeline.drain, within=DEADLINE)) is StageError
        calls: list[Callable[[], Any]] = [
            lambda pipeline=pipeline: pipeline.forward("next"),
            pipeline.get_results,
            lambda pipeline=pipeline: list(pipeline.stream(["next"])),
            pipeline.drain,
            lambda pipeline=pipeline: pipeline.run([1]),
        ]
        failures = [_raised(call, within=PROMPT * 10) for call in calls * 2]
        assert len({id(failure) for failure in failures}) == len(failures)
        for failure in failures:
            assert type(failure) is StageError
            assert cause_of(failure) is error
            assert failure.path == "MainPipeline__A"
            assert (failure.seq, failure.item) == (1, "bad")
            assert "'MainPipeline__A'" in str(failure)
            assert "item 1 ('bad')" in str(failure)
            assert len(str(failure)) < 1000
        assert "stage(item)" in "".join(
            traceback.format_tb(failures[0].__cause__.__traceback__)
        ) or "raise self.error" in "".join(traceback.format_tb(error.__traceback__))
        pipeline.cleanup()
        pipeline.cleanup()
        assert "MainPipeline__A" in " ".join(log.messages(logging.ERROR))
        if waits[-1] < PROMPT:
            break
    assert min(waits) < PROMPT


def _raised(call: Callable[[], Any], *, within: float) -> Any:
    start = monotonic()
    try:
        call()
    except BaseException as error:
        assert monotonic() - start < within
        return error
    raise AssertionError(f"{call} raised nothing")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_serially_every_failure_comes_out_of_its_forward(
    kind: str, form: Callable[[Failing], Any], log: Log
) -> None:
    """Wrapped, or unwrapped for Ctrl-C and exits; logged; and the next item goes on."""
    error = KINDS[kind]()
    stage = Failing(error)
    pipeline = Pipeline()
    pipeline.add(form(stage), "A")
    pipeline.serialize()
    for _ in range(2):
        failure = _raised(lambda: pipeline.forward("bad"), within=DEADLINE)
        if kind in PASSING:
            assert failure is error
        else:
            assert type(failure) is StageError
            assert cause_of(failure) is error
            assert (failure.path, failure.item) == ("MainPipeline__A", "bad")
        assert any(
            "'MainPipeline__A'" in line and "'bad'" in line for line in log.messages(logging.ERROR)
        )
        assert pipeline.forward("good") is True
        assert pipeline.get_results() == "good"
        pipeline.drain()
    statistics = pipeline.statistics()
    assert statistics.in_flight == 0
    if kind in PASSING:
        assert statistics.dropped == {"interrupted": 2}
    else:
        assert statistics.failed == 2
    pipeline.cleanup()
    if form in (as_object, as_factory):
        assert stage.cleanups == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_ends_a_stream_after_the_results_before_it(kind: str, choose: Choose) -> None:
    """What was at the output comes first, then the failure, and the reader is not left hanging."""
    error = KINDS[kind]()
    pipeline = Pipeline()
    pipeline.add(Failing(error))
    choose(pipeline)
    results = []
    with pytest.raises(BaseException) as caught:
        results += pipeline.stream(["a"])
        for item in pipeline.stream(["b", "bad", "c"]):
            results.append(item)
    assert caught.value is error or caught.value.__cause__ is error
    assert results in (["a"], ["a", "b"])
    pipeline.cleanup()


@pytest.mark.parametrize("kind", KINDS)
def test_a_called_pipeline_raises_the_items_own_failure(kind: str, choose: Choose) -> None:
    """``stage(item)`` of ``as_stage()`` answers with a StageError, never hangs."""
    error = KINDS[kind]()
    child = Pipeline()
    child.add(Failing(error), "A")
    stage = choose(child).as_stage()
    assert stage("good") == "good"
    failure = _raised(lambda: stage("bad"), within=DEADLINE)
    assert failure is error or cause_of(failure) is error
    child.cleanup()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inner", ["serialize", "parallelize"])
def test_a_nested_failure_carries_its_full_path(
    kind: str, inner: str, choose: Choose, mode: str
) -> None:
    """``MainPipeline__Child__A`` and the original exception, from two pipelines up."""
    error = KINDS[kind]()
    child = Pipeline()
    child.add(Failing(error), "A")
    pipeline = Pipeline()
    pipeline.add(getattr(child, inner)().as_stage(), "Child")
    choose(pipeline)
    failure = _raised(lambda: [pipeline.forward("bad"), pipeline.drain()], within=DEADLINE)
    if mode == "serial" and kind in PASSING:
        assert failure is error
    else:
        assert failure.path == "MainPipeline__Child__A"
        assert failure.__cause__ is error
    pipeline.cleanup()


def test_the_failure_that_came_first_is_the_one_that_counts(log: Log) -> None:
    """Later ones are logged, and every call names the first."""
    both = threading.Barrier(2, timeout=DEADLINE)

    def fail(item: int) -> int:
        both.wait()
        raise ValueError(item)

    pipeline = Pipeline()
    pipeline.add(fail, workers=2)
    pipeline.parallelize()
    pipeline.forward(0)
    pipeline.forward(1)
    log.wait_error()
    log.wait_error()
    first = _raised(pipeline.drain, within=DEADLINE)
    assert {_raised(pipeline.drain, within=DEADLINE).seq for _ in range(3)} == {first.seq}
    pipeline.cleanup()
    assert pipeline.statistics().failed == 2


def test_a_failure_releases_whoever_waits(log: Log) -> None:
    """Blocked ``forward``, ``get_results`` and ``drain`` raise within 100 ms."""
    best = DEADLINE
    for _ in range(3):
        fail, entered = threading.Event(), threading.Event()

        def stage(item: int, entered: Any = entered, fail: Any = fail) -> int:
            entered.set()
            assert fail.wait(DEADLINE)
            raise ValueError(item)

        pipeline = Pipeline()
        pipeline.add(stage, capacity=1)
        pipeline.parallelize(block_output=True)
        pipeline.forward(0)
        assert entered.wait(DEADLINE)
        pipeline.forward(1)
        ended: SimpleQueue[tuple[float, BaseException]] = SimpleQueue()

        def wait(call: Callable[[], Any], ended: Any = ended) -> None:
            try:
                call()
            except BaseException as raised:
                ended.put((monotonic(), raised))

        calls = [lambda p=pipeline: p.forward(2), pipeline.get_results, pipeline.drain]
        threads = [threading.Thread(target=wait, args=(call,)) for call in calls]
        for thread in threads:
            thread.start()
        start = monotonic()
        fail.set()
        answers = [ended.get(True, DEADLINE) for _ in threads]
        assert all(type(error) is StageError for _, error in answers)
        assert all(type(error.__cause__) is ValueError for _, error in answers)
        best = min(best, max(when for when, _ in answers) - start)
        for thread in threads:
            thread.join(DEADLINE)
        pipeline.cleanup()
        if best < PROMPT:
            break
    assert best < PROMPT


# -- the other places ----------------------------------------------------------------------


@pytest.mark.parametrize("place", ["setup", "factory", "class"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_failing_start_raises_and_can_be_tried_again(
    kind: str, place: str, choose: Choose, mode: str
) -> None:
    """From the call that started; what was set up is cleaned up; the next call starts anew."""
    error = KINDS[kind]()
    failing = [True]
    first = Failing(error)

    def fail_once() -> None:
        if failing:
            failing.clear()
            raise error

    class InSetup(Failing):
        def setup(self) -> None:
            fail_once()

    class InConstructor(Stage[Any]):
        def __init__(self) -> None:
            fail_once()

        def __call__(self, data: Any) -> Any:
            return data

        def cleanup(self) -> None: ...

    def make() -> Any:
        fail_once()
        return lambda item: item

    second = {"setup": InSetup(error), "factory": factory(make), "class": InConstructor}[place]
    pipeline = Pipeline()
    pipeline.add(first)
    pipeline.add(second, "B")
    choose(pipeline)
    failure = _raised(lambda: pipeline.forward(1), within=DEADLINE)
    if mode == "serial" and kind in PASSING:
        assert failure is error
    else:
        assert type(failure) is StageError
        assert failure.path == "MainPipeline__B"
        assert failure.__cause__ is error
        assert failure.seq is None
    assert first.cleanups == 1
    assert pipeline.forward(2) is True
    pipeline.drain()
    assert pipeline.get_results() == 2
    pipeline.cleanup()
    assert first.cleanups == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_failing_cleanup_raises_cleanup_error_after_all_others(
    kind: str, choose: Choose, mode: str, log: Log
) -> None:
    """``errors`` holds what was raised, the first as cause; every other stage is cleaned up;
    serially Ctrl-C passes, in the context of that CleanupError."""
    error = KINDS[kind]()

    class Bad(Failing):
        def cleanup(self) -> None:
            super().cleanup()
            raise self.error

    stages = [Failing(error), Bad(error), Failing(error), Bad(ValueError("second"))]
    pipeline = Pipeline()
    for stage in stages:
        pipeline.add(stage)
    choose(pipeline).forward("good")
    failure = _raised(pipeline.cleanup, within=DEADLINE)
    if mode == "serial" and kind == "KeyboardInterrupt":
        assert failure is error
        failure = failure.__context__
    else:
        assert failure.__cause__ is error
    assert type(failure) is CleanupError
    assert failure.errors == (error, stages[3].error)
    assert type(error).__name__ in str(failure)
    assert [stage.cleanups for stage in stages] == [1, 1, 1, 1]
    assert any("MainPipeline__Stage_2" in line for line in log.messages(logging.ERROR))
    pipeline.cleanup()
    assert [stage.cleanups for stage in stages] == [1, 1, 1, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_failing_on_error_is_a_failure_of_its_stage(
    kind: str, choose: Choose, mode: str, log: Log
) -> None:
    """It names the stage, the item and both exceptions; Ctrl-C passes serially."""
    error = KINDS[kind]()

    def decide(failure: StageError) -> Any:
        raise error

    pipeline = Pipeline()
    pipeline.add(Failing(LookupError("first")), "A", on_error=decide)
    choose(pipeline)
    failure = _raised(lambda: [pipeline.forward("bad"), pipeline.drain()], within=DEADLINE)
    assert log.wait_error()
    assert any("'MainPipeline__A'" in line for line in log.messages(logging.ERROR))
    if mode == "serial" and kind in PASSING:
        assert failure is error
        assert pipeline.statistics().dropped == {"interrupted": 1}
    else:
        assert failure.__cause__ is error
        assert "LookupError: first" in str(failure)
        assert (failure.path, failure.item) == ("MainPipeline__A", "bad")
        assert pipeline.statistics().failed == 1
    pipeline.cleanup()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", [Retry(1), Retry(1, then="skip")])
def test_a_retry_that_meets_an_exit_serially_lets_it_pass(
    kind: str, policy: Retry, log: Log
) -> None:
    """In the second call, too, Ctrl-C passes unwrapped and is logged; others follow ``then``."""
    error = KINDS[kind]()
    calls = []

    def stage(item: Any) -> Any:
        calls.append(item)
        raise LookupError("first") if len(calls) == 1 else error

    pipeline = Pipeline()
    pipeline.add(stage, "A", on_error=policy)
    pipeline.serialize()
    if kind in PASSING:
        assert _raised(lambda: pipeline.forward("bad"), within=DEADLINE) is error
        assert any("'MainPipeline__A'" in line for line in log.messages(logging.ERROR))
    elif policy.then == "stop":
        assert _raised(lambda: pipeline.forward("bad"), within=DEADLINE).__cause__ is error
    else:
        assert pipeline.forward("bad")
    assert pipeline.statistics().in_flight == 0
    assert len(calls) == 2
    pipeline.cleanup()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "StopIteration"])
def test_a_failing_input_generator_is_raised_by_forward(kind: str, choose: Choose) -> None:
    """As it is, to whoever asked for the item; the next call asks again."""
    error = KINDS[kind]()
    answers: list[Any] = [error, "item"]

    def generate() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    pipeline = Pipeline(generate)
    pipeline.add(lambda item: item)
    choose(pipeline)
    assert _raised(pipeline.forward, within=DEADLINE) is error
    assert pipeline.forward() is True
    pipeline.drain()
    assert pipeline.get_results() == "item"
    pipeline.cleanup()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "StopIteration"])
@pytest.mark.parametrize("asking", ["stop_loop", "get_results", "forward", "start_loop"])
def test_an_error_of_the_loop_is_logged_and_delivered_once(
    kind: str, asking: str, choose: Choose, log: Log
) -> None:
    """At ERROR, and by the first of these calls; then the pipeline goes on."""
    error = KINDS[kind]()
    raised_at = []
    failing = [True]

    def generate() -> Any:
        if failing:
            failing.clear()
            raised_at.append(monotonic())
            raise error
        return 1

    pipeline = Pipeline(generate)
    pipeline.add(lambda item: item)
    choose(pipeline)
    pipeline.start()
    pipeline.start_loop(0.01)
    assert log.wait_error() - raised_at[0] < DEADLINE / 5
    (said,) = log.messages(logging.ERROR)
    assert said.startswith("the loop of the input generator test_an_error_of_the_loop_is_logged_")
    assert f".generate was stopped by {type(error).__name__}" in said
    call = {
        "stop_loop": pipeline.stop_loop,
        "get_results": pipeline.get_results,
        "forward": lambda: pipeline.forward("x"),
        "start_loop": pipeline.start_loop,
    }[asking]
    assert _until_raised(call) is error
    pipeline.stop_loop()
    pipeline.get_results()
    assert pipeline.forward() is True
    pipeline.cleanup()


def _until_raised(call: Callable[[], Any]) -> BaseException:
    """The logger speaks just before the error is kept: ask until it is there."""
    end = monotonic() + DEADLINE
    while monotonic() < end:
        try:
            call()
        except BaseException as error:
            return error
    raise AssertionError("the error of the loop was never raised")


def test_an_error_of_the_loop_is_delivered_to_one_of_many_threads(log: Log) -> None:
    """Eight threads ask at once: one gets it, the others get their ordinary answer."""
    for _ in range(20):
        pipeline = Pipeline(lambda: 1 / 0)
        pipeline.add(lambda item: item)
        pipeline.serialize().start_loop(0.001)
        log.wait_error()
        pipeline._session.loop.thread.join(DEADLINE)
        ready = threading.Barrier(8)
        raised: list[BaseException] = []

        def ask(pipeline: Pipeline = pipeline, ready: Any = ready, raised: Any = raised) -> None:
            ready.wait(DEADLINE)
            try:
                pipeline.get_results()
            except BaseException as caught:
                raised.append(caught)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert [type(error) for error in raised] == [ZeroDivisionError]
        pipeline.cleanup()


def test_a_failure_is_not_hidden_behind_the_stop_that_it_causes() -> None:
    """A caller who looks while a worker fails is told of the failure, not of a mere stop."""
    pipeline = Pipeline()
    pipeline.add(lambda item: item, "A")
    pipeline.parallelize().start()
    run = pipeline._session.run  # type: ignore[union-attr]

    class FailsWhenLookedAt(type(run)):  # type: ignore[misc]
        @property
        def halted(self) -> bool:
            self.failure = StageError("just now", path="MainPipeline__A")
            return True

    before, run.__class__ = run.__class__, FailsWhenLookedAt
    try:
        with pytest.raises(StageError, match="just now"):
            pipeline.get_results()
    finally:
        run.__class__ = before
        run.failure = None
    pipeline.cleanup()


@pytest.mark.parametrize("kind", KINDS)
def test_a_failing_stage_stops_the_loop(kind: str, choose: Choose, mode: str, log: Log) -> None:
    """Serially the failure is kept for the next call; in threads every call raises it."""
    error = KINDS[kind]()
    pipeline = Pipeline(lambda: "bad")
    pipeline.add(Failing(error), "A")
    choose(pipeline)
    pipeline.start_loop(0.005)
    log.wait_error()
    failure = _until_raised(pipeline.get_results)
    assert failure is error or failure.__cause__ is error
    if mode == "threads":
        assert _raised(pipeline.get_results, within=1).__cause__ is error
    pipeline.cleanup()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "StopIteration"])
def test_a_failing_source_is_raised_after_the_results_before_it(kind: str, choose: Choose) -> None:
    """All items admitted before it come through, then what it raised, once."""
    error = KINDS[kind]()

    class Source:
        def __init__(self) -> None:
            self.left = [1, 2, 3]

        def __iter__(self) -> Any:
            return self

        def __next__(self) -> int:
            if not self.left:
                raise error
            return self.left.pop(0)

    pipeline = Pipeline()
    pipeline.add(lambda item: item * 10, workers=2)
    choose(pipeline)
    results = []
    with pytest.raises(type(error)) as caught:
        for item in pipeline.stream(Source()):
            results.append(item)
    assert caught.value is error
    assert results == [10, 20, 30]
    assert list(pipeline.stream([4])) == [40]
    pipeline.cleanup()


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_that_cannot_even_start_is_raised(kind: str, choose: Choose) -> None:
    """What ``iter(source)`` raises comes out of ``stream`` and leaves the pipeline usable."""
    error = KINDS[kind]()

    class Source:
        def __iter__(self) -> Any:
            raise error

    pipeline = Pipeline()
    pipeline.add(lambda item: item)
    choose(pipeline)
    assert _raised(lambda: list(pipeline.stream(Source())), within=DEADLINE) is error
    assert list(pipeline.stream([1])) == [1]
    pipeline.cleanup()


@pytest.mark.parametrize("event", ["opened", "collect", "closed"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_failing_observer_disturbs_nobody(
    kind: str, event: str, choose: Choose, log: Log
) -> None:
    """Logged once and dropped; items pass and the other observer sees everything."""
    error = KINDS[kind]()

    class Seeing(Observer):
        def __init__(self) -> None:
            self.items = 0
            self.closings = 0

        def collect(self, spans: Sequence[Any], items: Sequence[Any]) -> None:
            self.items += len(items)

        def closed(self, statistics: Any) -> None:
            self.closings += 1

    class Bad(Seeing):
        pass

    def fail(*_: Any) -> None:
        raise error

    setattr(Bad, event, fail)
    good = Seeing()
    pipeline = Pipeline(observers=[Bad(), good])
    pipeline.add(lambda item: item)
    choose(pipeline)
    assert list(pipeline.stream(range(10))) == list(range(10))
    pipeline.cleanup()
    assert (good.items, good.closings) == (10, 1)
    named = [line for line in log.messages(logging.ERROR) if "observer Bad raised" in line]
    assert len(named) == 1
    assert event in named[0]


def test_the_observers_of_a_failed_start_are_told_its_end(choose: Choose) -> None:
    """Each run that they saw opened they see closed, also the one that took its place."""
    told: list[str] = []

    class Telling(Observer):
        def opened(self, run: Any) -> None:
            told.append("opened")

        def closed(self, statistics: Any) -> None:
            told.append(f"closed {statistics.completed}")

    class Unready(Failing):
        def setup(self) -> None:
            if len(told) == 1:
                raise self.error

    pipeline = Pipeline(observers=[Telling()])
    pipeline.add(Unready(ValueError("no")))
    choose(pipeline)
    with pytest.raises(StageError):
        pipeline.start()
    assert told == ["opened", "closed 0"]
    assert pipeline.forward(1)
    pipeline.cleanup()
    assert told == ["opened", "closed 0", "opened", "closed 1"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_property_that_raises_is_reported_by_add(kind: str) -> None:
    """As PlanError with its cause; Ctrl-C and exits pass."""
    error = KINDS[kind]()

    class Nameless(Stage[Any]):
        @property
        def name(self) -> str:  # type: ignore[override]
            raise error

        def __call__(self, data: Any) -> Any:
            return data

        def cleanup(self) -> None: ...

    failure = _raised(lambda: Pipeline().add(Nameless()), within=DEADLINE)
    if kind in PASSING:
        assert failure is error
    else:
        assert type(failure) is PlanError
        assert failure.__cause__ is error
        assert "Nameless" in str(failure)


class Hostile:
    """An item with a repr that raises."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __repr__(self) -> str:
        raise self.error


class HostileList(list[Any]):
    def __len__(self) -> int:
        raise ValueError("no length")


class HostileClass:
    @property
    def __class__(self) -> type:  # type: ignore[override]
        raise RuntimeError("no class")


@pytest.mark.parametrize("kind", KINDS)
def test_a_repr_that_raises_does_not_hide_the_failure(kind: str, choose: Choose, log: Log) -> None:
    """The item is named by its type, the failure is the stage's."""
    pipeline = Pipeline()
    pipeline.add(lambda item: 1 / 0, "A")
    choose(pipeline)
    item = Hostile(KINDS[kind]())
    failure = _raised(lambda: [pipeline.forward(item), pipeline.drain()], within=DEADLINE)
    assert type(failure) is StageError
    assert type(failure.__cause__) is ZeroDivisionError
    assert failure.item is item
    assert "<Hostile whose repr raises" in str(failure)
    pipeline.cleanup()


class LaidOut:
    def __repr__(self) -> str:
        return "array([[0, 0],\n       [0, 0]])"


def test_an_item_that_is_laid_out_is_named_on_one_line(choose: Choose, log: Log) -> None:
    """The repr of an array has many lines, which would tear the message apart."""
    pipeline = Pipeline()
    pipeline.add(lambda item: 1 / 0, "A")
    choose(pipeline)
    failure = _raised(lambda: [pipeline.forward(LaidOut()), pipeline.drain()], within=DEADLINE)
    assert "on item 0 (array([[0, 0], [0, 0]]))" in str(failure)
    pipeline.cleanup()


@pytest.mark.parametrize(
    "make",
    [
        lambda: HostileList([1]),
        HostileClass,
        lambda: bytearray(80_000_000),
        lambda: {"frame": bytes(80_000_000)},
        lambda: [[["x" * 80_000_000]]],
        lambda: [list(range(3_000_000))],
        lambda: list(range(3_000_000)),
    ],
    ids=["len", "class", "bytes", "bytes in dict", "deep text", "list in list", "list"],
)
def test_naming_a_hostile_or_huge_item_takes_no_time(make: Any, choose: Choose, log: Log) -> None:
    """Within 100 ms, with a bounded message."""
    item = make()
    waits = []
    for _ in range(3):
        pipeline = Pipeline()
        pipeline.add(lambda item: 1 / 0, "A")
        choose(pipeline)
        pipeline.start()
        start = monotonic()
        failure = _raised(lambda p=pipeline: [p.forward(item), p.drain()], within=DEADLINE)
        waits.append(monotonic() - start)
        assert type(failure.__cause__) is ZeroDivisionError
        assert len(str(failure)) < 500
        pipeline.cleanup()
        if waits[-1] < PROMPT:
            break
    assert min(waits) < PROMPT


# -- generator stages ----------------------------------------------------------------------


def test_outputs_before_a_generators_failure_stay_valid(choose: Choose) -> None:
    """The parent counts as failed, its k outputs as completed."""

    def expand(item: int) -> Iterator[int]:
        yield item
        yield item + 1
        raise ValueError(item)

    pipeline = Pipeline()
    pipeline.add(expand, on_error="skip")
    choose(pipeline)
    assert list(pipeline.stream([10, 20])) == [10, 11, 20, 21]
    statistics = pipeline.statistics()
    assert (statistics.failed, statistics.expanded, statistics.spawned) == (2, 0, 4)
    assert statistics.completed == 4
    pipeline.cleanup()


def test_a_replacement_takes_the_place_of_a_failed_generator_item(choose: Choose) -> None:
    """After the outputs that it gave before."""

    def expand(item: int) -> Iterator[int]:
        yield item
        raise ValueError(item)

    pipeline = Pipeline()
    pipeline.add(expand, on_error=lambda failure: -1)
    choose(pipeline)
    assert list(pipeline.stream([1, 2])) == [1, -1, 2, -1]
    pipeline.cleanup()


def test_a_wrapped_generator_stage_that_raises_stop_iteration_is_no_silent_end(
    choose: Choose, log: Log
) -> None:
    """StopIteration out of the call itself, not of the iteration, is a failure."""

    def expand(item: int) -> Iterator[int]:
        yield item

    @functools.wraps(expand)
    def wrapper(item: int) -> Iterator[int]:
        if item == 1:
            raise StopIteration("from the wrapper")
        return expand(item)

    pipeline = Pipeline()
    pipeline.add(wrapper, on_error="skip")
    choose(pipeline)
    assert list(pipeline.stream([0, 1, 2])) == [0, 2]
    assert pipeline.statistics().failed == 1
    pipeline.cleanup()


def test_a_replacement_takes_the_place_of_a_generator_that_was_never_made(choose: Choose) -> None:
    """StopIteration out of the call itself asks ``on_error`` like any other failure."""

    def expand(item: int) -> Iterator[int]:
        yield item

    @functools.wraps(expand)
    def wrapper(item: int) -> Iterator[int]:
        if item == 1:
            raise StopIteration
        return expand(item)

    pipeline = Pipeline()
    pipeline.add(wrapper, on_error=lambda failure: -1)
    choose(pipeline)
    assert list(pipeline.stream([0, 1, 2])) == [0, -1, 2]
    pipeline.cleanup()


def test_an_item_that_is_too_old_for_a_generator_stage_expires(choose: Choose) -> None:
    """It is not even begun."""

    def expand(item: int) -> Iterator[int]:
        yield item

    pipeline = Pipeline()
    pipeline.add(_wait_a_clock_tick)
    pipeline.add(expand, max_age=1e-9)
    choose(pipeline)
    assert list(pipeline.stream([1, 2])) == []
    assert pipeline.statistics().expired == 2
    pipeline.cleanup()


def _wait_a_clock_tick(item: Any) -> Any:
    start = perf_counter_ns()
    while perf_counter_ns() - start < 2:
        pass
    return item


def test_ctrl_c_passes_while_a_generator_stage_is_closed_serially() -> None:
    """In the caller's thread, who left the stream; the pipeline can be used again."""

    def expand(item: int) -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            if item == 1:
                raise KeyboardInterrupt

    pipeline = Pipeline()
    pipeline.add(expand)
    pipeline.serialize()
    results = pipeline.stream([1])
    assert next(results) == 0
    with pytest.raises(KeyboardInterrupt):
        results.close()
    assert sum(1 for _ in pipeline.stream([2])) == 1000
    pipeline.cleanup()
    assert pipeline.statistics().in_flight == 0


def test_a_generator_that_raises_when_it_is_closed_harms_nobody(choose: Choose, log: Log) -> None:
    """Leaving a stream early closes it; what it raises then is logged, the pipeline goes on."""

    def expand(item: int) -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            if item == 1:
                raise ValueError("at closing")

    pipeline = Pipeline()
    pipeline.add(expand, "A")
    choose(pipeline)
    results = pipeline.stream([1])
    assert next(results) == 0
    results.close()
    assert any("'MainPipeline__A'" in line for line in log.messages(logging.ERROR))
    assert sum(1 for _ in pipeline.stream([2])) == 1000
    pipeline.cleanup()
    assert pipeline.statistics().in_flight == 0


# -- G11: nothing is left behind -----------------------------------------------------------


class Thing:
    """An item that can be watched."""


def test_a_failed_item_is_let_go_with_its_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serially without the garbage collector, as soon as the caller drops the exception."""
    # pytest keeps log records, and with them the exceptions
    monkeypatch.setattr(logging.getLogger("PyStream"), "propagate", False)
    monkeypatch.setattr(logging.getLogger("PyStream"), "handlers", [logging.NullHandler()])

    def fail(item: Thing) -> Any:
        raise ValueError("bad")

    pipeline = Pipeline()
    pipeline.add(fail)
    pipeline.serialize()
    gc.collect()
    gc.disable()
    try:
        item = Thing()
        watch = weakref.ref(item)
        try:
            pipeline.forward(item)
        except StageError:
            pass
        del item
        assert watch() is None
    finally:
        gc.enable()
        pipeline.cleanup()


def test_raising_again_and_again_does_not_grow() -> None:
    """1,000 calls after a failure: the stored exception's traceback stays as it was."""
    pipeline = Pipeline()
    pipeline.add(lambda item: 1 / 0)
    pipeline.parallelize()
    pipeline.forward(1)
    first = _raised(pipeline.drain, within=DEADLINE)
    length = len(traceback.extract_tb(first.__cause__.__traceback__))
    for _ in range(1000):
        last = _raised(pipeline.get_results, within=DEADLINE)
    assert len(traceback.extract_tb(last.__cause__.__traceback__)) == length
    assert len(traceback.extract_tb(last.__traceback__)) < 10
    pipeline.cleanup()


def failing_items(count: int, pipeline: Pipeline) -> float:
    """Objects that are there after these failing items, more than before."""

    def source() -> Iterator[Any]:
        for _ in range(count):
            yield Thing()

    pipeline.run(source())
    gc.collect()
    before = len(gc.get_objects())
    pipeline.run(source())
    gc.collect()
    return len(gc.get_objects()) - before


@pytest.mark.parametrize("count", [2_000, pytest.param(100_000, marks=pytest.mark.soak)])
@pytest.mark.timeout(300)
def test_failing_items_leave_nothing_behind(count: int, choose: Choose) -> None:
    """The number of objects alive is the same after as many failing items again."""

    def fail(item: Thing) -> Any:
        raise ValueError("bad")

    pipeline = Pipeline()
    pipeline.add(fail, on_error="skip")
    choose(pipeline)
    assert failing_items(count, pipeline) < 500
    assert pipeline.statistics().failed == 2 * count
    pipeline.cleanup()


# -- G12: the input generator --------------------------------------------------------------


def test_stop_iteration_ends_the_loop_after_all_items_were_delivered(choose: Choose) -> None:
    """No error is left, every item is through, and forward() says that the input has ended."""
    numbers = iter(range(20))
    seen: list[int] = []
    done = threading.Event()

    def sink(item: int) -> int:
        seen.append(item)
        if item == 19:
            done.set()
        return item

    pipeline = Pipeline(lambda: next(numbers))
    pipeline.add(sink)
    choose(pipeline)
    pipeline.start_loop(0.001)
    assert done.wait(DEADLINE)
    pipeline.stop_loop()
    pipeline.drain()
    assert seen == list(range(20))
    with pytest.raises(InputExhausted, match="come to its end"):
        pipeline.forward()
    assert pipeline.forward(20) is True
    pipeline.cleanup()


def test_stop_iteration_ends_a_stream_of_the_input_generator(choose: Choose) -> None:
    """``stream()`` without a source takes the generator to its end."""
    numbers = iter(range(20))
    pipeline = Pipeline(lambda: next(numbers))
    pipeline.add(lambda item: item)
    choose(pipeline)
    assert list(pipeline.stream()) == list(range(20))
    assert list(pipeline.stream()) == []
    pipeline.cleanup()


@pytest.mark.parametrize("method", ["stop_loop", "cleanup", "abort"])
def test_the_generator_may_stop_the_loop_itself(method: str, choose: Choose) -> None:
    """Called from inside, it requests the stop and returns; nothing deadlocks."""
    returned = threading.Event()
    calls = []

    def generate() -> int:
        calls.append(1)
        if len(calls) == 3:
            getattr(pipeline, method)()
            returned.set()
        return len(calls)

    cleaned = threading.Event()

    class Ending(Failing):
        def cleanup(self) -> None:
            cleaned.set()

    pipeline = Pipeline(generate)
    pipeline.add(Ending(ValueError()))
    choose(pipeline)
    pipeline.start_loop(0.001)
    assert returned.wait(DEADLINE)
    if method == "cleanup":
        assert cleaned.wait(DEADLINE)
    pipeline.cleanup()
    assert cleaned.is_set()
    assert 2 <= pipeline.statistics().admitted <= 3
    assert pipeline.statistics().in_flight == 0


@pytest.mark.parametrize("where", ["generator", "stage"])
def test_cleanup_from_inside_ends_an_endless_stream(where: str, choose: Choose) -> None:
    """A generator or stage that calls ``cleanup()`` ends the stream that it works for; what its
    reader had not taken by then is counted."""
    calls = []
    cleaned = threading.Event()

    def generate() -> int:
        calls.append(1)
        if where == "generator" and len(calls) == 5:
            pipeline.cleanup()
        assert len(calls) < 100_000, "the stream does not end"
        return len(calls)

    class Ending(Failing):
        def __call__(self, data: Any) -> Any:
            if where == "stage" and data == 5:
                pipeline.cleanup()
            return data

        def cleanup(self) -> None:
            cleaned.set()

    pipeline = Pipeline(generate)
    pipeline.add(Ending(ValueError()))
    choose(pipeline)
    results = []
    try:
        for item in pipeline.stream():
            results.append(item)
    except PipelineTerminated:
        pass
    assert results == list(range(1, len(results) + 1))
    assert cleaned.wait(DEADLINE)
    pipeline.cleanup()
    statistics = pipeline.statistics()
    assert statistics.admitted == statistics.ended
    assert statistics.completed >= len(results)


def test_using_the_pipeline_in_its_own_setup_is_refused_at_once(choose: Choose) -> None:
    """It would wait for itself: PipelineBusy instead, within the call."""
    seen: list[BaseException] = []

    class Impatient(Failing):
        def setup(self) -> None:
            try:
                pipeline.forward(1)
            except Exception as error:
                seen.append(error)

    pipeline = Pipeline()
    pipeline.add(Impatient(ValueError()))
    choose(pipeline)
    start = monotonic()
    assert pipeline.forward(2)
    assert monotonic() - start < 2
    assert [type(error).__name__ for error in seen] == ["PipelineBusy"]
    assert "setup" in str(seen[0])
    pipeline.cleanup()


@pytest.mark.parametrize("where", ["setup", "cleanup"])
def test_cleanup_called_in_setup_or_cleanup_does_not_wait_for_itself(
    where: str, choose: Choose
) -> None:
    """It requests the stop and returns."""
    waited: list[float] = []
    cleaned = threading.Event()

    class Ending(Failing):
        def _end(self) -> None:
            start = monotonic()
            pipeline.cleanup()
            waited.append(monotonic() - start)

        def setup(self) -> None:
            if where == "setup":
                self._end()

        def cleanup(self) -> None:
            if where == "cleanup":
                self._end()
            cleaned.set()

    pipeline = Pipeline()
    pipeline.add(Ending(ValueError()))
    choose(pipeline)
    try:
        pipeline.forward(1)
    except PipelineTerminated:
        pass
    pipeline.cleanup()
    assert cleaned.wait(DEADLINE)
    assert waited
    assert max(waited) < 1


def test_an_observer_may_clean_up_its_pipeline(choose: Choose) -> None:
    """From the collector's thread: the stop is done and nothing waits for itself."""
    returned = threading.Event()

    class Ending(Observer):
        def __init__(self) -> None:
            self.closings = 0

        def collect(self, spans: Sequence[Any], items: Sequence[Any]) -> None:
            if not returned.is_set():
                pipeline.cleanup()
                returned.set()

        def closed(self, statistics: Any) -> None:
            self.closings += 1
            gone.set()

    gone = threading.Event()
    observer = Ending()
    pipeline = Pipeline(observers=[observer])
    pipeline.add(lambda item: item)
    choose(pipeline).forward(1)
    assert returned.wait(DEADLINE)
    assert gone.wait(DEADLINE)
    pipeline.cleanup()
    assert observer.closings == 1


# -- policies ------------------------------------------------------------------------------


def test_skip_drops_the_item_and_warns_at_most_once_a_second(choose: Choose, log: Log) -> None:
    """The lines add up to the number of failures and name stage, exception and an item."""
    pipeline = Pipeline()
    pipeline.add(Failing(ValueError("bad")), "A", on_error="skip")
    choose(pipeline)
    assert list(pipeline.stream(["a", *["bad"] * 300, "b"])) == ["a", "b"]
    pipeline.cleanup()
    assert pipeline.statistics().failed == 300
    lines = [line for line in log.messages(logging.WARNING) if "failed, skipped" in line]
    assert 1 <= len(lines) <= 3
    assert all(line.startswith("MainPipeline__A: failed, skipped: ") for line in lines)
    counts = [int(line.split("skipped: ")[1].split()[0]) for line in lines]
    assert sum(counts) == 300
    assert "ValueError: bad" in lines[0]
    assert log.messages(logging.ERROR) == []


def test_retry_calls_again_and_goes_on(choose: Choose) -> None:
    """Two failures and a success with ``Retry(2)`` are an ordinary result."""
    calls = []

    def stage(item: str) -> str:
        calls.append(item)
        if len(calls) < 3:
            raise ValueError("not yet")
        return item

    pipeline = Pipeline()
    pipeline.add(stage, on_error=Retry(2))
    choose(pipeline)
    assert list(pipeline.stream(["x"])) == ["x"]
    assert calls == ["x"] * 3
    pipeline.cleanup()


@pytest.mark.parametrize("then", ["stop", "skip"])
def test_retry_gives_up_as_then_says(then: Any, choose: Choose) -> None:
    """After ``times`` further calls, with the last exception as cause."""
    calls = []

    def stage(item: str) -> str:
        calls.append(ValueError(len(calls)))
        raise calls[-1]

    pipeline = Pipeline()
    pipeline.add(stage, on_error=Retry(3, then=then))
    choose(pipeline)
    if then == "stop":
        failure = _raised(lambda: [pipeline.forward(1), pipeline.drain()], within=DEADLINE)
        assert failure.__cause__ is calls[-1]
    else:
        pipeline.forward(1)
        pipeline.drain()
    assert len(calls) == 4
    assert pipeline.statistics().failed == 1
    pipeline.cleanup()


def test_retry_doubles_its_backoff(choose: Choose) -> None:
    """Waits of 20, 40 and 80 ms."""
    times: list[float] = []

    def stage(item: str) -> str:
        times.append(monotonic())
        raise ValueError("bad")

    pipeline = Pipeline()
    pipeline.add(stage, on_error=Retry(3, 0.02, "skip"))
    choose(pipeline)
    pipeline.run([1])
    waits = [later - earlier for earlier, later in pairwise(times)]
    assert [wait >= least for wait, least in zip(waits, (0.019, 0.039, 0.079), strict=True)] == [
        True
    ] * 3
    pipeline.cleanup()


@pytest.mark.parametrize("backoff", [30.0, 1e300])
def test_a_backoff_ends_at_abort(backoff: float, choose: Choose, mode: str) -> None:
    """Within 100 ms, and the item is counted as dropped."""
    best = DEADLINE
    for _ in range(3):
        failed = threading.Event()

        def stage(item: str, failed: threading.Event = failed) -> str:
            failed.set()
            raise ValueError("bad")

        pipeline = Pipeline()
        pipeline.add(stage, on_error=Retry(5, backoff))
        choose(pipeline)
        thread = threading.Thread(target=pipeline.forward, args=(1,))
        thread.start()
        assert failed.wait(DEADLINE)
        start = monotonic()
        pipeline.cleanup(timeout=0)
        best = min(best, monotonic() - start)
        thread.join(DEADLINE)
        assert pipeline.statistics().dropped == {"abort": 1}
        if best < PROMPT:
            break
    assert best < PROMPT


def test_many_retries_without_backoff_work(choose: Choose) -> None:
    """2 ** attempt of a thousand attempts is no overflow."""
    calls = []

    def stage(item: str) -> str:
        calls.append(item)
        raise ValueError("bad")

    pipeline = Pipeline()
    pipeline.add(stage, on_error=Retry(1100, 0.0, "skip"))
    choose(pipeline)
    pipeline.run([1])
    assert len(calls) == 1101
    pipeline.cleanup()


def test_a_callable_decides_with_the_failure_in_hand(choose: Choose) -> None:
    """Its answer replaces the item; SKIP counts it as failed; it is told everything."""
    told: list[StageError] = []

    def decide(failure: StageError) -> Any:
        told.append(failure)
        return SKIP if failure.item == 2 else -failure.item

    def stage(item: int) -> int:
        if item:
            raise ValueError(item)
        return item

    pipeline = Pipeline()
    pipeline.add(stage, "A", on_error=decide)
    choose(pipeline)
    assert list(pipeline.stream([0, 1, 2, 3])) == [0, -1, -3]
    assert [(failure.seq, failure.path, failure.item) for failure in told] == [
        (1, "MainPipeline__A", 1),
        (2, "MainPipeline__A", 2),
        (3, "MainPipeline__A", 3),
    ]
    assert all(type(failure.__cause__) is ValueError for failure in told)
    statistics = pipeline.statistics()
    assert (statistics.failed, statistics.completed) == (1, 3)
    pipeline.cleanup()


def test_a_replacement_may_be_none(choose: Choose) -> None:
    """None is an item like any other."""
    pipeline = Pipeline()
    pipeline.add(lambda item: 1 / 0, on_error=lambda failure: None)
    choose(pipeline)
    assert list(pipeline.stream([1])) == [None]
    pipeline.cleanup()


def test_a_loop_whose_start_failed_says_so_before_the_next_try() -> None:
    """The failing setup is raised by the next call, although that one could start afresh."""

    class Unready(Failing):
        def setup(self) -> None:
            raise self.error

    pipeline = Pipeline(lambda: 1)
    pipeline.add(Unready(ValueError("no")))
    pipeline.parallelize()
    pipeline.start_loop(0.01)
    loop = pipeline._session.loop  # type: ignore[union-attr]
    loop.thread.join(5.0)  # type: ignore[union-attr]
    with pytest.raises(StageError):
        pipeline.get_results()
    assert pipeline.get_results() is None
    pipeline.cleanup()


def test_many_threads_that_see_a_failed_start_try_it_once_more_together() -> None:
    """One of them opens the pipeline again; the others use what it opened."""
    setups: list[int] = []

    class Unready(Failing):
        def setup(self) -> None:
            setups.append(1)
            if len(setups) == 1:
                raise self.error

    class Together:
        """The lock of the pipeline, at which all threads arrive before one gets it."""

        def __init__(self) -> None:
            self.lock = threading.Lock()
            self.arrived = threading.Barrier(3, timeout=DEADLINE)

        def __enter__(self) -> None:
            self.arrived.wait()
            self.lock.acquire()

        def __exit__(self, *_: object) -> None:
            self.lock.release()

    pipeline = Pipeline()
    pipeline.add(Unready(ValueError("no")))
    pipeline.parallelize()
    with pytest.raises(StageError):
        pipeline.start()
    pipeline._reopening = Together()  # type: ignore[assignment]
    assert side_by_side(pipeline.forward, 3) == [True] * 3
    assert len(setups) == 2
    pipeline.cleanup()
    assert pipeline.statistics().admitted == 3


def test_a_stage_error_can_be_sent_to_another_process() -> None:
    """With its message, path, number and item; the cause stays where it was."""
    failure = StageError("stage 'A' raised", path="A", seq=3, item=[1])
    copy = pickle.loads(pickle.dumps(failure))
    assert type(copy) is StageError
    assert (str(copy), copy.path, copy.seq, copy.item) == ("stage 'A' raised", "A", 3, [1])


def test_a_lost_worker_is_the_cause_of_its_items_failure(choose: Choose) -> None:
    """A placed stage tells by WorkerLost that its process has died."""

    def dead(item: Any) -> Any:
        raise WorkerLost("the process died", path="MainPipeline__A", exitcode=-9)

    pipeline = Pipeline()
    pipeline.add(dead, "A")
    choose(pipeline)
    failure = _raised(lambda: [pipeline.forward(1), pipeline.drain()], within=DEADLINE)
    cause = failure.__cause__
    assert isinstance(cause, WorkerLost)
    assert (cause.path, cause.exitcode) == ("MainPipeline__A", -9)
    pipeline.cleanup()


def test_a_call_whose_item_is_rejected_raises_instead_of_waiting() -> None:
    """Whatever the executor's reason was, there will be no result to wait for."""
    pipeline = Pipeline()
    pipeline.add(lambda item: item)
    pipeline.serialize()
    stage = pipeline.as_stage()
    assert stage(1) == 1
    executor = pipeline._session.executor  # type: ignore[union-attr]
    executor.admit = lambda envelope, timeout: False  # type: ignore[method-assign]
    with pytest.raises(PipelineTerminated):
        stage(2)
    assert pipeline.statistics().rejected == 1
    pipeline.cleanup()


def test_an_error_of_a_generator_that_comes_back_after_stop_loop_is_logged(
    choose: Choose, log: Log
) -> None:
    """Nobody asks the loop any more, so the log is the place for it."""
    entered, go = threading.Event(), threading.Event()

    def generate() -> int:
        entered.set()
        assert go.wait(DEADLINE)
        raise ValueError("late")

    pipeline = Pipeline(generate)
    pipeline.add(lambda item: item)
    choose(pipeline)
    pipeline.start_loop(0.01)
    assert entered.wait(DEADLINE)
    loop = pipeline._session.loop  # type: ignore[union-attr]
    pipeline.stop_loop()
    go.set()
    loop.thread.join(DEADLINE)  # type: ignore[union-attr]
    (said,) = log.messages(logging.ERROR)
    assert said.endswith(".generate was stopped by ValueError: late")
    assert pipeline.forward(1)
    pipeline.cleanup()


@pytest.mark.parametrize("max_age", [None, 3600.0])
def test_an_abort_in_the_last_stage_of_a_serial_stream_drops_its_item(
    max_age: float | None,
) -> None:
    """What the stage returns after the stop does not reach the reader, and is counted."""
    pipeline = Pipeline()

    def stop(item: int) -> int:
        pipeline.abort()
        return item

    pipeline.add(stop, max_age=max_age)
    pipeline.serialize()
    with pytest.raises(PipelineTerminated):
        list(pipeline.stream([1, 2]))
    pipeline.cleanup()
    statistics = pipeline.statistics()
    assert (statistics.admitted, statistics.dropped_total, statistics.in_flight) == (1, 1, 0)
