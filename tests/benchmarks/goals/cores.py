"""Goal 5: stages that release the interpreter lock use both cores."""

from __future__ import annotations

import time
import zlib
from functools import partial

import chains
import peers
import pystreams
from figures import Figure, Outcome
from measuring import Runner, Settings, take_turns

FRAME = bytes(range(250)) * (6_000_000 // 250)


def compress(frame: bytes) -> bytes:
    zlib.compress(frame, 1)
    return frame


def measure(settings: Settings) -> Outcome:
    frames = settings.items(40)

    def seconds(runner: Runner) -> float:
        begin = time.perf_counter()
        with runner([FRAME] * frames, [compress] * 3) as results:
            assert sum(1 for _ in results) == frames
            return time.perf_counter() - begin

    rounds = take_turns(
        {
            "serial": partial(seconds, pystreams.serial),
            "threads": partial(seconds, pystreams.threads),
            "queue.Queue(64)": partial(seconds, chains.bounded),
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
                for name in ("queue.Queue(64)", "pypeln", "SPDL")
            ),
        ],
        rounds.missing,
    )
