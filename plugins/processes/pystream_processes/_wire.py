"""Messages between a worker thread and its process: a kind and parts, framed on one socket.

An item and a result are the same kind of message, so that a result is sent on to the next process
as it came: numbers of segments mean the same to all of them.

A part is bytes in the message itself or a range of a shared segment. The two ends take turns:
whoever has asked reads until it has the answer. Log records and notes are the only messages that
come unasked; they go ahead of the answer.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

# From the parent:
BEGIN: Final = 1  # where and how to run
SETUP: Final = 2  # make the stage and set it up
NEXT: Final = 4  # the next output of a generator
CLOSE: Final = 5  # no more outputs of it are wanted
CLEANUP: Final = 6
GRANT: Final = 7  # a range of shared memory to put a result in; without parts: there is none
SEGMENT: Final = 8  # a new segment; its descriptor goes with it
FORGET: Final = 9  # segments that are gone
# From either:
VALUE: Final = 3  # an item to call the stage with, or what it gives out
# From the child:
END: Final = 21  # a generator's; also the answer to what has no value
RAISED: Final = 22
WANT: Final = 23  # asks for a GRANT
LOG: Final = 24
NOTES: Final = 25  # which blocks the stage still looks at, and which no more
BEGUN: Final = 26  # the item is there, and the stage begins; when that was to be told
UNMAPPED: Final = 27  # asks for the item once more, without shared memory: it has not got that
# Flags of a VALUE:
PLAIN: Final = 128  # nothing can go wrong when it is unpickled, and it is the same each time
TELL: Final = 64  # when it has been unpickled

_HEADER: Final = struct.Struct("<BHQqq")  # kind, parts, bytes inline, start and end of the call
_PART: Final = "qQQ"  # segment or -1, offset, length
_PAIR: Final = struct.Struct(f"{_HEADER.format}{_PART * 2}")
_PART_SIZE: Final = struct.calcsize(f"<{_PART}")
NUMBERS: Final = struct.Struct("<QQ")  # of SEGMENT and FORGET: number, size

SMALL_PIECE: Final = 1 << 12
_LARGE_PIECE: Final = 1 << 20

Buffer: TypeAlias = bytes | bytearray | memoryview


class Range(NamedTuple):
    """A piece of a shared segment."""

    segment: int
    offset: int
    length: int


Part: TypeAlias = Buffer | Range


class Message:
    """What has been received.

    Attributes:
        kind: one of the above.
        plain, tell: it is a VALUE with that flag.
        pieces: how many parts it has.
        start_ns, end_ns: when the stage began and ended its work, of an answer.
        data: all of it: header, a table of the parts, and what is inline.
        piece: of a pickle and its one buffer in shared memory, where that lies; else None.
    """

    __slots__ = ("data", "end_ns", "kind", "piece", "pieces", "plain", "start_ns", "tell")

    def __init__(self, data: bytes) -> None:
        kind, self.pieces, _, self.start_ns, self.end_ns = _HEADER.unpack_from(data)
        self.kind = kind & ~(PLAIN | TELL)
        self.plain = kind >= PLAIN
        self.tell = bool(kind & TELL)
        self.data = data
        self.piece: Range | None = None
        if self.pieces == 2:
            first, _, _, *second = _table(2).unpack_from(data, _HEADER.size)
            if first < 0 <= second[0]:
                self.piece = Range(*second)

    def parts(self, *, read_only: bool = False) -> list[bytes | bytearray | Range]:
        """Each part: bytes of the message, or where it lies. All but the first may be written
        to, since arrays are made over them, unless they are to be read only."""
        count, data = self.pieces, self.data
        if self.piece is not None:
            return [data[_PAIR.size :], self.piece]
        table = _table(count).unpack_from(data, _HEADER.size)
        parts: list[bytes | bytearray | Range] = []
        position = _HEADER.size + count * _PART_SIZE
        for begin in range(0, count * 3, 3):
            segment, offset, length = table[begin : begin + 3]
            if segment >= 0:
                parts.append(Range(segment, offset, length))
                continue
            end = position + length
            if parts and not read_only:
                parts.append(bytearray(memoryview(data)[position:end]))
            else:
                parts.append(data[position:end])
            position = end
        return parts

    def ranges(self) -> list[Range]:
        """The parts in shared memory."""
        if self.piece is not None:
            return [self.piece]
        table = _table(self.pieces).unpack_from(self.data, _HEADER.size)
        return [
            Range(*table[begin : begin + 3])
            for begin in range(0, len(table), 3)
            if table[begin] >= 0
        ]

    def inline(self, index: int = 0) -> bytes | bytearray:
        """A part that is not in shared memory."""
        part = self.parts()[index]
        assert not isinstance(part, Range)
        return part

    def again(self, start_ns: int, end_ns: int) -> bytes:
        """The same message, to send back."""
        size = len(self.data) - _HEADER.size - self.pieces * _PART_SIZE
        kind = self.kind | PLAIN if self.plain else self.kind
        return _HEADER.pack(kind, self.pieces, size, start_ns, end_ns) + self.data[_HEADER.size :]


def frame(
    kind: int, parts: Sequence[Part] = (), start_ns: int = 0, end_ns: int = 0
) -> list[Buffer]:
    """The buffers to send, one after another."""
    if len(parts) == 2 and isinstance(parts[1], Range) and isinstance(parts[0], bytes):
        return [pair(kind, parts[0], parts[1], start_ns, end_ns)]
    table: list[int] = []
    inline: list[Buffer] = []
    size = 0
    for part in parts:
        if isinstance(part, Range):
            table += part
        else:
            length = part.nbytes if isinstance(part, memoryview) else len(part)
            table += (-1, 0, length)
            inline.append(part)
            size += length
    header = _HEADER.pack(kind, len(parts), size, start_ns, end_ns)
    header += _table(len(parts)).pack(*table)
    if size < 32768:  # one buffer is sent faster than several
        return [b"".join((header, *inline))]
    return [header, *inline]


def telling(buffers: Sequence[Buffer]) -> list[Buffer]:
    """The buffers of a VALUE, to be told when it has been unpickled."""
    first, *others = buffers
    return [bytes((first[0] | TELL,)) + first[1:], *others]


def pair(kind: int, head: bytes, piece: Range, start_ns: int = 0, end_ns: int = 0) -> bytes:
    """The message of a pickle and its buffer in shared memory."""
    size = len(head)
    return _PAIR.pack(kind, 2, size, start_ns, end_ns, -1, 0, size, *piece) + head


@functools.lru_cache(64)
def _table(count: int) -> struct.Struct:
    return struct.Struct("<" + _PART * count)


class Inbox:
    """Puts together what arrives in pieces.

    Attributes:
        rest: what has arrived and is no whole message yet, or several.
        missing: how many bytes to read next, at most. (Memory for many takes longer to get than
            a small message to read.)
    """

    def __init__(self) -> None:
        self.rest: bytes | bytearray = b""  # bytes: as they came in one piece
        self.missing = SMALL_PIECE

    def feed(self, piece: bytes) -> Message | None:
        """Take what has been read; the next message, as ``take``."""
        if not self.rest:
            if len(piece) >= _HEADER.size and _size_of(piece) == len(piece):
                return Message(piece)  # as nearly always
            self.rest = piece
        elif isinstance(self.rest, bytearray):
            self.rest += piece
        else:
            self.rest = bytearray(self.rest) + piece
        return self.take()

    def take(self) -> Message | None:
        """The next message, None while it is incomplete."""
        data = self.rest
        if len(data) < _HEADER.size:
            self.missing = SMALL_PIECE
            return None
        end = _size_of(data)
        if len(data) < end:
            self.missing = min(max(end - len(data), SMALL_PIECE), _LARGE_PIECE)
            return None
        with memoryview(data) as view:
            whole = bytes(view[:end])
        self.rest = data[end:] if len(data) > end else b""
        return Message(whole)


def _size_of(data: bytes | bytearray) -> int:
    pieces: int
    size: int
    _, pieces, size, _, _ = _HEADER.unpack_from(data)
    return _HEADER.size + pieces * _PART_SIZE + size
