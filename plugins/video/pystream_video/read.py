"""The source ``video.read``: frames of a file, a stream or a camera."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import av
from av.error import FFmpegError

from pystream_core import PlanError

from .decode import Decoding, Input
from .errors import VideoError, counted
from .frames import Converter, Frame
from .newest import Newest

_logger = logging.getLogger("PyStream.video")
_LONGEST_BACKOFF = 30.0
_JOIN = 1.0


class VideoReader:
    """Frames of a video as arrays ``(height, width, 3)`` of uint8 in RGB.

    A recording (a file, or a URL that states its length) must be whole: when it is damaged or
    cut off, the good frames before the damage come first, then :class:`VideoError`. Formats
    without a stated length, such as MPEG-TS, cannot show that their end is missing. A live
    input (a camera, RTSP, RTP, UDP, SRT, RTMP, or a URL without length) passes over damaged
    frames; with ``reconnect`` its end is a lost connection.

    Each iteration opens the input anew at its first item, and closes it when it ends or is
    closed. Taking a frame blocks until it is decoded, for a live input until it comes, at most
    ``timeout`` seconds. With ``realtime`` a thread reads ahead of the pipeline, a recording by
    its timestamps, and keeps the newest frame only; the others are dropped and counted.

    Rotation stored beside the picture, as telephones do, is not applied.

    Attributes:
        dropped: late frames that the newest iteration dropped at the source.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        format: str | None = None,
        loop: bool | int = False,
        reconnect: float | None = None,
        realtime: bool = False,
        options: Mapping[str, object] | None = None,
        timeout: float | None = 10.0,
    ) -> None:
        """Describe the input. Nothing is opened yet.

        Args:
            path: an existing file, an FFmpeg URL (rtsp://, http://, ...), or with ``format``
                the name of a device such as /dev/video0.
            format: FFmpeg's name of the container or device, e.g. "v4l2"; None finds out.
            loop: play a recording again: True for ever, or how many times in all.
            reconnect: seconds before a lost URL or device is opened again, doubled up to 30 s
                while that fails; None raises VideoError instead.
            realtime: keep only the newest frame, drop and count late ones.
            options: options for FFmpeg, e.g. {"rtsp_transport": "tcp"}.
            timeout: seconds that opening, and each reading, may take; None without limit.

        Raises:
            PlanError: there is no such file, or an option has no meaning.
        """
        text = os.fspath(path)
        if not isinstance(text, str) or not text:
            raise PlanError(f"video.read: path must be a path, URL or device, not {path!r}")
        is_file = "://" not in text and (format is None or Path(text).is_file())
        if is_file and not Path(text).is_file():
            what = "is a folder" if Path(text).is_dir() else "does not exist"
            raise PlanError(f"video.read: {text} {what}; give the path of a video file, or a URL")
        _check_format(format)
        self._loops = _loops(loop, can_end=is_file or "://" in text)
        if reconnect is not None:
            _check_seconds("reconnect", reconnect)
            if is_file:
                raise PlanError(
                    "video.read: reconnect is for URLs and devices; a file is played again by loop"
                )
        if timeout is not None:
            _check_seconds("timeout", timeout)
        if not isinstance(realtime, bool):
            raise PlanError(f"video.read: realtime must be True or False, not {realtime!r}")
        if options is not None and not isinstance(options, Mapping):
            raise PlanError(f"video.read: options must be a table of names, not {options!r}")
        self._input = Input(
            path=text,
            format=format,
            is_file=is_file,
            options={str(key): str(value) for key, value in (options or {}).items()},
            timeout=timeout,
        )
        self._reconnect, self._realtime = reconnect, realtime
        self._stop = threading.Event()
        self._newest: Newest[av.VideoFrame] | None = None

    @property
    def dropped(self) -> int:
        """How many frames newer ones have replaced before anybody asked for them."""
        return self._newest.dropped if self._newest is not None else 0

    def __iter__(self) -> Iterator[Frame]:
        stop = self._stop = threading.Event()
        if not self._realtime:
            return self._arrays(self._passes(stop))
        newest = self._newest = Newest(lambda: self._passes(stop), f"video.read {self._input.path}")
        return self._latest(newest, stop)

    def close(self) -> None:
        """End the newest iteration, also from another thread.

        With ``realtime``, and while it waits to reconnect, it ends at once; a reading that
        blocks ends after at most ``timeout`` seconds.
        """
        self._stop.set()
        if self._newest is not None:
            self._newest.close()

    def __repr__(self) -> str:
        return f"<VideoReader of {self._input.path}>"

    def _arrays(self, frames: Generator[av.VideoFrame, None, None]) -> Iterator[Frame]:
        converter = Converter()
        with closing(frames):
            for frame in frames:
                yield converter.to_rgb(frame)

    def _latest(self, newest: Newest[av.VideoFrame], stop: threading.Event) -> Iterator[Frame]:
        try:
            yield from self._arrays(newest.items())
        finally:
            stop.set()
            newest.close()
            if not newest.join(_JOIN):
                limit = self._input.timeout
                ends = "with that reading" if limit is None else f"within {limit:g} s"
                _logger.warning(
                    "%s is still being read; its thread ends %s", self._input.path, ends
                )
            level = logging.WARNING if newest.dropped else logging.INFO
            dropped = counted(newest.dropped)
            _logger.log(level, "%s: %s dropped at the source as late", self._input.path, dropped)

    def _passes(self, stop: threading.Event) -> Generator[av.VideoFrame, None, None]:
        """Every frame, through all loops and reconnections."""
        wait = self._reconnect or 0.0
        passes = 0
        while not stop.is_set():
            count, live, lost = 0, True, "it ended"
            try:
                with closing(Decoding(self._input)) as decoding:
                    live = decoding.live
                    with closing(self._paced(decoding, stop)) as frames:
                        for frame in frames:
                            count += 1
                            yield frame
                            if stop.is_set():
                                return
            except VideoError as error:
                if self._reconnect is None or error.lasting:
                    raise
                lost, live = str(error), True
            if not live or self._reconnect is None:
                if not count and not live:
                    raise VideoError(
                        f"{self._input.path} holds a video track without a frame: it was never "
                        f"finished; record it again"
                    )
                passes += 1
                if passes >= self._loops:
                    return
                continue
            if count:
                wait = self._reconnect
            _logger.warning("%s: %s; opening it again in %.1f s", self._input.path, lost, wait)
            stop.wait(wait)
            wait = min(2 * wait, max(_LONGEST_BACKOFF, self._reconnect))

    def _paced(
        self, decoding: Decoding, stop: threading.Event
    ) -> Generator[av.VideoFrame, None, None]:
        """The frames of one pass; in real time those of a recording by their timestamps."""
        with closing(decoding.frames()) as frames:
            started: float | None = None
            for number, frame in enumerate(frames):
                if self._realtime and not decoding.live:
                    shown = number / decoding.rate if frame.time is None else frame.time
                    now = time.monotonic()
                    if started is None:
                        started = now - shown
                    if stop.wait(max(0.0, started + shown - now)):
                        return
                yield frame


def _check_format(format: str | None) -> None:
    if format is None:
        return
    try:
        known = av.ContainerFormat(format, "r").is_input
    except (ValueError, TypeError, FFmpegError):
        known = False
    if not known:
        raise PlanError(
            f"video.read: FFmpeg has no input format {format!r} here; leave format out for files "
            f'and URLs, or give that of a device: "v4l2" on Linux'
        )


def _loops(loop: bool | int, *, can_end: bool) -> float:
    if isinstance(loop, bool):
        times = math.inf if loop else 1.0
    elif isinstance(loop, int) and loop >= 1:
        times = float(loop)
    else:
        raise PlanError(f"video.read: loop must be True, False or a number from 1, not {loop!r}")
    if times > 1 and not can_end:
        raise PlanError("video.read: a device cannot be looped; reconnect opens it again")
    return times


def _check_seconds(option: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise PlanError(f"video.read: {option} must be seconds above 0, or None, not {value!r}")
