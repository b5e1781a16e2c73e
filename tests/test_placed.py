"""What a placement's stage is told about the run, so that it can end its call from outside."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from pystream_core import CalledBack, Pipeline, PlacedStage, Retry, StageError, WorkerLost
from pystream_core.testing import PATIENCE, in_thread, wait_until

Choose = Callable[[Pipeline], Pipeline]


@pytest.fixture(params=["serial", "threads"])
def choose(request: pytest.FixtureRequest) -> Choose:
    """Chooses an executor."""
    if request.param == "serial":
        return lambda pipeline: pipeline.serialize()
    return lambda pipeline: pipeline.parallelize()


class Far(PlacedStage):
    """A stage whose call ends when it is called off, or only when it is forsaken."""

    def __init__(self, *, obeys: bool = True) -> None:
        self.told: list[str] = []
        self.entered = threading.Event()
        self.ended = threading.Event()
        self._obeys = obeys

    def __call__(self, data: Any) -> Any:
        if data == "quick":
            return data
        self.entered.set()
        assert self.ended.wait(PATIENCE)
        raise CalledBack

    def begin(self) -> None:
        self.told.append("begin")

    def call_off(self) -> None:
        self.told.append("call off")
        if self._obeys:
            self.ended.set()

    def forsake(self) -> None:
        self.told.append("forsake")
        self.ended.set()

    def cleanup(self) -> None:
        self.told.append("cleanup")


def with_stage(stage: Any, **options: Any) -> Pipeline:
    """A pipeline of one."""
    pipeline = Pipeline()
    pipeline.add(stage, "A", **options)
    return pipeline


def test_a_stop_calls_a_running_call_off(choose: Choose) -> None:
    """Its item is dropped like any other, and its cleanup follows."""
    stage = Far()
    pipeline = choose(with_stage(stage))
    call = in_thread(lambda: pipeline.forward(1))
    assert stage.entered.wait(PATIENCE)
    pipeline.abort()
    call.wait()
    pipeline.cleanup()
    assert pipeline.statistics().dropped == {"abort": 1}
    assert stage.told[-1] == "cleanup"
    assert "forsake" not in stage.told


@pytest.mark.usefixtures("hurried")
def test_a_stage_that_is_left_behind_is_told(choose: Choose) -> None:
    """Nobody waits for it any more, so it can end at once."""
    stage = Far(obeys=False)
    pipeline = choose(with_stage(stage))
    call = in_thread(lambda: pipeline.forward(1))
    assert stage.entered.wait(PATIENCE)
    pipeline.cleanup(timeout=0)
    call.wait()
    assert "forsake" in stage.told
    assert wait_until(lambda: stage.told[-1] == "cleanup")


def test_a_stage_that_is_handed_on_is_told_of_the_next_run() -> None:
    """What called it off before no longer counts."""
    stage = Far()
    pipeline = with_stage(stage).serialize()
    pipeline.run(["quick"])
    pipeline.parallelize()
    pipeline.run(["quick"])
    pipeline.cleanup()
    assert [said for said in stage.told if said != "call off"] == ["begin", "cleanup"]


def test_unless_it_says_otherwise_a_placed_stage_goes_on() -> None:
    """Nothing has to be overridden."""

    class Plain(PlacedStage):
        def __call__(self, data: Any) -> Any:
            return data

        def cleanup(self) -> None:
            """Nothing."""

    pipeline = with_stage(Plain()).serialize()
    pipeline.run([1])
    pipeline.parallelize()
    pipeline.run([1])
    pipeline.cleanup()
    Plain().forsake()


@pytest.mark.parametrize("policy", ["skip", Retry(1, then="skip"), lambda failure: 0])
def test_a_worker_lost_for_good_stops_the_pipeline(choose: Choose, policy: Any) -> None:
    """Whatever the policy for an item is: every other one would fail as well."""

    def dead(item: Any) -> Any:
        raise WorkerLost("no other process is started", final=True)

    pipeline = choose(with_stage(dead, on_error=policy))
    with pytest.raises(StageError, match="no other process is started"):
        list(pipeline.stream([1, 2]))
    pipeline.cleanup()
    assert pipeline.statistics().failed == 1
