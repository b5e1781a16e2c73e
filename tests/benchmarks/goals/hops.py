"""Goal 3: a long pipeline costs no more per hop than a short one."""

from __future__ import annotations

from functools import partial

import pystreams
from figures import Figure, Outcome
from measuring import Settings, same, take_turns, time_per_item

SHORT, LONG = 5, 20


def measure(settings: Settings) -> Outcome:
    items = settings.items(40_000)

    def per_hop(stages: int, items: int) -> float:
        """A hop into every stage and one to the reader."""
        return time_per_item(pystreams.threads, items, [same] * stages) / (stages + 1)

    rounds = take_turns(
        {
            "short": partial(per_hop, SHORT, items),
            "long": partial(per_hop, LONG, items // 2),
        },
        settings.rounds,
    )
    return Outcome(
        "cost per hop in threads",
        [
            Figure("20 stages / 5 stages", rounds.ratio("long", "short"), "x", at_most=1.3),
            Figure("a hop at 5 stages", rounds.median("short"), "us"),
            Figure("a hop at 20 stages", rounds.median("long"), "us"),
        ],
        rounds.missing,
    )
