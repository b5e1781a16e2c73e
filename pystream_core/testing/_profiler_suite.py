"""The conformance tests of profilers: what their figures mean, one claim a test.

Got with :func:`pystream_core.testing.profiler_suite`. Most tests feed a profiler by hand, with
records whose figures are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import pytest

from .._errors import StageError
from .._ledger import Statistics
from .._observer import ItemEnd, Percentiles, Profile, Profiler, RunInfo, Span
from .._pipeline import Pipeline
from .._plan import MAIN_PIPELINE_NAME
from ._conformance import Conformance
from ._observer_suite import NAMES, records, run_info
from ._rules import PROFILER_RULES
from ._stages import Raising
from ._suite_stages import increment
from ._waiting import in_thread, side_by_side

MS = 1_000_000  # nanoseconds


class ProfilerSuite(Conformance):
    """One profiler's conformance tests.

    Attributes:
        profiler: its name.
        executor: the executor with workers; ``"threads"`` comes with pystream-threads.
        precision: seconds by which a figure may differ from what the records say, for a profiler
            that keeps times in coarser units.
    """

    profiler: ClassVar[str] = ""
    executor: ClassVar[str] = "threads"
    precision: ClassVar[float] = 2e-6

    rules = PROFILER_RULES
    switches: ClassVar[Mapping[str, str]] = {"executor": "", "precision": ""}

    # -- building ----------------------------------------------------------------------

    @pytest.fixture(autouse=True)
    def _opened(self, _made: None) -> Iterator[None]:
        """Close every profiler of the test."""
        self.open: list[Profiler] = []
        yield
        with self.within_deadline("the cleanup after the test"):
            for profiler in self.open:
                profiler.closed(Statistics())

    def make(self) -> Profiler:
        """A profiler of this kind."""
        from .._registry import registry

        made = registry().observer(self.profiler)()
        assert isinstance(made, Profiler)
        return made

    def fed(self, run: RunInfo, spans: list[Span], items: list[ItemEnd]) -> Profiler:
        """One that has been told of these records."""
        profiler = self.make()
        profiler.opened(run)
        self.open.append(profiler)
        profiler.collect(spans, items)
        return profiler

    def profile(self, run: RunInfo, spans: list[Span], items: list[ItemEnd]) -> Profile:
        """What it makes of these records."""
        return self.fed(run, spans, items).summarize()

    def near(self, seconds: float) -> Any:
        """Equal to a time within the precision."""
        return pytest.approx(seconds, rel=1e-3, abs=self.precision)

    @pytest.fixture(params=["serial", "parallel"])
    def turn(self, request: pytest.FixtureRequest) -> Callable[[Pipeline], Pipeline]:
        """Chooses a mode."""
        if request.param == "serial":
            return Pipeline.serialize
        return lambda pipeline: pipeline.parallelize(executor=self.executor)

    def pipeline(self, *stages: Any) -> Pipeline:
        """A profiled pipeline; a stage may come with its options."""
        pipeline = Pipeline(use_profiler=True, profiler=self.profiler)
        for stage in stages:
            given, options = stage if isinstance(stage, tuple) else (stage, {})
            pipeline.add(given, **options)
        self.made.append(pipeline)
        return pipeline

    # -- when there is something to say --------------------------------------------------

    def test_it_is_empty_until_a_call_has_ended(self, turn: Any) -> None:
        """Before the mode, the start and the first item: two empty dicts, no zeros."""
        assert self.make().summarize() == Profile()
        pipeline = self.pipeline(increment)
        assert pipeline.get_profiles() == ({}, {})
        turn(pipeline)
        assert pipeline.get_profiles() == ({}, {})
        pipeline.start()
        assert pipeline.get_profiles() == ({}, {})
        assert pipeline.profile().bottleneck is None

    def test_a_stage_appears_with_its_first_ended_call(self, turn: Any) -> None:
        """Also one that raised; the pipeline with its first completed item."""
        pipeline = turn(self.pipeline((Raising(), {"name": "Bad", "on_error": "skip"}), increment))
        pipeline.run([1])
        latency, throughput = pipeline.get_profiles()
        assert set(latency) == set(throughput) == {"MainPipeline__Bad"}

    def test_figures_are_finite_and_above_zero(self, turn: Any) -> None:
        """From the first item on, for stages that take no time, also after cleanup."""
        pipeline = turn(self.pipeline((increment, {"name": "A"}), (increment, {"name": "B"})))
        pipeline.run([1])
        during = pipeline.get_profiles()
        pipeline.cleanup()
        names = {"MainPipeline", "MainPipeline__A", "MainPipeline__B"}
        for latency, throughput in (during, pipeline.get_profiles()):
            assert set(latency) == set(throughput) == names
            figures = [*latency.values(), *throughput.values()]
            assert [one for one in figures if not 0 < one < math.inf] == []

    def test_a_call_without_any_time_has_figures(self) -> None:
        """Clocks have steps: a call may begin and end at the same reading."""
        run, _, _ = records(0, stages=1)
        now = run.started_ns + 10
        profile = self.profile(
            run, [(0, 0, 0, now, now, now, "emitted")], [(0, 0, now, now, "completed")]
        )
        stage, whole = profile.stages["MainPipeline__A"], profile.pipelines["MainPipeline"]
        for figure in (
            stage.service.mean,
            stage.throughput,
            whole.latency.mean,
            whole.throughput,
        ):
            assert 0 < figure < math.inf
        assert 0 <= stage.busy <= 1

    # -- what the figures mean -----------------------------------------------------------

    def test_service_and_queue_time(self) -> None:
        """Inside the call, and between the stage before and the call."""
        profile = self.profile(*records(10, queue=3 * MS, service=7 * MS))
        for path in ("MainPipeline__A", "MainPipeline__B"):
            stage = profile.stages[path]
            assert stage.calls == 10
            assert stage.service.mean == self.near(0.007)
            assert stage.queue.mean == self.near(0.003)

    def test_throughput_of_a_stage(self) -> None:
        """Ended calls / (last end - first start): neither idle time afterwards nor the mean of
        reciprocals."""
        run, _, _ = records(0, stages=1)
        spans: list[Span] = []
        now = run.started_ns
        for seq, service in enumerate((1, 1, 1, 97)):
            spans.append((0, seq, 0, now, now, now + service * MS, "emitted"))
            now += service * MS
        profile = self.profile(run, spans, [])
        assert profile.stages["MainPipeline__A"].throughput == pytest.approx(4 / 0.1, rel=1e-3)

    def test_latency_and_throughput_of_the_pipeline(self) -> None:
        """From admission to output, of completed items only: completed / (last completion -
        first admission)."""
        run, spans, _ = records(5)
        start = run.started_ns
        items: list[ItemEnd] = [
            (0, 0, start, start + 40 * MS, "completed"),
            (1, 0, start + 10 * MS, start + 20 * MS, "failed"),
            (2, 0, start + 10 * MS, start + 70 * MS, "completed"),
            (3, 0, start + 20 * MS, start + 900 * MS, "dropped"),
            (4, 0, start + 30 * MS, start + 31 * MS, "filtered"),
        ]
        whole = self.profile(run, spans, items).pipelines["MainPipeline"]
        assert whole.items == 2
        assert whole.latency.mean == self.near(0.050)
        assert whole.throughput == pytest.approx(2 / 0.070, rel=1e-3)

    def test_failed_and_retried_calls_count(self) -> None:
        """Every ended call, whatever came of it."""
        run, spans, _ = records(4, stages=1)
        outcomes = ("retried", "failed", "filtered", "emitted")
        spans = [(*span[:-1], outcome) for span, outcome in zip(spans, outcomes, strict=True)]
        profile = self.profile(run, spans, [])
        assert profile.stages["MainPipeline__A"].calls == 4
        assert profile.pipelines == {}

    def test_percentiles(self) -> None:
        """Of the calls' own times: of 1 to 100 ms the median is 50, the ninth decile 90."""
        run, _, _ = records(0, stages=1)
        spans: list[Span] = []
        now = run.started_ns
        for seq in range(100):
            service = ((seq * 37) % 100 + 1) * MS
            spans.append((0, seq, 0, now, now, now + service, "emitted"))
            now += service
        service_time = self.profile(run, spans, []).stages["MainPipeline__A"].service
        assert service_time.mean == self.near(0.0505)
        assert service_time.p50 == pytest.approx(0.050, abs=0.0011)
        assert service_time.p90 == pytest.approx(0.090, abs=0.0011)
        assert service_time.p99 == pytest.approx(0.099, abs=0.0011)

    def test_percentiles_rise(self, turn: Any) -> None:
        """In every distribution of a real run, and no time is negative."""
        pipeline = turn(self.pipeline(increment, increment))
        pipeline.run(range(200))
        profile = pipeline.profile()
        found: list[Percentiles] = []
        for stage in profile.stages.values():
            found += [stage.service, stage.queue]
        found += [each.latency for each in profile.pipelines.values()]
        assert len(found) == 5
        assert [one for one in found if not 0 <= one.p50 <= one.p90 <= one.p99] == []
        assert [one for one in found if not 0 <= one.mean < math.inf] == []

    def test_busy_and_bottleneck(self) -> None:
        """Share of its workers' time inside the stage; the busiest one is the bottleneck."""
        run = run_info((MAIN_PIPELINE_NAME, "A"), (MAIN_PIPELINE_NAME, "B"), workers=(1, 4))
        start = run.started_ns
        spans: list[Span] = []
        for seq in range(10):
            begin = start + seq * 10 * MS
            spans.append((0, seq, 0, begin, begin, begin + 8 * MS, "emitted"))
            spans.append((1, seq, 0, begin, begin, begin + 10 * MS, "emitted"))
        profile = self.profile(run, spans, [])
        assert profile.stages["MainPipeline__A"].busy == pytest.approx(0.8, abs=0.01)
        assert profile.stages["MainPipeline__B"].busy == pytest.approx(0.25, abs=0.01)
        assert profile.bottleneck == "MainPipeline__A"

    def test_nested_pipelines(self) -> None:
        """From the start of the first stage inside to the end of the last one."""
        run = run_info(
            (MAIN_PIPELINE_NAME, "First"),
            (MAIN_PIPELINE_NAME, "Child", "A"),
            (MAIN_PIPELINE_NAME, "Child", "B"),
        )
        start = run.started_ns
        spans: list[Span] = []
        items: list[ItemEnd] = []
        for seq in range(5):
            now = start + seq * 20 * MS
            spans += [
                (0, seq, 0, now, now + 1 * MS, now + 2 * MS, "emitted"),
                (1, seq, 0, now + 2 * MS, now + 4 * MS, now + 7 * MS, "emitted"),
                (2, seq, 0, now + 7 * MS, now + 9 * MS, now + 12 * MS, "emitted"),
            ]
            items.append((seq, 0, now, now + 12 * MS, "completed"))
        profile = self.profile(run, spans, items)
        assert set(profile.pipelines) == {"MainPipeline", "MainPipeline__Child"}
        child = profile.pipelines["MainPipeline__Child"]
        assert child.items == 5
        assert child.latency.mean == self.near(0.008)
        assert profile.pipelines["MainPipeline"].latency.mean == self.near(0.012)

    def test_names_nest_alike_in_all_forms(self, turn: Any) -> None:
        """``MainPipeline__Child`` and ``MainPipeline__Child__A``, whatever modes were chosen."""
        for inner in (Pipeline.serialize, turn):
            child = Pipeline()
            child.add(increment, "A")
            inner(child)
            pipeline = self.pipeline((child.as_stage(), {"name": "Child"}))
            turn(pipeline).run(range(3))
            latency, throughput = pipeline.get_profiles()
            pipeline.cleanup()
            names = {"MainPipeline", "MainPipeline__Child", "MainPipeline__Child__A"}
            assert set(latency) == set(throughput) == names

    def test_any_legal_name_survives(self, turn: Any) -> None:
        """As the key that it is."""
        pipeline = turn(self.pipeline(*((increment, {"name": name}) for name in NAMES)))
        pipeline.run([1])
        pipeline.cleanup()
        expected = {"MainPipeline", *(f"MainPipeline__{name}" for name in NAMES)}
        assert set(pipeline.get_profiles()[0]) == expected

    # -- how the records come ------------------------------------------------------------

    def test_records_come_in_any_order(self) -> None:
        """In one portion or in many, stage by stage or ends first: the same figures."""
        run, spans, items = records(20)
        whole = self.profile(run, spans, items)
        profiler = self.fed(run, [], items[10:])
        for span in reversed(spans):
            profiler.collect([span], [])
        profiler.collect([], items[:10])
        in_portions = figures(profiler.summarize())
        expected = figures(whole)
        assert set(in_portions) == set(expected)
        for path, values in expected.items():
            assert in_portions[path] == pytest.approx(values, rel=1e-3, abs=self.precision)

    def test_losses_are_counted(self) -> None:
        """What the recorder could not keep is a figure of the profile."""
        profiler = self.fed(*records(3))
        assert profiler.summarize().lost == 0
        profiler.lost(3)
        profiler.lost(4)
        assert profiler.summarize().lost == 7

    # -- runs ----------------------------------------------------------------------------

    def test_it_can_be_read_after_the_end(self) -> None:
        """The same figures as before, from any thread."""
        run, spans, items = records(10)
        profiler = self.make()
        profiler.opened(run)
        profiler.collect(spans, items)
        before = profiler.summarize()
        profiler.closed(Statistics(admitted=10, completed=10))
        assert profiler.summarize() == before
        assert in_thread(profiler.summarize).wait().value == before
        assert before.pipelines["MainPipeline"].items == 10

    def test_it_can_be_read_after_a_failure(self, turn: Any) -> None:
        """And after an abort, and cleanup."""
        pipeline = turn(self.pipeline((increment, {"name": "A"}), (Raising(), {"name": "Bad"})))
        with pytest.raises(StageError):
            pipeline.run([1])
        pipeline.abort()
        pipeline.cleanup()
        assert set(pipeline.get_profiles()[0]) == {"MainPipeline__A", "MainPipeline__Bad"}

    def test_it_is_about_the_latest_run(self) -> None:
        """A new run begins a new profile."""
        profiler = self.fed(*records(10, stages=3))
        run, spans, items = records(2, stages=1)
        profiler.closed(Statistics(admitted=10, completed=10))
        profiler.opened(run)
        assert profiler.summarize() == Profile()
        profiler.collect(spans, items)
        profile = profiler.summarize()
        assert set(profile.stages) == {"MainPipeline__A"}
        assert profile.stages["MainPipeline__A"].calls == 2

    def test_profilers_side_by_side_are_kept_apart(self) -> None:
        """Each has the figures of its own run."""
        fed = [self.fed(*records(items, stages=items)) for items in (1, 2, 3)]
        profiles = [profiler.summarize() for profiler in fed]
        assert [len(profile.stages) for profile in profiles] == [1, 2, 3]
        assert [profile.pipelines["MainPipeline"].items for profile in profiles] == [1, 2, 3]

    def test_it_can_be_read_while_it_collects(self) -> None:
        """From any number of threads, as often as wanted."""
        run, spans, items = records(200)
        profiler = self.fed(run, [], [])

        def use(number: int) -> int:
            if number == 0:
                for at in range(0, 400, 4):
                    profiler.collect(spans[at : at + 4], items[at // 2 : at // 2 + 2])
                return 0
            most = 0
            for _ in range(30):
                profile = profiler.summarize()
                calls = sum(stage.calls for stage in profile.stages.values())
                assert calls >= most
                most = calls
            return most

        side_by_side(use, 4)
        assert sum(stage.calls for stage in profiler.summarize().stages.values()) == 400

    def test_the_profile_is_what_get_profiles_tells(self, turn: Any) -> None:
        """Means and throughputs, by the same names."""
        pipeline = turn(self.pipeline(increment, increment))
        pipeline.run(range(50))
        pipeline.cleanup()
        profile = pipeline.profile()
        latency, throughput = pipeline.get_profiles()
        assert {path: one.service.mean for path, one in profile.stages.items()} == {
            path: value for path, value in latency.items() if path in profile.stages
        }
        assert [one.calls for one in profile.stages.values()] == [50, 50]
        assert profile.pipelines["MainPipeline"].items == 50
        assert throughput["MainPipeline"] == profile.pipelines["MainPipeline"].throughput
        assert profile.bottleneck in profile.stages


def figures(profile: Profile) -> dict[str, tuple[float, ...]]:
    """What matters of a profile, by path."""
    stages = {
        path: (stage.calls, stage.service.mean, stage.queue.mean, stage.throughput)
        for path, stage in profile.stages.items()
    }
    wholes = {
        path: (whole.items, whole.latency.mean, whole.throughput)
        for path, whole in profile.pipelines.items()
    }
    return {**stages, **wholes}
