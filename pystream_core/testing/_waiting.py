"""Waiting for what another thread does: with a condition and a deadline, never a sleep."""

from __future__ import annotations

import asyncio
import sys
import threading
import types
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from time import monotonic

PATIENCE = 5.0  # seconds; what takes longer in a test has failed

_STEP = 0.001


def wait_until(condition: Callable[[], object], timeout: float = PATIENCE) -> bool:
    """Whether the condition holds within the timeout; returns as soon as it does.

    For figures that nobody announces, such as those of a ledger. Where there is an event to
    wait for, wait for that.
    """
    deadline = monotonic() + timeout
    never = threading.Event()
    while not condition():
        if monotonic() > deadline:
            return False
        never.wait(_STEP)
    return True


def in_logging(frame: types.FrameType | None) -> bool:
    """Whether a signal came amid a log record, by the frame that its handler gets. What is raised
    there may leave the lock of a log's handler taken for ever (``logging`` before Python 3.13)."""
    while frame is not None:
        if frame.f_globals.get("__name__") == "logging":
            return True
        frame = frame.f_back
    return False


@types.coroutine
def next_turn() -> Generator[None, None, None]:
    """Awaited in a coroutine: whatever else the event loop has to do now goes first."""
    yield


async def stay_until(
    event: threading.Event, cancelled: Callable[[], object], timeout: float = 10 * PATIENCE
) -> None:
    """Stay in a coroutine until the event is set, whoever cancels it; for what does not listen.

    Args:
        event: ends the stay.
        cancelled: called for each cancellation, amid the handling of it; it may raise.
        timeout: seconds after which the stay ends as well, for a test that has failed.
    """
    deadline = monotonic() + timeout
    while not event.is_set() and monotonic() < deadline:
        try:
            await asyncio.sleep(_STEP)
        except asyncio.CancelledError:
            cancelled()


class Outcome:
    """What a function did in a thread of its own.

    Attributes:
        value: what it returned.
        error: what it raised, None when it returned.
    """

    def __init__(self, function: Callable[[], object]) -> None:
        self.value: object = None
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(function,), daemon=True)
        self.thread.start()

    def _run(self, function: Callable[[], object]) -> None:
        try:
            self.value = function()
        except BaseException as error:
            self.error = error

    def wait(self, timeout: float = PATIENCE) -> Outcome:
        """Wait for the end of the function.

        Raises:
            TimeoutError: it has not ended in time.
        """
        self.thread.join(timeout)
        if self.thread.is_alive():
            raise TimeoutError(f"the call did not return within {timeout:g} s")
        return self


def in_thread(function: Callable[[], object]) -> Outcome:
    """Run a function in a daemon thread of its own."""
    return Outcome(function)


def side_by_side(
    function: Callable[[int], object], threads: int, timeout: float = 4 * PATIENCE
) -> list[object]:
    """Run ``function(0)``, ``function(1)``… at once; their results, or the first error."""
    barrier = threading.Barrier(threads)

    def begin(number: int) -> object:
        barrier.wait(PATIENCE)
        return function(number)

    outcomes = [Outcome(lambda number=number: begin(number)) for number in range(threads)]  # type: ignore[misc]
    for outcome in outcomes:
        outcome.wait(timeout)
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error
    return [outcome.value for outcome in outcomes]


@contextmanager
def frantic_switching(interval: float = 1e-6) -> Iterator[None]:
    """Let the interpreter change threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(interval)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
