"""Several coroutines of one stage in flight, looked after by one thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from time import perf_counter_ns

from pystream_core import Call, Channel, Envelope, Outcome, Run, StageError, Step

from ._mark import STOP, Mark


class _Flown:
    """One item taken from the channel, or a mark."""

    __slots__ = ("call", "envelope", "mark", "over", "taken_ns")

    def __init__(self, envelope: Envelope | None, mark: Mark | None = None) -> None:
        self.envelope = envelope  # None when it has ended without a result
        self.mark = mark
        self.call: Call | None = None
        self.over = mark is not None
        self.taken_ns = perf_counter_ns()


class Landed(Mark):
    """What comes into the channel, without a credit, when a coroutine has ended."""

    __slots__ = ("flown", "outcome")

    def __init__(self, flown: _Flown, outcome: Outcome) -> None:
        super().__init__()
        self.flown = flown
        self.outcome = outcome


class Flight:
    """The coroutines of one stage that are in flight.

    Everything belongs to the worker's thread, which waits in one place, the channel: the event
    loop posts there what has ended. So a full channel behind the stage holds up the starting of
    coroutines, never the event loop.

    Args:
        run: the run.
        channel: in front of the stage; gets its credits back here.
        step: the stage.
        limit: how many may be in flight.
        ordered: hand on in the order of taking.
        adapt: fit the bound of the channel to the time that an item takes.
        send: hands an item on; may block.
        post: hands a mark on; never blocks.
    """

    def __init__(
        self,
        run: Run,
        channel: Channel[Envelope],
        step: Step,
        *,
        limit: int,
        ordered: bool,
        adapt: bool,
        send: Callable[[Envelope], None],
        post: Callable[[Mark], None],
    ) -> None:
        self._run = run
        self._channel = channel
        self._step = step
        self._limit = limit
        self._ordered = ordered
        self._adapt = adapt
        self._send = send
        self._post = post
        self._line: dict[_Flown, None] = {}  # what has been taken and not handed on, in order
        self._waiting: deque[_Flown] = deque()  # of those, what has not been started
        self._running = 0
        self._stopping = False

    def serve(self) -> None:
        """Work until the channel is closed and what is in flight has ended."""
        while not self._stopping or self._running:
            self._take(self._channel.receive())
            while self._waiting and (self._stopping or self._running < self._limit):
                self._start(self._waiting.popleft())
            self._hand_on()

    def _take(self, found: Envelope | Mark) -> None:
        if type(found) is Landed:
            self._land(found.flown, found.outcome)
        elif found is STOP:
            self._stop()
        elif not isinstance(found, Mark):
            flown = _Flown(found)
            self._line[flown] = None
            self._waiting.append(flown)
        elif self._stopping:
            found.arrive(False)
        else:
            self._line[_Flown(None, found)] = None

    def in_hand(self) -> list[Envelope]:
        """The items whose coroutines have not ended; for a closer that leaves them behind."""
        return [
            flown.envelope
            for flown in list(self._line)
            if flown.call is not None and flown.envelope is not None
        ]

    def _start(self, flown: _Flown) -> None:
        envelope = flown.envelope
        assert envelope is not None
        if envelope.seq < self._run.floor:
            self._step.discard(envelope)
        else:
            flown.call = self._step.begin(envelope, partial(self._post_landed, flown))
            if flown.call is not None:
                self._running += 1
                return
        self._end(flown, None)

    def _post_landed(self, flown: _Flown, outcome: Outcome) -> None:
        """In the event loop's thread."""
        self._channel.post(Landed(flown, outcome))

    def _land(self, flown: _Flown, outcome: Outcome) -> None:
        self._running -= 1
        envelope = flown.envelope
        assert envelope is not None
        result: Envelope | None = None
        try:
            if self._step.finish(envelope, outcome):
                result = envelope
        except StageError as failure:
            self._run.fail(failure)
        self._end(flown, result)

    def _end(self, flown: _Flown, result: Envelope | None) -> None:
        flown.envelope, flown.call, flown.over = result, None, True
        if not self._ordered:
            del self._line[flown]
            self._leave(flown)

    def _hand_on(self) -> None:
        """Everything whose turn it is."""
        while self._line:
            flown = next(iter(self._line))
            if not flown.over:
                return
            del self._line[flown]
            self._leave(flown)

    def _stop(self) -> None:
        """Cancel what is in flight and let the rest go, from now on out of turn: one that never
        ends is not to keep the others from being counted. The next channel drops them."""
        self._stopping = True
        self._ordered = False
        for flown in list(self._line):
            if flown.call is not None:
                flown.call.cancel()
            elif flown.over:
                del self._line[flown]
                if flown.mark is not None:
                    flown.mark.arrive(False)
                else:
                    self._leave(flown)

    def _leave(self, flown: _Flown) -> None:
        if flown.mark is not None:
            self._post(flown.mark)
            return
        if flown.envelope is not None:
            self._send(flown.envelope)
        if self._adapt:
            self._channel.resize(perf_counter_ns() - flown.taken_ns)
        self._channel.release()
