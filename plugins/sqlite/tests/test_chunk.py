"""Packed records are what they were, and small."""

import sys

import pytest
from hypothesis import given, settings, strategies as st
from pystream_sqlite import _columns
from pystream_sqlite._chunk import (
    BINS,
    OUTCOMES,
    calls_of,
    ended_in,
    from_row,
    merged,
    packed,
    spans_in,
    to_row,
)

ORIGIN = 10**15
STAGES = 4

# Near one another as in most chunks, or anywhere: late items, queues of days, other clocks.
moments = st.one_of(st.integers(ORIGIN, ORIGIN + 10**9), st.integers(0, 2**62), st.just(ORIGIN - 1))
seqs = st.one_of(st.integers(0, 1000), st.integers(0, 2**62))
subs = st.one_of(st.just(0), st.integers(0, 2**40))
spans = st.tuples(
    st.integers(0, STAGES - 1), seqs, subs, moments, moments, moments, st.sampled_from(OUTCOMES)
)
ends = st.tuples(seqs, subs, moments, moments, st.sampled_from(BINS))


def chunk_of(some, ended=(), first_seq=0):
    return packed(
        calls_of(some, STAGES),
        ended,
        origin=ORIGIN,
        records=len(some) + len(ended),
        first_seq=first_seq,
    )


def since_start(some, ended):
    """What is expected back: times since the start, grouped by stage and else in order."""
    return (
        [
            (stage, seq, sub, *(time - ORIGIN for time in times), outcome)
            for stage, seq, sub, *times, outcome in sorted(some, key=lambda span: span[0])
        ],
        [(seq, sub, begin - ORIGIN, end - ORIGIN, bin_) for seq, sub, begin, end, bin_ in ended],
    )


@given(st.lists(spans, max_size=40), st.lists(ends, max_size=10))
@settings(deadline=None)
def test_any_records_come_back_from_their_row(some, ended):
    chunk = chunk_of(some, ended)
    sections = from_row(*to_row(chunk))
    assert sections == chunk.sections
    assert (list(spans_in(sections)), list(ended_in(sections))) == since_start(some, ended)
    assert (chunk.spans, chunk.ended, chunk.records) == (
        len(some),
        len(ended),
        len(some) + len(ended),
    )


@given(*[st.lists(spans, max_size=20), st.lists(ends, max_size=5)] * 2)
@settings(deadline=None)
def test_two_chunks_hold_together_what_each_held(spans_1, ended_1, spans_2, ended_2):
    first = chunk_of(spans_1, ended_1)
    second = chunk_of(spans_2, ended_2, first.last_seq + 1)
    both = merged(first, second)
    expected = since_start(spans_1 + spans_2, ended_1 + ended_2)
    assert (list(spans_in(both.sections)), list(ended_in(both.sections))) == expected
    assert (both.spans, both.ended) == (first.spans + second.spans, first.ended + second.ended)
    assert both.records == first.records + second.records
    assert (both.first_seq, both.last_seq) == (first.first_seq, second.last_seq)


@given(st.lists(spans, min_size=1, max_size=40))
@settings(deadline=None)
def test_totals_and_ends_of_the_calls_of_a_stage_are_exact(some):
    for calls in calls_of(some, STAGES):
        mine = [span for span in some if span[0] == calls.stage]
        assert calls.totals == tuple(sum(span[place] for span in mine) for place in (3, 4, 5))
        assert calls.begin == min(span[4] for span in mine)
        assert calls.end == max(span[5] for span in mine)


def test_a_call_takes_sixteen_bytes():
    """Whatever the clock shows: its number and three times, in nanoseconds."""
    some = [
        (stage, seq, 0, *(ORIGIN + 5000 * seq + t for t in (0, 1, 2)), "emitted")
        for seq in range(400)
        for stage in range(STAGES)
    ]
    layout, data = to_row(chunk_of(some))
    assert len(data) == 16 * len(some)
    assert len(layout) < 100 * STAGES


@pytest.mark.parametrize(("apart", "width"), [(10**9, 4), (10**11, 6), (10**17, 8)])
def test_times_take_the_more_space_the_farther_apart_they_are(apart, width):
    """A chunk of a slow pipeline lasts for minutes: an item of five stages takes 110 bytes."""
    column = _columns.narrowed(_columns.words_of([2**48, 2**48 + apart]), 7)
    assert (column.width, len(column.data)) == (width, 2 * width)
    assert _columns.values_of(column, 2) == [2**48 - 7, 2**48 + apart - 7]


def test_the_highest_seq_of_a_run_never_goes_back():
    """A late item does not count as if all after it had come once more."""
    chunk = chunk_of([(0, 3, 0, ORIGIN, ORIGIN, ORIGIN, "emitted")], first_seq=500)
    assert (chunk.first_seq, chunk.last_seq) == (500, 499)


def test_an_outcome_of_a_later_core_counts_as_the_ordinary_one():
    some = [(0, seq, 0, ORIGIN, ORIGIN, ORIGIN, text) for seq, text in enumerate(["new", "failed"])]
    assert [span[6] for span in spans_in(chunk_of(some).sections)] == ["emitted", "failed"]
    assert [span[6] for span in spans_in(chunk_of(some[:1]).sections)] == ["emitted"]


@pytest.mark.parametrize("largest", [10, 2**31, 2**62])
def test_a_sum_of_many_readings_is_exact(largest):
    """Also beyond what fits a machine word, and with some that are nothing near the last one."""
    values = [largest - number % 7 for number in range(1000)]
    assert _columns.total(values) == sum(values)
    assert _columns.total([*values, 0]) == sum(values)
    assert _columns.total([]) == 0


def test_numbers_are_stored_in_the_same_order_on_every_machine(monkeypatch):
    monkeypatch.setattr(sys, "byteorder", "big")
    assert _columns._little_endian("I", b"\0\0\0\1\0\0\1\0") == b"\1\0\0\0\0\1\0\0"
