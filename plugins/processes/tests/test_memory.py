"""Large buffers travel in shared memory, which is never reused while someone sees it."""

from __future__ import annotations

import bisect
import ctypes
import errno
import gc
import os
import re
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest
from pystream_processes import ProcessPlacement, _memory, _pool, shared_memory
from pystream_processes._memory import Map, address_of, copy
from pystream_processes._packing import SMALLEST, kind_of
from pystream_processes._pool import Pool, PoolStatistics, Wish, pool
from pystream_processes._shared import Shared

from pystream_core import SKIP, Pipeline, PlanError, Retry, Stage, placement
from pystream_core.testing import in_thread, wait_until

numpy = pytest.importorskip("numpy")

Make = Callable[..., Pipeline]

MB = 1 << 20
PLACED: dict[str, Any] = {"placement": "process"}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Pool:
    """A pool of 16 MB in place of the process's."""
    made = Pool(16 * MB)
    monkeypatch.setattr(_pool, "_pool_of", lambda process: made)
    return made


@pytest.fixture
def entered() -> Iterator[Pool]:
    """A pool by itself, in use."""
    made = Pool(16 * MB)
    made.enter(made)
    yield made
    made.leave(made)


def same(item: Any) -> Any:
    """The item."""
    return item


def in_place(frame: Any) -> Any:
    """The frame, one brighter."""
    frame += 1
    return frame


def is_shared(frame: Any) -> bool:
    """Whether a frame lies in shared memory, looked at from here."""
    return pool().find(address_of(memoryview(frame).cast("B")), frame.nbytes) is not None


def waits(frame: Any) -> int:
    """How often its thread has waited for something until now."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def placed(pipelines: Make, *stages: Any) -> Pipeline:
    """A pipeline with all stages in processes."""
    pipeline = pipelines()
    for stage in stages:
        pipeline.add(stage)
    return pipeline.parallelize(placement="process")


# -- values ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: numpy.arange(300_000, dtype="i8").reshape(300, 1000),
        lambda: numpy.asfortranarray(numpy.arange(300_000.0).reshape(300, 1000)),
        lambda: numpy.arange(300_000)[::2],
        lambda: numpy.arange(100),
        lambda: numpy.array(["object", None] * 50_000, dtype=object),
        lambda: {"frames": [numpy.zeros(70_000, "u1"), numpy.ones(5)], "rest": "x" * 200_000},
        lambda: bytes(300_000),
        lambda: bytearray(300_000),
        lambda: "é" * 300_000,
        lambda: numpy.zeros(0),
    ],
    ids=[
        "array",
        "fortran",
        "strided",
        "small",
        "objects",
        "nested",
        "bytes",
        "bytearray",
        "text",
        "empty",
    ],
)
def test_values_arrive_as_they_were(pipelines: Make, make: Callable[[], Any]) -> None:
    """Whatever way they travel; types, shapes and contents."""
    value = make()
    pipeline = placed(pipelines, same, same)
    (result,) = pipeline.stream([value])
    assert type(result) is type(value)
    if isinstance(value, dict):
        assert [list(frame) for frame in result["frames"]] == [[0] * 70_000, [1.0] * 5]
        assert result["rest"] == value["rest"]
    else:
        assert numpy.array_equal(result, value) if hasattr(value, "shape") else result == value
    pipeline.cleanup()


def test_arrays_can_be_written_to(pipelines: Make) -> None:
    """In the child and here, small and large, as one expects of an item of one's own."""
    pipeline = placed(pipelines, in_place)
    for size in (10, 100_000):
        (result,) = pipeline.stream([numpy.zeros(size)])
        result += 1
        assert result.sum() == 2 * size
    pipeline.cleanup()


def reshaped(frame: Any) -> Any:
    """The same frame with its places changed, all of it in place."""
    frame.shape = frame.shape[::-1]
    frame += 1
    return frame


def retyped(frame: Any) -> Any:
    """The same frame, read as other numbers."""
    frame.dtype = "f4"
    return frame


def locked(frame: Any) -> Any:
    """The same frame, not to be written to any more."""
    frame.flags.writeable = False
    return frame


@pytest.mark.filterwarnings("ignore:Setting the .* on a NumPy array:DeprecationWarning")
@pytest.mark.parametrize(
    "stage",
    [in_place, reshaped, retyped, locked, lambda frame: frame.T, lambda frame: frame[10:]],
    ids=["in_place", "reshaped", "retyped", "locked", "transposed", "cut"],
)
def test_a_frame_is_what_the_stage_made_of_it(pipelines: Make, stage: Any) -> None:
    """However little of it has changed: as in a process of one's own, in the next stage and for
    the reader."""

    def described(frame: Any) -> tuple[Any, ...]:
        flags = frame.flags
        layout = (flags.writeable, flags.c_contiguous, flags.f_contiguous)
        return frame.shape, str(frame.dtype), layout, frame.tolist()

    frames = [numpy.arange(70_000, dtype="i4").reshape(70, 1000) + n for n in range(3)]
    expected = [described(stage(frame.copy())) for frame in frames]
    pipeline = placed(pipelines, stage)
    assert [described(result) for result in pipeline.stream(frames)] == expected
    pipeline.cleanup()
    pipeline = placed(pipelines, stage, described)
    assert list(pipeline.stream(frames)) == expected
    pipeline.cleanup()


def test_arrays_of_many_kinds_are_told_apart(pipelines: Make) -> None:
    """Also when there are more of them than are known by heart, and when they are equal but for
    what is not compared."""
    kinds = [numpy.zeros((300 + n, 300), "u1") for n in range(300)]
    kinds += [numpy.zeros((300 + n, 300), "u1", order="F") for n in range(10)]
    tagged = numpy.zeros((300, 300), numpy.dtype("u1", metadata={"of": "camera"}))
    frozen = numpy.zeros((300, 300), "u1")
    frozen.flags.writeable = False
    kinds += [tagged, kinds[0], frozen, kinds[0], tagged, numpy.zeros((300, 300), ">u2")]

    def described(frame: Any) -> tuple[Any, ...]:
        flags = frame.flags
        layout = (flags.writeable, flags.c_contiguous, flags.f_contiguous)
        return frame.shape, frame.dtype.str, dict(frame.dtype.metadata or {}), layout

    pipeline = placed(pipelines, same, described)
    assert list(pipeline.stream(kinds)) == list(map(described, kinds))
    pipeline.cleanup()


class WhenOpen:
    """Gives out its frame, one brighter, as soon as a file is there."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __call__(self, frame: Any) -> Any:
        assert wait_until(self.file.exists)
        return frame + 1

    def open(self) -> None:
        """From now on."""
        self.file.touch()


@pytest.fixture
def when_open(tmp_path: Path) -> Iterator[WhenOpen]:
    """At the end it is open, whatever came of the test."""
    made = WhenOpen(tmp_path / "open")
    yield made
    made.open()


@pytest.mark.parametrize("before", [(), (in_place,)], ids=["source", "stage"])
def test_what_waits_lies_in_shared_memory_already(
    pipelines: Make, small: Pool, when_open: WhenOpen, before: tuple[Any, ...]
) -> None:
    """Whoever hands frames to a placed stage puts them there meanwhile."""
    pipeline = pipelines()
    for stage in before:
        pipeline.add(stage)
    pipeline.add(when_open, capacity=3, **PLACED)
    pipeline.parallelize()
    frames = [numpy.full(MB, n, "u1") for n in range(10)]
    results = in_thread(lambda: [int(frame[-1]) for frame in pipeline.stream(frames)])
    # In the stage's hand, three that wait for it, and one that waits for a place.
    assert wait_until(lambda: small.statistics().lent == 5)
    when_open.open()
    assert results.wait().value == [n + 1 + len(before) for n in range(10)]
    assert small.statistics().refused == small.statistics().waits == 0
    del results
    pipeline.cleanup()


def test_what_cannot_be_brought_is_tried_again(
    pipelines: Make, small: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the call, which can say what is wrong."""
    real, failed = _pool.make_nameless, threading.Event()

    def fails_once(size: int) -> int:
        if not failed.is_set():
            failed.set()
            raise OSError("too many open files")
        return real(size)

    monkeypatch.setattr(_pool, "make_nameless", fails_once)
    pipeline = placed(pipelines, in_place)
    frames = [numpy.full(MB, n, "u1") for n in range(5)]
    assert [int(frame[-1]) for frame in pipeline.stream(frames)] == [1, 2, 3, 4, 5]
    assert failed.is_set()
    pipeline.cleanup()


def test_what_waits_takes_half_of_the_memory_at_most(
    pipelines: Make, small: Pool, when_open: WhenOpen
) -> None:
    """So that there is room for what is under way; the rest waits as it is."""
    pipeline = pipelines()
    pipeline.add(when_open, capacity=20, **PLACED)
    pipeline.parallelize()
    read = threading.Event()

    def frames() -> Iterator[Any]:
        for n in range(25):
            if n == 21:
                read.set()
            yield numpy.full(MB, n, "u1")

    results = in_thread(lambda: [int(frame[-1]) for frame in pipeline.stream(frames())])
    assert read.wait(10)
    assert small.statistics().lent == 8
    when_open.open()
    assert results.wait().value == list(range(1, 26))
    assert small.statistics().refused == small.statistics().waits == 0
    pipeline.cleanup()


@pytest.mark.parametrize("options", [{"on_error": Retry(1)}, {"overflow": "drop_newest"}])
def test_what_may_be_in_vain_or_needed_again_waits_as_it_is(
    pipelines: Make, small: Pool, when_open: WhenOpen, options: dict[str, Any]
) -> None:
    """Items that may be dropped, and those of a stage that is called again with the same."""
    pipeline = pipelines()
    pipeline.add(when_open, capacity=3, **options, **PLACED)
    pipeline.parallelize()
    read = threading.Event()

    def frames() -> Iterator[Any]:
        for n in range(5):
            yield numpy.full(MB, n, "u1")
        read.set()

    results = in_thread(lambda: [int(frame[-1]) for frame in pipeline.stream(frames())])
    assert wait_until(lambda: small.statistics().lent == 1)
    assert wait_until(lambda: pipeline.statistics().admitted >= 4)
    assert small.statistics().lent == 1
    when_open.open()
    assert results.wait().value[0] == 1
    assert read.wait(10)
    pipeline.cleanup()


def test_the_item_of_a_failure_is_the_frame(pipelines: Make) -> None:
    """Also when it has waited in shared memory."""

    def refuse(frame: Any) -> Any:
        raise ValueError(int(frame[0]))

    failures: list[Any] = []
    pipeline = pipelines()
    pipeline.add(refuse, on_error=lambda failure: failures.append(failure) or SKIP, **PLACED)
    pipeline.parallelize()
    frames = [numpy.full(MB, n, "u1") for n in range(20)]
    assert list(pipeline.stream(frames)) == []
    assert len(failures) == 20
    for failure, frame in zip(failures, frames, strict=True):
        assert numpy.array_equal(failure.item, frame)
    failures.clear()
    pipeline.cleanup()


def test_the_senders_array_stays_as_it_was(pipelines: Make) -> None:
    """A stage in a process works on a copy of what comes from here."""
    frame = numpy.zeros(MB, "u1")
    pipeline = placed(pipelines, in_place)
    results = list(pipeline.stream([frame] * 3))
    assert [int(result[0]) for result in results] == [1, 1, 1]
    assert not frame.any()
    del results
    pipeline.cleanup()


def test_a_result_is_not_copied_here(pipelines: Make) -> None:
    """It lies over the block that the child wrote, and the block comes back with it."""
    pipeline = placed(pipelines, in_place)
    (result,) = pipeline.stream([numpy.zeros(MB, "u1")])
    assert is_shared(result)
    assert shared_memory().lent == 1
    del result
    gc.collect()
    assert pool().statistics().lent == 0
    pipeline.cleanup()


def test_a_process_waits_once_for_each_frame(pipelines: Make) -> None:
    """Who only waited in recv was woken for nothing whenever an answer was read, too."""
    frame = numpy.zeros(MB, numpy.uint8)
    first, *_, last = placed(pipelines, same, same, waits).stream([frame] * 501)
    assert last - first <= 600


def test_placed_stages_hand_blocks_on(pipelines: Make, small: Pool) -> None:
    """What one process gives out in a block the next one gets in the same block: a single one
    serves an item on its whole way."""
    pipeline = placed(pipelines, in_place, in_place, in_place)
    pipeline.forward(numpy.zeros(12 * MB, "u1"))  # there is no room for two
    pipeline.drain(10)
    result = pipeline.get_results()
    assert (int(result[0]), int(result[-1])) == (3, 3)
    assert is_shared(result)
    assert small.statistics().refused == small.statistics().waits == 0
    del result
    pipeline.cleanup()


def test_a_result_stays_where_it_is(pipelines: Make, small: Pool) -> None:
    """Until a reader looks at it: one that a newer one supersedes is never unpickled here."""
    pipeline = placed(pipelines, in_place)
    session = pipeline._session
    assert session is not None
    for _ in range(2):
        pipeline.forward(numpy.zeros(MB, "u1"))
        pipeline.drain(10)
        assert type(session.output.slot[0]) is Shared
    assert small.statistics().lent == 1
    assert pipeline.get_results().sum() == MB
    pipeline.cleanup()


def test_only_what_is_sure_to_come_out_stays(pipelines: Make) -> None:
    """What may fail to be unpickled fails at the stage that gave it out."""

    class Trap:
        def __init__(self, frame: Any) -> None:
            self.frame = frame

        def __reduce__(self) -> Any:
            return spring, (self.frame,)

    pipeline = pipelines()
    pipeline.add(Trap, name="maker", on_error="skip", **PLACED)
    pipeline.add(same, **PLACED)
    pipeline.parallelize()
    assert list(pipeline.stream([numpy.zeros(MB, "u1")])) == []
    assert [stage.failed for stage in pipeline.statistics().stages] == [1, 0]
    pipeline.cleanup()


def spring(frame: Any) -> Any:
    """What a Trap becomes."""
    raise ValueError("sprung")


@pytest.mark.parametrize("join", [PLACED, {}], ids=["placed", "here"])
def test_what_branches_bring_together_is_not_copied(
    pipelines: Make, small: Pool, join: dict[str, Any]
) -> None:
    """A join gets the blocks that its branches have made: there is no room for others."""
    pipeline = pipelines()
    pipeline.add(lambda seed: numpy.full(4 * MB, seed, "u1"), "make", **PLACED)
    pipeline.add(lambda frame: frame + 1, "left", after="make", **PLACED)
    pipeline.add(lambda frame: frame + 2, "right", after="make", **PLACED)
    pipeline.add(
        lambda pair: (int(pair[0][-1]), int(pair[1][-1]), type(pair) is tuple),
        "join",
        after=["left", "right"],
        **join,
    )
    pipeline.parallelize()
    for seed in (1, 5):
        pipeline.forward(seed)
        pipeline.drain(10)
        assert pipeline.get_results() == (seed + 1, seed + 2, True)
    assert small.statistics().refused == small.statistics().waits == 0
    pipeline.cleanup()


def test_a_stage_that_is_called_again_gets_a_copy(pipelines: Make) -> None:
    """With Retry: what the first call has changed is not there in the second."""

    class Twice(Stage[Any]):
        called = 0

        def __call__(self, data: Any) -> Any:
            self.called += 1
            data += 1
            if self.called % 2:
                raise ValueError
            return data

        def cleanup(self) -> None:
            """Nothing."""

    pipeline = pipelines()
    pipeline.add(in_place, **PLACED)
    pipeline.add(Twice(), on_error=Retry(1), **PLACED)
    pipeline.parallelize()
    assert [int(frame[0]) for frame in pipeline.stream([numpy.zeros(MB, "u1")] * 2)] == [2, 2]
    pipeline.cleanup()


# -- never reused too early ------------------------------------------------------------


def test_a_view_keeps_its_block(pipelines: Make, small: Pool) -> None:
    """Results that the reader keeps never change, however many come after."""
    pipeline = placed(pipelines, lambda number: numpy.full(300_000, number % 251, "u1"))
    kept = {}
    for number, frame in enumerate(pipeline.stream(range(300))):
        if number % 11 == 0:
            kept[number] = frame[1000:1010]
    assert {number: set(part.tolist()) for number, part in kept.items()} == {
        number: {number % 251} for number in kept
    }
    kept.clear()
    pipeline.cleanup()


class Remembers(Stage[Any]):
    """Compares each frame with those before, which it keeps."""

    def setup(self) -> None:
        self.kept: list[Any] = []

    def __call__(self, data: Any) -> Any:
        number, frame = data
        for other, old in self.kept:
            assert (old == other % 251).all(), f"{other} has changed before {number}"
        self.kept = [*self.kept[-3:], (number, frame)]
        return number, len(self.kept)

    def cleanup(self) -> None:
        assert all((old == other % 251).all() for other, old in self.kept)


def test_a_stage_that_keeps_its_items_keeps_their_blocks(pipelines: Make, small: Pool) -> None:
    """Also after its call has ended; they come back when it lets them go."""
    pipeline = placed(pipelines, Remembers)
    source = ((number, numpy.full(200_000, number % 251, "u1")) for number in range(200))
    assert list(pipeline.stream(source))[-1] == (199, 4)
    assert 1 <= small.statistics().lent <= 5
    pipeline.cleanup()
    gc.collect()
    assert small.statistics().lent == 0


class Delays(Stage[Any]):
    """Gives out each frame one call later, from where it has kept it."""

    def setup(self) -> None:
        self.kept: Any = None

    def __call__(self, data: Any) -> Any:
        given, self.kept = self.kept, data
        return SKIP if given is None else given

    def cleanup(self) -> None:
        """Nothing."""


class DelaysPairs(Delays):
    """The same with something around the frame."""

    def __call__(self, data: Any) -> Any:
        given = super().__call__(data)
        return given if given is SKIP else (len(given), given)


@pytest.mark.parametrize("stage", [Delays, DelaysPairs])
@pytest.mark.parametrize("behind", [(), (same,)], ids=["alone", "row"])
def test_what_was_kept_may_be_given_out_later(
    pipelines: Make, small: Pool, stage: Any, behind: tuple[Any, ...]
) -> None:
    """The stage looks at it no more then, but the one who gets it does."""
    pipeline = placed(pipelines, stage, *behind)
    source = (numpy.full(200_000, number, "u1") for number in range(10))
    given = [each[1] if isinstance(each, tuple) else each for each in pipeline.stream(source)]
    assert [set(frame.tolist()) for frame in given] == [{number} for number in range(9)]
    pipeline.cleanup()
    del given
    gc.collect()
    assert small.statistics().lent == 0


def write_first(frame: Any, pipe: int) -> None:
    """What a forked child sees, once the parent has gone on."""
    os.read(pipe, 1)
    os._exit(int(frame[0]))


def test_what_a_forked_child_sees_is_not_used_again(pipelines: Make, small: Pool) -> None:
    """It has no copy of shared memory, and nobody here can know for how long it looks. (The next
    fork of one that looks at nothing costs nothing.)"""
    pipeline = placed(pipelines, same)
    frames = pipeline.stream(numpy.full(MB, number, "u1") for number in range(100))
    frame = next(frames)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        write_first(frame, read)
    del frame
    assert sum(1 for _ in frames) == 99
    os.write(write, b"!")
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0  # as it was
    for each in (read, write):
        os.close(each)
    assert small.statistics().refused == 0
    pipeline.cleanup()
    gc.collect()
    assert small.statistics().lent == 0


class ForksAndWaits(Stage[Any]):
    """Has a forked child look at its first item when the last one comes."""

    def setup(self) -> None:
        self.child = 0

    def __call__(self, data: Any) -> Any:
        if not self.child:
            self.read, self.write = os.pipe()
            self.child = os.fork()
            if not self.child:
                write_first(data, self.read)
        if data[0] < 99:
            return int(data[0])
        os.write(self.write, b"!")
        return os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1]) - 1000

    def cleanup(self) -> None:
        """Nothing."""


def test_what_a_child_of_a_stage_sees_is_not_used_again(pipelines: Make, small: Pool) -> None:
    """The same when a stage in a process forks."""
    pipeline = placed(pipelines, ForksAndWaits)
    source = (numpy.full(MB, number, "u1") for number in range(100))
    assert list(pipeline.stream(source))[-1] == -1000


def test_a_killed_child_gives_its_blocks_back(pipelines: Make, small: Pool) -> None:
    """Those that it kept and the one it worked on, once it is gone."""

    class KeepsAndDies(Stage[Any]):
        def setup(self) -> None:
            self.kept: list[Any] = []

        def __call__(self, data: Any) -> Any:
            self.kept.append(data)
            if len(self.kept) == 5:
                os._exit(1)

        def cleanup(self) -> None:
            """Nothing."""

    pipeline = pipelines()
    pipeline.add(KeepsAndDies, on_error="skip", **PLACED)
    pipeline.parallelize()
    list(pipeline.stream(numpy.zeros(MB, "u1") for _ in range(40)))
    gc.collect()
    assert small.statistics().lent == 0
    assert pipeline.statistics().failed == 8
    assert small.statistics().refused == 0
    pipeline.cleanup()


# -- bounded ---------------------------------------------------------------------------


def test_a_reader_that_keeps_everything_is_not_held_up(pipelines: Make, small: Pool) -> None:
    """A full pool is waited for once; then what finds no block comes through the pipe."""
    pipeline = placed(pipelines, lambda number: numpy.full(MB, number, "u1"))
    begin = monotonic()
    results = list(pipeline.stream(range(40)))
    assert monotonic() - begin < 5
    assert [int(result[-1]) for result in results] == list(range(40))
    statistics = small.statistics()
    assert statistics.size <= statistics.limit == 16 * MB
    assert 0 < statistics.refused < 40
    assert statistics.waits >= 1
    results[-1] += 1
    results.clear()
    pipeline.cleanup()


def test_a_full_pool_waits_for_a_block(entered: Pool) -> None:
    """And takes it as soon as its last view is gone."""
    held = [entered.lease(4 * MB) for _ in range(4)]
    assert all(held)
    timer = threading.Timer(0.05, held.clear)
    timer.start()
    begin = monotonic()
    assert entered.lease(4 * MB) is not None
    assert monotonic() - begin < 0.2
    timer.join()
    assert entered.statistics().waits == 1


def test_an_empty_wait_is_not_repeated(entered: Pool) -> None:
    """Until one has come back."""
    held = [entered.lease(4 * MB) for _ in range(4)]
    assert entered.lease(4 * MB) is None
    begin = monotonic()
    assert [entered.lease(4 * MB) for _ in range(20)] == [None] * 20
    assert monotonic() - begin < 0.2
    held.pop()
    assert entered.lease(4 * MB) is not None
    assert entered.statistics().refused == 21


def test_vain_waits_become_seldom(entered: Pool) -> None:
    """A reader keeps what it gets, while the block of each item comes back: waiting after each of
    these would cost a quarter of a second per item."""
    held = [entered.lease(4 * MB) for _ in range(3)]
    begin = monotonic()
    for _ in range(200):
        item = entered.lease(4 * MB)
        assert item is not None
        assert entered.lease(4 * MB) is None  # for the result, which goes through the pipe
        del item
    assert monotonic() - begin < 2
    assert entered.statistics().waits < 5
    held.clear()
    assert entered.lease(4 * MB) is not None


def test_a_block_that_someone_else_puts_back_ends_the_wait(entered: Pool) -> None:
    """Whoever takes a block sorts in what has come back, also what another one waits for."""
    held = [entered.lease(4 * MB) for _ in range(4)]
    waiting = in_thread(lambda: entered.lease(4 * MB))
    assert wait_until(lambda: entered.statistics().waits == 1)
    with entered._lock:
        held.pop()
        entered._collect()
    assert waiting.wait().value is not None


@contextmanager
def no_descriptors() -> Iterator[None]:
    """The system gives this process no more of them."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[0] + 32, before[1]))
    try:
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        yield
    finally:
        for each in held:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Bounded(Stage[Any]):
    """Allows its process a little more memory than that has."""

    def setup(self) -> None:
        import numpy as np

        np.ones(1)
        lines = Path("/proc/self/status").read_text().splitlines()
        used = next(int(line.split()[1]) for line in lines if line.startswith("VmSize"))
        resource.setrlimit(resource.RLIMIT_AS, (used * 1024 + 32 * MB,) * 2)

    def __call__(self, data: Any) -> Any:
        return data + 1

    def cleanup(self) -> None:
        """Nothing."""


class Crowded(Stage[Any]):
    """Has used up the descriptors of its process."""

    def setup(self) -> None:
        import numpy as np

        np.ones(1)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        self.held: list[int] = []
        try:
            while True:
                self.held.append(os.dup(0))
        except OSError:
            pass

    def __call__(self, data: Any) -> Any:
        return data + 1

    def cleanup(self) -> None:
        for each in self.held:
            os.close(each)


@pytest.mark.parametrize("stage", [Bounded, Crowded])
@pytest.mark.parametrize("stages", [1, 3])
def test_a_process_that_cannot_have_shared_memory_takes_the_pipe(
    pipelines: Make, caplog: pytest.LogCaptureFixture, stage: type, stages: int
) -> None:
    """For items and for results, and nothing is lost; one WARNING tells."""
    pipeline = placed(pipelines, *([same] * (stages // 2)), stage, *([in_place] * (stages // 2)))
    sizes = [k % 15 * 2 * SMALLEST + SMALLEST for k in range(60)]
    found = list(pipeline.stream(numpy.full(size, 5, "u1") for size in sizes))
    assert [each.size for each in found] == sizes
    expected = 6 + stages // 2
    assert all((each == expected).all() for each in found)
    assert sum("cannot have shared memory" in line for line in caplog.messages) == 1


def test_what_a_process_cannot_have_is_asked_for_again(pipelines: Make) -> None:
    """Also several arrays in one item, with what is beside them, and a read-only one."""
    pipeline = placed(pipelines, Echo)
    arrays = [numpy.arange(SMALLEST * (each + 1), dtype="u4") for each in range(3)]
    arrays[1].flags.writeable = False
    item = {"arrays": arrays, "beside": "text", "again": arrays[0]}
    for _ in range(2):
        (found,) = pipeline.stream([item])
        assert found["beside"] == "text"
        assert found["again"] is found["arrays"][0]
        for got, given in zip(found["arrays"], arrays, strict=True):
            assert numpy.array_equal(got, given)


class Echo(Crowded):
    """Gives out what it gets."""

    def __call__(self, data: Any) -> Any:
        return data


def test_arrays_whose_type_holds_something_of_the_programs_are_pickled_by_value(
    pipelines: Make,
) -> None:
    """As any other item is, small and large ones, also in a field."""

    class Unit:
        name = "m"

    unit = numpy.dtype("f8", metadata={"unit": Unit()})
    pipeline = placed(pipelines, lambda array: (array.dtype.fields or {"v": [array.dtype]})["v"][0])
    for dtype in (unit, numpy.dtype([("v", unit)])):
        for size in (5, 50_000):
            (found,) = pipeline.stream([numpy.zeros(size, dtype)])
            assert found.metadata["unit"].name == "m"


def test_a_number_of_another_package_is_no_number_of_numpys() -> None:
    """Which says that it is one, but has no buffer (float8_e5m2 of ml_dtypes)."""
    array = numpy.zeros(3)
    assert kind_of(array) is not None
    strange = SimpleNamespace(kind="f", metadata=None, num=256)
    assert kind_of(SimpleNamespace(flags=array.flags, dtype=strange, shape=array.shape)) is None


@pytest.mark.parametrize("behind", [(), (same,)], ids=["alone", "row"])
@pytest.mark.parametrize("serial", [False, True], ids=["threads", "serial"])
def test_without_descriptors_there_is_the_pipe(
    pipelines: Make, small: Pool, behind: tuple[Any, ...], serial: bool
) -> None:
    """No item is lost because the system has no more memory to share, no process dies of it, and
    it is counted and said."""
    pipeline = pipelines()
    pipeline.add(lambda number: numpy.zeros(3 * MB if number else 9, "u1"), **PLACED)
    for stage in behind:
        pipeline.add(stage, **PLACED)
    if serial:
        pipeline.serialize()
    else:
        pipeline.parallelize()
    assert [len(each) for each in pipeline.stream([0])] == [9]
    with no_descriptors():
        results = [len(each) for each in pipeline.stream([1, 2])]
    assert results == [3 * MB] * 2
    assert small.statistics().refused >= 2
    assert [len(each) for each in pipeline.stream([1, 1])] == [3 * MB] * 2
    pipeline.cleanup()


def test_memory_that_cannot_grow_is_said_once(
    entered: Pool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With what the system says; whoever needs a block finds none, and does not wait."""

    def none(*_: Any) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(_pool, "Segment", none)
    begin = monotonic()
    assert [entered.lease(MB) for _ in range(10)] == [None] * 10
    assert entered.lease_ahead(MB) is entered.lease_now(MB) is None
    assert monotonic() - begin < 0.2
    assert entered.statistics().refused == 10
    (said,) = caplog.messages
    assert "Too many open files" in said
    assert "through the pipe" in said


def test_figures_can_be_asked_for_amid_the_books(entered: Pool) -> None:
    """By a destructor, for one: it may run wherever memory is allocated."""
    with entered._lock:
        asked = in_thread(entered.statistics)
        assert asked.wait().value.size == 0


def test_memory_ahead_is_half_of_it(entered: Pool) -> None:
    """And never waits, also when someone else does."""
    held = [entered.lease_ahead(MB) for _ in range(9)]
    assert [lease is not None for lease in held] == [True] * 8 + [False]
    held += [entered.lease(4 * MB) for _ in range(2)]
    assert entered.statistics().refused == 0
    waiter = in_thread(lambda: entered.lease(4 * MB))
    assert wait_until(lambda: entered.statistics().waits == 1)
    del held[0]
    assert entered.lease_ahead(MB) is None
    del held[:], waiter
    assert wait_until(lambda: entered.lease_ahead(MB) is not None)


def test_nothing_is_lent_ahead_when_no_stage_is_left() -> None:
    """Whoever feeds a source may come late."""
    made = Pool(16 * MB)
    assert made.lease_ahead(MB) is None
    made.enter(made)
    assert made.lease_ahead(MB) is not None
    made.leave(made)
    assert made.lease_ahead(MB) is None
    assert made.statistics().size == 0


def test_ctrl_c_amid_the_books_leaves_them_right(
    entered: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is lent is what somebody has, whatever was interrupted when a block came back."""

    def interrupted(free: list[Any], block: Any) -> None:
        raise KeyboardInterrupt

    lease = entered.lease(MB)
    assert lease is not None
    del lease
    with monkeypatch.context() as patch:
        patch.setattr(bisect, "insort", interrupted)
        with pytest.raises(KeyboardInterrupt):
            entered.lease(MB)
    assert entered.statistics().lent == 0
    held = [entered.lease(MB) for _ in range(4)]
    assert entered.statistics().lent == len({lease.key for lease in held if lease}) == 4


def test_the_same_few_blocks_are_in_turn(entered: Pool) -> None:
    """As many as are needed at a time, in whatever order more of them come back."""
    held = [entered.lease(MB) for _ in range(8)]
    first, second = (lease.key for lease in held[:2] if lease)
    for position in (5, 1, 3, 0, 3, 0, 1, 0):
        del held[position]
    for _ in range(3):
        one, other = entered.lease(MB), entered.lease(MB)
        assert one is not None
        assert other is not None
        assert (one.key, other.key) == (first, second)
        del one, other


def test_a_wish_is_left_open_until_a_block_comes_back(entered: Pool) -> None:
    """For someone who cannot wait in one place; counted like a wait."""
    held = [entered.lease(5 * MB) for _ in range(3)]
    wish = Wish(entered, 5 * MB)
    assert not wish.decided()
    assert wish.lease is None
    assert entered.statistics().waits == 1
    held.pop()
    assert wish.decided()
    assert wish.lease is not None
    assert entered.statistics().refused == 0
    del wish
    assert Wish(entered, 5 * MB).decided()
    assert entered.statistics().waits == 1


def test_a_wish_in_vain_is_refused_in_time(entered: Pool) -> None:
    """When the pipe would have been quicker; at once when someone has waited in vain for long, but
    nobody else gives up for the sake of a wish."""
    held = [entered.lease(5 * MB) for _ in range(3)]
    for refused in (1, 2):
        wish = Wish(entered, 5 * MB)
        assert not wish.decided()
        assert wait_until(wish.decided)
        assert wish.lease is None
        assert (entered.statistics().waits, entered.statistics().refused) == (refused, refused)
    assert entered.lease(5 * MB) is None
    assert Wish(entered, 5 * MB).decided()
    assert (entered.statistics().waits, entered.statistics().refused) == (3, 4)
    held.pop()
    held.append(entered.lease(5 * MB))
    assert not Wish(entered, 5 * MB).decided()


def test_a_wish_does_not_depend_on_whose_turn_it_is(entered: Pool) -> None:
    """Someone else is about to take a block, or waits for another size: what is there is had."""
    with entered._turn:
        wish = Wish(entered, 5 * MB)
        assert wish.decided()
        assert wish.lease is not None
    assert (entered.statistics().waits, entered.statistics().refused) == (0, 0)


def test_a_wish_for_more_than_all_is_refused_at_once(entered: Pool) -> None:
    """No block of that size can ever come back; and no free one goes for it."""
    free = entered.lease(5 * MB)
    size = entered.statistics().size
    del free
    assert Wish(entered, 17 * MB).decided()
    assert entered.lease(17 * MB) is None
    assert (entered.statistics().waits, entered.statistics().refused) == (0, 2)
    assert entered.statistics().size == size


def brighter(frame: Any) -> Any:
    """Another frame each time."""
    return frame + 1


def test_stages_behind_one_another_share_what_little_there_is(small: Pool, pipelines: Make) -> None:
    """Each needs a block for its result while others have them: nothing is lost, and nobody
    stands in another one's way for long."""
    pipeline = pipelines()
    for _ in range(3):
        pipeline.add(brighter, capacity=1, **PLACED)
    pipeline.parallelize()
    frame = numpy.zeros(5 * MB, numpy.uint8)
    right = [(result == 3).all() for result in pipeline.stream([frame] * 30)]
    assert right == [True] * 30
    assert small.statistics().size <= 16 * MB


def test_a_block_that_is_lent_again_and_again_gets_huge_pages(
    entered: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, after a while; none that is lent now and then, and no small one."""
    asked: list[int] = []

    def use_huge_pages(of: Map) -> None:
        assert not entered._turn.locked()  # it takes a moment
        assert in_thread(lambda: entered.stale(set())).wait().value == []  # this asks for the lock
        asked.append(of.size)

    monkeypatch.setattr(Map, "use_huge_pages", use_huge_pages)
    for _ in range(15):
        entered.lease(5 * MB)
    assert asked == []
    for _ in range(100):
        entered.lease(5 * MB)
    assert asked == [5 * MB]
    for _ in range(40):
        seldom = entered.lease(6 * MB)
        for _ in range(10):
            entered.lease(100_000)
    assert seldom is not None
    assert asked == [5 * MB]


two_megabytes = pytest.mark.skipif(
    _memory._huge_page() != 2 * MB, reason="this system has other huge pages, or none"
)


@two_megabytes
def test_huge_pages_hold_what_was_there(entered: Pool) -> None:
    """Whoever looks at it; and they are huge, if the system can do that."""
    lease = entered.lease(5 * MB)
    assert lease is not None
    frame = numpy.frombuffer(lease.view(lease.range(0, 5 * MB)), numpy.uint8)
    frame[:] = numpy.arange(5 * MB, dtype=numpy.uint32) % 251
    expected = frame.copy()
    done = lease.segment.map.use_huge_pages()
    assert (frame == expected).all()
    assert lease.address % (2 * MB) == 0
    mapping = Path("/proc/self/smaps").read_text().partition(f"{lease.address:x}-")[2]
    huge = re.search(r"ShmemPmdMapped: +(\d+) kB", mapping)
    assert huge is not None
    assert bool(int(huge[1])) == done


@two_megabytes
def test_a_system_without_huge_pages_is_asked_once(
    entered: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small ones do as well. One that has none just now may be asked for those of other blocks."""
    asked: list[int] = []
    error = errno.ENOMEM

    def refuse(address: int, length: int, advice: int) -> int:
        asked.append(length)
        ctypes.set_errno(error)
        return -1

    monkeypatch.setattr(_memory, "_refusals", [])
    monkeypatch.setattr(_memory.libc(), "madvise", refuse)
    lease = entered.lease(5 * MB)
    assert lease is not None
    assert [lease.segment.map.use_huge_pages() for _ in range(2)] == [False] * 2
    assert asked == [4 * MB] * 2
    error = errno.EINVAL
    assert [lease.segment.map.use_huge_pages() for _ in range(2)] == [False] * 2
    assert asked == [4 * MB] * 3


@two_megabytes
@two_megabytes
def test_memory_that_cannot_be_mapped_is_not_there(
    entered: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is left open."""
    before = os.listdir("/proc/self/fd")
    with monkeypatch.context() as patch:
        patch.setattr(_memory.libc(), "mmap", lambda *_: -1)
        assert entered.lease(5 * MB) is None
    assert os.listdir("/proc/self/fd") == before
    assert entered.lease(5 * MB) is not None


def test_free_memory_of_another_size_makes_room(entered: Pool) -> None:
    """The bound is for all sizes together."""
    small_ones = [entered.lease(100_000) for _ in range(100)]
    assert entered.lease(14 * MB) is None
    small_ones.clear()
    assert entered.lease(14 * MB) is not None
    assert entered.lease(17 * MB) is None  # larger than the whole


def test_memory_goes_back_with_the_last_stage() -> None:
    """What is still seen goes with its last view."""
    made = Pool(16 * MB)
    made.enter(made)
    free, seen = made.lease(MB), made.lease(MB)
    assert free is not None
    assert seen is not None
    view = memoryview(seen.exporter).cast("B")
    before = len(os.listdir("/proc/self/fd"))
    del free, seen
    made.leave(made)
    assert made.statistics() == PoolStatistics(limit=16 * MB, size=0, lent=0, waits=0, refused=0)
    view[0] = 1
    del view
    assert wait_until(lambda: len(os.listdir("/proc/self/fd")) < before)


def test_the_bound_is_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the environment, in megabytes; 0 turns shared memory off."""
    monkeypatch.setenv(_pool.VARIABLE, "8")
    assert _pool._limit() == 8 * MB
    monkeypatch.setenv(_pool.VARIABLE, "much")
    with pytest.raises(PlanError, match="must be a whole number of megabytes from 0, not 'much'"):
        _pool._limit()
    monkeypatch.setenv(_pool.VARIABLE, "0")
    assert Pool(_pool._limit()).lease(100_000) is None


def test_a_copy_of_what_cannot_be_written_to(entered: Pool) -> None:
    """bytes can be looked at and copied like anything else."""
    lease = entered.lease(100_000)
    assert lease is not None
    copy(address_of(memoryview(b"abc" * 100)), lease.address, 300)
    assert bytes(lease.view(lease.range(3, 3))) == b"abc"


def test_what_nothing_knows_is_not_found(entered: Pool) -> None:
    """Addresses before, behind and in free blocks."""
    assert entered.find(1, 1) is None
    lease = entered.lease(5 * MB)
    assert lease is not None
    address = lease.address
    assert entered.find(address + 10, 10) is not None
    assert entered.find(address - 10, 10) is None
    assert entered.find(address + lease.segment.size - 5, 10) is None
    del lease
    assert entered.find(address, 10) is None


def test_a_placement_may_have_memory_of_its_own(pipelines: Make, small: Pool) -> None:
    """With a bound of its own; frames pass from one placement to another as a copy."""
    own = ProcessPlacement(shared_memory_mb=8)
    pipeline = pipelines()
    pipeline.add(in_place, placement=own)
    pipeline.add(in_place, placement=own)
    pipeline.add(in_place, **PLACED)
    pipeline.add(in_place, placement=own)
    pipeline.parallelize()
    for number in range(3):
        pipeline.forward(numpy.full(3 * MB, number, "u1"))
        pipeline.drain(10)
        result = pipeline.get_results()
        assert set(result.tolist()) == {number + 4}
        del result
    assert own.shared_memory().limit == 8 * MB
    assert own.shared_memory().size > 0
    assert own.shared_memory().refused == small.statistics().refused == 0
    assert small.statistics().size > 0
    pipeline.cleanup()
    assert own.shared_memory().size == 0


@pytest.mark.parametrize("megabytes", [-1, 0.5, "8", True])
def test_the_bound_is_checked(megabytes: Any) -> None:
    """A whole number of megabytes."""
    with pytest.raises(PlanError, match="shared_memory_mb must be a whole number of megabytes"):
        ProcessPlacement(shared_memory_mb=megabytes)


def test_without_shared_memory_everything_goes_through_pipes(pipelines: Make) -> None:
    """Slower, and the same."""
    own = placement("process", shared_memory_mb=0)
    pipeline = pipelines()
    pipeline.add(in_place, placement=own)
    pipeline.add(in_place, placement=own)
    pipeline.parallelize()
    assert [int(each.sum()) for each in pipeline.stream([numpy.zeros(MB, "u1")] * 2)] == [
        2 * MB
    ] * 2
    pipeline.cleanup()
