"""Messages between a worker thread and its process: a kind and parts, framed on one socket.

A part is bytes in the message itself or a range of a shared segment. The two ends take turns:
whoever has asked reads until it has the answer. Log records are the only messages that come
unasked; they go ahead of the answer.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

# From the parent:
BEGIN: Final = 1  # where and how to run
SETUP: Final = 2  # make the stage and set it up
CALL: Final = 3
NEXT: Final = 4  # the next output of a generator
CLOSE: Final = 5  # no more outputs of it are wanted
CLEANUP: Final = 6
GRANT: Final = 7  # a range of shared memory to put a result in; without parts: there is none
SEGMENT: Final = 8  # a new segment; its descriptor goes with it
FORGET: Final = 9  # segments that are gone
# From the child:
VALUE: Final = 20
END: Final = 21  # a generator's; also the answer to what has no value
RAISED: Final = 22
WANT: Final = 23  # asks for a GRANT
LOG: Final = 24
# Flags of a message from the child:
NOTED: Final = 64  # the first part tells which blocks it still looks at
PLAIN: Final = 128  # of a VALUE: nothing can go wrong when that is unpickled later

_FLAGS: Final = NOTED | PLAIN
_HEADER: Final = struct.Struct("<BHQqq")  # kind, parts, bytes inline, start and end of the call
_PART: Final = struct.Struct("<qQQ")  # segment or -1, offset, length
NUMBERS: Final = struct.Struct("<QQ")  # of SEGMENT and FORGET: number, size

SMALL_PIECE: Final = 1 << 14
_LARGE_PIECE: Final = 1 << 20

Buffer: TypeAlias = bytes | bytearray | memoryview


class Range(NamedTuple):
    """A piece of a shared segment."""

    segment: int
    offset: int
    length: int


Part: TypeAlias = Buffer | Range


class Message(NamedTuple):
    """What has been received."""

    kind: int
    flags: int
    parts: list[bytearray | Range]
    start_ns: int
    end_ns: int

    @property
    def values(self) -> list[bytearray | Range]:
        """The parts without the notes."""
        return self.parts[1:] if self.flags & NOTED else self.parts


def frame(
    kind: int, parts: Sequence[Part] = (), start_ns: int = 0, end_ns: int = 0
) -> list[Buffer]:
    """The buffers to send, one after another."""
    table = []
    inline: list[Buffer] = []
    size = 0
    for part in parts:
        if isinstance(part, Range):
            table.append(_PART.pack(*part))
        else:
            length = len(part) if not isinstance(part, memoryview) else part.nbytes
            table.append(_PART.pack(-1, 0, length))
            inline.append(part)
            size += length
    header = _HEADER.pack(kind, len(parts), size, start_ns, end_ns)
    if size < 32768:  # one buffer is sent faster than several
        return [b"".join((header, *table, *inline))]
    return [b"".join((header, *table)), *inline]


class Inbox:
    """Puts together what arrives in pieces.

    Attributes:
        missing: how many bytes to read next, at most. (Memory for many takes longer to get than
            a small message to read.)
    """

    def __init__(self) -> None:
        self._data = bytearray()
        self.missing = SMALL_PIECE

    def feed(self, piece: bytes) -> None:
        """Take what has been read."""
        self._data += piece

    def take(self) -> Message | None:
        """The next message, None while it is incomplete."""
        data = self._data
        if len(data) < _HEADER.size:
            self.missing = SMALL_PIECE
            return None
        kind, count, size, start_ns, end_ns = _HEADER.unpack_from(data)
        begin = _HEADER.size + count * _PART.size
        if len(data) < begin + size:
            self.missing = min(max(begin + size - len(data), SMALL_PIECE), _LARGE_PIECE)
            return None
        parts: list[bytearray | Range] = []
        position = begin
        for number in range(count):
            segment, offset, length = _PART.unpack_from(data, _HEADER.size + number * _PART.size)
            if segment >= 0:
                parts.append(Range(segment, offset, length))
            else:
                parts.append(data[position : position + length])
                position += length
        del data[:position]
        return Message(kind & ~_FLAGS, kind & _FLAGS, parts, start_ns, end_ns)
