"""The conformance tests of registered stages: what their users rely on, one claim a test.

Got with :func:`pystream_core.testing.stage_suite`. The stage is got by its name only, as users
get it.
"""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest

from .. import _registry
from .._errors import PlanError, PluginNotFound, StageError, safe_repr
from .._pipeline import Pipeline
from .._plan import flushes
from .._registry import Described
from .._stage import SKIP, Stage, StageFactory, call_kind
from ._alike import alike
from ._conformance import Conformance
from ._stages import Raising
from ._waiting import PATIENCE

_EXECUTORS = [("serial", 1), ("threads", 1), ("threads", 3)]


class StageSuite(Conformance):
    """One registered stage's conformance tests.

    Attributes:
        stage: its name.
        options: its options.
        examples: items, each with what is to come of it; they are given in this order.
        flushed: what a batching stage still gives out behind the last example.
        stateless: what comes of an item depends on that item alone. False: the tests with
            several workers are left out.
        in_place: it may change the items that it is given.
        picklable: it can be sent to another process.
        rounds: how often the examples are given where workers compete.
    """

    stage: ClassVar[str] = ""
    options: ClassVar[dict[str, Any]] = {}
    examples: ClassVar[Sequence[tuple[Any, Any]]] = ()
    flushed: ClassVar[Sequence[Any]] = ()
    stateless: ClassVar[bool] = True
    in_place: ClassVar[bool] = False
    picklable: ClassVar[bool] = True
    rounds: ClassVar[int] = 10

    @pytest.fixture(autouse=True)
    def _counted(self, census: None) -> None:
        """Count what is left behind; the plugin ``pystream_core.testing.fixtures`` does."""

    # -- what the tests are made of ----------------------------------------------------

    def make(self) -> Any:
        """The stage, as users get it."""
        return _registry.stage(self.stage, **self.options)

    def described(self) -> Described:
        """The stage laid open."""
        return _registry.registry().describe("stage", self.stage)

    def items(self) -> list[Any]:
        """A copy of the item of every example."""
        return [copied(item) for item, _ in self.examples]

    def items_again(self) -> list[Any]:
        """The same, as many rounds as there are to be."""
        return [item for _ in range(self.rounds) for item in self.items()]

    def pipeline(self, *stages: Any, executor: str = "serial", **options: Any) -> Pipeline:
        """A pipeline in its mode; the options are those of the first stage."""
        pipeline = Pipeline()
        for position, stage in enumerate(stages):
            pipeline.add(stage, **({} if position else options))
        try:
            if executor == "serial":
                pipeline.serialize()
            else:
                pipeline.parallelize(executor=executor)
        except PluginNotFound as error:
            pytest.skip(str(error))
        self.made.append(pipeline)
        return pipeline

    def outputs(self, stage: Any, items: Sequence[Any]) -> list[Any]:
        """What comes of each item, as a list for each, in serial; behind them, what a flush
        gives. Of an item that fails comes its exception."""
        seen: list[Any] = []
        found: list[Any] = []
        pipeline = self.pipeline(stage, seen.append)
        for item in items:
            try:
                pipeline.forward(item)
            except StageError as error:
                seen.append(error.__cause__)
            found.append(seen.copy())
            seen.clear()
        pipeline.drain(PATIENCE)
        pipeline.cleanup()
        return [*found, seen]

    def stream(self, stage: Any, items: Sequence[Any], **options: Any) -> list[Any]:
        """What comes of all items; those that fail are left out."""
        pipeline = self.pipeline(stage, on_error="skip", **options)
        results = list(pipeline.stream(items))
        pipeline.cleanup()
        statistics = pipeline.statistics()
        assert statistics.admitted == len(items)
        assert statistics.in_flight == 0
        return results

    # -- the tests ---------------------------------------------------------------------

    def test_it_is_listed_and_loads(self) -> None:
        """`pystream plugins` lists it, and it loads with these options."""
        found = self.described()
        listed = {each.identity for each in _registry.available().stages}
        assert found.identity in listed
        assert callable(self.make())

    def test_an_unknown_option_is_refused(self) -> None:
        """With what it was taken for, if the stage has an option at all."""
        known = [each.name for each in self.described().parameters]
        if any(name.startswith("**") for name in known):
            pytest.skip("it takes any option")
        wrong = f"{known[0]}_" if known else "no_such_option"
        with pytest.raises(PlanError) as caught:
            _registry.stage(self.stage, **{**self.options, wrong: 1})
        assert wrong in str(caught.value)
        if known:
            assert f"did you mean {known[0]!r}" in str(caught.value)

    def test_every_example_gives_what_is_expected(self) -> None:
        """Item by item, in order, in a serial pipeline."""
        assert self.examples, "stage_suite() needs an example: give sample= and expect="
        items = self.items()
        *found, rest = self.outputs(self.make(), items)
        many = call_kind(opened(self.make())) == "generator"
        wrong = [
            f"{safe_repr(item)} gave {told(given)}, not {told_expected(expected)}"
            for item, given, (_, expected) in zip(items, found, self.examples, strict=True)
            if not is_expected(given, expected, many=many)
        ]
        if not alike(rest, list(self.flushed)):
            wrong.append(f"the flush gave {told(rest)}, not {told(self.flushed)}")
        assert not wrong, "\n".join(wrong)

    def test_items_stay_as_they_are(self) -> None:
        """In branches others have the same object, so a stage does not change it."""
        if self.in_place:
            pytest.skip("it may change its items")
        items = self.items()
        self.outputs(self.make(), items)
        changed = [
            f"{safe_repr(before)} became {safe_repr(after)}"
            for after, before in zip(items, self.items(), strict=True)
            if not alike(after, before)
        ]
        assert not changed, "return a new object instead: " + "; ".join(changed)

    @pytest.mark.parametrize(("executor", "workers"), _EXECUTORS)
    def test_every_executor_gives_the_same(self, executor: str, workers: int) -> None:
        """The same results in the same order, in the caller's thread and in workers."""
        if workers > 1 and not self.stateless:
            pytest.skip("each worker has a state of its own")
        if workers > 1 and flushes(opened(self.make())):
            pytest.skip("it batches, and each worker for itself")
        once = self.outputs(self.make(), self.items_again())
        expected = [each for given in once for each in given if not isinstance(each, BaseException)]
        results = self.stream(self.make(), self.items_again(), executor=executor, workers=workers)
        assert len(results) == len(expected)
        assert all(map(alike, results, expected))

    @pytest.mark.parametrize("executor", ["serial", "threads"])
    def test_it_is_set_up_and_cleaned_up_once(self, executor: str) -> None:
        """Whatever it gets in between, and its cleanup raises nothing."""
        stage, lives = self.watched()
        pipeline = self.pipeline(stage, executor=executor, on_error="skip")
        list(pipeline.stream(self.items()))
        assert lives == ["setup"]
        pipeline.cleanup()
        assert lives == ["setup", "cleanup"]

    @pytest.mark.parametrize("executor", ["serial", "threads"])
    def test_it_is_cleaned_up_after_a_failing_item(self, executor: str) -> None:
        """Its own failure, where an example has one, or that of the stage behind it, stops the
        pipeline; then it is cleaned up, once."""
        stage, lives = self.watched()
        own = any(is_failure(expected) for _, expected in self.examples)
        pipeline = self.pipeline(stage, *([] if own else [Raising()]), executor=executor)
        with pytest.raises(StageError):
            list(pipeline.stream(self.items()))
            pytest.skip("none of the examples gives a result")
        pipeline.cleanup()
        assert lives == ["setup", "cleanup"]

    def test_it_can_be_cleaned_up_without_a_start(self) -> None:
        """A pipeline that never started cleans its stages up as well: there was no setup."""
        pipeline = self.pipeline(self.instance())
        pipeline.cleanup()

    def test_it_starts_afresh(self) -> None:
        """After its cleanup the same object is set up again and gives the same once more."""
        stage = self.instance()
        first, second = (self.outputs(stage, self.items()) for _ in range(2))
        assert all(
            len(before) == len(after) and all(map(same_outcome, before, after))
            for before, after in zip(first, second, strict=True)
        ), f"first {first!r}, then {second!r}: let setup() begin with a new state"

    def test_it_can_be_sent_to_another_process(self) -> None:
        """Its recipe is pickled, and the copy gives the same."""
        self.needs_pickling()
        sent = pickle.loads(pickle.dumps(self.make()))
        mine, its = (self.outputs(stage, self.items()) for stage in (self.make(), sent))
        assert all(
            len(before) == len(after) and all(map(same_outcome, before, after))
            for before, after in zip(mine, its, strict=True)
        )

    def test_it_runs_in_another_process(self, process_placement: str) -> None:
        """With placement="process" it gives the same, where that is installed."""
        self.needs_pickling()
        stage = opened(self.make())
        if flushes(stage) or call_kind(stage) == "coroutine":
            pytest.skip("a batching stage or a coroutine is not placed")
        expected = self.stream(self.make(), self.items())
        results = self.stream(self.make(), self.items(), placement=process_placement)
        assert len(results) == len(expected)
        assert all(map(alike, results, expected))

    # -- stages that are watched -------------------------------------------------------

    def needs_pickling(self) -> None:
        """Leave the test out for a stage that cannot be sent away."""
        if not self.picklable:
            pytest.skip("it cannot be sent to another process")

    def instance(self) -> Stage[Any]:
        """One object of the stage's class."""
        made = self.make()
        stage = made() if isinstance(made, StageFactory) else made
        if not isinstance(stage, Stage):
            pytest.skip("a function has nothing to set up")
        return stage

    def watched(self) -> tuple[Stage[Any], list[str]]:
        """The stage, and a list of its setups and cleanups as they happen."""
        inner = self.instance()
        lives: list[str] = []
        return watching(inner, lives), lives


def copied(item: Any) -> Any:
    """A copy of an example's item.

    Raises:
        PlanError: it cannot be copied.
    """
    try:
        return copy.deepcopy(item)
    except Exception as error:
        raise PlanError(
            f"stage_suite() gives copies of its samples to the stage, and copy.deepcopy of "
            f"{safe_repr(item)} raised {type(error).__name__}: take a sample that can be copied"
        ) from error


def is_expected(given: Sequence[Any], expected: Any, *, many: bool) -> bool:
    """Whether what came of an item is what was expected.

    Args:
        given: all that came of it.
        expected: SKIP, an exception type, a predicate, or the value.
        many: the stage is a generator, so the value is the list of all of them.
    """
    if expected is SKIP:
        return not given
    if is_failure(expected):
        return len(given) == 1 and isinstance(given[0], expected)
    if not many and len(given) != 1:
        return False
    value = list(given) if many else given[0]
    if isinstance(value, BaseException):
        return False
    if is_predicate(expected):
        return bool(expected(value))
    return alike(value, list(expected) if many else expected)


def is_failure(expected: Any) -> bool:
    """Whether the item is to fail, with an exception of that type."""
    return isinstance(expected, type) and issubclass(expected, BaseException)


def is_predicate(expected: Any) -> bool:
    """Whether it judges a result instead of being one."""
    return inspect.isroutine(expected) or isinstance(expected, functools.partial)


def same_outcome(one: Any, other: Any) -> bool:
    """Alike; exceptions are when they are of one type."""
    if isinstance(one, BaseException) or isinstance(other, BaseException):
        return type(one) is type(other)
    return alike(one, other)


def told(given: Sequence[Any]) -> str:
    """What came of an item, for a message."""
    return ", ".join(safe_repr(each) for each in given) or "nothing"


def told_expected(expected: Any) -> str:
    """What was expected, for a message."""
    if expected is SKIP:
        return "nothing"
    if is_predicate(expected):
        return f"what {getattr(expected, '__name__', 'the predicate')} accepts"
    return expected.__name__ if is_failure(expected) else safe_repr(expected)


def opened(stage: Any) -> Any:
    """The stage, where a factory function makes it what that makes; it tells its kind."""
    if isinstance(stage, StageFactory) and not isinstance(stage.make, type):
        return stage()
    return stage


def watching(inner: Stage[Any], lives: list[str]) -> Stage[Any]:
    """A stage that does what the inner one does, and notes its setups and cleanups: those that
    the pipeline asks for, not those that the stage itself makes use of."""

    @functools.wraps(type(inner).__call__)  # tells the kind
    def call(self: Any, data: Any) -> Any:  # noqa: ARG001
        return inner(data)

    members: dict[str, Any] = {
        "__call__": call,
        "setup": noting(inner.setup, "setup", lives),
        "cleanup": noting(inner.cleanup, "cleanup", lives),
        "max_wait": getattr(inner, "max_wait", None),
    }
    if flushes(inner):
        members["flush"] = staticmethod(inner.flush)  # type: ignore[attr-defined]
    made: Stage[Any] = type(type(inner).__name__, (Stage,), members)()
    return made


def noting(method: Callable[[], Any], name: str, lives: list[str]) -> Callable[..., Any]:
    """A method that notes its call; a coroutine function if the noted one is."""
    if inspect.iscoroutinefunction(method):

        async def note_and_await(self: Any) -> None:  # noqa: ARG001
            lives.append(name)
            await method()

        return note_and_await

    def note(self: Any) -> None:  # noqa: ARG001
        lives.append(name)
        method()

    return note
