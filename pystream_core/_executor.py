"""Running: the contract of executors, and the run that they move items through."""

from __future__ import annotations

import logging
import threading
import uuid
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import Empty
from time import perf_counter_ns, time
from typing import TYPE_CHECKING, Any, TypeAlias

from ._branches import Branches, End
from ._coroutines import EventLoop
from ._errors import PipelineTerminated, StageError
from ._graph import Gathered
from ._handle import joined, release, retain, shown, taken
from ._ledger import Bin, Ledger
from ._mailbox import Mailbox
from ._observer import Observer, Recorder, RunInfo, Trace
from ._plan import Plan
from ._report import LossReport
from ._stage import SKIP

if TYPE_CHECKING:
    from ._lifecycle import Instances
    from ._output import Output

logger = logging.getLogger("PyStream")

Push: TypeAlias = "Callable[..., bool | None]"
"""See Executor.pusher."""

ENDED = float("inf")  # a floor that every item lies below

ANOTHER_BRANCH = "another branch failed"
"""Why a copy of an item is dropped when the worker that has it stops because of another one."""


class Envelope:
    """One item on its way: the user's value and what PyStream has to know about it.

    Attributes:
        value: the user's item. Never compared, never asked for its truth.
        seq: admission number, from 0; -1 before admission and for marks.
        sub: number among the items spawned from the same one, 0 for an admitted item.
        admitted_ns, queued_ns: clock readings, only when someone needs them.
        reply: who waits for this very item's result; None for an item of the stream.
        branches: what it has in common with the other copies of its item; None for an item
            that has never been in several branches.
        wanted: asked once more when there is room; False lets the offer go.
    """

    __slots__ = (
        "admitted_ns",
        "branches",
        "queued_ns",
        "reply",
        "seq",
        "sub",
        "value",
        "wanted",
    )

    def __init__(
        self,
        value: Any,
        seq: int = -1,
        sub: int = 0,
        *,
        reply: Reply | None = None,
        wanted: Callable[[], bool] | None = None,
    ) -> None:
        self.value = value
        self.seq = seq
        self.sub = sub
        self.admitted_ns = 0
        self.queued_ns = 0
        self.reply = reply
        self.branches: Branches | None = None
        self.wanted = wanted

    def copies(self, count: int) -> list[Envelope]:
        """This envelope and so many more that it takes to go to ``count`` followers; a handle
        gets as many owners."""
        if self.branches is None:
            self.branches = Branches(count)
        else:
            self.branches.split(count - 1)
        copies = [self]
        for _ in range(count - 1):
            retain(self.value)
            copy = Envelope(self.value, self.seq, self.sub, reply=self.reply)
            copy.admitted_ns, copy.queued_ns = self.admitted_ns, self.queued_ns
            copy.branches = self.branches
            copies.append(copy)
        return copies


class Reply:
    """Where the caller of ``stage(item)`` waits for that item's own result.

    Why no handle is forgotten: who answers looks at ``_given_up`` after putting the answer there,
    and who gives up sets it before the last look at the answers.
    """

    __slots__ = ("_answers", "_given_up")

    def __init__(self) -> None:
        self._answers: Mailbox[tuple[Any, Exception | None]] = Mailbox()
        self._given_up = False

    def settle(self, value: Any, failure: Exception | None = None) -> None:
        """Answer; takes over the reference of a handle. Never blocks."""
        self._answers.put((value, failure))
        if self._given_up:
            self.give_up()

    def give_up(self) -> None:
        """Nobody waits any more."""
        self._given_up = True
        while True:
            try:
                value, _ = self._answers.get_nowait()
            except Empty:
                return
            release(value)

    def wait(self) -> Any:
        """The item's result, SKIP when it ended without one.

        Blocks until the item ends; every stop ends every item.

        Raises:
            StageError: the item failed, or another one did and stopped the run.
            PipelineTerminated: the pipeline was stopped before the item was done.
        """
        value, failure = self._answers.get()
        if failure is not None:
            raise failure.again() if isinstance(failure, StageError) else failure
        return taken(value)

    def wait_answer(self, timeout: float | None) -> bool:
        """Wait for the next answer of any kind, at most ``timeout`` seconds; whether it came."""
        try:
            self._answers.get_within(timeout)
        except Empty:
            return False
        return True


class Feeding:
    """What a thread that feeds a source, and those who stop it, know of one another.

    Attributes:
        stopping: nothing more is wanted. Set by whoever stops it.
        in_source: the source is making its next item. Set by the feeding thread.
    """

    __slots__ = ("in_source", "stopping")

    def __init__(self) -> None:
        self.stopping = False
        self.in_source = False

    def wanted(self) -> bool:
        """Whether an item is still to be admitted."""
        return not self.stopping


class Run:
    """One start of a plan: what an executor and its workers share.

    ``floor`` and ``reason`` are how items are called back: every worker compares an item's
    ``seq`` with ``floor`` before it starts on it, and an item below ends as dropped. A stop
    raises the floor above all; a reader that leaves raises it above what is in flight.

    Who touches what: ``accept`` is called under the executor's front lock; ``floor``,
    ``reason`` and ``failure`` are written under ``_lock`` and read without; the rest does not
    change after the start.

    Attributes:
        plan: what to run.
        instances: beside each stage of the plan, the keeper of its instances.
        output: takes finished items, ``run.output(envelope)``, one call at a time; may
            block, and that is the backpressure.
        ledger: the counters.
        recorder: None when nobody observes.
        event_loop: where coroutine stages run; it has no thread before the first one.
        clocked: whether clock readings are needed at admission.
        failure: what stopped the run, None so far.
        interrupted: Ctrl-C has come amid a step of an item; see ``Ledger.mend``.
        linear: the stages follow one another.
        handles: a stage is placed, so that values may be handles.
        spares: of a linear run, envelopes that were sent to a stream's reader, to be used again.
            Whoever sends an envelope on does not look at it any more.
    """

    def __init__(
        self,
        plan: Plan,
        instances: Sequence[Instances],
        output: Output,
        *,
        executor: str,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.plan = plan
        self.instances = tuple(instances)
        self.output = output
        self.ledger = Ledger(plan.paths, plan.graph.feeders)
        self.report = LossReport(quiet=plan.inside)
        self.recorder = Recorder(observers, self.ledger.snapshot) if observers else None
        self.event_loop = EventLoop()
        self.clocked = bool(observers) or any(spec.max_age_ns for spec in plan.stages)
        self.floor: float = 0
        self.reason = ""
        self.failure: StageError | None = None
        self.halted = False
        self.interrupted = False
        self.linear = plan.graph.linear
        self.handles = any(spec.options.placement is not None for spec in plan.stages)
        self.spares: deque[Envelope] = deque()
        self.replies: set[Reply] = set()  # of calls that wait; each caller adds and removes its own
        self.stop_executor: Callable[[str], None] = self.halt  # Session sets the executor's abort
        self._lock = threading.Lock()
        self._halts: Mailbox[None] = Mailbox()  # ends waits of stages, posted once
        self.info = RunInfo(
            id=uuid.uuid4().hex,
            stages=tuple(spec.path for spec in plan.stages),
            feeders=plan.graph.feeders,
            workers=tuple(plan.workers(segment) for segment in plan.segments for _ in segment),
            executor=executor,
            started_ns=perf_counter_ns(),
            started_at=time(),
        )

    # -- admission ---------------------------------------------------------------------

    def accept(self, envelope: Envelope) -> bool:
        """Give an offered item its number and count it as admitted.

        An executor calls it when it has room, under its front lock, before any stage sees
        the item. False: the offer was withdrawn, let it go.

        Raises:
            StageError: the run has failed.
            PipelineTerminated: the run has been stopped.
        """
        if self.halted:
            raise self.refusal()
        if envelope.wanted is not None and not envelope.wanted():
            return False
        envelope.seq = self.ledger.admitted
        if self.clocked:
            envelope.admitted_ns = envelope.queued_ns = perf_counter_ns()
        self.ledger.admitted += 1
        return True

    def refusal(self) -> Exception:
        """A fresh exception that says why nothing is admitted any more."""
        if self.failure is not None:
            return self.failure.again()
        return PipelineTerminated(
            f"the pipeline has been stopped ({self.reason or 'cleanup'}): call serialize() or "
            f"parallelize() to start afresh"
        )

    # -- branches ----------------------------------------------------------------------

    def arrive(self, index: int, feeder: int, envelope: Envelope, trace: Trace | None) -> bool:
        """An output comes to a follower that joins it with others. One call at a time for each
        follower.

        Args:
            index: of the follower; the number of stages means the output.
            feeder: the stage that gave it out.

        Returns:
            False while it waits there for other outputs of the same item; True: ``envelope``
            now holds all of them together, for the follower.
        """
        gathered = self.plan.graph.joins[index]
        join = self.ledger.joins[index]
        branches = envelope.branches
        assert branches is not None  # a join has several feeders, so the item was in branches
        needed = len(join.arrived)
        outputs, ended = branches.arrive(index, feeder, envelope.value, needed)
        join.arrived[feeder] += 1
        if outputs is not None:
            join.completed += 1
            compose = joined if self.handles else Gathered.compose
            envelope.value = compose(gathered, outputs)
            return True
        envelope.value = None
        if ended is not None:
            last = (ended.bin, ended.reason)
            self.ledger.end_copy(ended.bin, ended.reason, counted=False, last=last)
            self._end_item(envelope, ended.bin, trace, SKIP, ended.failure)
        return False

    # -- the end of an item ------------------------------------------------------------

    def end(
        self,
        envelope: Envelope,
        bin_: Bin,
        trace: Trace | None,
        *,
        stage: int,
        reason: str = "",
        value: Any = SKIP,
        failure: StageError | None = None,
        counted: bool = True,
    ) -> None:
        """The one function that ends items. The bin has been counted by the caller.

        A copy of an item in several branches ends here, too; its item when no copy is left.

        Args:
            trace: where this thread records; None when nobody observes.
            stage: index of the stage that ended it, or in front of which it was lost.
            reason: why it was dropped.
            value: the result, for whoever waits for this very item: takes it out of the envelope.
            failure: why it failed, for the same.
            counted: False when no stage has counted it, since it counts as unjoined.
        """
        if envelope.branches is not None and bin_ != "completed":
            self.let_go(envelope)
            weight = 0
            if bin_ == "dropped" and reason != "overflow":
                weight = 2 if reason == ANOTHER_BRANCH else 1
            ended = envelope.branches.end(End(weight, stage, bin_, reason, failure))
            last = None if ended is None else (ended.bin, ended.reason)
            self.ledger.end_copy(bin_, reason, counted=counted, last=last)
            if ended is None:
                return
            bin_, failure = ended.bin, ended.failure
        self._end_item(envelope, bin_, trace, value, failure)

    def _end_item(
        self,
        envelope: Envelope,
        bin_: Bin,
        trace: Trace | None,
        value: Any,
        failure: StageError | None,
    ) -> None:
        if value is not SKIP:  # it goes to whoever waits for it
            envelope.value = None
        if envelope.reply is not None:
            stopped = bin_ == "dropped" and self.halted
            envelope.reply.settle(value, self.refusal() if stopped else failure)
        if trace is not None:
            trace.item((envelope.seq, envelope.sub, envelope.admitted_ns, perf_counter_ns(), bin_))
        self.let_go(envelope)

    def shown(self, envelope: Envelope) -> Any:
        """An item for people to look at, in messages and failures."""
        return shown(envelope.value) if self.handles else envelope.value

    def let_go(self, envelope: Envelope) -> None:
        """Be done with its value: whatever an item holds is let go here."""
        value, envelope.value = envelope.value, None
        if self.handles:
            release(value)

    def lose(self, envelope: Envelope, stage: int, trace: Trace | None, reason: str = "") -> None:
        """End an item that is lost in the channel in front of a stage.

        Args:
            stage: index of the stage; the number of stages means the output.
            reason: why; by default the reason for which the run was called back.
        """
        why = reason or self.reason
        self.ledger.lose(stage, why)
        if reason:
            path = self.ledger.paths[stage] if stage < len(self.ledger.paths) else "output"
            self.report.note(f"{path}: dropped ({why})")
        self.end(envelope, "dropped", trace, stage=stage, reason=why)

    def lose_behind(
        self, envelope: Envelope, stage: int, trace: Trace | None, reason: str = ""
    ) -> None:
        """End an item that a stage has given out and that none of its followers gets."""
        followers = self.plan.graph.followers[stage]
        copies = envelope.copies(len(followers)) if len(followers) > 1 else [envelope]
        for follower, copy in zip(followers, copies, strict=True):
            if follower not in self.ledger.joins:
                self.lose(copy, follower, trace, reason)
                continue
            self.ledger.lose_unjoined(follower, stage)
            why = reason or self.reason
            self.end(copy, "dropped", trace, stage=follower, reason=why, counted=False)

    # -- stopping ----------------------------------------------------------------------

    def call_back(self, below: float, reason: str) -> None:
        """Let every item with a smaller ``seq`` end as dropped for this reason."""
        with self._lock:
            if below > self.floor:
                self.reason = reason
                self.floor = below
            if self.halted:  # halt() takes no lock and may have come in between
                self.floor = ENDED

    def halt(self, reason: str) -> None:
        """Admit nothing more and drop what is in flight. Idempotent; never blocks and takes
        no lock, so that a destructor may call it."""
        if self.floor != ENDED:
            self.reason = reason
        self.halted = True
        self.floor = ENDED
        self._halts.post(None)
        if self._halts.sleepers:
            self._halts.wake()
        for reply in list(self.replies):  # its item may lie where no worker comes any more
            reply.settle(SKIP, self.refusal())
        for kept in self.instances:
            kept.call_off()

    def pause(self, seconds: float) -> bool:
        """Wait that long on behalf of a stage; False at once when the run is stopped."""
        try:
            self._halts.get_within(seconds)
        except Empty:
            return not self.halted
        self._halts.put(None)
        return False

    def fail(self, failure: StageError) -> None:
        """Stop the run because a stage failed under the policy ``"stop"``.

        The first failure wins; each one has been logged by the call that failed.
        """
        with self._lock:
            first = self.failure is None and not self.halted
            if first:
                self.failure = failure
        if first:
            self.stop_executor("abort")
            self.output.wake()

    def replace_locks(self) -> None:
        """In a forked child, where the locks may be held by threads that are gone."""
        self._lock = threading.Lock()
        self.ledger.replace_lock()
        self.report.replace_lock()
        if self.recorder is not None:
            self.recorder.replace_locks()

    # -- observing ---------------------------------------------------------------------

    def trace(self) -> Trace | None:
        """Where a worker records what it did; None when nobody observes."""
        return self.recorder.trace() if self.recorder is not None else None


class Executor(ABC):
    """Moves items through a plan. Every method may be called from any thread.

    What an executor promises:

    - every item whose ``admit`` returned True ends in exactly one bin of the ledger;
    - an item goes from each stage to all of its followers in ``run.plan.graph``, to several
      as copies (``Envelope.copies``), and to those that join several outputs through
      ``run.arrive``, which holds it back until all of them are there;
    - a value that may be a handle is released by whoever ends its item, through ``run.end``,
      ``run.lose`` and the like; an executor never puts it away by itself;
    - results reach ``run.output`` in admission order unless a stage says ``ordered=False``,
      one call at a time;
    - a full front makes ``admit`` wait at most its timeout; a full channel slows its sender,
      up to the source; drops happen under a stated overflow policy only;
    - a drain brings out what waits in batching stages (``Chain.flush``), and so does the time
      that it may wait there at most;
    - items below ``run.floor`` are not given to any further stage;
    - a StageError out of a stage's call stops the run through ``run.fail`` (``serial`` raises
      it out of ``admit`` instead);
    - each stage instance is set up before its first item, called by one thread at a time, and
      cleaned up exactly once, in its worker, never during one of its calls;
    - ``abort`` and ``shut`` only post: they never block and take no lock, so that they may run
      in a destructor;
    - after ``close`` no thread, process or other resource of the executor is left, except
      for workers whose stage has not returned; those are named.
    """

    name = "executor"

    @abstractmethod
    def start(self, run: Run) -> None:
        """Make and set up every stage and get ready for items.

        Blocks until all setups have ended; ``abort`` ends the wait.

        Raises:
            StageError: a setup failed; what was set up has been cleaned up.
            PipelineTerminated: aborted meanwhile.
        """

    @abstractmethod
    def admit(self, envelope: Envelope, timeout: float | None) -> bool:
        """Take an item in, through ``run.accept``.

        Blocks while the front is full, at most ``timeout`` seconds (None: without limit).

        Returns:
            False when the item was not admitted and no stage will see it.

        Raises:
            StageError: the run has failed (serial: the item itself did).
            PipelineTerminated: the front was shut or the run stopped, also while waiting.
            PipelineBusy: the calling thread is inside a stage of the same serial pipeline.
        """

    def pusher(self) -> Push | None:
        """A short way of ``admit``, which does without an envelope and without a timeout; None
        when the executor has none for this plan.

        It takes the item, and what ``Envelope.wanted`` is. It returns and raises what ``admit``
        does, or returns None when it has done nothing, and the caller has to go the long way.
        """
        return None

    def feed(self, items: Iterator[Any], feeding: Feeding) -> None:
        """Admit every item of a source, as ``admit`` without a timeout does, until the source or
        the run ends or ``feeding`` says to stop. An executor may have a faster way.

        Raises:
            Exception: whatever the source raises.
        """
        while not feeding.stopping:
            feeding.in_source = True
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                feeding.in_source = False
            if not self.admit_wanted(Envelope(item), feeding):
                return
            del item

    def admit_wanted(self, envelope: Envelope, feeding: Feeding) -> bool:
        """Admit an item of a source, without a timeout; False when it is not wanted any more, or
        the run has ended."""
        envelope.wanted = feeding.wanted
        try:
            return self.admit(envelope, None)
        except (PipelineTerminated, StageError):  # the reader of the stream is told why
            return False

    @abstractmethod
    def drain(self, timeout: float | None) -> bool:
        """Wait until everything admitted before has ended, at most ``timeout`` seconds.

        The run stays usable. Returns False when the time was over or the run was stopped.
        """

    @abstractmethod
    def shut(self) -> None:
        """Admit nothing more; calls that wait in ``admit`` raise. What is in flight goes on."""

    @abstractmethod
    def abort(self, reason: str) -> None:
        """Stop now: ``run.halt(reason)`` and wake every worker. Idempotent."""

    @abstractmethod
    def close(self, timeout: float, *, keep: bool = False) -> tuple[str, ...]:
        """Let the workers clean up their stages and end. Called once, after drain or abort.

        Args:
            timeout: seconds to wait for calls under way and for cleanups, side by side.
            keep: leave the stages set up, for the executor that follows.

        Returns:
            the paths of stages that did not return and are left behind.
        """

    @abstractmethod
    def working(self) -> bool:
        """Whether the calling thread is one that runs this executor's stages."""

    def iterate(self, source: Iterable[Any]) -> Iterator[Any] | None:  # noqa: ARG002
        """A generator of all results of a source, in the caller's thread; None when the executor
        has no such path and the source is to be fed by a thread. For executors without threads."""
        return None
