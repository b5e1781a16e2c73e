"""Nothing is left of a program that has ended, however it ended. Each test runs one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pystream_core.testing import wait_until

HEAD = """
import os, queue, signal, sys, threading, time
import pystream_core
from pystream_core import Pipeline, Retry, Stage
from pystream_processes import limits

never = time.sleep
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it

def say(*words):
    print(*words, flush=True)

def pid(item):
    return os.getpid()

def stuck(item):
    say("stuck", os.getpid())
    never(1000)

def busy(item):
    say("busy", os.getpid())
    while True:
        pass
"""


def program(text: str) -> list[str]:
    """The command that runs it."""
    return [sys.executable, "-W", "error", "-c", HEAD + textwrap.dedent(text)]


def run(text: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(program(text), capture_output=True, text=True, timeout=15, **options)


@contextmanager
def started(text: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """The program while it runs; it is killed at the end in any case."""
    child = subprocess.Popen(program(text), stdout=subprocess.PIPE, text=True, **options)
    try:
        with child:
            try:
                yield child
            finally:
                child.kill()
    finally:
        child.wait(5)


def running(process: int) -> bool:
    """Whether there is such a process, one that has not ended."""
    try:
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False


def descendants(process: int) -> set[int]:
    """Its children and theirs."""
    found: set[int] = set()
    for task in Path(f"/proc/{process}/task").iterdir():
        for child in (task / "children").read_text().split():
            found |= {int(child)} | descendants(int(child))
    return found


@pytest.mark.parametrize("stage", ["pid", "stuck", "busy"])
def test_kill_9_of_the_program_leaves_no_process(stage: str) -> None:
    """Idle, asleep in a call or computing: its children end with it, and the server."""
    text = f"""
        pipeline = Pipeline()
        pipeline.add({stage}, workers=2, placement="process")
        pipeline.add(lambda item: bytes(200_000), placement="process")
        pipeline.parallelize()
        pipeline.start()
        pipeline.forward(1)
        if {stage == "pid"}:
            pipeline.drain()
            say("idle")
        never(1000)
    """
    with started(text) as child:
        assert child.stdout is not None
        assert child.stdout.readline()
        found = descendants(child.pid)
        assert len(found) == 4
    assert wait_until(lambda: not any(map(running, found)))


@pytest.mark.parametrize("how", ["return", "sys.exit(3)", "raise ValueError", "os._exit(3)"])
def test_the_end_of_the_program_leaves_no_process(how: str) -> None:
    """With an open pipeline and a call under way, within a second and with its exit status."""
    text = f"""
        def main():
            pipeline = Pipeline()
            pipeline.add(stuck, placement="process")
            pipeline.parallelize()
            pipeline.forward(1)
            while not pipeline.statistics().stages[0].received:
                never(0.01)
            globals()["kept"] = pipeline
            with open(f"/proc/{{os.getpid()}}/task/{{os.getpid()}}/children") as file:
                say("pids", file.read())
            {how}
        main()
    """
    done = run(text)
    assert done.returncode == {"return": 0, "raise ValueError": 1}.get(how, 3)
    lines = [line.split() for line in done.stdout.splitlines()]
    found = {int(number) for _, *numbers in lines for number in numbers}
    assert len(found) >= 1
    assert wait_until(lambda: not any(map(running, found)))
    if how != "raise ValueError":
        assert "Traceback" not in done.stderr


def test_ctrl_c_in_a_terminal_stops_the_program_alone() -> None:
    """The whole group gets it; the children finish what the pipeline asks of them."""
    text = """
        class Tidy(Stage):
            def __call__(self, item):
                return item
            def cleanup(self):
                say("tidy")
        pipeline = Pipeline()
        pipeline.add(Tidy, placement="process")
        try:
            with pipeline.parallelize():
                pipeline.run([1])
                say("ready")
                never(1000)
        except KeyboardInterrupt:
            say("interrupted")
    """
    with started(text, stderr=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        os.killpg(child.pid, signal.SIGINT)
        out, error = child.communicate(timeout=10)
    assert out.splitlines() == ["tidy", "interrupted"]
    assert error == ""


def test_the_server_may_die_too() -> None:
    """Its children are given up, unless an answer of one is there first; the next ones come from
    a new one."""
    done = run("""
        from pystream_processes._launcher import launcher
        pipeline = Pipeline()
        pipeline.add(pid, on_error=Retry(1), placement="process")
        with pipeline.parallelize():
            first, = pipeline.stream([1])
            server = launcher()._server
            os.kill(server.pid, signal.SIGKILL)
            server.wait(5)
            seen = [list(pipeline.stream([number]))[0] for number in range(50)]
            say(first != seen[-1], len(set(seen)) <= 2)
    """)
    assert done.stdout == "True True\n", done.stderr


def test_the_children_of_a_server_that_is_killed_end() -> None:
    """At once, whatever they do: nobody could end them any more."""
    with started("""
        from pystream_processes._launcher import launcher
        pipeline = Pipeline()
        pipeline.add(busy, on_error="skip", placement="process")
        pipeline.parallelize()
        pipeline.start()
        say("server", launcher()._server.pid)
        pipeline.forward(1)
        threading.Event().wait(60)
    """) as program:
        assert program.stdout is not None
        numbers = dict(program.stdout.readline().split() for _ in range(2))
        os.kill(int(numbers["server"]), signal.SIGKILL)
        child = int(numbers["busy"])
        try:
            assert wait_until(lambda: not running(child))
        finally:
            if running(child):
                os.kill(child, signal.SIGKILL)


def test_a_program_may_block_signals() -> None:
    """As those do that wait for them (sigwait, signalfd): the end of a process is seen."""
    done = run("""
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD, signal.SIGTERM])
        def fragile(item):
            if item == 1:
                os._exit(3)
            return item
        pipeline = Pipeline()
        pipeline.add(fragile, on_error=lambda failure: str(failure.__cause__), placement="process")
        with pipeline.parallelize():
            begin = time.monotonic()
            seen = list(pipeline.stream(range(3)))
        say("exit status 3" in seen[1], time.monotonic() - begin < 3)
    """)
    assert done.stdout == "True True\n", done.stderr


def test_what_a_stage_forks_can_be_ended_at_once() -> None:
    """A signal that comes before it has run at all is not lost; nor does it stay blocked."""
    done = run("""
        def blocked():
            return signal.pthread_sigmask(signal.SIG_BLOCK, ())
        def fork(item):
            child = os.fork()
            if not child:
                never(10)
                os._exit(7)
            os.kill(child, signal.SIGTERM)
            ended = os.waitpid(child, 0)[1]
            child = os.fork()
            if not child:
                os._exit(len(blocked()))
            return ended, os.waitpid(child, 0)[1], len(blocked())
        pipeline = Pipeline()
        pipeline.add(fork, placement="process")
        with pipeline.serialize():
            say(*{fork for fork in pipeline.stream(range(20))})
    """)
    assert done.stdout == "(15, 0, 0)\n", done.stderr


def test_what_is_no_text_in_the_path_is_ignored() -> None:
    """As it is by Python."""
    done = run("""
        import pathlib
        sys.path.append(pathlib.Path("/"))
        pipeline = Pipeline()
        pipeline.add(lambda item: item + 1, placement="process")
        with pipeline.serialize():
            say(*pipeline.stream([1]))
    """)
    assert done.stdout == "2\n", done.stderr


@pytest.mark.parametrize("mode", ["serialize", "parallelize"])
def test_the_end_of_the_program_ends_a_setup(mode: str) -> None:
    """Also one that some thread waits for."""
    done = run(f"""
        class Never(Stage):
            def setup(self):
                say("in setup")
                never(1000)
            def __call__(self, data):
                return data
            def cleanup(self):
                pass
        def start():
            try:
                pipeline.start()
            except Exception as error:
                say(type(error).__name__)
        pipeline = Pipeline()
        pipeline.add(Never, placement="process")
        pipeline.{mode}()
        threading.Thread(target=start).start()
        while not pipeline._session.run.instances[0].of_worker(0).in_setup:
            time.sleep(0.01)
        time.sleep(0.3)
        sys.exit(6)
    """)
    assert done.returncode == 6, done.stderr


def test_a_service_that_is_stopped_may_finish() -> None:
    """SIGTERM is sent to all of its processes then; the program decides what to finish."""
    with started("""
        stopped = queue.SimpleQueue()  # an event may hang when it is set amid its own wait
        signal.signal(signal.SIGTERM, stopped.put)
        def slow(item):
            time.sleep(0.2)
            return item
        pipeline = Pipeline()
        pipeline.add(slow, capacity=20, placement="process")
        pipeline.parallelize()
        for number in range(5):
            pipeline.forward(number)
        say("ready")
        stopped.get()
        pipeline.drain(10)
        say(pipeline.statistics().completed)
        pipeline.cleanup()
    """) as program:
        assert program.stdout is not None
        program.stdout.readline()
        for each in (program.pid, *descendants(program.pid)):
            os.kill(each, signal.SIGTERM)
        assert program.stdout.readline() == "5\n"


def test_a_forked_child_has_processes_of_its_own() -> None:
    """It does not hold the parent's open, and can use the placement itself."""
    done = run("""
        import warnings
        warnings.simplefilter("ignore")
        def use(name):
            pipeline = Pipeline()
            pipeline.add(lambda item: (item, bytes(200_000)), placement="process")
            with pipeline.parallelize():
                say(name, [item for item, _ in pipeline.stream([1, 2])])
        pipeline = Pipeline()
        pipeline.add(pid, placement="process")
        pipeline.parallelize()
        first, = pipeline.stream([1])
        child = os.fork()
        if not child:
            use("child")
            sys.exit(0)
        say(os.waitpid(child, 0)[1])
        second, = pipeline.stream([2])
        say("parent", first == second)
        pipeline.cleanup()
    """)
    assert done.stdout.splitlines() == ["child [1, 2]", "0", "parent True"], done.stderr


def test_nothing_of_a_killed_program_is_in_the_folder_of_shared_memory() -> None:
    """Killed with frames in every place: in the pipe, in blocks, in the reader's hands."""
    before = set(os.listdir("/dev/shm"))
    text = """
        pipeline = Pipeline()
        for number in range(3):
            pipeline.add(lambda item: item, placement="process")
        pipeline.parallelize()
        kept = []
        for result in pipeline.stream(bytearray(1 << 20) for _ in iter(int, 1)):
            kept.append(result)
            if len(kept) == 20:
                say("full")
            kept = kept[-30:]
    """
    with started(text) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "full\n"
        assert set(os.listdir("/dev/shm")) == before
    assert set(os.listdir("/dev/shm")) == before


def test_many_lives_leave_nothing() -> None:
    """Starting and stopping again and again, no descriptor, thread, child or memory grows."""
    done = run("""
        import threading
        def figures():
            children = open(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read().split()
            return len(os.listdir("/proc/self/fd")), threading.active_count(), len(children)
        def life():
            pipeline = Pipeline()
            pipeline.add(lambda item: item, placement="process")
            with pipeline.parallelize():
                assert len(list(pipeline.stream([bytes(200_000)] * 3))) == 3
        for _ in range(3):
            life()
        before = figures()
        for _ in range(40):
            life()
        say(before == figures(), before, figures())
    """)
    assert done.stdout.startswith("True"), done.stdout + done.stderr
