"""The public Pipeline: thin verbs over a description, its sessions and the registry."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from functools import partial
from threading import TIMEOUT_MAX
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, overload

from ._errors import (
    PipelineBusy,
    PipelineTerminated,
    PipelineUndefined,
    PlanError,
    describe_error,
    safe_repr,
)
from ._executor import Executor
from ._input import InputGeneratorRequest
from ._ledger import Statistics
from ._lifecycle import Instances
from ._observer import Observer, Profile, Profiler
from ._placement import Placement
from ._plan import (
    Description,
    Entry,
    Mode,
    Plan,
    StageOptions,
    StageSpec,
    check_child_options,
    check_options,
    check_placement,
    describe,
    label_of,
    placement_name,
)
from ._results import ResultStream
from ._session import Session, Settings
from ._stage import Stage, StageFactory, call_kind
from ._ticker import check_period

if TYPE_CHECKING:
    from typing_extensions import Self, TypeVar

    from ._drawing import Drawing

    In = TypeVar("In", contravariant=True, default=Any)
    Out = TypeVar("Out", covariant=True, default=Any)
else:
    from typing import TypeVar

    In = TypeVar("In", contravariant=True)
    Out = TypeVar("Out", covariant=True)

_REQUEST: Final[Any] = InputGeneratorRequest()
_PARALLELIZE: Final = ("executor", "placement", *(each.name for each in fields(Settings)))


class Pipeline(Generic[In, Out]):
    """The pipeline constructor.

    Add stages with :meth:`add`, choose :meth:`serialize` or :meth:`parallelize`, then push
    items with :meth:`forward`, :meth:`stream`, :meth:`run` or :meth:`start_loop`. All methods
    may be called from any thread; building (``add`` and the choice of a mode) belongs to one
    thread at a time.

    For type checkers ``Pipeline[In, Out]`` takes items of the type ``In`` and gives results of
    the type ``Out``: ``pipeline: Pipeline[Frame, str] = Pipeline()``. Without them it takes and
    gives anything.

    Args:
        input_generator: function that will be used to generate input data if you want the
            pipeline to run autonomously. If None, the input needs to be given by invoking
            "forward" method. It ends the input by raising StopIteration. Defaults to None.
        use_profiler: whether to implement profiler to the pipeline. Defaults to False.
        profiler: name of the profiler that ``use_profiler`` uses.
        observers: observers of every run, by name or as objects.

    Raises:
        PluginNotFound: a profiler or observer of that name is not installed.
        PlanError: an argument is of the wrong kind.
    """

    if not TYPE_CHECKING:  # type checkers know the default of Out, as Python does from 3.13 on

        def __class_getitem__(cls, types: Any) -> Any:
            """``Pipeline[In]`` is ``Pipeline[In, Any]``."""
            if cls is Pipeline and not isinstance(types, tuple):
                types = (types, Any)
            return super().__class_getitem__(types)

    @overload  # one that never returns says nothing about the type of items
    def __init__(
        self: Pipeline[Any, Any],
        input_generator: Callable[[], NoReturn],
        use_profiler: bool = False,
        *,
        profiler: str = "sqlite",
        observers: Sequence[str | Observer] = (),
    ) -> None: ...

    @overload
    def __init__(
        self,
        input_generator: Callable[[], In] | None = None,
        use_profiler: bool = False,
        *,
        profiler: str = "sqlite",
        observers: Sequence[str | Observer] = (),
    ) -> None: ...

    def __init__(
        self,
        input_generator: Callable[[], In] | None = None,
        use_profiler: bool = False,
        *,
        profiler: str = "sqlite",
        observers: Sequence[str | Observer] = (),
    ) -> None:
        if input_generator is not None and not callable(input_generator):
            raise PlanError(
                f"input_generator must be a function without arguments, not "
                f"{safe_repr(input_generator)}; for an iterable use stream(source)"
            )
        if call_kind(input_generator) in ("coroutine", "async generator"):
            raise PlanError(
                "input_generator must be an ordinary function that returns the next item: what an "
                "asynchronous one returns would be taken for the item. Await in a stage instead, "
                "which may be a coroutine function"
            )
        if input_generator is not None and call_kind(input_generator) != "function":
            raise PlanError(
                "input_generator must be a function that returns the next item; this one is a "
                f"{call_kind(input_generator)} function, of which every call makes a new object. "
                "Give the __next__ of one, Pipeline(generate().__next__), or use "
                "stream(generate())"
            )
        self._input_generator = input_generator
        self._description = Description()
        self._session: Session | None = None
        self._settings = Settings()
        self._make_executor: Callable[[], Executor] | None = None
        self._executor_name = ""
        self._placement: str | Placement | None = None
        self._owner: weakref.ref[Pipeline] | None = None  # the pipeline this one is nested in
        self._children: list[Pipeline] = []
        self._retired = False  # a parent has cleaned up its stages
        self._finalizer: weakref.finalize[Any, Any] | None = None
        self._reopening = threading.Lock()  # held while a failed start is replaced
        self._profiler: Profiler | None = None
        if isinstance(observers, (str, Observer)) or not isinstance(observers, Iterable):
            raise PlanError(
                f'observers must be a list of names and objects, for example observers=["sqlite"], '
                f"not {safe_repr(observers)} alone"
            )
        self._observers: list[Observer] = [_observer(each) for each in observers]
        if _flag("use_profiler", use_profiler):
            found = _observer(profiler)
            if not isinstance(found, Profiler):
                raise PlanError(
                    f"{profiler!r} is an observer that cannot sum up what it saw: give it in "
                    f"observers=[{profiler!r}]"
                )
            self._profiler = found
            self._observers.append(found)

    # -- building ----------------------------------------------------------------------

    def add(
        self,
        stage: Callable[[Any], Any]
        | Callable[[Any], object]  # a second one, else mypy refuses `lambda item, name=name: ...`
        | Stage[Any]
        | type[Stage[Any]]
        | StageFactory[Any],
        name: str | None = None,
        *,
        workers: int = 1,
        ordered: bool = True,
        capacity: int | str = "auto",
        overflow: str = "block",
        on_error: Any = "stop",
        max_age: float | None = None,
        placement: str | Placement | None = None,
        after: str | Sequence[str] | None = None,
    ) -> None:
        """Add a stage into the pipeline.

        A stage can be a function that takes an input item and returns an output item; an
        object of a class that inherits from Stage, for stages with a cleanup procedure; a
        subclass of Stage or ``factory(make, **options)``, of which every worker makes its own;
        or another pipeline's ``as_stage()``. A generator function turns one item into many; a
        coroutine function is awaited on an event loop of the pipeline; a stage with a
        ``flush()`` collects items, see :class:`Stage`; a stage that returns ``SKIP`` filters its
        item out.

        Args:
            stage: the stage to be added.
            name: the stage name. If None the object's own name, else the default stage name
                will be given, i.e. Stage_i where i is the stage sequence number.
            workers: how many run this stage side by side; of a coroutine function: how many
                calls of it are in flight.
            ordered: with several workers, hand items on in the order in which they came.
            capacity: items that may wait in front of this stage, or ``"auto"``: about one
                millisecond of its work, between one item and about a thousand.
            overflow: what a full channel in front of this stage does: ``"block"`` slows the
                sender, up to the source; ``"drop_oldest"`` and ``"drop_newest"`` drop and
                count.
            on_error: what happens when it raises: ``"stop"``, ``"skip"``, a ``Retry``, or a
                callable that takes the StageError and returns a replacement or ``SKIP``.
            max_age: seconds since admission; an item that is older when this stage would
                start on it expires instead.
            placement: where its calls happen: the name of a placement, or one with options,
                ``placement("process", timeout=2.0)``. A pipeline that has been serialized is
                placed in one piece, as one stage. None means in the
                executor's worker.
            after: the name of the stage that feeds this one, by default the one added before;
                several names: it gets the outputs of the same item as a tuple in that order.
                Stages that nobody comes after are the last ones; several of them give a dict of
                their results by name. Followers of one stage all get the same object, so one
                that changes it in place must copy it first.

        Raises:
            PlanError: an option or the stage itself is wrong, or a mode has been chosen.
            InvalidStageName: the name cannot be part of a path.
            DuplicateStageName: another stage of this pipeline has it.
            PipelineBusy: the nested pipeline belongs to another one.
        """
        self._refuse_if_lent()
        if self._description.mode is not None:
            raise PlanError(
                "add() comes before serialize() and parallelize(): make a new Pipeline, or nest "
                "this one as a stage of a new one, as_stage()"
            )
        own = _own_name(stage)
        try:
            options = StageOptions(
                workers=workers,
                ordered=ordered,
                capacity=capacity,  # type: ignore[arg-type]  # checked there
                overflow=overflow,  # type: ignore[arg-type]
                on_error=on_error,
                max_age=max_age,
                placement=placement,
                after=_names(after),
            )
        except PlanError as error:
            raise PlanError(f"stage {label_of(stage, name, own)}: {error}") from None
        if isinstance(stage, PipelineStage) and placement is not None:
            entry = self._region(stage, options, name, own)
        elif isinstance(stage, PipelineStage):
            entry = self._nested(stage, options, name, own)
        else:
            spec = replace(describe(stage, name, own), options=options)
            label = self._description.free_name(name, own)
            check_options(stage, spec, label)
            own_object = stage if isinstance(stage, Stage) else None
            entry = Entry(label, options, spec=spec, keeper=Instances(), stage=own_object)
        self._description.entries.append(entry)
        _call_it(stage, entry.name)

    def _nested(
        self, stage: PipelineStage, options: StageOptions, name: str | None, own: str
    ) -> Entry:
        child = stage.pipeline
        label = self._description.free_name(name, own)
        check_child_options(options, label)
        child._lend_to(self)
        self._children.append(child)
        return Entry(label, options, child=child._description)

    def _region(
        self, stage: PipelineStage, options: StageOptions, name: str | None, own: str
    ) -> Entry:
        """A pipeline that is placed in one piece is a stage like any other."""
        from ._region import region

        child = stage.pipeline
        label = self._description.free_name(name, own)
        made = region(child._description, label, options.workers)
        spec = replace(describe(made, label, own), options=options, whole=True)
        check_options(made, spec, label)
        child._lend_to(self)
        self._children.append(child)
        return Entry(label, options, spec=spec, keeper=Instances())

    def _lend_to(self, parent: Pipeline) -> None:
        self._refuse_if_lent()
        self._end_mode()
        self._owner = weakref.ref(parent)

    def _end_mode(self) -> None:
        """Drain and end the current mode; its stages stay set up."""
        session, self._session = self._session, None
        if session is None:
            return
        try:
            session.close(keep=True)
        except BaseException:  # as by Ctrl-C: cleanup() finishes it
            self._session = session
            raise

    def _lent(self) -> bool:
        parent = self._owner() if self._owner is not None else None
        if parent is None:
            return False
        if not parent._lent():
            session = parent._session
            if session is not None and session.closed.is_set():  # by a stage that called cleanup()
                self._return_from(parent)
        return self._owner is not None

    def _refuse_if_lent(self) -> None:
        if self._lent():
            raise PipelineBusy(
                "this pipeline is a stage of another one: use that one, or call its cleanup() first"
            )

    # -- modes -------------------------------------------------------------------------

    def serialize(self) -> Self:
        """Turn the pipeline into serial pipeline. All stages will be run in sequential and
        blocking mode, in the thread that calls ``forward``.

        An earlier mode is drained and ended; its stages are handed on.

        Returns:
            this pipeline itself.

        Raises:
            PlanError: the stages do not fit together.
            PluginNotFound: a stage asks for a placement that is not installed.
            PipelineBusy: the pipeline is a stage of another one.
        """
        from ._registry import registry

        settings = Settings(input_timeout=None)
        return self._choose("serial", registry().executor("serial"), "serial", settings, None)

    def parallelize(
        self,
        block_input: bool = True,
        input_timeout: float = 10,
        block_output: bool = False,
        output_timeout: float = 10,
        *,
        executor: str = "threads",
        drain_timeout: float = 10.0,
        stuck_timeout: float = 5.0,
        **options: Any,
    ) -> Self:
        """Turn the pipeline into independent stage pipeline. Each stage will live in different
        thread and work asynchronously. However, the data will be passed to the stages in the
        same order as defined.

        An earlier mode is drained and ended; its stages are handed on. Nothing starts before
        the first use, or :meth:`start`.

        Args:
            block_input: whether to set the forward method into blocking mode if the first
                stage is busy with the specified timeout in input_timeout. Defaults to True.
            input_timeout: blocking timeout for the forward method in seconds. Defaults to 10.
            block_output: whether to set the get_results method into blocking mode if there is
                not available data from the last stage. Defaults to False.
            output_timeout: blocking timeout for the get_results method in seconds. Defaults
                to 10.
            executor: name of the executor.
            drain_timeout: seconds that ``cleanup`` gives admitted items to finish.
            stuck_timeout: seconds without any movement after which ``cleanup`` and the end of
                a stream give up waiting.
            options: options of the executor.

        Returns:
            this pipeline itself.

        Raises:
            PluginNotFound: the executor, or a placement of a stage, is not installed.
            PlanError: an argument is wrong, or the stages do not fit together.
            PipelineBusy: the pipeline is a stage of another one.
        """
        from ._options import check_keywords
        from ._registry import built, registry

        settings = Settings(
            block_input=_flag("block_input", block_input),
            input_timeout=_seconds("input_timeout", input_timeout),
            block_output=_flag("block_output", block_output),
            output_timeout=_seconds("output_timeout", output_timeout),
            drain_timeout=_seconds("drain_timeout", drain_timeout),
            stuck_timeout=_seconds("stuck_timeout", stuck_timeout),
        )
        if not isinstance(executor, str):
            raise PlanError(
                f'executor must be a name, for example "threads", not {safe_repr(executor)}'
            )
        if executor == "serial":
            raise PlanError('executor "serial" is what serialize() chooses: call that')
        placement = options.pop("placement", None)
        if placement is not None:
            check_placement(placement)
        make = registry().executor(executor)
        check_keywords(make, options, f"executor {executor!r}", beside=_PARALLELIZE)
        what = f"executor {executor!r}"
        start = partial(built, make, Executor, what, **options)
        return self._choose("parallel", start, executor, settings, placement)

    def _choose(
        self,
        mode: Mode,
        make: Callable[[], Executor],
        executor: str,
        settings: Settings,
        placement: str | Placement | None,
    ) -> Self:
        self._refuse_if_lent()
        if self._session is not None and self._session.busy_here():
            raise PipelineBusy(
                "a stage, the loop or the source of a pipeline cannot change its mode: do it in "
                "another thread, or after cleanup()"
            )
        before = self._description.mode
        self._description.mode = mode
        try:
            plan, instances = self._plan(placement)
            self._claim_children()
            self._end_mode()
        except BaseException:
            self._description.mode = before
            raise
        self._make_executor = make
        self._executor_name = executor
        self._settings = settings
        self._placement = placement
        self._open(plan, instances)
        return self

    def _plan(self, placement: str | Placement | None) -> tuple[Plan, Sequence[Instances]]:
        plan, instances = self._description.plan()
        places = _Places(placement)
        stages = tuple(map(places.placed, plan.stages))
        return replace(plan, stages=stages), instances

    def _claim_children(self) -> None:
        for child in self._children:
            owner = child._owner() if child._owner is not None else None
            if owner is not self:
                child._lend_to(self)
            child._claim_children()

    def _open(self, plan: Plan, instances: Sequence[Instances]) -> Session:
        assert self._make_executor is not None
        session = Session(
            plan,
            instances,
            self._make_executor,
            self._settings,
            self._input_generator,
            self._observers,
            self._executor_name,
        )
        self._session = session
        self._retired = False
        if self._finalizer is not None:
            self._finalizer.detach()
        # atexit is off: at interpreter exit every live session is stopped by its own door
        self._finalizer = weakref.finalize(self, _forsaken, session)
        self._finalizer.atexit = False
        return session

    def _used(self) -> Session:
        """The session to use: of the chosen mode, a new one when the last start failed."""
        self._refuse_if_lent()
        session = self._session
        if session is None:
            raise self._unusable()
        if session.start_failed:
            session.raise_loop_error()
            with self._reopening:  # several threads may see the same failed start
                if self._session is session:
                    return self._open(*self._plan(self._placement))
            return self._used()
        return session

    def _unusable(self) -> PipelineUndefined:
        if self._retired:
            return PipelineTerminated(
                "the pipeline that this one was a stage of has been cleaned up: call serialize() "
                "or parallelize() to start afresh"
            )
        return PipelineUndefined(
            "the pipeline has no mode yet: call serialize() or parallelize() first"
        )

    def as_stage(self) -> Stage[In, Out]:
        """Get the base pipeline executor, which can be treated as a stage. Useful if you want
        to create pipeline inside pipeline.

        The stage maps one item to that item's own result, called directly as well as added to
        another pipeline. It keeps this pipeline alive.

        Returns:
            the base pipeline executor.

        Raises:
            PipelineUndefined: raised if method serialize or parallelize has not been invoked.
            PipelineTerminated: the pipeline has been cleaned up.
        """
        if self._description.mode is None or self._retired:
            raise self._unusable()
        if self._session is not None and not self._session.start_failed:
            self._session.check()
        return PipelineStage(self)

    # -- running -----------------------------------------------------------------------

    def start(self) -> None:
        """Set up every stage now, instead of on the first use.

        Blocks until all setups have ended.

        Raises:
            PipelineUndefined: no mode has been chosen.
            StageError: a setup failed; what was set up has been cleaned up.
        """
        session = self._used()
        session.check()
        session.start()

    def forward(self, data: In = _REQUEST) -> bool:
        """Forward data into the pipeline.

        Blocks at most ``input_timeout`` seconds while the first stage is busy (serial: until
        the item is through); the start of the pipeline does not count.

        Args:
            data: the data. If no data is given, data generated from the input generator will
                be pushed instead. None is an item like any other.

        Returns:
            True if the data has been forwarded successfully, False otherwise: then no stage
            will see it.

        Raises:
            PipelineUndefined: raised if method serialize and parallelize has not been invoked.
            PipelineTerminated: the pipeline has been stopped.
            PipelineBusy: a stream is open, or a stage of a serial pipeline forwards to it.
            InputExhausted: the input generator has come to its end.
            StageError: parallel: the pipeline has failed; serial: this item has.
        """
        session = self._session
        if (
            session is not None
            and (push := session.push) is not None
            and type(data) is not InputGeneratorRequest
        ):
            try:
                done = push(data)
            finally:
                if session.close_wanted:
                    session.close_if_asked()
            if done is not None:
                return done
        return self._used().forward(data)

    @overload  # Out is not known: whoever says nothing about types is not asked to look for None
    def get_results(self: Pipeline[Any, NoReturn]) -> Any: ...

    @overload
    def get_results(self) -> Out | None: ...

    def get_results(self) -> Any:
        """Get latest results from the pipeline.

        With ``block_output`` it waits at most ``output_timeout`` seconds for a new one.

        Returns:
            the last data from the pipeline. The same data cannot be read twice. If the new
            data is not available, None is returned.

        Raises:
            PipelineUndefined: raised if method serialize or parallelize has not been invoked.
            PipelineTerminated: the pipeline has been stopped, also while waiting.
            PipelineBusy: a stream is open.
            StageError: the pipeline has failed.
        """
        session = self._session
        if session is not None and session.readable and not session.run.halted:
            slot = session.output.slot
            if slot:
                try:
                    return slot.pop()
                except IndexError:  # pragma: no cover - another reader was just faster
                    pass
        return self._used().read()

    def stream(self, source: Iterable[In] | None = None) -> ResultStream[Out]:
        """Every result, in order, with backpressure up to the source. Nothing is superseded.

        Each step blocks until the next result is there. Leaving early (``break``, ``close()``)
        stops the source and counts what is in flight as dropped.

        Args:
            source: any iterable; by default the input generator until its StopIteration.

        Raises:
            PipelineUndefined: no mode has been chosen.
            PipelineBusy: another stream or the loop is running.
            PlanError: neither a source nor an input generator.
            TypeError: the source cannot be iterated.
        """
        return self._used().stream(source, self)

    def run(self, source: Iterable[In] | None = None) -> Statistics:
        """Consume a source to its end and return the ledger. Blocks until then.

        Args:
            source: any iterable; by default the input generator until its StopIteration.

        Raises:
            Exception: as :meth:`stream`, and whatever the source or a stage raises.
        """
        session = self._used()
        with session.stream(source, self) as results:
            for _ in results:
                pass
        return session.run.ledger.snapshot()

    def drain(self, timeout: float = 10.0) -> None:
        """Wait until everything admitted so far has come to its end. The pipeline stays usable.

        Args:
            timeout: seconds to wait at most.

        Raises:
            DrainTimeout: something is still in flight.
            PipelineBusy: called by a stage, or by the reader of an open serial stream.
            StageError: the pipeline has failed.
            PipelineTerminated: the pipeline has been stopped.
        """
        self._used().drain(_seconds("timeout", timeout))

    def abort(self) -> None:
        """Stop now: what is in flight is dropped and counted. Returns at once; ``cleanup``
        waits for the end. Does nothing before a mode is chosen."""
        if self._session is not None and not self._lent():
            self._session.abort()

    def cleanup(self, *, timeout: float | None = None) -> None:
        """Stop and cleanup the pipeline. Do nothing if the pipeline has not been initialized.

        Stops the loop, drains what was admitted, cleans up every stage exactly once. Blocks at
        most ``drain_timeout`` (nothing moving for ``stuck_timeout`` ends that earlier) and
        then 2 s for the cleanups; a stage that does not return by then is named in a warning
        and left behind. Called by a stage, the loop or a source it requests all that and
        returns. May be called again, and from any thread.

        Args:
            timeout: seconds for draining; None means ``drain_timeout``, 0 aborts.

        Raises:
            CleanupError: stages raised in their cleanup; everything was done all the same.
        """
        if self._lent():
            return
        session = self._session
        if session is None:
            for child in self._children if self._description.mode is None else ():
                child._hand_back(self)
            return
        if session.busy_here():
            session.close_later()
            return
        assert self._finalizer is not None  # every session has one
        self._finalizer.detach()
        try:
            session.close(None if timeout is None else _seconds("timeout", timeout))
        finally:
            for child in self._children:
                child._return_from(self)

    def _return_from(self, parent: Pipeline) -> None:
        """The parent has cleaned up this pipeline's stages: it is on its own again, stopped."""
        if self._owner is None or self._owner() is not parent:
            return
        self._owner = None
        self._retired = True
        for child in self._children:
            child._return_from(self)

    def _hand_back(self, parent: Pipeline) -> None:
        """The parent has ended before it had a mode: this pipeline goes on with its own."""
        if self._owner is None or self._owner() is not parent:
            return
        self._owner = None
        if not self._retired:
            self._open(*self._plan(self._placement))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Drain and clean up; after an exception abort and clean up."""
        if kind is not None:
            self.abort()
        self.cleanup()

    def start_loop(self, period: float = 0.01) -> None:
        """Start the pipeline in autonomous mode. Data generated from input generator will be
        pushed into the pipeline at each defined period of time.

        Ticks do not drift; one that comes while the one before still blocks is missed.

        Args:
            period: period to push the data, in seconds. Defaults to 0.01.

        Raises:
            PipelineUndefined: no mode has been chosen.
            PlanError: there is no input generator, or the period is not above 0.
            PipelineBusy: a loop is running or a stream is open.
        """
        self._used().start_loop(check_period(period))

    def stop_loop(self) -> None:
        """Stop the autonomous operation of the pipeline. Harmless without a loop.

        Returns within 0.1 s, also when the generator or a full pipeline blocks the loop.

        Raises:
            Exception: what stopped the loop before, unless it has been raised already.
        """
        session = self._session
        if session is not None:
            session.stop_loop()

    # -- seeing ------------------------------------------------------------------------

    def statistics(self) -> Statistics:
        """The ledger of the current mode: what became of every item.

        While the pipeline runs it is true within the items being handed over.

        Raises:
            PipelineUndefined: no mode has been chosen.
        """
        session = self._session
        if session is None:
            self._refuse_if_lent()
            raise self._unusable()
        return session.run.ledger.snapshot()

    def get_profiles(self) -> tuple[dict[str, float], dict[str, float]]:
        """Get profiles data.

        Returns:
            dictionary of the latency (in seconds) and throughput (in data/second) data
            respectively. The data is a dict where the key is the stage name. Both are empty
            without a profiler and until a call has ended.
        """
        if self._profiler is None:
            return {}, {}
        profile = self.profile()
        latency = {path: each.service.mean for path, each in profile.stages.items()}
        latency |= {path: each.latency.mean for path, each in profile.pipelines.items()}
        throughput = {path: each.throughput for path, each in profile.stages.items()}
        throughput |= {path: each.throughput for path, each in profile.pipelines.items()}
        return latency, throughput

    def profile(self) -> Profile:
        """The full profile: percentiles of service and queue time per stage, end-to-end
        latency, throughput, share of time busy and the bottleneck. Also after ``cleanup``.

        Raises:
            PlanError: the pipeline was made without a profiler.
        """
        if self._profiler is None:
            raise PlanError(
                "there is no profiler: make the pipeline with Pipeline(use_profiler=True)"
            )
        session = self._session
        if session is not None and session.run.recorder is not None:
            session.run.recorder.pass_now()
        return self._profiler.summarize()

    def graph(self) -> Drawing:
        """The graph of the stages, to look at: ``print(pipeline.graph())`` draws it as a tree.

        Its ``text()``, ``mermaid()``, ``dot()`` and ``svg()`` give it as text of that kind.
        Nothing is run or started, and no mode need be chosen.

        Raises:
            PlanError: the stages do not fit together, as ``parallelize`` would say.
        """
        from ._drawing import Drawing

        # Without a mode it shows what was asked for; a serial pipeline has no workers.
        plan, _ = self._description.plan(self._description.mode or "parallel")
        return Drawing(plan, self._placement)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """What a notebook shows: the graph as a picture, and the ``repr`` as text."""
        try:
            bundle = {"text/plain": repr(self), "image/svg+xml": self.graph().svg()}
        except PlanError as error:  # it is being built
            bundle = {"text/plain": f"{self!r}\n{describe_error(error)}"}
        return {
            kind: shown
            for kind, shown in bundle.items()
            if (not include or kind in include) and kind not in (exclude or ())
        }

    def __repr__(self) -> str:
        from ._drawing import outline

        names = outline({entry.name: entry.options.after for entry in self._description.entries})
        session = self._session
        if self._lent():
            state = "part of another pipeline"
        elif session is None:
            state = "no mode"
        else:
            in_flight = session.run.ledger.snapshot().in_flight
            state = f"{self._executor_name}, {session.state}, {in_flight} in flight"
        return f"<Pipeline {names} ({state})>"


if not TYPE_CHECKING:
    # Seen at runtime, the annotations are those of the documented API: Any, and Pipeline.
    In = Out = Any
    Self = Pipeline


class PipelineStage(Stage[Any]):
    """A pipeline as a stage. Made by ``Pipeline.as_stage``.

    Called directly it gives the item's own result (SKIP when the item ended on the way), from
    any number of threads.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline

    def setup(self) -> None:
        """Start the pipeline, where it is a stage by itself: made by a factory, or placed."""
        self.pipeline.start()

    def __call__(self, data: Any) -> Any:
        """Run one item through the pipeline; blocks until it has ended."""
        return self.pipeline._used().call(data)

    def cleanup(self) -> None:
        """Clean up the pipeline, unless a parent does."""
        self.pipeline.cleanup()

    def __repr__(self) -> str:
        return f"<stage of {self.pipeline!r}>"


def _observer(given: str | Observer) -> Observer:
    if isinstance(given, Observer):
        return given
    if not isinstance(given, str):
        raise PlanError(
            f"observers are given by name or as objects of a subclass of Observer, not "
            f"{safe_repr(given)}"
        )
    from ._registry import built, registry

    found: Observer = built(registry().observer(given), Observer, f"observer {given!r}")
    return found


class _Places:
    """Puts the stages of one plan where they belong; stages that ask for the same placement by its
    name share one."""

    def __init__(self, for_all: str | Placement | None) -> None:
        self._for_all = for_all
        self._found: dict[str, Placement] = {}

    def placed(self, spec: StageSpec) -> StageSpec:
        """What an executor's worker calls."""
        asked = spec.options.placement
        given = self._for_all if asked is None else asked
        if given is None:
            return spec
        if spec.batching or spec.kind == "coroutine":
            if asked is None:
                return spec  # the one for all stages concerns those that can be placed
            what = "keeps items between its calls" if spec.batching else "is a coroutine function"
            raise PlanError(
                f"stage {spec.name!r} {what}, so it cannot be placed in {placement_name(given)!r}: "
                f"leave out placement"
            )
        options = replace(spec.options, placement=given)
        return self._find(given).wrap(replace(spec, options=options))

    def _find(self, given: str | Placement) -> Placement:
        if not isinstance(given, str):
            return given
        if given not in self._found:
            from ._registry import placement

            self._found[given] = placement(given)
        return self._found[given]


def _own_name(stage: Any) -> str:
    """The name that a stage has from its author, not from a pipeline."""
    if isinstance(stage, StageFactory):
        stage = stage.make
    if not isinstance(stage, Stage) and not (isinstance(stage, type) and issubclass(stage, Stage)):
        return ""
    try:
        name = stage.name
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise PlanError(
            f"the name of a {type(stage).__name__} stage cannot be read: {describe_error(error)}. "
            f"Make its name an ordinary attribute"
        ) from error
    if isinstance(stage, type) and not isinstance(name, str):  # a property: known later
        return ""
    return "" if name == stage._given_name else name


def _call_it(stage: Any, name: str) -> None:
    """Rename the user's object if its name is empty, as the documented API says."""
    if isinstance(stage, Stage) and stage.name == "":
        try:
            stage.name = stage._given_name = name
        except AttributeError:  # the class does not let its name be set
            pass


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise PlanError(f"{name} must be True or False, not {safe_repr(value)}")
    return value


def _names(after: object) -> tuple[Any, ...] | None:
    """``after`` as names; what is in it is checked with the other options."""
    if after is None:
        return None
    if isinstance(after, str) or not isinstance(after, Iterable):
        return (after,)
    return tuple(after)


def _seconds(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise PlanError(f"{name} must be seconds from 0, not {safe_repr(value)}")
    return float(min(value, TIMEOUT_MAX / 2))  # sums of two must still be allowed


def _forsaken(session: Session) -> None:
    """The Pipeline was collected without cleanup(). Runs in a destructor."""
    # A loop starts its pipeline in its own thread, perhaps only now.
    if (session.started or session.loop is not None) and not session.closed.is_set():
        session.forsake()
        warnings.warn(
            f"a running Pipeline ({' -> '.join(session.plan.paths) or 'without stages'}) was not "
            f"cleaned up: use `with pipeline:` or call cleanup()",
            ResourceWarning,
            stacklevel=2,
        )
