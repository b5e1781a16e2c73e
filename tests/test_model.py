"""Random schedules against a plain model of what a pipeline does (G1, G2, G3, G5, G15).

The model runs each item through the same stages as ordinary functions, one after another, and
knows nothing of threads. After every step that leaves the pipeline quiet, its results, its
ledger and the lives of its stages are compared.
"""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pystream_core import (
    SKIP,
    CleanupError,
    Pipeline,
    PipelineTerminated,
    PipelineUndefined,
    Retry,
    Stage,
    StageError,
    factory,
)
from pystream_core.testing import PATIENCE, broken_law, frantic_switching, wait_until

SMALL = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    print_blob=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
FULL = settings(SMALL, max_examples=1000, stateful_step_count=50)

BAD = "bad"  # the item for which every failing stage raises
SPARE = (10**9,)  # what takes its place


@dataclass
class Kind:
    """One sort of stage: what it does with an item, as a list of results or None (failed)."""

    name: str
    options: dict = field(default_factory=dict)

    def outputs(self, item):
        """The model: what comes of one item, and what bin it ends in otherwise."""
        if self.name == "plain" or (item == BAD and self.name in ("odd", "many")):
            return [item], None
        if self.name == "odd":
            return ([], "filtered") if item[0] % 2 else ([item], None)
        if self.name == "many":
            return [(*item, k) for k in range(item[0] % 4)], "expanded"
        if item != BAD:
            return [item], None
        policy = self.options["on_error"]
        if policy == "stop":
            return None, "stop"
        if policy == replace:
            return [SPARE], None
        return [], "failed"


def replace(failure):
    """A failure policy: a fixed item takes the place."""
    return SPARE


def give_up(failure):
    """A failure policy: the item is let go."""
    return SKIP


def dawdle(item):
    """Some items take longer, so that workers overtake one another."""
    if item != BAD and item[0] % 5 == 0:
        threading.Event().wait(0.0003)


class Tracked(Stage):
    """A stage of one worker that counts its own life in its machine's book."""

    def __init__(self, book, kind):
        self.book = book
        self.kind = kind
        self.alive = False

    def setup(self):
        assert not self.alive
        self.alive = True
        self.book.append(1)

    def __call__(self, item):
        assert self.alive
        dawdle(item)
        return item if self.kind.name != "odd" or item == BAD or item[0] % 2 == 0 else SKIP

    def cleanup(self):
        assert self.alive
        self.alive = False
        self.book.append(-1)


class TrackedMany(Tracked):
    def __call__(self, item):
        assert self.alive
        if item == BAD:
            yield item
        else:
            dawdle(item)
            yield from self.kind.outputs(item)[0]


class TrackedBad(Tracked):
    def __call__(self, item):
        assert self.alive
        if item == BAD:
            raise ValueError("bad item")
        return item


CLASSES = {"plain": Tracked, "odd": Tracked, "many": TrackedMany, "bad": TrackedBad}

kinds = st.one_of(
    st.sampled_from(["plain", "odd", "many"]).flatmap(
        lambda name: st.builds(
            Kind,
            st.just(name),
            st.fixed_dictionaries(
                {
                    "workers": st.integers(1, 3),
                    "capacity": st.sampled_from([1, 2, 7, "auto"]),
                }
            ),
        )
    ),
    st.builds(
        Kind,
        st.just("bad"),
        st.fixed_dictionaries(
            {
                "workers": st.integers(1, 2),
                "on_error": st.sampled_from(
                    ["stop", "skip", Retry(times=1, then="skip"), replace, give_up]
                ),
            }
        ),
    ),
)
modes = st.sampled_from(["serialize", "parallelize"])


class Schedules(RuleBasedStateMachine):
    """Random operations on one pipeline after another."""

    def __init__(self):
        super().__init__()
        self.pipeline = None
        self.child = None
        self.numbers = itertools.count()

    # -- the model -------------------------------------------------------------------------

    def model(self, item):
        """Results of one item, the number that failed, and whether it stops the pipeline."""
        items, failed = [item], 0
        for kind in self.kinds:
            following = []
            for each in items:
                outputs, bin_ = kind.outputs(each)
                if bin_ == "stop":
                    return following, failed + 1, True
                failed += bin_ == "failed"
                following += outputs
            items = following
        return items, failed, False

    def forget(self):
        """A new mode or a new life: the ledger begins anew."""
        self.admitted = self.completed = self.failed = 0
        self.newest = None
        self.stopped = False  # a failure under "stop" in a parallel pipeline
        self.exact = True  # nothing was dropped: the model knows every figure

    def count(self, item):
        """Let the model take one item; its results."""
        self.admitted += 1
        results, failed, stops = self.model(item)
        self.failed += failed
        if stops:
            self.exact = False
            self.stopped = self.mode == "parallelize"
            return None
        self.completed += len(results)
        return results

    # -- building --------------------------------------------------------------------------

    @initialize(kinds=st.lists(kinds, max_size=4), mode=modes, nested=st.none() | modes)
    def build(self, kinds, mode, nested):
        self.kinds = kinds
        self.book = []
        self.mode = mode
        self.generated = iter(())
        self.pipeline = Pipeline(lambda: next(self.generated))
        target = self.pipeline
        if nested is not None:
            self.child = target = Pipeline()
        for kind in kinds:
            target.add(factory(CLASSES[kind.name], book=self.book, kind=kind), **kind.options)
        if nested is not None:
            getattr(self.child, nested)()
            self.pipeline.add(self.child.as_stage(), name="Child")
        getattr(self.pipeline, mode)()
        self.closed = False
        self.forget()

    @precondition(lambda self: self.pipeline is not None)
    @rule(mode=modes)
    def choose_again(self, mode):
        """Change the mode; an earlier one is drained and its stages handed on."""
        getattr(self.pipeline, mode)()
        self.mode = mode
        self.closed = False
        self.forget()

    # -- items -----------------------------------------------------------------------------

    def usable(self):
        return self.pipeline is not None and not self.closed and not self.stopped

    @precondition(usable)
    @rule(bad=st.booleans() | st.just(False))
    def forward(self, bad):
        """One item, from the caller."""
        item = BAD if bad else (next(self.numbers),)
        _, _, stops = self.model(item)
        if stops:
            with pytest.raises(StageError, match="bad item"):
                self.pipeline.forward(item)
                self.pipeline.drain(PATIENCE)
            self.count(item)
        else:
            assert self.pipeline.forward(item)
            results = self.count(item)
            self.newest = results[-1] if results else self.newest

    @precondition(usable)
    @rule(amount=st.integers(0, 40), bad=st.integers(0, 60))
    def stream(self, amount, bad):
        """Many items; each result in order."""
        self.drain()
        items = [BAD if n == bad else (next(self.numbers),) for n in range(amount)]
        got = []
        expected = []
        failed = False
        for item in items:
            results = self.count(item)
            if results is None:
                failed = True
                break
            expected += results
        try:
            for result in self.pipeline.stream(items):
                got.append(result)
        except StageError:
            assert failed
            assert got[: len(expected)] == expected[: len(got)]
            self.stopped = self.mode == "parallelize"
            self.recount()
        else:
            assert not failed
            assert got == expected

    def recount(self):
        """After a failure a parallel pipeline dropped what it had: learn the figures."""
        statistics = self.pipeline.statistics()
        self.admitted, self.completed = statistics.admitted, statistics.completed

    @precondition(usable)
    @rule(amount=st.integers(1, 10), bad=st.none() | st.integers(0, 5))
    def leave_a_stream(self, amount, bad):
        """Take some results of an endless source and go."""
        self.drain()
        endless = (BAD if n == bad else (next(self.numbers),) for n in itertools.count())
        results = self.pipeline.stream(endless)
        got = []
        try:
            got += itertools.islice(results, amount)
        except StageError:
            assert bad is not None
        else:
            results.close()
        plain = [result for result in got if result not in (BAD, SPARE)]
        assert plain == sorted(plain)
        self.exact = False
        if bad is not None:  # whether it came to the bad item is chance: begin anew
            getattr(self.pipeline, self.mode)()
            self.forget()

    @precondition(usable)
    @rule(amount=st.integers(0, 5))
    def loop(self, amount):
        """A loop over a generator that ends."""
        items = [(next(self.numbers),) for _ in range(amount)]
        self.pipeline = self.fresh_input(items)
        self.pipeline.start_loop(0.0005)
        for item in items:
            results = self.count(item)
            self.newest = results[-1] if results else self.newest
        assert wait_until(lambda: not self.pipeline._session.loop.thread.is_alive())
        self.pipeline.stop_loop()

    def fresh_input(self, items):
        """The generator of this pipeline begins anew with these items."""
        self.generated = iter(items)
        self.pipeline._session.input._exhausted = False
        return self.pipeline

    @precondition(usable)
    @rule()
    def read(self):
        """The newest result, once."""
        self.drain()
        if self.exact:
            assert self.pipeline.get_results() == self.newest
        else:
            self.pipeline.get_results()
        assert self.pipeline.get_results() is None
        self.newest = None

    @precondition(usable)
    @rule()
    def drain(self):
        """Everything that was admitted is done, and the figures are the model's."""
        self.pipeline.drain(PATIENCE)
        statistics = self.pipeline.statistics()
        assert broken_law(statistics) == []
        if self.exact:
            assert statistics.admitted == self.admitted
            assert statistics.completed == self.completed
            assert statistics.failed == self.failed
            assert statistics.dropped == {}

    # -- stopping --------------------------------------------------------------------------

    @precondition(lambda self: self.pipeline is not None)
    @rule(timeout=st.none() | st.just(0))
    def cleanup(self, timeout):
        """After it every stage has been cleaned up as often as it was set up."""
        self.pipeline.cleanup(timeout=timeout)
        self.closed = True
        assert sum(self.book) == 0
        assert broken_law(self.pipeline.statistics()) == []

    @precondition(usable)
    @rule()
    def abort(self):
        """Calls are refused from then on."""
        self.pipeline.abort()
        self.closed = True
        with pytest.raises(PipelineTerminated):
            self.pipeline.forward((0,))

    @precondition(lambda self: self.pipeline is not None and self.closed)
    @rule()
    def use_after_the_end(self):
        """Every call says so."""
        for call in (lambda: self.pipeline.forward((0,)), self.pipeline.get_results):
            with pytest.raises((PipelineUndefined, StageError)):
                call()

    @precondition(lambda self: self.pipeline is not None and self.stopped and not self.closed)
    @rule()
    def use_after_a_failure(self):
        """Every call says so."""
        for call in (lambda: self.pipeline.forward((0,)), self.pipeline.get_results):
            with pytest.raises(StageError, match="bad item"):
                call()

    @invariant()
    def the_ledger_never_shows_nonsense(self):
        """At any moment: nothing is negative, and ends do not exceed what came."""
        if self.pipeline is not None:
            statistics = self.pipeline.statistics()
            assert statistics.in_flight >= 0
            assert statistics.ended <= statistics.admitted + statistics.spawned
            assert sum(self.book) >= 0

    def teardown(self):
        if self.pipeline is not None:
            try:
                self.pipeline.cleanup()
            except CleanupError as error:  # a stage found its life in disorder
                raise AssertionError(error.errors) from error
            assert sum(self.book) == 0
            assert broken_law(self.pipeline.statistics()) == []
            if self.child is not None:
                self.child.cleanup()


def test_random_schedules_behave_like_the_model():
    """Some short schedules, in every ordinary run."""
    run_state_machine_as_test(Schedules, settings=SMALL)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_thousand_random_schedules_behave_like_the_model():
    """G1: 1,000 schedules of 50 steps."""
    run_state_machine_as_test(Schedules, settings=FULL)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_random_schedules_while_threads_change_often():
    """The same with a switch of threads at every chance."""
    few = settings(SMALL, max_examples=100, phases=[Phase.generate])
    with frantic_switching():
        run_state_machine_as_test(Schedules, settings=few)
