"""The ticker: absolute ticks without drift, by a clock that the test moves."""

from __future__ import annotations

import threading
from threading import TIMEOUT_MAX
from time import monotonic
from typing import Any

import pytest

from pystream_core import PlanError, Ticker

DEADLINE = 5.0


class Clock:
    """Time that passes only when somebody waits or works."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.stopped = False

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        """Wait, as the ticker does; True when it was stopped."""
        if not self.stopped:
            self.now += seconds
        return self.stopped

    def work(self, seconds: float) -> None:
        self.now += seconds


def ticks(work: list[float], period: float = 1.0) -> tuple[list[float], Ticker]:
    """When each tick came, with this much work after each."""
    clock = Clock()
    ticker = Ticker(period, clock=clock, wait=clock.wait)
    times = []
    for seconds in work:
        assert ticker.wait_tick()
        times.append(round(clock.now - 1000, 6))
        clock.work(seconds)
    return times, ticker


def test_the_first_tick_comes_at_once() -> None:
    """And the next ones a period apart."""
    times, ticker = ticks([0, 0, 0, 0])
    assert times == [0, 1, 2, 3]
    assert ticker.missed == 0


def test_ticks_do_not_drift() -> None:
    """Whatever the work takes, tick k comes at k periods; 10,000 of them without rounding."""
    times, ticker = ticks([0.3, 0.9, 0.1, 0.5] * 2500, period=1.0)
    assert times == list(range(10_000))
    assert ticker.missed == 0


def test_a_tick_during_work_is_missed_and_not_made_up_for() -> None:
    """Work of two and a half periods misses two ticks; the third comes in time."""
    times, ticker = ticks([2.5, 0, 0])
    assert times == [0, 3, 4]
    assert ticker.missed == 2


def test_a_tick_that_is_hardly_late_still_counts() -> None:
    """Late by less than a tenth of the period: at once, and not missed."""
    times, ticker = ticks([1.05, 0, 0])
    assert times == [0, 1.05, 2]
    assert ticker.missed == 0


class SlowClock(Clock):
    """A system that wakes a thread later than it should."""

    def __init__(self, late: list[float]) -> None:
        super().__init__()
        self.late = iter(late)

    def wait(self, seconds: float) -> bool:
        self.now += seconds + next(self.late, 0.0)
        return self.stopped


@pytest.mark.parametrize(
    ("late", "expected", "missed"),
    [
        ([1.4], [0, 2.4, 2.4, 3], 0),  # tick 2 is due already when tick 1 comes
        ([0.95], [0, 1.95, 2.05, 3], 0),  # and here after the work of tick 1
        ([2.5], [0, 3.5, 3.6, 4], 1),  # tick 2 is over: tick 3 comes in its place
    ],
)
def test_a_tick_after_a_late_wake_up_follows_at_once(
    late: list[float], expected: list[float], missed: int
) -> None:
    """So the rate is kept although the system was late; only a tick whose period is over by
    then is missed."""
    clock = SlowClock(late)
    ticker = Ticker(1.0, clock=clock, wait=clock.wait)
    times = []
    for _ in expected:
        assert ticker.wait_tick()
        times.append(clock.now - 1000)
        clock.work(0.1 if late != [1.4] else 0.0)
    assert times == pytest.approx(expected, abs=0.01)
    assert ticker.missed == missed


def test_work_of_many_periods_is_counted_exactly() -> None:
    """ticks + missed = periods that have passed."""
    times, ticker = ticks([0, 100.5, 7.3, 0, 0])
    assert times == [0, 1, 102, 110, 111]
    assert len(times) + ticker.missed == 112


def test_a_stopped_ticker_ticks_no_more() -> None:
    """``wait_tick`` says False, also at the first tick."""
    ticker = Ticker(0.001)
    ticker.stop()
    assert ticker.wait_tick() is False
    assert ticker.wait_tick() is False


@pytest.mark.parametrize("period", [0.001, 0.02, 0.021, 0.5, 3600.0, 1e300])
def test_stop_ends_a_wait_within_100_ms(period: float) -> None:
    """Whatever the period: a short wait is slept through, a long one is ended."""
    best = DEADLINE
    for _ in range(3):
        ticker = Ticker(period)
        assert ticker.wait_tick()
        answers: list[bool] = []
        waiter = threading.Thread(target=lambda t=ticker, a=answers: a.append(t.wait_tick()))
        waiter.start()
        start = monotonic()
        ticker.stop()
        waiter.join(DEADLINE)
        best = min(best, monotonic() - start)
        assert answers == [False] or period == 0.001  # which may have been over by then
        assert not ticker.wait_tick()
    assert best < 0.1


@pytest.mark.parametrize(("period", "ticks"), [(0.005, 20), (0.025, 5)])
def test_a_real_ticker_keeps_its_period(period: float, ticks: int) -> None:
    """Twenty ticks of 5 ms take 95 ms or a little more, whatever they are waited for by."""
    best = DEADLINE
    for _ in range(3):
        ticker = Ticker(period)
        start = monotonic()
        for _ in range(ticks):
            assert ticker.wait_tick()
        best = min(best, monotonic() - start)
    assert period * (ticks - 1) - 0.001 <= best < 0.2


@pytest.mark.parametrize("period", [0, -1, float("nan"), float("inf"), "1", None, True])
def test_a_period_that_is_none_is_refused(period: Any) -> None:
    """With the rule in the message."""
    with pytest.raises(PlanError, match="period must be seconds above 0"):
        Ticker(period)


@pytest.mark.parametrize("period", [1e-320, 1e-9, 10**400])
def test_extreme_periods_can_be_counted(period: float) -> None:
    """Neither a tiny nor a huge one overflows anything."""
    ticker = Ticker(period)
    assert ticker.wait_tick()
    if period < 1:
        assert ticker.wait_tick()
    assert ticker.missed >= 0


def test_a_wait_longer_than_any_is_waited_for_in_pieces() -> None:
    """Of a period that no lock can wait for at once."""
    clock = Clock()
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return clock.wait(seconds)

    ticker = Ticker(TIMEOUT_MAX * 2.5, clock=clock, wait=wait)
    assert ticker.wait_tick()
    assert ticker.wait_tick()
    assert waits[:2] == [TIMEOUT_MAX, TIMEOUT_MAX]
    assert len(waits) == 3
