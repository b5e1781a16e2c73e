"""Handing on in order what several workers finish out of order."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

from pystream_core import Channel, Envelope

from ._mark import Mark


class Sequencer:
    """The exit of a stage with several workers.

    Every item and mark that a worker takes gets a ticket, and every ticket is given back:
    with a result, with a mark, or with nothing. An ordered stage hands results on in the order
    of the tickets, each the moment it is its turn; an unordered one at once, and only marks
    wait for every ticket before theirs.

    Who touches what: ``_lock`` guards the tickets and is held for a few instructions, never
    while something is handed on. Handing on is done by one worker at a time, the releaser:
    whoever gives a ticket back while nobody is releasing. It goes on until the ticket whose
    turn it is has not come back yet, so no result can be left behind: either its worker finds
    a releaser, who will look again, or it becomes one. ``_sending`` keeps the workers of an
    unordered stage from sending at once; its holder is freed by the close of the next channel.

    Args:
        source: the channel in front of the stage; gets its credits back here.
        send: hands an item to the next stage; may block.
        post: hands a mark to the next stage; never blocks.
        ordered: restore the order of the tickets.
        adapt: fit the bound of ``source`` to the workers' cycle times.
    """

    def __init__(
        self,
        source: Channel[Envelope],
        send: Callable[[Envelope], None],
        post: Callable[[Mark], None],
        *,
        ordered: bool,
        adapt: bool,
    ) -> None:
        self._source = source
        self._send = send
        self._post = post
        self._ordered = ordered
        self._adapt = adapt
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._turn = 0
        self._releasing = False
        self._ready: dict[int, tuple[Envelope | Mark | None, int]] = {}
        self._waiters: dict[int, SimpleQueue[bool]] = {}
        self._stopped = False

    def give_back(self, ticket: int, outcome: Envelope | Mark | None, cycle_ns: int) -> None:
        """A worker is done with what it took.

        Blocks only a releaser (unordered: a sender), while the next stage's channel is full.

        Args:
            ticket: of what it took.
            outcome: a result to hand on, a mark, or None when the item has ended.
            cycle_ns: what the worker's whole cycle took; -1 for a mark, which holds no credit.
        """
        if not self._ordered and cycle_ns >= 0:
            with self._sending:
                if isinstance(outcome, Envelope):
                    self._send(outcome)
                self._return_credit(cycle_ns)
            outcome, cycle_ns = None, -1
        with self._lock:
            self._ready[ticket] = (outcome, cycle_ns)
            if self._releasing:
                return
            self._releasing = True
        self._release_ready()

    def wait_turn(self, ticket: int) -> bool:
        """Wait until everything before this ticket is handed on; the caller is the releaser
        then, until ``end_turn``. False when the pipeline is stopped meanwhile."""
        with self._lock:
            if self._turn == ticket and not self._releasing:
                self._releasing = True
                return True
            waiter: SimpleQueue[bool] = SimpleQueue()
            self._waiters[ticket] = waiter
            if self._stopped:  # looked at after the store, set before stop looks at _waiters
                del self._waiters[ticket]
                return False
        return waiter.get()

    def is_turn(self, ticket: int) -> bool:
        """Whether everything before this ticket has been handed on."""
        return self._turn == ticket

    def end_turn(self, cycle_ns: int) -> None:
        """Give the ticket of ``wait_turn`` back; its outputs have been sent."""
        self._return_credit(cycle_ns)
        with self._lock:
            self._turn += 1
        self._release_ready()

    def send_alone(self, envelope: Envelope) -> None:
        """Hand one output of an unordered stage on, ahead of its ticket."""
        with self._sending:
            self._send(envelope)

    def stop(self) -> None:
        """End the waits in ``wait_turn``, now and later. Never blocks, takes no lock."""
        self._stopped = True
        for waiter in list(self._waiters.values()):
            waiter.put(False)

    def sweep(self) -> list[Envelope | Mark]:
        """Results and marks whose turn never came. For the closer."""
        with self._lock:
            ready = list(self._ready.values())
            self._ready.clear()
        return [outcome for outcome, _ in ready if outcome is not None]

    def _release_ready(self) -> None:
        while True:
            with self._lock:
                if self._turn not in self._ready:
                    # The role goes to a generator that waits for this turn, or to nobody.
                    waiter = self._waiters.pop(self._turn, None)
                    self._releasing = waiter is not None
                    break
                outcome, cycle_ns = self._ready.pop(self._turn)
                self._turn += 1
            if isinstance(outcome, Mark):
                self._post(outcome)
            elif outcome is not None:
                self._send(outcome)
            if cycle_ns >= 0:
                self._return_credit(cycle_ns)
        if waiter is not None:
            waiter.put(True)

    def _return_credit(self, cycle_ns: int) -> None:
        if self._adapt:
            self._source.resize(cycle_ns)
        self._source.release()
