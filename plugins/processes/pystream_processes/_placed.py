"""The stage that an executor's worker calls in place of a placed one."""

from __future__ import annotations

import logging
import math
import os
import pickle
import signal
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, NoReturn

from pystream_core import Bell, CalledBack, PolledStage, WorkerLost

from . import _records
from ._limits import Limits
from ._pool import Pool, Reserve
from ._process import Died, Late, Process
from ._raised import disclose
from ._shared import Shared, shared
from ._wire import (
    BEGIN,
    CLEANUP,
    CLOSE,
    END,
    NEXT,
    RAISED,
    SETUP,
    VALUE,
    Message,
)

logger = logging.getLogger("PyStream")

_LONGEST: Final = math.inf
_ARRIVAL: Final = 30.0  # seconds, of a call with a shorter timeout, until the item is there: its
# first one may have to import something
_WEDGED: Final = 0.5  # seconds that the answer to an interrupted call may still take


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be placed.

    Attributes:
        path: of the stage, as text.
        name: the last part of it.
        recipe: what the process makes the stage of.
        has_cleanup: there may be one, which is missed when the process has died.
        limits: what it is allowed.
        reserve: where its shared memory comes from.
        read_only: other branches have the same item, so it must not be written to.
        may_share: its input may lie in shared memory as it is; a stage that is called again
            with the same item gets a copy each time.
    """

    path: str
    name: str
    recipe: bytes
    has_cleanup: bool
    limits: Limits
    reserve: Reserve
    read_only: bool
    may_share: bool


class Placed(PolledStage):
    """A worker's end of a stage in a process.

    Used by the worker alone, but for ``call_off`` and ``forsake``, which set a flag and ring.
    ``span_ns`` is what the process says; on one machine it is the same clock.
    """

    expands = False
    _pool: Pool  # from setup on

    def __init__(self, order: Order) -> None:
        self._order = order
        self.takes = (Shared,) if order.may_share else ()
        self._process: Process | None = None
        self._bell = Bell.take()
        self._called_off = self._forsaken = False
        self._until = _LONGEST
        self._in_cleanup = False
        self._restarts: deque[float] = deque()
        self._died = False  # the process has, and not by Ctrl-C or a stop
        self._entered = False
        self.span_ns = (0, 0)
        self._answer: Message | None = None  # of a call that was submitted
        self._failure: BaseException | None = None  # in place of it

    # -- its life ----------------------------------------------------------------------

    def setup(self) -> None:
        """Start the process and set the stage up in it. Raises what that raises."""
        self._pool = self._order.reserve.pool()
        self._pool.enter(self)
        self._entered = True
        self._allow(None)
        try:
            self._start()
        except BaseException:
            self._end(lost=True)
            raise

    def __call__(self, data: Any) -> Any:
        """Call the stage in its process."""
        return self._value(self._ask_for(VALUE, data))

    def bring(self, value: Any) -> Any:
        """Put a frame into shared memory, where the process needs it."""
        order = self._order
        if not order.may_share or order.read_only:
            return value
        try:
            return shared(value, self._pool)
        except Exception:  # no memory, no descriptors: the call meets that, and says so
            return value

    def cleanup(self) -> None:
        """Clean the stage up in its process, and end that."""
        self._in_cleanup = True
        self._until = monotonic() + _WEDGED
        lost = True
        try:
            process = self._process
            if process is None or process.unsure or not self._caught_up(process):
                if self._order.has_cleanup:
                    logger.warning(
                        "the process of stage %r has died, or was killed in a call that did not "
                        "end, so its cleanup did not run",
                        self._order.path,
                    )
                return
            self._until = _LONGEST
            self._done(self._exchange(CLEANUP))
            lost = False
        finally:
            self._end(lost=lost)

    # -- stopping ----------------------------------------------------------------------

    def begin(self) -> None:
        """Another run begins to use it."""
        self._called_off = self._forsaken = False

    def call_off(self) -> None:
        """Give a running call its grace, then end it."""
        self._called_off = True
        self._bell.ring()

    def forsake(self) -> None:
        """End whatever is running."""
        self._forsaken = True
        self._bell.ring()

    def _allow(self, seconds: float | None) -> None:
        """Give what follows so much time."""
        self._until = _LONGEST if seconds is None else monotonic() + seconds

    def _deadline(self) -> float:
        if self._forsaken:
            return 0.0
        if self._called_off and not self._in_cleanup:
            self._until = min(self._until, monotonic() + self._order.limits.grace)
        return self._until

    # -- calls that are polled for -----------------------------------------------------

    def submit(self, value: Any) -> None:
        """Send the item to the process."""
        try:
            self._send_item(value, wait=False)
        except (Died, Late) as error:
            self._lost(error)

    def done(self) -> bool:
        """Whether the answer has come."""
        process = self._process
        assert process is not None
        try:
            self._answer = process.look()
        except BaseException as error:
            self._failure = error
            return True
        return self._answer is not None

    def result(self) -> Any:
        """What the stage has given out."""
        message, failure = self._answer, self._failure
        self._answer = self._failure = None
        if isinstance(failure, (Died, Late)):
            self._lost(failure)
        if failure is not None:
            raise failure
        assert message is not None
        return self._value(self._timed(message))

    def until(self) -> float:
        """When the call's time is over, or a block may have come back."""
        return _LONGEST if self._process is None else self._process.until()

    # -- calls -------------------------------------------------------------------------

    def _ask_for(self, kind: int, data: Any = None) -> Message:
        """What the process answers to a call."""
        try:
            if kind == VALUE:
                process = self._send_item(data, wait=True)
            else:
                process = self._usable()
                self._allow(self._order.limits.timeout)
                process.send(kind)
            message = process.receive()
        except (Died, Late) as error:
            self._lost(error)
        return self._timed(message)

    def _send_item(self, data: Any, *, wait: bool) -> Process:
        """Send it to the process, or to a fresh one if that has died since the last item."""
        process = self._usable()
        while True:
            self._allow(self._arrival())
            try:
                process.call(data, wait=wait)
                if not process.arriving:
                    self._begin_call()
                return process
            except Died as error:  # before it had the whole message, so the item is unharmed
                self._died = True
                self._replace(_how(error.exitcode))
                process = self._usable()
            except Late:
                raise
            except Exception as error:
                raise self._refusal(data, error) from error

    def _arrival(self) -> float | None:
        """Seconds until an item has to be there; None: as long as it takes."""
        timeout = self._order.limits.timeout
        return None if timeout is None else max(timeout, _ARRIVAL)

    def _begin_call(self) -> None:
        """From now on the call's time counts."""
        if not self._in_cleanup:  # which waits for the end of an interrupted call in its own way
            self._allow(self._order.limits.timeout)

    def _timed(self, message: Message) -> Message:
        self.span_ns = (message.start_ns, message.end_ns)
        return message

    def _refusal(self, data: Any, error: Exception) -> TypeError:
        return TypeError(
            f"the item ({type(data).__name__}) cannot be pickled for the way to the process "
            f"of stage {self._order.path!r}: {error}. Leave out placement for a stage that "
            f"takes such items"
        )

    def _value(self, message: Message) -> Any:
        process = self._process
        assert process is not None
        try:
            if message.kind == RAISED:
                raise disclose(message.parts())  # type: ignore[arg-type]
            return process.value_of(message) if message.kind == VALUE else None
        finally:
            process.settle()

    def _done(self, message: Message) -> None:
        """Take an answer that has no value."""
        self._value(message)

    def _exchange(self, kind: int, *parts: bytes) -> Message:
        """Ask for something other than a call."""
        assert self._process is not None
        try:
            self._process.send(kind, parts)
            return self._process.receive()
        except (Died, Late) as error:
            self._lost(error)

    def _caught_up(self, process: Process) -> bool:
        """Whether it can be asked again, after the answer of a call that was interrupted here
        (Ctrl-C) before it came. That call has been accounted for, however it ends."""
        if process.owed:
            try:
                process.receive()
            except (Died, Late):
                return False
            process.settle()
        return process.alive()

    # -- processes ---------------------------------------------------------------------

    def _start(self) -> None:
        order = self._order
        begun = None if order.limits.timeout is None else self._begin_call
        self._process = Process(
            self._pool, self._bell, self._deadline, begun=begun, may_share=order.may_share
        )
        self.descriptors = self._process.descriptors
        begin = {
            "path": sys.path,
            "argv": sys.argv,
            "folder": _folder(),
            "environ": dict(os.environ),
            "levels": _records.levels(),
            "read_only": order.read_only,
            "expands": self.expands,
        }
        self._done(self._exchange(BEGIN, pickle.dumps(begin)))
        self._done(self._exchange(SETUP, pickle.dumps(order.name), order.recipe))

    def _usable(self) -> Process:
        """The process; a fresh one in place of one that has died."""
        process = self._process
        if process is not None and process.unsure:
            self._replace(
                "was killed, since a message was cut off (by Ctrl-C, or for lack of memory),"
            )
        elif process is not None and process.owed:
            self._allow(self._arrival() if process.arriving else self._order.limits.timeout)
            if not self._caught_up(process):
                if self._called_off or self._forsaken:
                    self._lost(Late())
                self._replace("ended or was killed in a call that Ctrl-C had interrupted,")
        if self._process is None:
            self._restart()
        assert self._process is not None
        return self._process

    def _replace(self, how: str) -> None:
        """It has ended while it had nothing to do, or is no longer of use."""
        process = self._let_go()
        assert process is not None
        process.lose()
        logger.warning(
            "the process of stage %r %s between two items: a fresh one takes its place",
            self._order.path,
            how,
        )

    def _restart(self) -> None:
        """Start a fresh one. Deaths of those before are counted."""
        limits, now = self._order.limits, monotonic()
        restarts = self._restarts
        while restarts and now - restarts[0] > limits.period:
            restarts.popleft()
        died, self._died = self._died, False
        if died and len(restarts) >= limits.max_restarts:
            self._died = True
            raise WorkerLost(
                f"the process of stage {self._order.path!r} died {len(restarts) + 1} times within "
                f"{limits.period:g} s, so no other one is started. Look for what kills it "
                f"(memory, a crash in C code), or allow more with limits(max_restarts=...)",
                path=self._order.path,
                final=True,
            )
        if died:
            restarts.append(now)
        self._allow(None)
        try:
            self._start()
        except BaseException as error:
            self._died = isinstance(error, Exception)
            process = self._let_go()
            if process is not None:
                process.lose()
            raise

    def _let_go(self) -> Process | None:
        """The process, which is no longer its own."""
        process, self._process = self._process, None
        self.descriptors = ()
        return process

    def _lost(self, error: Died | Late) -> NoReturn:
        """The call has no answer: be done with the process, and say why."""
        process = self._let_go()
        code = process.lose() if process is not None else None
        arriving = process is not None and process.arriving
        path, limits = self._order.path, self._order.limits
        called_off = not self._in_cleanup and (self._called_off or self._forsaken)
        self._died = isinstance(error, Died) or not called_off
        if isinstance(error, Died):
            raise WorkerLost(
                f"the process of stage {path!r} {_how(error.exitcode)}{self._while(arriving)}"
                f"{_hint(error.exitcode)}",
                path=path,
                exitcode=error.exitcode,
            ) from None
        if called_off:
            raise CalledBack from None
        allowed = "than allowed"
        if limits.timeout and not self._in_cleanup:
            allowed = f"than its timeout of {limits.timeout:g} s"
            if arriving:
                allowed = f"than {self._arrival():g} s"
        raise WorkerLost(
            f"the process of stage {path!r} was killed{self._while(arriving)}, since that took "
            f"longer {allowed}",
            path=path,
            exitcode=code,
        ) from None

    def _while(self, arriving: bool) -> str:
        if self._in_cleanup:
            return " during its cleanup"
        return " while it unpickled its item" if arriving else " while it worked"

    def _end(self, *, lost: bool) -> None:
        process = self._let_go()
        self._in_cleanup = False
        if process is not None and lost:
            process.lose()
        elif process is not None:
            process.leave()
        if self._entered:
            self._entered = False
            self._pool.leave(self)
            self._bell.give_back()


class PlacedGenerator(Placed):
    """The same for a generator stage: every output is an answer of its own."""

    expands = True

    def __call__(self, data: Any) -> Iterator[Any]:
        """Each output of the stage, made in its process when it is asked for."""
        message = self._ask_for(VALUE, data)
        del data
        ended = False
        try:
            while True:
                if message.kind == END:
                    break
                ended = message.kind == RAISED
                yield self._value(message)
                message = self._ask_for(NEXT)
            ended = True
            self._done(message)
        except (WorkerLost, CalledBack):
            ended = True
            raise
        finally:
            process = self._process
            if not ended and process is not None and not (process.owed or process.unsure):
                self._done(self._ask_for(CLOSE))


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # it has been deleted
        return os.sep


def _how(code: int | None) -> str:
    """How a process ended, in words."""
    if code is None:
        return "was lost"
    if code >= 0:
        return f"ended with exit status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was ended by {name}"


def _hint(code: int | None) -> str:
    """What may have been the reason."""
    killed = code is not None and -code == signal.SIGKILL
    return " (the system does that when memory runs out)" if killed else ""
