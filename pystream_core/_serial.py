"""The reference executor: one item at a time, in the thread of whoever brings it."""

from __future__ import annotations

import logging
import threading
from _thread import get_ident
from collections.abc import Callable, Generator, Iterable, Iterator
from operator import length_hint
from queue import Empty
from time import perf_counter_ns
from typing import Any, TypeAlias

from ._call import Step
from ._chain import Chain, cleanup_all
from ._channel import Baton, ChannelClosed
from ._coroutines import EventLoop
from ._errors import CleanupError, PipelineBusy, StageError, describe_error
from ._executor import Envelope, Executor, Push, Run
from ._handle import taken
from ._lifecycle import Instance
from ._observer import Trace
from ._stage import SKIP, Stage
from .hookspecs import ExecutorSpec, hookimpl

logger = logging.getLogger("PyStream")

_Stages: TypeAlias = "tuple[Callable[[Any], Any], ...]"
_Bring: TypeAlias = "Callable[[Any, int], tuple[Any, bool, BaseException | None, list[int]]]"

_IN_SOURCE = -1  # where a chain is while the source of a stream makes its next item

_JOIN_PATIENCE = 1.0  # seconds for a timer that has been cancelled to be gone


class SerialExecutor(Executor):
    """Runs all stages back to back in the caller's thread, one item at a time."""

    # _turn is held by the one thread that processes an item; it guards the chain and
    # everything in it. A thread that waits for it is sent away by shut() and abort().

    name = "serial"

    _run: Run
    _chain: Chain
    _loops: set[EventLoop]  # of its coroutine stages

    def __init__(self) -> None:
        self._turn = Baton()
        self._instances: list[Instance] = []
        self._started = False
        self._orphaned = False  # the closer gave up on a call: who makes it cleans up
        self._keep = False
        # What is left of the plain stages for the item in hand. One store tells where it is.
        self._steps: Iterator[Any] | None = None

    def start(self, run: Run) -> None:
        self._run = run
        for spec, kept in zip(run.plan.stages, run.instances, strict=True):
            instance = kept.of_worker(0)
            try:
                instance.prepare(spec, run.event_loop, lambda: run.halted)
            except BaseException:  # also Ctrl-C: nothing stays set up
                cleanup_all(self._instances)
                raise
            self._instances.append(instance)
        trace = run.trace()
        self._trace = trace
        self._chain = Chain(
            run,
            [
                Step(run, index, instance, trace, in_caller=True)
                for index, instance in enumerate(self._instances)
            ],
            trace,
        )
        self._loops = {one.loop for one in self._instances if one.loop is not None}
        self._joins = run.plan.graph.gathered(run.plan.graph.output) is not None
        self._started = True

    def admit(self, envelope: Envelope, timeout: float | None) -> bool:
        run, turn, me = self._run, self._turn, get_ident()
        self._refuse_nested()
        try:
            if not self._take_turn(timeout):
                return False
            if self._chain.timed:
                self._flush(overdue=True)
            if not run.accept(envelope):
                return False
            self._bring_out(self._outputs(envelope))
        except StageError:
            if envelope.reply is None or run.plan.inside:
                raise
            # else the caller finds the failure in the reply
        except BaseException as error:
            self._mend(error)
            raise
        finally:
            if turn.owner == me:  # see Baton for why there is no call for that
                turn.owner = None
                turn.tokens.post(None)
                if turn.closed or turn.tokens.sleepers:
                    self._tell()
        return True

    def pusher(self) -> Push | None:
        """For functions that nobody times: a bare loop between taking the turn and storing the
        result, and no call of ours. (``forward`` and ``get_results`` of five trivial stages: a
        fifth of the time that it took with an envelope and a call for each step.)"""
        stages = self._chain.plain
        if stages is None:
            return None
        run, chain, turn, output = self._run, self._chain, self._turn, self._run.output
        ledger, slot, waiters = run.ledger, output.slot, output.waiters
        bring = None if self._trace is None else self._recording(stages, self._trace)
        take, give = turn.tokens.get_nowait, turn.tokens.post
        sleepers = turn.tokens.sleepers

        def push(item: Any, wanted: Callable[[], bool] | None = None) -> bool | None:
            me = get_ident()
            mine = False
            try:
                try:
                    token = take()
                    if token is None:
                        turn.owner = me
                        mine = True
                except Empty:  # somebody has the turn, perhaps this very thread
                    return None
                except BaseException:
                    turn.mend()
                    raise
                if token is not None:  # closed
                    give(token)
                    if sleepers:
                        turn.tokens.wake()
                    return None
                if run.halted or turn.closed:
                    return None
                if wanted is not None and not wanted():
                    return False
                seq = ledger.admitted
                ledger.admitted = seq + 1
                raised: BaseException | None = None
                through = False
                if bring is not None:
                    item, through, raised, times = bring(item, seq)
                else:
                    self._steps = steps = iter(stages)
                    try:
                        for stage in steps:
                            item = stage(item)
                            if item is not SKIP and not run.halted:
                                continue
                            break
                        else:
                            through = True
                    except BaseException as error:
                        raised = error
                if through:
                    ledger.passed += 1
                    if slot:
                        output.put(item)
                    else:
                        slot.append(item)
                        if waiters:
                            output.tell_waiters()
                    return True
                envelope = Envelope(item, seq)
                if bring is not None:
                    envelope.admitted_ns, envelope.queued_ns = times[0], times[-1]
                del item
                try:
                    self._bring_out(chain.after(self._passed_to(), envelope, raised))
                finally:
                    del raised  # else this frame and the exception hold each other
                return True
            except BaseException as error:
                if mine:
                    self._mend(error)
                raise
            finally:
                if mine:  # see Baton for why there is no call for that
                    self._steps = None
                    turn.owner = None
                    give(None)
                    if turn.closed or sleepers:
                        self._tell()

        return push

    def iterate(self, source: Iterable[Any]) -> Iterator[Any]:
        """Every result, lazily, in the caller's thread."""
        stages, trace = self._chain.plain, self._trace
        if stages is None:
            return self._iterate_any(source)
        if trace is not None:
            return self._iterate_recorded(source, stages, trace)
        return self._iterate_plain(source, stages)

    def _iterate_any(self, source: Iterable[Any]) -> Iterator[Any]:
        turn, me = self._turn, get_ident()
        self._refuse_nested()
        try:
            self._take_turn(None)
            self._chain.position = _IN_SOURCE
            try:
                for item in source:
                    if turn.closed:
                        raise self._run.refusal()
                    if self._chain.timed:
                        yield from self._complete(self._flushed(overdue=True))
                    envelope = Envelope(item)
                    del item
                    self._run.accept(envelope)
                    self._chain.position = 0
                    yield from self._complete(self._outputs(envelope))
                    self._chain.position = _IN_SOURCE
                if self._chain.batches:
                    yield from self._complete(self._flushed())
            except BaseException as error:
                if self._chain.batches:  # what waits belongs to this stream, not to the next one
                    left = isinstance(error, GeneratorExit)
                    self._forget_held("reader left" if left else "interrupted")
                raise
        except BaseException as error:
            self._mend(error)
            raise
        finally:
            if turn.owner == me:  # see Baton for why there is no call for that
                self._steps = None
                self._chain.position = 0
                turn.owner = None
                turn.tokens.post(None)
                if turn.closed or turn.tokens.sleepers:
                    self._tell()

    def _forget_held(self, reason: str) -> None:
        run = self._run
        run.call_back(run.ledger.admitted, reason)
        try:
            for output in self._flushed():
                run.lose(output, len(run.plan.stages), self._trace)
        except BaseException as error:
            logger.error("flush at the early end of a stream: %s", describe_error(error))

    def _flush(self, *, overdue: bool = False) -> None:
        for finished in self._flushed(overdue=overdue):
            self._run.output(finished)

    def _flushed(self, *, overdue: bool = False) -> Iterable[Envelope]:
        outputs = self._chain.flush(overdue=overdue)
        return self._joined(outputs) if self._joins else outputs

    def _iterate_plain(self, source: Iterable[Any], stages: _Stages) -> Iterator[Any]:
        """For functions that nobody times: a bare loop, and one counter for the items
        that come through without an event. (Five trivial stages: about twice the bare loop's
        time, see docs/performance.md; with an envelope and a call for each stage it was nine
        times.)"""
        run, chain = self._run, self._chain
        ledger, turn, me = run.ledger, self._turn, get_ident()
        self._refuse_nested()
        try:
            self._take_turn(None)
            self._chain.position = _IN_SOURCE
            for value in source:
                if run.halted or turn.closed:
                    raise run.refusal()
                seq = ledger.admitted
                ledger.admitted = seq + 1
                raised: BaseException | None = None
                through = False
                self._steps = steps = iter(stages)
                try:
                    for stage in steps:
                        value = stage(value)
                        if value is not SKIP and not run.halted:
                            continue
                        break
                    else:
                        through = True
                except BaseException as error:
                    raised = error
                if through:
                    ledger.passed += 1
                    self._steps = None
                    yield value
                    del value
                    continue
                envelope = Envelope(value, seq)
                del value
                outputs = chain.after(self._passed_to(), envelope, raised)
                yield from self._complete(outputs)
                chain.position = _IN_SOURCE
        except BaseException as error:
            self._mend(error)
            raise
        finally:
            if turn.owner == me:  # see Baton for why there is no call for that
                self._steps = None
                self._chain.position = 0
                turn.owner = None
                turn.tokens.post(None)
                if turn.closed or turn.tokens.sleepers:
                    self._tell()

    def _iterate_recorded(
        self, source: Iterable[Any], stages: _Stages, trace: Trace
    ) -> Iterator[Any]:
        """The same with an observer."""
        run, chain = self._run, self._chain
        ledger, turn, me = run.ledger, self._turn, get_ident()
        bring = self._recording(stages, trace)
        self._refuse_nested()
        try:
            self._take_turn(None)
            self._chain.position = _IN_SOURCE
            for value in source:
                if run.halted or turn.closed:
                    raise run.refusal()
                seq = ledger.admitted
                ledger.admitted = seq + 1
                value, through, raised, times = bring(value, seq)
                if through:
                    ledger.passed += 1
                    self._steps = None
                    yield value
                    del value
                    continue
                envelope = Envelope(value, seq)
                envelope.admitted_ns, envelope.queued_ns = times[0], times[-1]
                del value
                outputs = chain.after(self._passed_to(), envelope, raised)
                yield from self._complete(outputs)
                chain.position = _IN_SOURCE
        except BaseException as error:
            self._mend(error)
            raise
        finally:
            if turn.owner == me:  # see Baton for why there is no call for that
                self._steps = None
                self._chain.position = 0
                turn.owner = None
                turn.tokens.post(None)
                if turn.closed or turn.tokens.sleepers:
                    self._tell()

    def _recording(self, stages: _Stages, trace: Trace) -> _Bring:
        """What brings one item through plain stages and records that: one clock reading for each
        stage and one more, since between two calls nothing waits here."""
        run = self._run

        def bring(value: Any, seq: int) -> tuple[Any, bool, BaseException | None, list[int]]:
            """The item, whether it simply passed, else what was raised, and when the first call
            began and each one ended."""
            times = [perf_counter_ns()]
            note = times.append
            raised: BaseException | None = None
            through = False
            outcome = "emitted"
            self._steps = steps = iter(stages)
            try:
                for stage in steps:
                    value = stage(value)
                    note(perf_counter_ns())
                    if value is not SKIP and not run.halted:
                        continue
                    outcome = "filtered" if value is SKIP else "emitted"
                    break
                else:
                    through = True
            except BaseException as error:
                note(perf_counter_ns())
                outcome = "failed"
                raised = error
            trace.calls(seq, times, outcome, completed=through)
            return value, through, raised, times

        return bring

    def _passed_to(self) -> int:
        """Where the item is that the loop over plain stages has in hand; that loop is over."""
        position = self._where()
        self._steps = None
        self._chain.position = position
        return position

    def _where(self) -> int:
        """Position of the stage that works."""
        steps = self._steps
        if steps is None:
            return self._chain.position
        return max(len(self._instances) - 1 - length_hint(steps), 0)

    def _complete(self, outputs: Iterable[Envelope]) -> Iterator[Any]:
        run = self._run
        try:
            for finished in outputs:
                if finished.seq < run.floor:
                    run.lose(finished, len(run.plan.stages), self._trace)
                    continue
                value = finished.value
                run.ledger.completed += 1
                stages = len(run.plan.stages)
                run.end(finished, "completed", self._trace, stage=stages, value=value)
                if run.handles:
                    value = taken(value)
                yield value
                del value
        except BaseException as error:
            _close(outputs, error)
            raise
        if run.halted:
            raise run.refusal()

    def _bring_out(self, outputs: Iterable[Envelope]) -> None:
        """Hand everything that comes of an item to the output."""
        take = self._run.output
        try:
            for finished in outputs:
                take(finished)
        except BaseException as error:
            _close(outputs, error)
            raise

    def _mend(self, error: BaseException) -> None:
        """Ctrl-C, or what else a signal handler raises, may have come where an item was in no
        bin yet. With the turn in hand nothing else is under way."""
        usual = isinstance(error, (GeneratorExit, StageError))
        if self._run.linear and self._turn.mine() and not usual:
            self._run.ledger.mend("interrupted")

    def drain(self, timeout: float | None) -> bool:
        try:
            if not self._turn.acquire(timeout):
                return False
        except ChannelClosed:  # by the closer, which then has the stages for itself
            free = self._turn.wait_free(threading.TIMEOUT_MAX if timeout is None else timeout)
            if free and not self._run.halted:
                self._flush()
            return free
        try:
            self._flush()
        finally:
            self._turn.release()
            self._clean_up_orphans()
        return True

    def shut(self) -> None:
        self._turn.close()

    def abort(self, reason: str) -> None:
        if self._started:
            self._run.halt(reason)
        self._turn.close()

    def working(self) -> bool:
        return self._turn.mine()

    def close(self, timeout: float, *, keep: bool = False) -> tuple[str, ...]:
        self._turn.close()
        left: tuple[str, ...] = ()
        instances = list(self._instances)
        if not self._turn.wait_free(timeout):
            self._keep = keep
            self._orphaned = True
            position = self._where()
            if position == _IN_SOURCE:
                logger.warning("the source of a stream has not returned and is left behind")
                self._chain.lose_held(self._run.reason)
            elif self._turn.owner is not None:  # pragma: no branch - else it came back just now
                stuck = self._chain.steps[position]
                stuck.instance.leave_behind()
                if self._steps is not None:
                    self._count_as_taken(position)
                self._chain.abandon()
                left = (stuck.path,)
                instances.remove(stuck.instance)
        else:
            self._chain.lose_held(self._run.reason)
        errors = [] if keep else self._clean_up(instances, timeout)
        if errors:
            raise CleanupError(
                f"stage cleanups raised: {len(errors)}", errors, left_behind=left
            ) from errors[0]
        return left

    def _count_as_taken(self, position: int) -> None:
        """The loop over plain stages counts an item when it is through with it; this one is stuck
        there. So the ledger finds it in the hands of its stage."""
        for step in self._chain.steps[:position]:
            step.counters.received += 1
            step.counters.emitted += 1
        self._chain.steps[position].counters.received += 1

    def _clean_up(self, instances: list[Instance], patience: float) -> list[BaseException]:
        """One after another in this thread, where windows and connections live; one that does
        not return can only be named."""
        errors = []
        for instance in instances:
            if not isinstance(instance.stage, Stage):  # nothing to call
                errors += cleanup_all([instance])
                continue
            watch = threading.Timer(patience, _name_stuck_cleanup, (instance.path, patience))
            watch.daemon = True
            try:
                watch.start()
            except RuntimeError:  # the interpreter is too far down for new threads
                errors += cleanup_all([instance])
                continue
            try:
                errors += cleanup_all([instance])
            finally:
                watch.cancel()
                watch.join(_JOIN_PATIENCE)  # nothing of ours outlives the stop
        return errors

    def _outputs(self, envelope: Envelope) -> Iterable[Envelope]:
        if self._chain.expands:
            outputs = self._chain.outputs(envelope)
            return self._joined(outputs) if self._joins else outputs
        if not self._chain.steps or self._chain.call(envelope):
            return (envelope,)
        return ()

    def _joined(self, outputs: Iterable[Envelope]) -> Iterator[Envelope]:
        """The outputs of several last stages, those of one item together."""
        run, chain = self._run, self._chain
        output = run.plan.graph.output
        for envelope in outputs:
            if run.arrive(output, chain.position, envelope, self._trace):
                yield envelope

    def _refuse_nested(self) -> None:
        """A thread that has the turn cannot take it."""
        if self._turn.mine() or (self._loops and any(loop.here() for loop in self._loops)):
            raise PipelineBusy(
                "this thread is inside a stage (or an open stream) of this very serial pipeline: "
                "a stage cannot forward to its own pipeline; use parallelize(), or return the item"
            )

    def _take_turn(self, timeout: float | None) -> bool:
        try:
            return self._turn.acquire(timeout)
        except ChannelClosed:
            refusal = self._run.refusal()
            raise refusal from refusal.__cause__  # its own cause stays

    def _tell(self) -> None:
        """The turn has been given back, and somebody waits for that."""
        self._turn.tell()
        self._clean_up_orphans()

    def _clean_up_orphans(self) -> None:
        """If the closer left before this call came back: its stage is cleaned up here, in the
        thread that called it."""
        for instance in self._instances if self._orphaned else ():
            instance.come_back(clean_up=not self._keep)


def _close(outputs: Iterable[Envelope], error: BaseException) -> None:
    """What is left of them ends now, by this error: their destructor may come late, and Ctrl-C in
    that is lost."""
    if not isinstance(outputs, Generator):
        return
    if isinstance(error, GeneratorExit):
        outputs.close()
        return
    try:
        outputs.throw(error)
    except BaseException:  # this one, or what it has caused
        pass


def _name_stuck_cleanup(path: str, seconds: float) -> None:
    logger.warning("cleanup of stage %r has not returned for %.1f s", path, seconds)


@hookimpl
def pystream_executors() -> list[ExecutorSpec]:
    """The executor that is always there."""
    return [
        ExecutorSpec(
            name="serial",
            factory="pystream_core._serial:SerialExecutor",
            summary="one item at a time, in the caller's thread",
        )
    ]
