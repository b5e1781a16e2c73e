"""Fixtures that every test of PyStream and of its plugins can use; a pytest plugin.

In the ``conftest.py`` at the root of a project::

    pytest_plugins = ["pystream_core.testing.fixtures"]
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from .. import _registry, _session
from .._errors import PluginNotFound
from .._pipeline import Pipeline
from .._registry import Registry
from ._census import Census
from ._clock import ManualClock
from ._handles import Tracker

_PLUGIN = """
from pystream_core import PlacementSpec, hookimpl
from pystream_core.testing import InlinePlacement, Tracker

tracker = Tracker()

@hookimpl
def pystream_placements():
    return [PlacementSpec(name={name!r}, factory="{module}:{factory}")]
"""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the rule that a failed test of a conformance suite stands for."""
    report = yield
    name = getattr(item, "originalname", None)
    rules = getattr(getattr(item, "cls", None), "rules", ())
    if report.failed:
        broken = [f"{rule.name}: {rule.text}" for rule in rules if name in rule.tests]
        if broken:
            report.sections.append(("the rule", "\n".join(broken)))
    return report


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """The deadline of a conformance suite is that of its tests, not of what pytest does about
    them: who raises in there ends the whole run."""
    with _deadline(item, "the setup of the test"):
        return (yield)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """The same for the test itself."""
    with _deadline(item, "the test"):
        return (yield)


def _deadline(item: pytest.Item, what: str) -> AbstractContextManager[object]:
    """Of a suite's test. (The suites are not imported here: pytest has to see to that.)"""
    within: Callable[[str], AbstractContextManager[object]] | None
    within = getattr(getattr(item, "cls", None), "within_deadline", None)
    return nullcontext() if within is None else within(what)


@pytest.fixture(autouse=True)
def census() -> Iterator[None]:
    """Fail a test that leaves threads, child processes or descriptors behind."""
    before = Census()
    yield
    left = before.left()
    if left:
        pytest.fail(f"left behind: {'; '.join(left)}", pytrace=False)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stage cleanups get 0.2 s in any case instead of 2, so that tests with stuck stages are
    fast."""
    monkeypatch.setattr(_session, "LEAST_CLEANUP_TIME", 0.2)


@pytest.fixture
def clock() -> ManualClock:
    """A clock that moves only when it is told to."""
    return ManualClock()


@pytest.fixture
def pipelines() -> Iterator[Callable[..., Pipeline]]:
    """Makes pipelines, and aborts and cleans up those that a test left open."""
    made: list[Pipeline] = []

    def make(*args: object, **options: object) -> Pipeline:
        made.append(Pipeline(*args, **options))  # type: ignore[call-overload]
        return made[-1]

    yield make
    for each in reversed(made):
        each.abort()
        each.cleanup()


@pytest.fixture(scope="session")
def process_placement() -> str:
    """The placement ``"process"``, where it is installed. What it keeps until the interpreter
    ends is made here, before any test counts what is left behind."""
    pipeline = Pipeline()
    try:
        pipeline.add(abs, placement="process")
        list(pipeline.serialize().stream([1]))
    except PluginNotFound as error:
        pytest.skip(str(error))
    finally:
        pipeline.cleanup()
    return "process"


@pytest.fixture
def inline_placement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a placement that an installed plugin provides, for ``add(placement=…)``."""
    _install("inline", "InlinePlacement", tmp_path / "site", monkeypatch)
    return "inline"


@pytest.fixture
def tracked_placement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracker:
    """Installs a placement named "tracked", every result of which is a handle; what has become of
    those."""
    module = _install("tracked", "tracker.placement", tmp_path / "tracked", monkeypatch)
    tracker: Tracker = importlib.import_module(module).tracker
    return tracker


def _install(name: str, factory: str, site: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Install a plugin that provides a placement; the name of its module."""
    module = f"acme_{name}_plugin"
    info = site / f"acme_{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: acme-{name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[pystream]\n{name} = {module}\n")
    (site / f"{module}.py").write_text(_PLUGIN.format(name=name, module=module, factory=factory))
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, module, raising=False)
    importlib.invalidate_caches()
    fresh = Registry()
    monkeypatch.setattr(_registry, "registry", lambda: fresh)
    return module
