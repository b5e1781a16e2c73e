"""The shared memory that the main process owns, in blocks of a few sizes.

A block is lent as a lease: an exporter over its bytes. Every view of the bytes here, every array
made of one, a call under way and a child that still looks at the block hold the exporter. When
the last of them lets go the block comes back, and not before; nobody has to say so.

Blocks are cut out of nameless segments (descriptors are scarcer than blocks). A full pool makes
whoever needs a block wait for one to come back, a quarter of a second at most: a reader may keep
all results in a list, and then none ever does. From then on, until one has come back, nobody
waits, and what finds no block travels through the pipe, counted. The blocks of items come back all
the time, so after each further wait in vain nobody waits for twice as long. Who looks after several
stages makes a wish instead, and goes on.
"""

from __future__ import annotations

import bisect
import functools
import logging
import os
import threading
import weakref
from dataclasses import dataclass
from queue import Empty
from time import monotonic
from typing import Any, Final

from pystream_core import Mailbox, PlanError

from ._memory import Map, address_of, copy, make_nameless, view_of
from ._wire import Range

logger = logging.getLogger("PyStream")

VARIABLE: Final = "PYSTREAM_SHARED_MEMORY_MB"
_DEFAULT_MB: Final = 256
_PATIENCE: Final = 0.25  # seconds
_GLANCE: Final = 0.02  # seconds; a block that someone else has sorted in wakes nobody
_LONGEST_PAUSE: Final = 8.0  # seconds
_PIPE: Final = 2e-9  # seconds that a byte takes through the pipe, there and on
_PAGE: Final = 65536
_SEGMENT: Final = 4 << 20  # bytes; larger blocks have a segment each
_LARGE: Final = 1 << 20  # bytes; such blocks get huge pages when they were lent so
_OFTEN: Final = 16  # times, of the last
_RECENTLY: Final = 128


class Segment:
    """Memory cut into blocks of one size.

    Attributes:
        pool: that it belongs to; None when its blocks cannot be sent any more.
    """

    def __init__(self, pool: Pool, number: int, block_size: int) -> None:
        self.pool: Pool | None = pool
        self.number = number
        self.block_size = block_size
        self.blocks = max(1, _SEGMENT // block_size)
        self.size = self.blocks * block_size
        self.descriptor = make_nameless(self.size)
        try:
            self.map = Map(self.descriptor, self.size)
        except BaseException:
            os.close(self.descriptor)
            raise
        self.lent: dict[int, weakref.ref[Any]] = {}  # the exporters, by block
        self.retired: set[int] = set()  # blocks that are not lent again
        self._often = self._since = 0  # lent so many times, since that one of the pool's
        self._settled = block_size < _LARGE

    def lent_at(self, time: int) -> None:
        """It is lent, and so many times some block was. One that is lent again and again is worth
        the moment that huge pages take."""
        if self._settled:
            return
        if time - self._since > _RECENTLY:
            self._often, self._since = 0, time
        self._often += 1
        if self._often == _OFTEN:
            self._settled = True
            self.map.use_huge_pages()

    def close(self) -> None:
        """It can no longer be sent. The memory lives on as long as someone sees a block of it."""
        self.pool = None
        os.close(self.descriptor)


class Lease:
    """A block that is in use, as it is for as long as ``exporter`` lives.

    Attributes:
        segment, index: where it lies.
        key: which block, for messages.
    """

    __slots__ = ("exporter", "index", "key", "segment")

    def __init__(self, segment: Segment, index: int, exporter: Any) -> None:
        self.segment = segment
        self.index = index
        self.exporter = exporter
        self.key = (segment.number, index)

    @property
    def address(self) -> int:
        """Where its bytes lie in this process."""
        return self.segment.map.address + self.index * self.segment.block_size

    def range(self, offset: int, length: int) -> Range:
        """A piece of it, as messages say it."""
        return Range(self.segment.number, self.index * self.segment.block_size + offset, length)

    def offset_of(self, piece: Range) -> int:
        """Where a piece begins in it."""
        return piece.offset - self.index * self.segment.block_size

    def view(self, piece: Range) -> memoryview:
        """The bytes of a piece of it, which keep it lent."""
        begin = self.offset_of(piece)
        return view_of(self.exporter)[begin : begin + piece.length]


@dataclass(frozen=True, kw_only=True)
class PoolStatistics:
    """What the shared memory of this process is doing.

    Attributes:
        limit: bytes that it may have.
        size: bytes that it has now, in blocks free and lent.
        lent: blocks in use.
        waits: how often someone had to wait for a block.
        refused: how often none could be had, so that the pipe was taken.
    """

    limit: int
    size: int
    lent: int
    waits: int
    refused: int


class Pool:
    """The blocks of this process.

    ``_turn`` is held by the one that takes a block and may wait for one, so those who wait do so in
    turn; who cannot wait takes what is there. ``_lock`` guards the books, for a few instructions;
    only ``statistics`` reads them without it, in copies. Ctrl-C amid these may cost a block, which
    then goes with the last stage; so what is lent is not counted, but looked for. Blocks come back
    through ``_returned`` from wherever the last view is let go, in a destructor too: that only
    posts.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._turn = threading.Lock()
        self._lock = threading.RLock()  # a destructor amid the books may fork
        self._returned: Mailbox[tuple[int, int]] = Mailbox()
        self._segments: dict[int, Segment] = {}
        self._starts: list[tuple[int, int]] = []  # (address, number), sorted
        # Blocks by size, sorted: the one that was made first is taken first. So the same few are in
        # turn for as long as they will do, and these are soon in huge pages and in the caches.
        self._free: dict[int, list[tuple[int, int]]] = {}
        self._size = 0
        self._numbers = self._leases = 0
        self._users: weakref.WeakSet[object] = weakref.WeakSet()  # some are just forgotten
        _pools.add(self)
        self._starved = False
        self._starved_until = 0.0  # at least
        self._pause = 0.0  # seconds that nobody waits after the next wait in vain
        self._told = False  # that the system gives no more memory
        self._waits = self._refused = 0
        self.generation = 0  # of the set of segments that are gone

    def enter(self, user: object) -> None:
        """A placed stage begins to use it."""
        with self._lock:
            self._users.add(user)

    def leave(self, user: object) -> None:
        """A placed stage is done. After the last one memory goes back to the system, what is
        still seen as soon as it is not."""
        with self._lock:
            self._users.discard(user)
            if len(self._users):
                return
            self._collect()  # nobody is left to wait for these
            for segment in list(self._segments.values()):
                self._drop(segment)

    def lease(self, size: int) -> Lease | None:
        """A block of at least so many bytes.

        Blocks while the pool is full, at most a quarter of a second; see ``Wish`` for those who
        cannot. None: there is none.
        """
        return self._handed_out(self._lease(size))

    def _lease(self, size: int) -> Lease | None:
        block_size = _class_of(size)
        with self._turn:
            found = self._take(block_size)
            if found is not None:
                return found
            if not self.begin_waiting(size):
                self.refuse()
                return None
            deadline = monotonic() + _PATIENCE
            while True:
                if found is not None:
                    break
                left = deadline - monotonic()
                if self._starved or left <= 0:
                    self.refuse(starved=True)
                    return None
                self._await_one(min(left, _GLANCE))
                found = self._take(block_size)
            self._pause = 0.0
            return found

    def lease_ahead(self, size: int) -> Lease | None:
        """The same for something that waits for its turn: no block beyond half of the limit, so
        that there is room for what is under way, and none when no stage is left to take it. Never
        waits."""
        if not self._turn.acquire(blocking=False):
            return None
        try:
            lease = self._take(_class_of(size), ahead=True)
        finally:
            self._turn.release()
        return self._handed_out(lease)

    def lease_now(self, size: int) -> Lease | None:
        """The same for someone who cannot wait; not counted."""
        return self._handed_out(self._take(_class_of(size)))

    def _handed_out(self, lease: Lease | None) -> Lease | None:
        """Without a lock: huge pages take a moment."""
        if lease is not None:
            lease.segment.lent_at(self._leases)
        return lease

    def begin_waiting(self, size: int) -> bool:
        """Whether waiting for a block makes sense; then it is counted."""
        with self._lock:
            sensible = not self._starved and self._can_have(_class_of(size))
            self._waits += sensible
        return sensible

    def _can_have(self, block_size: int) -> bool:
        return max(block_size, _SEGMENT) <= self.limit

    def refuse(self, *, starved: bool = False) -> None:
        """Count that the pipe is taken.

        Args:
            starved: after waiting in vain, so that nobody waits for now.
        """
        with self._lock:
            if starved and not self._starved:
                now = monotonic()
                if now - self._starved_until > _LONGEST_PAUSE:  # that was another shortage
                    self._pause = 0.0
                self._starved_until = now + self._pause
                self._pause = min(2 * max(self._pause, _PATIENCE), _LONGEST_PAUSE)
                self._starved = True
            self._refused += 1

    def put(
        self, view: memoryview, *, find: bool = True, ahead: bool = False, wait: bool = True
    ) -> tuple[Lease, Range] | None:
        """The bytes of a view in shared memory: where they are if they lie there, else copied.

        Blocks while it copies, and as ``lease`` does. None: there is no block.

        Args:
            view: of bytes.
            find: False: copied in any case.
            ahead: it waits for its turn; see ``lease_ahead``.
            wait: for a block, as ``lease`` does.
        """
        address, length = address_of(view), view.nbytes
        if find:
            found = self.find(address, length)
            if found is not None:
                lease, offset = found
                if offset + length <= lease.segment.block_size:
                    return lease, lease.range(offset, length)
        if ahead:
            fresh = self.lease_ahead(length)
        elif wait:
            fresh = self.lease(length)
        else:
            fresh = self.lease_now(length)
            if fresh is None:
                self.refuse()
        if fresh is None:
            return None
        copy(address, fresh.address, length)
        return fresh, fresh.range(0, length)

    def find(self, address: int, length: int) -> tuple[Lease, int] | None:
        """The lease of the block that these bytes lie in, and where."""
        with self._lock:
            position = bisect.bisect_right(self._starts, (address, 1 << 62)) - 1
            if position < 0:
                return None
            start, number = self._starts[position]
            segment = self._segments[number]
            if address + length > start + segment.size:
                return None
            index, offset = divmod(address - start, segment.block_size)
            found = segment.lent.get(index)
        exporter = None if found is None else found()
        return None if exporter is None else (Lease(segment, index, exporter), offset)

    def stale(self, known: set[int]) -> list[int]:
        """Which of these segments are gone."""
        with self._lock:
            return list(known.difference(self._segments))

    def statistics(self) -> PoolStatistics:
        """Figures of now. Takes no lock: a destructor may ask wherever memory is allocated."""
        exporters = [
            exporter
            for segment in list(self._segments.values())
            for exporter in list(segment.lent.values())
        ]
        return PoolStatistics(
            limit=self.limit,
            size=self._size,
            lent=sum(exporter() is not None for exporter in exporters),
            waits=self._waits,
            refused=self._refused,
        )

    # -- in turn -----------------------------------------------------------------------

    def _await_one(self, patience: float) -> None:
        try:
            back = self._returned.get_within(patience)
        except Empty:
            return
        with self._lock:
            self._accept(*back)

    def _take(self, block_size: int, *, ahead: bool = False) -> Lease | None:
        if not self._can_have(block_size):  # no room is worth making
            return None
        with self._lock:
            self._collect()
            if ahead and not (len(self._users) and self._half_will_do(block_size)):
                return None
            free = self._free.get(block_size)
            if not free:
                new = max(1, _SEGMENT // block_size) * block_size
                if self._size + new > self.limit:
                    self._drop_free()
                if self._size + new > self.limit:
                    return None
                try:
                    free = self._add_segment(block_size)
                except OSError as error:  # no descriptors, or no memory: the pipe needs none
                    refusal = error
            if free:
                self._leases += 1
                number, index = free.pop(0)
                return self._lend(self._segments[number], index)
            self._starved = True
            told, self._told = self._told, True
        if not told:
            logger.warning(
                "the system gives no more memory to share (%s): large items go through the pipe "
                "where a block is wanting, which takes longer",
                refusal,
            )
        return None

    def retire(self) -> None:
        """This process is about to fork. What lies in shared memory is not copied for the child,
        which may look at it for as long as it lives: the blocks that are lent are not lent again,
        but go back to the system with the others of their segment."""
        with self._lock:
            for segment in self._segments.values():
                segment.retired.update(
                    index for index, exporter in segment.lent.items() if exporter() is not None
                )

    # -- under the lock ----------------------------------------------------------------

    def _half_will_do(self, block_size: int) -> bool:
        """Whether one more block makes no more than half of the limit."""
        free = sum(size * len(blocks) for size, blocks in self._free.items())
        return (self._size - free + block_size) * 2 <= self.limit

    def _collect(self) -> None:
        while not self._returned.empty():  # an exception for that takes longer
            try:
                self._accept(*self._returned.get_nowait())
            except Empty:
                return

    def _accept(self, number: int, index: int) -> None:
        segment = self._segments.get(number)
        if segment is None:  # it went with the last stage
            return
        del segment.lent[index]
        if index not in segment.retired:
            bisect.insort(self._free[segment.block_size], (number, index))
        if self._starved and monotonic() >= self._starved_until:
            self._starved = False

    def _add_segment(self, block_size: int) -> list[tuple[int, int]]:
        self._numbers += 1
        segment = Segment(self, self._numbers, block_size)
        self._segments[segment.number] = segment
        bisect.insort(self._starts, (segment.map.address, segment.number))
        self._size += segment.size
        free = self._free.setdefault(block_size, [])
        free += [(segment.number, index) for index in range(segment.blocks)]  # above all others
        return free

    def _lend(self, segment: Segment, index: int) -> Lease:
        exporter = segment.map.exporter(index * segment.block_size, segment.block_size)
        key, returned = (segment.number, index), self._returned

        def come_back(_: object) -> None:
            returned.post(key)
            if returned.sleepers:
                returned.wake()

        segment.lent[index] = weakref.ref(exporter, come_back)
        return Lease(segment, index, exporter)

    def _drop_free(self) -> None:
        for segment in list(self._segments.values()):
            if not segment.lent:
                self._drop(segment)

    def _drop(self, segment: Segment) -> None:
        segment.close()
        free = self._free[segment.block_size]
        free[:] = [each for each in free if each[0] != segment.number]
        del self._segments[segment.number]
        self._starts.remove((segment.map.address, segment.number))
        self._size -= segment.size
        self.generation += 1


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def _retire_all() -> None:
    for each in list(_pools):
        each.retire()


os.register_at_fork(before=_retire_all)


class Wish:
    """A block that is needed, for someone who has others to look after and cannot stay and wait.
    These may have the blocks, and need another one themselves: so it is waited for no longer than
    the pipe would take, which costs twice as much as knowing at most.

    Args:
        pool: that it is to come from.
        size: bytes, at least.

    Attributes:
        size: the same.
        lease: the block, once it is decided; None: there is none.
    """

    def __init__(self, pool: Pool, size: int) -> None:
        self.size = size
        self.lease: Lease | None = None
        self._pool = pool
        self._until: float | None = None  # how long it is worth waiting; 0: not at all

    def decided(self) -> bool:
        """Whether there is a block, or none for so long that the pipe is to be taken."""
        self.lease = self._pool.lease_now(self.size)
        if self.lease is not None:
            return True
        if self._until is None:
            sensible = self._pool.begin_waiting(self.size)
            self._until = monotonic() + self.size * _PIPE if sensible else 0.0
        if monotonic() < self._until:
            return False
        self._pool.refuse()
        return True


def _class_of(size: int) -> int:
    """The size of block for so many bytes: four sizes for each power of two, at most a quarter
    too large (memory that nobody touches costs nothing)."""
    step = max(_PAGE, 1 << max(0, size.bit_length() - 3))
    return -(-size // step) * step


def _limit() -> int:
    text = os.environ.get(VARIABLE, "")
    if not text:
        return _DEFAULT_MB << 20
    try:
        megabytes = int(text)
    except ValueError:
        megabytes = -1
    if megabytes < 0:
        raise PlanError(
            f"{VARIABLE} must be a whole number of megabytes from 0, not {text!r}; without it "
            f"shared memory may grow to {_DEFAULT_MB}"
        )
    return megabytes << 20


@functools.cache
def _pool_of(process: int) -> Pool:  # noqa: ARG001  (a forked child has a pool of its own)
    return Pool(_limit())


def pool() -> Pool:
    """The one of this process."""
    return _pool_of(os.getpid())


class Reserve:
    """Where the stages of one placement get shared memory from: blocks of their own, or those of
    the whole process.

    Args:
        megabytes: bound of blocks of their own; None: those of the process.
    """

    def __init__(self, megabytes: int | None) -> None:
        self._limit = None if megabytes is None else megabytes << 20
        self._pools: dict[int, Pool] = {}  # by process: a forked child has one of its own

    def pool(self) -> Pool:
        """The pool in this process."""
        if self._limit is None:
            return pool()
        return self._pools.setdefault(os.getpid(), Pool(self._limit))


def shared_memory() -> PoolStatistics:
    """What the shared memory of this process is doing, without that of placements which have a
    bound of their own."""
    return pool().statistics()
