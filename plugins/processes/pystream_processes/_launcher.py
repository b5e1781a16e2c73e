"""The main process's end of the server that starts processes."""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

from ._server import KILL, LAUNCH, REQUEST

_EXIT_PATIENCE = 0.5  # seconds for the server to kill what is left and to end

_PROGRAM = """\
import sys
sys.path[:] = {path!r}
from pystream_processes._server import main
main({control})
"""


class Launched:
    """This end of a process that is asked for. Closes itself when it is forgotten, as after a
    Ctrl-C amid the start; the process then finds its socket closed, and ends.

    Attributes:
        number: by which the server knows it.
        link: the socket to talk to it.
        report: becomes readable when it has ended; gives its exit code, or nothing when the
            server has ended, too.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.report, self.reporting = socket.socketpair()
        self.link, self.its_link = socket.socketpair()

    def hand_over(self) -> None:
        """The server has the other ends."""
        self.its_link.close()
        self.reporting.close()

    def close(self) -> None:
        """Close everything. May be called again."""
        for name in ("link", "report", "its_link", "reporting"):
            end = getattr(self, name, None)
            if end is not None:
                end.close()

    __del__ = close


class Launcher:
    """Starts processes through one server, which is started on first use.

    ``_lock`` guards the server and what is sent to it; it is held while the server starts,
    about 0.2 s. In a forked child the launcher is forgotten, and makes a server anew.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count()

    def start(self) -> None:
        """Start the server, if it does not run yet."""
        with self._lock:
            self._running()

    def launch(self) -> Launched:
        """Ask for a process. Blocks only while the server is started.

        Raises:
            OSError: no descriptors or no server could be had.
        """
        launched = Launched(next(self._numbers))
        request = REQUEST.pack(LAUNCH, launched.number)
        self._send(request, [launched.its_link.fileno(), launched.reporting.fileno()])
        launched.hand_over()
        return launched

    def kill(self, number: int) -> None:
        """Have a process killed, if it has not ended."""
        with self._lock:
            if self._control is not None:
                try:
                    self._control.send(REQUEST.pack(KILL, number))
                except OSError:  # the server has ended; who waits sees the link end
                    pass

    def _send(self, request: bytes, descriptors: list[int]) -> None:
        with self._lock:
            try:
                socket.send_fds(self._running(), [request], descriptors)
            except (BrokenPipeError, ConnectionError):
                self._end()  # it was killed: the next one
                socket.send_fds(self._running(), [request], descriptors)

    def _running(self) -> socket.socket:
        if self._control is None:
            ours, theirs = socket.socketpair()
            path = [each for each in sys.path if isinstance(each, str)]  # Python ignores others
            program = _PROGRAM.format(path=path, control=theirs.fileno())
            flags: Callable[[], list[str]] = getattr(
                subprocess, "_args_from_interpreter_flags", list
            )
            try:
                self._server = subprocess.Popen(
                    [sys.executable, *flags(), "-c", program],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,  # a terminal's Ctrl-C and hang-up are not its own
                )
            except BaseException:
                ours.close()
                raise
            finally:
                theirs.close()
            self._control = ours
        return self._control

    def _end(self) -> None:
        control, self._control = self._control, None
        server, self._server = self._server, None
        if control is not None:
            control.close()
        if server is not None:
            try:
                server.wait(_EXIT_PATIENCE)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()

    def end(self) -> None:
        """End the server and every process of it. For the exit of the interpreter."""
        if self._lock.acquire(timeout=_EXIT_PATIENCE):
            try:
                self._end()
            finally:
                self._lock.release()

    def forget(self) -> None:
        """In a forked child: the server is the parent's, and its end must not be held open."""
        self._lock = threading.Lock()
        if self._control is not None:
            self._control.close()
        if self._server is not None:
            self._server.returncode = 0  # not ours to wait for
        self._control = self._server = None


@functools.cache
def launcher() -> Launcher:
    """The one of this process."""
    made = Launcher()
    atexit.register(made.end)
    os.register_at_fork(after_in_child=made.forget)
    return made


# What a forked child closes; like the launcher, one for each process.
_open: weakref.WeakSet[Any] = weakref.WeakSet()


def close_in_forked_child(owner: Any) -> None:
    """Have ``owner.close()`` called in a forked child."""
    _open.add(owner)


def _close_all() -> None:
    for owner in list(_open):
        owner.close()


os.register_at_fork(after_in_child=_close_all)
