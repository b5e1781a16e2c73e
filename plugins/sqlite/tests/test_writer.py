"""Records on their way to disk, and everything that a disk may refuse."""

import gc
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
import weakref
from contextlib import closing

import pystream_sqlite
import pytest
from pystream_sqlite import _chunk, _recording, _schema, _store, _writer

from pystream_core import Profile, Statistics


def figures_are_there(run):
    profile = run.profiler.summarize()
    assert profile.pipelines["MainPipeline"].items == run.seq
    return profile


def test_nothing_is_made_before_the_first_flush(recorded, folder):
    run = recorded()
    assert not folder.exists()
    assert run.profiler.summarize() == Profile()
    run.close()
    assert not folder.exists()


def test_a_profiler_without_a_run_has_an_empty_profile():
    profiler = pystream_sqlite.SQLiteProfiler()
    assert profiler.summarize() == Profile()
    profiler.collect([], [])
    profiler.closed(Statistics())
    assert "idle" in repr(profiler)


def test_the_last_records_before_a_pause_are_flushed_within_a_second(recorded, folder, helpers):
    run = recorded().collect(3)
    begin = time.monotonic()
    assert run.wait_until_written()
    assert time.monotonic() - begin < 1.0
    assert helpers.query(folder, "SELECT sum(spans) FROM chunk") == [(15,)]


def test_many_records_are_flushed_at_once(recorded, monkeypatch):
    monkeypatch.setattr(_writer, "GATHER", 5.5)
    assert recorded().collect(5000).wait_until_written(within=5.0)


def test_what_is_stored_is_what_was_collected_since_the_start(recorded, folder, helpers):
    """To the nanosecond; of items, only those that did not complete."""
    run = recorded(2, run_id="r")
    spans, items = run.records(2)
    run.profiler.collect(spans[:3], [items[0], (1, 0, spans[2][3], spans[2][5], "filtered")])
    run.close()
    assert list(pystream_sqlite.recorded_spans("r")) == [
        (0, 0, 0, 0, 1_000_000, 3_000_000, "emitted"),
        (0, 1, 0, 50_000, 1_050_000, 3_050_000, "emitted"),
        (1, 0, 0, 3_000_000, 4_000_000, 6_000_000, "emitted"),
    ]
    ((layout, data),) = helpers.query(folder, "SELECT layout, data FROM chunk")
    ended = _chunk.ended_in(_chunk.from_row(layout, data))
    assert list(ended) == [(1, 0, 50_000, 3_050_000, "filtered")]
    assert helpers.query(folder, "SELECT spans, ended FROM chunk") == [(3, 1)]
    assert helpers.query(folder, "PRAGMA journal_mode") == [("wal",)]


def test_the_start_on_the_wall_clock_is_only_a_label(recorded, monkeypatch):
    """The wall clock is not read at all."""
    monkeypatch.setattr(time, "time", lambda: pytest.fail("the wall clock was read"))
    recorded(run_id="r").collect().close()
    assert [run.started_at for run in pystream_sqlite.recorded_runs()] == [1234.5]


def test_two_profilers_of_a_process_share_one_writer(recorded, folder, helpers):
    first, second = recorded().collect(4), recorded(3).collect(7)
    assert len([t for t in threading.enumerate() if t.name == "pystream-sqlite"]) == 1
    first.close()
    second.collect(1).close()
    assert [run.items for run in pystream_sqlite.recorded_runs()] == [4, 8]
    assert not (folder / "profiles.sqlite-wal").exists()


def test_one_profiler_sees_several_runs(recorded):
    run = recorded().collect(2)
    for number in range(3):
        again = recorded(run_id=f"again-{number}")
        again.close()
        run.profiler.opened(again.run)
        run.collect(5)
    assert run.profiler.summarize().stages["MainPipeline__Stage_1"].calls == 5
    run.close()
    assert [r.finished for r in pystream_sqlite.recorded_runs()] == [True] * 4


@pytest.mark.parametrize(
    "name",
    [
        "'; DROP TABLE span; --",
        '"quoted" \\ back',
        "中文 🎥 é",
        "x" * 500,
        "a\nb\t%s {0} ?",
        "\ud800 lone",
        "_",
    ],
)
def test_any_name_is_stored_unharmed(recorded, name):
    paths = (("MainPipeline", name), ("MainPipeline", name.swapcase() + "2"))
    recorded(paths=paths, run_id="r").collect(1).close()
    (run,) = pystream_sqlite.recorded_runs()
    assert run.stages == tuple("__".join(path) for path in paths)
    assert list(pystream_sqlite.read_profile("r").stages) == list(run.stages)


def test_names_that_differ_only_in_case_keep_apart(recorded):
    recorded(paths=(("MainPipeline", "a"), ("MainPipeline", "A")), run_id="r").collect(1).close()
    assert set(pystream_sqlite.read_profile("r").stages) == {"MainPipeline__a", "MainPipeline__A"}


def test_a_locked_database_costs_samples_and_one_warning(
    recorded, folder, caplog, helpers, monkeypatch
):
    monkeypatch.setattr(_writer, "BUSY_TIMEOUT", 0.05)
    monkeypatch.setattr(_writer, "LAST_BUSY_TIMEOUT", 0.1)
    recorded().collect().close()
    with closing(sqlite3.connect(folder / "profiles.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        run = recorded().collect(20)
        assert helpers.wait_until(lambda: helpers.warnings_in(caplog))
        begin = time.monotonic()
        run.collect(1).close()
        assert time.monotonic() - begin < 0.9
        other.execute("ROLLBACK")
    (warning,) = helpers.warnings_in(caplog)
    assert "locked" in warning
    assert figures_are_there(run).lost == 21 * 6


def test_what_waits_for_a_lock_is_written_when_it_is_gone(recorded, folder, helpers, caplog):
    recorded().collect().close()
    with closing(sqlite3.connect(folder / "profiles.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        run = recorded(run_id="r").collect(20)
        assert helpers.wait_until(lambda: helpers.warnings_in(caplog))
        other.execute("ROLLBACK")
    assert run.wait_until_written()
    assert run.profiler.summarize().lost == 0
    assert pystream_sqlite.read_profile("r").stages["MainPipeline__Stage_1"].calls == 20


def test_a_disk_that_refuses_for_long_bounds_what_waits(recorded, folder, monkeypatch):
    monkeypatch.setattr(_recording, "MOST_WAITING", 400)
    monkeypatch.setattr(_recording, "LARGEST", 50)
    monkeypatch.setattr(_recording, "MOST_UNPACKED", 200)
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("a file where the folder should be")
    run = recorded()
    for _ in range(20):
        run.collect(30)
        assert run.profiler._recording.waiting <= 400 + 200
    run.close()
    assert run.profiler._recording.waiting == 0
    assert figures_are_there(run).lost == 600 * 6


def test_unpacked_records_are_bounded_without_a_writer_that_packs(recorded, monkeypatch):
    """A batch of whatever size: the oldest are packed by who collects, in their order."""
    monkeypatch.setattr(_recording, "MOST_UNPACKED", 500)
    monkeypatch.setattr(_writer, "GATHER", 60.0)
    run = recorded(1, run_id="r")
    for items in [3] * 50 + [300, 5, 400, 7]:
        run.collect(items)
        assert run.profiler._recording._unpacked < 500
    run.close()
    assert [span[1] for span in pystream_sqlite.recorded_spans("r")] == list(range(862))


def test_a_burst_is_stored_as_a_whole(recorded, folder):
    """500,000 calls that come faster than a flush is due, while the disk is not ready."""
    run = recorded(5, run_id="r")
    folder.write_text("a file where the folder should be, as yet")
    for _ in range(5):
        run.collect(20_000)
    folder.unlink()
    assert run.profiler._recording.waiting == 600_000
    assert run.wait_until_written()
    run.close()
    assert run.profiler.summarize().lost == 0
    assert sum(1 for _ in pystream_sqlite.recorded_spans("r")) == 500_000


def test_what_waits_for_the_disk_takes_little_memory(recorded, folder):
    """Records wait packed: what may wait at most takes some 20 MB."""
    folder.write_text("a file where the folder should be")
    run = recorded(5)
    run.collect(10_000)
    chunks = run.profiler._recording.batch().chunks
    held = sum(
        sys.getsizeof(column.data)
        for chunk in chunks
        for section in chunk.sections
        for column in section.columns
    )
    assert held / 60_000 * _recording.MOST_WAITING <= 20_000_000


def test_a_file_in_place_of_the_folder_is_one_warning(recorded, folder, caplog, helpers):
    folder.write_text("")
    run = recorded().collect()
    assert helpers.wait_until(lambda: helpers.warnings_in(caplog))
    run.collect().close()
    (warning,) = helpers.warnings_in(caplog)
    assert "cannot write" in warning
    assert figures_are_there(run).lost == 120


def test_a_folder_that_vanishes_is_made_again(recorded, folder, caplog, helpers):
    run = recorded(run_id="r").collect()
    assert run.wait_until_written()
    shutil.rmtree(folder)
    run.collect().close()
    (warning,) = helpers.warnings_in(caplog)
    assert "begins a new one" in warning
    assert helpers.query(folder, "SELECT sum(spans) FROM chunk") == [(50,)]
    assert pystream_sqlite.read_profile("r").stages["MainPipeline__Stage_1"].calls == 20


def test_a_database_replaced_by_another_is_not_harmed(recorded, folder, helpers, monkeypatch):
    kept = []
    monkeypatch.setattr(_writer, "_replaced", kept)
    run = recorded(run_id="r").collect()
    assert run.wait_until_written()
    for file in folder.iterdir():
        file.unlink()
    with closing(sqlite3.connect(folder / "profiles.sqlite")) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("CREATE TABLE theirs (x)")
        other.commit()
        run.collect().close()
        other.execute("INSERT INTO theirs VALUES (1)")
        other.commit()
    assert helpers.query(folder, "SELECT x FROM theirs") == [(1,)]
    assert helpers.query(folder, "PRAGMA integrity_check") == [("ok",)]
    assert len(kept) == 1
    kept[0].close()


@pytest.mark.parametrize("damage", ["header", "tables"])
def test_a_damaged_file_is_moved_aside(recorded, folder, caplog, helpers, damage):
    recorded().collect(2000).close()
    file = folder / "profiles.sqlite"
    content = bytearray(file.read_bytes())
    begin = 0 if damage == "header" else 100
    content[begin : begin + 4000] = b"\xa5" * 4000
    file.write_bytes(content)
    for number in (1, 2):
        recorded(run_id="new").collect().close()
        assert (folder / "profiles.sqlite.damaged-1").read_bytes() == content
        assert len(helpers.warnings_in(caplog)) == 1
        assert [run.id for run in pystream_sqlite.recorded_runs()] == ["new"], number
    assert "damaged-1" in helpers.warnings_in(caplog)[0]


def test_a_database_of_a_newer_version_is_left_alone(recorded, folder, caplog, helpers):
    folder.mkdir()
    with closing(sqlite3.connect(folder / "profiles.sqlite")) as other:
        other.execute("CREATE TABLE future (x)")
        other.execute(f"PRAGMA user_version = {len(_schema.MIGRATIONS) + 1}")
    run = recorded().collect()
    assert helpers.wait_until(lambda: helpers.warnings_in(caplog))
    run.collect().close()
    (warning,) = helpers.warnings_in(caplog)
    assert "leaves" in warning
    assert figures_are_there(run).lost == 120
    assert helpers.query(folder, "SELECT name FROM sqlite_master") == [("future",)]


def test_a_full_disk_is_one_warning(tmp_path):
    """A limit on the size of files stands in for a full disk."""
    code = f"""
import resource, signal, time
import pystream_sqlite
from pystream_core import RunInfo, Statistics
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
pystream_sqlite.set_profiler_db_folder({str(tmp_path)!r})
profiler = pystream_sqlite.SQLiteProfiler()
profiler.opened(RunInfo(id="r", stages=(("M", "A"),), workers=(1,), executor="x",
                        started_ns=0, started_at=0.0))
for begin in range(0, 100_000, 10_000):
    profiler.collect([(0, s, 0, s, s + 1000, s + 2000, "emitted")
                      for s in range(begin, begin + 10_000)], [])
profiler.closed(Statistics())
profile = profiler.summarize()
print(profile.stages["M__A"].calls, profile.lost > 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["100000", "True"]
    assert done.stderr.count("\n") == 1, done.stderr
    assert "cannot write" in done.stderr
    with closing(sqlite3.connect(tmp_path / "profiles.sqlite")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_writer_without_a_thread_is_one_warning(recorded, monkeypatch, caplog, helpers, folder):
    def refuse(folder):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("pystream_sqlite._profiler.join_writer", refuse)
    run = recorded().collect().close()
    assert figures_are_there(run)
    assert len(helpers.warnings_in(caplog)) == 1
    assert not folder.exists()


def test_a_disk_that_hangs_does_not_hold_the_end(recorded, monkeypatch, caplog, helpers):
    release = threading.Event()
    monkeypatch.setattr(_writer, "store", lambda *_: release.wait(10))
    monkeypatch.setattr("pystream_sqlite._profiler.CLOSE_TIMEOUT", 0.05)
    run = recorded().collect().close()
    assert "left behind" in helpers.warnings_in(caplog)[0]
    assert figures_are_there(run)
    release.set()


def test_the_collecting_thread_never_enters_the_storage_code(recorded, monkeypatch):
    threads = set()
    for name in ("connect",):
        original = getattr(sqlite3, name)

        def seen(*args, _original=original, **options):
            threads.add(threading.current_thread().name)
            return _original(*args, **options)

        monkeypatch.setattr(sqlite3, name, seen)
    recorded().collect(5000).collect().close()
    assert threads == {"pystream-sqlite"}


def test_a_profiler_that_is_dropped_frees_its_writer(recorded, monkeypatch):
    run = recorded()
    run.collect()
    gone = weakref.ref(run.profiler)
    monkeypatch.setattr(run, "close", lambda: None)
    del run.profiler
    gc.collect()
    assert gone() is None  # and no writer is left, as the fixture checks


def test_lost_records_are_counted(recorded):
    run = recorded(run_id="r")
    run.profiler.lost(5)
    run.collect().close()
    assert run.profiler.summarize().lost == 5
    assert pystream_sqlite.read_profile("r").lost == 5


def test_a_run_that_ends_waits_for_the_lock_of_another_process(recorded, folder, caplog):
    """There is no later attempt for its last records, and closed() waits a second anyway."""
    recorded().collect().close()
    run = recorded()
    other = sqlite3.connect(
        folder / "profiles.sqlite", isolation_level=None, check_same_thread=False
    )
    with closing(other):
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.4, other.rollback)
        release.start()
        run.collect(100).close()
        release.join()
    assert run.profiler.summarize().lost == 0
    assert pystream_sqlite.read_profile(run.run.id).stages["MainPipeline__Stage_1"].calls == 100
    assert caplog.records == []


def test_two_processes_share_a_folder(tmp_path, folder):
    code = f"""
import sys
import pystream_sqlite
from pystream_core import RunInfo, Statistics
pystream_sqlite.set_profiler_db_folder({str(folder)!r})
profiler = pystream_sqlite.SQLiteProfiler()
profiler.opened(RunInfo(id=sys.argv[1], stages=(("M", "A"),), workers=(1,), executor="x",
                        started_ns=0, started_at=0.0))
print("ready", flush=True)
sys.stdin.readline()
for begin in range(0, 2000, 100):
    profiler.collect([(0, s, 0, s, s + 1000, s + 2000, "emitted")
                      for s in range(begin, begin + 100)], [])
profiler.closed(Statistics())
print(profiler.summarize().lost)
"""
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, f"run-{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    assert [child.communicate()[:2] for child in children] == [("0\n", "")] * 3
    for number in range(3):
        assert pystream_sqlite.read_profile(f"run-{number}").stages["M__A"].calls == 2000


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs fork")
def test_a_forked_child_has_a_writer_of_its_own(folder):
    code = f"""
import os, warnings
warnings.simplefilter("ignore")
import pystream_sqlite
from pystream_core import RunInfo, Statistics
pystream_sqlite.set_profiler_db_folder({str(folder)!r})
def run(name):
    return RunInfo(id=name, stages=(("M", "A"),), workers=(1,), executor="x",
                   started_ns=0, started_at=0.0)
spans = [(0, s, 0, s, s + 1000, s + 2000, "emitted") for s in range(100)]
profiler = pystream_sqlite.SQLiteProfiler()
profiler.opened(run("parent"))
profiler.collect(spans, [])
while profiler._recording.waiting:
    pass
profiler.collect(spans, [])
child = os.fork()
if not child:
    profiler.collect(spans, [])  # ignored: the run is the parent's
    assert profiler.summarize().stages["M__A"].calls == 200
    profiler.closed(Statistics())
    other = pystream_sqlite.SQLiteProfiler()
    other.opened(run("child"))
    other.collect(spans, [])
    other.closed(Statistics())
    profiler.opened(run("again"))
    profiler.collect(spans, [])
    profiler.closed(Statistics())
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
profiler.collect(spans, [])
profiler.closed(Statistics())
for name in ("parent", "child", "again"):
    print(pystream_sqlite.read_profile(name).stages["M__A"].calls)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == (["300", "100", "100"], "")


def kill_once(folder, number, after):
    """Record without pause in a child, kill it, and return what it had reported."""
    code = """
import sys, time
import pystream_sqlite
from pystream_core import RunInfo, Ticker
pystream_sqlite.set_profiler_db_folder(sys.argv[1])
profiler = pystream_sqlite.SQLiteProfiler()
profiler.opened(RunInfo(id=sys.argv[2], stages=(("M", "A"),), workers=(1,), executor="x",
                        started_ns=time.perf_counter_ns(), started_at=0.0))
seq = 0
paced = Ticker(0.002)
while paced.wait_tick():
    now = time.perf_counter_ns()
    profiler.collect([(0, seq + s, 0, now, now, now + 1000, "emitted") for s in range(100)], [])
    seq += 100
    print(seq, time.monotonic(), flush=True)
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(folder), f"run-{number}-"],
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        reports = [child.stdout.readline()]
        begin = time.monotonic()
        while time.monotonic() - begin < after:
            reports.append(child.stdout.readline())
        child.kill()
        killed = time.monotonic()
        reports += child.stdout.read().splitlines()
    pairs = [line.split() for line in reports if len(line.split()) == 2]
    return max((int(seq) for seq, at in pairs if float(at) < killed - 1.0), default=0)


def check_kills(folder, helpers, kills, rng):
    for number in range(kills):
        flushed = kill_once(folder, number, after=rng.uniform(0.6, 1.4))
        assert helpers.query(folder, "PRAGMA integrity_check") == [("ok",)]
        found = [r for r in pystream_sqlite.recorded_runs() if r.id == f"run-{number}-"]
        if not flushed and not found:  # killed before its first flush was due
            continue
        (run,) = found
        assert not run.finished
        calls = pystream_sqlite.read_profile(run.id).stages["M__A"].calls
        assert calls >= flushed


def test_a_kill_leaves_a_sound_file_and_costs_one_flush_at_most(folder, helpers):
    import random

    check_kills(folder, helpers, 2, random.Random(1))


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_fifty_kills_leave_a_sound_file(folder, helpers):
    import random

    check_kills(folder, helpers, 50, random.Random(2))
    assert 0 < len(pystream_sqlite.recorded_runs()) <= _store.MOST_RUNS
