"""Where stages are called: placements with options, whole pipelines in one place, moves."""

from __future__ import annotations

import threading
from collections.abc import Callable
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


def test_a_failure_in_a_placed_pipeline_names_the_stage(
    inline_placement: str, pipelines: Make
) -> None:
    """The whole's error is caused by that of the stage inside."""

    def broken(n: int) -> int:
        raise ValueError(n)

    main = pipelines()
    main.add(region(pipelines, (broken, {"name": "inner"})), "Child", placement=inline_placement)
    main.parallelize()
    with pytest.raises(StageError, match=r"'MainPipeline__Child' raised.*inner") as caught:
        list(main.stream([1]))
    assert isinstance(caught.value.__cause__, StageError)


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
    made: str, inline_placement: str, pipelines: Make
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
    with pytest.raises(StageError, match="no camera"):
        main.start()
    assert (len(before.setups), len(before.cleanups)) == (1, 1)
    assert before.broken == bad.broken == []
