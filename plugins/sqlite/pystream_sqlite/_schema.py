"""The tables, as an ordered list of migrations; ``user_version`` counts those that ran.

run      one recorded run. ``kept`` counts its span and item rows, which lie between
         ``first_span`` and ``last_span`` and cover ``first_seq`` to ``last_seq``. ``feeders``
         is a JSON list: the positions of the stages that feed each stage and, last, the
         output; NULL when each feeds the next one.
stage    one leaf stage of a run; ``path`` is a JSON list of names, ``name`` only for reading.
span     one ended call. ``stage`` is a row id, which implies the run; whole microseconds:
         ``queued`` waiting before the call, ``start`` since the run's start, ``service`` in
         the call. ``tag`` is 8 * sub + index in OUTCOMES: 0, which takes no space, for an
         ordinary call. No index: rows are written and deleted in order of time.
item     one item that did not complete.
counter  exact figures of the whole run (nanoseconds), which outlive trimmed rows: ``scope``
         is the JSON path of a stage or pipeline, empty for the run itself.
"""

from __future__ import annotations

import sqlite3

OUTCOMES = ("emitted", "filtered", "expanded", "failed", "retried", "absorbed")  # at most 8


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


MIGRATIONS = (_create_tables, _add_feeders)


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
