"""Where the tool prints: consoles that know a terminal from a file, and the log on them."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TextIO

from pystream_core import StageError

if TYPE_CHECKING:
    from rich.console import Console

_UNCUT: Final = 10_000  # columns of a "console" that is a file or a pipe: nothing is wrapped


def console(stream: TextIO, *, width: int | None = None, least: int = 0) -> Console:
    """A console on a stream: with colours on a terminal, plain text without control
    characters anywhere else.

    Args:
        stream: where it prints.
        width: columns when the stream is no terminal; by default nothing is wrapped.
        least: columns that are used even where a terminal has fewer.
    """
    from rich.console import Console

    terminal = is_terminal(stream)
    coloured = terminal and not os.environ.get("NO_COLOR")
    made = Console(
        file=stream,
        force_terminal=terminal,
        color_system="auto" if coloured else None,
        width=None if terminal else width or _UNCUT,
        markup=False,
        emoji=False,
        highlight=False,
        soft_wrap=False,
    )
    if made.width < least:
        made.width = least
    return made


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody looks at it who can see more than a stream of letters."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")


def print_tree(console: Console, draw: Callable[..., str]) -> None:
    """The tree of a pipeline; on a terminal fitted to it, and the stages stand out.

    Args:
        console: where it is printed.
        draw: the ``text`` of its graph.
    """
    from rich.text import Text

    encoding = (getattr(console.file, "encoding", None) or "utf-8").lower()
    width = console.width if console.is_terminal else None
    text = draw(width=width, ascii=not encoding.startswith("utf"))
    for line in text.splitlines():
        shown = Text(line)
        shown.highlight_regex(
            r"^[├└│╎↳─ |`:>-]+|^(input|output)\b|(←|<-) [({].*|\[[^\[]*\]$", "dim"
        )
        console.print(shown, soft_wrap=True)


class _LogLines(logging.Handler):
    """Shows records as lines, without tracebacks unless they are wanted.

    The failure that ends the run is logged by the core at once, and raised too. It is kept
    here, so that it is told once, at the end, where people look for it.
    """

    def __init__(self, show: Callable[[str, str], None], *, tracebacks: bool) -> None:
        super().__init__()
        self.kept: list[logging.LogRecord] = []
        self._show = show
        self._tracebacks = tracebacks

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.ERROR and _failure(record) is not None:
            self.kept.append(record)
        else:
            self.show(record)

    def show(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
            error = record.exc_info[1] if record.exc_info else None
            if error is not None:
                if self._tracebacks:
                    text += "\n" + "".join(traceback.format_exception(error)).rstrip()
                elif type(error).__name__ not in text:
                    text += f" ({type(error).__name__}: {error})"
            self._show(record.levelname.lower(), text)
        except Exception:  # as every handler: a record must not end what it reports on
            self.handleError(record)


@contextmanager
def log_lines(
    show: Callable[[str, str], None], *, tracebacks: bool
) -> Iterator[Callable[..., None]]:
    """Show what the logger ``PyStream`` says while the context is open.

    Yields a function that shows what was kept back, except the failure that it is given.

    Args:
        show: shows a level and a text, from any thread.
        tracebacks: whether errors are shown with theirs.
    """
    logger = logging.getLogger("PyStream")
    handler = _LogLines(show, tracebacks=tracebacks)
    level = logger.level
    if level == logging.NOTSET:
        logger.setLevel(logging.INFO)

    def release(told: BaseException | None) -> None:
        kept, handler.kept = handler.kept, []
        for record in kept:
            if told is None or str(_failure(record)) != str(told):
                handler.show(record)

    logger.addHandler(handler)
    try:
        yield release
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        release(None)


def _failure(record: logging.LogRecord) -> StageError | None:
    """The StageError that a record is about."""
    arguments = record.args if isinstance(record.args, tuple) else ()
    return next((each for each in arguments if isinstance(each, StageError)), None)
