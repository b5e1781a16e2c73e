"""Executors that each break one rule: the threads executor, misled about its run or bent."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from catalogue import Catalogue
from pystream_threads import ThreadsExecutor

from pystream_core import CleanupError, Envelope, Handle, Run
from pystream_core._serial import SerialExecutor

WRONG = Catalogue()


class View:
    """A run as one of them sees it: the true one, but for what a subclass says."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __getattr__(self, name: str) -> Any:
        return getattr(self.run, name)


class Misled(ThreadsExecutor):
    """Works as threads do, on a run that is not as it seems."""

    view: type = View

    def start(self, run: Run) -> None:
        super().start(self.view(run))


class Bent(ThreadsExecutor):
    """Works as threads do, with workers that are not as they should be."""

    def bend(self, worker: Any) -> None:
        """Change a worker before it begins."""

    def _work(self, worker: Any) -> None:
        self.bend(worker)
        super()._work(worker)


def output_that(give: Callable[[Any, Envelope], None]) -> type[View]:
    """A view whose output does something else with what it is given."""

    class Output:
        def __init__(self, true: Any) -> None:
            self.true = true
            self.held: list[Envelope] = []

        def __call__(self, envelope: Envelope) -> None:
            give(self, envelope)

    class OutputView(View):
        def __init__(self, run: Run) -> None:
            super().__init__(run)
            self.output = Output(run.output)

    return OutputView


def options_that(**options: Any) -> type[View]:
    """A view of a plan in which all stages have these options."""

    class OptionsView(View):
        def __init__(self, run: Run) -> None:
            super().__init__(run)
            stages = tuple(
                replace(spec, options=replace(spec.options, **options)) for spec in run.plan.stages
            )
            self.plan = replace(run.plan, stages=stages)

    return OptionsView


# -- items -----------------------------------------------------------------------------


def lose_some(output: Any, envelope: Envelope) -> None:
    if envelope.seq % 10 != 9:
        output.true(envelope)


@WRONG.add("one bin", "test_every_result_comes_once_and_in_order", "assert")
class LosesItems(Misled):
    """Forgets every tenth result."""

    view = output_that(lose_some)


def give_twice(output: Any, envelope: Envelope) -> None:
    copy = Envelope(envelope.value, envelope.seq)
    output.true(envelope)
    output.true(copy)


@WRONG.add("one bin", "test_every_result_comes_once_and_in_order", "assert")
class DoublesItems(Misled):
    """Gives every result to the output twice."""

    view = output_that(give_twice)


@WRONG.add("one bin", "test_every_result_comes_once_and_in_order", "assert", side_by_side=False)
class DoesNotCount(SerialExecutor):
    """Has a short way for streams that counts nothing."""

    def iterate(self, source: Any) -> Iterator[Any]:
        for item in source:
            for step in self._chain.steps:
                item = step.stage(item)
            yield item


@WRONG.add("plain data", "test_items_are_never_looked_into", "ended by TypeError")
class AsksForTruth(Misled):
    """Lets empty items go."""

    view = output_that(lambda output, envelope: output.true(envelope) if envelope.value else None)


def swap(output: Any, envelope: Envelope) -> None:
    output.held.append(envelope)
    if len(output.held) == 2:
        while output.held:
            output.true(output.held.pop())


@WRONG.add("order", "test_a_result_leaves_the_moment_it_is_its_turn", "assert|did not end")
class SwapsPairs(Misled):
    """Waits for a second result and gives that one first."""

    view = output_that(swap)


@WRONG.add("order", "test_several_workers_keep_the_order", "assert")
class NeverOrdered(Misled):
    """Takes every stage for ordered=False."""

    view = options_that(ordered=False)


@WRONG.add("unordered", "test_unordered_workers_do_not_wait", "did not end")
class AlwaysOrdered(Misled):
    """Ignores ordered=False."""

    view = options_that(ordered=True)


class NoLock:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def acquire(self, *_: object, **__: object) -> bool:
        return True

    def release(self) -> None: ...


class SlowToSend(View):
    def accept(self, envelope: Envelope) -> bool:
        accepted = self.run.accept(envelope)
        threading.Event().wait(0.0001)
        return accepted


@WRONG.add("numbering", "test_callers_side_by_side_keep_the_order_of_admission", "assert")
class NumbersApart(Misled):
    """Numbers an item and sends it in two steps."""

    view = SlowToSend

    def start(self, run: Run) -> None:
        self._front = NoLock()
        super().start(run)


def two_at_once(output: Any, envelope: Envelope) -> None:
    output.held.append(envelope)
    if len(output.held) == 2:
        threads = [threading.Thread(target=output.true, args=(one,)) for one in output.held]
        output.held.clear()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


@WRONG.add("one at a time", "test_results_are_handed_over_one_at_a_time", r"busy|assert \[")
class TwoAtOnce(Misled):
    """Gives results to the output in two threads at once."""

    view = output_that(two_at_once)


@WRONG.add("generators", "test_outputs_are_handed_on_as_they_are_made", "did not end|StageError")
class CollectsOutputs(Bent):
    """Makes all outputs of a generator before it hands on the first one."""

    def bend(self, worker: Any) -> None:
        prepare = worker.prepare

        def prepare_bent() -> None:
            prepare()
            outputs = worker.chain.outputs
            worker.chain.outputs = lambda envelope: iter(list(outputs(envelope)))

        worker.prepare = prepare_bent


# -- branches --------------------------------------------------------------------------


class OneForAll(Envelope):
    __slots__ = ()

    def copies(self, count: int) -> list[Envelope]:
        super().copies(count)
        return [self] * count


@WRONG.add("branches", "test_an_item_that_ends_in_one_branch_ends_once", "assert")
class OneEnvelopeForAll(ThreadsExecutor):
    """Sends the same envelope into every branch."""

    def admit(self, envelope: Envelope, timeout: float | None) -> bool:
        envelope.__class__ = OneForAll
        return super().admit(envelope, timeout)

    def feed(self, items: Iterator[Any], feeding: Any) -> None:
        for item in items:
            envelope = OneForAll(item)
            if not self.admit_wanted(envelope, feeding):
                return


class JoinsAtOnce(View):
    def arrive(self, *_: Any) -> bool:
        return True


@WRONG.add(
    "joins",
    "test_a_join_gets_the_outputs_of_one_item_in_the_order_named",
    "assert",
)
class DoesNotJoin(Misled):
    """Gives a join every output as it comes."""

    view = JoinsAtOnce


class ForgetsWhatItLoses(View):
    def lose(self, envelope: Envelope, *rest: Any) -> None:
        envelope.value = None
        self.run.lose(envelope, *rest)


@WRONG.add("handles", "test_dropped_items_are_given_back", r"wait_until\(.*tracker")
class KeepsHandles(Misled):
    """Lets the values of lost items go without giving their handles back."""

    view = ForgetsWhatItLoses


class SharedByAll(Envelope):
    __slots__ = ()

    def copies(self, count: int) -> list[Envelope]:
        self.__class__ = Envelope  # type: ignore[assignment]  # readers look for that
        copies = self.copies(count)
        for _ in copies[1:]:
            if isinstance(self.value, Handle):
                self.value.release()
        return copies


@WRONG.add("handles", "test_followers_share_a_handle", "AssertionError")
class OneReferenceForAll(ThreadsExecutor):
    """Sends a handle into several branches with one reference for all of them."""

    def feed(self, items: Iterator[Any], feeding: Any) -> None:
        for item in items:
            if not self.admit_wanted(SharedByAll(item), feeding):
                return


# -- the front, bounds and drops -------------------------------------------------------


@WRONG.add("front", "test_a_full_front_waits_and_then_refuses", "did not end")
class WaitsForRoom(ThreadsExecutor):
    """Ignores the timeout of admit."""

    def admit(self, envelope: Envelope, timeout: float | None) -> bool:
        return super().admit(envelope, None)


@WRONG.add("front", "test_a_full_front_that_gets_room_accepts", "assert False is True")
class DoesNotWaitForRoom(ThreadsExecutor):
    """Refuses at once when the front is full."""

    def admit(self, envelope: Envelope, timeout: float | None) -> bool:
        return super().admit(envelope, 0)


@WRONG.add("refused", "test_a_full_front_waits_and_then_refuses", "assert 2 == 1|lost|the sum")
class RefusesAndKeeps(ThreadsExecutor):
    """Says False, and brings the item to the stage all the same."""

    def admit(self, envelope: Envelope, timeout: float | None) -> bool:
        if super().admit(envelope, timeout):
            return True
        with self._front:
            self._run.accept(envelope)
            self._lanes[0].channel.post(envelope)
        return False


class TakesWithdrawn(View):
    def accept(self, envelope: Envelope) -> bool:
        envelope.wanted = None
        return self.run.accept(envelope)


@WRONG.add("refused", "test_an_offer_that_is_withdrawn_is_let_go", "assert")
class TakesWithdrawnOffers(Misled):
    """Does not care whether the item is still wanted."""

    view = TakesWithdrawn


@WRONG.add("backpressure", "test_items_alive_are_bounded", "assert")
class Unbounded(Misled):
    """Has channels that are never full."""

    view = options_that(capacity=100_000)


@WRONG.add("backpressure", "test_a_stream_holds_its_source_back", "assert")
class ReadsAhead(ThreadsExecutor):
    """Takes a lot out of the source before it brings the first item on."""

    def feed(self, items: Iterator[Any], feeding: Any) -> None:
        super().feed(iter(list(itertools.islice(items, 50_000))), feeding)


@WRONG.add("drops", "test_a_full_front_waits_and_then_refuses", "assert True is False")
class DropsUnderBlock(Misled):
    """Drops what finds no room though the policy is to block."""

    view = options_that(overflow="drop_newest")


@WRONG.add("drops", "test_drop_newest_keeps_what_waits", "did not end")
class IgnoresOverflow(Misled):
    """Blocks whatever the overflow policy says."""

    view = options_that(overflow="block")


class ForgetsLosses(View):
    def lose(self, *_: Any) -> None: ...


@WRONG.add("drops", "test_drop_oldest_keeps_what_is_new", "assert")
class DropsInSilence(Misled):
    """Counts nothing of what it drops."""

    view = ForgetsLosses


@WRONG.add("freshness", "test_old_items_expire", "assert")
class NeverExpires(Misled):
    """Ignores max_age."""

    view = options_that(max_age=None)


# -- failures --------------------------------------------------------------------------


class NothingFails(View):
    def fail(self, *_: Any) -> None: ...


@WRONG.add("failures", "test_no_failure_is_silent", "DID NOT RAISE")
class SwallowsFailures(Misled):
    """Goes on after a StageError as if nothing had been."""

    view = NothingFails


@WRONG.add("policies", "test_skip_goes_on", "StageError")
class AlwaysStops(Misled):
    """Ignores on_error."""

    view = options_that(on_error="stop")


# -- the life of stages ----------------------------------------------------------------


@WRONG.add("setup", "test_a_setup_that_raises", "DID NOT RAISE|assert")
@WRONG.add("placed stages", "test_a_placed_setup_that_raises", "DID NOT RAISE")
class StartsAnyhow(ThreadsExecutor):
    """Does not look whether the setups succeeded."""

    def _wait_until_prepared(self) -> None:
        for _ in self._workers:
            self._prepared.get()


class OneInstance(View):
    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.instances = tuple(_First(kept) for kept in run.instances)


class _First:
    def __init__(self, kept: Any) -> None:
        self.kept = kept

    def of_worker(self, index: int) -> Any:
        return self.kept.of_worker(0)


@WRONG.add("one thread", "test_a_stage_lives_in_one_thread", "assert")
class SharesStages(Misled):
    """Lets all workers call one instance."""

    view = OneInstance


@WRONG.add("workers", "test_a_result_leaves_the_moment_it_is_its_turn", "did not end|assert")
class OneWorker(Misled):
    """Has one worker, whatever the plan says."""

    view = options_that(workers=1)


@WRONG.add("one thread", "test_a_stage_lives_in_one_thread", "assert 2 == 1")
class NeverCleansUp(Bent):
    """Leaves the cleanup of its stages to others (the session does it, in its own thread)."""

    def bend(self, worker: Any) -> None:
        leave = worker.leave
        worker.leave = lambda *, clean_up: leave(clean_up=False)


@WRONG.add("cleanup", "test_cleanup_happens_once", "assert")
class CleansUpTwice(Bent):
    """Cleans every stage up twice."""

    def bend(self, worker: Any) -> None:
        leave = worker.leave

        def leave_twice(*, clean_up: bool) -> Any:
            errors = leave(clean_up=clean_up)
            for instance in worker.instances:
                if hasattr(instance.stage, "cleanup"):
                    instance.stage.cleanup()
            return errors

        worker.leave = leave_twice


@WRONG.add("cleanup", "test_cleanup_errors_come_together", "DID NOT RAISE")
class SwallowsCleanupErrors(ThreadsExecutor):
    """Keeps what cleanups raise to itself."""

    def close(self, timeout: float, *, keep: bool = False) -> tuple[str, ...]:
        try:
            return super().close(timeout, keep=keep)
        except CleanupError:
            return ()


@WRONG.add("not amid a call", "test_a_stage_that_does_not_return_is_left_behind", "during a call")
class CleansUpAmidCalls(ThreadsExecutor):
    """Cleans stages up without waiting for their calls."""

    def close(self, timeout: float, *, keep: bool = False) -> tuple[str, ...]:
        for worker in self._workers:
            for instance in worker.instances:
                instance.cleanup()
        return super().close(timeout, keep=keep)


@WRONG.add("left behind", "test_a_stage_that_does_not_return_is_left_behind", "did not end|assert")
class WaitsForStuckStages(ThreadsExecutor):
    """Ignores the timeout of close."""

    def close(self, timeout: float, *, keep: bool = False) -> tuple[str, ...]:
        return super().close(1e6, keep=keep)


@WRONG.add("left behind", "test_a_stage_that_does_not_return_is_left_behind", "assert")
class NamesNobody(ThreadsExecutor):
    """Leaves stuck stages behind and says nothing."""

    def close(self, timeout: float, *, keep: bool = False) -> tuple[str, ...]:
        super().close(timeout, keep=keep)
        return ()


@WRONG.add("nothing left", "test_nothing_is_left_behind", "thread 'leaked'")
class LeavesAThread(ThreadsExecutor):
    """Starts a helper that nobody ends."""

    def start(self, run: Run) -> None:
        threading.Thread(target=threading.Event().wait, name="leaked", daemon=True).start()
        super().start(run)


# -- stopping and draining -------------------------------------------------------------


@WRONG.add("abort", "test_abort_is_prompt_and_counts", "assert|did not end")
class AbortWaits(ThreadsExecutor):
    """Waits in abort for the calls under way."""

    def abort(self, reason: str) -> None:
        super().abort(reason)
        for thread in self._threads.values():
            if thread is not threading.current_thread():
                thread.join(1.5)


@WRONG.add("abort", "test_abort_releases_whoever_waits", "did not return|did not end")
class AbortWakesNobody(ThreadsExecutor):
    """Only notes in abort that it has been called."""

    def abort(self, reason: str) -> None:
        self._shut = self._aborted = True
        self._run.halt(reason)


@WRONG.add("abort", "test_what_was_called_back_is_not_worked_on", "aborted already")
class AbortOnlyOnce(ThreadsExecutor):
    """Raises at the second abort."""

    def abort(self, reason: str) -> None:
        if self._aborted:
            raise RuntimeError("aborted already")
        super().abort(reason)


@WRONG.add("shut", "test_cleanup_releases_whoever_waits", "did not return|did not end")
class ShutReleasesNobody(ThreadsExecutor):
    """Leaves those alone in shut who wait for room."""

    def shut(self) -> None:
        self._shut = True


class NoFloor(View):
    floor = 0


@WRONG.add("floor", "test_what_was_called_back_is_not_worked_on", "assert")
class IgnoresTheFloor(Misled):
    """Works on what was called back."""

    view = NoFloor


@WRONG.add("drain", "test_drain_has_a_deadline", "did not end")
class DrainsForEver(ThreadsExecutor):
    """Ignores the timeout of drain."""

    def drain(self, timeout: float | None) -> bool:
        return super().drain(None)


@WRONG.add("drain", "test_drain_waits_for_everything", "in flight|assert")
class DrainsNothing(ThreadsExecutor):
    """Says at once that it has drained."""

    def drain(self, timeout: float | None) -> bool:
        return True


@WRONG.add("drain", "test_drain_waits_for_everything", "PipelineTerminated")
class DrainsToTheEnd(ThreadsExecutor):
    """Cannot be used after a drain."""

    def drain(self, timeout: float | None) -> bool:
        drained = super().drain(timeout)
        self.shut()
        return drained


@WRONG.add("batches", "test_a_batching_stage_absorbs_and_spawns", "assert")
class NeverFlushes(Bent):
    """Lets a drain pass what waits in a batch."""

    def bend(self, worker: Any) -> None:
        worker._flush = lambda *_, **__: None


@WRONG.add("batches", "test_what_waits_in_a_batch_is_dropped_by_an_abort", "assert")
class ForgetsBatches(Bent):
    """Does not count what still waits in a batch when it stops."""

    def bend(self, worker: Any) -> None:
        prepare = worker.prepare

        def prepare_bent() -> None:
            prepare()
            worker.chain.lose_held = lambda reason: None

        worker.prepare = prepare_bent


@WRONG.add("max_wait", "test_items_wait_in_a_batch_for_a_limited_time", "did not end|assert")
class NeverOverdue(Bent):
    """Ignores max_wait."""

    def bend(self, worker: Any) -> None:
        worker._receive_or_flush = lambda send: worker.lane.channel.receive()


@WRONG.add("coroutines", "test_workers_of_a_coroutine_are_the_number_in_flight", "assert 1 == 5")
class OneCoroutine(Misled):
    """Awaits one coroutine after the other."""

    view = options_that(workers=1)


@WRONG.add("working", "test_a_stage_may_call_cleanup", "did not end|assert")
class DoesNotKnowItsWorkers(ThreadsExecutor):
    """Takes its own workers for strangers."""

    def working(self) -> bool:
        return False


@WRONG.add("handed on", "test_a_new_mode_takes_the_stages_over", "assert")
class KeepsNothing(ThreadsExecutor):
    """Cleans up what the next executor was to have."""

    def close(self, timeout: float, *, keep: bool = False) -> tuple[str, ...]:
        return super().close(timeout)


@WRONG.add("own results", "test_direct_calls_give_each_its_own_result", "did not end|assert")
class ForgetsWhoAsked(ThreadsExecutor):
    """Makes envelopes of its own."""

    def admit(self, envelope: Envelope, timeout: float | None) -> bool:
        return super().admit(Envelope(envelope.value, wanted=envelope.wanted), timeout)


@WRONG.add("sources", "test_a_stream_left_early_is_counted", "did not end|assert")
class ReadsOn(ThreadsExecutor):
    """Goes on with a source that nobody wants any more."""

    def feed(self, items: Iterator[Any], feeding: Any) -> None:
        for item in items:
            self.admit(Envelope(item), None)


@WRONG.add("sources", "test_a_source_that_raises", "DID NOT RAISE|StopIteration")
class HidesBrokenSources(ThreadsExecutor):
    """Takes what a source raises for its end."""

    def feed(self, items: Iterator[Any], feeding: Any) -> None:
        try:
            super().feed(items, feeding)
        except Exception:
            pass


@WRONG.add("any thread", "test_any_number_of_threads_may_call", "called by another thread")
class TiedToOneThread(ThreadsExecutor):
    """Takes items from the thread alone that started it."""

    def start(self, run: Run) -> None:
        self._starter = threading.get_ident()
        super().start(run)

    def admit(self, envelope: Envelope, timeout: float | None) -> bool:
        if self._starter != threading.get_ident():
            raise RuntimeError("called by another thread")
        return super().admit(envelope, timeout)


@WRONG.add("left out", "test_what_is_left_out_is_refused", "DID NOT RAISE", supports_workers=False)
class IgnoresWorkers(Misled):
    """Leaves out several workers and does not say so."""

    view = options_that(workers=1)
