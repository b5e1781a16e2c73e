"""The subjects that are PyStream itself: each verb and executor as a runner."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pystream
from measuring import Runner, Stage


def described(stages: Sequence[Stage], *, profiled: bool = False) -> pystream.Pipeline:
    """A pipeline that has its stages and no mode yet."""
    pipeline = pystream.Pipeline(use_profiler=profiled)
    for stage in stages:
        pipeline.add(stage)
    return pipeline


@contextmanager
def serial(source: Iterable[Any], stages: Sequence[Stage]) -> Iterator[Iterable[Any]]:
    """``stream()`` of a serial pipeline."""
    with described(stages).serialize() as pipeline:
        yield pipeline.stream(source)


@contextmanager
def threads(source: Iterable[Any], stages: Sequence[Stage]) -> Iterator[Iterable[Any]]:
    """``stream()`` of a pipeline in threads, every option at its default."""
    with described(stages).parallelize() as pipeline:
        yield pipeline.stream(source)


@contextmanager
def processes(source: Iterable[Any], stages: Sequence[Stage]) -> Iterator[Iterable[Any]]:
    """The same with every stage in a worker process."""
    with described(stages).parallelize(placement="process") as pipeline:
        yield pipeline.stream(source)


@contextmanager
def serial_in_processes(source: Iterable[Any], stages: Sequence[Stage]) -> Iterator[Iterable[Any]]:
    """One item at a time, each stage in a worker process: nothing overlaps."""
    pipeline = pystream.Pipeline()
    for stage in stages:
        pipeline.add(stage, placement="process")
    with pipeline.serialize():
        yield pipeline.stream(source)


def threads_with_workers(stage_of_many: int, workers: int) -> Runner:
    """The same with several workers for one of the stages, in order."""

    @contextmanager
    def run(source: Iterable[Any], stages: Sequence[Stage]) -> Iterator[Iterable[Any]]:
        pipeline = pystream.Pipeline()
        for position, stage in enumerate(stages):
            pipeline.add(stage, workers=workers if position == stage_of_many else 1)
        with pipeline.parallelize():
            yield pipeline.stream(source)

    return run
