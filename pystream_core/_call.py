"""One stage call with its failure policy.

Shared by all executors, so that a failure, a filter or an expired item means the same in
each of them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from time import perf_counter_ns
from typing import Any

from ._coroutines import Call, Outcome, value_of
from ._errors import PyStreamError, StageError, WorkerLost, describe_error, safe_repr
from ._executor import Envelope, Reply, Run
from ._handle import Takes, opened, release, retain
from ._inside import EndedInside
from ._ledger import Counters
from ._lifecycle import Instance
from ._observer import Trace
from ._placement import PlacedStage
from ._plan import Retry
from ._stage import SKIP

logger = logging.getLogger("PyStream")


class CalledBack(BaseException):
    """The run was stopped while a call was waited for. For executors and placements."""


_PASSING = (KeyboardInterrupt, SystemExit, GeneratorExit)  # not failures in the caller's thread
_PASSING_INSIDE = (KeyboardInterrupt,)  # the same where a stage outside stands for the pipeline
_INTERRUPTED_PATIENCE = 0.5  # seconds for a cancelled coroutine to end after Ctrl-C


class Step:
    """What one worker does at one stage. Used by that worker alone.

    Args:
        run: the run it works for.
        index: which stage of the plan.
        instance: the prepared stage instance.
        in_caller: the worker is the caller's own thread, where Ctrl-C and exits pass through.

    Attributes:
        call: process one item: True when ``envelope.value`` is now the stage's output, False
            when the item has ended here. Raises StageError under the policy ``"stop"``. Not
            for generator stages, which have ``expand``.
        expands: the stage is a generator or keeps items, so it has ``expand``.
        batches: it keeps items between its calls, so it has ``flush``.
        waits_at_most: those may wait for a limited time only; ``due_ns`` is its end.
        watched: its calls need clock readings.
        alone: only ``call`` may call it, since items can be too old for it or it has a clock of
            its own.
        stage: the user's callable.
    """

    def __init__(
        self, run: Run, index: int, instance: Instance, trace: Trace | None, *, in_caller: bool
    ) -> None:
        assert instance.stage is not None
        spec = run.plan.stages[index]
        self.run = run
        self.index = index
        self.path = spec.name
        self.instance = instance
        self.counters: Counters = run.ledger.counters(index)
        self.stage = instance.stage
        if instance.kind == "coroutine":
            self.stage = self._await
        self._inside = run.plan.inside
        self._handles = run.handles
        self._takes: Takes = ()
        if isinstance(instance.stage, PlacedStage):
            self._takes = instance.stage.takes
        if run.handles:
            self.stage = partial(_call_opened, self.stage, self._takes)
        self.batches = instance.batching
        self.expands = self.batches or instance.kind == "generator"
        self._outputs: Callable[[Any], Iterable[Any]] = self.stage
        if self.batches and instance.kind != "generator":
            self._outputs = self._none_or_one
        # Of a batching stage:
        self.due_ns = 0  # when to flush, at the latest; 0: nothing waits, or nobody asks
        max_wait = getattr(instance.stage, "max_wait", None) if self.batches else None
        self._max_wait_ns = 0 if max_wait is None else max(1, int(max_wait * 1e9))
        self.waits_at_most = max_wait is not None
        self._held = 0  # items taken in since it last gave something out
        self._fresh = False  # it has taken something in since it was last flushed
        self._oldest_ns = 0  # when the first of the held ones was admitted
        self._last: tuple[int, int] = (-1, 0)  # seq and number of what it gives out
        self._policy = spec.options.on_error
        self._max_age_ns = spec.max_age_ns
        self._trace = trace
        self._passing = (_PASSING_INSIDE if self._inside else _PASSING) if in_caller else ()
        self.watched = trace is not None or self._max_age_ns is not None or run.handles
        self._placed: Any = instance.stage if isinstance(instance.stage, PlacedStage) else None
        self._began = 0  # when the call of a polled stage was submitted
        self.alone = self._max_age_ns is not None or self._placed is not None or run.handles
        self.call: Callable[[Envelope], bool] = (
            self._call_watched if self.watched else self._call_plain
        )

    # -- one item ----------------------------------------------------------------------

    def _call_plain(self, envelope: Envelope) -> bool:
        counters = self.counters
        counters.received += 1
        try:
            value = self.stage(envelope.value)
        except BaseException as error:
            return self.failed(envelope, error)
        if value is SKIP:
            counters.filtered += 1
            self.run.end(envelope, "filtered", None, stage=self.index)
            return False
        envelope.value = value
        counters.emitted += 1
        return True

    def _call_watched(self, envelope: Envelope) -> bool:
        """The same, with clock readings for ``max_age`` and for observers, and for values that
        may be handles."""
        counters, trace = self.counters, self._trace
        counters.received += 1
        start = perf_counter_ns()
        if self._max_age_ns is not None and self._expired(envelope, start):
            return False
        try:
            value = self.stage(envelope.value)
        except BaseException as error:
            start, end = self._times(start, perf_counter_ns())
            self._span(envelope, start, end, "failed")
            return self.failed(envelope, error)
        end = perf_counter_ns()
        if self._placed is not None:
            start, end = self._times(start, end)
        if value is SKIP:
            self._span(envelope, start, end, "filtered")
            counters.filtered += 1
            self.run.end(envelope, "filtered", trace, stage=self.index)
            return False
        if trace is not None:  # as _span() does
            queued, envelope.queued_ns = envelope.queued_ns, end
            trace.span((self.index, envelope.seq, envelope.sub, queued, start, end, "emitted"))
        if self._handles and envelope.value is not value:
            release(envelope.value)
        envelope.value = value
        counters.emitted += 1
        return True

    def expand(self, parent: Envelope) -> Generator[Envelope, None, None]:
        """Process one item of a generator or batching stage: every output, as soon as it is
        made.

        Closing the iterator, or a stop between two outputs, ends the stage's generator; the
        outputs given out so far stay valid.
        """
        counters, run = self.counters, self.run
        counters.received += 1
        start = perf_counter_ns() if run.clocked else 0
        if self._expired(parent, start):
            return
        inside = 0  # nanoseconds in the stage itself, without the waits to hand on
        outputs: Any = None
        ended = False  # the parent has its bin
        if self.batches:
            self._fresh = True  # whatever comes of the call
            if not self._held:
                self._oldest_ns = parent.admitted_ns
        if parent.seq != self._last[0] or not self.batches:
            self._last = (parent.seq, 0)
        made = self._last[1]
        try:
            while True:
                begin = perf_counter_ns() if self._trace else 0
                try:
                    if outputs is None:
                        outputs = iter(self._outputs(parent.value))
                    value = next(outputs)
                except StopIteration as error:
                    if outputs is None:  # the call itself raised it: that is no end
                        self._span(parent, start, perf_counter_ns(), "failed")
                        ended = True
                        if self.failed(parent, error):
                            yield parent
                        return
                    begun, now = self._output_times(begin)
                    start, inside = (start if inside else begun), inside + now - begun
                    ended = True
                    if self.batches:
                        self._span(parent, start, start + inside, "absorbed")
                        self._absorb(parent, gave_out=self._last[1] > made)
                        return
                    self._span(parent, start, start + inside, "expanded")
                    counters.expanded += 1
                    run.end(parent, "expanded", self._trace, stage=self.index)
                    return
                except BaseException as error:
                    begun, now = self._output_times(begin)
                    start, inside = (start if inside else begun), inside + now - begun
                    self._span(parent, start, start + inside, "failed")
                    ended = True
                    if self._last[1] > made:  # nothing from before this item waits any more
                        self._held = self.due_ns = 0
                    if self.failed(parent, error):
                        yield parent
                    return
                begun, now = self._output_times(begin)
                start, inside = (start if inside else begun), inside + now - begun
                if value is not SKIP:
                    if self._handles and value is parent.value:
                        retain(value)  # which then has two owners
                    since = self._oldest_ns if self.batches else parent.admitted_ns
                    child = self._spawn(value, since, now)
                    del value
                    yield child
                    del child
                if parent.seq < run.floor:
                    ended = True
                    self._cut_short(parent, run.reason)
                    return
        except BaseException as error:  # whoever takes the outputs wants no more of them
            if not ended:
                why = "reader left" if isinstance(error, GeneratorExit) else "interrupted"
                self._cut_short(parent, run.reason if parent.seq < run.floor else why)
            raise
        finally:
            self._close_generator(outputs)

    def _cut_short(self, parent: Envelope, reason: str) -> None:
        """It has given something out already, and is asked for no more."""
        if self.batches:
            self._absorb(parent, gave_out=True)
        else:
            self.drop(parent, reason)

    def _spawn(self, value: Any, admitted_ns: int, made_ns: int = 0) -> Envelope:
        seq, number = self._last
        child = Envelope(value, seq, number)
        child.admitted_ns = admitted_ns
        child.queued_ns = made_ns or (perf_counter_ns() if self._trace else 0)
        self._last = (seq, number + 1)
        self.counters.spawned += 1
        self.counters.emitted += 1
        return child

    # -- coroutines --------------------------------------------------------------------

    def _await(self, item: Any) -> Any:
        """Call a coroutine function and wait for what it returns.

        Raises:
            CalledBack: the run was stopped meanwhile; the coroutine has been cancelled and has
                ended.
        """
        run, loop, stage = self.run, self.instance.loop, self.instance.stage
        assert loop is not None
        assert stage is not None
        reply = Reply()
        outcomes: list[Outcome] = []
        left_behind = threading.Event()

        def done(outcome: Outcome) -> None:
            outcomes.append(outcome)  # Ctrl-C may come between taking the reply and keeping it
            reply.settle(None)
            if left_behind.is_set():  # not here, in the thread of the event loop
                name = "pystream-cleanup"
                threading.Thread(target=self.instance.end_call, name=name, daemon=True).start()

        call = loop.call(lambda: stage(item), done)
        try:
            run.replies.add(reply)  # before the look at halted, which a stop sets before it looks
            if run.halted:
                raise CalledBack
            try:
                call.begin()
                reply.wait()
            except BaseException as error:  # a stop, or Ctrl-C
                call.cancel()
                stopped = isinstance(error, PyStreamError)  # and whoever stops bounds the wait
                try:
                    patience = None if stopped else _INTERRUPTED_PATIENCE
                    while True:
                        if outcomes or not reply.wait_answer(patience):
                            break
                finally:  # also when Ctrl-C comes again
                    if not outcomes:
                        self._leave_behind(left_behind, outcomes)
                if stopped:
                    raise CalledBack from None
                raise
        finally:
            run.replies.discard(reply)
        return value_of(outcomes.pop())

    def _leave_behind(self, left_behind: threading.Event, outcomes: list[Outcome]) -> None:
        """A coroutine goes on although it was cancelled: its stage is cleaned up when it ends.

        Why that is not missed: the event is set before the last look at ``outcomes``, and the
        outcome is put there before the look at the event.
        """
        logger.warning(
            "the coroutine of stage %r goes on although it was cancelled, and is left behind",
            self.path,
        )
        self.instance.leave_behind()
        left_behind.set()
        if outcomes:
            self.instance.end_call()

    def begin(self, envelope: Envelope, done: Callable[[Outcome], None]) -> Call | None:
        """Start on an item of a coroutine stage; None when it is too old for that.

        Args:
            done: gets the outcome, for ``finish``, in the event loop's thread; must not block.
        """
        self.counters.received += 1
        if self._max_age_ns is not None and self._expired(envelope, perf_counter_ns()):
            return None
        loop = self.instance.loop
        assert loop is not None
        attempt = partial(self._attempt, envelope.value)
        if self._handles:  # not in the event loop's thread: it may block
            try:
                attempt = partial(self._attempt, opened(envelope.value))
            except Exception as error:
                attempt = partial(_raise, error)
        call = loop.call(attempt, done)
        call.begin()
        return call

    async def _attempt(self, item: Any) -> Any:
        """The coroutine of one item, again and again under the policy ``Retry``."""
        import asyncio

        stage: Any = self.instance.stage
        policy = self._policy
        left = policy.times if isinstance(policy, Retry) else 0
        wait = policy.backoff if isinstance(policy, Retry) else 0.0
        while True:
            try:
                return await stage(item)
            except BaseException:
                if not left or self.run.halted:  # a stop cancels; else it is a failure
                    raise
            left -= 1
            await asyncio.sleep(wait)
            wait = min(wait * 2, threading.TIMEOUT_MAX)

    def finish(self, envelope: Envelope, outcome: Outcome) -> bool:
        """Take the outcome of a coroutine: True when ``envelope.value`` is now its output.

        Raises:
            StageError: it failed, under the policy ``"stop"``.
        """
        start, end = outcome.start_ns, outcome.end_ns
        if envelope.seq < self.run.floor:
            self._span(envelope, start, end, "failed" if outcome.error else "emitted")
            self.drop(envelope, self.run.reason)
            return False
        if outcome.error is not None:
            self._span(envelope, start, end, "failed")
            return self.failed(envelope, outcome.error, retried=True)
        self._span(envelope, start, end, "filtered" if outcome.value is SKIP else "emitted")
        return self.hand_on(envelope, outcome.value)

    # -- polled stages -----------------------------------------------------------------

    def submit(self, envelope: Envelope) -> bool | None:
        """Begin what ``call`` does at a polled stage.

        Returns:
            None: the call is under way; ``conclude`` is to follow when it is done. Else the item
            is through with this stage already, as ``call`` says it.

        Raises:
            StageError: as ``call``.
        """
        self.counters.received += 1
        self._began = perf_counter_ns()
        if self._max_age_ns is not None and self._expired(envelope, self._began):
            return False
        value = envelope.value
        try:
            self._placed.submit(opened(value, self._takes) if self._handles else value)
        except BaseException as error:
            return self._broken_off(envelope, error)
        return None

    def conclude(self, envelope: Envelope) -> bool:
        """Take the outcome of a call that is done; the rest of ``call``."""
        try:
            value = self._placed.result()
        except BaseException as error:
            return self._broken_off(envelope, error)
        if self._trace is not None:
            start, end = self._times(self._began, perf_counter_ns())
            self._span(envelope, start, end, "filtered" if value is SKIP else "emitted")
        return self.hand_on(envelope, value)

    def _broken_off(self, envelope: Envelope, error: BaseException) -> bool:
        start, end = self._times(self._began, perf_counter_ns())
        self._span(envelope, start, end, "failed")
        return self.failed(envelope, error)

    # -- items that wait in the stage --------------------------------------------------

    def _none_or_one(self, item: Any) -> tuple[Any, ...]:
        value = self.stage(item)
        return () if value is SKIP else (value,)

    def _absorb(self, parent: Envelope, *, gave_out: bool) -> None:
        if gave_out:  # and may have kept this one
            self._held = 0
            self._oldest_ns = parent.admitted_ns
        else:
            self._held += 1
        if self._held < 2 and self._max_wait_ns:
            self.due_ns = perf_counter_ns() + self._max_wait_ns
        self.counters.absorbed += 1
        self.run.end(parent, "absorbed", self._trace, stage=self.index)

    def flush(self) -> Generator[Envelope, None, None]:
        """Everything that a batching stage still holds, as soon as it is made.

        Raises:
            StageError: the stage raised, under the policy ``"stop"``.
        """
        if not self._fresh:
            return
        self._fresh = False
        self.due_ns = 0
        stage: Any = self.instance.stage
        outputs: Any = None
        try:
            while True:
                try:
                    if outputs is None:
                        given = stage.flush()
                        outputs = iter(() if given is None else given)
                        del given
                    value = next(outputs)
                except StopIteration as error:
                    if outputs is None:
                        yield from self._flush_failed(error)
                    break
                except BaseException as error:
                    yield from self._flush_failed(error)
                    break
                if value is not SKIP:
                    self._held = 0
                    yield self._spawn(value, self._oldest_ns)
                del value
        finally:
            self._close_generator(outputs)
        self._held = 0  # a stage that has nothing to say about them is done with them

    def _flush_failed(self, error: BaseException) -> Iterator[Envelope]:
        """The items that waited are counted as failed; the policy decides what follows."""
        if isinstance(error, self._passing):
            self.lose_held("interrupted")
            raise error
        held, self._held = self._held, 0
        self.counters.absorbed -= held
        self.counters.failed += held
        failure = StageError(
            f"flush() of stage {self.path!r} raised with {held} item(s) waiting in it: "
            f"{describe_error(error)}",
            path=self.path,
        )
        failure.__cause__ = error
        policy = self._policy
        if callable(policy) and not isinstance(policy, Retry):
            try:
                value = policy(failure)
            except self._passing:
                raise
            except BaseException as another:
                raise self._policy_failed(failure, another) from another
            if value is not SKIP:
                yield self._spawn(value, self._oldest_ns)
        elif policy == "skip":
            self.run.report.note(f"{self.path}: failed, skipped", str(failure))
        else:
            logger.error("%s", failure, exc_info=error)
            raise failure

    def lose_held(self, reason: str) -> None:
        """What waits in a batching stage will not come out any more: a stop without a drain."""
        held, self._held = self._held, 0
        if held:
            self.counters.absorbed -= held
            self.counters.drop(reason, held)

    def _close_generator(self, outputs: Any) -> None:
        """The item has its bin already, so what closing raises is logged only."""
        close = getattr(outputs, "close", None)
        if close is None:
            return
        try:
            close()
        except self._passing:
            raise
        except BaseException as error:
            logger.error(
                "stage %r raised %s when its generator was closed",
                self.path,
                type(error).__name__,
                exc_info=error,
            )

    def discard(self, envelope: Envelope) -> None:
        """Take in an item that was called back, and end it as dropped."""
        self.counters.received += 1
        self.drop(envelope, self.run.reason)

    def drop(self, envelope: Envelope, reason: str) -> None:
        """End an item in this worker's hand as dropped."""
        self.counters.drop(reason)
        self.run.end(envelope, "dropped", self._trace, stage=self.index, reason=reason)

    # -- what can happen to it ---------------------------------------------------------

    def _expired(self, envelope: Envelope, now: int) -> bool:
        if self._max_age_ns is None or now - envelope.admitted_ns <= self._max_age_ns:
            return False
        failure = EndedInside("", path=self.path, settled="max_age") if self._inside else None
        self._end_expired(envelope, self.path, failure)
        return True

    def _end_expired(self, envelope: Envelope, path: str, failure: StageError | None) -> None:
        self.counters.expired += 1
        self.run.report.note(f"{path}: expired (older than max_age)")
        self.run.end(envelope, "expired", self._trace, stage=self.index, failure=failure)

    def _times(self, start: int, end: int) -> tuple[int, int]:
        """When a call that the worker has made from start to end really began and ended."""
        begun, ended = (0, 0) if self._placed is None else self._placed.span_ns
        # Readings from before belong to an earlier call: this one has not been answered.
        return (begun, ended) if start <= begun <= ended <= end else (start, end)

    def _output_times(self, begin: int) -> tuple[int, int]:
        """When the making of an output that the worker has asked for then began and ended; zeros
        when nobody observes."""
        return (0, 0) if self._trace is None else self._times(begin, perf_counter_ns())

    def _span(self, envelope: Envelope, start: int, end: int, outcome: str) -> None:
        trace = self._trace
        if trace is not None:
            trace.span(
                (
                    self.index,
                    envelope.seq,
                    envelope.sub,
                    envelope.queued_ns,
                    start,
                    end,
                    outcome,
                )
            )
        envelope.queued_ns = end

    def failed(self, envelope: Envelope, error: BaseException, *, retried: bool = False) -> bool:
        """Apply the failure policy. True: ``envelope.value`` is a replacement to hand on.

        Args:
            retried: what the policy says about further calls has been done.
        """
        if isinstance(error, CalledBack):
            self.drop(envelope, self.run.reason)
            return False
        raised: BaseException | None = error
        if isinstance(error, EndedInside):
            if error.settled:
                return self._settled_inside(envelope, error)
            raised = error.__cause__
        if isinstance(raised, self._passing):
            self._interrupted(envelope, raised)
            raise raised
        policy = self._policy
        if isinstance(policy, Retry):
            if not retried:
                result = self._retry(policy, envelope)
                if isinstance(result, bool):
                    return result
                error = result or error
            policy = policy.then
        if isinstance(error, WorkerLost) and error.final:
            policy = "stop"
        failure = self._failure(envelope, error)
        if callable(policy):
            return self._ask(policy, envelope, failure)
        if policy == "skip":
            self._skip(envelope, failure)
            return False
        self._count_failed(envelope, failure)
        if not self._inside:  # else whoever is told outside decides about it
            logger.error("%s", failure, exc_info=failure.__cause__)
        try:
            raise failure
        finally:
            del failure, error, raised  # else this frame and the exception hold each other

    def _skip(self, envelope: Envelope, failure: StageError) -> None:
        if isinstance(failure, EndedInside):
            failure.settled = "skip"
        self._count_failed(envelope, failure)
        self.run.report.note(f"{failure.path}: failed, skipped", str(failure))

    def _settled_inside(self, envelope: Envelope, error: EndedInside) -> bool:
        """This stage stands for a whole pipeline: one inside it has had the say."""
        if error.settled == "max_age":
            self._end_expired(envelope, error.path, None)
            return False
        failure = self._failure(envelope, error)
        if error.settled == "skip":
            self._skip(envelope, failure)
        else:
            self._count_failed(envelope, failure)
        return False

    def _interrupted(self, envelope: Envelope, error: BaseException) -> None:
        """Ctrl-C or an exit in the caller's thread, which passes through."""
        if not self._inside:
            logger.error(
                "%s while stage %r worked on item %d: %s",
                type(error).__name__,
                self.path,
                envelope.seq,
                safe_repr(self.run.shown(envelope)),
            )
        self.drop(envelope, "interrupted")

    def _retry(self, policy: Retry, envelope: Envelope) -> bool | BaseException | None:
        """Call again; what came of it, or the last error when nothing did."""
        error: BaseException | None = None
        for attempt in range(policy.times):
            wait = policy.backoff * 2.0 ** min(attempt, 64)  # no number grows without end
            alive = self.run.pause(wait) if wait else envelope.seq >= self.run.floor
            if not alive:
                self.drop(envelope, self.run.reason)
                return False
            start = perf_counter_ns()
            try:
                value = self.stage(envelope.value)
            except self._passing as passing:
                self._interrupted(envelope, passing)
                raise
            except CalledBack:
                self.drop(envelope, self.run.reason)
                return False
            except BaseException as again:
                settled = isinstance(again, EndedInside) and again.settled
                outcome = "failed" if settled else "retried"
                self._span(envelope, *self._times(start, perf_counter_ns()), outcome)
                if settled:
                    return self.failed(envelope, again)
                error = again
                continue
            outcome = "filtered" if value is SKIP else "emitted"
            self._span(envelope, *self._times(start, perf_counter_ns()), outcome)
            return self.hand_on(envelope, value)
        return error

    def _ask(
        self, policy: Callable[[StageError], Any], envelope: Envelope, failure: StageError
    ) -> bool:
        """Let the user's callable decide: a replacement, SKIP, or a failure of its own."""
        asked = failure
        if isinstance(failure, EndedInside):  # which would leave its item behind
            asked = failure.outside(failure.seq, failure.item)
        try:
            value = policy(asked)
        except self._passing as passing:
            self._interrupted(envelope, passing)
            raise
        except BaseException as error:
            second = self._policy_failed(failure, error)
            self._count_failed(envelope, second)
            raise second from error
        if value is SKIP:
            if isinstance(failure, EndedInside):
                failure.settled = "on_error"
            self._count_failed(envelope, failure)
            return False
        return self.hand_on(envelope, value)

    def _policy_failed(self, failure: StageError, error: BaseException) -> StageError:
        """What is raised, and has been logged, when the user's callable raises itself."""
        second = failure.again(
            f"on_error of stage {self.path!r} raised {describe_error(error)} while it handled: "
        )
        if not self._inside:
            logger.error("%s", second, exc_info=error)
        return second

    def hand_on(self, envelope: Envelope, value: Any) -> bool:
        """Put what a call returned into its item's envelope; False when ``SKIP`` ended it."""
        if value is SKIP:
            self.counters.filtered += 1
            self.run.end(envelope, "filtered", self._trace, stage=self.index)
            return False
        if self._handles and envelope.value is not value:
            release(envelope.value)
        envelope.value = value
        self.counters.emitted += 1
        return True

    def _failure(self, envelope: Envelope, error: BaseException) -> StageError:
        seq, item = envelope.seq, self.run.shown(envelope)
        if isinstance(error, EndedInside):  # the one inside is to be named
            return error.outside(seq, item)
        before = f"stage {self.path!r} raised on item "
        after = f" ({safe_repr(item)}): {describe_error(error)}"
        failure: StageError
        if self._inside:
            failure = EndedInside(before, after, path=self.path, seq=seq, item=item)
        else:
            failure = StageError(f"{before}{seq}{after}", path=self.path, seq=seq, item=item)
        failure.__cause__ = error
        return failure

    def _count_failed(self, envelope: Envelope, failure: StageError) -> None:
        self.counters.failed += 1
        self.run.end(envelope, "failed", self._trace, stage=self.index, failure=failure)


def _call_opened(stage: Callable[[Any], Any], takes: Takes, item: Any) -> Any:
    """Call a stage with what it gets in place of a handle."""
    return stage(opened(item, takes))


async def _raise(error: Exception) -> Any:
    raise error
