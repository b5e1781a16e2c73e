"""Where a stage's call happens: the contract of placements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from ._handle import Handle
from ._plan import StageSpec
from ._stage import Stage


class Placement(ABC):
    """Moves the calls of single stages elsewhere, for example into worker processes.

    A placement has no part in order, backpressure, failures or shutdown: the executor's
    worker calls the wrapped stage as it would call any other and waits for its answer.

    What it must keep:

    - ``wrap`` is called once for each placed stage when the plan is built and does not
      start anything; what cannot be placed is refused there with ``PlanError``.
    - the wrapped stage is made once per worker, in that worker, by ``spec.make()``. If it
      is a ``Stage``, its ``setup`` and ``cleanup`` start and stop whatever stands behind it
      and run in the worker too.
    - a call blocks until the answer is there, holds no interpreter lock while it waits, and
      raises what the stage raised, or ``WorkerLost``.
    - ``path``, ``options`` and ``kind`` of the specification stay as they are.

    What stands in place of the stage may be a ``PlacedStage``: then it is told when nobody
    waits for its running call any more, and can end it. It may also return a ``Handle`` where the
    value can stay where it is. It may even be a ``PolledStage``, and the specification say
    ``polled``: then one thread of an executor can serve several of them.

    Attributes:
        name: for people to read.
    """

    name = ""

    @abstractmethod
    def wrap(self, spec: StageSpec) -> StageSpec:
        """The specification of a stage that an executor's worker calls in place of this one.

        Raises:
            PlanError: the stage cannot be placed, with what to do about it.
        """


class PlacedStage(Stage[Any]):
    """A stage whose call happens elsewhere, so that it can be ended from outside.

    ``begin``, ``call_off`` and ``forsake`` are called from any thread, also in a destructor: they
    must not block, take a lock or raise. A call that was ended raises ``CalledBack``; its item
    counts as dropped.

    It gets a value as it would lie here, unless that is a handle of a class in ``takes``: at such a
    one it may look until its call ends. When it is the item itself it may be given out again, to
    hand it on; whatever else is to be done with it has to retain it.

    Attributes:
        takes: classes of handles that it takes as they are, also as members of what a join brings
            together.
        span_ns: when the latest call began and ended where it happens, as readings of
            ``time.perf_counter_ns``, for observers: so that the way there and back counts as
            waiting, not as the stage's work. (0, 0): not known, then that of the worker counts.
    """

    takes: tuple[type[Handle], ...] = ()
    span_ns: tuple[int, int] = (0, 0)

    def bring(self, value: Any) -> Any:
        """What is to wait in front of this stage: the value itself, or in its place a handle, of a
        class in ``takes``, with one reference.

        Called by whoever hands the item to this stage, in its thread, so that what takes time
        overlaps with the stage's work on another one. May come from several threads at once, for
        any worker of the stage, once all have been set up. Unlike the others it may block, as
        long as moving the value there takes; must not raise. Not every value is brought: a call
        has to take what was not, too.
        """
        return value

    def begin(self) -> None:
        """Another run begins to use it, still set up: what called it off is over."""

    def call_off(self) -> None:
        """The run has been stopped: a running call or setup should end soon, and so should one
        that begins from now on; the cleanup is still to come. May come again."""

    def forsake(self) -> None:
        """Nobody waits for it any more: whatever is running, a cleanup too, should end now."""


class PolledStage(PlacedStage):
    """A placed stage whose call can be begun without waiting for its end, so that one thread can
    have calls of several stages under way: it waits for their descriptors with ``select.poll``.
    What a hand-over to a thread of its own costs for each call, it saves.

    ``submit``, then ``done`` until that is true, then ``result``: together they do what a call
    does, and a stage has one call under way at a time. A plain call is possible as well. All of
    it comes from one thread at a time, which need not be the one that set the stage up.

    Attributes:
        descriptors: of files to wait for, its own ones: when one of them can be read from, ``done``
            is to be asked. Others may take their place in ``submit`` and ``result``.
    """

    descriptors: Sequence[int] = ()

    @abstractmethod
    def submit(self, value: Any) -> None:
        """Begin a call. May block as long as moving the value there takes, and as starting anew
        what stands behind the stage does; not for an answer.

        Raises:
            BaseException: as a call does; then it has ended.
        """

    @abstractmethod
    def done(self) -> bool:
        """Whether the call has ended, so that ``result`` has something to say. Takes in what has
        come; never waits, never raises."""

    @abstractmethod
    def result(self) -> Any:
        """What the call returned, once it is done; a call that nobody waited for (see
        ``call_off``) raises ``CalledBack``."""

    @abstractmethod
    def until(self) -> float:
        """When ``done`` is to be asked in any case, as a reading of ``time.monotonic``; infinity:
        not before a descriptor can be read from. Holds until ``done`` is asked again."""
