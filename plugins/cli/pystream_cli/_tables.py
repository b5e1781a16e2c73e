"""The tables that the commands print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pystream_core import MAIN_PIPELINE_NAME, Profile, StageProfile, StageStatistics, Statistics

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_MARK = "*"
_UNLIMITED = 10_000


def table(*columns: str, right: Sequence[str] = (), tall: bool = False) -> Table:
    """A table with a rule under its head and nothing else.

    Args:
        columns: their heads.
        right: those of numbers.
        tall: whether the heads of numbers have two lines where they have two words.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        header_style="bold",
    )
    for name in columns:
        number = name in right
        # Where it is narrow, texts give way and figures do not.
        made.add_column(
            name.replace(" ", "\n") if tall and number else name,
            justify="right" if number else "left",
            no_wrap=number,
            overflow="fold",
            vertical="bottom" if number else "top",
        )
    return made


def print_run(console: Console, statistics: Statistics, profile: Profile | None) -> None:
    """The table of stages, and beneath it the figures of the whole pipeline."""
    if statistics.stages:
        both = _stages(statistics, profile, tall=console.is_terminal)
        if profile is not None and _width(both, console) > console.width:
            console.print(_calls(profile, tall=console.is_terminal))
            console.print()
            both = _stages(statistics, None, tall=True)
        console.print(both)
        console.print()
    if profile is not None:
        print_figures(console, profile)
    console.print(f"Ledger: {statistics}")


def print_profile(console: Console, profile: Profile) -> None:
    """The table of stages of a profile alone, without a ledger."""
    console.print(_calls(profile, tall=console.is_terminal))
    console.print()
    print_figures(console, profile)


def print_figures(console: Console, profile: Profile) -> None:
    """Throughput, latency and the bottleneck."""
    for path, pipeline in profile.pipelines.items():
        name = "" if path == MAIN_PIPELINE_NAME else f"{short(path)}: "
        latency = pipeline.latency
        console.print(
            f"{name}Throughput: {pipeline.throughput:,.1f} items/s, "
            f"latency p50 {duration(latency.p50)}, p99 {duration(latency.p99)}"
        )
    if profile.bottleneck is not None:
        busy = profile.stages[profile.bottleneck].busy
        console.print(
            f"{_MARK} Bottleneck: {short(profile.bottleneck)}, busy {busy:.0%} of the time"
        )
    if profile.lost:
        records = counted(profile.lost, "record")
        console.print(f"{records} lost on the way to these figures, or to the disk")


def short(path: str) -> str:
    """A path without the name of the main pipeline, which all have in common."""
    return path.removeprefix(f"{MAIN_PIPELINE_NAME}__")


def counted(number: int, thing: str) -> str:
    """``1 item``, ``2 items``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """A time in three digits and the unit that suits it."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            value = seconds / scale
            digits = 0 if value >= 100 else 1 if value >= 10 else 2
            return f"{value:.{digits}f} {unit}"
    return f"{seconds * 1e9:.0f} ns"


_TIMES = ("Calls", "Service p50", "Service p99", "Queue p50", "Busy")
_ITEMS = ("Received", "Emitted", "Lost")
_SELDOM = ("Filtered", "Spawned")


def _width(made: Table, console: Console) -> int:
    """Columns that a table would like to have."""
    from rich.measure import Measurement

    unlimited = console.options.update(width=_UNLIMITED)
    return Measurement.get(console, unlimited, made).maximum


def _calls(profile: Profile, *, tall: bool) -> Table:
    made = table("Stage", *_TIMES, right=_TIMES, tall=tall)
    for path, stage in profile.stages.items():
        made.add_row(_name(path, profile), *_times(stage), style=_style(path, profile))
    return made


def _stages(statistics: Statistics, profile: Profile | None, *, tall: bool) -> Table:
    seldom = [name for name in _SELDOM if getattr(statistics, name.lower())]
    times = _TIMES if profile is not None else ()
    numbers = (*times, *_ITEMS[:1], *seldom, *_ITEMS[1:])
    made = table("Stage", *numbers, right=numbers, tall=tall)
    profiled: Mapping[str, StageProfile] = {} if profile is None else profile.stages
    for stage in statistics.stages:
        cells = _times(profiled.get(stage.path)) if profile is not None else ()
        made.add_row(
            _name(stage.path, profile),
            *cells,
            f"{stage.received:,}",
            *(f"{getattr(stage, name.lower()):,}" for name in seldom),
            f"{stage.emitted:,}",
            f"{_lost(stage):,}",
            style=_style(stage.path, profile),
        )
    return made


def _name(path: str, profile: Profile | None) -> str:
    bottleneck = profile is not None and path == profile.bottleneck
    return f"{short(path)} {_MARK}" if bottleneck else short(path)


def _style(path: str, profile: Profile | None) -> str | None:
    return "bold" if profile is not None and path == profile.bottleneck else None


def _times(stage: StageProfile | None) -> tuple[str, ...]:
    if stage is None:
        return ("0", "-", "-", "-", "-")
    return (
        f"{stage.calls:,}",
        duration(stage.service.p50),
        duration(stage.service.p99),
        duration(stage.queue.p50),
        f"{stage.busy:.0%}",
    )


def _lost(stage: StageStatistics) -> int:
    """Items that did not get through this stage although nobody asked for that."""
    dropped = sum(stage.dropped.values()) + sum(stage.lost_before.values())
    return dropped + stage.expired + stage.failed
