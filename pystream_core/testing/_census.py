"""Counting what a test leaves behind: threads, child processes, file descriptors."""

from __future__ import annotations

import gc
import os
import threading
from multiprocessing import active_children
from pathlib import Path
from time import monotonic

from .._bell import spare_descriptors
from ._waiting import wait_until

_DESCRIPTORS = Path("/proc/self/fd")
_TASKS = Path("/proc/self/task")


class Census:
    """What there is at one moment, to compare with later.

    Figures that the system does not give (``/proc`` is missing) are left out.
    """

    def __init__(self) -> None:
        self._threads = frozenset(threading.enumerate())
        self._children = _children()
        self._descriptors = _descriptors()

    def left(self, grace: float = 2.0) -> list[str]:
        """What is there now and was not then, in words.

        Waits at most ``grace`` seconds for threads and children to end, no longer than they
        take; garbage is collected before a descriptor counts as left.
        """
        deadline = monotonic() + grace
        for thread in self._new_threads():
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - monotonic()))
        if self._found():
            gc.collect()
            wait_until(lambda: not self._found(), max(0.0, deadline - monotonic()))
        return self._found()

    def _new_threads(self) -> list[threading.Thread]:
        return [each for each in threading.enumerate() if each not in self._threads]

    def _found(self) -> list[str]:
        found = [f"thread {each.name!r}" for each in self._new_threads()]
        found += [f"child process {each}" for each in sorted(_children() - self._children)]
        now, kept = _descriptors(), spare_descriptors()
        found += [
            f"descriptor {number}: {target}"
            for number, target in sorted(now.items())
            if self._descriptors.get(number) != target
            and not target.startswith("/dev/")
            and number not in kept
        ]
        return found


def _children() -> frozenset[int]:
    active_children()  # collects those that have ended
    try:
        lists = [task / "children" for task in _TASKS.iterdir()]
        return frozenset(int(pid) for each in lists for pid in _read(each).split())
    except OSError:
        return frozenset()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # that thread has ended meanwhile
        return ""


def _descriptors() -> dict[int, str]:
    found = {}
    try:
        numbers = [int(name) for name in os.listdir(_DESCRIPTORS)]
    except OSError:
        return {}
    for number in numbers:
        try:
            found[number] = os.readlink(_DESCRIPTORS / str(number))
        except OSError:  # the one of the listing itself
            pass
    return found
