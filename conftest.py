"""Shared fixtures of all distributions; the count of leftovers watches every test."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

pytest_plugins = ["pystream_core.testing.fixtures"]


def pytest_collection_finish() -> None:
    """Take what the collection of tests has made out of every later garbage collection, so that
    those in tests are quick and look at what tests make."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_timeout_cancel_timer(item: pytest.Item) -> Iterator[None]:
    """Let the timer of a test that is over go, which its item would keep to the end of the run."""
    result = yield
    vars(item).pop("cancel_timeout", None)
    return result


@pytest.fixture(scope="session")
def spare_profiler_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """For tests that do not choose a folder."""
    return str(tmp_path_factory.mktemp("profiles"))


@pytest.fixture(autouse=True)
def own_profiler_folder(monkeypatch: pytest.MonkeyPatch, spare_profiler_folder: str) -> None:
    """No test writes to the user's folder, and none sees the folder that another one chose."""
    from pystream_sqlite import _folder

    monkeypatch.setattr(_folder, "_chosen", None)
    monkeypatch.setenv("PYSTREAM_PROFILER_FOLDER", spare_profiler_folder)
