"""What the copies of one item have in common while it is in several branches at once.

An item that leaves a stage with several followers goes to each of them as a copy: an envelope
of its own around the same object. Each copy comes to its end, or arrives at a join and waits
there for the others. The item ends when no copy is under way any more: completed when all were
joined, else in the bin of the copy that ended first in the order of the plan. Until then its
other copies go on, through every join that gets all its outputs. So it is counted once, and
what is called and counted does not depend on which branch was faster.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

from ._errors import StageError
from ._handle import release_all
from ._ledger import Bin


class End(NamedTuple):
    """How a copy ended. The smallest one is how its item ended.

    Attributes:
        weight: 0 for what a stage or a policy did; more for what only followed from something
            else, such as a stop.
        stage: index of the stage that ended it, or in front of which it was lost.
    """

    weight: int
    stage: int
    bin: Bin
    reason: str
    failure: StageError | None


class Branches:
    """The copies of one item.

    ``_lock`` guards everything; it is held for a few instructions and never while an output is
    let go, whose destructor may do anything. Why no end is missed: every copy is counted in
    ``_live`` until it ends or waits at a join, and the one that completes a join takes the
    place of all that wait there.
    """

    __slots__ = ("_end", "_live", "_lock", "_waiting")

    def __init__(self, copies: int) -> None:
        self._lock = threading.Lock()
        self._live = copies  # neither ended nor waiting at a join
        self._end: End | None = None
        self._waiting: dict[int, dict[int, Any]] = {}  # by join: outputs by their stage

    def split(self, more: int) -> None:
        """One of the copies becomes several."""
        with self._lock:
            self._live += more

    def end(self, end: End) -> End | None:
        """A copy has ended. How the item ended, if that was the last one."""
        with self._lock:
            self._live -= 1
            before = self._end
            if before is None or end[:2] < before[:2]:
                self._end = end
            ended, let_go = self._ended()
        _let_go(let_go)
        del before, let_go
        return ended

    def _ended(self) -> tuple[End | None, dict[int, dict[int, Any]]]:
        """How the item ended, if no copy is under way, and what is to be let go then."""
        if self._live:
            return None, {}
        let_go, self._waiting = self._waiting, {}
        return self._end, let_go

    def arrive(
        self, join: int, feeder: int, output: Any, needed: int
    ) -> tuple[dict[int, Any] | None, End | None]:
        """A copy arrives at a join.

        Args:
            join: index of the stage that joins.
            feeder: the stage that gave it out.
            needed: how many outputs belong together there.

        Returns:
            the outputs, when all are there: the item goes on as one copy. Else how the item
            ended, if it ended elsewhere and this was the last copy.
        """
        with self._lock:
            outputs = self._waiting.setdefault(join, {})
            outputs[feeder] = output
            if len(outputs) == needed:
                del self._waiting[join]
                return outputs, None
            self._live -= 1
            ended, let_go = self._ended()
        _let_go(let_go)
        del outputs, let_go
        return None, ended


def _let_go(waiting: dict[int, dict[int, Any]]) -> None:
    """Outputs that waited at joins are not joined any more."""
    for outputs in waiting.values():
        release_all(outputs.values())
