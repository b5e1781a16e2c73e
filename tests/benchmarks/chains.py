"""What one writes by hand without a library: a bare loop, chains of threads or processes and
queues."""

from __future__ import annotations

import itertools
import multiprocessing
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from measuring import Runner, Stage

_END = object()


def bare_loop(items: int, stages: Sequence[Stage]) -> float:
    """Microseconds per item of a loop over items and stages: nothing can be faster."""
    begin = time.perf_counter()
    for item in range(items):
        for stage in stages:
            item = stage(item)
    return (time.perf_counter() - begin) / items * 1e6


def threads_and(make_queue: Callable[[], Any]) -> Runner:
    """A thread for each stage, one that feeds, and a queue for each hop."""

    @contextmanager
    def run(source: Iterable[Any], stages: Sequence[Stage]) -> Iterator[Iterable[Any]]:
        queues = [make_queue() for _ in range(len(stages) + 1)]
        threads = [threading.Thread(target=_feed, args=(source, queues[0]))]
        threads += [
            threading.Thread(target=_work, args=(stage, *ends))
            for stage, ends in zip(stages, itertools.pairwise(queues), strict=True)
        ]
        for thread in threads:
            thread.start()
        yield iter(queues[-1].get, _END)
        for thread in threads:
            thread.join()

    return run


bounded = threads_and(lambda: queue.Queue(64))
unbounded = threads_and(queue.SimpleQueue)


@contextmanager
def processes(source: Iterable[Any], stages: Sequence[Stage]) -> Iterator[Iterable[Any]]:
    """A process for each stage, a thread that feeds, and a multiprocessing.Queue for each hop;
    None ends it."""
    queues: list[Any] = [multiprocessing.Queue(4) for _ in range(len(stages) + 1)]
    workers = [
        multiprocessing.Process(target=_work_until_none, args=(stage, *ends), daemon=True)
        for stage, ends in zip(stages, itertools.pairwise(queues), strict=True)
    ]
    for worker in workers:
        worker.start()
    feeder = threading.Thread(target=_feed_and_none, args=(source, queues[0]), daemon=True)
    feeder.start()
    yield _until_none(queues[-1])
    feeder.join()
    for worker in workers:
        worker.join()


def _until_none(source: Any) -> Iterator[Any]:
    while (item := source.get()) is not None:
        yield item


def _feed_and_none(source: Iterable[Any], target: Any) -> None:
    for item in source:
        target.put(item)
    target.put(None)


def _work_until_none(stage: Stage, source: Any, target: Any) -> None:
    for item in _until_none(source):
        target.put(stage(item))
    target.put(None)


def _feed(source: Iterable[Any], target: Any) -> None:
    for item in source:
        target.put(item)
    target.put(_END)


def _work(stage: Stage, source: Any, target: Any) -> None:
    while (item := source.get()) is not _END:
        target.put(stage(item))
    target.put(_END)
