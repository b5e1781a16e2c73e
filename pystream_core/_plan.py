"""Describing a pipeline: names and options are refused here, before anything runs.

A :class:`Description` is what the user builds with ``add``; a :class:`Plan` its frozen,
checked form that an executor moves items through. Nested pipelines are opened up: a plan
lists leaf stages only, its ``graph`` says which of them feeds which, and its ``segments`` which
of them one worker runs back to back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias

from ._errors import DuplicateStageName, InvalidStageName, PlanError, StageError, safe_repr
from ._graph import Feed, Gathered, Graph, arrange
from ._stage import CallKind, Stage, StageFactory, call_kind

MAIN_PIPELINE_NAME: Final = "MainPipeline"
"""The name of main pipeline in profiling result."""

SEPARATOR: Final = "__"
"""What joins the names of nested pipelines and stages into one path."""

Mode = Literal["serial", "parallel"]
Overflow = Literal["block", "drop_oldest", "drop_newest"]

_OVERFLOWS: Final = ("block", "drop_oldest", "drop_newest")
_THEN: Final = ("stop", "skip")
_LARGEST_CAPACITY: Final = 1_000_000


@dataclass(frozen=True)
class Retry:
    """Failure policy: call the stage again before giving up on the item.

    Args:
        times: how many further calls, at least 1.
        backoff: seconds to wait before the first further call; doubled before each later
            one. The wait ends at once when the pipeline is aborted.
        then: what happens when all calls failed, ``"stop"`` or ``"skip"``.

    Raises:
        PlanError: an argument is out of its range.
    """

    times: int
    backoff: float = 0.0
    then: Literal["stop", "skip"] = "stop"

    def __post_init__(self) -> None:
        if not _is_int(self.times) or self.times < 1:
            raise PlanError(
                f"Retry: times must be a whole number from 1, not {safe_repr(self.times)}"
            )
        if not _is_number(self.backoff) or not 0 <= self.backoff < math.inf:
            raise PlanError(f"Retry: backoff must be seconds from 0, not {safe_repr(self.backoff)}")
        if not isinstance(self.then, str) or self.then not in _THEN:
            raise PlanError(f'Retry: then must be "stop" or "skip", not {safe_repr(self.then)}')


ErrorPolicy: TypeAlias = Literal["stop", "skip"] | Retry | Callable[[StageError], Any]


@dataclass(frozen=True, kw_only=True)
class StageOptions:
    """The options of one ``add``, checked. ``Pipeline.add`` says what each means."""

    workers: int = 1
    ordered: bool = True
    capacity: int | Literal["auto"] = "auto"
    overflow: Overflow = "block"
    on_error: ErrorPolicy = "stop"
    max_age: float | None = None
    placement: Any = None  # a name, or a Placement, which stands on a higher floor
    after: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not _is_int(self.workers) or self.workers < 1:
            raise PlanError(f"workers must be a whole number from 1, not {safe_repr(self.workers)}")
        if not isinstance(self.ordered, bool):
            raise PlanError(f"ordered must be True or False, not {safe_repr(self.ordered)}")
        auto = isinstance(self.capacity, str) and self.capacity == "auto"
        if not auto and (not _is_int(self.capacity) or self.capacity < 1):  # type: ignore[operator]
            raise PlanError(
                f'capacity must be a whole number from 1 or "auto", not {safe_repr(self.capacity)}'
            )
        if not auto and self.capacity > _LARGEST_CAPACITY:  # type: ignore[operator]
            raise PlanError(
                f"capacity must be at most {_LARGEST_CAPACITY:,}, since items that wait take "
                f'memory, not {safe_repr(self.capacity)}; "auto" finds a good number by itself'
            )
        if not isinstance(self.overflow, str) or self.overflow not in _OVERFLOWS:
            raise PlanError(
                f"overflow must be one of {_quoted(_OVERFLOWS)}, not {safe_repr(self.overflow)}"
            )
        if not (
            isinstance(self.on_error, Retry)
            or callable(self.on_error)
            or (isinstance(self.on_error, str) and self.on_error in _THEN)
        ):
            raise PlanError(
                'on_error must be "stop", "skip", a Retry or a callable that takes the failure, '
                f"not {safe_repr(self.on_error)}"
            )
        if call_kind(self.on_error) in ("coroutine", "async generator"):
            raise PlanError(
                "on_error must be an ordinary function: what an asynchronous one returns would "
                "be taken for the replacement, and nothing would await it"
            )
        if isinstance(self.on_error, type):
            raise PlanError(
                f"on_error must be a policy, not the class {self.on_error.__name__}: make an "
                f"instance of it, for example Retry(times=3)"
            )
        if self.max_age is not None and (
            not _is_number(self.max_age) or not 0 < self.max_age < math.inf
        ):
            raise PlanError(
                f"max_age must be seconds above 0, or None, not {safe_repr(self.max_age)}"
            )
        if self.placement is not None:
            check_placement(self.placement)
        if self.after is not None:
            _check_after(self.after)


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """One leaf stage of a plan.

    Attributes:
        path: names from the main pipeline down to this stage.
        make: gives the stage of one worker; called in that worker.
        kind: how its calls behave.
        shared: ``make`` gives the same object every time.
        options: the checked options of its ``add``.
        batching: it has a ``flush()``: what it takes in it gives out in other items.
        around: the stages from which items get past this one, as text; when there are any,
            it must give one item for one.
        polled: what ``make`` gives is a ``PolledStage``.
        whole: ``make`` is a factory of a pipeline that is placed in one piece, which is told the
            path of the stage that it is.
    """

    path: tuple[str, ...]
    make: Callable[[], Callable[[Any], Any]]
    kind: CallKind = "function"
    shared: bool = False
    options: StageOptions = field(default_factory=StageOptions)
    batching: bool = False
    around: str = ""
    polled: bool = False
    whole: bool = False

    def at(self, path: tuple[str, ...], options: StageOptions) -> StageSpec:
        """The same at its place in a plan."""
        make = self.make
        if self.whole:
            assert isinstance(make, StageFactory)
            make = StageFactory(make.make, {**make.options, "path": path})
        return replace(self, path=path, options=options, make=make)

    @property
    def name(self) -> str:
        """The full path as text, for example ``MainPipeline__Child__A``."""
        return SEPARATOR.join(self.path)

    @property
    def max_age_ns(self) -> int | None:
        """The freshness limit in nanoseconds, None without one."""
        return None if self.options.max_age is None else int(self.options.max_age * 1e9)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A frozen, checked pipeline.

    Attributes:
        stages: the leaf stages, each behind those that feed it.
        graph: which of them feeds which.
        segments: ranges of stage indexes that one worker runs back to back. A serial
            pipeline nested in a parallel one is one segment; any other stage its own.
        mode: what the pipeline was turned into.
        inside: a stage outside stands for the whole of it, and says what comes of its items.
    """

    stages: tuple[StageSpec, ...]
    graph: Graph
    segments: tuple[range, ...]
    mode: Mode
    inside: bool = False

    @property
    def paths(self) -> tuple[str, ...]:
        """The full path of every stage."""
        return tuple(spec.name for spec in self.stages)

    def workers(self, segment: range) -> int:
        """How many workers run this segment side by side."""
        if self.mode == "serial" or len(segment) > 1:
            return 1
        return self.stages[segment[0]].options.workers


class Entry:
    """One ``add``: a name, options, and a stage or a nested description.

    ``keeper`` is whatever the pipeline wants to keep beside the entry (its stage
    instances); a plan carries it along and never looks at it.
    """

    __slots__ = ("child", "keeper", "name", "options", "spec", "stage")

    def __init__(
        self,
        name: str,
        options: StageOptions,
        *,
        spec: StageSpec | None = None,
        child: Description | None = None,
        keeper: Any = None,
        stage: Stage[Any] | None = None,
    ) -> None:
        self.name = name
        self.options = options
        self.spec = spec
        self.child = child
        self.keeper = keeper
        self.stage = stage  # the user's own object, which can stand in one place only


class Description:
    """The stages of one pipeline as the user adds them. Not thread-safe by itself.

    Attributes:
        stands_for: the path of the stage that this pipeline is, where it is placed in one piece.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.mode: Mode | None = None
        self.stands_for: tuple[str, ...] = ()

    def free_name(self, given: str | None, own: str) -> str:
        """The name of the next stage: the given one, its own, or the next free ``Stage_i``.

        Raises:
            InvalidStageName: not text, or text that a path cannot hold.
            DuplicateStageName: another stage of this pipeline has it.
        """
        taken = {entry.name for entry in self.entries}
        if given is None and not own:
            number = len(self.entries) + 1
            while f"Stage_{number}" in taken:
                number += 1
            return f"Stage_{number}"
        name = own if given is None else given
        check_name(name)
        if name in taken:
            raise DuplicateStageName(
                f"a stage named {name!r} is there already: give this one another name, "
                f"add(..., name=...)"
            )
        return name

    def plan(self, mode: Mode | None = None) -> tuple[Plan, tuple[Any, ...]]:
        """The frozen plan and, in the same order, what was kept beside each leaf stage.

        Args:
            mode: what it is planned for; by default the mode that has been chosen.

        Raises:
            PlanError: the stages do not fit together.
            DuplicateStageName: two full paths are the same text.
        """
        mode = mode or self.mode or "serial"
        laid = _Laid()
        result = self._lay(laid, self.stands_for or (MAIN_PIPELINE_NAME,), None, None, ())
        graph = Graph(tuple(each.feed for each in laid.leaves), result)
        stages: list[StageSpec] = []
        segments: list[range] = []
        block: Description | None = None
        for index, leaf in enumerate(laid.leaves):
            serial = next((one for one in leaf.inside if one.mode == "serial"), None)
            if mode == "serial":
                serial = self
            spec = leaf.spec
            if serial is not None:  # also one that is alone in its pipeline
                spec = replace(spec, options=replace(spec.options, workers=1))
            stages.append(spec)
            if serial is not None and serial is block:
                segments[-1] = range(segments[-1].start, index + 1)
            else:
                segments.append(range(index, index + 1))
            block = serial
        _check_paths(stages)
        laid.check_objects()
        for index, spec in enumerate(() if graph.linear else stages):
            around = ", ".join(repr(stages[one].name) for one in graph.around(index))
            stages[index] = replace(spec, around=around)
            check_place(stages[index], spec.kind, batching=spec.batching)
        plan = Plan(
            stages=tuple(stages),
            graph=graph,
            segments=tuple(segments),
            mode=mode,
            inside=bool(self.stands_for),
        )
        return plan, tuple(leaf.entry.keeper for leaf in laid.leaves)

    def _lay(
        self,
        laid: _Laid,
        above: tuple[str, ...],
        outer: StageOptions | None,
        fed: Feed,
        inside: tuple[Description, ...],
    ) -> Feed:
        """List the leaf stages behind one another, nested pipelines opened up.

        Args:
            fed: what feeds this pipeline.

        Returns:
            what this pipeline gives out.
        """
        entries = {entry.name: entry for entry in self.entries}
        arranged = arrange({name: entry.options.after for name, entry in entries.items()})
        outputs: dict[str, Feed] = {}
        empty: set[str] = set()  # pipelines without stages, which pass on what feeds them
        for name, feeders in arranged.items():
            entry = entries[name]
            options, path = entry.options, (*above, name)
            if outer is not None:
                options = _inherit(options, outer, first=not feeders)
            if len(feeders) > 1:
                _refuse_empty(feeders, empty, f"stage {name!r}")
                feed: Feed = Gathered(tuple(outputs[each] for each in feeders))
            else:
                feed = outputs[feeders[0]] if feeders else fed
            if entry.child is not None:
                nested = (*inside, entry.child)
                outputs[name] = entry.child._lay(laid, path, options, feed, nested)
                if outputs[name] == feed:
                    empty.add(name)
            elif entry.spec is not None:  # pragma: no branch - an entry has one of the two
                spec = entry.spec.at(path, options)
                outputs[name] = laid.append(_Leaf(spec, entry, inside, feed))
        used = {each for feeders in arranged.values() for each in feeders}
        ends = [name for name in entries if name not in used]
        if len(ends) > 1:
            _refuse_empty(ends, empty, f"the result of {SEPARATOR.join(above)!r}")
            return Gathered(tuple(outputs[name] for name in ends), tuple(ends))
        return outputs[ends[0]] if ends else fed


@dataclass(frozen=True)
class _Leaf:
    """A leaf stage of a plan while that is built, with the nested descriptions it stands in."""

    spec: StageSpec
    entry: Entry
    inside: tuple[Description, ...]
    feed: Feed


class _Laid:
    """The leaf stages of a plan while that is built."""

    def __init__(self) -> None:
        self.leaves: list[_Leaf] = []

    def append(self, leaf: _Leaf) -> int:
        """Put a leaf stage behind the others; its index."""
        self.leaves.append(leaf)
        return len(self.leaves) - 1

    def check_objects(self) -> None:
        """Refuse one Stage object in two places."""
        seen: dict[int, str] = {}
        for leaf in self.leaves:
            stage, name = leaf.entry.stage, leaf.spec.name
            if stage is None:
                continue
            if id(stage) in seen:
                raise PlanError(
                    f"one Stage object is both {seen[id(stage)]!r} and {name!r}: two workers would "
                    f"share it. Add its class, factory({type(stage).__name__}, ...), or a second "
                    f"object"
                )
            seen[id(stage)] = name


def _refuse_empty(names: Sequence[str], empty: set[str], where: str) -> None:
    for name in names:
        if name in empty:
            raise PlanError(
                f"{where} needs the output of {name!r}, a pipeline without stages: add a stage to "
                f"it that passes items on, or leave it out"
            )


def describe(stage: Any, given: str | None, own: str) -> StageSpec:
    """The specification of what was given to ``add``, still without a path.

    Raises:
        PlanError: it is no stage, or of a kind that this version does not run.
    """
    label = label_of(stage, given, own)
    if not callable(stage):
        raise PlanError(
            f"stage {label} cannot be called{_hint(stage)}: add() takes a function, a Stage, a "
            f"subclass of "
            f"Stage, or factory(make, ...), not {type(stage).__name__}"
        )
    is_stage_class = isinstance(stage, type) and issubclass(stage, Stage)
    if is_stage_class:
        missing = sorted(stage.__abstractmethods__)
        if missing:
            raise PlanError(
                f"stage {label} lacks {', '.join(f'{name}()' for name in missing)}: every stage "
                f"class defines __call__ and cleanup"
            )
        stage = StageFactory(stage, {})
    kind = call_kind(stage)
    if kind == "async generator":
        raise PlanError(f"stage {label} is an async generator function; use a plain generator")
    batching = flushes(stage)
    if isinstance(stage, StageFactory):
        return StageSpec(path=(), make=stage, kind=kind, batching=batching)
    return StageSpec(path=(), make=lambda: stage, kind=kind, batching=batching, shared=True)


def label_of(stage: Any, given: str | None, own: str) -> str:
    """What messages call a stage that has no path yet: its name, else the function's."""
    chosen = own if given is None else given
    if isinstance(stage, StageFactory):
        stage = stage.make
    return safe_repr(chosen or getattr(stage, "__name__", type(stage).__name__))


def flushes(stage: Any) -> bool:
    """Whether a Stage, a class of stages or a factory of one defines ``flush``."""
    if isinstance(stage, StageFactory):
        stage = stage.make
    owner = stage if isinstance(stage, type) else type(stage)
    return issubclass(owner, Stage) and callable(getattr(owner, "flush", None))


def check_flush(label: str, stage: Any) -> None:
    """Refuse a ``flush`` whose calls would give something to await.

    Raises:
        PlanError: with what to do instead.
    """
    stage = stage.make if isinstance(stage, StageFactory) else stage
    if flushes(stage) and call_kind(stage.flush) in ("coroutine", "async generator"):
        raise PlanError(
            f"stage {label} defines an asynchronous flush(), which nothing would await: make it "
            f"an ordinary method that returns or yields what the stage still holds"
        )


def check_options(stage: Any, spec: StageSpec, label: str) -> None:
    """Refuse options that do not go with what the stage is.

    Raises:
        PlanError: with what to do instead.
    """
    options = spec.options
    if options.workers > 1 and isinstance(stage, Stage) and spec.kind != "coroutine":
        raise PlanError(
            f"stage {label!r}: one Stage object cannot serve workers={options.workers}, it would "
            f"be shared between threads. Give its class, or factory({type(stage).__name__}, ...)"
        )
    check_kind(repr(label), options, spec.kind, batching=spec.batching)
    check_flush(repr(label), stage)


def check_kind(label: str, options: StageOptions, kind: CallKind, *, batching: bool) -> None:
    """Refuse options that do not go with how a stage's calls behave.

    Raises:
        PlanError: with what to do instead.
    """
    if batching and kind == "coroutine":
        raise PlanError(
            f"stage {label} defines flush() and an asynchronous __call__: a batching stage is "
            f"called in turn with its flush, so make its __call__ an ordinary method"
        )
    if kind == "generator" and isinstance(options.on_error, Retry):
        raise PlanError(
            f"stage {label} is a generator: what it has given out cannot be taken back, so it "
            f'cannot be retried. Use on_error="skip", "stop" or a callable'
        )
    if not batching:
        return
    if isinstance(options.on_error, Retry):
        raise PlanError(
            f"stage {label} defines flush(), so it keeps items between its calls: what it has "
            f'taken in cannot be taken back, so it cannot be retried. Use on_error="skip", "stop" '
            f"or a callable"
        )
    if options.workers > 1:
        raise PlanError(
            f"stage {label} defines flush(), so it keeps items between its calls: with workers="
            f"{options.workers} each would collect items of its own. Use workers=1"
        )


def check_place(spec: StageSpec, kind: CallKind, *, batching: bool) -> None:
    """Refuse a stage that changes the number of items where others find no partner.

    Raises:
        PlanError: with where to put it.
    """
    if spec.around and (batching or kind == "generator"):
        what = "keeps items to give out other ones" if batching else "makes several items of one"
        raise PlanError(
            f"stage {spec.name!r} {what}, so it cannot stand beside other branches: items that get "
            f"past it (from {spec.around}) would find no partner. Put it before the first branch "
            f"or behind the last join"
        )


def check_placement(given: object) -> None:
    """Refuse what is neither the name of a placement nor one itself.

    Raises:
        PlanError: with what it may be.
    """
    placement = callable(getattr(type(given), "wrap", None))  # asks the object itself nothing
    if not placement and (not isinstance(given, str) or not given):
        raise PlanError(
            f"placement must be the name of one, an object such as "
            f'pystream_core.placement("process", timeout=2.0) gives, or None, '
            f"not {safe_repr(given)}"
        )


def placement_name(given: Any) -> str:
    """The name of a placement, also of one that is given as an object."""
    if isinstance(given, str):
        return given
    name = getattr(given, "name", "")
    return name if isinstance(name, str) and name else type(given).__name__


def check_child_options(options: StageOptions, label: str) -> None:
    """Refuse options that a nested pipeline cannot have as a whole.

    Raises:
        PlanError: with what to do instead.
    """
    if options.workers > 1:
        raise PlanError(
            f"stage {label!r} is a pipeline, which cannot serve workers={options.workers}: "
            f"give workers to the stages inside it"
        )
    if isinstance(options.on_error, Retry) or callable(options.on_error):
        raise PlanError(
            f'stage {label!r} is a pipeline: its on_error can be "stop" or "skip"; give a Retry '
            f"or a callable to the stages inside it"
        )


def check_name(name: object) -> None:
    """Refuse a stage name that cannot be part of a path.

    Raises:
        InvalidStageName: with the rule that it breaks.
    """
    if not isinstance(name, str):
        raise InvalidStageName(
            f"a stage name must be text, not {safe_repr(name)}: give add(stage, name=...)"
        )
    if not name:
        raise InvalidStageName("a stage name must not be empty; leave it out for Stage_1, Stage_2…")
    if SEPARATOR in name:
        raise InvalidStageName(
            f"stage name {name!r} holds {SEPARATOR!r}, which joins the names of nested pipelines: "
            f"use a single underscore"
        )
    if "\0" in name:
        raise InvalidStageName(f"stage name {name!r} holds a NUL character: leave it out")
    if name == MAIN_PIPELINE_NAME:
        raise InvalidStageName(f"{name!r} names the pipeline itself: choose another stage name")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InvalidStageName(
            f"stage name {name!r} holds a lone surrogate, which no file can store: leave it out"
        ) from None


def _inherit(options: StageOptions, outer: StageOptions, *, first: bool) -> StageOptions:
    """A nested stage keeps its options; the pipeline around it adds what it left open.

    A failure that the stage lets out ("stop") is its pipeline's. The channel in front of a
    nested pipeline is the one in front of its first stage.
    """
    if options.on_error == "stop" and outer.on_error != "stop":
        options = replace(options, on_error=outer.on_error)
    elif (
        outer.on_error == "skip"
        and isinstance(options.on_error, Retry)
        and options.on_error.then == "stop"
    ):
        options = replace(options, on_error=replace(options.on_error, then="skip"))
    if not first:
        return options
    if outer.capacity != "auto":
        options = replace(options, capacity=outer.capacity)
    if outer.overflow != "block":
        options = replace(options, overflow=outer.overflow)
    if outer.max_age is not None:
        options = replace(options, max_age=min(outer.max_age, options.max_age or math.inf))
    return options


def _check_paths(stages: Sequence[StageSpec]) -> None:
    seen: set[str] = set()
    for spec in stages:
        if spec.name in seen:
            raise DuplicateStageName(
                f"two stages have the full path {spec.name!r} (underscores at the ends of names "
                f"run together): rename one of them"
            )
        seen.add(spec.name)


def _check_after(names: tuple[object, ...]) -> None:
    if not names:
        raise PlanError(
            "after must name at least one stage: the first stage that is added takes the input. "
            "For several branches from the input begin with one that passes items on, "
            "add(lambda item: item)"
        )
    for name in names:
        if not isinstance(name, str):
            raise PlanError(
                f"after must be the name of a stage or a list of names, not {safe_repr(name)}"
            )


def _hint(stage: object) -> str:
    """What was probably meant by something that is no stage."""
    if isinstance(stage, str):
        return f" (a registered stage is pystream_core.stage({stage!r}))"
    if hasattr(stage, "as_stage"):
        return " (a pipeline becomes a stage by its as_stage())"
    if hasattr(stage, "__iter__"):
        return " (what gives items is a source: stream(source))"
    return ""


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _quoted(values: Sequence[str]) -> str:
    return ", ".join(f'"{value}"' for value in values)
