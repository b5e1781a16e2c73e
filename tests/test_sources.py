"""Sources that block: a stream or a session that ends does not wait for their next item."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from time import monotonic

import pytest

from pystream_core import Pipeline, PipelineTerminated, Stage
from pystream_core._errors import call_name
from pystream_core._input import InputGenerator
from pystream_core.testing import wait_until


class Camera:
    """A source object of its own: gives one item, then blocks until it is closed."""

    def __init__(self) -> None:
        self.blocking = threading.Event()
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[int]:
        yield 1
        self.blocking.set()
        self.closed.wait(15)

    def close(self) -> None:
        self.closed.set()


def running() -> Pipeline:
    """A threaded pipeline of one stage."""
    pipeline = Pipeline()
    pipeline.add(lambda item: item)
    return pipeline.parallelize()


class Ticks:
    """An asynchronous iterable that is no generator."""

    def __aiter__(self) -> Ticks:
        return self

    async def __anext__(self) -> int:
        return 1


async def ticks() -> AsyncIterator[int]:
    """An asynchronous generator."""
    yield 1


@pytest.mark.parametrize("mode", ["serialize", "parallelize"])
@pytest.mark.parametrize("method", ["stream", "run"])
@pytest.mark.parametrize("make", [Ticks, ticks])
def test_an_asynchronous_source_is_refused_with_what_to_do_instead(
    make: Callable[[], object], method: str, mode: str
) -> None:
    """It is an iterable of items in its user's eyes, and only the program can await them."""
    pipeline = Pipeline()
    pipeline.add(lambda item: item)
    with getattr(pipeline, mode)():
        with pytest.raises(TypeError, match="asynchronous iterables are not taken") as caught:
            list(getattr(pipeline, method)(make()) or ())
        assert "await asyncio.to_thread(pipeline.forward, item)" in str(caught.value)
        assert "forward(item), and a function" not in str(caught.value)
        assert list(pipeline.stream([1])) == [1]


def test_what_the_refusal_of_an_asynchronous_source_says_works() -> None:
    """Each item is counted once."""

    async def program(pipeline: Pipeline) -> None:
        async for item in ticks():
            await asyncio.to_thread(pipeline.forward, item)
        await asyncio.to_thread(pipeline.drain, 15)

    with running() as pipeline:
        asyncio.run(program(pipeline))
        assert pipeline.statistics().completed == 1


@pytest.mark.parametrize("end", [lambda results, pipeline: results.close(), None])
def test_a_blocking_source_object_is_closed_when_it_should_stop(
    end: Callable[[object, Pipeline], None] | None,
) -> None:
    """When the reader leaves, and when the pipeline is cleaned up."""
    camera = Camera()
    pipeline = running()
    results = pipeline.stream(camera)
    assert next(results) == 1
    assert camera.blocking.wait(10)
    if end is not None:
        end(results, pipeline)
        assert camera.closed.is_set()
    pipeline.cleanup()
    assert camera.closed.is_set()


def test_a_source_object_that_does_not_block_is_not_closed_from_outside() -> None:
    """It ends by itself; closing it is its owner's business."""
    camera = Camera()
    camera.closed.set()
    pipeline = running()
    assert list(pipeline.stream(camera)) == [1]
    camera.closed.clear()
    pipeline.cleanup()
    assert not camera.closed.is_set()


def test_a_source_whose_close_raises_costs_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """It must not keep the pipeline from stopping."""

    class Broken(Camera):
        def close(self) -> None:
            super().close()
            raise OSError("no such device")

    camera = Broken()
    pipeline = running()
    results = pipeline.stream(camera)
    next(results)
    assert camera.blocking.wait(10)
    with caplog.at_level(logging.WARNING, logger="PyStream"):
        results.close()
    pipeline.cleanup()
    assert "no such device" in caplog.text


@pytest.mark.parametrize("method", ["serialize", "parallelize"])
def test_a_reader_may_leave_a_stream_whose_items_are_timed(method: str) -> None:
    """What it has read is completed, the rest is counted, and the source is closed."""
    closed = threading.Event()

    def source() -> Iterator[int]:
        try:
            yield from range(10**9)
        finally:
            closed.set()

    pipeline = Pipeline()
    pipeline.add(lambda item: item, max_age=3600.0)
    getattr(pipeline, method)()
    results = pipeline.stream(source())
    assert [next(results), next(results)] == [0, 1]
    results.close()
    assert closed.wait(5.0)
    pipeline.cleanup()
    statistics = pipeline.statistics()
    assert statistics.completed >= 2
    assert statistics.in_flight == 0


def test_the_input_generator_outlives_a_reader_that_leaves() -> None:
    """The pipeline, and its generator, can be used again."""
    gate = threading.Event()
    numbers = iter(range(100))

    def generate() -> int:
        number = next(numbers)
        if number == 1:
            gate.wait(15)
        return number

    pipeline = Pipeline(generate)
    pipeline.add(lambda item: item)
    pipeline.parallelize()
    results = pipeline.stream()
    assert next(results) == 0
    threading.Timer(0.02, gate.set).start()
    results.close()
    gate.set()
    assert pipeline.forward()
    pipeline.drain()
    assert pipeline.get_results() >= 1
    pipeline.cleanup()


@pytest.mark.parametrize("mode", ["serialize", "parallelize"])
@pytest.mark.parametrize("wrap", [iter, lambda results: results])
def test_an_open_stream_keeps_its_pipeline_alive(
    mode: str, wrap: Callable[[object], Iterator[int]]
) -> None:
    """A pipeline that nobody else holds is not stopped while its results are read."""
    cleaned: list[bool] = []

    class Probe(Stage[int]):
        def __call__(self, data: int) -> int:
            return data

        def cleanup(self) -> None:
            cleaned.append(True)

    def results() -> Iterator[int]:
        pipeline = Pipeline()
        pipeline.add(Probe())
        return wrap(getattr(pipeline, mode)().stream(range(100)))

    stream = results()
    gc.collect()
    with pytest.warns(ResourceWarning):
        got = list(stream)
        del stream
        gc.collect()
    assert got == list(range(100))
    if mode == "parallelize":  # a serial stage has no thread of its own to end in
        assert wait_until(lambda: cleaned == [True])


def test_letting_a_stream_go_does_not_wait_long_for_a_stuck_stage() -> None:
    """Ctrl-C in a plain loop lets the stream go: that must not take ``stuck_timeout``."""
    gate, entered = threading.Event(), threading.Event()

    def stuck(item: int) -> int:
        if item:
            entered.set()
            gate.wait(15)
        return item

    pipeline = Pipeline()
    pipeline.add(stuck)
    pipeline.parallelize()
    results = pipeline.stream(range(10))
    assert next(results) == 0
    assert entered.wait(10)
    begin = monotonic()
    del results
    took = monotonic() - begin
    gate.set()
    pipeline.cleanup()
    assert took < 2


def test_a_closed_input_generator_is_not_called_any_more() -> None:
    """Whoever waits for its turn while the pipeline is stopped is sent away."""
    calls: list[int] = []
    generator = InputGenerator(lambda: calls.append(1))
    generator.close()
    with pytest.raises(PipelineTerminated, match="no item was taken"):
        generator()
    assert calls == []


def test_an_input_generator_without_a_readable_name_is_named_all_the_same() -> None:
    """The message about what stopped a loop must not raise itself."""

    class Unreadable:
        def __getattr__(self, name: str) -> str:
            raise ValueError(name)

    assert "Unreadable object" in call_name(Unreadable())
