"""Profilers that each break one rule: the one of pystream-sqlite, with figures that are bent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from catalogue import Catalogue
from pystream_sqlite import SQLiteProfiler

from pystream_core import (
    ItemEnd,
    Percentiles,
    PipelineProfile,
    Profile,
    RunInfo,
    Span,
    StageProfile,
    Statistics,
)

WRONG = Catalogue()


class Bent(SQLiteProfiler):
    """Measures as it should, and tells something else."""

    run: RunInfo | None = None

    def opened(self, run: RunInfo) -> None:
        self.run = run
        super().opened(run)

    def summarize(self) -> Profile:
        profile = super().summarize()
        stages = {path: self.stage(path, stage) for path, stage in profile.stages.items()}
        wholes = {
            path: self.whole(profile, path, whole) for path, whole in profile.pipelines.items()
        }
        return replace(profile, stages=stages, pipelines=wholes)

    def stage(self, path: str, stage: StageProfile) -> StageProfile:
        """What it tells of a stage."""
        return stage

    def whole(self, profile: Profile, path: str, whole: PipelineProfile) -> PipelineProfile:
        """What it tells of a pipeline."""
        return whole


NONE = Percentiles(mean=0.0, p50=0.0, p90=0.0, p99=0.0)


@WRONG.add("nothing yet", "test_it_is_empty_until_a_call_has_ended", "assert")
class ZerosAtFirst(Bent):
    """Has zeros for every stage from the beginning."""

    def summarize(self) -> Profile:
        profile = super().summarize()
        if self.run is None:
            return profile
        zero = StageProfile(calls=0, service=NONE, queue=NONE, throughput=0.0, busy=0.0)
        zeros = {"__".join(path): zero for path in self.run.stages}
        return replace(profile, stages={**zeros, **profile.stages})


@WRONG.add("finite", "test_a_call_without_any_time_has_figures", "assert|inf")
class Infinite(Bent):
    """Divides by no time at all."""

    def stage(self, path: str, stage: StageProfile) -> StageProfile:
        return replace(stage, throughput=math.inf) if stage.service.mean < 1e-6 else stage


@WRONG.add("service and queue", "test_service_and_queue_time", "assert")
class CountsWaiting(Bent):
    """Takes waiting for work."""

    def stage(self, path: str, stage: StageProfile) -> StageProfile:
        both = stage.service.mean + stage.queue.mean
        return replace(stage, service=replace(stage.service, mean=both))


@WRONG.add("throughput", "test_throughput_of_a_stage", "assert")
class MeanOfReciprocals(Bent):
    """Takes the mean of the rates of single calls for the throughput."""

    def stage(self, path: str, stage: StageProfile) -> StageProfile:
        return replace(stage, throughput=1 / max(stage.service.p50, 1e-9))


@WRONG.add("latency", "test_latency_and_throughput_of_the_pipeline", "assert")
class CountsEveryEnd(Bent):
    """Takes every item for a completed one."""

    def collect(self, spans: Sequence[Span], items: Sequence[ItemEnd]) -> None:
        super().collect(spans, [(*item[:-1], "completed") for item in items])


@WRONG.add("every call", "test_failed_and_retried_calls_count", "assert 1 == 4|KeyError")
class CountsSuccesses(Bent):
    """Knows nothing of calls that gave out no item."""

    def collect(self, spans: Sequence[Span], items: Sequence[ItemEnd]) -> None:
        super().collect([span for span in spans if span[-1] == "emitted"], items)


@WRONG.add("percentiles", "test_percentiles", "assert")
class MeansForPercentiles(Bent):
    """Gives the mean in place of each percentile."""

    def stage(self, path: str, stage: StageProfile) -> StageProfile:
        mean = stage.service.mean
        return replace(stage, service=Percentiles(mean=mean, p50=mean, p90=mean, p99=mean))


@WRONG.add("bottleneck", "test_busy_and_bottleneck", "assert")
class ForgetsWorkers(Bent):
    """Takes every stage for one with a single worker."""

    def opened(self, run: RunInfo) -> None:
        super().opened(replace(run, workers=tuple(1 for _ in run.workers)))


@WRONG.add("nesting", "test_nested_pipelines", "assert")
class FlatNames(Bent):
    """Knows no pipelines inside the pipeline."""

    def opened(self, run: RunInfo) -> None:
        super().opened(replace(run, stages=tuple((path[0], path[-1]) for path in run.stages)))


@WRONG.add("names", "test_any_legal_name_survives", "assert")
class LowerCase(Bent):
    """Does not tell upper from lower case."""

    def summarize(self) -> Profile:
        profile = super().summarize()
        stages = {path.casefold(): stage for path, stage in profile.stages.items()}
        return replace(profile, stages=stages)


@WRONG.add("any order", "test_records_come_in_any_order", "assert")
class TakesTheLatest(Bent):
    """Drops records that come behind later ones."""

    latest = -1

    def collect(self, spans: Sequence[Span], items: Sequence[ItemEnd]) -> None:
        in_order = []
        for span in spans:
            if span[1] >= self.latest:
                self.latest = span[1]
                in_order.append(span)
        super().collect(in_order, items)


@WRONG.add("losses", "test_losses_are_counted", "assert 0 == 7")
class HidesLosses(Bent):
    """Says nothing of records that were lost."""

    def lost(self, records: int) -> None: ...


@WRONG.add("after the end", "test_it_can_be_read_after_the_end", "assert")
class ForgetsAtTheEnd(Bent):
    """Lets go of everything when it is closed."""

    def closed(self, statistics: Statistics) -> None:
        super().closed(statistics)
        self._recording = None


@WRONG.add("latest run", "test_it_is_about_the_latest_run", "assert")
class AddsUp(Bent):
    """Goes on with the figures of the run before."""

    def summarize(self) -> Profile:
        profile = super().summarize()
        seen: dict[str, Any] = self.__dict__.setdefault("seen", {})
        seen.update(profile.stages)
        return replace(profile, stages=dict(seen))

    def closed(self, statistics: Statistics) -> None:
        self.summarize()
        super().closed(statistics)


@WRONG.add("latest run", "test_profilers_side_by_side_are_kept_apart", "assert")
class SharesItsProfile(Bent):
    """Has one profile for all pipelines."""

    latest: ClassVar[Any] = None

    def opened(self, run: RunInfo) -> None:
        super().opened(run)
        type(self).latest = self

    def summarize(self) -> Profile:
        if type(self).latest in (None, self):
            return super().summarize()
        found: Profile = type(self).latest.summarize()
        return found
