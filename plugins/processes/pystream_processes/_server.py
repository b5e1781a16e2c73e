"""The process that starts the others: one thread, nothing but imports before it forks.

It is the parent of all children, so it alone knows how each one ended, and it may kill them
without hitting a stranger that got the same number. When the control socket ends, however the
main process ended, it kills what is left and ends itself.

It waits for a request, a child's end or the end of the control socket, all at once.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import sys
import traceback
from typing import Final

from . import _child
from ._memory import libc

REQUEST: Final = struct.Struct("<cQ")
STATUS: Final = struct.Struct("<i")
LAUNCH: Final = b"L"  # with two descriptors: the child's socket, and where to report its end
KILL: Final = b"K"
_SET_PDEATHSIG: Final = 1
NO_PROCESS: Final = 71  # what is reported when the system gave no process (EX_OSERR)


def main(control_number: int) -> None:
    """Serve until the main process is gone."""
    Server(socket.socket(fileno=control_number)).serve()


class Server:
    """All of it. Used by one thread."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._reports: dict[int, int] = {}  # by process: where to report
        self._processes: dict[int, int] = {}  # by the number that the main process gave
        self._process = os.getpid()
        self._woken, self._wake = os.pipe()
        for each in (self._woken, self._wake):
            os.set_blocking(each, False)
        _child.leave_signals_to_the_program()
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the program may have blocked some
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)

    def serve(self) -> None:
        """Until the control socket ends."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        try:
            while True:
                ready = {number for number, _ in poll.poll()}
                if self._woken in ready:
                    os.read(self._woken, 4096)
                    self._report()
                if self._control.fileno() in ready and not self._answer():
                    return
        finally:
            self._control.close()
            for process in self._reports:
                os.kill(process, signal.SIGKILL)

    def _answer(self) -> bool:
        try:
            request, descriptors, _, _ = socket.recv_fds(self._control, REQUEST.size, 2)
        except ConnectionError:
            return False
        if len(request) < REQUEST.size:
            return False
        kind, number = REQUEST.unpack(request)
        if kind == LAUNCH:
            self._launch(number, *descriptors)
        elif number in self._processes:
            os.kill(self._processes[number], signal.SIGKILL)
        return True

    def _launch(self, number: int, link: int, report: int) -> None:
        try:
            process = os.fork()
        except OSError as error:
            sys.stderr.write(f"pystream: no process could be started: {error}\n")
            os.write(report, STATUS.pack(NO_PROCESS))
            os.close(report)
            os.close(link)
            return
        if not process:
            self._become_child(link, report)
        os.close(link)
        self._reports[process] = report
        self._processes[number] = process

    def _become_child(self, link: int, report: int) -> None:
        code = 70  # EX_SOFTWARE
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._control.close()
            for each in (self._woken, self._wake, report, *self._reports.values()):
                os.close(each)
            _end_with(self._process)
            _child.serve(socket.socket(fileno=link))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            try:
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)

    def _report(self) -> None:
        """Tell how children ended."""
        while self._reports:
            process, status = os.waitpid(-1, os.WNOHANG)
            if not process:
                return
            report = self._reports.pop(process, None)
            if report is None:
                continue
            self._processes = {
                number: each for number, each in self._processes.items() if each != process
            }
            try:
                os.write(report, STATUS.pack(os.waitstatus_to_exitcode(status)))
            except OSError:  # nobody asks any more
                pass
            os.close(report)


def _end_with(parent: int) -> None:
    """Have the system kill this process when its parent ends, whatever it does then (Linux, see
    PR_SET_PDEATHSIG in prctl(2); elsewhere it ends at its next message)."""
    prctl = getattr(libc(), "prctl", None)
    if prctl is not None:
        prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it has ended in this moment
        os._exit(70)
