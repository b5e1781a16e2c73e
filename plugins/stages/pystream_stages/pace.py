"""The stage ``pace``: items leave no faster than a given rate."""

from __future__ import annotations

import math
import threading
import time
from typing import Any

from pystream_core import PlanError, Stage

_SLOWEST = 0.01


class Pace(Stage[Any]):
    """Pass items on, no faster than ``rate`` items per second.

    The schedule is absolute, so waking up late does not add up: an item that is a little
    late is followed by one on time. After a pause of more than one period the schedule
    starts anew, so that what was missed is not caught up in a burst.

    A call blocks at most one period, 1 / ``rate`` seconds. Below 0.2 items per second that
    is longer than the default ``stuck_timeout`` of a cleanup (5 s): raise it in
    ``parallelize`` then. Each worker keeps a schedule of its own: use one worker.
    """

    def __init__(self, rate: float = 25.0) -> None:
        """Set the rate.

        Args:
            rate: items per second, at least 0.01.

        Raises:
            PlanError: the rate is not such a number.
        """
        number = isinstance(rate, (int, float)) and not isinstance(rate, bool)
        if not number or not _SLOWEST <= rate < math.inf:
            raise PlanError(
                f"pace: rate must be items per second from {_SLOWEST} (an item would wait "
                f"longer than any cleanup), not {rate!r}; for one item in minutes use the stage "
                f"sample, or start_loop(period)"
            )
        self._period = 1.0 / rate
        self._due: float | None = None
        self._stopped = threading.Event()
        self._now = time.monotonic
        self._wait = self._stopped.wait

    def setup(self) -> None:
        """Begin a new schedule; also after a cleanup, when the pipeline starts afresh."""
        self._due = None
        self._stopped.clear()

    def __call__(self, data: Any) -> Any:
        """Return the item when its turn has come; blocks at most 1 / ``rate`` seconds."""
        now = self._now()
        if self._due is None or now > self._due + self._period:
            self._due = now
        elif now < self._due:
            self._wait(self._due - now)
        self._due += self._period
        return data

    def cleanup(self) -> None:
        """End a wait that is still running; matters when called from another thread."""
        self._stopped.set()
