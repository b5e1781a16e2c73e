"""The source of a run, with a tap: it can be shut from elsewhere, and after a number of items."""

from __future__ import annotations

import io
import threading
import types
from collections.abc import Iterable, Iterator
from typing import Any


class LeaveSource(BaseException):
    """Raised by a signal handler inside a source that runs in the main thread."""


class Tap(Iterator[Any]):
    """Gives the items of a source until it is shut.

    Iterated by one thread; ``shut`` and ``leave`` may be called from any, also by a signal
    handler, since they only set a flag.

    Attributes:
        taken: items taken so far.
        inside: whether the source is being asked for one.
        error: what the source raised.
    """

    def __init__(self, source: Iterable[Any], limit: int | None = None) -> None:
        """Put a tap on a source.

        Args:
            source: anything that can be iterated; that begins with the first item.
            limit: the number of items after which it ends.
        """
        self.taken = 0
        self.inside = False
        self.error: BaseException | None = None
        self._source = source
        self._limit = limit
        self._items: Iterator[Any] | None = None
        self._shut = False
        self._left = False

    def __next__(self) -> Any:
        if self._shut or self.taken == self._limit:
            self.close()
            raise StopIteration
        try:
            self.inside = True
            if self._items is None:
                self._items = iter(self._source)
            item = next(self._items)
        except LeaveSource:
            self.close()
            raise StopIteration from None
        except StopIteration:
            raise
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.inside = False
        if self._left:  # nobody waits for it any more
            raise StopIteration
        self.taken += 1
        return item

    def shut(self) -> None:
        """Take nothing more; an item that the source is just about to give still counts."""
        self._shut = True

    def leave(self) -> None:
        """Take not even that."""
        self._shut = self._left = True

    def close(self) -> None:
        """Close what is iterated, in the thread that iterates."""
        items, self._items = self._items, iter(())
        close = getattr(items, "close", None)
        if close is not None:
            close()

    def wake(self) -> None:
        """Ask a source that may block to end, where it can be asked from another thread.

        Its ``close`` may block too, so it is called in a thread of its own.
        """
        close = getattr(self._source, "close", None)
        # A running generator refuses it; a file waits for the very reading that blocks.
        if close is not None and not isinstance(self._source, (types.GeneratorType, io.IOBase)):
            threading.Thread(target=_quietly, args=(close,), daemon=True).start()


def _quietly(close: Any) -> None:
    try:
        close()
    except Exception:  # it was only asked to hurry
        pass
