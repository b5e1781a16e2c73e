"""Ctrl-C and SIGTERM, in processes of their own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
from pystream_cli._tap import LeaveSource, Tap

ENDLESS = '[source]\nuse = "steps:endless"\n[[stage]]\nuse = "steps:plus"\n'
BLOCKED = '[source]\nuse = "steps:blocked"\n[[stage]]\nuse = "steps:plus"\n'
STUCK = '[source]\nuse = "steps:numbers"\n[[stage]]\nuse = "steps:stuck"\n'

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


def wait_until_ready(process):
    """Read until the pipeline says that it runs; what is printed goes to stderr with --json."""
    while True:
        line = process.stderr.readline()
        assert line, "it ended without having run"
        if line == "ready\n":
            return


def stopped(project, text, *arguments, number=signal.SIGINT):
    """Run until it says ``ready``, send one signal; the code, the object and stderr."""
    with project.start(text, "--json", "--no-profile", *arguments) as process:
        wait_until_ready(process)
        process.send_signal(number)
        stdout, stderr = process.communicate()
    return process.returncode, json.loads(stdout), stderr


@pytest.mark.parametrize("executor", ["threads", "serial"])
def test_ctrl_c_stops_the_source_and_drains(project, executor):
    """Every item that was taken comes through, and the code is 130."""
    code, found, stderr = stopped(project, ENDLESS, "--executor", executor)
    assert (code, found["state"], found["signal"]) == (130, "stopped", "SIGINT")
    assert found["statistics"]["admitted"] == found["statistics"]["completed"] >= 3
    assert "Press Ctrl-C again to abort" in stderr
    assert "Traceback" not in stderr


def test_sigterm_drains_like_ctrl_c(project):
    """Service managers get an orderly end, and 143."""
    code, found, _ = stopped(project, ENDLESS, number=signal.SIGTERM)
    assert (code, found["state"], found["signal"]) == (143, "stopped", "SIGTERM")
    assert found["statistics"]["admitted"] == found["statistics"]["completed"]


@pytest.mark.parametrize("executor", ["threads", "serial"])
def test_a_source_blocked_in_its_reading_does_not_hold_up_the_end(project, executor):
    """One signal is enough: what was taken is finished, the source is left."""
    started = time.monotonic()
    code, found, _ = stopped(project, BLOCKED, "--executor", executor)
    assert (code, found["state"]) == (130, "stopped")
    assert found["statistics"]["completed"] == 1
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("executor", ["threads", "serial"])
def test_a_second_ctrl_c_aborts(project, executor):
    """G21: a stage that does not return is left behind, and named in the ledger's figures as
    dropped or still in flight; the prompt is back well before a cleanup would give up."""
    with project.start(STUCK, "--json", "--no-profile", "--executor", executor) as process:
        wait_until_ready(process)
        process.send_signal(signal.SIGINT)
        assert "SIGINT" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        second = time.monotonic()
        stdout, stderr = process.communicate()
        took = time.monotonic() - second
    found = json.loads(stdout)
    assert (process.returncode, found["state"]) == (130, "aborted")
    figures = found["statistics"]
    assert sum(figures["dropped"].values()) + figures["in_flight"] > 0
    assert took < 1.9
    assert "Traceback" not in stderr


@pytest.mark.parametrize("executor", ["threads", "serial"])
def test_draining_is_bounded(project, executor):
    """What does not finish within drain_timeout is aborted after one signal, too."""
    text = "[pipeline]\ndrain_timeout = 0.2\n" + STUCK
    code, found, stderr = stopped(project, text, "--executor", executor, number=signal.SIGTERM)
    assert (code, found["state"]) == (143, "aborted")
    assert "Not everything has finished within 0.2 s" in stderr


def test_an_ignored_ctrl_c_stays_ignored(project):
    """A background job of a shell must not end with its foreground neighbour."""
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN);"
        "from pystream_cli import main; main(sys.argv[1:])"
    )
    path = project.write(ENDLESS)
    with subprocess.Popen(
        [sys.executable, "-c", code, "run", str(path), "--json", "--no-profile"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=project.folder,
    ) as process:
        wait_until_ready(process)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        stdout, _ = process.communicate()
    assert json.loads(stdout)["signal"] == "SIGTERM"


def test_a_shut_tap_ends_and_closes_its_source():
    """After shut() nothing more is taken, and a generator runs its finally."""
    closed = []

    def source():
        try:
            yield from range(10)
        finally:
            closed.append(True)

    tap = Tap(source())
    assert [next(tap), next(tap)] == [0, 1]
    tap.shut()
    assert list(tap) == []
    assert (closed, tap.taken) == ([True], 2)


def test_a_tap_takes_no_more_than_its_limit():
    """The source is not asked for an item that nobody wants."""
    asked = iter(range(10))
    assert list(Tap(asked, 3)) == [0, 1, 2]
    assert next(asked) == 3


def test_a_tap_that_was_left_discards_what_comes_late():
    """An item that a source gives after it was left is not admitted any more."""

    def source():
        tap.leave()
        yield 1

    tap = Tap(source())
    assert list(tap) == []
    assert tap.taken == 0


def test_leaving_a_source_is_its_end():
    """What a signal handler raises inside a source ends the stream, not the program."""

    def source():
        yield 1
        raise LeaveSource

    tap = Tap(source())
    assert list(tap) == [1]
    assert tap.error is None


def test_a_tap_remembers_what_its_source_raised():
    """So that it is not blamed on a stage."""

    def source():
        yield 1
        raise OSError("gone")

    tap = Tap(source())
    with pytest.raises(OSError, match="gone") as raised:
        list(tap)
    assert tap.error is raised.value
