"""The life of a worker process: it answers its worker thread until that is gone.

Its main thread waits for a message only, which the other end's close, or its death, ends; while
a stage works, the server sees to that. ``_sending`` makes messages of other threads (log
records) whole; it is held while the socket takes them, and guards ``_to_send`` and ``_in_send``.
"""

from __future__ import annotations

import atexit
import gc
import io
import logging
import os
import pickle
import select
import signal
import socket
import sys
import threading
from _io import _IOBase
from _thread import get_ident
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter_ns
from typing import Any, Final

from pystream_core import PlanError, Stage, call_kind, flushes

from . import _records
from ._mapping import Mapping, Unmapped
from ._memory import address_of, copy
from ._packing import kind_of, pack, unpack
from ._raised import enclose
from ._recipe import make
from ._wire import (
    BEGIN,
    BEGUN,
    CLEANUP,
    CLOSE,
    END,
    FORGET,
    LOG,
    NEXT,
    NOTES,
    NUMBERS,
    PLAIN,
    RAISED,
    SEGMENT,
    SETUP,
    UNMAPPED,
    VALUE,
    WANT,
    Buffer,
    Inbox,
    Message,
    Part,
    Range,
    frame,
)

_NO_MORE: Final = object()
_UNMAPPED: Final = object()
_BESIDE: Final = socket.CMSG_LEN(16 * array("i").itemsize)  # bytes for descriptors
_CUT: Final = int(socket.MSG_CTRUNC)  # a flag of an enumeration takes as long as the system call
_TO_THE_PROGRAM: Final[dict[signal.Signals, Any]] = {  # and what they do in a program by itself
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}


class ParentGone(BaseException):
    """The other end of the socket is closed."""


def leave_signals_to_the_program() -> None:
    """What is meant for the program may be sent to all of its processes: Ctrl-C to a whole group,
    SIGTERM to all of a service. It ends us when it has finished. (Not SIG_IGN: programs that are
    started here would inherit that.)"""
    for number in _TO_THE_PROGRAM:
        signal.signal(number, _nothing)


def _nothing(number: int, frame: object) -> None:
    """A signal that is not for us."""


def serve(link: socket.socket) -> None:
    """Answer until the parent is gone."""
    leave_signals_to_the_program()
    try:
        Child(link).serve()
    except (ParentGone, ConnectionError):
        pass


class Child:
    """The one stage of this process and the socket it is asked through."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._inbox = Inbox()
        self._readable = select.poll()
        self._readable.register(link, select.POLLIN)
        self._large = False  # what it was at lies in shared memory
        self._descriptors: list[int | None] = []  # of segments, one each
        self._sending = threading.RLock()
        self._to_send: deque[Sequence[Buffer]] = deque()
        self._in_send = False
        self._mapping = Mapping()
        self._stage: Any = None
        self._outputs: Iterator[Any] | None = None
        self._expands = False
        self._item: tuple[Any, Any] | None = None  # an array in shared memory, and its kind
        self._start = 0  # when the stage began with what it is at
        self._forked = False
        self._masks: dict[int, list[set[int]]] = {}  # of threads that are about to fork
        os.register_at_fork(
            before=self._hold_signals,
            after_in_parent=self._let_signals_come,
            after_in_child=self._leave_to_the_parent,
        )
        self._tasks: dict[int, Callable[[Message], Any]] = {
            BEGIN: self._begin,
            SETUP: self._set_up,
            VALUE: self._call,
            NEXT: self._next,
            CLOSE: self._close,
            CLEANUP: self._clean_up,
        }

    def _hold_signals(self) -> None:
        """What is sent to a child that the stage forks comes when it can do what it does there, not
        before (multiprocessing ends a daemon so, perhaps at once)."""
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _TO_THE_PROGRAM)
        self._masks.setdefault(get_ident(), []).append(mask)  # a destructor in between may fork

    def _let_signals_come(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks[get_ident()].pop())

    def _leave_to_the_parent(self) -> None:
        """In a child that the stage has forked: the socket is not its own, nor is what another
        thread may just have been about to send."""
        self._forked = True
        self._link.close()
        self._sending = threading.RLock()
        for handler in logging.getLogger().handlers[:]:
            if isinstance(handler, _records.Forwarder):
                logging.getLogger().removeHandler(handler)
        for number, usual in _TO_THE_PROGRAM.items():
            if signal.getsignal(number) is _nothing:
                signal.signal(number, usual)
        self._let_signals_come()

    def serve(self) -> None:
        """Message after message."""
        while True:
            self._answer(self._receive())

    def _answer(self, message: Message) -> None:
        """Do what is asked and say what came of it. Nothing of it is held afterwards."""
        self._start = perf_counter_ns()
        end = 0
        try:
            value = self._tasks[message.kind](message)
            end = perf_counter_ns()
            try:
                buffers = self._framed(message, value, end)
            except Exception:
                self._drop_outputs()  # there will be no more of them
                raise
        except ParentGone:
            raise
        except BaseException as error:
            end = end or perf_counter_ns()
            buffers = frame(RAISED, enclose(error), self._start, end)
        value = self._item = None  # else they count as still looked at
        notes = self._mapping.notes()
        if notes is not None:
            buffers = [*frame(NOTES, [pickle.dumps(tuple(notes))]), *buffers]
        self._deliver(buffers)

    def _framed(self, message: Message, value: Any, end: int) -> list[Buffer]:
        """What to send for a value. Of what lies in shared memory and is plain nothing moves."""
        if value is _NO_MORE:
            return frame(END, (), self._start, end)
        if value is _UNMAPPED:
            return frame(UNMAPPED)
        if self._item is not None and value is self._item[0] and kind_of(value) == self._item[1]:
            return [message.again(self._start, end)]  # as it came, whatever has been written to it
        try:
            parts, plain = pack(value, self._place)
        except ParentGone:
            raise
        except Exception as error:
            raise TypeError(
                f"what the stage gave out ({type(value).__name__}) cannot be pickled for the way "
                f"back from its process: {error}"
            ) from error
        return frame(VALUE | PLAIN if plain else VALUE, parts, self._start, end)

    # -- what is asked -----------------------------------------------------------------

    def _begin(self, message: Message) -> Any:
        found = pickle.loads(message.inline())
        sys.path[:] = found["path"]
        sys.argv[:] = found["argv"]
        if dict(os.environ) != found["environ"]:
            os.environ.clear()
            os.environ.update(found["environ"])
        try:
            os.chdir(found["folder"])
        except OSError:  # it is gone; then ours is as good as any
            pass
        _records.adopt_levels(found["levels"])
        logging.getLogger().addHandler(_records.Forwarder(lambda record: self._send(LOG, [record])))
        self._mapping.read_only = found["read_only"]
        self._expands = found["expands"]
        return _NO_MORE

    def _set_up(self, message: Message) -> Any:
        name, recipe = pickle.loads(message.inline()), message.inline(1)
        stage = make(bytes(recipe))
        self._check(stage)
        if isinstance(stage, Stage):
            if not stage.name:
                try:
                    stage.name = name
                except AttributeError:  # the class does not let its name be set
                    pass
            stage.setup()
        self._stage = stage
        return _NO_MORE

    def _check(self, stage: Any) -> None:
        if not callable(stage):
            raise PlanError(f"its factory returned {type(stage).__name__}, which cannot be called")
        kind = _kind(stage)
        if kind != ("generator" if self._expands else "function"):
            raise PlanError(
                f"its factory returned a {kind} stage, which is known too late for a process: "
                f"give a class, or the function itself, instead of a factory"
            )

    def _call(self, message: Message) -> Any:
        try:
            parts = message.parts(read_only=self._mapping.read_only)
            self._large = type(parts[-1]) is Range
            item = unpack(parts, self._mapping.view, plain=message.plain)
            del parts
        except Unmapped:
            return _UNMAPPED
        except Exception as error:
            raise TypeError(
                f"the item cannot be unpickled in the process of the stage: {error}"
            ) from error
        if message.piece is not None and message.plain and not self._mapping.read_only:
            kind = kind_of(item)  # for nothing but an array is plain and has a buffer
            self._item = None if kind is None else (item, kind)
        self._drop_outputs()  # of an item that Ctrl-C has interrupted
        if message.tell:
            self._send(BEGUN, ())
        self._start = perf_counter_ns()  # unpickling belongs to the way here
        if not self._expands:
            return self._stage(item)
        self._outputs = iter(self._stage(item))
        del item
        return self._next(message)

    def _next(self, message: Message) -> Any:  # noqa: ARG002
        assert self._outputs is not None
        try:
            value = next(self._outputs, _NO_MORE)
        except BaseException:
            self._outputs = None
            raise
        if value is _NO_MORE:
            self._outputs = None
        return value

    def _close(self, message: Message | None = None) -> Any:  # noqa: ARG002
        outputs, self._outputs = self._outputs, None
        close = getattr(outputs, "close", None)
        if close is not None:
            close()
        return _NO_MORE

    def _drop_outputs(self) -> None:
        """Nobody asks for the rest of them; what closing them raises is only logged."""
        if self._outputs is not None:
            try:
                self._close()
            except Exception:
                logging.getLogger("PyStream").exception("closing a generator raised")

    def _clean_up(self, message: Message) -> Any:  # noqa: ARG002
        self._drop_outputs()
        stage, self._stage = self._stage, None  # a file that it has left open is written, too
        try:
            if isinstance(stage, Stage):
                stage.cleanup()
        finally:
            _end_as_a_program()
        return _NO_MORE

    # -- shared memory -----------------------------------------------------------------

    def _place(self, view: memoryview) -> Range | None:
        """Where a large buffer of a result lies: where it is, if that is shared; else where the
        parent lets us copy it to."""
        self._large = True
        address = address_of(view)
        found = self._mapping.find(address, view.nbytes)
        if found is not None or self._mapping.incomplete:
            return found
        try:
            self._send(WANT, [view.nbytes.to_bytes(8, "little")])
        except ConnectionError:
            raise ParentGone from None
        grant = self._receive()
        ranges = grant.ranges()
        if not ranges:
            return None
        piece = ranges[0]
        target = self._mapping.address(piece.segment, piece.offset)
        if target is None:
            return None
        copy(address, target, view.nbytes)
        return piece

    # -- messages ----------------------------------------------------------------------

    def _send(self, kind: int, parts: Sequence[Part]) -> None:
        """Send something that is no answer."""
        self._deliver(frame(kind, parts))

    def _deliver(self, buffers: Sequence[Buffer]) -> None:
        """Send a message. A destructor or a signal handler may come in between with a log record
        of its own, in the same thread: that follows."""
        if self._forked:  # it has returned out of the stage's call
            raise ParentGone
        with self._sending:
            self._to_send.append(buffers)
            if self._in_send:
                return
            self._in_send = True
            try:
                while True:
                    if not self._to_send:
                        break
                    for buffer in self._to_send.popleft():
                        self._link.sendall(buffer)
            finally:
                self._in_send = False

    def _receive(self) -> Message:
        """The next message that is not about segments.

        Who waits in recv is woken whenever the other end reads what was sent before, too, since
        that makes room. For a small item this is a head start; between large ones it takes time
        from whoever copies them, so these are waited for in poll, which is not woken by room.
        """
        while True:
            message = self._inbox.take() if self._inbox.rest else None
            while message is None:
                if self._forked:
                    raise ParentGone
                if self._large:
                    self._readable.poll()
                try:
                    piece, beside, flags, _ = self._link.recvmsg(self._inbox.missing, _BESIDE)
                except ConnectionError:
                    raise ParentGone from None
                if not piece:
                    raise ParentGone
                if beside:
                    self._descriptors += _descriptors(beside)
                if flags & _CUT:  # there was no room for it in this process
                    self._descriptors.append(None)
                message = self._inbox.feed(piece)
            if message.kind == SEGMENT:
                number, block_size = NUMBERS.unpack(message.inline())
                self._mapping.add(number, block_size, self._descriptors.pop(0))
            elif message.kind == FORGET:
                self._mapping.forget(NUMBERS.unpack(message.inline())[0])
            else:
                return message


def _descriptors(beside: Sequence[tuple[int, int, bytes]]) -> list[int]:
    """What came beside a message (``socket.recv_fds`` in half of its time)."""
    found = array("i")
    for level, kind, data in beside:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) // found.itemsize * found.itemsize])
    return list(found)


def _end_as_a_program() -> None:
    """What the interpreter does at its end, and ``os._exit`` does not: it waits for threads that
    are no daemons and for what is still to do in pools of threads, calls what ``atexit`` knows
    (which ends the daemons of multiprocessing), and finishes files that are still open."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
    finally:
        atexit._run_exitfuncs()
        gc.unfreeze()
        files = [each for each in gc.get_objects() if issubclass(type(each), _IOBase)]
        for each in sorted(files, key=_depth):
            try:
                if each.closed:
                    continue
                if _depth(each) == 1:
                    each.close()
                else:
                    each.flush()
            except Exception:
                logging.getLogger("PyStream").exception("a file that a stage has left open")


def _depth(file: Any) -> int:
    """How far it is from what is written to it to the system: 0 for text; 1 for what compresses
    and the like, which has something to write at its end."""
    if isinstance(file, io.TextIOBase):
        return 0
    return 1 if isinstance(file, io.BufferedIOBase) and type(file).__module__ != "_io" else 2


def _kind(stage: Any) -> str:
    """How its calls behave, in a word."""
    return "batching" if flushes(stage) else call_kind(stage)
