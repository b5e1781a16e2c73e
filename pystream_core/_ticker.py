"""A periodic driver without drift."""

from __future__ import annotations

import math
from collections.abc import Callable
from queue import Empty
from threading import TIMEOUT_MAX
from time import perf_counter, sleep

from ._errors import PlanError, safe_repr
from ._mailbox import Mailbox

_SHORTEST = 1e-9  # as fast as possible, and still a number of ticks that can be counted
_LONGEST = 1e12
_GRACE = 0.1  # a tick that is late by less than this share of a period is still on time
_NAP = 0.02  # seconds that are slept through, since a wait that can be ended costs more


def check_period(period: object) -> float:
    """The period as a number of seconds, within what can be counted and waited for.

    Raises:
        PlanError: it is not a finite number above 0.
    """
    if isinstance(period, bool) or not isinstance(period, (int, float)):
        raise PlanError(f"period must be seconds above 0, not {safe_repr(period)}")
    if not 0 < period < math.inf:
        raise PlanError(f"period must be seconds above 0, not {safe_repr(period)}")
    return float(min(max(period, _SHORTEST), _LONGEST))


class Ticker:
    """Ticks at ``start + k * period``, whatever the work in between takes.

    A tick that comes while the work of an earlier one still goes on is missed: counted and
    never made up for. One that comes while the thread is woken too late by the system is not:
    it follows at once, unless its whole period is over.

    A tick comes as late as the system wakes a thread, some 50 us (on Linux that is the timer
    slack of an ordinary thread), and equally late each time: the intervals stay even.

    One thread calls ``wait_tick``; ``stop`` may be called from anywhere, also from a
    destructor, since it only posts to a queue. It ends a wait at once, and one that has no more
    than 20 ms to go when that is over.

    Args:
        period: seconds between ticks.
        clock: seconds of a monotonic clock.
        wait: waits that many seconds and says whether it was told to stop meanwhile; by
            default a wait that ``stop`` ends.

    Attributes:
        missed: number of missed ticks.
    """

    def __init__(
        self,
        period: float,
        *,
        clock: Callable[[], float] = perf_counter,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self.period = check_period(period)
        self.missed = 0
        self._clock = clock
        self._tokens: Mailbox[None] = Mailbox()
        self._wait = wait or self._wait_for_stop
        self._start: float | None = None
        self._came = 0.0  # when the latest tick was given out
        self._tick = 0
        self._stopped = False

    def wait_tick(self) -> bool:
        """Wait until the next tick, the first of which is now; False once stopped."""
        now = self._clock()
        if self._start is None:
            self._start = now
        elif not self._already_due(self._start, now):
            self._tick += 1
            if not self._wait_until(self._start + self._tick * self.period):
                return False
            now = self._clock()
        self._came = now
        return not self._stopped

    def _already_due(self, start: float, now: float) -> bool:
        """Whether a tick is to be given out at once. Counts those that are missed."""
        due = int((now - start) / self.period)  # the latest tick that has passed
        if due <= self._tick:
            return False
        self.missed += due - self._tick - 1
        self._tick = due
        if now - self._came < self.period:  # not the work, but a late wake-up took the time
            return True
        if now - (start + due * self.period) < self.period * _GRACE:
            return True
        self.missed += 1
        return False

    def _wait_until(self, target: float) -> bool:
        """False when it was stopped meanwhile."""
        while not self._stopped and (left := target - self._clock()) > 0:
            if self._wait(min(left, TIMEOUT_MAX)):
                return False
        return not self._stopped

    def stop(self) -> None:
        """End the wait that is under way, within 20 ms, and all later ones. Never blocks."""
        self._stopped = True
        self._tokens.post(None)
        if self._tokens.sleepers:
            self._tokens.wake()

    def _wait_for_stop(self, seconds: float) -> bool:
        if seconds <= _NAP:
            sleep(seconds)
            return self._stopped
        try:
            self._tokens.get_within(seconds)
        except Empty:
            return False
        return True
