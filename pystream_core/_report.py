"""Saying what was lost, without flooding the log."""

from __future__ import annotations

import logging
import threading
from time import monotonic

from ._errors import counted

logger = logging.getLogger("PyStream")


class LossReport:
    """Names losses at WARNING, each sort at most once a second, with how many there were.

    Called by workers and senders when they lose an item; the lock is held for a few
    dictionary operations, never while logging.

    Args:
        interval: seconds between two lines about the same sort of loss.
        quiet: somebody else names them.
    """

    def __init__(self, interval: float = 1.0, *, quiet: bool = False) -> None:
        self._interval = interval
        self._quiet = quiet
        self._lock = threading.Lock()  # guards both dictionaries
        self._waiting: dict[str, tuple[int, str]] = {}
        self._quiet_until: dict[str, float] = {}

    def note(self, what: str, example: str = "") -> None:
        """Count one loss and say it, unless that sort was named less than a second ago.

        Args:
            what: the sort, for example ``MainPipeline__A: dropped (overflow)``.
            example: a detail of this one.
        """
        if self._quiet:
            return
        now = monotonic()
        with self._lock:
            count, first = self._waiting.get(what, (0, ""))
            self._waiting[what] = (count + 1, first or example)
            if now < self._quiet_until.get(what, 0.0):
                return
            self._quiet_until[what] = now + self._interval
            count, example = self._waiting.pop(what)
        self._say(what, count, example)

    def replace_lock(self) -> None:
        """In a forked child, where the lock may be held by a thread that is gone."""
        self._lock = threading.Lock()

    def flush(self) -> None:
        """Say everything that has not been said yet."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for what, (count, example) in waiting.items():
            self._say(what, count, example)

    @staticmethod
    def _say(what: str, count: int, example: str) -> None:
        items = counted(count, "item", "items")
        logger.warning("%s: %s%s", what, items, f"; {example}" if example else "")
