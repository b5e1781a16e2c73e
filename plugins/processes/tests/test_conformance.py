"""The placement keeps its contract, and executors keep theirs with every stage in a process."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import cloudpickle
import pytest

from pystream_core.testing import executor_suite, placement_suite

TestPlacement = placement_suite("process", supports_local_stages=False)


class ByValue:
    """The suite's modules import pytest, which a process of a stage is spared."""

    @pytest.fixture(autouse=True)
    def _suite_by_value(self, request: pytest.FixtureRequest) -> Iterator[None]:
        module = sys.modules[request.function.__module__]
        cloudpickle.register_pickle_by_value(module)
        yield
        cloudpickle.unregister_pickle_by_value(module)


class TestThreads(ByValue, executor_suite("threads", placement="process")):
    """In threads, each worker with a process."""


class TestSerial(ByValue, executor_suite("serial", placement="process")):
    """In the caller's thread. (Those of failures, which are few, are also in test_placement.)"""

    pytestmark = pytest.mark.soak
