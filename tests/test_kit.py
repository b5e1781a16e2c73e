"""The conformance kit itself: its errors, its deadline, what its failures show, its switches."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from pystream_core.testing import (
    executor_suite,
    observer_suite,
    placement_suite,
    profiler_suite,
)
from pystream_core.testing._deadline import Deadline

PLUGIN = """
from pystream_core import {record}, hookimpl

@hookimpl
def {hook}():
    return [{record}(name="acme", factory="acme_code:Acme")]
"""


class TooLate(BaseException):
    """What a deadline raises here."""


def too_late(report: str) -> None:
    raise TooLate(report)


@pytest.fixture
def try_suite(tmp_path: Path):
    """Runs a suite on a plugin of one module, in a process of its own; what pytest prints."""

    def run(kind: str, code: str, test: str, *select: str) -> str:
        record, hook = {
            "executor": ("ExecutorSpec", "pystream_executors"),
            "placement": ("PlacementSpec", "pystream_placements"),
            "observer": ("ObserverSpec", "pystream_observers"),
        }[kind]
        info = tmp_path / "acme-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[pystream]\nacme = acme_plugin\n")
        (tmp_path / "acme_plugin.py").write_text(PLUGIN.format(record=record, hook=hook))
        (tmp_path / "acme_code.py").write_text(textwrap.dedent(code))
        (tmp_path / "test_acme.py").write_text(textwrap.dedent(test))
        (tmp_path / "conftest.py").write_text(
            'pytest_plugins = ["pystream_core.testing.fixtures"]\n'
        )
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly"]
        command += ["-c", os.devnull, "--rootdir", str(tmp_path), "-rs", *select, str(tmp_path)]
        ran = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=19,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            cwd=tmp_path,
        )
        return ran.stdout + ran.stderr

    return run


# -- without what it needs ---------------------------------------------------------------


@pytest.mark.parametrize("missing", ["pytest", "hypothesis"])
@pytest.mark.parametrize("kind", ["executor", "placement", "observer", "profiler"])
def test_what_is_missing_is_named_with_the_command(kind: str, missing: str) -> None:
    """The kit can be imported without them; the call says what to install."""
    program = f"""
        import sys
        sys.modules[{missing!r}] = None
        from pystream_core.testing import {kind}_suite
        try:
            {kind}_suite("acme")
        except ImportError as error:
            print(error)
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert ran.stdout == (
        f"the conformance suites need {missing}, which is not installed: "
        f"python -m pip install 'pystream-core[testing]'\n"
    )


@pytest.mark.parametrize("make", [placement_suite, observer_suite, profiler_suite])
def test_an_unknown_switch_is_refused(make) -> None:
    """With the list of those that there are."""
    with pytest.raises(TypeError, match=r"no switch 'supports_magic'; there are .*executor"):
        make("acme", supports_magic=False)


def test_a_class_is_named_after_its_implementation() -> None:
    """So that a report tells it, whatever the name holds."""
    assert executor_suite("acme-dist/fast.one").__name__ == "TestAcmeDistFastOne"


# -- what a failure shows ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "code", "test", "select", "shows"),
    [
        (
            "executor",
            """
            from pystream_core._serial import SerialExecutor

            class Acme(SerialExecutor):
                def iterate(self, source):
                    return (item for item in super().iterate(source) if item != 3)
            """,
            """
            from pystream_core.testing import executor_suite
            TestAcme = executor_suite("acme", side_by_side=False)
            """,
            "every_result_comes_once",
            ["At index 3 diff: 4 != 3", "one bin: every item whose admit returned True"],
        ),
        (
            "placement",
            """
            from dataclasses import replace
            from pystream_core.testing import InlinePlacement

            class Acme(InlinePlacement):
                def wrap(self, spec):
                    return super().wrap(replace(spec, path=("elsewhere",)))
            """,
            """
            from pystream_core.testing import placement_suite
            TestAcme = placement_suite("acme")
            """,
            "specification",
            ["assert ('elsewhere',) == (", "specification: path, options and kind"],
        ),
        (
            "observer",
            """
            from pystream_core import Observer

            class Acme(Observer):
                def collect(self, spans, items):
                    raise LookupError("no place")
            """,
            """
            from pystream_core.testing import observer_suite
            TestAcme = observer_suite("acme")
            """,
            "beginning_to_its_end",
            ["assert [LookupError('no place')] == []", "never raises: it takes whatever"],
        ),
        (
            "observer",
            """
            from pystream_core import Profile, Profiler

            class Acme(Profiler):
                def summarize(self):
                    return Profile(lost=4)
            """,
            """
            from pystream_core.testing import profiler_suite
            TestAcme = profiler_suite("acme")
            """,
            "losses",
            ["assert 4 == 0", "losses: records that were lost are counted"],
        ),
    ],
    ids=["executor", "placement", "observer", "profiler"],
)
def test_a_failure_shows_the_values_and_the_rule(
    try_suite, kind, code, test, select, shows
) -> None:
    """Assertions are rewritten in every suite, and the report names the rule that was broken."""
    printed = try_suite(kind, code, test, "-k", select)
    for words in shows:
        assert words in printed


def test_a_test_that_hangs_fails_and_shows_where(try_suite) -> None:
    """The suite's own deadline ends it; the rest of the run goes on."""
    printed = try_suite(
        "executor",
        """
        import threading
        from pystream_core._serial import SerialExecutor

        class Acme(SerialExecutor):
            def drain(self, timeout):
                return threading.Event().wait()
        """,
        """
        from pystream_core.testing import executor_suite

        class TestAcme(executor_suite("acme", side_by_side=False)):
            deadline = 0.5
        """,
        "-k",
        "drain_waits_for_everything or every_result",
    )
    assert "the test did not end within 0.5 s" in printed
    assert "acme_code.py" in printed
    assert "1 failed, 4 passed" in printed


def test_a_fixture_that_hangs_fails_and_shows_where(try_suite) -> None:
    """Those that a suite's subclass adds, too."""
    printed = try_suite(
        "executor",
        """
        from pystream_core._serial import SerialExecutor

        class Acme(SerialExecutor):
            pass
        """,
        """
        import threading
        import pytest
        from pystream_core.testing import executor_suite

        class TestAcme(executor_suite("acme", side_by_side=False)):
            deadline = 0.5

            @pytest.fixture(autouse=True)
            def device(self, request):
                if "drain" in request.node.name:
                    threading.Event().wait()
        """,
        "-k",
        "drain_waits_for_everything or every_result",
    )
    assert "the setup of the test did not end within 0.5 s" in printed
    assert "in device" in printed
    assert "4 passed, " in printed
    assert "1 error" in printed


def test_the_deadline_of_a_test_does_not_end_the_report_about_it(try_suite) -> None:
    """Which may take longer than the test; raised in there, it would end the whole run."""
    printed = try_suite(
        "executor",
        """
        import threading
        import pytest
        from pystream_core._serial import SerialExecutor

        class Acme(SerialExecutor):
            def drain(self, timeout):
                raise LookupError("nothing to drain")

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(item, call):
            if call.excinfo is not None:
                threading.Event().wait(1.0)
            return (yield)
        """,
        """
        from pystream_core.testing import executor_suite

        class TestAcme(executor_suite("acme", side_by_side=False)):
            deadline = 0.5
        """,
        "-p",
        "acme_code",
        "-k",
        "drain_waits_for_everything or every_result",
    )
    assert "LookupError: nothing to drain" in printed
    assert "1 failed, 4 passed" in printed


def test_a_test_that_is_over_keeps_no_pipeline(try_suite) -> None:
    """The suite's objects live as long as the run; what the test made does not."""
    printed = try_suite(
        "executor",
        """
        from pystream_core._serial import SerialExecutor

        class Acme(SerialExecutor):
            pass
        """,
        """
        import gc
        from pystream_core import Pipeline
        from pystream_core.testing import Gate, executor_suite

        class TestAcme(executor_suite("acme", side_by_side=False)):
            pass

        def test_every_result_is_let_go():
            gc.collect()
            kept = [each for each in gc.get_objects() if isinstance(each, (Pipeline, Gate))]
            assert kept == []
        """,
        "-k",
        "every_result",
        "-v",
    )
    assert "TestAcme" in printed
    assert "test_every_result_is_let_go PASSED" in printed


# -- switches ----------------------------------------------------------------------------

LEAVES_OUT = """
    from pystream_core import PlanError
    from pystream_core._serial import SerialExecutor

    class Acme(SerialExecutor):
        def start(self, run):
            for index, spec in enumerate(run.plan.stages):
                for what, is_wanted in (
                    ("after=, since it has no branches", not run.plan.graph.linear and index == 1),
                    ("generator stages", spec.kind == "generator"),
                    ("flush()", spec.batching),
                    ("coroutine functions", spec.kind == "coroutine"),
                    ("workers", spec.options.workers > 1),
                    ("max_age", spec.options.max_age is not None),
                ):
                    if is_wanted:
                        raise PlanError(f"stage {spec.name!r}: acme does not support {what}")
            super().start(run)
"""
LEFT_OUT_TEST = """
    from pystream_core.testing import executor_suite

    class TestAcme(executor_suite("acme", side_by_side=False)):
        supports_branches = False
        supports_generators = False
        supports_batching = False
        supports_coroutines = False
        supports_workers = False
        supports_overflow = False
        supports_max_age = False
"""


def test_what_an_executor_leaves_out_is_left_out_of_its_suite(try_suite) -> None:
    """Everything else is tested, and that it refuses what it does not support."""
    printed = try_suite("executor", LEAVES_OUT, LEFT_OUT_TEST, "-v")
    assert "test_what_is_left_out_is_refused PASSED" in printed
    assert "it says supports_branches = False" in printed
    assert "test_drain_waits_for_everything PASSED" in printed
    assert "test_any_number_of_threads_may_call PASSED" in printed
    assert re.search(r"\d+ (failed|error)", printed) is None


# -- the deadline ------------------------------------------------------------------------


def test_a_deadline_ends_a_wait_for_a_lock() -> None:
    """With the stacks of the threads, and SIGINT is as it was."""
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(TooLate, match=r"did not end within 0\.05 s(?s:.)*MainThread"):
        with Deadline(0.05, too_late):
            threading.Event().wait(10)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_deadline_that_somebody_swallows_is_told_all_the_same() -> None:
    """Once more while it goes on, and at the end."""
    with pytest.raises(TooLate), Deadline(0.05, too_late):
        try:
            threading.Event().wait(10)
        except TooLate:
            pass


def test_ctrl_c_goes_through_a_deadline() -> None:
    """As if it were not there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt), Deadline(10, too_late):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_deadline_raises_in_its_context_only() -> None:
    """Not when the time runs out while it is left: at the end of that."""
    deadline = Deadline(60, too_late)
    left: list[str] = []

    class Signals:
        """In place of the lock that it takes on its way out."""

        def __enter__(self) -> None:
            deadline._due, deadline._report = True, "did not end"
            signal.raise_signal(signal.SIGINT)
            left.append("taken")

        def __exit__(self, *_: object) -> None:
            pass

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(TooLate), deadline:
        deadline._lock = Signals()  # type: ignore[assignment]
    assert left == ["taken"]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_deadline_in_another_thread_does_nothing() -> None:
    """It can only wake the main thread."""
    ended = threading.Event()

    def work() -> None:
        with Deadline(0.001, too_late):
            ended.wait(0.05)
        ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(5)
    assert ended.is_set()
