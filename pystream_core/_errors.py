"""The error tree: each class says whose fault it is, each message what to do next.

::

    PyStreamError
    ├── PlanError (also ValueError)      the description of the pipeline is wrong
    │   ├── InvalidStageName
    │   └── DuplicateStageName
    ├── PipelineUndefined                used before serialize() or parallelize()
    │   └── PipelineTerminated           used after cleanup(), abort() or a fork
    ├── PipelineBusy                     someone else is using it in this way now
    ├── InputExhausted                   the input generator came to its end
    ├── PluginNotFound (also LookupError)  no installed plugin provides this name
    ├── AmbiguousName (also LookupError)   several installed plugins provide it
    ├── PluginError                      a plugin does not load or breaks its contract
    ├── StageError                       a stage raised; ``__cause__`` is what it raised
    ├── CleanupError                     one or more stage cleanups raised
    ├── WorkerLost                       a worker process died with an item in hand
    └── DrainTimeout (also TimeoutError) items were still in flight at the deadline
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any

_REPR_LIMIT = 200


class PyStreamError(Exception):
    """Root of everything that PyStream raises on purpose."""


class PlanError(PyStreamError, ValueError):
    """The pipeline was described in a way that cannot work."""


class InvalidStageName(PlanError):
    """A stage name that is empty, reserved, or holds ``__`` or NUL."""


class DuplicateStageName(PlanError):
    """Two stages of one pipeline carry the same name."""


class PipelineUndefined(PyStreamError):
    """The pipeline has no mode yet: call ``serialize()`` or ``parallelize()`` first."""


class PipelineTerminated(PipelineUndefined):
    """The pipeline has been stopped; ``serialize()`` or ``parallelize()`` start afresh."""


class PipelineBusy(PyStreamError):
    """The pipeline is in use in a way that excludes this call."""


class InputExhausted(PyStreamError):
    """The input generator raised StopIteration: there is nothing more to forward."""


class PluginNotFound(PyStreamError, LookupError):
    """No installed plugin provides the requested name."""


class AmbiguousName(PyStreamError, LookupError):
    """Several installed plugins provide the requested name; use its identity."""


class PluginError(PyStreamError):
    """An installed plugin does not load or breaks its contract."""


class StageError(PyStreamError):
    """A stage raised while it worked on an item (or in ``setup``).

    ``__cause__`` is the original exception with its traceback.

    Attributes:
        path: full path of the stage, for example ``MainPipeline__Child__A``.
        seq: admission number of the item; None when the failure was in ``setup``.
        item: what the stage was given; None when the failure was in ``setup``. Of a stage inside
            a pipeline that is placed in one piece: what that pipeline was given.
    """

    def __init__(
        self, message: str, *, path: str = "", seq: int | None = None, item: Any = None
    ) -> None:
        super().__init__(message)
        self.path = path
        self.seq = seq
        self.item = item

    def again(self, introduction: str = "") -> StageError:
        """A fresh exception with the same content and cause.

        One exception object raised again and again would grow its traceback and
        hold the frames of every caller.

        Args:
            introduction: what goes before the message.
        """
        message = f"{introduction}{self}"
        fresh = StageError(message, path=self.path, seq=self.seq, item=self.item)
        fresh.__cause__ = self.__cause__
        return fresh

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore_stage_error, (str(self), self.path, self.seq, self.item)


def _restore_stage_error(message: str, path: str, seq: int | None, item: Any) -> StageError:
    return StageError(message, path=path, seq=seq, item=item)


class CleanupError(PyStreamError):
    """One or more stages raised in ``cleanup``; every other stage was cleaned up.

    Attributes:
        errors: what was raised, in the order of the stages; the first one is also
            ``__cause__``.
        left_behind: paths of stages whose call or cleanup did not return.
    """

    def __init__(
        self,
        message: str,
        errors: Sequence[BaseException] = (),
        *,
        left_behind: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.errors = tuple(errors)
        self.left_behind = tuple(left_behind)


class WorkerLost(PyStreamError):
    """A worker process died with an item in hand.

    Attributes:
        path: full path of the stage.
        exitcode: exit status of the process, negative for a signal, None if unknown.
        final: there will be no other process, so the pipeline stops whatever ``on_error`` says.
    """

    def __init__(
        self, message: str, *, path: str = "", exitcode: int | None = None, final: bool = False
    ) -> None:
        super().__init__(message)
        self.path = path
        self.exitcode = exitcode
        self.final = final


class DrainTimeout(PyStreamError, TimeoutError):
    """Items were still in flight when the time for draining was over."""


_CONTAINERS = (list, tuple, dict, set, frozenset)


class _Bounded(reprlib.Repr):
    """The repr of a container without ever making the whole text of what is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdict = 20
        self.maxstring = self.maxother = _REPR_LIMIT

    def repr_bytes(self, value: bytes | bytearray, level: int) -> str:  # noqa: ARG002
        return safe_repr(value)

    repr_bytearray = repr_bytes


def safe_repr(value: object, limit: int = _REPR_LIMIT) -> str:
    """A bounded ``repr`` on one line that never raises, for messages about arbitrary items.

    Args:
        value: anything, also an object whose ``__repr__`` raises.
        limit: longest text returned, in characters.
    """
    kind = type(value)  # isinstance would ask the item for its class
    try:
        if kind in (bytes, bytearray, str) and len(value) > limit:  # type: ignore[arg-type]
            text = f"{value[: limit // 2]!r}… ({len(value)} long)"  # type: ignore[index,arg-type]
        elif kind in _CONTAINERS:
            if len(value) > limit:  # type: ignore[arg-type]
                return f"<{kind.__name__} of {len(value)}>"  # type: ignore[arg-type]
            text = _Bounded().repr(value)
        else:
            text = repr(value)
            if "\n" in text:  # arrays and tables are laid out, which tears a message apart
                text = " ".join(text[: 10 * limit].split())
    except BaseException as error:  # an item may do anything, also here
        return f"<{kind.__name__} whose repr raises {type(error).__name__}>"
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def counted(number: int, one: str, many: str) -> str:
    """A number with the word that goes with it: ``1 item``, ``2 items``."""
    return f"{number} {one if number == 1 else many}"


def call_name(function: object) -> str:
    """What a message calls a user's function: its qualified name, else its safe repr."""
    try:
        name = getattr(function, "__qualname__", None)
    except BaseException:  # an object of the user's may do anything, also here
        name = None
    return name if type(name) is str and name else safe_repr(function)


def describe_error(error: BaseException) -> str:
    """``Type: message`` of an exception, bounded, also when its ``str`` raises."""
    try:
        text = str(error)
    except BaseException as second:
        text = f"<str raises {type(second).__name__}>"
    text = text if len(text) <= _REPR_LIMIT else f"{text[: _REPR_LIMIT - 1]}…"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
