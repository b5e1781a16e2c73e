"""The profiler of PyStream that keeps its history in SQLite.

Importing this package loads neither ``sqlite3`` nor ``platformdirs``; its names do so when
they are first used.
"""

from typing import TYPE_CHECKING

from ._folder import (
    get_profiler_db_folder as get_profiler_db_folder,
    set_profiler_db_folder as set_profiler_db_folder,
)

if TYPE_CHECKING:
    from ._history import (
        RecordedRun as RecordedRun,
        read_profile as read_profile,
        recorded_runs as recorded_runs,
        recorded_spans as recorded_spans,
    )
    from ._profiler import SQLiteProfiler as SQLiteProfiler

_LAZY = {
    "RecordedRun": "_history",
    "SQLiteProfiler": "_profiler",
    "read_profile": "_history",
    "recorded_runs": "_history",
    "recorded_spans": "_history",
}

__all__ = [
    "RecordedRun",
    "SQLiteProfiler",
    "get_profiler_db_folder",
    "read_profile",
    "recorded_runs",
    "recorded_spans",
    "set_profiler_db_folder",
]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
