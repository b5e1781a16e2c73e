"""A polled stage without processes: what is submitted is called in a helper thread."""

from __future__ import annotations

import threading
from math import inf
from queue import SimpleQueue
from typing import Any, Final

from .._bell import Bell
from .._placement import PolledStage

_END: Final = object()


class HelperCalls(PolledStage):
    """Makes a placed stage a polled one: its calls that are submitted happen in a thread of its
    own, which rings a bell when one has ended. Needs ``select.poll``."""

    _ended: Bell | None = None

    def submit(self, value: Any) -> None:
        """Let the helper call; it is started for the first one."""
        if self._ended is None:
            self._ended = Bell.take()
            self.descriptors = (self._ended.fileno(),)
            self._submitted: SimpleQueue[Any] = SimpleQueue()
            self._outcomes: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
            self._caller = threading.Thread(
                target=self._call_submitted, args=(self._ended,), daemon=True
            )
            self._caller.start()
        self._submitted.put(value)

    def done(self) -> bool:
        """Whether there is an answer."""
        return not self._outcomes.empty()

    def result(self) -> Any:
        """The answer."""
        assert self._ended is not None
        self._ended.silence()
        value, error = self._outcomes.get()
        if error is not None:
            raise error
        return value

    def until(self) -> float:
        """It takes as long as it takes."""
        return inf

    def cleanup(self) -> None:
        """End the helper, too."""
        if self._ended is not None:
            self._submitted.put(_END)
            self._caller.join()
            self._ended.give_back()
            self._ended = None
            self.descriptors = ()
        super().cleanup()  # type: ignore[safe-super]  # the stage's own, behind this one

    def _call_submitted(self, bell: Bell) -> None:
        while (value := self._submitted.get()) is not _END:
            try:
                answer: tuple[Any, BaseException | None] = (self(value), None)
            except BaseException as error:
                answer = (None, error)
            del value
            self._outcomes.put(answer)
            del answer
            bell.ring()
