"""Goal 2: in threads a hand-off is cheap, although channels are bounded and items counted."""

from __future__ import annotations

from functools import partial

import chains
import peers
import pystreams
from figures import Figure, Outcome
from measuring import Settings, same, take_turns, time_per_item

STAGES = [same] * 5


def measure(settings: Settings) -> Outcome:
    items = settings.items(50_000)
    rounds = take_turns(
        {
            "ours": partial(time_per_item, pystreams.threads, items, STAGES),
            "queue.Queue(64)": partial(time_per_item, chains.bounded, items, STAGES),
            "SimpleQueue": partial(time_per_item, chains.unbounded, items, STAGES),
            "pypeln": partial(time_per_item, peers.pypeln, items // 10, STAGES),
            "SPDL": partial(time_per_item, peers.spdl, items // 50, STAGES),
        },
        settings.rounds,
    )
    return Outcome(
        "threads, five trivial stages, all items, in order",
        [
            Figure(
                "queue.Queue(64) by hand / stream()",
                rounds.ratio("queue.Queue(64)", "ours"),
                "x",
                at_least=5,
            ),
            Figure(
                "stream() / unbounded SimpleQueue by hand",
                rounds.ratio("ours", "SimpleQueue"),
                "x",
                at_most=5,
            ),
            Figure("stream()", rounds.median("ours"), "us/item"),
            Figure("queue.Queue(64) by hand", rounds.median("queue.Queue(64)"), "us/item"),
            Figure("unbounded SimpleQueue by hand", rounds.median("SimpleQueue"), "us/item"),
            Figure("pypeln", rounds.median("pypeln"), "us/item"),
            Figure("SPDL", rounds.median("SPDL"), "us/item"),
        ],
        rounds.missing,
    )
