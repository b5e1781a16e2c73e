"""What a person sees while a pipeline runs: one line, on a terminal."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Final

from pystream_core import Pipeline, Statistics

from ._tap import Tap

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_REFRESH: Final = 8  # times per second
_WINDOW: Final = 2.0  # seconds over which the rate is taken


@contextmanager
def progress(
    console: Console, pipeline: Pipeline, tap: Tap, *, limit: int | None, redirect: bool
) -> Iterator[None]:
    """Show the progress while the context is open.

    Args:
        console: a terminal; lines printed on it meanwhile appear above.
        pipeline: what runs.
        tap: on its source.
        limit: number of items that will be taken, None if it is not known.
        redirect: whether stdout is the same terminal, so that what stages print must not
            tear the line.
    """
    from rich.live import Live

    line = _Line(pipeline, tap, limit)
    with Live(
        get_renderable=line.render,
        console=console,
        refresh_per_second=_REFRESH,
        transient=True,
        redirect_stdout=redirect,
        redirect_stderr=True,
    ):
        yield


class _Line:
    """Renders the progress. Called by the refreshing thread and, at the end, by the main one."""

    def __init__(self, pipeline: Pipeline, tap: Tap, limit: int | None) -> None:
        from rich.spinner import Spinner

        self._pipeline = pipeline
        self._tap = tap
        self._limit = limit
        self._spinner = Spinner("dots")
        self._started = monotonic()
        self._ended: deque[tuple[float, int]] = deque([(self._started, 0)])

    def render(self) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        now = monotonic()
        statistics = self._pipeline.statistics()
        text = progress_text(
            statistics,
            seconds=now - self._started,
            rate=self._rate(now, statistics.ended),
            taken=self._tap.taken,
            limit=self._limit,
        )
        grid = Table.grid(padding=(0, 1))
        grid.add_row(self._spinner, Text(text, no_wrap=True, overflow="ellipsis"))
        return grid

    def _rate(self, now: float, ended: int) -> float:
        """Items per second that came to their end in the last seconds."""
        self._ended.append((now, ended))
        while len(self._ended) > 2 and self._ended[1][0] <= now - _WINDOW:
            self._ended.popleft()
        then, before = self._ended[0]
        return (ended - before) / (now - then) if now > then else 0.0


def progress_text(
    statistics: Statistics, *, seconds: float, rate: float, taken: int, limit: int | None
) -> str:
    """The line itself: time, rate, completed, in flight, losses."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [
        f"{hours:d}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}",
        f"{rate:.1f}/s",
        f"{statistics.completed:,} completed",
    ]
    if limit is not None:
        parts.append(f"{taken:,} of {limit:,} taken")
    if statistics.filtered:
        parts.append(f"{statistics.filtered:,} filtered")
    parts.append(f"{statistics.in_flight:,} in flight")
    losses = [
        f"{count:,} {name}"
        for name, count in (
            ("dropped", statistics.dropped_total),
            ("expired", statistics.expired),
            ("failed", statistics.failed),
        )
        if count
    ]
    return "  ".join([*parts, *(losses or ["0 lost"])])
