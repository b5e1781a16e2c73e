"""A source and a sink for the example: the temperatures of a day, and where alarms go."""

from __future__ import annotations

import math
from collections.abc import Iterator

from acme_stages import Alarm


def temperatures(minutes: int = 24 * 60) -> Iterator[float]:
    """A sunny day, minute by minute, as a sensor sees it that is wrong once an hour.

    Args:
        minutes: how many.
    """
    for minute in range(minutes):
        wild = 40 if minute % 60 == 7 else 0
        yield round(22 - 8 * math.cos(2 * math.pi * minute / (24 * 60)) + wild, 2)


def ring(alarm: Alarm) -> Alarm:
    """Show an alarm."""
    print(f"{alarm.value:.2f} is {alarm.state} the limit")
    return alarm
