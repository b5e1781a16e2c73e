"""Goal 7: a profiler that may stay on."""

from __future__ import annotations

import statistics
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pystream
import pystreams
from figures import Figure, Outcome
from measuring import Settings, Stage, same, take_turns
from original import original
from pystream_sqlite import recorded_runs, recorded_spans

STAGES = 5
CALL = 100  # us: what a stage takes that is worth profiling


class Stored:
    """A profiled serial run and what is on disk after it.

    Attributes:
        micros: us per item of which all spans are stored, from the first one to the end of
            ``cleanup``, which stores the rest.
        spans: stored spans as a share of all.
        bytes: of the file, per item of which all spans are stored.
        summary: seconds of the ``profile()`` right after the last item.
    """

    def __init__(self, items: int) -> None:
        with _folder() as folder:
            pipeline = pystreams.described([same] * STAGES, profiled=True).serialize()
            pipeline.start()
            begin = time.perf_counter()
            for _ in pipeline.stream(range(items)):
                pass
            asked = time.perf_counter()
            pipeline.profile()
            self.summary = time.perf_counter() - asked
            pipeline.cleanup()
            took = time.perf_counter() - begin - self.summary
            stored = _spans(folder) / STAGES
            self.micros = took / stored * 1e6
            self.spans = stored / items
            self.bytes = sum(file.stat().st_size for file in folder.iterdir()) / stored


@contextmanager
def _folder() -> Iterator[Path]:
    """Profiles go to an empty folder meanwhile."""
    before = pystream.get_profiler_db_folder()
    with tempfile.TemporaryDirectory() as name:
        pystream.set_profiler_db_folder(name)
        try:
            yield Path(name)
        finally:
            pystream.set_profiler_db_folder(before)


def _spans(folder: Path) -> int:
    """How many are stored, read back one by one."""
    runs = recorded_runs(folder)
    return sum(1 for run in runs for _ in recorded_spans(run.id, folder))


def cost(
    stages: Sequence[Stage], items: int, clock: Callable[[], float], *, profiled: bool
) -> float:
    """Microseconds of the given clock that an item takes in a serial stream."""
    with _folder(), pystreams.described(stages, profiled=profiled).serialize() as pipeline:
        pipeline.start()
        begin = clock()
        for _ in pipeline.stream(range(items)):
            pass
        return (clock() - begin) / items * 1e6


def counting(size: int) -> Stage:
    """A stage that holds the interpreter lock. (A loop in Python would do, but how fast that runs
    changes by several per cent with the calls around it.)"""
    data = bytes(size)

    def count(item: Any) -> Any:
        data.count(b"x")
        return item

    return count


def checking(size: int) -> Stage:
    """A stage that releases the interpreter lock."""
    data = bytes(size)

    def check(item: Any) -> Any:
        zlib.crc32(data)
        return item

    return check


def lasting(make: Callable[[int], Stage]) -> Stage:
    """The stage with the number that makes it last as long as it should."""
    number = 50_000
    for _ in range(3):
        number = max(int(number * CALL / min(_call_times(make(number)))), 1)
    return make(number)


def _call_times(stage: Stage) -> Iterable[float]:
    for _ in range(50):
        begin = time.perf_counter()
        stage(None)
        yield (time.perf_counter() - begin) * 1e6


def measure(settings: Settings) -> Outcome:
    many = settings.items(100_000)
    figures, missing = _storing(settings, many)
    return Outcome(
        "profiler on, every span stored",
        [*figures, *_hot_path(settings, many // 2), *_share(settings)],
        missing,
    )


def _storing(settings: Settings, items: int) -> tuple[list[Figure], dict[str, str]]:
    runs: list[Stored] = []

    def ours() -> float:
        runs.append(Stored(items))
        return runs[-1].micros

    def theirs() -> float:
        with original() as child:
            return float(child.ask("pushed", settings.items(400), True))

    rounds = take_turns({"ours": ours, "theirs": theirs}, settings.rounds)
    figures = [
        Figure(
            "pystream-pipeline / stream(), per item stored",
            rounds.ratio("theirs", "ours"),
            "x",
            at_least=100,
        ),
        Figure("stream()", rounds.median("ours"), "us/item stored"),
        Figure("pystream-pipeline", rounds.median("theirs"), "us/item"),
        Figure(
            "spans stored, worst round", 100 * min(run.spans for run in runs), "%", at_least=100
        ),
        Figure("on disk", max(run.bytes for run in runs), "bytes/item", at_most=130),
        Figure(
            f"profile() over {items:,} items",
            statistics.median(run.summary for run in runs),
            "s",
            at_most=0.3,
        ),
    ]
    return figures, rounds.missing


def _hot_path(settings: Settings, items: int) -> list[Figure]:
    """What a stage and item cost more: CPU of the thread that runs them, and on the clock."""
    figures = []
    for name, clock, limit in (
        ("CPU of the stage's thread", time.thread_time, 1.0),
        ("on the clock", time.perf_counter, None),
    ):
        rounds = take_turns(
            {
                "off": partial(cost, [same] * STAGES, items, clock, profiled=False),
                "on": partial(cost, [same] * STAGES, items, clock, profiled=True),
            },
            settings.rounds,
        )
        added = (rounds.median("on") - rounds.median("off")) / STAGES
        figures.append(Figure(f"added per stage and item, {name}", added, "us", at_most=limit))
    return figures


def _share(settings: Settings) -> list[Figure]:
    figures = []
    for name, make in (("hold", counting), ("release", checking)):
        stages = [lasting(make)] * STAGES
        items = settings.items(500)
        rounds = take_turns(
            {
                "off": partial(cost, stages, items, time.perf_counter, profiled=False),
                "on": partial(cost, stages, items, time.perf_counter, profiled=True),
            },
            settings.rounds * 3,  # one in a hundred is hard to see on a noisy machine
        )
        figures.append(
            Figure(
                f"added to stages of {CALL} us that {name} the interpreter lock",
                (rounds.ratio("on", "off") - 1) * 100,
                "%",
                at_most=1,
            )
        )
    return figures
