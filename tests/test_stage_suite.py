"""The conformance suite of stages: sound ones pass it, and each wrong one is caught by its test.

The stages are those of a distribution as an installer leaves it; the suite runs on them in one
interpreter of its own, as in an author's project.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from pystream_core import PlanError
from pystream_core.testing import stage_suite
from pystream_core.testing._alike import alike

STAGES = '''
import os
import threading
import time

from pystream_core import SKIP, Stage, factory


class Simple(Stage):
    """What every stage here is, but for one thing."""

    def __call__(self, item):
        return item + 1

    def cleanup(self):
        pass


class Within(Simple):
    """Passes what is below a limit, refuses the negative."""

    def __init__(self, limit: int = 10):
        self.limit = limit

    def __call__(self, item):
        if item < 0:
            raise ValueError(item)
        return item if item < self.limit else SKIP


class Pairs(Simple):
    """Two at a time."""

    def setup(self):
        self.held = []

    def __call__(self, item):
        self.held.append(item)
        if len(self.held) < 2:
            return SKIP
        held, self.held = self.held, []
        return held

    def flush(self):
        held, self.held = self.held, []
        return [held] if held else []


class Waits(Simple):
    """A coroutine stage."""

    async def setup(self):
        self.ready = True

    async def __call__(self, item):
        return item + self.ready

    async def cleanup(self):
        self.ready = False


def twice(item):
    """A generator stage."""
    yield item
    yield item + 1


def plus(item, much=1):
    """A function."""
    return item + much


def make_plus(much=1):
    """Makes a function."""
    return lambda item: item + much


made = factory(make_plus)


class ChangesItsItem(Simple):
    def __call__(self, item):
        item.append(1)
        return item


class Remembers(Simple):
    total = 0

    def __call__(self, item):
        Remembers.total += item
        return Remembers.total


class KeepsItsState(Simple):
    total = 0

    def __call__(self, item):
        self.total += item
        time.sleep(0.005)  # else one of three workers may be done before the others are awake
        return self.total


class CannotBeCleanedUp(Simple):
    def setup(self):
        self.ready = True

    def cleanup(self):
        if self.ready:
            raise OSError("busy")


class NeedsASetup(Simple):
    def setup(self):
        self.ready = True

    def cleanup(self):
        assert self.ready


class StaysInItsCall(Simple):
    inside = False

    def __call__(self, item):
        self.inside = True
        if item == 3:
            raise ValueError(item)
        self.inside = False
        return item

    def cleanup(self):
        if self.inside:
            raise RuntimeError("inside")


class KnowsItsThread(Simple):
    def setup(self):
        self.thread = threading.current_thread().name

    def __call__(self, item):
        return self.thread


def _local():
    class Local(Simple):
        pass
    return Local


Local = _local()


class LeavesAFile(Simple):
    kept = []

    def setup(self):
        self.kept.append(os.open(__file__, os.O_RDONLY))


def process(item):
    return os.getpid()


class HoldsBack(Pairs):
    def flush(self):
        return []
'''

SOUND = """
from pystream_core import SKIP
from pystream_core.testing import stage_suite

TestWithin = stage_suite(
    "acme.Within", examples=[(1, 1), (5, SKIP), (-1, ValueError), (2, lambda n: n > 1)], limit=5
)
TestPairs = stage_suite(
    "acme.Pairs", examples=[(1, SKIP), (2, [1, 2]), (3, SKIP)], flushed=[[3]], stateless=False
)
TestWaits = stage_suite("acme.Waits", sample=1, expect=2)
TestTwice = stage_suite("acme.twice", examples=[(1, [1, 2]), (5, lambda some: len(some) == 2)])
TestPlus = stage_suite("acme.plus", sample=1, expect=3, much=2)
TestMade = stage_suite("acme.made", sample=1, expect=3, much=2, picklable=False)
TestMayChange = stage_suite("acme.ChangesItsItem", sample=[], expect=[1], in_place=True)
TestMayRemember = stage_suite(
    "acme.KnowsItsThread", sample=1, expect=str.isascii, picklable=False
)
"""

WRONG: Mapping[str, tuple[str, str]] = {
    "nowhere": ("sample=1, expect=1", "listed_and_loads"),
    "Simple": ("sample=1, expect=1", "every_example"),
    "plus": ("sample=1, expect=ValueError", "every_example"),
    "Within": ("sample=1, expect=SKIP", "every_example"),
    "twice": ("sample=1, expect=[1]", "every_example"),
    "Waits": ("sample=1, expect=lambda result: result == 3", "every_example"),
    "HoldsBack": ("examples=[(1, SKIP)], flushed=[[1]]", "every_example"),
    "ChangesItsItem": ("sample=[], expect=[1]", "items_stay_as_they_are"),
    "Remembers": ("sample=1, expect=bool", "every_executor_gives_the_same[serial"),
    "KeepsItsState": ("sample=1, expect=1", "every_executor_gives_the_same[threads-3"),
    "KnowsItsThread": ("sample=1, expect=bool", "every_executor_gives_the_same[threads-1"),
    "CannotBeCleanedUp": ("sample=1, expect=2", "set_up_and_cleaned_up_once[serial"),
    "StaysInItsCall": (
        "examples=[(1, 1), (3, ValueError)]",
        "cleaned_up_after_a_failing_item[threads",
    ),
    "NeedsASetup": ("sample=1, expect=2", "cleaned_up_without_a_start"),
    "Starts": ("sample=1, expect=1", "starts_afresh"),
    "Local": ("sample=1, expect=2", "sent_to_another_process"),
    "process": ("sample=1, expect=bool", "runs_in_another_process"),
    "LeavesAFile": ("sample=1, expect=2", "set_up_and_cleaned_up_once[serial"),
}
CONFTEST = """
def pytest_collection_modifyitems(items):  # looking for what is left takes seconds
    items[:] = [
        item
        for item in items
        if "Leaves" not in item.nodeid or "set_up_and_cleaned_up_once[serial" in item.nodeid
    ]
"""
OBJECTS = {"Starts": "KeepsItsState"}
"""Stages that come under another name, too."""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What became of each test of each class: ``""`` when it passed."""
    folder = tmp_path_factory.mktemp("stages")
    info = folder / "acme_stages-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-stages\nVersion: 1.0\n")
    names = [
        *("Within", "Pairs", "Waits", "twice", "plus", "made"),
        *(name for name in WRONG if name != "nowhere"),
    ]
    points = {name: OBJECTS.get(name, name) for name in names}
    lines = [f"acme.{name} = acme_many:{attribute}" for name, attribute in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[pystream.stages]", *lines]))
    (folder / "acme_many.py").write_text(STAGES)
    tests = [
        f'TestX{name} = stage_suite("acme.{name}", {given})' for name, (given, _) in WRONG.items()
    ]
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_acme.py").write_text(SOUND + "\n".join(tests))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "pystream_core.testing.fixtures"),
            *("-p", "no:cacheprovider", "--junit-xml", "report.xml", "-p", "no:randomly"),
            *("--rootdir", ".", "-c", os.devnull),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found: dict[str, dict[str, str]] = {}
    for case in ET.parse(folder / "report.xml").iter("testcase"):
        told = [each for each in case if each.tag in ("failure", "error")]
        text = "\n".join(f"{each.get('message')}\n{each.text}" for each in told)
        found.setdefault(str(case.get("classname")).rpartition(".")[2], {}).setdefault(
            str(case.get("name")), ""
        )
        found[str(case.get("classname")).rpartition(".")[2]][str(case.get("name"))] += text
    return found


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "name",
    ["Within", "Pairs", "Waits", "Twice", "Plus", "Made", "MayChange"],
)
def test_a_sound_stage_passes(report: dict[str, dict[str, str]], name: str) -> None:
    """Classes, functions, factories; generator, batching and coroutine stages."""
    results = report[f"Test{name}"]
    assert len(results) == 15
    assert not any(results.values()), results


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_stage_is_caught(report: dict[str, dict[str, str]], name: str) -> None:
    """By the test that states what is wrong with it."""
    failed = {test for test, told in report[f"TestX{name}"].items() if told}
    assert any(WRONG[name][1] in test for test in failed), failed


@pytest.mark.timeout(60)
def test_a_failure_says_what_came_and_what_was_expected(report: dict[str, dict[str, str]]) -> None:
    """Item by item, in words."""
    failures = {name: report[f"TestX{name}"] for name in ("Simple", "Within", "plus", "HoldsBack")}
    told = {name: "".join(each.values()) for name, each in failures.items()}
    assert "1 gave 2, not 1" in told["Simple"]
    assert "1 gave 1, not nothing" in told["Within"]
    assert "1 gave 2, not ValueError" in told["plus"]
    assert "the flush gave nothing, not [1]" in told["HoldsBack"]
    assert "left behind: descriptor" in "".join(report["TestXLeavesAFile"].values())


def test_a_suite_needs_an_example() -> None:
    """Without one, or with half of one, it is refused where it is written."""
    with pytest.raises(PlanError, match="give sample= and expect="):
        stage_suite("acme.blur")
    with pytest.raises(PlanError, match="together"):
        stage_suite("acme.blur", sample=1)


def test_a_sample_that_cannot_be_copied_is_refused() -> None:
    """Each run gets copies, so that one cannot see what another did to them."""
    suite: Any = stage_suite("log", sample=(n for n in "ab"), expect=1)
    with pytest.raises(PlanError, match=r"copy.deepcopy of <generator.* raised TypeError"):
        suite().items()


NAN = float("nan")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, 1, True),
        (1, 2, False),
        (NAN, float("nan"), True),
        ([1, [2]], [1, [2]], True),
        ([1], (1,), False),
        ([1], [1, 2], False),
        ({"a": [NAN]}, {"a": [NAN]}, True),
        ({"a": 1}, {"b": 1}, False),
        (np.array([1, 2]), np.array([1, 2]), True),
        (np.array([1, 2]), np.array([1, 3]), False),
        (np.array([1, 2]), np.array([[1, 2]]), False),
        (np.array([1]), np.array([1.0]), False),
        (np.array([NAN, 1]), np.array([NAN, 1]), True),
        (np.array([]), np.array([]), True),
        (np.array([1, 2]), [1, 2], True),
        (np.array([1, 2]), [1, 3], False),
        ((np.array([1, 2]), "x"), (np.array([1, 2]), "x"), True),
        (0.1 + 0.2, pytest.approx(0.3), True),
        ([0.1 + 0.2], [pytest.approx(0.3)], True),
        (np.array([0.1 + 0.2]), pytest.approx(np.array([0.3])), True),
        (np.float32(1), 1.0, True),
    ],
)
def test_alike(one: Any, other: Any, same: bool) -> None:
    """Equal as a reader of a test would say, arrays and NaN included."""
    assert alike(one, other) is same
