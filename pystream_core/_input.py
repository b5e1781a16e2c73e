"""Where items come from: the input generator, the loop that calls it, the feeder of a stream."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from ._channel import Baton, ChannelClosed
from ._errors import (
    InputExhausted,
    PipelineTerminated,
    PlanError,
    StageError,
    call_name,
    describe_error,
)
from ._executor import Executor, Feeding
from ._ticker import Ticker

if TYPE_CHECKING:
    from ._output import Stream

logger = logging.getLogger("PyStream")

_STOPPED: Final = "the loop of the input generator %s was stopped by %s"


class InputGeneratorRequest:
    """The default of ``forward``: take the item from the input generator."""

    def __repr__(self) -> str:
        return "<item of the input generator>"


class InputGenerator:
    """The user's input generator, called by one thread at a time until its StopIteration.

    ``_turn`` is held during the user's call; threads that wait for it are sent away by
    ``close``.
    """

    def __init__(self, generate: Callable[[], Any] | None) -> None:
        self._generate = generate
        self._turn = Baton()
        self._exhausted = False

    @property
    def name(self) -> str:
        """What messages call the user's function."""
        return call_name(self._generate)

    def check(self) -> Callable[[], Any]:
        """The user's function.

        Raises:
            PlanError: there is none.
        """
        if self._generate is None:
            raise PlanError(
                "there is no input generator: give the item to forward(item) or a source to "
                "stream(source), or make the pipeline with Pipeline(input_generator=...)"
            )
        return self._generate

    def __call__(self) -> Any:
        """The next item. Blocks as long as the user's function does.

        Raises:
            PlanError: there is no input generator.
            InputExhausted: it has raised StopIteration, now or before.
            PipelineTerminated: the pipeline was stopped while this thread waited.
        """
        generate = self._generate or self.check()
        try:
            self._turn.acquire()
        except ChannelClosed:
            raise PipelineTerminated("the pipeline was stopped; no item was taken") from None
        try:
            if not self._exhausted:
                try:
                    return generate()
                except StopIteration:
                    self._exhausted = True
        finally:
            self._turn.release()
        raise InputExhausted("the input generator has come to its end (it raised StopIteration)")

    def __iter__(self) -> Iterator[Any]:
        """Every further item until the end."""
        while True:
            try:
                item = self()
            except (InputExhausted, PipelineTerminated):
                return
            yield item
            del item

    def close(self) -> None:
        """Send waiting threads away. Never blocks."""
        self._turn.close()


class Loop:
    """Forwards one generated item at every tick, in a thread of its own.

    The thread holds the session's parts, never the Pipeline. ``_ending`` guards the step from
    "still wanted" to "admitted": after ``stop`` has returned, the loop admits nothing more,
    even when it is still blocked in the generator or at a full front.

    Args:
        feed: forwards one generated item; its argument says whether it is still wanted.
        period: seconds between ticks.
        name: of the input generator, for messages.
    """

    def __init__(
        self, feed: Callable[[Callable[[], bool]], object], period: float, name: str
    ) -> None:
        self.ticker = Ticker(period)
        self._errors: SimpleQueue[BaseException] = SimpleQueue()  # what stopped it, at most one
        self.thread = threading.Thread(target=self._run, name="pystream-loop", daemon=True)
        self._feed = feed
        self._name = name
        self._stopping = False

    def start(self) -> None:
        """Start ticking, at once."""
        self.thread.start()

    def request_stop(self) -> None:
        """Let the loop end after what it is doing. Never blocks."""
        self._stopping = True
        self.ticker.stop()

    def stop(self, patience: float = 0.05) -> None:
        """End the loop; waits at most ``patience`` seconds for the item that it has in hand.

        A loop that is blocked in the generator or at a full front ends by itself when that
        wait ends; it admits nothing more.
        """
        self.request_stop()
        if self.thread is not threading.current_thread() and self.thread.ident is not None:
            self.thread.join(patience)

    def take_error(self) -> BaseException | None:
        """What stopped the loop, for the one caller who delivers it; None for all others."""
        try:
            return self._errors.get_nowait()
        except Empty:
            return None

    @property
    def running(self) -> bool:
        """Whether the loop still forwards."""
        return self.thread.is_alive() and not self._stopping

    def _wanted(self) -> bool:
        return not self._stopping

    def _run(self) -> None:
        while self.ticker.wait_tick():
            try:
                self._feed(self._wanted)
            except InputExhausted:
                return
            except BaseException as error:  # delivered by stop_loop(), get_results(), forward()
                if isinstance(error, PipelineTerminated) or self._stopping:
                    if not isinstance(error, PipelineTerminated):
                        logger.error(_STOPPED, self._name, describe_error(error))
                    return
                self._errors.put(error)
                if not isinstance(error, StageError):  # which has been logged by the call
                    logger.error(_STOPPED, self._name, describe_error(error), exc_info=error)
                return


class Feeder:
    """Admits every item of a source for one stream, in a thread of its own.

    So no result waits for the next input. Ends with the source, with the stream, or with the
    run; then it puts the end behind the last result.
    """

    def __init__(
        self, source: Iterable[Any], executor: Executor, stream: Stream, *, origin: object = None
    ) -> None:
        self.thread = threading.Thread(target=self._run, name="pystream-feeder", daemon=True)
        self._source = source
        self._origin = origin  # what the user gave, when that is not an iterator itself
        self._executor = executor
        self._stream = stream
        self._feeding = Feeding()

    @property
    def in_source(self) -> bool:
        """Whether the source is making its next item, for naming what blocks."""
        return self._feeding.in_source

    def start(self) -> None:
        """Start feeding."""
        self.thread.start()

    def request_stop(self) -> None:
        """Admit nothing more. Never blocks."""
        self._feeding.stopping = True

    def interrupt(self) -> None:
        """Close a source that blocks in the middle of its next item, so that it comes back.

        Only an object of its own with a ``close()``, such as a camera, can be closed from
        here; an iterator is closed by the feeder itself when it has come back.
        """
        close = getattr(self._origin, "close", None)
        if self.in_source and callable(close) and not isinstance(self._origin, Iterator):
            _try_to_close(close)

    def _run(self) -> None:
        error: BaseException | None = None
        items: Iterator[Any] | None = None
        try:
            items = iter(self._source)
            self._executor.feed(items, self._feeding)
        except BaseException as raised:  # delivered by the stream, behind the last result
            error = raised
        if self._feeding.stopping or error is not None:
            close_source(items)
        if not self._feeding.stopping:
            self._executor.drain(None)
        self._stream.end(error)


def close_source(items: object) -> None:
    """Close an iterator that can be closed; what it raises then is logged."""
    close = getattr(items, "close", None)
    if callable(close) and isinstance(items, Iterator):
        _try_to_close(close)


def _try_to_close(close: Callable[[], object]) -> None:
    try:
        close()
    except BaseException as error:
        logger.warning("closing the source of a stream raised %s", describe_error(error))
