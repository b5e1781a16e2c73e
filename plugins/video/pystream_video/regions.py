"""Moving regions, and the frame that carries them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class Box(NamedTuple):
    """A rectangle of a frame in pixels: ``left`` and ``top`` inside, ``right`` and ``bottom``
    just outside, so ``frame[top:bottom, left:right]`` is its content."""

    left: int
    top: int
    right: int
    bottom: int


class MotionFrame(np.ndarray[Any, np.dtype[np.uint8]]):
    """A frame that knows its moving regions; in all else an ordinary array.

    Copies and pickles keep the regions; an array of another shape, such as a slice, has none,
    because the boxes would no longer fit.

    Attributes:
        regions: the moving regions, the largest first.
        count: how many there are.
    """

    regions: tuple[Box, ...]

    def __new__(cls, frame: npt.NDArray[np.uint8], regions: tuple[Box, ...] = ()) -> MotionFrame:
        """View a frame, without copying it, as one with these regions."""
        self = frame.view(cls)
        self.regions = tuple(regions)
        return self

    def __array_finalize__(self, obj: Any) -> None:
        same = getattr(obj, "shape", None) == self.shape
        self.regions = getattr(obj, "regions", ()) if same else ()

    @property
    def count(self) -> int:
        """How many regions move."""
        return len(self.regions)

    def __reduce__(self) -> tuple[Any, ...]:
        # ndarray's own would leave the regions behind on the way to another process
        return MotionFrame, (self.view(np.ndarray), self.regions)


def merged(boxes: list[Box], gap: int) -> list[Box]:
    """Boxes with all those joined that overlap or lie within ``gap`` pixels of each other."""
    waiting = list(boxes)
    done: list[Box] = []
    while waiting:
        box = waiting.pop()
        for other in waiting:
            if _near(box, other, gap):
                waiting.remove(other)
                waiting.append(_around(box, other))
                break
        else:
            for other in done:
                if _near(box, other, gap):
                    done.remove(other)
                    waiting.append(_around(box, other))
                    break
            else:
                done.append(box)
    return done


def _near(one: Box, other: Box, gap: int) -> bool:
    return (
        one.left <= other.right + gap
        and other.left <= one.right + gap
        and one.top <= other.bottom + gap
        and other.top <= one.bottom + gap
    )


def _around(one: Box, other: Box) -> Box:
    return Box(
        min(one.left, other.left),
        min(one.top, other.top),
        max(one.right, other.right),
        max(one.bottom, other.bottom),
    )


def connected(moving: npt.NDArray[np.bool_]) -> list[tuple[slice, slice]]:
    """The bounding cells of each connected part of a small grid, diagonals included.

    Works on the runs of each row, so it takes time by the number of edges in the grid and
    not by its size; no array library beyond numpy is needed for it.

    Args:
        moving: shape (rows, columns), True where something moves.

    Returns:
        (rows, columns) slices of the grid, one pair per part.
    """
    parent: list[int] = []
    bounds: list[list[int]] = []  # of each run: top, bottom, left, right, ends excluded

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = run = parent[parent[run]]
        return run

    above: list[tuple[int, int, int]] = []
    for row in np.flatnonzero(moving.any(axis=1)).tolist():
        edges = np.flatnonzero(np.diff(moving[row].astype(np.int8), prepend=0, append=0))
        here: list[tuple[int, int, int]] = []
        if bounds and above and bounds[above[0][2]][1] != row:
            above = []  # an empty row lies between
        for left, right in edges.reshape(-1, 2).tolist():
            run = len(parent)
            parent.append(run)
            bounds.append([row, row + 1, left, right])
            here.append((left, right, run))
            for other_left, other_right, other in above:
                if left <= other_right and other_left <= right:  # touching corners count
                    parent[root(other)] = root(run)
        above = here
    found: dict[int, list[int]] = {}
    for run, (top, bottom, left, right) in enumerate(bounds):
        box = found.setdefault(root(run), [top, bottom, left, right])
        box[0], box[1] = min(box[0], top), max(box[1], bottom)
        box[2], box[3] = min(box[2], left), max(box[3], right)
    return [(slice(t, b), slice(left, right)) for t, b, left, right in found.values()]
