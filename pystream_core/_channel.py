"""A bounded hand-off between threads, and a lock whose waiters can be sent away.

Both are built on ``queue.SimpleQueue`` alone, whose ``put`` never blocks and may be called
from a destructor. So closing needs no lock: it posts a token that every waiter passes on to
the next.
"""

from __future__ import annotations

from _thread import get_ident
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import TIMEOUT_MAX
from time import monotonic
from typing import Any, Generic, Literal, TypeVar

T = TypeVar("T")

WINDOW_NS = 1_000_000  # an "auto" channel holds about this much of its consumer's work
LARGEST = 1024  # bound of an "auto" channel, per worker
_SMALL = 16  # up to this bound every item is timed, above it every 64th
_SELDOM = 64

_CREDIT = None
_CLOSED = object()


class ChannelClosed(Exception):
    """The channel was closed while this thread waited, or before. Internal to executors."""


class Channel(Generic[T]):
    """Items that wait between one sender at a time and the workers of one stage.

    A sender takes a credit before it sends, a worker gives it back when it has handed the
    item on; so the bound counts the items that wait, those in the workers' hands and those
    that wait for their turn behind a slower one. With a ``capacity`` in numbers the bound is
    that number and one for each worker. With ``"auto"`` it follows the time that the workers
    take: about one millisecond of work, at least one item per worker.

    Who touches what: ``send`` and ``evict`` are called by one sender at a time; ``release``
    and ``resize`` by one worker at a time (the one that hands on); ``receive`` and
    ``reserve`` by any number. ``close`` may be called by anyone at any time, it only posts.

    Args:
        capacity: items that may wait besides those in the workers' hands, or ``"auto"``.
        workers: how many threads receive.
        spare: an ``"auto"`` channel keeps room for this many waiting items in any case;
            dropping the oldest needs one.
        closing: what receivers get when the channel is closed and empty.
    """

    __slots__ = (
        "_bound",
        "_closing",
        "_credits",
        "_debt",
        "_items",
        "_spare",
        "_workers",
        "receive",
    )

    def __init__(
        self,
        capacity: int | Literal["auto"] = "auto",
        *,
        workers: int = 1,
        spare: int = 0,
        closing: Any = None,
    ) -> None:
        self._items: SimpleQueue[Any] = SimpleQueue()
        self._credits: SimpleQueue[Any] = SimpleQueue()
        self._workers = workers
        self._spare = spare
        self._closing = closing
        self._debt = 0  # credits to keep back instead of giving them out again
        self._bound = workers + (spare if capacity == "auto" else capacity)
        for _ in range(self._bound):
            self._credits.put(_CREDIT)
        self.receive = self._items.get
        """Take the next item; blocks until there is one (``receive(timeout=…)``: at most that
        long, then ``queue.Empty``)."""

    @property
    def bound(self) -> int:
        """How many items the channel, the hands and the reorder buffer may hold now."""
        return self._bound

    def reserve(self, timeout: float | None = None) -> bool:
        """Take a credit, which the next ``send`` spends.

        Blocks until there is one, or at most ``timeout`` seconds; False when there was none.

        Raises:
            ChannelClosed: the channel is closed, and the credits left from before are used up.
        """
        try:
            if timeout is None:
                token = self._credits.get()
            elif timeout <= 0:
                token = self._credits.get_nowait()
            else:
                token = self._credits.get(True, min(timeout, TIMEOUT_MAX))
        except Empty:
            return False
        if token is _CLOSED:
            self._credits.put(_CLOSED)
            raise ChannelClosed
        return True

    def cancel(self) -> None:
        """Give back a credit taken with ``reserve`` and not spent. Never blocks."""
        self._credits.put(_CREDIT)

    def send(self, item: T) -> None:
        """Put an item in, on a credit taken before. Never blocks."""
        self._items.put(item)

    def sender(self, refused: Callable[[T], None]) -> Callable[[T], None]:
        """``reserve`` and ``send`` in one call, for the one sender: blocks until there is room.

        Args:
            refused: gets the item when the channel is closed instead.
        """
        take, back, put = self._credits.get, self._credits.put, self._items.put

        def send(item: T) -> None:
            if take() is _CREDIT:
                put(item)
            else:
                back(_CLOSED)
                refused(item)

        return send

    def post(self, token: Any) -> None:
        """Put in something that needs no credit: a mark that travels with the items."""
        self._items.put(token)

    def evict(self) -> Any:
        """Take the oldest waiting item out again, credit and all; None when none waits."""
        try:
            return self._items.get_nowait()
        except Empty:
            return None

    def release(self) -> None:
        """Give one credit back: an item has been handed on or has ended. Never blocks."""
        if self._debt:
            self._debt -= 1
        else:
            self._credits.put(_CREDIT)

    def resize(self, cycle_ns: int) -> int:
        """Fit the bound of an ``"auto"`` channel to the time one worker takes for one item.

        It at most doubles at a time and shrinks at once, taking back the credits that nobody
        uses. Never blocks.

        Args:
            cycle_ns: time from taking an item to being ready for the next, in nanoseconds,
                the wait to hand it on included. With the service time alone a trivial stage
                before a slow one would hoard hundreds of items.

        Returns:
            after how many further items to time one again.
        """
        each = min(max(WINDOW_NS // max(cycle_ns, 1), 1), LARGEST)
        target = min(each * self._workers + self._spare, self._bound * 2)
        change = target - self._bound
        self._bound = target
        if change > 0:
            forgiven = min(change, self._debt)
            self._debt -= forgiven
            for _ in range(change - forgiven):
                self._credits.put(_CREDIT)
        elif change < 0:
            self._debt += -change - self._take_back(-change)
        return 1 if target <= _SMALL * self._workers else _SELDOM

    def close(self) -> None:
        """Send every waiter away, now and later. Items inside can still be received; behind
        them receivers find the closing token. Never blocks, takes no lock."""
        self._credits.put(_CLOSED)
        self._items.put(self._closing)

    def refuse(self) -> None:
        """Send waiting senders away, now and later; receivers do not notice."""
        self._credits.put(_CLOSED)

    def sweep(self) -> list[Any]:
        """Take out everything that is left. For the closer, when senders and receivers are
        gone."""
        left = []
        while (item := self.evict()) is not None:
            left.append(item)
        return left

    def _take_back(self, wanted: int) -> int:
        taken = 0
        try:
            while taken < wanted:
                if self._credits.get_nowait() is _CLOSED:
                    self._credits.put(_CLOSED)
                    break
                taken += 1
        except Empty:
            pass
        return taken


class Baton:
    """A lock that can be closed: waiters, now and later, are sent away with ChannelClosed.

    ``close`` only posts to a queue, so it may run in a destructor and while the lock is held.

    Why ``wait_free`` cannot miss the release: the closer sets ``closed`` before it looks at
    ``owner``, the holder clears ``owner`` before it looks at ``closed``; so either the closer
    finds the baton free or the holder posts to ``_freed``. After ``closed`` nobody takes the
    baton for longer than it takes to see that. A post may come late, from the one before the
    holder: so it only says to look again. Whoever finds the baton free posts for the next.
    """

    __slots__ = ("_freed", "_tokens", "closed", "owner")

    def __init__(self) -> None:
        self._tokens: SimpleQueue[Any] = SimpleQueue()
        self._freed: SimpleQueue[None] = SimpleQueue()
        self._tokens.put(_CREDIT)
        self.closed = False
        self.owner: int | None = None  # thread identifier of the holder

    def acquire(self, timeout: float | None = None) -> bool:
        """Take the baton; blocks until it is free, at most ``timeout`` seconds.

        Raises:
            ChannelClosed: it was closed.
        """
        try:
            if timeout is None:
                token = self._tokens.get()
            elif timeout <= 0:
                token = self._tokens.get_nowait()
            else:
                token = self._tokens.get(True, min(timeout, TIMEOUT_MAX))
        except Empty:
            return False
        if token is _CLOSED:
            self._tokens.put(_CLOSED)
            raise ChannelClosed
        self.owner = get_ident()
        if self.closed:
            self.release()
            raise ChannelClosed
        return True

    def release(self) -> None:
        """Give the baton to the next in line. Never blocks."""
        self.owner = None
        self._tokens.put(_CREDIT)
        if self.closed:
            self._freed.put(None)

    def mine(self) -> bool:
        """Whether the calling thread holds the baton."""
        return self.owner == get_ident()

    def close(self) -> None:
        """Send all waiters away, now and later; the holder goes on. Never blocks."""
        self.closed = True
        self._tokens.put(_CLOSED)

    def wait_free(self, timeout: float) -> bool:
        """After ``close``: wait until nobody holds the baton, at most ``timeout`` seconds."""
        deadline = monotonic() + min(timeout, TIMEOUT_MAX)
        try:
            while self.owner is not None:
                self._freed.get(True, max(deadline - monotonic(), 0.000_001))
        except Empty:
            return self.owner is None
        self._freed.put(None)
        return True
