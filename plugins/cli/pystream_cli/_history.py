"""The runs that the profiler has recorded."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from pystream_core import PlanError, near_miss, registry

from ._tables import counted, duration, table

if TYPE_CHECKING:
    from pystream_sqlite import RecordedRun
    from rich.console import Console

LATEST: Final = "latest"
_SHORTEST: Final = 8  # characters of an id that are shown


def recorded(folder: str | None) -> list[RecordedRun]:
    """The runs in the history, newest first.

    Raises:
        PyStreamError: the profiler is not installed, or its database cannot be read.
    """
    try:
        from pystream_sqlite import recorded_runs
    except ModuleNotFoundError as error:
        if error.name != "pystream_sqlite":
            raise
        registry().observer("sqlite")  # says how to install it
        raise
    return recorded_runs(folder)[::-1]


def chosen(runs: list[RecordedRun], wanted: str) -> RecordedRun:
    """The run with an id that begins so, or the latest.

    Raises:
        PlanError: there is none, or several.
    """
    if not runs:
        raise PlanError("no runs are recorded yet: `pystream run --profile FILE` records one")
    if wanted == LATEST:
        return runs[0]
    found = [run for run in runs if run.id == wanted]
    found = found or [run for run in runs if run.id.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(_shown_ids(found or runs).values())
    if found:
        raise PlanError(f"several recorded runs have ids that begin {wanted!r}: {known}")
    near = near_miss(wanted, [LATEST, *_shown_ids(runs).values()])
    raise PlanError(f"no recorded run has an id that begins {wanted!r}{near}; there are: {known}")


def print_runs(console: Console, runs: list[RecordedRun]) -> None:
    """A table of the recorded runs."""
    numbers = ("Stages", "Items", "Took")
    listing = table("Run", "Started", "Executor", *numbers, "State", right=numbers)
    ids = _shown_ids(runs)
    for run in runs:
        state = "finished" if run.finished else "unfinished"
        listing.add_row(
            ids[run.id],
            _when(run),
            run.executor,
            str(len(run.stages)),
            f"{run.items:,}",
            duration(run.duration),
            f"{state}, {counted(run.lost, 'record')} lost" if run.lost else state,
        )
    console.print(listing)
    console.print()
    console.print("`pystream profile RUN` shows one of them; `latest` is the newest.")


def print_heading(console: Console, run: RecordedRun) -> None:
    """Which run it is."""
    state = "" if run.finished else ", not finished"
    console.print(
        f"Run {run.id}, {_when(run)}: {run.executor}, {counted(run.items, 'item')} in "
        f"{duration(run.duration)}{state}"
    )
    console.print()


def _when(run: RecordedRun) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.started_at))


def _shown_ids(runs: list[RecordedRun]) -> dict[str, str]:
    """The beginnings of the ids that tell them apart."""
    length = _SHORTEST
    while len({run.id[:length] for run in runs}) < len(runs):
        length += 1
    return {run.id: run.id[:length] for run in runs}
