"""What users of these stages rely on."""

from __future__ import annotations

import pytest
from pystream_core import SKIP, PlanError
from pystream_core.testing import plugin_suite, stage_suite

from acme_stages import Alarm, Smooth, Threshold

TestSmooth = stage_suite(
    "acme.smooth",
    examples=[(20.0, 20.0), (22.0, 21.0), (90.0, 22.0), (23.0, 23.0), (24.0, 24.0)],
    stateless=False,
    size=3,
)
TestThreshold = stage_suite(
    "acme.threshold",
    examples=[
        (27.0, SKIP),
        (28.5, Alarm("above", 28.5)),
        (27.0, SKIP),
        (28.5, SKIP),
        (25.5, Alarm("below", 25.5, after=3)),
        (27.0, SKIP),
        ("hot", TypeError),
    ],
    stateless=False,
    high=28.0,
    low=26.0,
)
TestPlugin = plugin_suite("acme-stages")


@pytest.mark.parametrize("size", [0, 4, -1, 2.5, True, "3"])
def test_a_size_without_a_middle_is_refused(size: object) -> None:
    """When the stage is made, with what would be right."""
    with pytest.raises(PlanError, match="odd number of readings such as 3"):
        Smooth(size=size)


def test_limits_that_cross_are_refused() -> None:
    """Else an alarm would end with the reading that began it."""
    with pytest.raises(PlanError, match=r"low must not lie above high, which is 20, as 21 does"):
        Threshold(high=20, low=21)


def test_one_limit_is_enough() -> None:
    """Then it is both."""
    stage = Threshold(high=20)
    assert [stage(value) for value in (21, 20, 19)] == [
        Alarm("above", 21),
        SKIP,
        Alarm("below", 19, after=2),
    ]
