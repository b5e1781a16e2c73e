"""Goal 6: several workers on a slow stage multiply its rate, and the order stays."""

from __future__ import annotations

import time
from functools import partial

import pystreams
from figures import Figure, Outcome
from measuring import Settings, same, take_turns, time_per_item

WORKERS = 4


def slow(item: int) -> int:
    time.sleep(0.005)
    return item


STAGES = [same, slow, same]


def measure(settings: Settings) -> Outcome:
    items = settings.items(400)
    rounds = take_turns(
        {
            "one": partial(time_per_item, pystreams.threads, items, STAGES),
            "four": partial(
                time_per_item, pystreams.threads_with_workers(1, WORKERS), items, STAGES
            ),
        },
        settings.rounds,
    )
    return Outcome(
        "four workers on the slow one of three stages, ordered",
        [Figure("one worker / four", rounds.ratio("one", "four"), "x", at_least=3.6)],
        rounds.missing,
    )
