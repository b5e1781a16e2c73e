"""The profiler keeps the contract of observers, and its figures mean what they should."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pystream_sqlite import set_profiler_db_folder

from pystream_core.testing import observer_suite, profiler_suite


class TestObserver(observer_suite("sqlite")):
    """Nothing that the disk does harms the pipeline."""

    stores = True

    @contextmanager
    def broken_storage(self, folder: Path) -> Iterator[None]:
        """A file lies where the folder should be. (The fixture ``folder`` sets it anew.)"""
        (folder / "taken").touch()
        set_profiler_db_folder(str(folder / "taken" / "profiles"))
        yield


TestProfiler = profiler_suite("sqlite")
