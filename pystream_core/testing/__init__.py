"""What tests of PyStream and of its plugins are made of.

``executor_suite``, ``placement_suite``, ``observer_suite`` and ``profiler_suite`` give the
conformance tests of an implementation, ``stage_suite`` those of a registered stage, and
``plugin_suite`` the checks of an installed distribution; they need the extra
``pystream-core[testing]``. The module ``pystream_core.testing.fixtures`` is a pytest plugin.
Everything else here works without pytest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from .._errors import PlanError
from .._options import near_miss
from ._census import Census as Census
from ._clock import ManualClock as ManualClock
from ._handles import Lost as Lost, Tracked as Tracked, Tracker as Tracker
from ._law import broken_law as broken_law
from ._placement import InlinePlacement as InlinePlacement
from ._plugin_checks import Check as Check, check_plugin as check_plugin
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

_NOT_GIVEN: Final = object()


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


def stage_suite(
    name: str,
    /,
    *,
    sample: Any = _NOT_GIVEN,
    expect: Any = _NOT_GIVEN,
    examples: Iterable[tuple[Any, Any]] = (),
    flushed: Sequence[Any] = (),
    stateless: bool = True,
    in_place: bool = False,
    picklable: bool = True,
    **options: Any,
) -> Any:
    """The conformance tests of a registered stage, as a class that pytest collects::

        # test_stages.py
        from pystream_core.testing import stage_suite

        TestBlur = stage_suite("acme.blur", sample=[0, 9, 0], expect=[3, 3, 3], width=3)

    with ``pytest_plugins = ["pystream_core.testing.fixtures"]`` in the ``conftest.py`` at the
    root of the project.

    What is expected of an item: the result; ``SKIP`` when it is filtered; an exception type when
    it fails; a function that says whether a result is right; for a generator stage the list of
    results. Arrays are equal when their shape, their type and all elements are, and
    ``pytest.approx`` may stand for numbers, also inside of lists.

    The switches are class attributes as well, for a subclass, and so are ``options``, for a stage
    that has an option of one of the names here.

    Args:
        name: of the stage, as ``pystream plugins`` lists it.
        sample: an item for the stage. It gets copies of it.
        expect: what is to come of it.
        examples: several of both, ``[(sample, expect), ...]``, in the order in which they come.
        flushed: what a batching stage still gives out behind the last one.
        stateless: whether what comes of an item depends on that item alone; if not, the tests
            with several workers are left out.
        in_place: whether it may change its items.
        picklable: whether it can be sent to another process.
        options: for the stage.

    Raises:
        ImportError: pytest or hypothesis is missing, with the command.
        PlanError: no example is given.
    """
    if (sample is _NOT_GIVEN) != (expect is _NOT_GIVEN):
        raise PlanError("stage_suite() takes sample= and expect= together")
    single = [] if sample is _NOT_GIVEN else [(sample, expect)]
    members = {
        "stage": name,
        "options": options,
        "examples": [*single, *examples],
        "flushed": flushed,
        "stateless": stateless,
        "in_place": in_place,
        "picklable": picklable,
    }
    if not members["examples"]:
        raise PlanError("stage_suite() needs an example: give sample= and expect=")
    suite = _load("_conformance", "_stage_suite").StageSuite
    return _suite_class(suite, name, **members)


def plugin_suite(distribution: str, *, leave_out: Collection[str] = ()) -> Any:
    """The checks of an installed distribution, as a class that pytest collects::

        TestPlugin = plugin_suite("acme-stages")

    `pystream check acme-stages` makes the same ones.

    Args:
        distribution: its name. It has to be installed, an editable installation will do.
        leave_out: names of checks that are left out, as `pystream check` shows them.

    Raises:
        ImportError: pytest or hypothesis is missing, with the command.
        PlanError: there is no check of that name.
    """
    from ._plugin_checks import CHECKS

    for name in leave_out:
        if name not in CHECKS:
            raise PlanError(
                f"there is no check {name!r}{near_miss(name, CHECKS)}. Checks: {', '.join(CHECKS)}"
            )
    suite = _load("_plugin_suite").PluginSuite
    return _suite_class(suite, distribution, distribution=distribution, leave_out=leave_out)
