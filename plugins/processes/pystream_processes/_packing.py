"""Values and the parts that they travel in: a pickle and the buffers beside it.

cloudpickle, since what is defined in the main program, in a function or in a notebook exists
nowhere else; what it takes more than pickle is 2 us for a small item.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from typing import Any, Final

import cloudpickle

from ._wire import Part, Range

SMALLEST: Final = 65536  # bytes; smaller buffers are quicker in the pipe than in shared memory

Place = Callable[[memoryview], Range | None]
"""Puts a buffer into shared memory; None when there is no room."""


def pack(value: Any, place: Place) -> list[Part]:
    """The parts of a value.

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

    stream = io.BytesIO()
    cloudpickle.Pickler(stream, protocol=5, buffer_callback=beside).dump(value)
    everything = [stream.getbuffer(), *buffers]
    return [each if each.nbytes < SMALLEST else place(each) or each for each in everything]


def unpack(parts: Sequence[bytearray | Range], view: Callable[[Range], memoryview]) -> Any:
    """The value again. Its buffers lie where the parts are, without a copy.

    Raises:
        Exception: whatever its unpickling raises.
    """
    stream, *buffers = (view(part) if isinstance(part, Range) else part for part in parts)
    return pickle.loads(stream, buffers=buffers)
