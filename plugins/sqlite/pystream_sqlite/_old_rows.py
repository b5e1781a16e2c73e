"""Records that an earlier version has written, one row for each, as chunks."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from pystream_core import Span

from ._chunk import OUTCOMES, Sections, calls_of, packed
from ._schema import CHUNKS_SINCE, check_version

_BATCH = 10_000


def old_rows(connection: sqlite3.Connection, run: int) -> Iterator[Sections]:
    """What is left of them of a run, oldest first, and then its items that did not complete."""
    prefix = "old_" if check_version(connection) >= CHUNKS_SINCE else ""
    first_stage, last_stage, stages = connection.execute(
        "SELECT min(id), max(id), count(*) FROM stage WHERE run = ?", (run,)
    ).fetchone()
    rows = connection.execute(
        "SELECT stage - :first, seq, tag / 8, 1000 * (start - queued), 1000 * start,"
        f" 1000 * (start + service), tag % 8 FROM {prefix}span"
        " WHERE rowid BETWEEN (SELECT first_span FROM run WHERE id = :run)"
        " AND (SELECT last_span FROM run WHERE id = :run)"
        " AND stage BETWEEN :first AND :last ORDER BY rowid",
        {"run": run, "first": first_stage, "last": last_stage},
    )
    while batch := rows.fetchmany(_BATCH):
        spans: list[Span] = [(*fields, OUTCOMES[outcome]) for *fields, outcome in batch]
        yield _sections(spans, stages)
    items = connection.execute(
        f"SELECT seq, sub, 1000 * admitted, 1000 * ended, bin FROM {prefix}item WHERE run = ?",
        (run,),
    )
    while ended := items.fetchmany(_BATCH):
        yield _sections([], stages, ended)


def _sections(
    spans: list[Span], stages: int, ended: list[tuple[int, int, int, int, str]] | None = None
) -> Sections:
    chunk = packed(calls_of(spans, stages), ended or [], origin=0, records=0, first_seq=0)
    return chunk.sections
