"""Shows that the suites catch what is wrong: ``python tests/wrong/run.py`` prints the table.

Every wrong implementation is registered by a plugin in a folder of its own, and gets the tests
of the rule that it breaks.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

KINDS = {
    "executor": ("wrong_executors", "executor_suite"),
    "placement": ("wrong_placements", "placement_suite"),
    "observer": ("wrong_observers", "observer_suite"),
    "profiler": ("wrong_profilers", "profiler_suite"),
}
_HANGS = "did not end"  # says the failure of a test that the suite's own deadline has ended
_DEADLINES = {True: 0.5, False: 3.0}  # seconds for a test, by whether it is expected to hang

_PLUGIN = """
from pystream_core import ExecutorSpec, ObserverSpec, PlacementSpec, hookimpl

OFFERS = {offers!r}

@hookimpl
def pystream_executors():
    return [ExecutorSpec(name=name, factory=factory) for name, factory in OFFERS["executor"]]

@hookimpl
def pystream_placements():
    return [PlacementSpec(name=name, factory=factory) for name, factory in OFFERS["placement"]]

@hookimpl
def pystream_observers():
    return [ObserverSpec(name=name, factory=factory) for name, factory in OFFERS["observer"]]
"""

# What hangs leaves something behind, of course; no test waits for that, nor long for cleanups.
_CONFTEST = """
import pytest
from pystream_core import _session

pytest_plugins = ["pystream_core.testing.fixtures"]
_session.LEAST_CLEANUP_TIME = 0.1

@pytest.fixture(autouse=True)
def census():
    yield
"""

_TESTS = """
import wrong_run

globals().update(wrong_run.suites({kinds!r}))
"""


@dataclass(frozen=True)
class Caught:
    """What became of one wrong implementation.

    Attributes:
        kind: what it implements.
        name, does, rule, test: as in the catalogue.
        outcomes: of the test, for each of its parameters: what its failure says, else "".
    """

    kind: str
    name: str
    does: str
    rule: str
    test: str
    shows: str
    outcomes: dict[str, str]

    @property
    def failures(self) -> list[str]:
        """Those that say what was expected."""
        return [one for one in self.outcomes.values() if re.search(self.shows, one)]


def catalogue(kind: str) -> Any:
    """The wrong implementations of one kind."""
    return importlib.import_module(KINDS[kind][0]).WRONG


def suites(kinds: list[str]) -> dict[str, type]:
    """A class of tests for each of them, with the test that has to catch it alone."""
    import pystream_core.testing

    made = {}
    for kind in kinds:
        make = getattr(pystream_core.testing, KINDS[kind][1])
        for wrong in catalogue(kind):
            suite = make(wrong.name)
            hidden = {
                name: None for name in dir(suite) if name.startswith("test_") and name != wrong.test
            }
            deadline = _DEADLINES[_HANGS in wrong.shows]
            attributes = {"deadline": deadline, **hidden, **wrong.attributes}
            made[wrong.suite] = type(wrong.suite, (suite,), attributes)
    return made


def run(kinds: list[str]) -> list[Caught]:
    """Run the tests in this process, which should be one of its own."""
    import pytest

    offers: dict[str, list[tuple[str, str]]] = {"executor": [], "placement": [], "observer": []}
    for kind in kinds:
        found = {(wrong.name, wrong.factory) for wrong in catalogue(kind)}
        offers["observer" if kind == "profiler" else kind] += sorted(found)
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder)
        info = site / "wrong-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wrong\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[pystream]\nwrong = wrong_plugin\n")
        (site / "wrong_plugin.py").write_text(_PLUGIN.format(offers=offers))
        (site / "conftest.py").write_text(_CONFTEST)
        (site / "test_wrong.py").write_text(_TESTS.format(kinds=kinds))
        sys.path[:0] = [folder]
        os.environ["PYSTREAM_PROFILER_FOLDER"] = str(site / "profiles")
        sys.modules["wrong_run"] = sys.modules[__name__]
        seen = _Seen()
        arguments = [
            "-q",
            "--durations=0",
            "-vv",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:randomly",
            "-c",
            os.devnull,
        ]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            pytest.main([*arguments, "--rootdir", folder, folder], plugins=[seen])
        if not seen.outcomes or "--log" in sys.argv:
            sys.stderr.write(printed.getvalue())
    return [
        Caught(
            kind,
            wrong.name,
            wrong.does,
            wrong.rule,
            wrong.test,
            wrong.shows,
            seen.outcomes.get(wrong.suite, {}),
        )
        for kind in kinds
        for wrong in catalogue(kind)
    ]


class _Seen:
    """A pytest plugin that keeps the reports."""

    def __init__(self) -> None:
        self.outcomes: dict[str, dict[str, str]] = {}

    def pytest_runtest_setup(self, item: Any) -> None:
        """One failure of a test with several parameters is enough."""
        import pytest

        if any(self.outcomes.get(item.cls.__name__, {}).values()):
            pytest.skip("caught already")

    def pytest_runtest_logreport(self, report: Any) -> None:
        _, suite, test = report.nodeid.split("::")
        before = self.outcomes.setdefault(suite, {}).setdefault(test, "")
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            says = report.longreprtext if crash is None else crash.message
            self.outcomes[suite][test] = f"{before}\n{says}".strip()


def main() -> None:
    """Print the table, or with ``--json`` everything."""
    kinds = [each for each in sys.argv[1:] if each in KINDS] or list(KINDS)
    caught = run(kinds)
    if "--json" in sys.argv:
        print(json.dumps([{**asdict(one), "failures": one.failures} for one in caught]))
    else:
        for one in caught:
            says = one.failures[0].splitlines()[0] if one.failures else f"NOT: {one.outcomes}"
            print(f"| {one.name} | {one.does} | {one.rule} | `{one.test}` | {says[:100]} |")
        print(f"\n{sum(bool(one.failures) for one in caught)} of {len(caught)} caught")
    sys.stdout.flush()
    os._exit(0)  # what hangs for ever in there keeps nobody


if __name__ == "__main__":
    sys.path[:0] = [str(HERE)]
    main()
