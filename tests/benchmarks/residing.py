"""What a pipeline costs by being there: CPU while idle, memory after many items; and what
merely waking up costs.

Imported by a child process of its own, so that nothing else is in the figures.
"""

from __future__ import annotations

import gc
import threading
import time
from pathlib import Path

import pystreams
from measuring import same


def idle_cpu(seconds: float) -> float:
    """Milliseconds of CPU per second of ten idle stages in threads."""
    with pystreams.described([same] * 10).parallelize() as pipeline:
        pipeline.run([1])
        begin = time.process_time()
        time.sleep(seconds)
        return (time.process_time() - begin) / seconds * 1e3


def waking_cpu(period: float, seconds: float) -> float:
    """Microseconds of CPU per tick of a thread that only sleeps until each tick."""
    ticked = 0

    def tick() -> None:
        nonlocal ticked
        begin = time.perf_counter()
        while (now := time.perf_counter() - begin) < seconds:
            ticked += 1
            time.sleep(max(ticked * period - now, 0))

    thread = threading.Thread(target=tick)
    cpu = time.process_time()
    thread.start()
    thread.join()
    return (time.process_time() - cpu) / ticked * 1e6


def memory_growth(mode: str, items: int) -> float:
    """Megabytes that the process has grown by when the items are through; before, a tenth as
    many go through to warm it up."""
    pipeline = pystreams.described([same] * 5)
    with pipeline.serialize() if mode == "serial" else pipeline.parallelize():
        pipeline.run(range(items // 10))
        gc.collect()
        before = _resident()
        pipeline.run(range(items))
        gc.collect()
        return (_resident() - before) / 1e6


def _resident() -> int:
    """Bytes of memory in use. Linux only."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024
