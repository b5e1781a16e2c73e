"""Ctrl-C and SIGTERM: the first one drains, a second one aborts.

A signal handler runs between any two instructions of the main thread, which may hold any lock.
So it only sets flags, or raises. What blocks or prints is done by a watcher thread, which learns
of signals from the interpreter itself (``signal.set_wakeup_fd``).

The watcher also makes up for a gap: a signal that comes just before the main thread begins to
wait in C code is noted, but its handler does not run before that wait ends. Then the watcher
sends it again.
"""

from __future__ import annotations

import select
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, Final

from pystream_core import DrainTimeout, Pipeline, PyStreamError

from ._tap import LeaveSource, Tap

GRACE: Final = 0.5
"""Seconds that a source gets to end by itself when all its items have."""

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_UNNOTICED: Final = 0.05  # seconds after which the handler should have run
_STOP: Final = b"\0"  # is the number of no signal


class Signals:
    """Ends a run in order when the user, or the system, asks for it.

    Args:
        pipeline: what runs; it drains, or is aborted.
        tap: on its source.
        patience: seconds that items in flight get to finish.
        tell: shows the user a line.
        in_caller: the source is iterated in the main thread (serial), so that a handler can
            call it back from there.

    Attributes:
        received: the first signal that came, None without one.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        tap: Tap,
        *,
        patience: float,
        tell: Callable[[str], None],
        in_caller: bool,
    ) -> None:
        self.received: signal.Signals | None = None
        self._pipeline = pipeline
        self._tap = tap
        self._patience = patience
        self._tell = tell
        self._in_caller = in_caller
        self._ended = threading.Event()
        self._came = 0  # signals, not counting what was sent again; written by the watcher
        self._noticed = False  # the handler has run; written by the main thread, as is:
        self._raised = 0  # times that it has interrupted the main thread
        self._before: dict[signal.Signals, Any] = {}
        self._descriptor_before = -1
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._watcher = threading.Thread(target=self._watch, name="pystream-signals", daemon=True)

    def __enter__(self) -> Signals:
        self._watcher.start()
        if threading.current_thread() is threading.main_thread():
            self._descriptor_before = signal.set_wakeup_fd(
                self._writer.fileno(), warn_on_full_buffer=False
            )
            for number in _SIGNALS:
                # A shell's background jobs and nohup have one ignored: that stays so.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        self.ended()
        self._writer.send(_STOP)
        self._watcher.join(1.0)  # before the handlers go: it might send a signal again
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._descriptor_before)
        self._reader.close()
        self._writer.close()

    def ended(self) -> None:
        """The stream has come to its end, by whatever way."""
        self._ended.set()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        """Runs in the main thread, once or more often for each signal.

        It may run before the watcher has counted: then the watcher sends the signal again.
        """
        self._noticed = True
        self._shut(signal.Signals(number))
        if self._raised < self._came - 1:
            self._raised = self._came - 1
            raise KeyboardInterrupt
        if self._in_caller and self._tap.inside:
            raise LeaveSource

    def _shut(self, number: signal.Signals) -> None:
        self.received = self.received or number
        self._tap.shut()

    def _watch(self) -> None:
        number = signal.SIGINT
        sent_again = False  # and it has not come back yet
        while True:
            due = self._came and (not self._noticed or self._raised < self._came - 1)
            patience = _UNNOTICED if due and not sent_again else None
            if not select.select([self._reader], [], [], patience)[0]:
                sent_again = True
                _send_to_main_thread(number)
                continue
            for byte in self._reader.recv(64):
                if byte == _STOP[0]:
                    return
                if byte not in self._before:
                    continue
                if sent_again:
                    sent_again = False
                    continue
                number = signal.Signals(byte)
                self._came += 1
                if self._came == 1:
                    self._shut(number)
                    threading.Thread(target=self._stop, args=(number,), daemon=True).start()

    def _stop(self, number: signal.Signals) -> None:
        """What follows the first signal."""
        again = "Press Ctrl-C again to abort." if number is signal.SIGINT else "Once more aborts."
        self._tell(f"{number.name}: the source is stopped, what is in flight finishes. {again}")
        if self._in_caller:
            # A stage that does not return holds the main thread: only a signal reaches that.
            if not self._ended.wait(self._patience):
                self._tell_late()
                with suppress(OSError):  # just now it has come to its end after all
                    self._writer.send(bytes([number]))  # as if it had come once more
        else:
            self._tap.wake()
            self._drain()

    def _tell_late(self) -> None:
        self._tell(f"Not everything has finished within {self._patience:g} s: aborting.")

    def _drain(self) -> None:
        """Wait for what is in flight, then leave a source behind that does not come back."""
        try:
            self._pipeline.drain(self._patience)
        except DrainTimeout:
            if not self._ended.is_set():
                self._tell_late()
                self._pipeline.abort()
            return
        except PyStreamError:  # it has failed or ended, and the main thread knows
            return
        if not self._ended.wait(GRACE):
            if self._tap.inside:
                self._tell("The source does not return from its reading and is left behind.")
            self._tap.leave()
            self._pipeline.abort()


def _send_to_main_thread(number: signal.Signals) -> None:
    identity = threading.main_thread().ident
    send = getattr(signal, "pthread_kill", None)
    if send is not None and identity is not None:
        send(identity, number)
    else:  # Windows
        signal.raise_signal(number)
