"""The shared memory as a child sees it."""

from __future__ import annotations

import bisect
import errno
import logging
import os
import weakref
from sys import getrefcount
from typing import Any, Final, NamedTuple

from ._memory import Map, view_of
from ._wire import Range

logger = logging.getLogger("PyStream")

_Key = tuple[int, int]  # segment, block


class Unmapped(Exception):
    """A piece of shared memory that is not to be had here."""


class Notes(NamedTuple):
    """What the parent has to know about blocks, ahead of an answer.

    Attributes:
        kept: blocks that the stage still looks at, not told before.
        released: blocks told before, which it looks at no more.
    """

    kept: list[_Key]
    released: list[_Key]


class _Watch(weakref.ref[Any]):
    """Knows when a view is let go, and of which block it was."""

    __slots__ = ("key",)
    key: _Key
    __hash__ = object.__hash__  # two are never the same
    __eq__ = object.__eq__


class Mapping:
    """The segments that the parent has sent, and which of their blocks the stage looks at.

    Used by the child's main thread; where a view is let go, in any thread, it is only appended to
    ``_gone``.

    Attributes:
        read_only: views must not be written to.
        incomplete: a segment could not be mapped.
    """

    def __init__(self) -> None:
        self.read_only = self.incomplete = False
        self._maps: dict[int, tuple[Map, int]] = {}
        self._starts: list[tuple[int, int]] = []  # (address, number), sorted
        self._fresh: list[tuple[_Key, Any]] = []  # exporters of views since the last notes
        self._seen: dict[_Key, int] = {}  # views of a block from before
        self._gone: list[_Watch] = []  # those let go, not counted yet
        self._watches: set[_Watch] = set()
        self._told: set[_Key] = set()
        self._pinned: list[Any] = []  # exporters of what a forked child may look at, for good
        os.register_at_fork(before=self._pin)

    def _pin(self) -> None:
        """The stage is about to fork. Its child has no copy of what lies in shared memory."""
        exporters = [exporter for _, exporter in self._fresh]
        exporters += [watch() for watch in list(self._watches)]
        self._pinned += [each for each in exporters if each is not None]

    def add(self, number: int, block_size: int, descriptor: int | None) -> None:
        """Map a segment, if that can be done: the stage may have used up what this process may
        have, of memory or descriptors.

        Args:
            descriptor: of its memory; None: there was none left for it.
        """
        try:
            if descriptor is None:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            try:
                found = Map(descriptor, os.fstat(descriptor).st_size)
            finally:
                os.close(descriptor)
        except (OSError, MemoryError) as error:
            if not self.incomplete:
                logger.warning(
                    "the process of a stage cannot have shared memory (%s): large items take the "
                    "pipe there, which takes longer",
                    error,
                )
            self.incomplete = True
            self._maps.clear()  # the pipe needs memory, too
            self._starts.clear()
            return
        self._maps[number] = (found, block_size)
        bisect.insort(self._starts, (found.address, number))

    def forget(self, number: int) -> None:
        """The parent has no use for a segment any more."""
        if number in self._maps:
            found, _ = self._maps.pop(number)
            self._starts.remove((found.address, number))

    def view(self, piece: Range) -> memoryview:
        """The bytes of a piece; as long as anything looks at them, its block counts as seen.

        Raises:
            Unmapped: its segment could not be mapped.
        """
        number, offset, length = piece
        try:
            found, block_size = self._maps[number]
        except KeyError:
            raise Unmapped from None
        exporter = found.exporter(offset, length)
        self._fresh.append(((number, offset // block_size), exporter))
        view = view_of(exporter)
        return view.toreadonly() if self.read_only else view

    def address(self, segment: int, offset: int) -> int | None:
        """Where a piece lies; None: its segment could not be mapped."""
        found = self._maps.get(segment)
        return None if found is None else found[0].address + offset

    def find(self, address: int, length: int) -> Range | None:
        """The piece of shared memory that these bytes are, if they are any."""
        position = bisect.bisect_right(self._starts, (address, 1 << 62)) - 1
        if position < 0:
            return None
        start, number = self._starts[position]
        if address + length > start + self._maps[number][0].size:
            return None
        return Range(number, address - start, length)

    def notes(self) -> Notes | None:
        """What has changed since it was asked last; None for nothing."""
        seen, told = self._seen, self._told
        while self._fresh:
            key, exporter = self._fresh.pop()
            if getrefcount(exporter) > _UNSEEN:  # the stage has kept it
                watch = _Watch(exporter, self._gone.append)
                watch.key = key
                self._watches.add(watch)
                seen[key] = seen.get(key, 0) + 1
        while self._gone:
            watch = self._gone.pop()
            self._watches.discard(watch)
            left = seen[watch.key] - 1
            if left:
                seen[watch.key] = left
            else:
                del seen[watch.key]
        if seen.keys() == told:
            return None
        found = Notes(sorted(seen.keys() - told), sorted(told - seen.keys()))
        self._told = set(seen)
        return found


def _unseen() -> int:
    """What the count of references is when nothing else has an object, as ``notes`` asks."""
    fresh = [(None, object())]
    _, exporter = fresh.pop()
    return getrefcount(exporter)


_UNSEEN: Final = _unseen()
