"""The source ``lines``: the lines of a text file, also of one that grows."""

from __future__ import annotations

import codecs
import logging
import math
import os
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path

from pystream_core import PlanError

from .growing import GrowingText

_logger = logging.getLogger("PyStream.stages")


class Lines:
    """The lines of a text file, without their newlines; with ``follow`` also those to come.

    Each iteration opens the file anew, and closes it when it ends or is closed. A last line
    without newline counts as one, but not while following: there it may be half written,
    and is given when its newline has come.

    Following works like ``tail -F``. A file that shrank is read from its start again; when
    another file has taken the name (log rotation), the old one is read to its end first. The
    standard library has no file notification, so the file is looked at every ``interval``
    seconds while nothing comes. A file that is truncated and has grown beyond the old
    position within one interval cannot be told from one that grew.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        encoding: str = "utf-8",
        errors: str = "strict",
        keep_newline: bool = False,
        follow: bool = False,
        interval: float = 0.2,
        until_idle: float | None = None,
    ) -> None:
        """Describe the file.

        Args:
            path: the file; it must exist.
            encoding: its text encoding.
            errors: what to do with bytes that are no text: "strict", "replace", "ignore".
            keep_newline: leave a newline at the end of every line that has one.
            follow: go on waiting for more at the end of the file, until closed.
            interval: seconds between two looks at a file that does not grow.
            until_idle: stop following after this many seconds without growth; None never.

        Raises:
            PlanError: there is no such file, or an option has no meaning. While iterating,
                ValueError names the file and the line that is not in this encoding.
        """
        self.path = Path(path)
        if not self.path.is_file():
            what = "is a folder" if self.path.is_dir() else "does not exist"
            raise PlanError(f"{self.path} {what}: give the path of a text file to read lines from")
        try:
            "".encode(encoding)
            codecs.lookup_error(errors)
        except (LookupError, TypeError) as error:
            raise PlanError(f"lines: {error}; try encoding='utf-8', errors='replace'") from None
        _check_seconds("interval", interval)
        if until_idle is not None:
            _check_seconds("until_idle", until_idle)
            if not follow:
                raise PlanError("lines: until_idle only has a meaning with follow=True")
        self._encoding, self._errors = encoding, errors
        self._newline = "\n" if keep_newline else ""
        self._follow, self._interval, self._until_idle = bool(follow), interval, until_idle
        self._stop = threading.Event()

    def __iter__(self) -> Iterator[str]:
        return self._texts(self.numbered())

    def numbered(self) -> Generator[tuple[int, str], None, None]:
        """A generator over ``(number, line)``; numbers start at 1 in every file."""
        self._stop = threading.Event()
        return self._read(self._stop)

    def close(self) -> None:
        """End the newest iteration within milliseconds, also from another thread."""
        self._stop.set()

    def __repr__(self) -> str:
        return f"<Lines of {self.path}{', following' if self._follow else ''}>"

    def _texts(self, numbered: Generator[tuple[int, str], None, None]) -> Iterator[str]:
        with closing(numbered):
            for _number, line in numbered:
                yield line

    def _read(self, stop: threading.Event) -> Generator[tuple[int, str], None, None]:
        again = True
        while again and not stop.is_set():
            with closing(GrowingText(self.path, self._encoding, self._errors)) as text:
                more = True
                while more:
                    for line in text.lines(final=not self._follow):
                        yield text.number, line + self._newline
                        if stop.is_set():
                            return
                    more = self._follow and self._wait_for_growth(text, stop)
                again = self._follow and text.is_replaced()
                if text.rest and (again or not self._follow):
                    yield text.number + 1, text.rest
                elif text.rest:
                    _logger.warning(
                        "%s: its last line is unfinished and was left unread, %d character%s of it",
                        self.path,
                        len(text.rest),
                        "" if len(text.rest) == 1 else "s",
                    )

    def _wait_for_growth(self, text: GrowingText, stop: threading.Event) -> bool:
        """Wait for more to read in this file; False when there will not be, or on ``stop``."""
        started = time.monotonic()
        while not stop.is_set():
            replaced = text.is_replaced()  # asked first: what it held by then is still read
            if text.has_more():
                return True
            left = math.inf
            if self._until_idle is not None:
                left = started + self._until_idle - time.monotonic()
            if replaced or left <= 0:
                return False
            stop.wait(min(self._interval, left))
        return False


def _check_seconds(option: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise PlanError(f"lines: {option} must be seconds above 0, not {value!r}")
