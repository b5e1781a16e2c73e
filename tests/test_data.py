"""Items: none lost, doubled or re-ordered; the ledger; newest wins; plain data (G1 to G7)."""

from __future__ import annotations

import contextlib
import gc
import random
import threading
import weakref
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pystream import MAIN_PIPELINE_NAME, SKIP, Pipeline, PipelineUndefined, Stage, Statistics

DEADLINE = 10.0
Choose = Callable[..., Pipeline]


@pytest.fixture(params=["serial", "threads"])
def choose(request: pytest.FixtureRequest) -> Choose:
    """Choose the mode; the options of ``parallelize`` count in threads only."""

    def choose(pipeline: Pipeline, **options: Any) -> Pipeline:
        if request.param == "serial":
            return pipeline.serialize()
        return pipeline.parallelize(**options)

    return choose


def assert_law(statistics: Statistics, *, quiet: bool = True) -> None:
    """The ledger's law in total and for each stage."""
    assert statistics.admitted + statistics.spawned == statistics.ended + statistics.in_flight
    if not quiet:
        return
    assert statistics.in_flight == 0
    arrived = statistics.admitted
    for stage in statistics.stages:
        assert stage.in_hand == 0, stage
        assert stage.received == arrived - sum(stage.lost_before.values()), stage
        arrived = stage.emitted


def together(count: int, work: Callable[[int], None]) -> None:
    """Run ``work(0)`` to ``work(count - 1)`` in threads that start at once; raise what they do."""
    ready = threading.Barrier(count)
    errors: list[BaseException] = []

    def run(number: int) -> None:
        ready.wait(DEADLINE)
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE * 6)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


# -- G1 and G2: no item is lost, doubled or re-ordered -------------------------------------


class Model:
    """What one random chain of stages makes of one item, as a plain function."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.steps: list[Callable[[int], list[int]]] = []
        self.sink: list[int] = []

    def outputs(self, item: int) -> list[int]:
        """Everything that comes of one item, in order."""
        items = [item]
        for step in self.steps:
            items = [output for each in items for output in step(each)]
        return items

    def build(self, pipeline: Pipeline, depth: int = 0) -> None:
        """Add one to four random stages, some of them pipelines."""
        for _ in range(self.chance.randint(1, 4)):
            if depth < 2 and self.chance.random() < 0.2:
                child = Pipeline()
                self.build(child, depth + 1)
                if self.chance.random() < 0.5:
                    child.serialize()
                else:
                    child.parallelize()
                pipeline.add(child.as_stage())
            else:
                self.add_leaf(pipeline)

    def add_leaf(self, pipeline: Pipeline) -> None:
        kind = self.chance.choice(["plain", "plain", "filter", "generator", "uneven"])
        workers = self.chance.choice([1, 1, 1, 2, 3])
        capacity = self.chance.choice(["auto", "auto", 1, 2, 7])
        modulus = self.chance.randint(2, 5)

        def plain(item: int) -> int:
            return item + 1

        def uneven(item: int) -> int:
            if item % modulus == 0:
                zlib.crc32(bytes(400_000))  # work whose length differs from item to item
            return item + 1

        def sift(item: int) -> Any:
            return SKIP if item % modulus == 0 else item

        def expand(item: int) -> Iterator[int]:
            for number in range(item % 3):
                yield item + number

        stage, step = {
            "plain": (plain, lambda item: [item + 1]),
            "uneven": (uneven, lambda item: [item + 1]),
            "filter": (sift, lambda item: [] if item % modulus == 0 else [item]),
            "generator": (expand, lambda item: [item + number for number in range(item % 3)]),
        }[kind]
        pipeline.add(stage, workers=workers, capacity=capacity)
        self.steps.append(step)


def run_schedule(seed: int, choose: Choose, steps: int) -> None:
    """Random operations on a random pipeline; its last stage must see what the model says."""
    chance = random.Random(seed)
    model = Model(chance)
    pipeline = Pipeline()
    model.build(pipeline)

    def sink(item: int) -> int:
        model.sink.append(item)
        return item

    pipeline.add(sink)
    choose(pipeline)
    expected: list[int] = []
    read: list[int] = []
    number = 0
    for _ in range(steps):
        operation = chance.choice(["forward", "forward", "forward", "read", "drain", "stream"])
        if operation == "forward":
            for _ in range(chance.randint(1, 12)):
                assert pipeline.forward(number) is True
                expected += model.outputs(number)
                number += 1
        elif operation == "read":
            found = pipeline.get_results()
            if found is not None:
                read.append(found)
        elif operation == "drain":
            pipeline.drain(DEADLINE)
            assert model.sink == expected
            assert_law(pipeline.statistics())
        else:
            source = range(number, number + chance.randint(0, 20))
            number = source.stop
            wanted = [output for item in source for output in model.outputs(item)]
            assert list(pipeline.stream(source)) == wanted
            expected += wanted
    pipeline.cleanup()
    statistics = pipeline.statistics()
    assert model.sink == expected
    assert statistics.completed == len(expected)
    assert statistics.admitted == number
    assert statistics.dropped_total == statistics.failed == 0
    assert_law(statistics)
    order = iter(expected)
    assert all(item in order for item in read)  # a subsequence: nothing twice, in order


@pytest.mark.parametrize("seed", range(30))
def test_no_item_is_lost_doubled_or_reordered(seed: int, choose: Choose) -> None:
    """Every stage sees every item once and in order, whatever is called in between."""
    run_schedule(seed, choose, 25)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("block", range(10))
def test_soak_of_random_schedules(block: int, choose: Choose) -> None:
    """1,000 random schedules of 50 steps in each mode."""
    for seed in range(1000 + 100 * block, 1100 + 100 * block):
        run_schedule(seed, choose, 50)


def soak_items(count: int) -> None:
    pipeline = Pipeline()
    for _ in range(3):
        pipeline.add(lambda item: item)
    pipeline.add(lambda item: item, workers=3)
    with pipeline.parallelize():
        expected = 0
        for item in pipeline.stream(range(count)):
            assert item == expected
            expected += 1
    assert expected == pipeline.statistics().completed == count
    assert_law(pipeline.statistics())


def test_many_items_pass_in_order() -> None:
    """The small version of the soak: 20,000 items through four stages."""
    soak_items(20_000)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_soak_of_a_million_items() -> None:
    """10^6 items, none lost, doubled, re-ordered or unaccounted."""
    soak_items(1_000_000)


def test_true_means_one_bin_and_false_no_stage(choose: Choose) -> None:
    """What ``forward`` accepted is seen by every stage, what it refused by none."""
    first: list[int] = []
    second: list[int] = []
    turn = threading.Semaphore(0)

    def slow(item: int) -> int:
        first.append(item)
        assert turn.acquire(timeout=DEADLINE)
        return item

    pipeline = Pipeline()
    pipeline.add(slow, capacity=2)
    pipeline.add(lambda item: second.append(item) or item)
    choose(pipeline, block_input=False)
    accepted = []
    for item in range(40):
        if item % 4 == 0:
            turn.release()
        if pipeline.statistics().in_flight == 0 and item % 4:
            turn.release()  # serial takes the item through
        if pipeline.forward(item):
            accepted.append(item)
    turn.release(40)
    pipeline.cleanup()
    assert first == second == accepted
    statistics = pipeline.statistics()
    assert statistics.admitted == statistics.completed == len(accepted)
    assert statistics.rejected == 40 - len(accepted)


def test_drop_newest_on_the_first_stage_admits_and_counts() -> None:
    """``forward`` returns True and the item is counted dropped, never rejected."""
    release, entered = threading.Event(), threading.Event()

    def hold(item: int) -> int:
        entered.set()
        assert release.wait(DEADLINE)
        return item

    pipeline = Pipeline()
    pipeline.add(hold, capacity=2, overflow="drop_newest")
    pipeline.parallelize(block_input=False)
    assert pipeline.forward(0)
    assert entered.wait(DEADLINE)
    assert all(pipeline.forward(item) for item in range(1, 10))
    release.set()
    pipeline.cleanup()
    statistics = pipeline.statistics()
    assert (statistics.admitted, statistics.completed, statistics.rejected) == (10, 3, 0)
    assert statistics.dropped == {"overflow": 7}
    assert_law(statistics)


def test_drop_oldest_keeps_the_newest(caplog: pytest.LogCaptureFixture) -> None:
    """What waits longest goes, counted by stage and reason and named once a second at most."""
    release, entered = threading.Event(), threading.Event()
    seen: list[int] = []

    def hold(item: int) -> int:
        seen.append(item)
        entered.set()
        assert release.wait(DEADLINE)
        return item

    pipeline = Pipeline()
    pipeline.add(lambda item: item, "first")
    pipeline.add(hold, "second", capacity=2, overflow="drop_oldest")
    pipeline.parallelize()
    pipeline.forward(0)
    assert entered.wait(DEADLINE)
    for item in range(1, 200):
        pipeline.forward(item)
    with pytest.raises(TimeoutError, match="still in flight"):
        pipeline.drain(0.05)
    release.set()
    pipeline.cleanup()
    statistics = pipeline.statistics()
    assert seen == [0, 198, 199]
    assert statistics.stages[1].lost_before == {"overflow": 197}
    assert_law(statistics)
    lines = [record for record in caplog.records if "dropped (overflow)" in record.message]
    assert 1 <= len(lines) <= 3
    assert all(f"{MAIN_PIPELINE_NAME}__second" in record.message for record in lines)


# -- G3: the ledger ------------------------------------------------------------------------


def test_every_bin_is_counted(choose: Choose) -> None:
    """Filtered, expanded, failed and completed items add up with the spawned ones."""

    def expand(item: int) -> Iterator[int]:
        yield from range(item % 3)

    def fail(item: int) -> int:
        if item == 1:
            raise ValueError(item)
        return item

    pipeline = Pipeline()
    pipeline.add(lambda item: SKIP if item % 5 == 0 else item)
    pipeline.add(expand)
    pipeline.add(fail, on_error="skip")
    choose(pipeline)
    statistics = pipeline.run(range(100))
    assert statistics.admitted == 100
    assert statistics.filtered == 20
    assert statistics.expanded == 80
    kept = [item for item in range(100) if item % 5]
    assert statistics.spawned == sum(item % 3 for item in kept)
    assert statistics.failed == sum(item % 3 == 2 for item in kept)
    assert statistics.completed == statistics.spawned - statistics.failed
    assert_law(statistics)
    assert str(statistics).startswith(f"100 admitted + {statistics.spawned} spawned = ")
    pipeline.cleanup()


def test_a_snapshot_while_running_never_shows_more_ends_than_admissions() -> None:
    """``in_flight`` is derived and never negative, and the law holds at every moment."""
    pipeline = Pipeline()
    pipeline.add(lambda item: item, workers=2)
    pipeline.add(lambda item: item if item % 3 else SKIP)
    pipeline.parallelize()
    stop = threading.Event()
    seen: list[Statistics] = []

    def watch() -> None:
        while not stop.is_set():
            seen.append(pipeline.statistics())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for _ in pipeline.stream(range(3000)):
            pass
    finally:
        stop.set()
        watcher.join(DEADLINE)
    pipeline.cleanup()
    assert seen
    for statistics in seen:
        assert statistics.ended <= statistics.admitted + statistics.spawned
        assert statistics.in_flight >= 0


def test_superseded_results_are_counted(choose: Choose) -> None:
    """What a newer result replaced, and what cleanup finds unread, is ``superseded``."""
    pipeline = Pipeline()
    pipeline.add(lambda item: item)
    choose(pipeline)
    for item in range(10):
        pipeline.forward(item)
    pipeline.drain()
    assert pipeline.get_results() == 9
    pipeline.forward(10)
    pipeline.cleanup()
    assert pipeline.statistics().superseded == 10
    assert pipeline.statistics().completed == 11


def test_abort_counts_what_was_in_flight() -> None:
    """Every admitted item has its bin after an abort, too."""
    release, entered = threading.Event(), threading.Event()

    def hold(item: int) -> int:
        entered.set()
        assert release.wait(DEADLINE)
        return item

    pipeline = Pipeline()
    pipeline.add(lambda item: item, capacity=5)
    pipeline.add(hold, capacity=5, workers=2)
    pipeline.parallelize()
    for item in range(10):
        pipeline.forward(item)
    assert entered.wait(DEADLINE)
    pipeline.abort()
    release.set()
    pipeline.cleanup()
    statistics = pipeline.statistics()
    assert statistics.completed + statistics.dropped["abort"] == statistics.admitted == 10
    assert_law(statistics)


# -- G4: the newest result wins, none is read twice ----------------------------------------


def test_no_result_is_read_twice_by_many_readers() -> None:
    """Eight readers at full speed: no result twice, each reader sees a rising sequence."""
    pipeline = Pipeline()
    pipeline.add(lambda item: item)
    pipeline.parallelize()
    done = threading.Event()
    read: list[list[int]] = [[] for _ in range(8)]

    def work(number: int) -> None:
        if number == 8:
            for item in range(1000):
                assert pipeline.forward(item)
            pipeline.drain(DEADLINE)
            done.set()
            return
        while not done.is_set():
            found = pipeline.get_results()
            if found is not None:
                read[number].append(found)

    together(9, work)
    last = pipeline.get_results()
    pipeline.cleanup()
    everything = [item for each in read for item in each] + ([] if last is None else [last])
    assert len(everything) == len(set(everything))
    assert max(everything) == 999  # the newest one reached somebody
    assert all(each == sorted(each) for each in read)
    assert pipeline.statistics().superseded == 1000 - len(everything)


def test_blocked_readers_share_the_results() -> None:
    """With ``block_output`` each result wakes one reader, and none waits beside a result."""
    pipeline = Pipeline()
    pipeline.add(lambda item: item)
    pipeline.parallelize(block_output=True, output_timeout=DEADLINE)
    read: list[int] = []
    got = threading.Semaphore(0)

    def work(number: int) -> None:
        if number < 4:
            for _ in range(25):
                read.append(pipeline.get_results())
                got.release()
        else:
            for item in range(100):
                assert pipeline.forward(item)
                assert got.acquire(timeout=DEADLINE)

    together(5, work)
    pipeline.cleanup()
    assert sorted(read) == list(range(100))
    assert pipeline.statistics().superseded == 0


# -- G5: items are plain data --------------------------------------------------------------


class Untouchable:
    """An item that must not be looked at."""

    def _refuse(self, *_: Any) -> Any:
        raise AssertionError("an item was looked at")

    __eq__ = __ne__ = __lt__ = __gt__ = __bool__ = __len__ = __iter__ = _refuse
    __hash__ = __repr__ = __str__ = __getstate__ = __reduce_ex__ = __contains__ = _refuse
    __copy__ = __deepcopy__ = __format__ = __index__ = __int__ = _refuse


class Proxy:
    """An item that lies about its class, as lazy proxies do, and raises when asked."""

    @property
    def __class__(self) -> type:  # type: ignore[override]
        raise RuntimeError("not bound")


class NoTruth:
    """As an array: comparing gives another one, and neither has a truth value."""

    def __eq__(self, other: object) -> Any:
        return self

    def __bool__(self) -> bool:
        raise ValueError("the truth value is ambiguous")

    __hash__ = None  # type: ignore[assignment]


PLAIN = {
    "None": lambda: None,
    "zero": lambda: 0,
    "empty": lambda: "",
    "False": lambda: False,
    "nan": lambda: float("nan"),
    "NotImplemented": lambda: NotImplemented,
    "Ellipsis": lambda: ...,
    "untouchable": Untouchable,
    "proxy": Proxy,
    "no truth": NoTruth,
    "unpicklable": threading.Lock,
    "exception": lambda: StopIteration("an item like any other"),
    "type": lambda: Untouchable,
    "huge": lambda: bytearray(50_000_000),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_any_object_is_plain_data(kind: str, choose: Choose) -> None:
    """It passes every way through a pipeline untouched: the same object comes out."""
    item = PLAIN[kind]()
    seen: list[Any] = []
    pipeline = Pipeline()
    pipeline.add(lambda data: data, workers=2)
    pipeline.add(lambda data: seen.append(data) or data)
    choose(pipeline, block_output=True)
    assert pipeline.forward(item) is True
    pipeline.drain()
    assert pipeline.get_results() is item
    assert all(found is item for found in pipeline.stream([item, item]))
    assert pipeline.as_stage()(item) is item
    assert len(seen) == 4
    assert all(found is item for found in seen)
    pipeline.cleanup()
    assert_law(pipeline.statistics())


@pytest.mark.parametrize("kind", [kind for kind in PLAIN if kind != "None"])
def test_any_object_may_overflow_and_expire(kind: str) -> None:
    """Dropping and expiring look at no item either."""
    release, entered = threading.Event(), threading.Event()

    def hold(item: Any) -> Any:
        entered.set()
        assert release.wait(DEADLINE)
        return item

    pipeline = Pipeline()
    pipeline.add(hold, capacity=1, overflow="drop_oldest", max_age=60)
    pipeline.parallelize()
    item = PLAIN[kind]()
    pipeline.forward(item)
    assert entered.wait(DEADLINE)
    for _ in range(5):
        pipeline.forward(item)
    release.set()
    pipeline.cleanup()
    assert pipeline.statistics().dropped == {"overflow": 4}


class Thing:
    """An item that can be watched."""


def test_items_are_let_go_when_they_end(choose: Choose) -> None:
    """Completed and read, filtered, superseded, failed: none is held, without the collector."""

    def fate(item: Thing) -> Any:
        if item.kind == "filtered":  # type: ignore[attr-defined]
            return SKIP
        if item.kind == "failed":  # type: ignore[attr-defined]
            raise ValueError("failed")
        return item

    pipeline = Pipeline()
    pipeline.add(lambda item: item)
    pipeline.add(fate, on_error="skip")
    choose(pipeline)
    watched: list[weakref.ref[Thing]] = []

    def forward(kind: str) -> None:
        item = Thing()
        item.kind = kind  # type: ignore[attr-defined]
        watched.append(weakref.ref(item))
        pipeline.forward(item)

    gc.collect()
    gc.disable()
    try:
        for kind in ("superseded", "completed", "filtered", "failed"):
            forward(kind)
            pipeline.drain()
        read = pipeline.get_results()
        assert read.kind == "completed"
        del read
        assert [reference() for reference in watched] == [None] * 4
    finally:
        gc.enable()
        pipeline.cleanup()


def test_a_destructor_of_an_item_may_use_the_pipeline(choose: Choose) -> None:
    """A superseded item is let go outside of every lock."""
    pipeline = Pipeline()
    found: list[Any] = []

    class Last:
        def __del__(self) -> None:
            found.append(pipeline.statistics().completed)
            with contextlib.suppress(PipelineUndefined):
                found.append(pipeline.get_results())

    pipeline.add(lambda item: item)
    choose(pipeline)
    pipeline.forward(Last())
    pipeline.drain()
    pipeline.forward("new")
    pipeline.drain(2)
    assert found
    pipeline.forward(Last())
    pipeline.cleanup()


# -- G6: a nested pipeline is a function of its item ---------------------------------------


@pytest.mark.parametrize("inner", ["serialize", "parallelize"])
@pytest.mark.parametrize("middle", ["serialize", "parallelize"])
def test_a_pipeline_three_deep_answers_each_item_itself(
    choose: Choose, middle: str, inner: str
) -> None:
    """Right values in order in each mode in each."""
    innermost = Pipeline()
    innermost.add(lambda item: item * 2, "A")
    between = Pipeline()
    between.add(getattr(innermost, inner)().as_stage(), "Inner")
    between.add(lambda item: item + 1, "B")
    outer = Pipeline()
    outer.add(getattr(between, middle)().as_stage(), "Child")
    outer.add(lambda item: -item, "C")
    choose(outer)
    assert list(outer.stream(range(100))) == [-(2 * item + 1) for item in range(100)]
    names = [stage.path for stage in outer.statistics().stages]
    assert names == ["MainPipeline__Child__Inner__A", "MainPipeline__Child__B", "MainPipeline__C"]
    outer.cleanup()


@pytest.mark.parametrize("count", [50, pytest.param(1000, marks=pytest.mark.soak)])
@pytest.mark.timeout(600)
def test_a_stage_called_from_many_threads_answers_each_its_own(count: int, choose: Choose) -> None:
    """64 threads call one pipeline's stage: never None, never another one's answer."""
    pipeline = Pipeline()
    pipeline.add(lambda item: item)
    pipeline.add(lambda item: (item[0], item[1] + 1), workers=2)
    choose(pipeline)
    stage = pipeline.as_stage()

    def work(number: int) -> None:
        for item in range(count):
            assert stage((number, item)) == (number, item + 1)

    together(64, work)
    pipeline.cleanup()
    assert pipeline.statistics().completed == 64 * count


def test_a_called_stage_answers_skip_for_a_filtered_item(choose: Choose) -> None:
    """An item that ends on the way gives SKIP, never the answer to another item."""
    pipeline = Pipeline()
    pipeline.add(lambda item: SKIP if item % 2 else item)
    stage = choose(pipeline).as_stage()
    assert [stage(item) for item in range(4)] == [0, SKIP, 2, SKIP]
    pipeline.cleanup()


# -- G7: any number of threads at once -----------------------------------------------------


@pytest.mark.parametrize("count", [50, pytest.param(1000, marks=pytest.mark.soak)])
@pytest.mark.timeout(600)
def test_every_method_works_from_many_threads(count: int, choose: Choose) -> None:
    """64 threads forward, read and profile at once: every item of every thread arrives once."""
    seen: list[int] = []
    read: list[int] = []
    pipeline = Pipeline()
    pipeline.add(lambda item: item, workers=2)
    pipeline.add(lambda item: seen.append(item) or item)
    choose(pipeline)

    def work(number: int) -> None:
        for item in range(number * count, (number + 1) * count):
            assert pipeline.forward(item) is True
            if item % 3 == 0:
                found = pipeline.get_results()
                if found is not None:
                    read.append(found)
            if item % 17 == 0:
                assert pipeline.get_profiles() == ({}, {})
                assert pipeline.statistics().in_flight >= 0

    together(64, work)
    pipeline.cleanup()
    assert sorted(seen) == list(range(64 * count))
    position = {item: place for place, item in enumerate(seen)}
    for number in range(64):  # what one thread forwards stays in its order
        places = [position[item] for item in range(number * count, (number + 1) * count)]
        assert places == sorted(places)
    assert len(read) == len(set(read))
    assert_law(pipeline.statistics())


def test_cleanup_from_many_threads_beside_everything_else(choose: Choose) -> None:
    """Every call returns or raises PipelineUndefined, and the stage is cleaned up once."""
    cleanups: list[int] = []

    class Counted(Stage[int]):
        def __call__(self, data: int) -> int:
            return data

        def cleanup(self) -> None:
            cleanups.append(threading.get_ident())

    pipeline = Pipeline()
    pipeline.add(Counted())
    choose(pipeline)
    pipeline.forward(0)
    accepted = [0] * 64

    def work(number: int) -> None:
        for item in range(50):
            if number % 8 == 0 and item == 20:
                pipeline.cleanup()
            try:
                accepted[number] += pipeline.forward(item)
                pipeline.get_results()
            except PipelineUndefined:
                return
            finally:
                pipeline.get_profiles()

    together(64, work)
    pipeline.cleanup()
    assert len(cleanups) == 1
    statistics = pipeline.statistics()
    assert statistics.admitted == statistics.completed == 1 + sum(accepted)
    assert_law(statistics)


def test_a_failed_start_is_tried_again_by_one_of_many_threads() -> None:
    """When the first start fails, 32 threads together make one new start, not several."""
    setups: list[int] = []
    cleanups: list[int] = []

    class Late(Stage[int]):
        def setup(self) -> None:
            setups.append(1)
            if len(setups) == 1:
                raise OSError("not yet")

        def __call__(self, data: int) -> int:
            return data

        def cleanup(self) -> None:
            cleanups.append(1)

    pipeline = Pipeline()
    pipeline.add(Late)
    pipeline.parallelize()
    with pytest.raises(Exception, match="not yet"):
        pipeline.forward(0)
    together(32, lambda number: pipeline.forward(number) or None)
    pipeline.cleanup()
    assert pipeline.statistics().completed == 32
    assert len(setups) == 2
    assert len(cleanups) == 1


def test_one_input_generator_serves_many_threads(choose: Choose) -> None:
    """It is called by one thread at a time and every item is taken once."""
    inside = threading.Lock()
    numbers = iter(range(10_000))

    def generate() -> int:
        assert inside.acquire(blocking=False), "two threads in the generator"
        try:
            return next(numbers)
        finally:
            inside.release()

    seen: list[int] = []
    pipeline = Pipeline(generate)
    pipeline.add(lambda item: seen.append(item) or item)
    choose(pipeline)

    def work(_: int) -> None:
        for _ in range(20):
            assert pipeline.forward()

    together(16, work)
    pipeline.cleanup()
    assert sorted(seen) == list(range(320))


@pytest.mark.parametrize("stages", [0, 1])
def test_a_destructor_of_a_dropped_item_may_forward(stages: int) -> None:
    """The newest item pushes an old one out, whose end forwards another one."""
    pipeline = Pipeline()
    gate = threading.Event()

    class Last:
        def __del__(self) -> None:
            pipeline.forward(None)

    for _ in range(stages):
        pipeline.add(lambda item: gate.wait(DEADLINE), overflow="drop_oldest", capacity=1)
    pipeline.parallelize()

    def forward_all(_: int) -> None:
        for _ in range(4):
            pipeline.forward(Last())

    together(1, forward_all)
    gate.set()
    pipeline.drain()
    pipeline.cleanup()
    assert_law(pipeline.statistics())
