"""A clock that moves only when it is told to."""

from __future__ import annotations


class ManualClock:
    """Seconds of a monotonic clock under the test's control.

    ``Ticker(period, clock=clock, wait=clock.wait)`` then runs without waiting: a wait moves
    the clock.

    Args:
        now: where it starts.

    Attributes:
        waited: the seconds of each ``wait``.
    """

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self.waited: list[float] = []

    def __call__(self) -> float:
        """Seconds."""
        return self.now

    def ns(self) -> int:
        """The same in nanoseconds."""
        return int(self.now * 1e9)

    def advance(self, seconds: float) -> None:
        """Move on.

        Raises:
            ValueError: backwards.
        """
        if seconds < 0:
            raise ValueError(f"a monotonic clock does not go back, not by {seconds} s")
        self.now += seconds

    def wait(self, seconds: float) -> bool:
        """Let that time pass at once. Never told to stop."""
        self.waited.append(seconds)
        self.advance(seconds)
        return False
