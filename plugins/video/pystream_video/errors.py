"""The one error of a video that cannot be read or written."""

from __future__ import annotations

from pystream_core import PyStreamError


class VideoError(PyStreamError, OSError):
    """A video cannot be opened, decoded or written; the message names it and what to do.

    ``__cause__`` is what FFmpeg reported, if it did.

    Attributes:
        lasting: trying again could not help, as with a wrong address or permission.
    """

    def __init__(self, message: str, *, lasting: bool = False) -> None:
        super().__init__(message)
        self.lasting = lasting


def counted(frames: int) -> str:
    """``1 frame``, ``2 frames``, for messages."""
    return f"{frames} frame{'' if frames == 1 else 's'}"


def reason(error: BaseException) -> str:
    """What FFmpeg says of a failure, without its number and the repeated file name."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
