"""One open text file that may grow: its position, decoder and unfinished last line."""

from __future__ import annotations

import codecs
import io
import logging
import os
from collections.abc import Iterator
from pathlib import Path

_CHUNK = 1 << 16
_logger = logging.getLogger("PyStream.stages")


class GrowingText:
    """A text file, decoded piece by piece, because a character may be half written too.

    Attributes:
        number: lines read so far.
        rest: what was read of a line whose newline has not come.
    """

    def __init__(self, path: Path, encoding: str, errors: str) -> None:
        self._path, self._encoding, self._errors = path, encoding, errors
        self._file = path.open("rb")
        self._restart()

    def _restart(self) -> None:
        self._file.seek(0)
        plain = codecs.getincrementaldecoder(self._encoding)(self._errors)
        self._decoder = io.IncrementalNewlineDecoder(plain, translate=True)
        self.number = 0
        self.rest = ""

    def lines(self, *, final: bool) -> Iterator[str]:
        """The finished lines up to the present end of the file, without newlines.

        Args:
            final: nothing more will come, so a half character at the end is an error.

        Raises:
            ValueError: bytes that are not in this encoding; names file and line.
        """
        while True:
            chunk = self._file.read(_CHUNK)
            text, failure = self._decode(chunk, final=final and not chunk)
            *finished, self.rest = (self.rest + text).split("\n")
            for line in finished:
                self.number += 1
                yield line
            if failure is not None:
                raise ValueError(
                    f"{self._path}, line {self.number + 1}: not {self._encoding} text "
                    f"({failure.reason}); give encoding=..., or errors='replace'"
                ) from failure
            if not chunk:
                return

    def _decode(self, chunk: bytes, *, final: bool) -> tuple[str, UnicodeDecodeError | None]:
        """The text of a chunk up to its first bad byte, and the error there."""
        before = self._decoder.getstate()
        try:
            return self._decoder.decode(chunk, final), None
        except UnicodeDecodeError as error:
            failure = error
        self._decoder.setstate(before)
        text = ""
        for byte in chunk:  # slow, but it runs once, and saves the good lines before the bad one
            try:
                text += self._decoder.decode(bytes((byte,)), False)
            except UnicodeDecodeError:
                break
        return text, failure

    def has_more(self) -> bool:
        """Whether there is something to read. A file that shrank starts anew."""
        size, position = os.fstat(self._file.fileno()).st_size, self._file.tell()
        if size < position:
            _logger.warning("%s was truncated: it is read from its start again", self._path)
            self._restart()
            return size > 0
        return size > position

    def is_replaced(self) -> bool:
        """Whether another file has the name now. False while none has it."""
        try:
            now = os.stat(self._path)
        except FileNotFoundError:
            return False  # between the two steps of a rotation
        return not os.path.samestat(now, os.fstat(self._file.fileno()))

    def close(self) -> None:
        """Close the file."""
        self._file.close()
