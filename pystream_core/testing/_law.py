"""The ledger's law, checked from the public figures alone."""

from __future__ import annotations

from .._ledger import Statistics


def broken_law(statistics: Statistics) -> list[str]:
    """Which lines of the law do not hold, in words; for a moment with nothing in flight."""
    wrong = []
    if statistics.in_flight:
        wrong.append(f"{statistics.in_flight} in flight at a quiet moment")
    if statistics.admitted + statistics.spawned != statistics.ended + statistics.in_flight:
        wrong.append(f"the sum does not hold: {statistics}")
    arrived = statistics.admitted
    lost_on_the_way = 0
    for stage in statistics.stages:
        lost = sum(stage.lost_before.values())
        lost_on_the_way += lost + sum(stage.dropped.values())
        if stage.received != arrived - lost:
            wrong.append(
                f"{stage.path} received {stage.received} of {arrived} sent to it, {lost} lost"
            )
        if stage.in_hand:
            wrong.append(f"{stage.path} has {stage.in_hand} items without a bin")
        arrived = stage.emitted
    lost_at_the_end = statistics.dropped_total - lost_on_the_way
    if statistics.completed != arrived - lost_at_the_end:
        wrong.append(
            f"{statistics.completed} completed of {arrived} sent to the output, "
            f"{lost_at_the_end} lost"
        )
    for name, count in (("superseded", statistics.superseded), ("rejected", statistics.rejected)):
        if count < 0:
            wrong.append(f"{name} is {count}")
    if statistics.superseded > statistics.completed:
        wrong.append(f"{statistics.superseded} superseded of {statistics.completed} completed")
    return wrong
