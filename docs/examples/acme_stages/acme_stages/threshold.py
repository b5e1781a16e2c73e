"""The stage ``acme.threshold``: when readings rise above a limit, and when they are back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pystream_core import SKIP, PlanError, Stage


@dataclass(frozen=True)
class Alarm:
    """What ``acme.threshold`` gives.

    Attributes:
        state: ``"above"`` from a reading above ``high`` on, ``"below"`` from one below ``low`` on.
        value: the reading.
        after: how many readings ago the state before had begun; 0 for the first alarm.
    """

    state: Literal["above", "below"]
    value: float
    after: int = 0


class Threshold(Stage[Any]):
    """Give an ``Alarm`` when a reading rises above ``high``, and one when it is below ``low``.

    All other readings are filtered, so one that trembles around a limit rings once. It counts as
    below before the first reading. Use one worker.
    """

    def __init__(self, high: float, low: float | None = None) -> None:
        """Choose the limits.

        Args:
            high: a reading above it begins the alarm.
            low: a reading below it ends the alarm; by default ``high``.

        Raises:
            PlanError: ``low`` lies above ``high``.
        """
        self._high = high
        self._low = high if low is None else low
        if not self._low <= self._high:
            raise PlanError(f"low must not lie above high, which is {high!r}, as {low!r} does")
        self._above = False
        self._readings = 0
        self._since: int | None = None

    def setup(self) -> None:
        """Begin anew; also after a cleanup, when the pipeline starts afresh."""
        self._above = False
        self._readings = 0
        self._since = None

    def __call__(self, data: float) -> Any:
        """An Alarm, or SKIP. Does not block."""
        self._readings += 1
        changed = data < self._low if self._above else data > self._high
        if not changed:
            return SKIP
        self._above = not self._above
        after = 0 if self._since is None else self._readings - self._since
        self._since = self._readings
        return Alarm("above" if self._above else "below", data, after)

    def cleanup(self) -> None:
        """Nothing to let go."""
