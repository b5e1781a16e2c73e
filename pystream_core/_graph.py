"""The graph of a plan: which stage feeds which, where branches part and where they join.

A plan lists its stages in an order in which every stage comes behind those that feed it. What
feeds one is a *feed*: the pipeline's input (None), one stage (its index), or several outputs
of the same item brought together (:class:`Gathered`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from ._errors import PlanError


@dataclass(frozen=True)
class Gathered:
    """Several outputs of the same item, brought together to one value.

    Attributes:
        parts: what feeds it, in the order in which it was named.
        names: the value is a dict with these keys; None: a tuple.
    """

    parts: tuple[Feed, ...]
    names: tuple[str, ...] | None = None

    def compose(self, outputs: Mapping[int, Any]) -> Any:
        """The value, from the outputs of the stages by their index."""
        values = tuple(
            part.compose(outputs) if isinstance(part, Gathered) else outputs[part]  # type: ignore[index]
            for part in self.parts
        )
        return values if self.names is None else dict(zip(self.names, values, strict=True))


Feed: TypeAlias = int | Gathered | None


def feeders_of(feed: Feed) -> tuple[int, ...]:
    """The stages that a feed takes from, each once; none for the pipeline's input."""
    return tuple(dict.fromkeys(_stages(feed)))


def _stages(feed: Feed) -> Iterator[int]:
    if isinstance(feed, Gathered):
        for part in feed.parts:
            yield from _stages(part)
    elif feed is not None:
        yield feed


@dataclass(frozen=True)
class Graph:
    """Which stage of a plan feeds which.

    Attributes:
        feeds: what feeds each stage, in the order of the plan.
        result: what reaches the output.
    """

    feeds: tuple[Feed, ...]
    result: Feed

    @staticmethod
    def chain(length: int) -> Graph:
        """The graph of stages that follow one another."""
        feeds = tuple(index - 1 if index else None for index in range(length))
        return Graph(feeds, length - 1 if length else None)

    @cached_property
    def output(self) -> int:
        """The number that stands for the output among followers: that behind the last stage."""
        return len(self.feeds)

    @cached_property
    def linear(self) -> bool:
        """The stages follow one another: nothing branches, nothing joins."""
        return self == Graph.chain(len(self.feeds))

    @cached_property
    def feeders(self) -> tuple[tuple[int, ...], ...]:
        """The stages that feed each stage and, behind the last one, the output."""
        return tuple(feeders_of(feed) for feed in (*self.feeds, self.result))

    @cached_property
    def followers(self) -> tuple[tuple[int, ...], ...]:
        """Who gets the output of each stage: indexes of stages, or ``output``."""
        return tuple(
            tuple(index for index, feeders in enumerate(self.feeders) if stage in feeders)
            for stage in range(len(self.feeds))
        )

    @cached_property
    def joins(self) -> dict[int, Gathered]:
        """How stages, and the output, bring several outputs together; those that do."""
        feeds = enumerate((*self.feeds, self.result))
        return {index: feed for index, feed in feeds if isinstance(feed, Gathered)}

    def gathered(self, index: int) -> Gathered | None:
        """How a stage (or the output) brings several outputs together; None when it does not."""
        return self.joins.get(index)

    def around(self, index: int) -> tuple[int, ...]:
        """The stages from which an item gets past this one: empty when every way from the
        input to the output leads through it."""
        behind = {index}
        for stage in range(index + 1, self.output):
            if not behind.isdisjoint(self.feeders[stage]):
                behind.add(stage)
        past = (behind | {self.output}) - {index}
        return tuple(
            stage
            for stage in range(self.output)
            if stage not in behind and not past.isdisjoint(self.followers[stage])
        )


def arrange(after: Mapping[str, Sequence[str] | None]) -> dict[str, tuple[str, ...]]:
    """Names in an order in which each comes behind those that feed it, with those.

    Args:
        after: what each stage was said to follow, in the order of adding; None: the one
            before. The first one takes the input.

    Raises:
        PlanError: a name is not there or comes twice, or stages wait for one another in a
            circle.
    """
    feeders: dict[str, tuple[str, ...]] = {}
    before: str | None = None
    for name, given in after.items():
        feeders[name] = ((before,) if before else ()) if given is None else tuple(given)
        _check_names(name, feeders[name], after)
        before = name
    placed: dict[str, tuple[str, ...]] = {}
    while len(placed) < len(feeders):
        # the first in the order of adding, so that plans without after= keep theirs
        following = next(
            (
                name
                for name, needed in feeders.items()
                if name not in placed and all(each in placed for each in needed)
            ),
            None,
        )
        if following is None:
            raise _waiting({name: feeders[name] for name in feeders if name not in placed})
        placed[following] = feeders[following]
    return placed


def _check_names(name: str, feeders: Sequence[str], known: Mapping[str, object]) -> None:
    for each in feeders:
        if each not in known:
            near = _near(each, known)
            meant = f"did you mean {near!r}? " if near else ""
            if each.casefold() == "input":  # as graph() draws it
                meant = (
                    "the first stage that is added takes the input, so for several branches from "
                    "there begin with one that passes items on, add(lambda item: item); "
                )
            raise PlanError(
                f"stage {name!r} is to come after {each!r}, which is no stage of this pipeline: "
                f"{meant}its stages are {', '.join(repr(one) for one in known)}"
            )
        if feeders.count(each) > 1:
            raise PlanError(f"stage {name!r}: after names {each!r} twice; name it once")


def _near(name: str, known: Mapping[str, object]) -> str | None:
    """The name that was meant: the own name of a stage whose full path was given, as errors and
    tables show it, else the nearest one."""
    parts = name.split("__")
    found = [part for part in parts if part in known]
    return next(iter(found or difflib.get_close_matches(parts[-1], known, 1)), None)


def _waiting(left: Mapping[str, Sequence[str]]) -> PlanError:
    """What keeps these stages from being placed: a circle, and what only a circle feeds."""
    name = next(iter(left))
    way: list[str] = []
    while name not in way:
        way.append(name)
        name = next(each for each in left[name] if each in left)
    circle = way[way.index(name) :][::-1]
    drawn = " -> ".join(repr(each) for each in (*circle, circle[0]))
    reached_by_none = [each for each in left if each not in circle]
    also = (
        f"; so nothing reaches {', '.join(repr(each) for each in reached_by_none)}"
        if reached_by_none
        else ""
    )
    return PlanError(
        f"stages wait for one another in a circle: {drawn}{also}. A stage can only come after "
        f"stages that do not need its output; change one after="
    )
