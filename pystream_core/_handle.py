"""Values that stay where they are: what a placed stage may give out in place of its result.

Who owns what, so that each reference is given back once: an envelope owns the handle that is its
value, wherever it lies or is carried (a channel, a worker's hand, a join); the slot of the newest
result and the channel of a stream own theirs until the reader has the value. A copy of an item
for another follower retains (``Envelope.copies``). Whoever puts another value in a handle's place,
or ends the item, releases it (``Step``, ``Run``); whoever hands it on does nothing.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from ._graph import Gathered

logger = logging.getLogger("PyStream")


class Handle(ABC):
    """A result that a placed stage leaves where it made it, in another process or on a device.

    A placed stage returns a handle in place of the value. It goes through the pipeline as the value
    would, and becomes the value only where somebody looks at it: in front of a stage that does
    not name its class in ``PlacedStage.takes``, for the reader of a result, and for whoever is
    told of a failure. Stages and readers never see one otherwise. Only an item itself, and the
    members of what a join brings together, are looked at; a handle inside a list is an item's own
    affair. In a pipeline without any placed stage a handle is an item like any other.

    A new handle has one reference, which belongs to whoever gets it. ``retain`` and ``release`` are
    called from any thread, also in destructors and from several at once: they must not block, take
    a lock that is held for long, or raise.
    """

    @abstractmethod
    def resolve(self) -> Any:
        """The value.

        Called by any thread whose code owns a reference, also several times; may block. What it
        returned stays as it is when the handle is released, for as long as anybody has it.

        Raises:
            Exception: the value cannot be had any more. In front of a stage that is a failure of
                the stage, for a reader it is raised out of his call.
        """

    @abstractmethod
    def retain(self) -> None:
        """One more owner."""

    @abstractmethod
    def release(self) -> None:
        """One owner less. With the last one the data may go."""


Takes: TypeAlias = tuple[type[Handle], ...]


class Joined(Handle):
    """What a join brings together while a part of it is a handle."""

    def __init__(self, gathered: Gathered, outputs: Mapping[int, Any]) -> None:
        self._gathered = gathered
        self._outputs = outputs

    def composed(self, takes: Takes) -> Any:
        """The tuple or dict, with handles where they are taken as they are."""
        outputs = {feeder: opened(value, takes) for feeder, value in self._outputs.items()}
        return self._gathered.compose(outputs)

    def resolve(self) -> Any:
        return self.composed(())

    def retain(self) -> None:
        for value in self._outputs.values():
            retain(value)

    def release(self) -> None:
        for value in self._outputs.values():
            release(value)


def is_handle(value: Any) -> bool:
    """Whether it is one. The item itself is asked nothing."""
    return Handle in type(value).__mro__


def joined(gathered: Gathered, outputs: Mapping[int, Any]) -> Any:
    """The value of a join's outputs; takes over the references that they have."""
    if any(map(is_handle, outputs.values())):
        return Joined(gathered, outputs)
    return gathered.compose(outputs)


def opened(value: Any, takes: Takes = ()) -> Any:
    """What somebody gets who does not take handles, but for those classes; borrowed.

    Raises:
        Exception: the value cannot be had any more.
    """
    if (
        type(value) in takes
        or not is_handle(value)
        or any(kind in type(value).__mro__ for kind in takes)
    ):
        return value
    return value.composed(takes) if type(value) is Joined else value.resolve()


def taken(value: Any) -> Any:
    """The value itself, for someone who takes over its reference; may block.

    Raises:
        Exception: the value cannot be had any more; the reference has been given back.
    """
    if not is_handle(value):
        return value
    try:
        return value.resolve()
    finally:
        release(value)


def shown(value: Any) -> Any:
    """The value, for people to look at: the handle itself when the value cannot be had."""
    try:
        return opened(value)
    except Exception:
        return value


def retain(value: Any) -> None:
    """One more owner of a value that may be a handle."""
    if is_handle(value):
        _guarded(value.retain)


def release(value: Any) -> None:
    """One owner less."""
    if is_handle(value):
        _guarded(value.release)


def release_all(values: Iterable[Any]) -> None:
    """The same for each of them."""
    for value in values:
        release(value)


def _guarded(act: Any) -> None:
    """A handle that breaks its word costs nobody else anything."""
    try:
        act()
    except Exception as error:
        kind = type(error).__name__
        logger.error("%s() of a handle raised %s", act.__qualname__, kind, exc_info=error)
