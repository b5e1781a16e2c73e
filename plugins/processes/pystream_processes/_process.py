"""One child process, as its worker thread sees it.

What is waited for, and what ends the wait:

====================  ==========================================  =========================
who                   waits for                                   ended by
====================  ==========================================  =========================
``receive``           an answer, or the end of the process        either, the deadline, or
                                                                  the bell, which may bring
                                                                  the deadline nearer
``look``              nothing: it says whether that has come      (``until`` says when to ask)
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
from functools import partial
from math import inf
from time import monotonic
from typing import Any, Final

from pystream_core import Bell

from . import _records
from ._launcher import close_in_forked_child, launcher
from ._packing import is_array, pack, unpack
from ._pool import Lease, Pool, Wish
from ._server import STATUS
from ._shared import Shared
from ._wire import (
    BEGUN,
    FORGET,
    GRANT,
    LOG,
    NOTES,
    NUMBERS,
    PLAIN,
    SEGMENT,
    TELL,
    UNMAPPED,
    VALUE,
    WANT,
    Buffer,
    Inbox,
    Message,
    Part,
    Range,
    frame,
    telling,
)

_KILL_PATIENCE: Final = 2.0  # seconds for a killed process to be gone
_LOOK: Final = 1 << 18  # bytes; as much as a socket holds
_MOST_KINDS: Final = 256  # of plain items that are known
_SOON: Final = 0.002  # seconds until somebody may have given a block back
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
        begun: called when a call begins that was ``arriving``; None: nobody wants to know.
        may_share: a buffer that is in shared memory already is lent to it as it is, not copied.

    Attributes:
        owed: it has been asked for something and its answer has not been taken. A Ctrl-C in this
            thread may leave it so.
        unsure: the same while a message was only half sent or taken, so that one can no longer
            tell what comes next.
        arriving: the item of the call is on its way, or being unpickled there. What is known to
            need no time for that counts as there already.
        descriptors: to wait for, in place of ``receive``.
    """

    def __init__(
        self,
        pool: Pool,
        bell: Bell,
        deadline: Callable[[], float],
        *,
        begun: Callable[[], None] | None,
        may_share: bool,
    ) -> None:
        self._pool = pool
        self._bell = bell
        self._deadline = deadline
        self._begun = begun
        self._may_share = may_share
        self._met: set[object] = set()  # plain kinds of items that it has had
        self._asked: Sequence[Buffer] = ()  # the call under way, as it was sent
        self._blind = False  # it cannot have all shared memory, so its items take the pipe
        self.arriving = False
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
        self._wish: Wish | None = None  # what it waits for, while others are looked after
        self.descriptors = (self._link.fileno(), self._report.fileno(), bell.fileno())
        self._open = True
        close_in_forked_child(self)

    # -- messages ----------------------------------------------------------------------

    def send(self, kind: int, parts: Sequence[Part] = ()) -> None:
        """Send a message.

        Raises:
            Died, Late: see ``receive``.
        """
        self._ask(frame(kind, parts))

    def call(self, value: Any, *, wait: bool = True) -> None:
        """Send a call of the stage; large buffers through shared memory.

        Args:
            wait: for a block of that, when there is none just now; else they take the pipe.

        Raises:
            Exception: whatever the pickling of the value raises; nothing has been sent.
            Died, Late: see ``receive``.
        """
        try:
            buffers = self._framed(value, wait=wait)
        except BaseException:
            self._used.clear()
            raise
        if self._begun is not None:
            kind = _kind_of(value)
            self.arriving = not buffers[0][0] & PLAIN or kind not in self._met
            if self.arriving:  # there may be something to import
                buffers = telling(buffers)
                if len(self._met) < _MOST_KINDS:
                    self._met.add(kind)
        self._asked = buffers
        self._ask(buffers)

    def _framed(self, value: Any, *, wait: bool) -> list[Buffer]:
        if type(value) is Shared:
            for lease in value.leases:
                if self._blind or lease.segment.pool is not self._pool:  # it is from elsewhere
                    value = value.resolve()
                    break
                self._lend(lease)
            else:
                return [value.message.data]
        parts, plain = pack(value, partial(self._place, wait=wait))
        return frame(VALUE | PLAIN if plain else VALUE, parts)

    def receive(self) -> Message:
        """The answer. Log records, notes and wishes for memory are seen to on the way.

        Raises:
            Died: the process ended without an answer.
            Late: the deadline was over before.
        """
        while True:
            self.unsure = True
            message = self._inbox.take() if self._inbox.rest else None
            while message is None:
                self.unsure = False
                self._wait(_IN)
                self.unsure = True
                message = self._read()
            if message.kind == WANT:
                size = _wanted(message)
                self._grant(size, self._pool.lease(size))
            elif self._is_answer(message):
                return message

    def look(self) -> Message | None:
        """The answer if it has come; never waits. What has come counts, also after the deadline.

        A wish for memory that is not there is left open meanwhile; see ``Wish``. What has come
        is no more than a socket holds: a stage that goes on sending log records is looked at again.

        Raises:
            Died, Late: see ``receive``.
        """
        left = _LOOK
        while True:
            self.unsure = True
            if self._wish is not None and not self._fulfilled(self._wish):
                self.unsure = False
                return None
            message = self._inbox.take() if self._inbox.rest else None
            if message is None and left <= 0:
                self.unsure = False
                if self._deadline() <= monotonic():
                    raise Late
                return None
            if message is None:
                left -= self._inbox.missing
                message = self._read()
            if message is None:
                self.unsure = False
                if not self._wait(_IN, looking=True):
                    return None
                continue
            if message.kind == WANT:
                self._wish = Wish(self._pool, _wanted(message))
            elif self._is_answer(message):
                return message

    def until(self) -> float:
        """When to look in any case, as a reading of ``monotonic``."""
        until = self._deadline()
        return until if self._wish is None else min(until, monotonic() + _SOON)

    def _is_answer(self, message: Message) -> bool:
        """See to it, unless it is what was asked for."""
        if message.kind == LOG:
            self.unsure = False
            _records.handle(message.inline())
        elif message.kind == NOTES:
            self._note(message)
        elif message.kind == UNMAPPED:
            self._ask_by_pipe()
        elif message.kind == BEGUN:
            self.arriving = False
            assert self._begun is not None
            self._begun()
        else:
            self.owed = self.unsure = False
            return True
        return False

    def _ask_by_pipe(self) -> None:
        """Send the call once more: it cannot have the memory that the item lies in."""
        self._blind = True
        asked = Message(b"".join(self._asked))
        kind = VALUE | PLAIN * asked.plain | TELL * asked.tell
        self._ask(frame(kind, [self._content(part) for part in asked.parts()]))

    def _content(self, part: bytes | bytearray | Range) -> Buffer:
        return self._view(part) if isinstance(part, Range) else part

    def _fulfilled(self, wish: Wish) -> bool:
        """Whether what it wishes could be answered, with a block or by saying that there is none.
        Nothing comes from it before that but its end and log records, which wait."""
        if not wish.decided():
            if self._wait(_IN, looking=True) and self._has_report(0):
                raise Died(self._exitcode())
            return False
        self._wish = None
        self._grant(wish.size, wish.lease)
        return True

    def value_of(self, message: Message) -> Any:
        """The value of an answer, or a handle for it; its large buffers lie in shared memory, which
        comes back when the last view of them is gone. To be asked before ``settle``.

        Raises:
            Exception: whatever its unpickling raises.
        """
        if message.plain:
            piece = message.piece
            if piece is not None:
                return Shared(message, (self._lease_of(piece),))
            leases = [self._lease_of(each) for each in message.ranges()]
            if leases:
                return Shared(message, leases)
        return unpack(message.parts(), self._view, plain=message.plain)

    def settle(self) -> None:
        """The answer has been seen to: let go what went with the question."""
        self._used.clear()
        self._asked = ()

    def _ask(self, buffers: Sequence[Buffer]) -> None:
        self.unsure = True
        if self._generation != self._pool.generation:
            self._generation = self._pool.generation
            for number in self._pool.stale(set(self._known)):
                self._push(frame(FORGET, [NUMBERS.pack(number, self._known.pop(number))]))
        self._push(buffers)
        self.owed = True
        self.unsure = False

    def _note(self, message: Message) -> None:
        kept, released = pickle.loads(message.inline())
        for key in kept:
            self._kept[key] = self._used[key]
        for key in released:
            self._used[key] = self._kept.pop(key)  # what is given out now may lie there

    # -- shared memory -----------------------------------------------------------------

    def _place(self, view: memoryview, *, wait: bool) -> Range | None:
        put = None if self._blind else self._pool.put(view, find=self._may_share, wait=wait)
        if put is None:
            return None
        lease, piece = put
        self._lend(lease)
        return piece

    def _lend(self, lease: Lease) -> None:
        segment = lease.segment
        if segment.number not in self._known:
            message = frame(SEGMENT, [NUMBERS.pack(segment.number, segment.block_size)])
            self.unsure = True
            self._push(message, [segment.descriptor])
            self._known[segment.number] = segment.block_size
            self.unsure = False
        self._used[lease.key] = lease

    def _grant(self, size: int, lease: Lease | None) -> None:
        if lease is None:
            self._ask(frame(GRANT))
            return
        self._lend(lease)
        self._ask(frame(GRANT, [lease.range(0, size)]))

    def _lease_of(self, piece: Range) -> Lease:
        segment, offset, _ = piece
        key = (segment, offset // self._known[segment])
        return self._used.get(key) or self._kept[key]

    def _view(self, piece: Range) -> memoryview:
        return self._lease_of(piece).view(piece)

    # -- waiting -----------------------------------------------------------------------

    def _push(self, buffers: Sequence[Buffer], descriptors: Sequence[int] = ()) -> None:
        for buffer in buffers:
            left = len(buffer)
            while left:
                try:
                    if descriptors:
                        left -= socket.send_fds(self._link, [buffer], descriptors)
                    else:
                        left -= self._link.send(buffer)
                except BlockingIOError:
                    self._wait(_OUT)
                    continue
                except OSError:
                    raise Died(self._exitcode()) from None
                descriptors = ()
                if left:
                    buffer = memoryview(buffer)[-left:]

    def _read(self) -> Message | None:
        """Take in what there is; the next message, if that makes it complete."""
        try:
            piece = self._link.recv(self._inbox.missing)
        except BlockingIOError:
            return None
        except OSError:
            piece = b""
        if not piece:
            raise Died(self._exitcode())
        return self._inbox.feed(piece)

    def _wait(self, event: int, *, looking: bool = False) -> bool:
        """Wait for the socket; True when it is ready.

        Args:
            looking: False when it is not, without waiting for it.
        """
        link = self._link.fileno()
        if event == _OUT:
            self._poll.modify(link, _OUT)
        try:
            while True:
                until = self._deadline()
                left = until - monotonic() if until < inf else inf
                if left <= 0 and not looking:
                    raise Late
                patience = None if left > 1e6 else left * 1e3 + 1
                ready = self._poll.poll(0 if looking else patience)
                if len(ready) == 1 and ready[0][0] == link:
                    return True
                found = dict(ready)
                if link in found:
                    return True
                if self._bell.fileno() in found:
                    self._bell.silence()
                if self._report.fileno() in found:
                    raise Died(self._exitcode())
                if looking and not found:
                    if left <= 0:
                        raise Late
                    return False
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
            else:  # the server was killed; so are its children, where the system knows how
                _undead.extend((*self._used.values(), *self._kept.values()))
        return self._code

    def _has_report(self, patience: float) -> bool:
        return self._ended or bool(self._end.poll(patience * 1e3))

    def __del__(self) -> None:
        if getattr(self, "_open", False):
            self.close()


def _kind_of(value: Any) -> object:
    """Plain values of one kind need the same things to be imported."""
    if type(value) is Shared:
        return value.message.parts()[0]
    return type(value), str(value.dtype) if is_array(value) else ""


def _wanted(message: Message) -> int:
    """How many bytes it asks for."""
    return int.from_bytes(message.inline(), "little")


# Blocks of processes of whose end nothing is known: never lent again.
_undead: list[Lease] = []
