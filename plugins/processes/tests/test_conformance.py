"""What every executor promises holds with every stage in a process.

The suite looks at what its stages do through objects that they share with the test. A stage in
a process shares nothing, so here a stage is placed where the test can do without seeing it: not
one that holds a lock or an event (it cannot be pickled), and none in the tests that read back
from the stage itself.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import cloudpickle
import pytest

from pystream_core import Pipeline, StageFactory, call_kind, flushes
from pystream_core.testing import Gate, Recorder, Recorders, executor_suite

SEE_THEIR_STAGES = {
    "test_retry_calls_again",  # counts the calls
    "test_retry_gives_up",
    "test_a_retry_that_filters_filters",
    "test_under_stop_the_next_step_is_stated",  # a failing once, seen after a new start
    "test_a_stage_lives_in_one_thread",
    "test_generator_stages_have_workers_too",
    "test_items_alive_are_bounded",
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
    "test_an_idle_cleanup_is_quick",  # measured on its own, in test_lost
}


def can_be_placed(stage: Any) -> bool:
    """Not one that is watched, waits for the test, or collects."""
    made_by = stage.make if isinstance(stage, StageFactory) else stage
    if isinstance(made_by, (Gate, Recorder, Recorders, Pipeline)) or made_by is Recorder:
        return False
    if flushes(stage) or call_kind(stage) == "coroutine":
        return False
    try:
        cloudpickle.dumps(stage)
    except Exception:
        return False
    return True


class Placing:
    """Places the stages of the suite."""

    placed = 0

    @pytest.fixture(autouse=True)
    def _only_what_applies(self, request: pytest.FixtureRequest) -> Iterator[None]:
        if request.function.__name__ in SEE_THEIR_STAGES:
            pytest.skip("it looks at its stages through shared objects")
        module = sys.modules[request.function.__module__]
        cloudpickle.register_pickle_by_value(module)
        yield
        cloudpickle.unregister_pickle_by_value(module)

    def pipeline(self, *stages: Any, **modes: Any) -> Pipeline:
        """The same with a placement wherever there can be one."""
        placed = []
        for each in stages:
            stage, options = each if isinstance(each, tuple) else (each, {})
            if can_be_placed(stage):
                options = {"placement": "process", **options}
            placed.append((stage, options))
        return super().pipeline(*placed, **modes)  # type: ignore[misc,no-any-return]


class TestThreads(Placing, executor_suite("threads")):
    """In threads, each worker with a process."""


class TestSerial(Placing, executor_suite("serial")):
    """In the caller's thread. (Those of failures, which are few, are also in test_placement.)"""

    pytestmark = pytest.mark.soak
