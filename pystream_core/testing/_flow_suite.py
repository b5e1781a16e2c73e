# ruff: noqa: ARG002, ARG005
"""The conformance tests of executors, second part: branches, batches and coroutines."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest

from .._errors import DrainTimeout, PipelineBusy, PlanError, StageError
from .._ledger import StageStatistics
from .._pipeline import Pipeline
from .._plan import Retry
from .._stage import SKIP, Stage
from ._stages import Raising, Recorder
from ._suite import ExecutorSuite
from ._suite_stages import (
    Triples,
    double,
    expand_list,
    increment,
    increment_all,
    slow_for_some,
    twice,
)
from ._waiting import PATIENCE, in_thread, next_turn, stay_until, wait_until


class AsyncRecorder(Stage):  # a bare Stage is one of Any, as users write it
    """A coroutine stage that notes what happens to it, and in which threads."""

    def __init__(self) -> None:
        self.threads: set[str] = set()
        self.events: list[str] = []
        self.running = self.most = 0

    async def setup(self) -> None:
        """An asynchronous one."""
        self._note("setup")

    async def __call__(self, data: Any) -> Any:
        """A few steps of the event loop; fewer for later items, so they overtake."""
        self.running += 1
        self.most = max(self.most, self.running)
        self._note("call")
        for _ in range(40 - data % 40 if isinstance(data, int) else 1):
            await next_turn()
        self.running -= 1
        return data

    async def cleanup(self) -> None:
        """An asynchronous one."""
        self._note("cleanup")

    def _note(self, event: str) -> None:
        asyncio.get_running_loop()
        self.threads.add(threading.current_thread().name)
        self.events.append(event)


class Endless:
    """A coroutine function that only ends when it is cancelled."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.cancelled = 0

    async def __call__(self, item: Any) -> Any:
        """Wait for ever."""
        self.entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


class FlowSuite(ExecutorSuite):
    """One executor's conformance tests, all of them."""

    def stage(self, pipeline: Pipeline, name: str) -> StageStatistics:
        """The figures of one stage."""
        paths = {stage.path: stage for stage in pipeline.statistics().stages}
        return paths[f"MainPipeline__{name}"]

    # -- branches ----------------------------------------------------------------------

    def test_followers_get_the_same_item(self) -> None:
        """A fan-out gives the very object to every follower."""
        item = object()
        pipeline = self.pipeline(
            (lambda item: item, {"name": "First"}),
            (lambda item: item, {"name": "A", "after": "First"}),
            (lambda item: item, {"name": "B", "after": "First"}),
        )
        (result,) = pipeline.stream([item])
        assert result == {"A": item, "B": item}

    def test_a_join_gets_the_outputs_of_one_item_in_the_order_named(self) -> None:
        """As a tuple; the items stay in order, whichever branch is faster."""
        pipeline = self.pipeline(
            (increment, {"name": "First"}),
            (slow_for_some(3), {"name": "A", "after": "First", "workers": 2}),
            (slow_for_some(5), {"name": "B", "after": "First"}),
            (lambda parts: parts, {"after": ["B", "First", "A"]}),
        )
        numbers = range(1, 61)
        assert list(pipeline.stream(range(60))) == [(-n, n, -n) for n in numbers]

    def test_several_last_stages_give_a_dict(self) -> None:
        """By their names, in the order in which they were added."""
        pipeline = self.pipeline(
            (increment, {"name": "First"}),
            (double, {"name": "Late", "after": "First"}),
            (str, {"name": "Early", "after": "First"}),
        )
        (result,) = pipeline.stream([1])
        assert list(result.items()) == [("Late", 4), ("Early", "2")]

    def test_a_name_may_come_before_its_stage(self) -> None:
        """Stages are arranged by what feeds them."""
        pipeline = self.pipeline(
            (increment, {"name": "First"}),
            (sum, {"name": "Join", "after": ["A", "B"]}),
            (double, {"name": "A", "after": "First"}),
            (double, {"name": "B", "after": "First"}),
        )
        assert list(pipeline.stream([1, 2])) == [8, 12]

    @pytest.mark.parametrize(
        ("ends", "bin_"),
        [
            ((lambda item: SKIP, {}), "filtered"),
            ((Raising(), {"on_error": "skip"}), "failed"),
            ((Raising(), {"on_error": Retry(2, then="skip")}), "failed"),
            ((Raising(), {"on_error": lambda failure: SKIP}), "failed"),
            ((double, {"max_age": 1e-9}), "expired"),
        ],
        ids=["filtered", "failed", "retried", "dead letter", "expired"],
    )
    def test_an_item_that_ends_in_one_branch_ends_once(self, ends: Any, bin_: str) -> None:
        """The other branch works on it all the same; it does not reach the join, and is
        counted in one bin."""
        stage, options = ends
        seen: list[int] = []
        pipeline = self.pipeline(
            (increment, {"name": "First"}),
            (stage, {"name": "Ends", "after": "First", **options}),
            (lambda item: seen.append(item), {"name": "Other", "after": "First"}),
            (lambda parts: parts, {"name": "Join", "after": ["Ends", "Other"]}),
        )
        assert list(pipeline.stream(range(20))) == []
        statistics = pipeline.statistics()
        assert getattr(statistics, bin_) == statistics.ended == statistics.admitted == 20
        assert seen == list(range(1, 21))
        assert self.stage(pipeline, "Join").received == 0
        assert self.stage(pipeline, "Join").unjoined == {"MainPipeline__Other": 20}

    def test_an_item_that_ends_in_both_branches_ends_once(self) -> None:
        """In the bin of the stage that comes first in the plan, whoever is faster."""
        pipeline = self.pipeline(
            (increment, {"name": "First"}),
            (slow_for_some(2, then=SKIP), {"name": "Filters", "after": "First"}),
            (Raising(), {"name": "Fails", "after": "First", "on_error": "skip"}),
        )
        assert list(pipeline.stream(range(20))) == []
        statistics = pipeline.statistics()
        assert (statistics.filtered, statistics.failed, statistics.ended) == (20, 0, 20)
        assert self.stage(pipeline, "Fails").failed == 20

    def test_branches_may_part_and_join_again_and_again(self) -> None:
        """Joins of joins, ways of different length, a branch that skips a join."""
        pipeline = self.pipeline(
            (increment, {"name": "a"}),
            (double, {"name": "b", "after": "a"}),
            (increment, {"name": "c", "after": "a"}),
            (sum, {"name": "bc", "after": ["b", "c"]}),
            (double, {"name": "d", "after": "c"}),
            (double, {"name": "e", "after": ["bc"]}),
            (lambda parts: parts, {"name": "end", "after": ["e", "d", "a"]}),
        )
        expected = [(2 * (2 * a + a + 1), 2 * (a + 1), a) for a in range(1, 201)]
        assert list(pipeline.stream(range(200))) == expected

    def test_stages_that_expand_stand_before_and_behind_branches(self) -> None:
        """A generator may feed branches, and follow their join."""
        pipeline = self.pipeline(
            (twice, {"name": "expand"}),
            (increment, {"name": "a"}),
            (double, {"name": "b", "after": "expand"}),
            (lambda parts: iter(parts), {"name": "join", "after": ["a", "b"]}),
            (expand_list, {"name": "again"}),
        )
        assert list(pipeline.stream([1, 2])) == [2, 2, 2.5, 3.0, 3, 4, 3.5, 5.0]
        statistics = pipeline.statistics()
        assert (statistics.spawned, statistics.expanded) == (4 + 8, 2 + 4)

    @pytest.mark.parametrize("outer", ["serialize", "as chosen"])
    @pytest.mark.parametrize("inner", ["serialize", "as chosen"])
    def test_nested_pipelines_branch(self, outer: str, inner: str) -> None:
        """Several last stages of a nested pipeline give a dict to what follows it."""
        self.needs("supports_branches")
        child = Pipeline()
        child.add(increment, "a")
        child.add(double, "b", after="a")
        child.add(str, "c", after="a")
        self.made.append(child)
        main = Pipeline()
        main.add(double, "first")
        self.turn(child) if inner == "as chosen" else child.serialize()
        main.add(child.as_stage(), "child")
        main.add(increment, "beside", after="first")
        main.add(lambda parts: parts, "join", after=["child", "beside"])
        self.made.append(main)
        if outer == "serialize":
            main.serialize()
        else:
            self.turn(main)
        expected = [({"b": 2 * (n + 1), "c": str(n + 1)}, n + 1) for n in range(0, 100, 2)]
        assert list(main.stream(range(50))) == expected
        assert main.as_stage()(1) == ({"b": 6, "c": "3"}, 3)

    def test_a_direct_call_of_branches(self) -> None:
        """It gives what the stream would give; SKIP when the item ended in a branch."""
        pipeline = self.pipeline(
            (increment, {"name": "First"}),
            (double, {"name": "A", "after": "First"}),
            (lambda item: SKIP if item == 1 else item, {"name": "B", "after": "First"}),
        )
        stage = pipeline.as_stage()
        assert stage(1) == {"A": 4, "B": 2}
        assert stage(0) is SKIP

    def test_a_failure_in_a_branch_stops(self) -> None:
        """Under "stop" it is told as ever, and every copy of the item has its bin."""
        pipeline = self.pipeline(
            (increment, {"name": "First"}),
            (Raising(), {"name": "Bad", "after": "First"}),
            (double, {"name": "Good", "after": "First"}),
        )
        failure = self.fail(pipeline)
        assert failure.path == "MainPipeline__Bad"
        pipeline.cleanup()
        statistics = pipeline.statistics()
        assert statistics.ended == statistics.admitted == statistics.failed == 1

    def test_a_full_branch_holds_up_its_fan_out(self) -> None:
        """Items alive are bounded by the channels, also those that wait at the join."""
        self.needs_workers()
        gate = self.gate()
        pipeline = self.pipeline(
            (increment, {"name": "First", "capacity": 2}),
            (gate, {"name": "Slow", "after": "First", "capacity": 2}),
            (double, {"name": "Fast", "after": "First", "capacity": 2}),
            (sum, {"name": "Join", "after": ["Slow", "Fast"], "capacity": 2}),
            block_input=False,
        )
        admitted = 0
        deadline = monotonic() + PATIENCE
        while pipeline.forward(1):
            admitted += 1
            assert monotonic() < deadline
            wanted = min(admitted, 4)
            assert wait_until(lambda: self.stage(pipeline, "First").received >= wanted)  # noqa: B023
        assert 5 <= admitted <= 8  # (2 + 1) before and in First and Slow, one on the way
        assert wait_until(lambda: self.stage(pipeline, "Fast").emitted >= 3)
        gate.open()
        pipeline.drain(PATIENCE)
        assert pipeline.statistics().completed == admitted

    @pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
    def test_what_one_branch_drops_is_dropped_once(self, overflow: str) -> None:
        """The other branch does not wait for it."""
        self.needs_workers()
        gate = self.gate()
        pipeline = self.pipeline(
            (increment, {"name": "First"}),
            (gate, {"name": "Slow", "after": "First", "capacity": 1, "overflow": overflow}),
            (double, {"name": "Fast", "after": "First"}),
        )
        for _ in range(20):
            assert pipeline.forward(1)
        assert wait_until(lambda: self.stage(pipeline, "Fast").emitted == 20)
        gate.open()
        pipeline.drain(PATIENCE)
        statistics = pipeline.statistics()
        assert statistics.dropped == {"overflow": 18}
        assert statistics.completed == 2

    def test_drain_waits_for_every_branch(self) -> None:
        """The slow one too; with a deadline."""
        self.needs_workers()
        gate = self.gate()
        pipeline = self.pipeline(
            (increment, {"name": "First"}),
            (gate, {"name": "Slow", "after": "First"}),
            (double, {"name": "Fast", "after": "First"}),
        )
        pipeline.forward(1)
        assert wait_until(lambda: self.stage(pipeline, "Fast").emitted == 1)
        with pytest.raises(DrainTimeout):
            pipeline.drain(0.02)
        gate.open()
        pipeline.drain(PATIENCE)
        assert pipeline.get_results() == {"Slow": 2, "Fast": 4}

    def test_abort_counts_every_item_in_branches_once(self) -> None:
        """What is under way in several branches is dropped once."""
        self.needs_workers()
        gate = self.gate()
        pipeline = self.pipeline(
            (increment, {"name": "First"}),
            (gate, {"name": "Slow", "after": "First", "capacity": 4}),
            (double, {"name": "Fast", "after": "First", "capacity": 4}),
            (sum, {"name": "Join", "after": ["Slow", "Fast"]}),
        )
        for _ in range(5):
            pipeline.forward(1)
        assert wait_until(lambda: self.stage(pipeline, "Fast").emitted == 5)
        pipeline.abort()
        gate.open()
        pipeline.cleanup()
        assert pipeline.statistics().dropped == {"abort": 5}

    @pytest.mark.usefixtures("hurried")
    def test_a_branch_that_does_not_return_is_left_behind(self) -> None:
        """Its item counts once, as abandoned."""
        gate = self.gate()
        pipeline = self.pipeline(
            (increment, {"name": "First"}),
            (Recorder(gate), {"name": "Stuck", "after": "First"}),
            (double, {"name": "Other", "after": "First"}),
            (sum, {"name": "Join", "after": ["Stuck", "Other"]}),
            stuck_timeout=0.1,
        )
        call = in_thread(lambda: pipeline.forward(1))
        assert gate.wait_entered()
        if self.side_by_side:
            assert wait_until(lambda: self.stage(pipeline, "Other").emitted == 1)
        pipeline.cleanup(timeout=0)
        assert pipeline.statistics().dropped == {"abandoned": 1}
        gate.open()
        call.wait()
        assert pipeline.statistics().dropped == {"abandoned": 1}

    def test_a_stream_of_branches_left_early_is_counted(self) -> None:
        """What is in flight in any branch is dropped once; the pipeline goes on."""
        pipeline = self.pipeline(
            (increment, {"name": "First"}),
            (double, {"name": "A", "after": "First"}),
            (double, {"name": "B", "after": "First"}),
            (sum, {"name": "Join", "after": ["A", "B"]}),
        )
        stream = pipeline.stream(iter(int, 1))
        assert next(stream) == 4
        stream.close()
        statistics = pipeline.statistics()
        assert statistics.in_flight == 0
        assert statistics.dropped_total + statistics.completed == statistics.admitted
        assert list(pipeline.stream([1])) == [8]

    # -- batches -----------------------------------------------------------------------

    def test_a_batching_stage_absorbs_and_spawns(self) -> None:
        """Whole batches as they fill up, and a partial one at the end of the stream."""
        pipeline = self.pipeline(increment, Triples(), sum)
        assert list(pipeline.stream(range(8))) == [1 + 2 + 3, 4 + 5 + 6, 7 + 8]
        statistics = pipeline.statistics()
        assert (statistics.absorbed, statistics.spawned, statistics.completed) == (8, 3, 3)

    def test_drain_brings_out_a_partial_batch(self) -> None:
        """Once; the stage then starts anew."""
        pipeline = self.pipeline(Triples())
        for item in range(4):
            pipeline.forward(item)
        pipeline.drain(PATIENCE)
        pipeline.drain(PATIENCE)
        assert pipeline.get_results() == (3,)
        assert pipeline.get_results() is None
        assert pipeline.statistics().completed == 2

    def test_cleanup_brings_out_a_partial_batch(self) -> None:
        """What was admitted is finished."""
        seen: list[Any] = []
        pipeline = self.pipeline(Triples(), lambda item: seen.append(item))
        for item in range(4):
            pipeline.forward(item)
        pipeline.cleanup()
        assert seen == [(0, 1, 2), (3,)]

    def test_batches_follow_one_another(self) -> None:
        """A partial batch of batches comes out, too."""
        pipeline = self.pipeline(Triples(), Triples(), increment_all)
        assert list(pipeline.stream(range(11))) == [
            ((0, 1, 2), (3, 4, 5), (6, 7, 8), "seen"),
            ((9, 10), "seen"),
        ]

    def test_what_waits_in_a_batch_is_dropped_by_an_abort(self) -> None:
        """Not absorbed in silence."""
        pipeline = self.pipeline((Triples(), {"name": "Batch"}))
        for item in range(4):
            pipeline.forward(item)
        assert wait_until(lambda: pipeline.statistics().absorbed == 4)
        pipeline.abort()
        pipeline.cleanup()
        statistics = pipeline.statistics()
        assert (statistics.absorbed, statistics.dropped) == (3, {"abort": 1})

    def test_a_batch_of_a_stream_left_early_does_not_come_later(self) -> None:
        """The next stream starts with an empty batch."""
        pipeline = self.pipeline(Triples())
        stream = pipeline.stream(iter(int, 1))
        assert next(stream) == (0, 0, 0)
        stream.close()
        assert list(pipeline.stream([1])) == [(1,)]

    @pytest.mark.parametrize(
        ("policy", "results"),
        [("skip", [(0, 1, 2)]), (lambda failure: "replaced", [(0, 1, 2), "replaced"])],
        ids=["skip", "replaced"],
    )
    def test_a_flush_that_raises_follows_the_policy(self, policy: Any, results: list[Any]) -> None:
        """The items that waited are counted as failed."""
        stage = Triples(flush_error=ValueError("no flush"))
        pipeline = self.pipeline((stage, {"on_error": policy}))
        assert list(pipeline.stream(range(5))) == results
        statistics = pipeline.statistics()
        assert (statistics.absorbed, statistics.failed) == (3, 2)

    def test_a_flush_that_raises_under_stop_is_a_failure(self) -> None:
        """As StageError with the path, from the stream."""
        pipeline = self.pipeline((Triples(flush_error=ValueError("no flush")), {"name": "Batch"}))
        got: list[Any] = []
        with pytest.raises(StageError, match=r"flush\(\) of stage 'MainPipeline__Batch'") as caught:
            got.extend(pipeline.stream(range(3)))
            got.extend(pipeline.stream(range(2)))
        assert got == [(0, 1, 2)]
        assert isinstance(caught.value.__cause__, ValueError)

    def test_an_item_that_a_batching_stage_refuses_has_failed(self) -> None:
        """It is not in the batch."""
        pipeline = self.pipeline((Triples(), {"on_error": "skip"}))
        assert list(pipeline.stream([1, "bad", 2])) == [(1, 2)]
        statistics = pipeline.statistics()
        assert (statistics.absorbed, statistics.failed) == (2, 1)

    def test_items_wait_in_a_batch_for_a_limited_time(self) -> None:
        """With max_wait a slow stream still moves."""
        self.needs_workers()
        pipeline = self.pipeline(Triples(max_wait=0.02), block_output=True, output_timeout=PATIENCE)
        for item in range(2):
            pipeline.forward(item)
            assert pipeline.get_results() == (item,)

    def test_an_overdue_batch_comes_with_the_next_item_at_the_latest(self) -> None:
        """Also where nothing runs between two calls."""
        pipeline = self.pipeline(Triples(max_wait=0.01))
        pipeline.forward(1)
        assert wait_until(lambda: pipeline.statistics().absorbed == 1)
        threading.Event().wait(0.02)
        pipeline.forward(2)
        assert wait_until(lambda: pipeline.statistics().spawned == 1)
        assert pipeline.statistics().spawned == 1

    def test_a_call_of_a_batching_pipeline_is_refused(self) -> None:
        """There is no result of one item."""
        pipeline = self.pipeline(Triples())
        with pytest.raises(PlanError, match="batching stage"):
            pipeline.as_stage()(1)

    # -- coroutines --------------------------------------------------------------------

    def test_coroutine_functions_are_stages(self) -> None:
        """Beside ordinary ones, in order, in one thread of their own."""
        stage = AsyncRecorder()
        pipeline = self.pipeline(increment, (stage, {"workers": 8}), double)
        assert list(pipeline.stream(range(200))) == [2 * (n + 1) for n in range(200)]
        pipeline.cleanup()
        assert stage.threads == {"pystream-asyncio"}
        assert stage.events == ["setup", *["call"] * 200, "cleanup"]

    def test_workers_of_a_coroutine_are_the_number_in_flight(self) -> None:
        """No more than that, and as many when there is work."""
        self.needs_workers()
        stage = AsyncRecorder()
        pipeline = self.pipeline((stage, {"workers": 5, "capacity": 20}))
        assert list(pipeline.stream(range(100))) == list(range(100))
        assert stage.most == 5

    def test_unordered_coroutines_do_not_wait_for_one_another(self) -> None:
        """What is done first leaves first."""
        self.needs_workers()
        slow = Endless()

        async def mixed(item: Any) -> Any:
            return await slow(item) if item == 0 else item

        pipeline = self.pipeline((mixed, {"workers": 2, "ordered": False}))
        stream = pipeline.stream(range(20))
        assert [next(stream) for _ in range(19)] == list(range(1, 20))
        pipeline.abort()

    @pytest.mark.parametrize("workers", [1, 3])
    @pytest.mark.parametrize("policy", ["skip", Retry(2, then="skip"), lambda failure: "instead"])
    def test_coroutines_fail_by_the_policy(self, workers: int, policy: Any) -> None:
        """Skipped, called again, or replaced."""
        calls: list[int] = []

        async def picky(item: int) -> int:
            await next_turn()
            calls.append(item)
            if item % 3 == 0:
                raise ValueError(item)
            return item

        pipeline = self.pipeline((picky, {"workers": workers, "on_error": policy}))
        results = list(pipeline.stream(range(9)))
        if callable(policy):
            assert [one for one in results if one != "instead"] == [1, 2, 4, 5, 7, 8]
            assert len(results) == 9
        else:
            assert results == [1, 2, 4, 5, 7, 8]
            assert pipeline.statistics().failed == 3
        assert calls.count(3) == (3 if isinstance(policy, Retry) else 1)

    @pytest.mark.parametrize("workers", [1, 3])
    def test_a_coroutine_that_fails_under_stop(self, workers: int) -> None:
        """A StageError with its cause, like any other stage."""

        async def bad(item: Any) -> Any:
            raise LookupError(item)

        pipeline = self.pipeline((bad, {"workers": workers}))
        failure = self.fail(pipeline, 7)
        assert isinstance(failure.__cause__, LookupError)
        assert failure.item == 7

    @pytest.mark.parametrize("workers", [1, 3])
    def test_abort_cancels_coroutines(self, workers: int) -> None:
        """At once; each of them can tidy up, and its item is dropped."""
        stage = Endless()
        pipeline = self.pipeline((stage, {"workers": workers}))
        call = in_thread(functools.partial(pipeline.forward, 1))
        assert stage.entered.wait(PATIENCE)
        begin = monotonic()
        pipeline.abort()
        pipeline.cleanup()
        assert monotonic() - begin < PATIENCE / 2
        call.wait()
        assert stage.cancelled == 1
        assert pipeline.statistics().dropped == {"abort": 1}

    @pytest.mark.usefixtures("hurried")
    def test_a_coroutine_that_ignores_the_stop_is_left_behind(self) -> None:
        """Named, like any stage that does not return."""
        let_go = threading.Event()
        entered = threading.Event()

        async def stubborn(item: Any) -> Any:
            entered.set()
            await stay_until(let_go, lambda: None)
            return item

        pipeline = self.pipeline((stubborn, {"workers": 2}), stuck_timeout=0.1)
        call = in_thread(lambda: pipeline.forward(1))
        assert entered.wait(PATIENCE)
        pipeline.cleanup(timeout=0)
        assert pipeline.statistics().dropped == {"abandoned": 1}
        let_go.set()
        call.wait()

    def test_a_coroutine_may_call_cleanup(self) -> None:
        """It requests the stop and returns; others finish it."""
        made: list[Pipeline] = []

        async def ends(item: Any) -> Any:
            made[0].cleanup()
            return item

        pipeline = self.pipeline((ends, {"workers": 2}))
        made.append(pipeline)
        pipeline.forward(1)
        assert wait_until(
            lambda: pipeline._session is not None and pipeline._session.closed.is_set()
        )

    @pytest.mark.parametrize(
        "call",
        [
            lambda pipeline: pipeline.forward(2),
            lambda pipeline: pipeline.as_stage()(2),
            lambda pipeline: list(pipeline.stream([2])),
            lambda pipeline: pipeline.run([2]),
            lambda pipeline: pipeline.drain(),
        ],
        ids=["forward", "call", "stream", "run", "drain"],
    )
    def test_a_coroutine_does_not_wait_for_itself(self, call: Callable[[Pipeline], Any]) -> None:
        """What would block the event loop that it runs on is refused, with the way to do it."""
        made: list[Pipeline] = []
        errors: list[BaseException] = []

        async def calls(item: Any) -> Any:
            with pytest.raises(PipelineBusy, match=r"asyncio\.to_thread") as caught:
                call(made[0])
            errors.append(caught.value)
            return item

        pipeline = self.pipeline(calls)
        made.append(pipeline)
        assert pipeline.forward(1)
        pipeline.drain(PATIENCE)
        assert len(errors) == 1
        assert pipeline.statistics().completed == 1

    def test_coroutines_survive_a_change_of_mode(self) -> None:
        """Set up once, cleaned up once."""
        stage = AsyncRecorder()
        pipeline = self.pipeline((stage, {"workers": 2}))
        assert list(pipeline.stream(range(5))) == list(range(5))
        pipeline.serialize()
        assert list(pipeline.stream(range(5))) == list(range(5))
        self.turn(pipeline)
        assert list(pipeline.stream(range(5))) == list(range(5))
        pipeline.cleanup()
        assert stage.events == ["setup", *["call"] * 15, "cleanup"]
