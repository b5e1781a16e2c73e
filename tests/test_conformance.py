"""What the core itself provides keeps the contracts, and what counts leftovers counts them.

Plugins run the same suites in their own tests.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from pystream_core.testing import (
    Census,
    executor_suite,
    in_thread,
    placement_suite,
)

TestSerial = executor_suite("serial")


class TestInline(placement_suite("inline", ends_stuck_calls=False)):
    """The placement for tests keeps the contract, too."""

    @pytest.fixture(autouse=True)
    def _installed(self, inline_placement):
        """A plugin provides it."""


def test_the_census_sees_what_is_left(tmp_path):
    """Threads, children and descriptors are each named, and no longer once they are gone."""
    before = Census()
    release = tmp_path.joinpath("file").open("w")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    thread = in_thread(child.wait)
    found = "; ".join(before.left(grace=0.01))
    assert f"child process {child.pid}" in found
    assert "thread " in found
    assert str(tmp_path) in found
    release.close()
    child.stdin.close()
    thread.wait()
    assert before.left() == []


def test_what_needs_no_pytest_works_without_it():
    """Clock, stages, placement and waits can be used where pytest is not installed."""
    program = """
        import sys
        sys.modules["pytest"] = sys.modules["hypothesis"] = None
        from pystream_core.testing import Gate, InlinePlacement, ManualClock, Recorder, wait_until
        from pystream_core import Ticker
        clock = ManualClock()
        ticker = Ticker(0.5, clock=clock, wait=clock.wait)
        assert [ticker.wait_tick() and clock() for _ in range(3)] == [0, 0.5, 1.0]
        assert wait_until(lambda: True)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=20)
