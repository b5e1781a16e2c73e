"""Stages run in processes as they run here."""

from __future__ import annotations

import atexit
import dataclasses
import enum
import functools
import gc
import importlib
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter_ns
from typing import Any, NamedTuple

import pytest
from pystream_processes import ChildTraceback, Limits, RemoteError, _records, limits

from pystream_core import (
    SKIP,
    CleanupError,
    Observer,
    Pipeline,
    PlanError,
    Retry,
    Stage,
    StageError,
    factory,
    placement,
)
from pystream_core.testing import PATIENCE, Unprintable, wait_until

Make = Callable[..., Pipeline]

PLACED: dict[str, Any] = {"placement": "process"}


def pid(item: Any) -> int:
    """The number of the process that it is called in."""
    return os.getpid()


def halves(item: Any) -> Iterator[Any]:
    """A generator stage."""
    yield item, 1
    yield item, 2


class Counting(Stage[Any]):
    """Says where and in which order it is set up, called and cleaned up."""

    def __init__(self, log: str = "") -> None:
        self.log = log
        self.calls = 0

    def note(self, what: str) -> None:
        if self.log:
            with Path(self.log).open("a") as file:
                print(what, os.getpid(), file=file)

    def setup(self) -> None:
        self.note("setup")

    def __call__(self, data: Any) -> Any:
        self.note("call")
        self.calls += 1
        return data, self.calls, os.getpid(), self.name

    def cleanup(self) -> None:
        self.note("cleanup")


class Refusing(Exception):
    """Cannot be made again from its arguments."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


@pytest.fixture(params=["serial", "threads"])
def turn(request: pytest.FixtureRequest) -> Callable[[Pipeline], Pipeline]:
    """Chooses an executor."""
    if request.param == "serial":
        return lambda pipeline: pipeline.serialize()
    return lambda pipeline: pipeline.parallelize()


def one(pipelines: Make, stage: Any, **options: Any) -> Pipeline:
    """A pipeline of one placed stage."""
    pipeline = pipelines()
    pipeline.add(stage, options.pop("name", None), **PLACED, **options)
    return pipeline


# -- kinds of stages -------------------------------------------------------------------


def test_every_kind_of_stage_runs_in_a_process(
    pipelines: Make, turn: Callable[[Pipeline], Pipeline]
) -> None:
    """Functions, lambdas, closures, objects, classes, factories and generators."""
    offset = 10
    pipeline = pipelines()
    pipeline.add(lambda item: item + offset, **PLACED)
    pipeline.add(Counting(), "object", **PLACED)
    pipeline.add(Counting, "class", **PLACED)
    pipeline.add(factory(Counting, log=""), "factory", **PLACED)
    pipeline.add(functools.partial(lambda item, add: (item, add), add=1), **PLACED)
    pipeline.add(halves, **PLACED)
    with turn(pipeline):
        results = list(pipeline.stream(range(3)))
    assert len(results) == 6
    seen = []
    for result, half in results:
        made_of, added = result
        while isinstance(made_of, tuple):
            made_of = made_of[0]
        seen.append((made_of, added, half))
    assert seen == [(item, 1, half) for item in (10, 11, 12) for half in (1, 2)]


def test_every_kind_of_stage_runs_in_a_process_of_its_own(
    pipelines: Make, turn: Callable[[Pipeline], Pipeline]
) -> None:
    """One for each worker, none of them this one."""
    pipeline = pipelines()
    pipeline.add(lambda item: [os.getpid()], **PLACED)
    pipeline.add(lambda item: [*item, os.getpid()], **PLACED)
    with turn(pipeline):
        seen = {number for result in pipeline.stream(range(3)) for number in result}
    assert len(seen) == 2
    assert os.getpid() not in seen


def test_workers_have_a_process_each(pipelines: Make) -> None:
    """Four calls at once, in four processes; the results in order."""
    pipeline = one(pipelines, Counting, workers=4)
    pipeline.parallelize()
    results = list(pipeline.stream(range(200)))
    assert [result[0] for result in results] == list(range(200))
    processes = {result[2] for result in results}
    pipeline.cleanup()
    assert len(processes) <= 4
    assert len(processes) > 1


def test_one_word_places_all_stages(pipelines: Make) -> None:
    """``parallelize(placement="process")``; batching stages stay."""
    pipeline = pipelines()
    pipeline.add(pid)
    pipeline.add(lambda item: (item, os.getpid()))
    with pipeline.parallelize(placement="process"):
        ((first, second),) = pipeline.stream([1])
    assert len({first, second, os.getpid()}) == 3


def test_the_stage_lives_in_its_process(
    pipelines: Make, turn: Callable[[Pipeline], Pipeline], tmp_path: Path
) -> None:
    """It is set up once, called, and cleaned up once, all in the same process; the user's
    object stays untouched."""
    log = tmp_path / "log"
    stage = Counting(str(log))
    pipeline = one(pipelines, stage, name="count")
    with turn(pipeline):
        results = list(pipeline.stream("ab"))
    assert [(item, calls, name) for item, calls, _, name in results] == [
        ("a", 1, "count"),
        ("b", 2, "count"),
    ]
    said = [line.split() for line in log.read_text().splitlines()]
    assert [what for what, _ in said] == ["setup", "call", "call", "cleanup"]
    assert len({number for _, number in said} | {str(results[0][2])}) == 1
    assert stage.calls == 0


def test_a_generator_makes_outputs_when_they_are_asked_for(
    pipelines: Make, turn: Callable[[Pipeline], Pipeline]
) -> None:
    """An endless one can be left, and its process goes on."""

    def endless(item: int) -> Iterator[int]:
        while True:
            yield item
            item += 1

    pipeline = one(pipelines, endless)
    turn(pipeline)
    with pipeline.stream([5]) as results:
        assert [next(results) for _ in range(3)] == [5, 6, 7]
    with pipeline.stream([1]) as results:
        assert next(results) == 1
    pipeline.cleanup()
    assert set(pipeline.statistics().dropped) <= {"reader left"}


def test_skip_filters(pipelines: Make, turn: Callable[[Pipeline], Pipeline]) -> None:
    """The one SKIP there is also comes back from a process."""
    pipeline = one(pipelines, lambda item: SKIP if item % 2 else item)
    with turn(pipeline):
        assert list(pipeline.stream(range(5))) == [0, 2, 4]
    assert pipeline.statistics().filtered == 2


def test_several_stages_share_a_process_as_a_pipeline_of_their_own(pipelines: Make) -> None:
    """What makes a nested pipeline makes it in the process: several stages, one crossing."""

    def region() -> Stage[Any]:
        inner = Pipeline()
        inner.add(lambda item: [os.getpid(), item])
        inner.add(lambda item: [os.getpid(), *item])
        return inner.serialize().as_stage()

    pipeline = one(pipelines, factory(region))
    with pipeline.parallelize():
        ((second, first, item),) = pipeline.stream([7])
    assert item == 7
    assert first == second != os.getpid()


def test_a_serial_pipeline_is_one_region(pipelines: Make) -> None:
    """Placed as a whole it has one process; after its parent's end it can be placed again."""
    inner = pipelines()
    inner.add(lambda item: [os.getpid(), item])
    inner.add(lambda item: [os.getpid(), *item])
    pipeline = one(pipelines, inner.serialize().as_stage())
    with pipeline.parallelize():
        ((second, first, item),) = pipeline.stream([7])
        assert item == 7
        assert first == second != os.getpid()
    pipeline = one(pipelines, inner.serialize().as_stage(), on_error="skip")
    with pipeline.serialize():
        ((third, *_),) = pipeline.stream([7])
        assert third not in (first, os.getpid())


def test_another_placement_moves_a_stage_into_a_process_and_back(pipelines: Make) -> None:
    """It is set up where the new mode wants it."""
    pipeline = pipelines()
    pipeline.add(lambda item: os.getpid())
    here = [
        next(iter(pipeline.parallelize(**options).stream([1]))) == os.getpid()
        for options in ({}, PLACED, {})
    ]
    assert here == [True, False, True]
    pipeline.cleanup()


def test_a_mode_hands_its_processes_on(pipelines: Make) -> None:
    """Choosing again keeps them, with what their stages remember."""
    pipeline = one(pipelines, Counting)
    pipeline.parallelize()
    (first,) = pipeline.stream([1])
    pipeline.serialize()
    (second,) = pipeline.stream([1])
    assert (first[1], second[1]) == (1, 2)
    assert first[2] == second[2]


def test_branches_get_read_only_items(pipelines: Make) -> None:
    """So that no follower changes another one's item, also where there is no shared memory for it;
    a lone stage may write to its own."""
    numpy = pytest.importorskip("numpy")

    def may_write(frame: Any) -> bool:
        return bool(frame.flags.writeable)

    pipeline = pipelines()
    pipeline.add(lambda number: numpy.zeros(number, dtype="u1"), "make")
    pipeline.add(may_write, "a", after="make")
    pipeline.add(may_write, "b", after="make")
    for place in (PLACED, {"placement": placement("process", shared_memory_mb=0)}):
        with pipeline.parallelize(**place):
            assert list(pipeline.stream([1 << 20])) == [{"a": False, "b": False}]
    alone = one(pipelines, may_write)
    with alone.parallelize():
        assert list(alone.stream([numpy.zeros(1 << 20, dtype="u1"), numpy.zeros(5)])) == [True] * 2


# -- classes that travel by value ------------------------------------------------------


def test_a_class_that_travels_by_value_is_left_as_it_is(pipelines: Make) -> None:
    """Neither what comes back nor what is raised changes the class that it came from, and no
    other one is made of it."""
    kinds: list[type] = []

    class Base:
        def __init_subclass__(cls) -> None:
            kinds.append(cls)

    class Item(Base):
        made = 0

        def __init__(self) -> None:
            type(self).made += 1

    class Wrong(Exception):
        made = 0

        def __init__(self) -> None:
            type(self).made += 1

    def work(item: Any) -> Any:
        if item is None:
            raise Wrong
        return item

    def source() -> Iterator[Any]:
        for _ in range(50):
            yield Item()
            Wrong()
            yield None

    makes = Item.__init__
    pipeline = one(pipelines, work, on_error=lambda failure: failure.__cause__)
    with pipeline.parallelize():
        results = list(pipeline.stream(source()))
    assert [type(each) for each in results] == [Item, Wrong] * 50
    assert Item.made == 50
    assert Item.__init__ is makes
    assert Wrong.made >= 50
    assert kinds == [Item]


def test_a_class_keeps_its_state_in_the_process(pipelines: Make) -> None:
    """Each item that comes finds the class as the stage has left it."""

    class Track:
        number = 5

    def work(item: Track) -> int:
        Track.number += 1
        return type(item).number

    pipeline = one(pipelines, work)
    with pipeline.parallelize():
        assert list(pipeline.stream(Track() for _ in range(5))) == [6, 7, 8, 9, 10]
    assert Track.number == 5


def test_a_class_outlives_its_items_in_the_process(pipelines: Make) -> None:
    """What is kept in it does not go with the garbage between two of them."""

    class Track:
        seen = 0

    def work(item: Any) -> int:
        kind = type(item)
        kind.seen += 1
        found: int = kind.seen
        gc.collect()
        return found

    pipeline = one(pipelines, work)
    with pipeline.parallelize():
        assert list(pipeline.stream(Track() for _ in range(5))) == [1, 2, 3, 4, 5]


def test_classes_of_every_kind_are_the_same_ones_here_and_there(pipelines: Make) -> None:
    """Also those made in the process."""

    class Colour(enum.Enum):
        RED = 1

    class Pair(NamedTuple):
        one: Any
        two: Any

    @dataclasses.dataclass(frozen=True, slots=True)
    class Point:
        x: int

    def work(item: Any) -> Any:
        class Inner(Point):
            pass

        return item, Inner(3), Colour.RED

    items = [Colour.RED, Pair(Point(1), Colour.RED), Point(2)]
    pipeline = one(pipelines, work)
    with pipeline.parallelize():
        results = list(pipeline.stream(items * 2))
    assert [item for item, _, _ in results] == items * 2
    assert all(isinstance(inner, Point) and inner.x == 3 for _, inner, _ in results)
    assert all(colour is Colour.RED for _, _, colour in results)


def test_objects_with_slots_come_and_go(pipelines: Make) -> None:
    """There as here they have these and no others, by whatever name; so do those of what is
    derived from them."""

    @dataclasses.dataclass(slots=True)
    class Point:
        x: int
        y: int = 0

    class Base:
        __slots__ = ("__hidden", "seen")

        def __init__(self, hidden: int) -> None:
            self.__hidden = hidden

        def hidden(self) -> int:
            return self.__hidden

    class Derived(Base):
        __slots__ = "one"  # that may be text

        def __init__(self) -> None:
            super().__init__(5)
            self.one = 1

    class Empty:
        __slots__ = ()

    class Open(Base):
        pass

    def work(item: Any) -> Any:
        try:
            item.other = 1
        except AttributeError:
            return item, False
        return item, True

    opened = Open(6)
    pipeline = one(pipelines, work)
    with pipeline.parallelize():
        items = [Point(1, 2), Base(4), Derived(), Empty(), opened]
        results = list(pipeline.stream(items * 2))
    assert [takes_more for _, takes_more in results] == [False, False, False, False, True] * 2
    point, base, derived, empty, again = (item for item, _ in results[5:])
    assert point == Point(1, 2)
    assert base.hidden() == 4
    assert not hasattr(base, "seen")
    assert (derived.hidden(), derived.one) == (5, 1)
    assert type(empty) is Empty
    assert (again.hidden(), again.other) == (6, 1)


# -- failures --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [ValueError, StopIteration, Unprintable, SystemExit, KeyboardInterrupt, MemoryError]
)
def test_an_exception_comes_back_as_what_it_is(pipelines: Make, kind: type[BaseException]) -> None:
    """With its type, and with the traceback of its process as its cause."""

    def breaks(item: Any) -> Any:
        raise kind("so")

    pipeline = one(pipelines, breaks)
    pipeline.parallelize()
    with pytest.raises(StageError) as caught:
        list(pipeline.stream([1]))
    raised = caught.value.__cause__
    assert type(raised) is kind
    assert isinstance(raised.__cause__, ChildTraceback)
    assert "in breaks" in str(raised.__cause__)


@pytest.mark.parametrize(
    "kind", [ConnectionError, ConnectionRefusedError, BrokenPipeError, ConnectionResetError]
)
def test_a_lost_connection_of_the_stages_own_is_an_ordinary_failure(
    pipelines: Make, turn: Callable[[Pipeline], Pipeline], kind: type[ConnectionError]
) -> None:
    """Its process lives on; it is not the connection that this one is asked through."""

    class Asks(Stage[Any]):
        def setup(self) -> None:
            """Nothing."""

        def __call__(self, data: Any) -> Any:
            if data == 1:
                raise kind(111, "no server there")
            return Asked(kind) if data == 2 else os.getpid()

        def cleanup(self) -> None:
            raise kind(112, "none either")

    pipeline = one(pipelines, Asks, on_error=lambda failure: failure.__cause__)
    turn(pipeline)
    first, raised, unpicklable, second = pipeline.stream([0, 1, 2, 3])
    assert type(raised) is kind
    assert raised.args == (111, "no server there")
    assert "no way out" in str(unpicklable)
    assert first == second
    with pytest.raises(CleanupError) as caught:
        pipeline.cleanup()
    assert type(caught.value.errors[0]) is kind


class Asked:
    """Cannot be pickled, since a connection is lost meanwhile."""

    def __init__(self, kind: type[ConnectionError]) -> None:
        self.kind = kind

    def __reduce__(self) -> Any:
        raise self.kind(113, "no way out")


def test_a_setup_without_its_server_says_so(pipelines: Make) -> None:
    """A camera or a database that is off is the most usual failure of all."""

    class Opens(Stage[Any]):
        def setup(self) -> None:
            raise ConnectionRefusedError(111, "no server there")

        def __call__(self, data: Any) -> Any:
            return data

        def cleanup(self) -> None:
            """Nothing."""

    pipeline = one(pipelines, Opens)
    pipeline.parallelize()
    with pytest.raises(StageError, match="no server there") as caught:
        pipeline.start()
    assert type(caught.value.__cause__) is ConnectionRefusedError


class Immutable(Exception):
    """Lets nothing be set."""

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{name} cannot be set")


def test_an_exception_that_lets_nothing_be_set_comes_back(pipelines: Make) -> None:
    """With its type, its arguments and its traceback."""

    def breaks(item: Any) -> Any:
        raise Immutable("as it is")

    pipeline = one(pipelines, breaks, on_error=lambda failure: failure.__cause__)
    with pipeline.parallelize():
        (raised,) = pipeline.stream([1])
    assert type(raised) is Immutable
    assert raised.args == ("as it is",)
    assert "in breaks" in str(raised.__cause__)


def test_the_text_of_what_cannot_be_pickled_is_whole(pipelines: Make) -> None:
    """Several lines of it are no less its text, and notes are added to it."""

    class Local(Exception):
        def __reduce__(self) -> Any:
            raise TypeError

    def breaks(item: Any) -> Any:
        raise Local("first line\nsecond line")

    pipeline = one(pipelines, breaks, on_error=lambda failure: failure.__cause__)
    with pipeline.parallelize():
        (raised,) = pipeline.stream([1])
    assert isinstance(raised, RemoteError)
    assert "Local: first line\nsecond line" in str(raised)


def test_an_exception_that_cannot_be_pickled_comes_back_as_text(pipelines: Make) -> None:
    """Whether it refuses to go or to be made again."""

    def breaks(item: int) -> Any:
        if item:
            raise Refusing(1, 2)
        error = ValueError("with a lock")
        error.lock = threading.Lock()  # type: ignore[attr-defined]
        raise error

    pipeline = one(pipelines, breaks, on_error=lambda failure: failure.__cause__)
    with pipeline.parallelize():
        first, second = pipeline.stream([0, 1])
    for error, said in ((first, "ValueError: with a lock"), (second, "1 and 2")):
        assert isinstance(error, RemoteError)
        assert said in str(error)


@pytest.mark.parametrize("policy", ["skip", Retry(1, then="skip"), lambda failure: SKIP])
def test_a_policy_that_skips_inside_a_region_ends_the_item_only(
    pipelines: Make, turn: Callable[[Pipeline], Pipeline], policy: Any
) -> None:
    """Also where neither what the stage had in hand nor what it raised can be pickled."""

    def breaks(pair: tuple[int, Any]) -> int:
        if pair[0] == 1:
            raise Refusing(1, 2)
        return pair[0]

    inner = pipelines()
    inner.add(lambda item: (item, threading.Lock()))
    inner.add(breaks, on_error=policy)
    pipeline = one(pipelines, inner.serialize().as_stage())
    with turn(pipeline):
        assert list(pipeline.stream(range(4))) == [0, 2, 3]
        assert pipeline.statistics().failed == 1


def test_a_failure_in_a_region_is_that_of_the_stage_inside(pipelines: Make) -> None:
    """Its path, the item's number in the whole pipeline, the cause with its type and its
    traceback; it is logged once."""

    def breaks(item: int) -> int:
        if item % 2:
            raise OSError(item)
        return item

    inner = pipelines()
    inner.add(breaks, "inner")
    stage = inner.serialize().as_stage()
    told: list[StageError] = []
    pipeline = one(pipelines, stage, name="whole", on_error=told.append, workers=2)
    with pipeline.parallelize():
        list(pipeline.stream(range(40)))
    assert sorted((each.seq, each.item) for each in told) == [(n, n) for n in range(1, 40, 2)]
    for each in told:
        assert str(each) == (
            f"stage 'MainPipeline__whole__inner' raised on item {each.seq} ({each.item}): "
            f"OSError: {each.item}"
        )
        cause: Any = each.__cause__
        assert type(cause) is OSError
        assert "in breaks" in str(cause.__cause__)
        assert "StageError" not in str(cause.__cause__)


def test_what_a_region_skips_stays_in_no_shared_memory(pipelines: Make) -> None:
    """A failure does not keep the frame that its stage had in hand."""
    numpy = pytest.importorskip("numpy")

    def breaks(frame: Any) -> Any:
        raise ValueError

    inner = pipelines()
    inner.add(lambda frame: frame)
    inner.add(breaks, on_error="skip")
    place = placement("process", shared_memory_mb=8)
    pipeline = pipelines()
    pipeline.add(inner.serialize().as_stage(), placement=place)
    with pipeline.parallelize():
        assert list(pipeline.stream(numpy.zeros(1 << 20, "u1") for _ in range(50))) == []
        assert pipeline.statistics().failed == 50
        found = place.shared_memory()
    assert found.refused == 0
    assert found.lent <= 1  # the last one's end is told with the next answer


def test_what_cannot_travel_fails_its_item_only(
    pipelines: Make, turn: Callable[[Pipeline], Pipeline]
) -> None:
    """An item or a result that cannot be pickled, or made again, is an ordinary failure."""
    said: list[str] = []

    def note(failure: StageError) -> Any:
        said.append(str(failure.__cause__))
        return SKIP

    pipeline = one(pipelines, lambda item: threading.Lock() if item == 2 else item, on_error=note)
    with turn(pipeline):
        assert list(pipeline.stream([0, threading.Lock(), 2, Unmakeable(), 4])) == [0, 4]
    assert "the item (lock) cannot be pickled for the way to the process" in said[0]
    assert "what the stage gave out (lock) cannot be pickled for the way back" in said[1]
    assert "the item cannot be unpickled in the process" in said[2]
    assert pipeline.statistics().failed == 3


class Unmakeable:
    """Goes, but cannot be made again."""

    def __reduce__(self) -> Any:
        return int, ("not a number",)


def test_a_failing_setup_is_the_stages_own(
    pipelines: Make, turn: Callable[[Pipeline], Pipeline]
) -> None:
    """It comes out of the start, and no process is left."""

    class Bad(Counting):
        def setup(self) -> None:
            raise OSError("no camera")

    pipeline = one(pipelines, Bad)
    turn(pipeline)
    with pytest.raises(StageError, match="OSError: no camera"):
        pipeline.start()


def test_a_failing_cleanup_is_the_stages_own(
    pipelines: Make, turn: Callable[[Pipeline], Pipeline]
) -> None:
    """It comes out of the pipeline's cleanup."""

    class Bad(Counting):
        def cleanup(self) -> None:
            raise OSError("no disk")

    pipeline = one(pipelines, Bad)
    turn(pipeline)
    pipeline.run([1])
    with pytest.raises(CleanupError, match="OSError: no disk"):
        pipeline.cleanup()


# -- what is refused -------------------------------------------------------------------


class Holds(Counting):
    """Has something inside that cannot be pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = {"camera": [threading.Lock()]}


def _closure() -> Any:
    lock = threading.Lock()
    return lambda item: lock and item


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        (Holds(), r"the Holds\.parts\['camera'\]\[0\] \(lock\) cannot be pickled"),
        (_closure(), r"'s variable lock \(lock\) cannot be pickled"),
        (factory(Counting, log=threading.Lock()), r"the factory's option log \(lock\)"),
        (functools.partial(max, key=threading.Lock()), r"\.keywords\['key'\] \(lock\)"),
    ],
    ids=["attribute", "closure", "option", "partial"],
)
def test_what_cannot_be_pickled_is_named_when_a_mode_is_chosen(
    pipelines: Make, stage: Any, said: str
) -> None:
    """With what to do about it."""
    pipeline = one(pipelines, stage, name="it")
    with pytest.raises(PlanError, match=f"'MainPipeline__it' cannot be placed .*{said}"):
        pipeline.parallelize()


def test_a_factory_of_a_generator_stage_is_refused(pipelines: Make) -> None:
    """What it makes is known in the process only, too late."""
    pipeline = one(pipelines, factory(lambda: halves))
    pipeline.parallelize()
    with pytest.raises(StageError, match="returned a generator stage"):
        pipeline.start()


@pytest.mark.parametrize(
    "bad", [{"timeout": 0}, {"max_restarts": -1}, {"period": "1"}, {"grace": float("inf")}]
)
def test_bad_limits_are_refused(bad: dict[str, Any]) -> None:
    """When they are written down."""
    with pytest.raises(PlanError, match=next(iter(bad))):
        limits(**bad)
    with pytest.raises(PlanError, match="cannot be given to"):
        limits(timeout=1)(len)
    assert Limits().timeout is None


# -- around ----------------------------------------------------------------------------


def test_log_records_reach_the_handlers_here(
    pipelines: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """With their level, logger, text and traceback; what is too low is not even sent."""

    def talks(item: int) -> int:
        logger = logging.getLogger("acme.stage")
        logger.debug("too low")
        logger.info("item %d", item, extra={"lock": threading.Lock()})
        try:
            raise ValueError("inside")
        except ValueError:
            logger.exception("trouble")
        return item

    caplog.set_level(logging.INFO)
    pipeline = one(pipelines, talks)
    with pipeline.parallelize():
        pipeline.run([7])
    first, second = (record for record in caplog.records if record.name == "acme.stage")
    assert (first.levelno, first.getMessage()) == (logging.INFO, "item 7")
    assert first.process != os.getpid()
    assert "ValueError: inside" in (second.exc_text or "")


def test_a_log_record_costs_no_item(pipelines: Make, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever goes with it: what can be pickled but not made again is there as text."""

    def talks(item: int) -> int:
        logger = logging.getLogger("acme.stage")
        logger.warning("item %d", item, extra={"error": Refusing(1, 2), "camera": 3})
        return item

    pipeline = one(pipelines, talks)
    pipeline.add(len, placement=None, on_error=lambda failure: failure.item)
    with pipeline.parallelize():
        assert list(pipeline.stream([7, 8])) == [7, 8]
    assert pipeline.statistics().stages[0].failed == 0
    records = [record for record in caplog.records if record.name == "acme.stage"]
    assert [record.getMessage() for record in records] == ["item 7", "item 8"]
    assert {(record.camera, record.error) for record in records} == {(3, "1 and 2")}


def test_a_log_record_that_cannot_be_made_again_here_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of a class that only the process has, for one."""
    _records.handle(b"nonsense")
    (said,) = caplog.messages
    assert "a log record of a process is lost" in said


def test_a_destructor_may_log_amid_a_record(pipelines: Make) -> None:
    """It runs wherever memory is allocated, in the thread that is about to send something."""

    def talks(item: int) -> int:
        import gc

        class Noisy:
            def __init__(self) -> None:
                self.me = self

            def __del__(self) -> None:
                logging.getLogger("acme.noisy").warning("collected")

        gc.collect()
        gc.disable()
        Noisy()
        gc.set_threshold(1 + item % 60, 10, 10)
        gc.enable()
        logging.getLogger("acme.stage").warning("hello")
        return item

    seen: list[str] = []

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record.getMessage())

    notes, acme = Notes(), logging.getLogger("acme")
    acme.addHandler(notes)
    acme.propagate = False
    try:
        pipeline = one(pipelines, limits(timeout=PATIENCE)(talks))
        with pipeline.parallelize():
            assert list(pipeline.stream(range(120))) == list(range(120))
    finally:
        acme.removeHandler(notes)
        acme.propagate = True
    assert seen.count("hello") == 120
    assert seen.count("collected") >= 100


class Chatters(Stage[Any]):
    """Has a forked helper that logs all the time."""

    def setup(self) -> None:
        self.helper = os.fork()
        if not self.helper:
            for _ in range(50_000):
                logging.getLogger("acme.helper").warning("progress")
            os._exit(0)

    def __call__(self, data: Any) -> bytes:
        return b"z" * 60_000

    def cleanup(self) -> None:
        os.kill(self.helper, signal.SIGKILL)
        os.waitpid(self.helper, 0)


def test_what_a_stage_forks_does_not_speak_for_it(pipelines: Make) -> None:
    """Neither with log records amid its answers, nor with an answer of its own."""
    pipeline = one(pipelines, Chatters)
    with pipeline.parallelize():
        assert sum(map(len, pipeline.stream(range(500)))) == 500 * 60_000

    def doubles(item: int) -> int:
        child = os.fork()
        if not child:
            sys.exit(5)
        os.waitpid(child, 0)
        return item

    pipeline = one(pipelines, doubles)
    with pipeline.parallelize():
        assert list(pipeline.stream(range(3))) == [0, 1, 2]


def test_programs_of_a_stage_can_be_interrupted(pipelines: Make) -> None:
    """What the process does about signals is not inherited by those."""

    def stops(item: int) -> tuple[int, int]:
        codes = []
        for number in (signal.SIGINT, signal.SIGTERM):
            with subprocess.Popen(["sleep", "5"]) as program:
                program.send_signal(number)
                codes.append(program.wait())
        return codes[0], codes[1]

    pipeline = one(pipelines, stops)
    with pipeline.parallelize():
        assert list(pipeline.stream([1])) == [(-signal.SIGINT, -signal.SIGTERM)]


class Closes(Stage[Any]):
    """A generator stage that notes its end."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def __call__(self, data: Any) -> Iterator[Any]:
        try:
            yield data
            yield threading.Lock()
            yield data
        finally:
            self.file.touch()

    def cleanup(self) -> None:
        """Nothing."""


def test_a_generator_is_closed_when_an_output_cannot_travel(
    pipelines: Make, turn: Callable[[Pipeline], Pipeline], tmp_path: Path
) -> None:
    """Its clean-up runs at once, not when it is forgotten."""
    file = tmp_path / "closed"
    pipeline = one(pipelines, Closes(str(file)), on_error="skip")
    with turn(pipeline):
        assert list(pipeline.stream([1])) == [1]
        assert file.exists()


@pytest.fixture
def _ctrl_c_is_not_ignored() -> Iterator[None]:
    """As it is in a shell's background job."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c_is_not_ignored")
def test_ctrl_c_hits_this_process_only(pipelines: Make) -> None:
    """A child ignores SIGINT; a call that was interrupted here in serial mode does not mix up
    the answers of later ones."""

    def signalled(item: int) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        if item == 1:
            os.kill(os.getppid() if item < 0 else parent, signal.SIGINT)
        return item

    parent = os.getpid()
    pipeline = one(pipelines, signalled)
    pipeline.serialize()
    assert pipeline.forward(0)
    with pytest.raises(KeyboardInterrupt):
        pipeline.forward(1)
        threading.Event().wait(5)
    assert list(pipeline.stream([2, 3])) == [2, 3]


def run_script(script: Path) -> subprocess.CompletedProcess[str]:
    """Run it to its end, with warnings as errors."""
    command = [sys.executable, "-W", "error", str(script)]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)


def test_a_script_needs_no_guard(tmp_path: Path) -> None:
    """The main program is not run again in a child, and what it defines is found there."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import os
            from dataclasses import dataclass
            import pystream_core

            @dataclass
            class Point:
                x: int

            def move(point):
                return Point(point.x + 1)

            print("once")
            pipeline = pystream_core.Pipeline()
            pipeline.add(move, placement="process")
            with pipeline.parallelize():
                results = list(pipeline.stream([Point(1), Point(2)]))
            print(results, isinstance(results[0], Point))
        """)
    )
    done = run_script(script)
    assert done.stdout.splitlines() == ["once", "[Point(x=2), Point(x=3)] True"]
    assert done.stderr == ""


def test_a_process_that_multiprocessing_has_spawned_places_what_its_script_defines(
    tmp_path: Path,
) -> None:
    """Where the main program goes by another name, which nobody else can import."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import multiprocessing
            from dataclasses import dataclass
            import pystream_core

            @dataclass
            class Point:
                x: int

            def move(point):
                return Point(point.x + 1)

            def main():
                pipeline = pystream_core.Pipeline()
                pipeline.add(move, placement="process")
                with pipeline.parallelize():
                    results = list(pipeline.stream([Point(1), Point(2)]))
                print(__name__, results, isinstance(results[0], Point), flush=True)

            if __name__ == "__main__":
                child = multiprocessing.get_context("spawn").Process(target=main)
                child.start()
                child.join()
        """)
    )
    done = run_script(script)
    assert done.stdout.splitlines() == ["__mp_main__ [Point(x=2), Point(x=3)] True"]
    assert done.stderr == ""


def test_a_process_ends_as_a_program_does(pipelines: Make, tmp_path: Path) -> None:
    """After its cleanup: what ``atexit`` knows is called, multiprocessing's daemons end, and a
    file that the stage has left open is written."""

    class Leaves(Stage[Any]):
        def setup(self) -> None:
            self.file = (tmp_path / "open").open("w")
            atexit.register((tmp_path / "atexit").touch)
            context = multiprocessing.get_context("fork")
            self.daemon = context.Process(target=threading.Event().wait, daemon=True)
            self.daemon.start()

        def __call__(self, data: Any) -> Any:
            self.file.write(data)
            return self.daemon.pid

        def cleanup(self) -> None:
            """It leaves all of that."""

    pipeline = one(pipelines, Leaves)
    with pipeline.parallelize():
        (daemon,) = pipeline.stream(["written"])
        os.kill(daemon, 0)
    assert (tmp_path / "open").read_text() == "written"
    assert (tmp_path / "atexit").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(daemon, 0)


@pytest.mark.parametrize("held_by", ["cycle", "global"])
@pytest.mark.parametrize("mode", ["w", "wb", "gzip", "bz2"])
def test_a_file_that_outlives_its_stage_is_written(
    held_by: str, mode: str, pipelines: Make, tmp_path: Path
) -> None:
    """Since something else holds it when the process ends."""

    def work(item: Any) -> Any:
        file: Any
        if mode in ("w", "wb"):
            file = (tmp_path / "open").open(mode)
        else:
            file = importlib.import_module(mode).open(tmp_path / "open", "wt")
        file.write("written" if mode != "wb" else b"written")
        if held_by == "global":
            threading.held = file  # type: ignore[attr-defined]
            gc.freeze()
        else:
            cycle = [file]
            cycle.append(cycle)  # type: ignore[arg-type]
        return os.getpid()

    with one(pipelines, work).parallelize() as pipeline:
        assert list(pipeline.stream([0])) != [os.getpid()]
    if mode in ("w", "wb"):
        assert (tmp_path / "open").read_text() == "written"
    else:
        with importlib.import_module(mode).open(tmp_path / "open", "rt") as file:
            assert file.read() == "written"


@pytest.mark.parametrize("how", ["thread", "pool"])
def test_a_process_waits_for_the_threads_of_its_stage(
    how: str, pipelines: Make, tmp_path: Path
) -> None:
    """As a program does; for daemons it does not."""

    def work(item: Any) -> Any:
        cleaned = threading.Event()
        atexit.register(lambda: (tmp_path / "atexit").touch())  # behind the threads

        def late() -> None:
            cleaned.wait(0.2)
            (tmp_path / "late").write_text(str((tmp_path / "atexit").exists()))

        threading.Thread(target=threading.Event().wait, daemon=True).start()
        if how == "thread":
            threading.Thread(target=late).start()
        else:
            ThreadPoolExecutor(1).submit(late)
        return item

    with one(pipelines, work).parallelize() as pipeline:
        assert list(pipeline.stream([1])) == [1]
    assert (tmp_path / "late").read_text() == "False"
    assert (tmp_path / "atexit").exists()


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("hang", ["thread", "atexit"])
def test_what_runs_at_the_end_of_a_process_is_part_of_the_cleanup(
    hang: str, pipelines: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Its log records arrive; when it hangs, it is left behind, named, and ended."""

    def work(item: Any) -> Any:
        if item == "log":
            atexit.register(logging.getLogger("atexit").warning, "the end")
        elif item == "thread":
            threading.Thread(target=threading.Event().wait).start()
        else:
            atexit.register(threading.Event().wait)
        return os.getpid()

    pipeline = one(pipelines, work)
    with pipeline.parallelize():
        list(pipeline.stream(["log"]))
    assert "the end" in caplog.messages
    pipeline = one(pipelines, work, name="hangs")
    pipeline.parallelize(drain_timeout=0.5)
    (process,) = pipeline.stream([hang])
    pipeline.cleanup()
    assert any("left behind" in line and "hangs" in line for line in caplog.messages)
    assert wait_until(lambda: not Path(f"/proc/{process}").exists())


def test_a_pipeline_file_places_stages(tmp_path: Path) -> None:
    """``placement = "process"``, for a stage or for all."""
    pytest.importorskip("pystream_cli")
    (tmp_path / "acme_where.py").write_text(
        "import os\ndef pid(item):\n    return [*item, os.getpid()] if item else [os.getpid()]\n"
        "def source():\n    return [[]]\n"
        "def show(item):\n    print('pids', len({*item, os.getpid()}))\n    return item\n"
    )
    for where in ("stage", "pipeline"):
        table = '[pipeline]\nplacement = "process"\n' if where == "pipeline" else "[pipeline]\n"
        line = '\nplacement = "process"' if where == "stage" else ""
        stages = "".join(
            f'[[stage]]\nname = "{name}"\nuse = "acme_where:{use}"{extra}\n'
            for name, use, extra in (
                ("a", "pid", line),
                ("b", "pid", line),
                ("show", "show", ""),
            )
        )
        (tmp_path / "file.toml").write_text(f'{table}[source]\nuse = "acme_where:source"\n{stages}')
        done = subprocess.run(
            [sys.executable, "-m", "pystream", "run", "file.toml"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert "pids 3" in done.stdout, done.stdout + done.stderr


def test_a_video_is_the_same_with_its_motion_found_in_a_process(tmp_path: Path) -> None:
    """docs/examples/motion.toml, as it stands and with one line more."""
    pytest.importorskip("pystream_video")
    example = Path(__file__).parents[3] / "docs" / "examples" / "motion.toml"
    text = example.read_text().replace("{here}", str(example.parent))
    line = 'use = "video.motion"\n'
    assert line in text
    videos = []
    for place in ("", 'placement = "process"\n'):
        (tmp_path / "motion.toml").write_text(text.replace(line, line + place))
        subprocess.run(
            [sys.executable, "-m", "pystream", "run", "motion.toml"],
            cwd=tmp_path,
            check=True,
            capture_output=True,
            timeout=19,
        )
        videos.append((tmp_path / "motion.mp4").read_bytes())
    assert videos[0] == videos[1]


def length(item: Any) -> int:
    """A stage that does little with a lot."""
    return len(item)


def lengths(item: Any) -> Iterator[int]:
    """The same as a generator stage."""
    yield len(item)


@pytest.mark.parametrize("stage", [length, lengths])
def test_a_span_has_the_times_of_the_process(stage: Any) -> None:
    """The way there and back counts as waiting: a large item takes long, its stage does not. (Of
    several, for the machine may have something else to do just then.)"""

    class Spans(Observer):
        def __init__(self) -> None:
            self.spans: list[Any] = []

        def collect(self, spans: Any, items: Any) -> None:
            self.spans += spans

    observer = Spans()
    pipeline = Pipeline(observers=[observer])
    pipeline.add(stage, placement="process")
    with pipeline.serialize():
        pipeline.start()
        item = list(range(300_000))
        begin = perf_counter_ns()
        pipeline.run([item] * 10)
        ended = perf_counter_ns()
    times = [begin]
    for _, _, _, queued, start, end, _ in observer.spans:
        times += (queued, start, end)
    assert len(times) == 31
    assert sorted(times) == times
    assert times[-1] < ended
    assert any(
        end - start < (start - queued) / 4 for _, _, _, queued, start, end, _ in observer.spans
    )
