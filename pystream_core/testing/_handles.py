"""A placement whose stages leave their results where they are, and count who owns them."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from .._handle import Handle, is_handle
from .._placement import PlacedStage, Placement
from .._plan import StageSpec
from .._stage import SKIP, Stage
from ._polled import HelperCalls


class Tracked(Handle):
    """A handle that counts its owners and notes when one breaks the rules.

    Attributes:
        value: what it stands for.
        owners: how many there are now.
    """

    def __init__(self, tracker: Tracker, value: Any) -> None:
        self.value = value
        self.owners = 1
        self._tracker = tracker
        tracker.note(self, None)

    def resolve(self) -> Any:
        self._tracker.note(self, "resolve")
        if isinstance(self.value, Lost):
            raise self.value.error
        return self.value

    def retain(self) -> None:
        self._tracker.note(self, "retain")

    def release(self) -> None:
        self._tracker.note(self, "release")
        if isinstance(self.value, Lost) and self.value.breaks:
            raise RuntimeError("release")


class Lost:
    """A value that cannot be had any more.

    Args:
        error: what ``resolve`` raises.
        breaks: ``release`` raises as well.
    """

    def __init__(self, error: Exception, *, breaks: bool = False) -> None:
        self.error = error
        self.breaks = breaks


class Tracker:
    """What has become of all handles of a placement. From any thread; ``_lock`` guards it.

    Attributes:
        made: how many stages have given out.
        brought: how many were made of values that wait in front of a placed stage.
        resolved: how often a value was asked for, by whoever does not take handles.
        broken: rules that were broken, in words.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handles: list[Tracked] = []
        self.made = self.brought = self.resolved = 0
        self.broken: list[str] = []

    def placement(self) -> Placement:
        """A placement whose handles are tracked here."""
        return TrackingPlacement(self)

    def owned(self) -> list[Any]:
        """The values of handles that still have owners."""
        with self._lock:
            return [each.value for each in self._handles if each.owners]

    def make(self, value: Any) -> Tracked:
        """What a stage gives out."""
        with self._lock:
            self.made += 1
        return Tracked(self, value)

    def bring(self, value: Any) -> Tracked:
        """What waits in place of a value."""
        with self._lock:
            self.brought += 1
        return Tracked(self, value)

    def note(self, handle: Tracked, what: str | None) -> None:
        """Something is done to a handle; None: it is made."""
        with self._lock:
            if what is None:
                self._handles.append(handle)
            elif handle.owners < 1:
                self.broken.append(f"{what} after the last release: {handle.value!r}")
            elif what == "resolve":
                self.resolved += 1
            else:
                handle.owners += 1 if what == "retain" else -1


class TrackingPlacement(Placement):
    """Calls stages where they are, or beside the worker where that asks for it, but lets every
    result be a handle."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def wrap(self, spec: StageSpec) -> StageSpec:
        """The specification of the stage that gives out handles."""
        kind: type[_Leaves] = _PolledLeaves if hasattr(select, "poll") else _Leaves
        if spec.kind == "generator":
            kind = _LeavesAll
        return replace(
            spec,
            make=lambda: kind(self._tracker, spec.make()),
            shared=False,
            polled=kind is _PolledLeaves,
        )


class _Leaves(PlacedStage):
    takes = (Tracked,)

    def __init__(self, tracker: Tracker, stage: Callable[[Any], Any]) -> None:
        self._tracker = tracker
        self._stage = stage

    def setup(self) -> None:
        if isinstance(self._stage, Stage):
            self._stage.setup()

    def bring(self, value: Any) -> Any:
        """The value as a handle."""
        return value if is_handle(value) else self._tracker.bring(value)

    def __call__(self, data: Any) -> Any:
        """The stage's result as a handle; the item's own one when the stage returns its item."""
        item = _looked_at(data)
        return self._left(self._stage(item), item, data)

    def cleanup(self) -> None:
        if isinstance(self._stage, Stage):
            self._stage.cleanup()

    def _left(self, result: Any, item: Any, data: Any) -> Any:
        if result is SKIP:
            return SKIP
        if result is item and type(data) is Tracked:
            return data
        return self._tracker.make(result)


class _PolledLeaves(HelperCalls, _Leaves):
    """The same, where an executor may look after several at once."""


class _LeavesAll(_Leaves):
    def __call__(self, data: Any) -> Iterator[Any]:
        """Each of its outputs."""
        item = _looked_at(data)
        for result in self._stage(item):
            yield self._left(result, item, data)


def _looked_at(data: Any) -> Any:
    """What the stage gets."""
    if type(data) is Tracked:
        return data.value
    if type(data) is tuple:  # what a join brings together
        return tuple(map(_looked_at, data))
    if type(data) is dict:  # the ends of a nested pipeline
        return {name: _looked_at(each) for name, each in data.items()}
    return data
