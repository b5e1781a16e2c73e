"""Goal 10: light to import, idle when idle, and no larger after a million items."""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial

from children import Child
from figures import Figure, Outcome
from measuring import Rounds, Settings, take_turns
from original import interpreter


def measure(settings: Settings) -> Outcome:
    imports = take_turns(
        {
            "bare": partial(_run, "pass"),
            "ours": partial(_run, "import pystream"),
            "their bare": lambda: _run("pass", interpreter()),
            "theirs": lambda: _run("import pystream", interpreter()),
        },
        settings.rounds * 3,  # short, and machines are noisy
    )
    idle = take_turns({"idle": partial(_ask, "idle_cpu", settings.seconds(5))}, settings.rounds)
    items = settings.items(1_000_000)
    growth = take_turns(
        {
            "serial": partial(_ask, "memory_growth", "serial", items),
            "threads": partial(_ask, "memory_growth", "threads", items),
        },
        1,
    )
    return Outcome(
        "footprint",
        [
            Figure(
                "import pystream, over a bare interpreter",
                _over(imports, "ours", "bare"),
                "ms",
                at_most=60,
            ),
            Figure("import of pystream-pipeline", _over(imports, "theirs", "their bare"), "ms"),
            Figure("ten idle stages", idle.median("idle"), "ms CPU/s", at_most=0.1),
            Figure("growth over 1,000,000 items, serial", growth.median("serial"), "MB", at_most=1),
            Figure(
                "growth over 1,000,000 items, threads", growth.median("threads"), "MB", at_most=1
            ),
        ],
        imports.missing,
    )


def _over(rounds: Rounds, one: str, other: str) -> float:
    return rounds.median(one) - rounds.median(other)


def _run(code: str, python: str = sys.executable) -> float:
    begin = time.perf_counter()
    subprocess.run([python, "-c", code], check=True, stderr=subprocess.DEVNULL)
    return (time.perf_counter() - begin) * 1e3


def _ask(function: str, *arguments: object) -> float:
    with Child("residing") as child:
        return float(child.ask(function, *arguments))
