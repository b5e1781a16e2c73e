"""A bounded hand-off between threads, and a lock whose waiters can be sent away.

Both are built on ``Mailbox`` and ``collections.deque`` alone, whose ``put`` and ``append`` never
block and may be called from a destructor. So closing needs no lock: it posts a token that every
waiter passes on to the next.
"""

from __future__ import annotations

from _thread import get_ident
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import Empty
from threading import TIMEOUT_MAX
from time import monotonic, sleep
from typing import Any, Generic, Literal, TypeVar

from ._mailbox import Mailbox

T = TypeVar("T")

WINDOW_NS = 1_000_000  # an "auto" channel holds about this much of its consumer's work
LARGEST = 1024  # bound of an "auto" channel, per worker
LARGEST_LOT = 64  # most credits that are handed over, and may lie with a sender, at once
_WAKING_NS = 80_000  # what waking a thread may take, which is no sign of hunger yet
# Waits for more than this share of its time and so many ns of each cycle: gets so many to spare.
_HUNGRY = ((0.06, _WAKING_NS, 3), (0.04, 0, 1))
_FED = 0.0075  # share below which it does not need them any more
_MEMORY = 4  # about so many items make that share
_SMALL = 16  # up to this bound every item is timed, above it every 64th
_SELDOM = 64

_FREE = None  # the token of a baton that nobody holds
_CLOSED = object()
_WHILE = 0.05  # seconds; from taking a token to saying so takes some microseconds


class ChannelClosed(Exception):
    """The channel was closed while this thread waited, or before. Internal to executors."""


class Channel(Generic[T]):
    """Items that wait between one sender at a time and one receiver at a time.

    A sender spends a credit for each item, a worker gives it back when it has handed the
    item on; so the bound counts the items that wait, those in the workers' hands and those
    that wait for their turn behind a slower one. With a ``capacity`` in numbers the bound is
    that number and one for each worker. With ``"auto"`` it follows the time that the workers
    take: about one millisecond of work, at least one item per worker.

    Items lie in a deque, where they can be seen at once, and credits travel in lots: while
    there are items and credits a hand-off costs an ``append`` and a ``popleft``, and nobody is
    woken. A loop that cannot afford a call for that uses the attributes in place of ``send``
    and ``receive``; see there for what they do.

    Who touches what: ``room`` belongs to the sender, who holds a lock where there are several;
    ``reserve``, ``send`` and ``evict`` are called by one sender at a time, ``ask`` by any
    number; ``receive`` and ``wait`` by one receiver at a time, who alone takes from the front but
    for ``evict``; ``release`` and ``resize`` by one worker at a time (the one that hands on).
    ``post`` and ``close`` may be called by anyone at any time, they only post.

    Why no wake-up is missed: a receiver sets ``parked`` before it looks into the deque once
    more, a sender looks at ``parked`` after its ``append``. Both touch the deque in between,
    which lets in one at a time; so either the receiver finds the item or the sender finds the
    flag. Several who find it post a token each: one too many makes a receiver look in vain.

    Args:
        capacity: items that may wait besides those in the workers' hands, or ``"auto"``.
        workers: how many threads receive.
        spare: an ``"auto"`` channel keeps room for this many waiting items in any case;
            dropping the oldest needs one.
        closing: what receivers get when the channel is closed and empty.
        ring: wakes a receiver that waits elsewhere, not in ``receive``; must not block, and be one
            call of C, since Ctrl-C comes at the beginning of one of Python: see ``Bell.ringer``.

    Attributes:
        items: what waits, the oldest first.
        parked: the receiver sleeps, or is about to: who appends calls ``wake``.
        room: how many items the sender may append before it has to ``ask`` again.
    """

    __slots__ = (
        "_bound",
        "_closing",
        "_credits",
        "_debt",
        "_ready",
        "_ring",
        "_spare",
        "_waits",
        "_wakeups",
        "_workers",
        "items",
        "parked",
        "room",
    )

    def __init__(
        self,
        capacity: int | Literal["auto"] = "auto",
        *,
        workers: int = 1,
        spare: int = 0,
        closing: Any = None,
        ring: Callable[[], object] | None = None,
    ) -> None:
        self.items: deque[Any] = deque()
        self.parked = False
        self.room = 0
        self._wakeups: Mailbox[None] = Mailbox()
        self._ring = ring or partial(self._wakeups.post, None)
        self._credits: Mailbox[Any] = Mailbox()  # lots of them, as numbers
        self._workers = workers
        self._spare = spare
        self._closing = closing
        self._waits = 0.0  # the share of its time that the consumer has waited for items
        self._ready = 0  # how many lie ready because that was too much
        self._debt = 0  # credits to keep back instead of giving them out again
        self._bound = workers + (spare if capacity == "auto" else capacity)
        self._credits.put(self._bound)

    @property
    def bound(self) -> int:
        """How many items the channel, the hands and the reorder buffer may hold now."""
        return self._bound

    @property
    def lot(self) -> int:
        """How many credits an ``"auto"`` channel's worker may hold back, to give them all at
        once; with a small bound none, since the sender may be waiting for that very one."""
        return min(self._bound // 4, LARGEST_LOT)

    # -- the sender's end --------------------------------------------------------------

    def ask(self, timeout: float | None = None) -> int | None:
        """Wait for credits, which the one who sends adds to ``room``.

        Blocks until there are some, or at most ``timeout`` seconds. Any number of threads may
        wait.

        Returns:
            how many; 0 when somebody wants the caller to look at ``room``; None when there was
            nothing in time.

        Raises:
            ChannelClosed: the channel is closed, and the credits left from before are used up.
        """
        try:
            if timeout is None:
                lot = self._credits.get()
            elif timeout <= 0:
                lot = self._credits.get_nowait()
            else:
                lot = self._credits.get_within(timeout)
        except Empty:
            return None
        if lot is _CLOSED:
            self._credits.put(_CLOSED)
            raise ChannelClosed
        return lot  # type: ignore[no-any-return]

    def call(self) -> None:
        """Let one of those who wait in ``ask`` look at ``room``. Never blocks."""
        self._credits.put(0)

    def reserve(self, timeout: float | None = None) -> bool:
        """Take a credit, which the next ``send`` spends.

        Blocks until there is one, or at most ``timeout`` seconds; False when there was none.

        Raises:
            ChannelClosed: the channel is closed, and the credits left from before are used up.
        """
        while not self.room:
            lot = self.ask(timeout)
            if lot is None:
                return False
            self.room = lot
        self.room -= 1
        return True

    def cancel(self) -> None:
        """Give back a credit taken with ``reserve`` and not spent. Never blocks."""
        self._credits.put(1)

    def send(self, item: T) -> None:
        """Put an item in, on a credit taken before. Never blocks."""
        self.items.append(item)
        if self.parked:
            self.wake()

    def post(self, token: Any) -> None:
        """Put in something that needs no credit: a mark that travels with the items."""
        self.items.append(token)
        if self.parked:
            self.wake()

    def sender(self, refused: Callable[[T], None]) -> Callable[[T], None]:
        """``reserve`` and ``send`` in one call, for the one sender: blocks until there is room.

        Args:
            refused: gets the item when the channel is closed instead.
        """
        append = self.items.append

        def send(item: T) -> None:
            if not self.room:
                try:
                    self.reserve()
                except ChannelClosed:
                    refused(item)
                    return
            else:
                self.room -= 1
            append(item)
            if self.parked:
                self.wake()

        return send

    def wake(self) -> None:
        """Wake the receiver, after an ``append`` that was followed by a look at ``parked``.
        Never blocks."""
        self.parked = False
        self._ring()
        if self._wakeups.sleepers:
            self._wakeups.wake()

    def evict(self) -> Any:
        """Take the oldest waiting item out again, credit and all; None when none waits."""
        try:
            return self.items.popleft()
        except IndexError:
            return None

    # -- the receiver's end ------------------------------------------------------------

    def receive(self, timeout: float | None = None) -> Any:
        """Take the next item; blocks until there is one.

        Args:
            timeout: seconds to wait at most.

        Raises:
            Empty: there was none in that time.
        """
        try:
            return self.items.popleft()
        except IndexError:
            pass
        deadline = None if timeout is None else monotonic() + min(timeout, TIMEOUT_MAX)
        while True:
            self.parked = True
            try:
                item = self.items.popleft()
            except IndexError:
                pass
            else:
                self.parked = False
                return item
            if deadline is None:
                self._wakeups.get()
            else:
                self._wakeups.get_within(deadline - monotonic())

    def wait(self) -> None:
        """Blocks until there is something to receive; ``close`` puts something there."""
        while True:
            self.parked = True
            if self.items:
                self.parked = False
                return
            self._wakeups.get()

    def release(self, count: int = 1) -> None:
        """Give credits back: so many items have been handed on or have ended. Never blocks."""
        if self._debt:
            kept = min(self._debt, count)
            self._debt -= kept
            count -= kept
            if not count:
                return
        self._credits.post(count)
        if self._credits.sleepers:
            self._credits.wake()

    def resize(self, cycle_ns: int, waited_ns: int = 0) -> int:
        """Fit the bound of an ``"auto"`` channel to the time one worker takes for one item.

        It at most doubles at a time and shrinks at once, taking back the credits that nobody
        uses. A consumer that has to wait for items for more than a small share of its time has
        one to three more lie ready: else neighbours of about the same speed would wait for one
        another in turn. One that waits for its follower, or that has always an item there, does
        not, so nothing queues up in front of a bottleneck. Never blocks.

        Args:
            cycle_ns: time from taking an item to being ready for the next, in nanoseconds,
                the wait to hand it on included. With the service time alone a trivial stage
                before a slow one would hoard hundreds of items.
            waited_ns: how long it had waited for the item.

        Returns:
            after how many further items to time one again.
        """
        cycle_ns = max(cycle_ns, 1)
        each = min(max(WINDOW_NS // cycle_ns, 1), LARGEST)
        self._waits += (waited_ns / (waited_ns + cycle_ns) - self._waits) / _MEMORY
        if self._waits <= _FED:
            self._ready = 0
        for share, waking_ns, ready in _HUNGRY:
            if self._waits > share + waking_ns / cycle_ns:
                self._ready = max(self._ready, ready)
        target = min(each * self._workers + self._spare + self._ready, self._bound * 2)
        change = target - self._bound
        if change > 0:
            forgiven = min(change, self._debt)
            self._debt -= forgiven
            self._bound += forgiven
            self._give_out(change - forgiven)
        elif change < 0:  # Ctrl-C leaves rather too many credits than too few
            self._bound = target
            self._debt += -change - self._take_back(-change)
        return 1 if target <= _SMALL * self._workers else _SELDOM

    # -- the end -----------------------------------------------------------------------

    def close(self) -> None:
        """Send every waiter away, now and later. Items inside can still be received; behind
        them receivers find the closing token. Never blocks, takes no lock."""
        self.refuse()
        self.post(self._closing)

    def refuse(self) -> None:
        """Send waiting senders away, now and later; receivers do not notice."""
        self._credits.post(_CLOSED)
        if self._credits.sleepers:
            self._credits.wake()

    def sweep(self) -> list[Any]:
        """Take out everything that is left. For the closer, when senders and receivers are
        gone."""
        left = []
        while True:  # from the end: a reader may be about to take the first
            try:
                left.append(self.items.pop())
            except IndexError:
                break
        left.reverse()
        return left

    def _give_out(self, count: int) -> None:
        """In lots, so that those not yet with the sender can be taken back. Each is given when it
        counts, whenever Ctrl-C comes."""
        for begin in range(0, count, LARGEST_LOT):
            lot = min(count - begin, LARGEST_LOT)
            self._bound += lot
            self._credits.post(lot)
            if self._credits.sleepers:
                self._credits.wake()

    def _take_back(self, wanted: int) -> int:
        left = wanted
        back: list[Any] = []  # what is not ours to keep
        try:
            while left > 0 and not back:
                lot = self._credits.get_nowait()
                if lot is _CLOSED or not lot:
                    back.append(lot)
                else:
                    left -= lot
        except Empty:
            pass
        if left < 0:
            back.append(-left)
            left = 0
        for lot in back:
            self._credits.put(lot)
        return wanted - left


class Baton:
    """A lock that can be closed: waiters, now and later, are sent away with ChannelClosed.

    Whoever cannot afford two calls does as ``acquire`` and ``release`` do: takes None out of
    ``tokens``, sets ``owner``, looks at ``closed``; clears ``owner``, posts None, and calls
    ``tell`` if ``closed`` is set by then or there are sleepers. Another token is put back: it is
    closed.

    Ctrl-C comes at the end of a call of C or at the beginning of one of Python, so in the thread
    that it comes to, whatever is to be done in any case is done without one in between: from the
    token to ``owner``, and from the ``finally`` to the token's return. Only the end of the taking
    itself remains; see ``mend``.

    ``close`` only posts to a queue, so it may run in a destructor and while the lock is held.

    Why ``wait_free`` cannot miss the release: the closer sets ``closed`` before it looks at
    ``owner``, the holder clears ``owner`` before it looks at ``closed``; so either the closer
    finds the baton free or the holder posts to ``_freed``. After ``closed`` nobody takes the
    baton for longer than it takes to see that. A post may come late, from the one before the
    holder: so it only says to look again. Whoever finds the baton free posts for the next.
    """

    __slots__ = ("_freed", "closed", "owner", "tokens")

    def __init__(self) -> None:
        self.tokens: Mailbox[Any] = Mailbox()
        self._freed: Mailbox[None] = Mailbox()
        self.tokens.put(_FREE)
        self.closed = False
        self.owner: int | None = None  # thread identifier of the holder

    def acquire(self, timeout: float | None = None) -> bool:
        """Take the baton; blocks until it is free, at most ``timeout`` seconds.

        Raises:
            ChannelClosed: it was closed.
        """
        me = get_ident()
        try:
            if timeout is None:
                token = self.tokens.get()
            elif timeout <= 0:
                token = self.tokens.get_nowait()
            else:
                token = self.tokens.get_within(timeout)
            if token is _FREE:
                self.owner = me
        except Empty:
            return False
        except BaseException:
            self.mend()
            raise
        if token is _CLOSED:
            self.tokens.post(_CLOSED)
            if self.tokens.sleepers:
                self.tokens.wake()
            raise ChannelClosed
        if self.closed:
            self.release()
            raise ChannelClosed
        return True

    def release(self) -> None:
        """Give the baton to the next in line. Never blocks."""
        self.owner = None
        self.tokens.post(_FREE)
        if self.closed or self.tokens.sleepers:
            self.tell()

    def mend(self) -> None:
        """Ctrl-C has come as the caller waited for the baton, or just as he had taken it.

        It is he who has it if for a while nobody holds it and it is not to be had: then it is
        given back. Blocks for that while at most.
        """
        until = monotonic() + _WHILE
        while True:
            if self.owner is not None or not self.tokens.empty():
                return
            if monotonic() >= until:
                break
            sleep(_WHILE / 10)
        self.tokens.put(_FREE)

    def tell(self) -> None:
        """The baton has been given back: tell the closer, and who waits with a timeout. Never
        blocks."""
        if self.closed:
            self._freed.put(None)
        self.tokens.wake()

    def mine(self) -> bool:
        """Whether the calling thread holds the baton."""
        return self.owner == get_ident()

    def close(self) -> None:
        """Send all waiters away, now and later; the holder goes on. Never blocks."""
        self.closed = True
        self.tokens.post(_CLOSED)
        if self.tokens.sleepers:
            self.tokens.wake()

    def wait_free(self, timeout: float) -> bool:
        """After ``close``: wait until nobody holds the baton, at most ``timeout`` seconds."""
        deadline = monotonic() + min(timeout, TIMEOUT_MAX)
        try:
            while self.owner is not None:
                self._freed.get_within(deadline - monotonic())
        except Empty:
            return self.owner is None
        self._freed.put(None)
        return True
