"""The end of the line: a one-slot store of the newest result, or a stream that wants them all."""

from __future__ import annotations

import threading
from time import perf_counter_ns
from typing import Any

from ._channel import Channel, ChannelClosed
from ._executor import Envelope, Run
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
        self.channel: Channel[Envelope] = Channel("auto", closing=CUT)

    def end(self, error: BaseException | None) -> None:
        """Put the end behind everything that has been delivered so far."""
        self.channel.post(StreamEnd(error))


class Output:
    """Where finished items arrive. It exists from the choice of a mode on, before any run.

    Who touches what: the slot and ``released`` are guarded by the condition's lock, which is
    held for a few instructions; ``deliver`` is called by one thread at a time; ``stream`` is
    set and cleared by the session, and read once per item.
    """

    def __init__(self) -> None:
        self.run: Run | None = None
        self.stream: Stream | None = None
        self._trace: Trace | None = None
        self._filled = threading.Condition(threading.Lock())
        self._full = False
        self._value: Any = None
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
        if self._trace is not None:
            ended = perf_counter_ns()
            self._trace.item((envelope.seq, envelope.sub, envelope.admitted_ns, ended, "completed"))
        if stream is None or envelope.seq < stream.first:
            self._store(envelope, run)
            return
        channel = stream.channel
        if not channel.room and not self._wait_for_reader(channel, envelope, stream, run):
            return
        channel.room -= 1
        run.ledger.streamed += 1  # before the reader, or a sweep, can have it
        channel.items.append(envelope)
        if channel.parked:
            channel.wake()

    def _wait_for_reader(
        self, channel: Channel[Any], envelope: Envelope, stream: Stream, run: Run
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
                run.end(envelope, "dropped", None, stage=stages, reason=why)
            else:
                self._store(envelope, run)
            return False
        return True

    def read(self, timeout: float) -> tuple[bool, Any]:
        """The newest result that nobody has read, as ``(True, value)``, else ``(False, None)``.

        Blocks until there is one, at most ``timeout`` seconds; ``release`` ends the wait.
        """
        with self._filled:
            if timeout > 0 and not self._full and not self._released:
                self._filled.wait_for(
                    lambda: self._full or self._released, min(timeout, threading.TIMEOUT_MAX)
                )
            if not self._full:
                return False, None
            value, self._value, self._full = self._value, None, False
            return True, value

    def release(self) -> None:
        """End all waits in ``read``, now and later."""
        with self._filled:
            self._released = True
            self._filled.notify_all()

    def wake(self) -> None:
        """The run has failed: end all waits of readers, slot and stream."""
        self.release()
        stream = self.stream
        if stream is not None:
            stream.channel.close()

    def replace_locks(self) -> None:
        """In a forked child, where the lock may be held by a thread that is gone."""
        self._filled = threading.Condition(threading.Lock())

    def supersede(self) -> None:
        """Nobody will read the slot any more: what is in it counts as superseded."""
        with self._filled:
            if self._full and self.run is not None:
                self.run.ledger.superseded += 1
            old, self._value, self._full = self._value, None, False
        del old  # let go outside of the lock: its destructor may do anything

    def _store(self, envelope: Envelope, run: Run) -> None:
        with self._filled:
            run.ledger.completed += 1
            if self._full:
                run.ledger.superseded += 1
            old, self._value, self._full = self._value, envelope.value, True
            self._filled.notify()
        del old  # let go outside of the lock: its destructor may do anything


def sweep_stream(stream: Stream, run: Run) -> None:
    """Count what the reader of a stream has left behind as dropped."""
    for found in stream.channel.sweep():
        if type(found) is Envelope:
            run.ledger.forfeit()
    stream.channel.post(CUT)
