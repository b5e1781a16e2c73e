"""Reading what was recorded."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from pystream_core import ItemEnd, PlanError, Profile, RunInfo, Span

from ._chunk import Sections, ended_in, from_row, spans_in
from ._folder import DATABASE, checked, get_profiler_db_folder
from ._old_rows import old_rows
from ._schema import CHUNKS_SINCE, NewerSchemaError, check_version
from ._summary import Feeders, Summary, Totals, feeders_of


@dataclass(frozen=True, kw_only=True)
class RecordedRun:
    """One run in the history.

    Attributes:
        id: what ``read_profile`` takes; its beginning is enough when it is unique.
        started_at: wall clock at the start, seconds since the epoch.
        executor: name of the executor.
        stages: full paths of the stages, in the order of the plan.
        items: completed items.
        duration: seconds from the start to the end of the last call or item.
        finished: whether the run was closed; False when it is still going or was killed.
        lost: records that are missing.
    """

    id: str
    started_at: float
    executor: str
    stages: tuple[str, ...]
    items: int
    duration: float
    finished: bool
    lost: int


def recorded_runs(folder: str | os.PathLike[str] | None = None) -> list[RecordedRun]:
    """The runs in the history, oldest first; none when there is no database yet.

    Args:
        folder: where to look, default the current profiler folder.

    Raises:
        PlanError: the database cannot be read.
    """
    with _reading(folder) as connection:
        return [] if connection is None else _runs(connection)


def read_profile(run_id: str, folder: str | os.PathLike[str] | None = None) -> Profile:
    """The profile of a recorded run.

    Means and throughputs are of the whole run, percentiles of its records that are still
    there. The latency of an item ends with its last call, since that is what they tell.

    Args:
        run_id: the run's id, or the beginning of it if no other run's begins so.
        folder: where to look, default the current profiler folder.

    Raises:
        PlanError: there is no such run, there are several, or the database cannot be read.
    """
    with _reading(folder) as connection:
        return _profile(*_found(connection, run_id))


def recorded_spans(run_id: str, folder: str | os.PathLike[str] | None = None) -> Iterator[Span]:
    """The calls of a recorded run that are still there, for figures of your own.

    Each is a tuple ``(stage, seq, sub, queued_ns, start_ns, end_ns, outcome)``: ``stage`` is
    a position in the run's ``stages``, times are nanoseconds since its start, ``start_ns -
    queued_ns`` the time in the queue. Those of one stage come in the order in which they
    ended, roughly a second of one stage before the same second of the next.

    They are read at once, in their packed form, and unpacked one after another.

    Args:
        run_id: the run's id, or the beginning of it if no other run's begins so.
        folder: where to look, default the current profiler folder.

    Raises:
        PlanError: there is no such run, there are several, or the database cannot be read.
    """
    with _reading(folder) as connection:
        chunks = list(_chunks(*_found(connection, run_id)))
    return chain.from_iterable(map(spans_in, chunks))


def _found(
    connection: sqlite3.Connection | None, run_id: object
) -> tuple[sqlite3.Connection, RecordedRun]:
    """The run with an id that begins so, and where it is."""
    if not isinstance(run_id, str) or not run_id:
        raise PlanError(f"give the id of a recorded run, or its beginning, not {run_id!r}")
    runs = [] if connection is None else _runs(connection)
    found = [run for run in runs if run.id.startswith(run_id)]
    found = [run for run in found if run.id == run_id] or found
    if connection is None or not found:
        known = ", ".join(run.id for run in runs) or "none"
        raise PlanError(f"no recorded run has an id that begins {run_id!r}; there are: {known}")
    if len(found) > 1:
        raise PlanError(
            f"several recorded runs have ids that begin {run_id!r}: "
            f"{', '.join(run.id for run in found)}; give more of it"
        )
    return connection, found[0]


@contextmanager
def _reading(folder: str | os.PathLike[str] | None) -> Iterator[sqlite3.Connection | None]:
    """One consistent view of the database, None when there is no file."""
    path = Path(checked(folder) if folder is not None else get_profiler_db_folder()) / DATABASE
    if not path.exists():
        yield None
        return
    try:
        with closing(
            sqlite3.connect(
                path.absolute().as_uri() + "?mode=rw", uri=True, timeout=1.0, isolation_level=None
            )
        ) as connection:
            # Opened for writing, where that is allowed, since a connection that may only read
            # leaves its -wal and -shm files behind.
            connection.execute("PRAGMA query_only = ON")
            check_version(connection)
            connection.execute("BEGIN")
            yield connection
    except sqlite3.Error as error:
        raise PlanError(
            f"cannot read the profiler's database {path}: {error}{_advice(error)}"
        ) from error


def _advice(error: sqlite3.Error) -> str:
    if isinstance(error, NewerSchemaError):
        return ""  # it says what to do itself
    if isinstance(error, sqlite3.OperationalError):
        return "; check that the folder can be read and written to, then try again"
    return "; the next profiled run moves it aside and begins a new one"


def _runs(connection: sqlite3.Connection) -> list[RecordedRun]:
    if not check_version(connection):
        return []  # a file that another process is just about to fill
    runs = []
    for row, uid, started_at, executor, finished, duration in connection.execute(
        "SELECT id, uid, started_at, executor, finished, duration FROM run ORDER BY id"
    ).fetchall():
        paths = [path for path, _ in _stages(connection, row)]
        totals = _totals(connection, row)
        items = next(
            (
                value
                for (scope, name), value in totals.items()
                if name == "items" and len(json.loads(scope)) == 1
            ),
            0,
        )
        runs.append(
            RecordedRun(
                id=uid,
                started_at=started_at,
                executor=executor,
                stages=tuple("__".join(path) for path in paths),
                items=items,
                duration=duration / 1e6,
                finished=bool(finished),
                lost=totals.get(("", "lost"), 0),
            )
        )
    return runs


def _stages(connection: sqlite3.Connection, row: int) -> list[tuple[tuple[str, ...], int]]:
    return [
        (tuple(json.loads(path)), workers)
        for path, workers in connection.execute(
            "SELECT path, workers FROM stage WHERE run = ? ORDER BY position", (row,)
        )
    ]


def _feeders(connection: sqlite3.Connection, row: int) -> tuple[tuple[int, ...], ...]:
    if check_version(connection) < 2:  # no writer has come by since an earlier version
        return ()
    found = connection.execute("SELECT feeders FROM run WHERE id = ?", (row,)).fetchone()[0]
    return tuple(tuple(each) for each in json.loads(found or "[]"))


def _totals(connection: sqlite3.Connection, row: int) -> Totals:
    return {
        (scope, name): value
        for scope, name, value in connection.execute(
            "SELECT scope, name, value FROM counter WHERE run = ?", (row,)
        )
    }


def _run_info(connection: sqlite3.Connection, recorded: RecordedRun) -> RunInfo:
    row = _row(connection, recorded)
    stages = _stages(connection, row)
    return RunInfo(
        id=recorded.id,
        stages=tuple(path for path, _ in stages),
        workers=tuple(workers for _, workers in stages),
        executor=recorded.executor,
        started_ns=0,
        started_at=recorded.started_at,
        feeders=_feeders(connection, row),
    )


def _row(connection: sqlite3.Connection, recorded: RecordedRun) -> int:
    found = connection.execute("SELECT id FROM run WHERE uid = ?", (recorded.id,)).fetchone()
    return int(found[0])


def _profile(connection: sqlite3.Connection, recorded: RecordedRun) -> Profile:
    """Feeds the records to the same figures as the run itself did."""
    run = _run_info(connection, recorded)
    summary = Summary(run)
    ends = _Ends(feeders_of(run))
    ended: list[ItemEnd] = []
    for chunk in _chunks(connection, recorded):
        spans = list(spans_in(chunk))
        summary.add(spans, ())
        ends.see(spans)
        ended += ended_in(chunk)
    summary.add((), ends.completed(ended))
    summary.restore(_totals(connection, _row(connection, recorded)))
    return summary.profile(recorded.lost)


def _chunks(connection: sqlite3.Connection, recorded: RecordedRun) -> Iterator[Sections]:
    """What is left of a run's records, oldest first."""
    row = _row(connection, recorded)
    yield from old_rows(connection, row)
    if check_version(connection) >= CHUNKS_SINCE:
        for layout, data in connection.execute(
            "SELECT layout, data FROM chunk WHERE run = ? ORDER BY id", (row,)
        ):
            yield from_row(layout, data)


class _Ends:
    """When the completed items of a recorded run came and went, from their spans."""

    def __init__(self, feeders: Feeders) -> None:
        self._first = {stage for stage, some in enumerate(feeders[:-1]) if not some}
        self._last = set(feeders[-1])
        self._admitted: dict[int, int] = {}
        self._parts: dict[tuple[int, int], int] = {}  # last stages that an item has left
        self._ended: dict[tuple[int, int], int] = {}

    def see(self, spans: list[Span]) -> None:
        for stage, seq, sub, queued, _, end, outcome in spans:
            if stage in self._first:
                self._admitted.setdefault(seq, queued)
            if stage in self._last and outcome == "emitted":
                self._parts[seq, sub] = self._parts.get((seq, sub), 0) + 1
                self._ended[seq, sub] = max(end, self._ended.get((seq, sub), end))

    def completed(self, ended: list[ItemEnd]) -> list[ItemEnd]:
        """All that left the last stages, except what was lost between them and the output."""
        for seq, sub, _, _, bin_ in ended:
            if bin_ in ("dropped", "expired"):
                self._ended.pop((seq, sub), None)
        return [
            (seq, sub, self._admitted[seq], end, "completed")
            for (seq, sub), end in self._ended.items()
            if seq in self._admitted and self._parts[seq, sub] == len(self._last)
        ]
