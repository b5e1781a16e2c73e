"""The conformance tests of observers: what every one of them promises, one claim a test.

Got with :func:`pystream_core.testing.observer_suite`. The core calls an observer, so what is
tested is that it takes whatever the core may tell it, in whatever thread, without harm.
"""

from __future__ import annotations

import functools
import itertools
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from time import monotonic, perf_counter_ns, time
from typing import Any, ClassVar

import pytest

from .._errors import StageError
from .._ledger import Statistics
from .._mailbox import Mailbox
from .._observer import ItemEnd, Observer, RunInfo, Span
from .._pipeline import Pipeline
from .._plan import MAIN_PIPELINE_NAME, Retry
from .._stage import Stage, factory
from ._census import Census
from ._conformance import Conformance
from ._rules import OBSERVER_RULES
from ._stages import Raising, skip_odd
from ._suite_stages import Triples, double, increment, picky, twice
from ._waiting import PATIENCE, in_thread, side_by_side, wait_until

NAMES = (
    "'; DROP TABLE run; --",
    '"quoted"',
    "../../up",
    "/up/../down",
    "C:\\windows",
    "new\nline\ttab\r",
    "grün 素晴らしい 🎉",
    "%s {} {0} $HOME `id`",
    "same",
    "SAME",
    " ",
    ".",
    "-",
    "_",
    "None",
    "con",
    "n" * 500,
)
"""Legal names of stages that have broken programs."""

_ids = itertools.count()


class Watched(Observer):
    """Passes everything on to an observer, and notes it.

    Attributes:
        events: what it was told, in order.
        threads: the identifiers of the threads in which that was.
        errors: what it raised.
        spans, items: the records.
        run: the latest run.
        hold: while this is set, ``collect`` waits until it is not.
    """

    def __init__(self, inner: Observer) -> None:
        self.inner = inner
        self.events: list[str] = []
        self.threads: list[int] = []
        self.errors: list[BaseException] = []
        self.spans: list[Span] = []
        self.items: list[ItemEnd] = []
        self.run: RunInfo | None = None
        self.free = threading.Event()
        self.free.set()

    def opened(self, run: RunInfo) -> None:
        """See Observer."""
        self.run = run
        self._tell("opened", run)

    def collect(self, spans: Sequence[Span], items: Sequence[ItemEnd]) -> None:
        """See Observer."""
        self.free.wait(PATIENCE)
        self.spans += spans
        self.items += items
        self._tell("collect", spans, items)

    def lost(self, records: int) -> None:
        """See Observer."""
        self._tell("lost", records)

    def closed(self, statistics: Statistics) -> None:
        """See Observer."""
        self._tell("closed", statistics)

    def _tell(self, event: str, *details: Any) -> None:
        self.events.append(event)
        self.threads.append(threading.get_ident())
        try:
            getattr(self.inner, event)(*details)
        except BaseException as error:
            self.errors.append(error)
            raise


class ObserverSuite(Conformance):
    """One observer's conformance tests, in serial mode and with an executor that has workers.

    An observer that writes somewhere sets ``stores = True`` and overrides ``broken_storage``::

        class TestAcme(observer_suite("acme")):
            stores = True

            @contextmanager
            def broken_storage(self, folder):
                os.environ["ACME_FILE"] = "/dev/full"
                yield
                del os.environ["ACME_FILE"]

    Attributes:
        observer: its name.
        executor: the executor with workers; ``"threads"`` comes with pystream-threads.
        stores: it writes to a storage that may fail. Else it is tested to open no file.
        quick: seconds that ``collect`` may take for 20,000 records.
    """

    observer: ClassVar[str] = ""
    executor: ClassVar[str] = "threads"
    stores: ClassVar[bool] = False
    quick: ClassVar[float] = 1.0

    rules = OBSERVER_RULES
    switches: ClassVar[Mapping[str, str]] = {"stores": "", "executor": "", "quick": ""}

    def broken_storage(self, folder: Path) -> AbstractContextManager[object]:
        """A context in which the storage of observers that are made in it refuses everything.

        Args:
            folder: an empty one, for the test.
        """
        raise NotImplementedError(
            "stores = True needs broken_storage(), see the docstring of ObserverSuite"
        )

    # -- building ----------------------------------------------------------------------

    def make(self) -> Observer:
        """An observer of this kind."""
        from .._registry import registry

        made = registry().observer(self.observer)()
        assert isinstance(made, Observer)
        return made

    def watched(self) -> Watched:
        """The same, watched."""
        return Watched(self.make())

    @pytest.fixture(params=["serial", "parallel"])
    def turn(self, request: pytest.FixtureRequest) -> Callable[[Pipeline], Pipeline]:
        """Chooses a mode."""
        if request.param == "serial":
            return Pipeline.serialize
        return lambda pipeline: pipeline.parallelize(executor=self.executor)

    def pipeline(self, *stages: Any, observers: Sequence[Any] = ()) -> Pipeline:
        """A pipeline with observers; a stage may come with its options."""
        pipeline = Pipeline(observers=observers)
        for stage in stages:
            given, options = stage if isinstance(stage, tuple) else (stage, {})
            pipeline.add(given, **options)
        self.made.append(pipeline)
        return pipeline

    # -- what it is told ---------------------------------------------------------------

    def test_it_is_found_by_its_name(self, turn: Any) -> None:
        """``Pipeline(observers=[name])`` makes it, and it does not disturb the items."""
        pipeline = turn(self.pipeline(increment, observers=[self.observer]))
        assert list(pipeline.stream(range(10))) == list(range(1, 11))

    def test_it_is_told_of_a_run_from_its_beginning_to_its_end(
        self, turn: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Opened once, then the records, then closed once, never in a worker; it raises nothing
        and has nothing to complain of."""
        watched = self.watched()
        workers: set[int] = set()

        def note(item: int) -> int:
            workers.add(threading.get_ident())
            return item

        with turn(self.pipeline(note, (double, {"workers": 3}), observers=[watched])) as pipeline:
            pipeline.run(range(100))
        pipeline.cleanup()
        assert watched.errors == []
        assert (watched.events[0], watched.events[-1]) == ("opened", "closed")
        assert set(watched.events[1:-1]) == {"collect"}
        assert len(watched.spans) == 200
        collected = [
            thread
            for event, thread in zip(watched.events, watched.threads, strict=True)
            if event == "collect" and thread != threading.get_ident()
        ]
        assert workers.isdisjoint(collected)
        assert [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING] == []

    def test_it_takes_every_kind_of_record(self, turn: Any) -> None:
        """Every outcome of a call and every bin of an item, in branches, too."""
        watched = self.watched()
        many = self.pipeline(
            twice,
            skip_odd,
            (picky, {"on_error": "skip"}),
            (factory(Raising, times=2), {"on_error": Retry(1, then="skip")}),
            (increment, {"max_age": 1e-9}),
            observers=[watched],
        )
        batches = self.pipeline(Triples(), observers=[watched])
        branches = self.pipeline(
            (increment, {"name": "First"}),
            (double, {"name": "A", "after": "First"}),
            (picky, {"name": "B", "after": "First", "on_error": "skip"}),
            (sum, {"after": ["A", "B"]}),
            observers=[watched],
        )
        for pipeline in (many, batches, branches):
            turn(pipeline).run(range(40))
            pipeline.cleanup()
        outcomes = {outcome for *_, outcome in watched.spans}
        assert outcomes >= {"emitted", "filtered", "expanded", "absorbed", "failed", "retried"}
        bins = {bin_ for *_, bin_ in watched.items}
        assert bins >= {"completed", "filtered", "expanded", "absorbed", "failed", "expired"}
        assert watched.errors == []

    def test_it_is_told_in_any_thread(self) -> None:
        """Opened, fed and closed in three different ones."""
        observer = self.make()
        run, spans, items = records(20)
        over = threading.Event()  # until then each lives, so that none has another one's number
        threads = []
        for step in (
            lambda: observer.opened(run),
            lambda: observer.collect(spans, items),
            lambda: observer.closed(Statistics(admitted=20, completed=20)),
        ):
            raised: Mailbox[BaseException | None] = Mailbox()
            threads.append(in_thread(functools.partial(_tell_and_stay, step, raised, over)))
            try:
                assert raised.get_within(PATIENCE) is None
            except BaseException:
                over.set()
                raise
        over.set()
        for thread in threads:
            thread.wait()

    def test_any_legal_name_survives(self, turn: Any, tmp_path: Path) -> None:
        """Quotes, paths, unicode, 500 characters, names that differ only in case."""
        watched = self.watched()
        before = sorted(tmp_path.parent.iterdir())
        pipeline = self.pipeline(
            *((increment, {"name": name}) for name in NAMES), observers=[watched]
        )
        with turn(pipeline):
            assert list(pipeline.stream([0])) == [len(NAMES)]
        assert watched.errors == []
        assert watched.run is not None
        assert [path[-1] for path in watched.run.stages] == list(NAMES)
        assert sorted(tmp_path.parent.iterdir()) == before

    def test_records_may_come_in_any_portions(self) -> None:
        """None at all, one by one, ends before calls, an empty run."""
        run, spans, items = records(10)
        observer = self.make()
        observer.opened(run)
        observer.collect([], [])
        for item in reversed(items):
            observer.collect([], [item])
        for span in reversed(spans):
            observer.collect([span], [])
        observer.closed(Statistics(admitted=10, completed=10))
        observer = self.make()
        observer.opened(records(0)[0])
        observer.closed(Statistics())

    def test_it_is_told_of_losses(self) -> None:
        """Records that found no room are a number, more than once."""
        observer = self.make()
        run, spans, items = records(5)
        observer.opened(run)
        observer.lost(3)
        observer.collect(spans, items)
        observer.lost(4)
        observer.closed(Statistics(admitted=5, completed=5))

    # -- runs --------------------------------------------------------------------------

    @pytest.mark.parametrize("how", ["cleanup", "abort", "failure", "no item", "bad setup"])
    def test_every_end_is_an_end(self, turn: Any, how: str) -> None:
        """Closed exactly once, and nothing of it is left."""
        before = Census()
        watched = self.watched()
        pipeline = self.pipeline(
            increment, Raising(when=lambda item: item == 3), observers=[watched]
        )
        if how == "bad setup":
            pipeline = self.pipeline(_BadSetup, observers=[watched])
        turn(pipeline)
        if how == "bad setup":
            with pytest.raises(StageError):
                pipeline.start()
        elif how == "failure":
            with pytest.raises(StageError):
                pipeline.run(range(5))
        elif how == "no item":
            pipeline.start()
        else:
            assert pipeline.forward(5)
        if how == "abort":
            pipeline.abort()
        pipeline.cleanup()
        pipeline.cleanup()
        assert wait_until(lambda: "closed" in watched.events)
        assert watched.errors == []
        assert watched.events.count("opened") == watched.events.count("closed") == 1
        assert watched.events[-1] == "closed"
        assert before.left(grace=0.5) == []

    def test_one_run_after_another(self, turn: Any) -> None:
        """One object sees the runs of a pipeline that is started again and again."""
        watched = self.watched()
        pipeline = self.pipeline(increment, observers=[watched])
        for _ in range(3):
            turn(pipeline).run(range(5))
            pipeline.cleanup()
        assert watched.errors == []
        assert watched.events.count("opened") == watched.events.count("closed") == 3
        assert len(watched.spans) == 15

    def test_a_run_that_was_never_closed_may_be_followed_by_another(self) -> None:
        """As after a pipeline that was forgotten."""
        observer = self.make()
        for _ in range(2):
            run, spans, items = records(5)
            observer.opened(run)
            observer.collect(spans, items)
        observer.closed(Statistics(admitted=5, completed=5))

    def test_runs_side_by_side_are_kept_apart(self, turn: Any) -> None:
        """Several pipelines, each with one of its own, of different sizes."""
        watched = [self.watched() for _ in range(4)]

        def run(number: int) -> int:
            stages = [increment] * (number + 1)
            pipeline = turn(self.pipeline(*stages, observers=[watched[number]]))
            for _ in range(5):
                pipeline.run(range(20))
            pipeline.cleanup()
            return len(watched[number].spans)

        assert side_by_side(run, 4) == [100, 200, 300, 400]
        assert [one.errors for one in watched] == [[]] * 4

    # -- harm --------------------------------------------------------------------------

    def test_collecting_is_quick(self) -> None:
        """20,000 records at once, best of three: what takes longer loses records."""
        took = []
        for _ in range(3):
            observer = self.make()
            run, spans, items = records(5_000, stages=3)
            observer.opened(run)
            begin = monotonic()
            observer.collect(spans, items)
            took.append(monotonic() - begin)
            observer.closed(Statistics(admitted=5_000, completed=5_000))
            if took[-1] < self.quick:
                break
        assert min(took) < self.quick

    def test_items_do_not_wait_for_it(self, turn: Any) -> None:
        """While it collects nothing holds the pipeline up, and the end is as ever."""
        watched = self.watched()
        pipeline = turn(self.pipeline(increment, observers=[watched]))
        pipeline.start()
        watched.free.clear()
        try:
            assert list(pipeline.stream(range(2000))) == list(range(1, 2001))
        finally:
            watched.free.set()
        pipeline.cleanup()
        assert watched.errors == []
        assert len(watched.spans) == 2000

    def test_a_storage_that_fails_stops_no_item(
        self, turn: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Nothing is raised, and the log says so at most once a run."""
        if not self.stores:
            pytest.skip("it says stores = False")
        folder = tmp_path / "storage"
        folder.mkdir()
        with self.broken_storage(folder):
            watched = self.watched()
            pipeline = turn(self.pipeline(increment, double, observers=[watched]))
            assert list(pipeline.stream(range(500))) == [2 * n + 2 for n in range(500)]
            pipeline.cleanup()
        assert watched.errors == []
        assert watched.events[-1] == "closed"
        told = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
        assert len(told) <= 1

    def test_without_a_storage_no_file_is_opened(self) -> None:
        """An observer that does not store anything has nothing open while it observes."""
        if self.stores:
            pytest.skip("it says stores = True")
        observer = self.make()
        run, spans, items = records(10)
        before = Census()
        observer.opened(run)
        observer.collect(spans, items)
        found = [one for one in before.left(grace=0.05) if one.startswith("descriptor")]
        observer.closed(Statistics(admitted=10, completed=10))
        assert found == []


def records(
    items: int, *, stages: int = 2, queue: int = 1_000_000, service: int = 2_000_000
) -> tuple[RunInfo, list[Span], list[ItemEnd]]:
    """A run as the core tells of it, one item after the other.

    Args:
        items: how many.
        stages: ``A``, ``B`` and so on.
        queue, service: nanoseconds that an item waits and is worked on at each of them.
    """
    now = started = perf_counter_ns()
    run = run_info(*((MAIN_PIPELINE_NAME, chr(65 + index)) for index in range(stages)))
    spans: list[Span] = []
    ends: list[ItemEnd] = []
    for seq in range(items):
        admitted = now
        for stage in range(stages):
            begin = now + queue
            spans.append((stage, seq, 0, now, begin, begin + service, "emitted"))
            now = begin + service
        ends.append((seq, 0, admitted, now, "completed"))
    assert started <= now
    return run, spans, ends


def run_info(*paths: tuple[str, ...], workers: Sequence[int] = ()) -> RunInfo:
    """What an observer is told first."""
    return RunInfo(
        id=f"suite-{next(_ids)}-{perf_counter_ns()}",
        stages=paths,
        workers=tuple(workers or [1] * len(paths)),
        executor="threads",
        started_ns=perf_counter_ns() - 1,
        started_at=time(),
    )


def _tell_and_stay(
    step: Callable[[], None], raised: Mailbox[BaseException | None], over: threading.Event
) -> None:
    try:
        step()
    except BaseException as error:
        raised.put(error)
    else:
        raised.put(None)
    over.wait(2 * PATIENCE)


class _BadSetup(Stage[Any]):
    """A stage that cannot be set up."""

    def setup(self) -> None:
        """Raise."""
        raise ValueError("no setup")

    def __call__(self, data: Any) -> Any:
        """Never called."""

    def cleanup(self) -> None:
        """Nothing to do."""
