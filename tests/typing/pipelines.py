"""Pipelines that say what they take and give, as strict type checkers see them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

import pystream
from pystream import Pipeline, Stage, Statistics
from typing_extensions import assert_type

numbers = iter([1, 2, 3])


def nothing() -> NoReturn:
    raise StopIteration


def text() -> str:
    return ""


def number() -> int:
    return 1


pipeline: Pipeline[int, str] = Pipeline()
assert_type(pipeline.forward(1), bool)
assert_type(pipeline.forward(), bool)
assert_type(pipeline.get_results(), str | None)
assert_type(next(pipeline.stream([1, 2])), str)
assert_type(pipeline.run(range(3)), Statistics)
assert_type(pipeline.as_stage(), Stage[int, str])
assert_type(pipeline.as_stage()(1), str)
assert_type(pipeline.serialize(), Pipeline[int, str])
assert_type(pipeline.parallelize(), Pipeline[int, str])
with pipeline as entered:
    assert_type(entered, Pipeline[int, str])
with pipeline.stream([1]) as results:
    for result in results:
        assert_type(result, str)

pipeline.forward("1")  # error: arg-type, reportArgumentType
pipeline.stream(["1"])  # error: list-item, reportArgumentType
pipeline.run("123")  # error: arg-type, reportArgumentType
wrong_result: int | None = pipeline.get_results()  # error: assignment, reportAssignmentType
wrong_stream: Iterator[int] = pipeline.stream()  # error: assignment, reportAssignmentType
wrong_stage: Stage[int, int] = pipeline.as_stage()  # error: assignment, reportAssignmentType
pipeline.get_results().upper()  # error: union-attr, reportOptionalMemberAccess
pipeline.as_stage()("1")  # error: arg-type, reportArgumentType

# The input generator makes the items.
assert_type(Pipeline(number), Pipeline[int])
assert_type(Pipeline(lambda: next(numbers)), Pipeline[int])
Pipeline[int, str](number)
Pipeline[int, str](nothing)
Pipeline[int, str](text)  # error: arg-type, reportArgumentType, reportCallIssue
Pipeline[int, str]([1])  # error: call-overload, reportArgumentType, reportCallIssue


# One that takes more and gives less stands for one that takes less and gives more.
def count(given: Pipeline[int, object]) -> None: ...


count(pipeline)
count(Pipeline[object, str]())
count(Pipeline[str, str]())  # error: arg-type, reportArgumentType


class Doubling(Pipeline[int, int]):
    """A pipeline that knows its stages."""

    def __init__(self) -> None:
        super().__init__()
        self.add(self.double)

    def double(self, given: int) -> int:
        return given * 2


assert_type(Doubling().serialize(), Doubling)
assert_type(Doubling().get_results(), int | None)
pystream.Pipeline().add(Doubling().serialize().as_stage())
