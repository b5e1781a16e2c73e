"""What was recorded can be read back, and is bounded."""

import random
import sqlite3
from collections import Counter
from contextlib import closing

import pystream_sqlite
import pytest
from pystream_sqlite import _chunk, _recording, _schema, _store, _writer

from pystream_core import SKIP, Pipeline, PlanError, Stage, StageStatistics, Statistics


def size(folder):
    return sum(file.stat().st_size for file in folder.iterdir())


def test_without_a_database_there_are_no_runs(tmp_path):
    assert pystream_sqlite.recorded_runs() == []
    assert pystream_sqlite.recorded_runs(tmp_path) == []
    with pytest.raises(PlanError, match="there are: none"):
        pystream_sqlite.read_profile("x")


def test_a_run_is_listed_with_what_it_was(recorded):
    run = recorded(3, run_id="abc").collect(10)
    run.close()
    (listed,) = pystream_sqlite.recorded_runs()
    assert listed == pystream_sqlite.RecordedRun(
        id="abc",
        started_at=1234.5,
        executor="threads",
        stages=("MainPipeline__Stage_1", "MainPipeline__Stage_2", "MainPipeline__Stage_3"),
        items=10,
        duration=pytest.approx(0.00945),
        finished=True,
        lost=0,
    )


def test_the_beginning_of_an_id_is_enough_when_it_is_unique(recorded):
    for name in ("abc", "abd", "ab"):
        recorded(run_id=name).collect(1).close()
    assert pystream_sqlite.read_profile("abc").stages
    assert pystream_sqlite.read_profile("ab").stages
    assert pystream_sqlite.read_profile("abd").stages
    with pytest.raises(PlanError, match="several"):
        pystream_sqlite.read_profile("a")
    with pytest.raises(PlanError, match="abc, abd"):
        pystream_sqlite.read_profile("z")
    with pytest.raises(PlanError, match="give the id"):
        pystream_sqlite.read_profile("")


def test_what_cannot_be_read_is_said(folder):
    folder.mkdir()
    (folder / "profiles.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(PlanError, match=r"cannot read .*moves it aside"):
        pystream_sqlite.recorded_runs()
    (folder / "profiles.sqlite").unlink()
    with closing(sqlite3.connect(folder / "profiles.sqlite")) as other:
        other.execute("PRAGMA user_version = 99")
    with pytest.raises(PlanError, match="upgrade"):
        pystream_sqlite.recorded_runs()


def test_figures_read_back_agree_to_the_microsecond(recorded):
    rng = random.Random(3)
    paths = (("M", "A"), ("M", "C", "x"), ("M", "C", "y"), ("M", "B"))
    run = recorded(paths=paths, run_id="r")
    admitted = run.run.started_ns
    for seq in range(300):
        admitted += rng.randrange(2_000_000)
        now, spans, bin_ = admitted, [], "completed"
        for stage in range(4):
            start = now + rng.randrange(3_000_000)
            end = start + rng.randrange(3_000_000)
            if stage and rng.random() < 0.1:
                bin_ = rng.choice(["filtered", "failed"])
            elif stage == 3 and rng.random() < 0.1:
                bin_ = "dropped"
            if rng.random() < 0.1:
                spans.append((stage, seq, 0, now, start, start + 5000, "retried"))
            outcome = bin_ if bin_ in ("filtered", "failed") else "emitted"
            spans.append((stage, seq, 0, now, start, end, outcome))
            now = end
            if outcome != "emitted":
                break
        run.profiler.collect(spans, [(seq, 0, admitted, now, bin_)])
    run.close()
    memory, disk = run.profiler.summarize(), pystream_sqlite.read_profile("r")
    assert list(memory.stages) == list(disk.stages)
    assert list(memory.pipelines) == list(disk.pipelines)
    assert memory.bottleneck == disk.bottleneck
    for name, stage in memory.stages.items():
        other = disk.stages[name]
        assert (stage.calls, stage.throughput, stage.busy) == pytest.approx(
            (other.calls, other.throughput, other.busy)
        )
        for times, others in ((stage.service, other.service), (stage.queue, other.queue)):
            for share in ("mean", "p50", "p90", "p99"):
                assert getattr(times, share) == pytest.approx(getattr(others, share), abs=1.1e-6)
    for name, pipeline in memory.pipelines.items():
        other = disk.pipelines[name]
        assert (pipeline.items, pipeline.throughput) == (other.items, other.throughput)
        for share in ("mean", "p50", "p90", "p99"):
            mine, theirs = getattr(pipeline.latency, share), getattr(other.latency, share)
            assert mine == pytest.approx(theirs, abs=2.1e-6)


def test_recorded_spans_are_named_by_the_beginning_of_an_id(recorded):
    recorded(2, run_id="abc").collect(3).close()
    recorded(2, run_id="abd").collect(1).close()
    spans = pystream_sqlite.recorded_spans("abc")
    assert next(spans) == (0, 0, 0, 0, 1_000_000, 3_000_000, "emitted")
    assert sum(1 for _ in spans) == 5
    for wrong, message in (("ab", "several"), ("x", "there are: abc, abd"), (None, "give the id")):
        with pytest.raises(PlanError, match=message):
            pystream_sqlite.recorded_spans(wrong)  # at once, not with the first span


def test_spawned_items_read_back_have_their_own_latencies(recorded):
    run = recorded(2, run_id="r")
    origin = run.run.started_ns
    spans = [(0, 0, 0, origin, origin + 1000, origin + 9000, "expanded")]
    spans += [(1, 0, s, origin, origin, origin + 10_000 * (s + 1), "emitted") for s in range(3)]
    items = [(0, 0, origin, origin + 9000, "expanded")]
    items += [(0, s, origin, origin + 10_000 * (s + 1), "completed") for s in range(3)]
    run.profiler.collect(spans, items)
    run.close()
    pipeline = pystream_sqlite.read_profile("r").pipelines["MainPipeline"]
    assert (pipeline.items, pipeline.latency.p50) == (3, 20e-6)
    assert pipeline == run.profiler.summarize().pipelines["MainPipeline"]


def test_the_ledger_is_recorded_at_the_end(recorded, folder, helpers):
    run = recorded(1).collect(3)
    stage = StageStatistics(path="MainPipeline__Stage_1", received=3, dropped={"abort": 2})
    run.profiler.closed(Statistics(admitted=3, dropped={"abort": 2}, stages=(stage,)))
    counters = {
        (scope, name): value
        for scope, name, value in helpers.query(folder, "SELECT scope, name, value FROM counter")
    }
    assert counters["", "admitted"] == 3
    assert counters["", "dropped (abort)"] == 2
    assert counters['["MainPipeline", "Stage_1"]', "received"] == 3


def test_only_the_latest_runs_are_kept(recorded):
    for number in range(_store.MOST_RUNS + 3):
        recorded(1, run_id=f"run-{number:02}").collect(1).close()
    runs = [run.id for run in pystream_sqlite.recorded_runs()]
    assert runs == [f"run-{number:02}" for number in range(3, 23)]


def test_a_run_that_was_deleted_while_it_goes_on_comes_again(recorded, folder, helpers):
    run = recorded(1, run_id="old").collect(5)
    assert run.wait_until_written()
    for _ in range(_store.MOST_RUNS):
        recorded(1).collect(1).close()
    assert "old" not in {each.id for each in pystream_sqlite.recorded_runs()}
    run.collect(5).close()
    assert pystream_sqlite.recorded_runs()[-1].id == "old"
    assert pystream_sqlite.read_profile("old").stages["MainPipeline__Stage_1"].calls == 10
    assert [span[1] for span in pystream_sqlite.recorded_spans("old")] == [5, 6, 7, 8, 9]
    assert helpers.query(
        folder, "SELECT count(*) FROM chunk WHERE run NOT IN (SELECT id FROM run)"
    ) == [(0,)]


@pytest.fixture
def chunks_of(monkeypatch):
    """Sets the number of records in a chunk, so that few items fill several."""

    def set_(records):
        monkeypatch.setattr(_recording, "LARGEST", records)
        monkeypatch.setattr(_store, "SMALL", 1)

    return set_


def stored_items():
    """The seqs on disk, by run."""
    return {
        run.id: sorted({span[1] for span in pystream_sqlite.recorded_spans(run.id)})
        for run in pystream_sqlite.recorded_runs()
    }


def test_the_oldest_items_of_all_runs_go_first(recorded, monkeypatch, chunks_of):
    monkeypatch.setattr(_store, "MOST_ITEMS", 1000)
    chunks_of(90)  # 30 items of two stages
    for number in range(4):
        recorded(2, run_id=f"run-{number}").collect(400).close()
        assert sum(map(len, stored_items().values())) <= 1000
    items = stored_items()
    assert items["run-3"] == items["run-2"] == list(range(400))
    assert items["run-1"] == list(range(400 - len(items["run-1"]), 400))
    assert 870 <= sum(map(len, items.values())) <= 1000
    assert pystream_sqlite.read_profile("run-3").pipelines["MainPipeline"].items == 400


def test_a_run_larger_than_the_limit_loses_its_oldest_items(recorded, monkeypatch, chunks_of):
    monkeypatch.setattr(_store, "MOST_ITEMS", 1000)
    monkeypatch.setattr(_writer, "GATHER", 0.02)  # the test need not wait half a second ten times
    chunks_of(90)
    run = recorded(2, run_id="r")
    for _ in range(10):
        run.collect(300)
        run.wait_until_written()
        assert len(stored_items()["r"]) <= 1000
    run.close()
    items = stored_items()["r"]
    assert items == list(range(3000 - len(items), 3000))
    assert 800 <= len(items) <= 1000
    profile = pystream_sqlite.read_profile("r")
    assert profile.stages == run.profiler.summarize().stages
    assert profile.pipelines["MainPipeline"].items == 3000


def test_items_that_never_met_a_stage_and_spawned_ones_are_bounded_too(
    recorded, folder, monkeypatch, helpers, chunks_of
):
    monkeypatch.setattr(_store, "MOST_ITEMS", 100)
    chunks_of(10)
    run = recorded(1)
    now = run.run.started_ns
    run.profiler.collect([], [(seq, 0, now, now + 1, "dropped") for seq in range(500)])
    run.close()
    rows = helpers.query(folder, "SELECT layout, data FROM chunk ORDER BY id")
    ended = [item for row in rows for item in _chunk.ended_in(_chunk.from_row(*row))]
    assert ended == [(seq, 0, 0, 1, "dropped") for seq in range(410, 500)]
    run = recorded(1)
    run.profiler.collect([(0, 0, sub, now, now, now + 1, "emitted") for sub in range(500)], [])
    run.profiler.collect([], [(0, sub, now, now, "failed") for sub in range(500)])
    run.close()
    ((records,),) = helpers.query(folder, "SELECT sum(spans + ended) FROM chunk")
    assert 80 <= records <= 100


def test_a_late_item_costs_no_history(recorded):
    """One that took as long as 200,000 others: it counts when it comes, as one."""
    run = recorded(1, run_id="r")
    now = run.run.started_ns
    seqs = [*range(200_000, 200_100), 3, *range(200_100, 200_200)]
    for begin in range(0, len(seqs), 10):
        run.profiler.collect(
            [(0, seq, 0, now, now, now + 1, "emitted") for seq in seqs[begin : begin + 10]], []
        )
    run.close()
    assert [span[1] for span in pystream_sqlite.recorded_spans("r")] == seqs


def test_a_slow_pipeline_takes_no_more_space_than_a_quick_one(recorded, folder, monkeypatch):
    """One item at each flush, a second after the one before: small chunks are put together."""
    monkeypatch.setattr(_recording, "FLUSH_AT", 1)
    monkeypatch.setattr(_writer, "FLUSH_AT", 1)
    run = recorded(5, run_id="r")
    run.gap = 10**9
    for _ in range(300):
        run.collect(1)
        run.wait_until_written()
    run.close()
    assert size(folder) - 16 * 4096 <= 300 * 130  # but for the pages that tables begin with
    assert stored_items()["r"] == list(range(300))
    assert pystream_sqlite.read_profile("r") == run.profiler.summarize()


def test_an_item_of_five_stages_takes_at_most_130_bytes(recorded, folder):
    """Small version of the bound on the database."""
    run = recorded(5)
    for _ in range(10):
        run.collect(2000)
    run.close()
    assert size(folder) / 20_000 <= 130


def test_space_is_given_back(recorded, folder, monkeypatch):
    monkeypatch.setattr(_store, "MOST_ITEMS", 4000)
    recorded(5).collect(4000).close()
    full = size(folder)
    monkeypatch.setattr(_store, "MOST_ITEMS", 1000)
    recorded(5).collect(900).close()
    assert size(folder) < full / 2


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_a_million_items_take_at_most_twenty_megabytes(recorded, folder, helpers):
    run = recorded(5, run_id="r")
    largest = 0
    for _ in range(500):
        run.collect(2000)
        recording = run.profiler._recording
        assert helpers.wait_until(lambda r=recording: r.waiting < 50_000, 20)
        if folder.exists():
            largest = max(largest, size(folder))
    run.close()
    assert run.profiler.summarize().lost == 0
    assert largest <= 20_000_000
    assert size(folder) <= 20_000_000
    assert pystream_sqlite.read_profile("r").stages["MainPipeline__Stage_1"].calls == 1_000_000


def halves(pipeline):
    """Two branches side by side: the first one takes longer and filters, the last one tells
    nothing about when an item has come through, or whether."""
    pipeline.add(abs, name="in")
    pipeline.add(
        lambda item: SKIP if item % 5 == 0 else sum(range(20_000)), name="slow", after="in"
    )
    pipeline.add(lambda item: item, name="fast", after="in")


@pytest.mark.parametrize("mode", ["serial", "threads"])
@pytest.mark.parametrize("around", ["nested", "main"])
def test_a_branching_run_is_read_back_with_the_same_figures(mode, around, folder):
    """Its plan is stored: an item comes through when all ends have handed it on."""
    child, pipeline = Pipeline(), Pipeline(use_profiler=True)
    halves(pipeline if around == "main" else child)
    if around == "nested":
        child.serialize() if mode == "serial" else child.parallelize()
        pipeline.add(child.as_stage(), name="Child")
        pipeline.add(lambda pair: pair, name="out")
    pipeline.serialize() if mode == "serial" else pipeline.parallelize()
    with pipeline:
        pipeline.run(range(50))
        live = pipeline.profile()
    (run,) = pystream_sqlite.recorded_runs()
    read = pystream_sqlite.read_profile(run.id)
    assert set(read.pipelines) == set(live.pipelines)
    for name, figures in live.pipelines.items():
        assert read.pipelines[name].items == figures.items == 40
        assert read.pipelines[name].latency.mean == pytest.approx(figures.latency.mean)
    path = "MainPipeline__Child" if around == "nested" else "MainPipeline"
    least = live.stages[f"{path}__fast"].service.p50
    assert 5 * least < read.pipelines[path].latency.p50 < live.pipelines[path].latency.p50 + 2e-6


def test_a_run_in_a_row_stores_no_feeders(recorded, folder, helpers):
    """Nor does one that was not told of any."""
    recorded(3).collect(1).close()
    assert helpers.query(folder, "SELECT feeders FROM run") == [(None,)]


def test_calls_that_absorbed_an_item_are_read_back_as_such(folder, helpers):
    """Their outcome is one of its own, and the list that they give out has none."""

    class Pairs(Stage):
        def setup(self):
            self.items = []

        def __call__(self, item):
            self.items.append(item)
            return self.flush()[0] if len(self.items) == 2 else SKIP

        def flush(self):
            items, self.items = self.items, []
            return [items] if items else []

        def cleanup(self):
            pass

    pipeline = Pipeline(use_profiler=True)
    pipeline.add(Pairs())
    pipeline.add(len)
    with pipeline.parallelize():
        assert list(pipeline.stream(range(5))) == [2, 2, 1]
        live = pipeline.profile()
    (run,) = pystream_sqlite.recorded_runs()
    outcomes = Counter(span[6] for span in pystream_sqlite.recorded_spans(run.id))
    assert outcomes == {"emitted": 3, "absorbed": 5}
    rows = helpers.query(folder, "SELECT layout, data FROM chunk")
    ended = [item for row in rows for item in _chunk.ended_in(_chunk.from_row(*row))]
    assert [(bin_, seq) for seq, _, _, _, bin_ in ended] == [("absorbed", s) for s in range(5)]
    read = pystream_sqlite.read_profile(run.id)
    assert {name: each.calls for name, each in read.stages.items()} == {
        name: each.calls for name, each in live.stages.items()
    }
    assert read.pipelines["MainPipeline"].items == 3


# Two items of two stages as versions 1 and 2 stored them: the second one was filtered.
OLD_ROWS = """
INSERT INTO run (id, uid, started_at, executor, finished, duration, kept, first_span, last_span,
    first_seq, last_seq) VALUES (7, 'old', 12.5, 'serial', 1, 9000, 4, 1, 3, 0, 1);
INSERT INTO stage VALUES (11, 7, 0, '["MainPipeline", "A"]', 'MainPipeline__A', 1);
INSERT INTO stage VALUES (12, 7, 1, '["MainPipeline", "B"]', 'MainPipeline__B', 1);
INSERT INTO span VALUES (11, 0, 1000, 1000, 2000, 0);
INSERT INTO span VALUES (12, 0, 500, 3500, 4000, 0);
INSERT INTO span VALUES (11, 1, 0, 5000, 2500, 1);
INSERT INTO item VALUES (7, 1, 0, 5000, 7500, 'filtered');
INSERT INTO counter VALUES (7, '["MainPipeline"]', 'items', 1);
INSERT INTO counter VALUES (7, '["MainPipeline"]', 'latency_ns', 7500000);
INSERT INTO counter VALUES (7, '["MainPipeline", "A"]', 'calls', 2);
INSERT INTO counter VALUES (7, '["MainPipeline", "A"]', 'service_ns', 4500000);
INSERT INTO counter VALUES (7, '["MainPipeline", "B"]', 'calls', 1);
"""
OLD_SPANS = [
    (0, 0, 0, 0, 1_000_000, 3_000_000, "emitted"),
    (0, 1, 0, 5_000_000, 5_000_000, 7_500_000, "filtered"),
    (1, 0, 0, 3_000_000, 3_500_000, 7_500_000, "emitted"),
]


@pytest.fixture(params=[1, 2])
def old_file(request, folder):
    """A database as an earlier version left it."""
    folder.mkdir()
    with closing(sqlite3.connect(folder / "profiles.sqlite")) as other:
        for migration in _schema.MIGRATIONS[: request.param]:
            migration(other)
        other.executescript(f"PRAGMA user_version = {request.param}; {OLD_ROWS}")


def check_old_run():
    run = pystream_sqlite.recorded_runs()[0]
    assert (run.id, run.items, run.duration, run.finished) == ("old", 1, 0.009, True)
    assert sorted(pystream_sqlite.recorded_spans("old")) == OLD_SPANS
    profile = pystream_sqlite.read_profile("old")
    assert profile.stages["MainPipeline__A"].calls == 2
    assert profile.stages["MainPipeline__A"].service.p99 == 2.5e-3
    assert profile.pipelines["MainPipeline"].latency.p50 == 7.5e-3


@pytest.mark.usefixtures("old_file")
def test_a_file_of_an_earlier_version_is_read_before_and_after_it_is_brought_up_to_date(
    recorded, folder, helpers
):
    """Its runs are taken as stages in a row, as all were in version 1."""
    check_old_run()
    recorded(2, run_id="later").collect(4).close()
    assert helpers.query(folder, "PRAGMA user_version") == [(len(_schema.MIGRATIONS),)]
    check_old_run()
    assert pystream_sqlite.read_profile("later").pipelines["MainPipeline"].items == 4


@pytest.mark.usefixtures("old_file")
@pytest.mark.parametrize("limit", ["runs", "items"])
def test_runs_of_an_earlier_version_go_first(recorded, folder, helpers, monkeypatch, limit):
    """With their rows, by either limit."""
    if limit == "runs":
        monkeypatch.setattr(_store, "MOST_RUNS", 1)
    else:
        monkeypatch.setattr(_store, "MOST_ITEMS", 5)
    recorded(2, run_id="new").collect(5).close()
    assert [run.id for run in pystream_sqlite.recorded_runs()] == ["new"]
    assert stored_items() == {"new": list(range(5))}
    for table in ("old_span", "old_item", "counter", "stage", "chunk"):
        column = {"old_span": "stage > 10", "stage": "id IN (11, 12)"}.get(table, "run = 7")
        assert helpers.query(folder, f"SELECT count(*) FROM {table} WHERE {column}") == [(0,)]
