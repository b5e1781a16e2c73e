"""What this distribution offers to the registry of PyStream."""

from __future__ import annotations

from pystream_core import ObserverSpec, hookimpl


@hookimpl
def pystream_observers() -> list[ObserverSpec]:
    """The profiler ``"sqlite"``."""
    return [
        ObserverSpec(
            name="sqlite",
            factory="pystream_sqlite:SQLiteProfiler",
            summary="profiler with percentiles and a bounded history in one SQLite file",
        )
    ]
