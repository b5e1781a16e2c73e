"""Video source, sink and frame stages for PyStream, on PyAV and numpy.

A frame is a numpy array of uint8: ``(height, width, 3)`` in RGB, or ``(height, width)`` in
gray. Names are imported on first use, so that ``import pystream_video`` loads neither.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import VideoError as VideoError
    from .frames import Frame as Frame
    from .gray import Gray as Gray
    from .motion import Motion as Motion
    from .read import VideoReader as VideoReader
    from .regions import Box as Box, MotionFrame as MotionFrame
    from .resize import Resize as Resize
    from .write import VideoWriter as VideoWriter

_HOMES = {
    "Box": "regions",
    "Frame": "frames",
    "Gray": "gray",
    "Motion": "motion",
    "MotionFrame": "regions",
    "Resize": "resize",
    "VideoError": "errors",
    "VideoReader": "read",
    "VideoWriter": "write",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
