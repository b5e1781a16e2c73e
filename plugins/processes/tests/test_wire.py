"""Messages come through in pieces of any size."""

from __future__ import annotations

from hypothesis import given, strategies as st
from pystream_processes._wire import NOTED, PLAIN, VALUE, Inbox, Message, Range, frame

parts = st.lists(
    st.binary(max_size=200)
    | st.builds(Range, st.integers(0, 2**40), st.integers(0, 2**50), st.integers(0, 2**40)),
    max_size=5,
)


@given(
    messages=st.lists(st.tuples(st.integers(0, 255), parts), max_size=5),
    cut=st.integers(1, 100),
)
def test_what_is_sent_is_received(messages: list, cut: int) -> None:
    """Kinds, parts and clock readings, however the stream is cut."""
    stream = b"".join(
        bytes(piece) for kind, each in messages for piece in frame(kind, each, 5, 2**60)
    )
    inbox = Inbox()
    received: list[Message] = []
    for begin in range(0, len(stream), cut):
        inbox.feed(stream[begin : begin + cut])
        while (message := inbox.take()) is not None:
            received.append(message)
    assert [(each.kind | each.flags, each.parts) for each in received] == messages
    assert all((each.start_ns, each.end_ns) == (5, 2**60) for each in received)


def test_notes_are_no_values() -> None:
    """They go ahead of the parts of an answer, and say so."""
    inbox = Inbox()
    inbox.feed(b"".join(map(bytes, frame(VALUE | NOTED | PLAIN, [b"notes", b"value"]))))
    message = inbox.take()
    assert message is not None
    assert (message.kind, message.flags, message.values) == (VALUE, NOTED | PLAIN, [b"value"])


def test_large_parts_are_not_joined() -> None:
    """They are sent from where they are."""
    large = bytes(100_000)
    header, body = frame(1, [memoryview(large)])
    assert body.obj is large
    inbox = Inbox()
    inbox.feed(bytes(header) + large[:5])
    assert inbox.take() is None
    inbox.feed(large[5:])
    assert inbox.take() == Message(1, 0, [bytearray(large)], 0, 0)
