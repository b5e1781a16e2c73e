"""Log records of a child, brought to the parent's handlers."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from typing import Any, Final

own = logging.getLogger("PyStream")

_SIMPLE: Final = (str, int, float, bool, type(None))


def levels() -> dict[str, int]:
    """The levels that loggers have here, the root's under an empty name."""
    found = {"": logging.getLogger().getEffectiveLevel()}
    for name, logger in list(logging.getLogger().manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and logger.level:
            found[name] = logger.level
    return found


def adopt_levels(found: dict[str, int]) -> None:
    """Give the loggers of this process the levels of the parent's."""
    for name, level in found.items():
        logging.getLogger(name or None).setLevel(level)


class Forwarder(logging.Handler):
    """Sends every record to the parent. Its text is made here, where its arguments are."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        """Send it; a record that cannot be sent is lost, for the stage goes on."""
        try:
            self._send(_pickled(record))
        except Exception:
            self.handleError(record)


def _pickled(record: logging.LogRecord) -> bytes:
    fields: dict[str, Any] = dict(record.__dict__)
    fields["msg"], fields["args"] = record.getMessage(), None
    if record.exc_info:
        fields["exc_text"] = record.exc_text or logging.Formatter().formatException(record.exc_info)
        fields["exc_info"] = None
    return pickle.dumps({name: _portable(field) for name, field in fields.items()})


def _portable(field: Any) -> Any:
    """The same; as text, when it is of the user's and cannot be pickled or made again."""
    if type(field) in _SIMPLE:
        return field
    try:
        pickle.loads(pickle.dumps(field))
    except Exception:
        return _text(field)
    return field


def _text(field: Any) -> str:
    try:
        return str(field)
    except Exception as error:
        return f"<{type(field).__name__}, whose text raises {type(error).__name__}>"


def handle(stream: bytes | bytearray) -> None:
    """Give a record to the handlers of this process."""
    try:
        record = logging.makeLogRecord(pickle.loads(stream))
    except Exception as error:
        own.warning("a log record of a process is lost: it cannot be unpickled here: %r", error)
        return
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)
