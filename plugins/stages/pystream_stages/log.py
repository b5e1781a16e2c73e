"""The stage ``log``: write items to the log as they pass."""

from __future__ import annotations

import logging
import reprlib
from typing import Any

from pystream_core import PlanError, Stage

LOGGER = "PyStream.stages"
_LONGEST = 200


class Log(Stage[Any]):
    """Log every ``every``-th item, then pass it on unchanged.

    The item is shown by a ``repr`` of at most 200 characters that never raises; arrays by
    shape and type. Nothing is formatted while the logger is off for that level.
    """

    def __init__(
        self,
        level: str | int = "INFO",
        every: int = 1,
        logger: str = LOGGER,
        template: str = "item {count}: {item}",
    ) -> None:
        """Choose what is logged, and where.

        Args:
            level: a level name such as ``"DEBUG"``, or its number.
            every: log one item of this many, starting with the first.
            logger: name of the logger.
            template: the message; ``{count}`` is the item's number from 1, ``{item}`` its repr.

        Raises:
            PlanError: an option has no meaning.
        """
        self._level = level_number("log", level)
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise PlanError(f"log: every must be a whole number from 1, not {every!r}")
        try:
            template.format(count=1, item="")
        except Exception as error:
            raise PlanError(
                f"log: template {template!r} cannot be filled in ({type(error).__name__}: "
                f"{error}); the fields are {{count}} and {{item}}, literal braces are doubled"
            ) from None
        self._every = every
        self._logger = logging.getLogger(logger)
        self._template = template
        self._count = 0

    def __call__(self, data: Any) -> Any:
        """Log the item if it is its turn, and return it."""
        self._count += 1
        if (self._count - 1) % self._every == 0 and self._logger.isEnabledFor(self._level):
            text = self._template.format(count=self._count, item=shown(data))
            self._logger.log(self._level, "%s", text)
        return data

    def cleanup(self) -> None:
        """Nothing to let go."""


def level_number(stage: str, level: str | int) -> int:
    """The number of a logging level; raises PlanError when there is no such level."""
    if isinstance(level, str):
        number = logging.getLevelName(level.upper())
        if isinstance(number, int):
            return number
    elif isinstance(level, int) and not isinstance(level, bool):
        return level
    raise PlanError(
        f"{stage}: level must be DEBUG, INFO, WARNING, ERROR, CRITICAL or a number, not {level!r}"
    )


def shown(item: object) -> str:
    """A short text for any object; never raises, at most 200 characters."""
    try:
        shape, dtype = getattr(item, "shape", None), getattr(item, "dtype", None)
        if isinstance(shape, tuple) and dtype is not None:  # the repr of an array costs a lot
            text = f"<{type(item).__name__} {shape} {dtype}>"
        else:
            limited = reprlib.Repr()
            limited.maxstring = limited.maxother = limited.maxlong = _LONGEST
            text = limited.repr(item)
    except BaseException as error:  # an item may do anything, also here
        text = f"<{type(item).__name__} whose repr raises {type(error).__name__}>"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
