"""Factories: the options are those of the maker, the types those of what it makes."""

from __future__ import annotations

from collections.abc import Callable

from typing_extensions import assert_type

from pystream_core import Pipeline, Stage, StageFactory, factory

pipeline = Pipeline()


class Blur(Stage[bytes]):
    """Takes an option."""

    def __init__(self, radius: int = 3) -> None:
        self.radius = radius

    def __call__(self, frame: bytes) -> bytes:
        return frame * self.radius

    def cleanup(self) -> None: ...


def make_length(unit: int) -> Callable[[str], float]:
    return lambda text: len(text) / unit


def make_nothing() -> int:
    return 1


def make_two() -> Callable[[int, int], int]:
    return lambda first, second: first + second


assert_type(factory(Blur, radius=5), StageFactory[bytes])
assert_type(factory(make_length, unit=2), StageFactory[str, float])
pipeline.add(factory(Blur))
pipeline.add(factory(make_length, unit=2), workers=4)

factory(Blur, radus=5)  # error: call-arg, reportCallIssue
factory(Blur, radius="5")  # error: arg-type, reportArgumentType
factory(make_length)  # error: call-arg, reportCallIssue
factory(make_nothing)  # error: arg-type, reportArgumentType
factory(make_two)  # error: arg-type, reportArgumentType
factory(3)  # error: arg-type, reportArgumentType, reportCallIssue
