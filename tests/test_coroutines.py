"""The event loop of coroutine stages when the user's code, or asyncio, does what it should not."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pystream_core import SKIP, CleanupError, Outcome, Pipeline, PlanError, Stage, StageError
from pystream_core._call import CalledBack, Step
from pystream_core._coroutines import EventLoop
from pystream_core.testing import PATIENCE, Gate, broken_law, in_thread, wait_until
from pystream_core.testing._waiting import next_turn, stay_until

MODES = ["serial", "threads"]


class Kept:
    """Something that a weak reference can be made to."""


class Life(Stage[Any]):
    """Runs a function of the test's in its coroutine at item 3; has an asynchronous life."""

    def __init__(self, at_three: Callable[[], object]) -> None:
        self.at_three = at_three
        self.cleanups = 0

    async def setup(self) -> None:
        await next_turn()

    async def __call__(self, item: Any) -> Any:
        if item == 3:
            self.at_three()
            await asyncio.Event().wait()
        await next_turn()
        return item

    async def cleanup(self) -> None:
        await next_turn()
        self.cleanups += 1


@pytest.fixture(params=MODES)
def chosen(request: pytest.FixtureRequest) -> Callable[[Pipeline], Pipeline]:
    """Chooses the mode of a pipeline."""
    serial = request.param == "serial"
    return lambda pipeline: pipeline.serialize() if serial else pipeline.parallelize()


@pytest.fixture(autouse=True)
def _nothing_of_ours_is_left() -> Iterator[None]:
    yield
    assert wait_until(lambda: not any("pystream" in one.name for one in threading.enumerate()))


def with_stage(stage: Any, **options: Any) -> Pipeline:
    pipeline = Pipeline()
    pipeline.add(stage, **options)
    return pipeline


def streamed(pipeline: Pipeline, count: int = 20) -> BaseException | None:
    """What a stream of so many items raises; it must not hang."""
    return in_thread(lambda: list(pipeline.stream(range(count)))).wait().error


spawned: list[asyncio.Future[None]] = []  # kept, since asyncio keeps them weakly


def raise_in_task(error: type[BaseException]) -> None:
    async def task() -> None:
        raise error

    spawned.append(asyncio.ensure_future(task()))


def raise_in_callback(error: type[BaseException]) -> None:
    def callback() -> None:
        raise error

    asyncio.get_running_loop().call_soon(callback)


def stop_the_loop(_: object) -> None:
    asyncio.get_running_loop().stop()


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("way", [raise_in_task, raise_in_callback, stop_the_loop])
def test_what_a_coroutine_has_started_cannot_take_the_event_loop_away(
    chosen: Callable[[Pipeline], Pipeline],
    way: Callable[[Any], None],
    error: type[BaseException],
    workers: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """G8, G15: what is in flight fails, the stage is cleaned up, and the log says why."""
    stage = Life(lambda: way(error))
    pipeline = chosen(with_stage(stage, workers=workers))
    failure = streamed(pipeline)
    assert isinstance(failure, StageError)
    pipeline.cleanup()
    assert stage.cleanups == 1
    assert broken_law(pipeline.statistics()) == []
    assert "every coroutine in flight is cancelled" in caplog.text
    while spawned:
        spawned.pop().exception()


def test_a_task_factory_that_raises_fails_the_item(
    chosen: Callable[[Pipeline], Pipeline],
) -> None:
    """G8: it does not wait for a coroutine that never began."""

    def refuse(*_: object, **__: object) -> None:
        raise ValueError("no tasks")

    async def stage(item: int) -> int:
        asyncio.get_running_loop().set_task_factory(refuse if item == 3 else None)
        return item

    pipeline = chosen(with_stage(stage))
    failure = streamed(pipeline)
    assert isinstance(failure, StageError)
    assert "no tasks" in str(failure)
    pipeline.cleanup(timeout=0)
    assert broken_law(pipeline.statistics()) == []


def _set_event_loop_raises(patch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("not here")

    patch.setattr(asyncio, "set_event_loop", refuse)


def _run_forever_raises(patch: pytest.MonkeyPatch) -> None:
    class Broken(asyncio.SelectorEventLoop):
        def run_forever(self) -> None:
            raise RuntimeError("not here")

    patch.setattr(asyncio, "new_event_loop", Broken)


@pytest.mark.parametrize("breaks", [_set_event_loop_raises, _run_forever_raises])
@pytest.mark.parametrize("workers", [1, 4])
def test_an_event_loop_that_does_not_run_is_a_failure_and_no_hang(
    chosen: Callable[[Pipeline], Pipeline],
    breaks: Callable[[pytest.MonkeyPatch], None],
    workers: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """G8: an event loop policy may be anybody's."""

    async def stage(item: int) -> int:
        return item

    breaks(monkeypatch)
    pipeline = chosen(with_stage(stage, workers=workers))
    failure = streamed(pipeline)
    assert isinstance(failure, StageError)
    assert "event loop" in str(failure)
    assert "not here" in caplog.text
    pipeline.cleanup(timeout=0)
    assert broken_law(pipeline.statistics()) == []


def test_an_asynchronous_cleanup_without_its_event_loop_is_an_error_and_no_hang(
    chosen: Callable[[Pipeline], Pipeline], caplog: pytest.LogCaptureFixture
) -> None:
    """G14, G15: also when the loop has ended against all custom."""

    class Other(BaseException):
        pass

    def end_it() -> None:
        loop: Any = asyncio.get_running_loop()

        def broken(*_: object) -> None:
            del loop._run_once
            raise Other

        loop._run_once = broken

    stage = Life(end_it)
    pipeline = chosen(with_stage(stage))
    assert isinstance(streamed(pipeline), StageError)
    with pytest.raises(CleanupError, match="event loop"):
        pipeline.cleanup()
    assert "was ended" in caplog.text


@pytest.mark.parametrize("workers", [1, 4])
def test_failed_coroutines_are_let_go_without_a_collection(
    chosen: Callable[[Pipeline], Pipeline], workers: int
) -> None:
    """G5, G11: item, exception and frames do not hold each other."""
    seen: list[weakref.ref[Any]] = []

    async def stage(item: Any) -> None:
        await next_turn()
        seen.append(weakref.ref(item))
        raise ValueError(item)

    with chosen(with_stage(stage, workers=workers, on_error="skip")) as pipeline:
        pipeline.start()
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                pipeline.forward(Kept())
            pipeline.drain(PATIENCE)
            assert wait_until(lambda: not any(each() for each in seen))
        finally:
            gc.enable()
    assert len(seen) == 5


@pytest.mark.parametrize("ordered", [True, False])
def test_an_idle_coroutine_stage_does_not_keep_its_last_result(*, ordered: bool) -> None:
    """G5: items that are done are let go, not when the next one comes."""
    made: list[weakref.ref[Any]] = []

    async def stage(_: Any) -> Any:
        result = Kept()
        made.append(weakref.ref(result))
        return result

    done = threading.Event()

    def source() -> Iterator[int]:
        yield 1
        assert done.wait(PATIENCE)

    with with_stage(stage, workers=4, ordered=ordered).parallelize() as pipeline:
        for result in pipeline.stream(source()):
            assert made[0]() is result
            del result
            assert wait_until(lambda: made[0]() is None)
            done.set()


def test_marks_that_come_after_a_stop_do_not_wait(caplog: pytest.LogCaptureFixture) -> None:
    """G14: a drain during an abort returns while a coroutine ignores its cancellation."""
    entered, let_go = threading.Event(), threading.Event()

    async def stage(item: int) -> int:
        entered.set()
        await stay_until(let_go, lambda: None)
        return item

    caplog.set_level(logging.CRITICAL)
    pipeline = with_stage(stage, workers=2).parallelize()
    pipeline.forward(1)
    assert entered.wait(PATIENCE)
    drains = [in_thread(lambda: pipeline.drain(PATIENCE)) for _ in range(3)]
    pipeline.abort()
    drains += [in_thread(lambda: pipeline.drain(PATIENCE)) for _ in range(3)]
    assert all(drain.wait().error is not None for drain in drains)
    let_go.set()
    pipeline.cleanup()
    assert broken_law(pipeline.statistics()) == []


def test_a_thread_that_a_coroutine_has_left_running_does_not_make_its_stage_stuck(
    chosen: Callable[[Pipeline], Pipeline], caplog: pytest.LogCaptureFixture
) -> None:
    """G14: the call was cancelled; what is named is what has not ended."""
    entered, let_go = threading.Event(), threading.Event()

    def wait() -> None:
        entered.set()
        let_go.wait(PATIENCE)

    async def stage(item: int) -> int:
        await asyncio.to_thread(wait)
        return item

    pipeline = chosen(with_stage(stage))
    caller = in_thread(lambda: pipeline.forward(1))
    assert entered.wait(PATIENCE)
    try:
        pipeline.cleanup(timeout=0)
        assert "something that they started has not ended" in caplog.text
        assert "call has not returned" not in caplog.text
        assert dict(pipeline.statistics().dropped) == {"abort": 1}
    finally:
        let_go.set()
    caller.wait()


# -- the loop and its calls by themselves ----------------------------------------------


async def nothing(*_: Any) -> None:
    """A coroutine function."""


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    """A running one."""
    made = EventLoop()
    made.enter()
    yield made
    made.leave()


def test_a_call_that_is_cancelled_before_it_begins_has_one_outcome(loop: EventLoop) -> None:
    """An interrupt may come between making and beginning it."""
    outcomes: list[Outcome] = []
    call = loop.call(nothing, outcomes.append)
    call.cancel()
    call.begin()
    loop.run(nothing)  # comes behind them
    (outcome,) = outcomes
    assert "before it began" in str(outcome.error)


@pytest.mark.parametrize("verb", ["begin", "cancel"])
def test_a_call_of_a_loop_that_has_ended_has_an_outcome(verb: str) -> None:
    """At once, in the thread that asks."""
    loop = EventLoop()
    loop.enter()
    outcomes: list[Outcome] = []
    call = loop.call(nothing, outcomes.append)
    loop.leave()
    getattr(call, verb)()
    (outcome,) = outcomes
    assert "has ended" in str(outcome.error)


def test_a_loop_without_users_has_nothing_to_forsake() -> None:
    """Its thread starts with the first one."""
    loop = EventLoop()
    loop.forsake()
    assert not loop.here()


def test_a_loop_may_be_left_from_within() -> None:
    """It does not wait for itself."""
    loop = EventLoop()
    loop.enter()

    async def leave() -> None:
        loop.leave()

    loop.run(leave)


def test_a_loop_that_is_ending_is_not_hurried_by_a_second_end(loop: EventLoop) -> None:
    """What the stages have left running is still waited for."""
    cancelling, leave = threading.Event(), threading.Event()

    async def slow() -> None:
        await stay_until(leave, cancelling.set)

    async def spawn() -> None:
        spawned.append(asyncio.ensure_future(slow()))
        await next_turn()

    loop.run(spawn)
    loop.forsake()
    assert cancelling.wait(PATIENCE)
    loop.forsake()
    assert loop._life is not None
    assert loop._life.thread.is_alive()
    leave.set()
    loop._life.thread.join(PATIENCE)
    assert spawned.pop().done()


def test_a_task_that_exits_while_it_is_cancelled_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At the end of the loop, which ends all the same."""
    loop = EventLoop()
    loop.enter()

    async def exits() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise SystemExit(3) from None

    async def spawn() -> None:
        spawned.append(asyncio.ensure_future(exits()))
        await next_turn()

    loop.run(spawn)
    loop.leave()
    assert "at the end of the event loop" in caplog.text


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_loop_whose_thread_does_not_start_leaves_nothing(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No thread can be had, or Ctrl-C comes just when it has started."""
    begin = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if error is KeyboardInterrupt:
            begin(thread)
        raise error

    loop = EventLoop()
    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(error):
        loop.enter()
    monkeypatch.undo()
    loop.enter()  # and it can be tried again
    loop.run(nothing)
    loop.leave()


@pytest.fixture
def _ctrl_c_is_not_ignored() -> Iterator[None]:
    """As it is in a shell's background job."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c_is_not_ignored")
def test_ctrl_c_in_an_asynchronous_setup_comes_out_of_the_start() -> None:
    """G21: the coroutine is cancelled, and nothing of it is left."""
    cancelled = threading.Event()

    def interrupt() -> None:  # again, since one just before a wait begins is not noticed in it
        while True:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            if cancelled.wait(0.5):
                return

    class Slow(Life):
        async def setup(self) -> None:
            threading.Thread(target=interrupt, daemon=True).start()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

    pipeline = with_stage(Slow(lambda: None)).serialize()
    with pytest.raises(KeyboardInterrupt):
        pipeline.start()
    assert cancelled.wait(PATIENCE)
    pipeline.cleanup()


@pytest.fixture
def step() -> Iterator[Step]:
    """That of a coroutine stage in a serial pipeline."""

    async def same(item: Any) -> Any:
        return item

    pipeline = with_stage(same).serialize()
    pipeline.start()
    session = pipeline._session
    assert session is not None
    yield session.executor._chain.steps[0]  # type: ignore[attr-defined]
    pipeline.cleanup()


def test_a_coroutine_is_not_begun_after_a_stop(step: Step) -> None:
    """One may come between the look at the item and the call."""
    step.run.halt("abort")
    with pytest.raises(CalledBack):
        step.stage(1)


def test_a_coroutine_that_ends_just_when_it_is_left_behind_is_not_stuck(step: Step) -> None:
    """Its stage can be cleaned up."""
    step._leave_behind(threading.Event(), [Outcome(None, None, 0, 0)])
    assert not step.instance.stuck


# -- placements ------------------------------------------------------------------------


class Holds(Stage[Any]):
    """A batching stage that gives out nothing but SKIP."""

    def __call__(self, data: Any) -> Any:
        return SKIP

    def flush(self) -> list[Any]:
        return [SKIP]

    def cleanup(self) -> None: ...


@pytest.mark.parametrize(
    ("stage", "what"),
    [(nothing, "is a coroutine function"), (Holds, "keeps items between its calls")],
    ids=["coroutine", "batching"],
)
def test_coroutine_and_batching_stages_stay_where_they_are(
    stage: Any, what: str, inline_placement: str
) -> None:
    """A placement of their own is refused; the one for all stages concerns the others."""
    pipeline = with_stage(stage, placement=inline_placement)
    with pytest.raises(PlanError, match=f"{what}.*cannot be placed in 'inline': leave out"):
        pipeline.parallelize()
    pipeline = with_stage(stage)
    with pipeline.parallelize(placement=inline_placement):
        assert pipeline.run([1]).admitted == 1


def test_a_flush_that_skips_gives_nothing_out(chosen: Callable[[Pipeline], Pipeline]) -> None:
    """SKIP filters there as anywhere."""
    pipeline = chosen(with_stage(Holds()))
    assert list(pipeline.stream([1, 2])) == []
    statistics = pipeline.statistics()
    assert (statistics.absorbed, statistics.spawned) == (2, 0)
    pipeline.cleanup()


def test_ctrl_c_in_the_policy_of_a_failed_flush_passes_through() -> None:
    """G21: in serial mode, out of the call that flushed."""

    class Bad(Holds):
        def flush(self) -> list[Any]:
            raise ValueError("no flush")

    def interrupted(failure: StageError) -> Any:
        raise KeyboardInterrupt

    pipeline = with_stage(Bad(), on_error=interrupted).serialize()
    pipeline.forward(1)
    with pytest.raises(KeyboardInterrupt):
        pipeline.drain()
    pipeline.cleanup()


def test_a_batch_of_a_serial_stream_whose_source_raises_is_dropped() -> None:
    """G3: it is neither lost in silence nor in the next stream."""

    class Pairs(Holds):
        def __init__(self) -> None:
            self.items: list[Any] = []

        def __call__(self, data: Any) -> Any:
            self.items.append(data)
            return self.flush()[0] if len(self.items) == 2 else SKIP

        def flush(self) -> list[Any]:
            items, self.items = self.items, []
            return [items] if items else []

    def source() -> Iterator[int]:
        yield from range(3)
        raise LookupError("the source")

    pipeline = with_stage(Pairs()).serialize()
    got = []
    with pytest.raises(LookupError):
        for result in pipeline.stream(source()):
            got.append(result)
    assert got == [[0, 1]]
    assert dict(pipeline.statistics().dropped) == {"interrupted": 1}
    assert list(pipeline.stream([7])) == [[7]]
    assert broken_law(pipeline.statistics()) == []
    pipeline.cleanup()


def test_a_flush_that_raises_at_the_early_end_of_a_serial_stream_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What ended the stream is raised; the items that waited have failed."""

    class Bad(Holds):
        def flush(self) -> list[Any]:
            raise ValueError("no flush")

    def source() -> Iterator[int]:
        yield from range(3)
        raise LookupError("the source")

    pipeline = with_stage(Bad()).serialize()
    with pytest.raises(LookupError):
        list(pipeline.stream(source()))
    assert "flush at the early end of a stream: StageError" in caplog.text
    assert pipeline.statistics().failed == 3
    pipeline.cleanup()


@pytest.mark.usefixtures("hurried")
def test_a_result_that_waits_behind_a_stuck_worker_before_a_join_is_dropped_once() -> None:
    """G3: it comes neither to the join nor to any bin but one."""
    gate = Gate(holds=lambda item: item == 0)
    pipeline = Pipeline()
    pipeline.add(lambda item: item, "first")
    pipeline.add(gate, "slow", workers=2)
    pipeline.add(lambda item: item, "fast", after="first")
    pipeline.add(lambda parts: parts, "join", after=["slow", "fast"])
    pipeline.parallelize(stuck_timeout=0.1)
    pipeline.forward(0)
    pipeline.forward(1)
    assert gate.wait_passed(1)
    assert wait_until(lambda: pipeline.statistics().stages[2].emitted == 2)
    assert wait_until(lambda: pipeline.statistics().stages[1].emitted == 1)
    pipeline.cleanup(timeout=0)
    assert dict(pipeline.statistics().dropped) == {"abandoned": 1, "abort": 1}
    session = pipeline._session
    assert session is not None
    assert broken_law(pipeline.statistics(), session.plan.graph.feeders) == []
    gate.open()
