"""How another thread wakes one that waits in ``poll``."""

from __future__ import annotations

import functools
import os
from collections import deque


class Bell:
    """A pipe that becomes readable when it is rung.

    Its descriptors are closed with the object itself: whoever rings it holds it, so the number
    cannot have become something else's.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        for each in (self._read, self._write):
            os.set_blocking(each, False)

    def fileno(self) -> int:
        """To wait for."""
        return self._read

    def ring(self) -> None:
        """Wake who waits, now or later. Never blocks."""
        try:
            os.write(self._write, b"!")
        except BlockingIOError:  # it is ringing
            pass

    def silence(self) -> None:
        """Be ready for the next ring."""
        try:
            os.read(self._read, 4096)
        except BlockingIOError:
            pass

    def __del__(self) -> None:
        if hasattr(self, "_write"):
            os.close(self._read)
            os.close(self._write)


@functools.cache
def _spare(process: int) -> deque[Bell]:  # noqa: ARG001  (a forked child has its own)
    return deque()


def take_bell() -> Bell:
    """One for a stage."""
    try:
        return _spare(os.getpid()).pop()
    except IndexError:
        return Bell()


def give_back(bell: Bell) -> None:
    """For another stage. Whoever still rings it wakes that one for nothing, which does no harm;
    were it closed instead, it could write to whatever gets the number next."""
    bell.silence()
    _spare(os.getpid()).append(bell)
