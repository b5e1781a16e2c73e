"""Decoding one video from its opening to its end, with one clear error for a damaged one."""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import av
from av.error import FFmpegError, InvalidDataError

from .errors import VideoError, counted, reason

_logger = logging.getLogger("PyStream.video")

# Their transport loses data as a matter of course, and the sender sets the pace.
_LIVE_SCHEMES = frozenset(
    {"rtsp", "rtsps", "rtp", "udp", "srt", "rtmp", "rtmps", "rtmpt", "rtmpts"}
)
_LASTING = (
    PermissionError,
    av.error.ProtocolNotFoundError,
    av.error.OptionNotFoundError,
    av.error.HTTPUnauthorizedError,
    av.error.HTTPForbiddenError,
)
# Titles in some other encoding are no reason to refuse a video; PyAV 19 does not mind any more.
_TOLERANT: dict[str, Any] = (
    {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
)
_SLACK = 0.5  # seconds that the end of a whole file may differ from what its header states


@dataclass(frozen=True, kw_only=True)
class Input:
    """What to open.

    Attributes:
        path: a path, an FFmpeg URL, or the name of a device.
        format: FFmpeg's name of the container or device; None lets it find out.
        is_file: it is a file on this machine.
        options: FFmpeg's options for opening.
        timeout: seconds for opening, and for each reading; None without limit.
    """

    path: str
    format: str | None = None
    is_file: bool = True
    options: Mapping[str, str] = field(default_factory=dict)
    timeout: float | None = None

    @property
    def scheme(self) -> str:
        """What stands before ``://``, empty for files and devices."""
        return self.path.partition("://")[0].lower() if "://" in self.path else ""


class Decoding:
    """One opened input.

    Attributes:
        live: it comes as it is sent and states no length: damaged frames are passed over,
            and its end is a loss of the connection. Else it is a recording: it must be whole.
        rate: frames per second, for frames without timestamps.
    """

    def __init__(self, source: Input) -> None:
        """Open the input; blocks at most its ``timeout``.

        Raises:
            VideoError: it cannot be opened, or holds no video.
        """
        self._source = source
        try:
            self._container = av.open(
                source.path,
                format=source.format,
                options=dict(source.options),
                timeout=source.timeout,
                **_TOLERANT,
            )
        except (FFmpegError, OSError, ValueError) as error:
            lasting = source.is_file or isinstance(error, _LASTING)
            raise VideoError(_not_opened(source, error), lasting=lasting) from error
        try:
            if not self._container.streams.video:
                raise VideoError(
                    f"{source.path} holds no video (it has "
                    f"{', '.join(s.type for s in self._container.streams) or 'no streams'}): "
                    f"give a file with a video track",
                    lasting=True,
                )
            self._stream = self._container.streams.video[0]
            known = source.is_file or self._container.duration is not None
            self.live = not known or source.scheme in _LIVE_SCHEMES
            # Frame threads are fast, and report what had to be concealed; but they hold
            # several frames back, which a live input must not.
            self._stream.thread_type = "SLICE" if self.live else "AUTO"
            self._damaged = 0
            self.rate = float(self._stream.average_rate or self._stream.guessed_rate or 25)
        except BaseException:
            self._container.close()
            raise

    def close(self) -> None:
        """Close the input at once."""
        self._container.close()

    def frames(self) -> Generator[av.VideoFrame, None, None]:
        """The frames in the order of their display; those before a damage come first.

        Raises:
            VideoError: the input broke off, or is damaged and not live.
        """
        given = 0
        with closing(self._decode()) as frames:
            try:
                for frame in frames:
                    yield frame
                    given += 1
                return
            except _Damage as error:
                damage = error
        if self._source.is_file:
            advice = "the file is damaged or incomplete: copy or record it again"
        elif self.live:
            advice = "check the connection, or set reconnect"
        else:
            advice = f"check the connection and the file behind it{_range_hint(self._source)}"
        raise VideoError(
            f"{self._source.path} {damage} after {counted(given)}; {advice}"
        ) from damage.__cause__

    def _decode(self) -> Generator[av.VideoFrame, None, None]:
        """The frames up to the end or the first damage; raises _Damage after the last of them."""
        end = 0.0  # of what was read, in seconds from the start of the recording
        damage: _Damage | None = None
        try:
            for packet in self._container.demux():
                end = max(end, self._end_of(packet))
                if packet.stream is self._stream:
                    yield from self._frames_of(packet)
        except _Damage as error:
            damage = error
        except FFmpegError as error:
            damage = _Damage(f"cannot be read further ({reason(error)})")
            damage.__cause__ = error
        if damage is not None:
            yield from self._held_back()
            raise damage
        self._check_whole(end)

    def _frames_of(self, packet: Any) -> Generator[av.VideoFrame, None, None]:
        """The frames that the decoder gives for a packet, often those of earlier ones."""
        if packet.is_corrupt and not self.live:
            raise _Damage("ends in the middle of a frame")
        try:
            for frame in packet.decode():
                if frame.is_corrupt and not self.live:
                    raise _Damage("holds a frame that cannot be decoded")
                yield frame
        except InvalidDataError as error:
            if not self.live:
                message = f"holds data that cannot be decoded ({reason(error)})"
                raise _Damage(message) from error
            if not self._damaged:  # once: a bad radio link would fill the log
                _logger.warning("%s: damaged frames are passed over", self._source.path)
            self._damaged += 1

    def _held_back(self) -> Generator[av.VideoFrame, None, None]:
        """The good frames that the decoder still had in its threads."""
        try:
            for frame in self._stream.codec_context.decode(None):
                if frame.is_corrupt:
                    return
                yield frame
        except (FFmpegError, EOFError):
            return

    def _end_of(self, packet: Any) -> float:
        """Where a packet ends; of all streams if only the container states its length."""
        if packet.pts is None or not packet.time_base:
            return 0.0
        if self._stream.duration is not None and packet.stream is not self._stream:
            return 0.0
        return float((packet.pts + (packet.duration or 0)) * packet.time_base)

    def _check_whole(self, end: float) -> None:
        """Recordings whose header promises more than came were cut off."""
        stream, container = self._stream, self._container
        if stream.duration is not None and stream.time_base is not None:
            stated = float(((stream.start_time or 0) + stream.duration) * stream.time_base)
        elif container.duration is not None:
            stated = ((container.start_time or 0) + container.duration) / av.time_base
        else:
            return
        if not self.live and end < stated - max(_SLACK, 3 / self.rate):
            raise _Damage(f"ends at {end:.1f} s instead of {stated:.1f} s")


class _Damage(Exception):
    """What is wrong with the data; becomes a VideoError with the path and a way out."""


def _not_opened(source: Input, error: BaseException) -> str:
    if source.is_file:
        return (
            f"{source.path} is no video that FFmpeg can read ({reason(error)}): it is empty, "
            f"damaged, cut off, or of another kind; check that a player plays it"
        )
    hint = "" if isinstance(error, TimeoutError) else _range_hint(source)
    return (
        f"{source.path} cannot be opened ({reason(error)}): check the address and that it is "
        f"reachable{hint}"
    )


def _range_hint(source: Input) -> str:
    if source.scheme not in ("http", "https"):
        return ""
    return " (an MP4 whose index stands at its end needs a server that answers Range requests)"
