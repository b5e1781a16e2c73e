"""Goal 9: a pipeline is there at once, and gone at once."""

from __future__ import annotations

from children import Child
from figures import Figure, Outcome
from measuring import Rounds, Settings, take_turns
from original import original


def measure(settings: Settings) -> Outcome:
    cleanups = Rounds()

    def note(name: str, found: dict[str, float]) -> float:
        cleanups.taken.setdefault(name, []).append(found["cleanup"])
        return found["first"]

    def cold() -> float:
        """The first pipeline of its process: plugins are looked up and loaded meanwhile."""
        with Child("documented") as child:
            return float(child.ask("start_and_stop")["first"])

    def theirs() -> float:
        with original() as child:
            return note("theirs", child.ask("start_and_stop"))

    with Child("documented") as warm:
        warm.ask("start_and_stop")
        firsts = take_turns(
            {
                "ours": lambda: note("ours", warm.ask("start_and_stop")),
                "cold": cold,
                "theirs": theirs,
            },
            settings.rounds,
        )
    return Outcome(
        "ten stages in threads",
        [
            Figure("parallelize() to first result", firsts.median("ours"), "ms", at_most=10),
            Figure("idle cleanup()", cleanups.median("ours"), "ms", at_most=20),
            Figure("the first in its process, plugins loaded", firsts.median("cold"), "ms"),
            Figure("first result of pystream-pipeline", firsts.median("theirs"), "ms"),
            Figure("idle cleanup() of pystream-pipeline", cleanups.median("theirs"), "ms"),
        ],
        firsts.missing,
    )
