"""The channel's bounds and the baton's closing."""

from __future__ import annotations

import random
import select
import sys
import threading
from collections.abc import Iterator
from queue import Empty
from time import monotonic
from typing import Any

import pytest

from pystream_core import Bell, Channel, ChannelClosed, Mailbox
from pystream_core._channel import LARGEST, LARGEST_LOT, WINDOW_NS, Baton
from pystream_core.testing import in_thread

DEADLINE = 5.0
MS = 1_000_000


@pytest.fixture
def switching() -> Iterator[None]:
    """Let threads take turns as often as possible."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def room(channel: Channel[Any]) -> int:
    """How many credits there are; they are given back."""
    taken = 0
    while channel.reserve(0):
        taken += 1
    for _ in range(taken):
        channel.cancel()
    return taken


# -- bounds --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capacity", "workers", "spare", "expected"),
    [("auto", 1, 0, 1), ("auto", 3, 0, 3), ("auto", 1, 1, 2), (1, 1, 0, 2), (5, 2, 1, 7)],
)
def test_a_new_channel_has_its_bound(
    capacity: Any, workers: int, spare: int, expected: int
) -> None:
    """``auto`` starts at one for each worker; a number counts the items that wait besides."""
    channel: Channel[int] = Channel(capacity, workers=workers, spare=spare)
    assert channel.bound == room(channel) == expected


def test_a_full_channel_refuses_and_takes_again_after_a_release() -> None:
    """``reserve`` with a timeout says False in time, and a release makes room."""
    channel: Channel[int] = Channel(1)
    assert channel.reserve()
    assert channel.reserve(0.01)
    start = monotonic()
    assert channel.reserve(0.05) is False
    assert 0.04 < monotonic() - start < DEADLINE
    assert channel.reserve(0) is channel.reserve(-1) is False
    channel.send(1)
    assert channel.receive() == 1
    assert channel.reserve(0) is False  # in a hand, not yet released
    channel.release()
    assert channel.reserve(0) is True


def test_the_bound_at_most_doubles() -> None:
    """From 1 before a trivial consumer: 2, 4, 8, … up to the largest."""
    channel: Channel[int] = Channel()
    bounds = []
    for _ in range(12):
        channel.resize(1)
        bounds.append(channel.bound)
    assert bounds[:5] == [2, 4, 8, 16, 32]
    assert bounds[-1] == LARGEST == room(channel)


def test_the_bound_holds_about_a_millisecond_of_work() -> None:
    """A cycle of 100 us gives ten items, one of 5 ms a single one."""
    channel: Channel[int] = Channel()
    for _ in range(10):
        channel.resize(WINDOW_NS // 10)
    assert channel.bound == room(channel) == 10
    channel.resize(5 * MS)
    assert channel.bound == room(channel) == 1  # at once, unused credits are taken back


def fit(channel: Channel[Any], cycle: int, waited: int, times: int) -> list[int]:
    """The bounds while a consumer takes and waits for so long."""
    bounds = []
    for _ in range(times):
        channel.resize(cycle, waited)
        bounds.append(channel.bound)
    return bounds


def test_a_consumer_that_waits_now_and_then_gets_one_item_to_spare() -> None:
    """Neighbours of the same speed then do not wait for one another in turn."""
    assert fit(Channel(), 5 * MS, MS // 3, 20)[-1] == 2


def test_a_consumer_that_waits_much_gets_three_items_to_spare() -> None:
    """Since its share of the processors comes in pieces, or its source in bursts."""
    assert fit(Channel(), 5 * MS, 5 * MS, 20)[-1] == 4


def test_a_consumer_that_waits_no_longer_than_waking_takes_gets_one_item_to_spare() -> None:
    """A tenth of its time is much for stages of 10 ms; for those of 1 ms it is what waking a
    thread takes, and more waiting items would only make them later."""
    assert fit(Channel(), 10 * MS, MS, 20)[-1] == 4
    assert fit(Channel(), MS, MS // 10, 20)[-1] == 2


def test_nothing_lies_ready_in_front_of_a_bottleneck() -> None:
    """One that always finds an item, or that waits to hand it on, keeps its bound of one; and
    it comes back to that when it is the bottleneck only from now on."""
    channel: Channel[Any] = Channel()
    assert set(fit(channel, 5 * MS, 0, 20)) == {1}
    assert set(fit(channel, 50 * MS, MS, 20)) == {1}
    assert fit(channel, 5 * MS, 5 * MS, 20)[-1] == 4
    assert fit(channel, 5 * MS, 0, 20)[-1] == 1


def test_what_lies_ready_stays_while_it_is_used() -> None:
    """A consumer that waits hardly any more thanks to it keeps it: else the bound swung."""
    channel: Channel[Any] = Channel()
    fit(channel, 5 * MS, MS // 3, 20)
    assert set(fit(channel, 5 * MS, MS // 10, 20)) == {2}


def test_a_bound_for_several_workers_is_as_many_times_as_large() -> None:
    """At least one item for each worker, at most the largest bound for each."""
    channel: Channel[int] = Channel(workers=3)
    channel.resize(100 * MS)
    assert channel.bound == room(channel) == 3
    for _ in range(20):
        channel.resize(0)
    assert channel.bound == room(channel) == 3 * LARGEST


def test_a_spare_place_stays_in_any_case() -> None:
    """Dropping the oldest needs one waiting item."""
    channel: Channel[int] = Channel(spare=1)
    channel.resize(100 * MS)
    assert channel.bound == room(channel) == 2


def test_credits_in_use_are_kept_back_when_they_return() -> None:
    """A bound that shrinks under the items inside is reached as they leave."""
    channel: Channel[int] = Channel()
    for _ in range(4):
        channel.resize(1)
    assert channel.bound == 16
    for _ in range(16):
        assert channel.reserve(0)
    channel.resize(10 * MS)
    assert channel.bound == 1
    for _ in range(15):
        channel.release()
        assert room(channel) == 0
    channel.release()
    assert room(channel) == 1


def test_growing_again_forgives_what_is_owed() -> None:
    """Credits still in hands count before new ones are made."""
    channel: Channel[int] = Channel()
    for _ in range(3):
        channel.resize(1)
    for _ in range(8):
        assert channel.reserve(0)
    channel.resize(10 * MS)  # 8 in use, 1 allowed: 7 owed
    channel.resize(1)  # 2 allowed
    assert (channel.bound, room(channel)) == (2, 0)
    for _ in range(8):
        channel.release()
    assert room(channel) == 2


@pytest.mark.parametrize("seed", range(20))
def test_credits_add_up_after_any_operations(seed: int) -> None:
    """Free, used and owed credits always make the bound."""
    chance = random.Random(seed)
    workers, spare = chance.randint(1, 3), chance.randint(0, 1)
    channel: Channel[int] = Channel(workers=workers, spare=spare)
    used = 0
    for _ in range(500):
        operation = chance.choice(["reserve", "reserve", "release", "resize", "cancel"])
        if operation == "reserve":
            used += channel.reserve(0)
        elif operation == "release" and used:
            channel.release()
            used -= 1
        elif operation == "resize":
            before = channel.bound
            channel.resize(chance.choice([1, 10_000, 200_000, MS, 10 * MS]))
            assert workers + spare <= channel.bound <= before * 2
        elif operation == "cancel" and used:
            channel.cancel()
            used -= 1
    for _ in range(used):
        channel.release()
    free = room(channel)
    # a cancelled credit comes back at once, also while some are owed
    assert channel.bound <= free <= channel.bound + channel._debt


@pytest.mark.parametrize(("cycle", "expected"), [(10 * MS, 1), (100_000, 1), (1, 64)])
def test_large_bounds_are_timed_seldom(cycle: int, expected: int) -> None:
    """Small channels time every item, large ones every 64th."""
    channel: Channel[int] = Channel()
    for _ in range(10):
        following = channel.resize(cycle)
    assert following == expected


# -- closing -------------------------------------------------------------------------------


def test_closing_wakes_everyone_who_waits() -> None:
    """All who ask for room raise, the receiver gets the closing token, now and later."""
    stop = object()
    channel: Channel[Any] = Channel(closing=stop)
    assert channel.reserve()
    ended: list[Any] = []

    def ask() -> None:
        try:
            channel.ask()
        except ChannelClosed as error:
            ended.append(type(error))

    def receive() -> None:
        found = channel.receive()
        channel.post(found)
        ended.append(found)

    threads = [threading.Thread(target=work) for work in [*[ask] * 4, receive]]
    for thread in threads:
        thread.start()
    channel.close()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()
    assert ended.count(ChannelClosed) == 4
    assert ended.count(stop) == 1
    with pytest.raises(ChannelClosed):
        channel.reserve()
    with pytest.raises(ChannelClosed):
        channel.reserve(DEADLINE)
    assert channel.receive() is stop


def test_a_call_lets_one_of_those_who_ask_look_again() -> None:
    """It brings no credit, and is not taken for one when the bound shrinks."""
    channel: Channel[Any] = Channel()
    channel.resize(1)
    assert channel.reserve()
    channel.call()
    channel.resize(100 * MS)
    found = [channel.ask(0) for _ in range(3)]
    assert sorted(found, key=str) == [0, None, None]


def test_a_lot_lies_with_the_sender_and_the_rest_can_be_taken_back() -> None:
    """A bound that shrinks at once leaves at most one lot of credits with the sender."""
    channel: Channel[Any] = Channel()
    for _ in range(10):
        channel.resize(1)
    assert channel.reserve()
    channel.resize(100 * MS)
    assert channel.bound == 1
    assert room(channel) <= LARGEST_LOT


@pytest.mark.usefixtures("switching")
@pytest.mark.parametrize("posts", [1, 3])
def test_no_item_waits_beside_a_sleeping_receiver(posts: int) -> None:
    """However a receiver's falling asleep and the senders' looks at it interleave."""
    channel: Channel[int] = Channel()
    each = 2000

    def post() -> None:
        for number in range(each):
            channel.post(number)

    threads = [threading.Thread(target=post) for _ in range(posts)]
    for thread in threads:
        thread.start()
    received = [channel.receive(timeout=DEADLINE) for _ in range(each * posts)]
    for thread in threads:
        thread.join(DEADLINE)
    assert sorted(received) == sorted([*range(each)] * posts)


def test_items_before_a_close_can_still_be_received() -> None:
    """They come first, and ``sweep`` takes out what nobody wanted."""
    channel: Channel[Any] = Channel(3, closing="closed")
    for item in "abc":
        assert channel.reserve()
        channel.send(item)
    channel.close()
    assert channel.receive() == "a"
    assert channel.sweep() == ["b", "c", "closed"]
    with pytest.raises(Empty):
        channel.receive(timeout=0.001)


def test_refusing_sends_away_senders_only() -> None:
    """Receivers do not notice."""
    channel: Channel[Any] = Channel(1)
    assert channel.reserve()
    channel.send("a")
    assert channel.reserve()
    channel.refuse()
    with pytest.raises(ChannelClosed):
        channel.reserve()
    assert channel.receive() == "a"
    with pytest.raises(Empty):
        channel.receive(timeout=0.001)


def test_evicting_takes_the_oldest_or_nothing() -> None:
    """With its credit still spent."""
    channel: Channel[Any] = Channel(2)
    assert channel.evict() is None
    for item in "ab":
        assert channel.reserve()
        channel.send(item)
    assert channel.evict() == "a"
    assert channel.receive() == "b"


def test_shrinking_beside_a_close_keeps_it_closed() -> None:
    """Taking credits back does not swallow the closing token."""
    channel: Channel[Any] = Channel()
    for _ in range(5):
        channel.resize(1)
    channel.close()
    channel.resize(100 * MS)
    with pytest.raises(ChannelClosed):
        while channel.reserve(0):
            pass


@pytest.mark.usefixtures("switching")
def test_a_channel_under_stress_keeps_order_and_bound() -> None:
    """With a thread switch at every chance: everything once, in order, within the bound."""
    channel: Channel[int] = Channel()
    inside = [0, 0]  # sent, released
    largest = 0

    def send() -> None:
        for item in range(3000):
            channel.reserve()
            inside[0] += 1
            channel.send(item)

    sender = threading.Thread(target=send)
    sender.start()
    chance = random.Random(1)
    for expected in range(3000):
        assert channel.receive(timeout=DEADLINE) == expected
        largest = max(largest, inside[0] - inside[1])
        channel.resize(chance.choice([1, 100_000, 5 * MS]))
        inside[1] += 1
        channel.release()
    sender.join(DEADLINE)
    assert largest <= LARGEST + LARGEST_LOT  # what lay with the sender when the bound shrank
    assert room(channel) == channel.bound + channel._debt


# -- the baton -----------------------------------------------------------------------------


def test_a_baton_is_held_by_one_thread() -> None:
    """A second one waits at most its timeout."""
    baton = Baton()
    assert baton.acquire()
    assert baton.mine()
    assert baton.acquire(0) is baton.acquire(0.01) is False
    baton.release()
    assert not baton.mine()
    assert baton.acquire(0)


def test_closing_a_baton_sends_waiters_away_and_leaves_the_holder() -> None:
    """The holder goes on; ``wait_free`` waits for it, and says when it does not come."""
    baton = Baton()
    assert baton.acquire()
    sent_away = threading.Semaphore(0)

    def wait() -> None:
        try:
            baton.acquire()
        except ChannelClosed:
            sent_away.release()

    threads = [threading.Thread(target=wait) for _ in range(5)]
    for thread in threads:
        thread.start()
    baton.close()
    for thread in threads:
        assert sent_away.acquire(timeout=DEADLINE)
        thread.join(DEADLINE)
    assert baton.mine()
    assert baton.wait_free(0.01) is False
    threading.Timer(0.02, baton.release).start()
    assert baton.wait_free(DEADLINE) is True
    assert baton.wait_free(0) is True
    with pytest.raises(ChannelClosed):
        baton.acquire()
    with pytest.raises(ChannelClosed):
        baton.acquire(0)


@pytest.mark.usefixtures("switching")
def test_wait_free_neither_misses_a_release_nor_comes_early() -> None:
    """300 closes among three threads that take turns: nobody works after ``wait_free``."""
    for _ in range(300):
        baton = Baton()
        working = [False]
        started = threading.Barrier(4)

        def work(
            baton: Baton = baton, working: list[bool] = working, started: Any = started
        ) -> None:
            started.wait(DEADLINE)
            try:
                while True:
                    baton.acquire()
                    working[0] = True
                    working[0] = False
                    baton.release()
            except ChannelClosed:
                pass

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        started.wait(DEADLINE)
        baton.close()
        assert baton.wait_free(DEADLINE)
        assert working == [False]
        for thread in threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()
        assert working == [False]


def test_everyone_who_waits_for_a_closed_baton_learns_that_it_is_free() -> None:
    """The one release after a close ends all waits, not only the first."""
    baton = Baton()
    assert baton.acquire()
    baton.close()
    waiting = threading.Barrier(4)
    came: list[float] = []

    def wait() -> None:
        waiting.wait(DEADLINE)
        start = monotonic()
        assert baton.wait_free(DEADLINE)
        came.append(monotonic() - start)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    waiting.wait(DEADLINE)
    threading.Timer(0.05, baton.release).start()
    for thread in threads:
        thread.join(2 * DEADLINE)
    assert len(came) == 3
    assert max(came) < DEADLINE / 2


def test_a_late_release_does_not_pass_for_the_holders(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread has given the baton on and is slow to post; the next one still holds it."""
    baton = Baton()

    def slow(tokens: Any, token: Any) -> None:
        """The next holder and the closer go first."""
        monkeypatch.undo()
        tokens.put(token)
        assert baton.acquire(DEADLINE)
        baton.close()

    assert baton.acquire()
    monkeypatch.setattr(Mailbox, "post", slow)
    baton.release()
    assert baton.mine()
    assert baton.wait_free(0.01) is False
    baton.release()
    assert baton.wait_free(DEADLINE) is True


# -- waiting elsewhere -------------------------------------------------------------------


def test_a_receiver_that_waits_elsewhere_is_rung_for() -> None:
    """Once for each time that it says so, by items, tokens and the close alike."""
    rung: list[str] = []
    channel: Channel[int] = Channel(4, closing="closed", ring=lambda: rung.append("ring"))
    assert channel.reserve(0)
    channel.send(1)
    assert rung == []  # nobody waits
    for number, act in enumerate((lambda: channel.post("mark"), channel.close), 1):
        channel.parked = True
        act()
        act()
        assert not channel.parked
        assert len(rung) == number
    assert channel.sweep()[:3] == [1, "mark", "mark"]


@pytest.mark.skipif(not hasattr(select, "poll"), reason="select.poll is not there")
def test_a_bell_wakes_whoever_waits_for_its_descriptor() -> None:
    """However often it is rung, until it is silenced; given back it is the next one to be taken."""
    bell = Bell.take()
    poll = select.poll()
    poll.register(bell, select.POLLIN)
    assert poll.poll(0) == []
    in_thread(lambda: [bell.ring() for _ in range(100_000)]).wait()  # more than a pipe holds
    assert poll.poll(0) == [(bell.fileno(), select.POLLIN)]
    while poll.poll(0):
        bell.silence()
    bell.ring()
    bell.give_back()
    assert Bell.take() is bell
    assert poll.poll(0) == []
    bell.give_back()
