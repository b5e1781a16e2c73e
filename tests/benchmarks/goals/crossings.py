"""Goal 11: stages in worker processes."""

from __future__ import annotations

import itertools
import mmap
import multiprocessing
import statistics
import time
from functools import partial
from typing import Any

import chains
import peers
import pystreams
from figures import Figure, Outcome
from measuring import Runner, Settings, same, take_turns

STAGES = 3
SHAPE = (1080, 1920, 3)  # 6.2 MB
WARM = 20  # items before the clock starts, at least: processes are up, memory is there
WARM_TIME = 1.0  # seconds; numpy's own threads rest by then, and blocks lent often are huge pages
BUSY = 0.005  # seconds


def touch(frame: Any) -> Any:
    frame[::64] += 1
    return frame


def compute(loops: int, item: int) -> int:
    """Pure Python for as long as the loops take."""
    for _ in range(loops):
        pass
    return item


def loops_of(busy: float) -> int:
    """How many loops take so many seconds of this machine when it has nothing else to do. To be
    asked once: a process that found out for itself would have other work than the next one."""

    def seconds(loops: int) -> float:
        begin = time.perf_counter()
        for _ in range(loops):
            pass
        return time.perf_counter() - begin

    loops = 100_000
    return int(loops * busy / statistics.median(seconds(loops) for _ in range(9)))


def per_item(runner: Runner, source: list[Any], stages: list[Any]) -> float:
    """Seconds per item, once it is running; the reader lets go of each at once."""
    with runner(source, stages) as results:
        arrived = iter(results)
        first = time.perf_counter()
        warm = 0
        while warm < WARM or (warm < len(source) // 2 and time.perf_counter() - first < WARM_TIME):
            next(arrived)
            warm += 1
        begin = time.perf_counter()
        count = sum(map(_one, arrived))
        took = time.perf_counter() - begin
    assert count == len(source) - warm
    return took / count


def _one(_: Any) -> int:
    return 1


def one_copy(frame: Any, frames: int) -> float:
    """Seconds per copy of a frame into memory that is there, a few places in turn."""
    import numpy as np

    return _copies(frame, [np.ones_like(frame) for _ in range(8)], frames)


def one_copy_to_share(frame: Any, frames: int) -> float:
    """The same into memory that other processes can see: its pages are small ones on most
    systems, and looking them up takes time."""
    import numpy as np

    length = -(-frame.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, 8 * length)
    places = [
        np.frombuffer(memory, frame.dtype, frame.size, number * length).reshape(frame.shape)
        for number in range(8)
    ]
    for place in places:
        place[:] = 1
    return _copies(frame, places, frames)


def _copies(frame: Any, places: list[Any], frames: int) -> float:
    import numpy as np

    begin = time.perf_counter()
    for place in itertools.islice(itertools.cycle(places), frames):
        np.copyto(place, frame)
    return (time.perf_counter() - begin) / frames


def unconnected(items: int, loops: int) -> float:
    """Seconds per item of two processes that compute and hand nothing on."""
    workers = [multiprocessing.Process(target=_compute_many, args=(items, loops)) for _ in range(2)]
    begin = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return (time.perf_counter() - begin) / items


def _compute_many(items: int, loops: int) -> None:
    for item in range(items):
        compute(loops, item)


def measure(settings: Settings) -> Outcome:
    import numpy as np

    frame = np.ones(SHAPE, np.uint8)
    ours = pystreams.processes
    many, few = [frame] * settings.items(5000), [frame] * (WARM + settings.items(60))
    loops = loops_of(BUSY)
    computing = [partial(compute, loops)] * 2
    numbers = list(range(WARM + settings.items(200)))
    rounds = take_turns(
        {
            "frames": partial(per_item, ours, many, [touch] * STAGES),
            "one copy": partial(one_copy, frame, len(many)),
            "one copy to share": partial(one_copy_to_share, frame, len(many)),
            "frames, pypeln": partial(per_item, peers.pypeln_processes, few, [touch] * STAGES),
            "frames, queues": partial(per_item, chains.processes, few, [touch] * STAGES),
            "computing": partial(per_item, ours, numbers, computing),
            "ideal": partial(unconnected, len(numbers) - WARM, loops),
            "computing, threads": partial(per_item, pystreams.threads, numbers, computing),
            "small": partial(
                per_item, pystreams.serial_in_processes, [1] * settings.items(5000), [same]
            ),
        },
        settings.rounds,
    )

    def rate(subject: str) -> float:
        return 1 / rounds.median(subject)

    return Outcome(
        "stages in worker processes",
        [
            Figure(
                "1080p frames, three stages: pypeln / ours",
                rounds.ratio("frames, pypeln", "frames"),
                "x",
                at_least=20,
            ),
            Figure(
                "rate / that of one copy of the frame",
                rounds.ratio("one copy", "frames"),
                "x",
                at_least=0.8,
            ),
            Figure("ours", rate("frames"), "frames/s"),
            Figure("pypeln", rate("frames, pypeln"), "frames/s"),
            Figure("multiprocessing.Queue by hand", rate("frames, queues"), "frames/s"),
            Figure("one copy of the frame", rate("one copy"), "frames/s"),
            Figure(
                "one copy into memory that can be shared", rate("one copy to share"), "frames/s"
            ),
            Figure(
                "two stages of 5 ms in Python: throughput",
                rounds.ratio("ideal", "computing"),
                "of ideal",
                at_least=0.85,
            ),
            Figure("the same in threads", rounds.ratio("ideal", "computing, threads"), "of ideal"),
            Figure("a small item there and back", rounds.median("small") * 1e6, "us", at_most=150),
        ],
        rounds.missing,
    )
