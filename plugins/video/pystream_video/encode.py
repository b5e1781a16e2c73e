"""One video being encoded into a file that gets its name when it is complete."""

from __future__ import annotations

import io
import itertools
import logging
import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.error import FFmpegError

from pystream_core import PlanError

from .errors import VideoError, counted, reason

_logger = logging.getLogger("PyStream.video")
_BT709 = 1  # AVCOL_SPC_BT709
_LIMITED = 1  # AVCOL_RANGE_MPEG
_AUTO = ("libx264", "libopenh264", "mpeg4")  # the best that this FFmpeg has
_WITH_CRF = ("libx264", "libx265", "libvpx-vp9", "libsvtav1", "libaom-av1")
_number = itertools.count(1)


@dataclass(frozen=True, kw_only=True)
class Output:
    """What to write.

    Attributes:
        path: the file when it is complete.
        container: FFmpeg's name of its format.
        codec: FFmpeg's name of the encoder.
        rate: frames per second.
        pixels: FFmpeg's pixel format.
        quality: 0 (best) to 51.
        overwrite: replace a file that is there.
    """

    path: Path
    container: str
    codec: str
    rate: Fraction
    pixels: str
    quality: int
    overwrite: bool

    def encoder_options(self) -> dict[str, str]:
        """The encoder's own options."""
        options = {}
        if self.codec in _WITH_CRF:
            options["crf"] = str(self.quality)
        if self.codec in ("libx264", "libx265"):
            options["preset"] = "veryfast"  # half the time of the default for a tenth more bytes
        if self.codec == "libx265":
            options["x265-params"] = "log-level=none"  # it writes to stderr by itself
        return options

    def bit_rate(self, width: int, height: int) -> int | None:
        """Bits per second for encoders that know no constant quality."""
        if self.codec in _WITH_CRF:
            return None
        # six steps of quality halve the size, as they do for H.264
        bits = width * height * float(self.rate) * 0.15 * 2 ** ((23 - self.quality) / 6)
        return int(min(max(bits, 10_000), 2**31 - 1))


class Encoding:
    """The file while it is written, hidden beside the target and with its ending.

    Attributes:
        size: width and height of the frames that it takes.
        padded: width and height of the video.
    """

    def __init__(self, output: Output, size: tuple[int, int]) -> None:
        """Open the file.

        Raises:
            VideoError: the folder takes no new file, or the encoder refuses these frames.
        """
        self._output = output
        path = output.path  # beside it, because a rename must not cross disks
        name = f".{path.stem}.{os.getpid()}-{next(_number)}{path.suffix}"
        self._temporary = path.with_name(name)
        self.size = size
        self.padded = _padded(size, output.pixels)
        self._frames = 0
        try:
            self._container = av.open(str(self._temporary), "w", format=output.container)
        except (FFmpegError, OSError) as error:
            raise VideoError(self._not_written(error)) from error
        try:
            self._stream = self._add_stream()
            self._container.start_encoding()  # now, not when the encoder gives its first packet
        except (FFmpegError, OSError, ValueError) as error:
            self._discard()
            raise VideoError(self._not_written(error)) from error

    def _add_stream(self) -> av.VideoStream:
        output = self._output
        stream = self._container.add_stream(
            output.codec, rate=output.rate, options=output.encoder_options()
        )
        assert isinstance(stream, av.VideoStream)  # encoders of other kinds are refused before
        stream.width, stream.height = self.padded
        stream.pix_fmt = output.pixels
        stream.codec_context.time_base = 1 / output.rate
        stream.codec_context.colorspace = _BT709
        stream.codec_context.color_range = _LIMITED
        bit_rate = output.bit_rate(*self.padded)
        if bit_rate is not None:
            stream.bit_rate = bit_rate
        return stream

    def write(self, frame: av.VideoFrame) -> None:
        """Encode one frame of the size ``padded``; VideoError when it cannot be written."""
        frame.pts, frame.time_base = self._frames, 1 / self._output.rate
        try:
            self._container.mux(self._stream.encode(frame))
        except (FFmpegError, OSError) as error:
            raise VideoError(self._not_written(error)) from error
        self._frames += 1

    def finish(self) -> None:
        """Complete the file and rename it; a file that cannot be completed is removed.

        Raises:
            VideoError: it cannot be completed, or the target may not be overwritten.
        """
        path = self._output.path
        if not self._frames:
            self._discard()
            return
        try:
            try:
                self._container.mux(self._stream.encode(None))
            finally:
                self._container.close()
            if not self._output.overwrite and path.exists():
                raise VideoError(
                    f"{path} has appeared meanwhile and may not be overwritten: the video of "
                    f"{counted(self._frames)} is kept as {self._temporary}"
                )
            os.replace(self._temporary, path)
        except VideoError:
            raise
        except (FFmpegError, OSError) as error:
            self._discard()
            raise VideoError(self._not_written(error)) from error
        _logger.info("%s: %s written", path, counted(self._frames))

    def _discard(self) -> None:
        try:
            self._container.close()
        except (FFmpegError, OSError):
            pass  # it is thrown away; what led here is reported
        self._temporary.unlink(missing_ok=True)

    def _not_written(self, error: BaseException) -> str:
        after = counted(self._frames)
        return (
            f"{self._output.path} cannot be written after {after} ({reason(error)}): "
            f"check the folder and its space, and that codec, pixel format and size go together"
        )


def _padded(size: tuple[int, int], pixels: str) -> tuple[int, int]:
    """The size rounded up to what the pixel format's shared colours need."""
    layout = av.VideoFormat(pixels)
    width, height = size
    wide = 2 if layout.chroma_width(2) == 1 else 1
    high = 2 if layout.chroma_height(2) == 1 else 1
    return -(-width // wide) * wide, -(-height // high) * high


def encoder_for(codec: str) -> str:
    """The encoder of that name, or the best one for "auto"; PlanError without one."""
    for name in _AUTO if codec == "auto" else (codec,):
        try:
            found = av.Codec(name, "w")
        except (ValueError, TypeError):  # PyAV's UnknownCodecError is a ValueError
            continue
        if found.type == "video":
            return found.name
    raise PlanError(
        f"video.write: FFmpeg has no video encoder {codec!r} here; "
        f'leave codec "auto", or try "libx264" or "mpeg4"'
    )


def pixels_for(name: str, codec: str) -> str:
    """The pixel format, if the encoder takes it; else PlanError with those that it takes."""
    known = [layout.name for layout in av.Codec(codec, "w").video_formats or ()]
    if name in known:
        return name
    raise PlanError(
        f"video.write: {codec} cannot encode the pixel format {name!r}; it takes {', '.join(known)}"
    )


def container_for(path: Path, codec: str) -> str:
    """FFmpeg's name of the container that the file's ending stands for; else PlanError."""
    ending = path.suffix[1:].lower()
    names = []
    for name in sorted(av.formats_available):
        try:
            container = av.ContainerFormat(name, "w")
        except ValueError:  # it can be read only
            continue
        if ending and ending in container.extensions:
            names.append(name)
    if not names:
        raise PlanError(
            f"video.write: FFmpeg knows no video file that ends in {path.suffix!r} ({path.name}); "
            f"use .mp4, .mkv, .mov or .avi"
        )
    found = ending if ending in names else names[0]
    try:
        with av.open(io.BytesIO(), "w", format=found) as trial:
            trial.add_stream(codec, rate=25)
    except (FFmpegError, ValueError) as error:
        raise PlanError(
            f"video.write: {path.suffix} files cannot hold {codec} ({reason(error)}); "
            f"use .mp4 or .mkv"
        ) from error
    return found
