"""The stage ``batch``: several items leave together, as a list."""

from __future__ import annotations

import threading
from typing import Any

from pystream_core import SKIP, PlanError, Stage


class Batch(Stage[Any]):
    """Collect ``size`` items and give them out as one list, in their order.

    What is there when the pipeline is drained or cleaned up, and at the end of a stream, comes
    out as a shorter list, never as an empty one. No item is looked at, so any object will do.
    Each item counts as absorbed here, each list as spawned; a list is as old as its first item.
    """

    def __init__(self, size: int, max_wait: float | None = None) -> None:
        """Choose when a list leaves.

        Args:
            size: items in a list, at least 1.
            max_wait: seconds after which the first item of a list waits no longer for the
                others; in serial mode this is looked at when the next item comes. None for no
                limit.

        Raises:
            PlanError: one of them is not such a number.
        """
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise PlanError(
                f"batch: size must be a whole number of items from 1, not {size!r}; for lists by "
                f"time alone give a large size and max_wait in seconds"
            )
        number = isinstance(max_wait, (int, float)) and not isinstance(max_wait, bool)
        if max_wait is not None and not (number and 0 < max_wait < threading.TIMEOUT_MAX):
            raise PlanError(
                f"batch: max_wait must be seconds above 0, not {max_wait!r}; leave it out to wait "
                f"for full lists"
            )
        self.max_wait = max_wait
        self._size = size
        self._items: list[Any] = []

    def setup(self) -> None:
        """Begin with nothing; also after a cleanup, when the pipeline starts afresh."""
        self._items = []

    def __call__(self, data: Any) -> Any:
        """Take the item; the list when it is full, else SKIP. Does not block."""
        self._items.append(data)
        return self._taken() if len(self._items) == self._size else SKIP

    def flush(self) -> tuple[list[Any], ...]:
        """The list that is not full, unless it is empty."""
        return (self._taken(),) if self._items else ()

    def cleanup(self) -> None:
        """Let go of what an abort has left behind."""
        self._items = []

    def _taken(self) -> list[Any]:
        items, self._items = self._items, []
        return items
