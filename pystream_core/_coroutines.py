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

from ._errors import describe_error

if TYPE_CHECKING:
    import asyncio

logger = logging.getLogger("PyStream")

# seconds for what the stages have left running to end; less than cleanups get in any case, else
# the stage would be taken for stuck
_PATIENCE: Final = 1.0


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

    Why its outcome always comes: whoever begins it puts it into ``waiting`` before posting it
    to the loop, and the loop's thread closes the loop before it looks there. So what is posted
    runs, or is found there, or the closed loop refuses it.

    Args:
        loop: where it is to run.
        waiting: the calls of that loop that have no outcome yet.
        make: called in the loop's thread; gives the coroutine.
        done: gets its outcome once, in the loop's thread, or if that has ended in the one that
            begins it; must not block.
    """

    __slots__ = ("_done", "_loop", "_make", "_task", "_waiting")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, waiting: set[Call], make: Make, done: Done
    ) -> None:
        self._loop = loop
        self._waiting = waiting
        self._make = make
        self._done = [done]  # taken out by whoever gives it its outcome
        self._task: asyncio.Task[Outcome] | None = None  # set and used in the loop's thread

    def begin(self) -> None:
        """Let it run."""
        self._waiting.add(self)
        if not _post(self._loop, self._begin):
            self.lose()

    def cancel(self) -> None:
        """Ask it to end; its outcome comes all the same, also if it has not been begun."""
        if not _post(self._loop, self.cancel_here):
            self.lose()

    def cancel_here(self) -> None:
        """The same, in the loop's thread."""
        if self._task is not None:
            self._task.cancel()
        else:  # what begins it would have come before
            self._give(_failed(RuntimeError("interrupted before it began")))

    def lose(self) -> None:
        """The loop has ended: give it an outcome, if it still waits for one."""
        self._give(_failed(RuntimeError("the event loop of the coroutine stages has ended")))

    def _begin(self) -> None:
        if not self._done:
            return
        coroutine = _outcome(self._make)
        try:
            self._task = self._loop.create_task(coroutine)
        except BaseException as error:  # a task factory of the user's
            coroutine.close()
            self._give(_failed(error))
            return
        # also of one that is cancelled before its first step
        self._task.add_done_callback(lambda task: self._give(_outcome_of(task)))

    def _give(self, outcome: Outcome) -> None:
        try:
            done = self._done.pop()
        except IndexError:  # it has been given
            return
        self._waiting.discard(self)
        self._task = None  # which holds what it came to
        done(outcome)


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
        return _failed(error)


def _failed(error: BaseException) -> Outcome:
    """The outcome of a coroutine that was not called."""
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
        self._life: _Life | None = None

    def enter(self) -> None:
        """One more user."""
        with self._lock:
            if not self._users:
                self._life = _begun()
            self._users += 1

    def leave(self) -> None:
        """One user less. The last one ends the loop; waits at most 1 s for what is left."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
            life, self._life = self._life, None
            assert life is not None  # while there are users
            life.end()
            if life.thread is not threading.current_thread():
                life.thread.join(_PATIENCE)
                if life.thread.is_alive():
                    logger.warning(
                        "the event loop of the coroutine stages is left behind: something that "
                        "they started has not ended for %g s",
                        _PATIENCE,
                    )

    def forsake(self) -> None:
        """Nobody will leave any more: end. Never blocks, takes no lock."""
        life = self._life
        if life is not None:
            life.end()

    def here(self) -> bool:
        """Whether the calling thread is the loop's own."""
        life = self._life
        return life is not None and life.thread is threading.current_thread()

    def call(self, make: Make, done: Done) -> Call:
        """A coroutine that is to be begun; for users that have entered. See Call."""
        life = self._life
        assert life is not None
        return Call(life.loop, life.waiting, make, done)

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
        return value_of(outcome)


def value_of(outcome: Outcome) -> Any:
    """What a coroutine returned. Raises what it raised."""
    if outcome.error is None:
        return outcome.value
    try:
        raise outcome.error
    finally:
        del outcome  # else this frame and the exception hold each other


class _Life:
    """An event loop and its thread, from the first user to the last.

    Attributes:
        waiting: the calls that have been begun and have no outcome yet.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.waiting: set[Call] = set()
        self.thread = threading.Thread(target=self._run, name="pystream-asyncio", daemon=True)
        self._over = False
        self._serving = True  # used in the loop's thread

    def end(self) -> None:
        """Let the thread end. Never blocks, takes no lock."""
        self._over = True
        _post(self.loop, self._stop)

    def _stop(self) -> None:
        if self._serving:  # else it ends already, and must not be kept from that
            self.loop.stop()

    def _run(self) -> None:
        import asyncio

        loop = self.loop
        try:
            asyncio.set_event_loop(loop)
            self._serve()
            loop.set_task_factory(None)  # one of the user's may refuse
            self._finish(_cancel_all())
            self._finish(loop.shutdown_asyncgens())
            self._finish(loop.shutdown_default_executor())
            asyncio.set_event_loop(None)
        except BaseException as error:
            logger.error("the event loop of the coroutine stages was ended", exc_info=error)
        finally:
            loop.close()
            for call in list(self.waiting):
                call.lose()

    def _serve(self) -> None:
        """Run what is posted until ``end``.

        Asyncio lets an exit or interrupt out that a task or callback of the user's raises, and
        ends when one of them calls ``stop()``. What is in flight fails then, and the loop goes
        on, since stages have to be cleaned up in it.
        """
        while not self._over:
            error: BaseException | None = None
            try:
                self.loop.run_forever()
            except (KeyboardInterrupt, SystemExit) as raised:
                error = raised
            if not self._over:
                logger.error(
                    "what a coroutine stage has started %s the event loop of the coroutine "
                    "stages; every coroutine in flight is cancelled",
                    f"raised {describe_error(error)} in" if error else "stopped",
                    exc_info=error,
                )
                for call in list(self.waiting):
                    self.loop.call_soon(call.cancel_here)
        self._serving = False

    def _finish(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        try:
            self.loop.run_until_complete(coroutine)
        except BaseException as error:
            coroutine.close()
            logger.error("at the end of the event loop of the coroutine stages", exc_info=error)


def _begun() -> _Life:
    """An event loop and its thread, which is started."""
    import asyncio

    loop = asyncio.new_event_loop()  # what is posted to it before it runs is not lost
    life = _Life(loop)
    try:
        life.thread.start()
    except RuntimeError:  # no thread can be had
        loop.close()
        raise
    except BaseException:  # Ctrl-C: it may have started all the same
        life.end()
        raise
    return life


async def _cancel_all() -> None:
    """End every other task."""
    import asyncio

    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def _post(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> bool:
    """Have it called in the loop's thread; False when the loop has been closed."""
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:
        return False
    return True
