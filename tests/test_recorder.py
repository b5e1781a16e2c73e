"""The recorder: off the data path, prompt, bounded, and unmoved by its observers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from time import monotonic
from typing import Any

import pytest

from pystream_core import Observer, Pipeline, RunInfo, Statistics, _observer
from pystream_core._observer import Recorder
from pystream_core.testing import wait_until

DEADLINE = 5.0
SPAN = (0, 0, 0, 0, 1, 2, "emitted")
ITEM = (0, 0, 0, 2, "completed")
INFO = RunInfo(
    id="x", stages=(("M", "A"),), workers=(1,), executor="test", started_ns=0, started_at=0.0
)


class Collecting(Observer):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.spans: list[Any] = []
        self.items: list[Any] = []
        self.missing = 0
        self.threads: set[str] = set()
        self.arrived = threading.Semaphore(0)

    def opened(self, run: RunInfo) -> None:
        self.events.append("opened")

    def collect(self, spans: Sequence[Any], items: Sequence[Any]) -> None:
        self.spans += spans
        self.items += items
        self.threads.add(threading.current_thread().name)
        self.arrived.release()

    def lost(self, records: int) -> None:
        self.missing += records

    def closed(self, statistics: Statistics) -> None:
        self.events.append("closed")


@pytest.fixture
def made() -> Iterator[Callable[..., tuple[Recorder, Collecting]]]:
    """Open recorders, closed afterwards."""
    recorders: list[Recorder] = []

    def make(*others: Observer, **options: Any) -> tuple[Recorder, Collecting]:
        observer = Collecting()
        recorder = Recorder([*others, observer], Statistics, **options)
        recorder.open(INFO)
        recorders.append(recorder)
        return recorder, observer

    yield make
    for recorder in recorders:
        recorder.close(Statistics())


def asleep(recorder: Recorder) -> None:
    """Wait until the collector sleeps."""
    end = monotonic() + DEADLINE
    while not recorder.asleep:
        assert monotonic() < end
        threading.Event().wait(0.001)


def test_a_record_arrives_within_50_ms(made: Any) -> None:
    """Also when the collector slept."""
    best = DEADLINE
    recorder, observer = made()
    trace = recorder.trace()
    for _ in range(3):
        asleep(recorder)
        start = monotonic()
        trace.span(SPAN)
        assert observer.arrived.acquire(timeout=DEADLINE)
        best = min(best, monotonic() - start)
    assert best < 0.05
    assert observer.spans == [SPAN] * 3
    assert observer.threads == {"pystream-collector"}


def test_the_collector_sleeps_while_nothing_is_recorded(made: Any) -> None:
    """No pass in between: it waits for a record, not for time."""
    recorder, observer = made(delay=0.001)
    asleep(recorder)
    passes = []
    original = recorder._pass
    recorder._pass = lambda: passes.append(1) or original()
    assert not observer.arrived.acquire(timeout=0.05)
    assert passes == []
    recorder.trace().item(ITEM)
    assert observer.arrived.acquire(timeout=DEADLINE)


def test_no_record_is_missed_between_falling_asleep_and_waking(made: Any) -> None:
    """Eight workers with pauses of all lengths: everything arrives."""
    recorder, observer = made(delay=0.0001)

    def work(number: int) -> None:
        trace = recorder.trace()
        for count in range(200):
            trace.span(SPAN)
            trace.item(ITEM)
            if count % 20 == number:
                asleep(recorder)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE * 2)
    end = monotonic() + DEADLINE
    while len(observer.items) < 1600:  # without any pass asked for
        assert monotonic() < end
        threading.Event().wait(0.001)
    assert len(observer.spans) == 1600


def test_a_record_that_comes_while_the_collector_falls_asleep_is_handed_on(made: Any) -> None:
    """It looks once more after it has said that it sleeps."""
    late = threading.Event()

    class Late(Observer):
        def lost(self, records: int) -> None:  # in a pass that found nothing
            trace.items.append(ITEM)
            late.set()

    recorder, observer = made(Late(), limit=0)
    asleep(recorder)
    trace = recorder.trace()
    trace.span(SPAN)
    assert late.wait(DEADLINE)
    assert observer.arrived.acquire(timeout=DEADLINE)
    assert observer.items == [ITEM]


def test_pass_now_does_not_wait_for_an_observer_that_does_not_return(made: Any) -> None:
    """At most its timeout; then it says that there was no pass."""
    go, entered = threading.Event(), threading.Event()

    class Stuck(Observer):
        def collect(self, spans: Sequence[Any], items: Sequence[Any]) -> None:
            entered.set()
            assert go.wait(DEADLINE)

    recorder, observer = made(Stuck())
    recorder.trace().span(SPAN)
    assert entered.wait(DEADLINE)
    assert not recorder.pass_now(timeout=0.01)
    go.set()
    assert recorder.pass_now()
    assert observer.spans == [SPAN]


def test_a_full_deque_is_a_counted_loss(made: Any) -> None:
    """What does not fit while an observer is slow is reported to ``lost``; the worker waits for
    room once, a tenth of a second."""
    go, entered = threading.Event(), threading.Event()

    class Slow(Observer):
        def collect(self, spans: Sequence[Any], items: Sequence[Any]) -> None:
            entered.set()
            assert go.wait(DEADLINE)

    recorder, observer = made(Slow(), limit=10)
    trace = recorder.trace()
    trace.span(SPAN)
    assert entered.wait(DEADLINE)
    start = monotonic()
    for _ in range(25):
        trace.span(SPAN)
        trace.item(ITEM)
    assert monotonic() - start < DEADLINE / 2
    go.set()
    assert recorder.pass_now()
    assert (len(observer.spans), len(observer.items), observer.missing) == (11, 10, 30)


def test_a_worker_that_is_faster_than_the_collector_loses_nothing(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When observers keep up it gives way: the collector competes with it for the interpreter. (For
    0.1 s at a time, in which a busy machine may not let the collector run.)"""
    monkeypatch.setattr(_observer, "_GIVING_WAY", DEADLINE)
    recorder, observer = made(limit=500)
    trace = recorder.trace()
    for seq in range(20_000):
        trace.span((0, seq, 0, 0, 1, 2, "emitted"))
        trace.calls(seq, [0, 1, 2], "filtered")
        trace.calls(seq, [2, 3], "emitted", completed=True)
    assert recorder.pass_now()
    assert observer.missing == 0
    assert (len(observer.spans), len(observer.items)) == (80_000, 20_000)
    assert observer.spans[1:4] == [
        (0, 0, 0, 0, 0, 1, "emitted"),
        (1, 0, 0, 1, 1, 2, "filtered"),
        (0, 0, 0, 2, 2, 3, "emitted"),
    ]
    assert observer.items[0] == (0, 0, 2, 3, "completed")


def test_a_deque_that_is_half_full_is_emptied_before_its_time(made: Any) -> None:
    """The collector does not wait until records have gathered for as long as they may."""
    recorder, observer = made(delay=3600, limit=100)
    trace = recorder.trace()
    for _ in range(51):
        trace.span(SPAN)
    assert observer.arrived.acquire(timeout=DEADLINE)


def test_the_calls_of_an_item_are_lost_together(made: Any) -> None:
    """And counted one by one."""
    recorder, observer = made(limit=0)
    recorder.trace().calls(0, [0, 1, 2, 3], "emitted")
    recorder.trace().calls(0, [0, 1, 2, 3], "emitted", completed=True)
    assert recorder.pass_now()
    assert (observer.spans, observer.items, observer.missing) == ([], [], 7)


def test_what_waits_is_bounded_in_calls_not_in_items(made: Any) -> None:
    """The calls of an item wait as one, and count as many."""
    recorder, observer = made(delay=3600, limit=100)
    trace = recorder.trace()
    for seq in range(6):  # of ten records each: half full
        trace.calls(seq, range(10), "emitted", completed=True)
    assert observer.arrived.acquire(timeout=DEADLINE)


def test_pass_now_hands_on_at_once(made: Any) -> None:
    """In the caller's thread, in the order of each worker."""
    recorder, observer = made(delay=3600)
    asleep(recorder)
    recorder.asleep = False  # so that the worker does not wake the collector
    trace = recorder.trace()
    spans = [(0, seq, 0, 0, 1, 2, "emitted") for seq in range(100)]
    for span in spans:
        trace.span(span)
    assert recorder.pass_now()
    assert observer.spans == spans


def test_a_raising_observer_is_dropped_and_logged_once(
    made: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The others get everything."""

    class Bad(Observer):
        def collect(self, spans: Sequence[Any], items: Sequence[Any]) -> None:
            raise SystemExit("observer")

    recorder, observer = made(Bad())
    trace = recorder.trace()
    for _ in range(3):
        trace.span(SPAN)
        assert recorder.pass_now()
    recorder.close(Statistics())
    assert len(observer.spans) == 3
    assert observer.events == ["opened", "closed"]
    lines = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(lines) == 1
    assert "observer Bad raised in collect()" in lines[0].message


def test_closing_hands_on_the_rest_first(made: Any) -> None:
    """``closed`` comes last and once."""
    recorder, observer = made(delay=3600)
    asleep(recorder)
    recorder.trace().span(SPAN)
    recorder.close(Statistics())
    assert observer.spans == [SPAN]
    assert observer.events == ["opened", "closed"]
    recorder.close(Statistics())
    assert observer.events == ["opened", "closed"]


def test_an_observer_that_does_not_return_is_left_behind_and_named(
    made: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """``close`` waits at most its timeout."""
    go, entered = threading.Event(), threading.Event()

    class Stuck(Observer):
        def collect(self, spans: Sequence[Any], items: Sequence[Any]) -> None:
            entered.set()
            go.wait(DEADLINE)

    recorder, _ = made(Stuck())
    collector = recorder._thread
    recorder.trace().span(SPAN)
    assert entered.wait(DEADLINE)
    start = monotonic()
    recorder.close(Statistics(), timeout=0.05)
    assert monotonic() - start < DEADLINE / 2
    assert any("Stuck" in record.message for record in caplog.records)
    go.set()
    collector.join(DEADLINE)
    assert not collector.is_alive()


def test_a_forsaken_recorder_ends_by_itself(made: Any) -> None:
    """The collector tells the observers the end."""
    recorder, observer = made()
    collector = recorder._thread
    recorder.trace().span(SPAN)
    recorder.forsake()
    collector.join(DEADLINE)
    assert not collector.is_alive()
    assert observer.spans == [SPAN]
    assert observer.events == ["opened", "closed"]


@pytest.mark.parametrize("method", ["serialize", "parallelize"])
def test_a_run_is_recorded_whole(method: str) -> None:
    """A span for each call, an end for each item, and no observer ever runs in a worker."""
    observer = Collecting()
    pipeline = Pipeline(observers=[observer])
    pipeline.add(lambda item: item)
    pipeline.add(lambda item: item, workers=2)
    getattr(pipeline, method)()
    assert len(list(pipeline.stream(range(100)))) == 100
    pipeline.cleanup()
    assert len(observer.spans) == 200
    assert sorted(item[0] for item in observer.items) == list(range(100))
    assert {item[4] for item in observer.items} == {"completed"}
    for _, _, _, queued, start, end, outcome in observer.spans:
        assert queued <= start <= end
        assert outcome == "emitted"
    assert not any("MainPipeline" in name for name in observer.threads)
    assert observer.missing == 0


def test_what_waits_for_a_reader_who_leaves_is_recorded_as_dropped() -> None:
    """It has not come to him. What has, is completed for observers, taken or not."""
    observer = Collecting()
    pipeline = Pipeline(observers=[observer])
    pipeline.add(lambda item: item)
    with pipeline.parallelize():
        results = pipeline.stream(range(100))
        next(results)
        assert wait_until(lambda: pipeline.statistics().stages[0].emitted == 3)
        results.close()
    admitted = pipeline.statistics().admitted
    assert pipeline.statistics().dropped == {"reader left": admitted - 1}
    bins = [item[-1] for item in observer.items]
    assert sorted(bins) == ["completed"] * 2 + ["dropped"] * (admitted - 2)
