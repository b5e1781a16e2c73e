"""Stages that say what they take and give, and what ``add`` makes of them."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Generic, TypeVar

from typing_extensions import assert_type

from pystream_core import SKIP, Pipeline, Retry, Skip, Stage, StageError

T = TypeVar("T")
pipeline = Pipeline()


class Double(Stage[int]):
    """Gives what it takes."""

    def __call__(self, number: int) -> int:
        return number * 2

    def cleanup(self) -> None: ...


class Name(Stage[int, str]):
    """Gives something else."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix

    def __call__(self, data: int) -> str:
        return f"{self.prefix}{data}"

    def cleanup(self) -> None: ...


class Large(Stage[float, float | Skip]):
    """Filters."""

    def __call__(self, number: float) -> float | Skip:
        return number if number > 1 else SKIP

    def cleanup(self) -> None: ...


class Characters(Stage[str, Iterator[str]]):
    """Turns one item into many."""

    def __call__(self, word: str) -> Iterator[str]:
        yield from word

    def cleanup(self) -> None: ...


class Fetch(Stage[str, Awaitable[bytes]]):
    """Is awaited."""

    async def setup(self) -> None: ...

    async def __call__(self, url: str) -> bytes:
        return url.encode()

    async def cleanup(self) -> None: ...


class Pairs(Stage[T, list[T] | Skip], Generic[T]):
    """Is generic itself."""

    def __init__(self) -> None:
        self.held: list[T] = []

    def __call__(self, item: T) -> list[T] | Skip:
        self.held.append(item)
        return self.held if len(self.held) == 2 else SKIP

    def flush(self) -> list[list[T]]:
        return [self.held]

    def cleanup(self) -> None: ...


class Wrong(Stage[int]):
    """Says one thing and does another."""

    def __call__(self, number: int) -> str:  # error: override, reportIncompatibleMethodOverride
        return str(number)

    def cleanup(self) -> None: ...


class Forgets(Stage[int]):
    """Has no cleanup."""

    def __call__(self, number: int) -> int:
        return number


assert_type(Double()(2), int)
assert_type(Name()(2), str)
assert_type(Pairs[int]()(2), list[int] | Skip)
result = Large()(2.0)
if result is not SKIP:
    assert_type(result, float)
Double()("2")  # error: arg-type, reportArgumentType
Forgets()  # error: abstract, reportAbstractUsage
takes_all: Stage[int, object] = Name()
other: Stage[int, bytes] = Name()  # error: assignment, reportAssignmentType
narrow: Stage[str, str] = Name()  # error: assignment, reportAssignmentType

for stage in (Double(), Name(), Large(), Characters(), Fetch(), Pairs[int]()):
    pipeline.add(stage)
pipeline.add(Double)
pipeline.add(Name, workers=2)


def two(first: int, second: int) -> int:
    return first + second


def none() -> int:
    return 1


def optional(first: int, second: int = 2) -> int:
    return first + second


def named(first: int, *, radius: int) -> int:
    return first + radius


def large(number: float) -> float | Skip:
    return number if number > 1 else SKIP


def characters(word: str) -> Iterator[str]:
    yield from word


async def fetch(url: str) -> bytes:
    return url.encode()


async def ticks(url: str) -> AsyncIterator[str]:
    yield url


def replace(failure: StageError) -> float | Skip:
    return SKIP if failure.seq else 0.0


pipeline.add(large, on_error=replace)
pipeline.add(characters, on_error=Retry(2, 0.1))
pipeline.add(fetch, workers=20)
pipeline.add(optional)
pipeline.add(functools.partial(two, 1))
pipeline.add(functools.partial(named, radius=3))
pipeline.add(str)
pipeline.add(len)
pipeline.add(lambda item: item + 1, name="lambda")
for each in "ABC":
    pipeline.add(lambda item, name=each: item + name)

pipeline.add(two)  # error: arg-type, reportArgumentType
pipeline.add(none)  # error: arg-type, reportArgumentType
pipeline.add(named)  # error: arg-type, reportArgumentType
pipeline.add(lambda: 1)  # error: arg-type, reportArgumentType
pipeline.add(3)  # error: arg-type, reportArgumentType
pipeline.add(None)  # error: arg-type, reportArgumentType
pipeline.add(large, 2)  # error: arg-type, reportArgumentType
pipeline.add(large, worker=2)  # error: call-arg, reportCallIssue
