"""The event loop of coroutine stages: one thread, which ends when the last of them is done.

Assumed of asyncio: ``call_soon_threadsafe`` neither blocks nor takes a lock.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Coroutine
from queue import SimpleQueue
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    import asyncio

logger = logging.getLogger("PyStream")

_PATIENCE: Final = 2.0  # seconds for what the stages have left running to end


class Outcome(NamedTuple):
    """What a coroutine came to.

    Attributes:
        value: what it returned.
        error: what it raised, None when it returned.
        start_ns, end_ns: readings of ``time.perf_counter_ns``.
    """

    value: Any
    error: BaseException | None
    start_ns: int
    end_ns: int


Make: TypeAlias = Callable[[], Coroutine[Any, Any, Any]]
Done: TypeAlias = Callable[[Outcome], None]


class Call:
    """One coroutine, from before it is begun, so that an interrupt at any moment finds something
    to cancel. Its methods never block.

    Args:
        loop: where it is to run.
        make: called in the loop's thread; gives the coroutine.
        done: gets its outcome once, in the loop's thread; must not block.
    """

    __slots__ = ("_done", "_loop", "_make", "_task")

    def __init__(self, loop: asyncio.AbstractEventLoop, make: Make, done: Done) -> None:
        self._loop = loop
        self._make = make
        self._done = done
        self._task: asyncio.Task[Outcome] | None = None  # set and used in the loop's thread

    def begin(self) -> None:
        """Let it run."""
        self._loop.call_soon_threadsafe(self._begin)

    def cancel(self) -> None:
        """Ask it to end; its outcome comes all the same, also if it has not been begun."""
        self._loop.call_soon_threadsafe(self._cancel)

    def _begin(self) -> None:
        self._task = self._loop.create_task(_outcome(self._make))
        # also of one that is cancelled before its first step
        self._task.add_done_callback(lambda task: self._done(_outcome_of(task)))

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
        else:  # what begins it would have come before
            now = perf_counter_ns()
            self._done(Outcome(None, RuntimeError("interrupted before it began"), now, now))


async def _outcome(make: Make) -> Outcome:
    start = perf_counter_ns()
    try:
        return Outcome(await make(), None, start, perf_counter_ns())
    except BaseException as error:
        return Outcome(None, error, start, perf_counter_ns())


def _outcome_of(task: asyncio.Task[Outcome]) -> Outcome:
    try:
        return task.result()
    except BaseException as error:
        now = perf_counter_ns()
        return Outcome(None, error, now, now)


class EventLoop:
    """An asyncio event loop in a thread of its own.

    The thread starts with the first user that enters and ends with the last that leaves.
    ``_lock`` guards the number of users and is held while the thread starts or ends, which
    takes at most ``_PATIENCE``; coroutines never wait for it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def enter(self) -> None:
        """One more user."""
        with self._lock:
            if not self._users:
                self._begin()
            self._users += 1

    def _begin(self) -> None:
        import asyncio

        loop = asyncio.new_event_loop()  # what is posted to it before it runs is not lost
        thread = threading.Thread(target=_run, args=(loop,), name="pystream-asyncio", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no thread can be had
            loop.close()
            raise
        except BaseException:  # Ctrl-C: it may have started all the same
            _stop(loop)
            raise
        self._loop, self._thread = loop, thread

    def leave(self) -> None:
        """One user less. The last one ends the loop; waits at most 2 s for what is left."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
            if loop is None or thread is None:
                return
            _stop(loop)
            if thread is not threading.current_thread():
                thread.join(_PATIENCE)
                if thread.is_alive():
                    logger.warning(
                        "the event loop of the coroutine stages is left behind: something that "
                        "they started has not ended for %g s",
                        _PATIENCE,
                    )

    def forsake(self) -> None:
        """Nobody will leave any more: end. Never blocks, takes no lock."""
        loop = self._loop
        if loop is not None:
            _stop(loop)

    def here(self) -> bool:
        """Whether the calling thread is the loop's own."""
        return self._thread is threading.current_thread()

    def call(self, make: Make, done: Done) -> Call:
        """A coroutine that is to be begun; for users that have entered. See Call."""
        loop = self._loop
        assert loop is not None
        return Call(loop, make, done)

    def run(self, make: Make) -> Any:
        """Run a coroutine and wait for what it returns. Raises what it raises."""
        outcomes: SimpleQueue[Outcome] = SimpleQueue()
        call = self.call(make, outcomes.put)
        try:
            call.begin()
            outcome = outcomes.get()
        except BaseException:
            call.cancel()
            raise
        if outcome.error is not None:
            raise outcome.error
        return outcome.value


def _stop(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.call_soon_threadsafe(loop.stop)
    except RuntimeError:  # it has been closed already
        pass


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """The life of the loop's thread."""
    import asyncio

    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    except BaseException as error:
        logger.error("the event loop of the coroutine stages was ended", exc_info=error)
    finally:
        asyncio.set_event_loop(None)
        loop.close()
