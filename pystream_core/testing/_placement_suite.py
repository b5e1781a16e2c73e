"""The conformance tests of placements: what every one of them promises, one claim a test.

Got with :func:`pystream_core.testing.placement_suite`. The rules are those of the docstrings of
``Placement`` and ``PlacedStage``.
"""

from __future__ import annotations

import itertools
import math
import select
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from time import monotonic, perf_counter_ns
from typing import Any, ClassVar

import pytest

from .._call import CalledBack
from .._errors import CleanupError, PlanError, StageError
from .._handle import opened, release
from .._pipeline import Pipeline
from .._placement import PlacedStage, Placement, PolledStage
from .._plan import MAIN_PIPELINE_NAME, Retry, StageOptions, StageSpec, describe
from .._stage import SKIP, factory
from ._census import Census
from ._conformance import Conformance
from ._law import broken_law
from ._placed_stages import (
    Endless,
    FailsTwice,
    Holding,
    Journal,
    Raiser,
    Refused,
    Unmakeable,
    Unready,
    Waiting,
    Witness,
    drop_odd,
    make_triples,
    make_twice,
    none_at_all,
    some,
    sometimes_slow,
    takes_time,
)
from ._rules import PLACEMENT_RULES
from ._stages import FAILURES
from ._suite_stages import double, increment, same, twice
from ._waiting import PATIENCE, in_thread, side_by_side, wait_until

PASSING = (KeyboardInterrupt, SystemExit, GeneratorExit)


class PlacementSuite(Conformance):
    """One placement's conformance tests, in serial mode and with an executor that has workers.

    Attributes:
        placement: its name.
        executor: the executor with workers; ``"threads"`` comes with pystream-threads.
        supports_generators: it places stages that make several items of one. Else it has to
            refuse them with a ``PlanError`` that names the stage and says ``generator``.
        supports_local_stages: it places stages that cannot leave their process, such as one that
            holds a lock. Else it has to refuse them with a ``PlanError`` that names the stage.
        ends_stuck_calls: a call or setup that does not return ends when the pipeline is stopped
            (see ``PlacedStage``). Else its stage is left behind and named, like one in a thread.
    """

    placement: ClassVar[str] = ""
    executor: ClassVar[str] = "threads"
    supports_generators: ClassVar[bool] = True
    supports_local_stages: ClassVar[bool] = True
    ends_stuck_calls: ClassVar[bool] = True

    rules = PLACEMENT_RULES
    switches: ClassVar[Mapping[str, str]] = {
        "supports_generators": "generator",
        "supports_local_stages": "",
        "ends_stuck_calls": "",
        "executor": "",
    }

    # -- building ----------------------------------------------------------------------

    @pytest.fixture
    def folder(self, tmp_path: Path) -> str:
        """A folder that this process and the places of its stages see alike."""
        return str(tmp_path)

    @pytest.fixture
    def journal(self, folder: str) -> Iterator[Journal]:
        """What stages of the test note; whoever still waits at its end goes on."""
        journal = Journal(folder)
        yield journal
        journal.set("go")

    @pytest.fixture(autouse=True, params=["serial", "parallel"])
    def _mode(self, request: pytest.FixtureRequest, _made: None) -> None:
        self.mode: str = request.param

    @property
    def side_by_side(self) -> bool:
        """Whether the pipelines of this test have workers."""
        return self.mode == "parallel"

    def pipeline(self, *stages: Any, **modes: Any) -> Pipeline:
        """A pipeline in its mode, all stages placed; a stage may come with its options."""
        pipeline = Pipeline()
        for stage in stages:
            given, options = stage if isinstance(stage, tuple) else (stage, {})
            pipeline.add(given, **{"placement": self.placement, **options})
        self.made.append(pipeline)
        return self.turn(pipeline, **modes)

    def turn(self, pipeline: Pipeline, **modes: Any) -> Pipeline:
        """Choose the mode under test."""
        if self.side_by_side:
            return pipeline.parallelize(executor=self.executor, **modes)
        return pipeline.serialize()

    def of_placement(self) -> Placement:
        """The placement itself."""
        from .._registry import registry

        made = registry().placement(self.placement)()
        assert isinstance(made, Placement)
        return made

    def spec(self, stage: Any, *names: str, **options: Any) -> StageSpec:
        """The specification of a stage."""
        path = (MAIN_PIPELINE_NAME, *(names or ("Stage",)))
        return replace(describe(stage, None, ""), path=path, options=StageOptions(**options))

    def fail(self, pipeline: Pipeline, item: Any = 0) -> StageError:
        """Forward an item that fails under "stop"; what is raised."""
        with pytest.raises(StageError) as caught:
            pipeline.forward(item)
            pipeline.drain(PATIENCE)
        return caught.value

    # -- describing --------------------------------------------------------------------

    def test_wrap_starts_nothing(self, journal: Journal) -> None:
        """No thread, no process, no open file, and the stage is not made yet."""
        placement = self.of_placement()
        placement.wrap(self.spec(increment))  # imports what it needs
        before = Census()
        for stage in (increment, factory(Witness, folder=journal.folder), Witness):
            placement.wrap(self.spec(stage, workers=2))
        assert before.left(grace=0.2) == []
        assert journal.read() == []

    def test_a_mode_that_never_starts_makes_nothing(self, journal: Journal) -> None:
        """Choosing a mode and cleaning up makes, starts and leaves nothing."""
        before = Census()
        pipeline = self.pipeline(factory(Witness, folder=journal.folder))
        pipeline.cleanup()
        assert before.left(grace=0.2) == []
        assert journal.read() == []

    def test_the_specification_stays_as_it_is(self) -> None:
        """Path, options and kind are those of the stage, nested or not."""
        stages = [increment, Witness, *([twice] if self.supports_generators else [])]
        for stage in stages:
            spec = self.spec(
                stage, "Child", "Blur", workers=3, ordered=False, capacity=7, max_age=2.0
            )
            wrapped = self.of_placement().wrap(spec)
            assert wrapped.path == spec.path
            assert wrapped.options == spec.options
            assert wrapped.kind == spec.kind

    def test_what_cannot_be_placed_is_refused(self) -> None:
        """When the mode is chosen, with a PlanError that names the stage; the rest is placed."""
        if not self.supports_local_stages:
            with pytest.raises(PlanError, match="MainPipeline__Local"):
                self.pipeline((Holding(), {"name": "Local"}))
        else:
            assert list(self.pipeline(Holding()).stream([1, 2])) == [1, 2]
        if not self.supports_generators:
            with pytest.raises(PlanError, match=r"(?s)MainPipeline__Many.*generator"):
                self.pipeline((twice, {"name": "Many"}))

    @pytest.mark.parametrize("make", [make_twice, make_triples])
    def test_what_a_factory_makes_is_looked_at(self, make: Any) -> None:
        """A generator or batching stage out of a factory works or is refused: its outputs are
        never taken for an item, and no item stays in it."""
        results: list[Any] = []
        try:
            results += self.pipeline(factory(make)).stream([1, 2, 3, 4])
        except (PlanError, StageError):
            return
        expected = {
            make_twice: [1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5],
            make_triples: [(1, 2, 3), (4,)],
        }
        assert results == expected[make]

    # -- the life of a stage -----------------------------------------------------------

    def test_every_worker_has_a_stage_of_its_own(self, journal: Journal) -> None:
        """Made, set up, called and cleaned up once, in one place, beside those of others."""
        pipeline = self.pipeline(
            (factory(Witness, folder=journal.folder), {"workers": 3}),
            (factory(Witness, folder=journal.folder), {}),
        )
        assert list(pipeline.stream(range(60))) == list(range(60))
        assert journal.count("cleanup") == 0
        pipeline.cleanup()
        stages = 4 if self.side_by_side else 2
        assert len(journal.lives()) == stages
        for life in journal.lives().values():
            assert (life["made"], life["setup"], life["cleanup"]) == (1, 1, 1)
        assert journal.count("call") == 120
        places = {noted.stage: noted.place for noted in journal.read()}
        if self.side_by_side:
            assert len(set(places.values())) == stages
        assert [noted for noted in journal.read() if noted.place != places[noted.stage]] == []

    def test_it_is_made_when_its_worker_starts(self, journal: Journal) -> None:
        """Set up before the first item, by the start."""
        pipeline = self.pipeline(factory(Witness, folder=journal.folder))
        assert journal.read() == []
        pipeline.start()
        assert [noted.event for noted in journal.read()] == ["made", "setup"]
        assert pipeline.forward(1)

    @pytest.mark.parametrize("how", ["drained", "failed", "aborted", "skipped"])
    def test_cleanup_happens_once(self, journal: Journal, how: str) -> None:
        """Whatever happened before, and however often cleanup is called."""
        policy = "skip" if how == "skipped" else "stop"
        pipeline = self.pipeline(
            (factory(Witness, folder=journal.folder), {"on_error": policy}),
            factory(Witness, folder=journal.folder),
        )
        assert pipeline.forward(1)
        if how == "failed":
            self.fail(pipeline, "bad")
        elif how == "skipped":
            pipeline.forward("bad")
            pipeline.drain(PATIENCE)
        elif how == "aborted":
            pipeline.drain(PATIENCE)
            pipeline.abort()
        side_by_side(lambda _: pipeline.cleanup(), 3)
        pipeline.cleanup()
        assert [life["setup"] for life in journal.lives().values()] == [1, 1]
        assert [life["cleanup"] for life in journal.lives().values()] == [1, 1]

    def test_a_setup_that_raises(self, journal: Journal) -> None:
        """The start fails with the stage's own error, nothing is left, a second try works."""
        before = Census()
        pipeline = self.pipeline((factory(Witness, folder=journal.folder), {"name": "Bad"}))
        journal.set("bad setup")
        with pytest.raises(StageError, match="MainPipeline__Bad") as caught:
            pipeline.start()
        assert type(caught.value.__cause__) is ValueError
        assert before.left(grace=2.0) == []
        journal.clear("bad setup")
        assert list(pipeline.stream([1])) == [1]
        pipeline.cleanup()
        assert journal.count("setup") == journal.count("cleanup") == 1

    def test_a_stage_that_cannot_be_made(self) -> None:
        """The same for its constructor."""
        pipeline = self.pipeline(factory(Unmakeable))
        with pytest.raises(StageError) as caught:
            pipeline.start()
        assert type(caught.value.__cause__) is LookupError

    def test_a_cleanup_that_raises(self, journal: Journal) -> None:
        """It comes out of cleanup with its type, and nothing is left."""
        before = Census()
        pipeline = self.pipeline(factory(Witness, folder=journal.folder))
        assert list(pipeline.stream([1])) == [1]
        journal.set("bad cleanup")
        with pytest.raises(CleanupError) as caught:
            pipeline.cleanup()
        assert [type(error) for error in caught.value.errors] == [ValueError]
        assert before.left(grace=2.0) == []

    # -- calls -------------------------------------------------------------------------

    def test_items_and_results_arrive_as_they_are(self) -> None:
        """Falsy, large, nested: equal to what was sent; None is a result."""
        items = [None, 0, "", (), False, 1.5, "ü\0\n", b"x" * 1_000_000, {"a": [1, (2, 3)]}, 10**40]
        pipeline = self.pipeline(same, same)
        assert list(pipeline.stream(items)) == items
        assert list(self.pipeline(none_at_all).stream([1, 2])) == [None, None]
        (result,) = self.pipeline(same).stream([math.nan])
        assert math.isnan(result)

    def test_every_item_has_its_own_answer_in_order(self) -> None:
        """With several workers and slow items too."""
        pipeline = self.pipeline(
            (sometimes_slow, {"workers": 3}), (sometimes_slow, {"ordered": False}), increment
        )
        assert list(pipeline.stream(range(100))) == [n + 1 for n in range(100)]

    def test_every_caller_has_its_own_answer(self) -> None:
        """Direct calls from several threads."""
        stage = self.pipeline((sometimes_slow, {"workers": 2})).as_stage()

        def call(number: int) -> bool:
            items = range(number * 100, number * 100 + 20)
            return [stage(item) for item in items] == [-item for item in items]

        assert all(side_by_side(call, 4))

    def test_skip_filters(self) -> None:
        """SKIP arrives as SKIP itself."""
        pipeline = self.pipeline(drop_odd, double)
        assert list(pipeline.stream(range(7))) == [0, 4, 8, 12]
        assert pipeline.statistics().filtered == 3
        assert self.pipeline(drop_odd).as_stage()(1) is SKIP

    def test_a_waiting_call_lets_other_threads_run(self) -> None:
        """It holds no interpreter lock: another thread goes on meanwhile. Best of three."""
        longest = []
        for _ in range(3):
            pipeline = self.pipeline(takes_time)
            pipeline.start()
            running = in_thread(lambda: list(pipeline.stream(range(20))))  # noqa: B023
            never = threading.Event()
            gaps = [0.0]
            before = monotonic()
            while running.thread.is_alive():
                never.wait(0.001)
                gaps.append(monotonic() - before)
                before = monotonic()
            assert running.wait().value == list(range(20))
            longest.append(max(gaps))
            pipeline.cleanup()
            if longest[-1] < 0.1:
                break
        assert min(longest) < 0.1

    def test_branches_get_placed_stages(self) -> None:
        """Several placed stages get the same item."""
        pipeline = self.pipeline(
            (increment, {"name": "First"}),
            (double, {"name": "A", "after": "First"}),
            (sometimes_slow, {"name": "B", "after": "First"}),
        )
        assert list(pipeline.stream(range(5))) == [
            {"A": 2 * (n + 1), "B": -(n + 1)} for n in range(5)
        ]

    def test_spans_lie_within_the_call(self) -> None:
        """Readings of this clock from within the call, in order, or none at all."""
        stage = self.of_placement().wrap(self.spec(takes_time)).make()
        if not isinstance(stage, PlacedStage):
            pytest.skip("it says nothing of times: it is no PlacedStage")
        stage.setup()
        try:
            for item in range(3):
                begin = perf_counter_ns()
                assert stage(item) == item
                begun, ended = stage.span_ns
                assert (begun, ended) == (0, 0) or begin <= begun <= ended <= perf_counter_ns()
        finally:
            stage.cleanup()

    def test_what_was_brought_stands_for_the_value(self) -> None:
        """Brought by any thread, and called with later: the answer is that to the value."""
        stage = self.of_placement().wrap(self.spec(same)).make()
        if not isinstance(stage, PlacedStage):
            pytest.skip("nothing is brought to it: it is no PlacedStage")
        values: list[Any] = [0, None, "text", bytes(100_000), ["list", {"of": "everything"}]]
        brought: list[Any] = []
        stage.setup()
        try:
            in_thread(lambda: brought.extend(map(stage.bring, values))).wait()
            for value, each in zip(values, brought, strict=True):
                assert opened(each) == value
                answer = stage(opened(each, stage.takes))
                assert opened(answer) == value
                if answer is not each:
                    release(answer)
                release(each)
        finally:
            stage.cleanup()

    # -- polled stages -----------------------------------------------------------------

    def polled(self, stage: Any) -> PolledStage:
        """What stands in place of the stage, set up."""
        spec = self.of_placement().wrap(self.spec(stage))
        if not spec.polled:
            pytest.skip("its specifications do not say polled")
        placed = spec.make()
        assert isinstance(placed, PolledStage)
        placed.setup()
        return placed

    def answer(self, stage: PolledStage) -> Any:
        """What a submitted call gives, waited for as an executor does."""
        deadline = monotonic() + PATIENCE
        while not stage.done():
            poll = select.poll()
            for each in stage.descriptors:
                poll.register(each, select.POLLIN)
            left = min(stage.until(), deadline) - monotonic()
            ready = poll.poll(max(left, 0) * 1000 + 1)
            assert ready or monotonic() < deadline, "nothing says that the call has ended"
        return opened(stage.result())

    def test_polled_calls_are_calls(self) -> None:
        """The same answers and the same failures, also amid plain calls."""
        stage, failing = self.polled(same), self.polled(Raiser("ValueError"))
        try:
            for item in (0, None, "text", bytes(100_000), [1, {"two": 3}]):
                stage.submit(item)
                assert self.answer(stage) == item
                assert opened(stage(item)) == item
                failing.submit(item)
                with pytest.raises(ValueError) as caught:
                    self.answer(failing)
                assert caught.value.args == (item,)
        finally:
            stage.cleanup()
            failing.cleanup()

    def test_a_polled_call_is_not_waited_for(self, journal: Journal) -> None:
        """Neither by submit nor by done; any thread may go on with it."""
        stage = self.polled(factory(Waiting, folder=journal.folder))
        try:
            in_thread(lambda: stage.submit(5)).wait()
            assert wait_until(lambda: journal.count("call") == 1)
            assert not in_thread(stage.done).wait().value
            journal.set("go")
            assert self.answer(stage) == 5
        finally:
            journal.set("go")
            stage.cleanup()

    def test_a_polled_call_can_be_called_off(self, journal: Journal) -> None:
        """Then it is done, and says so."""
        self.needs("ends_stuck_calls")
        stage = self.polled(factory(Waiting, folder=journal.folder))
        try:
            stage.submit(5)
            assert wait_until(lambda: journal.count("call") == 1)
            in_thread(stage.call_off).wait()
            with pytest.raises(CalledBack):
                self.answer(stage)
        finally:
            journal.set("go")
            stage.cleanup()

    # -- generator stages --------------------------------------------------------------

    def test_generator_stages_expand_in_order(self) -> None:
        """Every output is an item of its own, in its parent's place."""
        self.needs("supports_generators")
        pipeline = self.pipeline(twice, (twice, {"workers": 2}))
        expected = [n + half + other for n in range(10) for half in (0, 0.5) for other in (0, 0.5)]
        assert list(pipeline.stream(range(10))) == expected
        assert pipeline.statistics().spawned == 20 + 40

    def test_outputs_are_made_when_they_are_asked_for(self, journal: Journal) -> None:
        """Also of a generator without end, which is closed when nobody wants more."""
        self.needs("supports_generators")
        pipeline = self.pipeline((Endless(journal.folder), {"capacity": 1}))
        with pipeline.stream([5]) as results:
            assert [next(results) for _ in range(4)] == [5, 6, 7, 8]
        assert wait_until(lambda: journal.count("closed") == 1)
        assert journal.count("output") < 100  # a few may have been on their way
        pipeline.cleanup()

    def test_a_generator_that_skips_and_fails(self) -> None:
        """SKIP is no output; what came before the failure stays valid."""
        self.needs("supports_generators")
        pipeline = self.pipeline((some, {"on_error": "skip"}))
        assert list(pipeline.stream([1, 2, 3])) == [1, 1, 2, 2, 3, 3]
        statistics = pipeline.statistics()
        assert (statistics.failed, statistics.expanded) == (1, 2)

    # -- failures ----------------------------------------------------------------------

    @pytest.mark.parametrize("kind", [*FAILURES, Refused])
    def test_an_exception_arrives_as_what_it_is(self, kind: type[BaseException]) -> None:
        """With its own type and arguments, as the cause of a StageError about this item."""
        pipeline = self.pipeline((Raiser(kind.__name__), {"name": "Bad"}))
        if not self.side_by_side and issubclass(kind, PASSING):
            with pytest.raises(kind):
                pipeline.forward(7)
            return
        failure = self.fail(pipeline, 7)
        assert type(failure.__cause__) is kind
        assert failure.__cause__.args == (7,)
        assert (failure.path, failure.item) == ("MainPipeline__Bad", 7)

    def test_failure_policies_are_kept(self) -> None:
        """Skip, retry, replace: as for any other stage."""
        skipping = self.pipeline((Raiser("ValueError"), {"on_error": "skip"}))
        assert list(skipping.stream([1, 2])) == []
        assert skipping.statistics().failed == 2
        retrying = self.pipeline((factory(FailsTwice), {"on_error": Retry(2)}))
        assert list(retrying.stream([1, 2])) == [1, 2]
        replacing = self.pipeline((Raiser("Refused"), {"on_error": lambda failure: failure.item}))
        assert list(replacing.stream([1, 2])) == [1, 2]

    # -- stopping ----------------------------------------------------------------------

    @pytest.mark.usefixtures("hurried")
    def test_a_stuck_call_ends_or_is_named(
        self, journal: Journal, caplog: pytest.LogCaptureFixture
    ) -> None:
        """After an abort, in time, with its item counted once."""
        stage = factory(Waiting, folder=journal.folder)
        pipeline = self.pipeline((stage, {"name": "Stuck"}), stuck_timeout=0.1)
        pipeline.start()
        call = in_thread(lambda: pipeline.forward(1))
        assert wait_until(lambda: journal.count("call") == 1)
        begin = monotonic()
        pipeline.abort()
        assert monotonic() - begin < PATIENCE / 5
        if self.ends_stuck_calls:
            call.wait()
            pipeline.cleanup()
            assert pipeline.statistics().dropped == {"abort": 1}
        else:
            pipeline.cleanup(timeout=0)
            assert "MainPipeline__Stuck" in caplog.text
            assert pipeline.statistics().dropped == {"abandoned": 1}
        assert monotonic() - begin < PATIENCE
        journal.set("go")
        call.wait()

    @pytest.mark.usefixtures("hurried")
    def test_a_stuck_setup_ends_or_is_named(
        self, journal: Journal, caplog: pytest.LogCaptureFixture
    ) -> None:
        """After an abort, in time; the start says that it was stopped."""
        stage = factory(Unready, folder=journal.folder)
        pipeline = self.pipeline((stage, {"name": "Stuck"}), stuck_timeout=0.1)
        start = in_thread(pipeline.start)
        assert wait_until(lambda: journal.count("setup") == 1)
        begin = monotonic()
        pipeline.abort()
        if self.ends_stuck_calls:
            assert start.wait().error is not None
            pipeline.cleanup()
            assert "did not return" not in caplog.text
        else:
            pipeline.cleanup(timeout=0)
            assert "MainPipeline__Stuck" in caplog.text
        assert monotonic() - begin < PATIENCE
        journal.set("go")
        assert start.wait().error is not None

    def test_cleanup_waits_for_a_call(self, journal: Journal) -> None:
        """What was admitted is finished."""
        pipeline = self.pipeline(factory(Waiting, folder=journal.folder))
        pipeline.start()
        call = in_thread(lambda: pipeline.forward(1))
        assert wait_until(lambda: journal.count("call") == 1)
        closing = in_thread(pipeline.cleanup)
        assert wait_until(lambda: "stopped" in repr(pipeline))
        journal.set("go")
        closing.wait()
        call.wait()
        assert pipeline.statistics().completed == 1
        assert journal.count("cleanup") == 1

    def test_nothing_is_left_behind(self, journal: Journal) -> None:
        """After cleanup no thread, child process or descriptor is left, however it ended."""
        warm_up = self.pipeline(increment)  # what a placement keeps for good is there after this
        assert list(warm_up.stream([1])) == [2]
        warm_up.cleanup()
        before = Census()
        for end in ("cleanup", "abort"):
            pipeline = self.pipeline(
                factory(Witness, folder=journal.folder), (increment, {"workers": 2})
            )
            assert list(pipeline.stream(range(5))) == [n + 1 for n in range(5)]
            getattr(pipeline, end)()
            pipeline.cleanup()
        assert before.left(grace=0.3) == []

    # -- again and again ---------------------------------------------------------------

    def test_one_run_after_another(self, journal: Journal) -> None:
        """Streams, drains and a stream left early leave the stage as it is."""
        pipeline = self.pipeline(factory(Witness, folder=journal.folder), increment)
        for _ in range(3):
            assert list(pipeline.stream(range(5))) == [1, 2, 3, 4, 5]
            with pipeline.stream(itertools.count()) as results:
                assert next(results) == 1
            assert pipeline.forward(7)
            pipeline.drain(PATIENCE)
            assert pipeline.get_results() == 8
        assert broken_law(pipeline.statistics()) == []
        assert journal.count("setup") == 1

    def test_a_new_mode_takes_the_stage_over(self, journal: Journal) -> None:
        """Still set up, in its place; cleaned up once at the end."""
        pipeline = self.pipeline(factory(Witness, folder=journal.folder))
        assert list(pipeline.stream([1])) == [1]
        pipeline.serialize()
        assert list(pipeline.stream([2])) == [2]
        self.turn(pipeline)
        assert list(pipeline.stream([3])) == [3]
        pipeline.cleanup()
        (life,) = journal.lives().values()
        assert life == {"made": 1, "setup": 1, "call": 3, "cleanup": 1}

    def test_start_and_stop_many_times(self, journal: Journal) -> None:
        """Every life is whole, and nothing gathers."""
        pipeline = self.pipeline(factory(Witness, folder=journal.folder))
        before = None
        for life in range(1, 11):
            assert list(pipeline.stream([1, 2])) == [1, 2]
            pipeline.cleanup()
            assert journal.count("setup") == journal.count("cleanup") == life
            before = before or Census()
            self.turn(pipeline)
        pipeline.cleanup()
        assert before is not None
        assert before.left(grace=0.3) == []
