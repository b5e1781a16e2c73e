"""Tables and lines for people: widths and units."""

from __future__ import annotations

import io

import pytest
from pystream_cli._console import console
from pystream_cli._progress import progress_text
from pystream_cli._tables import counted, duration, print_run
from rich.console import Console

from pystream_core import (
    Percentiles,
    PipelineProfile,
    Profile,
    StageProfile,
    StageStatistics,
    Statistics,
)

TIMES = Percentiles(mean=0.0501, p50=0.0501, p90=0.0587, p99=0.0587)
LONG = "MainPipeline__a stage whose name says at length what it is for"


def printed(width):
    stage = StageStatistics(path=LONG, received=123_456, emitted=61_728, filtered=61_728)
    statistics = Statistics(
        admitted=123_456, completed=61_728, filtered=61_728, stages=(stage, stage)
    )
    profile = Profile(
        stages={
            LONG: StageProfile(
                calls=123_456, service=TIMES, queue=TIMES, throughput=1234.5, busy=1.0
            )
        },
        pipelines={"MainPipeline": PipelineProfile(items=1, latency=TIMES, throughput=9.0)},
        bottleneck=LONG,
        lost=3,
    )
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    print_run(console, statistics, profile)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [72, 80, 120, 200])
def test_figures_are_never_cut(width):
    """Where it is narrow there are two tables, and names are folded."""
    text = printed(width)
    assert max(map(len, text.splitlines())) <= width
    for figure in ("50.1 ms", "58.7 ms", "100%", "123,456", "61,728"):
        assert figure in text
    assert text.count("Stage") == (2 if width < 150 else 1)
    assert "3 records lost on the way" in text


def test_a_very_narrow_terminal_breaks_lines_itself(monkeypatch):
    """Columns that are squeezed to nothing would lose names and figures."""
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    assert console(Terminal(), least=72).width == 72
    assert console(Terminal(), least=30).width == 40
    assert console(io.StringIO(), width=100, least=72).width == 100


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ns"),
        (2.5e-7, "250 ns"),
        (1.234e-6, "1.23 µs"),
        (0.0123, "12.3 ms"),
        (0.5, "500 ms"),
        (1.0, "1.00 s"),
        (150.0, "150 s"),
    ],
)
def test_times_have_three_digits_and_a_unit(seconds, text):
    """Whatever their size."""
    assert duration(seconds) == text


def test_one_thing_is_not_told_in_the_plural():
    """``1 items`` is no English."""
    assert [counted(number, "item") for number in (0, 1, 2000)] == [
        "0 items",
        "1 item",
        "2,000 items",
    ]


def test_progress_tells_rate_completed_in_flight_and_losses():
    """Losses by their kind, and the share of a known number of items."""
    quiet = progress_text(
        Statistics(admitted=7, completed=5, in_flight=2), seconds=61, rate=2.5, taken=7, limit=None
    )
    assert quiet == "01:01  2.5/s  5 completed  2 in flight  0 lost"
    busy = progress_text(
        Statistics(filtered=4, dropped={"overflow": 2}, expired=1, failed=3),
        seconds=3700,
        rate=0,
        taken=10,
        limit=1000,
    )
    assert busy == (
        "1:01:40  0.0/s  0 completed  10 of 1,000 taken  4 filtered  0 in flight  "
        "2 dropped  1 expired  3 failed"
    )
