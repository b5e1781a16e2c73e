"""The other libraries as runners. Each is imported when it has its turn, for it may be missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from measuring import Stage


@contextmanager
def pypeln(source: Iterable[Any], stages: Sequence[Stage]) -> Iterator[Iterable[Any]]:
    """pypeln's threads, with queues of 64."""
    from pypeln import thread

    results = source
    for stage in stages:
        results = thread.map(stage, results, workers=1, maxsize=64)
    yield results


@contextmanager
def pypeln_processes(source: Iterable[Any], stages: Sequence[Stage]) -> Iterator[Iterable[Any]]:
    """pypeln's processes, with short queues."""
    from pypeln import process

    results = source
    for stage in stages:
        results = process.map(stage, results, workers=1, maxsize=4)
    yield results


@contextmanager
def spdl(source: Iterable[Any], stages: Sequence[Stage]) -> Iterator[Iterable[Any]]:
    """SPDL with a thread for each stage."""
    from spdl.pipeline import PipelineBuilder

    builder = PipelineBuilder().add_source(source)
    for stage in stages:
        builder = builder.pipe(stage)
    pipeline = builder.add_sink().build(num_threads=len(stages))
    with pipeline.auto_stop():
        yield pipeline


@contextmanager
def reactivex(source: Iterable[Any], stages: Sequence[Stage]) -> Iterator[Iterable[Any]]:
    """ReactiveX without a scheduler: everything happens in ``subscribe``."""
    import reactivex
    from reactivex import operators

    results: list[Any] = []
    steps = [operators.map(stage) for stage in stages]
    reactivex.from_iterable(source).pipe(*steps).subscribe(results.append)
    yield results
