"""One choice of a mode, from ``serialize()`` or ``parallelize()`` to its end.

The session joins a run, its executor, the output and the input. It never refers to the
Pipeline, so that a forgotten pipeline can be collected while its threads still hold parts of
the session.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401  (its function for the exit goes first, see below)
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

from ._coroutines import EventLoop
from ._errors import (
    CleanupError,
    DrainTimeout,
    PipelineBusy,
    PipelineTerminated,
    PlanError,
    StageError,
    counted,
    describe_error,
    safe_repr,
)
from ._executor import Envelope, Executor, Push, Reply, Run
from ._input import InputGenerator, InputGeneratorRequest, Loop, close_source
from ._ledger import Statistics
from ._lifecycle import Instances
from ._observer import Observer
from ._output import Output
from ._plan import Plan
from ._results import FedResults, ResultStream, close_unless_running, own_results

logger = logging.getLogger("PyStream")

LEAST_CLEANUP_TIME: Final = 2.0  # seconds that stage cleanups get in any case
EXIT_TIME: Final = 0.7  # seconds for all stage cleanups at interpreter exit
_PROMPT: Final = 0.05  # seconds that a stop waits for a helper thread to see it
_LONGEST: Final = 1e6  # seconds; no wait is longer, whatever timeout was given
_MOVEMENT_CHECKS: Final = 20  # how often per stuck_timeout a drain looks whether items move

# The one mutable global: fork and interpreter exit must find every live session.
_live: weakref.WeakSet[Session] = weakref.WeakSet()


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What ``parallelize`` fixes for its session; times in seconds."""

    block_input: bool = True
    input_timeout: float | None = 10.0
    block_output: bool = False
    output_timeout: float = 10.0
    drain_timeout: float = 10.0
    stuck_timeout: float = 5.0


class Session:
    """A mode of a pipeline: not started, running, closed.

    Locks: ``_start_lock`` is held while stages are set up, so that one caller starts and the
    others wait; a stop ends that wait through ``executor.abort``. ``_close_lock`` is held by
    the one thread that closes; others wait for it and find ``closed`` set. ``_stream_lock``
    guards opening and closing a stream or a loop and is held while its thread starts. None of
    them is taken by ``forsake``, which a destructor may call.
    """

    def __init__(
        self,
        plan: Plan,
        instances: Sequence[Instances],
        make_executor: Callable[[], Executor],
        settings: Settings,
        input_generator: Callable[[], Any] | None,
        observers: Sequence[Observer],
        executor_name: str,
    ) -> None:
        self.plan = plan
        self.settings = settings
        self.output = Output()
        self.run = Run(plan, instances, self.output, executor=executor_name, observers=observers)
        self.executor = make_executor()
        self.run.stop_executor = self.executor.abort
        self.input = InputGenerator(input_generator)
        self.loop: Loop | None = None
        # The short ways of forward(item), if there is one, and of get_results(): whoever needs the
        # long ones takes these away. A stop is seen by the executor and in run.halted.
        self.push: Push | None = None
        self.readable = not self.run.handles
        self._short: Push | None = None  # of the loop, too
        self.closed = threading.Event()
        self.started = False
        self._loops: set[EventLoop] = set()  # of its coroutine stages, once they are set up
        self._stopping = ""  # why nothing is admitted any more
        self._left_in_setup = False  # a closer waited for a start in vain: who started closes
        self._orphan_of_fork = False
        self.close_wanted = False  # by a stage: who leaves the stages closes
        self._results: FedResults | None = None  # the open stream of an executor with threads
        # the open stream of an executor without threads: its results and their source, to close
        self._own_parts: tuple[Any, Any] | None = None
        self._own_cut = False
        self._starter: int | None = None  # the thread that sets the stages up
        self._closer: int | None = None  # the thread that closes
        self._start_lock = threading.Lock()
        self._close_lock = threading.Lock()
        self._stream_lock = threading.Lock()
        _live.add(self)

    # -- starting ----------------------------------------------------------------------

    def start(self) -> None:
        """Set up every stage, once. Blocks until all setups have ended.

        Raises:
            StageError: a setup failed; what was set up has been cleaned up, and the next call
                tries again.
            PipelineTerminated: stopped meanwhile.
        """
        if self.started:
            return
        self.check()
        if self._starter == threading.get_ident() or self._working():
            raise PipelineBusy(
                "the pipeline is being set up: a stage's setup() (or an observer's opened()) "
                "cannot use it, since the call would wait for itself; do that in the first call"
            )
        try:
            self._start_once()
        finally:
            if self._starter == threading.get_ident():
                self._starter = None
            if self._left_in_setup:
                self.close(0)
        self.check()

    def _start_once(self) -> None:
        with self._start_lock:
            if self.started:
                return
            self.check()
            self._starter = threading.get_ident()
            run = self.run
            for kept, spec in zip(run.instances, self.plan.stages, strict=True):
                kept.place(spec.options.placement)
                kept.reset(shared=spec.shared)
            self.output.attach(run)
            if run.recorder is not None:
                run.recorder.open(run.info)
            try:
                self.executor.start(run)
            except BaseException as error:
                self._give_up_start(error)
                raise
            self._loops = self._event_loops()
            self.started = True
            self._short = None if self._loops else self.executor.pusher()
            self.push = self._short if self.loop is None else None

    def _give_up_start(self, error: BaseException) -> None:
        if isinstance(error, StageError) and not self.plan.inside:
            logger.error("%s", error, exc_info=error.__cause__)
        self.run.halt("start failed")
        if self.run.recorder is not None:
            self.run.recorder.close(self.run.ledger.finish())
        for kept, spec in zip(self.run.instances, self.plan.stages, strict=True):
            kept.reset(shared=spec.shared)
        self._stopping = self._stopping or "start failed"

    @property
    def starting(self) -> bool:
        """Some thread sets the stages up."""
        return self._starter is not None

    @property
    def state(self) -> str:
        """One or two words for logs."""
        if self.run.failure is not None:
            return "failed"
        if self._stopping or self.run.halted:
            return "stopped"
        return "running" if self.started else "not started"

    @property
    def start_failed(self) -> bool:
        """The start was given up; a new session can take this one's place."""
        return self._stopping == "start failed"

    def check(self) -> None:
        """Refuse the call unless the session can be used.

        Raises:
            StageError: a stage has failed.
            PipelineTerminated: stopped, or the parent's after a fork.
        """
        if self._orphan_of_fork:
            raise PipelineTerminated(
                "this pipeline belongs to the parent process and does not live in a forked "
                "child: make a new one there"
            )
        # looked at first: a failure is stored before the stop that it causes
        stopped = self._stopping or self.run.halted
        if self.run.failure is not None:
            raise self.run.failure.again()
        if stopped:
            raise PipelineTerminated(
                f"the pipeline has been stopped ({self._stopping or self.run.reason}): call "
                f"serialize() or parallelize() to start afresh"
            )

    def _check_use(self, what: str) -> None:
        self.check()
        self.raise_loop_error()
        if self._results is not None or self._own_open():
            raise PipelineBusy(
                f"a stream() of this pipeline is open: read it to its end or close it before {what}"
            )

    def _refuse_in_event_loop(self, what: str) -> None:
        if self._loops and self._in_coroutine():
            raise PipelineBusy(
                f"{what} may wait for the very event loop that this coroutine stage runs on: call "
                f"it from there by `await asyncio.to_thread(...)`"
            )

    def raise_loop_error(self) -> None:
        """Raise what stopped the loop, unless it has been raised already."""
        error = self.loop.take_error() if self.loop is not None else None
        if error is not None:
            raise error.again() if isinstance(error, StageError) else error

    # -- items -------------------------------------------------------------------------

    def forward(self, item: Any) -> bool:
        """See Pipeline.forward."""
        self._check_use("forward()")
        self._refuse_in_event_loop("forward()")
        if type(item) is InputGeneratorRequest:
            self.input.check()
        self.start()
        if type(item) is InputGeneratorRequest:  # isinstance would ask the item for its class
            item = self.input()
        try:
            return self._admit(Envelope(item))
        finally:
            self.close_if_asked()

    def close_later(self) -> None:
        """``cleanup()`` was called by a worker, the loop or the feeder: request the stop. A
        thread that leaves a serial pipeline finishes it, or else a helper does."""
        self._stop_for("cleanup")
        self.executor.shut()
        if (
            self._working()
            and self.plan.mode == "serial"
            and not (self.loop is not None and self.loop.thread is threading.current_thread())
        ):
            self.close_wanted = True
            return
        helper = threading.Thread(
            target=self._close_in_helper, name="pystream-cleanup", daemon=True
        )
        helper.start()

    def close_if_asked(self) -> None:
        """Finish what ``close_later`` began, in the thread that has just left the stages."""
        if self.close_wanted and not self._working():
            self.close_wanted = False
            self.close()

    def _close_in_helper(self) -> None:
        try:
            self.close()
        except CleanupError:
            pass  # each error has been logged by the cleanup that raised it

    def _feed(self, wanted: Callable[[], bool]) -> None:
        """Forward one generated item for the loop."""
        if self._short is None or self._stopping:
            self.check()
            self.start()
        item = self.input()
        done = None if self._short is None else self._short(item, wanted)
        if done is None:
            self._admit(Envelope(item, wanted=wanted))
        elif not done:
            self.run.ledger.reject()

    def _admit(self, envelope: Envelope) -> bool:
        timeout = self.settings.input_timeout if self.settings.block_input else 0.0
        admitted = self.executor.admit(envelope, timeout)
        if not admitted:
            self.run.ledger.reject()
        return admitted

    def call(self, item: Any) -> Any:
        """The item's own result, SKIP when it ended without one; from any thread.

        Blocks until the item has ended.
        """
        self._check_use("calling its stage")
        self._refuse_in_event_loop("calling its stage")
        for spec in self.plan.stages:
            if spec.kind == "generator" or spec.batching:
                what = "is a batching stage" if spec.batching else "is a generator stage"
                raise PlanError(
                    f"a call gives one result for one item, but {spec.name!r} {what}: add this "
                    f"stage to a pipeline, or use stream()"
                )
        self.start()
        reply = Reply()
        self.run.replies.add(reply)  # before admission, which a stop refuses from then on
        try:
            if not self.executor.admit(Envelope(item, reply=reply), None):
                self.run.ledger.reject()
                raise self.run.refusal()
            return reply.wait()
        finally:
            self.run.replies.discard(reply)
            reply.give_up()
            self.close_if_asked()

    def read(self) -> Any:
        """See Pipeline.get_results."""
        self._check_use("get_results()")
        settings = self.settings
        found, value = self.output.read(settings.output_timeout if settings.block_output else 0.0)
        if not found:
            self.check()
            self.raise_loop_error()
        return value

    # -- streams -----------------------------------------------------------------------

    def stream(self, source: Iterable[Any] | None, keep_alive: object) -> ResultStream[Any]:
        """See Pipeline.stream, which is ``keep_alive``."""
        self._check_use("another stream()")
        self._refuse_during_loop("stream()")
        self._refuse_in_event_loop("stream()")
        origin = source
        if source is None:
            self.input.check()
            source = self.input
        elif not hasattr(source, "__iter__") and not hasattr(source, "__getitem__"):
            hint = (
                "asynchronous iterables are not taken. Iterate over it in the program, `async for "
                "item in source: await asyncio.to_thread(pipeline.forward, item)`, or put its "
                "items into a queue that a generator reads"
                if hasattr(source, "__aiter__")
                else "give one item to forward(item), and a function that makes items to "
                "Pipeline(input_generator=...)"
            )
            raise TypeError(
                f"stream() and run() take a source, any iterable of items, not "
                f"{safe_repr(source)}: {hint}"
            )
        source = iter(source)
        self.start()
        results = self.executor.iterate(source)
        if results is not None:
            # open from its first step on: one that is never read keeps nobody out
            parts = (results, source)
            own = own_results(
                *parts,
                on_start=lambda _: self._open_own(parts),
                on_end=lambda: self._end_own(parts),
                was_cut=lambda: self._own_cut,
                check=self.check,
                keep_alive=keep_alive,
            )
            return ResultStream(own, keep_alive)
        with self._stream_lock:
            self._check_use("another stream()")
            self._refuse_during_loop("stream()")
            fed = FedResults(
                self.executor,
                self.run,
                self.output,
                source,
                patience=self.settings.stuck_timeout,
                check=self.check,
                on_end=self._end_fed,
                origin=origin,
            )
            self._results = fed
            self.readable = False
        return ResultStream(fed, keep_alive)

    def _end_fed(self, results: FedResults) -> None:
        with self._stream_lock:
            if self._results is results:
                self._results = None
                self._be_readable()

    def _be_readable(self) -> None:
        self.readable = self.loop is None and not self.run.handles
        if self._stopping or self._orphan_of_fork:  # set before readable is cleared
            self.readable = False

    def _open_own(self, parts: tuple[Any, Any]) -> None:
        with self._stream_lock:
            self._check_use("another stream()")
            self._refuse_during_loop("stream()")
            self._own_parts = parts
            self.readable = False

    def _own_open(self) -> bool:
        """Whether a stream of an executor without threads is. Ctrl-C may have kept the end of one
        from giving its claim back."""
        parts = self._own_parts
        return parts is not None and getattr(parts[0], "gi_frame", parts) is not None

    def _end_own(self, parts: tuple[Any, Any]) -> None:
        if self._own_parts is not None and self._own_parts is not parts:  # another one is open
            return
        self._own_parts = None
        self._be_readable()
        self.close_if_asked()

    # -- the loop ----------------------------------------------------------------------

    def start_loop(self, period: float) -> None:
        """See Pipeline.start_loop."""
        self._check_use("start_loop()")
        self.input.check()
        with self._stream_lock:
            self._check_use("start_loop()")
            self._refuse_during_loop("another start_loop()")
            self.push = None  # forward() and get_results() are to raise what stops the loop
            self.readable = False
            self.loop = Loop(self._feed, period, self.input.name)
            self.loop.start()  # here, since one that has not started does not count as running

    def stop_loop(self) -> None:
        """See Pipeline.stop_loop."""
        loop = self.loop
        if loop is not None:
            loop.stop()
            self.raise_loop_error()

    def _refuse_during_loop(self, what: str) -> None:
        if self.loop is not None and self.loop.running:
            raise PipelineBusy(f"the loop is running: call stop_loop() before {what}")

    # -- stopping ----------------------------------------------------------------------

    def drain(self, timeout: float) -> None:
        """See Pipeline.drain."""
        self.check()
        if not self.started:
            return
        self._refuse_in_event_loop("drain()")
        if self._working():
            raise PipelineBusy(
                "a stage, or the reader of an open serial stream, has an item in hand, so drain() "
                "would wait for itself: call it in another thread, or when the stream is closed"
            )
        drained = self.executor.drain(timeout)
        self.check()
        if not drained:
            statistics = self.run.ledger.snapshot()
            late = counted(statistics.in_flight, "item was", "items were")
            raise DrainTimeout(
                f"{late} still in flight after {timeout:g} s: "
                f"{statistics}. Drain again with more time, or abort()"
            )
        self.run.report.flush()

    def abort(self, reason: str = "abort") -> None:
        """Stop now; returns at once. Waiting calls raise, workers clean up their stages."""
        self._post_abort(reason)
        self.output.wake()

    def forsake(self) -> None:
        """The pipeline is gone and nobody will close the session: abort it. Posts to queues
        only, no lock, join or logging, so that a destructor may call it."""
        self._post_abort("pipeline was not cleaned up")
        if self.plan.mode == "serial":  # else the workers leave it
            for loop in self._event_loops():
                loop.forsake()
        if self.run.recorder is not None:
            self.run.recorder.forsake()

    def _post_abort(self, reason: str) -> None:
        self._stop_for(reason)
        if self.loop is not None:
            self.loop.request_stop()
        self.input.close()
        self.run.halt(reason)
        self.executor.abort(reason)

    def _stop_for(self, reason: str) -> None:
        if not self._stopping or self.start_failed:
            self._stopping = reason
        self.readable = False

    def busy_here(self) -> bool:
        """Whether the calling thread is a worker, the loop or the feeder of this session."""
        me = threading.current_thread()
        if self.loop is not None and self.loop.thread is me:
            return True
        results = self._results
        if results is not None and results.feeder.thread is me:
            return True
        if self._starter == threading.get_ident() or self._in_coroutine():
            return True
        if not self.executor.working():
            return False
        # The reader of a serial stream holds its turn also between two results.
        parts = self._own_parts
        return parts is None or getattr(parts[0], "gi_running", True)

    def _event_loops(self) -> set[EventLoop]:
        """Those of its coroutine stages, also of stages that an earlier mode has set up."""
        return {loop for kept in self.run.instances for loop in kept.loops()}

    def _in_coroutine(self) -> bool:
        """Whether the calling thread is the event loop of its coroutine stages."""
        return any(loop.here() for loop in self._loops or self._event_loops())

    def _working(self) -> bool:
        """Whether the calling thread runs its stages."""
        return self.executor.working() or self._in_coroutine()

    def close(self, timeout: float | None = None, *, keep: bool = False) -> None:
        """Drain, stop and clean up; once. Other callers wait until it is done; one whose time
        for draining is over first lets the rest be dropped.

        When Ctrl-C (or whatever else is thrown into this thread) interrupts it, the rest is
        dropped, and the next call finishes the work.

        Args:
            timeout: seconds for draining what was admitted; None means ``drain_timeout``.
            keep: hand the stages on to the next session, still set up.

        Raises:
            CleanupError: stage cleanups raised; everything else has been done all the same.
        """
        if self._closer == threading.get_ident():  # a stage's cleanup() or an observer asks again
            return
        allowed = min(self.settings.drain_timeout if timeout is None else timeout, _LONGEST)
        if not self._close_lock.acquire(timeout=allowed):
            self.abort()
            if not self._close_lock.acquire(timeout=allowed + LEAST_CLEANUP_TIME + 1.0):
                return
        self._closer = threading.get_ident()
        try:
            if not self.closed.is_set() and self._close(allowed, keep):
                self._closed()
        except CleanupError as error:
            self._closed()
            for each in error.errors if self.plan.mode == "serial" else ():
                if isinstance(each, KeyboardInterrupt):  # meant for the caller, in his thread
                    raise each from None
            raise
        except BaseException:
            self.abort("interrupted")
            raise
        finally:
            self._closer = None
            self._close_lock.release()

    def _closed(self) -> None:
        self.closed.set()
        _live.discard(self)

    def _close(self, allowed: float, keep: bool) -> bool:
        """False when a setup that does not return was left behind."""
        deadline = monotonic() + allowed
        self._stop_for("cleanup")
        if self.loop is not None:
            self.loop.request_stop()
        self.input.close()
        if not self._wait_for_start(allowed):
            return False
        if not self.started:
            self.run.halt("cleanup")
            self.output.release()
            self._clean_up_unstarted(keep)
            return True
        self.executor.shut()
        self.output.release()
        self._end_stream()
        if self.loop is not None:
            self.loop.stop()
        if not self.run.halted and not self._drain_while_moving(deadline):
            self.executor.abort("abort")
        left_time = max(LEAST_CLEANUP_TIME, deadline - monotonic())
        if self.plan.mode == "serial":  # where the call that closes can be held up
            left_time = min(left_time, max(LEAST_CLEANUP_TIME, self.settings.stuck_timeout))
        self._shut_down(left_time, keep)
        return True

    def _wait_for_start(self, allowed: float) -> bool:
        """Let a start that is under way come to its end; False when it does not in time.

        Why nobody is forgotten: the flag is set before the last look at the lock, and who
        starts looks at the flag after letting the lock go.
        """
        if self.started:
            return True
        if not self._start_lock.acquire(blocking=False):
            self.run.halt("cleanup")
            self.output.wake()
            self.executor.abort("cleanup")
            if not self._start_lock.acquire(timeout=max(allowed, LEAST_CLEANUP_TIME)):
                self._left_in_setup = True
                if not self._start_lock.acquire(blocking=False):  # pragma: no branch - just ended
                    self._name_stuck_setups()
                    return False
        self._start_lock.release()
        return True

    def _name_stuck_setups(self) -> None:
        stuck = [path for kept in self.run.instances for path in kept.leave_setups()]
        logger.warning(
            "left behind, since its setup has not returned: %s. When it does, it is cleaned up",
            ", ".join(repr(path) for path in stuck) or "a stage",
        )

    def _clean_up_unstarted(self, keep: bool) -> None:
        errors = []
        for kept, spec in zip(self.run.instances, self.plan.stages, strict=True):
            for instance in () if keep else kept.unstarted(spec):
                error = instance.cleanup()
                if error is not None:
                    errors.append(error)
        paths = self._forget_instances()
        self.run.ledger.finish()
        _raise_cleanup_errors(errors, paths)

    def _end_stream(self) -> None:
        results = self._results
        if results is not None:
            results.cut()
        parts = self._own_parts
        if parts is not None:
            self._own_cut = True
            if not close_unless_running(parts[0]):
                return  # its reader is inside, in another thread, and will see the stop
            self._own_parts = None
            close_source(parts[1])

    def _drain_while_moving(self, deadline: float) -> bool:
        """Drain until the deadline, or until nothing has moved for ``stuck_timeout``."""
        stuck_timeout = self.settings.stuck_timeout
        moved_at, before = monotonic(), self._movement()
        while (now := monotonic()) < deadline:
            patience = min(deadline - now, max(stuck_timeout / _MOVEMENT_CHECKS, 0.01))
            try:
                drained = self.executor.drain(patience)
            except StageError:  # of a flush in the caller's thread, which has been logged
                drained = True
            if drained:
                return True
            if self.run.halted:
                return False
            after = self._movement()
            if after != before:
                moved_at, before = monotonic(), after
            elif monotonic() - moved_at >= stuck_timeout:
                return False
        return False

    def _movement(self) -> tuple[int, ...]:
        statistics = self.run.ledger.snapshot()
        return (
            statistics.ended,
            *(stage.received for stage in statistics.stages),
            *(stage.emitted for stage in statistics.stages),
        )

    def _shut_down(self, seconds: float, keep: bool) -> None:
        errors: Sequence[BaseException] = ()
        left: tuple[str, ...] = ()
        try:
            left = self.executor.close(seconds, keep=keep)
        except CleanupError as error:
            errors, left = error.errors, error.left_behind
        if left:
            logger.warning(
                "left behind, since the call has not returned: %s. Its item counts as abandoned",
                ", ".join(repr(path) for path in left),
            )
        run = self.run
        results = self._results
        if results is not None:
            results.forfeit()
        paths: list[str] = []
        if not keep:
            errors = [*errors, *self._clean_up_surplus()]
            paths = self._forget_instances()
        self.output.supersede()
        if run.interrupted and run.linear and not left:
            run.ledger.mend("interrupted")
        final = run.ledger.finish()
        run.report.flush()
        self._report_unfinished(final)
        # A call that comes back just when it is left behind may be counted half.
        for line in () if left else run.ledger.violations():
            logger.error("the ledger does not add up, please report this: %s", line)
        if run.recorder is not None:
            run.recorder.close(final)
        _raise_cleanup_errors(errors, paths)

    def _clean_up_surplus(self) -> list[BaseException]:
        """Instances of an earlier executor that had more workers than this one."""
        errors = []
        for kept in self.run.instances:
            for instance in kept.surplus(0):
                error = instance.cleanup()
                if error is not None:
                    errors.append(error)
        return errors

    def _forget_instances(self) -> list[str]:
        """Returns the paths of the stages whose cleanup has raised."""
        raised = [path for kept in self.run.instances for path in kept.raised()]
        for kept, spec in zip(self.run.instances, self.plan.stages, strict=True):
            kept.reset(shared=spec.shared)
        return raised

    def _report_unfinished(self, final: Statistics) -> None:
        lost = {
            reason: count
            for reason, count in final.dropped.items()
            if reason not in ("overflow", "interrupted")
        }
        if lost:
            logger.warning(
                "%s not finished: %s",
                counted(sum(lost.values()), "admitted item was", "admitted items were"),
                ", ".join(f"{count} {reason}" for reason, count in sorted(lost.items())),
            )

    # -- the end of the process --------------------------------------------------------

    def close_at_exit(self, deadline: float) -> threading.Thread | None:
        """Begin to give stage cleanups their time until the deadline, in a helper thread:
        a serial stage may be stuck in the very call that does not end. Where no thread can be
        started any more, as in Python 3.12.0 and 3.12.1, they are done on return."""
        helper = threading.Thread(target=self._close_quietly, args=(deadline,), daemon=True)
        try:
            helper.start()
        except RuntimeError:  # the interpreter is too far down for new threads
            self._close_quietly(deadline)
            return None
        return helper

    def _close_quietly(self, deadline: float) -> None:
        try:
            if self.started and not self.closed.is_set():
                self.executor.close(max(0.0, deadline - monotonic()))
            if self.run.recorder is not None:
                self.run.recorder.close(self.run.ledger.finish(), timeout=0.2)
        except Exception as error:
            logger.error("stopping at interpreter exit: %s", error)

    def forget_after_fork(self) -> None:
        """In a forked child: the threads are gone and locks may be held for ever, so replace
        them and refuse every use."""
        self._orphan_of_fork = True
        self.readable = False
        self._start_lock = threading.Lock()
        self._close_lock = threading.Lock()
        self._stream_lock = threading.Lock()
        self.closed = threading.Event()
        self.closed.set()
        self.push = None
        self.run.replace_locks()


def _raise_cleanup_errors(errors: Sequence[BaseException], paths: Sequence[str]) -> None:
    if errors:
        raised = counted(len(errors), "stage cleanup raised", "stage cleanups raised")
        names = ", ".join(map(repr, paths)) or "a stage"
        first = "" if len(errors) == 1 else "the first: "
        raise CleanupError(
            f"{raised} ({names}), {first}{describe_error(errors[0])}; every other stage was "
            f"cleaned up",
            errors,
        ) from errors[0]


def _stop_all_at_exit() -> None:
    """An open pipeline is aborted at interpreter exit, not drained."""
    deadline = monotonic() + EXIT_TIME
    sessions = [session for session in list(_live) if session.started or session.starting]
    unfinished = 0
    for session in sessions:
        session.abort("interpreter exit")
        unfinished += session.run.ledger.snapshot().in_flight
    for helper in [session.close_at_exit(deadline) for session in sessions]:
        if helper is not None:
            helper.join(max(0.0, deadline - monotonic()))
    if unfinished:
        logger.warning(
            "%s not finished at interpreter exit: leave pipelines by `with pipeline:` or call "
            "cleanup() before the program ends",
            counted(unfinished, "admitted item was", "admitted items were"),
        )


def _forget_all_after_fork() -> None:
    for session in list(_live):
        session.forget_after_fork()
    _live.clear()


# atexit is too late for threads that have to be joined; this runs before threads are awaited.
# The threads of pools, as asyncio.to_thread uses them, are awaited by such a function, too. What
# is registered first runs last, so the module of the pools is imported above.
_register = getattr(threading, "_register_atexit", None)
if _register is not None:
    _register(_stop_all_at_exit)
else:  # pragma: no cover - interpreters without that function
    import atexit

    atexit.register(_stop_all_at_exit)
if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
    os.register_at_fork(after_in_child=_forget_all_after_fork)
