"""The shared memory as a child sees it."""

from __future__ import annotations

import bisect
import os
import weakref
from collections import Counter
from typing import Any, NamedTuple

from ._memory import Map, view_of
from ._wire import Range

_Key = tuple[int, int]  # segment, block


class Notes(NamedTuple):
    """What the parent has to know about blocks, beside an answer.

    Attributes:
        kept: blocks that the stage still looks at, not told before.
        released: blocks told before, which it looks at no more.
    """

    kept: list[_Key]
    released: list[_Key]


class Mapping:
    """The segments that the parent has sent, and which of their blocks the stage looks at.

    Used by the child's main thread; ``_seen`` is also changed where a view is let go, by single
    operations on one counter.
    """

    def __init__(self) -> None:
        self._maps: dict[int, tuple[Map, int]] = {}
        self._starts: list[tuple[int, int]] = []  # (address, number), sorted
        self._seen: Counter[_Key] = Counter()
        self._gone: list[_Key] = []  # views let go, not counted yet
        self._views = 0
        self._watches: dict[int, weakref.ref[Any]] = {}  # each removes itself
        self._told: set[_Key] = set()

    def add(self, number: int, block_size: int, descriptor: int) -> None:
        """Map a segment."""
        try:
            found = Map(descriptor, os.fstat(descriptor).st_size)
        finally:
            os.close(descriptor)
        self._maps[number] = (found, block_size)
        bisect.insort(self._starts, (found.address, number))

    def forget(self, number: int) -> None:
        """The parent has no use for a segment any more."""
        found, _ = self._maps.pop(number)
        self._starts.remove((found.address, number))

    def view(self, piece: Range) -> memoryview:
        """The bytes of a piece; as long as anything looks at them, its block counts as seen."""
        found, block_size = self._maps[piece.segment]
        exporter = found.exporter(piece.offset, piece.length)
        key = (piece.segment, piece.offset // block_size)
        self._seen[key] += 1
        number = self._views = self._views + 1
        gone, watches = self._gone, self._watches

        def let_go(_: weakref.ref[Any]) -> None:
            del watches[number]
            gone.append(key)

        watches[number] = weakref.ref(exporter, let_go)
        return view_of(exporter)

    def address(self, segment: int, offset: int) -> int:
        """Where a piece lies."""
        return self._maps[segment][0].address + offset

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
        while self._gone:
            key = self._gone.pop()
            self._seen[key] -= 1
            if not self._seen[key]:
                del self._seen[key]
        seen = set(self._seen)
        if seen == self._told:
            return None
        found = Notes(sorted(seen - self._told), sorted(self._told - seen))
        self._told = seen
        return found
