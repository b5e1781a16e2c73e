"""Waits with a timeout: they end in time, and nobody sleeps beside what he waits for."""

from __future__ import annotations

import select
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty
from time import monotonic, sleep
from types import FrameType
from typing import Any

import pytest
from pystream_threads._mark import Mark

from pystream_core import (
    Bell,
    Channel,
    ChannelClosed,
    Mailbox,
    Observer,
    Pipeline,
    PipelineTerminated,
    Retry,
    Ticker,
    _mailbox,
)
from pystream_core._channel import Baton
from pystream_core._executor import Reply
from pystream_core._observer import Recorder
from pystream_core._output import Output
from pystream_core.testing import PATIENCE, frantic_switching, in_thread, side_by_side, wait_until

LONG = 60.0  # seconds; whoever waits so long has failed
SHORT = 0.08


@pytest.fixture
def disturb() -> Iterator[Callable[[], None]]:
    """Have a signal come amid a wait of SHORT seconds that begins now, with a handler that takes
    longer than what is left of it."""
    if not hasattr(signal, "setitimer"):
        pytest.skip("this system has no timer that sends a signal")
    before = signal.signal(signal.SIGALRM, lambda *_: sleep(SHORT))
    try:
        yield lambda: signal.setitimer(signal.ITIMER_REAL, SHORT / 2) and None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# -- one wait ------------------------------------------------------------------------------


def test_values_come_out_in_the_order_in_which_they_were_put_in() -> None:
    """Whichever way they go in and out."""
    mailbox: Mailbox[int] = Mailbox()
    mailbox.put(1)
    mailbox.post(2)
    mailbox.put_nowait(3)
    mailbox.put(4)
    assert [mailbox.get(), mailbox.get_within(0), mailbox.get_within(1), mailbox.get_nowait()] == [
        1,
        2,
        3,
        4,
    ]
    assert mailbox.empty()


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 1e-9, 1e-7, 1e-6, 2e-6])
def test_a_wait_that_is_over_as_it_begins_ends(seconds: float) -> None:
    """``SimpleQueue`` found a time that was over by then to have no end."""
    mailbox: Mailbox[int] = Mailbox()
    for _ in range(2000):
        with pytest.raises(Empty):
            mailbox.get_within(seconds)
    assert not mailbox.sleepers


def test_a_wait_lasts_as_long_as_it_is_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not less, also where the sleeper looks for itself in between."""
    monkeypatch.setattr(_mailbox, "_LOOK", SHORT / 8)
    mailbox: Mailbox[int] = Mailbox()
    start = monotonic()
    with pytest.raises(Empty):
        mailbox.get_within(SHORT)
    assert monotonic() - start >= SHORT
    assert not mailbox.sleepers


@pytest.mark.parametrize("seconds", [float("inf"), 10**400, None])
def test_a_wait_may_be_longer_than_any_lock_can_wait(seconds: float | None) -> None:
    """And ends with the value."""
    mailbox: Mailbox[int] = Mailbox()
    waiting = in_thread(lambda: mailbox.get_within(seconds))
    assert seconds is None or wait_until(lambda: mailbox.sleepers)
    mailbox.put(7)
    assert waiting.wait().value == 7
    assert not mailbox.sleepers


def test_ctrl_c_ends_a_wait_and_leaves_nobody_among_the_sleepers() -> None:
    """The next value is not kept for it."""
    if not hasattr(signal, "setitimer"):
        pytest.skip("this system has no timer that sends a signal")
    mailbox: Mailbox[int] = Mailbox()
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, SHORT)
        with pytest.raises(KeyboardInterrupt):
            mailbox.get_within(LONG)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not mailbox.sleepers
    mailbox.put(1)
    assert mailbox.get_within(0) == 1


def test_a_value_that_nobody_was_woken_for_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when Ctrl-C has come between a put and its look."""
    monkeypatch.setattr(_mailbox, "_LOOK", 0.01)
    mailbox: Mailbox[int] = Mailbox()
    waiting = in_thread(lambda: mailbox.get_within(LONG))
    assert wait_until(lambda: mailbox.sleepers)
    mailbox.post(7)
    assert waiting.wait().value == 7


# -- several -------------------------------------------------------------------------------


def twice_each(item: int) -> Iterator[int]:
    """A generator stage."""
    yield item
    yield item


@pytest.fixture
def no_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not woken sleeps on."""
    monkeypatch.setattr(_mailbox, "_LOOK", LONG)


@pytest.mark.usefixtures("no_look")
def test_each_value_wakes_one_sleeper() -> None:
    """Who waits longest first."""
    mailbox: Mailbox[int] = Mailbox()
    waiting = []
    for count in range(1, 4):
        waiting.append(in_thread(lambda: mailbox.get_within(LONG)))
        assert wait_until(lambda count=count: len(mailbox.sleepers) == count)  # type: ignore[misc]
    for number, one in enumerate(waiting):
        mailbox.put(number)
        assert one.wait().value == number
    assert not mailbox.sleepers


@pytest.mark.usefixtures("no_look")
@pytest.mark.parametrize("how", ["timed", "mixed", "short"])
def test_under_stress_every_value_is_taken_once_and_nobody_sleeps_beside_it(how: str) -> None:
    """Four senders, four takers, threads that change places as often as they can: without any
    looking for itself a missed wake-up would be a wait of a minute."""
    mailbox: Mailbox[int] = Mailbox()
    values, takers = 600, 4

    def work(number: int) -> list[int]:
        if number >= takers:
            for value in range(values):
                mailbox.put((number - takers) * values + value)
            return []
        taken = []
        while len(taken) < values:
            if how == "mixed" and number % 2:
                taken.append(mailbox.get())
                continue
            try:
                taken.append(mailbox.get_within(1e-5 if how == "short" else LONG))
            except Empty:
                assert how == "short"
        return taken

    with frantic_switching():
        results: list[Any] = side_by_side(work, 2 * takers)
    assert sorted(value for each in results for value in each) == list(range(takers * values))
    assert not mailbox.sleepers


@pytest.mark.usefixtures("no_look")
def test_a_baton_wakes_who_waits_for_it_with_a_timeout() -> None:
    """Each time that it is given back."""
    baton = Baton()

    def work(number: int) -> int:
        times = 0
        while times < 500:
            assert baton.acquire(LONG if number % 2 else None)
            times += 1
            baton.release()
        return times

    with frantic_switching():
        assert side_by_side(work, 4) == [500] * 4


@pytest.mark.usefixtures("no_look")
@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("use", ["forward", "stream"])
def test_a_serial_pipeline_wakes_who_waits_for_his_turn_with_a_timeout(
    use: str, twice: bool, observed: bool, pipelines: Callable[..., Pipeline]
) -> None:
    """By whichever way the turn is given back: there are short ones for functions."""
    pipeline = pipelines(observers=[Observer()] if observed else [])
    entered, leave = threading.Event(), threading.Event()

    def first(item: int) -> int:
        if item == 0:
            entered.set()
            assert leave.wait(LONG)
        return item

    pipeline.add(first)
    if twice:
        pipeline.add(twice_each)
    pipeline.serialize().start()
    if use == "forward":
        holder = in_thread(lambda: pipeline.forward(0))
    else:
        holder = in_thread(lambda: list(pipeline.stream([0])))
    assert entered.wait(LONG)
    other = in_thread(lambda: pipeline.drain(timeout=LONG))
    session: Any = pipeline._session
    assert wait_until(lambda: session.executor._turn.tokens.sleepers)
    leave.set()
    assert holder.wait().error is None
    assert other.wait().error is None


# -- Ctrl-C ----------------------------------------------------------------------------------


@contextmanager
def ctrl_c_in(function: Any) -> Iterator[None]:
    """Ctrl-C comes at the beginning of whatever function of Python's this one calls next."""

    def interrupt(frame: FrameType, event: str, _: object) -> None:
        caller = frame.f_back
        if event == "call" and caller is not None and caller.f_code is function.__code__:
            raise KeyboardInterrupt

    before = sys.gettrace()
    sys.settrace(interrupt)
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)


def test_ctrl_c_as_a_receiver_is_woken_does_not_leave_it_asleep() -> None:
    """Nobody would wake it again: it is no longer said to be parked."""
    channel: Channel[int] = Channel(4)
    waiting = in_thread(channel.receive)
    assert wait_until(lambda: channel.parked)
    assert channel.reserve(0)
    with ctrl_c_in(Channel.wake):
        channel.send(1)
    assert waiting.wait().value == 1


@pytest.mark.skipif(not hasattr(select, "poll"), reason="select.poll is not there")
def test_ctrl_c_as_a_bell_is_rung_does_not_keep_it_silent() -> None:
    """The same for who waits in a poll. It may be rung however often, and is held by that."""
    bell = Bell()
    poll = select.poll()
    poll.register(bell, select.POLLIN)
    channel: Channel[int] = Channel(4, ring=bell.ringer())
    channel.parked = True
    with ctrl_c_in(Channel.wake):
        channel.post("mark")
    assert poll.poll(0)
    ring, known = bell.ringer(), weakref.ref(bell)
    del bell
    for _ in range(70_000):  # more than a pipe holds
        ring()
    assert poll.poll(0)
    del channel, ring
    assert known() is None


def test_ctrl_c_as_the_collector_is_woken_does_not_leave_it_asleep(
    pipelines: Callable[..., Pipeline],
) -> None:
    """Observers would hear nothing more."""
    seen: list[int] = []

    class Seeing(Observer):
        def collect(self, spans: Any, items: Any) -> None:
            seen.extend(item[0] for item in items)

    pipeline = pipelines(observers=[Seeing()])
    pipeline.add(lambda item: item)
    pipeline.serialize().start()
    pipeline.forward(0)
    session: Any = pipeline._session
    assert wait_until(lambda: seen == [0] and session.run.recorder.asleep)
    with ctrl_c_in(Recorder.wake):
        pipeline.forward(1)
    assert wait_until(lambda: seen == [0, 1])


@pytest.mark.parametrize("where", ["_end", "_finish"])
@pytest.mark.parametrize("how", ["ends", "fails", "is cut"])
def test_ctrl_c_as_a_stream_ends_does_not_keep_its_reader(
    how: str, where: str, pipelines: Callable[..., Pipeline]
) -> None:
    """He comes back, and is told the end; then the next one may read."""
    pipeline = pipelines()
    pipeline.add(lambda item: item)
    pipeline.parallelize()

    def source() -> Iterator[int]:
        yield 1
        if how == "fails":
            raise OSError("the camera")

    stream = pipeline.stream(source())
    assert next(stream) == 1
    fed: Any = stream._fed  # type: ignore[attr-defined]
    fed.feeder.thread.join(PATIENCE)
    if how == "is cut":
        pipeline.abort()
    with ctrl_c_in(getattr(type(fed), where)):
        next(stream)
    again = in_thread(lambda: list(stream)).wait()
    if how == "ends":
        assert again.value == []
        assert list(pipeline.stream([2])) == [2]
    else:
        assert isinstance(again.error, OSError if how == "fails" else PipelineTerminated)
    if how == "fails":
        assert list(pipeline.stream([2])) == [2]


def test_ctrl_c_as_a_closed_baton_is_handed_on_does_not_keep_the_others() -> None:
    """Each of those who wait is sent away."""
    baton = Baton()
    assert baton.acquire()
    baton.close()
    with ctrl_c_in(Baton.acquire), pytest.raises(ChannelClosed):
        baton.acquire()
    assert isinstance(in_thread(baton.acquire).wait().error, ChannelClosed)
    assert baton.mine()


def test_who_finds_the_turn_closed_wakes_the_next_who_waits(
    pipelines: Callable[..., Pipeline],
) -> None:
    """The short way of ``forward`` does as the long one."""
    pipeline = pipelines()
    pipeline.add(lambda item: item)
    pipeline.serialize().start()
    session: Any = pipeline._session
    push, turn = session.executor.pusher(), session.executor._turn
    assert push(0)
    turn.close()
    lock = threading.Lock()
    lock.acquire()
    turn.tokens.get()  # that of the turn; the closing one is left
    turn.tokens.sleepers.append(lock)
    assert push(1) is None
    assert not lock.locked()
    assert not turn.tokens.sleepers
    turn.tokens.put(None)


# -- a signal ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wait",
    [
        lambda: Mailbox().get_within(SHORT),
        lambda: Channel().receive(SHORT),
        lambda: [channel.ask(SHORT) for channel in [Channel(0)] for _ in range(2)],
        lambda: (baton := Baton()).acquire() and baton.acquire(SHORT),
        lambda: ((baton := Baton()).acquire() and baton.close()) or baton.wait_free(SHORT),
        lambda: Output().read(SHORT),
        lambda: Reply().wait_answer(SHORT),
        lambda: Mark().wait(SHORT),
        lambda: [ticker.wait_tick() for ticker in [Ticker(SHORT)] for _ in range(2)],
    ],
    ids=["mailbox", "receive", "ask", "baton", "wait free", "output", "reply", "mark", "ticker"],
)
def test_a_wait_ends_though_the_handler_of_a_signal_outlasts_it(
    wait: Callable[[], Any], disturb: Callable[[], None]
) -> None:
    """Each wait of the core and of the threads executor. Formerly, before Python 3.13, none did."""
    disturb()
    start = monotonic()
    try:
        wait()
    except Empty:
        pass
    assert SHORT <= monotonic() - start < 5


def test_a_reader_waits_no_longer_than_he_says(
    pipelines: Callable[..., Pipeline], disturb: Callable[[], None]
) -> None:
    """A signal whose handler takes long comes amid that."""
    pipeline = pipelines()
    pipeline.add(lambda item: item)
    pipeline.parallelize(block_output=True, output_timeout=SHORT).start()
    disturb()
    assert pipeline.get_results() is None


def test_a_stage_is_called_again_though_a_signal_outlasts_the_pause(
    pipelines: Callable[..., Pipeline], disturb: Callable[[], None]
) -> None:
    """``Retry`` waits in the caller's thread in serial mode."""
    calls = []

    def once(item: int) -> int:
        calls.append(item)
        if len(calls) == 1:
            disturb()
            raise ValueError(item)
        return item

    pipeline = pipelines()
    pipeline.add(once, on_error=Retry(1, SHORT))
    pipeline.serialize()
    assert list(pipeline.stream([1])) == [1]
    assert len(calls) == 2
