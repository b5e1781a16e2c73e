"""The minimal core of PyStream: the door for plugin authors."""

from ._bell import Bell as Bell
from ._call import CalledBack as CalledBack, Step as Step
from ._chain import Chain as Chain
from ._channel import Channel as Channel, ChannelClosed as ChannelClosed
from ._coroutines import Call as Call, EventLoop as EventLoop, Outcome as Outcome
from ._errors import (
    AmbiguousName as AmbiguousName,
    CleanupError as CleanupError,
    DrainTimeout as DrainTimeout,
    DuplicateStageName as DuplicateStageName,
    InputExhausted as InputExhausted,
    InvalidStageName as InvalidStageName,
    PipelineBusy as PipelineBusy,
    PipelineTerminated as PipelineTerminated,
    PipelineUndefined as PipelineUndefined,
    PlanError as PlanError,
    PluginError as PluginError,
    PluginNotFound as PluginNotFound,
    PyStreamError as PyStreamError,
    StageError as StageError,
    WorkerLost as WorkerLost,
)
from ._executor import Envelope as Envelope, Executor as Executor, Feeding as Feeding, Run as Run
from ._graph import Graph as Graph
from ._handle import Handle as Handle
from ._installed import PluginInfo as PluginInfo, Provided as Provided
from ._ledger import StageStatistics as StageStatistics, Statistics as Statistics
from ._lifecycle import Instance as Instance
from ._mailbox import Mailbox as Mailbox
from ._observer import (
    ItemEnd as ItemEnd,
    Observer as Observer,
    Percentiles as Percentiles,
    PipelineProfile as PipelineProfile,
    Profile as Profile,
    Profiler as Profiler,
    RunInfo as RunInfo,
    Span as Span,
    StageProfile as StageProfile,
    Trace as Trace,
)
from ._options import (
    Parameter as Parameter,
    near_miss as near_miss,
    parameters as parameters,
)
from ._pipeline import Pipeline as Pipeline
from ._placement import (
    PlacedStage as PlacedStage,
    Placement as Placement,
    PolledStage as PolledStage,
)
from ._plan import (
    MAIN_PIPELINE_NAME as MAIN_PIPELINE_NAME,
    Plan as Plan,
    Retry as Retry,
    StageOptions as StageOptions,
    StageSpec as StageSpec,
    flushes as flushes,
)
from ._registry import (
    Available as Available,
    Described as Described,
    Registry as Registry,
    available as available,
    placement as placement,
    registry as registry,
    source as source,
    stage as stage,
)
from ._results import ResultStream as ResultStream
from ._stage import (
    SKIP as SKIP,
    Skip as Skip,
    Stage as Stage,
    StageFactory as StageFactory,
    call_kind as call_kind,
    factory as factory,
)
from ._ticker import Ticker as Ticker
from .hookspecs import (
    ExecutorSpec as ExecutorSpec,
    ObserverSpec as ObserverSpec,
    PlacementSpec as PlacementSpec,
    hookimpl as hookimpl,
)
