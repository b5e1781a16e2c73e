"""The threads executor keeps the contract of executors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pystream_core.testing import executor_suite, frantic_switching

TestThreads = executor_suite("threads")


class TestFrantic(executor_suite("threads")):
    """The same once more while the interpreter changes threads as often as it can."""

    pytestmark = pytest.mark.soak

    @pytest.fixture(autouse=True)
    def _frantic(self) -> Iterator[None]:
        with frantic_switching():
            yield
