"""A result that stays in shared memory until somebody looks at it."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

from pystream_core import Handle

from ._packing import head_of, unpack, unpickled
from ._pool import Lease, Pool
from ._wire import PLAIN, VALUE, Message, Range, pair


class Shared(Handle):
    """A value in shared memory, as a message: what a placed stage has given out, as it came, with
    nothing unpickled here, or a frame that waits for one.

    Another placed stage gets the same blocks, without a look at them. The owners are those that
    have this object: the blocks come back with the last of them, which is never later than its
    release, and not before the last view that ``resolve`` gave is gone.

    Args:
        message: a pickle and the buffers beside it.
        leases: of the blocks that these lie in, one for each range in turn.

    Attributes:
        message, leases: the same.
    """

    __slots__ = ("leases", "message")

    def __init__(self, message: Message, leases: Sequence[Lease]) -> None:
        self.message = message
        self.leases = leases

    def resolve(self) -> Any:
        """The value, which lies over the blocks without a copy."""
        leases = iter(self.leases)
        return unpack(self.message.parts(), lambda part: next(leases).view(part), plain=True)

    def retain(self) -> None:
        """Nothing to do: who has this object owns it."""

    def release(self) -> None:
        """The same."""

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """As a member of what a join brings together: its buffers stay beside the pickle."""
        leases = iter(self.leases)
        return unpickled, tuple(
            pickle.PickleBuffer(next(leases).view(part) if isinstance(part, Range) else part)
            for part in self.message.parts()
        )


def shared(value: Any, pool: Pool) -> Any:
    """An array in shared memory as a handle, so that it is there before it is needed; the value
    itself when it is no such array, or when memory is short. Blocks while it copies."""
    head = head_of(value)
    if head is None:
        return value
    put = pool.put(pickle.PickleBuffer(value).raw(), ahead=True)
    if put is None:
        return value
    lease, piece = put
    return Shared(Message(pair(VALUE | PLAIN, head, piece)), (lease,))
