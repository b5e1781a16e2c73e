"""One run, between the threads that collect its records, write them and sum them up.

Records wait as they came until somebody writes or sums up: the collector should be back with
the recorder soon, and packing costs less the more there are at once. Only when very many wait
it packs as well. Packed ones wait for the disk.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

from pystream_core import ItemEnd, Profile, RunInfo, Span, Statistics

from ._chunk import Chunk, calls_of, packed
from ._summary import Summary, Totals

# Measured on 3.11, 10,000 calls a second of five stages, a batch every 45 ms: all threads of the
# profiler take 2.1 us per call when each batch is packed as it comes, 0.88 when 2,000 records
# are gathered, 0.75 with 4,000, 0.63 with 8,000. (When all comes at once: 0.44, 0.39, 0.36.)
LARGEST = 8192  # records that are packed at once, in some two milliseconds
# A burst of 500,000 calls, with the interpreter lock taken by the stages: the recorder lost up
# to 15 % while the collector packed from 8,000 records on; with this it loses none.
MOST_UNPACKED = 131_072  # records, some 300 bytes each
FLUSH_AT = 20_000  # records that are flushed at once
MOST_WAITING = 1_000_000  # records that may wait for the disk, some 16 bytes each


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What is to be written.

    Attributes:
        chunks: the packed records that wait.
        totals: the exact figures of the run up to them.
        lost: records of the run that are missing.
    """

    chunks: tuple[Chunk, ...]
    totals: Totals
    lost: int


class Recording:
    """The records of one run. Methods may be called from any thread, none waits for the disk.

    Args:
        run: whose they are.

    Attributes:
        run: the same.
        collected: whether there was any record.
        since: when the first of the records came that wait; the writer's own, like all below.
        statistics: the ledger at the end.
        closed: whether the run has ended.
        open: the last chunk on disk and its row, as long as it is small.
    """

    def __init__(self, run: RunInfo) -> None:
        self.run = run
        self.collected = False
        self.since: float | None = None
        self.statistics: Statistics | None = None
        self.closed = False
        self.open: tuple[int, Chunk] | None = None
        self._summary = Summary(run)
        # One packs at a time, so that chunks come in order and the summary fits them; taken
        # before the other locks.
        self._packing = threading.Lock()
        # Guards everything below; held for moments.
        self._lock = threading.Lock()
        self._batches: list[tuple[list[Span], list[ItemEnd]]] = []
        self._unpacked = 0  # records in _batches
        self._chunks: list[Chunk] = []
        self._packed = 0  # records in _chunks, or on the way to there
        self._next_seq = 0
        self._stored = True
        self._announced = False
        self._unannounced = 0
        self._recorder_lost = 0
        self._disk_lost = 0

    @property
    def waiting(self) -> int:
        """Records that are not on disk yet."""
        with self._lock:
            return self._packed + self._unpacked

    @property
    def lost(self) -> int:
        """Records that the recorder or the disk could not take."""
        return self._recorder_lost + self._disk_lost

    def collect(self, spans: Sequence[Span], items: Sequence[ItemEnd]) -> bool:
        """Take in a batch; True when the writer should be told that something waits."""
        number = len(spans) + len(items)
        if not number:
            return False
        with self._lock:
            self.collected = True
            self._batches.append((list(spans), list(items)))
            self._unpacked += number
            self._unannounced += number
            wanted = self._unannounced >= (FLUSH_AT if self._announced else 1)
            if wanted:
                self._announced, self._unannounced = True, 0
        while self._unpacked >= MOST_UNPACKED:
            with self._packing:
                self._pack(1)  # no more than needed, and never a newer one before
        return wanted and self._stored

    def lose(self, records: int) -> None:
        """Count records that the recorder could not keep."""
        with self._lock:
            self._recorder_lost += records

    def keep_in_memory(self) -> None:
        """There is no writer: keep nothing for it."""
        with self._lock:
            self._stored = False

    def batch(self) -> Batch:
        """All that waits for the disk. It goes on waiting until ``written`` or ``forget``."""
        with self._packing:
            with self._lock:
                self._announced, self._unannounced = False, 0
            self._pack()
            with self._lock:
                chunks = tuple(self._chunks)
            return Batch(chunks=chunks, totals=self._summary.totals(), lost=self.lost)

    def written(self, batch: Batch) -> None:
        """The batch is on disk."""
        with self._lock:
            del self._chunks[: len(batch.chunks)]
            self._packed -= sum(chunk.records for chunk in batch.chunks)

    def forget(self) -> None:
        """Count what waits as lost."""
        with self._packing:
            self._pack()
        with self._lock:
            self._disk_lost += self._packed
            self._chunks, self._packed = [], 0

    def profile(self) -> Profile:
        """The figures of this moment."""
        with self._packing:
            self._pack()
        return self._summary.profile(self.lost)

    def renew_locks(self) -> None:
        """After a fork: a thread that held one is not in this process."""
        self._packing, self._lock = threading.Lock(), threading.Lock()
        self._summary.renew_lock()

    def _pack(self, most: int | None = None) -> None:
        """Pack the oldest batches, at most so many."""
        with self._lock:
            batches = self._batches[:most]
            del self._batches[:most]
            spans = list(chain.from_iterable(spans for spans, _ in batches))
            items = list(chain.from_iterable(items for _, items in batches))
            self._unpacked -= len(spans) + len(items)
            self._packed += len(spans) + len(items)
        pieces = -(-(len(spans) + len(items)) // LARGEST)
        for piece in range(pieces):
            self._pack_piece(_part(spans, piece, pieces), _part(items, piece, pieces))

    def _pack_piece(self, spans: Sequence[Span], items: Sequence[ItemEnd]) -> None:
        calls = calls_of(spans, len(self.run.stages))
        self._summary.add_columns(calls, items)
        records = len(spans) + len(items)
        with self._lock:
            if not self._stored or self._packed > MOST_WAITING:
                self._packed -= records
                self._disk_lost += records if self._stored else 0
                return
        chunk = packed(
            calls,
            [item for item in items if item[4] != "completed"],
            origin=self.run.started_ns,
            records=records,
            first_seq=self._next_seq,
        )
        self._next_seq = chunk.last_seq + 1
        with self._lock:
            self._chunks.append(chunk)


_Record = TypeVar("_Record", Span, ItemEnd)


def _part(records: list[_Record], piece: int, pieces: int) -> list[_Record]:
    """One of so many pieces of about the same size."""
    return records[len(records) * piece // pieces : len(records) * (piece + 1) // pieces]
