"""The rules that the suites check, each with the tests that show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Rule:
    """One promise of a contract.

    Attributes:
        name: a word or two, for tables.
        text: the promise, a sentence.
        tests: names of the tests that show it, without parameters.
    """

    name: str
    text: str
    tests: tuple[str, ...]


def table(rules: Sequence[Rule]) -> str:
    """The rules as text, each with its tests."""
    return "\n".join(
        "\n".join([f"{rule.name}: {rule.text}", *(f"    {test}" for test in rule.tests)])
        for rule in rules
    )


EXECUTOR_RULES: Final = (
    Rule(
        "one bin",
        "every item whose admit returned True ends in exactly one bin of the ledger, lost and "
        "doubled by nobody",
        (
            "test_every_result_comes_once_and_in_order",
            "test_forward_keeps_the_newest_result",
            "test_items_pass_a_pipeline_without_stages",
            "test_skip_filters_and_counts",
            "test_falsy_items_are_items",
            "test_run_returns_the_ledger",
            "test_earlier_results_do_not_enter_a_stream",
        ),
    ),
    Rule(
        "plain data",
        "an item is never compared, printed, copied or asked for its truth, and is let go when it "
        "is done",
        (
            "test_items_are_never_looked_into",
            "test_a_failing_item_is_never_looked_into",
            "test_items_are_let_go_when_done",
        ),
    ),
    Rule(
        "order",
        "results leave in the order of admission, each the moment it is its turn, unless a stage "
        "says ordered=False",
        (
            "test_several_workers_keep_the_order",
            "test_a_result_leaves_the_moment_it_is_its_turn",
            "test_generator_stages_have_workers_too",
            "test_workers_with_failures_and_filters",
        ),
    ),
    Rule(
        "unordered",
        "with ordered=False an item overtakes a slow one",
        (
            "test_unordered_workers_do_not_wait",
            "test_unordered_coroutines_do_not_wait_for_one_another",
        ),
    ),
    Rule(
        "numbering",
        "numbering an item and bringing it to the first stage is one step, whoever calls",
        ("test_callers_side_by_side_keep_the_order_of_admission",),
    ),
    Rule(
        "one at a time",
        "run.output is called by one worker at a time",
        ("test_results_are_handed_over_one_at_a_time",),
    ),
    Rule(
        "generators",
        "what a generator stage makes goes on as it is made, in its parent's place, and a failure "
        "behind it ends it",
        (
            "test_generator_stages_expand_in_order",
            "test_outputs_are_handed_on_as_they_are_made",
            "test_a_generator_stage_may_give_nothing",
            "test_a_generator_stage_that_skips_gives_less",
            "test_outputs_before_a_failure_stay_valid",
            "test_a_generator_stage_may_be_given_a_replacement",
            "test_a_generator_stage_that_fails_under_stop",
            "test_a_failure_behind_a_generator_ends_it",
        ),
    ),
    Rule(
        "branches",
        "an item goes from each stage to all of its followers, to several as copies, and counts "
        "once",
        (
            "test_followers_get_the_same_item",
            "test_several_last_stages_give_a_dict",
            "test_a_name_may_come_before_its_stage",
            "test_an_item_that_ends_in_one_branch_ends_once",
            "test_an_item_that_ends_in_both_branches_ends_once",
            "test_nested_pipelines_branch",
            "test_a_direct_call_of_branches",
            "test_a_failure_in_a_branch_stops",
            "test_what_one_branch_drops_is_dropped_once",
            "test_abort_counts_every_item_in_branches_once",
            "test_a_branch_that_does_not_return_is_left_behind",
            "test_a_stream_of_branches_left_early_is_counted",
        ),
    ),
    Rule(
        "joins",
        "run.arrive holds back what is joined until all outputs of the item are there",
        (
            "test_a_join_gets_the_outputs_of_one_item_in_the_order_named",
            "test_branches_may_part_and_join_again_and_again",
            "test_stages_that_expand_stand_before_and_behind_branches",
        ),
    ),
    Rule(
        "front",
        "a full front makes admit wait, at most its timeout",
        (
            "test_a_full_front_waits_and_then_refuses",
            "test_a_full_front_that_gets_room_accepts",
            "test_unlimited_times_are_allowed",
        ),
    ),
    Rule(
        "refused",
        "what admit refused, or was withdrawn before there was room, no stage sees",
        (
            "test_a_full_front_waits_and_then_refuses",
            "test_an_offer_that_is_withdrawn_is_let_go",
        ),
    ),
    Rule(
        "backpressure",
        "items alive are bounded by the capacities: a full channel slows its sender, up to the "
        "source",
        (
            "test_items_alive_are_bounded",
            "test_a_stream_holds_its_source_back",
            "test_a_full_branch_holds_up_its_fan_out",
        ),
    ),
    Rule(
        "drops",
        "items are dropped under a stated overflow policy only, by that policy, and counted",
        (
            "test_drop_newest_keeps_what_waits",
            "test_drop_oldest_keeps_what_is_new",
            "test_overflow_within_the_pipeline",
            "test_a_full_front_waits_and_then_refuses",
        ),
    ),
    Rule(
        "freshness",
        "an item older than max_age expires before the stage",
        ("test_old_items_expire",),
    ),
    Rule(
        "failures",
        "a StageError out of a stage's call stops the run through run.fail: never silence",
        (
            "test_no_failure_is_silent",
            "test_a_failure_is_logged_at_once",
            "test_under_stop_the_next_step_is_stated",
            "test_a_coroutine_that_fails_under_stop",
            "test_a_loop_is_stopped_by_a_failure",
        ),
    ),
    Rule(
        "policies",
        "any other failure policy is kept, and its waits end with an abort",
        (
            "test_skip_goes_on",
            "test_retry_calls_again",
            "test_retry_gives_up",
            "test_a_retry_that_filters_filters",
            "test_abort_ends_the_wait_of_a_retry",
            "test_on_error_may_replace",
            "test_on_error_may_replace_by_none",
            "test_on_error_that_raises_is_a_failure",
            "test_a_stage_error_of_the_stage_itself_is_a_failure",
            "test_coroutines_fail_by_the_policy",
        ),
    ),
    Rule(
        "setup",
        "every stage is set up before its first item, in start, whose failure cleans up what was "
        "set up",
        (
            "test_a_setup_that_raises",
            "test_a_slow_setup_does_not_count",
            "test_cleanup_ends_a_start_under_way",
        ),
    ),
    Rule(
        "one thread",
        "an instance is set up, called and cleaned up in its own worker, by one thread at a time",
        ("test_a_stage_lives_in_one_thread",),
    ),
    Rule(
        "workers",
        "so many workers as the plan says work side by side",
        (
            "test_a_stage_lives_in_one_thread",
            "test_a_result_leaves_the_moment_it_is_its_turn",
            "test_workers_of_a_coroutine_are_the_number_in_flight",
        ),
    ),
    Rule(
        "cleanup",
        "every stage is cleaned up exactly once, also after failures, and what cleanups raise is "
        "told",
        (
            "test_cleanup_happens_once",
            "test_cleanup_of_what_never_started",
            "test_cleanup_errors_come_together",
            "test_cleanup_finishes_what_was_admitted",
            "test_a_with_statement_cleans_up",
            "test_start_and_stop_again_and_again",
            "test_cleanup_among_callers",
            "test_a_new_thread_is_no_worker",
            "test_leaving_with_an_open_stream_cleans_up",
        ),
    ),
    Rule(
        "not amid a call",
        "no cleanup of a stage during one of its calls, and no call after it",
        ("test_a_stage_that_does_not_return_is_left_behind",),
    ),
    Rule(
        "left behind",
        "close returns in time and names the stages that did not; their items count as abandoned",
        (
            "test_a_stage_that_does_not_return_is_left_behind",
            "test_a_coroutine_that_ignores_the_stop_is_left_behind",
        ),
    ),
    Rule(
        "nothing left",
        "after close no thread, process or other resource is left",
        (
            "test_nothing_is_left_behind",
            "test_an_idle_cleanup_is_quick",
        ),
    ),
    Rule(
        "abort",
        "abort only posts: it returns at once, may come again, and ends every wait",
        (
            "test_abort_is_prompt_and_counts",
            "test_abort_releases_whoever_waits",
            "test_what_was_called_back_is_not_worked_on",
            "test_a_direct_call_that_is_stopped_says_so",
            "test_abort_cancels_coroutines",
            "test_a_stage_may_call_abort",
        ),
    ),
    Rule(
        "shut",
        "shut admits nothing more and releases those who wait in admit; what is in flight goes on",
        (
            "test_cleanup_releases_whoever_waits",
            "test_after_cleanup_every_call_says_so",
        ),
    ),
    Rule(
        "floor",
        "items below run.floor are not given to any further stage",
        ("test_what_was_called_back_is_not_worked_on",),
    ),
    Rule(
        "drain",
        "drain returns when everything admitted before has ended, or at its deadline; the run "
        "stays usable",
        (
            "test_drain_waits_for_everything",
            "test_drain_has_a_deadline",
            "test_drain_passes_a_dropping_channel",
            "test_drain_waits_for_every_branch",
        ),
    ),
    Rule(
        "batches",
        "a drain brings out what waits in batching stages; a stop without one counts it as dropped",
        (
            "test_a_batching_stage_absorbs_and_spawns",
            "test_drain_brings_out_a_partial_batch",
            "test_cleanup_brings_out_a_partial_batch",
            "test_batches_follow_one_another",
            "test_what_waits_in_a_batch_is_dropped_by_an_abort",
            "test_a_batch_of_a_stream_left_early_does_not_come_later",
            "test_a_flush_that_raises_follows_the_policy",
            "test_a_flush_that_raises_under_stop_is_a_failure",
            "test_an_item_that_a_batching_stage_refuses_has_failed",
            "test_a_call_of_a_batching_pipeline_is_refused",
        ),
    ),
    Rule(
        "max_wait",
        "items wait in a batching stage no longer than its max_wait",
        (
            "test_items_wait_in_a_batch_for_a_limited_time",
            "test_an_overdue_batch_comes_with_the_next_item_at_the_latest",
        ),
    ),
    Rule(
        "coroutines",
        "coroutine stages run on the run's event loop, so many in flight as workers says, and a "
        "stop cancels them",
        (
            "test_coroutine_functions_are_stages",
            "test_workers_of_a_coroutine_are_the_number_in_flight",
            "test_abort_cancels_coroutines",
            "test_a_coroutine_may_call_cleanup",
            "test_a_coroutine_does_not_wait_for_itself",
            "test_coroutines_survive_a_change_of_mode",
        ),
    ),
    Rule(
        "working",
        "working says whether the calling thread runs this executor's stages, so that a stage may "
        "ask for the stop",
        (
            "test_a_stage_may_call_cleanup",
            "test_a_stage_cannot_change_the_mode",
        ),
    ),
    Rule(
        "handed on",
        "close with keep leaves the stages set up for the executor that follows",
        (
            "test_a_new_mode_takes_the_stages_over",
            "test_a_mode_after_a_failure_starts_afresh",
        ),
    ),
    Rule(
        "own results",
        "who waits for an item's own result gets that one",
        (
            "test_direct_calls_give_each_its_own_result",
            "test_a_direct_call_of_a_filtered_item",
            "test_a_direct_call_of_a_failing_item",
        ),
    ),
    Rule(
        "sources",
        "feed ends with its source, with the run, and when its reader leaves; what a source "
        "raises comes out",
        (
            "test_a_stream_left_early_is_counted",
            "test_an_input_generator_survives_a_stream_left_early",
            "test_a_stream_of_the_input_generator_ends_with_it",
            "test_a_source_that_raises",
            "test_an_open_stream_excludes_others",
            "test_a_stream_left_to_garbage_is_closed",
            "test_a_reader_may_stop_the_pipeline",
            "test_a_stream_stopped_from_elsewhere_ends",
        ),
    ),
    Rule(
        "any thread",
        "every method may be called from any thread: by loops, readers and callers side by side",
        (
            "test_reading_may_wait",
            "test_a_loop_ends_with_its_generator",
            "test_a_loop_is_refused_twice_and_stops_promptly",
            "test_a_loop_tells_its_error_once",
            "test_a_generator_may_stop_its_own_loop",
            "test_bad_loops_are_refused",
            "test_any_number_of_threads_may_call",
            "test_no_result_is_read_twice",
        ),
    ),
    Rule(
        "placed stages",
        "a placed stage is a stage like any other",
        (
            "test_placed_stages_run_elsewhere",
            "test_placed_failures_are_the_stages",
            "test_a_placed_setup_that_raises",
        ),
    ),
    Rule(
        "handles",
        "a handle becomes the value where somebody looks at it who does not take it, and whatever "
        "becomes of its item, every reference is given back once",
        (
            "test_readers_get_values",
            "test_a_reader_that_waits_gets_the_value",
            "test_a_stage_that_takes_handles_gets_them",
            "test_a_stage_may_hand_its_handle_on",
            "test_other_stages_get_values",
            "test_a_batching_stage_gets_values",
            "test_a_generator_may_give_out_its_own_item",
            "test_filtered_items_are_given_back",
            "test_failed_items_are_given_back",
            "test_a_failure_shows_the_value",
            "test_an_interruption_shows_the_value",
            "test_expired_items_are_given_back",
            "test_dropped_items_are_given_back",
            "test_results_that_nobody_reads_are_given_back",
            "test_a_reader_that_leaves_gives_back",
            "test_a_stop_gives_back",
            "test_a_call_that_is_given_up_gives_back",
            "test_followers_share_a_handle",
            "test_unjoined_outputs_are_given_back",
            "test_branches_that_end_together_give_values",
            "test_a_lost_value_is_a_failure_of_the_stage",
            "test_a_lost_result_is_raised_for_its_reader",
            "test_a_release_that_raises_harms_nobody",
        ),
    ),
    Rule(
        "left out",
        "what is not supported is refused with a PlanError that names it, never ignored",
        ("test_what_is_left_out_is_refused",),
    ),
)
"""Of executors: the docstring of ``Executor``, and what the design says beside it."""

PLACEMENT_RULES: Final = (
    Rule(
        "starts nothing",
        "wrap is called when the plan is built and starts nothing; nor does a mode that is never "
        "started",
        (
            "test_wrap_starts_nothing",
            "test_a_mode_that_never_starts_makes_nothing",
        ),
    ),
    Rule(
        "specification",
        "path, options and kind of the specification stay as they are",
        ("test_the_specification_stays_as_it_is",),
    ),
    Rule(
        "refusals",
        "what cannot be placed is refused with a PlanError that names it, never ignored or taken "
        "for something else",
        (
            "test_what_cannot_be_placed_is_refused",
            "test_what_a_factory_makes_is_looked_at",
        ),
    ),
    Rule(
        "one per worker",
        "the stage is made once per worker, where it is called, when its worker starts",
        (
            "test_every_worker_has_a_stage_of_its_own",
            "test_it_is_made_when_its_worker_starts",
        ),
    ),
    Rule(
        "setup",
        "what setup or the constructor raises fails the start, and nothing is left",
        (
            "test_a_setup_that_raises",
            "test_a_stage_that_cannot_be_made",
        ),
    ),
    Rule(
        "cleanup",
        "setup and cleanup run exactly once, also after failures; what cleanup raises is told",
        (
            "test_cleanup_happens_once",
            "test_a_cleanup_that_raises",
        ),
    ),
    Rule(
        "own answer",
        "a call blocks until the answer is there, and that is the answer to its own item",
        (
            "test_items_and_results_arrive_as_they_are",
            "test_every_item_has_its_own_answer_in_order",
            "test_every_caller_has_its_own_answer",
            "test_branches_get_placed_stages",
        ),
    ),
    Rule(
        "SKIP",
        "SKIP arrives as SKIP itself",
        ("test_skip_filters",),
    ),
    Rule(
        "no lock",
        "a call that waits holds no interpreter lock",
        ("test_a_waiting_call_lets_other_threads_run",),
    ),
    Rule(
        "spans",
        "span_ns holds readings of this clock from within the call, or nothing",
        ("test_spans_lie_within_the_call",),
    ),
    Rule(
        "brought",
        "what bring gives in place of a value stands for it",
        ("test_what_was_brought_stands_for_the_value",),
    ),
    Rule(
        "polled",
        "what is submitted ends as a call does, nobody waits for it before it is done, and a "
        "descriptor or its time tells when to look",
        (
            "test_polled_calls_are_calls",
            "test_a_polled_call_is_not_waited_for",
            "test_a_polled_call_can_be_called_off",
        ),
    ),
    Rule(
        "generators",
        "every output of a generator stage is an answer of its own, made when it is asked for",
        (
            "test_generator_stages_expand_in_order",
            "test_outputs_are_made_when_they_are_asked_for",
            "test_a_generator_that_skips_and_fails",
        ),
    ),
    Rule(
        "exceptions",
        "a call raises what the stage raised, as what it is, so that every failure policy works",
        (
            "test_an_exception_arrives_as_what_it_is",
            "test_failure_policies_are_kept",
        ),
    ),
    Rule(
        "stops",
        "a call or setup that does not return ends with a stop or is named; a call that does is "
        "finished first",
        (
            "test_a_stuck_call_ends_or_is_named",
            "test_a_stuck_setup_ends_or_is_named",
            "test_cleanup_waits_for_a_call",
        ),
    ),
    Rule(
        "nothing left",
        "after cleanup no thread, process or other resource is left",
        (
            "test_nothing_is_left_behind",
            "test_start_and_stop_many_times",
        ),
    ),
    Rule(
        "again",
        "the stage stays set up from one run and one mode to the next, and can be started afresh",
        (
            "test_one_run_after_another",
            "test_a_new_mode_takes_the_stage_over",
            "test_start_and_stop_many_times",
        ),
    ),
)
"""Of placements: the docstrings of ``Placement`` and ``PlacedStage``."""

OBSERVER_RULES: Final = (
    Rule(
        "never raises",
        "it takes whatever the core tells it and raises nothing: every outcome, every bin, any "
        "portion",
        (
            "test_it_is_found_by_its_name",
            "test_it_is_told_of_a_run_from_its_beginning_to_its_end",
            "test_it_takes_every_kind_of_record",
            "test_records_may_come_in_any_portions",
            "test_it_is_told_of_losses",
        ),
    ),
    Rule(
        "any thread",
        "opened, collect and closed come one at a time, but each may come in another thread",
        ("test_it_is_told_in_any_thread",),
    ),
    Rule(
        "names",
        "any legal name of a stage is a value and survives",
        ("test_any_legal_name_survives",),
    ),
    Rule(
        "ends",
        "a run is opened once and closed once, also after an abort or a failure",
        ("test_every_end_is_an_end",),
    ),
    Rule(
        "nothing left",
        "when a run has ended no thread, process or file is left",
        ("test_every_end_is_an_end",),
    ),
    Rule(
        "again",
        "one observer sees several runs, one after another, closed or forgotten",
        (
            "test_one_run_after_another",
            "test_a_run_that_was_never_closed_may_be_followed_by_another",
        ),
    ),
    Rule(
        "apart",
        "runs side by side, each with an observer of its own, are kept apart",
        ("test_runs_side_by_side_are_kept_apart",),
    ),
    Rule(
        "quick",
        "it takes records over quickly, and no item waits for it",
        (
            "test_collecting_is_quick",
            "test_items_do_not_wait_for_it",
        ),
    ),
    Rule(
        "storage",
        "a storage that fails stops no item and is one warning; without a storage no file is "
        "opened",
        (
            "test_a_storage_that_fails_stops_no_item",
            "test_without_a_storage_no_file_is_opened",
        ),
    ),
)
"""Of observers: the docstring of ``Observer``."""

PROFILER_RULES: Final = (
    Rule(
        "nothing yet",
        "a stage appears with its first ended call, a pipeline with its first completed item, not "
        "before",
        (
            "test_it_is_empty_until_a_call_has_ended",
            "test_a_stage_appears_with_its_first_ended_call",
        ),
    ),
    Rule(
        "finite",
        "no figure is ever 0 where there was a call, nan or infinite",
        (
            "test_figures_are_finite_and_above_zero",
            "test_a_call_without_any_time_has_figures",
        ),
    ),
    Rule(
        "service and queue",
        "service time is spent inside the call, queue time between the stage before and the call",
        ("test_service_and_queue_time",),
    ),
    Rule(
        "throughput",
        "ended calls / (last end - first start): idle time afterwards does not count",
        ("test_throughput_of_a_stage",),
    ),
    Rule(
        "latency",
        "of the pipeline: from admission to output, of completed items only",
        ("test_latency_and_throughput_of_the_pipeline",),
    ),
    Rule(
        "every call",
        "a call that failed, filtered or was retried has ended like any other",
        ("test_failed_and_retried_calls_count",),
    ),
    Rule(
        "percentiles",
        "percentiles are those of single calls, and rise",
        (
            "test_percentiles",
            "test_percentiles_rise",
        ),
    ),
    Rule(
        "bottleneck",
        "busy is the share of the workers' time, and the busiest stage is the bottleneck",
        ("test_busy_and_bottleneck",),
    ),
    Rule(
        "nesting",
        "a nested pipeline has figures of its own under its path",
        (
            "test_nested_pipelines",
            "test_names_nest_alike_in_all_forms",
        ),
    ),
    Rule(
        "names",
        "any legal name is the key that it is",
        ("test_any_legal_name_survives",),
    ),
    Rule(
        "any order",
        "the figures do not depend on the order or portions in which records come",
        ("test_records_come_in_any_order",),
    ),
    Rule(
        "losses",
        "records that were lost are counted",
        ("test_losses_are_counted",),
    ),
    Rule(
        "after the end",
        "the profile can be read after the end, a failure and an abort, from any thread",
        (
            "test_it_can_be_read_after_the_end",
            "test_it_can_be_read_after_a_failure",
            "test_it_can_be_read_while_it_collects",
            "test_the_profile_is_what_get_profiles_tells",
        ),
    ),
    Rule(
        "latest run",
        "a profile is about the latest run of its own profiler",
        (
            "test_it_is_about_the_latest_run",
            "test_profilers_side_by_side_are_kept_apart",
        ),
    ),
)
"""Of profilers: the docstrings of ``Profile`` and its parts."""
