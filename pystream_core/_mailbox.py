"""A queue whose waits end in time.

Before Python 3.13 ``SimpleQueue.get`` with a timeout may wait for ever. It looks at what is left of
the time once more before it begins to wait, and after each signal; if it is over by then, since
other threads or the signal's handler have taken longer, the rest is negative, and that means no
limit there. A lock minds this. So a wait with a timeout is one for a lock here.

Who waits, for what, and what ends the wait: ``get`` for a value, ended by a ``put``; ``get_within``
the same, and no longer than its time. Why no wake-up is missed: who waits puts a lock among the
``sleepers`` before it looks whether there is a value, and ``put`` looks at these when the value is
there. Both are changed by one thread at a time; so either the one finds the value or the other the
lock. A Ctrl-C between a put and the look after it costs a second at most: a sleeper looks for
itself that often. But one at the beginning of ``put``, as of any call of Python's, comes before the
put. So where something has been changed or taken that the put is to follow, it is one call of C,
``post``, with the look written out behind it.
"""

from __future__ import annotations

from _thread import LockType, allocate_lock
from collections import deque
from queue import Empty, SimpleQueue
from threading import TIMEOUT_MAX
from time import monotonic
from typing import Final, TypeVar

T = TypeVar("T")

_LOOK: Final = 1.0  # seconds


class Mailbox(SimpleQueue[T]):
    """A ``queue.SimpleQueue`` with a wait that ends in time, for executors, placements and
    observers. Use ``get_within`` in place of ``get`` with a timeout, which before Python 3.13 may
    wait for ever.

    ``put`` never blocks and may be called from a destructor. Values come out in the order in which
    they were put in.

    Attributes:
        sleepers: a lock for each thread that waits in ``get_within``.
    """

    __slots__ = ("sleepers",)

    post = SimpleQueue.put
    """``put`` in one call of C. Whoever posts looks at the ``sleepers`` afterwards, and calls
    ``wake`` if there are any."""

    def __init__(self) -> None:
        self.sleepers: deque[LockType] = deque()

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:  # noqa: ARG002
        """Put a value in. Never blocks, whatever is said."""
        self.post(item)
        if self.sleepers:
            self.wake()

    put_nowait = put

    def get_within(self, seconds: float | None) -> T:
        """Take the next value; blocks until there is one, at most so many seconds (None: as long as
        it takes).

        Raises:
            Empty: there was none in that time.
        """
        if seconds is None:
            return self.get()
        until: float | None = None
        while True:
            try:
                return self.get_nowait()
            except Empty:
                now = monotonic()
                if until is None:
                    until = now + min(seconds, TIMEOUT_MAX)
                if until <= now:
                    raise
            self._sleep(min(until - now, _LOOK))

    def _sleep(self, seconds: float) -> None:
        """Wait until something may have been put in, at most so long."""
        lock = allocate_lock()
        lock.acquire()
        try:
            self.sleepers.append(lock)
            if self.empty():
                lock.acquire(True, seconds)
        finally:
            try:
                self.sleepers.remove(lock)
            except ValueError:  # it was woken
                pass

    def wake(self) -> None:
        """Let one of the sleepers look. Never blocks."""
        try:
            self.sleepers.popleft().release()
        except IndexError:
            pass
