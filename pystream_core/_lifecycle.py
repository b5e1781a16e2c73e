"""The life of a stage instance: made, set up, called, cleaned up exactly once."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable
from typing import Any

from ._coroutines import EventLoop
from ._errors import PipelineBusy, PlanError, StageError, describe_error, safe_repr
from ._inside import EndedInside
from ._placement import PlacedStage, PolledStage
from ._plan import StageSpec, check_flush, check_kind, check_place, flushes
from ._stage import CallKind, Stage, call_kind

logger = logging.getLogger("PyStream")


class Instance:
    """One stage instance and where it is in its life.

    ``_lock`` guards the flags; it is never held while user code runs. An instance belongs to
    one worker at a time, from ``prepare`` to ``come_back``. ``cleanup`` may be tried from
    several threads: the first one does it. While the instance is stuck in a call it only
    leaves word, and the worker does it when the call has come back.

    Attributes:
        stage: the callable; None before ``prepare``.
        kind: how its calls behave.
        batching: it keeps items between its calls.
        loop: where its coroutines run, from its setup to its cleanup; None if it has none.
        stuck: left behind in its setup, a call or its cleanup, which has not returned.
        in_setup: its setup is running.
        tried: someone has set it up, or tried to, or cleaned it up without.
        raised: its cleanup has raised.
    """

    def __init__(self) -> None:
        self.stage: Callable[[Any], Any] | None = None
        self.kind: CallKind = "function"
        self.batching = False
        self.loop: EventLoop | None = None
        self.path = ""
        self.stuck = False
        self.in_setup = False
        self.tried = False
        self.raised = False
        self._ready = False
        self._in_use = False  # a worker has it, or its cleanup is running
        self._due = False  # to be cleaned up as soon as it is no longer stuck
        self._lock = threading.Lock()

    @property
    def ready(self) -> bool:
        """Set up and not cleaned up yet."""
        return self._ready

    def prepare(
        self,
        spec: StageSpec,
        loop: EventLoop | None = None,
        halted: Callable[[], bool] = lambda: False,
    ) -> None:
        """Make the stage and set it up, unless an earlier executor has done so.

        Blocks as long as the user's code does.

        Args:
            spec: what to make.
            loop: where its coroutines are to run, if it has any.
            halted: whether the run has been stopped. Asked once there is a stage to call off: a
                stop before that finds none, and one after it does so itself.

        Raises:
            StageError: making it or its ``setup`` raised, or what was made is no stage.
            PipelineBusy: an earlier call of it has not returned yet.
        """
        self.path = spec.name
        if self.stuck:
            raise PipelineBusy(
                f"stage {spec.name!r} is still in a call of an earlier run that never returned: "
                f"use another object, or the class or factory(...) in its place"
            )
        with self._lock:
            self._in_use = True
            self._due = False
        if isinstance(self.stage, PlacedStage):
            self.stage.begin()
            if halted():
                self.call_off()
        if self._ready:
            return
        self.in_setup = self.tried = True
        try:
            if self.stage is None:
                self.stage = _checked(spec.make(), spec)
                self.kind = call_kind(self.stage) if not spec.shared else spec.kind
                self.batching = flushes(self.stage)
                if halted():
                    self.call_off()
            if loop is not None and _awaits(self.stage, self.kind):
                loop.enter()
                self.loop = loop
            if isinstance(self.stage, Stage):
                self._finish(self.stage.setup)
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            self._setup_failed(spec)
            raise
        except BaseException as error:
            self._setup_failed(spec)
            if isinstance(error, EndedInside):
                raise error.outside(None, None) from error.__cause__
            raise StageError(
                f"stage {spec.name!r} could not be set up: {describe_error(error)}",
                path=spec.name,
            ) from error
        finally:
            self.in_setup = self.stuck = False
        self._ready = True

    def _finish(self, method: Callable[[], Any]) -> None:
        """Call ``setup`` or ``cleanup``, which may be coroutine functions."""
        if self.loop is not None and inspect.iscoroutinefunction(method):
            self.loop.run(method)
        else:
            method()

    def _leave_loop(self) -> None:
        loop, self.loop = self.loop, None
        if loop is not None:
            loop.leave()

    def _setup_failed(self, spec: StageSpec) -> None:
        self._leave_loop()
        self.stage = self.stage if spec.shared else None
        with self._lock:
            self._in_use = False

    def leave_behind(self, *, forsake: bool = True) -> None:
        """The closer waits no longer for the worker; unless that is just done with it, the
        instance is stuck from now on.

        Args:
            forsake: False: it only waits for something else, and may be cleaned up after that.
        """
        with self._lock:
            self.stuck = self._in_use
        stage = self.stage  # a setup that fails takes it away
        if forsake and self.stuck and isinstance(stage, PlacedStage):
            stage.forsake()

    def call_off(self) -> None:
        """The run has been stopped; a placed stage ends its call. Takes no lock."""
        stage = self.stage  # a setup that fails takes it away
        if isinstance(stage, PlacedStage):
            stage.call_off()

    def come_back(self, *, clean_up: bool) -> BaseException | None:
        """Its worker is done with it; clean it up if asked to now or while it was stuck.

        Returns what the cleanup raised.
        """
        with self._lock:
            self._in_use = self.stuck = False
            clean_up = clean_up or self._due
        return self.cleanup() if clean_up else None

    def end_call(self) -> BaseException | None:
        """A call that was left behind has ended, while its worker went on without it; clean the
        instance up if that was asked for meanwhile."""
        with self._lock:
            self.stuck = False
            due = self._due
        return self.cleanup() if due else None

    def cleanup(self) -> BaseException | None:
        """Call the stage's ``cleanup`` unless that has been done; return what it raised.

        Blocks as long as the user's code does; not at all while the instance is stuck: then
        the worker cleans it up when it comes back.
        """
        with self._lock:
            if self.stuck:
                self._due = True
                return None
            ready, self._ready = self._ready, False
            if not ready:
                return None
            self._in_use = True
        self.raised = False
        try:
            if isinstance(self.stage, Stage):
                self._finish(self.stage.cleanup)
        except BaseException as error:  # reported together, after every other cleanup
            self.raised = True
            logger.error("cleanup of stage %r raised", self.path, exc_info=error)
            return error
        finally:
            self._leave_loop()
            with self._lock:
                self._in_use = self.stuck = self._due = False
        return None

    def adopt(self, stage: Callable[[Any], Any], path: str) -> None:
        """Take a user's object as it is, for a cleanup without any start."""
        self.stage = stage
        self.path = path
        self._ready = self.tried = True


class Instances:
    """The instances of one ``add``, kept from one executor to the next.

    Touched by one thread at a time: the one that starts or closes a session.
    """

    def __init__(self) -> None:
        self._all: list[Instance] = []
        self._tried = False  # an instance that has been forgotten was
        self._placement: object = None

    def of_worker(self, index: int) -> Instance:
        """The instance of the worker with this number; a new one when there is none yet."""
        while len(self._all) <= index:
            self._all.append(Instance())
        return self._all[index]

    def place(self, placement: object) -> None:
        """Where the calls happen from now on. Instances that were set up for another place are
        cleaned up, here and now; what that raises has been logged."""
        if placement != self._placement:
            for one in [each for each in self._all if each.ready]:
                one.cleanup()
        self._placement = placement

    def loops(self) -> set[EventLoop]:
        """Where coroutines of its instances run; also begun by an earlier run. Takes no lock."""
        return {one.loop for one in tuple(self._all) if one.loop is not None}

    def call_off(self) -> None:
        """The run has been stopped; placed stages end their calls. Takes no lock."""
        for one in tuple(self._all):
            one.call_off()

    def surplus(self, workers: int) -> list[Instance]:
        """Instances that an earlier executor with more workers has left."""
        return [one for one in self._all[workers:] if one.ready]

    def raised(self) -> list[str]:
        """The path of the stage, if the cleanup of an instance has raised."""
        return [one.path for one in self._all if one.raised][:1]

    def leave_setups(self) -> list[str]:
        """Leave the instances behind whose setup is running; their paths. Whoever starts them
        is still at it."""
        left = [one for one in tuple(self._all) if one.in_setup]
        for one in left:
            one.leave_behind()
        return [one.path for one in left]

    def unstarted(self, spec: StageSpec) -> list[Instance]:
        """What there is to clean up when this session was not started: what an earlier one
        has handed on, else the user's own object, if it has never been tried."""
        if self._all or self._tried or not spec.shared:
            return [one for one in self._all if one.ready]
        instance = self.of_worker(0)
        instance.adopt(spec.make(), spec.name)
        return [instance]

    def reset(self, *, shared: bool) -> None:
        """Forget instances that have been cleaned up: a new start makes new ones. A user's
        own object that is stuck in a call stays known; any other one that is stuck is left to
        its worker, which cleans it up when the call has come back."""
        kept = []
        for one in self._all:
            self._tried = self._tried or one.tried
            if one.stuck and not shared:
                one.cleanup()
            elif one.ready or one.stuck:
                kept.append(one)
        self._all = kept


def _checked(stage: Any, spec: StageSpec) -> Callable[[Any], Any]:
    if flushes(stage):
        _check_max_wait(stage)
    if spec.shared:
        return stage  # type: ignore[no-any-return]  # checked by add()
    if not callable(stage):
        raise PlanError(f"its factory returned {type(stage).__name__}, which cannot be called")
    kind, batching = call_kind(stage), flushes(stage)
    if kind == "async generator":
        raise PlanError(
            "its factory returned an async generator function, which cannot be a stage: use a "
            "plain generator"
        )
    if spec.polled and not isinstance(stage, PolledStage):
        raise PlanError(
            "its placement says polled, but has given something that is no PolledStage: leave "
            "polled out of the specification"
        )
    check_kind("that its factory returned", spec.options, kind, batching=batching)
    check_flush("that its factory returned", stage)
    check_place(spec, kind, batching=batching)
    if isinstance(stage, Stage) and not stage.name:
        try:
            stage.name = stage._given_name = spec.path[-1]
        except AttributeError:  # the class does not let its name be set
            pass
    return stage  # type: ignore[no-any-return]


def _awaits(stage: Any, kind: CallKind) -> bool:
    methods = (stage.setup, stage.cleanup) if isinstance(stage, Stage) else ()
    return kind == "coroutine" or any(map(inspect.iscoroutinefunction, methods))


def _check_max_wait(stage: Any) -> None:
    max_wait = getattr(stage, "max_wait", None)
    number = isinstance(max_wait, (int, float)) and not isinstance(max_wait, bool)
    if max_wait is not None and not (number and 0 < max_wait < threading.TIMEOUT_MAX):
        raise PlanError(
            f"its max_wait must be seconds above 0, or None for no limit, not {safe_repr(max_wait)}"
        )
