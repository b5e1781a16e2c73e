"""Fixtures of the tests of stages in processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import cloudpickle
import pytest
from pystream_processes._launcher import launcher


@pytest.fixture(scope="session", autouse=True)
def server() -> None:
    """Makes what stays until the interpreter ends before anything is counted."""
    launcher().start()


@pytest.fixture(scope="module", autouse=True)
def _by_value(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test module defines is sent to the children, which cannot import test modules."""
    cloudpickle.register_pickle_by_value(request.module)
    yield
    cloudpickle.unregister_pickle_by_value(request.module)


@pytest.fixture(autouse=True)
def _nothing_in_shm() -> Iterator[None]:
    """No test leaves anything in the folder of named shared memory."""
    before = _named()
    yield
    assert _named() <= before


def _named() -> set[str]:
    folder = Path("/dev/shm")
    return set(os.listdir(folder)) if folder.is_dir() else set()
