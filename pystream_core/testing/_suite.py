# ruff: noqa: ARG001, ARG002, ARG005
"""The conformance tests of executors: what every one of them promises, one claim a test.

Got with :func:`pystream_core.testing.executor_suite`. The rules are those of the docstring of
``Executor`` and of the manual; a test that cannot apply to an executor without workers of its
own is left out for it.
"""

from __future__ import annotations

import functools
import gc
import itertools
import logging
import math
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from time import monotonic
from typing import Any, ClassVar

import pytest

from .._errors import (
    CleanupError,
    DrainTimeout,
    InputExhausted,
    PipelineBusy,
    PipelineTerminated,
    PipelineUndefined,
    PlanError,
    StageError,
)
from .._executor import Envelope
from .._ledger import Statistics
from .._output import Output
from .._pipeline import Pipeline
from .._plan import Retry
from .._stage import SKIP, Stage, factory
from ._census import Census
from ._conformance import Conformance
from ._law import broken_law
from ._left_out import LEFT_OUT, SEE_THEIR_STAGES, can_be_placed, needed
from ._rules import EXECUTOR_RULES
from ._stages import FAILURES, Opaque, Raising, Recorder, Recorders, Unprintable, skip_odd
from ._suite_stages import (
    SourceError,
    breaks_at_three,
    call_each,
    double,
    expand_list,
    has_length,
    increment,
    increment_opaque,
    loop_threads,
    loop_waits_for_room,
    many,
    picky,
    same,
    seen_by,
    slow_now_and_then,
    slow_stage,
    twice,
    twice_opaque,
)
from ._waiting import PATIENCE, frantic_switching, in_thread, side_by_side, wait_until

PASSING = (KeyboardInterrupt, SystemExit, GeneratorExit)


class ExecutorSuite(Conformance):
    """One executor's conformance tests.

    Attributes:
        executor: its name.
        options: its options.
        side_by_side: it has workers of its own; False: items run in the caller's thread.
        placement: the name of a placement for all stages that it takes, else None. The tests that
            look at their stages through shared objects are left out then.
        supports_branches: stages with several followers or feeders (``after=``).
        supports_generators: stages that make several items of one.
        supports_batching: stages with ``flush``.
        supports_coroutines: stages that are coroutine functions.
        supports_workers: ``workers`` above 1.
        supports_overflow: ``drop_oldest`` and ``drop_newest``. (Without workers of its own an
            executor has no channels that could be full, and need not refuse them.)
        supports_max_age: items that expire.

    What a switch that is False says is left out has to be refused with a ``PlanError`` that names
    the stage and what is not supported: when the mode is chosen, or by ``start``.
    """

    executor: ClassVar[str] = ""
    options: ClassVar[dict[str, Any]] = {}
    side_by_side: ClassVar[bool] = True
    placement: ClassVar[str | None] = None
    supports_branches: ClassVar[bool] = True
    supports_generators: ClassVar[bool] = True
    supports_batching: ClassVar[bool] = True
    supports_coroutines: ClassVar[bool] = True
    supports_workers: ClassVar[bool] = True
    supports_overflow: ClassVar[bool] = True
    supports_max_age: ClassVar[bool] = True

    rules = EXECUTOR_RULES
    switches: ClassVar[Mapping[str, str]] = {
        "side_by_side": "workers of its own",
        "supports_branches": "after",
        "supports_generators": "generator",
        "supports_batching": "flush",
        "supports_coroutines": "coroutine",
        "supports_workers": "workers",
        "supports_overflow": "overflow",
        "supports_max_age": "max_age",
    }

    # -- building ----------------------------------------------------------------------

    @pytest.fixture(autouse=True)
    def _seen(self, request: pytest.FixtureRequest) -> None:
        """With a placement, leave out the tests that would see nothing of their stages."""
        if self.placement is not None and request.function.__name__ in SEE_THEIR_STAGES:
            pytest.skip("it looks at its stages through shared objects")

    def pipeline(self, *stages: Any, generate: Any = None, **modes: Any) -> Pipeline:
        """A pipeline in its mode; a stage may come with its options, ``(stage, options)``.

        Leaves the test out when the executor says that it does not support one of them.
        """
        pipeline = Pipeline(generate)
        for stage in stages:
            given, options = stage if isinstance(stage, tuple) else (stage, {})
            self.needs(*needed(given, options))
            if self.placement is not None and can_be_placed(given, self.placement):
                options = {"placement": self.placement, **options}
            pipeline.add(given, **options)
        self.made.append(pipeline)
        return self.turn(pipeline, **modes)

    def turn(self, pipeline: Pipeline, **modes: Any) -> Pipeline:
        """Choose the executor under test; times and blocking are for those with workers."""
        if self.executor == "serial":
            return pipeline.serialize()
        return pipeline.parallelize(executor=self.executor, **modes, **self.options)

    def workers(self, number: int) -> int:
        """So many workers, or one for an executor that does not support them: where they are
        beside the point."""
        return number if self.supports_workers else 1

    def needs_workers(self) -> None:
        """Leave the test out for an executor that runs items in the caller's thread."""
        if not self.side_by_side:
            pytest.skip("it has no workers of its own")

    # -- what is left out --------------------------------------------------------------

    def test_what_is_left_out_is_refused(self) -> None:
        """Not ignored: a PlanError names the stage and what is not supported."""
        left_out = [switch for switch in LEFT_OUT if not getattr(self, switch)]
        if not self.side_by_side and "supports_overflow" in left_out:
            left_out.remove("supports_overflow")
        if not left_out:
            pytest.skip("nothing is left out")
        for switch in left_out:
            pipeline = Pipeline()
            for stage, options in LEFT_OUT[switch]:
                pipeline.add(stage, **options)
            self.made.append(pipeline)
            with pytest.raises(PlanError, match=self.switches[switch]) as caught:
                self.turn(pipeline).start()
            assert "MainPipeline__Unsupported" in str(caught.value)

    def fail(self, pipeline: Pipeline, item: Any = 0) -> StageError:
        """Forward an item that fails under "stop"; what is raised."""
        with pytest.raises(StageError) as caught:
            pipeline.forward(item)
            pipeline.drain(PATIENCE)
        return caught.value

    # -- order and values --------------------------------------------------------------

    @pytest.mark.parametrize("stages", [0, 1, 3, 8])
    def test_every_result_comes_once_and_in_order(self, stages: int) -> None:
        """A stream gives every item's own result in the order of the source."""
        pipeline = self.pipeline(*[increment] * stages)
        assert list(pipeline.stream(range(500))) == [n + stages for n in range(500)]
        statistics = pipeline.statistics()
        assert (statistics.admitted, statistics.completed) == (500, 500)
        assert statistics.superseded == statistics.rejected == 0

    def test_forward_keeps_the_newest_result(self) -> None:
        """Results that nobody read in time are superseded by the newest, and counted."""
        pipeline = self.pipeline(double)
        assert all(pipeline.forward(n) for n in range(5))
        pipeline.drain(PATIENCE)
        assert pipeline.get_results() == 8
        assert pipeline.get_results() is None
        assert pipeline.statistics().superseded == 4

    def test_items_pass_a_pipeline_without_stages(self) -> None:
        """Without stages an item is its own result."""
        pipeline = self.pipeline()
        assert pipeline.forward("item")
        pipeline.drain(PATIENCE)
        assert pipeline.get_results() == "item"
        assert pipeline.as_stage()("other") == "other"

    def test_skip_filters_and_counts(self) -> None:
        """An item for which a stage returns SKIP ends there."""
        pipeline = self.pipeline(skip_odd, double)
        assert list(pipeline.stream(range(7))) == [0, 4, 8, 12]
        assert pipeline.statistics().filtered == 3
        assert pipeline.statistics().stages[1].received == 4

    @pytest.mark.parametrize("item", [None, 0, "", (), False, float("nan"), Ellipsis])
    def test_falsy_items_are_items(self, item: Any) -> None:
        """None, zero and empty items come through like any other."""
        pipeline = self.pipeline(lambda item: item, lambda item: item)
        assert list(pipeline.stream([item, item])) == [item, item] or item != item
        assert pipeline.forward(item)
        pipeline.drain(PATIENCE)
        assert pipeline.statistics().completed == 3

    def test_items_are_never_looked_into(self) -> None:
        """Items without truth value, equality, hash or text are plain data."""
        pipeline = self.pipeline(
            lambda item: item,
            twice_opaque,
            (Raising(when=lambda item: item.value == 3), {"on_error": "skip"}),
        )
        results = list(pipeline.stream(Opaque(n) for n in range(5)))
        assert [one.value for one in results] == [0, 0, 1, 1, 2, 2, 4, 4]
        assert pipeline.forward(Opaque(9))
        pipeline.drain(PATIENCE)
        assert pipeline.get_results().value == 9
        assert pipeline.forward(Opaque(3))

    def test_a_failing_item_is_never_looked_into(self) -> None:
        """The error about an item whose repr raises carries the item all the same."""
        pipeline = self.pipeline(Raising())
        failure = self.fail(pipeline, Opaque(3))
        assert failure.item.value == 3
        assert "Opaque" in str(failure)

    def test_items_are_let_go_when_done(self) -> None:
        """Nothing holds an item after its end: filtered, failed, completed and read."""
        alive: list[weakref.ref[Opaque]] = []

        def new(number: int) -> Opaque:
            item = Opaque(number)
            alive.append(weakref.ref(item))
            return item

        pipeline = self.pipeline(
            new,
            lambda item: SKIP if item.value == 1 else item,
            (Raising(when=lambda item: item.value == 2), {"on_error": "skip"}),
            increment_opaque,
        )
        assert [one.value for one in pipeline.stream(range(4))] == [1, 4]
        pipeline.drain(PATIENCE)

        def gone() -> bool:
            gc.collect()
            return not any(one() is not None for one in alive)

        assert wait_until(gone)

    # -- generator stages --------------------------------------------------------------

    def test_generator_stages_expand_in_order(self) -> None:
        """Spawned items stand where their parent stood, at every level."""
        pipeline = self.pipeline(twice, lambda item: [item], expand_list, twice)
        expected = [n + half + other for n in range(50) for half in (0, 0.5) for other in (0, 0.5)]
        assert list(pipeline.stream(range(50))) == expected
        statistics = pipeline.statistics()
        assert (statistics.expanded, statistics.spawned) == (50 + 100 + 100, 100 + 100 + 200)

    def test_outputs_are_handed_on_as_they_are_made(self) -> None:
        """Each output goes on before the next one is made."""
        seen: list[int] = []

        def makes(item: int) -> Iterator[int]:
            for number in range(3):
                assert wait_until(lambda: len(seen) >= number)  # noqa: B023
                yield number

        pipeline = self.pipeline(makes, seen_by(seen))
        assert list(pipeline.stream([0])) == [0, 1, 2]

    def test_a_generator_stage_may_give_nothing(self) -> None:
        """A parent without outputs is expanded into none."""
        pipeline = self.pipeline(lambda n: range(n % 3), expand_list)
        assert list(pipeline.stream(range(6))) == [0, 0, 1, 0, 0, 1]
        assert pipeline.statistics().expanded == 6

    def test_a_generator_stage_that_skips_gives_less(self) -> None:
        """SKIP among the outputs of a generator stage is no item."""

        def some(item: int) -> Iterator[Any]:
            yield from (item, SKIP, item + 1)

        pipeline = self.pipeline(some)
        assert list(pipeline.stream([10])) == [10, 11]
        assert pipeline.statistics().spawned == 2

    @pytest.mark.parametrize("policy", ["skip", lambda failure: SKIP])
    def test_outputs_before_a_failure_stay_valid(self, policy: Any) -> None:
        """A generator stage that raises after k outputs: the k go on, the parent failed."""
        pipeline = self.pipeline((breaks_at_three, {"on_error": policy}), double)
        assert list(pipeline.stream([2, 5, 1])) == [0, 2, 0, 2, 4, 0]
        statistics = pipeline.statistics()
        assert (statistics.failed, statistics.expanded, statistics.spawned) == (1, 2, 6)

    def test_a_generator_stage_may_be_given_a_replacement(self) -> None:
        """What on_error returns takes the place of the outputs that are missing."""
        pipeline = self.pipeline((breaks_at_three, {"on_error": lambda failure: "rest"}))
        assert list(pipeline.stream([5, 1])) == [0, 1, 2, "rest", 0]

    def test_a_generator_stage_that_fails_under_stop(self) -> None:
        """The outputs before the failure are delivered, then it is raised."""
        pipeline = self.pipeline(breaks_at_three)
        got = []
        with pytest.raises(StageError, match="too far") as caught:
            for result in pipeline.stream([2, 5]):
                got.append(result)
        assert got == [0, 1, 0, 1, 2][: len(got)]
        assert isinstance(caught.value.__cause__, ValueError)

    def test_a_failure_behind_a_generator_ends_it(self) -> None:
        """When an output fails under "stop" the generator is closed and all is counted."""
        closed = threading.Event()

        def endless(item: int) -> Iterator[int]:
            try:
                yield from itertools.count(item)
            finally:
                closed.set()

        pipeline = self.pipeline(endless, Raising(when=lambda item: item == 5))
        with pytest.raises(StageError):
            list(pipeline.stream([0]))
        assert closed.wait(PATIENCE)
        assert "reader left" not in pipeline.statistics().dropped

    # -- workers -----------------------------------------------------------------------

    def test_several_workers_keep_the_order(self) -> None:
        """With ordered workers results leave in the order of admission."""
        recorders = Recorders(slow_now_and_then)
        pipeline = self.pipeline((factory(recorders), {"workers": 4}), increment)
        assert list(pipeline.stream(range(300))) == [n + 1 for n in range(300)]
        assert len(recorders.made) == (4 if self.side_by_side else 1)

    def test_a_result_leaves_the_moment_it_is_its_turn(self) -> None:
        """An ordered stage does not wait for a batch: what is first goes at once."""
        self.needs_workers()
        gate = self.gate(holds=lambda item: item == 1)
        pipeline = self.pipeline((gate, {"workers": 3}), block_output=True)
        for n in range(3):
            pipeline.forward(n)
        assert pipeline.get_results() == 0
        assert gate.wait_passed(2)
        assert pipeline.statistics().completed == 1
        gate.open()
        pipeline.drain(PATIENCE)
        assert pipeline.get_results() == 2

    def test_unordered_workers_do_not_wait(self) -> None:
        """With ordered=False a slow item is overtaken."""
        self.needs_workers()
        gate = self.gate(holds=lambda item: item == 0)
        pipeline = self.pipeline((gate, {"workers": 2, "ordered": False}), block_output=True)
        results = pipeline.stream(range(4))
        assert [next(results) for _ in range(3)] == [1, 2, 3]
        gate.open()
        assert list(results) == [0]

    @pytest.mark.parametrize("ordered", [True, False])
    def test_generator_stages_have_workers_too(self, ordered: bool) -> None:
        """Several workers of a generator stage lose nothing and keep the order."""
        options = {"workers": 3, "ordered": ordered}
        pipeline = self.pipeline((factory(lambda: many), options), increment)
        expected = [n * 100 + k + 1 for n in range(40) for k in range(n % 40)]
        results = list(pipeline.stream(range(40)))
        assert (results if ordered else sorted(results)) == sorted(expected)

    @pytest.mark.parametrize("ordered", [True, False])
    def test_workers_with_failures_and_filters(self, ordered: bool) -> None:
        """Every ticket comes back: failed, filtered and completed items side by side."""
        options = {"workers": 3, "ordered": ordered, "on_error": "skip"}
        pipeline = self.pipeline((picky, options), double)
        results = list(pipeline.stream(range(200)))
        expected = [2 * n for n in range(200) if n % 3 and n % 5]
        assert (results if ordered else sorted(results)) == expected

    def test_results_are_handed_over_one_at_a_time(self) -> None:
        """The output is called by one worker at a time, unordered ones too."""
        pipeline = self.pipeline((slow_stage, {"workers": 4, "ordered": False}))
        busy = watch_output(pipeline)
        assert sorted(pipeline.stream(range(60))) == list(range(60))
        assert busy == []

    def test_callers_side_by_side_keep_the_order_of_admission(self) -> None:
        """Items from several threads reach the first stage in the order of their numbers."""
        seen: list[int | None] = []

        def note(failure: StageError) -> Any:
            seen.append(failure.seq)
            return SKIP

        pipeline = self.pipeline((Raising(), {"on_error": note}), input_timeout=30)
        with frantic_switching():
            side_by_side(lambda _: [pipeline.forward(n) for n in range(100)], 8)
        pipeline.drain(PATIENCE)
        assert seen == list(range(800))

    # -- bounds ------------------------------------------------------------------------

    @pytest.mark.parametrize("capacity", [1, 3, "auto"])
    def test_items_alive_are_bounded(self, capacity: Any) -> None:
        """A stuck stage fills its channel and then the front refuses; nobody saw what it
        refused."""
        self.needs_workers()
        seen: list[int] = []
        gate = self.gate()
        pipeline = self.pipeline(
            (seen_by(seen), {"capacity": capacity}),
            (gate, {"capacity": capacity}),
            block_input=False,
        )
        first = pipeline.forward(0)
        assert first
        assert gate.wait_entered()
        accepted = 1
        deadline = monotonic() + 0.3
        while monotonic() < deadline and accepted < 50:
            accepted += pipeline.forward(accepted)
        waiting = 4 if capacity == "auto" else capacity + 1
        assert accepted <= 2 * waiting
        if capacity != "auto":
            assert wait_until(lambda: pipeline.forward(-1) or len(seen) == accepted - capacity)
        gate.open()
        pipeline.drain(PATIENCE)
        assert sorted(set(seen) - {-1}) == list(range(accepted))
        assert pipeline.statistics().rejected > 0

    def test_a_full_front_waits_and_then_refuses(self) -> None:
        """forward waits for its timeout, returns False and counts the offer as rejected."""
        self.needs_workers()
        gate = self.gate()
        pipeline = self.pipeline((gate, {"capacity": 1}), input_timeout=0.05)
        assert pipeline.forward(0)
        assert gate.wait_entered()
        assert pipeline.forward(1)
        begin = monotonic()
        assert pipeline.forward(2) is False
        assert 0.04 < monotonic() - begin < 2
        assert pipeline.statistics().rejected == 1
        gate.open()
        pipeline.drain(PATIENCE)
        assert pipeline.get_results() == 1

    def test_a_full_front_that_gets_room_accepts(self) -> None:
        """A forward that waits goes on as soon as there is room."""
        self.needs_workers()
        gate = self.gate()
        pipeline = self.pipeline((gate, {"capacity": 1}))
        pipeline.forward(0)
        assert gate.wait_entered()
        pipeline.forward(1)
        waiting = in_thread(lambda: pipeline.forward(2))
        gate.let()
        assert waiting.wait().value is True

    def test_a_stream_holds_its_source_back(self) -> None:
        """A reader that does not read stops the source after a bounded number of items."""
        taken: list[int] = []

        def source() -> Iterator[int]:
            for n in range(100_000):
                taken.append(n)
                yield n

        pipeline = self.pipeline((slow_stage, {"capacity": 2}), (double, {"capacity": 2}))
        results = pipeline.stream(source())
        for n in range(10):
            assert next(results) == 2 * n
        assert wait_until(lambda: pipeline.statistics().in_flight <= 2000)
        assert len(taken) < 5000
        results.close()

    # -- overflow and freshness --------------------------------------------------------

    def test_drop_newest_keeps_what_waits(self) -> None:
        """A full channel drops what comes; forward says True, and it is counted."""
        self.needs_workers()
        gate = self.gate()
        seen: list[int] = []
        pipeline = self.pipeline((gate, {"overflow": "drop_newest", "capacity": 2}), seen_by(seen))
        assert pipeline.forward(0)
        assert gate.wait_entered()
        assert all(pipeline.forward(n) for n in range(1, 8))
        gate.open()
        pipeline.drain(PATIENCE)
        assert seen == [0, 1, 2]
        statistics = pipeline.statistics()
        assert statistics.dropped == {"overflow": 5}
        assert statistics.stages[0].lost_before == {"overflow": 5}
        assert (statistics.admitted, statistics.rejected) == (8, 0)

    def test_drop_oldest_keeps_what_is_new(self) -> None:
        """A full channel drops what has waited longest, and counts it."""
        self.needs_workers()
        gate = self.gate()
        seen: list[int] = []
        pipeline = self.pipeline((gate, {"overflow": "drop_oldest", "capacity": 2}), seen_by(seen))
        assert pipeline.forward(0)
        assert gate.wait_entered()
        assert all(pipeline.forward(n) for n in range(1, 8))
        gate.open()
        pipeline.drain(PATIENCE)
        assert seen == [0, 6, 7]
        assert pipeline.statistics().dropped == {"overflow": 5}

    @pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
    @pytest.mark.parametrize("capacity", [1, "auto"])
    @pytest.mark.parametrize("workers", [1, 3])
    def test_overflow_within_the_pipeline(self, overflow: str, capacity: Any, workers: int) -> None:
        """Between stages too: the source is never slowed, order holds, the sum is exact."""
        self.needs_workers()
        options = {"overflow": overflow, "capacity": capacity, "workers": workers}
        pipeline = self.pipeline(increment, (slow_stage, options))
        results = list(pipeline.stream(range(2000)))
        assert results == sorted(results)
        statistics = pipeline.statistics()
        assert statistics.completed == len(results)
        assert statistics.completed + statistics.dropped.get("overflow", 0) == 2000

    def test_drain_passes_a_dropping_channel(self) -> None:
        """A drain is never evicted with the items."""
        self.needs_workers()
        gate = self.gate()
        pipeline = self.pipeline((gate, {"overflow": "drop_oldest", "capacity": 1}))
        pipeline.forward(0)
        assert gate.wait_entered()
        drains = [in_thread(lambda: pipeline.drain(PATIENCE)) for _ in range(3)]
        for n in range(1, 20):
            pipeline.forward(n)
        gate.open()
        assert [drain.wait().error for drain in drains] == [None] * 3

    def test_old_items_expire(self) -> None:
        """An item older than max_age ends before the stage, others pass."""
        pipeline = self.pipeline(increment, (double, {"max_age": 1e-9}))
        assert list(pipeline.stream(range(20))) == []
        assert pipeline.statistics().expired == 20
        assert pipeline.statistics().stages[1].expired == 20
        fresh = self.pipeline(increment, (double, {"max_age": 1000}))
        assert list(fresh.stream(range(20))) == [2 * n + 2 for n in range(20)]

    # -- failures ----------------------------------------------------------------------

    @pytest.mark.parametrize("kind", FAILURES)
    def test_no_failure_is_silent(self, kind: type[BaseException]) -> None:
        """Whatever a stage raises surfaces, with stage, item and cause."""
        pipeline = self.pipeline(increment, (Raising(kind), {"name": "Bad"}), increment)
        if not self.side_by_side and issubclass(kind, PASSING):
            with pytest.raises(kind):
                pipeline.forward(41)
            assert pipeline.statistics().dropped == {"interrupted": 1}
            return
        failure = self.fail(pipeline, 41)
        assert (failure.path, failure.seq, failure.item) == ("MainPipeline__Bad", 0, 42)
        assert type(failure.__cause__) is kind
        assert "MainPipeline__Bad" in str(failure)
        assert "42" in str(failure)
        assert pipeline.statistics().failed == 1

    def test_a_failure_is_logged_at_once(self, caplog: pytest.LogCaptureFixture) -> None:
        """A failure under "stop" is an ERROR of the PyStream logger, unprintable or not."""
        pipeline = self.pipeline(Raising(Unprintable))
        self.fail(pipeline)
        errors = [one for one in caplog.records if one.levelno == logging.ERROR]
        assert len(errors) == 1
        assert errors[0].name == "PyStream"
        assert "MainPipeline__Stage_1" in errors[0].getMessage()

    def test_under_stop_the_next_step_is_stated(self) -> None:
        """In the caller's thread the next item runs; with workers every call says so."""
        pipeline = self.pipeline(Raising(times=1), increment)
        first = self.fail(pipeline)
        if not self.side_by_side:
            assert pipeline.forward(1)
            assert pipeline.get_results() == 2
            return
        raised = []
        for call in (
            lambda: pipeline.forward(1),
            pipeline.get_results,
            lambda: pipeline.stream([1]),
            pipeline.drain,
            lambda: pipeline.as_stage()(1),
        ):
            with pytest.raises(StageError, match="raised on item 0") as caught:
                call()
            raised.append(caught.value)
        assert len({id(one) for one in (first, *raised)}) == 6
        assert len({id(one.__cause__) for one in raised}) == 1
        pipeline.cleanup()

    def test_skip_goes_on(self) -> None:
        """Under "skip" the item failed and the rest goes on."""
        pipeline = self.pipeline(
            (Raising(when=lambda n: n % 10 == 3), {"on_error": "skip"}), double
        )
        assert list(pipeline.stream(range(30))) == [2 * n for n in range(30) if n % 10 != 3]
        assert pipeline.statistics().failed == 3

    def test_retry_calls_again(self) -> None:
        """Retry calls again until it works or the calls are over."""
        stage = Raising(times=2)
        pipeline = self.pipeline((stage, {"on_error": Retry(times=2)}))
        assert list(pipeline.stream([5])) == [5]
        assert stage.calls == 3
        assert pipeline.statistics().failed == 0

    def test_retry_gives_up(self) -> None:
        """After the last call Retry's own policy follows."""
        stage = Raising(when=lambda n: n == 1)
        pipeline = self.pipeline((stage, {"on_error": Retry(times=2, then="skip")}))
        assert list(pipeline.stream(range(3))) == [0, 2]
        assert stage.calls == 5
        stopped = self.pipeline((Raising(), {"on_error": Retry(times=1)}))
        assert isinstance(self.fail(stopped).__cause__, ValueError)

    def test_a_retry_that_filters_filters(self) -> None:
        """SKIP out of a further call ends the item as filtered."""
        calls: list[int] = []

        def stage(item: int) -> Any:
            calls.append(item)
            if len(calls) == 1:
                raise ValueError
            return SKIP

        pipeline = self.pipeline((stage, {"on_error": Retry(times=1)}))
        assert list(pipeline.stream([1])) == []
        assert pipeline.statistics().filtered == 1

    @pytest.mark.parametrize("backoff", [1000.0, 1e300])
    def test_abort_ends_the_wait_of_a_retry(self, backoff: float) -> None:
        """A backoff however long ends when the pipeline is aborted."""
        called = threading.Event()

        def stage(item: int) -> int:
            called.set()
            raise ValueError

        pipeline = self.pipeline((stage, {"on_error": Retry(times=3, backoff=backoff)}))
        call = in_thread(lambda: pipeline.forward(1))
        assert called.wait(PATIENCE)
        pipeline.abort()
        call.wait()
        pipeline.cleanup()
        assert pipeline.statistics().dropped == {"abort": 1}

    def test_on_error_may_replace(self) -> None:
        """A callable's return value goes on in place of the item; SKIP ends it as failed."""

        def decide(failure: StageError) -> Any:
            return SKIP if failure.item == 2 else (failure.item, failure.path)

        pipeline = self.pipeline(
            (Raising(when=lambda n: n in (1, 2)), {"on_error": decide, "name": "A"})
        )
        assert list(pipeline.stream(range(4))) == [0, (1, "MainPipeline__A"), 3]
        assert pipeline.statistics().failed == 1

    def test_on_error_may_replace_by_none(self) -> None:
        """None is a replacement like any other."""
        pipeline = self.pipeline((Raising(), {"on_error": lambda failure: None}))
        assert list(pipeline.stream(range(2))) == [None, None]

    def test_on_error_that_raises_is_a_failure(self) -> None:
        """What a dead-letter callable raises stops, with its own cause."""

        def broken(failure: StageError) -> Any:
            raise KeyError("dead letter")

        pipeline = self.pipeline((Raising(), {"on_error": broken}))
        failure = self.fail(pipeline)
        assert isinstance(failure.__cause__, KeyError)
        assert "on_error" in str(failure)

    def test_a_stage_error_of_the_stage_itself_is_a_failure(self) -> None:
        """A StageError that a stage raises by itself is wrapped like anything else."""
        pipeline = self.pipeline((Raising(lambda: StageError("mine")), {"on_error": "skip"}))
        assert list(pipeline.stream([1])) == []
        assert pipeline.statistics().failed == 1

    # -- setup and cleanup -------------------------------------------------------------

    def test_a_stage_lives_in_one_thread(self) -> None:
        """Setup, calls and cleanup of a worker's stage happen once, in its own thread."""
        recorders = Recorders()
        single = Recorder()
        workers = self.workers(3)
        pipeline = self.pipeline((factory(recorders), {"workers": workers}), single)
        list(pipeline.stream(range(60)))
        pipeline.cleanup()
        for one in (*recorders.made, single):
            assert one.broken == []
            assert len(one.setups) == len(one.cleanups) == 1
            assert len({*one.setups, *one.calls, *one.cleanups}) == 1
        assert single.calls[0] != threading.get_ident() or not self.side_by_side
        assert len(recorders.made) == (workers if self.side_by_side else 1)

    @pytest.mark.parametrize("how", ["idle", "failed", "aborted", "busy"])
    def test_cleanup_happens_once(self, how: str) -> None:
        """Whatever state the pipeline is in, and however often cleanup is called."""
        stages = [Recorder(), Recorder(), Recorder()]
        bad = Raising(when=lambda n: n == "bad")
        pipeline = self.pipeline(stages[0], bad, stages[1], stages[2])
        pipeline.forward("good")
        if how == "failed":
            self.fail(pipeline, "bad")
        elif how == "aborted":
            pipeline.abort()
        elif how == "idle":
            pipeline.drain(PATIENCE)
        side_by_side(lambda n: pipeline.cleanup(), 4)
        pipeline.cleanup()
        assert [(len(one.setups), len(one.cleanups)) for one in stages] == [(1, 1)] * 3
        assert [one.broken for one in stages] == [[]] * 3

    def test_cleanup_of_what_never_started(self) -> None:
        """Stage objects are cleaned up even if no item ever came."""
        stage = Recorder()
        pipeline = self.pipeline(stage, Recorder)
        pipeline.cleanup()
        pipeline.cleanup()
        assert (len(stage.setups), len(stage.cleanups)) == (0, 1)

    def test_cleanup_errors_come_together(self, caplog: pytest.LogCaptureFixture) -> None:
        """Every stage is cleaned up though several raise; one CleanupError holds them."""
        errors = [ValueError("first"), SystemExit("second")]
        stages = [Recorder(cleanup_error=errors[0]), Recorder(), Recorder(cleanup_error=errors[1])]
        pipeline = self.pipeline(*stages)
        list(pipeline.stream(range(3)))
        with pytest.raises(CleanupError) as caught:
            pipeline.cleanup()
        assert caught.value.errors == tuple(errors)
        assert caught.value.__cause__ is errors[0]
        assert [len(one.cleanups) for one in stages] == [1, 1, 1]
        pipeline.cleanup()

    @pytest.mark.parametrize("kind", [ValueError, SystemExit, StopIteration, Unprintable])
    def test_a_setup_that_raises(self, kind: type[BaseException]) -> None:
        """The call that starts raises, what was set up is cleaned up, a second try works."""
        before, bad = Recorder(), Recorder(setup_error=kind())
        pipeline = self.pipeline(before, (bad, {"name": "Bad"}))
        expected = kind if kind is SystemExit and not self.side_by_side else StageError
        with pytest.raises(expected) as caught:
            pipeline.forward(1)
        if expected is StageError:
            assert type(caught.value.__cause__) is kind
        assert len(before.setups) == len(before.cleanups)
        bad.setup_error = None
        assert list(pipeline.stream([1])) == [1]
        pipeline.cleanup()
        assert before.broken == bad.broken == []
        assert len(before.setups) == len(before.cleanups)
        assert len(bad.setups) == len(bad.cleanups) == 1

    def test_a_slow_setup_does_not_count(self) -> None:
        """Starting is not counted against the input timeout."""
        self.needs_workers()
        gate = self.gate()

        class Slow(Recorder):
            def setup(self) -> None:
                gate(None)

        pipeline = self.pipeline(Slow, input_timeout=0.01)
        call = in_thread(lambda: pipeline.forward(1))
        assert gate.wait_entered()
        gate.open()
        assert call.wait().value is True

    def test_cleanup_ends_a_start_under_way(self) -> None:
        """A cleanup while stages are set up lets the start fail and cleans up."""
        gate = self.gate()
        stage = Recorder()

        class Slow(Stage[Any]):
            def setup(self) -> None:
                gate(None)

            def __call__(self, data: Any) -> Any:
                return data

            def cleanup(self) -> None:
                stage.cleanup()

        pipeline = self.pipeline(Slow())
        call = in_thread(lambda: pipeline.forward(1))
        assert gate.wait_entered()
        cleanup = in_thread(pipeline.cleanup)
        assert wait_until(lambda: "stopped" in repr(pipeline))
        gate.open()
        cleanup.wait()
        assert isinstance(call.wait().error, PipelineTerminated)
        assert wait_until(lambda: len(stage.cleanups) == 1)

    # -- draining and stopping ---------------------------------------------------------

    def test_drain_waits_for_everything(self) -> None:
        """When drain returns nothing is in flight; the pipeline goes on."""
        pipeline = self.pipeline(slow_stage, (slow_stage, {"workers": self.workers(2)}))
        for n in range(20):
            pipeline.forward(n)
        pipeline.drain(PATIENCE)
        assert broken_law(pipeline.statistics()) == []
        assert pipeline.forward(20)
        pipeline.drain(PATIENCE)
        assert pipeline.statistics().admitted == 21

    def test_drain_has_a_deadline(self) -> None:
        """DrainTimeout says what is still in flight, and a later drain succeeds."""
        gate = self.gate()
        pipeline = self.pipeline(gate)
        call = in_thread(lambda: pipeline.forward(1))
        assert gate.wait_entered()
        with pytest.raises(DrainTimeout, match="1 item was still in flight"):
            pipeline.drain(0.02)
        gate.open()
        pipeline.drain(PATIENCE)
        assert call.wait().value is True

    def test_abort_is_prompt_and_counts(self) -> None:
        """abort returns at once; what was in flight is dropped, later calls say so."""
        gate = self.gate()
        pipeline = self.pipeline((gate, {"capacity": 4}), increment)
        calls = [in_thread(lambda: pipeline.forward(1)) for _ in range(3)]
        assert gate.wait_entered()
        if self.side_by_side:
            assert wait_until(lambda: pipeline.statistics().admitted == 3)
        begin = monotonic()
        pipeline.abort()
        assert monotonic() - begin < PATIENCE / 5  # and not until the gate opens
        for call in (
            lambda: pipeline.forward(2),
            pipeline.get_results,
            lambda: pipeline.stream([]),
            pipeline.drain,
            pipeline.as_stage,
        ):
            with pytest.raises(PipelineTerminated, match="abort"):
                call()
        gate.open()
        for one in calls:
            one.wait()
        pipeline.cleanup()
        statistics = pipeline.statistics()
        assert statistics.completed == 0
        assert sum(statistics.dropped.values()) == statistics.admitted

    def test_what_was_called_back_is_not_worked_on(self) -> None:
        """After an abort no stage gets another item, at whatever stage they were."""
        self.needs_workers()
        gate = self.gate()
        before, behind = Recorder(gate), Recorder()
        pipeline = self.pipeline((before, {"capacity": 4}), behind)
        for item in range(4):
            pipeline.forward(item)
        assert gate.wait_entered()
        pipeline.abort()
        pipeline.abort()
        gate.open()
        pipeline.cleanup()
        assert (len(before.calls), len(behind.calls)) == (1, 0)

    def test_an_offer_that_is_withdrawn_is_let_go(self) -> None:
        """A loop that is stopped while it waits for room does not admit its item later."""
        self.needs_workers()
        gate = self.gate()
        made: list[int] = []

        def generate() -> int:
            made.append(len(made))
            return made[-1]

        first = (gate, {"capacity": 1})
        pipeline = self.pipeline(first, double, generate=generate, input_timeout=math.inf)
        pipeline.start_loop(0.001)
        assert wait_until(lambda: len(made) == 3)
        assert wait_until(loop_waits_for_room)
        pipeline.stop_loop()
        admitted = pipeline.statistics().admitted
        gate.open()
        assert wait_until(lambda: not loop_threads())
        pipeline.drain(PATIENCE)
        assert pipeline.statistics().admitted == admitted == gate.entered == 2

    def test_nothing_is_left_behind(self) -> None:
        """After cleanup there is no thread, child process or descriptor more than before."""
        before = Census()
        for stop in ("cleanup", "abort"):
            pipeline = self.pipeline(Recorder(), increment, (double, {"workers": self.workers(3)}))
            pipeline.run(range(10))
            getattr(pipeline, stop)()
            pipeline.cleanup()
        assert before.left(grace=0.3) == []

    def test_abort_releases_whoever_waits(self) -> None:
        """Calls that wait in forward and get_results raise at once."""
        self.needs_workers()
        gate = self.gate()
        pipeline = self.pipeline((gate, {"capacity": 1}), block_output=True)
        pipeline.forward(0)
        assert gate.wait_entered()
        pipeline.forward(1)
        waiting = [in_thread(lambda: pipeline.forward(2)), in_thread(pipeline.get_results)]
        pipeline.abort()
        for one in waiting:
            assert isinstance(one.wait(1).error, PipelineTerminated)

    def test_cleanup_releases_whoever_waits(self) -> None:
        """The same for cleanup, though a stage is still at work."""
        self.needs_workers()
        gate = self.gate()
        pipeline = self.pipeline((gate, {"capacity": 1}), block_output=True)
        pipeline.forward(0)
        assert gate.wait_entered()
        pipeline.forward(1)
        waiting = [in_thread(lambda: pipeline.forward(2)), in_thread(pipeline.get_results)]
        cleanup = in_thread(pipeline.cleanup)
        for one in waiting:
            assert isinstance(one.wait(1).error, PipelineTerminated)
        gate.open()
        assert cleanup.wait().error is None
        assert pipeline.statistics().completed == 2

    def test_cleanup_finishes_what_was_admitted(self) -> None:
        """Every admitted item is done when cleanup returns."""
        pipeline = self.pipeline(slow_stage, slow_stage)
        for n in range(10):
            pipeline.forward(n)
        pipeline.cleanup()
        assert pipeline.statistics().completed == 10

    def test_an_idle_cleanup_is_quick(self) -> None:
        """Within 50 ms, best of three."""
        took = []
        for _ in range(3):
            pipeline = self.pipeline(
                increment, Recorder(), (increment, {"workers": self.workers(4)})
            )
            pipeline.run(range(3))
            begin = monotonic()
            pipeline.cleanup()
            took.append(monotonic() - begin)
        assert min(took) < 0.05

    def test_after_cleanup_every_call_says_so(self) -> None:
        """And a new mode starts afresh."""
        pipeline = self.pipeline(increment)
        pipeline.forward(1)
        pipeline.cleanup()
        for call in (
            lambda: pipeline.forward(2),
            pipeline.get_results,
            pipeline.as_stage,
            pipeline.start,
            lambda: pipeline.stream([1]),
        ):
            with pytest.raises(PipelineTerminated):
                call()
        self.turn(pipeline)
        assert list(pipeline.stream([1, 2])) == [2, 3]

    @pytest.mark.usefixtures("hurried")
    @pytest.mark.parametrize("items", [0, 2], ids=["first item", "later item"])
    def test_a_stage_that_does_not_return_is_left_behind(
        self, caplog: pytest.LogCaptureFixture, items: int
    ) -> None:
        """cleanup names it, ends, and counts its item as abandoned; when it does come back its
        stage is cleaned up."""
        gate = self.gate(holds=lambda item: item == "stuck")
        stuck, other = Recorder(gate), Recorder()
        pipeline = self.pipeline(same, (stuck, {"name": "Stuck"}), other, stuck_timeout=0.1)
        for item in range(items):
            assert pipeline.forward(item)
            pipeline.drain(PATIENCE)
        call = in_thread(lambda: pipeline.forward("stuck"))
        assert gate.wait_entered(items + 1)
        begin = monotonic()
        pipeline.cleanup(timeout=0)
        assert monotonic() - begin < 3.5
        assert "MainPipeline__Stuck" in caplog.text
        assert pipeline.statistics().dropped == {"abandoned": 1}
        gate.open()
        call.wait()
        assert wait_until(lambda: len(stuck.cleanups) == len(other.cleanups) == 1)
        assert stuck.broken == other.broken == []
        assert pipeline.statistics().dropped == {"abandoned": 1}

    def test_a_stage_may_call_cleanup(self) -> None:
        """It requests the stop and returns; others finish it."""
        recorder = Recorder()
        itself: list[Pipeline] = []
        stage = Recorder(lambda item: call_each([one.cleanup for one in itself]))
        pipeline = self.pipeline(stage, recorder)
        itself.append(pipeline)
        pipeline.forward(1)
        assert wait_until(lambda: len(recorder.cleanups) == 1)
        pipeline.cleanup()
        assert stage.broken == recorder.broken == []
        assert len(stage.cleanups) == len(recorder.cleanups) == 1
        with pytest.raises(PipelineTerminated):
            pipeline.forward(2)

    def test_a_stage_may_call_abort(self) -> None:
        """An abort from inside ends the item as dropped."""
        itself: list[Pipeline] = []
        pipeline = self.pipeline(lambda item: call_each([one.abort for one in itself]), increment)
        itself.append(pipeline)
        try:
            pipeline.forward(1)
        except PipelineTerminated:
            pass
        pipeline.cleanup()
        assert pipeline.statistics().dropped == {"abort": 1}

    def test_a_stage_cannot_change_the_mode(self) -> None:
        """A stage that calls serialize() on its own pipeline is told so and nothing hangs."""
        itself: list[Pipeline] = []
        pipeline = self.pipeline(lambda item: self.turn(itself[0]) and item)
        itself.append(pipeline)
        failure = self.fail(pipeline)
        assert isinstance(failure.__cause__, PipelineBusy)

    def test_a_with_statement_cleans_up(self) -> None:
        """Left in peace it drains, left by an exception it aborts."""
        stage = Recorder()
        with self.pipeline(stage) as pipeline:
            pipeline.forward(1)
        assert len(stage.cleanups) == 1
        assert pipeline.statistics().completed == 1
        with pytest.raises(SourceError), self.pipeline(Recorder()) as pipeline:
            pipeline.forward(1)
            raise SourceError

    def test_unlimited_times_are_allowed(self) -> None:
        """Infinite timeouts wait as long as it takes."""
        gate = self.gate()
        times = ("input_timeout", "output_timeout", "drain_timeout", "stuck_timeout")
        pipeline = self.pipeline(
            Recorder(), gate, block_output=True, **dict.fromkeys(times, math.inf)
        )
        gate.open()
        pipeline.forward(1)
        pipeline.drain(math.inf)
        assert pipeline.get_results() == 1
        closing = in_thread(lambda: pipeline.cleanup(timeout=math.inf))
        pipeline.cleanup()
        assert closing.wait().error is None
        empty = self.pipeline()
        empty.forward(1)
        empty.drain(math.inf)

    def test_a_new_thread_is_no_worker(self) -> None:
        """A thread that has the number of a worker that has ended waits for its cleanup."""
        self.needs_workers()
        for _ in range(5):
            pipeline = self.pipeline(Recorder(cleanup_error=ValueError()), Recorder())
            pipeline.run([1])
            workers = [one for one in threading.enumerate() if "Stage_" in one.name]
            pipeline.abort()
            for one in workers:
                one.join(PATIENCE)
            assert isinstance(in_thread(pipeline.cleanup).wait().error, CleanupError)

    # -- reading -----------------------------------------------------------------------

    def test_reading_may_wait(self) -> None:
        """With block_output get_results waits for a result, and not longer than told."""
        self.needs_workers()
        gate = self.gate()
        pipeline = self.pipeline(gate, block_output=True, output_timeout=0.05)
        begin = monotonic()
        assert pipeline.get_results() is None
        assert 0.04 < monotonic() - begin < 2
        pipeline.forward("it")
        gate.open()
        assert wait_until(lambda: pipeline.get_results() == "it")

    def test_no_result_is_read_twice(self) -> None:
        """Many readers at full speed get every result at most once, in rising order."""
        pipeline = self.pipeline(increment)
        stop = threading.Event()
        readers = []
        for _ in range(4):
            got: list[int] = []

            def read(got: list[int] = got) -> list[int]:
                while not stop.is_set():
                    value = pipeline.get_results()
                    if value is not None:
                        got.append(value)
                return got

            readers.append(in_thread(read))
        with frantic_switching():  # else each hand-off waits for its turn behind all readers
            for n in range(2000):
                pipeline.forward(n)
            pipeline.drain(PATIENCE)
            stop.set()
        lists: list[Any] = [reader.wait().value for reader in readers]
        last = pipeline.get_results()
        everything = [value for got in lists for value in got] + ([] if last is None else [last])
        assert all(got == sorted(got) for got in lists)
        assert len(everything) == len(set(everything))
        assert max(everything) == 2000
        assert len(everything) + pipeline.statistics().superseded == 2000

    # -- streams -----------------------------------------------------------------------

    def test_a_stream_left_early_is_counted(self) -> None:
        """Its source is closed, what was in flight is dropped, the pipeline goes on."""
        closed = []

        def source() -> Iterator[int]:
            try:
                yield from itertools.count()
            finally:
                closed.append(True)

        pipeline = self.pipeline(increment, double, (double, {"workers": self.workers(2)}))
        for again in range(3):
            results = pipeline.stream(source())
            assert [next(results) for _ in range(3)] == [4, 8, 12]
            results.close()
            results.close()
            assert wait_until(functools.partial(has_length, closed, again + 1))
            assert list(results) == []
            assert broken_law(pipeline.statistics()) == []
            assert set(pipeline.statistics().dropped) <= {"reader left"}
        assert pipeline.get_results() is None
        assert list(pipeline.stream([1])) == [8]
        assert pipeline.forward(1)
        pipeline.drain(PATIENCE)
        assert pipeline.get_results() == 8

    def test_an_input_generator_survives_a_stream_left_early(self) -> None:
        """The next stream or forward goes on with it."""
        pipeline = self.pipeline(increment, generate=itertools.count().__next__)
        with pipeline.stream() as results:
            assert next(results) == 1
        assert pipeline.forward()
        pipeline.drain(PATIENCE)
        assert pipeline.get_results() > 1

    def test_a_stream_of_the_input_generator_ends_with_it(self) -> None:
        """StopIteration ends the stream; later forwards say that the input is exhausted."""
        pipeline = self.pipeline(increment, generate=iter(range(3)).__next__)
        assert list(pipeline.stream()) == [1, 2, 3]
        with pytest.raises(InputExhausted):
            pipeline.forward()
        assert list(pipeline.stream()) == []

    def test_a_source_that_raises(self) -> None:
        """Its error comes after the results of all items before, and the pipeline goes on."""

        def source() -> Iterator[int]:
            yield from range(5)
            raise SourceError("broken")

        pipeline = self.pipeline(increment, double)
        results = pipeline.stream(source())
        assert list(itertools.islice(results, 5)) == [2, 4, 6, 8, 10]
        with pytest.raises(SourceError, match="broken"):
            next(results)
        assert list(pipeline.stream([1])) == [4]

    def test_an_open_stream_excludes_others(self) -> None:
        """forward, get_results, start_loop, another stream: PipelineBusy."""
        pipeline = self.pipeline(increment, generate=lambda: 1)
        results = pipeline.stream([1, 2])
        assert next(results) == 2
        for call in (
            lambda: pipeline.forward(1),
            pipeline.get_results,
            pipeline.start_loop,
            lambda: pipeline.stream([1]),
        ):
            with pytest.raises(PipelineBusy):
                call()
        assert list(results) == [3]
        assert pipeline.forward(1)

    def test_a_stream_left_to_garbage_is_closed(self) -> None:
        """A for loop left by break frees the pipeline."""
        pipeline = self.pipeline(increment)
        for result in pipeline.stream(itertools.count()):
            if result == 10:
                break
        assert pipeline.forward(1)

    def test_earlier_results_do_not_enter_a_stream(self) -> None:
        """Results of earlier forwards go to the slot."""
        gate = self.gate(holds=lambda item: item == "early")
        pipeline = self.pipeline(gate)
        call = in_thread(lambda: pipeline.forward("early"))
        assert gate.wait_entered()
        gate.let()
        call.wait()
        assert list(pipeline.stream(["a", "b"])) == ["a", "b"]
        assert pipeline.get_results() == "early"

    @pytest.mark.parametrize("stop", ["cleanup", "abort"])
    def test_a_reader_may_stop_the_pipeline(self, stop: str) -> None:
        """A pipeline stopped amid its own stream ends that stream, even an endless one."""
        stage = Recorder()
        pipeline = self.pipeline(stage)
        results = pipeline.stream(itertools.count())
        assert next(results) == 0
        begin = monotonic()
        getattr(pipeline, stop)()
        with pytest.raises((PipelineTerminated, StopIteration)):
            while monotonic() - begin < PATIENCE:
                next(results)
        pipeline.cleanup()
        assert len(stage.cleanups) == 1

    def test_leaving_with_an_open_stream_cleans_up(self) -> None:
        """The with statement does not mind a stream that is still open."""
        stage = Recorder()
        with self.pipeline(stage) as pipeline:
            results = pipeline.stream(itertools.count())
            next(results)
        assert len(stage.cleanups) == 1
        assert broken_law(pipeline.statistics()) == []
        del results

    def test_a_stream_stopped_from_elsewhere_ends(self) -> None:
        """A reader that waits is told when another thread cleans up."""
        gate = self.gate()
        pipeline = self.pipeline(gate, stuck_timeout=0.1)
        reader = in_thread(lambda: list(pipeline.stream(range(5))))
        assert gate.wait_entered()
        stopping = in_thread(lambda: pipeline.cleanup(timeout=0.1))
        assert wait_until(lambda: "stopped" in repr(pipeline))
        gate.open()
        assert isinstance(reader.wait().error, PipelineTerminated)
        stopping.wait()

    def test_run_returns_the_ledger(self) -> None:
        """run consumes a source and returns the figures."""
        pipeline = self.pipeline(skip_odd)
        statistics = pipeline.run(range(10))
        assert isinstance(statistics, Statistics)
        assert (statistics.completed, statistics.filtered) == (5, 5)

    # -- direct calls ------------------------------------------------------------------

    def test_direct_calls_give_each_its_own_result(self) -> None:
        """stage(x) from many threads: every caller gets the result of its own item."""
        stage = self.pipeline(
            increment, (double, {"workers": self.workers(3)}), skip_odd, increment
        ).as_stage()

        def call(number: int) -> bool:
            items = range(number * 1000, number * 1000 + 60)
            return [stage(item) for item in items] == [2 * (item + 1) + 1 for item in items]

        assert all(side_by_side(call, 8))

    def test_a_direct_call_of_a_filtered_item(self) -> None:
        """It gives SKIP."""
        assert self.pipeline(skip_odd).as_stage()(3) is SKIP

    def test_a_direct_call_of_a_failing_item(self) -> None:
        """It raises that item's StageError."""
        stage = self.pipeline((Raising(when=lambda n: n == 3), {"on_error": "skip"})).as_stage()
        with pytest.raises(StageError) as caught:
            stage(3)
        assert caught.value.item == 3
        assert stage(4) == 4

    def test_a_direct_call_that_is_stopped_says_so(self) -> None:
        """An abort is no filter: the caller of a dropped item gets an exception."""
        gate = self.gate()
        pipeline = self.pipeline(gate, increment)
        stage = pipeline.as_stage()
        call = in_thread(lambda: stage(1))
        assert gate.wait_entered()
        pipeline.abort()
        gate.open()
        assert isinstance(call.wait().error, PipelineTerminated)

    # -- the loop ----------------------------------------------------------------------

    def test_a_loop_ends_with_its_generator(self) -> None:
        """StopIteration ends the loop after all items were delivered."""
        seen: list[int] = []
        pipeline = self.pipeline(seen.append, generate=iter(range(5)).__next__)
        pipeline.start_loop(0.001)
        assert wait_until(lambda: len(seen) == 5)
        assert wait_until(lambda: not loop_threads())
        pipeline.stop_loop()
        pipeline.drain(PATIENCE)
        assert seen == [0, 1, 2, 3, 4]
        with pytest.raises(InputExhausted):
            pipeline.forward()

    def test_a_loop_is_refused_twice_and_stops_promptly(self) -> None:
        """A second start_loop is refused; a long period does not delay the stop."""
        pipeline = self.pipeline(increment, generate=lambda: 1)
        pipeline.start_loop(1000)
        with pytest.raises(PipelineBusy):
            pipeline.start_loop()
        with pytest.raises(PipelineBusy):
            pipeline.stream([1])
        begin = monotonic()
        pipeline.stop_loop()
        pipeline.stop_loop()
        assert monotonic() - begin < PATIENCE / 5
        pipeline.start_loop(1000)
        pipeline.cleanup()

    def test_a_loop_tells_its_error_once(self) -> None:
        """What the generator raised comes out of the next call."""

        def broken() -> int:
            raise SourceError("no camera")

        pipeline = self.pipeline(increment, generate=broken)
        pipeline.start_loop(0.001)
        assert wait_until(lambda: not loop_threads())
        with pytest.raises(SourceError, match="no camera"):
            pipeline.get_results()
        pipeline.stop_loop()

    def test_a_loop_is_stopped_by_a_failure(self) -> None:
        """A stage that fails under "stop" ends the loop and is told."""
        pipeline = self.pipeline(Raising(), generate=lambda: 1)
        pipeline.start_loop(0.001)
        assert wait_until(lambda: not loop_threads())
        with pytest.raises(StageError, match="ValueError"):
            pipeline.get_results()

    def test_a_generator_may_stop_its_own_loop(self) -> None:
        """stop_loop and cleanup called in the generator neither hang nor raise."""

        itself: list[Callable[[], None]] = []

        def generate() -> int:
            itself[-1]()
            return 1

        for action in ("stop_loop", "cleanup"):
            pipeline = self.pipeline(increment, generate=generate)
            itself.append(getattr(pipeline, action))
            pipeline.start_loop(0.001)
            assert wait_until(lambda: not loop_threads())
            pipeline.stop_loop()
            pipeline.cleanup()

    def test_bad_loops_are_refused(self) -> None:
        """Without a generator, with a period that is none, before a mode."""
        with pytest.raises(PlanError):
            self.pipeline(increment).start_loop()
        for period in (0, -1, math.nan, math.inf, "1", True):
            with pytest.raises(PlanError):
                self.pipeline(increment, generate=int).start_loop(period)  # type: ignore[arg-type]
        with pytest.raises(PipelineUndefined):
            Pipeline(int).start_loop()

    # -- changing the mode -------------------------------------------------------------

    @pytest.mark.parametrize("other", ["same", "serial"])
    def test_a_new_mode_takes_the_stages_over(self, other: str) -> None:
        """Choosing again drains the earlier mode and hands its stages on, still set up."""
        stage, recorders = Recorder(slow_now_and_then), Recorders()
        pipeline = self.pipeline(stage, (factory(recorders), {"workers": self.workers(2)}))
        for n in range(5):
            pipeline.forward(n)
        first = pipeline.statistics
        self.turn(pipeline) if other == "same" else pipeline.serialize()
        assert len(stage.calls) == 5
        assert first().admitted == 0
        assert list(pipeline.stream(range(5))) == list(range(5))
        self.turn(pipeline)
        assert list(pipeline.stream(range(5))) == list(range(5))
        assert (len(stage.setups), len(stage.cleanups)) == (1, 0)
        pipeline.cleanup()
        for one in (stage, *recorders.made):
            assert (len(one.setups), len(one.cleanups)) == (1, 1)
            assert one.broken == []

    def test_a_mode_after_a_failure_starts_afresh(self) -> None:
        """A failed pipeline can be turned again and works."""
        stage = Recorder()
        pipeline = self.pipeline(stage, Raising(times=1))
        self.fail(pipeline)
        self.turn(pipeline)
        assert list(pipeline.stream([1])) == [1]
        pipeline.cleanup()
        assert stage.broken == []
        assert len(stage.setups) == len(stage.cleanups)

    def test_start_and_stop_again_and_again(self) -> None:
        """Many lives of one pipeline: each sets up and cleans up once."""
        stage = Recorder()
        pipeline = self.pipeline(stage, (increment, {"workers": self.workers(2)}))
        for life in range(1, 21):
            assert list(pipeline.stream([1, 2])) == [2, 3]
            pipeline.cleanup()
            assert len(stage.setups) == len(stage.cleanups) == life
            self.turn(pipeline)

    # -- from any number of threads ----------------------------------------------------

    def test_any_number_of_threads_may_call(self) -> None:
        """forward, get_results and statistics from 16 threads at once, then cleanup."""
        pipeline = self.pipeline(
            increment, (double, {"workers": self.workers(2)}), input_timeout=30
        )

        def use(number: int) -> int:
            forwarded = 0
            for n in range(100):
                forwarded += pipeline.forward(n)
                pipeline.get_results()
                assert pipeline.statistics().in_flight >= 0
            return forwarded

        with frantic_switching():
            total: list[Any] = side_by_side(use, 16)
        pipeline.drain(PATIENCE)
        assert sum(total) == pipeline.statistics().admitted == 1600
        assert pipeline.statistics().completed == 1600

    def test_cleanup_among_callers(self) -> None:
        """A cleanup while many threads forward: each call ends, each admitted item is counted."""
        stage = Recorder()
        pipeline = self.pipeline(stage, increment)
        admitted = []

        def use(number: int) -> None:
            if number == 0:
                assert wait_until(lambda: len(stage.calls) > 50)
                pipeline.cleanup()
                return
            try:
                while True:
                    if pipeline.forward(1):
                        admitted.append(1)
            except PipelineTerminated:
                pass

        side_by_side(use, 5)
        assert stage.broken == []
        assert len(stage.cleanups) == 1
        assert pipeline.statistics().admitted == len(admitted) == pipeline.statistics().completed

    # -- placement ---------------------------------------------------------------------

    def test_placed_stages_run_elsewhere(self, inline_placement: str) -> None:
        """A placed stage is set up, called and cleaned up in its helper, with the same flow."""
        recorder, recorders = Recorder(increment), Recorders(picky)
        placed = {"placement": inline_placement}
        pipeline = self.pipeline(
            (recorder, placed),
            (twice, placed),
            (factory(recorders), {"workers": 2, "on_error": "skip", **placed}),
        )
        expected = [n for k in range(30) for n in (k + 1, k + 1.5) if n % 3 and n % 5]
        assert list(pipeline.stream(range(30))) == expected
        pipeline.cleanup()
        for one in (recorder, *recorders.made):
            assert one.broken == []
            assert len(one.cleanups) == 1
            assert len({*one.setups, *one.calls, *one.cleanups}) == 1
            assert threading.get_ident() not in one.calls

    @pytest.mark.parametrize("kind", FAILURES)
    def test_placed_failures_are_the_stages(
        self, inline_placement: str, kind: type[BaseException]
    ) -> None:
        """What a placed stage raises is treated as if it were here."""
        pipeline = self.pipeline((Raising(kind), {"placement": inline_placement}))
        if not self.side_by_side and issubclass(kind, PASSING):
            with pytest.raises(kind):
                pipeline.forward(1)
        else:
            assert type(self.fail(pipeline).__cause__) is kind

    def test_a_placed_setup_that_raises(self, inline_placement: str) -> None:
        """The start fails, and nothing is left behind."""
        bad = Recorder(setup_error=ValueError())
        pipeline = self.pipeline((bad, {"placement": inline_placement}))
        with pytest.raises(StageError):
            pipeline.start()


def watch_output(pipeline: Pipeline) -> list[int]:
    """Notes the items that come to the output while it still takes another one; before the
    start."""
    busy: list[int] = []
    lock = threading.Lock()

    class Watched(Output):
        def __call__(self, envelope: Envelope) -> None:
            if not lock.acquire(blocking=False):
                busy.append(envelope.seq)
                super().__call__(envelope)
                return
            try:
                threading.Event().wait(0.0005)
                super().__call__(envelope)
            finally:
                lock.release()

    session = pipeline._session
    assert session is not None
    session.output.__class__ = Watched
    return busy
