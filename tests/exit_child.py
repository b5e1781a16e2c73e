"""Run by test_exit.py in a process of its own: a pipeline in some state, then the end of main.

``exit_child.py STATE MODE HOW``: bring a pipeline into the state, say so, then leave by
``end``, ``exit`` (status 7), ``raise``, or ``wait`` for Ctrl-C at the place that the state names.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

from pystream_core import Observer, Pipeline, Stage, StageError

FOREVER = 60.0  # longer than any test waits
held: list[Any] = []  # what must live until the end


def say(word: str) -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.write(f"{word} {monotonic()!r}\n")
        stream.flush()


class Work(Stage[Any]):
    """Takes its time in its setup, its calls or its cleanup; says when it is cleaned up."""

    def __init__(self, *, setup: float = 0.0, call: float = 0.0, cleanup: float = 0.0) -> None:
        self.times = {"setup": setup, "call": call, "cleanup": cleanup}
        self.entered = threading.Event()

    def _take(self, what: str) -> None:
        if self.times[what]:
            self.entered.set()
            threading.Event().wait(self.times[what])

    def setup(self) -> None:
        self._take("setup")

    def __call__(self, item: Any) -> Any:
        self._take("call")
        return item

    def cleanup(self) -> None:
        self._take("cleanup")
        sys.stdout.write("cleaned\n")
        sys.stdout.flush()


def build(mode: str, *stages: Any, generator: Any = None, **options: Any) -> Pipeline:
    observers = options.pop("observers", ())
    pipeline = Pipeline(generator, observers=observers)
    for stage in stages:
        pipeline.add(stage, capacity=50)
    held.append(pipeline)
    return pipeline.serialize() if mode == "serial" else pipeline.parallelize(**options)


def aside(action: Callable[[], object], *, daemon: bool = True) -> None:
    def quietly() -> None:
        try:
            action()
        except Exception as error:
            held.append(error)

    threading.Thread(target=quietly, daemon=daemon).start()


def forever(*_: object) -> None:
    threading.Event().wait(FOREVER)


def blocking_source() -> Iterator[int]:
    yield 1
    forever()


def count() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


# -- states in which main ends -------------------------------------------------------------------


def idle(mode: str) -> None:
    pipeline = build(mode, Work(), Work())
    pipeline.forward(1)
    pipeline.drain()


def busy(mode: str) -> None:
    work = Work(call=0.03)
    pipeline = build(mode, work)
    if mode == "serial":
        aside(lambda: [pipeline.forward(number) for number in range(1000)])
    else:
        for number in range(50):
            pipeline.forward(number)
    work.entered.wait(FOREVER)


def stuck_stage(mode: str) -> None:
    work = Work(call=FOREVER)
    pipeline = build(mode, Work(), work, Work())
    aside(lambda: pipeline.forward(1))
    work.entered.wait(FOREVER)


def stuck_cleanup(mode: str) -> None:
    build(mode, Work(), Work(cleanup=FOREVER), Work()).forward(1)


def failing_cleanup(mode: str) -> None:
    class Bad(Work):
        def cleanup(self) -> None:
            raise OSError("disk")

    build(mode, Work(), Bad(), Work()).forward(1)


def no_more_threads(mode: str) -> None:
    pipeline = build(mode, Work())
    pipeline.forward(1)
    pipeline.drain()
    threading.stack_size(2**60)  # more than there is


def stuck_setup(mode: str) -> None:
    work = Work(setup=FOREVER)
    pipeline = build(mode, Work(), work)
    aside(pipeline.start)
    work.entered.wait(FOREVER)


def stuck_source(mode: str) -> None:
    results = build(mode, Work()).stream(blocking_source())
    next(results)
    held.append(results)
    aside(lambda: next(results))


def stuck_observer(mode: str) -> None:
    class Slow(Observer):
        collect = forever

    build(mode, Work(), observers=[Slow()]).forward(1)
    threading.Event().wait(0.1)  # until its records have reached it


def blocked_forward(mode: str) -> None:
    work = Work(call=FOREVER)
    pipeline = build(mode, work, input_timeout=FOREVER)
    aside(lambda: pipeline.forward(0))
    work.entered.wait(FOREVER)
    for _ in range(60):
        aside(lambda: pipeline.forward(1), daemon=False)


def open_stream(mode: str) -> None:
    results = build(mode, Work(), Work()).stream(count())
    for _ in range(5):
        next(results)
    held.append(results)


def running_loop(mode: str) -> None:
    started = threading.Event()

    def generate() -> int:
        started.set()
        return 1

    build(mode, Work(), generator=generate).start_loop(0.001)
    started.wait(FOREVER)


def stuck_generator(mode: str) -> None:
    inside = threading.Event()

    def generate() -> None:
        inside.set()
        forever()

    build(mode, Work(), generator=generate).start_loop(0.001)
    inside.wait(FOREVER)


def failed(mode: str) -> None:
    def fail(item: Any) -> Any:
        raise ValueError(item)

    pipeline = build(mode, Work(), fail, block_output=True)
    try:
        pipeline.forward(1)
        pipeline.get_results()
    except StageError:
        pass


def nested(mode: str) -> None:
    child = build("threads", Work())
    build(mode, Work(), child.as_stage(), Work()).forward(1)


def many(mode: str) -> None:
    for _ in range(10):
        build(mode, Work(cleanup=0.05), Work()).forward(1)


def cleanup_under_way(mode: str) -> None:
    work = Work(call=FOREVER)
    pipeline = build(mode, work)
    aside(lambda: pipeline.forward(1))
    work.entered.wait(FOREVER)
    aside(pipeline.cleanup)


def cleanup_asked_by_a_stage(mode: str) -> None:
    stuck = Work(call=FOREVER)

    def ask(item: Any) -> Any:
        if item:
            pipeline.cleanup()
        return item

    pipeline = build(mode, ask, stuck)
    aside(lambda: (pipeline.forward(0), pipeline.forward(1)))
    stuck.entered.wait(FOREVER)


def cleaned(mode: str) -> None:
    with build(mode, Work()) as pipeline:
        pipeline.forward(1)


# -- places at which Ctrl-C comes ----------------------------------------------------------------


def full(mode: str) -> Pipeline:
    """A pipeline whose stage is stuck, with no room left."""
    work = Work(call=FOREVER)
    pipeline = build(mode, work, input_timeout=FOREVER, output_timeout=FOREVER, block_output=True)
    if mode == "serial":
        aside(lambda: pipeline.forward(0))
    else:
        for number in range(51):
            pipeline.forward(number)
    work.entered.wait(FOREVER)
    return pipeline


def in_forward(mode: str) -> None:
    full(mode).forward(1)


def in_own_stage(mode: str) -> None:
    if mode == "serial":
        build(mode, Work(call=FOREVER)).forward(1)
    else:
        build(mode, Work(call=FOREVER)).as_stage()(1)


def in_get_results(mode: str) -> None:
    pipeline = full(mode)
    pipeline.get_results() if mode == "threads" else forever()


def in_stream(mode: str) -> None:
    for _ in build(mode, Work(call=FOREVER)).stream([1, 2, 3]):
        pass


def in_source(mode: str) -> None:
    for _ in build(mode, Work()).stream(blocking_source()):
        pass


def in_run(mode: str) -> None:
    build(mode, Work(call=FOREVER)).run([1, 2, 3])


def in_drain(mode: str) -> None:
    full(mode).drain(FOREVER)


def in_cleanup(mode: str) -> None:
    full(mode).cleanup(timeout=FOREVER)


def in_start(mode: str) -> None:
    build(mode, Work(setup=FOREVER)).start()


def in_stage_cleanup(mode: str) -> None:
    pipeline = build(mode, Work(cleanup=FOREVER))
    pipeline.forward(1)
    pipeline.cleanup()


def in_with(mode: str) -> None:
    with build(mode, Work(call=0.05)) as pipeline:
        while True:
            pipeline.forward(1)


def in_with_stream(mode: str) -> None:
    with build(mode, Work(call=0.05)) as pipeline, pipeline.stream(count()) as results:
        for _ in results:
            pass


def in_loop(mode: str) -> None:
    build(mode, Work(), generator=lambda: 1).start_loop(0.001)
    forever()


def in_handler(mode: str) -> None:
    """Ctrl-C, cleanup in its handler."""
    pipeline = build(mode, Work(call=0.05))
    try:
        for number in count():
            pipeline.forward(number)
    except KeyboardInterrupt:
        pipeline.cleanup(timeout=0.3)
        say("HANDLED")
        raise


def in_handler_stuck(mode: str) -> None:
    """Ctrl-C, cleanup in its handler, which has to wait; a second Ctrl-C forces."""
    pipeline = full(mode)
    try:
        forever()
    except KeyboardInterrupt:
        say("AGAIN")
        pipeline.cleanup(timeout=FOREVER)


def main() -> None:
    state, mode, how = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if how == "wait":
        for warm in (Pipeline().serialize(), Pipeline().parallelize()):  # imports are done
            warm.start()
            warm.cleanup()
        say("READY")
        globals()[state](mode)
        return
    globals()[state](mode)
    say("END")
    if how == "exit":
        sys.exit(7)
    if how == "raise":
        raise ZeroDivisionError


if __name__ == "__main__":
    main()
