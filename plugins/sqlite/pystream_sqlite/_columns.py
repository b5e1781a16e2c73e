"""Numbers of one kind in few bytes: how a column of records is packed.

Measured on 3.11, per number: ``struct`` packs a native word in 9 ns, ``array("q")`` takes 16 to
40, and the difference of two readings of the clock as Python numbers 46. So readings are packed
as they are, and narrowed afterwards by copying bytes (11 ns): what was read within four seconds
mostly shares its upper half, within days its upper quarter, which is then stored once.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Sequence
from typing import Final, NamedTuple

# Eight bytes, both; where it is so wide, "n" (ssize_t) is packed twice as fast.
_WORD: Final = "n" if struct.calcsize("n") == 8 else "q"
_UPPER: Final = 1 if sys.byteorder == "little" else 0  # which half of a word
_CODES: Final = {1: "B", 4: "I", 8: "q"}  # by width


class Column(NamedTuple):
    """Whole numbers, each of them ``base`` and what ``data`` adds to it.

    ``width`` is the number of bytes in ``data`` for each, little-endian: none when all are
    alike; 1 or 4 without a sign; 6, the lower four of all before the upper two of all; 8 with
    a sign.
    """

    width: int
    base: int
    data: bytes


def words_of(values: Sequence[int]) -> bytes:
    """The numbers in eight bytes each, as an ``array("q")`` of this machine holds them."""
    return struct.pack(f"{len(values)}{_WORD}", *values)


def total(values: Sequence[int]) -> int:
    """The sum of readings of a clock."""
    # sum() takes 6 ns a value as long as it stays below 2**63, and 30 beyond, where hundreds
    # of readings get when the machine has run for months. Slicing costs 5.
    most = 2**62 // max(1, values[-1]) if values else 1
    if len(values) <= most:
        return sum(values)
    most = max(1, most)
    return sum([sum(values[at : at + most]) for at in range(0, len(values), most)])


def narrowed(words: bytes, origin: int = 0) -> Column:
    """A column of words, counted from ``origin``, without the upper bytes that all share."""
    # Slices of an array: those of a memoryview take twice the time. Arrays of one type are
    # compared as bytes.
    halves = array("I", words)
    lower, upper = halves[1 - _UPPER :: 2], halves[_UPPER::2]
    if upper == upper[:1] * len(upper):
        base = int.from_bytes(upper[:1].tobytes(), sys.byteorder, signed=True) << 32
        return Column(4, base - origin, _little_endian("I", lower.tobytes()))
    quarters = array("H", upper.tobytes())
    third, top = quarters[1 - _UPPER :: 2], quarters[_UPPER::2]
    if top == top[:1] * len(top):
        base = int.from_bytes(top[:1].tobytes(), sys.byteorder, signed=True) << 48
        data = _little_endian("I", lower.tobytes()) + _little_endian("H", third.tobytes())
        return Column(6, base - origin, data)
    return Column(8, -origin, _little_endian("q", words))


def counted(values: Sequence[int]) -> Column:
    """A column of numbers that seldom need more than four bytes."""
    try:
        return Column(4, 0, struct.pack(f"<{len(values)}I", *values))
    except struct.error:
        return narrowed(words_of(values))


def often_alike(values: Sequence[int]) -> Column:
    """A column of numbers that take no space when all are alike."""
    if values.count(values[0]) == len(values):
        return Column(0, values[0], b"")
    return narrowed(words_of(values))


def indexes(texts: Sequence[str], known: Sequence[str]) -> Column:
    """A column of texts as indexes in ``known``; one that is not there counts as the first."""
    index = {text: number for number, text in enumerate(known)}
    if texts.count(texts[0]) == len(texts):
        return Column(0, index.get(texts[0], 0), b"")
    return Column(1, 0, bytes([index.get(text, 0) for text in texts]))


def values_of(column: Column, count: int) -> list[int]:
    """The numbers of a column that has that many."""
    width, base, data = column
    if not width:
        return [base] * count
    if width == 6:
        lower, third = _numbers("I", data[: 4 * count]), _numbers("H", data[4 * count :])
        return [base + (high << 32) + low for high, low in zip(third, lower, strict=True)]
    values = _numbers(_CODES[width], data)
    return [base + value for value in values] if base else values


def _numbers(code: str, data: bytes) -> list[int]:
    return array(code, _little_endian(code, data)).tolist()


def _little_endian(code: str, data: bytes) -> bytes:
    """From the order of this machine, or back to it."""
    if sys.byteorder == "little":
        return data
    values = array(code, data)
    values.byteswap()
    return values.tobytes()
