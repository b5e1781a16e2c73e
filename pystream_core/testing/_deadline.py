"""A limit for what the main thread does, even while it waits for a lock."""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

_AGAIN = 1.0  # seconds until it is told once more, in case something has swallowed it


class Deadline:
    """A context that ends what happens in it when it takes too long::

        with Deadline(15.0, lambda report: pytest.fail(report, pytrace=False)):
            pipeline.run(items)

    Works in the main thread of systems with POSIX signals, by way of SIGINT, which wakes a
    thread that waits; elsewhere it does nothing. Ctrl-C goes on working. Nothing is raised
    outside the context, whenever the time runs out.

    Args:
        seconds: how long it may take.
        end: raises; gets a text with the stacks of all threads.
    """

    def __init__(self, seconds: float, end: Callable[[str], None]) -> None:
        self._seconds = seconds
        self._end = end
        self._lock = threading.Lock()  # held while the signal is sent, and to say that it is over
        self._over = threading.Event()
        self._inside = False  # of the context; the main thread's
        self._due = False
        self._report = ""
        self._before: Any = None
        self._watch: threading.Thread | None = None

    def __enter__(self) -> Deadline:
        if hasattr(signal, "pthread_kill") and _in_main_thread():
            self._before = signal.signal(signal.SIGINT, self._signalled)
            self._watch = threading.Thread(target=self._wait, name="pystream-deadline", daemon=True)
            self._watch.start()
        self._inside = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._inside = False
        if self._watch is None:
            return
        with self._lock:
            self._over.set()
        self._watch.join()
        signal.signal(signal.SIGINT, self._before)
        if self._report and error is None:  # somebody has swallowed it
            self._end(self._report)

    def _wait(self) -> None:
        main = threading.main_thread().ident
        assert main is not None
        seconds = self._seconds
        while not self._over.wait(seconds):
            with self._lock:
                if self._over.is_set():
                    return
                self._report = self._report or (
                    f"did not end within {self._seconds:g} s\n\n{stacks()}"
                )
                self._due = True
                signal.pthread_kill(main, signal.SIGINT)
            seconds = _AGAIN

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if self._due:
            self._due = False
            leaving = frame is not None and frame.f_code is Deadline.__exit__.__code__
            if self._inside and not leaving:  # else the end of the context says it
                self._end(self._report)
        elif callable(self._before):
            self._before(number, frame)


def stacks() -> str:
    """Where every thread is, as text."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for ident, frame in sys._current_frames().items():
        if ident != threading.get_ident():
            stack = "".join(traceback.format_stack(frame, limit=8))
            parts.append(f"thread {names.get(ident, ident)!r}:\n{stack}")
    return "\n".join(parts)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
