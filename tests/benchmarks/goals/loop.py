"""Goal 8: the loop keeps its rate, with little jitter and little work."""

from __future__ import annotations

from children import Child
from figures import Figure, Outcome
from measuring import Rounds, Settings, take_turns
from original import original

PERIODS = (0.010, 0.001)


def measure(settings: Settings) -> Outcome:
    figures = []
    missing: dict[str, str] = {}
    for period in PERIODS:
        rounds, details = _ticks(period, settings.seconds(4), settings.rounds)
        missing |= rounds.missing
        name = f"{period * 1000:g} ms: "
        off = abs(details.median("rate") - 1) * 100
        figures += [
            Figure(f"{name}mean rate, off nominal by", off, "%", at_most=0.1),
            Figure(f"{name}median jitter", details.median("jitter"), "us", at_most=30),
            Figure(
                f"{name}CPU per tick / pystream-pipeline's",
                rounds.ratio("ours", "pystream-pipeline"),
                "x",
                at_most=1 / 3,
            ),
            Figure(f"{name}CPU per tick", rounds.median("ours"), "us"),
            Figure(f"{name}CPU per tick of a bare sleep", rounds.median("sleep"), "us"),
            Figure(
                f"{name}mean rate of pystream-pipeline", details.median("their rate"), "of nominal"
            ),
        ]
    return Outcome("start_loop over 4 s", figures, missing)


def _ticks(period: float, seconds: float, number: int) -> tuple[Rounds, Rounds]:
    """CPU per tick of both, and what else there is to say."""
    details = Rounds()

    def note(name: str, value: float) -> None:
        details.taken.setdefault(name, []).append(value)

    def ours() -> float:
        with Child("documented") as child:
            found = child.ask("ticks", period, seconds)
        note("rate", found["rate"])
        note("jitter", found["jitter"])
        return float(found["cpu"])

    def theirs() -> float:
        with original() as child:
            found = child.ask("ticks", period, seconds)
        note("their rate", found["rate"])
        return float(found["cpu"])

    def sleep() -> float:
        with Child("residing") as child:
            return float(child.ask("waking_cpu", period, seconds))

    subjects = {"ours": ours, "pystream-pipeline": theirs, "sleep": sleep}
    return take_turns(subjects, number), details
