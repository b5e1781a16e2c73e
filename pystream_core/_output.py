"""The end of the line: a one-slot store of the newest result, or a stream that wants them all."""

from __future__ import annotations

from collections import deque
from queue import Empty
from time import monotonic, perf_counter_ns
from typing import Any

from ._channel import Channel, ChannelClosed
from ._executor import Envelope, Run
from ._handle import release, taken
from ._mailbox import Mailbox
from ._observer import Trace


class StreamEnd:
    """What a stream's channel holds behind its last result.

    Attributes:
        error: what the source raised, None at its ordinary end.
    """

    __slots__ = ("error",)

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


CUT = StreamEnd()  # the channel was closed: the session knows why


class Stream:
    """Results on their way to the reader of one ``stream()``.

    The output sends, the reader receives, and fits the bound to its own time.

    Attributes:
        first: number of the first item that belongs to the stream; results of earlier ones
            go to the slot.
    """

    def __init__(self, first: int) -> None:
        self.first = first
        self.left = False
        self._end: StreamEnd | None = None
        self.channel: Channel[Envelope] = Channel("auto", closing=CUT)

    def end(self, error: BaseException | None) -> None:
        """Put the end behind everything that has been delivered so far."""
        self._end = StreamEnd(error)
        self.channel.post(self._end)

    def end_again(self) -> None:
        """If it has ended: a reader whom Ctrl-C has met may have taken that out."""
        if self._end is not None:
            self.channel.post(self._end)


class Output:
    """Where finished items arrive. It exists from the choice of a mode on, before any run.

    Who touches what: a result is put into ``slot`` by one thread at a time and taken out by any
    number; ``stream`` is set and cleared by the session, and read once per item.

    Why no reader sleeps beside a result: it enters ``waiters`` before it looks into the slot once
    more; who puts a result there looks at ``waiters`` afterwards. Both touch the slot in between,
    which lets in one at a time.

    A result may be a handle. It becomes the value when somebody reads it, in the reader's thread.

    Attributes:
        slot: the newest result, as long as nobody has read it.
        waiters: readers that wait for one.
    """

    def __init__(self) -> None:
        self.run: Run | None = None
        self.stream: Stream | None = None
        self.slot: deque[Any] = deque()
        self.waiters: deque[Mailbox[None]] = deque()
        self._trace: Trace | None = None
        self._released = False

    def attach(self, run: Run) -> None:
        """Take the results of this run from now on."""
        self._trace = run.trace()
        self.run = run

    def __call__(self, envelope: Envelope) -> None:
        """Take one finished item. Blocks while a stream's reader is behind; a stop or the
        reader's leaving ends that wait."""
        run, stream = self.run, self.stream
        assert run is not None
        if envelope.seq < run.floor:
            run.lose(envelope, len(run.plan.stages), self._trace)
            return
        if envelope.reply is not None:
            run.ledger.completed += 1
            stages = len(run.plan.stages)
            run.end(envelope, "completed", self._trace, stage=stages, value=envelope.value)
            return
        ended = 0 if self._trace is None else perf_counter_ns()
        if stream is None or envelope.seq < stream.first:
            self._store(envelope, run, ended)
            return
        channel = stream.channel
        if not channel.room and not self._wait_for_reader(channel, envelope, stream, run, ended):
            return
        if ended:
            self._record(envelope, ended)
        channel.room -= 1
        run.ledger.streamed += 1  # before the reader, or a sweep, can have it
        channel.items.append(envelope)
        if channel.parked:
            channel.wake()

    def _record(self, envelope: Envelope, ended: int) -> None:
        """Tell the observers that it has been completed."""
        assert self._trace is not None
        self._trace.item((envelope.seq, envelope.sub, envelope.admitted_ns, ended, "completed"))

    def _wait_for_reader(
        self, channel: Channel[Any], envelope: Envelope, stream: Stream, run: Run, ended: int
    ) -> bool:
        """True when there is room now; False when the item has gone elsewhere, since nobody
        reads the stream any more."""
        try:
            while not channel.room:
                channel.room = channel.ask() or 0
        except ChannelClosed:
            if envelope.seq < run.floor or stream.left:
                why = run.reason if envelope.seq < run.floor else "reader left"
                stages = len(run.plan.stages)
                run.ledger.lose(stages, why)
                run.end(envelope, "dropped", self._trace, stage=stages, reason=why)
            else:
                self._store(envelope, run, ended)
            return False
        return True

    def read(self, timeout: float) -> tuple[bool, Any]:
        """The newest result that nobody has read, as ``(True, value)``, else ``(False, None)``.

        Blocks until there is one, at most ``timeout`` seconds; ``release`` ends the wait.

        Raises:
            Exception: it was a handle, whose value cannot be had any more.
        """
        try:
            value = self.slot.pop()
        except IndexError:
            return self._wait(timeout) if timeout > 0 else (False, None)
        return True, taken(value)

    def _wait(self, timeout: float) -> tuple[bool, Any]:
        deadline = monotonic() + timeout
        waiter: Mailbox[None] = Mailbox()
        self.waiters.append(waiter)
        try:
            while True:
                try:
                    value = self.slot.pop()
                except IndexError:
                    left = deadline - monotonic()
                    if self._released or left <= 0:
                        return False, None
                else:
                    return True, taken(value)
                try:
                    waiter.get_within(left)
                except Empty:
                    pass
        finally:
            self.waiters.remove(waiter)

    def tell_waiters(self) -> None:
        """Let every reader that waits look once more. Never blocks."""
        for waiter in list(self.waiters):
            waiter.put(None)

    def release(self) -> None:
        """End all waits in ``read``, now and later."""
        self._released = True
        self.tell_waiters()

    def wake(self) -> None:
        """The run has failed: end all waits of readers, slot and stream."""
        self.release()
        stream = self.stream
        if stream is not None:
            stream.channel.close()

    def put(self, value: Any) -> None:
        """Make this the newest result; one that nobody has read counts as superseded."""
        old = self._take_old()
        self.slot.append(value)
        if self.waiters:
            self.tell_waiters()
        del old  # not before: its destructor may do anything, also bring another result

    def supersede(self) -> None:
        """Nobody will read what is in the slot: it counts as superseded."""
        self._take_old()

    def _take_old(self) -> Any:
        try:
            old = self.slot.popleft()
        except IndexError:
            return None
        if self.run is not None:  # pragma: no branch - only a run brings results
            self.run.ledger.superseded += 1
        release(old)
        return old

    def _store(self, envelope: Envelope, run: Run, ended: int) -> None:
        if ended:
            self._record(envelope, ended)
        run.ledger.completed += 1
        self.put(envelope.value)


def sweep_stream(stream: Stream, run: Run) -> None:
    """Count what the reader of a stream has left behind as dropped."""
    for found in stream.channel.sweep():
        if type(found) is Envelope:
            run.ledger.forfeit()
            run.let_go(found)
    stream.channel.post(CUT)
