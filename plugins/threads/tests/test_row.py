"""Placed stages behind one another are served by one thread, and nobody notices but the clock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from pystream_threads._row import groups

from pystream_core import Pipeline, Placement, Retry, StageError, StageSpec, factory
from pystream_core.testing import PATIENCE, Gate, Tracker, broken_law, in_thread, wait_until
from pystream_core.testing._polled import HelperCalls

PLACED: dict[str, Any] = {"placement": "tracked"}

Make = Callable[..., Pipeline]


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Opens at the end in any case."""
    gate = Gate()
    yield gate
    gate.open()


def same(item: Any) -> Any:
    """The item."""
    return item


def twice(item: Any) -> Iterator[Any]:
    """Two of it."""
    yield item
    yield item


async def later(item: Any) -> Any:
    """The item."""
    return item


def described(make: Make, *stages: Any, **modes: Any) -> Pipeline:
    """Stages one after another, each alone or with its options."""
    pipeline = make()
    for stage in stages:
        given, options = stage if isinstance(stage, tuple) else (stage, {})
        pipeline.add(given, **{**PLACED, **options})
    return pipeline.parallelize(**modes)


@pytest.mark.parametrize(
    ("stages", "lengths"),
    [
        ([same, same, same], [3]),
        ([same, (same, {"placement": None}), same, same], [1, 1, 2]),
        ([same, (same, {"workers": 2}), same], [1, 1, 1]),
        ([same, (same, {"on_error": Retry(2)}), same], [1, 1, 1]),
        ([same, (same, {"on_error": "skip"}), (same, {"max_age": 9.0}), same], [4]),
        ([same, twice, same], [1, 1, 1]),
        ([(same, {"overflow": "drop_oldest"}), same], [2]),
        ([same, (same, {"overflow": "drop_oldest"}), same], [1, 2]),
        (
            [same, (same, {"name": "B", "after": "Stage_1"}), (same, {"after": "Stage_1"})],
            [1, 1, 1],
        ),
        ([same, (later, {"placement": None})], [1, 1]),
    ],
)
def test_what_makes_a_row(
    tracked_placement: Tracker, pipelines: Make, stages: list[Any], lengths: list[int]
) -> None:
    """Polled stages with one worker, each of which feeds the next one alone, without waits of
    their own and without drops between them."""
    pipeline = described(pipelines, *stages)
    pipeline.start()
    assert pipeline._session is not None
    assert [len(group) for group in groups(pipeline._session.run.plan)] == lengths


def test_generators_are_no_part_of_a_row(tracked_placement: Tracker, pipelines: Make) -> None:
    """Whatever their specification says."""
    pipeline = described(pipelines, same, twice, twice)
    pipeline.start()
    assert pipeline._session is not None
    plan = pipeline._session.run.plan
    polled = replace(plan, stages=tuple(replace(spec, polled=True) for spec in plan.stages))
    assert [len(group) for group in groups(polled)] == [1, 1, 1]


def test_what_only_says_that_it_is_polled_is_refused(pipelines: Make) -> None:
    """When it is made, with what is wrong."""

    class Says(Placement):
        def wrap(self, spec: StageSpec) -> StageSpec:
            return replace(spec, polled=True, shared=False)

    pipeline = described(pipelines, (same, {"placement": Says()}), (same, {"placement": Says()}))
    with pytest.raises(StageError, match="says polled, but has given something that is no Polled"):
        pipeline.start()


def test_the_stages_of_a_row_work_at_the_same_time(
    tracked_placement: Tracker, pipelines: Make
) -> None:
    """Each on another item."""
    items, barrier = 8, threading.Barrier(3)

    def meets(stage: int) -> Callable[[int], int]:
        def meet(item: int) -> int:
            if 2 <= item + stage < items:  # all three have an item then
                barrier.wait(PATIENCE)
            return item

        return meet

    pipeline = described(pipelines, *[(meets(stage), {"capacity": 1}) for stage in range(3)])
    assert list(pipeline.stream(range(items))) == list(range(items))


@pytest.mark.parametrize("placed", [PLACED, {"placement": None}], ids=["row", "threads"])
def test_a_row_takes_as_much_as_stages_with_threads_of_their_own(
    tracked_placement: Tracker, pipelines: Make, gate: Gate, placed: dict[str, Any]
) -> None:
    """Its channels are bounded as theirs: what waits in front of a slow stage holds up those
    before it."""
    pipeline = pipelines()
    for stage in (same, same, gate, same):
        pipeline.add(stage, capacity=2, **placed)
    pipeline.parallelize(input_timeout=4 * PATIENCE)
    assert all(pipeline.forward(number) for number in range(9))  # three hands, six that wait
    tenth = in_thread(lambda: pipeline.forward(9))
    session = pipeline._session
    assert session is not None
    executor: Any = session.executor
    assert wait_until(lambda: executor._waiting == 1)
    assert pipeline.statistics().admitted == 9
    gate.open()
    assert tenth.wait().value


def test_the_one_that_is_stuck_is_named_alone(
    tracked_placement: Tracker,
    pipelines: Make,
    gate: Gate,
    hurried: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not those which wait for the thread that waits for it."""
    stages = [(same, {"name": "A"}), (gate, {"name": "B"}), (same, {"name": "C"})]
    pipeline = described(pipelines, *stages)
    for number in range(2):
        assert pipeline.forward(number)
    assert gate.wait_entered()
    pipeline.abort()
    pipeline.cleanup(timeout=0.1)
    (left,) = [each for each in caplog.messages if "did not return" in each or "left" in each]
    assert "MainPipeline__B" in left
    assert "MainPipeline__A" not in left
    assert "MainPipeline__C" not in left
    statistics = pipeline.statistics()
    assert statistics.dropped["abandoned"] == 1
    assert broken_law(statistics) == []


def test_a_row_that_ends_early_keeps_nobody(tracked_placement: Tracker, pipelines: Make) -> None:
    """Its first stage cannot be set up; the workers of the others do not wait for it."""

    def unmakeable() -> Any:
        raise LookupError("no camera")

    pipeline = described(pipelines, factory(unmakeable), same, same)
    error = in_thread(pipeline.start).wait().error
    assert isinstance(error, StageError)
    assert "no camera" in str(error)
    pipeline.cleanup()


def test_marks_pass_through_a_row_behind_their_items(
    tracked_placement: Tracker, pipelines: Make, gate: Gate
) -> None:
    """A drain waits for what is in the row, and for no more."""
    pipeline = described(pipelines, same, gate, same)
    for number in range(2):
        assert pipeline.forward(number)
    assert gate.wait_entered()
    draining = in_thread(lambda: pipeline.drain(PATIENCE))
    session = pipeline._session
    assert session is not None
    assert wait_until(lambda: session.executor._marks)  # type: ignore[attr-defined]
    assert draining.thread.is_alive()
    gate.open()
    draining.wait()
    assert pipeline.statistics().completed == 2


def test_a_row_ends_while_its_reader_has_stopped_reading(
    tracked_placement: Tracker, pipelines: Make
) -> None:
    """Whatever is in hand, waits for room or waits for its turn is counted."""
    pipeline = described(pipelines, same, same, same)
    with pipeline.stream(iter(int, 1)) as results:
        assert [next(results) for _ in range(5)] == [0] * 5
    assert list(pipeline.stream([1, 2])) == [1, 2]
    pipeline.cleanup()
    assert wait_until(lambda: tracked_placement.owned() == [])  # the feeder may be at one yet
    assert broken_law(pipeline.statistics()) == []


class Ends(HelperCalls):
    """A polled stage whose items end as they are submitted, but for the first one."""

    def __init__(self, submitted: Callable[[int], None]) -> None:
        self._on_submit = submitted

    def __call__(self, data: Any) -> Any:
        return data

    def submit(self, value: Any) -> None:
        self._on_submit(value)
        if value:
            raise ValueError(value)
        super().submit(value)


class Looked(HelperCalls):
    """A polled stage that notes when its answer is taken."""

    def __init__(self) -> None:
        self.looked_at = False

    def __call__(self, data: Any) -> Any:
        return data

    def result(self) -> Any:
        self.looked_at = True
        return super().result()


class Standing(Placement):
    """Puts a certain stage in the place of the given one."""

    def __init__(self, stage: Any) -> None:
        self._stage = stage

    def wrap(self, spec: StageSpec) -> StageSpec:
        return replace(spec, make=lambda: self._stage, polled=True, shared=False)


def test_a_row_looks_after_all_its_stages_however_much_comes(pipelines: Make) -> None:
    """Items that end at once at the first of them leave time for the answers of the others."""
    late: list[bool] = []
    count = 1500

    def submitted(item: int) -> None:
        if item == 1:
            assert wait_until(lambda: pipeline.statistics().admitted == count)
            assert wait_until(lambda: second.done())
        if item >= count // 2:
            late.append(second.looked_at)

    second = Looked()
    pipeline = pipelines()
    first = {"placement": Standing(Ends(submitted)), "capacity": 2 * count, "on_error": "skip"}
    pipeline.add(same, **first)
    pipeline.add(same, placement=Standing(second))
    pipeline.parallelize()
    assert list(pipeline.stream(range(count))) == [0]
    assert all(late)
