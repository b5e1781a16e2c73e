"""A placement without processes: every worker's calls happen in a helper thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from queue import SimpleQueue
from typing import Any, Final

from .._errors import PlanError
from .._placement import Placement
from .._plan import StageSpec, flushes
from .._stage import Stage, call_kind

_END: Final = object()


class InlinePlacement(Placement):
    """Keeps the contract of placements with nothing but a thread and two queues.

    The helper thread makes the stage, sets it up, calls it and cleans it up; the executor's
    worker waits for its answers. A model for real placements, and a fake for tests.
    """

    def wrap(self, spec: StageSpec) -> StageSpec:
        """The specification of the stage that talks to the helper."""
        kind = _PlacedGenerator if spec.kind == "generator" else _Placed
        return replace(spec, make=lambda: kind(spec), shared=False)


class _Placed(Stage[Any]):
    """The worker's end. One question at a time, so that each answer is the latest one's."""

    def __init__(self, spec: StageSpec) -> None:
        self._spec = spec
        self._questions: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._helper: threading.Thread | None = None
        self._stage: Any = None

    def setup(self) -> None:
        """Start the helper and let it make and set up the stage."""
        self._helper = threading.Thread(
            target=self._help, name=f"pystream-inline {self._spec.name}", daemon=True
        )
        self._helper.start()
        try:
            self._ask(self._make)
        except BaseException:
            self._stop()
            raise

    def __call__(self, data: Any) -> Any:
        """Call the stage in the helper."""
        return self._ask(lambda: self._stage(data))

    def cleanup(self) -> None:
        """Clean the stage up in the helper, and stop that."""
        try:
            if isinstance(self._stage, Stage):
                self._ask(self._stage.cleanup)
        finally:
            self._stop()

    def _make(self) -> None:
        stage = self._spec.make()
        if call_kind(stage) != self._spec.kind or flushes(stage) != self._spec.batching:
            raise PlanError(
                f"stage {self._spec.name!r} cannot be placed: what its factory makes is called in "
                f"another way than a function. Add its class or the function itself"
            )
        self._stage = stage
        if isinstance(self._stage, Stage):
            self._stage.setup()

    def _stop(self) -> None:
        assert self._helper is not None
        self._questions.put(None)
        self._helper.join()

    def _ask(self, question: Callable[[], Any]) -> Any:
        self._questions.put(question)
        value, error = self._answers.get()
        if error is not None:
            raise error
        return value

    def _help(self) -> None:
        while (question := self._questions.get()) is not None:
            try:
                answer: tuple[Any, BaseException | None] = (question(), None)
            except BaseException as error:
                answer = (None, error)
            del question
            self._answers.put(answer)
            del answer


class _PlacedGenerator(_Placed):
    """The same for a generator stage: every output is an answer of its own."""

    def __call__(self, data: Any) -> Iterator[Any]:
        """Each output of the stage, made in the helper when it is asked for."""
        outputs = self._ask(lambda: iter(self._stage(data)))
        try:
            while (output := self._ask(lambda: next(outputs, _END))) is not _END:
                yield output
                del output
        finally:
            close = getattr(outputs, "close", None)
            if close is not None:
                self._ask(close)
