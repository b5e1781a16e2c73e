"""Writing records to disk: one thread per process and folder owns the one connection.

Profilers only put messages into its mailbox, so no thread of a pipeline ever enters the
storage code. The thread gathers what comes and writes it in one transaction half a second
after the first record of it; with nothing waiting it sleeps without a timeout. It ends with
the last run that uses it. Whatever the disk refuses is kept and tried again while there is
room, then counted as lost; each sort of refusal is warned about once.

Shared state: the mailbox, and ``_writers`` with the ``users`` of each under ``_lock``.
Everything else is the thread's own.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from dataclasses import dataclass
from queue import Empty
from typing import TypeAlias

from pystream_core import Mailbox, Statistics

from ._folder import DATABASE
from ._recording import FLUSH_AT, Recording
from ._schema import NewerSchemaError, migrate
from ._store import give_space_back, store, trim

logger = logging.getLogger("PyStream")

GATHER = 0.5  # seconds from a record to its flush; a collector adds at most 0.05
BUSY_TIMEOUT = 0.25  # seconds to wait for another process's transaction
LAST_BUSY_TIMEOUT = 0.7  # the same for a run that ends: there is no later attempt for its records
LONGEST_PAUSE = 8.0  # seconds between attempts while the disk refuses
_PRAGMAS = """
    PRAGMA auto_vacuum = INCREMENTAL;
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = NORMAL;
    -- Small write-ahead log: checkpoint every 2 MB, and cut it back afterwards.
    PRAGMA wal_autocheckpoint = 500;
    PRAGMA journal_size_limit = 1000000;
"""
_DAMAGE = ("file is not a database", "malformed", "database corruption", "file is encrypted")


@dataclass(frozen=True)
class Close:
    """No more of this recording; ``done`` is set when it is on disk, or lost."""

    recording: Recording
    statistics: Statistics | None
    done: threading.Event


Message: TypeAlias = Recording | Close  # the former: some of its records wait

_lock = threading.Lock()
_writers: dict[str, Writer] = {}
# Connections whose file was replaced by another: closing them would delete, by name, the
# write-ahead log of the new file (sqlite.org/howtocorrupt.html, 2.4). They stay open.
_replaced: list[sqlite3.Connection] = []


def _forget_writers() -> None:
    # In the child of a fork the threads are gone; their connections, held by the lost frames,
    # are never used nor closed (sqlite.org/howtocorrupt.html, 2.6).
    global _lock
    _lock = threading.Lock()
    _writers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_writers)


def join_writer(folder: str) -> Writer:
    """The writer of this folder, for one more recording, which a Close message gives back."""
    with _lock:
        writer = _writers.get(folder)
        if writer is None:
            writer = Writer(folder)
            threading.Thread(target=writer.work, name="pystream-sqlite", daemon=True).start()
            _writers[folder] = writer
        writer.users += 1
        return writer


class Writer:
    """Writes the recordings of this process to the database of one folder."""

    def __init__(self, folder: str) -> None:
        self.mailbox: Mailbox[Message] = Mailbox()
        self.users = 0  # guarded by _lock
        self._folder = folder
        self._path = os.path.join(folder, DATABASE)
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._patience: float | None = None  # of the connection
        self._waiting: dict[Recording, None] = {}  # in order of their first waiting record
        self._pause = 0.0
        self._not_before = 0.0
        self._warned: set[str] = set()

    def work(self) -> None:
        """What the thread does."""
        while True:
            try:
                message = self.mailbox.get_within(self._until_due())
                while isinstance(message, Recording):
                    # All that is there: the larger a transaction, the less each record costs.
                    self._gather(message)
                    message = self.mailbox.get_nowait()
            except Empty:
                if self._due():
                    self._flush(BUSY_TIMEOUT)
                continue
            self._finish(message)
            with _lock:
                self.users -= 1
                if last := not self.users:
                    del _writers[self._folder]
            if last:
                self._close_connection()
            message.done.set()
            if last:
                return

    def _gather(self, recording: Recording) -> None:
        if recording.since is None:
            recording.since = time.monotonic()
        self._waiting[recording] = None

    def _finish(self, close: Close) -> None:
        recording = close.recording
        recording.closed, recording.statistics = True, close.statistics
        if recording.collected:  # a run without any record leaves no trace
            self._waiting[recording] = None
        self._flush(LAST_BUSY_TIMEOUT)
        if recording in self._waiting:
            del self._waiting[recording]
            recording.forget()

    def _until_due(self) -> float | None:
        if not self._waiting:
            return None
        oldest = min(recording.since or 0.0 for recording in self._waiting)
        return max(0.0, max(oldest + GATHER, self._not_before) - time.monotonic())

    def _due(self) -> bool:
        gathered = sum(recording.waiting for recording in self._waiting)
        return (gathered >= FLUSH_AT and time.monotonic() >= self._not_before) or (
            self._until_due() == 0.0
        )

    def _flush(self, patience: float) -> None:
        """Write everything that waits, in one transaction."""
        if not self._waiting:
            return
        if self._write_repaired(patience):
            for recording in self._waiting:
                recording.since = None
            self._waiting.clear()
            self._pause = self._not_before = 0.0
            return
        self._pause = min(max(GATHER, 2 * self._pause), LONGEST_PAUSE)
        self._not_before = time.monotonic() + self._pause

    def _write_repaired(self, patience: float) -> bool:
        """Write; when the file proves damaged, move it aside and write once more."""
        for repaired in (False, True):
            try:
                self._write(patience)
                return True
            except Exception as error:  # whatever it is, the pipeline must not notice
                damaged = isinstance(error, sqlite3.DatabaseError) and any(
                    sign in str(error) for sign in _DAMAGE
                )
                self._roll_back(error)
                if damaged and not repaired and self._move_aside(error):
                    continue
                if isinstance(error, NewerSchemaError):
                    self._warn("newer", "leaves %s alone: %s", self._path, error)
                else:
                    self._warn(
                        "refused",
                        "cannot write to %s (%s: %s); samples are kept in memory, tried again, "
                        "and counted as lost when there is no room for them",
                        self._path,
                        type(error).__name__,
                        error,
                    )
                return False
        return False

    def _write(self, patience: float) -> None:
        # Each statement gives the interpreter lock back and asks for it again, for which a
        # computing stage may let it wait and is interrupted: hence as few as possible.
        # First of all packed: records take less room so, should the disk not be ready.
        batches = {recording: recording.batch() for recording in self._waiting}
        connection = self._connected(patience)
        if patience != self._patience:
            connection.execute(f"PRAGMA busy_timeout = {int(1000 * patience)}")
            self._patience = patience
        connection.execute("BEGIN IMMEDIATE")
        opened = {
            recording: store(connection, recording, batch) for recording, batch in batches.items()
        }
        trimmed = trim(connection)
        connection.execute("COMMIT")
        for recording, batch in batches.items():
            recording.open = opened[recording]
            recording.written(batch)
        if trimmed:
            self._give_space_back(connection)

    def _give_space_back(self, connection: sqlite3.Connection) -> None:
        try:
            give_space_back(connection)
        except sqlite3.Error:
            # What was recorded is safe; the next flush meets the same refusal and names it.
            self._close_connection()

    def _connected(self, patience: float) -> sqlite3.Connection:
        if self._connection is not None:
            inode = _inode(self._path)
            if inode == self._inode:
                return self._connection
            self._warn("vanished", "lost its database %s and begins a new one", self._path)
            if inode is None:
                self._close_connection()
            else:
                _replaced.append(self._connection)
                self._connection = None
        os.makedirs(self._folder, exist_ok=True)
        deadline = time.monotonic() + patience
        while True:
            connection = sqlite3.connect(
                self._path, timeout=patience, isolation_level=None, check_same_thread=False
            )
            try:
                connection.executescript(_PRAGMAS)
                migrate(connection)
            except BaseException as error:
                connection.close()
                # SQLite does not wait for its lock when two processes turn to WAL at once.
                locked = isinstance(error, sqlite3.OperationalError) and "locked" in str(error)
                if not locked or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
                continue
            self._connection, self._inode = connection, _inode(self._path)
            self._patience = None
            return connection

    def _roll_back(self, error: Exception) -> None:
        if self._connection is None:
            return
        if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
            try:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                return
            except sqlite3.Error:
                pass
        # Anything else: the next attempt starts from the file as it then is.
        self._close_connection()

    def _close_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error:  # not open any more, or a last checkpoint that failed
                pass

    def _move_aside(self, error: Exception) -> bool:
        """Rename the damaged file; False when it cannot be."""
        number = 1
        while os.path.lexists(aside := f"{self._path}.damaged-{number}"):
            number += 1
        try:
            os.rename(self._path, aside)
            for suffix in ("-wal", "-shm"):
                if os.path.lexists(self._path + suffix):
                    os.rename(self._path + suffix, aside + suffix)
        except OSError:
            return False
        self._warn("damaged", "moved a damaged database to %s (%s)", aside, error)
        return True

    def _warn(self, sort: str, message: str, *details: object) -> None:
        if sort not in self._warned:
            self._warned.add(sort)
            logger.warning("the profiler " + message, *details)


def _inode(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
