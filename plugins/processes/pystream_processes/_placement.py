"""The placement itself: a stage's specification becomes one of a stage in a process."""

from __future__ import annotations

import functools
import os
import sys
from dataclasses import replace

from pystream_core import Placement, PlanError, Retry, StageSpec

from ._limits import limits_of


class ProcessPlacement(Placement):
    """Each worker's calls happen in a process of its own.

    The worker waits for the pipe to its process and for the end of that, together, so a process
    that dies is an event and its item is known. No lock, queue, event or manager is shared.
    """

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
            limits=limits_of(given),
            read_only=bool(spec.around),
            may_share=not isinstance(spec.options.on_error, Retry),
        )
        kind = PlacedGenerator if spec.kind == "generator" else Placed
        return replace(spec, make=functools.partial(kind, order), shared=False)
