"""What an item costs, beside a bare loop and hand-written chains. Not a test; run by hand:

    python tests/benchmarks/cost.py [--items 50000] [--rounds 5]

The subjects take turns in every round, and the table shows medians, since machines are noisy.
"""

from __future__ import annotations

import argparse
import itertools
import queue
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import pystream

STAGES = 5


def same(item: int) -> int:
    return item


def bare(items: int) -> None:
    stages = [same] * STAGES
    for item in range(items):
        for stage in stages:
            item = stage(item)


def pipeline(mode: str, *, profiled: bool = False) -> pystream.Pipeline:
    made = pystream.Pipeline(use_profiler=profiled)
    for _ in range(STAGES):
        made.add(same)
    made.serialize() if mode == "serial" else made.parallelize()
    made.start()
    return made


def streamed(mode: str, *, profiled: bool = False) -> Callable[[int], float]:
    def measure(items: int) -> float:
        with pipeline(mode, profiled=profiled) as made:
            begin = time.perf_counter()
            for _ in made.stream(range(items)):
                pass
            took = time.perf_counter() - begin
            assert made.statistics().completed == items
        return took

    return measure


def pushed(items: int) -> float:
    with pipeline("serial") as made:
        begin = time.perf_counter()
        for item in range(items):
            made.forward(item)
            made.get_results()
        return time.perf_counter() - begin


def chained(make: Callable[[], Any]) -> Callable[[int], float]:
    """A chain of threads and queues as one writes it by hand."""

    def work(source: Any, target: Any) -> None:
        while (item := source.get()) is not None:
            target.put(same(item))
        target.put(None)

    def feed(target: Any, items: int) -> None:
        for item in range(items):
            target.put(item)
        target.put(None)

    def measure(items: int) -> float:
        queues = [make() for _ in range(STAGES + 1)]
        threads = [threading.Thread(target=work, args=ends) for ends in itertools.pairwise(queues)]
        threads.append(threading.Thread(target=feed, args=(queues[0], items)))
        begin = time.perf_counter()
        for thread in threads:
            thread.start()
        while queues[-1].get() is not None:
            pass
        took = time.perf_counter() - begin
        for thread in threads:
            thread.join()
        return took

    return measure


def timed(function: Callable[[int], None]) -> Callable[[int], float]:
    def measure(items: int) -> float:
        begin = time.perf_counter()
        function(items)
        return time.perf_counter() - begin

    return measure


def idle_cleanup(_: int) -> float:
    """Seconds from an idle pipeline of ten stages to nothing left."""
    made = pystream.Pipeline()
    for _stage in range(10):
        made.add(same)
    made.parallelize().start()
    made.run([1])
    begin = time.perf_counter()
    made.cleanup()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    pystream.set_profiler_db_folder(tempfile.mkdtemp())
    subjects: dict[str, Callable[[int], float]] = {
        "bare loop": timed(bare),
        "serial, stream()": streamed("serial"),
        "serial, forward() and get_results()": pushed,
        "serial, stream(), profiler": streamed("serial", profiled=True),
        "threads, stream()": streamed("threads"),
        "threads, stream(), profiler": streamed("threads", profiled=True),
        "threads by hand, queue.Queue(64)": chained(lambda: queue.Queue(64)),
        "threads by hand, unbounded SimpleQueue": chained(queue.SimpleQueue),
    }
    took: dict[str, list[float]] = {name: [] for name in subjects}
    cleanups = []
    for _ in range(arguments.rounds):
        for name, measure in subjects.items():
            took[name].append(measure(arguments.items) / arguments.items * 1e6)
        cleanups.append(idle_cleanup(0) * 1e3)
    base = statistics.median(took["bare loop"])
    print(f"{STAGES} trivial stages, {arguments.items} items, median of {arguments.rounds}")
    for name, each in took.items():
        median = statistics.median(each)
        print(f"{name:42} {median:8.2f} us/item {median / base:8.1f} x bare loop")
    print(f"idle cleanup of 10 threaded stages {statistics.median(cleanups):15.2f} ms")


if __name__ == "__main__":
    main()
