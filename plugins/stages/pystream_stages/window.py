"""The stage ``window``: each item together with those before it."""

from __future__ import annotations

from collections import deque
from typing import Any

from pystream_core import SKIP, PlanError, Stage


class Window(Stage[Any]):
    """Give out the last ``size`` items as a list, oldest first, after every ``step`` items.

    Only full windows come out, so a mean over one always is of ``size`` items: the first one
    leaves with item number ``size``, and fewer than that give nothing. Items that the end of a
    stream, a drain or a cleanup finds waiting end there as well, and the next window begins
    with the items after it. Each item counts as absorbed here, each window as spawned.
    """

    def __init__(self, size: int, step: int = 1) -> None:
        """Choose the windows.

        Args:
            size: items in a window, at least 1.
            step: items from the start of one window to the start of the next, at least 1; as
                many as ``size`` for windows side by side, more to leave items out between them.

        Raises:
            PlanError: one of them is not such a number.
        """
        for option, value in (("size", size), ("step", step)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise PlanError(
                    f"window: {option} must be a whole number of items from 1, not {value!r}; for "
                    f"a moving mean of 10 give size=10 and leave step out"
                )
        self._step = step
        self._size = size
        self._items: deque[Any] = deque(maxlen=size)
        self._until_full = size

    def setup(self) -> None:
        """Begin with nothing; also after a cleanup, when the pipeline starts afresh."""
        self._items.clear()
        self._until_full = self._size

    def __call__(self, data: Any) -> Any:
        """Take the item; a new list when a window is full, else SKIP. Does not block."""
        self._items.append(data)
        self._until_full -= 1
        if self._until_full:
            return SKIP
        self._until_full = self._step
        return list(self._items)

    def flush(self) -> tuple[()]:
        """Nothing: a window that is not full never will be. The next one begins anew."""
        self.setup()
        return ()

    def cleanup(self) -> None:
        """Let go of the items."""
        self._items.clear()
