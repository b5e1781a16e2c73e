"""Describing a pipeline: what is wrong is refused at once, with what to do about it."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from pystream import (
    MAIN_PIPELINE_NAME,
    SKIP,
    DuplicateStageName,
    InvalidStageName,
    Pipeline,
    PipelineBusy,
    PipelineTerminated,
    PipelineUndefined,
    PlanError,
    PluginNotFound,
    PyStreamError,
    Retry,
    Stage,
    StageError,
    factory,
)

from pystream_core.testing import InlinePlacement


class Unspeakable:
    """A wrong argument that cannot even be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    __hash__ = None  # type: ignore[assignment]


class Plain(Stage[Any]):
    """An ordinary stage."""

    def __call__(self, data: Any) -> Any:
        return data

    def cleanup(self) -> None: ...


class Batch(Plain):
    def flush(self) -> Any:
        return []


class Abstract(Stage[Any]):
    pass


class AsyncBatch(Batch):
    """Its call and its flush could not take turns."""

    async def __call__(self, item: Any) -> Any:
        return item


class AsyncFlush(Batch):
    """Nothing would await what its flush returns."""

    async def flush(self) -> Any:
        return ()


class HastyBatch(Batch):
    """Its items may wait for no time at all."""

    max_wait = 0


async def awaited(item: Any) -> Any:
    return item


async def asynchronous(item: Any) -> AsyncIterator[Any]:
    yield item


def generator(item: Any) -> Iterator[Any]:
    yield item


def identity(item: Any) -> Any:
    return item


def add(*args: Any, **options: Any) -> Callable[[], Any]:
    return lambda: Pipeline().add(*args, **options)


def parallelize(**options: Any) -> Callable[[], Any]:
    return lambda: Pipeline().parallelize(**options)


def started(method: str, *args: Any, **pipeline: Any) -> Callable[[], Any]:
    return lambda: getattr(Pipeline(**pipeline).serialize(), method)(*args)


def added_after_a_mode() -> None:
    Pipeline().serialize().add(identity)


def duplicate() -> None:
    pipeline = Pipeline()
    pipeline.add(identity, "A")
    pipeline.add(identity, "A")


def itself() -> None:
    child = Pipeline().serialize()
    parent = Pipeline()
    parent.add(child.as_stage())
    parent.serialize()
    parent.add(parent.as_stage())


def child_with(**options: Any) -> Callable[[], Any]:
    def refuse() -> None:
        child = Pipeline()
        child.add(identity)
        Pipeline().add(child.serialize().as_stage(), "Child", **options)

    return refuse


def child_stage(stage: Any, *, mode: str = "serialize", **options: Any) -> Stage[Any]:
    """A pipeline of one stage, as a stage."""
    child = Pipeline()
    child.add(stage, **options)
    chosen: Pipeline = getattr(child, mode)()
    return chosen.as_stage()


def region_of(stage: Any, **options: Any) -> None:
    """Place a pipeline in one piece."""
    Pipeline().add(child_stage(stage, **options), "Child", placement="process")


class Holds(Stage[Any]):
    """A batching stage."""

    def __call__(self, data: Any) -> Any:
        return SKIP

    def flush(self) -> Any:
        return None

    def cleanup(self) -> None:
        """Nothing."""


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    # Pipeline
    "generator is no function": (lambda: Pipeline([1]), r"stream\(source\)"),  # type: ignore[arg-type]
    "use_profiler is no flag": (lambda: Pipeline(None, "sqlite"), "True or False"),  # type: ignore[arg-type]
    "profiler is no name": (lambda: Pipeline(use_profiler=True, profiler=5), "by name"),  # type: ignore[arg-type]
    "observers is no list": (lambda: Pipeline(observers=5), "list of names"),  # type: ignore[arg-type]
    "observers is text": (lambda: Pipeline(observers="sqlite"), "list of names"),
    "observer of a wrong kind": (lambda: Pipeline(observers=[5]), "subclass of Observer"),  # type: ignore[list-item]
    # add: the stage
    "stage is no callable": (add(5), "function, a Stage"),
    "stage is None": (add(None), "function, a Stage"),
    "stage is unspeakable": (add(Unspeakable()), "function, a Stage"),
    "stage class is abstract": (add(Abstract), r"lacks __call__\(\), cleanup\(\)"),
    "asynchronous generator": (add(asynchronous), "plain generator"),
    "batching with workers": (add(Batch, workers=2), r"flush\(\).*workers=1"),
    "batching with Retry": (add(Batch, on_error=Retry(2)), r"flush\(\).*cannot be retried"),
    "batching coroutine": (add(AsyncBatch), r"flush\(\).*ordinary method"),
    "asynchronous flush": (add(AsyncFlush), r"asynchronous flush\(\).*ordinary method"),
    "asynchronous flush of an object": (add(AsyncFlush()), r"asynchronous flush\(\)"),
    "asynchronous flush of a factory": (add(factory(AsyncFlush)), r"asynchronous flush\(\)"),
    "after nothing": (add(identity, after=[]), r"first stage that is added takes the input"),
    "after a number": (add(identity, after=5), r"after must be the name of a stage"),
    "after numbers": (add(identity, after=["A", 5]), r"after must be the name of a stage"),
    "workers share an object": (add(Plain(), workers=2), r"factory\(Plain, \.\.\.\)"),
    "pipeline in itself": (itself, r"add\(\) comes before|stage of itself"),
    "add after a mode": (added_after_a_mode, r"make a new Pipeline"),
    # add: the options
    **{
        f"workers={value!r}": (add(identity, workers=value), "workers must be a whole number")
        for value in (0, -1, 1.5, "2", None, True)
    },
    "workers unspeakable": (add(identity, workers=Unspeakable()), "workers must be"),
    "ordered": (add(identity, ordered=1), "ordered must be True or False"),
    **{
        f"capacity={value!r}": (add(identity, capacity=value), 'whole number from 1 or "auto"')
        for value in (0, -5, 2.0, "many", None, False)
    },
    "capacity unspeakable": (add(identity, capacity=Unspeakable()), "capacity must be"),
    "capacity too large": (add(identity, capacity=10**9), "at most 1,000,000"),
    **{
        f"overflow={value!r}": (
            add(identity, overflow=value),
            '"block", "drop_oldest", "drop_newest"',
        )
        for value in ("drop", None, 1)
    },
    "overflow unspeakable": (add(identity, overflow=Unspeakable()), "overflow must be"),
    **{
        f"on_error={value!r}": (add(identity, on_error=value), 'on_error must be "stop", "skip"')
        for value in ("ignore", None, 1)
    },
    "on_error unspeakable": (add(identity, on_error=Unspeakable()), "on_error must be"),
    "on_error asynchronous": (add(identity, on_error=awaited), "on_error must be an ordinary"),
    "on_error is the class Retry": (add(identity, on_error=Retry), r"for example Retry\(times=3\)"),
    "retry of a generator": (add(generator, on_error=Retry(1)), "cannot be retried"),
    **{
        f"max_age={value!r}": (add(identity, max_age=value), "seconds above 0, or None")
        for value in (0, -1, math.nan, math.inf, "1", True)
    },
    "placement": (add(identity, placement=5), "placement must be the name"),
    "placement empty": (add(identity, placement=""), "placement must be the name"),
    "pipeline with workers": (child_with(workers=2), "to the stages inside it"),
    "pipeline with retry": (child_with(on_error=Retry(1)), "to the stages inside it"),
    "pipeline with callable": (child_with(on_error=print), "to the stages inside it"),
    "parallel pipeline with placement": (
        lambda: region_of(identity, mode="parallelize"),
        r"not serial, so it cannot be placed as a whole: call its serialize\(\)",
    ),
    "placed pipeline with a generator": (lambda: region_of(generator), "'Stage_1' is a generator"),
    "placed pipeline with batches": (lambda: region_of(Holds()), "'Stage_1' keeps items"),
    "placed pipeline with a placement inside": (
        lambda: region_of(identity, placement=InlinePlacement()),
        "'Stage_1' cannot have a placement of its own",
    ),
    "placed pipeline within a pipeline with a generator": (
        lambda: region_of(child_stage(generator)),
        "'Stage_1' is a generator",
    ),
    # add: the name
    "name empty": (add(identity, ""), "leave it out for Stage_1"),
    "name with two underscores": (add(identity, "a__b"), "single underscore"),
    "name with NUL": (add(identity, "a\0b"), "NUL"),
    "name of the main pipeline": (add(identity, MAIN_PIPELINE_NAME), "choose another"),
    "name with a lone surrogate": (add(identity, "a\ud800"), "surrogate"),
    "name is a number": (add(identity, 5), "must be text"),
    "name is unspeakable": (add(identity, Unspeakable()), "must be text"),
    "name is taken": (duplicate, r"another name"),
    # Retry
    **{
        f"Retry({value!r})": (lambda value=value: Retry(value), "times must be a whole number")
        for value in (0, -1, 1.5, "3", None, True)
    },
    **{
        f"Retry(1, {value!r})": (lambda value=value: Retry(1, value), "backoff must be seconds")
        for value in (-1, math.nan, math.inf, "1", None)
    },
    "Retry then": (lambda: Retry(1, then="again"), '"stop" or "skip"'),  # type: ignore[arg-type]
    "Retry then unspeakable": (lambda: Retry(1, then=Unspeakable()), '"stop" or "skip"'),  # type: ignore[arg-type]
    # factory
    "factory of no callable": (lambda: factory(5), "something callable"),  # type: ignore[arg-type]
    "factory with a wrong option": (lambda: factory(Plain, size=5), r"factory\(Plain\).*'size'"),
    "factory without an option": (lambda: factory(lambda size: size), r"'size'"),
    # parallelize
    **{
        f"parallelize({name}=5)": (parallelize(**{name: 5}), f"{name} must be True or False")
        for name in ("block_input", "block_output")
    },
    **{
        f"parallelize({name}={value!r})": (
            parallelize(**{name: value}),
            f"{name} must be seconds from 0",
        )
        for name in ("input_timeout", "output_timeout", "drain_timeout", "stuck_timeout")
        for value in (-1, math.nan, "1", None, True)
    },
    "parallelize timeout unspeakable": (parallelize(input_timeout=Unspeakable()), "seconds from 0"),
    "executor is no name": (parallelize(executor=5), 'for example "threads"'),
    "executor is serial": (parallelize(executor="serial"), r"serialize\(\)"),
    "unknown option": (
        parallelize(sise=5),
        r"executor 'threads' has no option 'sise'.*name_prefix='pystream'",
    ),
    "misspelt option": (parallelize(name_prefx="x"), "did you mean 'name_prefix'"),
    "misspelt argument": (parallelize(block_inputs=True), "did you mean 'block_input'"),
    "misspelt placement": (parallelize(placment="inline"), "did you mean 'placement'"),
    # the loop, forward, drain, cleanup
    "loop without a generator": (started("start_loop"), r"input_generator=\.\.\."),
    "forward without a generator": (started("forward"), r"input_generator=\.\.\."),
    "stream without a source": (started("stream"), r"input_generator=\.\.\."),
    **{
        f"start_loop({value!r})": (
            started("start_loop", value, input_generator=lambda: 1),
            "period must be seconds above 0",
        )
        for value in (0, -1, math.nan, math.inf, "1", None, True)
    },
    "drain": (started("drain", -1), "timeout must be seconds from 0"),
    "profile without a profiler": (started("profile"), r"use_profiler=True"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_with_what_to_do(case: str) -> None:
    """A PlanError, also a ValueError, in one readable sentence or two."""
    call, expected = REFUSED[case]
    with pytest.raises(PlanError) as caught:
        call()
    message = str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert re.search(expected, message, re.DOTALL), message
    assert 20 < len(message) < 600
    assert "\n" not in message


@pytest.mark.parametrize("option", ["workers", "ordered", "capacity", "overflow", "on_error"])
@pytest.mark.parametrize(
    ("stage", "name", "called"),
    [
        (identity, "Blur", "Blur"),
        (identity, None, "identity"),
        (Plain(), None, "Plain"),
        (Plain, None, "Plain"),
        (factory(Plain), None, "Plain"),
    ],
)
def test_a_refused_option_names_its_stage(
    option: str, stage: Any, name: str | None, called: str
) -> None:
    """In a script with ten ``add`` lines the message says which one it is about."""
    with pytest.raises(PlanError, match=rf"^stage '{called}': {option} must be "):
        Pipeline().add(stage, name, **{option: 0})


def test_an_object_that_names_itself_is_called_so() -> None:
    """Its own name stands in the message, not that of its class."""

    class Named(Plain):
        name = "Blur"

    with pytest.raises(PlanError, match=r"^stage 'Blur': max_age must be "):
        Pipeline().add(Named(), max_age=0)


@pytest.mark.parametrize("mode", ["serialize", "parallelize"])
@pytest.mark.parametrize("verb", ["stream", "run"])
def test_a_source_that_is_none_is_refused_with_what_to_do(mode: str, verb: str) -> None:
    """A TypeError, as documented, that says what is expected; the pipeline can be used."""
    with getattr(Pipeline(), mode)() as pipeline:
        for wrong in (5, identity, Unspeakable()):
            with pytest.raises(TypeError, match=r"any iterable of items, not .* forward\(item\)"):
                getattr(pipeline, verb)(wrong)
        assert list(pipeline.stream([1])) == [1]


def test_a_source_that_cannot_begin_says_so_itself() -> None:
    """What its ``__iter__`` raises comes out as it is."""

    class Broken:
        def __iter__(self) -> Iterator[Any]:
            raise TypeError("no film in the camera")

    with Pipeline().parallelize() as pipeline, pytest.raises(TypeError, match=r"^no film"):
        pipeline.stream(Broken())


MISSING: dict[str, tuple[Callable[[], Any], str]] = {
    "executor": (parallelize(executor="cluster"), "'cluster'.*Installed: serial, threads"),
    "misspelt executor": (parallelize(executor="thread"), "did you mean 'threads'"),
    "profiler": (lambda: Pipeline(use_profiler=True, profiler="sqlight"), "did you mean 'sqlite'"),
    "observer": (lambda: Pipeline(observers=["nobody"]), "observer or profiler 'nobody'"),
    "placement": (
        lambda: [p := Pipeline(), p.add(identity, placement="elsewhere"), p.parallelize()],
        r"placement .elsewhere.\. Installed: ",
    ),
}


@pytest.mark.parametrize("case", MISSING)
def test_a_missing_plugin_is_named_with_what_is_installed(case: str) -> None:
    """PluginNotFound with the nearest name, or the pip command."""
    call, expected = MISSING[case]
    with pytest.raises(PluginNotFound) as caught:
        call()
    assert re.search(expected, str(caught.value)), str(caught.value)
    assert isinstance(caught.value, LookupError)


def test_a_refused_mode_leaves_the_pipeline_as_it_was() -> None:
    """After a failed ``parallelize`` stages can still be added, and another mode chosen."""
    pipeline = Pipeline()
    pipeline.add(identity)
    with pytest.raises(PluginNotFound):
        pipeline.parallelize(executor="cluster")
    with pytest.raises(PlanError):
        pipeline.parallelize(sise=1)
    with pytest.raises(PipelineUndefined):
        pipeline.forward(1)
    pipeline.add(identity)
    pipeline.serialize().forward(1)
    assert pipeline.get_results() == 1
    with pytest.raises(PlanError):
        pipeline.parallelize(input_timeout=-1)
    assert pipeline.forward(2)  # the earlier mode is still there
    pipeline.cleanup()


def test_a_refused_stage_leaves_no_trace() -> None:
    """The next one gets the number that the refused one would have had; objects keep their
    names, and a refused child stays free."""
    pipeline = Pipeline()
    shared = Plain()
    with pytest.raises(PlanError):
        pipeline.add(shared, workers=2)
    with pytest.raises(PlanError):
        pipeline.add(5)  # type: ignore[arg-type]
    child = Pipeline().serialize()
    with pytest.raises(PlanError):
        pipeline.add(child.as_stage(), workers=2)
    assert shared.name == ""
    assert child.forward(1)
    pipeline.add(identity)
    assert "Stage_1 " in repr(pipeline)
    child.cleanup()


@pytest.mark.parametrize(
    "name",
    [
        "a",
        " ",
        "Ü 名前 🎞",
        "'; DROP TABLE span; --",
        '"quoted"',
        "x" * 500,
        "Stage_1",
        "_",
        "a_b_c",
        "new\nline",
        "%s %d {}",
        "mainpipeline",
        "../etc/passwd",
    ],
)
def test_any_other_text_is_a_name(name: str) -> None:
    """It comes out unharmed in the statistics, the failure and the repr."""
    pipeline = Pipeline()
    pipeline.add(lambda item: 1 / item, name)
    pipeline.parallelize()
    assert pipeline.forward(1)
    assert pipeline.forward(0)
    with pytest.raises(PyStreamError) as caught:
        pipeline.drain()
    assert caught.value.path == f"MainPipeline__{name}"  # type: ignore[attr-defined]
    assert pipeline.statistics().stages[0].path == f"MainPipeline__{name}"
    assert name[:50].replace("\n", "\\n") in repr(pipeline)
    pipeline.cleanup()


def test_names_that_differ_only_in_case_are_two() -> None:
    """Also where a file system would not tell them apart."""
    pipeline = Pipeline()
    pipeline.add(identity, "a")
    pipeline.add(identity, "A")
    pipeline.serialize()
    assert [stage.path for stage in pipeline.run([]).stages] == [
        "MainPipeline__a",
        "MainPipeline__A",
    ]
    pipeline.cleanup()


@pytest.mark.parametrize("own", [5, "a__b", "a\0", MAIN_PIPELINE_NAME])
def test_an_objects_own_name_is_checked_as_well(own: Any) -> None:
    """An illegal one is refused, unless ``add`` gives a legal one."""
    stage = Plain()
    stage.name = own
    with pytest.raises(InvalidStageName):
        Pipeline().add(stage)
    Pipeline().add(stage, "legal")


def test_paths_that_run_together_are_refused() -> None:
    """``a_`` + ``b`` and ``a`` + ``_b`` would be one path."""
    outer = Pipeline()
    for child_name, inner_name in (("a_", "b"), ("a", "_b")):
        child = Pipeline()
        child.add(identity, inner_name)
        outer.add(child.serialize().as_stage(), child_name)
    with pytest.raises(DuplicateStageName, match="rename one"):
        outer.serialize()


def test_a_pipeline_that_is_part_of_another_refuses_use() -> None:
    """PipelineBusy, which names the way out; after the parent's cleanup it starts afresh."""
    child, parent = Pipeline(), Pipeline()
    child.add(identity)
    stage = child.serialize().as_stage()
    parent.add(stage)
    for call in (
        lambda: child.forward(1),
        child.get_results,
        child.parallelize,
        lambda: child.add(identity),
        lambda: stage(1),
        lambda: Pipeline().add(stage),
    ):
        with pytest.raises(PipelineBusy, match=r"use that one, or call its cleanup\(\)"):
            call()
    parent.serialize().cleanup()
    with pytest.raises(PipelineTerminated, match=r"serialize\(\) or parallelize\(\)"):
        child.forward(1)
    assert child.serialize().forward(1)
    child.cleanup()


def test_a_forgotten_parent_frees_its_child() -> None:
    """A parent that was collected holds nothing: the child, and its abort, work again."""
    child = Pipeline()
    child.add(identity)
    parent = Pipeline()
    parent.add(child.serialize().as_stage())
    del parent
    child.parallelize().forward(1)
    child.abort()
    with pytest.raises(PipelineTerminated):
        child.forward(2)
    child.cleanup()


@pytest.mark.parametrize("timeout", [math.inf, 1e300, 10**400], ids=["inf", "1e300", "10**400"])
def test_endless_timeouts_are_accepted(timeout: float) -> None:
    """No wait overflows, and cleanup still ends."""
    pipeline = Pipeline()
    pipeline.add(identity)
    pipeline.parallelize(True, timeout, True, timeout, drain_timeout=timeout, stuck_timeout=timeout)
    assert pipeline.forward(1)
    assert pipeline.get_results() == 1
    pipeline.drain(timeout)
    pipeline.cleanup(timeout=timeout)


@pytest.mark.parametrize("period", [1e-320, 10**400], ids=["tiny", "huge"])
def test_extreme_periods_are_accepted(period: float) -> None:
    """The first tick comes at once, and the loop can be stopped."""
    pipeline = Pipeline(lambda: 1)
    pipeline.add(identity)
    pipeline.parallelize(block_output=True)
    pipeline.start_loop(period)
    assert pipeline.get_results() == 1
    pipeline.stop_loop()
    pipeline.cleanup()


@pytest.mark.parametrize(
    "made",
    [
        lambda: 5,
        lambda: HastyBatch(),
        lambda: AsyncBatch(),
        lambda: AsyncFlush(),
        lambda: asynchronous,
    ],
    ids=["no callable", "impatient", "asynchronous batching", "async flush", "async generator"],
)
@pytest.mark.parametrize("method", ["serialize", "parallelize"])
def test_what_a_factory_makes_is_checked_at_the_start(made: Any, method: str) -> None:
    """A StageError with the stage's path, from the call that started."""
    pipeline = Pipeline()
    pipeline.add(factory(made), "A")
    with pytest.raises(PyStreamError, match=r"'MainPipeline__A'.*its (factory|max_wait)"):
        getattr(pipeline, method)().start()
    pipeline.cleanup()


@pytest.mark.parametrize("method", ["serialize", "parallelize"])
def test_a_generator_that_a_factory_makes_cannot_be_retried(method: str) -> None:
    """It is found at the start at the latest, since nothing tells before."""

    def expand(item: int) -> Iterator[int]:
        yield item

    pipeline = Pipeline()
    pipeline.add(factory(lambda: expand), "A", on_error=Retry(1))
    with pytest.raises(StageError, match=r"its factory returned is a generator.*cannot be retried"):
        getattr(pipeline, method)().start()
    pipeline.cleanup()


def test_a_name_that_cannot_be_set_is_left_alone() -> None:
    """A stage whose name is a property has it when it is an object, and else the default one."""

    class Unnamed(Stage[int]):
        given = ""

        @property
        def name(self) -> str:  # type: ignore[override]
            return self.given

        def __call__(self, data: int) -> int:
            return data

        def cleanup(self) -> None:
            pass

    class Named(Unnamed):
        given = "own"

    pipeline = Pipeline()
    pipeline.add(Unnamed)
    pipeline.add(Unnamed())
    pipeline.add(Named())
    pipeline.serialize()
    assert [stage.path.rpartition("__")[2] for stage in pipeline.statistics().stages] == [
        "Stage_1",
        "Stage_2",
        "own",
    ]
    assert list(pipeline.stream([1])) == [1]
    pipeline.cleanup()


def test_figures_before_a_mode_are_refused() -> None:
    """There is no ledger yet."""
    with pytest.raises(PipelineUndefined):
        Pipeline().statistics()


def test_the_stage_of_a_pipeline_says_whose_it_is() -> None:
    """Its repr is read in logs."""
    pipeline = Pipeline().serialize()
    assert repr(pipeline.as_stage()) == f"<stage of {pipeline!r}>"
    pipeline.cleanup()


if __name__ == "__main__":  # every message once, for reading
    for case, (call, _) in {**REFUSED, **MISSING}.items():
        try:
            call()
        except PyStreamError as error:
            print(f"{case}\n    {type(error).__name__}: {error}")  # noqa: T201


@pytest.mark.parametrize("nested", [False, True])
def test_one_stage_object_in_two_places_is_refused(nested: bool) -> None:
    """Two workers would share it, and its cleanup would run twice."""

    class Counter(Stage[int]):
        def __call__(self, data: int) -> int:
            return data

        def cleanup(self) -> None:
            pass

    stage = Counter()
    pipeline = Pipeline()
    pipeline.add(stage, "first")
    if nested:
        child = Pipeline()
        child.add(stage, "second")
        pipeline.add(child.parallelize().as_stage(), "child")
    else:
        pipeline.add(stage, "second")
    with pytest.raises(PlanError, match=r"first.*second.*factory\(Counter"):
        pipeline.parallelize()
    pipeline.cleanup()


def test_a_generator_function_as_input_generator_is_refused() -> None:
    """Every call would give a new generator object as the item."""

    def numbers() -> Iterator[int]:
        yield 1

    with pytest.raises(PlanError, match="__next__"):
        Pipeline(numbers)
    with Pipeline(numbers().__next__).serialize() as pipeline:
        assert list(pipeline.stream()) == [1]


@pytest.mark.parametrize("made", [awaited, asynchronous], ids=["coroutine", "generator"])
def test_an_asynchronous_input_generator_is_refused(made: Any) -> None:
    """Every call would give something to await as the item."""
    with pytest.raises(PlanError, match="ordinary function"):
        Pipeline(made)


@pytest.mark.parametrize(
    ("given", "hint"),
    [("video.gray", "pystream_core.stage"), (Pipeline(), "as_stage"), ([], "source")],
    ids=["name", "pipeline", "list"],
)
def test_what_is_no_stage_is_refused_with_what_was_probably_meant(given: Any, hint: str) -> None:
    """A registered name, a pipeline and a source each have their own way in."""
    with pytest.raises(PlanError, match=hint):
        Pipeline().add(given)
