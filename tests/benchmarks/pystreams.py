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
