"""What a placed stage is allowed: time for a call, and fresh processes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Final, TypeVar

from pystream_core import PlanError, StageFactory, near_miss

_ATTRIBUTE: Final = "__process_limits__"

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of one stage; ``limits`` says what each means."""

    timeout: float | None = None
    max_restarts: int = 10
    period: float = 60.0
    grace: float = 0.5

    def __post_init__(self) -> None:
        if self.timeout is not None and not _is_seconds(self.timeout):
            raise PlanError(
                f"limits: timeout must be seconds above 0, or None, not {self.timeout!r}"
            )
        if not isinstance(self.max_restarts, int) or self.max_restarts < 0:
            raise PlanError(
                f"limits: max_restarts must be a whole number from 0, not {self.max_restarts!r}"
            )
        for option in ("period", "grace"):
            if not _is_seconds(getattr(self, option)):
                raise PlanError(
                    f"limits: {option} must be seconds above 0, not {getattr(self, option)!r}"
                )


def limits(
    *,
    timeout: float | None = None,
    max_restarts: int = 10,
    period: float = 60.0,
    grace: float = 0.5,
    **unknown: Any,
) -> Callable[[T], T]:
    """Say what a stage is allowed when it is placed in a process; elsewhere without effect.

    A decorator for functions and ``Stage`` classes, which also takes objects::

        @limits(timeout=2.0)
        def detect(frame): ...

        pipeline.add(detect, placement="process", on_error="skip")

    A limit that the placement itself has been given, ``placement("process", timeout=5.0)``, takes
    the place of the one here.

    Args:
        timeout: seconds for one call (of a generator stage: for one output). A process whose
            call takes longer is killed, and the item handled as one whose process died. Choose
            several times the longest call that is still in order.
        max_restarts: fresh processes that one worker may get within ``period``, instead of those
            that died; one more death stops the pipeline.
        period: seconds.
        grace: seconds that a running call gets to end when the pipeline is stopped, before its
            process is killed.

    Raises:
        PlanError: a limit is out of its range, or the stage takes no attributes.
    """
    for option in unknown:
        known = [each.name for each in fields(Limits)]
        raise PlanError(
            f"limits: there is no limit {option!r}{near_miss(option, known)}; "
            f"limits: {', '.join(known)}"
        )
    found = Limits(timeout=timeout, max_restarts=max_restarts, period=period, grace=grace)

    def mark(stage: T) -> T:
        try:
            setattr(stage, _ATTRIBUTE, found)
        except (AttributeError, TypeError):
            raise PlanError(
                f"limits cannot be given to {type(stage).__name__} objects: wrap it in a function, "
                f"or give factory() a class or function that has them"
            ) from None
        return stage

    return mark


def limits_of(stage: Any, **over: Any) -> Limits:
    """Those that the stage, or what makes it, has been given, with others in their place."""
    target = stage.make if isinstance(stage, StageFactory) else stage
    found = getattr(target, _ATTRIBUTE, None)
    return replace(found if isinstance(found, Limits) else Limits(), **over)


def _is_seconds(value: object) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 < value < math.inf  # type: ignore[operator]
