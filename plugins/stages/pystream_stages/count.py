"""The stage ``count``: how many items passed."""

from __future__ import annotations

import logging
import time
from typing import Any

from pystream_core import PlanError, Stage

from .log import LOGGER, level_number


class Count(Stage[Any]):
    """Count the items, pass them on, and log the total at cleanup.

    Attributes:
        count: items seen so far. Can be read from any thread.
    """

    def __init__(
        self, label: str = "items", level: str | int = "INFO", logger: str = LOGGER
    ) -> None:
        """Choose how the total is logged.

        Args:
            label: what is counted, for the message.
            level: a level name such as ``"DEBUG"``, or its number.
            logger: name of the logger.

        Raises:
            PlanError: there is no such level, or the label is not text.
        """
        if not isinstance(label, str):
            raise PlanError(f"count: label must be text, not {label!r}")
        self.count = 0
        self._label = label
        self._level = level_number("count", level)
        self._logger = logging.getLogger(logger)
        self._first = self._last = 0.0

    def __call__(self, data: Any) -> Any:
        """Count the item and return it. Does not block."""
        self._last = time.monotonic()
        if not self.count:
            self._first = self._last
        self.count += 1
        return data

    def cleanup(self) -> None:
        """Log the total, and the rate between the first and the last item."""
        seconds = self._last - self._first
        rate = f", {(self.count - 1) / seconds:.1f} per second" if seconds > 0 else ""
        self._logger.log(self._level, "count of %s: %d%s", self._label, self.count, rate)

    def __repr__(self) -> str:
        return f"<Count {self.count} {self._label}>"
