"""The threads executor.

Assumed of the interpreter: ``queue.SimpleQueue`` and ``collections.deque`` let in one thread at a
time, and ``put``, ``append`` and ``popleft`` never block; storing and reading an attribute is
atomic. Nothing else; the global lock is not relied on.

What is waited for, and what ends the wait:

====================  ==========================================  =========================
who                   waits for                                   ended by
====================  ==========================================  =========================
a worker              an item of its channel                      STOP behind the last item
a worker              a credit of the next channel                its close
a worker (ordered     its turn                                    every ticket before it
generator)                                                        comes back, or ``abort``
a worker at the end   the output (a stream's reader)              the stream's close
a worker before a     another one that sends to the same join,    what ends its holder's wait
join                  or a mark to it
a worker of           an item or an outcome, in its channel;      the outcomes, which a stop
coroutines            after STOP only outcomes                    has asked for
workers of a row      see ``_row``
``admit``             a credit of the first channel               ``shut``, ``abort``
``drain``             its mark                                    arrival, or ``abort``
``start``             every worker's setup                        ``abort``
``close``             every worker's exit                         its timeout
====================  ==========================================  =========================
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from time import monotonic, perf_counter_ns
from typing import Any, Final

from pystream_core import (
    Bell,
    Channel,
    ChannelClosed,
    CleanupError,
    Envelope,
    Executor,
    Feeding,
    Mailbox,
    PipelineTerminated,
    PyStreamError,
    Run,
    StageError,
)

from ._junction import Entrance
from ._lane import Lane, Worker
from ._mark import Mark
from ._row import Row, groups

logger = logging.getLogger("PyStream")

_SETUP_FAILED_PATIENCE: Final = 10.0  # seconds for the other stages to come back and clean up
_STOPPED_PATIENCE: Final = 2.0  # the same, when the start was stopped by someone who waits for it
_INTERRUPTED_PATIENCE: Final = 0.5  # the same, on Ctrl-C
_JOIN_PATIENCE: Final = 1.0  # seconds for a thread that has reported its exit to be gone


class ThreadsExecutor(Executor):
    """One thread per worker, a bounded channel in front of every stage.

    Args:
        name_prefix: how the names of its threads begin.
    """

    # _front makes numbering an item and sending it one step; it is held for a few instructions
    # (and, in a pipeline without stages, while the output takes the item). It may be entered
    # again, since a dropped or superseded item's destructor may use the pipeline.

    name = "threads"

    _run: Run

    def __init__(self, *, name_prefix: str = "pystream") -> None:
        self._name_prefix = name_prefix
        self._lanes: list[Lane] = []
        self._workers: list[Worker] = []
        self._threads: dict[Worker, threading.Thread] = {}
        self._idents: set[int] = set()  # of live workers; each adds and removes its own
        self._front = threading.RLock()  # guards the room of the first channel, too
        self._waiting = 0  # how many wait for that room; changed under _front
        self._marks: set[Mark] = set()  # changed by drain, looked through by abort
        self._prepared: SimpleQueue[BaseException | None] = SimpleQueue()
        self._exits: Mailbox[tuple[Worker, list[BaseException]] | None] = Mailbox()
        self._gone: dict[Worker, list[BaseException]] = {}  # written by the closer
        self._started = False
        self._shut = False
        self._aborted = False
        self._keep = False

    # -- starting ----------------------------------------------------------------------

    def start(self, run: Run) -> None:
        self._run = run
        workers: list[tuple[Worker, int]] = []
        for group in groups(run.plan):
            bell = Bell.take() if len(group) > 1 else None
            ring = None if bell is None else bell.ringer()
            lanes = [Lane(run, segment, ring) for segment in group]
            self._lanes += lanes
            made = [self._make_worker(lane, n) for lane in lanes for n in range(lane.size)]
            if bell is not None:
                row = Row(run, bell, [worker for worker, _ in made])
                for worker, _ in made:
                    worker.row = row
            workers += made
        output = run.plan.graph.output
        entrances = {output: Entrance(run, output, run.output.__call__, Mark.arrive)}
        for lane in self._lanes:
            start = lane.segment.start
            channel = lane.channel if lane.blocks else None
            entrances[start] = Entrance(run, start, lane.put, lane.channel.post, channel)
        for lane in self._lanes:
            lane.join_to(entrances)
        self._started = True
        if self._aborted:
            raise run.refusal()
        try:
            for worker, number in workers:
                self._start_worker(worker, number)
            self._wait_until_prepared()
        except BaseException as error:
            patience = _INTERRUPTED_PATIENCE
            if isinstance(error, PyStreamError):
                stopped = isinstance(error, PipelineTerminated)
                patience = _STOPPED_PATIENCE if stopped else _SETUP_FAILED_PATIENCE
            self.abort("start failed")
            _, missing = self._collect_exits(patience)
            for path in self._leave_all_behind(missing):
                logger.warning("left behind, since its setup has not returned: %r", path)
            raise

    def _make_worker(self, lane: Lane, number: int) -> tuple[Worker, int]:
        """The worker of a lane with this number."""
        instances = [lane.run.instances[index].of_worker(number) for index in lane.segment]
        return Worker(lane, instances), number

    def _start_worker(self, worker: Worker, number: int) -> None:
        lane = worker.lane
        path = lane.run.plan.stages[lane.segment.start].name
        thread = threading.Thread(
            target=self._work,
            args=(worker,),
            name=f"{self._name_prefix} {path}" + (f" {number}" if lane.size > 1 else ""),
            daemon=True,
        )
        self._threads[worker] = thread
        self._workers.append(worker)  # before the start, which Ctrl-C may leave when it runs
        try:
            thread.start()
        except RuntimeError:  # no thread can be had
            self._workers.remove(worker)
            raise

    def _wait_until_prepared(self) -> None:
        first: BaseException | None = None
        for _ in self._workers:
            error = self._prepared.get()
            if self._aborted and error is None and first is None:
                raise self._run.refusal()
            if error is not None and first is None:
                first = error
                self.abort("start failed")
        if isinstance(first, PyStreamError):
            raise first
        if first is not None:
            raise StageError(f"a stage raised {type(first).__name__} in its setup") from first
        if self._aborted:
            raise self._run.refusal()

    def _work(self, worker: Worker) -> None:
        """The life of a worker thread."""
        self._idents.add(threading.get_ident())
        try:
            worker.prepare()
        except BaseException as error:  # raised by start(), in the thread that called it
            self._prepared.put(error)
        else:
            self._prepared.put(None)
            try:
                worker.serve()
            except BaseException as error:  # ours, or thrown into this thread from outside
                self._give_up(worker, error)
        errors = worker.leave(clean_up=not self._keep)
        self._idents.discard(threading.get_ident())  # the next thread may get the same number
        self._exits.put((worker, errors))

    def _give_up(self, worker: Worker, error: BaseException) -> None:
        path = self._run.plan.stages[worker.lane.segment.start].name
        failure = StageError(
            f"the worker of stage {path!r} was ended by {type(error).__name__}", path=path
        )
        failure.__cause__ = error
        logger.error("%s", failure, exc_info=error)
        self._run.fail(failure)

    # -- items -------------------------------------------------------------------------

    def admit(self, envelope: Envelope, timeout: float | None) -> bool:
        try:
            return self._admit(envelope, timeout)
        except BaseException:
            if envelope.seq >= 0:  # Ctrl-C, after it was numbered: nobody knows how far it has come
                self._run.interrupted = True
            raise

    def _admit(self, envelope: Envelope, timeout: float | None) -> bool:
        if not self._lanes:
            return self._pass_on(envelope)
        lane = self._lanes[0]
        if lane.blocks:
            return self._send_when_there_is_room(lane.channel, envelope, timeout)
        with self._front:
            if self._shut:
                raise self._run.refusal()
            if not self._run.accept(envelope):
                return False
            lane.put(envelope)
        return True

    def _send_when_there_is_room(
        self, channel: Channel[Envelope], envelope: Envelope, timeout: float | None
    ) -> bool:
        deadline = None if timeout is None else monotonic() + timeout
        try:
            while (sent := self._send_if_there_is_room(channel, envelope)) is None:
                left = None if deadline is None else deadline - monotonic()
                if left is not None and left <= 0:
                    return False
                if not self._wait_for_room(channel, left):
                    return False
        except ChannelClosed:
            refusal = self._run.refusal()
            raise refusal from refusal.__cause__  # its own cause stays
        return sent

    def _send_if_there_is_room(self, channel: Channel[Envelope], envelope: Envelope) -> bool | None:
        """None: there is no room; False: the offer was withdrawn."""
        with self._front:
            if self._shut:
                raise self._run.refusal()
            while True:
                if channel.room:
                    break
                lot = channel.ask(0)
                if lot is None:
                    return None
                channel.room = lot
            accepted = self._run.accept(envelope)
            if accepted:  # no call of ours until it is in: Ctrl-C comes at the beginning of one
                channel.room -= 1
                channel.items.append(envelope)
                if channel.parked:
                    channel.wake()
            if channel.room and self._waiting:
                channel.call()
            return accepted

    def _wait_for_room(self, channel: Channel[Envelope], timeout: float | None) -> bool:
        """Why nobody is forgotten who waits: while there is room, a lot of credits or a call is
        under way to one of them. For a lot wakes one, whoever took one and leaves room behind
        calls the next, and nobody begins to wait while there is room."""
        with self._front:
            if channel.room:
                return True
            self._waiting += 1
        lot = None
        try:
            lot = channel.ask(timeout)
        finally:
            with self._front:
                self._waiting -= 1
                channel.room += lot or 0
        return lot is not None

    def feed(self, items: Iterator[Any], feeding: Feeding) -> None:
        """Without a call of ours while there is room: this is what a stream pays per item."""
        if not (self._lanes and self._lanes[0].blocks):
            super().feed(items, feeding)
            return
        run, front, channel = self._run, self._front, self._lanes[0].channel
        ledger, clocked = run.ledger, run.clocked
        append = channel.items.append
        spare = run.spares.popleft
        acquire, release = front.acquire, front.release  # half the time of a with statement
        bring = self._lanes[0].bring
        feeding.in_source = True
        try:
            for item in items:
                feeding.in_source = False
                if bring is not None:
                    item = bring(item)
                try:
                    envelope = spare()
                    envelope.value = item
                except IndexError:
                    envelope = Envelope(item)
                item = None  # let go when its last stage is done with it
                acquire()
                try:
                    # As run.accept() does; whatever halts the run has shut the front.
                    sent = channel.room and not (self._shut or feeding.stopping)
                    if sent:
                        channel.room -= 1
                        envelope.seq = ledger.admitted
                        if clocked:
                            envelope.admitted_ns = envelope.queued_ns = perf_counter_ns()
                        ledger.admitted += 1
                        append(envelope)
                        if channel.parked:
                            channel.wake()
                finally:
                    release()
                if not (sent or self.admit_wanted(envelope, feeding)):
                    run.let_go(envelope)
                    return
                if feeding.stopping:
                    return
                del envelope
                feeding.in_source = True
        finally:
            feeding.in_source = False

    def _pass_on(self, envelope: Envelope) -> bool:
        """Without stages an item goes straight to the output."""
        with self._front:
            if self._shut:
                raise self._run.refusal()
            if not self._run.accept(envelope):
                return False
            self._run.output(envelope)
        return True

    def drain(self, timeout: float | None) -> bool:
        if not self._lanes:
            if self._front.acquire(timeout=-1 if timeout is None else timeout):
                self._front.release()
                return True
            return False
        mark = Mark()
        self._marks.add(mark)
        try:
            if self._run.halted:  # looked at after the add, set before abort looks at _marks
                return False
            with self._front:
                self._lanes[0].channel.post(mark)
            return mark.wait(timeout)
        finally:
            self._marks.discard(mark)

    # -- stopping ----------------------------------------------------------------------

    def shut(self) -> None:
        self._shut = True
        if self._lanes:
            self._lanes[0].channel.refuse()

    def abort(self, reason: str) -> None:
        self._shut = True
        self._aborted = True
        if not self._started:
            return
        self._run.halt(reason)
        self._prepared.put(None)  # wakes a start that waits
        for lane in self._lanes:
            lane.close()
        for mark in list(self._marks):
            mark.arrive(False)

    def close(self, timeout: float, *, keep: bool = False) -> tuple[str, ...]:
        self._keep = keep
        self._shut = True
        self._run.halt("cleanup")
        for lane in self._lanes:
            lane.close()
        errors, missing = self._collect_exits(timeout)
        left = self._leave_all_behind(missing)
        # Who was admitted just before the stop sends its item before the sweep; whoever comes
        # later finds the front shut.
        if self._front.acquire(timeout=_JOIN_PATIENCE):
            self._front.release()
        for lane in self._lanes:
            lane.sweep()
        if errors:
            raise CleanupError(
                f"stage cleanups raised: {len(errors)}", errors, left_behind=left
            ) from errors[0]
        return left

    def working(self) -> bool:
        return threading.get_ident() in self._idents

    def _collect_exits(self, timeout: float) -> tuple[list[BaseException], list[Worker]]:
        """Wait for the workers, side by side; the errors of their cleanups in the order of the
        stages, and the workers that did not come back in time. Goes on where an earlier call
        was interrupted."""
        deadline = monotonic() + timeout
        gone = self._gone
        while len(gone) < len(self._workers):
            try:
                found = self._exits.get_within(deadline - monotonic())
            except Empty:
                break
            if found is None:
                continue  # another call has got the last one
            worker, errors = found
            gone[worker] = errors
            if self._threads[worker] is not threading.current_thread():
                self._threads[worker].join(_JOIN_PATIENCE)
        if len(gone) == len(self._workers):
            self._exits.put(None)  # for another call that waits, as at interpreter exit
        in_order = [error for each in self._workers for error in gone.get(each, ())]
        return in_order, [each for each in self._workers if each not in gone]

    def _leave_all_behind(self, workers: list[Worker]) -> tuple[str, ...]:
        """The stages that do not return, without those that only wait for one of these."""
        stuck = [not worker.waits_for_row() for worker in workers]
        names = [self._leave_behind(*each) for each in zip(workers, stuck, strict=True)]
        return tuple(itertools.compress(names, stuck))

    def _leave_behind(self, worker: Worker, stuck: bool) -> str:
        """Name the stage that does not return; its item is the ledger's to count, its caller
        is told.

        Args:
            stuck: the stage itself is. Else what it waits for may return yet, and then it is
                cleaned up in peace.
        """
        position = worker.where()
        worker.instances[position].leave_behind(forsake=stuck)
        hands = worker.in_hand()
        for hand in hands:
            if hand.reply is not None:
                hand.reply.settle(None, self._abandoned(worker, hand))
        if worker.chain is not None:
            worker.chain.abandon(hands)
        return self._run.plan.stages[worker.lane.segment[position]].name

    def _abandoned(self, worker: Worker, hand: Envelope) -> StageError:
        path = self._run.plan.stages[worker.lane.segment[worker.where()]].name
        return StageError(
            f"stage {path!r} did not return from item {hand.seq} before the pipeline was stopped",
            path=path,
            seq=hand.seq,
            item=self._run.shown(hand),
        )
