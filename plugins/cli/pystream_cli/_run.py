"""Running a job to its end, whatever end that is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from time import monotonic
from typing import Literal

from pystream_core import (
    CleanupError,
    Pipeline,
    PipelineTerminated,
    Profile,
    PyStreamError,
    StageError,
    Statistics,
)

from ._build import Job
from ._signals import Signals
from ._tap import LeaveSource, Tap

FAILURE = 1
BAD_FILE = 2
_BY_SIGNAL = 128
_BRIEFLY = 0.5  # seconds for cleanups after a second Ctrl-C


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a run.

    Attributes:
        state: ``completed``; ``stopped`` by a signal and drained; ``aborted`` by a second one,
            or because draining took too long; ``failed``.
        statistics: the ledger at the end.
        profile: None without a profiler.
        seconds: how long the stream was open, without the setup and cleanup of the stages.
        failure: what made it fail.
        blame: whose fault that is: ``stage``, ``source``, ``start``, ``cleanup``, ``pipeline``.
        signal: name of the signal that stopped it.
        exit_code: what the program ends with.
    """

    state: Literal["completed", "stopped", "aborted", "failed"]
    statistics: Statistics
    profile: Profile | None
    seconds: float
    failure: BaseException | None
    blame: str
    signal: str | None
    exit_code: int


def execute(
    job: Job,
    *,
    limit: int | None,
    tell: Callable[[str], None],
    watch: Callable[[Tap], AbstractContextManager[None]],
) -> Outcome:
    """Run a job. Blocks to its end, raises nothing that the run itself causes.

    Args:
        job: what to run; it is cleaned up at the end.
        limit: number of items to take from the source, None for all.
        tell: shows the user a line, from any thread.
        watch: shows the progress while the context is open.
    """
    pipeline = job.pipeline
    tap = Tap(job.source, limit)
    failure: BaseException | None = None
    aborted, blame = False, "start"
    timeout: float | None = None  # for draining: drain_timeout
    started = monotonic()
    with Signals(
        pipeline,
        tap,
        patience=job.drain_timeout,
        tell=tell,
        in_caller=job.executor == "serial",
    ) as signals:
        try:
            pipeline.start()
            blame, started = "pipeline", monotonic()
            with watch(tap):
                results = pipeline.stream(tap)
                for _ in results:
                    pass
        except LeaveSource:
            pass
        except KeyboardInterrupt:
            pipeline.abort()  # before the stream is let go, which would wait for its end
            aborted = True
        except PipelineTerminated as error:
            timeout = 0
            if signals.received is None:
                failure = error
        except Exception as error:
            failure = error
            if error is tap.error:
                blame = "source"
            elif isinstance(error, StageError) and error.seq is not None:
                blame = "stage"
        seconds = monotonic() - started
        signals.ended()
        try:
            if aborted:
                _clean_up_briefly(pipeline)
            else:
                if failure is not None:
                    pipeline.abort()
                pipeline.cleanup(timeout=timeout)
        except CleanupError as error:
            if failure is None:
                failure, blame = error, "cleanup"
        except KeyboardInterrupt:
            aborted = True
            pipeline.abort()
    statistics = pipeline.statistics()
    lost_by_stop = set(statistics.dropped) - {"overflow"}
    interrupted = signals.received is not None
    if failure is not None:
        state, code = "failed", FAILURE
    elif interrupted or aborted:
        state = "aborted" if aborted or lost_by_stop or statistics.in_flight else "stopped"
        code = _BY_SIGNAL + int(signals.received or 2)
    else:
        state, code = "completed", 0
    return Outcome(
        state=state,  # type: ignore[arg-type]
        statistics=statistics,
        profile=_profile(job),
        seconds=seconds,
        failure=failure,
        blame=blame if failure is not None else "",
        signal=signals.received.name if signals.received is not None else None,
        exit_code=code,
    )


def _clean_up_briefly(pipeline: Pipeline) -> None:
    """Who presses Ctrl-C twice wants the prompt back: what has not cleaned up by then is left
    to the end of the process."""

    def clean_up() -> None:
        with suppress(CleanupError):  # each error has been logged
            pipeline.cleanup(timeout=0)

    helper = threading.Thread(target=clean_up, name="pystream-abort", daemon=True)
    helper.start()
    helper.join(_BRIEFLY)


def _profile(job: Job) -> Profile | None:
    if not job.profiled:
        return None
    try:
        return job.pipeline.profile()
    except PyStreamError:  # the run is over; figures are not worth a failure
        return None
