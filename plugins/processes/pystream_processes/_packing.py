"""Values and the parts that they travel in: a pickle and the buffers beside it.

By cloudpickle, since what is defined in the main program, in a function or in a notebook exists
nowhere else. Plain values and arrays of numbers hold nothing of that kind, and pickle is quicker.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from typing import Any, Final

import cloudpickle

from ._shared import unpickled
from ._wire import Part, Range

SMALLEST: Final = 65536  # bytes; smaller buffers are quicker in the pipe than in shared memory

_PLAIN: Final = frozenset({int, float, complex, bool, str, bytes, bytearray, type(None)})

Place = Callable[[memoryview], Range | None]
"""Puts a buffer into shared memory; None when there is no room."""


def pack(value: Any, place: Place) -> tuple[list[Part], bool]:
    """The parts of a value, and whether it is so plain that it can always be unpickled.

    Raises:
        Exception: whatever its pickling raises.
    """
    buffers: list[memoryview] = []

    def beside(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < SMALLEST:
            return True  # inside the pickle
        buffers.append(raw)
        return False

    stream: bytes | memoryview
    plain = _is_plain(value)
    if plain:
        stream = pickle.dumps(value, protocol=5, buffer_callback=beside)
    else:
        file = io.BytesIO()
        cloudpickle.Pickler(file, protocol=5, buffer_callback=beside).dump(value)
        stream = file.getbuffer()
    if len(stream) >= SMALLEST:
        buffers.insert(0, memoryview(stream))
        return [place(each) or each for each in buffers], plain
    return [stream, *(place(each) or each for each in buffers)], plain


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if kind in _PLAIN:
        return True
    array = kind.__name__ == "ndarray" and kind.__module__ == "numpy"  # which need not be there
    return array and not value.dtype.hasobject


def unpack(parts: Sequence[bytearray | Range], view: Callable[[Range], memoryview]) -> Any:
    """The value again. Its buffers lie where the parts are, without a copy.

    Raises:
        Exception: whatever its unpickling raises.
    """
    return unpickled(*(view(part) if isinstance(part, Range) else part for part in parts))
