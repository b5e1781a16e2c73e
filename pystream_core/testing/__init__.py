"""What tests of PyStream and of its plugins are made of.

``executor_suite``, ``placement_suite``, ``observer_suite`` and ``profiler_suite`` give the
conformance tests of an implementation; they need the extra ``pystream-core[testing]``. The
module ``pystream_core.testing.fixtures`` is a pytest plugin. Everything else here works
without pytest.
"""

from __future__ import annotations

from typing import Any

from ._census import Census as Census
from ._clock import ManualClock as ManualClock
from ._handles import Lost as Lost, Tracked as Tracked, Tracker as Tracker
from ._law import broken_law as broken_law
from ._placement import InlinePlacement as InlinePlacement
from ._stages import (
    FAILURES as FAILURES,
    Gate as Gate,
    Opaque as Opaque,
    Raising as Raising,
    Recorder as Recorder,
    Recorders as Recorders,
    Unprintable as Unprintable,
    Worst as Worst,
    skip_odd as skip_odd,
)
from ._suites import load as _load, suite_class as _suite_class, switches as _switches
from ._waiting import (
    PATIENCE as PATIENCE,
    Outcome as Outcome,
    frantic_switching as frantic_switching,
    in_thread as in_thread,
    side_by_side as side_by_side,
    wait_until as wait_until,
)


def executor_suite(name: str, **options: Any) -> Any:
    """The conformance tests of an executor, as a class that pytest collects.

    A complete test module of an author::

        # tests/test_conformance.py
        from pystream_core.testing import executor_suite

        TestAcme = executor_suite("acme", servers=2)

    with ``pytest_plugins = ["pystream_core.testing.fixtures"]`` in the ``conftest.py`` at the
    root of the project: it counts what tests leave behind, and adds the rule that was broken to
    the report of a failed test. ``python -m pystream_core.testing`` lists all rules.

    An executor that leaves something out says so, and is then tested to refuse it::

        class TestAcme(executor_suite("acme")):
            supports_branches = False
            supports_coroutines = False

    ``ExecutorSuite`` describes all switches.

    Args:
        name: of the executor, as in ``parallelize(executor=name)``.
        options: for the executor. Two keywords are the suite's own: ``side_by_side=False`` says
            that it runs one item at a time in the caller's thread, as ``serial`` does;
            ``placement="acme"`` places every stage that this placement takes, and leaves out the
            tests that look at their stages through shared objects.

    Raises:
        ImportError: pytest or hypothesis is missing, with the command.
    """
    suite = _load("_handle_suite").HandleSuite
    return _suite_class(
        suite,
        name,
        executor=name,
        side_by_side=options.pop("side_by_side", name != "serial"),
        placement=options.pop("placement", None),
        options=options,
    )


def placement_suite(name: str, **options: Any) -> Any:
    """The conformance tests of a placement, as a class that pytest collects.

    A complete test module of an author::

        # tests/test_conformance.py
        from pystream_core.testing import placement_suite

        TestAcme = placement_suite("acme")

    with ``pytest_plugins = ["pystream_core.testing.fixtures"]`` in the ``conftest.py`` at the
    root of the project. The stages of these tests stand in modules that can be imported
    wherever PyStream is installed, and report through their results and through a folder, so
    that they can run in another process; for another machine override the fixture ``folder``
    with one that both see.

    ``PlacementSuite`` describes the switches for what a placement may leave out.

    Args:
        name: of the placement, as in ``add(stage, placement=name)``.
        options: values of the class's switches, such as ``supports_generators=False``.

    Raises:
        ImportError: pytest or hypothesis is missing, with the command.
        TypeError: there is no such switch.
    """
    suite = _load("_placement_suite").PlacementSuite
    return _suite_class(suite, name, placement=name, **_switches(suite, options))


def observer_suite(name: str, **options: Any) -> Any:
    """The conformance tests of an observer, as a class that pytest collects.

    A complete test module of an author::

        # tests/test_conformance.py
        from pystream_core.testing import observer_suite

        TestAcme = observer_suite("acme")

    with ``pytest_plugins = ["pystream_core.testing.fixtures"]`` in the ``conftest.py`` at the
    root of the project. An observer that writes somewhere shows that a storage which fails
    does no harm by overriding ``broken_storage``; ``ObserverSuite`` tells how.

    Args:
        name: of the observer, as in ``Pipeline(observers=[name])``.
        options: values of the class's switches.

    Raises:
        ImportError: pytest or hypothesis is missing, with the command.
        TypeError: there is no such switch.
    """
    suite = _load("_observer_suite").ObserverSuite
    return _suite_class(suite, name, observer=name, **_switches(suite, options))


def profiler_suite(name: str, **options: Any) -> Any:
    """The conformance tests of a profiler, as a class that pytest collects: what its figures
    mean. A profiler is an observer, too, so its author writes two lines::

        # tests/test_conformance.py
        from pystream_core.testing import observer_suite, profiler_suite

        TestObserver = observer_suite("acme")
        TestProfiler = profiler_suite("acme")

    with ``pytest_plugins = ["pystream_core.testing.fixtures"]`` in the ``conftest.py`` at the
    root of the project. ``ProfilerSuite`` describes the switches.

    Args:
        name: of the profiler, as in ``Pipeline(use_profiler=True, profiler=name)``.
        options: values of the class's switches.

    Raises:
        ImportError: pytest or hypothesis is missing, with the command.
        TypeError: there is no such switch.
    """
    suite = _load("_profiler_suite").ProfilerSuite
    return _suite_class(suite, name, profiler=name, **_switches(suite, options))
