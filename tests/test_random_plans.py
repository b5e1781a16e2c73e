"""Random graphs of stages against a plain evaluator, in serial and in threads (G1-3, G5, G32).

The evaluator lays the stages out in a row and takes one item after another through them as
ordinary calls. It shares the stages with the pipelines and nothing with the core: no envelope,
no channel, no ledger.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from pystream_core import (
    SKIP,
    Observer,
    Pipeline,
    PipelineTerminated,
    Retry,
    Stage,
    StageError,
    factory,
)
from pystream_core.testing import (
    PATIENCE,
    Tracker,
    broken_law,
    frantic_switching,
    in_thread,
    side_by_side,
    wait_until,
)
from pystream_core.testing._waiting import next_turn

SMALL = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    print_blob=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
FULL = settings(SMALL, max_examples=2000, derandomize=False)
FEW = settings(SMALL, max_examples=300, derandomize=False, phases=[Phase.generate])

TRIED = Counter()  # how many plans each test has run


# -- items and stages -----------------------------------------------------------------------------


class Token:
    """An item that cannot be compared or asked for its truth."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def _refuse(self, *_: object) -> Any:
        raise TypeError("an item is nobody's business")

    __bool__ = __eq__ = __ne__ = __hash__ = __len__ = _refuse


def measure(value: Any) -> int:
    """A number that follows from a value of any sort."""
    if value is None:
        return 7
    if isinstance(value, Token):
        return value.number + 3
    if isinstance(value, str):
        return len(value) + 11
    if isinstance(value, dict):
        return sum(len(name) * measure(each) for name, each in value.items())
    if isinstance(value, tuple):
        return sum((place + 2) * measure(each) for place, each in enumerate(value))
    return value


def shown(value: Any) -> Any:
    """The same value in a form that can be compared, the order of a dict included."""
    if isinstance(value, Token):
        return f"token {value.number}"
    if isinstance(value, dict):
        return ["dict", *((name, shown(each)) for name, each in value.items())]
    if isinstance(value, tuple):
        return ["tuple", *map(shown, value)]
    return value


def changed(value: Any, salt: int) -> Any:
    """What an ordinary stage makes of it: something of any sort."""
    number = (measure(value) * 7 + salt) % 101
    kinds = (number, None, "", Token(number), (salt, number), value, 0)
    return kinds[(number + salt) % len(kinds)]


def chosen(value: Any, salt: int, share: int) -> bool:
    """Whether a value is among those that a stage treats in another way."""
    return (measure(value) + salt) % share == 0


class BadItem(Exception):
    """What stages raise."""


def replace(failure: StageError) -> Any:
    """A failure policy: something takes the place."""
    return ("instead", measure(failure.item) % 13 if failure.item is not None else 1)


def give_up(failure: StageError) -> Any:
    """A failure policy: the item is let go."""
    return SKIP


def dawdle(value: Any) -> None:
    """Some items take longer, so that workers and branches overtake one another."""
    if measure(value) % 11 == 0:
        threading.Event().wait(0.0002)


class Plain(Stage[Any]):
    """Base of all stages here; each of them behaves the same for the same value."""

    def __init__(self, salt: int = 0) -> None:
        self.salt = salt

    def __call__(self, value: Any) -> Any:
        dawdle(value)
        return changed(value, self.salt)

    def cleanup(self) -> None:
        pass


class Filter(Plain):
    def __call__(self, value: Any) -> Any:
        dawdle(value)
        return SKIP if chosen(value, self.salt, 3) else value


class Failing(Plain):
    def __call__(self, value: Any) -> Any:
        dawdle(value)
        if chosen(value, self.salt, 4):
            raise BadItem
        return SKIP if chosen(value, self.salt, 5) else changed(value, self.salt)


class Flaky(Plain):
    """Raises at the first of two calls."""

    raised = False

    def __call__(self, value: Any) -> Any:
        self.raised = not self.raised and chosen(value, self.salt, 3)
        if self.raised:
            raise BadItem
        return changed(value, self.salt)


class Coroutine(Plain):
    async def __call__(self, value: Any) -> Any:
        for _ in range(measure(value) % 3):
            await next_turn()
        if chosen(value, self.salt, 4):
            raise BadItem
        return SKIP if chosen(value, self.salt, 5) else changed(value, self.salt)


class CoroutineWithSetup(Coroutine):
    async def setup(self) -> None:
        await next_turn()

    async def cleanup(self) -> None:
        await next_turn()


class Many(Plain):
    def __call__(self, value: Any) -> Any:
        number = (measure(value) + self.salt) % 4
        for each in range(number):
            yield SKIP if each == 2 else (each, number)
        if chosen(value, self.salt, 5):
            raise BadItem


class Group(Plain):
    """Gives out so many at once; refuses some; its flush may raise."""

    def __init__(self, salt: int = 0) -> None:
        super().__init__(salt)
        self.size = salt % 3 + 2
        self.kept: list[Any] = []

    def __call__(self, value: Any) -> Any:
        if chosen(value, self.salt, 6):
            raise BadItem
        self.kept.append(value)
        return self.take() if len(self.kept) == self.size else SKIP

    def take(self) -> Any:
        kept, self.kept = tuple(self.kept), []
        return kept

    def flush(self) -> Any:
        left = self.take()
        if left and chosen(left, self.salt, 4):
            raise BadItem
        return [left] if left else None


class Window(Group):
    """Gives out the last ones at each call; has nothing to add at the end."""

    def __call__(self, value: Any) -> Any:
        self.kept = [*self.kept, value][-self.size :]
        return tuple(self.kept) if len(self.kept) == self.size else SKIP

    def flush(self) -> Any:
        self.kept = []


class Pairs(Group):
    """Yields the ones before in reverse; its flush is a generator that may raise midway."""

    def __call__(self, value: Any) -> Any:
        self.kept.append(value)
        if len(self.kept) == self.size:
            yield from reversed(self.take())
            if chosen(value, self.salt, 3):
                raise BadItem

    def flush(self) -> Any:
        for number, each in enumerate(self.take()):
            yield each
            if number == 1 and chosen(each, self.salt, 3):
                raise BadItem


EXPANDING = (Many, Group, Window, Pairs)
RAISING = (Failing, Flaky, Coroutine, CoroutineWithSetup, Many, Group, Pairs)


# -- plans ----------------------------------------------------------------------------------------


@dataclass
class Node:
    """One ``add``: a stage, or a nested level. ``after`` are places in its level."""

    name: str
    after: tuple[int, ...]
    kind: Any = None
    salt: int = 0
    options: dict = field(default_factory=dict)
    level: Level | None = None


@dataclass
class Level:
    """A pipeline: nodes, each behind those that feed it, and the order in which to add them."""

    nodes: list[Node]
    order: list[int]
    mode: str = "parallelize"


def trunk(after: list[tuple[int, ...]]) -> list[bool]:
    """Which nodes every way from the first one to an end leads through."""
    found = []
    ends = set(range(len(after))) - {each for feeders in after for each in feeders}
    for without in range(len(after)):
        reached = set()
        for node, feeders in enumerate(after):
            if node != without and (not feeders or reached.intersection(feeders)):
                reached.add(node)
        found.append(not reached & ends)
    return found


@st.composite
def levels(
    draw: Any, *, depth: int = 0, on_trunk: bool = True, skips: bool = False, rough: bool = False
) -> Level:
    """A random graph; generators and batches only where every item passes.

    Args:
        depth: how many pipelines are around it.
        on_trunk: every item passes this place.
        skips: a pipeline around it skips failures.
        rough: with failures that stop, overflow, freshness limits and unordered workers.
    """
    count = draw(st.integers(1, (8, 4, 3, 2)[depth]))
    after: list[tuple[int, ...]] = [()]
    for node in range(1, count):
        wide = draw(st.sampled_from([1, 1, 1, 2, 2, 3, 4]))
        feeders = st.lists(
            st.integers(max(0, node - 4), node - 1),
            min_size=1,
            max_size=min(wide, node),
            unique=True,
        )
        after.append(tuple(draw(feeders)))
    passed_by_all = trunk(after)
    nodes = []
    for number, feeders in enumerate(after):
        every_item = on_trunk and passed_by_all[number]
        nested = depth < 3 and draw(st.integers(0, 9)) == 0
        node = Node(f"N{number}", feeders, salt=draw(st.integers(0, 30)))
        node.options = {"capacity": draw(st.sampled_from(["auto", "auto", 1, 2, 5]))}
        if rough and not draw(st.integers(0, 3)):
            node.options["overflow"] = draw(st.sampled_from(["drop_oldest", "drop_newest"]))
        if rough and not draw(st.integers(0, 5)):
            node.options["max_age"] = draw(st.sampled_from([1e-9, 1e-4, 1e-3, 10.0]))
        if nested:
            if draw(st.booleans()):
                node.options["on_error"] = "skip"
            inside = skips or "on_error" in node.options
            node.level = draw(
                levels(depth=depth + 1, on_trunk=every_item, skips=inside, rough=rough)
            )
            node.level.mode = draw(st.sampled_from(["serialize", "parallelize"]))
        else:
            _choose(draw, node, every_item=every_item, skips=skips)
            if rough:
                node.options["ordered"] = draw(st.sampled_from([True, True, False]))
                if not draw(st.integers(0, 7)):
                    node.options["on_error"] = "stop"
        nodes.append(node)
    rest = draw(st.permutations(range(1, count))) if draw(st.booleans()) else range(1, count)
    return Level(nodes, [0, *rest])


def _choose(draw: Any, node: Node, *, every_item: bool, skips: bool) -> None:
    kinds = [Plain, Plain, Filter, Failing, Flaky, Coroutine, CoroutineWithSetup]
    node.kind = draw(st.sampled_from([*kinds, *EXPANDING] if every_item else kinds))
    node.options["workers"] = 1 if issubclass(node.kind, Group) else draw(st.integers(1, 3))
    policies: list[Any] = ["skip", replace, give_up]
    if node.kind is Flaky:
        policies = [Retry(1, then="skip"), Retry(2, 1e-4, then="skip")]
    elif node.kind not in EXPANDING:
        policies += [Retry(1, then="skip")]
        policies += [Retry(1)] if skips else []
    policies += ["stop"] if skips and node.kind is not Flaky else []
    node.options["on_error"] = draw(st.sampled_from(policies))


def stops(level: Level) -> Level:
    """The same plan, where about every third policy is ``stop``."""
    for node in level.nodes:
        if node.level is not None:
            stops(node.level)
        elif node.salt % 3 == 0 and node.kind is not Flaky:
            node.options["on_error"] = "stop"
    return level


class Book(Observer):
    """Counts what it is told."""

    def __init__(self) -> None:
        self.calls: Counter = Counter()
        self.ends = 0

    def collect(self, spans: Any, items: Any) -> None:
        self.calls.update(span[0] for span in spans)
        self.ends += len(items)


def built(level: Level, mode: str, *observers: Observer) -> Pipeline:
    """The pipeline of a level."""
    pipeline = Pipeline(observers=observers)
    for place in level.order:
        node = level.nodes[place]
        options = dict(node.options)
        if place:
            options["after"] = [level.nodes[each].name for each in node.after]
        stage: Any = (
            factory(node.kind, salt=node.salt)
            if node.level is None
            else built(node.level, node.level.mode).as_stage()
        )
        pipeline.add(stage, name=node.name, **options)
    return getattr(pipeline, mode)()


# -- the plain evaluator --------------------------------------------------------------------------


class Ended:
    """In place of a value: it does not come."""


ENDED = Ended()


class Row:
    """All stages of a plan in a row, and what they do with items."""

    def __init__(self, level: Level) -> None:
        self.paths: list[str] = []
        self.stages: list[Any] = []
        self.policies: list[Any] = []
        self.retries: list[bool] = []
        self.feeds: list[Any] = []
        self.counts: list[Counter] = []
        self.unjoined: dict[tuple[int, int], int] = Counter()
        self.totals: Counter = Counter()
        self.results: list[Any] = []
        self.held: list[int] = []  # taken in by a batching stage since it last gave out
        self.ends: list[tuple[int, str]] = []  # of the item that is on its way
        self.result = self._lay(level, "MainPipeline", None, False)

    def _lay(self, level: Level, path: str, fed: Any, skips: bool) -> Any:
        outputs: dict[int, Any] = {}
        while len(outputs) < len(level.nodes):
            place = next(
                each
                for each in level.order
                if each not in outputs and all(one in outputs for one in level.nodes[each].after)
            )
            node = level.nodes[place]
            feeds = [outputs[each] for each in node.after]
            feed = ("tuple", feeds) if len(feeds) > 1 else feeds[0] if feeds else fed
            inside = skips or node.options.get("on_error") == "skip"
            if node.level is not None:
                outputs[place] = self._lay(node.level, f"{path}__{node.name}", feed, inside)
            else:
                outputs[place] = len(self.stages)
                policy = node.options["on_error"]
                self.retries.append(isinstance(policy, Retry))
                then = policy.then if isinstance(policy, Retry) else policy
                self.policies.append("skip" if skips and then == "stop" else then)
                self.paths.append(f"{path}__{node.name}")
                self.stages.append(node.kind(node.salt))
                self.feeds.append(feed)
                self.counts.append(Counter())
                self.held.append(0)
        used = {each for node in level.nodes for each in node.after}
        ends = [place for place in level.order if place not in used]
        if len(ends) == 1:
            return outputs[ends[0]]
        return ("dict", [(level.nodes[each].name, outputs[each]) for each in ends])

    def feeders(self) -> list[list[int]]:
        """Who feeds each stage and the output, for the law."""
        return [self._feeders(feed) for feed in (*self.feeds, self.result)]

    def _feeders(self, feed: Any) -> list[int]:
        if isinstance(feed, tuple):
            parts = [each[1] if feed[0] == "dict" else each for each in feed[1]]
            return list(dict.fromkeys(one for part in parts for one in self._feeders(part)))
        return [] if feed is None else [feed]

    def _composed(self, feed: Any, outputs: dict[int, Any]) -> Any:
        if not isinstance(feed, tuple):
            return outputs.get(feed, ENDED)
        if feed[0] == "dict":
            parts = {name: self._composed(each, outputs) for name, each in feed[1]}
            return ENDED if ENDED in map(id_or_ended, parts.values()) else parts
        values = tuple(self._composed(each, outputs) for each in feed[1])
        return ENDED if ENDED in map(id_or_ended, values) else values

    def admit(self, value: Any) -> None:
        """One item from the input to its end."""
        self.totals["admitted"] += 1
        self.run({None: value}, 0)

    def fate(self, value: Any) -> tuple[str, Any]:
        """The same; how it ended, and its result, where no stage expands."""
        self.admit(value)
        return (min(self.ends)[1], None) if self.ends else ("completed", self.results[-1])

    def run(self, outputs: dict[Any, Any], first: int) -> None:
        """One item from a place in the row to its end."""
        self.ends = []
        for place in range(first, len(self.stages)):
            value = self._arrive(place, self.feeds[place], outputs)
            if value is ENDED:
                continue
            self.counts[place]["received"] += 1
            if isinstance(self.stages[place], EXPANDING):
                self._expand(place, value)
                return
            output = self._call(place, value)
            if output is not ENDED:
                self.counts[place]["emitted"] += 1
                outputs[place] = output
        result = self._arrive(len(self.stages), self.result, outputs)
        if result is ENDED:
            self.totals[min(self.ends)[1]] += 1
        else:
            self.totals["completed"] += 1
            self.results.append(shown(result))

    def _arrive(self, place: int, feed: Any, outputs: dict[Any, Any]) -> Any:
        value = self._composed(feed, outputs)
        feeders = self._feeders(feed)
        if value is ENDED and len(feeders) > 1:
            for each in feeders:
                self.unjoined[place, each] += each in outputs
        return value

    def _end(self, place: int, bin_: str) -> Any:
        self.counts[place][bin_] += 1
        self.ends.append((place, bin_))
        return ENDED

    def _call(self, place: int, value: Any) -> Any:
        stage = self.stages[place]
        try:
            output = finished(stage(value)) if isinstance(stage, Coroutine) else stage(value)
        except BadItem:
            if isinstance(stage, Flaky):
                return stage(value)
            return self._failed(place, value)
        return self._end(place, "filtered") if output is SKIP else output

    def _failed(self, place: int, value: Any) -> Any:
        policy = self.policies[place]
        if policy == "stop":
            raise Stopped(self.paths[place])
        if policy == replace:
            return replace(StageError("", path="", item=value))
        return self._end(place, "failed")

    def _expand(self, place: int, value: Any) -> None:
        stage, counts = self.stages[place], self.counts[place]
        made, failed = taken(lambda: stage(value), batching=isinstance(stage, Group))
        self._give_out(place, made)
        self.ends = []
        if failed:
            instead = self._failed(place, value)
            if instead is not ENDED:
                counts["emitted"] += 1
                self.run({place: instead}, place + 1)
            else:
                self.totals["failed"] += 1
            self.held[place] = 0 if made else self.held[place]
        elif isinstance(stage, Group):
            self.held[place] = 0 if made else self.held[place] + 1
            counts["absorbed"] += 1
            self.totals["absorbed"] += 1
        else:
            counts["expanded"] += 1
            self.totals["expanded"] += 1

    def _give_out(self, place: int, made: list[Any]) -> None:
        for each in made:
            self.counts[place]["spawned"] += 1
            self.counts[place]["emitted"] += 1
            self.totals["spawned"] += 1
            self.run({place: each}, place + 1)

    def flush(self) -> None:
        """The end of a stream, or a drain."""
        for place, stage in enumerate(self.stages):
            if not isinstance(stage, Group):
                continue
            made, failed = taken(stage.flush, batching=True)
            self._give_out(place, made)
            held, self.held[place] = 0 if made else self.held[place], 0
            if not failed:
                continue
            if self.policies[place] == "stop":
                raise Stopped(self.paths[place])
            self.counts[place].update(absorbed=-held, failed=held)
            self.totals.update(absorbed=-held, failed=held)
            if self.policies[place] == replace:
                self._give_out(place, [replace(StageError("", path="", item=None))])

    def stage_figures(self) -> list[dict[str, Any]]:
        """What each stage has counted, as far as it is not 0."""
        return [
            {
                "path": path,
                **{name: count for name, count in self.counts[place].items() if count},
                **self._left(place),
            }
            for place, path in enumerate(self.paths)
        ]

    def total_figures(self) -> dict[str, Any]:
        """The same for the whole."""
        totals = {name: count for name, count in self.totals.items() if count}
        return {**totals, **self._left(len(self.paths))}

    def _left(self, place: int) -> dict[str, Any]:
        left = {self.paths[b]: n for (a, b), n in self.unjoined.items() if a == place and n}
        return {"unjoined": left} if left else {}


class Stopped(Exception):
    """A stage under ``stop`` has failed."""


def id_or_ended(value: Any) -> Any:
    """Values are never compared."""
    return ENDED if value is ENDED else 0


def finished(coroutine: Any) -> Any:
    """What a coroutine returns, without an event loop."""
    try:
        while True:
            coroutine.send(None)
    except StopIteration as end:
        return end.value


def taken(make: Any, *, batching: bool) -> tuple[list[Any], bool]:
    """What a generator or batching stage gives, and whether it raised."""
    made: list[Any] = []
    try:
        outputs = make()
        if outputs is not SKIP:
            one = batching and isinstance(outputs, tuple)
            for each in [outputs] if one else outputs or ():
                if each is not SKIP:
                    made.append(each)
    except BadItem:
        return made, True
    return made, False


# -- comparing ------------------------------------------------------------------------------------

items = st.lists(
    st.one_of(st.integers(0, 40), st.none(), st.just(""), st.builds(Token, st.integers(0, 20))),
    max_size=25,
)
BINS = ("admitted", "spawned", "completed", "filtered", "expanded", "absorbed", "failed")
FIGURES = ("received", "emitted", "spawned", "filtered", "expanded", "absorbed", "failed")


def check_figures(pipeline: Pipeline, row: Row) -> None:
    """The ledger of a quiet pipeline is the evaluator's."""
    statistics = pipeline.statistics()
    assert broken_law(statistics, row.feeders()) == []
    stages = [
        {
            "path": stage.path,
            **{name: getattr(stage, name) for name in FIGURES if getattr(stage, name)},
            **({"unjoined": dict(stage.unjoined)} if stage.unjoined else {}),
        }
        for stage in statistics.stages
    ]
    assert stages == row.stage_figures()
    totals = {name: getattr(statistics, name) for name in BINS if getattr(statistics, name)}
    unjoined = {"unjoined": dict(statistics.unjoined)} if statistics.unjoined else {}
    assert {**totals, **unjoined} == row.total_figures()
    assert dict(statistics.dropped) == {}
    assert statistics.expired == statistics.in_flight == 0


def compare(level: Level, first: list[Any], second: list[Any], mode: str) -> None:
    """Two streams, and two times forward and drain, each on a pipeline of its own, the second
    one observed."""
    row = Row(level)
    with built(level, mode) as pipeline:
        for batch in (first, second):
            row.results = []
            for item in batch:
                row.admit(item)
            row.flush()
            assert [shown(result) for result in pipeline.stream(batch)] == row.results
            check_figures(pipeline, row)
    book = Book()
    with built(level, mode, book) as pipeline:
        for batch in (first, second):
            for item in batch:
                assert pipeline.forward(item)
            pipeline.drain(PATIENCE)
        check_figures(pipeline, row)
        newest = pipeline.get_results()
        if row.results:
            assert shown(newest) == row.results[-1]
    assert book.ends == row.totals["admitted"] + row.totals["spawned"]
    for place, counts in enumerate(row.counts):
        assert book.calls[place] == counts["received"] or row.retries[place]


def compare_both(level: Level, first: list[Any], second: list[Any]) -> None:
    TRIED["plans"] += 1
    for mode in ("serialize", "parallelize"):
        compare(level, first, second, mode)


def run_plans(how: settings) -> None:
    """As many plans as the settings say."""

    @how
    @given(levels(), items, items)
    def run(level, first, second):
        compare_both(level, first, second)

    run()


@SMALL
@given(levels(), items, items)
def test_random_plans_do_what_a_plain_evaluator_does(level, first, second):
    """Serially and in threads: the same results, order and ledger, some plans in every run."""
    compare_both(level, first, second)


def check_stopping(level: Level, drawn: list[Any]) -> None:
    """Failures under ``stop``: the results before are the evaluator's, the error names one of
    the stages that fail, and each item is counted once."""
    TRIED["stopping plans"] += 1
    for mode in ("serialize", "parallelize"):
        row = Row(level)
        expected = raised = ""
        try:
            for item in drawn:
                row.admit(item)
            row.flush()
        except Stopped as stopped:
            expected = str(stopped)
        got = []
        with built(level, mode) as pipeline:
            try:
                for result in pipeline.stream(drawn):
                    got.append(shown(result))
            except StageError as error:
                raised = error.path
        if mode == "serialize" or not expected:
            assert (got, raised) == (row.results, expected)
        else:
            assert got == row.results[: len(got)]
            assert row.policies[row.paths.index(raised)] == "stop"
        statistics = pipeline.statistics()
        assert broken_law(statistics, row.feeders()) == []


def check_rough(level: Level, drawn: list[Any], mode: str, how: str, after: int) -> None:
    """Whatever is dropped and however it ends: the law holds, and it can be used again."""
    TRIED["rough plans"] += 1
    feeders = Row(level).feeders()
    pipeline = built(level, mode)
    try:
        if how == "stream":
            with pipeline.stream(drawn) as results:
                for _ in itertools.islice(results, after):
                    pass
            pipeline.drain(PATIENCE)
            assert broken_law(pipeline.statistics(), feeders) == []
            pipeline.run(drawn)
        elif how == "aborted by another":
            aside = in_thread(pipeline.abort)
            with pytest.raises(PipelineTerminated):
                for item in itertools.cycle([*drawn, 1]):
                    pipeline.forward(item)
            aside.wait()
        else:
            for item in drawn[:after]:
                pipeline.forward(item)
            if how == "drain":
                pipeline.drain(PATIENCE)
                assert broken_law(pipeline.statistics(), feeders) == []
            elif how == "abort":
                pipeline.abort()
            elif how == "change":
                pipeline.parallelize()
                for item in drawn[after:]:
                    pipeline.forward(item)
    except StageError:
        pass
    finally:
        pipeline.cleanup(timeout=0 if how == "cleanup" else None)
    assert broken_law(pipeline.statistics(), feeders) == []


WAYS = ["stream", "drain", "abort", "cleanup", "change", "nothing", "aborted by another"]


def check_calls(level: Level, drawn: list[Any], mode: str) -> None:
    """``stage(item)`` gives each item's own result, whoever else calls."""
    TRIED["called plans"] += 1
    row = Row(level)
    expected = [row.fate(item) for item in drawn]

    def call(item: Any) -> tuple[str, Any]:
        try:
            result = stage(item)
        except StageError:
            return "failed", None
        return ("filtered", None) if result is SKIP else ("completed", shown(result))

    with built(level, mode) as pipeline:
        stage = pipeline.as_stage()
        got = side_by_side(lambda half: [call(item) for item in drawn[half::2]], 2)
        assert got == [expected[0::2], expected[1::2]]
        pipeline.drain(PATIENCE)
        check_figures(pipeline, row)


def one_for_one(level: Level) -> Level:
    """The same plan without stages that change the number of items."""
    for node in level.nodes:
        if node.level is not None:
            one_for_one(node.level)
        elif node.kind in EXPANDING:
            node.kind = Filter
    return level


def placed(level: Level) -> Level:
    """The same plan with half of its stages placed where every result is a handle."""
    for node in level.nodes:
        if node.level is not None:
            placed(node.level)
        elif node.salt % 2 and not issubclass(node.kind, (Group, Coroutine)):
            node.options["placement"] = "tracked"
    return level


def check_given_back(tracker: Tracker) -> None:
    """Every handle so far has been released as often as it had owners."""
    assert wait_until(lambda: tracker.owned() == []), tracker.owned()
    assert tracker.broken == []


ways = st.sampled_from(WAYS)
rough_plans = (
    levels(rough=True),
    items,
    st.sampled_from(["serialize", "parallelize"]),
    ways,
    st.integers(0, 25),
)


@SMALL
@given(levels().map(stops), items)
def test_random_plans_that_fail_stop_with_the_results_before(level, drawn):
    """A failure under ``stop`` in any branch."""
    check_stopping(level, drawn)


@SMALL
@given(levels().map(one_for_one), items, st.sampled_from(["serialize", "parallelize"]))
def test_random_plans_give_each_caller_the_result_of_its_item(level, drawn, mode):
    """G6: called directly, from two threads at once."""
    check_calls(level, drawn, mode)


@SMALL
@given(*rough_plans)
def test_random_plans_keep_the_law_however_they_end(level, drawn, mode, how, after):
    """Overflow, freshness limits, failures, aborts, readers that leave, mode changes."""
    check_rough(level, drawn, mode, how, after)


def test_random_plans_give_every_handle_back(tracked_placement):
    """With half of the stages placed: the same results, and no reference is left, however it
    ends."""
    check_handles(SMALL, tracked_placement)
    assert tracked_placement.made > 500
    assert tracked_placement.brought > 100


def check_handles(how: settings, tracker: Tracker) -> None:
    """As many plans of each sort as the settings say."""

    @how
    @given(levels().map(placed), items, items)
    def regular(level, first, second):
        compare_both(level, first, second)
        check_given_back(tracker)

    @how
    @given(levels(rough=True).map(placed), *rough_plans[1:])
    def rough(level, drawn, mode, how, after):
        check_rough(level, drawn, mode, how, after)
        check_given_back(tracker)

    @how
    @given(levels().map(stops).map(placed), items)
    def stopping(level, drawn):
        check_stopping(level, drawn)
        check_given_back(tracker)

    @how
    @given(
        levels().map(one_for_one).map(placed), items, st.sampled_from(["serialize", "parallelize"])
    )
    def called(level, drawn, mode):
        check_calls(level, drawn, mode)
        check_given_back(tracker)

    for check in (regular, rough, stopping, called):
        check()


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_two_thousand_random_plans_give_every_handle_back(tracked_placement):
    """The same for many plans."""
    check_handles(FULL, tracked_placement)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_two_thousand_random_plans_keep_the_law_however_they_end():
    """The same for many plans, and those that stop."""

    @FULL
    @given(*rough_plans)
    def rough(level, drawn, mode, how, after):
        check_rough(level, drawn, mode, how, after)

    @FULL
    @given(levels().map(stops), items)
    def stopping(level, drawn):
        check_stopping(level, drawn)

    rough()
    stopping()
    print(f"\n{dict(TRIED)}")  # noqa: T201


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_two_thousand_random_plans_do_what_a_plain_evaluator_does():
    """The same for many plans."""
    run_plans(FULL)
    print(f"\n{TRIED['plans']} random plans")  # noqa: T201


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_random_plans_while_threads_change_often():
    """The same with a switch of threads at every chance."""
    with frantic_switching():
        run_plans(FEW)
