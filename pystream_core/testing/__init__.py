"""What tests of PyStream and of its plugins are made of.

``executor_suite(name, **options)`` gives the conformance tests of an executor; the module
``pystream_core.testing.fixtures`` is a pytest plugin. Everything else here works without
pytest.
"""

from __future__ import annotations

import importlib
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

    names = [f"{__name__}.{module}" for module in ("_suite", "_flow_suite", "_handle_suite")]
    pytest.register_assert_rewrite(*names)
    suite = importlib.import_module(names[-1])
    side_by_side = options.pop("side_by_side", name != "serial")
    return type(
        f"Test{name.title()}",
        (suite.HandleSuite,),
        {"executor": name, "options": options, "side_by_side": side_by_side},
    )
