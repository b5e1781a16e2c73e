"""The statements of one flush: insert what was recorded, delete what is too old."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from itertools import chain
from typing import TYPE_CHECKING

from pystream_core import RunInfo, StageStatistics, Statistics

from ._chunk import Chunk, merged, to_row
from ._summary import feeders_of, scope_of

if TYPE_CHECKING:
    from ._recording import Batch, Recording

MOST_ITEMS = 100_000  # in all runs together
MOST_RUNS = 20
# An item that was spawned shares its seq, so records count too: one item is at least as many
# of them as there are stages.
_ITEMS_OF_RUNS = (
    "SELECT id, max(last_seq - first_seq + 1,"
    " kept / max(1, (SELECT count(*) FROM stage WHERE stage.run = run.id))) AS items"
    " FROM run WHERE kept > 0 ORDER BY id"
)
KEEP = 0.9  # share of MOST_ITEMS that a trim leaves, so that one is needed every 10,000 items

SMALL = 512  # records; a smaller chunk is rewritten together with the next small one


def store(
    connection: sqlite3.Connection, recording: Recording, batch: Batch
) -> tuple[int, Chunk] | None:
    """Insert a batch, and bring its run's row and counters up to date.

    Returns:
        the run's last chunk and its row, if it is small.
    """
    run_id, last = _registered(connection, recording)
    chunks = [chunk for chunk in batch.chunks if chunk.sections]
    for chunk in chunks:
        last = _store_chunk(connection, run_id, last, chunk)
    _store_counters(connection, run_id, recording, batch)
    ends = [value for (_, name), value in batch.totals.items() if name == "end_ns"]
    connection.execute(
        "UPDATE run SET finished = :finished, duration = :duration, kept = kept + :new,"
        " first_seq = coalesce(first_seq, :first),"
        " last_seq = max(coalesce(last_seq, :last), :last) WHERE id = :run",
        {
            "finished": recording.closed,
            "duration": max(ends, default=0) // 1000,
            "new": sum(chunk.spans + chunk.ended for chunk in chunks),
            "first": chunks[0].first_seq if chunks else None,
            "last": chunks[-1].last_seq if chunks else -1,
            "run": run_id,
        },
    )
    return last


def trim(connection: sqlite3.Connection) -> bool:
    """Delete the oldest chunks and runs, so that what is left is within the limits; True when
    there were any."""
    number, total = connection.execute(
        f"SELECT (SELECT count(*) FROM run), (SELECT total(items) FROM ({_ITEMS_OF_RUNS}))"
    ).fetchone()
    if number <= MOST_RUNS and total <= MOST_ITEMS:
        return False
    for (run_id,) in connection.execute(
        "SELECT id FROM run ORDER BY id DESC LIMIT -1 OFFSET ?", (MOST_RUNS,)
    ).fetchall():
        _delete_run(connection, run_id)
    runs = connection.execute(_ITEMS_OF_RUNS).fetchall()
    total = sum(items for _, items in runs)
    if total > MOST_ITEMS:
        _delete_items(connection, runs, total - int(KEEP * MOST_ITEMS))
    return True


def give_space_back(connection: sqlite3.Connection) -> None:
    """Shorten the file, unless what is free will soon be written to again."""
    free = int(connection.execute("PRAGMA freelist_count").fetchone()[0])
    pages = int(connection.execute("PRAGMA page_count").fetchone()[0])
    if free > max(64, pages // 5):
        # It frees one page per step and returns no column; only executescript() steps to the end.
        connection.executescript("PRAGMA incremental_vacuum")


def _registered(
    connection: sqlite3.Connection, recording: Recording
) -> tuple[int, tuple[int, Chunk] | None]:
    """The run's row, and what is known of its last chunk. Looked up each time: the rows of a
    run that is still going may have been deleted by another process, or the whole file."""
    run = recording.run
    row = connection.execute("SELECT id FROM run WHERE uid = ?", (run.id,)).fetchone()
    if row is not None:
        return row[0], recording.open
    run_id = connection.execute(
        "INSERT INTO run (uid, started_at, executor, feeders) VALUES (?, ?, ?, ?)",
        (run.id, run.started_at, _storable(run.executor), _feeders(run)),
    ).lastrowid
    connection.executemany(
        "INSERT INTO stage (run, position, path, name, workers) VALUES (?, ?, ?, ?, ?)",
        [
            (run_id, position, scope_of(path), _storable("__".join(path)), workers)
            for position, (path, workers) in enumerate(zip(run.stages, run.workers, strict=True))
        ],
    )
    return int(run_id or 0), None


def _feeders(run: RunInfo) -> str | None:
    in_a_row = feeders_of(replace(run, feeders=()))
    return None if tuple(feeders_of(run)) == in_a_row else json.dumps(run.feeders)


def _store_chunk(
    connection: sqlite3.Connection, run_id: int, last: tuple[int, Chunk] | None, chunk: Chunk
) -> tuple[int, Chunk] | None:
    """Insert a chunk, or put it to the last one when both are small: a slow pipeline would
    else fill the file with the layouts of chunks that hold next to nothing."""
    if last is not None and _is_small(chunk):
        row, before = last
        both = merged(before, chunk)
        if connection.execute(
            "UPDATE chunk SET spans = ?, ended = ?, layout = ?, data = ? WHERE id = ? AND run = ?",
            (both.spans, both.ended, *to_row(both), row, run_id),
        ).rowcount:
            return (row, both) if _is_small(both) else None
    new = connection.execute(
        "INSERT INTO chunk (run, spans, ended, first_seq, layout, data) VALUES (?, ?, ?, ?, ?, ?)",
        (run_id, chunk.spans, chunk.ended, chunk.first_seq, *to_row(chunk)),
    ).lastrowid
    return (int(new or 0), chunk) if _is_small(chunk) else None


def _is_small(chunk: Chunk) -> bool:
    return chunk.spans + chunk.ended < SMALL


def _insert(
    connection: sqlite3.Connection, insert: str, rows: Sequence[tuple[int | str, ...]]
) -> None:
    """Insert few rows, many at a time: executemany() gives the interpreter lock back once per
    row, and waits up to 5 ms for it each time while some stage computes."""
    for begin in range(0, len(rows), 128):
        some = rows[begin : begin + 128]
        places = f"({','.join('?' * len(some[0]))})"
        connection.execute(
            f"{insert} VALUES {','.join([places] * len(some))}", tuple(chain.from_iterable(some))
        )


def _store_counters(
    connection: sqlite3.Connection, run_id: int, recording: Recording, batch: Batch
) -> None:
    counters = [(run_id, scope, name, value) for (scope, name), value in batch.totals.items()]
    counters.append((run_id, "", "lost", batch.lost))
    if recording.statistics is not None:
        paths = ("", *(scope_of(path) for path in recording.run.stages))
        ledgers: list[Statistics | StageStatistics] = [recording.statistics]
        ledgers += recording.statistics.stages
        for scope, ledger in zip(paths, ledgers, strict=False):
            counters += [(run_id, scope, _storable(name), value) for name, value in _bins(ledger)]
    _insert(connection, "INSERT OR REPLACE INTO counter", counters)


def _bins(ledger: Statistics | StageStatistics) -> Iterator[tuple[str, int]]:
    for field in fields(ledger):
        value = getattr(ledger, field.name)
        if isinstance(value, int):
            yield field.name, value
        elif isinstance(value, Mapping):
            yield from ((f"{field.name} ({reason})", count) for reason, count in value.items())


def _delete_items(
    connection: sqlite3.Connection, runs: Sequence[tuple[int, int]], excess: int
) -> None:
    """Delete that many items, the oldest first."""
    for run_id, items in runs:
        if items > excess or run_id == runs[-1][0]:
            _delete_oldest(connection, run_id, items - excess)
            return
        _delete_run(connection, run_id)
        excess -= items
        if excess <= 0:
            return


def _delete_run(connection: sqlite3.Connection, run_id: int) -> None:
    connection.execute(
        "DELETE FROM old_span WHERE rowid BETWEEN (SELECT first_span FROM run WHERE id = :run)"
        " AND (SELECT last_span FROM run WHERE id = :run)"
        " AND stage IN (SELECT id FROM stage WHERE run = :run)",
        {"run": run_id},
    )
    for table, column in (
        ("old_item", "run"), ("chunk", "run"), ("counter", "run"), ("stage", "run"), ("run", "id"),
    ):  # fmt: skip
        connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (run_id,))


def _delete_oldest(connection: sqlite3.Connection, run_id: int, leave: int) -> None:
    """Delete a run's oldest chunks, so that at most so many items are left. The latest one,
    which may be of an item that was late by any number, stays; rows of an earlier version go
    as a whole."""
    chunks = connection.execute(
        "SELECT id, spans + ended, first_seq FROM chunk WHERE run = ? ORDER BY id DESC", (run_id,)
    ).fetchall()
    if not chunks:
        _delete_run(connection, run_id)
        return
    stages, last_seq = connection.execute(
        "SELECT (SELECT count(*) FROM stage WHERE stage.run = run.id), last_seq FROM run"
        " WHERE id = ?",
        (run_id,),
    ).fetchone()
    oldest, kept, first_seq = chunks[0]
    for row, records, seq in chunks[1:]:
        if max(last_seq - seq + 1, (kept + records) // max(1, stages)) > leave:
            break
        oldest, kept, first_seq = row, kept + records, seq
    connection.execute("DELETE FROM chunk WHERE run = ? AND id < ?", (run_id, oldest))
    connection.execute(
        "UPDATE run SET kept = ?, first_seq = ? WHERE id = ?", (kept, first_seq, run_id)
    )


def _storable(text: str) -> str:
    """Text that SQLite takes; a lone surrogate becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")
