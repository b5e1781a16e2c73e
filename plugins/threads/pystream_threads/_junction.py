"""Where the outputs of stages go: to one follower, to several, or together with others'."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from pystream_core import Channel, Envelope, Run

from ._mark import Mark


class Entrance:
    """The way into a lane, or to the output, for every stage that feeds it.

    ``_lock`` is used where several stages feed it. It makes joining the outputs of an item and
    sending them on one step, so that items go on in order and one at a time; its holder may
    wait for room, and is freed by the close of the channel behind.

    Why it always receives: what waits here for the other outputs of its item holds no credit,
    and cannot be more than what those other branches have been given, which their channels
    bound.

    Args:
        run: the run.
        index: of the stage behind it; the number of stages means the output.
        put: takes an item; may block.
        post: takes a mark; never blocks.
        channel: where ``put`` puts items when it waits for room and does nothing else.

    Attributes:
        channel: the same, when there is one stage alone that feeds it; else None.
    """

    def __init__(
        self,
        run: Run,
        index: int,
        put: Callable[[Envelope], None],
        post: Callable[[Mark], None],
        channel: Channel[Envelope] | None = None,
    ) -> None:
        self._run = run
        self._index = index
        self._put = put
        self._post = post
        self._feeders = len(run.plan.graph.feeders[index])
        self.channel = channel if self._feeders == 1 else None
        self._trace = run.trace() if self._feeders > 1 else None
        self._lock = threading.Lock()
        self._marks: dict[Mark, int] = {}  # how many more are to come

    def sender(self, feeder: int) -> Callable[[Envelope], None]:
        """What hands on the outputs of one of the stages that feed it."""
        if self._feeders == 1:
            return self._put

        def send(envelope: Envelope) -> None:
            with self._lock:
                if self._run.arrive(self._index, feeder, envelope, self._trace):
                    self._put(envelope)

        return send

    def post(self, mark: Mark) -> None:
        """A mark that has come through one of the stages that feed it. It goes on when it has
        come through all of them: then everything before it has arrived."""
        if self._feeders > 1:
            with self._lock:
                left = self._marks.pop(mark, self._feeders) - 1
                if left:
                    self._marks[mark] = left
                    return
        self._post(mark)


def fan_out(
    entrances: Sequence[Entrance], feeder: int
) -> tuple[Callable[[Envelope], None], Callable[[Mark], None]]:
    """How a stage sends its outputs and marks to all its followers."""
    senders = [entrance.sender(feeder) for entrance in entrances]
    if len(senders) == 1:
        return senders[0], entrances[0].post

    def send(envelope: Envelope) -> None:
        for each, copy in zip(senders, envelope.copies(len(senders)), strict=True):
            each(copy)

    def post(mark: Mark) -> None:
        for entrance in entrances:
            entrance.post(mark)

    return send, post
