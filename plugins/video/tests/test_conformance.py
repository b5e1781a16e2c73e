"""Every stage of this distribution keeps what users rely on."""

from __future__ import annotations

import numpy as np

from pystream_core.testing import stage_suite

FRAME = np.random.default_rng(5).integers(0, 255, (120, 160, 3), np.uint8)


def small(frame: np.ndarray) -> bool:
    """Whether a frame has half the size."""
    return frame.shape == (60, 80, 3) and frame.dtype == np.uint8


def still(frame: np.ndarray) -> bool:
    """Whether nothing has moved."""
    return frame.shape == FRAME.shape and frame.count == 0


TestResize = stage_suite(
    "video.resize", examples=[(FRAME, small), (FRAME[::2, ::2], small)], width=80
)
TestGray = stage_suite("video.gray", sample=FRAME // 255, expect=FRAME[..., 0] // 255)
TestMotion = stage_suite("video.motion", examples=[(FRAME, still)] * 3, stateless=False)
