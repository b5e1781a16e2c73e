"""The stage ``acme.smooth``: readings without single wild values."""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import Any

from pystream_core import PlanError, Stage


class Smooth(Stage[Any]):
    """Give the median of the last ``size`` readings in place of each.

    The first readings are the median of those that there are. A step in the readings comes out
    ``size // 2`` readings later. Use one worker.
    """

    def __init__(self, size: int = 3) -> None:
        """Choose how many readings count.

        Args:
            size: odd, at least 1; with 1 the readings stay as they are.

        Raises:
            PlanError: it is no such number.
        """
        if isinstance(size, bool) or not isinstance(size, int) or size < 1 or size % 2 == 0:
            raise PlanError(f"size must be an odd number of readings such as 3 or 5, not {size!r}")
        self._latest: deque[float] = deque(maxlen=size)

    def setup(self) -> None:
        """Begin anew; also after a cleanup, when the pipeline starts afresh."""
        self._latest.clear()

    def __call__(self, data: float) -> float:
        """The median. Does not block."""
        self._latest.append(data)
        return median(self._latest)

    def cleanup(self) -> None:
        """Nothing to let go."""
