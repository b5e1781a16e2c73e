"""The sink ``video.write``: frames into a video file."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from pystream_core import PlanError, Stage

from .encode import Encoding, Output, container_for, encoder_for, pixels_for
from .frames import Converter, Frame, to_av

_RATES = (0.01, 10_000)


class VideoWriter(Stage[Frame]):
    """Write frames, RGB or gray, to a video file and pass them on unchanged.

    The file is opened at the first frame, under a hidden name in the same folder, and gets its
    own name at cleanup, when it is complete: under that name there is never half a video, and
    without a frame there is none at all. After a failure elsewhere the frames up to then are
    kept. All frames must have the size of the first; odd sizes are padded by one line or
    column, repeating the last, where the pixel format needs even ones.

    A call blocks for the encoding, about 11 ms at 1280x720 and 3 ms at 640x360 with the
    defaults. Use one worker.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        rate: float = 25.0,
        codec: str = "auto",
        quality: int = 23,
        pixel_format: str = "yuv420p",
        overwrite: bool = True,
    ) -> None:
        """Describe the file.

        Args:
            path: the file to write; its ending decides the container, e.g. .mp4 or .mkv.
            rate: frames per second at which it plays.
            codec: name of an FFmpeg encoder; "auto" takes H.264, or MPEG-4 where that is missing.
            quality: 0 is the best and largest, 51 the worst; 18 to 28 are usual.
            pixel_format: FFmpeg's pixel format; "yuv420p" plays everywhere.
            overwrite: replace a file that is there; False refuses.

        Raises:
            PlanError: the folder is missing, or an option has no meaning.
        """
        self._path = Path(path)
        if not self._path.parent.is_dir():
            raise PlanError(f"video.write: the folder {self._path.parent} does not exist: make it")
        if self._path.is_dir():
            raise PlanError(f"video.write: {self._path} is a folder; give the name of a file in it")
        if not isinstance(overwrite, bool):
            raise PlanError(f"video.write: overwrite must be True or False, not {overwrite!r}")
        if not overwrite and self._path.exists():
            raise PlanError(f"video.write: {self._path} exists; choose another, or overwrite=True")
        number = isinstance(rate, (int, float)) and not isinstance(rate, bool)
        if not number or not _RATES[0] <= rate <= _RATES[1]:
            raise PlanError(
                f"video.write: rate must be frames per second from {_RATES[0]} to {_RATES[1]}, "
                f"not {rate!r}"
            )
        if not isinstance(quality, int) or isinstance(quality, bool) or not 0 <= quality <= 51:
            raise PlanError(f"video.write: quality must be a number from 0 to 51, not {quality!r}")
        encoder = encoder_for(codec)
        self._output = Output(
            path=self._path,
            container=container_for(self._path, encoder),
            codec=encoder,
            rate=Fraction(rate).limit_denominator(100_000),
            pixels=pixels_for(pixel_format, encoder),
            quality=quality,
            overwrite=overwrite,
        )
        self._converter = Converter()
        self._file: Encoding | None = None

    def __call__(self, data: Frame) -> Frame:
        """Write the frame and return it.

        Raises:
            TypeError: it is no frame.
            ValueError: it has another size than the frames before.
            VideoError: it cannot be written, because the disk is full for instance.
        """
        frame = to_av(data, "video.write")
        if self._file is None:
            self._file = Encoding(self._output, (frame.width, frame.height))
        self._file.write(self._fitting(data, frame))
        return data

    def cleanup(self) -> None:
        """Finish the file and give it its name; VideoError when that fails."""
        file, self._file = self._file, None
        if file is not None:
            file.finish()

    def _fitting(self, data: Frame, frame: av.VideoFrame) -> av.VideoFrame:
        """The frame in the size and layout of the encoder."""
        assert self._file is not None  # opened by the caller
        if (frame.width, frame.height) != self._file.size:
            width, height = self._file.size
            raise ValueError(
                f"video.write: a frame of {frame.width}x{frame.height} cannot follow those of "
                f"{width}x{height} in {self._path}: put video.resize before it"
            )
        right = self._file.padded[0] - frame.width
        below = self._file.padded[1] - frame.height
        if right or below:
            sides = [(0, below), (0, right), (0, 0)][: data.ndim]
            frame = to_av(np.pad(np.asarray(data), sides, mode="edge"), "video.write")
        return self._converter.to_video(frame, self._output.pixels)
