"""Messages come through in pieces of any size."""

from __future__ import annotations

from hypothesis import given, strategies as st
from pystream_processes._wire import PLAIN, VALUE, Inbox, Message, Range, frame, telling

parts = st.lists(
    st.binary(max_size=200)
    | st.builds(Range, st.integers(0, 2**40), st.integers(0, 2**50), st.integers(0, 2**40)),
    max_size=5,
)


@given(
    messages=st.lists(st.tuples(st.integers(0, 63), st.booleans(), parts), max_size=5),
    cut=st.integers(1, 100),
)
def test_what_is_sent_is_received(messages: list, cut: int) -> None:
    """Kinds, parts and clock readings, however the stream is cut."""
    stream = b"".join(
        bytes(piece)
        for kind, plain, each in messages
        for piece in frame(kind | PLAIN * plain, each, 5, 2**60)
    )
    inbox = Inbox()
    received: list[Message] = []
    for begin in range(0, len(stream), cut):
        message = inbox.feed(stream[begin : begin + cut])
        while message is not None:
            received.append(message)
            message = inbox.take()
    assert [(each.kind, each.plain, each.parts()) for each in received] == messages
    assert all((each.start_ns, each.end_ns) == (5, 2**60) for each in received)
    for message, (_, _, given_parts) in zip(received, messages, strict=True):
        assert message.ranges() == [each for each in given_parts if isinstance(each, Range)]


@given(plain=st.booleans(), content=parts)
def test_a_message_can_be_sent_again(plain: bool, content: list) -> None:
    """As it came, and with other clock readings."""
    inbox = Inbox()
    message = inbox.feed(b"".join(map(bytes, frame(VALUE | PLAIN * plain, content, 5, 6))))
    assert message is not None
    same, again = inbox.feed(message.data), inbox.feed(message.again(7, 8))
    assert same is not None
    assert again is not None
    for each in (same, again):
        assert (each.kind, each.plain, each.parts()) == (VALUE, plain, content)
    assert (same.start_ns, same.end_ns) == (5, 6)
    assert (again.start_ns, again.end_ns) == (7, 8)


def test_many_parts_are_no_pair() -> None:
    """Not even when the lower byte of their number is that of two."""
    many = [b"pickle", Range(1, 2, 3), *[b"", Range(4, 5, 6)] * 128]
    message = Inbox().feed(b"".join(map(bytes, frame(VALUE | PLAIN, many))))
    assert message is not None
    assert message.piece is None
    assert message.pieces == len(many) == 258
    assert message.parts() == many


def test_arrays_can_be_made_over_what_was_inline() -> None:
    """A buffer that came in the message may be written to."""
    inbox = Inbox()
    message = inbox.feed(b"".join(map(bytes, frame(VALUE, [b"pickle", b"buffer"]))))
    assert message is not None
    assert list(map(type, message.parts())) == [bytes, bytearray]
    assert list(map(type, message.parts(read_only=True))) == [bytes, bytes]


@given(plain=st.booleans(), content=parts)
def test_a_wish_to_be_told_is_no_part_of_the_message(plain: bool, content: list) -> None:
    """Which comes as it was, and is sent back without it."""
    buffers = telling(frame(VALUE | PLAIN * plain, content, 5, 6))
    message = Inbox().feed(b"".join(map(bytes, buffers)))
    assert message is not None
    assert message.tell
    assert (message.kind, message.plain, message.parts()) == (VALUE, plain, content)
    again = Inbox().feed(message.again(7, 8))
    assert again is not None
    assert not again.tell


def test_large_parts_are_not_joined() -> None:
    """They are sent from where they are."""
    large = bytes(100_000)
    header, body = frame(1, [memoryview(large)])
    assert body.obj is large
    inbox = Inbox()
    assert inbox.feed(bytes(header) + large[:5]) is None
    message = inbox.feed(large[5:])
    assert message is not None
    assert (message.kind, message.plain, message.parts()) == (1, False, [large])
