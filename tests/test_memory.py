"""Items alive are bounded, and let go when they are done (G5, G11, G24); clocks (G25)."""

from __future__ import annotations

import ast
import gc
import itertools
import logging
import threading
import tracemalloc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pystream_threads
import pytest

import pystream_core
from pystream_core import SKIP, Pipeline, StageError, _executor as executor_module

MODES = ["serial", "threads"]
SAFETY = 15.0
HANDS = 6  # items in the hands of the caller, the feeder, the output and the reader


class Census:
    """Makes items, in one thread at a time, and knows how many are alive."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # guards gone, also when a collection comes in between
        self.made = self.gone = self.peak = 0

    def item(self, number: int = 0) -> Item:
        self.made += 1
        self.peak = max(self.peak, self.alive)
        return Item(self, number)

    def let_go(self) -> None:
        with self._lock:
            self.gone += 1

    @property
    def alive(self) -> int:
        return self.made - self.gone


class Item:
    """An item that tells its census when it goes."""

    def __init__(self, census: Census, number: int) -> None:
        self.census = census
        self.number = number

    def __del__(self) -> None:
        self.census.let_go()


def passing(item: Any) -> Any:
    return item


def failing(item: Any) -> Any:
    raise ValueError(item)


def choose(pipeline: Pipeline, mode: str, **options: Any) -> Pipeline:
    return pipeline.serialize() if mode == "serial" else pipeline.parallelize(**options)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log records hold what they are given: keep none."""
    monkeypatch.setattr(logging.getLogger("PyStream"), "disabled", True)


# -- G24: bounded ------------------------------------------------------------------------------


@pytest.mark.parametrize("overflow", ["block", "drop_oldest", "drop_newest"])
@pytest.mark.parametrize("reading", ["forward", "forward, never read", "stream"])
@pytest.mark.usefixtures("quiet")
def test_items_alive_are_bounded_by_the_capacities(overflow: str, reading: str) -> None:
    """G24: no more items are alive than fit into the channels, read or not."""
    census = Census()
    stages, capacity, number = 3, 4, 3000
    with Pipeline() as pipeline:
        for _ in range(stages):
            pipeline.add(passing, capacity=capacity, overflow=overflow)
        pipeline.parallelize()
        if reading == "stream":
            for item in pipeline.stream(census.item(each) for each in range(number)):
                assert isinstance(item, Item)
            del item
        else:
            for each in range(number):
                assert pipeline.forward(census.item(each))
                if reading == "forward":
                    pipeline.get_results()
    bound = stages * (capacity + 1) + HANDS
    if reading == "stream":
        bound += 1024  # of the stream's own channel, which is "auto"
    assert census.made == number
    assert census.peak <= bound
    gc.collect()
    assert census.alive == 0


def test_an_unread_stream_holds_its_source_back() -> None:
    """G24: the source of a stream that nobody reads is asked for what fits in, no more."""
    census = Census()
    stages, capacity = 3, 4
    pipeline = Pipeline()
    for _ in range(stages):
        pipeline.add(passing, capacity=capacity)
    pipeline.parallelize()
    results = pipeline.stream(census.item(each) for each in itertools.count())
    next(results)
    threading.Event().wait(0.1)  # it could make thousands meanwhile
    assert census.made <= stages * (capacity + 1) + HANDS
    results.close()
    pipeline.cleanup()
    del results
    gc.collect()
    assert census.alive == 0


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("stage", [failing, lambda item: SKIP])
def test_failing_and_filtered_items_are_bounded(stage: Any) -> None:
    """G24, G11: items that fail or are filtered do not stay."""
    census = Census()
    with Pipeline() as pipeline:
        pipeline.add(passing, capacity=4)
        pipeline.add(stage, capacity=4, on_error="skip")
        pipeline.parallelize()
        for each in range(3000):
            pipeline.forward(census.item(each))
    assert census.peak <= 2 * 5 + HANDS
    gc.collect()
    assert census.alive == 0


def spread(number: int, mode: str) -> None:
    census = Census()

    def outputs(count: int) -> Iterator[Item]:
        for each in range(count):
            yield census.item(each)

    pipeline = Pipeline()
    pipeline.add(outputs, capacity=4)
    pipeline.add(passing, capacity=4)
    choose(pipeline, mode)
    seen = 0
    for item in pipeline.stream([number]):
        assert item.number == seen
        seen += 1
    del item
    pipeline.cleanup()
    assert seen == number
    assert census.peak <= 2 * 5 + HANDS + 1024
    gc.collect()
    assert census.alive == 0


@pytest.mark.parametrize("mode", MODES)
def test_outputs_of_a_generator_stage_are_bounded(mode: str) -> None:
    """G24: 50,000 outputs of one item are made as fast as they are taken."""
    spread(50_000, mode)


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", MODES)
def test_millions_of_outputs_of_a_generator_stage_are_bounded(mode: str) -> None:
    """G24: the same with 2,000,000."""
    spread(2_000_000, mode)


def test_a_stuck_pipeline_admits_no_more_than_fits_in() -> None:
    """G24: with a stuck last stage, exactly what the channels hold is admitted."""
    let_go = threading.Event()

    def stuck(item: Any) -> Any:
        assert let_go.wait(SAFETY)
        return item

    pipeline = Pipeline()
    pipeline.add(passing, capacity=3)
    pipeline.add(stuck, capacity=3)
    pipeline.parallelize(block_input=True, input_timeout=0.2)
    admitted = 0
    while pipeline.forward(admitted):
        admitted += 1
    assert admitted == 2 * (3 + 1)
    assert pipeline.statistics().rejected == 1
    let_go.set()
    pipeline.cleanup()
    assert pipeline.statistics().completed == admitted


# -- G5, G11: let go ---------------------------------------------------------------------------


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fate", ["completed", "filtered", "failed", "expanded"])
def test_items_are_let_go_when_done(mode: str, fate: str) -> None:
    """G5, G11: an item that has ended is held by nobody, while the pipeline lives on."""
    census = Census()

    def end(item: Item) -> Any:
        if fate == "failed":
            raise ValueError(item)
        return SKIP if fate == "filtered" else item

    def expand(item: Item) -> Iterator[int]:
        yield from range(3)

    pipeline = Pipeline()
    pipeline.add(passing)
    pipeline.add(expand if fate == "expanded" else end, on_error="skip")
    pipeline.add(passing)
    choose(pipeline, mode)
    for each in range(20):
        pipeline.forward(census.item(each))
    pipeline.drain()
    pipeline.get_results()
    gc.collect()
    assert census.alive == 0
    list(pipeline.stream(census.item(each) for each in range(20)))
    pipeline.drain()
    gc.collect()
    assert census.alive == 0
    pipeline.cleanup()


@pytest.mark.usefixtures("quiet")
def test_a_failed_pipeline_holds_the_failed_item_only() -> None:
    """G11: what was in flight at a failure is let go; the failed item stays in the report."""
    census = Census()

    def fail_at_five(item: Item) -> Item:
        if item.number == 5:
            raise ValueError
        return item

    pipeline = Pipeline()
    pipeline.add(passing, capacity=20)
    pipeline.add(fail_at_five)
    pipeline.parallelize()
    for each in range(20):
        try:
            pipeline.forward(census.item(each))
        except StageError:
            break
    pipeline.cleanup()
    gc.collect()
    assert census.alive == 1
    del pipeline
    gc.collect()
    assert census.alive == 0


def failing_items_leave_nothing(mode: str, number: int) -> None:
    pipeline = Pipeline()
    pipeline.add(passing)
    pipeline.add(failing, on_error="skip")
    choose(pipeline, mode)
    item = bytes(1000)
    for _ in range(500):
        pipeline.forward(item)
    pipeline.drain()
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(number):
            pipeline.forward(item + b"")
        pipeline.drain()
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    pipeline.cleanup()
    assert pipeline.statistics().failed == number + 500
    assert grown < 200_000


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("mode", MODES)
def test_failing_items_leave_memory_flat(mode: str) -> None:
    """G11: 5,000 failing items, memory flat."""
    failing_items_leave_nothing(mode, 5_000)


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("mode", MODES)
def test_100000_failing_items_leave_memory_flat(mode: str) -> None:
    """G11: 10^5 failing items, memory flat."""
    failing_items_leave_nothing(mode, 100_000)


@pytest.mark.usefixtures("quiet")
def test_a_failure_that_is_raised_again_and_again_does_not_grow() -> None:
    """G11: each raise is a fresh exception; the stored one's traceback stays as it was."""
    pipeline = Pipeline()
    pipeline.add(failing)
    pipeline.parallelize(block_output=True)
    pipeline.forward(1)
    with pytest.raises(StageError) as first:
        pipeline.get_results()

    def depth(error: BaseException | None) -> int:
        trace = error.__traceback__ if error is not None else None
        return sum(1 for _ in iter_traceback(trace))

    before = depth(first.value.__cause__)
    caller = Census().item()
    reference = weakref.ref(caller)
    for _ in range(1000):
        with pytest.raises(StageError) as again:
            pipeline.forward(caller)
        assert again.value is not first.value
        assert again.value.__cause__ is first.value.__cause__
    assert depth(first.value.__cause__) == before
    del again, caller
    gc.collect()
    assert reference() is None
    pipeline.cleanup()


def iter_traceback(trace: Any) -> Iterator[Any]:
    while trace is not None:
        yield trace
        trace = trace.tb_next


# -- G1, G3: the soak --------------------------------------------------------------------------


def flow(number: int) -> None:
    pipeline = Pipeline()
    for _ in range(5):
        pipeline.add(passing)
    pipeline.parallelize()
    expected = 0
    for value in pipeline.stream(range(number)):
        assert value == expected
        expected += 1
    pipeline.cleanup()
    statistics = pipeline.statistics()
    assert expected == number
    assert (statistics.admitted, statistics.completed) == (number, number)
    assert statistics.dropped_total == statistics.failed == statistics.in_flight == 0
    assert all(each.received == each.emitted == number for each in statistics.stages)
    session = pipeline._session
    assert session is not None
    assert session.run.ledger.violations() == []


def test_100000_items_through_five_threads_come_out_in_order() -> None:
    """G1, G3: nothing is lost, doubled or re-ordered in 10^5 items, and all are accounted for."""
    flow(100_000)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_million_items_through_five_threads_come_out_in_order() -> None:
    """G1, G3: the same with 10^6 items."""
    flow(1_000_000)


# -- G25: clocks -------------------------------------------------------------------------------


def wall_clock_uses(package: Any) -> set[str]:
    """Modules of a package that read the wall clock."""
    found = set()
    for path in Path(package.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime"):
                names = [each.name for each in node.names]
            elif isinstance(node, ast.Import):
                names = [f"import {each.name}" for each in node.names]
            wrong = {"time", "time_ns", "localtime", "gmtime", "datetime", "import datetime"}
            if wrong & {*names} or "import time" in names:
                found.add(path.name)
    return found


def test_the_wall_clock_is_read_in_one_place() -> None:
    """G25: core and threads use monotonic clocks; one module labels runs with the wall clock."""
    assert wall_clock_uses(pystream_core) == {"_executor.py"}
    assert wall_clock_uses(pystream_threads) == set()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_the_wall_clock_may_jump(mode: str, jump: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """G25: a wall clock that jumps by an hour at every reading disturbs nothing."""
    hours = itertools.count()
    monkeypatch.setattr(executor_module, "time", lambda: 1e9 + jump * next(hours))
    numbers = iter(range(20))
    pipeline = Pipeline(lambda: next(numbers))
    pipeline.add(passing, max_age=SAFETY)
    choose(pipeline, mode).start_loop(0.001)
    loop = pipeline._session.loop  # type: ignore[union-attr]
    assert loop is not None
    loop.thread.join(SAFETY)
    pipeline.cleanup()
    statistics = pipeline.statistics()
    assert (statistics.admitted, statistics.completed, statistics.expired) == (20, 20, 0)
