"""The event loop of coroutine stages when the user's code, or asyncio, does what it should not."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pystream_core import CleanupError, Pipeline, Stage, StageError
from pystream_core.testing import PATIENCE, broken_law, in_thread, wait_until

MODES = ["serial", "threads"]


class Kept:
    """Something that a weak reference can be made to."""


class Life(Stage[Any]):
    """Runs a function of the test's in its coroutine at item 3; has an asynchronous life."""

    def __init__(self, at_three: Callable[[], object]) -> None:
        self.at_three = at_three
        self.cleanups = 0

    async def setup(self) -> None:
        await asyncio.sleep(0)

    async def __call__(self, item: Any) -> Any:
        if item == 3:
            self.at_three()
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        return item

    async def cleanup(self) -> None:
        await asyncio.sleep(0)
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
        await asyncio.sleep(0)
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
        while not let_go.is_set():
            try:
                entered.set()
                await asyncio.sleep(0.001)
            except asyncio.CancelledError:
                pass
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
