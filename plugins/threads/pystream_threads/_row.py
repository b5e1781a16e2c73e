"""A row of placed stages behind one another, served by one thread (a reactor).

A thread for each of them costs two hand-overs per item and stage, to that thread and to the next,
and these take longer than what the threads have to do: they only pass on what other processes
have worked on. So the worker of the first stage looks after the calls of all of them, and waits
for their answers, for new items and for a stop in one place, ``poll``. The other workers set
their stages up and clean them up, side by side, and wait in between.

What is waited for, and what ends the wait:

================  ======================================  =====================================
who               waits for                               ended by
================  ======================================  =====================================
the first worker  an answer, an item in a channel of an   any of these; the call's ``until``; a
                  idle stage                              channel's close, which rings
the same          room behind the last stage, with that   room, or the close of that channel
                  stage's output in hand
other workers     the end of the first one's work         its ``leave``, however it ends
================  ======================================  =====================================

Why no item is missed: every channel of the row rings the same bell. Before it waits the worker
sets ``parked`` for each idle stage and then looks into its channel once more; see Channel. Room
within the row is given back by this very thread, so nobody waits for it.

Who touches what: everything here belongs to the first worker's thread, but ``over``; the chains of
the other workers are theirs until every stage is set up, which is before an item can come.
"""

from __future__ import annotations

import itertools
import select
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from math import inf
from time import monotonic, perf_counter_ns
from typing import TYPE_CHECKING

from pystream_core import (
    Bell,
    ChannelClosed,
    Envelope,
    Plan,
    PolledStage,
    Retry,
    Run,
    StageError,
    Step,
)

from ._mark import STOP, Mark

if TYPE_CHECKING:
    from ._lane import Worker

_AT_ONCE = 64  # items of a stage, until the others are looked at
_SELDOM = 4  # one of so many items of a stage is timed, at most


def groups(plan: Plan) -> Iterator[Sequence[range]]:
    """The segments of a plan, those together that can be served as a row."""
    group: list[range] = []
    for segment in plan.segments:
        if group and not _can_follow(plan, group[-1], segment):
            yield group
            group = []
        group.append(segment)
    if group:
        yield group


def _can_follow(plan: Plan, before: range, behind: range) -> bool:
    graph = plan.graph
    one, other = before[-1], behind[0]
    alone = graph.followers[one] == (other,) and graph.feeders[other] == (one,)
    blocks = plan.stages[other].options.overflow == "block"
    return alone and blocks and _polled(plan, before) and _polled(plan, behind)


def _polled(plan: Plan, segment: range) -> bool:
    """Whether one thread may look after its calls besides others. ``Retry`` waits between two, and
    a generator's outputs are asked for one by one."""
    spec = plan.stages[segment[0]]
    polled = spec.polled and spec.kind == "function"
    retries = isinstance(spec.options.on_error, Retry)
    return len(segment) == 1 and polled and plan.workers(segment) == 1 and not retries


class Place:
    """One stage of a row.

    Attributes:
        worker: that sets it up. Its hand holds the item whose call is under way, or the output of
            that, which waits for room behind.
        lane, channel: the way out, and the way in.
        under_way: the call is.
        ended: its channel is closed and empty.
        until: when to look at that in any case.
        watched: the descriptors that are waited for.
        behind: the next one.
    """

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.lane = worker.lane
        self.channel = worker.lane.channel
        self.under_way = self.ended = False
        self.until = inf
        self.watched: Sequence[int] = ()
        self.behind: Place | None = None
        self.taken_ns = self.free_ns = 0  # when the item was taken; the one before handed on
        self.to_sample = 1 if self.lane.adapts else 0  # items until one is timed; 0: none is

    @cached_property
    def step(self) -> Step:
        """What is done at the stage. There when the first item comes."""
        assert self.worker.chain is not None
        return self.worker.chain.steps[0]

    @cached_property
    def stage(self) -> PolledStage:
        """Where its calls happen."""
        stage = self.step.instance.stage
        assert isinstance(stage, PolledStage)
        return stage


class Row:
    """The stages, from the first to the last.

    Args:
        run: the run.
        bell: rung by the channels of all their lanes.
        workers: of the stages, one each.

    Attributes:
        over: its work is done, or its first worker has left without any.
    """

    def __init__(self, run: Run, bell: Bell, workers: Sequence[Worker]) -> None:
        self.over = threading.Event()
        self._run = run
        self._bell = bell
        self._places = [Place(worker) for worker in workers]
        for place, behind in itertools.pairwise(self._places):
            place.behind = behind
        self._poll = select.poll()
        self._poll.register(bell, select.POLLIN)
        self._place_of: dict[int, Place] = {}  # by descriptor

    def leads(self, worker: Worker) -> bool:
        """Whether it is the first one."""
        return worker is self._places[0].worker

    def busy(self) -> bool:
        """Whether one of its stages has an item. For the closer, to name a stuck one."""
        return any(place.worker.hand is not None for place in self._places)

    def end(self) -> None:
        """The first worker is done with it."""
        self.over.set()
        self._bell.give_back()

    def serve(self) -> None:
        """Work until all channels are closed and empty."""
        places = self._places[::-1]  # room comes from behind
        while not all(place.ended for place in places):
            self._wait()
            for place in places:
                self._move(place)

    # -- what can be done now ----------------------------------------------------------

    def _move(self, place: Place) -> None:
        """Do what there is to do at a stage, as long as there is something: much of it may end at
        once, so the others have a look in between."""
        left = _AT_ONCE
        while not (place.under_way or place.ended):
            if place.worker.hand is not None:
                if not self._hand_on(place, place.worker.hand):
                    return
                continue
            if not left:
                return
            left -= 1
            try:
                item = place.channel.items.popleft()
            except IndexError:
                return
            if item.seq >= self._run.floor:
                self._take(place, item)
                del item
            elif item is STOP:
                place.ended = True
            elif isinstance(item, Mark):
                place.lane.post(item)
            else:
                place.step.discard(item)
                place.channel.release()

    def _take(self, place: Place, item: Envelope) -> None:
        if place.to_sample == 1:
            place.taken_ns = perf_counter_ns()
        place.worker.hand = item
        try:
            through = place.step.submit(item)
        except StageError as failure:
            self._run.fail(failure)
            through = False
        stage = place.stage
        if stage.descriptors is not place.watched:
            self._watch(place, stage.descriptors)
        if through is None:
            place.under_way = True
            place.until = stage.until()
        elif not through:
            self._free(place)

    def _look(self, place: Place) -> None:
        """At a call that is under way."""
        stage = place.stage
        if not stage.done():
            place.until = stage.until()
            return
        assert place.worker.hand is not None
        place.under_way = False
        place.until = inf
        try:
            through = place.step.conclude(place.worker.hand)
        except StageError as failure:
            self._run.fail(failure)
            through = False
        if stage.descriptors is not place.watched:
            self._watch(place, stage.descriptors)
        if not through:
            self._free(place)

    def _hand_on(self, place: Place, output: Envelope) -> bool:
        """Hand its output on, unless there is no room within the row."""
        behind = place.behind
        if behind is not None:
            ahead = behind.channel
            try:
                ahead.room = ahead.room or ahead.ask(0) or 0
            except ChannelClosed:
                pass  # it counts as lost, by the sender
            else:
                if not ahead.room:
                    return False
        place.lane.send(output)
        self._free(place)
        if behind is not None:
            self._move(behind)
        return True

    def _free(self, place: Place) -> None:
        """Its item has been handed on or has ended."""
        place.worker.hand = None
        channel = place.channel
        if place.to_sample:
            place.to_sample -= 1
            if place.to_sample == 1:
                place.free_ns = perf_counter_ns()
            elif not place.to_sample:
                begun = place.taken_ns
                waited = begun - place.free_ns if place.free_ns and place.lane.blocks else 0
                to_sample = channel.resize(perf_counter_ns() - begun, waited)
                place.to_sample = max(to_sample, _SELDOM)
        channel.release()

    # -- waiting -----------------------------------------------------------------------

    def _watch(self, place: Place, descriptors: Sequence[int]) -> None:
        """Wait for these from now on, at this stage."""
        for each in place.watched:
            self._poll.unregister(each)
            del self._place_of[each]
        for each in descriptors:
            self._poll.register(each, select.POLLIN)
            self._place_of[each] = place
        place.watched = descriptors

    def _wait(self) -> None:
        """For an answer, for what comes into a channel, or for the time that a call has; not at
        all when there is something in a channel."""
        until, waiting = inf, False
        for place in self._places:
            if place.worker.hand is None:
                place.channel.parked = True
                waiting = waiting or bool(place.channel.items and not place.ended)
            elif place.until < until:
                until = place.until
        left = max(until - monotonic(), 0.0) if until < inf else inf
        ready = self._poll.poll(0 if waiting else None if left > 1e6 else left * 1e3 + 1)
        for place in self._places:
            place.channel.parked = False
        for descriptor, _ in ready:
            found = self._place_of.get(descriptor)
            if found is None:
                self._bell.silence()
            elif found.under_way:
                self._look(found)
            else:  # what stands behind an idle stage has ended, or was told to: the next call sees
                self._watch(found, ())
        if until < inf and monotonic() >= until:
            for place in self._places:
                if place.under_way:
                    self._look(place)
