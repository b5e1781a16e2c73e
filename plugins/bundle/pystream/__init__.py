"""Real-time stage pipelines for Python: the documented PyStream API.

Re-exports only; the core lives in ``pystream_core``, executors, profilers and stages in
plugins that are found when they are used.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from pystream_core import (
    MAIN_PIPELINE_NAME as MAIN_PIPELINE_NAME,
    SKIP as SKIP,
    AmbiguousName as AmbiguousName,
    CleanupError as CleanupError,
    DrainTimeout as DrainTimeout,
    DuplicateStageName as DuplicateStageName,
    InputExhausted as InputExhausted,
    InvalidStageName as InvalidStageName,
    Observer as Observer,
    Pipeline as Pipeline,
    PipelineBusy as PipelineBusy,
    PipelineTerminated as PipelineTerminated,
    PipelineUndefined as PipelineUndefined,
    PlanError as PlanError,
    PluginError as PluginError,
    PluginNotFound as PluginNotFound,
    Profile as Profile,
    PyStreamError as PyStreamError,
    Retry as Retry,
    Skip as Skip,
    Stage as Stage,
    StageError as StageError,
    Statistics as Statistics,
    WorkerLost as WorkerLost,
    available as available,
    factory as factory,
    source as source,
    stage as stage,
)

if TYPE_CHECKING:
    from pystream_sqlite import (
        get_profiler_db_folder as get_profiler_db_folder,
        set_profiler_db_folder as set_profiler_db_folder,
    )

__version__ = "1.0.0"

logger: Final = logging.getLogger("PyStream")
"""The PyStream logger object from logging package."""

if logger.level == logging.NOTSET:
    logger.setLevel(logging.INFO)


def __getattr__(name: str) -> object:
    """The profiler's functions, so that importing pystream does not load the profiler."""
    if name in ("get_profiler_db_folder", "set_profiler_db_folder"):
        import pystream_sqlite

        return getattr(pystream_sqlite, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), "get_profiler_db_folder", "set_profiler_db_folder"])
