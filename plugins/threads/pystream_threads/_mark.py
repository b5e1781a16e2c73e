"""Marks: how a drain knows that everything before it has come to its end."""

from __future__ import annotations

from queue import Empty
from typing import Final

from pystream_core import Mailbox


class Mark:
    """Travels through all channels behind the items admitted before it.

    Every stage passes it on when everything that it took before has been handed on or has
    ended. Its ``seq`` lies below every floor, so that the one comparison that a worker makes
    for each item finds marks as well.
    """

    __slots__ = ("_arrived", "seq")

    def __init__(self) -> None:
        self.seq = -1
        self._arrived: Mailbox[bool] = Mailbox()

    def arrive(self, whole: bool = True) -> None:
        """The mark is through, or (False) will never be. Never blocks."""
        self._arrived.put(whole)

    def wait(self, timeout: float | None) -> bool:
        """Wait until it is through, at most ``timeout`` seconds."""
        try:
            return self._arrived.get_within(timeout)
        except Empty:
            return False


STOP: Final = Mark()
"""What workers find behind the last item of a closed channel."""
