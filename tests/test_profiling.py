"""The profiler as users meet it: ``use_profiler=True``, ``get_profiles()``, ``profile()``."""

from __future__ import annotations

import logging
import math
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter

import pystream
import pytest
from pystream_sqlite import recorded_runs, recorded_spans

from pystream_core import (
    ItemEnd,
    Observer,
    Percentiles,
    PipelineProfile,
    Profile,
    Profiler,
    RunInfo,
    Span,
    StageProfile,
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, own_profiler_folder: None) -> Path:
    """Profiles of this test go to a folder of its own."""
    pystream.set_profiler_db_folder(str(tmp_path))
    return tmp_path


Mode = Callable[[pystream.Pipeline], pystream.Pipeline]


@pytest.fixture(params=["serial", "threads"])
def choose(request: pytest.FixtureRequest) -> Mode:
    """Each mode in turn."""
    return (
        pystream.Pipeline.serialize if request.param == "serial" else pystream.Pipeline.parallelize
    )


def make(**options: object) -> pystream.Pipeline:
    """A profiled pipeline of two stages."""
    pipeline = pystream.Pipeline(use_profiler=True, **options)  # type: ignore[arg-type]
    pipeline.add(lambda item: item + 1, "A")
    pipeline.add(lambda item: item * 2, "B")
    return pipeline


def test_profiles_are_empty_until_a_call_has_ended(choose: Mode) -> None:
    """Never zero, nan or inf in place of "nothing yet"."""
    pipeline = make()
    assert pipeline.get_profiles() == ({}, {})
    with choose(pipeline):
        assert pipeline.get_profiles() == ({}, {})
        pipeline.start()
        assert pipeline.get_profiles() == ({}, {})


def test_profiles_are_empty_without_a_profiler() -> None:
    """``use_profiler`` is off by default."""
    pipeline = pystream.Pipeline()
    pipeline.add(lambda item: item)
    with pipeline.serialize():
        pipeline.run([1])
        assert pipeline.get_profiles() == ({}, {})
        with pytest.raises(pystream.PlanError, match="use_profiler=True"):
            pipeline.profile()


def test_figures_are_there_from_the_first_item_on(choose: Mode) -> None:
    """Every stage and the main pipeline, finite and above zero, also after cleanup."""
    pipeline = make()
    with choose(pipeline):
        pipeline.run([1])
        during = pipeline.get_profiles()
    for latency, throughput in (during, pipeline.get_profiles()):
        assert (
            set(latency)
            == set(throughput)
            == {
                "MainPipeline",
                "MainPipeline__A",
                "MainPipeline__B",
            }
        )
        assert all(0 < each < math.inf for each in [*latency.values(), *throughput.values()])


def test_a_stage_appears_also_when_its_call_raised(choose: Mode) -> None:
    """The main pipeline appears with its first completed item only."""

    def fail(item: int) -> int:
        raise ValueError(item)

    pipeline = pystream.Pipeline(use_profiler=True)
    pipeline.add(fail, "A", on_error="skip")
    with choose(pipeline):
        pipeline.run([1])
        latency, throughput = pipeline.get_profiles()
    assert set(latency) == set(throughput) == {"MainPipeline__A"}


def test_nested_pipelines_have_names_of_their_own(choose: Mode) -> None:
    """``MainPipeline__Child`` and ``MainPipeline__Child__A`` in every form."""
    for inner in (pystream.Pipeline.serialize, pystream.Pipeline.parallelize):
        child = pystream.Pipeline()
        child.add(lambda item: item + 1, "StageA")
        inner(child)
        pipeline = pystream.Pipeline(use_profiler=True)
        pipeline.add(child.as_stage(), "Child")
        with choose(pipeline):
            pipeline.run(range(3))
            latency, _ = pipeline.get_profiles()
        assert set(latency) == {
            "MainPipeline",
            "MainPipeline__Child",
            "MainPipeline__Child__StageA",
        }


def test_the_bottleneck_is_the_busiest_stage(choose: Mode) -> None:
    """Service time counts, not queue time."""
    pipeline = pystream.Pipeline(use_profiler=True)
    pipeline.add(lambda item: item, "Quick")
    pipeline.add(lambda item: threading.Event().wait(0.002) or item, "Slow")
    with choose(pipeline):
        pipeline.run(range(10))
        profile = pipeline.profile()
    assert profile.bottleneck == "MainPipeline__Slow"
    slow = profile.stages["MainPipeline__Slow"]
    assert slow.calls == 10
    assert 0.002 <= slow.service.p50 <= slow.service.p90 <= slow.service.p99
    assert 0 < slow.busy <= 1
    assert profile.pipelines["MainPipeline"].items == 10
    assert profile.lost == 0


def test_runs_are_kept_in_one_database(folder: Path, choose: Mode) -> None:
    """A pipeline's run is there after cleanup, next to earlier ones."""
    for _ in range(2):
        pipeline = make()
        with choose(pipeline):
            pipeline.run(range(5))
    with sqlite3.connect(folder / "profiles.sqlite") as database:
        assert database.execute("SELECT count(*) FROM run").fetchone() == (2,)
    database.close()
    runs = recorded_runs(folder)
    assert [len(list(recorded_spans(run.id, folder))) for run in runs] == [10, 10]


class Watcher(Observer):
    """Notes which threads call it."""

    def __init__(self) -> None:
        self.threads: set[str] = set()
        self.spans: list[Span] = []
        self.items: list[ItemEnd] = []
        self.run: RunInfo | None = None
        self.closed_with: pystream.Statistics | None = None

    def opened(self, run: RunInfo) -> None:
        self.run = run

    def collect(self, spans: Sequence[Span], items: Sequence[ItemEnd]) -> None:
        self.threads.add(threading.current_thread().name)
        self.spans += spans
        self.items += items

    def closed(self, statistics: pystream.Statistics) -> None:
        self.closed_with = statistics


def test_no_worker_ever_enters_an_observer(choose: Mode) -> None:
    """G26: only the collector does, or the thread that closes."""
    watcher = Watcher()
    workers: set[str] = set()
    pipeline = pystream.Pipeline(observers=[watcher])
    pipeline.add(lambda item: workers.add(threading.current_thread().name) or item, "A")
    with choose(pipeline):
        pipeline.run(range(1000))
        pipeline.drain()
    allowed = {"pystream-collector", threading.current_thread().name}
    assert watcher.threads <= allowed
    assert len(watcher.spans) == 1000
    assert len(watcher.items) == 1000
    assert watcher.closed_with is not None
    assert watcher.closed_with.completed == 1000


def test_spans_tell_order_and_queue_time(choose: Mode) -> None:
    """queued <= start <= end, and the stage before ends before the next one starts."""
    watcher = Watcher()
    pipeline = pystream.Pipeline(observers=[watcher])
    pipeline.add(lambda item: item, "A")
    pipeline.add(lambda item: item, "B")
    with choose(pipeline):
        pipeline.run(range(50))
    assert watcher.run is not None
    assert watcher.run.stages == (("MainPipeline", "A"), ("MainPipeline", "B"))
    by_item: dict[tuple[int, int], Span] = {(span[1], span[0]): span for span in watcher.spans}
    assert len(by_item) == 100
    for seq in range(50):
        first, second = by_item[seq, 0], by_item[seq, 1]
        assert first[3] <= first[4] <= first[5] == second[3] <= second[4] <= second[5]


def test_an_observer_that_raises_is_logged_once_and_dropped(
    choose: Mode, caplog: pytest.LogCaptureFixture
) -> None:
    """The pipeline and the other observers do not notice."""

    class Broken(Observer):
        def collect(self, spans: Sequence[Span], items: Sequence[ItemEnd]) -> None:
            raise SystemExit("broken")

    watcher = Watcher()
    pipeline = pystream.Pipeline(observers=[Broken(), watcher])
    pipeline.add(lambda item: item)
    with caplog.at_level(logging.ERROR, logger="PyStream"), choose(pipeline):
        pipeline.run(range(3))
        pipeline.run(range(3))
    assert len([record for record in caplog.records if "Broken" in record.getMessage()]) == 1
    assert len(watcher.spans) == 6


def test_storage_that_cannot_be_used_costs_one_warning(
    choose: Mode, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """G26: items flow, and the profile of what is in memory can still be read."""
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    pystream.set_profiler_db_folder(str(blocked))
    pipeline = make()
    blocked.rmdir()
    blocked.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING, logger="PyStream"), choose(pipeline):
        pipeline.run(range(20))
        latency, _ = pipeline.get_profiles()
    assert "MainPipeline__A" in latency
    assert len([each for each in caplog.records if each.levelno == logging.WARNING]) == 1


def test_an_observer_without_a_summary_is_no_profiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """``profiler=`` names something that can sum up."""
    from pystream_core import registry

    monkeypatch.setattr(type(registry()), "observer", lambda self, name: Watcher)
    with pytest.raises(pystream.PlanError, match="observers="):
        pystream.Pipeline(use_profiler=True, profiler="watcher")


def test_a_missing_profiler_is_named_with_the_command() -> None:
    """At once, when the pipeline is made."""
    with pytest.raises(pystream.PluginNotFound, match="sqllite"):
        pystream.Pipeline(use_profiler=True, profiler="sqllite")


def test_the_outermost_pipeline_alone_decides() -> None:
    """A nested pipeline's own profiler sees nothing."""
    child = make()
    child.serialize()
    pipeline = pystream.Pipeline()
    pipeline.add(child.as_stage(), "Child")
    with pipeline.serialize():
        pipeline.run(range(3))
    assert pipeline.get_profiles() == ({}, {})
    assert child.get_profiles() == ({}, {})


def test_profiles_follow_a_change_of_mode() -> None:
    """The profile is that of the latest start; an earlier one can be read until then."""
    pipeline = make()
    pipeline.serialize()
    pipeline.run(range(3))
    pipeline.parallelize()
    assert pipeline.profile().stages["MainPipeline__A"].calls == 3
    pipeline.run(range(4))
    assert pipeline.profile().stages["MainPipeline__A"].calls == 4
    pipeline.cleanup()


def test_expired_and_filtered_items_have_no_latency_of_the_whole() -> None:
    """Only completed items count for the main pipeline."""
    pipeline = pystream.Pipeline(use_profiler=True)
    pipeline.add(lambda item: pystream.SKIP if item % 2 else item, "Even")
    with pipeline.serialize():
        pipeline.run(range(10))
        profile = pipeline.profile()
    assert profile.stages["MainPipeline__Even"].calls == 10
    assert profile.pipelines["MainPipeline"].items == 5


def percentiles(p50: float, p99: float = 0.25) -> Percentiles:
    return Percentiles(mean=p50, p50=p50, p90=p99, p99=p99)


def figures(calls: int, p50: float, queue: float, busy: float) -> StageProfile:
    return StageProfile(
        calls=calls, service=percentiles(p50), queue=percentiles(queue), throughput=1.0, busy=busy
    )


def test_a_profile_prints_as_a_table() -> None:
    """What one looks at first, in units that suit it, and not the repr of every figure."""
    whole = PipelineProfile(items=9, latency=percentiles(0.0123), throughput=1234.5)
    profile = Profile(
        stages={
            "MainPipeline__resize": figures(1_234_567, 0.00123, 0.0000123, 0.851),
            "MainPipeline__child__a": figures(3, 12.3, 0.0, 0.0),
        },
        pipelines={"MainPipeline": whole, "MainPipeline__child": whole},
        bottleneck="MainPipeline__resize",
        lost=2,
    )
    assert str(profile).split("\n") == [
        "Stage         Calls  Service p50  Service p99  Queue p50  Busy",
        "resize *  1,234,567      1.23 ms       250 ms    12.3 µs   85%",
        "child__a          3       12.3 s       250 ms       0 ns    0%",
        "",
        "Throughput 1,234.5 items/s, latency p50 12.3 ms, p99 250 ms",
        "child: throughput 1,234.5 items/s, latency p50 12.3 ms, p99 250 ms",
        "* Bottleneck: resize, busy 85% of the time",
        "2 records lost, so figures may be incomplete",
    ]


def test_a_profile_without_calls_says_so() -> None:
    """An empty text would look as if nothing had been printed."""
    assert str(Profile()) == "no calls yet"


def test_the_table_of_a_profile_fits_80_columns() -> None:
    """A name that leaves no room for the figures has them below it; none is cut off."""
    long, odd = "inner__" * 9 + "stage", "two\nlines"
    stages = {name: figures(123_456_789, 0.1, 0.1, 1.0) for name in (long, odd, "short")}
    lines = str(Profile(stages=stages, bottleneck="short")).split("\n")
    head, first, below, second, third, *_ = lines
    assert max(map(len, lines)) <= 80
    assert first == long
    assert below.split() == third.split()[2:]
    assert second.startswith(r"two\nlines  ")
    assert len(head) == len(below) == len(second) == len(third)


def test_the_profile_of_a_run_is_printed(choose: Mode) -> None:
    """With the stages in the order of the plan, and the pipeline as a whole."""
    with choose(make()) as pipeline:
        pipeline.run(range(3))
        lines = str(pipeline.profile()).split("\n")
    assert [line.split()[0] for line in lines[:3]] == ["Stage", "A", "B"]
    assert all(" 3 " in line for line in lines[1:3])
    assert lines[4].startswith("Throughput ")
    assert lines[5].startswith("* Bottleneck: ")
    assert max(map(len, lines)) <= 80


def test_profiler_is_an_abstract_contract() -> None:
    """A profiler must sum up; a plain observer need not do anything."""
    assert issubclass(Profiler, Observer)
    observer = Observer()
    observer.collect([], [])
    observer.lost(1)


def rate_of(profiled: bool, items: int) -> float:
    """Items per second through a stage of about a millisecond."""
    pipeline = pystream.Pipeline(use_profiler=profiled)
    pause = threading.Event()
    pipeline.add(lambda item: pause.wait(0.001) or item)
    with pipeline.parallelize():
        pipeline.run([1])
        begin = perf_counter()
        pipeline.run(range(items))
        return items / (perf_counter() - begin)


@pytest.mark.soak
@pytest.mark.timeout(120)
@pytest.mark.parametrize("trouble", ["none", "locked", "read-only", "full"])
def test_storage_in_trouble_does_not_slow_the_items(
    trouble: str, folder: Path, tmp_path: Path
) -> None:
    """G26: 99 % of the rate without a profiler; interleaved, medians of five."""
    rate_of(True, 10)
    database = sqlite3.connect(folder / "profiles.sqlite", isolation_level=None)
    if trouble == "locked":
        database.execute("BEGIN EXCLUSIVE")
    elif trouble == "read-only":
        pystream.set_profiler_db_folder(str(tmp_path / "blocked"))
        (tmp_path / "blocked").symlink_to("/proc/self")  # where not even root makes a file
    elif trouble == "full":
        pystream.set_profiler_db_folder(str(tmp_path / "full"))
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "profiles.sqlite").symlink_to("/dev/full")
    bare, profiled = [], []
    for _ in range(5):
        bare.append(rate_of(False, 1500))
        profiled.append(rate_of(True, 1500))
    database.close()
    assert median(profiled) >= 0.99 * median(bare), (profiled, bare)
