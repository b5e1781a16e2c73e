"""Goal 4: slow stages run at full rate with short queues, at the same default as in goal 2."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import chains
import peers
import pystreams
from figures import Figure, Outcome
from measuring import Rounds, Runner, Settings, same, take_turns

STAGES = 5
HANDFUL = 10

RUNNERS: dict[str, Runner] = {
    "stream()": pystreams.threads,
    "queue.Queue(64) by hand": chains.bounded,
    "pypeln": peers.pypeln,
    "SPDL": peers.spdl,
}


class Sleeper:
    """A stage that sleeps, and knows how long it really slept."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._slept = 0.0
        self._calls = 0

    def __call__(self, item: int) -> int:
        begin = time.perf_counter()
        time.sleep(self._seconds)
        self._slept += time.perf_counter() - begin
        self._calls += 1
        return item

    @property
    def mean(self) -> float:
        return self._slept / self._calls


@dataclass(frozen=True)
class Pace:
    """Of saturated sleeping stages: the share of the ideal throughput, and the latency from
    admission to the reader as a multiple of the sum of the stage times."""

    throughput: float
    latency: float


def pace(runner: Runner, seconds: float, items: int) -> Pace:
    sleepers = [Sleeper(seconds) for _ in range(STAGES)]
    admitted, ended = [], []

    def source() -> Iterator[int]:
        for item in range(items):
            yield item
            admitted.append(time.perf_counter())  # for now the next one is asked for

    with runner(source(), sleepers) as results:
        for _ in results:
            ended.append(time.perf_counter())
    latencies = [end - begin for begin, end in zip(admitted, ended, strict=True)]
    times = [sleeper.mean for sleeper in sleepers]
    rate = (items - 1) / (ended[-1] - ended[0])
    saturated = latencies[items // 3 :]
    return Pace(rate * max(times), statistics.median(saturated) / sum(times))


def most_held(items: int) -> float:
    """The most items between the source and a slow stage that a trivial one stands before."""
    drawn = begun = most = 0

    def source() -> Iterator[int]:
        nonlocal drawn
        for item in range(items):
            drawn += 1
            yield item

    def slow(item: int) -> int:
        nonlocal begun, most
        begun += 1
        most = max(most, drawn - begun)
        time.sleep(0.002)
        return item

    with pystreams.threads(source(), [same, slow]) as results:
        for _ in results:
            pass
    return most


def measure(settings: Settings) -> Outcome:
    items = settings.items(300)
    figures = []
    missing: dict[str, str] = {}
    for milliseconds in (1, 5):
        throughputs, latencies = _paces(milliseconds / 1000, items, settings.rounds)
        figures += _figures(milliseconds, throughputs, latencies)
        missing |= throughputs.missing
    held = take_turns({"held": partial(most_held, items)}, settings.rounds).median("held")
    figures.append(
        Figure("most items held by a trivial stage before one of 2 ms", held, "", at_most=HANDFUL)
    )
    return Outcome("five sleeping stages, saturated", figures, missing)


def _paces(seconds: float, items: int, number: int) -> tuple[Rounds, Rounds]:
    latencies = Rounds()

    def throughput(name: str) -> float:
        found = pace(RUNNERS[name], seconds, items)
        latencies.taken.setdefault(name, []).append(found.latency)
        return found.throughput

    subjects: dict[str, Callable[[], float]] = {name: partial(throughput, name) for name in RUNNERS}
    return take_turns(subjects, number), latencies


def _figures(milliseconds: int, throughputs: Rounds, latencies: Rounds) -> list[Figure]:
    ours, *others = RUNNERS
    return [
        Figure(
            f"{milliseconds} ms: throughput of {ours}",
            throughputs.median(ours),
            "of ideal",
            at_least=0.95,
        ),
        Figure(
            f"{milliseconds} ms: latency of {ours}",
            latencies.median(ours),
            "x stage times",
            at_most=1.3,
        ),
        *(
            Figure(f"{milliseconds} ms: latency of {name}", latencies.median(name), "x stage times")
            for name in others
        ),
    ]
