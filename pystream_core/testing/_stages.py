"""Stages, items and errors that misbehave, and stages that remember what happened to them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NoReturn

from .._stage import SKIP, Stage
from ._waiting import PATIENCE

_LONGEST = 15.0  # seconds for which a gate holds anyone, so that a failed test comes to its end


def _same(item: Any) -> Any:
    return item


def _always(item: Any) -> bool:  # noqa: ARG001
    return True


class Gate:
    """A stage that holds every item until the test lets it go: stuck, or as slow as wanted.

    One condition guards all of it. A plain callable; any number of threads may be inside.

    Args:
        function: what it does with an item that got through.
        holds: which items it holds; by default all.

    Attributes:
        entered: how many items have come to the gate.
        passed: how many have got through.
    """

    def __init__(
        self,
        function: Callable[[Any], Any] = _same,
        *,
        holds: Callable[[Any], bool] = _always,
    ) -> None:
        self.entered = 0
        self.passed = 0
        self._function = function
        self._holds = holds
        self._changed = threading.Condition()
        self._passes = 0
        self._open = False

    def __call__(self, item: Any) -> Any:
        """Wait to be let through."""
        with self._changed:
            self.entered += 1
            self._changed.notify_all()
            if self._holds(item):
                if not self._changed.wait_for(lambda: self._open or self._passes, _LONGEST):
                    raise TimeoutError("the test never opened the gate")
                if not self._open:
                    self._passes -= 1
            self.passed += 1
            self._changed.notify_all()
        return self._function(item)

    def let(self, items: int = 1) -> None:
        """Let that many items through."""
        with self._changed:
            self._passes += items
            self._changed.notify_all()

    def open(self) -> None:
        """Let all through, now and later."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def wait_entered(self, items: int = 1, timeout: float = PATIENCE) -> bool:
        """Wait until that many items have come to the gate."""
        with self._changed:
            return self._changed.wait_for(lambda: self.entered >= items, timeout)

    def wait_passed(self, items: int = 1, timeout: float = PATIENCE) -> bool:
        """Wait until that many items have got through."""
        with self._changed:
            return self._changed.wait_for(lambda: self.passed >= items, timeout)


class Recorder(Stage[Any]):
    """A stage that counts what happens to it and in which threads.

    Args:
        function: what it does with an item.
        setup_error, cleanup_error: raised in ``setup`` and ``cleanup``.

    Attributes:
        setups, calls, cleanups: identifiers of the threads, one for each time.
        broken: rules of a stage's life that were broken, in words.
    """

    def __init__(
        self,
        function: Callable[[Any], Any] = _same,
        *,
        setup_error: BaseException | None = None,
        cleanup_error: BaseException | None = None,
    ) -> None:
        self.setups: list[int] = []
        self.calls: list[int] = []
        self.cleanups: list[int] = []
        self.broken: list[str] = []
        self.setup_error = setup_error
        self.cleanup_error = cleanup_error
        self._function = function
        self._busy = threading.Lock()  # held during a call

    def setup(self) -> None:
        """Count."""
        if len(self.setups) > len(self.cleanups):
            self.broken.append("set up twice")
        self.setups.append(threading.get_ident())
        if self.setup_error is not None:
            self.setups.pop()
            raise self.setup_error

    def __call__(self, data: Any) -> Any:
        """Count, and do the function."""
        if len(self.setups) != len(self.cleanups) + 1:
            self.broken.append("called while it was not set up")
        if not self._busy.acquire(blocking=False):
            self.broken.append("called by two threads at once")
            return self._function(data)
        try:
            self.calls.append(threading.get_ident())
            return self._function(data)
        finally:
            self._busy.release()

    def cleanup(self) -> None:
        """Count."""
        if self._busy.locked():
            self.broken.append("cleaned up during a call")
        self.cleanups.append(threading.get_ident())
        if self.cleanup_error is not None:
            raise self.cleanup_error


class Recorders:
    """Makes a Recorder for every worker and keeps them all: ``factory(recorders)``."""

    def __init__(self, function: Callable[[Any], Any] = _same) -> None:
        self.made: list[Recorder] = []
        self._function = function

    def __call__(self) -> Recorder:
        """One more."""
        self.made.append(Recorder(self._function))
        return self.made[-1]


class Unprintable(Exception):
    """An error whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __repr__(self) -> str:
        raise RuntimeError("no text")


class Worst(BaseException):
    """An error that is no Exception."""


FAILURES: tuple[type[BaseException], ...] = (
    ValueError,
    StopIteration,
    Unprintable,
    Worst,
    MemoryError,
    RecursionError,
    KeyboardInterrupt,
    SystemExit,
    GeneratorExit,
)
"""What a stage may raise; the last three are no failures in the caller's own thread."""


class Raising:
    """A stage that raises a fresh error for the items chosen, and passes the others on.

    Args:
        kind: makes the error.
        when: which items; by default all.
        times: raises that often at most.

    Attributes:
        calls: how often it was called.
    """

    def __init__(
        self,
        kind: Callable[[], BaseException] = ValueError,
        *,
        when: Callable[[Any], bool] = _always,
        times: float = float("inf"),
    ) -> None:
        self.calls = 0
        self._kind = kind
        self._when = when
        self._left = times

    def __call__(self, item: Any) -> Any:
        """Raise, or pass it on."""
        self.calls += 1
        if self._left > 0 and self._when(item):
            self._left -= 1
            raise self._kind()
        return item


class Opaque:
    """An item that cannot be compared, printed, hashed, measured or asked for its truth."""

    __slots__ = ("__weakref__", "value")

    def __init__(self, value: Any = None) -> None:
        self.value = value

    def _refuse(self, *_: object) -> NoReturn:
        raise TypeError("an item is nobody's business")

    __bool__ = __eq__ = __ne__ = __hash__ = __len__ = _refuse
    __repr__ = __str__ = __iter__ = __reduce__ = __copy__ = _refuse


def skip_odd(item: int) -> Any:
    """Filter odd numbers out."""
    return SKIP if item % 2 else item
