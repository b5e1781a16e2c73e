"""Fork: pipelines of the parent are dead in the child, and the parent does not notice (G23)."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

MODES = ["serial", "threads"]

PRELUDE = """
import gc, os, sys, threading, time, warnings
from time import monotonic
from pystream_core import Pipeline, PipelineTerminated, Stage

warnings.filterwarnings("ignore", category=DeprecationWarning)  # fork beside threads
MODE = sys.argv[1]

class Probe(Stage):
    cleanups = 0
    def __call__(self, item):
        threading.Event().wait(0.001)
        return item
    def cleanup(self):
        self.cleanups += 1

def choose(pipeline, mode=MODE, **options):
    return pipeline.serialize() if mode == "serial" else pipeline.parallelize(**options)

def build(mode=MODE, **options):
    pipeline = Pipeline(lambda: 1)
    pipeline.probe = Probe()
    pipeline.add(pipeline.probe)
    pipeline.add(lambda item: item + 1)
    return choose(pipeline, mode, **options)

def refused(call):
    try:
        call()
    except PipelineTerminated as error:
        assert "child" in str(error), error
    else:
        raise AssertionError(f"{call} was not refused")

def check_dead(pipeline):
    started = monotonic()
    refused(lambda: pipeline.forward(1))
    refused(pipeline.forward)
    refused(pipeline.get_results)
    refused(lambda: pipeline.stream([1]))
    refused(lambda: pipeline.run([1]))
    refused(lambda: pipeline.start_loop(1.0))
    refused(pipeline.drain)
    refused(pipeline.start)
    refused(pipeline.as_stage)
    pipeline.statistics()
    repr(pipeline)
    pipeline.stop_loop()
    pipeline.abort()
    pipeline.cleanup()
    pipeline.cleanup()
    assert pipeline.probe.cleanups == 0
    assert monotonic() - started < 5.0  # no call waits for its timeout

def check_own():
    for mode in ("serial", "threads"):
        with build(mode) as own:
            assert list(own.stream(range(20))) == list(range(1, 21))
        assert own.probe.cleanups == 1

def forked(action):
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0, status
        return
    try:
        action()
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
"""


def run(mode: str, script: str) -> str:
    """Run a script in a process of its own and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PRELUDE + textwrap.dedent(script), mode],
        capture_output=True,
        text=True,
        timeout=15,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("mode", MODES)
def test_the_parents_pipeline_is_dead_in_the_child_and_alive_in_the_parent(mode: str) -> None:
    """G23: every call is refused in the child, which may make its own; the parent goes on."""
    run(
        mode,
        """
        pipeline = build()
        for number in range(20):
            pipeline.forward(number)
        forked(lambda: (check_dead(pipeline), check_own()))
        for number in range(20):
            pipeline.forward(number)
        pipeline.cleanup()
        assert pipeline.statistics().completed == 40, pipeline.statistics()
        assert pipeline.probe.cleanups == 1
        """,
    )


@pytest.mark.parametrize("mode", MODES)
def test_a_child_may_choose_a_mode_for_the_parents_pipeline_anew(mode: str) -> None:
    """G23: serialize() or parallelize() in the child starts the pipeline afresh there."""
    run(
        mode,
        """
        pipeline = build()
        pipeline.forward(1)
        def anew():
            choose(pipeline)
            assert list(pipeline.stream([1, 2])) == [2, 3]
            pipeline.cleanup()
            assert pipeline.probe.cleanups == 1
        forked(anew)
        pipeline.cleanup()
        """,
    )


@pytest.mark.parametrize("mode", MODES)
def test_a_fork_while_a_loop_runs(mode: str) -> None:
    """G23: ten forks beside a running loop, with its locks in any state."""
    run(
        mode,
        """
        pipeline = build()
        pipeline.start_loop(0.0005)
        for _ in range(10):
            forked(lambda: check_dead(pipeline))
        before, end = pipeline.statistics().completed, time.monotonic() + 5
        while pipeline.statistics().completed == before:
            assert time.monotonic() < end
            threading.Event().wait(0.001)
        pipeline.cleanup()
        statistics = pipeline.statistics()
        assert statistics.admitted == statistics.completed, statistics
        forked(check_own)
        """,
    )


@pytest.mark.parametrize("mode", MODES)
def test_locks_that_were_held_are_replaced_in_the_child(mode: str) -> None:
    """G23: a lock that another thread held at the fork does not block the child."""
    run(
        mode,
        """
        pipeline = build()
        pipeline.forward(1)
        pipeline.drain()
        session = pipeline._session
        run = session.run
        locks = [
            session._start_lock, session._close_lock, session._stream_lock,
            run._lock, run.ledger._lock, run.report._lock,
        ]
        held, over = threading.Event(), threading.Event()
        def hold():
            for lock in locks:
                lock.acquire()
            held.set()
            over.wait(10)
            for lock in locks:
                lock.release()
        holder = threading.Thread(target=hold)
        holder.start()
        held.wait(10)
        forked(lambda: (check_dead(pipeline), check_own()))
        over.set()
        holder.join()
        pipeline.cleanup()
        assert pipeline.probe.cleanups == 1
        """,
    )


def test_a_fork_in_a_stage() -> None:
    """G23: a stage may fork; in the child its pipeline is dead, in the parent it goes on."""
    run(
        "threads",
        """
        pipeline = Pipeline()
        pipeline.probe = Probe()
        pipeline.add(pipeline.probe)
        def fork(item):
            forked(lambda: (check_dead(pipeline), check_own()))
            return item
        pipeline.add(fork)
        pipeline.parallelize()
        assert list(pipeline.stream([1, 2])) == [1, 2]
        pipeline.cleanup()
        """,
    )


@pytest.mark.parametrize("mode", MODES)
def test_a_child_ends_normally(mode: str) -> None:
    """G20, G23: a child that leaves by sys.exit is not held, and says nothing of the parent's."""
    out = run(
        mode,
        """
        pipeline = build()
        for number in range(5):
            pipeline.forward(number)
        sys.stdout.flush()
        child = os.fork()
        if not child:
            del pipeline
            gc.collect()
            sys.exit(5)
        started = monotonic()
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 5
        assert monotonic() - started < 1.0
        pipeline.cleanup()
        assert pipeline.statistics().completed == 5
        """,
    )
    assert out == ""


@pytest.mark.parametrize("mode", MODES)
def test_observers_of_the_parent_hear_nothing_of_the_child(mode: str) -> None:
    """G23: also when the recorder's locks were held at the fork."""
    run(
        mode,
        """
        from pystream_core import Observer
        class Seen(Observer):
            items = closings = 0
            def collect(self, spans, items):
                self.items += len(items)
            def closed(self, statistics):
                self.closings += 1
        seen = Seen()
        pipeline = Pipeline(lambda: 1, observers=[seen])
        pipeline.probe = Probe()
        pipeline.add(pipeline.probe)
        choose(pipeline)
        pipeline.forward(1)
        pipeline.drain()
        recorder = pipeline._session.run.recorder
        assert recorder.pass_now()
        def check_silence():
            recorder.trace().item((1, 0, 0, 0, "completed"))
            assert recorder.pass_now(0.0)
            assert (seen.items, seen.closings) == (1, 0)
        with recorder._traces_lock, recorder._pass_lock:
            forked(lambda: (check_dead(pipeline), check_silence(), check_own()))
        pipeline.cleanup()
        assert (seen.items, seen.closings) == (1, 1)
        """,
    )
