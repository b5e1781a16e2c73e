"""Ctrl-C at any line of the serial path: every item has its bin, and the pipeline goes on."""

from __future__ import annotations

import linecache
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import pystream_core
from pystream_core import SKIP, Envelope, Observer, Pipeline, PipelineTerminated
from pystream_core._ledger import Ledger
from pystream_core.testing import PATIENCE, Recorder, broken_law, in_thread
from pystream_core.testing._waiting import in_logging

CORE = Path(pystream_core.__file__).parent
MODULES = {str(CORE / f"{name}.py") for name in ("_serial", "_chain", "_call", "_executor")}
# Where no signal is looked at, since there is neither a call nor a jump back, or only one behind
# which all is done: taking the turn and giving it back. ``Baton`` says how it is taken.
QUIET = {
    "try:",
    "return True",
    "if mine:  # see Baton for why there is no call for that",
    "mine = True",
    "if turn.owner == me:  # see Baton for why there is no call for that",
    "self._steps = None",
    "self._chain.position = 0",
    "turn.owner = None",
    "turn.tokens.post(None)",
    "give(None)",
    "if turn.closed or turn.tokens.sleepers:",
    "if turn.closed or sleepers:",
}


class Interrupt:
    """Raises KeyboardInterrupt at a line of the serial path, counted from the first one."""

    def __init__(self, pipeline: Pipeline, at: int) -> None:
        session = pipeline._session
        assert session is not None
        self._turn: Any = session.executor._turn  # type: ignore[attr-defined]
        self._left = at
        self.where = ""

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        if code.co_filename not in MODULES or code.co_name == "_take_turn":
            return None
        line = linecache.getline(code.co_filename, frame.f_lineno).strip()
        if event != "line" or self._turn.owner is None or line in QUIET or self.where:
            return self
        self._left -= 1
        if self._left < 0:
            self.where = f"{Path(code.co_filename).name}:{frame.f_lineno}"
            raise KeyboardInterrupt
        return self


def double(n: int) -> Iterator[int]:
    """A generator stage."""
    yield n
    yield n


def some(n: int) -> Any:
    """Filters and fails."""
    if n % 3 == 1:
        raise ValueError(n)
    return SKIP if n % 3 == 2 else n


def same(n: int) -> int:
    """An item as it is."""
    return n


def streams(pipeline: Pipeline) -> None:
    """A short stream, read to its end."""
    for _ in pipeline.stream(range(4)):
        pass


def forwards(pipeline: Pipeline) -> None:
    """A few items, one by one."""
    for n in range(4):
        pipeline.forward(n)


@pytest.mark.parametrize("use", [streams, forwards])
@pytest.mark.parametrize("observed", [False, True], ids=["", "observed"])
@pytest.mark.parametrize("stages", [(same, same), (same, some, same), (same, double, same)])
def test_every_item_has_a_bin_wherever_ctrl_c_comes(
    stages: tuple[Callable[[int], Any], ...], observed: bool, use: Callable[[Pipeline], None]
) -> None:
    """The ledger adds up afterwards, nothing is in flight, and the next items come through."""
    pipeline = Pipeline(observers=[Observer()] if observed else [])
    for number, stage in enumerate(stages):
        pipeline.add(stage, f"S{number}", on_error="skip")
    pipeline.serialize()
    pipeline.start()
    before, tried = sys.gettrace(), 0
    while True:
        interrupt = Interrupt(pipeline, tried)
        sys.settrace(interrupt)
        try:
            use(pipeline)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        statistics = pipeline.statistics()
        assert not broken_law(statistics), interrupt.where
        if not interrupt.where:
            break
        tried += 1
    assert tried > 20
    assert set(statistics.dropped) <= {"interrupted", "reader left"}
    assert list(pipeline.stream([0]))
    pipeline.cleanup()


class AtCall:
    """Raises KeyboardInterrupt at the beginning of a call of ours, counted from 0.

    Attributes:
        where: of that, once it has come.
    """

    def __init__(self, at: int) -> None:
        self._left = at
        self.where = ""

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event != "call" or self.where or "pystream" not in frame.f_code.co_filename:
            return
        self._left -= 1
        if self._left < 0:
            self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
            raise KeyboardInterrupt


def interrupted_at(at: int, call: Callable[[], object]) -> str:
    """Call it with Ctrl-C at that beginning; where that was, or "" when there was none."""
    interrupt = AtCall(at)
    before = sys.gettrace()
    sys.settrace(interrupt)
    try:
        call()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return interrupt.where


@pytest.mark.timeout(60)
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("overflow", ["block", "drop_newest", "drop_oldest"])
def test_ctrl_c_in_forward_leaves_the_workers_at_work(
    overflow: Any, workers: int, pipelines: Callable[..., Pipeline], caplog: Any
) -> None:
    """Who is woken for an item is woken in any case, and every item has its bin in the end."""
    at = 0
    while True:
        pipeline = pipelines()
        for _ in range(2):
            pipeline.add(same, workers=workers, overflow=overflow, capacity=4)
        pipeline.parallelize().start()
        assert pipeline.forward(0)
        pipeline.drain(PATIENCE)  # all sleep
        where = interrupted_at(at, lambda: pipeline.forward(1))  # noqa: B023
        assert pipeline.forward(2), where
        pipeline.drain(PATIENCE)
        if overflow == "block":
            assert pipeline.statistics().in_flight == 0, where
        pipeline.cleanup()
        statistics = pipeline.statistics()
        assert broken_law(statistics) == [], where
        assert statistics.in_flight == 0, where
        assert set(statistics.dropped) <= {"interrupted"}, where
        assert statistics.completed >= 2
        if not where:
            break
        at += 1
    assert at > 10
    assert "does not add up" not in caplog.text


@pytest.mark.parametrize("overflow", ["block", "drop_oldest"])
def test_what_is_refused_is_no_interrupt(overflow: Any, pipelines: Callable[..., Pipeline]) -> None:
    """The ledger is not mended for that: it would hide a fault of ours."""
    pipeline = pipelines()
    pipeline.add(same, overflow=overflow)
    pipeline.parallelize().start()
    pipeline.abort()
    session: Any = pipeline._session
    with pytest.raises(PipelineTerminated):
        session.executor.admit(Envelope(1), None)
    assert not session.run.interrupted


@pytest.mark.timeout(60)
@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_in_a_reader_loses_no_result_in_silence(
    workers: int, pipelines: Callable[..., Pipeline]
) -> None:
    """He comes back and gets every one, in order, and the end; or the rest counts as dropped."""
    at = 0
    while True:
        pipeline = pipelines()
        for _ in range(2):
            pipeline.add(same, workers=workers)
        pipeline.parallelize()
        stream = pipeline.stream(range(40))
        found = [next(stream)]
        where = interrupted_at(at, lambda: found.extend(stream))  # noqa: B023
        in_thread(lambda: found.extend(stream)).wait()  # noqa: B023
        pipeline.cleanup()
        statistics = pipeline.statistics()
        assert broken_law(statistics) == [], where
        assert found == list(range(statistics.completed)), where
        assert statistics.completed + sum(statistics.dropped.values()) == 40, where
        if not where:
            break
        at += 1
    assert at > 30


def test_a_stream_whose_end_was_interrupted_is_closed(pipelines: Callable[..., Pipeline]) -> None:
    """Ctrl-C as its claim was to be given back does not keep the next one out."""
    pipeline = pipelines()
    pipeline.add(same)
    pipeline.serialize()
    session: Any = pipeline._session

    def interrupted(*_: Any) -> None:
        del session._end_own
        raise KeyboardInterrupt

    session._end_own = interrupted
    with pytest.raises(KeyboardInterrupt):
        list(pipeline.stream([1]))
    assert list(pipeline.stream([2])) == [2]
    assert pipeline.forward(3)


def test_what_is_missing_is_counted_where_it_was_lost() -> None:
    """Before a stage, in it, and before the output."""
    ledger = Ledger(["A", "B"])
    first, second = ledger.counters(0), ledger.counters(1)
    ledger.admitted = 6
    first.received, first.emitted = 5, 4
    second.received, second.emitted = 3, 3
    ledger.completed = 2
    ledger.mend("interrupted")
    statistics = ledger.snapshot()
    assert not broken_law(statistics)
    assert not ledger.violations()
    assert statistics.dropped == {"interrupted": 4}
    assert [dict(each.lost_before) for each in statistics.stages] == [{"interrupted": 1}] * 2
    assert dict(statistics.stages[0].dropped) == {"interrupted": 1}
    ledger.mend("interrupted")
    assert ledger.snapshot() == statistics


ALARM = getattr(signal, "SIGALRM", None)


@pytest.mark.skipif(ALARM is None, reason="this system has no timer that sends a signal")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("use", [streams, forwards])
@pytest.mark.parametrize("stage", [same, double])
def test_the_turn_comes_back_wherever_a_signal_comes(
    stage: Callable[[int], Any], use: Callable[[Pipeline], None]
) -> None:
    """A real one, at any moment: nothing hangs, nothing is refused, the ledger adds up, and the
    stage is cleaned up."""
    rng = random.Random(7)
    armed = False

    def ring(_: int, frame: FrameType | None) -> None:
        if armed and not in_logging(frame):
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, ring)
    try:
        for _ in range(60):
            recorder = Recorder()
            pipeline = Pipeline()
            pipeline.add(recorder)
            pipeline.add(stage)
            pipeline.serialize().start()
            with pytest.raises(KeyboardInterrupt):
                armed = True
                # And again later: what is raised in a destructor, or in what is called as
                # garbage is collected, is lost.
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.0002, 0.002), 0.5)
                while True:
                    use(pipeline)
            armed = False
            assert broken_law(pipeline.statistics()) == []
            assert in_thread(lambda: pipeline.forward(1)).wait(PATIENCE).value  # noqa: B023
            assert pipeline.forward(1)
            pipeline.cleanup()
            assert len(recorder.cleanups) == 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
