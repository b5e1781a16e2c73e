"""Where stages are called: placements with options, whole pipelines in one place, moves."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from time import perf_counter
from typing import Any

import pytest

from pystream_core import (
    SKIP,
    Pipeline,
    PipelineBusy,
    PlanError,
    Retry,
    Stage,
    StageError,
    factory,
    placement,
)
from pystream_core.testing import InlinePlacement, Recorder, Recorders

Make = Callable[..., Pipeline]
Choose = Callable[[Pipeline], Pipeline]


@pytest.fixture(params=["serial", "threads"])
def choose(request: pytest.FixtureRequest) -> Choose:
    """Chooses an executor."""
    if request.param == "serial":
        return lambda pipeline: pipeline.serialize()
    return lambda pipeline: pipeline.parallelize()


def thread(item: Any) -> Any:
    """Which thread it is called in, beside what was known before."""
    return (*item, threading.get_ident())


# -- placements as objects -------------------------------------------------------------


def test_a_placement_may_be_given_as_an_object(choose: Choose, pipelines: Make) -> None:
    """Without a look into the registry; its name is shown."""
    pipeline = pipelines()
    pipeline.add(thread, placement=InlinePlacement())
    choose(pipeline)
    ((where,),) = pipeline.stream([()])
    assert where != threading.get_ident()
    assert "placement=InlinePlacement" in str(pipeline.graph())


def test_a_placement_for_all_may_be_an_object(pipelines: Make) -> None:
    """As its name may."""
    pipeline = pipelines()
    pipeline.add(thread)
    pipeline.add(thread)
    pipeline.parallelize(placement=InlinePlacement())
    ((first, second),) = pipeline.stream([()])
    assert len({first, second, threading.get_ident()}) == 3


@pytest.mark.parametrize("given", [5, "", InlinePlacement, object()])
def test_other_things_are_no_placement(given: Any, pipelines: Make) -> None:
    """Refused where they are given, for one stage and for all."""
    pipeline = pipelines()
    with pytest.raises(PlanError, match="placement must be the name of one, an object such as"):
        pipeline.add(thread, placement=given)
    pipeline.add(thread)
    with pytest.raises(PlanError, match="placement must be the name of one, an object such as"):
        pipeline.parallelize(placement=given)


def test_a_placement_is_made_with_its_options(inline_placement: str) -> None:
    """Those that it does not take are refused by name."""
    assert isinstance(placement(inline_placement), InlinePlacement)
    with pytest.raises(PlanError, match="placement 'inline' has no option 'speed'"):
        placement(inline_placement, speed=3)


# -- moves -----------------------------------------------------------------------------


def test_another_placement_moves_a_stage(inline_placement: str, pipelines: Make) -> None:
    """What was set up at the old place is cleaned up; the same place keeps it."""
    recorder = Recorder(lambda _: threading.current_thread().name.partition(" ")[0])
    pipeline = pipelines()
    pipeline.add(recorder)
    placed = {"placement": inline_placement}
    for mode, where in (({}, "pystream"), (placed, "pystream-inline"), (placed, "pystream-inline")):
        pipeline.parallelize(**mode)
        assert list(pipeline.stream([1])) == [where]
    pipeline.serialize()
    assert list(pipeline.stream([1])) == ["MainThread"]
    pipeline.cleanup()
    assert recorder.broken == []
    assert (len(recorder.setups), len(recorder.calls), len(recorder.cleanups)) == (3, 4, 3)


# -- whole pipelines -------------------------------------------------------------------


def region(pipelines: Make, *stages: Any) -> Stage[Any]:
    """A serial pipeline as a stage."""
    child = pipelines()
    for each in stages:
        stage, options = each if isinstance(each, tuple) else (each, {})
        child.add(stage, **options)
    return child.serialize().as_stage()


def test_a_serial_pipeline_is_placed_in_one_piece(
    choose: Choose, inline_placement: str, pipelines: Make
) -> None:
    """Its stages are called in one place, and count as one stage."""
    child = region(pipelines, thread, region(pipelines, thread, thread), thread)
    main = pipelines()
    main.add(child, "Child", placement=inline_placement)
    main.add(thread)
    choose(main)
    ((*inside, here),) = main.stream([()])
    assert len(inside) == 4
    assert len(set(inside)) == 1
    assert here not in inside
    assert [stage.path for stage in main.statistics().stages] == [
        "MainPipeline__Child",
        "MainPipeline__Stage_2",
    ]


def test_items_of_a_placed_pipeline_end_as_one_stages(
    inline_placement: str, pipelines: Make
) -> None:
    """SKIP filters, policies inside hold, and what they let out is the whole's failure."""

    def picky(n: int) -> Any:
        if n % 5 == 0:
            raise ValueError(n)
        return SKIP if n % 7 == 0 else n

    child = region(pipelines, (picky, {"on_error": Retry(2)}), lambda n: -n)
    main = pipelines()
    main.add(child, "Child", placement=inline_placement, on_error="skip")
    main.parallelize()
    assert list(main.stream(range(1, 20))) == [-n for n in range(1, 20) if n % 5 and n % 7]
    statistics = main.statistics()
    assert (statistics.failed, statistics.filtered) == (3, 2)


def picky(n: int) -> Any:
    """Raises for every third item and filters every fourth."""
    if n % 3 == 1:
        raise ValueError(n)
    return SKIP if n % 4 == 0 else 10 * n


def fails_again(failure: StageError) -> Any:
    """An ``on_error`` that raises itself."""
    raise KeyError(failure.path)


def fate(main: Pipeline, items: Any, caplog: pytest.LogCaptureFixture) -> list[Any]:
    """What comes of the items: results, the failure that came out of it, bins, log lines."""
    caplog.clear()
    results: list[Any] = []
    failure: Any = None
    try:
        for result in main.stream(items):
            results.append(result)
    except StageError as error:
        failure = (str(error), error.path, error.seq, error.item, repr(error.__cause__))
        failure = (type(error), *failure)
    main.cleanup()
    found = main.statistics()
    bins = (found.completed, found.filtered, found.failed, found.expired, dict(found.dropped))
    lines = [(each.levelname, each.getMessage()) for each in caplog.records]
    return [results, failure, bins, lines]


INSIDE: dict[str, Any] = {
    "stop": "stop",
    "skip": "skip",
    "retry": Retry(1),
    "retry, then skip": Retry(1, then="skip"),
    "sink": lambda _: SKIP,
    "replacement": lambda failure: (failure.path, type(failure), failure.item),
    "raises": fails_again,
}


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_an_exit_inside_a_placed_pipeline_is_a_failure_there(
    policy: Any, choose: Choose, inline_placement: str, pipelines: Make
) -> None:
    """The place is not the thread of the caller. What is let out passes as that of any stage."""

    def exits(n: int) -> int:
        if n == 1:
            raise SystemExit(3)
        return n

    main = pipelines()
    stage = region(pipelines, (exits, {"name": "B", "on_error": policy}))
    main.add(stage, "Child", placement=inline_placement)
    serial = "(serial" in repr(choose(main))
    if policy == "skip":
        assert list(main.stream(range(4))) == [0, 2, 3]
        return
    with pytest.raises(SystemExit if serial else StageError) as caught:
        list(main.stream(range(4)))
    if not serial:
        assert type(caught.value.__cause__) is SystemExit


@pytest.mark.parametrize("policy", INSIDE)
def test_failures_inside_a_placed_pipeline_are_those_of_any_other(
    policy: str, inline_placement: str, pipelines: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Policies of the stages inside hold, and path, number, item, cause and log are the same as
    where the pipeline is not placed."""
    fates = []
    for options in ({}, {"placement": inline_placement}):
        main = pipelines()
        main.add(lambda n: n, "before")
        stages = (lambda n: n, {"name": "A"}), (picky, {"name": "B", "on_error": INSIDE[policy]})
        main.add(region(pipelines, *stages), "Child", **options)
        main.serialize()
        fates.append(fate(main, range(9), caplog))
    assert fates[0] == fates[1]
    _, failure, (*_, failed, _, _), lines = fates[1]
    assert failed or policy == "replacement"
    assert sum("MainPipeline__Child__B" in line for _, line in lines) == len(lines)
    assert (failure is None) == (policy in ("skip", "retry, then skip", "sink", "replacement"))


@pytest.mark.parametrize("whole", ["skip", Retry(1, then="skip"), lambda failure: failure.path])
def test_what_is_let_out_of_a_placed_pipeline_is_its_own_failure(
    whole: Any, choose: Choose, inline_placement: str, pipelines: Make
) -> None:
    """What ``"stop"`` inside lets out, the policy of the whole decides about."""
    main = pipelines()
    stage = region(pipelines, (picky, {"name": "B"}))
    main.add(stage, "Child", placement=inline_placement, on_error=whole)
    choose(main)
    results = list(main.stream(range(6)))
    replaced = [] if whole == "skip" or isinstance(whole, Retry) else ["MainPipeline__Child__B"]
    assert results == [*replaced, 20, 30, *replaced, 50]
    assert main.statistics().failed == (0 if replaced else 2)


def test_what_is_settled_in_a_placed_pipeline_is_not_asked_about_outside(
    choose: Choose, inline_placement: str, pipelines: Make
) -> None:
    """Neither called again nor replaced, also when it is settled in a second call."""
    calls: list[int] = []

    def flaky(n: int) -> int:
        calls.append(n)
        if len(calls) == 1:
            raise KeyError(n)
        return n

    def bad(n: int) -> int:
        raise ValueError(n)

    main = pipelines()
    stages = (flaky, {}), (bad, {"on_error": "skip"})
    main.add(region(pipelines, *stages), placement=inline_placement, on_error=Retry(5))
    choose(main)
    assert list(main.stream([7])) == []
    assert calls == [7, 7]
    assert main.statistics().failed == 1


def test_an_item_too_old_inside_a_placed_pipeline_expires(
    choose: Choose, inline_placement: str, pipelines: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """It is counted and named as what it is, and nobody is asked about it."""

    def waits(n: int) -> int:
        until = perf_counter() + 0.002
        while perf_counter() < until:
            pass
        return n

    main = pipelines()
    stages = (waits, {}), (lambda n: n, {"name": "B", "max_age": 0.001})
    main.add(region(pipelines, *stages), "Child", placement=inline_placement, on_error=Retry(2))
    choose(main)
    assert list(main.stream(range(3))) == []
    main.cleanup()
    found = main.statistics()
    assert (found.expired, found.failed, found.filtered) == (3, 0, 0)
    assert all("MainPipeline__Child__B: expired" in line for line in caplog.messages)


def test_a_branch_that_skips_does_not_hide_one_that_stops(
    inline_placement: str, pipelines: Make
) -> None:
    """Inside a placed pipeline as anywhere else."""

    def bad(n: int) -> int:
        raise ValueError(n)

    for first, second in (("skip", "stop"), ("stop", "skip")):
        main = pipelines()
        child = region(
            pipelines,
            (lambda n: n, {"name": "A"}),
            (bad, {"name": "B", "after": "A", "on_error": first}),
            (bad, {"name": "C", "after": "A", "on_error": second}),
        )
        main.add(child, "Child", placement=inline_placement)
        main.serialize()
        stops = "B" if first == "stop" else "C"
        with pytest.raises(StageError, match=f"'MainPipeline__Child__{stops}' raised on item 0"):
            list(main.stream([1]))


def test_a_sink_inside_a_placed_pipeline_may_send_the_failure_on(
    inline_placement: str, pipelines: Make
) -> None:
    """It is a StageError like any other: its item and its path travel."""
    sent: list[bytes] = []
    main = pipelines()
    child = region(pipelines, (picky, {"on_error": lambda each: sent.append(pickle.dumps(each))}))
    main.add(child, "Child", placement=inline_placement)
    main.serialize()
    list(main.stream([1]))
    failure = pickle.loads(sent[0])
    assert type(failure) is StageError
    assert (failure.path, failure.item) == ("MainPipeline__Child__Stage_1", 1)


def test_workers_have_a_pipeline_each(inline_placement: str, pipelines: Make) -> None:
    """Made anew from classes and factories; set up and cleaned up once each."""
    recorders = Recorders()
    main = pipelines()
    child = region(pipelines, factory(recorders))
    main.add(child, "Child", placement=inline_placement, workers=3)
    main.parallelize()
    assert list(main.stream(range(50))) == list(range(50))
    main.cleanup()
    assert len(recorders.made) == 3
    for recorder in recorders.made:
        assert recorder.broken == []
        assert len(recorder.setups) == len(recorder.cleanups) == 1


def test_objects_in_a_placed_pipeline_serve_one_worker(
    inline_placement: str, pipelines: Make
) -> None:
    """As anywhere else: several would share them."""
    child = region(pipelines, region(pipelines, thread), region(pipelines, Recorder()))
    with pytest.raises(PlanError, match=r"one Stage object.*workers=2"):
        pipelines().add(child, "Child", placement=inline_placement, workers=2)


def test_a_placed_pipeline_belongs_to_its_parent(inline_placement: str, pipelines: Make) -> None:
    """Until the parent is cleaned up; then it can be used by itself."""
    child = pipelines()
    child.add(thread)
    stage = child.serialize().as_stage()
    main = pipelines()
    main.add(stage, "Child", placement=inline_placement)
    main.parallelize()
    with pytest.raises(PipelineBusy):
        child.forward(())
    list(main.stream([()]))
    main.cleanup()
    child.serialize()
    assert child.forward(())


def test_a_placed_pipeline_may_branch(inline_placement: str, pipelines: Make) -> None:
    """Inside it what follows what is as it was described."""
    child = region(
        pipelines,
        (lambda n: n + 1, {"name": "first"}),
        (lambda n: n * 2, {"name": "left", "after": "first"}),
        (lambda n: n * 3, {"name": "right", "after": "first"}),
        (sum, {"name": "join", "after": ["left", "right"]}),
    )
    main = pipelines()
    main.add(child, "Child", placement=inline_placement)
    main.parallelize()
    assert list(main.stream(range(3))) == [5, 10, 15]


@pytest.mark.parametrize("made", ["placed", "by a factory"])
def test_a_setup_inside_that_raises_fails_the_start(
    made: str, inline_placement: str, pipelines: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """As one outside does, not the first item; what was set up before is cleaned up."""
    before = Recorder()
    bad = Recorder(setup_error=ValueError("no camera"))

    def inner() -> Stage[Any]:
        return region(pipelines, before, bad)

    main = pipelines()
    if made == "placed":
        main.add(inner(), "Child", placement=inline_placement, on_error="skip")
    else:
        main.add(factory(inner), "Child", on_error="skip")
    main.parallelize()
    with pytest.raises(StageError, match="no camera") as caught:
        main.start()
    if made == "placed":
        assert caught.value.path == "MainPipeline__Child__Stage_2"
        assert type(caught.value.__cause__) is ValueError
        assert len(caplog.messages) == 1
    assert (len(before.setups), len(before.cleanups)) == (1, 1)
    assert before.broken == bad.broken == []
