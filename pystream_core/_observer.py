"""Observing a run: what observers receive, and the recorder that keeps them off the data path.

A worker appends plain tuples to a bounded deque of its own (append and popleft need no
lock). One collector thread per run empties the deques within 50 ms of a record and hands
the batches to the observers, so no observer ever runs in a worker.
"""

from __future__ import annotations

import logging
import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from queue import Empty
from typing import Any, Final, TypeAlias

from ._errors import counted
from ._ledger import Statistics
from ._mailbox import Mailbox
from ._plan import MAIN_PIPELINE_NAME, SEPARATOR

logger = logging.getLogger("PyStream")

_SPAN: Final = 7  # fields of a span, which the shape of other records tells from them
_GIVING_WAY: Final = 0.1  # seconds that a worker with a full deque waits for the collector

Span: TypeAlias = tuple[int, int, int, int, int, int, str]
"""One ended call: ``(stage, seq, sub, queued_ns, start_ns, end_ns, outcome)``.

``stage`` is an index into ``RunInfo.stages``; the clock is ``time.perf_counter_ns``;
``queued_ns`` is when the item left the stage before (or was admitted), so ``start_ns -
queued_ns`` is its queue time. ``outcome`` is ``"emitted"``, ``"filtered"``, ``"expanded"``,
``"absorbed"`` (by a batching stage), ``"failed"`` or ``"retried"``. A span stands for a call that
took an item in: a flush has none, though it gives out items that have spans at later stages.
"""

ItemEnd: TypeAlias = tuple[int, int, int, int, str]
"""One ended item: ``(seq, sub, admitted_ns, ended_ns, bin)`` with a bin of the ledger. What has
come to the reader of a stream is completed, also when he leaves it behind and the ledger says
dropped."""

_Passage: TypeAlias = tuple[int, Sequence[int], str, bool]
"""The calls that a worker made back to back with one item, not taken apart yet: ``(seq, times,
outcome of the last, whether the item is completed)``, see ``Trace.calls``."""


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What an observer is told about a run before its first record.

    Attributes:
        id: unique text for this run.
        stages: the path of every leaf stage, as a tuple of names from the main pipeline
            down; records name stages by their index here.
        workers: number of workers of each stage, in the same order.
        feeders: the indexes of the stages that feed each stage and, behind the last one, the
            output; none for what takes the pipeline's input. Empty: each feeds the next one.
        executor: name of the executor.
        started_ns: ``time.perf_counter_ns()`` at the start; all record times compare to it.
        started_at: wall clock at the start, seconds since the epoch; a label only.
    """

    id: str
    stages: tuple[tuple[str, ...], ...]
    workers: tuple[int, ...]
    executor: str
    started_ns: int
    started_at: float
    feeders: tuple[tuple[int, ...], ...] = ()


class Observer:
    """Receives records of what happened. Every method does nothing unless overridden.

    All methods of one observer are called one at a time: ``opened`` by the thread that
    starts the run, ``collect`` by the collector, ``closed`` when the run has ended. An
    observer that raises is logged once and gets nothing more of that run; the pipeline
    does not notice. It may be slow: records then wait, bounded, and what does not fit is
    counted in ``lost``.
    """

    def opened(self, run: RunInfo) -> None:
        """A run is about to start. One observer may see several runs, one after another."""

    def collect(self, spans: Sequence[Span], items: Sequence[ItemEnd]) -> None:
        """Some calls and items have ended, at most about 50 ms ago."""

    def lost(self, records: int) -> None:
        """That many records did not fit into the recorder since the last time."""

    def closed(self, statistics: Statistics) -> None:
        """The run has ended and no further record of it will come."""


@dataclass(frozen=True, kw_only=True)
class Percentiles:
    """A distribution of times, in seconds."""

    mean: float
    p50: float
    p90: float
    p99: float


@dataclass(frozen=True, kw_only=True)
class StageProfile:
    """What the calls of one stage took.

    Attributes:
        calls: ended calls, also those that raised.
        service: time inside the stage, per call.
        queue: time between the end of the stage before (or admission) and the call.
        throughput: calls / (last end - first start), in calls per second.
        busy: share of its workers' time spent inside the stage, 0 to 1, between the first
            start of any stage and the last end of any.
    """

    calls: int
    service: Percentiles
    queue: Percentiles
    throughput: float
    busy: float


@dataclass(frozen=True, kw_only=True)
class PipelineProfile:
    """What items took through a whole pipeline.

    Attributes:
        items: items that came through.
        latency: for the main pipeline from admission to output, for a nested one from its
            first stage's start to the end of its last one; where it branches, to the latest
            end of those that no stage inside follows.
        throughput: items / (last completion - first admission), in items per second.
    """

    items: int
    latency: Percentiles
    throughput: float


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Where the time of a run goes; ``print`` shows it as a table.

    Attributes:
        stages: by full path, in the order of the plan; a stage appears with its first
            ended call.
        pipelines: the main pipeline and nested ones by full path, each with its first item
            that came through.
        bottleneck: full path of the stage whose workers are busiest, None without calls.
        lost: records that could not be kept. What did not fit into memory is missing from the
            figures; what only the storage refused is missing from the recorded run.
    """

    stages: Mapping[str, StageProfile] = field(default_factory=dict)
    pipelines: Mapping[str, PipelineProfile] = field(default_factory=dict)
    bottleneck: str | None = None
    lost: int = 0

    def __str__(self) -> str:
        lines = [*self._table(), *self._whole()]
        if self.lost:
            records = counted(self.lost, "record", "records")
            lines.append(f"{records} lost, so figures may be incomplete")
        return "\n".join(lines) or "no calls yet"

    def _table(self) -> list[str]:
        """The stages, and an empty line; a name that is too long stands above its figures."""
        if not self.stages:
            return []
        rows = [["Stage", "Calls", "Service p50", "Service p99", "Queue p50", "Busy"]]
        for path, stage in self.stages.items():
            mark = " *" if path == self.bottleneck else ""
            times = (stage.service.p50, stage.service.p99, stage.queue.p50)
            cells = [f"{stage.calls:,}", *map(_duration, times), f"{stage.busy:.0%}"]
            rows.append([_short(path) + mark, *cells])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        room = max(_COLUMNS - sum(widths[1:]) - 2 * len(widths[1:]), len("Stage"))
        first = max(len(name) for name, *_ in rows if len(name) <= room)
        lines = []
        for name, *cells in rows:
            if len(name) > room:
                lines.append(name)
                name = ""
            right = (f"  {cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
            lines.append(f"{name:<{first}}{''.join(right)}")
        return [*lines, ""]

    def _whole(self) -> list[str]:
        """Throughput and latency of the pipelines, and the bottleneck."""
        lines = []
        for path, pipeline in self.pipelines.items():
            name = "Throughput" if path == MAIN_PIPELINE_NAME else f"{_short(path)}: throughput"
            latency = pipeline.latency
            lines.append(
                f"{name} {pipeline.throughput:,.1f} items/s, "
                f"latency p50 {_duration(latency.p50)}, p99 {_duration(latency.p99)}"
            )
        if self.bottleneck is not None:
            stage = self.stages.get(self.bottleneck)
            busy = "" if stage is None else f", busy {stage.busy:.0%} of the time"
            lines.append(f"* Bottleneck: {_short(self.bottleneck)}{busy}")
        return lines


_COLUMNS: Final = 80


def _short(path: str) -> str:
    """A path without the name of the main pipeline, which all have in common."""
    from ._drawing import visible

    return visible(path.removeprefix(f"{MAIN_PIPELINE_NAME}{SEPARATOR}"))


def _duration(seconds: float) -> str:
    """A time in three digits and the unit that suits it."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            value = seconds / scale
            return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"
    return f"{seconds * 1e9:.0f} ns"


class Profiler(Observer):
    """An observer that can sum up what it has seen."""

    @abstractmethod
    def summarize(self) -> Profile:
        """The profile of the latest run, from all records collected so far.

        Called from any thread, also after ``closed``.
        """


class Trace:
    """The records of one worker: two bounded deques that it appends to.

    Appended to by one worker, emptied by the collector; both ends of a deque are atomic.
    """

    __slots__ = ("_crowded", "_limit", "_recorder", "items", "lost", "spans")

    def __init__(self, recorder: Recorder, limit: int) -> None:
        self._recorder = recorder
        self._limit = limit
        self._crowded = limit // 2
        self.spans: deque[Span | _Passage] = deque()
        self.items: deque[ItemEnd] = deque()
        self.lost = 0

    def span(self, record: Span) -> None:
        """Record one ended call. Hardly ever waits, see ``Recorder.make_room``."""
        if len(self.spans) < self._crowded or self._room(self.spans):
            self.spans.append(record)
        else:
            self.lost += 1
        if self._recorder.asleep:
            self._recorder.wake()

    def item(self, record: ItemEnd) -> None:
        """Record one ended item, in the same way."""
        if len(self.items) < self._crowded or self._room(self.items):
            self.items.append(record)
        else:
            self.lost += 1
        if self._recorder.asleep:
            self._recorder.wake()

    def calls(self, seq: int, times: Sequence[int], last: str, *, completed: bool = False) -> None:
        """Record the calls of stages 0, 1, … with one item, made back to back.

        One record for all, which the collector takes apart: a stage that works for long finds
        little of what recording needs in the processor's caches, so what is left for later is
        what costs it least.

        Args:
            seq: number of the item.
            times: when the first call began, and when each one ended; not to be changed any more.
            last: outcome of the last one; the others have emitted.
            completed: the item has ended with the last call, as completed.
        """
        spans = self.spans
        records = len(times)
        if len(spans) * records < self._crowded or self._room(spans, records):
            spans.append((seq, times, last, completed))
        else:
            self.lost += records - 1 + completed
        if self._recorder.asleep:
            self._recorder.wake()

    def _room(self, records: deque[Any], each: int = 1) -> bool:
        """Whether another one fits, when each stands for so many."""
        if len(records) * each < self._limit:
            self._recorder.hurry()
            return True
        self._recorder.make_room()
        return len(records) * each < self._limit

    def take(self) -> tuple[list[Span], list[ItemEnd]]:
        """Remove and return what has been recorded so far. For the collector."""
        waiting, ended = self.spans, self.items
        spans: list[Span] = []
        add = spans.append
        # Only what is there now: a worker that appends all the time must not hold us here.
        items = [ended.popleft() for _ in range(len(ended))]
        for _ in range(len(waiting)):
            record = waiting.popleft()
            if len(record) == _SPAN:
                add(record)
                continue
            seq, times, last, completed = record
            start = times[0]
            final = len(times) - 2
            for stage, end in enumerate(times[1:]):
                add((stage, seq, 0, start, start, end, "emitted" if stage < final else last))
                start = end
            if completed:
                items.append((seq, 0, times[0], start, "completed"))
        return spans, items


class Recorder:
    """Collects the records of one run and hands them to its observers.

    The collector thread sleeps while nothing is recorded. It announces that with
    ``asleep`` and looks once more before it waits; a worker looks at ``asleep`` after it
    appended. So either the collector sees the record or the worker sees the flag.

    A worker that fills its deque faster than the collector comes round, because they compete
    for the interpreter, gives way to it for a moment. It does not wait for observers: one that
    is late costs a tenth of a second once, and records from then on until it returns.

    Args:
        observers: who receives the records.
        statistics: the ledger's figures, for a run that nobody closes.
        limit: most records that one worker can have waiting, of each sort.
        delay: seconds for which the collector lets records gather.
    """

    def __init__(
        self,
        observers: Sequence[Observer],
        statistics: Callable[[], Statistics],
        *,
        limit: int = 65_536,
        delay: float = 0.04,
    ) -> None:
        self.asleep = False
        self._statistics = statistics
        self._observers = list(observers)
        self._limit = limit
        self._delay = delay
        self._traces: list[Trace] = []
        self._traces_lock = threading.Lock()  # guards _traces; held for an append or a copy
        self._pass_lock = threading.Lock()  # one pass at a time; held while observers run
        self._wakeups: Mailbox[bool] = Mailbox()  # True: look; False: stop
        self._hurried = False  # someone has asked for the next pass
        self._late = False  # the pass that goes on takes too long to be waited for
        self._in_the_way: deque[Mailbox[None]] = deque()  # workers that wait for room
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lost_seen = 0
        self._forsaken = False

    def trace(self) -> Trace:
        """A new trace for one worker."""
        trace = Trace(self, self._limit)
        with self._traces_lock:
            self._traces.append(trace)
        return trace

    def open(self, run: RunInfo) -> None:
        """Tell the observers about the run and start collecting."""
        with self._pass_lock:
            self._tell("opened", run)
        self._thread = threading.Thread(
            target=self._collect_until_stopped, name="pystream-collector", daemon=True
        )
        self._thread.start()

    def replace_locks(self) -> None:
        """In a forked child, where the locks may be held by threads that are gone. Observers
        belong to the parent and get nothing more here."""
        self._traces_lock = threading.Lock()
        self._pass_lock = threading.Lock()
        self._observers.clear()

    def wake(self) -> None:
        """Called by a worker that saw ``asleep``. Never blocks."""
        self.asleep = False
        self._wakeups.post(True)  # it waits without a timeout then

    def hurry(self) -> None:
        """Called by a worker whose deque is half full: the next pass begins now. Never blocks."""
        if not self._hurried:
            self._hurried = True
            self._wakeups.post(True)
            if self._wakeups.sleepers:
                self._wakeups.wake()

    def make_room(self) -> None:
        """Called by a worker whose deque is full: let the collector empty it. Waits for that at
        most 0.1 s, and not at all when that was in vain and the observers are still at it."""
        if self._late:
            return
        emptied: Mailbox[None] = Mailbox()
        self._in_the_way.append(emptied)
        self._hurried = False
        self.hurry()
        try:
            emptied.get_within(_GIVING_WAY)
        except Empty:
            self._late = True

    def pass_now(self, timeout: float = 5.0) -> bool:
        """Hand on everything recorded so far, in the caller's thread.

        Waits at most ``timeout`` seconds for a pass that is under way; False when that one
        did not end.
        """
        if not self._pass_lock.acquire(timeout=timeout):
            return False
        try:
            self._pass()
        finally:
            self._pass_lock.release()
        return True

    def forsake(self) -> None:
        """Nobody will call ``close``: the collector tells the observers the end by itself.
        Never blocks, takes no lock."""
        self._forsaken = True
        self._wakeups.put(False)

    def close(self, statistics: Statistics, timeout: float = 2.0) -> None:
        """Hand on what is left, tell the observers the end, and stop the collector.

        Waits at most ``timeout`` seconds for an observer that does not return; then the
        collector is left behind and named in a warning.
        """
        self._stop.set()
        self._wakeups.put(False)
        thread, self._thread = self._thread, None
        if thread is threading.current_thread():  # an observer stops the pipeline
            self._forsaken = True  # the collector tells the end when it is done with this pass
            return
        if thread is not None:
            thread.join(timeout)
            if thread.is_alive():
                logger.warning(
                    "an observer (%s) did not return within %.1f s and is left behind; its last "
                    "records are lost",
                    ", ".join(type(observer).__name__ for observer in self._observers),
                    timeout,
                )
                return
        with self._pass_lock:
            self._pass()
            self._tell("closed", statistics)
            self._observers.clear()

    def _collect_until_stopped(self) -> None:
        while not (self._stop.is_set() or self._forsaken):  # pragma: no branch - or by a break
            with self._pass_lock:
                found = self._pass()
            if not found:
                self.asleep = True
                if self._anything_waiting():
                    self.asleep = False
                elif not self._wakeups.get():
                    break
            if not self._gather():
                break
        with self._pass_lock:
            self._pass()
            if self._forsaken:
                self._tell("closed", self._statistics())
                self._observers.clear()

    def _gather(self) -> bool:
        """Let records gather, unless there are many already; False when it is to end."""
        try:
            return self._wakeups.get_within(self._delay)
        except Empty:
            return True

    def _anything_waiting(self) -> bool:
        with self._traces_lock:
            traces = tuple(self._traces)
        return any(trace.spans or trace.items for trace in traces)

    def _pass(self) -> bool:
        with self._traces_lock:
            traces = tuple(self._traces)
        spans: list[Span] = []
        items: list[ItemEnd] = []
        lost = 0
        for trace in traces:
            some_spans, some_items = trace.take()
            spans += some_spans
            items += some_items
            lost += trace.lost
        self._hurried = False
        while self._in_the_way:
            self._in_the_way.popleft().put(None)
        if spans or items:
            self._tell("collect", spans, items)
        self._late = False
        if lost > self._lost_seen:
            self._tell("lost", lost - self._lost_seen)
            self._lost_seen = lost
        return bool(spans or items)

    def _tell(self, event: str, *details: object) -> None:
        for observer in tuple(self._observers):
            try:
                getattr(observer, event)(*details)
            except BaseException:  # an observer must not disturb the pipeline, whatever it does
                self._observers.remove(observer)
                logger.exception(
                    "observer %s raised in %s() and gets nothing more of this run",
                    type(observer).__name__,
                    event,
                )
