"""Realistic runs for the profiler, and a folder of its own for every test."""

from __future__ import annotations

import itertools
import logging
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pystream_sqlite
import pytest
from pystream_sqlite import _folder

from pystream_core import RunInfo, Statistics

_ids = itertools.count()


class Recorded:
    """One profiler with a run, fed by hand as the core's recorder would."""

    def __init__(self, stages=5, *, paths=None, workers=None, run_id=None):
        self.paths = tuple(paths or ((("MainPipeline", f"Stage_{i + 1}")) for i in range(stages)))
        self.run = RunInfo(
            id=run_id or f"run-{next(_ids)}-{time.monotonic_ns()}",
            stages=self.paths,
            workers=tuple(workers or [1] * len(self.paths)),
            executor="threads",
            started_ns=time.perf_counter_ns(),
            started_at=1234.5,
        )
        self.profiler = pystream_sqlite.SQLiteProfiler()
        self.profiler.opened(self.run)
        self.seq = 0
        self.gap = 50_000  # ns from an item to the next one

    def records(self, items):
        """The records of that many items: 1 ms queue and 2 ms service in every stage."""
        spans, ends = [], []
        origin = self.run.started_ns
        for seq in range(self.seq, self.seq + items):
            admitted = now = origin + seq * self.gap
            for stage in range(len(self.paths)):
                spans.append((stage, seq, 0, now, now + 1_000_000, now + 3_000_000, "emitted"))
                now += 3_000_000
            ends.append((seq, 0, admitted, now, "completed"))
        self.seq += items
        return spans, ends

    def collect(self, items=10):
        self.profiler.collect(*self.records(items))
        return self

    def close(self):
        self.profiler.closed(Statistics(admitted=self.seq, completed=self.seq))
        return self

    def wait_until_written(self, within=5.0):
        """Until all that was collected is on disk or lost."""
        return wait_until(lambda: not self.profiler._recording.waiting, within)


def wait_until(condition, within=5.0):
    """True as soon as the condition holds, False after the deadline."""
    deadline = time.monotonic() + within
    pause = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            return False
        pause.wait(0.005)
    return True


def query(folder, sql, *values):
    with closing(sqlite3.connect(Path(folder) / "profiles.sqlite")) as connection:
        return connection.execute(sql, values).fetchall()


def warnings_in(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The profiler folder of this test, not made yet."""
    monkeypatch.setattr(_folder, "_chosen", str(tmp_path / "profiles"))
    return tmp_path / "profiles"


@pytest.fixture
def recorded():
    """Makes recorded runs, and closes those that a test left open."""
    made = []

    def make(*args, **options):
        made.append(Recorded(*args, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(autouse=True)
def no_writer_left():
    """Every writer ends with its last run."""
    yield
    assert wait_until(lambda: not [t for t in threading.enumerate() if t.name == "pystream-sqlite"])


@pytest.fixture
def helpers():
    class Helpers:
        pass

    Helpers.wait_until = staticmethod(wait_until)
    Helpers.query = staticmethod(query)
    Helpers.warnings_in = staticmethod(warnings_in)
    return Helpers
