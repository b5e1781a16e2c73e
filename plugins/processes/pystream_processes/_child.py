"""The life of a worker process: it answers its worker thread until that is gone.

Its main thread waits for a message only, which the other end's close, or its death, ends; while
a stage works, the server sees to that. ``_sending`` makes messages of other threads (log
records) whole; it is held while the socket takes them.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter_ns
from typing import Any, Final

from pystream_core import PlanError, Stage, call_kind, flushes

from . import _records
from ._mapping import Mapping
from ._memory import address_of, copy
from ._packing import pack, unpack
from ._raised import enclose
from ._recipe import make
from ._wire import (
    BEGIN,
    CALL,
    CLEANUP,
    CLOSE,
    END,
    FORGET,
    LOG,
    NEXT,
    NOTED,
    NUMBERS,
    PLAIN,
    RAISED,
    SEGMENT,
    SETUP,
    VALUE,
    WANT,
    Inbox,
    Message,
    Part,
    Range,
    frame,
)

_NO_MORE: Final = object()


class ParentGone(BaseException):
    """The other end of the socket is closed."""


def serve(link: socket.socket) -> None:
    """Answer until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        Child(link).serve()
    except (ParentGone, ConnectionError):
        pass


class Child:
    """The one stage of this process and the socket it is asked through."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._inbox = Inbox()
        self._descriptors: list[int] = []
        self._sending = threading.Lock()
        self._mapping = Mapping()
        self._stage: Any = None
        self._outputs: Iterator[Any] | None = None
        self._read_only = False
        self._expands = False
        self._start = 0  # when the stage began with what it is at
        self._tasks: dict[int, Callable[[Message], Any]] = {
            BEGIN: self._begin,
            SETUP: self._set_up,
            CALL: self._call,
            NEXT: self._next,
            CLOSE: self._close,
            CLEANUP: self._clean_up,
        }

    def serve(self) -> None:
        """Message after message."""
        while True:
            self._answer(self._receive())

    def _answer(self, message: Message) -> None:
        """Do what is asked and say what came of it. Nothing of it is held afterwards."""
        kind, parts = END, list[Part]()
        self._start = perf_counter_ns()
        end = 0
        try:
            value = self._tasks[message.kind](message)
            end = perf_counter_ns()
            if value is not _NO_MORE:
                kind, parts = self._packed(value)
        except (ParentGone, ConnectionError):
            raise
        except BaseException as error:
            end = end or perf_counter_ns()
            kind, parts = RAISED, list[Part](enclose(error))
        value = message = None  # type: ignore[assignment]  # else they count as still looked at
        self._send(kind, parts, self._start, end)

    def _packed(self, value: Any) -> tuple[int, list[Part]]:
        """A result as a message: what lies in shared memory and is plain can stay there."""
        try:
            parts, plain = pack(value, self._place)
        except (ParentGone, ConnectionError):
            raise
        except Exception as error:
            raise TypeError(
                f"what the stage gave out ({type(value).__name__}) cannot be pickled for the way "
                f"back from its process: {error}"
            ) from error
        stays = plain and any(isinstance(part, Range) for part in parts)
        return (VALUE | PLAIN if stays else VALUE), parts

    # -- what is asked -----------------------------------------------------------------

    def _begin(self, message: Message) -> Any:
        found = pickle.loads(bytes(_inline(message, 0)))
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
        self._read_only = found["read_only"]
        self._expands = found["expands"]
        return _NO_MORE

    def _set_up(self, message: Message) -> Any:
        name, recipe = pickle.loads(bytes(_inline(message, 0))), _inline(message, 1)
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
            item = unpack(message.parts, self._view)
        except Exception as error:
            raise TypeError(
                f"the item cannot be unpickled in the process of the stage: {error}"
            ) from error
        message.parts.clear()
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

    def _close(self, message: Message) -> Any:  # noqa: ARG002
        outputs, self._outputs = self._outputs, None
        close = getattr(outputs, "close", None)
        if close is not None:
            close()
        return _NO_MORE

    def _clean_up(self, message: Message) -> Any:  # noqa: ARG002
        if isinstance(self._stage, Stage):
            self._stage.cleanup()
        return _NO_MORE

    # -- shared memory -----------------------------------------------------------------

    def _view(self, piece: Range) -> memoryview:
        view = self._mapping.view(piece)
        return view.toreadonly() if self._read_only else view

    def _place(self, view: memoryview) -> Range | None:
        """Where a large buffer of a result lies: where it is, if that is shared; else where the
        parent lets us copy it to."""
        found = self._mapping.find(address_of(view), view.nbytes)
        if found is not None:
            return found
        self._send(WANT, [view.nbytes.to_bytes(8, "little")])
        grant = self._receive()
        if not grant.parts:
            return None
        piece = grant.parts[0]
        assert isinstance(piece, Range)
        copy(view, self._mapping.address(piece.segment, piece.offset))
        return piece

    # -- messages ----------------------------------------------------------------------

    def _send(self, kind: int, parts: Sequence[Part], start: int = 0, end: int = 0) -> None:
        if kind & ~PLAIN in (VALUE, END, RAISED):
            notes = self._mapping.notes()
            if notes is not None:
                kind, parts = kind | NOTED, [pickle.dumps(tuple(notes)), *parts]
        with self._sending:
            for buffer in frame(kind, parts, start, end):
                self._link.sendall(buffer)

    def _receive(self) -> Message:
        """The next message that is not about segments."""
        while True:
            message = self._inbox.take()
            if message is None:
                piece, descriptors, _, _ = socket.recv_fds(self._link, self._inbox.missing, 16)
                if not piece:
                    raise ParentGone
                self._descriptors += descriptors
                self._inbox.feed(piece)
            elif message.kind == SEGMENT:
                number, block_size = NUMBERS.unpack(_inline(message, 0))
                self._mapping.add(number, block_size, self._descriptors.pop(0))
            elif message.kind == FORGET:
                self._mapping.forget(NUMBERS.unpack(_inline(message, 0))[0])
            else:
                return message


def _inline(message: Message, index: int) -> bytearray:
    part = message.parts[index]
    assert isinstance(part, bytearray)
    return part


def _kind(stage: Any) -> str:
    """How its calls behave, in a word."""
    return "batching" if flushes(stage) else call_kind(stage)
