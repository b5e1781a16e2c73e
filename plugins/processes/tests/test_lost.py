"""A process that dies costs the item it had, and nothing else."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import pickle
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, process_time
from types import FrameType
from typing import Any

import pytest
from pystream_processes import ProcessPlacement, _placed, limits
from pystream_processes._pool import Pool
from pystream_processes._process import Process
from pystream_processes._raised import disclose, enclose

from pystream_core import (
    SKIP,
    CleanupError,
    Pipeline,
    PlanError,
    Retry,
    Stage,
    StageError,
    StageFactory,
    StageSpec,
    WorkerLost,
    factory,
    placement,
)
from pystream_core.testing import Gate, broken_law, in_thread, wait_until
from pystream_core.testing._waiting import in_logging

Make = Callable[..., Pipeline]

PLACED: dict[str, Any] = {"placement": "process"}


def noting(lost: list[StageError]) -> Callable[[StageError], Any]:
    """A policy that notes what has happened, and lets the item go."""

    def note(failure: StageError) -> Any:
        lost.append(failure)
        return SKIP

    return note


def die(how: Any) -> Any:
    """End this process in that way; other items pass."""
    if how == "exit":
        os._exit(7)
    if how == "segfault":
        import ctypes

        ctypes.string_at(0)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "memory":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
    return how


def whereabouts(item: Any) -> Any:
    """The item and the process that this is called in, and those before."""
    return (*item, os.getpid())


def stuck(item: Any) -> Any:
    """Never returns from an item that is ``"stuck"``."""
    while item == "stuck":
        threading.Event().wait(1000)
    return item


class Dying(Stage[Any]):
    """Dies in a phase of its life, once if it can tell by a file."""

    def __init__(self, phase: str, once: str = "") -> None:
        self.phase = phase
        self.once = once

    def reach(self, phase: str) -> None:
        if phase != self.phase:
            return
        if self.once:
            try:
                Path(self.once).touch(exist_ok=False)
            except FileExistsError:
                return
        os.kill(os.getpid(), signal.SIGKILL)

    def setup(self) -> None:
        self.reach("setup")

    def __call__(self, data: Any) -> Any:
        self.reach("call")
        return Dies(self) if self.phase == "reply" else data

    def cleanup(self) -> None:
        self.reach("cleanup")


class Dies:
    """Kills the process that pickles it, or that makes it again."""

    def __init__(self, stage: Dying | None = None, where: str = "") -> None:
        self.stage = stage
        self.where = where

    def __reduce__(self) -> Any:
        if self.stage is not None:
            self.stage.reach("reply")
            return Dies, ()
        return (die, ("kill",)) if self.where == "there" else (Dies, ())


@pytest.fixture(params=["serial", "threads"])
def turn(request: pytest.FixtureRequest) -> Callable[[Pipeline], Pipeline]:
    """Chooses an executor."""
    if request.param == "serial":
        return lambda pipeline: pipeline.serialize()
    return lambda pipeline: pipeline.parallelize()


def one(pipelines: Make, stage: Any, **options: Any) -> Pipeline:
    """A pipeline of one placed stage."""
    pipeline = pipelines()
    pipeline.add(stage, "A", **PLACED, **options)
    return pipeline


# -- one item --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "exitcode", "said"),
    [
        ("exit", 7, "ended with exit status 7 while it worked"),
        ("segfault", -signal.SIGSEGV, "was ended by SIGSEGV"),
        (
            "kill",
            -signal.SIGKILL,
            "SIGKILL while it worked (the system does that when memory",
        ),
        ("memory", -signal.SIGTERM, "was ended by SIGTERM"),
    ],
)
def test_a_process_that_dies_costs_one_item(
    pipelines: Make, turn: Callable[[Pipeline], Pipeline], how: str, exitcode: int, said: str
) -> None:
    """The failure says how it ended; a fresh process takes the next item."""
    lost: list[StageError] = []
    pipeline = one(pipelines, die, on_error=noting(lost))
    with turn(pipeline):
        assert list(pipeline.stream([1, how, 3])) == [1, 3]
    (failure,) = lost
    cause = failure.__cause__
    assert isinstance(cause, WorkerLost)
    assert (cause.path, cause.exitcode, cause.final) == ("MainPipeline__A", exitcode, False)
    assert said in str(cause)
    assert failure.item == how
    assert pipeline.statistics().failed == 1


def test_every_policy_sees_it(pipelines: Make, turn: Callable[[Pipeline], Pipeline]) -> None:
    """skip goes on, stop stops, Retry tries in a fresh process."""
    pipeline = one(pipelines, die, on_error="skip")
    with turn(pipeline):
        assert list(pipeline.stream([1, "kill", 3])) == [1, 3]
    pipeline = one(pipelines, die)
    turn(pipeline)
    with pytest.raises(StageError) as caught:
        list(pipeline.stream([1, "kill", 3]))
    assert isinstance(caught.value.__cause__, WorkerLost)


def test_retry_gives_the_item_to_a_fresh_process(pipelines: Make, tmp_path: Path) -> None:
    """Soon; what the first one had done to the item is not seen."""
    numpy = pytest.importorskip("numpy")
    path = str(tmp_path / "once")

    def half_done(frame: Any) -> Any:
        frame += 1
        try:
            Path(path).touch(exist_ok=False)
        except FileExistsError:
            return int(frame.sum())
        return os.kill(os.getpid(), signal.SIGKILL)

    pipeline = pipelines()
    pipeline.add(lambda number: numpy.zeros(number, dtype="u1"), **PLACED)
    pipeline.add(half_done, on_error=Retry(1), **PLACED)
    with pipeline.parallelize():
        begin = monotonic()
        assert list(pipeline.stream([100_000])) == [100_000]
        assert monotonic() - begin < 5


@pytest.mark.parametrize("phase", ["setup", "call", "reply", "cleanup"])
def test_death_in_each_phase_is_told_by_its_phase(
    pipelines: Make, turn: Callable[[Pipeline], Pipeline], phase: str
) -> None:
    """A start that fails, an item that fails, a cleanup that fails; nothing hangs."""
    pipeline = one(pipelines, Dying(phase), on_error="skip")
    turn(pipeline)
    if phase == "setup":
        with pytest.raises(StageError, match="could not be set up: WorkerLost"):
            pipeline.start()
        return
    results = list(pipeline.stream([1, 2]))
    assert results == ([1, 2] if phase == "cleanup" else [])
    if phase == "cleanup":
        with pytest.raises(CleanupError, match="SIGKILL during its cleanup"):
            pipeline.cleanup()
    else:
        pipeline.cleanup()
        assert pipeline.statistics().failed == 2
    assert broken_law(pipeline.statistics()) == []


@pytest.mark.parametrize("phase", ["call", "reply"])
def test_what_killed_once_is_over(pipelines: Make, tmp_path: Path, phase: str) -> None:
    """Retry finds a fresh process that works."""
    pipeline = one(pipelines, Dying(phase, str(tmp_path / "once")), on_error=Retry(1))
    with pipeline.parallelize():
        assert len(list(pipeline.stream([1, 2, 3]))) == 3
    assert pipeline.statistics().failed == 0


def test_an_item_that_kills_where_it_is_unpickled_costs_itself(pipelines: Make) -> None:
    """In the child; the item is known."""
    pipeline = one(pipelines, lambda item: item if item == 1 else 0, on_error="skip")
    with pipeline.parallelize():
        assert list(pipeline.stream([1, Dies(where="there"), 1])) == [1, 1]
    assert pipeline.statistics().failed == 1


def test_a_generator_keeps_what_it_has_given_out(pipelines: Make) -> None:
    """Its process dies between two outputs: the first stay, the item failed."""

    def gives_and_dies(item: int) -> Iterator[int]:
        yield item
        if item == 1:
            os._exit(3)
        yield item

    pipeline = one(pipelines, gives_and_dies, on_error="skip")
    with pipeline.parallelize():
        assert list(pipeline.stream([0, 1, 2])) == [0, 0, 1, 2, 2]
    assert pipeline.statistics().failed == 1


def test_a_process_that_dies_idle_costs_nothing(
    pipelines: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """The next item finds a fresh one, and a WARNING tells."""
    pipeline = one(pipelines, lambda item: os.getpid())
    pipeline.parallelize()
    (first,) = pipeline.stream([1])
    kill(first)
    (second,) = pipeline.stream([1])
    assert first != second
    assert "between two items" in caplog.text
    kill(second)
    caplog.clear()
    pipeline.cleanup()
    assert not caplog.messages  # it has no cleanup, so nothing is missed


@pytest.mark.parametrize("stage", [factory(lambda: Pids()), lambda: Pids()])
def test_a_cleanup_that_could_not_run_is_missed(
    pipelines: Make, caplog: pytest.LogCaptureFixture, stage: Any
) -> None:
    """A WARNING tells that its process has died before."""
    pipeline = one(pipelines, stage if isinstance(stage, StageFactory) else stage())
    pipeline.serialize()
    (process,) = pipeline.stream([1])
    kill(process)
    pipeline.cleanup()
    assert "its cleanup did not run" in caplog.text


class Pids(Stage[Any]):
    """Says where it is."""

    def __call__(self, data: Any) -> int:
        return os.getpid()

    def cleanup(self) -> None:
        """Nothing."""


def kill(process: int) -> None:
    """Kill it, and wait until it is gone."""
    os.kill(process, signal.SIGKILL)
    assert wait_until(lambda: not Path(f"/proc/{process}").exists())


# -- too often, too long ---------------------------------------------------------------


@pytest.mark.parametrize("policy", ["skip", Retry(20, then="skip")])
def test_dying_too_often_stops_the_pipeline(
    pipelines: Make, turn: Callable[[Pipeline], Pipeline], policy: Any
) -> None:
    """With the number of deaths and what to look for, whatever on_error says."""
    mortal = limits(max_restarts=2)(lambda item: os._exit(1))
    pipeline = one(pipelines, mortal, on_error=policy)
    turn(pipeline)
    with pytest.raises(StageError, match=r"died 3 times within 60 s.*limits\(max_restarts"):
        list(pipeline.stream(range(10)))


def test_a_call_that_takes_too_long_is_ended(
    pipelines: Make, turn: Callable[[Pipeline], Pipeline]
) -> None:
    """Its process is killed, and the item handled as one whose process died."""
    lost: list[StageError] = []
    pipeline = one(pipelines, limits(timeout=0.1)(stuck), on_error=noting(lost))
    with turn(pipeline):
        assert list(pipeline.stream([1, "stuck", 3])) == [1, 3]
    assert "was killed while it worked" in str(lost[0].__cause__)
    assert "longer than its timeout of 0.1 s" in str(lost[0].__cause__)


SLOW_TO_IMPORT = """
import os
import threading

if os.getpid() != {here}:
    threading.Event().wait(0.4)

class Item:
    def __init__(self, number):
        self.number = number

    def __setstate__(self, state):
        if state["number"] == "stuck" and os.getpid() != {here}:
            threading.Event().wait(1000)
        self.__dict__ = state
"""


@pytest.fixture
def item(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], Any]]:
    """Makes items of a class whose module takes longer to import in a process than a call may."""
    (tmp_path / "slow_to_import.py").write_text(SLOW_TO_IMPORT.format(here=os.getpid()))
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("slow_to_import").Item
    del sys.modules["slow_to_import"]


@pytest.mark.parametrize("stages", [1, 3])
def test_what_a_process_imports_for_its_item_is_no_part_of_the_call(
    pipelines: Make,
    turn: Callable[[Pipeline], Pipeline],
    item: Callable[[Any], Any],
    stages: int,
) -> None:
    """So that a call that takes too long costs its own item only; the timeout holds for each."""

    def work(given: Any) -> Any:
        if given.number == 2:
            threading.Event().wait(1000)
        return given

    lost: list[StageError] = []
    pipeline = pipelines()
    for _ in range(stages):
        pipeline.add(limits(timeout=0.2)(work), on_error=noting(lost), **PLACED)
    with turn(pipeline):
        numbers = [each.number for each in pipeline.stream(map(item, range(5)))]
    assert numbers == [0, 1, 3, 4]
    assert ["longer than its timeout of 0.2 s" in str(each.__cause__) for each in lost] == [True]


def test_each_kind_of_shared_item_may_have_something_to_import(pipelines: Make) -> None:
    """Bytes in shared memory are there at once; that says nothing of the first array."""
    numpy = pytest.importorskip("numpy")

    def give(number: int) -> Any:
        return bytes(200_000) if not number else numpy.zeros(200_000, "u1")

    def imports(given: Any) -> bool:
        return "numpy" in sys.modules

    pipeline = pipelines()
    pipeline.add(give, **PLACED)
    pipeline.add(limits(timeout=0.03)(imports), **PLACED)
    pipeline.parallelize()
    assert list(pipeline.stream(range(3))) == [False, True, True]


def test_ctrl_c_while_an_item_arrives_costs_that_item_only(
    pipelines: Make, item: Callable[[Any], Any]
) -> None:
    """Neither its process, nor more time than the end of any interrupted call at the clean-up."""
    pipeline = one(pipelines, limits(timeout=0.2)(lambda given: os.getpid()))
    pipeline.serialize()
    (process,) = pipeline.stream([1])
    with Alarm() as alarm:
        alarm.within(0.1, lambda: pipeline.forward(item(1)))
        assert list(pipeline.stream([2])) == [process]
        alarm.within(0.1, lambda: pipeline.forward(item("stuck")))
    began = monotonic()
    pipeline.cleanup()
    assert monotonic() - began < 5
    assert alarm.rings == 2


def test_an_item_that_is_never_unpickled_is_ended(
    pipelines: Make,
    turn: Callable[[Pipeline], Pipeline],
    item: Callable[[Any], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a call that takes too long is, but later, and it is said what took so long."""
    monkeypatch.setattr(_placed, "_ARRIVAL", 0.7)
    lost: list[StageError] = []
    pipeline = one(pipelines, limits(timeout=0.1)(lambda each: each.number), on_error=noting(lost))
    with turn(pipeline):
        assert list(pipeline.stream(map(item, [1, "stuck", 3]))) == [1, 3]
    assert "killed while it unpickled its item" in str(lost[0].__cause__)
    assert "longer than 0.7 s" in str(lost[0].__cause__)


def test_limits_of_the_placement_go_before_those_of_the_stage(
    pipelines: Make, turn: Callable[[Pipeline], Pipeline]
) -> None:
    """Each one that it was given; the others are the stage's."""
    lost: list[StageError] = []
    pipeline = pipelines()
    stage = limits(timeout=100, max_restarts=1)(stuck)
    pipeline.add(stage, placement=placement("process", timeout=0.1), on_error=noting(lost))
    with pytest.raises(StageError, match=r"died 2 times within 60 s"):
        list(turn(pipeline).stream([1, "stuck", 3, "stuck", 5]))
    assert "longer than its timeout of 0.1 s" in str(lost[0].__cause__)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("timeout", 0, "seconds above 0"),
        ("max_restarts", -1, "a whole number from 0"),
        ("period", 0, "seconds above 0"),
        ("grace", float("inf"), "seconds above 0"),
        ("timeuot", 1, "did you mean 'timeout'"),
    ],
)
def test_limits_are_checked_where_they_are_given(option: str, value: Any, expected: str) -> None:
    """At the stage and at the placement alike."""
    with pytest.raises(PlanError, match=expected):
        limits(**{option: value})
    with pytest.raises(PlanError, match=expected):
        placement("process", **{option: value})


def test_a_stuck_call_ends_soon_after_abort(
    pipelines: Make, turn: Callable[[Pipeline], Pipeline]
) -> None:
    """It gets its grace, then its process is killed; nothing is left behind."""
    pipeline = one(pipelines, limits(grace=0.1)(stuck))
    turn(pipeline)
    call = in_thread(lambda: pipeline.forward("stuck"))
    assert wait_until(lambda: pipeline.statistics().stages[0].received == 1)
    begin = monotonic()
    pipeline.abort()
    pipeline.cleanup()
    call.wait()
    assert monotonic() - begin < 1.5
    assert pipeline.statistics().dropped == {"abort": 1}


def test_a_call_that_ends_in_its_grace_is_cleaned_up(pipelines: Make, tmp_path: Path) -> None:
    """The process lives, and so does its stage's cleanup."""
    path = str(tmp_path / "cleaned")

    class Slow(Stage[Any]):
        def __call__(self, data: Any) -> Any:
            threading.Event().wait(0.1)
            return data

        def cleanup(self) -> None:
            Path(path).touch()

    pipeline = one(pipelines, limits(grace=5)(Slow))
    pipeline.parallelize()
    pipeline.forward(1)
    assert wait_until(lambda: pipeline.statistics().stages[0].received == 1)
    pipeline.abort()
    pipeline.cleanup()
    assert Path(path).exists()


@pytest.mark.usefixtures("hurried")
def test_a_stuck_cleanup_is_ended(pipelines: Make, caplog: pytest.LogCaptureFixture) -> None:
    """The pipeline's cleanup names it and ends; its process is killed then."""

    class Never(Stage[Any]):
        def __call__(self, data: Any) -> Any:
            return os.getpid()

        def cleanup(self) -> None:
            threading.Event().wait(1000)

    pipeline = one(pipelines, Never)
    pipeline.parallelize()
    (process,) = pipeline.stream([1])
    pipeline.cleanup(timeout=0.1)
    assert "left behind" in caplog.text
    assert wait_until(lambda: not Path(f"/proc/{process}").exists())


class NeverReady(Stage[Any]):
    """Its setup does not return."""

    def setup(self) -> None:
        threading.Event().wait(1000)

    def __call__(self, data: Any) -> Any:
        return data

    def cleanup(self) -> None:
        """Nothing."""


def test_a_stuck_setup_is_ended(pipelines: Make) -> None:
    """A start that is stopped meanwhile does not wait for it."""

    pipeline = one(pipelines, limits(grace=0.1)(NeverReady))
    pipeline.parallelize()
    start = in_thread(pipeline.start)
    assert wait_until(lambda: any("MainPipeline__A" in t.name for t in threading.enumerate()))
    begin = monotonic()
    pipeline.abort()
    pipeline.cleanup()
    assert start.wait().error is not None
    assert monotonic() - begin < 1.5


# -- several stages behind one another, which one thread looks after ----------------------


def row(make: Make, *stages: Any, **options: Any) -> Pipeline:
    """Placed stages, one feeding the next."""
    pipeline = make()
    for stage in stages:
        pipeline.add(stage, **PLACED, **options)
    return pipeline.parallelize()


def test_idle_processes_of_a_row_may_die(pipelines: Make, caplog: pytest.LogCaptureFixture) -> None:
    """All of them: no item is lost, fresh ones take their places, and the thread that looks
    after them does not run in circles meanwhile."""
    pipeline = row(pipelines, whereabouts, whereabouts, whereabouts)
    (first,) = pipeline.stream([()])
    for number in first:
        os.kill(number, signal.SIGKILL)
    assert wait_until(lambda: not any(map(is_there, first)))
    waiting = threading.Event()
    cpu = process_time()
    waiting.wait(0.3)
    assert process_time() - cpu < 0.2
    (second,) = pipeline.stream([()])
    assert len({*first, *second}) == 6
    assert caplog.text.count("between two items") == 3
    assert list(pipeline.stream([(1,)])) == [(1, *second)]


def is_there(number: int) -> bool:
    """Whether there is such a process, which has not ended."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_call_in_a_row_has_its_own_time(pipelines: Make) -> None:
    """The one that is stuck is killed, alone; order stays."""
    lost: list[StageError] = []
    timed = placement("process", timeout=1.0, max_restarts=5)
    pipeline = pipelines()
    for _ in range(3):
        pipeline.add(stuck, placement=timed, on_error=noting(lost))
    pipeline.parallelize()
    items = [1, "stuck", 2, 3, "stuck", 4]
    assert list(pipeline.stream(items)) == [1, 2, 3, 4]
    assert [failure.path for failure in lost] == ["MainPipeline__Stage_1"] * 2
    assert all(isinstance(failure.__cause__, WorkerLost) for failure in lost)
    assert broken_law(pipeline.statistics()) == []


def unhurried(item: Any) -> Any:
    """The item, a moment later."""
    threading.Event().wait(0.1)
    return item


def test_an_answer_that_lay_there_in_time_counts(pipelines: Make) -> None:
    """Although the thread that looks after the stages was held up behind them for longer than a
    call may take, while the first of them worked on."""
    timed = placement("process", timeout=1.0)
    gate = Gate()
    pipeline = pipelines()
    pipeline.add(unhurried, placement=timed)
    pipeline.add(same, placement=timed)
    pipeline.add(gate, capacity=1)
    pipeline.parallelize()
    running = in_thread(lambda: list(pipeline.stream(range(6))))
    try:
        assert gate.wait_entered()
        assert wait_until(lambda: pipeline.statistics().stages[1].emitted == 3)  # one has no room
        threading.Event().wait(1.5)  # longer than the timeout; nothing else would show it
    finally:
        gate.open()
    assert running.wait().value == list(range(6))


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_stage_of_a_row_that_dies_at_work_costs_its_item(pipelines: Make, victim: int) -> None:
    """The others go on with theirs."""
    lost: list[StageError] = []
    stages = [die if number == victim else same for number in range(3)]
    pipeline = row(pipelines, *stages, on_error=noting(lost))
    assert list(pipeline.stream([1, 2, "kill", 3, 4, "exit", 5])) == [1, 2, 3, 4, 5]
    assert [failure.item for failure in lost] == ["kill", "exit"]
    assert {failure.path for failure in lost} == {f"MainPipeline__Stage_{victim + 1}"}
    assert pipeline.statistics().failed == 2


def same(item: Any) -> Any:
    """The item."""
    return item


class Slow(logging.Handler):
    """Takes its time for each record, as a console or a network does."""

    def emit(self, record: logging.LogRecord) -> None:
        threading.Event().wait(0.0005)


@pytest.fixture
def slow_log() -> Iterator[None]:
    """A logger whose handler is slower than a stage that logs."""
    slow, logger = Slow(), logging.getLogger("acme.flood")
    logger.addHandler(slow)
    logger.propagate = False
    yield
    logger.removeHandler(slow)
    logger.propagate = True


def floods(seconds: float) -> float:
    """Log for so long, without a pause."""
    end = monotonic() + seconds
    while monotonic() < end:
        logging.getLogger("acme.flood").warning("x")
    return seconds


@pytest.mark.usefixtures("slow_log")
def test_a_stage_that_floods_the_log_keeps_its_time(pipelines: Make) -> None:
    """Also in a row, where a look at it does not wait: it ends nevertheless, and a stop comes
    through."""
    lost: list[StageError] = []
    pipeline = row(pipelines, limits(timeout=0.5)(floods), same, on_error=noting(lost))
    assert list(pipeline.stream([0.0, 8.0, 0.1])) == [0.0, 0.1]
    (failure,) = lost
    assert "took longer than its timeout of 0.5 s" in str(failure.__cause__)
    pipeline = row(pipelines, limits(grace=0.1)(floods), same)
    call = in_thread(lambda: pipeline.forward(8.0))
    assert wait_until(lambda: pipeline.statistics().admitted == 1)
    call.wait()
    begin = monotonic()
    pipeline.abort()
    pipeline.cleanup()
    assert monotonic() - begin < 2
    assert pipeline.statistics().dropped == {"abort": 1}


class Saves(Stage[Any]):
    """Writes a file in its cleanup, which takes a moment."""

    def __init__(self, file: str) -> None:
        self.file = file

    def __call__(self, data: Any) -> Any:
        return data

    def cleanup(self) -> None:
        threading.Event().wait(0.05)
        Path(self.file).touch()


def test_who_waits_for_a_stage_left_behind_is_cleaned_up_later(
    pipelines: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It has done nothing wrong: only the thread that looks after both does not return."""
    gate = Gate()
    files = [tmp_path / name for name in "BC"]
    pipeline = pipelines()
    pipeline.add(dies_not, "A", on_error=lambda failure: gate(SKIP), **PLACED)
    for file in files:
        pipeline.add(factory(Saves, file=str(file)), file.name, **PLACED)
    pipeline.parallelize()
    try:
        assert pipeline.forward(0)
        assert gate.wait_entered()
        pipeline.abort()
        pipeline.cleanup(timeout=0.1)
        assert not any(file.exists() for file in files)
    finally:
        gate.open()
    assert wait_until(lambda: all(file.exists() for file in files))
    assert "MainPipeline__B" not in caplog.text
    assert "MainPipeline__C" not in caplog.text


def dies_not(item: Any) -> Any:
    """Fails, and no more."""
    raise ValueError(item)


def test_a_stuck_setup_in_a_row_is_named_alone(
    pipelines: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Not those which are ready and wait for it."""

    pipeline = pipelines()
    pipeline.add(limits(grace=20.0)(NeverReady), "A", **PLACED)
    for name in "BC":
        pipeline.add(same, name, **PLACED)
    pipeline.parallelize()
    start = in_thread(pipeline.start)
    session = pipeline._session
    assert session is not None
    ready = [kept.of_worker(0) for kept in session.run.instances]
    assert wait_until(lambda: ready[0].in_setup and ready[1].ready and ready[2].ready)
    pipeline.abort()
    assert start.wait().error is not None
    pipeline.cleanup(timeout=0.1)
    (left,) = [each for each in caplog.messages if "left behind" in each]
    assert "MainPipeline__A" in left
    assert "MainPipeline__B" not in left
    assert "MainPipeline__C" not in left


def test_a_wish_that_cannot_be_seen_to_costs_its_item_only(
    pipelines: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process waits for an answer to it, so a fresh one takes the next item."""
    numpy = pytest.importorskip("numpy")
    lost: list[StageError] = []
    lease_now, failing = Pool.lease_now, [1]

    def lease(pool: Pool, size: int) -> Any:
        if failing:
            failing.pop()
            raise MemoryError("none at all")
        return lease_now(pool, size)

    monkeypatch.setattr(Pool, "lease_now", lease)
    pipeline = row(pipelines, lambda n: numpy.full(200_000, n), same, on_error=noting(lost))
    assert [frame[0] for frame in pipeline.stream([1, 2, 3])] == [2, 3]
    assert ["none at all" in str(failure.__cause__) for failure in lost] == [True]


def test_an_idle_cleanup_is_quick(pipelines: Make) -> None:
    """Within 100 ms with four processes, best of three."""
    took = []
    for _ in range(3):
        pipeline = one(pipelines, lambda item: item, workers=4)
        pipeline.parallelize()
        pipeline.run(range(3))
        begin = monotonic()
        pipeline.cleanup()
        took.append(monotonic() - begin)
    assert min(took) < 0.1


# -- under load ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kills", "policy"),
    [
        (8, "skip"),
        (8, Retry(50)),
        pytest.param(50, "skip", marks=pytest.mark.soak),
        pytest.param(50, Retry(50), marks=pytest.mark.soak),
    ],
)
def test_random_kills_under_load(pipelines: Make, kills: int, policy: Any) -> None:
    """Each costs at most the item in hand, counted; order is kept, all else arrives."""
    numpy = pytest.importorskip("numpy")
    pids: set[int] = set()

    def work(frame: Any) -> Any:
        frame[:4] = frame[:4] + 1
        return frame, os.getpid()

    def unpack(pair: Any) -> Any:
        pids.add(pair[1])
        return pair[0]

    patient = limits(max_restarts=1000)(work)
    pipeline = pipelines()
    for number in range(2):
        pipeline.add(patient, f"work{number}", workers=2, on_error=policy, **PLACED)
        pipeline.add(unpack, f"unpack{number}")
    pipeline.parallelize()
    stop = threading.Event()
    killed: list[int] = []

    def source() -> Iterator[Any]:
        number = 0
        while not stop.is_set():
            yield numpy.full(20_000, number)
            number += 1

    def murder() -> None:
        rng = random.Random(5)
        for _ in range(kills):
            assert wait_until(lambda: pids - set(killed))
            victim = rng.choice(sorted(pids - set(killed)))
            kill(victim)  # and it is gone, so that no clean-up can meet it alive
            killed.append(victim)
            before = pipeline.statistics().completed
            assert wait_until(lambda: pipeline.statistics().completed > before + 2)  # noqa: B023

    def murder_and_stop() -> None:
        try:
            murder()
        finally:
            stop.set()

    murderer = in_thread(murder_and_stop)
    order = [int(frame[5]) for frame in pipeline.stream(source())]
    if error := murderer.wait(60).error:
        raise error
    pipeline.cleanup()
    statistics = pipeline.statistics()
    assert order == sorted(set(order))
    assert broken_law(statistics) == []
    assert statistics.admitted == len(order) + statistics.failed
    assert statistics.failed <= (kills if policy == "skip" else 0)


# -- Ctrl-C ----------------------------------------------------------------------------


class Alarm:
    """Raises KeyboardInterrupt in this thread after a while, unless it is disarmed by then."""

    def __init__(self) -> None:
        self.armed = False
        self.rings = 0

    def __enter__(self) -> Alarm:
        self._before = signal.signal(signal.SIGALRM, self._ring)
        return self

    def __exit__(self, *error: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)

    def _ring(self, _: int, frame: FrameType | None) -> None:
        if in_logging(frame):
            signal.setitimer(signal.ITIMER_REAL, 1e-4)
        elif self.armed:
            self.armed = False
            self.rings += 1
            raise KeyboardInterrupt

    def within(self, seconds: float, call: Callable[[], object]) -> None:
        """Make a call that may be interrupted."""
        try:
            try:
                self.armed = True
                signal.setitimer(signal.ITIMER_REAL, seconds)
                call()
            finally:
                self.armed = False
        except KeyboardInterrupt:
            pass

    def not_within(self, call: Callable[[], None]) -> Callable[[], None]:
        """The same call, never interrupted."""

        def uninterrupted() -> None:
            armed, self.armed = self.armed, False
            try:
                call()
            finally:
                self.armed = armed

        return uninterrupted


# In a destructor it is only told of, by the interpreter.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_at_any_moment_mixes_nothing_up() -> None:
    """Whatever it interrupts in the caller's thread, later items get their own results."""
    numpy = pytest.importorskip("numpy")
    rng = random.Random(3)

    def work(frame: Any) -> Any:
        return frame + 1

    work = limits(max_restarts=1000)(work)
    spec = StageSpec(path=("MainPipeline", "A"), make=lambda: work, shared=True)
    stage: Any = ProcessPlacement().wrap(spec).make()
    stage.setup()
    with Alarm() as alarm:
        # Amid the making of a socket it loses the descriptor, in the standard library.
        stage._start = alarm.not_within(stage._start)
        for number in range(300):
            frame = numpy.full(20_000 if number % 2 else 5, number)
            alarm.within(rng.uniform(1e-5, 2e-3), lambda: stage(frame))  # noqa: B023
            if number % 10 == 0:
                assert (stage(frame) == number + 1).all()
        assert alarm.rings > 20
    stage.cleanup()
    gc.collect()


def test_ctrl_c_amid_the_lending_of_memory_costs_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that may not know of the memory is not asked again; the next item gets its result."""

    def size(item: Any) -> int:
        return len(item)

    spec = StageSpec(path=("MainPipeline", "A"), make=lambda: size, shared=True)
    stage: Any = ProcessPlacement().wrap(spec).make()
    stage.setup()
    push = Process._push

    def interrupted(self: Process, buffers: Any, descriptors: Any = ()) -> None:
        if descriptors:
            monkeypatch.undo()
            raise KeyboardInterrupt
        push(self, buffers, descriptors)

    monkeypatch.setattr(Process, "_push", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stage(bytes(100_000))
    assert stage(bytes(100_001)) == 100_001
    stage.cleanup()


def test_ctrl_c_amid_the_way_back_of_an_exception_is_no_failure_of_the_stage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It comes out as what it is."""

    def interrupted(stream: Any) -> Any:
        raise KeyboardInterrupt

    parts = enclose(ValueError("no"))
    monkeypatch.setattr(pickle, "loads", interrupted)
    with pytest.raises(KeyboardInterrupt):
        disclose(parts)


def interrupted_then(kind: str) -> Callable[[Any], Any]:
    """A stage whose first call takes long, and then ends its process, or does not end at all."""

    def work(item: Any) -> Any:
        if item == "first":
            threading.Event().wait(0.3 if kind == "dies" else 1000)
            os._exit(3)
        return item

    return work


@pytest.mark.parametrize("kind", ["dies", "hangs"])
def test_an_item_is_not_charged_with_the_one_before(
    pipelines: Make, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """That Ctrl-C has interrupted, and that counts as dropped already."""
    pipeline = one(pipelines, limits(timeout=1.0)(interrupted_then(kind)))
    pipeline.serialize()
    pipeline.run([0])
    with Alarm() as alarm:
        alarm.within(0.1, lambda: pipeline.forward("first"))
    assert alarm.rings == 1
    assert list(pipeline.stream([1, 2])) == [1, 2]
    statistics = pipeline.statistics()
    assert (statistics.failed, statistics.dropped) == (0, {"interrupted": 1})
    assert "Ctrl-C had interrupted" in caplog.text


def test_what_ctrl_c_costs_is_no_death_of_the_process(pipelines: Make) -> None:
    """So it does not count towards those that stop the pipeline."""
    hanging = limits(timeout=0.05, max_restarts=1)(interrupted_then("hangs"))
    pipeline = one(pipelines, hanging)
    pipeline.serialize()
    pipeline.run([0])
    with Alarm() as alarm:
        for _ in range(3):
            alarm.within(0.02, lambda: pipeline.forward("first"))
            assert list(pipeline.stream([1])) == [1]
    assert alarm.rings == 3


def test_ctrl_c_in_a_call_that_hangs_is_what_is_raised(
    pipelines: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """By the block around it, too; that there was no cleanup is a warning."""
    work = interrupted_then("hangs")
    pipeline = one(pipelines, factory(lambda: work))
    pipeline.serialize()
    pipeline.run([0])
    with Alarm() as alarm:
        alarm.within(0.1, lambda: pipeline.forward("first"))
        pipeline.cleanup()
    assert alarm.rings == 1
    assert "its cleanup did not run" in caplog.text
