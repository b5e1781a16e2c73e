"""What ``stream()`` gives to its reader, fed by a thread or worked off in the reader's own."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import filterfalse
from operator import attrgetter, methodcaller
from time import perf_counter_ns
from typing import Any, TypeVar

from ._errors import PipelineBusy
from ._executor import Envelope, Executor, Run
from ._handle import taken
from ._input import Feeder, close_source
from ._output import CUT, Output, Stream, StreamEnd, sweep_stream

logger = logging.getLogger("PyStream")

Out = TypeVar("Out", covariant=True)

_FORGOTTEN = 0.5  # seconds that letting a stream go waits at most
_UNDER_WAY = 0.4  # seconds of them for the calls under way
_PROMPT = 0.05  # seconds that a closing reader waits for the feeder to see it
_NOTHING: Any = object()


class FedResults:
    """The results of an executor with threads: a feeder admits, the output delivers.

    Used by one reader at a time; ``cut`` and ``forfeit`` by whoever closes the session, which
    holds this object while the stream is open. It does not know the reader's grip, so that
    one can be forgotten.

    Args:
        executor, run, output: of the session.
        source: what to admit.
        origin: what the user gave as the source; closed when it blocks while it should stop.
        patience: seconds to wait for running calls when the reader leaves.
        check: raises when the session has ended.
        on_end: called once, when the stream is over.
    """

    def __init__(
        self,
        executor: Executor,
        run: Run,
        output: Output,
        source: Iterable[Any],
        *,
        patience: float,
        check: Callable[[], None],
        on_end: Callable[[FedResults], None],
        origin: object = None,
    ) -> None:
        self._executor = executor
        self._run = run
        self._output = output
        self._patience = patience
        self._check = check
        self._on_end = on_end
        self._ended = False
        self._cut = False
        self._last: StreamEnd | None = None  # what its source has ended with
        self._stream = Stream(run.ledger.admitted)
        output.stream = self._stream
        self.feeder = Feeder(source, executor, self._stream, origin=origin)
        self.feeder.start()

    def read(self, grip: Grip) -> Generator[Any, None, None]:
        """The results, for the one reader. Each step blocks until there is one or the stream
        ends. The reader takes the next step when it is done with the result before, so the
        time between two steps is its cycle.

        Like a worker's loop it makes no call of ours for a result that is there.

        Args:
            grip: lets the stream go when nobody has this generator any more.
        """
        channel = self._stream.channel
        self._stream.end_again()
        if self._cut:
            channel.post(CUT)
        items, wait, release = channel.items, channel.wait, channel.release
        spare = self._run.spares.append if self._run.linear else None
        opens = self._run.handles
        value: Any = _NOTHING
        owed = lot = 0  # credits not given back yet, and how many they may become
        began = 0  # when the first of the results that are timed together was taken
        left = timed = 1  # results until the clock is read; what it was when they began
        found: Any = None
        try:
            if self._last is not None and not self._ended:
                self._end(self._last)
            while True:
                if self._ended:
                    break
                # Taken, and given to the reader, without a call: Ctrl-C comes at the ends of those.
                # (A closer takes from the other end; what he has taken is not there to be deleted.)
                try:
                    found = items[0]
                    del items[0]
                except IndexError:
                    found = None
                    if owed:
                        release(owed)
                        left -= owed
                        owed = 0
                    began = 0  # waiting for a result is no work
                    wait()
                    continue
                if type(found) is not Envelope:
                    self._end(found)
                    break
                if not began:
                    began = perf_counter_ns()
                    timed = left = max(left, 1)
                owed += 1
                if owed > lot:
                    release(owed)
                    left -= owed
                    owed = 0
                if opens:
                    found.value = self._value_of(found)
                value = found.value
                if spare is not None:
                    found.value, found.sub = None, 0
                    spare(found)
                found = None
                yield (value, value := _NOTHING)[0]  # which leaves it to the reader alone
                if left <= 0:
                    left = channel.resize((perf_counter_ns() - began) // (timed - left))
                    lot = channel.lot
                    began = 0
        except BaseException:
            # Ctrl-C may have come, and the reader come back: what he has not got is put back.
            if value is not _NOTHING:
                found = Envelope(value)
            if type(found) is Envelope and not self._ended:
                channel.items.appendleft(found)
                owed = max(owed - 1, 0)
            raise
        finally:
            if owed:
                release(owed)
        # Until here, and after an exception as long as its traceback: letting the stream go
        # waits a little, which Ctrl-C should not.
        del grip

    def _value_of(self, found: Envelope) -> Any:
        """A result that may be a handle; the stream ends when its value cannot be had any more."""
        try:
            return taken(found.value)
        except BaseException as error:
            if not isinstance(error, Exception):  # Ctrl-C: nobody is told what became of this one
                self._run.ledger.forfeit()
            self.close()
            raise

    def _end(self, found: StreamEnd) -> None:
        """Raises what the reader is to be told."""
        if found is CUT:
            self._stream.channel.post(CUT)
        else:
            self._last = found
        self._finish()
        if found.error is not None:
            raise found.error
        self._check()

    def close(self, *, patience: float | None = None) -> None:
        """The reader leaves: call back what is in flight and stop the feeder.

        Waits for the calls under way, at most ``patience`` seconds.
        """
        patience = self._patience if patience is None else patience
        if self._ended:
            return
        run = self._run
        self.feeder.request_stop()
        self.feeder.interrupt()
        run.call_back(run.ledger.admitted, "reader left")
        self._stream.left = True
        self._stream.channel.close()
        quiet = self._executor.drain(patience)
        self.feeder.thread.join(_PROMPT)
        run.call_back(run.ledger.admitted, "reader left")  # what it admitted meanwhile
        if self.feeder.thread.is_alive():
            where = "its source" if self.feeder.in_source else "a full pipeline"
            logger.warning("the feeder of a closed stream is left behind, blocked in %s", where)
        if not quiet and not run.halted:
            logger.warning(
                "a stream was closed while a stage had an item for more than %g s", patience
            )
        self._finish()

    def forget(self) -> None:
        """Nobody can read any more: leave, and wait at most 0.5 s for that.

        A helper does it. A destructor runs in any thread, between any two of its steps: also
        in one that holds a lock which closing takes.
        """
        if self._ended or sys.is_finalizing():
            return
        self.feeder.request_stop()
        helper = threading.Thread(
            target=self.close,
            kwargs={"patience": _UNDER_WAY},
            name="pystream-forgotten",
            daemon=True,
        )
        try:
            helper.start()
        except RuntimeError:  # the interpreter is too far down for new threads
            return
        helper.join(_FORGOTTEN)

    def cut(self) -> None:
        """The session ends: what is delivered can still be read, then the reader is told."""
        self._cut = True
        self.feeder.request_stop()
        self.feeder.interrupt()
        self._stream.channel.close()

    def forfeit(self) -> None:
        """The session is closed: what has not been read by now counts as dropped."""
        sweep_stream(self._stream, self._run)

    def _finish(self) -> None:
        self._output.stream = None
        sweep_stream(self._stream, self._run)
        if self._stream.left or not (self._cut or self._run.halted):
            self._on_end(self)
        # else a worker may be about to send its last result: forfeit() sweeps again
        self._ended = True  # now: Ctrl-C may have come, and it is done again


def close_unless_running(steps: Any) -> bool:
    """Close a generator, unless it runs in another thread; whether it is closed.

    Looking and closing is one step in C, which lets no other thread in between: closing one that
    runs is not always refused but may crash the interpreter (CPython 3.11 and 3.12, where it may
    take an entry of an inline cache for the instruction of a ``yield from``).
    """
    idle = filterfalse(attrgetter("gi_running"), (steps,))
    return bool(list(map(methodcaller("close"), idle)))


def own_results(
    results: Iterator[Any],
    source: Iterable[Any],
    on_start: Callable[[Any], None],
    on_end: Callable[[], None],
    was_cut: Callable[[], bool],
    check: Callable[[], None],
    keep_alive: object,
) -> Generator[Any, None, None]:
    """The results of an executor that works in the reader's thread.

    A generator, so that a loop over it costs no call per item of ours. It is open from its
    first step on; leaving it to garbage collection closes it.

    Whoever closes the session closes ``results``, never this generator, and only while nobody
    runs it: else its reader, in another thread, sees the stop by itself. A reader who takes a
    step while ``results`` is being closed gets an error, which is caught here.

    Args:
        results: of ``Executor.iterate``.
        source: closed when the reader leaves early.
        on_start: claims the stream, raises when another one is open.
        on_end: gives the claim back, if there is one.
        was_cut: whether the closer has closed ``results``.
        check: raises when the session has ended.
        keep_alive: the pipeline, which is not to be collected while its stream is read.
    """
    try:
        on_start(results)
        yield from results
    except GeneratorExit:
        close_source(source)
        raise
    except ValueError:
        if not was_cut():
            raise
    finally:
        on_end()
    del keep_alive  # until here
    if was_cut():
        check()


class Grip:
    """Whoever can read a stream that is fed by a thread has this; when nobody has, it lets the
    stream go. It also keeps the pipeline alive."""

    __slots__ = ("_fed", "_keep_alive")

    def __init__(self, fed: FedResults, keep_alive: object) -> None:
        self._fed = fed
        self._keep_alive = keep_alive

    def __del__(self) -> None:
        self._fed.forget()


class ResultStream(Iterator[Out]):
    """Every result of a source, in order, with backpressure up to the source.

    One reader at a time. ``close`` (also by leaving it to garbage collection, or ``with``)
    stops early: the source is closed, what is in flight is dropped and counted as
    ``reader left``, and the pipeline can be used again. Leaving it to garbage collection waits
    at most 0.5 s for the calls under way. An open stream keeps its pipeline alive.
    """

    def __init__(
        self, results: FedResults | Generator[Any, None, None], keep_alive: object
    ) -> None:
        self._keep_alive = keep_alive
        if isinstance(results, FedResults):
            self._fed: FedResults | None = results
            self._grip: Grip | None = Grip(results, keep_alive)
            self._steps = results.read(self._grip)
        else:
            self._fed = self._grip = None
            self._steps = results

    def __iter__(self) -> Iterator[Out]:
        """The results themselves, so that a loop over them costs no call of ours per item."""
        fed, grip = self._fed, self._grip
        if fed is not None and grip is not None and getattr(self._steps, "gi_frame", self) is None:
            self._steps = fed.read(grip)  # Ctrl-C has ended it; what came since is still there
        return self._steps

    def __next__(self) -> Out:
        """The next result; blocks until there is one or everything has ended.

        Raises:
            StageError: a stage failed under ``"stop"``; results that were at the output
                already came before.
            PipelineTerminated: the pipeline was stopped meanwhile.
            Exception: whatever the source raised, after the results of all items before.
        """
        return next(iter(self))

    def __enter__(self) -> ResultStream[Out]:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is KeyboardInterrupt and self._fed is not None:
            self._fed.close(patience=_PROMPT)  # Ctrl-C does not wait for a stuck stage
        else:
            self.close()

    def close(self) -> None:
        """Stop early. Waits for the calls under way, at most ``stuck_timeout`` seconds; a
        source that blocks is left behind and named."""
        if self._fed is not None:
            self._fed.close()
        elif not close_unless_running(self._steps):
            raise PipelineBusy(
                "the stream is being read by another thread: close it there, or stop the pipeline"
            )
