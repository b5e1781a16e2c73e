"""The minimal core of PyStream: the door for plugin authors."""

from ._errors import (
    AmbiguousName as AmbiguousName,
)
from ._errors import (
    CleanupError as CleanupError,
)
from ._errors import (
    DrainTimeout as DrainTimeout,
)
from ._errors import (
    DuplicateStageName as DuplicateStageName,
)
from ._errors import (
    InputExhausted as InputExhausted,
)
from ._errors import (
    InvalidStageName as InvalidStageName,
)
from ._errors import (
    PipelineBusy as PipelineBusy,
)
from ._errors import (
    PipelineTerminated as PipelineTerminated,
)
from ._errors import (
    PipelineUndefined as PipelineUndefined,
)
from ._errors import (
    PlanError as PlanError,
)
from ._errors import (
    PluginError as PluginError,
)
from ._errors import (
    PluginNotFound as PluginNotFound,
)
from ._errors import (
    PyStreamError as PyStreamError,
)
from ._errors import (
    StageError as StageError,
)
from ._errors import (
    WorkerLost as WorkerLost,
)
from ._ledger import StageStatistics as StageStatistics
from ._ledger import Statistics as Statistics
from ._observer import (
    ItemEnd as ItemEnd,
)
from ._observer import (
    Observer as Observer,
)
from ._observer import (
    Percentiles as Percentiles,
)
from ._observer import (
    PipelineProfile as PipelineProfile,
)
from ._observer import (
    Profile as Profile,
)
from ._observer import (
    Profiler as Profiler,
)
from ._observer import (
    RunInfo as RunInfo,
)
from ._observer import (
    Span as Span,
)
from ._observer import (
    StageProfile as StageProfile,
)
from ._placement import Placement as Placement
from ._plan import (
    MAIN_PIPELINE_NAME as MAIN_PIPELINE_NAME,
)
from ._plan import (
    Plan as Plan,
)
from ._plan import (
    Retry as Retry,
)
from ._plan import (
    StageOptions as StageOptions,
)
from ._plan import (
    StageSpec as StageSpec,
)
from ._stage import SKIP as SKIP
from ._stage import Stage as Stage
from ._stage import StageFactory as StageFactory
from ._stage import factory as factory
from .hookspecs import (
    ExecutorSpec as ExecutorSpec,
)
from .hookspecs import (
    ObserverSpec as ObserverSpec,
)
from .hookspecs import (
    PlacementSpec as PlacementSpec,
)
from .hookspecs import (
    hookimpl as hookimpl,
)
