"""Values and the parts that they travel in: a pickle and the buffers beside it.

By cloudpickle, since what is defined in the main program, in a function or in a notebook exists
nowhere else. Plain values and arrays of numbers hold nothing of that kind, and pickle is quicker.

Frames of one stream have the same type and shape, so what goes beside their buffer is the same
pickle again and again: it is made and read once for each kind of array, and known by heart from
then on.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from ._classes import pickled
from ._wire import Part, Range

SMALLEST: Final = 65536  # bytes; smaller buffers are quicker in the pipe than in shared memory

_PLAIN: Final = frozenset({int, float, complex, bool, str, bytes, bytearray, type(None)})
_NUMBERS: Final = frozenset("biufc")  # letters of the types of numbers
_LAST_NUMBER: Final = 23  # of a type of numpy's own (half floats)
_MOST_KINDS: Final = 256  # of arrays known by heart; when there are more, begin again

Place: TypeAlias = Callable[[memoryview], Range | None]
"""Puts a buffer into shared memory; None when there is no room."""

_Kind: TypeAlias = tuple[Any, ...]

# Each by single operations of any thread; what is missing is found again.
_heads: dict[_Kind, bytes] = {}  # the pickle beside the buffer of such an array
_arrays: dict[tuple[bytes, bool], tuple[Any, ...]] = {}  # what it makes of a buffer, by whether
# that may be written to


def pack(value: Any, place: Place) -> tuple[list[Part], bool]:
    """The parts of a value, and whether it is so plain that it can always be unpickled.

    Raises:
        Exception: whatever its pickling raises.
    """
    head = head_of(value)
    if head is not None:
        raw = pickle.PickleBuffer(value).raw()
        return [head, place(raw) or raw], True
    buffers: list[memoryview] = []

    def beside(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < SMALLEST:
            return True  # inside the pickle
        buffers.append(raw)
        return False

    plain = _is_plain(value.dtype) if is_array(value) else type(value) in _PLAIN
    if plain:
        stream = pickle.dumps(value, protocol=5, buffer_callback=beside)
    else:
        stream = pickled(value, beside)
    if len(stream) >= SMALLEST:
        buffers.insert(0, memoryview(stream))
        return [place(each) or each for each in buffers], plain
    return [stream, *(place(each) or each for each in buffers)], plain


def head_of(value: Any) -> bytes | None:
    """The pickle beside the buffer of a large array of numbers; None for anything else."""
    if not is_array(value) or value.nbytes < SMALLEST:
        return None
    kind = kind_of(value)
    if kind is None:
        return None
    head = _heads.get(kind)
    if head is None:
        head = pickle.dumps(value, protocol=5, buffer_callback=lambda _: False)
        _learn(_heads, kind, head)
    return head


def unpack(
    parts: Sequence[bytes | bytearray | Range],
    view: Callable[[Range], memoryview],
    *,
    plain: bool = False,
) -> Any:
    """The value again. Its buffers lie where the parts are, without a copy.

    Args:
        parts: of the value.
        view: the bytes of a range.
        plain: what ``pack`` said of it.

    Raises:
        Exception: whatever its unpickling raises.
    """
    if not plain or len(parts) != 2 or type(parts[0]) is not bytes or type(parts[1]) is not Range:
        return unpickled(*(view(part) if isinstance(part, Range) else part for part in parts))
    head, buffer = parts[0], view(parts[1])
    known = _arrays.get((head, buffer.readonly))
    if known is not None:
        make, shape, dtype, order = known
        return make(shape, dtype, buffer, 0, None, order)
    value = unpickled(head, buffer)
    if is_array(value) and kind_of(value) and value.flags.writeable is not buffer.readonly:
        order = "C" if value.flags.c_contiguous else "F"
        found = (type(value), value.shape, value.dtype, order)
        _learn(_arrays, (head, buffer.readonly), found)
    return value


def unpickled(stream: Any, *buffers: Any) -> Any:
    """The value of a pickle and its buffers."""
    return pickle.loads(stream, buffers=buffers)


def is_array(value: Any) -> bool:
    """Whether it is an array of numpy, and nothing derived from that."""
    kind = type(value)
    return kind.__name__ == "ndarray" and kind.__module__ == "numpy"  # which need not be there


def kind_of(array: Any) -> _Kind | None:
    """Arrays of one kind have the same pickle beside their buffer; None: their bytes are none of
    their own, or their type is not just numbers, where equal ones may have different pickles."""
    flags, dtype = array.flags, array.dtype
    contiguous = flags.c_contiguous or flags.f_contiguous
    if not contiguous or dtype.kind not in _NUMBERS or dtype.metadata is not None:
        return None
    if dtype.num > _LAST_NUMBER:  # of another package: it says that it is one
        return None
    return dtype, array.shape, flags.c_contiguous, flags.writeable


def _is_plain(dtype: Any) -> bool:
    """Whether its elements, and what is written beside it, are nothing of the user's."""
    if dtype.hasobject or dtype.metadata is not None:
        return False
    parts = [dtype.base] if dtype.subdtype else [each[0] for each in (dtype.fields or {}).values()]
    return all(map(_is_plain, parts))


def _learn(where: dict[Any, Any], key: Any, value: Any) -> None:
    if len(where) >= _MOST_KINDS:
        where.clear()
    where[key] = value
