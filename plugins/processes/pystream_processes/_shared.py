"""A result that stays in shared memory until somebody looks at it."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pystream_core import Handle

from ._pool import Lease, Pool
from ._wire import Part, Range


class Piece(NamedTuple):
    """A piece of a block, which keeps it lent."""

    lease: Lease
    range: Range

    def view(self) -> memoryview:
        """Its bytes."""
        return self.lease.view(self.range)


class Shared(Handle):
    """What a placed stage has given out, as it came: nothing has been unpickled here.

    Another placed stage gets the same blocks, without a look at them. The owners are those that
    have this object: the blocks come back with the last of them, which is never later than its
    release, and not before the last view that ``resolve`` gave is gone.

    Args:
        parts: a pickle and the buffers beside it.
    """

    __slots__ = ("_parts",)

    def __init__(self, parts: Sequence[bytearray | Piece]) -> None:
        self._parts = tuple(parts)

    def resolve(self) -> Any:
        """The value, which lies over the blocks without a copy."""
        return unpickled(*map(_seen, self._parts))

    def retain(self) -> None:
        """Nothing to do: who has this object owns it."""

    def release(self) -> None:
        """The same."""

    def lies_in(self, pool: Pool) -> bool:
        """Whether all its blocks belong to this pool."""
        return all(pool.owns(part.lease) for part in self._parts if isinstance(part, Piece))

    def parts(self, lend: Callable[[Lease, int, int], Range]) -> list[Part]:
        """What to send to a process, which is lent the blocks."""
        return [
            lend(part.lease, part.lease.offset_of(part.range), part.range.length)
            if isinstance(part, Piece)
            else part
            for part in self._parts
        ]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """As a member of what a join brings together: its buffers stay beside the pickle."""
        return unpickled, tuple(pickle.PickleBuffer(_seen(part)) for part in self._parts)


def unpickled(stream: Any, *buffers: Any) -> Any:
    """The value of a pickle and its buffers."""
    return pickle.loads(stream, buffers=buffers)


def _seen(part: bytearray | Piece) -> Any:
    return part.view() if isinstance(part, Piece) else part
