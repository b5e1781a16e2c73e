"""What a pipeline costs by being there: CPU while idle, memory after many items.

Imported by a child process of its own, so that nothing else is in the figures.
"""

from __future__ import annotations

import gc
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
