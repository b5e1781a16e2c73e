"""The sequencer: results leave in the order in which their items were taken."""

from __future__ import annotations

import random
import threading
from queue import SimpleQueue
from typing import Any

import pytest
from pystream_threads._mark import Mark
from pystream_threads._order import Sequencer

from pystream_core import Channel, Envelope
from pystream_core.testing import wait_until


def make(
    *, ordered: bool = True, adapt: bool = False, workers: int = 4
) -> tuple[Sequencer, Channel[Envelope], list[Any]]:
    """A sequencer that hands on to a list."""
    channel: Channel[Envelope] = Channel(100, workers=workers)
    out: list[Any] = []
    sequencer = Sequencer(channel, out.append, out.append, ordered=ordered, adapt=adapt)
    return sequencer, channel, out


def values(out: list[Any]) -> list[Any]:
    return [each.value if isinstance(each, Envelope) else each for each in out]


def test_results_leave_in_the_order_of_their_tickets() -> None:
    """Whatever the order in which they come back."""
    sequencer, _, out = make()
    for ticket in (2, 0, 3, 1):
        sequencer.give_back(ticket, Envelope(ticket), 0)
    assert values(out) == [0, 1, 2, 3]


def test_a_result_leaves_the_moment_it_is_its_turn() -> None:
    """Not when a batch is complete."""
    sequencer, _, out = make()
    sequencer.give_back(0, Envelope(0), 0)
    assert values(out) == [0]
    sequencer.give_back(2, Envelope(2), 0)
    assert values(out) == [0]
    sequencer.give_back(1, None, 0)
    assert values(out) == [0, 2]


def test_an_unordered_stage_hands_on_at_once_and_only_marks_wait() -> None:
    """A mark still says that everything before it has been handed on."""
    sequencer, _, out = make(ordered=False)
    mark = Mark()
    sequencer.give_back(2, mark, -1)
    sequencer.give_back(1, Envelope(1), 0)
    assert values(out) == [1]
    sequencer.give_back(0, Envelope(0), 0)
    assert values(out) == [1, 0, mark]


def test_every_credit_comes_back() -> None:
    """Also for items that ended without a result; a mark holds none."""
    sequencer, channel, _ = make()
    bound = channel.bound
    for _ in range(bound):
        assert channel.reserve(0)
    assert not channel.reserve(0)
    for ticket in range(bound):
        sequencer.give_back(ticket, None if ticket % 2 else Envelope(ticket), 0)
    sequencer.give_back(bound, Mark(), -1)
    assert sum(channel.reserve(0) for _ in range(bound + 3)) == bound


def test_a_generator_waits_for_its_turn_and_becomes_the_releaser() -> None:
    """It sends while others only deposit, then lets the rest go."""
    sequencer, _, out = make()
    answers: SimpleQueue[bool] = SimpleQueue()
    waiter = threading.Thread(target=lambda: answers.put(sequencer.wait_turn(1)))
    waiter.start()
    sequencer.give_back(2, Envelope(2), 0)
    assert out == []
    sequencer.give_back(0, Envelope(0), 0)
    assert answers.get(timeout=5)
    waiter.join(5)
    out.append("expanded")
    sequencer.end_turn(0)
    assert values(out) == [0, "expanded", 2]


def test_stop_ends_the_wait_for_a_turn() -> None:
    """A ticket before it may never come back."""
    sequencer, _, _ = make()
    answers: SimpleQueue[bool] = SimpleQueue()
    waiter = threading.Thread(target=lambda: answers.put(sequencer.wait_turn(5)))
    waiter.start()
    assert wait_until(lambda: sequencer._waiters)
    sequencer.stop()
    assert answers.get(timeout=5) is False
    waiter.join(5)


def test_what_never_had_its_turn_is_swept() -> None:
    """Results behind a ticket that is lost are given to the closer."""
    sequencer, _, out = make()
    mark = Mark()
    sequencer.give_back(1, Envelope("late"), 0)
    sequencer.give_back(2, mark, -1)
    assert values(sequencer.sweep()) == ["late", mark]
    assert out == []


@pytest.mark.parametrize("seed", range(5))
def test_order_holds_with_many_workers_and_tiny_switches(
    seed: int, tiny_switch_interval: None
) -> None:
    """Eight threads give back 2,000 tickets; none is lost, doubled or out of order."""
    sequencer, _, out = make(workers=8)
    tickets = list(range(2000))
    random.Random(seed).shuffle(tickets)
    todo: SimpleQueue[int] = SimpleQueue()
    for ticket in tickets:
        todo.put(ticket)

    def work() -> None:
        while not todo.empty():
            try:
                ticket = todo.get_nowait()
            except Exception:
                return
            if ticket % 50 == 7 and sequencer.is_turn(ticket):
                assert sequencer.wait_turn(ticket)
                out.append(Envelope(ticket))
                sequencer.end_turn(0)
            else:
                sequencer.give_back(ticket, Envelope(ticket), 0)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    assert values(out) == list(range(2000))
