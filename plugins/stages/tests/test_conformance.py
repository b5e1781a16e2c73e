"""Every stage of this distribution keeps what users rely on."""

from __future__ import annotations

from pystream_core import SKIP
from pystream_core.testing import stage_suite

NUMBERS = [(n, n) for n in range(5)]

TestPace = stage_suite("pace", examples=NUMBERS, rate=10_000)
TestSample = stage_suite(
    "sample", examples=[(0, SKIP), (1, 1), (2, SKIP), (3, 3)], stateless=False, n=2, offset=1
)
TestLog = stage_suite("log", examples=NUMBERS, every=2)
TestCount = stage_suite("count", examples=NUMBERS)
TestBatch = stage_suite(
    "batch", examples=[(1, SKIP), (2, [1, 2]), (3, SKIP)], flushed=[[3]], stateless=False, size=2
)
TestWindow = stage_suite(
    "window", examples=[(1, SKIP), (2, [1, 2]), (3, [2, 3])], stateless=False, size=2
)
TestUnbatch = stage_suite("unbatch", examples=[([1, 2], [1, 2]), ((), []), (3, TypeError)])
