"""The tables, as an ordered list of migrations; ``user_version`` counts those that ran.

run      one recorded run. ``kept`` counts the calls and items in its chunks, whose items are
         about those from ``first_seq`` to ``last_seq``. ``feeders`` is a JSON list: the
         positions of the stages that feed each stage and, last, the output; NULL when each
         feeds the next one.
stage    one leaf stage of a run; ``path`` is a JSON list of names, ``name`` only for reading.
chunk    the records of a moment, up to some thousands: ``spans`` ended calls and ``ended``
         items that did not complete. ``layout`` is a JSON list of sections, each ``[stage,
         count, [width, base], ...]``: the position of a stage, or -1 for the items; then the
         columns seq, sub, queued, start, end, outcome (items: seq, sub, admitted, ended,
         bin). ``data`` is all their numbers, column by column, each little-endian in
         ``width`` bytes (1 and 4 unsigned; 6 as the lower four of all and then the upper two
         of all; 8 signed; 0 for none) and to be added to ``base``; times in nanoseconds since
         the run's start, outcomes and bins as places in the lists of ``_chunk``.
         ``first_seq`` is the lowest seq that no earlier one has.
counter  exact figures of the whole run (nanoseconds), which outlive trimmed chunks: ``scope``
         is the JSON path of a stage or pipeline, empty for the run itself.

Until version 2 there was a row for each call and item (``old_span``: whole microseconds,
``queued`` and ``service`` their durations, ``tag`` 8 * sub + outcome, ``stage`` a row id, the
rows of a run between its ``first_span`` and ``last_span``; ``old_item``). What is left of them
is read as it is, and goes with its runs: to convert a full history takes seconds, in which the
first run after an upgrade could end.
"""

from __future__ import annotations

import sqlite3


class NewerSchemaError(sqlite3.DatabaseError):
    """The database was written by a later version of this package."""


def _create_tables(connection: sqlite3.Connection) -> None:
    connection.execute(
        "CREATE TABLE run (id INTEGER PRIMARY KEY, uid TEXT NOT NULL UNIQUE,"
        " started_at REAL NOT NULL, executor TEXT NOT NULL, finished INTEGER NOT NULL DEFAULT 0,"
        " duration INTEGER NOT NULL DEFAULT 0, kept INTEGER NOT NULL DEFAULT 0,"
        " first_span INTEGER, last_span INTEGER, first_seq INTEGER, last_seq INTEGER)"
    )
    connection.execute(
        "CREATE TABLE stage (id INTEGER PRIMARY KEY, run INTEGER NOT NULL,"
        " position INTEGER NOT NULL, path TEXT NOT NULL, name TEXT NOT NULL,"
        " workers INTEGER NOT NULL)"
    )
    connection.execute(
        "CREATE TABLE span (stage INTEGER, seq INTEGER, queued INTEGER, start INTEGER,"
        " service INTEGER, tag INTEGER)"
    )
    connection.execute(
        "CREATE TABLE item (run INTEGER, seq INTEGER, sub INTEGER, admitted INTEGER,"
        " ended INTEGER, bin TEXT)"
    )
    connection.execute(
        "CREATE TABLE counter (run INTEGER, scope TEXT, name TEXT, value INTEGER,"
        " PRIMARY KEY (run, scope, name)) WITHOUT ROWID"
    )


def _add_feeders(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE run ADD COLUMN feeders TEXT")


def _add_chunks(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE span RENAME TO old_span")
    connection.execute("ALTER TABLE item RENAME TO old_item")
    connection.execute(
        "CREATE TABLE chunk (id INTEGER PRIMARY KEY, run INTEGER NOT NULL, spans INTEGER NOT NULL,"
        " ended INTEGER NOT NULL, first_seq INTEGER NOT NULL, layout TEXT NOT NULL,"
        " data BLOB NOT NULL)"
    )


MIGRATIONS = (_create_tables, _add_feeders, _add_chunks)
CHUNKS_SINCE = 3


def check_version(connection: sqlite3.Connection) -> int:
    """How many migrations have run; raises NewerSchemaError when more than there are."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > len(MIGRATIONS):
        raise NewerSchemaError(
            f"it has schema version {version}, this pystream-sqlite knows {len(MIGRATIONS)}: "
            "upgrade it, or choose another folder"
        )
    return version


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema up to date, in one transaction."""
    if check_version(connection) == len(MIGRATIONS):
        return
    connection.execute("BEGIN IMMEDIATE")
    # Once more under the lock: another process may have migrated meanwhile.
    for migration in MIGRATIONS[check_version(connection) :]:
        migration(connection)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    connection.execute("COMMIT")
