"""The ledger's law, checked from the public figures alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .._ledger import Feeders, Statistics

_BINS = ("filtered", "expanded", "absorbed", "expired", "failed")


def broken_law(statistics: Statistics, feeders: Feeders | None = None) -> list[str]:
    """Which lines of the law do not hold, in words; for a moment with nothing in flight.

    Args:
        statistics: the figures of a pipeline.
        feeders: of a plan with branches: the stages that feed each stage and, behind the last
            one, the output (``RunInfo.feeders``). By default the stages follow one another.
    """
    stages = statistics.stages
    if feeders is None:
        feeders = [(index - 1,) if index else () for index in range(len(stages) + 1)]
    wrong = []
    if statistics.in_flight:
        wrong.append(f"{statistics.in_flight} in flight at a quiet moment")
    if statistics.admitted + statistics.spawned != statistics.ended + statistics.in_flight:
        wrong.append(f"the sum does not hold: {statistics}")
    for index, stage in enumerate(stages):
        lost = sum(stage.lost_before.values())
        for whence, sent in _sent(statistics, feeders[index], stage.unjoined):
            if stage.received != sent - lost:
                wrong.append(
                    f"{stage.path} received {stage.received} of {sent} sent to it by {whence}, "
                    f"{lost} lost"
                )
        if stage.in_hand:
            wrong.append(f"{stage.path} has {stage.in_hand} items without a bin")
    branching = any(len(each) > 1 for each in feeders)
    wrong += _wrong_at_the_output(statistics, feeders, branching=branching)
    wrong += _wrong_totals(statistics, branching=branching)
    for name, count in (("superseded", statistics.superseded), ("rejected", statistics.rejected)):
        if count < 0:
            wrong.append(f"{name} is {count}")
    if statistics.superseded > statistics.completed:
        wrong.append(f"{statistics.superseded} superseded of {statistics.completed} completed")
    return wrong


def _sent(
    statistics: Statistics, feeders: Sequence[int], unjoined: Mapping[str, int]
) -> list[tuple[str, int]]:
    """What came to a stage or the output, from each of those that feed it."""
    if not feeders:
        return [("the input", statistics.admitted)]
    stages = [statistics.stages[feeder] for feeder in feeders]
    return [(stage.path, stage.emitted - unjoined.get(stage.path, 0)) for stage in stages]


def _wrong_at_the_output(statistics: Statistics, feeders: Feeders, *, branching: bool) -> list[str]:
    """What was lost before the output stands in the totals only, and there each item once."""
    wrong = []
    on_the_way = sum(
        sum(stage.lost_before.values()) + sum(stage.dropped.values()) for stage in statistics.stages
    )
    at_the_end = statistics.dropped_total - on_the_way
    losses = set()
    for whence, sent in _sent(statistics, feeders[-1], statistics.unjoined):
        lost = sent - statistics.completed
        losses.add(lost)
        right = 0 <= lost <= statistics.dropped_total if branching else lost == at_the_end
        if not right:
            wrong.append(
                f"{statistics.completed} completed of {sent} sent to the output by {whence}, "
                f"{statistics.dropped_total} dropped, {on_the_way} of them on the way"
            )
    if len(losses) > 1:
        wrong.append(f"before the output were lost at once {sorted(losses)}")
    return wrong


def _wrong_totals(statistics: Statistics, *, branching: bool) -> list[str]:
    """Each bin holds what the stages counted; less, where items were in several branches."""
    wrong = []
    for name in _BINS:
        total, counted = (
            getattr(statistics, name),
            sum(getattr(stage, name) for stage in statistics.stages),
        )
        if not 0 <= total <= counted or (total != counted and not branching):
            wrong.append(f"{total} {name}, but the stages counted {counted}")
    for reason, count in statistics.dropped.items():
        if count < 0:
            wrong.append(f"{count} dropped ({reason})")
    return wrong
