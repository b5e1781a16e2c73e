"""Observers that each break one rule."""

from __future__ import annotations

import sqlite3
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar

from catalogue import Catalogue

from pystream_core import ItemEnd, Observer, RunInfo, Span, Statistics

WRONG = Catalogue()

TOLD = "test_it_is_told_of_a_run_from_its_beginning_to_its_end"


@WRONG.add("never raises", "test_it_takes_every_kind_of_record", "KeyError|assert")
class KnowsFewOutcomes(Observer):
    """Raises at outcomes that it does not know."""

    def collect(self, spans: Sequence[Span], items: Sequence[ItemEnd]) -> None:
        for *_, outcome in spans:
            {"emitted": 1, "filtered": 2}[outcome]


@WRONG.add("never raises", "test_records_may_come_in_any_portions", "IndexError")
class NeedsRecords(Observer):
    """Looks at the first record, whether there is one or not."""

    def collect(self, spans: Sequence[Span], items: Sequence[ItemEnd]) -> None:
        spans[0]


@WRONG.add("any thread", "test_it_is_told_in_any_thread", "ProgrammingError")
class TiedToItsThread(Observer):
    """Uses in collect a connection that it has made in opened."""

    def opened(self, run: RunInfo) -> None:
        self.connection = sqlite3.connect(":memory:")

    def collect(self, spans: Sequence[Span], items: Sequence[ItemEnd]) -> None:
        self.connection.execute("select 1")


@WRONG.add("names", "test_any_legal_name_survives", "assert")
class NamesAreSQL(Observer):
    """Puts names of stages into the text of its statements."""

    def opened(self, run: RunInfo) -> None:
        connection = sqlite3.connect(":memory:")
        connection.execute("create table stage (name)")
        for path in run.stages:
            connection.execute(f"insert into stage values ('{path[-1]}')")
        connection.close()


@WRONG.add("ends", "test_every_end_is_an_end", "assert")
class NeedsItems(Observer):
    """Divides by the number of items at the end."""

    def closed(self, statistics: Statistics) -> None:
        statistics.completed / statistics.admitted


@WRONG.add("nothing left", "test_every_end_is_an_end", "thread 'watcher'")
class LeavesAThread(Observer):
    """Starts a thread that nobody ends."""

    def opened(self, run: RunInfo) -> None:
        threading.Thread(target=threading.Event().wait, name="watcher", daemon=True).start()


@WRONG.add("again", "test_one_run_after_another", "assert")
class SeesOneRun(Observer):
    """Cannot be opened twice."""

    run: RunInfo | None = None

    def opened(self, run: RunInfo) -> None:
        if self.run is not None:
            raise RuntimeError("opened already")
        self.run = run


@WRONG.add("apart", "test_runs_side_by_side_are_kept_apart", "assert")
class SharesItsRun(Observer):
    """Keeps the run in its class, for all."""

    run: ClassVar[Any] = None
    calls: ClassVar[dict[Any, int]] = {}

    def opened(self, run: RunInfo) -> None:
        type(self).run = run
        self.calls[id(self), len(run.stages)] = 0
        deadline = monotonic() + 0.5
        while type(self).run is run and monotonic() < deadline:  # until the next one opens
            threading.Event().wait(0.001)

    def collect(self, spans: Sequence[Span], items: Sequence[ItemEnd]) -> None:
        self.calls[id(self), len(type(self).run.stages)] += len(spans)


@WRONG.add("quick", "test_collecting_is_quick", "assert|did not end", quick=0.3)
class Dawdles(Observer):
    """Takes its time for every record."""

    def collect(self, spans: Sequence[Span], items: Sequence[ItemEnd]) -> None:
        never = threading.Event()
        for _ in spans:
            never.wait(0.0001)


class _Broken:
    stores = True

    @contextmanager
    def broken_storage(self, folder: Path) -> Iterator[None]:
        Writes.folder = folder / "missing"
        yield


@WRONG.add(
    "storage",
    "test_a_storage_that_fails_stops_no_item",
    "assert",
    stores=True,
    broken_storage=_Broken.broken_storage,
)
class Writes(Observer):
    """Raises when it cannot write."""

    folder: ClassVar[Path] = Path("missing")

    def collect(self, spans: Sequence[Span], items: Sequence[ItemEnd]) -> None:
        (self.folder / "records").write_text(repr(spans))


@WRONG.add("storage", "test_without_a_storage_no_file_is_opened", "descriptor")
class StoresInSecret(Observer):
    """Says that it stores nothing, and does."""

    def opened(self, run: RunInfo) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115

    def closed(self, statistics: Statistics) -> None:
        self.file.close()
