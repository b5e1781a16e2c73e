"""Goal 1: a serial pipeline costs little more than the loop that it replaces."""

from __future__ import annotations

from functools import partial

import chains
import documented
import peers
import pystreams
from figures import Figure, Outcome
from measuring import Settings, same, take_turns, time_per_item
from original import original

STAGES = [same] * 5


def measure(settings: Settings) -> Outcome:
    items = settings.items(100_000)
    some = items // 5  # for the slower ones

    def original_pushed() -> float:
        with original() as child:
            return float(child.ask("pushed", some, False))

    rounds = take_turns(
        {
            "loop": partial(chains.bare_loop, items, STAGES),
            "stream": partial(time_per_item, pystreams.serial, items, STAGES),
            "pushed": partial(documented.pushed, some, False),
            "reactivex": partial(time_per_item, peers.reactivex, items, STAGES),
            "pystream-pipeline": original_pushed,
        },
        settings.rounds,
    )
    return Outcome(
        "serial, five trivial stages",
        [
            Figure("stream() / bare loop", rounds.ratio("stream", "loop"), "x", at_most=2.4),
            Figure("reactivex / stream()", rounds.ratio("reactivex", "stream"), "x", at_least=1),
            Figure(
                "forward + get_results / bare loop", rounds.ratio("pushed", "loop"), "x", at_most=4
            ),
            Figure(
                "pystream-pipeline / ours, forward + get_results",
                rounds.ratio("pystream-pipeline", "pushed"),
                "x",
                at_least=6,
            ),
            Figure("bare loop", rounds.median("loop"), "us/item"),
            Figure("stream()", rounds.median("stream"), "us/item"),
            Figure("forward + get_results", rounds.median("pushed"), "us/item"),
        ],
        rounds.missing,
    )
