"""The profiler: figures in memory, history on disk."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Sequence

from pystream_core import ItemEnd, Profile, Profiler, RunInfo, Span, Statistics

from ._folder import get_profiler_db_folder
from ._recording import Recording
from ._writer import Close, Writer, join_writer

logger = logging.getLogger("PyStream")

CLOSE_TIMEOUT = 1.0


class SQLiteProfiler(Profiler):
    """Measures service and queue time of every stage, throughput and latency; keeps a history.

    The figures of the latest run are kept in bounded memory. Runs are recorded in one file,
    ``profiles.sqlite``, at most a second behind: 20 runs and 100,000 items in all, the oldest
    deleted first. `pystream profile` shows them. It lies in the folder that
    ``set_profiler_db_folder()`` or the environment variable ``PYSTREAM_PROFILER_FOLDER``
    names when the pipeline is made, else in the user's data folder. A disk that refuses is
    warned about once and never slows or stops the pipeline; the figures stay right, and what
    the disk did not take counts as lost.

    It may stay on: a call costs it about half a microsecond, in threads of its own.
    """

    # collect() never touches the disk: that is the business of one thread per process.

    def __init__(self) -> None:
        # A later change of the current directory must not move the folder.
        self._folder = os.path.abspath(get_profiler_db_folder())
        # All set by opened() and used by the thread that collects; summarize() reads them.
        self._pid = os.getpid()
        self._recording: Recording | None = None
        self._writer: Writer | None = None
        self._abandon: weakref.finalize[..., SQLiteProfiler] | None = None

    def __repr__(self) -> str:
        state = "recording" if self._writer else "idle"
        lost = self._recording.lost if self._recording else 0
        return f"<SQLiteProfiler {state} folder={self._folder!r} lost={lost}>"

    def opened(self, run: RunInfo) -> None:
        """Begin a new profile."""
        self._leave_writer(None)
        self._pid = os.getpid()
        self._recording = Recording(run)
        try:
            self._writer = join_writer(self._folder)
        except RuntimeError as error:  # no thread can be started
            self._recording.keep_in_memory()
            logger.warning("the profiler records nothing on disk: %s", error)
            return
        # The writer knows the recording but not us: a profiler that is dropped without
        # closed() gives its writer back. A put is all that a finalizer may do.
        close = Close(self._recording, None, threading.Event())
        self._abandon = weakref.finalize(self, self._writer.mailbox.put, close)
        self._abandon.atexit = False

    def collect(self, spans: Sequence[Span], items: Sequence[ItemEnd]) -> None:
        """Add to the recording, and tell the writer. Never waits for the disk."""
        if self._recording is None or self._forked():
            return
        if self._recording.collect(spans, items) and self._writer is not None:
            self._writer.mailbox.put(self._recording)

    def lost(self, records: int) -> None:
        """Count records that the recorder could not keep."""
        if self._recording is not None and not self._forked():
            self._recording.lose(records)

    def closed(self, statistics: Statistics) -> None:
        """Bring the rest to disk; waits for it at most a second."""
        self._leave_writer(statistics)

    def summarize(self) -> Profile:
        """The profile of the latest run. From any thread, also after ``closed``."""
        if self._recording is None:
            return Profile()
        if self._forked():
            self._recording.renew_locks()
        return self._recording.profile()

    def _forked(self) -> bool:
        # The parent's writer has no thread here, and its run is none of this process's.
        return self._pid != os.getpid()

    def _leave_writer(self, statistics: Statistics | None) -> None:
        writer, self._writer = self._writer, None
        if self._abandon is not None:
            self._abandon.detach()
        if writer is None or self._recording is None or self._forked():
            return
        done = threading.Event()
        writer.mailbox.put(Close(self._recording, statistics, done))
        if not done.wait(CLOSE_TIMEOUT):
            logger.warning(
                "the profiler's last records in %s were not written within %.1f s; the writer "
                "is left behind",
                self._folder,
                CLOSE_TIMEOUT,
            )
