"""Measures the speed goals and prints one table. Not a test; run by hand:

    python -m pip install -r requirements-dev.txt -r tests/benchmarks/requirements.txt
    python tests/benchmarks/run.py [--goal 2] [--rounds 5] [--quick] [--json]

Subjects take turns in every round; the table shows medians, ratios those of neighbours in one
round. The original PyStream is installed beside this file on first use. Peers that are not
installed are named in the table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time

from figures import Figure, Outcome, table
from goals import GOALS
from measuring import Settings


def main() -> None:
    arguments = _arguments()
    settings = Settings(rounds=arguments.rounds, quick=arguments.quick)
    where = _where()
    # Fresh processes start from compiled files, as those of an installed package do.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    outcomes = {}
    for number in arguments.goal or GOALS:
        begin = time.perf_counter()
        outcomes[number] = _measured(number, settings)
        print(f"goal {number}: {time.perf_counter() - begin:.0f} s", file=sys.stderr)
    if arguments.json:
        answer = {"where": where, "rounds": settings.rounds, "quick": settings.quick}
        answer["goals"] = {number: each.to_json() for number, each in outcomes.items()}
        print(json.dumps(answer, indent=2))
    else:
        print(f"{where}; {'quick, ' if settings.quick else ''}{settings.rounds} rounds\n")
        print(table(outcomes))


def _arguments() -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--goal", type=int, action="append", choices=GOALS, help="only this one")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each subject (5)")
    parser.add_argument("--quick", action="store_true", help="few items: to see that it runs")
    parser.add_argument("--json", action="store_true", help="for programs instead of people")
    return parser.parse_args()


def _measured(number: int, settings: Settings) -> Outcome:
    """One goal that cannot be measured does not cost the figures of the others."""
    try:
        return GOALS[number](settings)
    except Exception as error:
        failed = Figure(f"{type(error).__name__}: {error}", float("nan"), at_most=0)
        return Outcome("could not be measured", [failed])


def _where() -> str:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    busy = f", load before {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{python}, {machine}{busy}"


if __name__ == "__main__":
    main()
