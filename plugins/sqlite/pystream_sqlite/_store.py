"""The statements of one flush: insert what was recorded, delete what is too old."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from itertools import chain
from math import ceil
from typing import TYPE_CHECKING

from pystream_core import RunInfo, Span, StageStatistics, Statistics

from ._schema import OUTCOMES
from ._summary import feeders_of, scope_of

if TYPE_CHECKING:
    from ._writer import Recording

MOST_ITEMS = 100_000  # in all runs together
MOST_RUNS = 20
KEEP = 0.9  # share of MOST_ITEMS that a trim leaves, so that one is needed every 10,000 items

# executemany() gives the interpreter lock back once per row, and waits up to 5 ms for it each
# time while some stage computes (measured: 194 us per span on 3.13, against 4 us like this).
# So rows are written thousands at a time, and SQLite does the arithmetic without the lock.
# Sizes: few, so that their statements stay cached; 7 * 4096 values fit SQLite's limit of 32766.
_SIZES = (16, 128, 1024, 4096) if sqlite3.sqlite_version_info >= (3, 32) else (16, 128)
_NO_SPAN = (None,) * 7
_TAG = " ".join(f"WHEN '{outcome}' THEN {tag}" for tag, outcome in enumerate(OUTCOMES))


def _insert_spans(size: int) -> str:
    # Times are rounded to the nearest microsecond. A row of NULLs is padding.
    return (
        "INSERT INTO span SELECT column1 + ?, column2, (column5 - column4 + 500) / 1000,"
        " (column5 - ? + 500) / 1000, (column6 - column5 + 500) / 1000,"
        f" 8 * column3 + CASE column7 {_TAG} ELSE 0 END"
        f" FROM (VALUES {','.join(['(?,?,?,?,?,?,?)'] * size)}) WHERE column1 IS NOT NULL"
    )


_INSERT_SPANS = {size: _insert_spans(size) for size in _SIZES}


def store(connection: sqlite3.Connection, recording: Recording) -> None:
    """Insert what waits of one recording, and bring its run's row and counters up to date."""
    run_id, first_stage = _registered(connection, recording)
    origin = recording.run.started_ns
    before = _last_span(connection)
    _store_spans(connection, recording.spans, first_stage, origin)
    ended = [
        (run_id, seq, sub, (begin - origin) // 1000, (end - origin) // 1000, bin_)
        for seq, sub, begin, end, bin_ in recording.items
        if bin_ != "completed"
    ]
    _insert(connection, "INSERT INTO item", ended)
    _store_counters(connection, run_id, recording)
    seqs = [seq for _, seq, *_ in ended]
    if recording.spans:
        connection.execute(
            "UPDATE run SET first_span = coalesce(first_span, ?), last_span = ? WHERE id = ?",
            (before + 1, _last_span(connection), run_id),
        )
        seqs += connection.execute(
            "SELECT min(seq), max(seq) FROM span WHERE rowid > ?", (before,)
        ).fetchone()
    if seqs:
        connection.execute(
            "UPDATE run SET first_seq = min(coalesce(first_seq, :first), :first),"
            " last_seq = max(coalesce(last_seq, :last), :last) WHERE id = :run",
            {"first": min(seqs), "last": max(seqs), "run": run_id},
        )
    ends = [value for (_, name), value in recording.totals.items() if name == "end_ns"]
    connection.execute(
        "UPDATE run SET finished = ?, duration = ?, kept = kept + ? WHERE id = ?",
        (
            recording.closed,
            max(ends, default=0) // 1000,
            len(recording.spans) + len(ended),
            run_id,
        ),
    )


def trim(connection: sqlite3.Connection) -> None:
    """Delete the oldest rows and runs, so that what is left is within the limits."""
    for (run_id,) in connection.execute(
        "SELECT id FROM run ORDER BY id DESC LIMIT -1 OFFSET ?", (MOST_RUNS,)
    ).fetchall():
        _delete_run(connection, run_id)
    # An item that was spawned shares its seq, so rows count too: one item is at least as many
    # rows as there are stages.
    runs = connection.execute(
        "SELECT id, max(last_seq - first_seq + 1,"
        " kept / max(1, (SELECT count(*) FROM stage WHERE stage.run = run.id)))"
        " FROM run WHERE kept > 0 ORDER BY id"
    ).fetchall()
    total = sum(items for _, items in runs)
    if total <= MOST_ITEMS:
        return
    excess = total - int(KEEP * MOST_ITEMS)
    for run_id, items in runs:
        if items > excess or run_id == runs[-1][0]:
            _delete_oldest(connection, run_id, min(1.0, excess / items))
            return
        _delete_run(connection, run_id)
        excess -= items
        if excess <= 0:
            return


def give_space_back(connection: sqlite3.Connection) -> None:
    """Shorten the file, unless what is free will soon be written to again."""
    free = int(connection.execute("PRAGMA freelist_count").fetchone()[0])
    pages = int(connection.execute("PRAGMA page_count").fetchone()[0])
    if free > max(64, pages // 5):
        # It frees one page per step and returns no column; only executescript() steps to the end.
        connection.executescript("PRAGMA incremental_vacuum")


def _registered(connection: sqlite3.Connection, recording: Recording) -> tuple[int, int]:
    """The row of the run and of its first stage. Looked up each time: the rows of a run that
    is still going may have been deleted by another process, or the whole file."""
    run = recording.run
    row = connection.execute("SELECT id FROM run WHERE uid = ?", (run.id,)).fetchone()
    if row is None:
        run_id = connection.execute(
            "INSERT INTO run (uid, started_at, executor, feeders) VALUES (?, ?, ?, ?)",
            (run.id, run.started_at, _storable(run.executor), _feeders(run)),
        ).lastrowid
        connection.executemany(
            "INSERT INTO stage (run, position, path, name, workers) VALUES (?, ?, ?, ?, ?)",
            [
                (run_id, position, scope_of(path), _storable("__".join(path)), workers)
                for position, (path, workers) in enumerate(
                    zip(run.stages, run.workers, strict=True)
                )
            ],
        )
    else:
        run_id = row[0]
    first = connection.execute("SELECT min(id) FROM stage WHERE run = ?", (run_id,)).fetchone()
    return int(run_id or 0), int(first[0] or 0)


def _feeders(run: RunInfo) -> str | None:
    in_a_row = feeders_of(replace(run, feeders=()))
    return None if tuple(feeders_of(run)) == in_a_row else json.dumps(run.feeders)


def _store_spans(
    connection: sqlite3.Connection, spans: Sequence[Span], first_stage: int, origin: int
) -> None:
    done = 0
    while done < len(spans):
        left = len(spans) - done
        size = next((size for size in _SIZES if size >= left), _SIZES[-1])
        some = spans[done : done + size]
        values = [first_stage, origin, *chain.from_iterable(some)]
        values += _NO_SPAN * (size - len(some))
        connection.execute(_INSERT_SPANS[size], values)
        done += size


def _insert(
    connection: sqlite3.Connection, insert: str, rows: Sequence[tuple[int | str, ...]]
) -> None:
    """Insert few rows, many at a time for the reason given at _SIZES."""
    for begin in range(0, len(rows), 128):
        some = rows[begin : begin + 128]
        places = f"({','.join('?' * len(some[0]))})"
        connection.execute(
            f"{insert} VALUES {','.join([places] * len(some))}", tuple(chain.from_iterable(some))
        )


def _store_counters(connection: sqlite3.Connection, run_id: int, recording: Recording) -> None:
    counters = [(run_id, scope, name, value) for (scope, name), value in recording.totals.items()]
    lost = recording.recorder_lost + recording.all_lost
    counters.append((run_id, "", "lost", lost))
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


def _delete_run(connection: sqlite3.Connection, run_id: int) -> None:
    _delete_oldest(connection, run_id, 1.0)
    for table, column in (("counter", "run"), ("stage", "run"), ("run", "id")):
        connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (run_id,))


def _delete_oldest(connection: sqlite3.Connection, run_id: int, share: float) -> None:
    """Delete that share of a run's rows, in the order in which they were written."""
    first, last, kept, first_seq, last_seq = connection.execute(
        "SELECT first_span, last_span, kept, first_seq, last_seq FROM run WHERE id = ?", (run_id,)
    ).fetchone()
    if first_seq is None:
        return
    first_seq = min(last_seq, first_seq + int(share * (last_seq - first_seq + 1)))
    if first is not None:
        stages = connection.execute(
            "SELECT min(id), max(id) FROM stage WHERE run = ?", (run_id,)
        ).fetchone()
        cut = first + ceil(share * (last - first + 1))
        kept -= connection.execute(
            "DELETE FROM span WHERE rowid >= ? AND rowid < ? AND stage BETWEEN ? AND ?",
            (first, cut, *stages),
        ).rowcount
        # Later stages still write of older items: the lowest seq is among the next rows.
        first_left, seq_left = connection.execute(
            "SELECT min(id), min(seq) FROM (SELECT rowid AS id, seq FROM span WHERE rowid >= ?"
            " AND rowid <= ? AND stage BETWEEN ? AND ? ORDER BY rowid LIMIT 5000)",
            (cut, last, *stages),
        ).fetchone()
        first, first_seq = first_left, first_seq if seq_left is None else seq_left
    kept -= connection.execute(
        "DELETE FROM item WHERE run = :run AND rowid < (SELECT min(rowid) + :share * (max(rowid)"
        " + 1 - min(rowid)) FROM item WHERE run = :run)",
        {"run": run_id, "share": share},
    ).rowcount
    connection.execute(
        "UPDATE run SET first_span = ?, kept = ?, first_seq = ? WHERE id = ?",
        (first, kept, first_seq, run_id),
    )


def _last_span(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT coalesce(max(rowid), 0) FROM span").fetchone()[0])


def _storable(text: str) -> str:
    """Text that SQLite takes; a lone surrogate becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")
