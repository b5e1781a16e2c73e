"""The placement itself: a stage's specification becomes one of a stage in a process."""

from __future__ import annotations

import functools
import os
import sys
from dataclasses import replace

from pystream_core import Placement, PlanError, Retry, Stage, StageFactory, StageSpec

from ._limits import Limits, limits_of
from ._pool import PoolStatistics, Reserve


class ProcessPlacement(Placement):
    """Each worker's calls happen in a process of its own.

    The worker waits for the pipe to its process and for the end of that, together, so a process
    that dies is an event and its item is known. No lock, queue, event or manager is shared.

    By its name, ``add(stage, placement="process")``, or with options, as
    ``add(stage, placement=pystream_core.placement("process", timeout=2.0))``, for one stage or for
    several. Limits are those of ``limits``; what is given here goes before what a stage brings
    along.

    Args:
        timeout: seconds for one call; None: what the stage says, else no limit.
        max_restarts: fresh processes that one worker may get within ``period``; None: what the
            stage says, else 10.
        period: seconds; None: what the stage says, else 60.
        grace: seconds that a running call gets to end when the pipeline is stopped; None: what the
            stage says, else 0.5.
        shared_memory_mb: bound of shared memory for the stages of this very placement, which then
            have blocks of their own, in megabytes; 0: everything goes through pipes. None: the
            blocks of the whole process, 256 MB or what PYSTREAM_SHARED_MEMORY_MB says.

    Raises:
        PlanError: an option is out of its range.
    """

    name = "process"

    def __init__(
        self,
        *,
        timeout: float | None = None,
        max_restarts: int | None = None,
        period: float | None = None,
        grace: float | None = None,
        shared_memory_mb: int | None = None,
    ) -> None:
        given = {
            "timeout": timeout,
            "max_restarts": max_restarts,
            "period": period,
            "grace": grace,
        }
        self._limits = {name: value for name, value in given.items() if value is not None}
        Limits(**self._limits)  # type: ignore[arg-type]  # refuses what is out of its range
        if shared_memory_mb is not None and (
            not isinstance(shared_memory_mb, int)
            or isinstance(shared_memory_mb, bool)
            or shared_memory_mb < 0
        ):
            raise PlanError(
                f"shared_memory_mb must be a whole number of megabytes from 0, not "
                f"{shared_memory_mb!r}"
            )
        self._reserve = Reserve(shared_memory_mb)

    def shared_memory(self) -> PoolStatistics:
        """What the shared memory of its stages is doing."""
        return self._reserve.pool().statistics()

    def wrap(self, spec: StageSpec) -> StageSpec:
        """See Placement. The stage, or what makes it, is pickled here.

        Raises:
            PlanError: it cannot be pickled, or this system cannot do it.
        """
        if not hasattr(os, "fork") or not sys.executable:
            raise PlanError(
                f"stage {spec.name!r} cannot be placed in a process on this system, which needs "
                f"fork and Unix sockets: leave out placement"
            )
        # Not before a process is asked for:
        from ._placed import Order, Placed, PlacedGenerator
        from ._recipe import recipe_of

        recipe, given = recipe_of(spec)
        order = Order(
            path=spec.name,
            name=spec.path[-1],
            recipe=recipe,
            has_cleanup=isinstance(given, (Stage, StageFactory)),
            limits=limits_of(given, **self._limits),
            reserve=self._reserve,
            read_only=bool(spec.around),
            may_share=not isinstance(spec.options.on_error, Retry),
        )
        kind = PlacedGenerator if spec.kind == "generator" else Placed
        make = functools.partial(kind, order)
        return replace(spec, make=make, shared=False, polled=kind is Placed)
