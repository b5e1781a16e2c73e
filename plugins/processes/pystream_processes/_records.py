"""Log records of a child, brought to the parent's handlers."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from typing import Any


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
    try:
        return pickle.dumps(fields)
    except Exception:  # an extra field of the user's
        simple = (str, int, float, type(None))
        return pickle.dumps({key: each for key, each in fields.items() if type(each) in simple})


def handle(stream: bytes | bytearray) -> None:
    """Give a record to the handlers of this process."""
    record = logging.makeLogRecord(pickle.loads(stream))
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)
