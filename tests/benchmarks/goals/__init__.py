"""The goals: each module has a ``TITLE`` and a ``measure`` that gives its figures."""

from __future__ import annotations

from collections.abc import Callable

from figures import Outcome
from measuring import Settings

from . import (
    cores,
    crossings,
    footprint,
    hops,
    loop,
    pacing,
    profiling,
    serial,
    starting,
    threads,
    workers,
)

GOALS: dict[int, Callable[[Settings], Outcome]] = {
    1: serial.measure,
    2: threads.measure,
    3: hops.measure,
    4: pacing.measure,
    5: cores.measure,
    6: workers.measure,
    7: profiling.measure,
    8: loop.measure,
    9: starting.measure,
    10: footprint.measure,
    11: crossings.measure,
}
