"""Measurements that use the documented API alone, so that the original PyStream runs them, too.

Imported by a child process of either; nothing here may need anything that only one of them has.
"""

from __future__ import annotations

import itertools
import statistics
import time
from typing import Any

import pystream
from measuring import same

WARM_UP = 0.2


def pushed(items: int, profiled: bool) -> float:
    """Microseconds per item of ``forward`` and ``get_results``, serial, five trivial stages."""
    pipeline = _described(5, use_profiler=profiled).serialize()
    pipeline.forward(0)
    pipeline.get_results()
    begin = time.perf_counter()
    for item in range(items):
        pipeline.forward(item)
        pipeline.get_results()
    took = time.perf_counter() - begin
    pipeline.cleanup()
    return took / items * 1e6


def ticks(period: float, seconds: float) -> dict[str, float]:
    """The loop over one trivial stage: its rate as a share of the nominal one, the median
    deviation of an interval (us), and CPU per tick (us)."""
    stamps: list[float] = []
    pipeline = pystream.Pipeline(input_generator=lambda: stamps.append(time.perf_counter()))
    pipeline.add(same)
    pipeline.serialize()
    pipeline.start_loop(period)
    time.sleep(WARM_UP)  # what is loaded at the start is no part of a tick
    cpu, before = time.process_time(), len(stamps)
    time.sleep(seconds)
    cpu, ticked = time.process_time() - cpu, len(stamps) - before
    pipeline.stop_loop()
    pipeline.cleanup()
    intervals = [later - earlier for earlier, later in itertools.pairwise(stamps[before:])]
    return {
        "rate": period / statistics.mean(intervals),
        "jitter": statistics.median(abs(each - period) for each in intervals) * 1e6,
        "cpu": cpu / ticked * 1e6,
    }


def start_and_stop() -> dict[str, float]:
    """Ten stages in threads: ms from ``parallelize`` to the first result, ms of idle cleanup."""
    pipeline = _described(10)
    begin = time.perf_counter()
    pipeline.parallelize(block_output=True)
    pipeline.forward(1)
    result = pipeline.get_results()
    first = time.perf_counter() - begin
    assert result == 1
    begin = time.perf_counter()
    pipeline.cleanup()
    return {"first": first * 1e3, "cleanup": (time.perf_counter() - begin) * 1e3}


def _described(stages: int, **options: Any) -> pystream.Pipeline:
    pipeline = pystream.Pipeline(**options)
    for _ in range(stages):
        pipeline.add(same)
    return pipeline
