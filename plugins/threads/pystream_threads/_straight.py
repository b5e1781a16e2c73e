"""The loop of a worker that is alone at its stage and hands on one item for one item.

What a step costs here is what nearly every item costs at nearly every stage. So when several
items wait, it brings a lot of them through with one look at room, credits, counters and clock,
and without a call of ours for each. docs/performance.md says what that gave.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns
from typing import Final, Protocol

from pystream_core import SKIP, Chain, Channel, Envelope, Run, StageError

from ._mark import STOP, Mark

_ENDLESS: Final = 1 << 62  # room at the output, which waits itself when it has none


class Holder(Protocol):
    """Who is to know the item in hand, to name it when its call does not return."""

    hand: Envelope | None


def serve_straight(
    run: Run,
    chain: Chain,
    channel: Channel[Envelope],
    holder: Holder,
    *,
    ahead: Channel[Envelope] | None,
    send: Callable[[Envelope], None],
    post: Callable[[Mark], None],
    adapts: bool,
    in_lots: bool,
) -> None:
    """Work until the channel is closed and empty.

    Waits for an item, which STOP ends at the latest, and for room ahead, which the close of
    that channel ends.

    Args:
        run: the run.
        chain: of stages that make at most one item of one and do not branch.
        channel: in front of the stages; this is its only receiver.
        holder: gets the item in hand.
        ahead: where ``send`` puts items, when this is the only one who does; None: it may do
            anything.
        send: hands an item on, waits for room ahead.
        post: hands a mark on.
        adapts: the bound of ``channel`` follows the time that an item takes.
        in_lots: nobody but this worker takes items out, and credits may come back in lots.
    """
    step, call = chain.steps[0], chain.call
    items, take = channel.items, channel.items.popleft
    receive, release = channel.receive, channel.release
    pass_lot = None
    if in_lots and chain.plain is not None and len(chain.steps) == 1 and not step.watched:
        pass_lot = lots(run, chain, channel, holder, ahead, send)
    owed = lot = 0  # credits not given back yet, and how many they may become
    idle = 0 if adapts else 1
    began = idle  # when the first of the items that are timed together was taken; 0: none yet
    ended = 0  # when those before had been handed on
    left = timed = 1  # items until the clock is read; what it was when they began
    while True:
        try:
            item = take()
        except IndexError:
            if owed:
                release(owed)
                left -= owed
                owed = 0
            began = idle  # waiting for an item is no work
            item = None  # nothing that is done is held while waiting
            item = receive()
        if item.seq < run.floor:
            if item is STOP:
                return
            if isinstance(item, Mark):
                post(item)
            else:
                step.discard(item)
                release()
            continue
        if not began:
            began = perf_counter_ns()
            ended = ended or began
            timed = left = max(left, 1)
        holder.hand = item
        try:
            if call(item):
                send(item)
        except StageError as failure:
            run.fail(failure)
        holder.hand = None
        owed += 1
        if owed <= lot:
            if pass_lot is None or len(items) < 2:
                continue
            owed += pass_lot(lot - owed)
            if owed < lot:
                continue
        left -= owed
        if left <= 0 and adapts:
            now = perf_counter_ns()
            waited = began - ended if in_lots else 0
            left = channel.resize((now - began) // (timed - left), waited)
            lot = channel.lot if in_lots else 0
            began, ended = 0, now
        release(owed)
        owed = 0


def lots(
    run: Run,
    chain: Chain,
    channel: Channel[Envelope],
    holder: Holder,
    ahead: Channel[Envelope] | None,
    send: Callable[[Envelope], None],
) -> Callable[[int], int]:
    """What brings several items through a plain stage; for the arguments see serve_straight.

    The last item that waits is left to the caller, who counts it before it is sent. So the
    figures lag behind what was sent only while more is coming.
    """
    step = chain.steps[0]
    counters, stage = step.counters, step.stage
    items, take = channel.items, channel.items.popleft
    # Our own channel is never parked while we work.
    append, to = (send, channel) if ahead is None else (ahead.items.append, ahead)

    def pass_lot(most: int) -> int:
        """Take at most so many items that wait; how many have been taken."""
        raised: BaseException | None = None
        most = min(most, len(items) - 1, _ENDLESS if ahead is None else ahead.room)
        taken = 0
        for taken in range(1, most + 1):
            item = take()
            if item.seq < run.floor:  # a mark or an item that was called back: not our business
                items.appendleft(item)
                taken -= 1
                passed = taken
                break
            holder.hand = item
            counters.taken = taken
            try:
                item.value = stage(item.value)
            except BaseException as error:
                raised = error
                passed = taken - 1
                break
            if item.value is SKIP:
                passed = taken - 1
                break
            append(item)
            if to.parked:
                to.wake()
        else:
            passed = taken
        counters.taken = 0
        counters.passed += passed
        if ahead is not None:
            ahead.room -= passed
        if passed < taken:
            counters.received += 1
            try:
                through = step.hand_on(item, SKIP) if raised is None else step.failed(item, raised)
                if through:
                    send(item)
            except StageError as failure:
                run.fail(failure)
            finally:
                raised = None  # else this frame and the exception hold each other
        holder.hand = None
        return taken

    return pass_lot
