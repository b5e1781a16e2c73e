"""Pipelines as stages of pipelines: values, names, what is whose, and who may use what when."""

from __future__ import annotations

import contextlib
import gc
import itertools
import threading
import weakref

import pytest

from pystream_core import (
    SKIP,
    Observer,
    Pipeline,
    PipelineBusy,
    PipelineTerminated,
    PipelineUndefined,
    PlanError,
    Retry,
    StageError,
    factory,
)
from pystream_core.testing import (
    PATIENCE,
    Gate,
    Raising,
    Recorder,
    Recorders,
    broken_law,
    in_thread,
    side_by_side,
    skip_odd,
    wait_until,
)

MODES = ("serialize", "parallelize")


class Seen(Observer):
    """Remembers what it was told."""

    def __init__(self):
        self.runs = []
        self.spans = []
        self.items = []
        self.statistics = []

    def opened(self, run):
        self.runs.append(run)

    def collect(self, spans, items):
        self.spans += spans
        self.items += items

    def closed(self, statistics):
        self.statistics.append(statistics)

    def paths(self):
        """The full names of the stages of the latest run."""
        return ["__".join(path) for path in self.runs[-1].stages]


def increment(item):
    return item + 1


def double(item):
    return item * 2


def twice(item):
    yield item
    yield item + 0.5


@pytest.fixture
def nest(pipelines):
    """Makes a pipeline of stages; ``(stage, options)`` where a stage has options."""

    def make(mode, *stages, observers=(), **options):
        pipeline = pipelines(observers=observers)
        for stage in stages:
            given, more = stage if isinstance(stage, tuple) else (stage, {})
            pipeline.add(given.as_stage() if isinstance(given, Pipeline) else given, **more)
        return getattr(pipeline, mode)(**options)

    return make


each_pair = pytest.mark.parametrize(("outer", "inner"), [*itertools.product(MODES, MODES)])


# -- values and names ----------------------------------------------------------------------


@pytest.mark.parametrize("modes", [*itertools.product(MODES, MODES, MODES)])
def test_a_nested_pipeline_is_a_function_of_its_item(nest, modes):
    """Each mode in each mode, three deep: right values by stream, forward and direct call."""
    outer, middle, inner = modes
    grandchild = nest(inner, increment, double)
    child = nest(middle, increment, grandchild, (double, {"workers": 2}))
    main = nest(outer, child, increment)
    assert list(main.stream(range(100))) == [(n + 2) * 4 + 1 for n in range(100)]
    assert main.forward(5)
    main.drain(PATIENCE)
    assert main.get_results() == 29
    assert main.as_stage()(6) == 33
    assert broken_law(main.statistics()) == []


@pytest.mark.parametrize("modes", [*itertools.product(MODES, MODES, MODES)])
def test_names_are_paths_in_every_mode(nest, modes):
    """Observers see MainPipeline__Child__Grandchild__A, and its spans in the right order."""
    outer, middle, inner = modes
    seen = Seen()
    grandchild = nest(inner, (increment, {"name": "A"}), (double, {"name": "B"}))
    child = nest(middle, (increment, {"name": "A"}), (grandchild, {"name": "Grandchild"}))
    main = nest(outer, (child, {"name": "Child"}), increment, observers=[seen])
    list(main.stream(range(7)))
    main.cleanup()
    assert seen.paths() == [
        "MainPipeline__Child__A",
        "MainPipeline__Child__Grandchild__A",
        "MainPipeline__Child__Grandchild__B",
        "MainPipeline__Stage_2",
    ]
    for stage in range(4):
        spans = [span for span in seen.spans if span[0] == stage]
        assert sorted(span[1] for span in spans) == list(range(7))
        assert {span[-1] for span in spans} == {"emitted"}
    for seq in range(7):
        ends = sorted((span[0], span[4], span[5]) for span in seen.spans if span[1] == seq)
        times = [moment for _, start, end in ends for moment in (start, end)]
        assert times == sorted(times)
    assert [item[-1] for item in seen.items] == ["completed"] * 7
    assert seen.statistics == [main.statistics()]


def test_a_child_called_by_itself_is_a_main_pipeline(nest):
    """Its stages' names then begin with MainPipeline, until it is a stage of another one."""
    seen, own = Seen(), Seen()
    child = nest("serialize", (increment, {"name": "A"}), observers=[own])
    assert child.as_stage()(1) == 2
    assert own.paths() == ["MainPipeline__A"]
    main = nest("serialize", (child, {"name": "Child"}), observers=[seen])
    assert main.forward(1)
    assert seen.paths() == ["MainPipeline__Child__A"]
    assert len(own.runs) == 1


def test_children_have_default_names(nest):
    """A nested pipeline counts as a stage, its own stages count anew."""
    seen = Seen()
    child = nest("serialize", increment, increment)
    nest("parallelize", increment, child, increment, observers=[seen]).start()
    assert seen.paths() == [
        "MainPipeline__Stage_1",
        "MainPipeline__Stage_2__Stage_1",
        "MainPipeline__Stage_2__Stage_2",
        "MainPipeline__Stage_3",
    ]


def test_a_serial_child_is_one_worker(nest):
    """In a parallel pipeline its stages share a thread; those of a parallel child do not."""
    stages = [Recorder() for _ in range(4)]
    serial, parallel = nest("serialize", *stages[:2]), nest("parallelize", *stages[2:])
    main = nest("parallelize", serial, parallel)
    list(main.stream(range(5)))
    threads = [set(stage.calls) for stage in stages]
    assert threads[0] == threads[1]
    assert len({thread for each in threads for thread in each}) == 3
    assert threading.get_ident() not in threads[0]


@each_pair
def test_an_empty_child_passes_items_on(nest, outer, inner):
    """A pipeline without stages is the identity, alone or between others."""
    main = nest(outer, nest(inner), increment, nest(inner))
    assert list(main.stream(range(3))) == [1, 2, 3]
    assert list(nest(outer, nest(inner)).stream([None])) == [None]


# -- what happens inside is the parent's ---------------------------------------------------


@each_pair
def test_filters_and_generators_of_a_child_are_the_parents(nest, outer, inner):
    """SKIP ends the parent's item, spawned items go on in the parent, in order."""
    child = nest(inner, skip_odd, twice)
    main = nest(outer, child, increment)
    assert list(main.stream(range(5))) == [1, 1.5, 3, 3.5, 5, 5.5]
    statistics = main.statistics()
    assert (statistics.filtered, statistics.expanded, statistics.spawned) == (2, 3, 6)


@each_pair
def test_a_failure_of_a_child_is_the_parents(nest, outer, inner):
    """It carries the full path and the item as the failing stage saw it."""
    child = nest(inner, increment, (Raising(when=lambda n: n == 3), {"name": "Bad"}))
    main = nest(outer, (child, {"name": "Child"}), increment)
    with pytest.raises(StageError) as caught:
        list(main.stream([0, 1, 2]))
    assert caught.value.path == "MainPipeline__Child__Bad"
    assert (caught.value.seq, caught.value.item) == (2, 3)
    main.cleanup()
    assert main.statistics().failed == 1
    assert broken_law(main.statistics()) == []


@each_pair
def test_policies_inside_a_child_hold(nest, outer, inner):
    """Retry, skip and callables given to a child's stages work in the parent."""
    child = nest(
        inner,
        (Raising(times=1), {"on_error": Retry(times=1)}),
        (Raising(when=lambda n: n == 1), {"on_error": "skip"}),
        (Raising(when=lambda n: n == 2), {"on_error": lambda failure: -failure.item}),
        (Raising(when=lambda n: n == 3), {"on_error": lambda failure: SKIP}),
    )
    main = nest(outer, child, double)
    assert list(main.stream(range(5))) == [0, -4, 8]
    assert main.statistics().failed == 2


def test_drops_of_a_child_are_the_parents(nest):
    """An overflow inside a parallel child is counted in the parent's ledger."""
    gate = Gate()
    child = nest("parallelize", increment, (gate, {"overflow": "drop_newest", "capacity": 1}))
    main = nest("parallelize", (child, {"name": "Child"}))
    main.forward(0)
    assert gate.wait_entered()
    assert all(main.forward(n) for n in range(1, 6))
    assert wait_until(lambda: main.statistics().stages[0].emitted == 6)
    gate.open()
    main.drain(PATIENCE)
    statistics = main.statistics()
    assert statistics.dropped == {"overflow": 4}
    assert dict(statistics.stages[1].lost_before) == {"overflow": 4}


# -- options of the pipeline around --------------------------------------------------------


@each_pair
def test_skip_given_to_a_child_holds_for_its_stages(nest, outer, inner):
    """A stage that stops is skipped with its pipeline; its own policy goes first."""
    bad = Raising(when=lambda n: n == 1)
    retried = Raising(when=lambda n: n == 2)
    child = nest(inner, bad, (retried, {"on_error": Retry(times=1)}))
    main = nest(outer, (child, {"on_error": "skip"}))
    assert list(main.stream(range(4))) == [0, 3]
    assert retried.calls == 4


def test_skip_goes_all_the_way_down(nest):
    """Through two levels of pipelines."""
    grandchild = nest("serialize", Raising(when=lambda n: n == 1))
    child = nest("parallelize", grandchild)
    main = nest("parallelize", (child, {"on_error": "skip"}))
    assert list(main.stream(range(3))) == [0, 2]


@pytest.mark.parametrize("inner", MODES)
def test_channel_options_of_a_child_are_its_first_stages(nest, inner):
    """Capacity and overflow given to a pipeline concern the channel in front of it."""
    gate = Gate()
    child = nest(inner, (gate, {"capacity": 100}), increment)
    main = nest("parallelize", (child, {"overflow": "drop_newest", "capacity": 2}))
    main.forward(0)
    assert gate.wait_entered()
    assert all(main.forward(n) for n in range(1, 6))
    gate.open()
    main.drain(PATIENCE)
    assert main.statistics().completed == 3
    assert main.statistics().dropped == {"overflow": 3}


@each_pair
def test_the_stricter_freshness_holds(nest, outer, inner):
    """max_age of a pipeline is that of its first stage, and the smaller one wins."""
    loose, strict = {"max_age": 1000}, {"max_age": 1e-9}
    for around, first in ((strict, loose), (loose, strict), (strict, {})):
        main = nest(outer, increment, (nest(inner, (double, first)), around))
        assert list(main.stream(range(3))) == []
        assert main.statistics().stages[1].expired == 3
    main = nest(outer, increment, (nest(inner, double, (double, strict)), loose))
    assert list(main.stream(range(3))) == []
    assert main.statistics().stages[2].expired == 3


@pytest.mark.parametrize(
    "options",
    [
        {"workers": 2},
        {"on_error": Retry(times=1)},
        {"on_error": lambda failure: None},
    ],
)
def test_options_that_belong_to_stages_are_refused(nest, options):
    """A pipeline cannot have workers, a retry or a callable as a whole."""
    child = nest("serialize", increment)
    with pytest.raises(PlanError, match="stages inside it"):
        Pipeline().add(child.as_stage(), **options)
    assert child.forward(1)


@each_pair
def test_workers_inside_a_child_hold_where_there_are_any(nest, outer, inner):
    """A parallel child's workers run in a parallel parent; everywhere else there is one."""
    recorders = Recorders()
    child = nest(inner, (factory(recorders), {"workers": 3}))
    main = nest(outer, child)
    assert list(main.stream(range(50))) == list(range(50))
    assert len(recorders.made) == (3 if outer == inner == "parallelize" else 1)


def test_times_of_a_child_are_ignored_in_a_parent(nest):
    """Input and output options belong to the outermost pipeline."""
    gate = Gate()
    child = nest("parallelize", (gate, {"capacity": 1}), block_input=False, block_output=True)
    main = nest("parallelize", child, output_timeout=1000)
    assert main.get_results() is None
    main.forward(0)
    assert gate.wait_entered()
    main.forward(1)
    waiting = in_thread(lambda: main.forward(2))
    gate.open()
    assert waiting.wait().value is True


# -- who may use it ------------------------------------------------------------------------


@each_pair
def test_a_child_belongs_to_one_parent(nest, outer, inner):
    """A second parent and every direct use are refused while it is lent."""
    child = nest(inner, increment)
    stage = child.as_stage()
    main = nest(outer, child)
    for use in (
        lambda: Pipeline().add(stage),
        lambda: stage(1),
        lambda: child.forward(1),
        child.get_results,
        lambda: child.stream([1]),
        lambda: child.run([1]),
        child.start,
        child.drain,
        child.serialize,
        child.parallelize,
        child.statistics,
        lambda: child.add(increment),
        child.start_loop,
    ):
        with pytest.raises(PipelineBusy):
            use()
    assert "part of another pipeline" in repr(child)
    assert list(main.stream([1])) == [2]


def test_twice_in_one_parent_is_refused(nest):
    """The same pipeline cannot be two stages."""
    child = nest("serialize", increment)
    with pytest.raises(PipelineBusy):
        nest("serialize", child, child)


@each_pair
def test_a_childs_cleanup_leaves_its_stages_to_the_parent(nest, outer, inner):
    """cleanup and abort of a lent child, and of its stage, do nothing."""
    stage = Recorder()
    child = nest(inner, stage)
    handed = child.as_stage()
    main = nest(outer, child)
    assert list(main.stream([1])) == [1]
    child.cleanup()
    child.abort()
    handed.cleanup()
    assert stage.cleanups == []
    assert list(main.stream([2])) == [2]
    main.cleanup()
    child.cleanup()
    assert (len(stage.setups), len(stage.cleanups)) == (1, 1)


@each_pair
def test_after_the_parents_cleanup_a_child_is_free(nest, outer, inner):
    """Terminated until it gets a mode again, at every depth; then it works on its own."""
    stage = Recorder()
    grandchild = nest(inner, stage)
    child = nest(inner, grandchild, increment)
    main = nest(outer, child)
    list(main.stream([1]))
    main.cleanup()
    for one in (child, grandchild):
        for use in (one.as_stage, lambda one=one: one.forward(1), one.get_results):
            with pytest.raises(PipelineTerminated):
                use()
    getattr(grandchild, outer)()
    assert list(grandchild.stream([1])) == [1]
    grandchild.cleanup()
    getattr(child, inner)()
    assert list(child.stream([1])) == [2]
    child.cleanup()
    getattr(main, outer)()
    assert list(main.stream([1])) == [2]
    main.cleanup()
    assert stage.broken == []
    assert len(stage.setups) == len(stage.cleanups) == 4


def test_a_parent_does_not_take_back_what_is_lent_elsewhere(nest):
    """A child that went to another parent meanwhile stays there."""
    child = nest("serialize", increment)
    first = nest("serialize", child)
    first.cleanup()
    child.serialize()
    second = nest("serialize", child)
    with pytest.raises(PipelineBusy):
        first.serialize()
    assert list(second.stream([1])) == [2]


def test_a_second_cleanup_does_not_take_back_what_went_elsewhere(nest):
    """Also of a parent that never had a mode."""
    child = nest("serialize", increment)
    first = Pipeline()
    first.add(child.as_stage())
    first.cleanup()
    second = nest("serialize", child)
    first.cleanup()
    with pytest.raises(PipelineBusy):
        child.forward(1)
    assert list(second.stream([1])) == [2]


def test_a_stopped_child_stays_stopped_when_a_parent_without_a_mode_ends(nest):
    """Its earlier parent has cleaned up its stages: it has to choose a mode again."""
    child = nest("serialize", increment)
    stage = child.as_stage()
    nest("serialize", child).cleanup()
    parent = Pipeline()
    parent.add(stage)
    parent.cleanup()
    with pytest.raises(PipelineTerminated):
        child.forward(1)
    assert list(child.serialize().stream([1])) == [2]


def test_a_grandchild_is_refused_while_the_outermost_pipeline_lives(nest):
    """Its stages are those of the outermost one."""
    grandchild = nest("serialize", increment)
    main = nest("serialize", nest("serialize", grandchild))
    with pytest.raises(PipelineBusy):
        grandchild.forward(1)
    main.cleanup()


@each_pair
def test_a_started_child_hands_its_stages_on(nest, outer, inner):
    """A child that ran before is drained, and set up only once."""
    stage = Recorder()
    child = nest(inner, stage, increment)
    for n in range(5):
        child.forward(n)
    main = nest(outer, child)
    assert len(stage.calls) == 5
    assert list(main.stream([1])) == [2]
    main.cleanup()
    assert (len(stage.setups), len(stage.cleanups)) == (1, 1)
    assert stage.broken == []


@pytest.mark.parametrize("inner", MODES)
def test_a_parent_that_is_collected_frees_its_child(nest, inner):
    """Whoever forgets the parent can go on with the child, abort and cleanup included."""
    stage = Recorder()
    child = nest(inner, stage)
    main = Pipeline()
    main.add(child.as_stage())
    del main
    gc.collect()
    getattr(child, inner)()
    assert list(child.stream([1])) == [1]
    child.abort()
    with pytest.raises(PipelineTerminated):
        child.forward(2)
    child.cleanup()
    assert len(stage.cleanups) == 1


# -- as_stage ------------------------------------------------------------------------------


@each_pair
def test_a_stage_may_be_called_from_many_threads(nest, outer, inner):
    """Every caller gets its own item's result, at any depth."""
    stage = nest(outer, nest(inner, increment, double), increment).as_stage()

    def call(number):
        items = range(number * 100, number * 100 + 40)
        return [stage(n) for n in items] == [(n + 1) * 2 + 1 for n in items]

    assert all(side_by_side(call, 6))


def test_a_direct_call_of_a_generator_is_refused(nest):
    """One call, one result: a stage that gives many says so."""
    with pytest.raises(PlanError, match="generator"):
        nest("serialize", twice).as_stage()(1)


def test_as_stage_wants_a_mode():
    """Before a mode is chosen there is no stage."""
    pipeline = Pipeline()
    pipeline.add(increment)
    with pytest.raises(PipelineUndefined):
        pipeline.as_stage()


@pytest.mark.parametrize("mode", MODES)
def test_a_stage_keeps_its_pipeline_alive(mode):
    """A forgotten pipeline lives as long as its stage is held."""
    pipeline = Pipeline()
    pipeline.add(increment)
    stage = getattr(pipeline, mode)().as_stage()
    alive = weakref.ref(pipeline)
    del pipeline
    gc.collect()
    assert stage(1) == 2
    assert alive() is not None
    stage.cleanup()
    del stage
    gc.collect()
    assert alive() is None


def test_a_parent_keeps_its_children_alive(nest):
    """Nobody else has to hold them."""
    main = Pipeline()
    main.add(nest("serialize", increment).as_stage())
    gc.collect()
    assert list(main.parallelize().stream([1])) == [2]
    main.cleanup()


def test_a_pipeline_cannot_be_its_own_stage(nest):
    """Neither directly nor through others."""
    inner = Pipeline()
    inner.add(increment)
    inner.serialize()
    stage = inner.as_stage()
    with pytest.raises(PlanError):
        inner.add(stage)
    outer = Pipeline()
    outer.add(stage)
    outer.serialize()
    with pytest.raises((PlanError, PipelineBusy)):
        inner.add(outer.as_stage())


# -- modes ---------------------------------------------------------------------------------


@each_pair
def test_modes_may_change_with_children(nest, outer, inner):
    """parallelize() twice, and back, hands the stages of every level on."""
    stage = Recorder()
    child = nest(inner, stage, increment)
    main = nest(outer, child, double)
    for mode in (outer, "parallelize", "parallelize", "serialize", outer):
        assert list(main.stream([1, 2])) == [4, 6]
        getattr(main, mode)()
    main.cleanup()
    assert (len(stage.setups), len(stage.cleanups)) == (1, 1)
    assert stage.broken == []


@pytest.mark.parametrize("mode", MODES)
def test_add_after_a_mode_is_refused(nest, mode):
    """With what to do instead."""
    main = nest(mode, increment)
    with pytest.raises(PlanError, match="before serialize"):
        main.add(increment)
    main.cleanup()
    with pytest.raises(PlanError, match="before serialize"):
        main.add(increment)


@each_pair
def test_cleanup_in_a_childs_stage_is_the_parents_stop(nest, outer, inner):
    """A nested stage that cleans the main pipeline up stops it; the children are freed."""
    stage = Recorder(lambda item: main.cleanup() or item)
    child = nest(inner, stage)
    main = nest(outer, child, increment)
    main.forward(1)
    main.cleanup()
    assert len(stage.cleanups) == 1
    assert stage.broken == []
    with pytest.raises(PipelineTerminated):
        child.forward(1)


@each_pair
def test_an_abort_reaches_every_level(nest, outer, inner):
    """What is in flight in a child is dropped and counted in the parent."""
    gate = Gate()
    main = nest(outer, nest(inner, increment, nest(inner, gate)), increment)
    call = in_thread(lambda: main.forward(1))
    assert gate.wait_entered()
    main.abort()
    gate.open()
    call.wait()
    main.cleanup()
    assert main.statistics().dropped == {"abort": 1}


@pytest.mark.parametrize("inner", MODES)
def test_cleanup_of_a_parent_without_a_mode_frees_its_child(nest, inner):
    """The child goes on in its own mode, and its own cleanup cleans up what was set up."""
    stage = Recorder()
    child = nest(inner, stage)
    assert child.forward(1)
    parent = Pipeline()
    parent.add(child.as_stage())
    with pytest.raises(PipelineBusy):
        child.forward(2)
    parent.cleanup()
    assert child.forward(2)
    child.cleanup()
    assert (len(stage.setups), len(stage.calls), len(stage.cleanups)) == (1, 2, 1)
    assert stage.broken == []


@each_pair
def test_cleanup_called_by_a_stage_frees_the_children_too(nest, outer, inner):
    """Also grandchildren, although no other thread calls the parent's cleanup."""
    grandchild = nest(inner, increment)
    child = nest(inner, grandchild)
    main = Pipeline()
    main.add(lambda item: (main.cleanup(), item)[1])
    main.add(child.as_stage())
    getattr(main, outer)()
    with contextlib.suppress(PipelineTerminated):
        main.forward(1)
    assert wait_until(main._session.closed.is_set)
    for one in (grandchild, child):
        with pytest.raises(PipelineTerminated):
            one.forward(1)
    getattr(grandchild, inner)()
    assert list(grandchild.stream([1])) == [2]
    grandchild.cleanup()


def test_a_child_that_is_just_starting_is_ended_before_its_parent_gets_it(nest):
    """Its caller is told, and its workers leave the stage to the parent's."""
    gate = Gate()

    class Slow(Recorder):
        def setup(self):
            super().setup()
            if len(self.setups) == 1:
                gate(None)

    stage = Slow()
    child = nest("parallelize", stage)
    session = child._session
    caller = in_thread(lambda: child.forward(1))
    gate.wait_entered()
    main = Pipeline()
    lender = in_thread(lambda: main.add(child.as_stage()))
    assert wait_until(lambda: session.run.halted)
    gate.open()
    assert lender.wait().error is None
    assert isinstance(caller.wait().error, PipelineTerminated)
    main.parallelize()
    assert list(main.stream([2])) == [2]
    main.cleanup()
    assert stage.broken == []
    assert len(stage.setups) == len(stage.cleanups)
