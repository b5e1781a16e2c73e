"""The ledger: every admitted item ends in exactly one counted bin, and the sum is checked.

The law, for the whole pipeline::

    admitted + spawned = completed + filtered + expanded + absorbed
                       + dropped + expired + failed + in_flight

and for each stage, when nothing is in flight::

    received + spawned = emitted + filtered + expanded + absorbed + dropped + expired + failed
    received           = emitted by a stage that feeds it - unjoined - lost before it

An item in several branches at once is one item: each branch counts what it did with its copy
of it, the totals count the item once, in the bin of the copy that ended first in the order of
the plan.

Who writes what: each Counters object belongs to one worker and only it adds to it; a
channel's losses are added under the lock of its sending end, or by the closer when the
workers have gone. Readers take no lock: while the pipeline runs, a snapshot is true within
the items that are being handed over at that moment.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal, NamedTuple, TypeAlias

from ._errors import counted

Bin = Literal["completed", "filtered", "expanded", "absorbed", "dropped", "expired", "failed"]

Feeders: TypeAlias = Sequence[Sequence[int]]
"""The stages that feed each stage and, behind the last one, the output; none for the input."""

_OWN_BINS = ("filtered", "expanded", "absorbed", "expired", "failed")
_NOTHING: Mapping[str, int] = MappingProxyType({})


class Counters:
    """What one worker did at one stage. Written by that worker alone.

    Attributes:
        passed: received and emitted without an event, in lots that are over.
        taken: the same of the lot that goes on; the last one taken has not been emitted. A
            worker that ends a lot first sets it to 0 and then adds to ``passed``.
    """

    __slots__ = (
        "absorbed",
        "dropped",
        "emitted",
        "expanded",
        "expired",
        "failed",
        "filtered",
        "passed",
        "received",
        "spawned",
        "taken",
    )

    def __init__(self) -> None:
        self.received = 0
        self.spawned = 0
        self.emitted = 0
        self.filtered = 0
        self.expanded = 0
        self.absorbed = 0
        self.expired = 0
        self.failed = 0
        self.passed = 0
        self.taken = 0
        self.dropped: dict[str, int] = {}

    def drop(self, reason: str, count: int = 1) -> None:
        """Count items of this worker as dropped for ``reason``."""
        self.dropped[reason] = self.dropped.get(reason, 0) + count


class JoinCounters:
    """How many outputs have come to a join, and how many times all of one item were there.

    ``arrived`` of a feeder is written by whoever sends for that feeder, ``completed`` by one
    sender at a time, ``lost`` under the ledger's lock.
    """

    __slots__ = ("arrived", "completed", "lost")

    def __init__(self, feeders: Sequence[int]) -> None:
        self.arrived = dict.fromkeys(feeders, 0)
        self.lost = dict.fromkeys(feeders, 0)  # given out, but not brought here after a stop
        self.completed = 0


def _by_reason(name: str, counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return [(f"{name} ({reason})", count) for reason, count in sorted(counts.items())]


def _law(
    origin: str,
    came: int,
    spawned: int,
    bins: Sequence[tuple[str, int]],
    beside: Sequence[tuple[str, int]],
) -> str:
    """What came in, what became of it and, in parentheses, what is no part of that."""
    ended, others = (
        [f"{count} {name}" for name, count in named if count] for named in (bins, beside)
    )
    first = f"{came} {origin}" + (f" + {spawned} spawned" if spawned else "")
    return f"{first} = {' + '.join(ended) or '0'}" + (f" ({', '.join(others)})" if others else "")


@dataclass(frozen=True, kw_only=True)
class StageStatistics:
    """What one stage did with its items. All figures are numbers of items.

    Attributes:
        path: full path of the stage.
        received: items it took from the channel in front of it.
        emitted: items it handed on.
        spawned: items it made itself (generator and batching stages).
        filtered: it returned SKIP.
        expanded: a generator stage turned the item into its spawned ones.
        absorbed: a batching stage took the item in.
        expired: older than ``max_age`` when the stage would have started on it.
        failed: it raised.
        dropped: lost while the stage had them in hand, by reason.
        lost_before: lost in the channel in front of the stage, by reason.
        unjoined: of a stage that joins several: outputs that wait for the others of their
            item, or whose item has ended in another branch, by the path of who gave them.
    """

    path: str
    received: int = 0
    emitted: int = 0
    spawned: int = 0
    filtered: int = 0
    expanded: int = 0
    absorbed: int = 0
    expired: int = 0
    failed: int = 0
    dropped: Mapping[str, int] = field(default_factory=lambda: _NOTHING)
    lost_before: Mapping[str, int] = field(default_factory=lambda: _NOTHING)
    unjoined: Mapping[str, int] = field(default_factory=lambda: _NOTHING)

    @property
    def in_hand(self) -> int:
        """Items the stage has taken and not yet ended or handed on."""
        ended = self.filtered + self.expanded + self.absorbed + self.expired + self.failed
        dropped = sum(self.dropped.values())
        return self.received + self.spawned - self.emitted - ended - dropped

    def __str__(self) -> str:
        bins = [
            ("emitted", self.emitted),
            ("filtered", self.filtered),
            ("expanded", self.expanded),
            ("absorbed", self.absorbed),
            *_by_reason("dropped", self.dropped),
            ("expired", self.expired),
            ("failed", self.failed),
            ("in hand", self.in_hand),
        ]
        beside = [
            *_by_reason("lost before it", self.lost_before),
            *((f"unjoined from {path}", count) for path, count in self.unjoined.items()),
        ]
        return f"{self.path}: {_law('received', self.received, self.spawned, bins, beside)}"


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """The ledger at one moment. All figures are numbers of items.

    Attributes:
        admitted: accepted at the front; each of them ends in exactly one bin.
        spawned: made by stages on the way.
        completed: reached the output.
        filtered, expanded, absorbed, expired, failed: see StageStatistics.
        dropped: lost under a stated policy or by a stop, by reason: ``overflow``,
            ``abort``, ``abandoned``, ``interrupted``, ``reader left``, ``cleanup``,
            ``start failed``, ``interpreter exit``, ``pipeline was not cleaned up``.
        in_flight: admitted or spawned and not yet ended.
        rejected: offers that the front refused in time; no stage saw them.
        superseded: completed results that a newer one replaced before they were read.
        unjoined: of a plan that ends in several stages: see StageStatistics.
        stages: the same per stage, in the order of the plan. A stage in a branch counts its
            own copies of the items, so their sum may be larger than the figures above.
    """

    admitted: int = 0
    spawned: int = 0
    completed: int = 0
    filtered: int = 0
    expanded: int = 0
    absorbed: int = 0
    dropped: Mapping[str, int] = field(default_factory=lambda: _NOTHING)
    expired: int = 0
    failed: int = 0
    in_flight: int = 0
    rejected: int = 0
    superseded: int = 0
    unjoined: Mapping[str, int] = field(default_factory=lambda: _NOTHING)
    stages: Sequence[StageStatistics] = ()

    @property
    def dropped_total(self) -> int:
        """Number of dropped items, all reasons together."""
        return sum(self.dropped.values())

    @property
    def ended(self) -> int:
        """Number of items that have come to their end, in whichever bin."""
        return (
            self.completed
            + self.filtered
            + self.expanded
            + self.absorbed
            + self.dropped_total
            + self.expired
            + self.failed
        )

    def __str__(self) -> str:
        bins = [
            ("completed", self.completed),
            ("filtered", self.filtered),
            ("expanded", self.expanded),
            ("absorbed", self.absorbed),
            *_by_reason("dropped", self.dropped),
            ("expired", self.expired),
            ("failed", self.failed),
            ("in flight", self.in_flight),
        ]
        beside = [("rejected", self.rejected), ("superseded", self.superseded)]
        return _law("admitted", self.admitted, self.spawned, bins, beside)


class _Figures(NamedTuple):
    """What was read at one moment: the stages, completed items, what was lost before the output,
    and what the sum over the stages is too large by."""

    stages: tuple[StageStatistics, ...]
    completed: int
    lost_at_the_end: Mapping[str, int]
    doubled: Mapping[tuple[str, str], int]


class Ledger:
    """The counters of one run.

    Args:
        paths: the full paths of the run's stages, in the order of the plan.
        feeders: which stages feed each of them and the output; by default each the next one.
    """

    def __init__(self, paths: Sequence[str], feeders: Feeders | None = None) -> None:
        self.paths = tuple(paths)
        self._feeders = feeders if feeders is not None else _in_a_row(len(paths))
        # Their places do not change; for the figures in them see JoinCounters.
        self.joins = {
            index: JoinCounters(sources)
            for index, sources in enumerate(self._feeders)
            if len(sources) > 1
        }
        self.admitted = 0  # written under the executor's front lock
        self.completed = 0  # written by the output, one call at a time
        self.streamed = 0  # completed as well; written by the output, for a stream's reader
        self.passed = 0  # went through every stage and out without an event: received, emitted
        # and completed at once; written by the thread that runs a serial stream
        self.superseded = 0  # written under the output's lock
        self._forfeited = 0  # streamed, but the reader never took them
        self._rejected = 0
        # guards the two, growing _workers, and _doubled; held briefly. It may be entered again,
        # since a collection may run a destructor there that uses the pipeline.
        self._lock = threading.RLock()
        self._workers: list[list[Counters]] = [[] for _ in paths]
        self._lost_before: list[dict[str, int]] = [{} for _ in range(len(paths) + 1)]
        # Ends of copies that the stages have counted, less the ends of their items: what the
        # sum over the stages is too large by.
        self._doubled: Counter[tuple[str, str]] = Counter()
        self._final: Statistics | None = None

    def counters(self, stage: int) -> Counters:
        """New counters for a worker of the stage with this index."""
        counters = Counters()
        with self._lock:
            self._workers[stage].append(counters)
        return counters

    def replace_lock(self) -> None:
        """In a forked child, where the lock may be held by a thread that is gone."""
        self._lock = threading.RLock()

    def reject(self) -> None:
        """Count an offer that was refused."""
        with self._lock:
            self._rejected += 1

    def lose(self, stage: int, reason: str, count: int = 1) -> None:
        """Count items lost in the channel in front of a stage.

        Args:
            stage: index of the stage; the number of stages means the output.
            reason: why, in the words of ``Statistics.dropped``.
        """
        with self._lock:
            lost = self._lost_before[stage]
            lost[reason] = lost.get(reason, 0) + count

    def lose_unjoined(self, join: int, feeder: int) -> None:
        """Count an output of ``feeder`` that does not even come to a join; from any thread."""
        with self._lock:
            self.joins[join].lost[feeder] += 1

    def forfeit(self) -> None:
        """A result that was handed to a stream was not taken by its reader: it counts as
        dropped instead of completed."""
        with self._lock:  # both in one step, as they are read
            self._forfeited += 1
            self.lose(len(self.paths), "reader left")

    def end_copy(
        self, bin_: Bin, reason: str, *, counted: bool, last: tuple[Bin, str] | None
    ) -> None:
        """One copy of an item in several branches has ended.

        Args:
            bin_, reason: how.
            counted: a stage or its channel has counted that; False: it was lost where it counts
                as unjoined.
            last: the bin and reason of its item, when that has ended with it.
        """
        with self._lock:
            if counted:
                self._doubled[bin_, reason] += 1
            if last is not None:
                self._doubled[last] -= 1

    def mend(self, reason: str) -> None:
        """Count items that have no bin as dropped, where they were lost: an interrupt can come
        between any step and its count. For stages that follow one another, at a moment when
        nothing is in flight.
        """
        with self._lock:
            figures = self._read()
            sent = self.admitted
            for index, stage in enumerate(figures.stages):
                self._lose_rest(index, reason, sent - stage.received, stage.lost_before)
                if stage.in_hand > 0:
                    self._workers[index][0].drop(reason, stage.in_hand)
                sent = stage.emitted
            last = len(self.paths)
            self._lose_rest(last, reason, sent - figures.completed, figures.lost_at_the_end)

    def _lose_rest(self, index: int, reason: str, missing: int, lost: Mapping[str, int]) -> None:
        rest = missing - sum(lost.values())
        if rest > 0:
            self.lose(index, reason, rest)

    def snapshot(self) -> Statistics:
        """The figures of this moment; ``in_flight`` is derived from the others."""
        if self._final is not None:
            return self._final
        return self._totals(self._read())

    def finish(self) -> Statistics:
        """Fix the figures of a closed run; what still arrives is discarded.

        An item in the hands of a worker that never came back is counted as abandoned.
        """
        if self._final is None:
            figures = self._read()
            abandoned = tuple(_with_abandoned(stage) for stage in figures.stages)
            self._final = self._totals(figures._replace(stages=abandoned))
        return self._final

    def violations(self) -> list[str]:
        """Which lines of the law do not hold, in words. Empty when nothing is in flight
        and nothing was lost; call it at a quiet moment only."""
        statistics = self.snapshot()
        wrong = []
        for index, stage in enumerate(statistics.stages):
            lost = sum(stage.lost_before.values())
            for sent in self._sent(index, statistics, stage.unjoined):
                if stage.received != sent - lost:
                    wrong.append(
                        f"{stage.path}: received {stage.received}, but {sent} were sent to it "
                        f"and {lost} lost on the way"
                    )
            if stage.in_hand:
                without = counted(stage.in_hand, "item has", "items have")
                wrong.append(f"{stage.path}: {without} no bin")
        lost = sum(self._lost_before[-1].values())
        for sent in self._sent(len(self.paths), statistics, statistics.unjoined):
            if statistics.completed != sent - lost:
                wrong.append(
                    f"output: completed {statistics.completed}, but {sent} were sent to it "
                    f"and {lost} lost on the way"
                )
        return wrong

    def _sent(self, index: int, statistics: Statistics, unjoined: Mapping[str, int]) -> list[int]:
        """How many items came to a stage, or the output, from each of those that feed it."""
        feeders = self._feeders[index]
        if not feeders:
            return [statistics.admitted]
        return [
            statistics.stages[feeder].emitted - unjoined.get(self.paths[feeder], 0)
            for feeder in feeders
        ]

    def _read(self) -> _Figures:
        """The figures of this moment.

        Ends are read before what makes items, and those before admissions: so a snapshot never
        shows more ends than items, whatever runs meanwhile.

        In one step, since a stage counts the end of a copy just before ``end_copy`` does: so
        no copy is taken off the sum that is not in it, and few are in it that should be.
        """
        with self._lock:
            passed = self.passed
            completed = self.completed + self.streamed - self._forfeited + passed
            doubled = dict(self._doubled)
            lost_before = [dict(lost) for lost in self._lost_before]
            ends = [_ends(counters) for counters in self._workers]
            stages = tuple(
                _sum(path, counters, each, before, passed, self._unjoined(index))
                for index, (path, counters, each, before) in enumerate(
                    zip(self.paths, self._workers, ends, lost_before, strict=False)
                )
            )
            return _Figures(stages, completed, lost_before[-1], doubled)

    def _unjoined(self, index: int) -> Mapping[str, int]:
        join = self.joins.get(index)
        if join is None:
            return _NOTHING
        completed = join.completed
        left = {
            self.paths[feeder]: count + join.lost[feeder] - completed
            for feeder, count in join.arrived.items()
        }
        return MappingProxyType({path: count for path, count in left.items() if count > 0})

    def _totals(self, figures: _Figures) -> Statistics:
        stages, completed, lost_at_the_end, doubled = figures
        dropped: Counter[str] = Counter()
        for stage in stages:
            dropped.update(stage.dropped)
            dropped.update(stage.lost_before)
        totals = {
            name: sum(getattr(stage, name) for stage in stages) for name in ("spawned", *_OWN_BINS)
        }
        dropped.update(lost_at_the_end)
        for (bin_, reason), count in doubled.items():
            if bin_ == "dropped":
                dropped[reason] -= count
            else:
                totals[bin_] -= count
        ended = completed + sum(totals[name] for name in _OWN_BINS) + sum(dropped.values())
        admitted = self.admitted
        return Statistics(
            admitted=admitted,
            completed=completed,
            dropped=MappingProxyType({why: count for why, count in dropped.items() if count}),
            in_flight=max(0, admitted + totals["spawned"] - ended),
            rejected=self._rejected,
            superseded=self.superseded,
            unjoined=self._unjoined(len(self.paths)),
            stages=stages,
            **totals,
        )


def _ends(workers: Sequence[Counters]) -> tuple[dict[str, int], dict[str, int]]:
    """How items have ended at a stage: its own bins, and what it dropped, by reason."""
    dropped: Counter[str] = Counter()
    for counters in workers:
        dropped.update(dict(counters.dropped))
    bins = {name: sum(getattr(counters, name) for counters in workers) for name in _OWN_BINS}
    return bins, dict(dropped)


def _sum(
    path: str,
    workers: Sequence[Counters],
    ends: tuple[dict[str, int], dict[str, int]],
    lost_before: dict[str, int],
    passed: int,
    unjoined: Mapping[str, int],
) -> StageStatistics:
    bins, dropped = ends
    # emitted before received: a call that ends meanwhile shows as in hand
    figures = {
        name: sum(getattr(counters, name) for counters in workers)
        for name in ("emitted", "spawned", "received")
    }
    for counters in workers:
        before, taken = counters.passed, counters.taken  # in this order: rather less than more
        figures["emitted"] += before + max(taken - 1, 0)
        figures["received"] += before + taken
    figures["emitted"] += passed
    figures["received"] += passed
    return StageStatistics(
        path=path,
        dropped=MappingProxyType(dropped),
        lost_before=MappingProxyType(lost_before),
        unjoined=unjoined,
        **bins,
        **figures,
    )


def _with_abandoned(stage: StageStatistics) -> StageStatistics:
    if not stage.in_hand:
        return stage
    dropped = Counter(stage.dropped)
    dropped["abandoned"] += stage.in_hand
    return replace(stage, dropped=MappingProxyType(dict(dropped)))


def _in_a_row(stages: int) -> Feeders:
    return [(index - 1,) if index else () for index in range(stages + 1)]
