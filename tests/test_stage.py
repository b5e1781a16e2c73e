"""What ``add`` takes: kinds of callables, SKIP, factories."""

from __future__ import annotations

import copy
import functools
import operator
import pickle
import subprocess
import sys
import threading
import types
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

import pytest

from pystream_core import SKIP, Pipeline, PlanError, Skip, Stage, StageFactory, factory
from pystream_core._stage import call_kind

T = TypeVar("T")


def function(item: Any) -> Any:
    return item


def generator(item: Any) -> Iterator[Any]:
    yield item


async def coroutine(item: Any) -> Any:
    return item


async def asynchronous(item: Any) -> AsyncIterator[Any]:
    yield item


class Owner:
    function = staticmethod(function)
    generator = staticmethod(generator)

    def method(self, item: Any) -> Any:
        return item

    def generating(self, item: Any) -> Iterator[Any]:
        yield item

    async def awaiting(self, item: Any) -> Any:
        return item

    @classmethod
    def of_class(cls, item: Any) -> Iterator[Any]:
        yield item


class Calling(Stage[Any]):
    def __call__(self, data: Any) -> Any:
        return data

    def cleanup(self) -> None: ...


class Generating(Calling):
    def __call__(self, data: Any) -> Any:
        yield data


class Awaiting(Calling):
    async def __call__(self, data: Any) -> Any:
        return data


def passing(inner: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that returns what the wrapped one returned."""

    @functools.wraps(inner)
    def wrapper(*args: Any) -> Any:
        return inner(*args)

    return wrapper


def listing(inner: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that makes a generator of a function."""

    @functools.wraps(inner)
    def wrapper(item: Any) -> Iterator[Any]:
        yield inner(item)

    return wrapper


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (function, "function"),
        (generator, "generator"),
        (coroutine, "coroutine"),
        (asynchronous, "async generator"),
        (lambda item: (yield item), "generator"),
        (len, "function"),
        (str, "function"),
        (print, "function"),
        (functools.partial(generator), "generator"),
        (functools.partial(functools.partial(coroutine), 1), "coroutine"),
        (Owner().method, "function"),
        (Owner().generating, "generator"),
        (Owner().awaiting, "coroutine"),
        (Owner.of_class, "generator"),
        (Owner.generator, "generator"),
        (functools.partial(Owner().generating), "generator"),
        (passing(generator), "generator"),
        (passing(passing(coroutine)), "coroutine"),
        (listing(function), "generator"),
        (functools.partial(passing(generator)), "generator"),
        (Calling(), "function"),
        (Generating(), "generator"),
        (Awaiting(), "coroutine"),
        (factory(Generating), "generator"),
        (factory(Calling), "function"),
        (factory(lambda: generator), "function"),  # known when it has been made
        (functools.lru_cache(function), "function"),
        (Generating().__call__, "generator"),
        (operator.itemgetter(0), "function"),
    ],
)
def test_the_kind_comes_from_the_definition(target: Any, expected: str) -> None:
    """Through partials, methods, wrappers and ``__call__``, and nothing is called."""
    assert call_kind(target) == expected


def test_a_deep_chain_of_methods_is_looked_through() -> None:
    """However often it is bound."""
    stage: Any = generator
    for _ in range(20):
        stage = types.MethodType(stage, 1)
    assert call_kind(stage) == "generator"


def test_an_endless_chain_of_wrappers_ends() -> None:
    """An object that is its own ``__wrapped__`` is a function."""

    def stage(item: Any) -> Any:
        return item

    stage.__wrapped__ = stage  # type: ignore[attr-defined]
    assert call_kind(stage) == "function"


@pytest.mark.parametrize("method", ["serialize", "parallelize"])
@pytest.mark.parametrize(
    "stage",
    [
        generator,
        Owner().generating,
        passing(generator),
        Generating(),
        Generating,
        factory(lambda: generator),
    ],
    ids=["function", "method", "wrapped", "object", "class", "factory"],
)
def test_generator_stages_are_found_in_every_form(stage: Any, method: str) -> None:
    """Their outputs come one by one, never as a generator object."""
    pipeline = Pipeline()
    pipeline.add(stage)
    assert list(getattr(pipeline, method)().stream([1, 2])) == [1, 2]
    pipeline.cleanup()


def test_a_returned_generator_is_an_item_like_any_other() -> None:
    """A plain function that returns one does not become a generator stage."""
    pipeline = Pipeline()
    pipeline.add(lambda item: (each for each in [item]))
    [result] = pipeline.serialize().stream([1])
    assert list(result) == [1]
    pipeline.cleanup()


def test_any_class_is_itself_the_stage() -> None:
    """``str`` or a dataclass converts the item; only subclasses of Stage are made first."""
    pipeline = Pipeline()
    pipeline.add(int)
    pipeline.add(str)
    assert list(pipeline.serialize().stream(["07"])) == ["7"]
    pipeline.cleanup()


def test_a_class_is_made_once_for_each_worker() -> None:
    """In the thread of that worker."""
    made: list[int] = []

    class Counted(Calling):
        def __init__(self) -> None:
            made.append(threading.get_ident())

    pipeline = Pipeline()
    pipeline.add(Counted, workers=3)
    pipeline.parallelize().start()
    assert len(set(made)) == len(made) == 3
    assert threading.get_ident() not in made
    pipeline.cleanup()


# -- SKIP ----------------------------------------------------------------------------------


def test_there_is_one_skip() -> None:
    """Also after copying, pickling with every protocol, and making another one."""
    assert copy.copy(SKIP) is copy.deepcopy([SKIP])[0] is SKIP
    assert type(SKIP)() is SKIP
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(SKIP, protocol)) is SKIP
    assert repr(SKIP) == "SKIP"


def test_skip_is_the_same_in_another_process() -> None:
    """What one process pickles is SKIP in the next."""
    code = (
        "import pickle, sys, pystream_core as c;"
        "assert pickle.loads(sys.stdin.buffer.read()) is c.SKIP"
    )
    subprocess.run([sys.executable, "-c", code], input=pickle.dumps(SKIP), check=True, timeout=10)


# -- factories -----------------------------------------------------------------------------


def test_a_factory_binds_its_options() -> None:
    """And shows them."""

    def make(size: int, *, name: str = "x") -> Any:
        return (size, name)

    recipe = factory(make, size=3, name="y")
    assert isinstance(recipe, StageFactory)
    assert recipe() == (3, "y")
    assert repr(recipe).endswith("make, size=3, name='y')")


def test_a_factory_of_something_without_a_signature_is_taken() -> None:
    """Built-ins tell at their first call."""
    assert factory(dict)() == {}


def test_a_factory_whose_signature_is_broken_is_refused() -> None:
    """Whatever is wrong with it is told where it is described."""

    def make() -> Any:
        return None

    make.__signature__ = 5  # type: ignore[attr-defined]
    with pytest.raises(PlanError, match=r"make\(\.\.\.\)"):
        factory(make)


def test_a_factory_refuses_options_by_their_place() -> None:
    """Options are given by keyword, and the message says so."""
    with pytest.raises(PlanError, match="by keyword, not 3"):
        factory(dict, 3)


# -- types ---------------------------------------------------------------------------------


def test_one_type_stands_for_two() -> None:
    """What type checkers read as a default also works at runtime, on every Python."""
    assert Stage[int] == Stage[int, int]
    assert StageFactory[int] == StageFactory[int, int]
    assert Pipeline[int] == Pipeline[int, Any]


def test_a_stage_class_may_be_generic_in_its_own_way() -> None:
    """The short form is that of Stage alone: a subclass counts its own type variables."""

    class Buffer(Stage[T, list[T]]):
        def __call__(self, data: T) -> list[T]:
            return [data]

        def cleanup(self) -> None: ...

    assert Buffer[int].__args__ == (int,)
    assert Buffer[int]()(3) == [3]


def test_a_pipeline_with_types_is_a_pipeline() -> None:
    """Types are for type checkers: nothing else changes."""

    class Numbers(Pipeline[int, T]):
        """Generic in its results."""

    for made in (Pipeline[int, str](), Pipeline[int](), Numbers[str]()):
        assert isinstance(made.serialize(), Pipeline)
        made.cleanup()


def test_skip_is_the_one_object_of_its_type() -> None:
    """A stage that filters returns ``float | Skip``."""
    assert type(SKIP) is Skip
    assert Skip() is SKIP
