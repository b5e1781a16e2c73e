"""One child process, as its worker thread sees it.

What is waited for, and what ends the wait:

====================  ==========================================  =========================
who                   waits for                                   ended by
====================  ==========================================  =========================
``receive``           an answer, or the end of the process        either, the deadline, or
                                                                  the bell, which may bring
                                                                  the deadline nearer
``send``              room in the socket, or that end             the same
``lose``              the report that a killed process is gone    it, or ``_KILL_PATIENCE``
``Pool.lease``        a block of shared memory                    see ``_pool``
the child             a message                                   it, or this end's close
====================  ==========================================  =========================
"""

from __future__ import annotations

import pickle
import select
import socket
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final

from . import _records
from ._bell import Bell
from ._launcher import close_in_forked_child, launcher
from ._memory import address_of, copy
from ._packing import pack, unpack
from ._pool import Lease, Pool
from ._server import STATUS
from ._shared import Piece, Shared
from ._wire import (
    FORGET,
    GRANT,
    LOG,
    NOTED,
    NUMBERS,
    PLAIN,
    SEGMENT,
    WANT,
    Inbox,
    Message,
    Part,
    Range,
    frame,
)

_KILL_PATIENCE: Final = 2.0  # seconds for a killed process to be gone
_IN, _OUT = select.POLLIN, select.POLLOUT


class Died(Exception):
    """The process has ended.

    Attributes:
        exitcode: negative for a signal, None if unknown.
    """

    def __init__(self, exitcode: int | None) -> None:
        super().__init__(exitcode)
        self.exitcode = exitcode


class Late(Exception):
    """The deadline is over."""


class Process:
    """A child and the blocks that it holds. Used by one thread.

    Args:
        pool: where its shared memory comes from.
        bell: rung when ``deadline`` may have changed.
        deadline: until when to wait, as a reading of ``monotonic``; asked again after each ring.
        may_share: a buffer that is in shared memory already is lent to it as it is, not copied.

    Attributes:
        owed: it has been asked for something and its answer has not been taken. A Ctrl-C in this
            thread may leave it so.
        unsure: the same while a message was only half sent or taken, so that one can no longer
            tell what comes next.
    """

    def __init__(
        self, pool: Pool, bell: Bell, deadline: Callable[[], float], *, may_share: bool
    ) -> None:
        self._pool = pool
        self._bell = bell
        self._deadline = deadline
        self._may_share = may_share
        self._inbox = Inbox()
        self._known: dict[int, int] = {}  # segments that it has mapped, and the size of blocks
        self._generation = pool.generation
        self._used: dict[tuple[int, int], Lease] = {}  # in the exchange under way
        self._kept: dict[tuple[int, int], Lease] = {}  # its stage still looks at these
        self.owed = self.unsure = False
        self._ended = False
        self._code: int | None = None
        self._launched = launcher().launch()
        self._link, self._report = self._launched.link, self._launched.report
        self._link.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._link, _IN)
        self._poll.register(self._report, _IN)
        self._poll.register(bell, _IN)
        self._end = select.poll()
        self._end.register(self._report, _IN)
        self._open = True
        close_in_forked_child(self)

    # -- messages ----------------------------------------------------------------------

    def send(self, kind: int, parts: Sequence[Part] = ()) -> None:
        """Send a message.

        Raises:
            Died, Late: see ``receive``.
        """
        self.unsure = True
        if self._generation != self._pool.generation:
            self._generation = self._pool.generation
            for number in self._pool.stale(set(self._known)):
                self._push(frame(FORGET, [NUMBERS.pack(number, self._known.pop(number))]))
        self._push(frame(kind, parts))
        self.owed = True
        self.unsure = False

    def send_value(self, kind: int, value: Any) -> None:
        """Send a value; its large buffers through shared memory.

        Raises:
            Exception: whatever its pickling raises; nothing has been sent.
            Died, Late: see ``receive``.
        """
        try:
            if type(value) is Shared and value.lies_in(self._pool):
                parts = value.parts(self._lend)
            else:
                value = value.resolve() if type(value) is Shared else value  # from elsewhere
                parts, _ = pack(value, self._place)
        except BaseException:
            self._used.clear()
            raise
        self.send(kind, parts)

    def receive(self) -> Message:
        """The answer. Log records and wishes for memory are seen to on the way.

        Raises:
            Died: the process ended without an answer.
            Late: the deadline was over before.
        """
        while True:
            self.unsure = True
            message = self._inbox.take()
            if message is None:
                self.unsure = False
                self._fill()
            elif message.kind == LOG:
                self.unsure = False
                _records.handle(_inline(message))
            elif message.kind == WANT:
                self._grant(int.from_bytes(_inline(message), "little"))
            else:
                self._note(message)
                self.owed = self.unsure = False
                return message

    def value_of(self, message: Message) -> Any:
        """The value of an answer, or a handle for it; its large buffers lie in shared memory, which
        comes back when the last view of them is gone. To be asked before ``settle``.

        Raises:
            Exception: whatever its unpickling raises.
        """
        parts = message.values
        if not message.flags & PLAIN:
            return unpack(parts, self._view)
        return Shared([self._piece(part) if isinstance(part, Range) else part for part in parts])

    def settle(self) -> None:
        """The answer has been seen to: let go what went with the question."""
        self._used.clear()

    def _note(self, message: Message) -> None:
        if message.flags & NOTED:
            kept, released = pickle.loads(_inline(message))
            for key in kept:
                self._kept[key] = self._used[key]
            for key in released:
                del self._kept[key]

    # -- shared memory -----------------------------------------------------------------

    def _place(self, view: memoryview) -> Range | None:
        address = address_of(view)
        found = self._pool.find(address, view.nbytes) if self._may_share else None
        if found is not None:
            lease, offset = found
            if offset + view.nbytes <= lease.segment.block_size:
                return self._lend(lease, offset, view.nbytes)
        fresh = self._pool.lease(view.nbytes)
        if fresh is None:
            return None
        copy(view, fresh.address)
        return self._lend(fresh, 0, view.nbytes)

    def _lend(self, lease: Lease, offset: int, length: int) -> Range:
        segment = lease.segment
        if segment.number not in self._known:
            message = frame(SEGMENT, [NUMBERS.pack(segment.number, segment.block_size)])
            self.unsure = True
            self._push(message, [segment.descriptor])
            self._known[segment.number] = segment.block_size
            self.unsure = False
        self._used[lease.key] = lease
        return lease.range(offset, length)

    def _grant(self, size: int) -> None:
        lease = self._pool.lease(size)
        self.send(GRANT, [] if lease is None else [self._lend(lease, 0, size)])

    def _piece(self, piece: Range) -> Piece:
        key = (piece.segment, piece.offset // self._known[piece.segment])
        return Piece(self._used.get(key) or self._kept[key], piece)

    def _view(self, piece: Range) -> memoryview:
        return self._piece(piece).view()

    # -- waiting -----------------------------------------------------------------------

    def _push(self, buffers: Sequence[Any], descriptors: Sequence[int] = ()) -> None:
        for buffer in buffers:
            rest = memoryview(buffer).cast("B")
            while rest:
                try:
                    if descriptors:
                        sent = socket.send_fds(self._link, [rest], list(descriptors))
                    else:
                        sent = self._link.send(rest)
                except BlockingIOError:
                    self._wait(_OUT)
                    continue
                except OSError:
                    raise Died(self._exitcode()) from None
                rest, descriptors = rest[sent:], ()

    def _fill(self) -> None:
        self._wait(_IN)
        self.unsure = True
        try:
            piece = self._link.recv(self._inbox.missing)
        except BlockingIOError:
            self.unsure = False
            return
        except OSError:
            piece = b""
        if not piece:
            raise Died(self._exitcode())
        self._inbox.feed(piece)
        self.unsure = False

    def _wait(self, event: int) -> None:
        """Wait for the socket."""
        link = self._link.fileno()
        if event == _OUT:
            self._poll.modify(link, _OUT)
        try:
            while True:
                left = self._deadline() - monotonic()
                if left <= 0:
                    raise Late
                ready = dict(self._poll.poll(None if left > 1e6 else left * 1e3 + 1))
                if link in ready:
                    return
                if self._bell.fileno() in ready:
                    self._bell.silence()
                if self._report.fileno() in ready:
                    raise Died(self._exitcode())
        finally:
            if event == _OUT:
                self._poll.modify(link, _IN)

    # -- the end -----------------------------------------------------------------------

    def alive(self) -> bool:
        """Whether it has not ended, as far as is known now."""
        return self._open and not self._has_report(0)

    def lose(self) -> int | None:
        """Kill it, if it has not ended, and be done with it; how it ended."""
        launcher().kill(self._launched.number)
        code = self._exitcode()
        self.close()
        return code

    def leave(self) -> int | None:
        """Let it end by itself, for it has nothing to do; how it ended."""
        self._link.close()
        code = self._exitcode()
        self.close()
        return code

    def close(self) -> None:
        """Let go of it, without waiting for its end."""
        if self._open:
            self._open = False
            self._launched.close()

    def _exitcode(self) -> int | None:
        """Wait for its end and say how it ended; None when that is not known."""
        if self._open and not self._ended:
            if not self._has_report(_KILL_PATIENCE):  # it has only closed its end of the socket
                launcher().kill(self._launched.number)
            if not self._has_report(_KILL_PATIENCE):
                _undead.extend((*self._used.values(), *self._kept.values()))
                return None
            self._ended = True
            try:
                report = self._report.recv(STATUS.size)
            except ConnectionError:  # the server has ended
                report = b""
            if len(report) == STATUS.size:
                (self._code,) = STATUS.unpack(report)
        return self._code

    def _has_report(self, patience: float) -> bool:
        return self._ended or bool(self._end.poll(patience * 1e3))

    def __del__(self) -> None:
        if getattr(self, "_open", False):
            self.close()


# Blocks of processes that did not die when they were killed: never lent again.
_undead: list[Lease] = []


def _inline(message: Message) -> bytearray:
    part = message.parts[0]
    assert isinstance(part, bytearray)
    return part
