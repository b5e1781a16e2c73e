"""The stages of the executor suite, at the top of a module without pytest, so that they can be
imported wherever a placement calls them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from .._stage import SKIP, Stage
from ._stages import Opaque


def double(item: Any) -> Any:
    """Twice the item."""
    return item * 2


def increment(item: Any) -> Any:
    """The item and one."""
    return item + 1


def same(item: Any) -> Any:
    """The item."""
    return item


def twice(item: Any) -> Iterator[Any]:
    """A generator stage: the item, then the item and 0.5."""
    yield item
    yield item + 0.5


class SourceError(Exception):
    """What a broken source raises."""


def twice_opaque(item: Opaque) -> Iterator[Opaque]:
    """A generator stage for opaque items."""
    yield item
    yield Opaque(item.value)


def increment_opaque(item: Opaque) -> Opaque:
    """A new opaque item."""
    return Opaque(item.value + 1)


def expand_list(items: Any) -> Iterator[Any]:
    """A generator stage: the elements of the item."""
    yield from items


def breaks_at_three(item: int) -> Iterator[int]:
    """A generator stage that raises after three outputs."""
    for number in range(item):
        if number == 3:
            raise ValueError("too far")
        yield number


def many(item: int) -> Iterator[int]:
    """A generator stage with as many outputs as the item says."""
    for number in range(item % 40):
        yield item * 100 + number


def picky(item: Any) -> Any:
    """Filters multiples of three, raises for other multiples of five."""
    if item % 3 == 0:
        return SKIP
    if item % 5 == 0:
        raise ValueError("five")
    return item


def slow_stage(item: Any) -> Any:
    """Takes about a millisecond."""
    threading.Event().wait(0.001)
    return item


def slow_now_and_then(item: Any) -> Any:
    """Takes about a millisecond for every seventh item."""
    return slow_stage(item) if item % 7 == 0 else item


def call_each(functions: list[Callable[[], None]]) -> int:
    """Call them, and count them."""
    for function in functions:
        function()
    return len(functions)


def loop_waits_for_room() -> bool:
    """Whether a loop is inside the executor's ``admit``."""
    frames = sys._current_frames()
    for thread in loop_threads():
        frame = frames.get(thread.ident or 0)
        while frame is not None:
            if frame.f_code.co_name == "admit":
                return True
            frame = frame.f_back
    return False


def has_length(items: list[Any], length: int) -> bool:
    """Whether there are that many."""
    return len(items) == length


def loop_threads() -> list[threading.Thread]:
    """The loops that are alive."""
    return [each for each in threading.enumerate() if each.name == "pystream-loop"]


def seen_by(seen: list[Any]) -> Callable[[Any], Any]:
    """A stage that notes every item."""

    def note(item: Any) -> Any:
        seen.append(item)
        return item

    return note


class Triples(Stage[Any]):
    """Gives three items at a time as a tuple; at the end what there is.

    Args:
        max_wait: seconds, see Stage.
        flush_error: raised by ``flush``.
    """

    def __init__(
        self, max_wait: float | None = None, flush_error: BaseException | None = None
    ) -> None:
        self.max_wait = max_wait
        self.flush_error = flush_error
        self.items: list[Any] = []

    def setup(self) -> None:
        """Start empty."""
        self.items = []

    def __call__(self, data: Any) -> Any:
        """The third item completes a batch."""
        if data == "bad":
            raise ValueError(data)
        self.items.append(data)
        return SKIP if len(self.items) < 3 else self._take()

    def flush(self) -> Iterator[Any]:
        """What is left."""
        if self.flush_error is not None:
            raise self.flush_error
        if self.items:
            yield self._take()

    def cleanup(self) -> None:
        """Nothing to do."""

    def _take(self) -> tuple[Any, ...]:
        items, self.items = self.items, []
        return tuple(items)


def slow_for_some(nth: int, then: Any = None) -> Callable[[int], Any]:
    """A stage that negates its item (or gives ``then``), and takes a millisecond for every
    nth one."""
    never = threading.Event()

    def stage(item: int) -> Any:
        if item % nth == 0:
            never.wait(0.001)
        return -item if then is None else then

    return stage


def increment_all(items: tuple[Any, ...]) -> tuple[Any, ...]:
    """Marked as seen."""
    return (*items, "seen")
