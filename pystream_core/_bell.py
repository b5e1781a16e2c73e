"""How another thread wakes one that waits in ``poll``."""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Callable
from io import FileIO


class Bell:
    """A pipe that becomes readable when it is rung. For executors and placements on systems
    with ``select.poll``.

    Its descriptors are closed with the object itself: whoever rings it holds it, so the number
    cannot have become something else's. So a bell that is no longer needed is given back, for
    the next one who takes one; whoever still rings it wakes that one for nothing, which does no
    harm.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        for each in (self._read, self._write):
            os.set_blocking(each, False)
        self._file = FileIO(self._write, "w", closefd=False)

    @classmethod
    def take(cls) -> Bell:
        """One that is silent: one that was given back, or a new one."""
        try:
            return _spare(os.getpid()).pop()
        except IndexError:
            return cls()

    def give_back(self) -> None:
        """It is no longer waited for."""
        self.silence()
        _spare(os.getpid()).append(self)

    def fileno(self) -> int:
        """To wait for."""
        return self._read

    def ring(self) -> None:
        """Wake who waits, now or later. Never blocks."""
        self._file.write(b"!")  # does nothing while it is ringing

    def ringer(self) -> Callable[[], object]:
        """What rings it by one call of C, which Ctrl-C does not come before. It holds the bell."""
        ringer = functools.partial(self._file.write, b"!")
        ringer.bell = self  # type: ignore[attr-defined]
        return ringer

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


def spare_descriptors() -> set[int]:
    """Of the bells that have been given back, and stay until the interpreter ends."""
    spare = list(_spare(os.getpid()))
    return {number for each in spare for number in (each._read, each._write)}
