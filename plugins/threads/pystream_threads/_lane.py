"""One stage in threads: the channel in front of it and the workers that serve it."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from queue import Empty
from time import perf_counter_ns
from typing import Any

from pystream_core import (
    Chain,
    Channel,
    ChannelClosed,
    Envelope,
    Instance,
    PlacedStage,
    Run,
    StageError,
    Step,
)

from ._flight import Flight, Landed
from ._junction import Entrance, fan_out
from ._mark import STOP, Mark
from ._order import Sequencer
from ._row import Row
from ._straight import serve_straight

logger = logging.getLogger("PyStream")

_AHEAD = 16  # outputs that a generator may make before it is its turn


class Lane:
    """A segment of the plan, the channel in front of it and the way out.

    ``put`` is called by one sender at a time: the front under its lock, the single worker of
    the lane before, or the releaser of its sequencer.

    Args:
        run: the run.
        segment: indexes of the stages that its workers run back to back.
        ring: wakes its worker, if that waits elsewhere.
    """

    def __init__(self, run: Run, segment: range, ring: Callable[[], object] | None = None) -> None:
        options = run.plan.stages[segment[0]].options
        self.run = run
        self.segment = segment
        self.in_flight = run.plan.workers(segment)
        # coroutines need no thread each; a factory's are known too late for that
        awaits = len(segment) == 1 and run.plan.stages[segment[0]].kind == "coroutine"
        self.size = 1 if awaits else self.in_flight
        self.ordered = options.ordered
        self.adapts = options.capacity == "auto"
        self.blocks = options.overflow == "block"
        self.channel: Channel[Any] = Channel(
            options.capacity,
            workers=self.in_flight,
            spare=0 if self.blocks else 1,
            closing=STOP,
            ring=ring,
        )
        self.sequencer: Sequencer | None = None
        self._put = self.channel.sender(self._refused)
        feeders = [run.plan.stages[feeder] for feeder in run.plan.graph.feeders[segment[0]]]
        # what a placed stage gives out is where it is
        brings = options.placement and any(not each.options.placement for each in feeders)
        self.put: Callable[[Envelope], None] = {
            "block": self._bring_and_put if brings else self._put,
            "drop_newest": self._put_or_drop,
            "drop_oldest": self._put_in_place_of_oldest,
        }[options.overflow]
        self._trace = run.trace()
        self._taking = threading.Lock()  # a ticket goes with a receive; freed by the close
        self._tickets = 0

    def join_to(self, entrances: Mapping[int, Entrance]) -> None:
        """Say where results and marks go.

        Args:
            entrances: by the stage behind it; under the number of stages that to the output.
        """
        followers = self.run.plan.graph.followers
        exits = {}
        for stage in self.segment:
            outside = [entrances[each] for each in followers[stage] if each not in self.segment]
            if outside:
                exits[stage] = fan_out(outside, stage)
        self.sends = {stage: send for stage, (send, _) in exits.items()}
        posts = [post for _, post in exits.values()]
        self.send = self.sends[self.segment[-1]]
        ends = followers[self.segment[-1]]
        self.ahead = entrances[ends[0]].channel if len(ends) == 1 else None
        self.post = posts[0] if len(posts) == 1 else partial(_post_to_all, posts)
        if self.size > 1:
            self.sequencer = Sequencer(
                self.channel, self.send, self.post, ordered=self.ordered, adapt=self.adapts
            )

    @cached_property
    def bring(self) -> Callable[[Any], Any] | None:
        """What moves a value to where its stage works, while that works on another one; None when
        the stage is not placed. To be asked when every stage is set up."""
        stage = self.run.instances[self.segment.start].of_worker(0).stage
        if not (self.blocks and isinstance(stage, PlacedStage)):
            return None
        return partial(_brought, stage, self.run.plan.stages[self.segment.start].name)

    def take(self) -> tuple[Any, int]:
        """What comes next, with its ticket; for lanes with several workers."""
        with self._taking:
            found = self.channel.receive()
            if found is STOP:
                self.channel.post(STOP)  # for the next worker
                return found, -1
            ticket = self._tickets
            self._tickets += 1
            return found, ticket

    def close(self) -> None:
        """Send everyone away who waits here. Never blocks, takes no lock."""
        self.channel.close()
        if self.sequencer is not None:
            self.sequencer.stop()

    def sweep(self) -> None:
        """Count what nobody will take any more. For the closer, when the workers are gone."""
        for left in self.channel.sweep():
            if isinstance(left, Envelope):
                self.run.lose(left, self.segment.start, self._trace)
            elif isinstance(left, Landed):  # for a worker left behind, which waits for it
                self.channel.post(left)
            elif left is not STOP:
                left.arrive(False)
        for result in self.sequencer.sweep() if self.sequencer is not None else ():
            if isinstance(result, Envelope):
                self.run.lose_behind(result, self.segment[-1], self._trace)
            else:
                result.arrive(False)
        self.channel.close()  # for a worker left behind that comes back after all

    def _bring_and_put(self, envelope: Envelope) -> None:
        if self.bring is not None:
            envelope.value = self.bring(envelope.value)
        self._put(envelope)

    def _refused(self, envelope: Envelope) -> None:
        self.run.lose(envelope, self.segment.start, self._trace)

    def _put_or_drop(self, envelope: Envelope) -> None:
        try:
            room = self.channel.reserve(0)
        except ChannelClosed:
            self.run.lose(envelope, self.segment.start, self._trace)
            return
        if room:
            self.channel.send(envelope)
        else:
            self.run.lose(envelope, self.segment.start, self._trace, "overflow")

    def _put_in_place_of_oldest(self, envelope: Envelope) -> None:
        """The oldest waiting item gives its place. When none waits, since all are in hands or
        wait for their turn behind a slow one, the new item is the one to go."""
        marks = []
        lost: Envelope = envelope
        reason = "overflow"
        try:
            while not self.channel.reserve(0):
                oldest = self.channel.evict()
                if isinstance(oldest, Envelope):
                    lost = oldest
                elif oldest is not None:
                    marks.append(oldest)
                    continue
                elif self.channel.reserve(0):  # one was given back just now
                    lost, reason = envelope, ""
                self._finish_put(envelope, lost, reason, marks)
                return
        except ChannelClosed:
            for mark in marks:
                self.channel.post(mark)
            self.run.lose(envelope, self.segment.start, self._trace)
            return
        self._finish_put(envelope, envelope, "", marks)

    def _finish_put(
        self, envelope: Envelope, lost: Envelope, reason: str, marks: list[Any]
    ) -> None:
        for mark in marks:
            self.channel.post(mark)
        if lost is not envelope or not reason:
            self.channel.send(envelope)
        if reason:
            self.run.lose(lost, self.segment.start, self._trace, reason)


def _brought(stage: PlacedStage, path: str, value: Any) -> Any:
    """What waits in place of a value: itself, if the stage breaks its word and raises."""
    try:
        return stage.bring(value)
    except Exception as error:
        kind = type(error).__name__
        logger.error("bring() of stage %r raised %s", path, kind, exc_info=error)
        return value


def _post_to_all(posts: Sequence[Callable[[Mark], None]], mark: Mark) -> None:
    for post in posts:
        post(mark)


class Worker:
    """One thread of a lane and the stage instances that are its own.

    Its thread alone touches it, but for ``in_hand()`` and ``where()``, which the closer calls to
    name a call that does not return.

    Args:
        lane: that it serves.
        instances: its own of the stages.

    Attributes:
        row: that it belongs to, if it does; the first worker of that works for all.
        hand: the item it works on, None in between.
    """

    def __init__(self, lane: Lane, instances: list[Instance]) -> None:
        self.lane = lane
        self.instances = instances
        self.row: Row | None = None
        self.hand: Envelope | None = None
        self.chain: Chain | None = None
        self._flight: Flight | None = None
        self._at: int | None = 0  # the instance in setup or cleanup; None while it serves
        self._prepared: list[Instance] = []

    def prepare(self) -> None:
        """Make and set up its stages. Raises what they raise; those before are cleaned up by
        the worker's end."""
        run = self.lane.run
        trace = run.trace()
        steps = []
        for index, instance in zip(self.lane.segment, self.instances, strict=True):
            self._at = len(self._prepared)
            try:
                instance.prepare(run.plan.stages[index], run.event_loop, lambda: run.halted)
            except (KeyboardInterrupt, SystemExit, GeneratorExit) as error:
                path = run.plan.stages[index].name  # in a worker they are ordinary failures
                raise StageError(
                    f"stage {path!r} could not be set up: {type(error).__name__}", path=path
                ) from error
            self._prepared.append(instance)
            steps.append(Step(run, index, instance, trace, in_caller=False))
        self.chain = Chain(run, steps, trace)
        self._at = None

    def leave(self, *, clean_up: bool) -> list[BaseException]:
        """Be done with the stages that it has prepared (another one may still be in a call of
        an earlier run); what their cleanups raised."""
        if self.row is not None and self.row.leads(self):
            self.row.end()
        errors = []
        for position, instance in enumerate(self._prepared):
            self._at = position
            error = instance.come_back(clean_up=clean_up)
            if error is not None:
                errors.append(error)
        return errors

    def in_hand(self) -> list[Envelope]:
        """The items that it works on."""
        if self._flight is not None:
            return self._flight.in_hand()
        hand = self.hand
        return [] if hand is None else [hand]

    def where(self) -> int:
        """Position in the lane's segment of the stage that is working."""
        at = self._at
        return self.chain.position if at is None and self.chain is not None else at or 0

    def waits_for_row(self) -> bool:
        """Whether it has nothing to do but to wait for a worker that has."""
        row = self.row
        if row is None or self.hand is not None or self._at is not None or row.over.is_set():
            return False
        return row.busy() or not row.leads(self)

    def serve(self) -> None:
        """Work until the channel is closed and empty."""
        assert self.chain is not None
        if self.row is not None:
            if self.row.leads(self):
                self.row.serve()
            else:
                self.row.over.wait()
        elif self.lane.sequencer is not None:
            self._serve_among_others(self.lane.sequencer)
        elif self.lane.in_flight > 1:
            self._serve_in_flight()
        else:
            self._serve_alone()
        self.chain.lose_held(self.lane.run.reason)

    def _serve_in_flight(self) -> None:
        lane = self.lane
        assert self.chain is not None
        self._flight = Flight(
            lane.run,
            lane.channel,
            self.chain.steps[0],
            limit=lane.in_flight,
            ordered=lane.ordered,
            adapt=lane.adapts,
            send=lane.send,
            post=lane.post,
        )
        self._flight.serve()

    def _serve_alone(self) -> None:
        lane, run, chain = self.lane, self.lane.run, self.chain
        assert chain is not None
        channel = lane.channel
        if not chain.expands:
            serve_straight(
                run,
                chain,
                channel,
                self,
                ahead=lane.ahead,
                send=lane.send,
                post=lane.post,
                adapts=lane.adapts,
                in_lots=lane.adapts and lane.blocks,
            )
            return
        send = self._send_from_where if chain.branches else lane.send
        receive: Callable[[], Any] = channel.receive
        if chain.timed:
            receive = partial(self._receive_or_flush, send)
        release = channel.release
        to_sample = 1 if lane.adapts else -1  # items until the next one is timed
        started = 0
        while True:
            item = receive()
            if item.seq < run.floor:
                if item is STOP:
                    return
                if isinstance(item, Mark):
                    if chain.batches:
                        self._flush(send)
                    lane.post(item)
                else:
                    chain.steps[0].discard(item)
                    release()
                item = None
                continue
            if to_sample == 1:
                started = perf_counter_ns()
            self.hand = item
            try:
                for output in chain.outputs(item):
                    send(output)
                    del output  # let go before the next one is made
            except StageError as failure:
                run.fail(failure)
            self.hand = item = None  # nothing that is done is held while waiting
            to_sample -= 1
            if not to_sample:
                to_sample = channel.resize(perf_counter_ns() - started)
            release()

    def _flush(self, send: Callable[[Envelope], None], *, overdue: bool = False) -> None:
        """Hand on what waits in batching stages."""
        assert self.chain is not None
        try:
            for output in self.chain.flush(overdue=overdue):
                send(output)
        except StageError as failure:
            self.lane.run.fail(failure)

    def _receive_or_flush(self, send: Callable[[Envelope], None]) -> Any:
        """The next item or mark; what has waited for too long is handed on meanwhile."""
        chain, receive = self.chain, self.lane.channel.receive
        assert chain is not None
        while due := chain.due_ns:
            patience = (due - perf_counter_ns()) / 1e9
            if patience > 0:
                try:
                    return receive(patience)
                except Empty:
                    pass
            self._flush(send, overdue=True)
        return receive()

    def _send_from_where(self, output: Envelope) -> None:
        """Send on what has just come out of a segment that branches."""
        assert self.chain is not None
        self.lane.sends[self.lane.segment[self.chain.position]](output)

    def _serve_among_others(self, sequencer: Sequencer) -> None:
        lane, run, chain = self.lane, self.lane.run, self.chain
        assert chain is not None
        while True:
            item, ticket = lane.take()
            if item is STOP:
                return
            if isinstance(item, Mark):
                sequencer.give_back(ticket, item, -1)
                continue
            started = perf_counter_ns()
            if item.seq < run.floor:
                chain.steps[0].discard(item)
                sequencer.give_back(ticket, None, 0)
                continue
            self.hand = item
            result: Envelope | None = None
            try:
                if not chain.expands:
                    result = item if chain.call(item) else None
                elif not lane.ordered:
                    for output in chain.outputs(item):
                        sequencer.send_alone(output)
                elif self._expand_in_order(sequencer, chain.outputs(item), ticket, started):
                    self.hand = item = None
                    continue
            except StageError as failure:
                run.fail(failure)
            self.hand = item = None
            sequencer.give_back(ticket, result, perf_counter_ns() - started)
            result = None

    def _expand_in_order(
        self, sequencer: Sequencer, outputs: Iterator[Envelope], ticket: int, started: int
    ) -> bool:
        """Send the outputs of a generator when it is its turn; a few are made ahead.

        True when the ticket has been given back. False, or a StageError, leaves that to the
        caller.
        """
        lane = self.lane
        ahead: list[Envelope] = []
        failure: StageError | None = None
        try:
            while not sequencer.is_turn(ticket) and len(ahead) < _AHEAD:
                output = next(outputs, None)
                if output is None:
                    break
                ahead.append(output)
        except StageError as error:
            failure = error
        if not sequencer.wait_turn(ticket):
            # Stopped: what follows ends at once, also an item that has not been looked at yet.
            for output in itertools.chain(ahead, outputs):
                lane.run.lose_behind(output, lane.segment[-1], None)
            return False
        try:
            for output in ahead:
                lane.send(output)
            if failure is None:
                for output in outputs:
                    lane.send(output)
        except StageError as error:
            failure = error
        if failure is not None:
            lane.run.fail(failure)
        sequencer.end_turn(perf_counter_ns() - started)
        return True
