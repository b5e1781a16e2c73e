"""The source ``jsonl``: one JSON value per line of a text file."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any, Literal

from pystream_core import PlanError

from .lines import Lines

_logger = logging.getLogger("PyStream.stages")


class JsonLines:
    """The values of a JSON Lines file, also of one that grows; blank lines are passed over.

    Reads as the source ``lines`` does, which says how following works.

    Attributes:
        skipped: bad lines that ``on_error="skip"`` left out in the newest iteration.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        on_error: Literal["stop", "skip"] = "stop",
        encoding: str = "utf-8",
        errors: str = "strict",
        follow: bool = False,
        interval: float = 0.2,
        until_idle: float | None = None,
    ) -> None:
        """Describe the file.

        Args:
            path: the file; it must exist.
            on_error: a line that is no JSON raises ValueError with file and line number
                ("stop"), or is left out, counted and logged ("skip").
            encoding: its text encoding.
            errors: what to do with bytes that are no text: "strict", "replace", "ignore".
            follow: go on waiting for more at the end of the file, until closed.
            interval: seconds between two looks at a file that does not grow.
            until_idle: stop following after this many seconds without growth; None never.

        Raises:
            PlanError: there is no such file, or an option has no meaning.
        """
        if on_error not in ("stop", "skip"):
            raise PlanError(f'jsonl: on_error must be "stop" or "skip", not {on_error!r}')
        self._skip = on_error == "skip"
        self._lines = Lines(
            path,
            encoding=encoding,
            errors=errors,
            follow=follow,
            interval=interval,
            until_idle=until_idle,
        )
        self.skipped = 0

    def __iter__(self) -> Iterator[Any]:
        self.skipped = 0
        return self._values(self._lines.numbered())

    def close(self) -> None:
        """End the newest iteration within milliseconds, also from another thread."""
        self._lines.close()

    def _values(self, numbered: Generator[tuple[int, str], None, None]) -> Iterator[Any]:
        with closing(numbered):
            try:
                for number, line in numbered:
                    if not line.strip():
                        continue
                    try:
                        value = json.loads(line)
                    except (ValueError, RecursionError) as error:
                        self._refuse(number, error)
                    else:
                        yield value
            finally:
                if self.skipped:
                    lines = "line" if self.skipped == 1 else "lines"
                    _logger.warning("%s: %d bad %s left out", self._lines.path, self.skipped, lines)

    def _refuse(self, number: int, error: Exception) -> None:
        message = f"{self._lines.path}, line {number}: not JSON ({error})"
        if not self._skip:
            raise ValueError(f"{message}; mend it, or set on_error='skip'") from error
        self.skipped += 1
        if self.skipped == 1:  # the total follows at the end, so that a bad file fills no log
            _logger.warning("%s; left out, and so will be the others like it", message)
