"""The stage ``sample``: every n-th item passes."""

from __future__ import annotations

from typing import Any

from pystream_core import SKIP, PlanError, Stage


class Sample(Stage[Any]):
    """Pass every ``n``-th item on; the others are filtered and counted as such.

    Each worker counts for itself: use one worker.
    """

    def __init__(self, n: int = 10, offset: int = 0) -> None:
        """Choose which items pass.

        Args:
            n: one item of this many passes, at least 1.
            offset: how many items to filter before the first one that passes.

        Raises:
            PlanError: one of them is not such a number.
        """
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise PlanError(f"sample: n must be a whole number from 1, not {n!r}")
        if not isinstance(offset, int) or isinstance(offset, bool) or offset < 0:
            raise PlanError(f"sample: offset must be a whole number from 0, not {offset!r}")
        self._n = n
        self._offset = offset
        self._until_next = offset

    def setup(self) -> None:
        """Count from the start; also after a cleanup, when the pipeline starts afresh."""
        self._until_next = self._offset

    def __call__(self, data: Any) -> Any:
        """Return the item, or SKIP when it is not its turn. Does not block."""
        if self._until_next:
            self._until_next -= 1
            return SKIP
        self._until_next = self._n - 1
        return data

    def cleanup(self) -> None:
        """Nothing to let go."""
