"""What an executor may leave out, and which tests a placement leaves out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from .._errors import PlanError
from .._plan import MAIN_PIPELINE_NAME, describe, flushes
from .._stage import StageFactory, call_kind
from ._stages import Gate, Recorder, Recorders
from ._suite_stages import Triples, increment, twice

_Added = tuple[Any, dict[str, Any]]


async def awaited(item: Any) -> Any:
    """A coroutine stage."""
    return item


def _unsupported(stage: Any = increment, **options: Any) -> _Added:
    return stage, {"name": "Unsupported", **options}


LEFT_OUT: Final[Mapping[str, list[_Added]]] = {
    "supports_branches": [
        (increment, {"name": "First"}),
        _unsupported(after="First"),
        (increment, {"name": "Beside", "after": "First"}),
    ],
    "supports_generators": [_unsupported(twice)],
    "supports_batching": [_unsupported(Triples)],
    "supports_coroutines": [_unsupported(awaited)],
    "supports_workers": [_unsupported(workers=2)],
    "supports_overflow": [_unsupported(overflow="drop_oldest", capacity=2)],
    "supports_max_age": [_unsupported(max_age=1000.0)],
}
"""By the switch that says so: the stages of a pipeline that has to be refused."""


def needed(stage: Any, options: Mapping[str, Any]) -> Iterator[str]:
    """The switches of what an executor must support for this stage."""
    kind = call_kind(stage.make if isinstance(stage, StageFactory) else stage)
    if options.get("after") is not None:
        yield "supports_branches"
    if kind == "generator":
        yield "supports_generators"
    if flushes(stage):
        yield "supports_batching"
    if kind == "coroutine":
        yield "supports_coroutines"
    if options.get("workers", 1) > 1:
        yield "supports_workers"
    if options.get("overflow", "block") != "block":
        yield "supports_overflow"
    if options.get("max_age") is not None:
        yield "supports_max_age"


def can_be_placed(stage: Any, placement: str) -> bool:
    """Whether a stage of a test is one that this placement takes, and is not watched or held by
    the test."""
    from .._registry import registry

    made_by = stage.make if isinstance(stage, StageFactory) else stage
    if isinstance(made_by, (Gate, Recorder, Recorders)) or made_by is Recorder:
        return False
    if flushes(stage) or call_kind(stage) == "coroutine":
        return False  # the core refuses them
    spec = replace(describe(stage, None, ""), path=(MAIN_PIPELINE_NAME, "Stage"))
    try:
        registry().placement(placement)().wrap(spec)
    except PlanError:
        return False
    return True


SEE_THEIR_STAGES: Final = {
    "test_retry_calls_again",  # counts the calls
    "test_retry_gives_up",
    "test_a_retry_that_filters_filters",
    "test_under_stop_the_next_step_is_stated",  # a failing once, seen after a new start
    "test_a_stage_lives_in_one_thread",
    "test_generator_stages_have_workers_too",
    "test_items_alive_are_bounded",
    "test_what_was_called_back_is_not_worked_on",
    "test_outputs_are_handed_on_as_they_are_made",
    "test_a_mode_after_a_failure_starts_afresh",  # a copy fails once again
    "test_cleanup_brings_out_a_partial_batch",
    "test_drop_newest_keeps_what_waits",
    "test_drop_oldest_keeps_what_is_new",
    "test_an_item_that_ends_in_one_branch_ends_once",
    "test_a_loop_ends_with_its_generator",
    "test_items_are_never_looked_into",  # items that refuse to be pickled
    "test_a_failing_item_is_never_looked_into",
    "test_items_are_let_go_when_done",
    "test_followers_get_the_same_item",  # the very object
    "test_a_stage_may_call_abort",  # stages that hold the pipeline
    "test_a_stage_may_call_cleanup",
    "test_a_stage_cannot_change_the_mode",
    "test_placed_stages_run_elsewhere",  # about another placement
    "test_placed_failures_are_the_stages",
    "test_a_placed_setup_that_raises",
    "test_no_result_is_read_twice",  # readers that spin take the interpreter from the workers
    "test_an_idle_cleanup_is_quick",  # the placement's own time is not bounded by this
}
"""Tests that look at what their stages do through objects which they share with them, so that
they say nothing of a stage that is somewhere else."""
