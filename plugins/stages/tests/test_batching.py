"""The stages batch, window and unbatch, in pipelines of both sorts."""

from __future__ import annotations

import math
import threading
from time import perf_counter

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from pystream_stages import Batch, Unbatch, Window

from pystream_core import Pipeline, PlanError, StageError, factory
from pystream_core.testing import PATIENCE, Gate, Opaque, broken_law, wait_until

MODES = ("serial", "threads")


def build(mode, *stages, **options):
    """A pipeline of these stages, not started."""
    pipeline = Pipeline()
    for stage in stages:
        pipeline.add(stage, **options)
    return choose(pipeline, mode)


def choose(pipeline, mode):
    return pipeline.serialize() if mode == "serial" else pipeline.parallelize()


def run(mode, source, *stages):
    """All results and the ledger, whose law holds."""
    with build(mode, *stages) as pipeline:
        results = list(pipeline.stream(source))
        ledger = pipeline.statistics()
    assert broken_law(ledger) == []
    return results, ledger


@pytest.fixture(params=MODES)
def mode(request):
    return request.param


# -- batch -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("items", "size", "lists"),
    [
        (10, 4, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]),
        (8, 4, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (3, 1, [[0], [1], [2]]),
        (2, 100, [[0, 1]]),
        (0, 4, []),
    ],
)
def test_a_stream_comes_out_in_lists(mode, items, size, lists):
    """In order, the last one shorter; every item is absorbed, every list spawned."""
    results, ledger = run(mode, range(items), Batch(size))
    assert results == lists
    assert (ledger.admitted, ledger.absorbed) == (items, items)
    assert (ledger.spawned, ledger.completed) == (len(lists), len(lists))


def test_a_drain_brings_out_the_shorter_list(mode):
    """And the next list begins with the items after it."""
    seen = []
    with build(mode, Batch(4), seen.append) as pipeline:
        for item in range(6):
            pipeline.forward(item)
        pipeline.drain(PATIENCE)
        assert seen == [[0, 1, 2, 3], [4, 5]]
        pipeline.drain(PATIENCE)
        for item in range(6, 10):
            pipeline.forward(item)
        pipeline.drain(PATIENCE)
    assert seen == [[0, 1, 2, 3], [4, 5], [6, 7, 8, 9]]


def test_a_cleanup_brings_out_the_shorter_list(mode):
    """It goes through the stages behind before they are cleaned up."""
    seen = []
    pipeline = build(mode, Batch(4), seen.append)
    for item in range(3):
        pipeline.forward(item)
    pipeline.cleanup()
    assert seen == [[0, 1, 2]]
    ledger = pipeline.statistics()
    assert (ledger.absorbed, ledger.spawned, ledger.completed) == (3, 1, 1)


def test_nothing_comes_out_of_an_abort(mode):
    """What waited is counted as dropped, and the same object starts empty again."""
    seen = []
    pipeline = build(mode, Batch(4), seen.append)
    for item in range(6):
        pipeline.forward(item)
    assert wait_until(
        lambda: (pipeline.statistics().absorbed, pipeline.statistics().completed) == (6, 1)
    )
    pipeline.abort()
    pipeline.cleanup()
    ledger = pipeline.statistics()
    assert broken_law(ledger) == []
    assert (ledger.absorbed, dict(ledger.dropped)) == (4, {"abort": 2})
    with choose(pipeline, mode):
        for item in range(6, 9):
            pipeline.forward(item)
    assert seen == [[0, 1, 2, 3], [6, 7, 8]]


@pytest.mark.parametrize("stage", [Batch(3), Window(3, step=3)])
def test_nothing_of_a_stream_that_was_left_comes_out_of_the_next(mode, stage):
    """Its reader goes after one list, with items waiting in the stage."""
    with build(mode, stage) as pipeline:
        stream = pipeline.stream(range(100))
        assert next(stream) == [0, 1, 2]
        stream.close()
        assert list(pipeline.stream("abcdef")) == [["a", "b", "c"], ["d", "e", "f"]]
        ledger = pipeline.statistics()
    assert broken_law(ledger) == []
    assert ledger.completed == 3


def test_a_source_that_fails_is_no_reason_to_keep_items(mode):
    """Lossless up to the failure; the next stream begins with nothing."""

    def source():
        yield from range(5)
        raise OSError("the cable is loose")

    results = []
    with build(mode, Batch(3)) as pipeline:
        with pytest.raises(OSError, match="loose"):
            results.extend(pipeline.stream(source()))
        assert list(pipeline.stream("ab")) == [["a", "b"]]


def test_max_wait_moves_a_slow_stream_in_threads():
    """A source that goes on only when its item has come out does not stand still."""
    came = threading.Semaphore(0)

    def source():
        for item in range(3):
            yield item
            assert came.acquire(timeout=PATIENCE)

    results = []
    with build("threads", Batch(100, max_wait=0.01)) as pipeline:
        for result in pipeline.stream(source()):
            results.append(result)
            came.release()
    assert results == [[0], [1], [2]]


def test_max_wait_counts_from_the_first_item_of_a_list():
    """A list goes out although items keep coming, and the next one has its own time."""
    gone = threading.Event()

    def source():
        number = 0
        until = perf_counter() + PATIENCE
        while not gone.is_set() and perf_counter() < until:
            yield number
            number += 1

    with build("threads", Batch(10**9, max_wait=0.01)) as pipeline:
        results = []
        for result in pipeline.stream(source()):
            results.append(result)
            if len(results) == 2:
                gone.set()
    flat = [item for result in results for item in result]
    assert len(results) >= 2
    assert flat == list(range(len(flat)))


def test_max_wait_is_looked_at_with_the_next_item_in_serial_mode():
    """Nobody else is there who could."""
    wait = 0.002

    def source():
        yield 0
        begin = perf_counter()
        assert wait_until(lambda: perf_counter() - begin > wait)
        yield 1

    assert run("serial", source(), Batch(100, max_wait=wait))[0] == [[0], [1]]


def test_without_max_wait_a_list_waits_for_its_items():
    """A stage behind sees nothing before the list is full."""
    gate = Gate()
    gate.open()
    with build("threads", Batch(2), gate) as pipeline:
        pipeline.forward(0)
        assert wait_until(lambda: pipeline.statistics().absorbed == 1)
        assert gate.entered == 0
        pipeline.forward(1)
        assert gate.wait_passed(1)


def test_lists_are_made_of_what_a_generator_gives(mode):
    """Across the borders of the items that it makes them of."""

    def twice(item):
        yield item
        yield item

    results, ledger = run(mode, range(4), twice, Batch(3))
    assert results == [[0, 0, 1], [1, 2, 2], [3, 3]]
    assert (ledger.admitted, ledger.expanded, ledger.absorbed) == (4, 4, 8)
    assert (ledger.spawned, ledger.completed) == (8 + 3, 3)


def test_a_list_may_be_collected_again(mode):
    """Two batching stages behind one another; the end of the stream empties both."""
    results, ledger = run(mode, range(7), Batch(2), Batch(3))
    assert results == [[[0, 1], [2, 3], [4, 5]], [[6]]]
    assert (ledger.absorbed, ledger.spawned, ledger.completed) == (7 + 4, 4 + 2, 2)


@pytest.mark.parametrize("stages", [(Batch(2), Unbatch()), (Window(1), Unbatch())])
def test_items_are_nobody_s_business(mode, stages):
    """They are not compared, printed, or asked for their truth or length."""
    items = [Opaque(number) for number in range(5)]
    results, _ = run(mode, items, *stages)
    assert [id(each) for each in results] == [id(each) for each in items]


def test_arrays_are_items_like_any_other(mode):
    """A batch of arrays holds the very arrays."""
    items = [np.zeros((2, 2)), np.ones(3), np.array(5)]
    (result,), _ = run(mode, items, Batch(3))
    assert all(one is other for one, other in zip(result, items, strict=True))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers() | st.none() | st.text()), st.integers(1, 12), st.sampled_from(MODES))
def test_unbatch_undoes_batch(items, size, mode):
    """Whatever the items and the size."""
    results, ledger = run(mode, items, Batch(size), Unbatch())
    assert results == items
    lists = math.ceil(len(items) / size)
    assert (ledger.absorbed, ledger.expanded) == (len(items), lists)
    assert ledger.spawned == lists + len(items)


@pytest.mark.parametrize("stage", [factory(Batch, size=2), factory(Window, size=2), Batch(2)])
def test_several_workers_are_refused(stage):
    """Each would collect items of its own."""
    with pytest.raises(PlanError, match="workers"):
        build("threads", stage, workers=2)


@pytest.mark.parametrize("size", [0, -1, 1.5, "4", None, True])
def test_batch_refuses_a_size_that_is_none(size):
    """When the stage is described, and with what to do instead."""
    with pytest.raises(PlanError, match=r"batch: size must be .* from 1, .*max_wait"):
        Batch(size)


@pytest.mark.parametrize("max_wait", [0, -1, math.inf, math.nan, "1", True, 1e300])
def test_batch_refuses_a_time_that_is_none(max_wait):
    """When the stage is described, and with what to do instead."""
    with pytest.raises(PlanError, match=r"max_wait must be seconds above 0, .*leave it out"):
        Batch(4, max_wait)


@pytest.mark.parametrize("stage", [Batch(3), Window(3)])
def test_setup_begins_with_nothing(stage):
    """Whatever an earlier run has left in the object."""
    stage(1)
    stage(2)
    stage.setup()
    assert list(stage.flush()) == []
    assert [stage(item) for item in "abc"][-1] == ["a", "b", "c"]


# -- window ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("items", "options", "windows"),
    [
        (5, {"size": 3}, [[0, 1, 2], [1, 2, 3], [2, 3, 4]]),
        (6, {"size": 3, "step": 2}, [[0, 1, 2], [2, 3, 4]]),
        (5, {"size": 2, "step": 2}, [[0, 1], [2, 3]]),
        (8, {"size": 2, "step": 3}, [[0, 1], [3, 4], [6, 7]]),
        (2, {"size": 1}, [[0], [1]]),
        (2, {"size": 3}, []),
    ],
)
def test_only_full_windows_come_out(mode, items, options, windows):
    """Fewer items than a window needs end in the stage, counted as absorbed."""
    results, ledger = run(mode, range(items), Window(**options))
    assert results == windows
    assert (ledger.admitted, ledger.absorbed) == (items, items)
    assert (ledger.spawned, ledger.completed) == (len(windows), len(windows))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 30), st.integers(1, 8), st.integers(1, 8), st.sampled_from(MODES))
def test_windows_agree_with_slices(items, size, step, mode):
    """For any number of items, size and step."""
    results, _ = run(mode, range(items), Window(size, step))
    assert results == [
        list(range(begin, begin + size)) for begin in range(0, items - size + 1, step)
    ]


def test_a_window_begins_anew_after_a_drain(mode):
    """None spans the pause."""
    seen = []
    with build(mode, Window(2), seen.append) as pipeline:
        for item in range(3):
            pipeline.forward(item)
        pipeline.drain(PATIENCE)
        for item in range(10, 12):
            pipeline.forward(item)
    assert seen == [[0, 1], [1, 2], [10, 11]]


def test_a_window_is_a_list_of_its_own(mode):
    """A stage behind may change it."""

    def spoil(window):
        window.clear()

    seen = []
    run(mode, range(4), Window(2), lambda window: seen.append(tuple(window)) or spoil(window))
    assert seen == [(0, 1), (1, 2), (2, 3)]


@pytest.mark.parametrize(
    "options", [{"size": 0}, {"size": 2.0}, {"size": True}, {"size": 2, "step": 0}]
)
def test_window_refuses_numbers_without_meaning(options):
    """When the stage is described, and with an example."""
    with pytest.raises(PlanError, match=r"window: (size|step) must be .* size=10"):
        Window(**options)


# -- unbatch -----------------------------------------------------------------------------


def test_anything_to_iterate_over_becomes_its_items(mode):
    """Lists, ranges, generators; what is empty gives nothing and is counted."""
    source = [[1, 2], [], (3,), range(4, 6), (item for item in (6, 7)), {8: ""}.keys()]
    results, ledger = run(mode, source, Unbatch())
    assert results == [1, 2, 3, 4, 5, 6, 7, 8]
    assert (ledger.admitted, ledger.expanded, ledger.spawned) == (6, 6, 8)


def test_an_array_becomes_its_rows(mode):
    """As when it is iterated."""
    results, _ = run(mode, [np.arange(6).reshape(3, 2)], Unbatch())
    assert [row.tolist() for row in results] == [[0, 1], [2, 3], [4, 5]]


def test_items_without_end_come_one_by_one(mode):
    """Each as soon as it is there; the reader may leave."""

    def endless():
        number = 0
        while True:
            yield number
            number += 1

    with build(mode, Unbatch()) as pipeline:
        stream = pipeline.stream([endless()])
        assert [next(stream) for _ in range(3)] == [0, 1, 2]
        stream.close()


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("text", r"text \(str\) would fall into .*put it into a list"),
        (b"text", r"text \(bytes\) would fall"),
        (bytearray(b"text"), r"text \(bytearray\) would fall"),
        ({"a": 1}, r"of a dict only the keys .*\.items\(\)"),
        (5, "int cannot be iterated .*leave this stage out"),
        (None, "NoneType cannot be iterated"),
        (np.array(5), "ndarray cannot be iterated"),
    ],
)
def test_what_is_probably_one_item_is_refused(mode, item, message):
    """With what it is and what to do; the policy of the stage decides what follows."""
    with build(mode, Unbatch()) as pipeline:
        with pytest.raises(StageError, match=message) as caught:
            list(pipeline.stream([item]))
        assert isinstance(caught.value.__cause__, TypeError)


def test_a_refused_item_may_be_skipped(mode):
    """It counts as failed, the others pass."""
    with build(mode, Unbatch(), on_error="skip") as pipeline:
        assert list(pipeline.stream([[1], "text", [2]])) == [1, 2]
        ledger = pipeline.statistics()
    assert (ledger.expanded, ledger.failed, ledger.completed) == (2, 1, 2)
