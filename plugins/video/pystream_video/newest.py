"""The newest item of an iterator that runs in a thread of its own; late ones are counted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

T = TypeVar("T")


class Newest(Generic[T]):
    """A slot for one item between a producer thread and one consumer.

    A new item replaces one that was not taken, which is counted in ``dropped``. The last item
    before the end is always given. ``_condition`` guards all that the two share.
    """

    def __init__(self, produce: Callable[[], Generator[T, None, None]], name: str) -> None:
        """Prepare it; :meth:`items` starts the thread.

        Args:
            produce: called in the thread; makes the generator, which is closed there too.
            name: name of the thread.
        """
        self._produce = produce
        self._condition = threading.Condition()
        self._slot: list[T] = []
        self._failure: BaseException | None = None
        self._ended = self._closed = False
        self.dropped = 0
        # a daemon: reading may block for the timeout of the input, an exit must not wait for it
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def items(self) -> Generator[T, None, None]:
        """The newest item each time. Blocks until there is one, the end, or :meth:`close`."""
        self._thread.start()
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._slot or self._ended or self._closed)
                if self._closed:
                    return
                if not self._slot:
                    break
                item = self._slot.pop()
            yield item
            del item  # the frame would live until the next one comes
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """End :meth:`items` at once; what was in the slot counts as dropped."""
        with self._condition:
            self._closed = True
            self.dropped += len(self._slot)
            self._slot.clear()
            self._condition.notify_all()

    def join(self, timeout: float) -> bool:
        """Wait for the thread; False when it did not end in time."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            items = self._produce()
            try:
                for item in items:
                    with self._condition:
                        if self._closed:
                            self.dropped += 1
                            return
                        self.dropped += len(self._slot)
                        self._slot[:] = [item]
                        self._condition.notify_all()
            finally:
                items.close()
        except BaseException as error:  # the consumer raises it
            self._failure = error
        finally:
            with self._condition:
                self._ended = True
                self._condition.notify_all()
