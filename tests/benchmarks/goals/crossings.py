"""Goal 11: stages in worker processes."""

from __future__ import annotations

import itertools
import mmap
import statistics
import time
from functools import partial
from typing import Any

import chains
import peers
import pystreams
from children import Child
from figures import Figure, Outcome
from measuring import Runner, Settings, portion_by_portion, same, take_turns

STAGES = 3
SHAPE = (1080, 1920, 3)  # 6.2 MB
WARM = 20  # items of a peer before the clock starts: processes are up, memory is there
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
        for _ in range(WARM):
            next(arrived)
        begin = time.perf_counter()
        count = sum(map(_one, arrived))
        took = time.perf_counter() - begin
    assert count == len(source) - WARM
    return took / count


def _one(_: Any) -> int:
    return 1


class Copies:
    """Copies of a frame into a few places in turn, which are there before the clock starts."""

    def __init__(self, frame: Any, *, to_share: bool) -> None:
        import numpy as np

        if to_share:  # memory that other processes can see: its pages are small ones on most
            length = -(-frame.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE  # systems
            memory = mmap.mmap(-1, 8 * length)
            places = [
                np.frombuffer(memory, frame.dtype, frame.size, number * length)
                for number in range(8)
            ]
        else:
            places = [np.empty(frame.size, frame.dtype) for _ in range(8)]
        for place in places:
            place[:] = 1
        self._places = itertools.cycle([place.reshape(frame.shape) for place in places])
        self._frame = frame

    def take(self, frames: int) -> float:
        """Seconds of so many copies."""
        import numpy as np

        begin = time.perf_counter()
        for place in itertools.islice(self._places, frames):
            np.copyto(place, self._frame)
        return time.perf_counter() - begin


def frames_and_copies(settings: Settings, frame: Any) -> dict[str, float]:
    """Seconds per frame in three processes, and of one copy of it."""
    taken = portion_by_portion(
        pystreams.processes,
        [touch] * STAGES,
        frame,
        portion=settings.items(2000),
        portions=3,
        warm=WARM_TIME,
        beside={
            "one copy": Copies(frame, to_share=False).take,
            "one copy to share": Copies(frame, to_share=True).take,
        },
    )
    return {"frames": taken.pop("runner"), **taken}


def compute_many(items: int, loops: int) -> None:
    for item in range(items):
        compute(loops, item)


def computing(settings: Settings, runner: Runner, what: str, loops: int) -> dict[str, float]:
    """Seconds per item of two stages that compute, and ideally: of two processes that compute as
    much and hand nothing on."""
    with Child(__name__) as one, Child(__name__) as other:

        def unconnected(items: int) -> float:
            begin = time.perf_counter()
            for child in (one, other):
                child.begin("compute_many", items, loops)
            for child in (one, other):
                child.answer()
            return time.perf_counter() - begin

        unconnected(1)
        taken = portion_by_portion(
            runner,
            [partial(compute, loops)] * 2,
            0,
            portion=50,
            portions=settings.items(80) // 10,
            warm=BUSY * 50,
            beside={"ideal": unconnected},
        )
    return {what: taken["runner"], f"{what}, ideal": taken["ideal"]}


def measure(settings: Settings) -> Outcome:
    import numpy as np

    frame = np.ones(SHAPE, np.uint8)
    few = [frame] * (WARM + settings.items(60))
    loops = loops_of(BUSY)
    rounds = take_turns(
        {
            "frames and copies": partial(frames_and_copies, settings, frame),
            "frames, pypeln": partial(per_item, peers.pypeln_processes, few, [touch] * STAGES),
            "frames, queues": partial(per_item, chains.processes, few, [touch] * STAGES),
            "in processes": partial(computing, settings, pystreams.processes, "processes", loops),
            "in threads": partial(computing, settings, pystreams.threads, "threads", loops),
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
                rounds.ratio("processes, ideal", "processes"),
                "of ideal",
                at_least=0.85,
            ),
            Figure("the same in threads", rounds.ratio("threads, ideal", "threads"), "of ideal"),
            Figure("a small item there and back", rounds.median("small") * 1e6, "us", at_most=150),
        ],
        rounds.missing,
    )
