"""The life of a stage instance: made, set up, called, cleaned up exactly once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from ._errors import PipelineBusy, PlanError, StageError, describe_error
from ._plan import Retry, StageSpec, flushes
from ._stage import CallKind, Stage, call_kind

logger = logging.getLogger("PyStream")


class Instance:
    """One stage instance and where it is in its life.

    ``_lock`` guards the two flags; it is never held while user code runs. An instance belongs
    to one worker at a time. ``cleanup`` may be tried from several threads: the first one does
    it.

    Attributes:
        stage: the callable; None before ``prepare``.
        kind: how its calls behave.
    """

    def __init__(self) -> None:
        self.stage: Callable[[Any], Any] | None = None
        self.kind: CallKind = "function"
        self.path = ""
        self.stuck = False  # left behind in a call that has not returned
        self._ready = False
        self._lock = threading.Lock()

    @property
    def ready(self) -> bool:
        """Set up and not cleaned up yet."""
        return self._ready

    def prepare(self, spec: StageSpec) -> None:
        """Make the stage and set it up, unless an earlier executor has done so.

        Blocks as long as the user's code does.

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
        if self._ready:
            return
        try:
            if self.stage is None:
                self.stage = _checked(spec.make(), spec)
                self.kind = call_kind(self.stage) if not spec.shared else spec.kind
            if isinstance(self.stage, Stage):
                self.stage.setup()
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            self.stage = self.stage if spec.shared else None
            raise
        except BaseException as error:
            self.stage = self.stage if spec.shared else None
            raise StageError(
                f"stage {spec.name!r} could not be set up: {describe_error(error)}",
                path=spec.name,
            ) from error
        self._ready = True

    def cleanup(self) -> BaseException | None:
        """Call the stage's ``cleanup`` unless that has been done; return what it raised.

        Blocks as long as the user's code does.
        """
        with self._lock:
            ready, self._ready = self._ready, False
        if not ready or not isinstance(self.stage, Stage):
            return None
        try:
            self.stage.cleanup()
        except BaseException as error:  # reported together, after every other cleanup
            logger.error("cleanup of stage %r raised", self.path, exc_info=error)
            return error
        return None

    def adopt(self, stage: Callable[[Any], Any], path: str) -> None:
        """Take a user's object as it is, for a cleanup without any start."""
        self.stage = stage
        self.path = path
        self._ready = True


class Instances:
    """The instances of one ``add``, kept from one executor to the next.

    Touched by one thread at a time: the one that starts or closes a session.
    """

    def __init__(self) -> None:
        self._all: list[Instance] = []

    def of_worker(self, index: int) -> Instance:
        """The instance of the worker with this number; a new one when there is none yet."""
        while len(self._all) <= index:
            self._all.append(Instance())
        return self._all[index]

    def surplus(self, workers: int) -> list[Instance]:
        """Instances that an earlier executor with more workers has left."""
        return [one for one in self._all[workers:] if one.ready]

    def unstarted(self, spec: StageSpec) -> list[Instance]:
        """What there is to clean up when nothing was ever started: the user's own object."""
        if self._all or not spec.shared:
            return [one for one in self._all if one.ready]
        instance = self.of_worker(0)
        instance.adopt(spec.make(), spec.name)
        return [instance]

    def reset(self, *, shared: bool) -> None:
        """Forget instances that have been cleaned up: a new start makes new ones. A user's
        own object that is stuck in a call stays known."""
        self._all = [one for one in self._all if one.ready or (shared and one.stuck)]


def _checked(stage: Any, spec: StageSpec) -> Callable[[Any], Any]:
    if spec.shared:
        return stage  # type: ignore[no-any-return]  # checked by add()
    if not callable(stage):
        raise PlanError(f"its factory returned {type(stage).__name__}, which cannot be called")
    kind = call_kind(stage)
    if kind in ("coroutine", "async generator") or flushes(stage):
        raise PlanError(
            "its factory returned a coroutine or batching stage, which this version does not run"
        )
    if kind == "generator" and isinstance(spec.options.on_error, Retry):
        raise PlanError("its factory returned a generator stage, which cannot be retried")
    if isinstance(stage, Stage) and not stage.name:
        stage.name = stage._given_name = spec.path[-1]
    return stage  # type: ignore[no-any-return]
