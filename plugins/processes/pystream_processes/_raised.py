"""What a stage raised in its process, brought to the parent."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Sequence

from pystream_core import PyStreamError, StageError


class ChildTraceback(Exception):
    """The traceback of an exception in the process where it was raised, as text. It is the
    ``__cause__`` of what is raised here, so that logs show it."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


class RemoteError(PyStreamError):
    """A stage in a process raised something that cannot be pickled: its type and text."""


def enclose(error: BaseException) -> list[bytes]:
    """The parts of a RAISED message: the exception, the traceback, and of a StageError what caused
    it, which then is what the traceback is of. Never raises."""
    if isinstance(error, StageError) and error.__cause__ is not None:
        cause, said = enclose(error.__cause__)[:2]
        return [_pickled(error), said, cause]
    try:
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except BaseException as second:  # its str raises
        frames = "".join(traceback.format_tb(error.__traceback__))
        text = f"{frames}{type(error).__name__} (its text raises {type(second).__name__})\n"
    return [_pickled(error), text.encode(errors="backslashreplace")]


def _pickled(error: BaseException) -> bytes:
    from ._classes import pickled  # the plugin is looked at without cloudpickle

    try:
        stream = pickled(error)
        if type(pickle.loads(stream)) is type(error):
            return stream
    except BaseException:  # its __reduce__, or what makes it again
        pass
    try:
        said = f"{type(error).__qualname__}: {error}"
    except BaseException as second:  # its str raises
        said = f"{type(error).__qualname__} (its text raises {type(second).__name__})"
    return pickle.dumps(RemoteError(said.encode(errors="backslashreplace").decode()))


def disclose(parts: Sequence[bytes | bytearray]) -> BaseException:
    """The exception of a RAISED message, of its original type where that can be had here."""
    stream, text, *causes = parts
    said = bytes(text).decode()
    error = latest = _unpickled(stream, said)
    for each in causes:
        cause = _unpickled(each, said)
        _set_cause(latest, cause)
        latest = cause
    _set_cause(latest, ChildTraceback(said))
    return error


def _unpickled(stream: bytes | bytearray, said: str) -> BaseException:
    try:
        error = pickle.loads(stream)
        assert isinstance(error, BaseException)
        return error
    except KeyboardInterrupt:  # Ctrl-C here
        raise
    except BaseException as second:
        return RemoteError(
            f"{said.rstrip().rpartition(chr(10))[2]} (it cannot be unpickled here: {second!r})"
        )


def _set_cause(error: BaseException, cause: BaseException) -> None:
    # What it does when something is set, or asked for its cause, is its own business.
    BaseException.__dict__["__cause__"].__set__(error, cause)
