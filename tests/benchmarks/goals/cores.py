"""Goal 5: stages that release the interpreter lock use both cores."""

from __future__ import annotations

import threading
import time
import zlib
from functools import partial

import chains
import peers
import pystreams
from figures import Figure, Outcome
from measuring import Runner, Settings, take_turns

STAGES = 3
FRAME = bytes(range(250)) * (6_000_000 // 250)


def compress(frame: bytes) -> bytes:
    zlib.compress(frame, 1)
    return frame


def unconnected(frames: int) -> float:
    """Seconds of two threads that share the work and hand nothing on: what the machine, busy
    as it may be, has to give."""

    def work() -> None:
        for _ in range(frames * STAGES // 2):
            compress(FRAME)

    threads = [threading.Thread(target=work) for _ in range(2)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begin


def measure(settings: Settings) -> Outcome:
    frames = settings.items(40)

    def seconds(runner: Runner) -> float:
        begin = time.perf_counter()
        with runner([FRAME] * frames, [compress] * STAGES) as results:
            assert sum(1 for _ in results) == frames
            return time.perf_counter() - begin

    rounds = take_turns(
        {
            "serial": partial(seconds, pystreams.serial),
            "threads": partial(seconds, pystreams.threads),
            "queue.Queue(64)": partial(seconds, chains.bounded),
            "two unconnected threads": partial(unconnected, frames),
            "pypeln": partial(seconds, peers.pypeln),
            "SPDL": partial(seconds, peers.spdl),
        },
        settings.rounds,
    )
    return Outcome(
        "zlib on frames of 6 MB, three stages, two cores",
        [
            Figure("serial / threads", rounds.ratio("serial", "threads"), "x", at_least=1.75),
            *(
                Figure(f"serial / {name}", rounds.ratio("serial", name), "x")
                for name in ("two unconnected threads", "queue.Queue(64)", "pypeln", "SPDL")
            ),
        ],
        rounds.missing,
    )
