"""What tests of PyStream and of its plugins are made of.

``executor_suite(name, **options)`` gives the conformance tests of an executor, ``stage_suite`` of
a stage, ``plugin_suite`` of an installed distribution; the module
``pystream_core.testing.fixtures`` is a pytest plugin. Everything else here works without
pytest.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from .._errors import PlanError
from .._options import near_miss
from ._census import Census as Census
from ._clock import ManualClock as ManualClock
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
from ._waiting import (
    PATIENCE as PATIENCE,
    Outcome as Outcome,
    frantic_switching as frantic_switching,
    in_thread as in_thread,
    side_by_side as side_by_side,
    wait_until as wait_until,
)


def executor_suite(name: str, **options: Any) -> type:
    """The conformance tests of an executor, as a class that pytest collects::

        # test_conformance.py
        from pystream_core.testing import executor_suite

        TestAcme = executor_suite("acme", servers=2)

    They need pytest, and the plugin ``pystream_core.testing.fixtures`` for the count of what
    is left behind.

    Args:
        name: of the executor, as in ``parallelize(executor=name)``.
        options: for the executor; ``side_by_side=False`` as a keyword of its own says that it
            runs one item at a time in the caller's thread, as ``serial`` does.
    """
    import pytest

    pytest.register_assert_rewrite(f"{__name__}._suite", f"{__name__}._flow_suite")
    suite = importlib.import_module(f"{__name__}._flow_suite")
    side_by_side = options.pop("side_by_side", name != "serial")
    return type(
        f"Test{name.title()}",
        (suite.FlowSuite,),
        {"executor": name, "options": options, "side_by_side": side_by_side},
    )


_NOT_GIVEN: Final = object()


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
) -> type:
    """The conformance tests of a registered stage, as a class that pytest collects::

        # test_stages.py
        from pystream_core.testing import stage_suite

        TestBlur = stage_suite("acme.blur", sample=[0, 9, 0], expect=[3, 3, 3], width=3)

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
    return _suite("_stage_suite", "StageSuite", name, members)


def plugin_suite(distribution: str, *, leave_out: Collection[str] = ()) -> type:
    """The checks of an installed distribution, as a class that pytest collects::

        TestPlugin = plugin_suite("acme-stages")

    `pystream check acme-stages` makes the same ones.

    Args:
        distribution: its name. It has to be installed, an editable installation will do.
        leave_out: names of checks that are left out, as `pystream check` shows them.

    Raises:
        PlanError: there is no check of that name.
    """
    from ._plugin_checks import CHECKS

    for name in leave_out:
        if name not in CHECKS:
            raise PlanError(
                f"there is no check {name!r}{near_miss(name, CHECKS)}. Checks: {', '.join(CHECKS)}"
            )
    members = {"distribution": distribution, "leave_out": leave_out}
    return _suite("_plugin_suite", "PluginSuite", distribution, members)


def _suite(module: str, base: str, name: str, members: dict[str, Any]) -> type:
    """A class of tests about ``name``, whose assertions pytest explains."""
    import pytest

    pytest.register_assert_rewrite(f"{__name__}.{module}")
    suite = getattr(importlib.import_module(f"{__name__}.{module}"), base)
    words = "".join(c if c.isalnum() else " " for c in name).title().split()
    return type(f"Test{''.join(words)}", (suite,), members)
