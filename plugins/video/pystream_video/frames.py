"""Frames as numpy arrays, and their way to FFmpeg and back."""

from __future__ import annotations

from typing import Any, TypeAlias

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

Frame: TypeAlias = npt.NDArray[np.uint8]
"""uint8, ``(height, width, 3)`` in RGB or ``(height, width)`` in gray."""

_UNSPECIFIED = 2  # AVCOL_SPC_UNSPECIFIED
_HD_HEIGHT = 720


def to_av(frame: Any, stage: str) -> av.VideoFrame:
    """The frame for FFmpeg, sharing its memory where that is contiguous.

    Args:
        frame: what the stage was given.
        stage: name of the stage, for the message.

    Raises:
        TypeError: it is no frame.
    """
    if (
        not isinstance(frame, np.ndarray)
        or frame.dtype != np.uint8
        or not (frame.ndim == 2 or (frame.ndim == 3 and frame.shape[2] == 3))
        or 0 in frame.shape
    ):
        if isinstance(frame, np.ndarray):
            given = f"an array of shape {frame.shape} and type {frame.dtype}"
        else:
            given = f"an object of type {type(frame).__name__}"
        raise TypeError(
            f"{stage}: a frame is a numpy array of uint8, (height, width, 3) in RGB or "
            f"(height, width) in gray, not {given}"
        )
    contiguous = np.ascontiguousarray(frame).view(np.ndarray)
    if 1 in frame.shape:  # the stride of such an axis may be anything, and PyAV looks at it
        contiguous = contiguous.copy()
    return av.VideoFrame.from_numpy_buffer(contiguous, format=pixel_format(frame))


def pixel_format(frame: Frame) -> str:
    """FFmpeg's name of the frame's layout."""
    return "gray" if frame.ndim == 2 else "rgb24"


class Converter:
    """Scales and converts on one thread, keeping FFmpeg's tables from frame to frame.

    PyStream's workers run side by side already, so FFmpeg's own threads would only add
    threads that nobody counts.
    """

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def convert(
        self,
        frame: av.VideoFrame,
        *,
        format: str,
        width: int | None = None,
        height: int | None = None,
    ) -> av.VideoFrame:
        """The frame in another size and layout; a reduced one is averaged, not sampled."""
        smaller = width is not None and width < frame.width
        return self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format=format,
            interpolation="AREA" if smaller else "BICUBIC",
            threads=1,
        )

    def to_rgb(self, frame: av.VideoFrame) -> Frame:
        """A decoded frame as an array of its own.

        Video that does not say its colour matrix is taken as players take it: BT.709 from
        720 lines on, else BT.601.
        """
        guess = frame.colorspace == _UNSPECIFIED and frame.height >= _HD_HEIGHT
        rgb = self._reformatter.reformat(
            frame,
            format="rgb24",
            src_colorspace=Colorspace.ITU709 if guess else None,
            threads=1,
        )
        return rgb.to_ndarray()  # type: ignore[return-value]

    def to_video(self, frame: av.VideoFrame, format: str) -> av.VideoFrame:
        """A frame in the layout of an encoder, with the colour matrix BT.709."""
        return self._reformatter.reformat(
            frame,
            format=format,
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            threads=1,
        )
