# ruff: noqa: ARG002, ARG005
"""The conformance tests of executors, third part: handles, which have to be given back."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from .._errors import StageError
from .._plan import Retry
from .._stage import SKIP
from ._flow_suite import FlowSuite
from ._handles import Lost, Tracked, Tracker
from ._stages import Raising, skip_odd
from ._suite_stages import Triples, double, increment, twice
from ._waiting import PATIENCE, in_thread, next_turn, wait_until

PLACED: dict[str, Any] = {"placement": "tracked"}


def same(item: Any) -> Any:
    """The item."""
    return item


def plain(item: Any) -> Any:
    """The item, which must not be a handle."""
    assert not isinstance(item, Tracked), item
    return item


async def plain_later(item: Any) -> Any:
    """The same, at another time."""
    await next_turn()
    return plain(item)


class HandleSuite(FlowSuite):
    """Whatever becomes of an item, each reference to its handle is given back once, and nobody
    but a stage that takes handles sees one."""

    @pytest.fixture
    def tracker(self, tracked_placement: Tracker) -> Iterator[Tracker]:
        """Of the placement "tracked"; at the end all handles must have been given back."""
        tracker = tracked_placement
        yield tracker
        self.end_all()
        assert wait_until(lambda: tracker.owned() == []), tracker.owned()
        assert tracker.broken == []
        assert tracker.made or not self.made

    # -- values ------------------------------------------------------------------------

    def test_readers_get_values(self, tracker: Tracker) -> None:
        """Of a stream, of the newest result, and of a direct call."""
        pipeline = self.pipeline((increment, PLACED), (double, PLACED))
        assert list(pipeline.stream(range(100))) == [(n + 1) * 2 for n in range(100)]
        assert pipeline.forward(4)
        pipeline.drain(PATIENCE)
        assert pipeline.get_results() == 10
        assert pipeline.get_results() is None
        assert pipeline.as_stage()(7) == 16

    def test_a_reader_that_waits_gets_the_value(self, tracker: Tracker) -> None:
        """The result comes while it waits."""
        self.needs_workers()
        gate = self.gate()
        pipeline = self.pipeline((gate, PLACED), block_output=True, output_timeout=PATIENCE)
        assert pipeline.forward(5)
        reader = in_thread(pipeline.get_results)
        assert gate.wait_entered()
        session = pipeline._session
        assert wait_until(lambda: session is not None and session.output.waiters)
        gate.open()
        assert reader.wait().value == 5

    def test_a_stage_that_takes_handles_gets_them(self, tracker: Tracker) -> None:
        """Between two placed stages nobody asks for the value."""
        pipeline = self.pipeline(*[(increment, PLACED)] * 4)
        assert list(pipeline.stream(range(20))) == list(range(4, 24))
        assert tracker.made == 80
        assert tracker.resolved == 20

    def test_a_stage_may_hand_its_handle_on(self, tracker: Tracker) -> None:
        """One that gives out its item, perhaps changed in place, keeps the handle."""
        pipeline = self.pipeline((increment, PLACED), *[(same, PLACED)] * 3)
        assert list(pipeline.stream(range(20))) == list(range(1, 21))
        assert tracker.made == tracker.resolved == 20

    @pytest.mark.parametrize("workers", [1, 3])
    def test_other_stages_get_values(self, tracker: Tracker, workers: int) -> None:
        """Functions, generators and coroutines alike."""
        pipeline = self.pipeline(
            (increment, PLACED),
            (plain, {"workers": workers}),
            (increment, PLACED),
            (plain_later, {"workers": workers}),
            (twice, PLACED),
            (plain, {"workers": workers}),
        )
        expected = [value for n in range(2, 32) for value in (n, n + 0.5)]
        assert list(pipeline.stream(range(30))) == expected

    def test_a_batching_stage_gets_values(self, tracker: Tracker) -> None:
        """And may keep them."""
        pipeline = self.pipeline((increment, PLACED), Triples(), (same, PLACED))
        assert list(pipeline.stream(range(7))) == [(1, 2, 3), (4, 5, 6), (7,)]

    def test_a_generator_may_give_out_its_own_item(self, tracker: Tracker) -> None:
        """Which then has an owner more for each time."""

        def thrice(item: Any) -> Iterator[Any]:
            yield item
            yield -item
            yield item

        pipeline = self.pipeline((increment, PLACED), (thrice, PLACED), (same, PLACED))
        assert list(pipeline.stream(range(3))) == [1, -1, 1, 2, -2, 2, 3, -3, 3]

    # -- ends --------------------------------------------------------------------------

    def test_filtered_items_are_given_back(self, tracker: Tracker) -> None:
        """By a placed stage and by another."""
        pipeline = self.pipeline(
            (increment, PLACED), (skip_odd, PLACED), lambda n: SKIP if n % 4 else n
        )
        assert list(pipeline.stream(range(16))) == [4, 8, 12, 16]

    @pytest.mark.parametrize("options", [{}, PLACED], ids=["here", "placed"])
    @pytest.mark.parametrize(
        "policy",
        ["skip", Retry(2, then="skip"), lambda failure: -failure.item, lambda failure: SKIP],
        ids=["skip", "retry", "replaced", "dead letter"],
    )
    def test_failed_items_are_given_back(
        self, tracker: Tracker, policy: Any, options: dict[str, Any]
    ) -> None:
        """Whatever the policy; and it is told of the value."""
        fails = Raising(when=lambda n: n % 3 == 0)
        pipeline = self.pipeline(
            (increment, PLACED), (fails, {"on_error": policy, **options}), (same, PLACED)
        )
        results = list(pipeline.stream(range(30)))
        assert [n for n in results if n > 0] == [n for n in range(1, 31) if n % 3]
        assert len(results) + pipeline.statistics().failed == 30

    def test_a_failure_shows_the_value(self, tracker: Tracker) -> None:
        """The item of the error is what the stage was called with."""
        pipeline = self.pipeline((lambda n: ["made", n], PLACED), (Raising(), PLACED))
        failure = self.fail(pipeline, 5)
        assert failure.item == ["made", 5]
        assert "['made', 5]" in str(failure)

    def test_an_interruption_shows_the_value(
        self, tracker: Tracker, caplog: pytest.LogCaptureFixture
    ) -> None:
        """In the caller's thread, where Ctrl-C passes through."""
        if self.side_by_side:
            pytest.skip("its workers take Ctrl-C for a failure like any other")
        pipeline = self.pipeline((lambda n: ["made", n], PLACED), (Raising(KeyboardInterrupt), {}))
        with pytest.raises(KeyboardInterrupt):
            pipeline.forward(5)
        assert "['made', 5]" in caplog.text

    def test_expired_items_are_given_back(self, tracker: Tracker) -> None:
        """In front of a stage that they are too old for."""
        pipeline = self.pipeline((increment, PLACED), (same, {"max_age": 1e-9, **PLACED}))
        assert list(pipeline.stream(range(10))) == []
        assert pipeline.statistics().expired == 10

    @pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
    def test_dropped_items_are_given_back(self, tracker: Tracker, overflow: str) -> None:
        """By an overflow policy, and by an abort."""
        self.needs_workers()
        gate = self.gate()
        limits = {"overflow": overflow, "capacity": 2}
        pipeline = self.pipeline((increment, PLACED), (gate, {**limits, **PLACED}))
        for n in range(20):
            assert pipeline.forward(n)
        assert wait_until(lambda: pipeline.statistics().dropped.get("overflow", 0) >= 16)
        pipeline.abort()
        gate.open()

    def test_results_that_nobody_reads_are_given_back(self, tracker: Tracker) -> None:
        """Superseded by a newer one, or by the end."""
        pipeline = self.pipeline((increment, PLACED))
        for n in range(5):
            assert pipeline.forward(n)
        pipeline.drain(PATIENCE)
        assert len(tracker.owned()) == 1
        pipeline.cleanup()
        assert tracker.owned() == []
        assert pipeline.statistics().superseded == 5

    def test_a_reader_that_leaves_gives_back(self, tracker: Tracker) -> None:
        """What waits for it, and what is on its way."""
        pipeline = self.pipeline((increment, PLACED), (same, PLACED))
        with pipeline.stream(range(1000)) as results:
            assert next(results) == 1
        assert wait_until(lambda: tracker.owned() == [])
        assert list(pipeline.stream(range(3))) == [1, 2, 3]

    def test_a_stop_gives_back(self, tracker: Tracker) -> None:
        """What lies in channels and hands when a stage fails under "stop"."""
        pipeline = self.pipeline(
            (increment, PLACED), (same, PLACED), (Raising(when=lambda n: n == 50), PLACED)
        )
        with pytest.raises(StageError):
            list(pipeline.stream(range(1000)))

    def test_a_call_that_is_given_up_gives_back(self, tracker: Tracker) -> None:
        """Its caller has been sent away when the result comes."""
        self.needs_workers()
        gate = self.gate()
        pipeline = self.pipeline((gate, PLACED), (increment, PLACED))
        call = in_thread(lambda: pipeline.as_stage()(1))
        assert gate.wait_entered()
        pipeline.abort()
        gate.open()
        assert call.wait(PATIENCE)

    # -- branches ----------------------------------------------------------------------

    def test_followers_share_a_handle(self, tracker: Tracker) -> None:
        """Each of them owns it; where they join, members are handles or values as they are
        taken."""
        placed = {"after": ["left", "right", "straight"]}
        pipeline = self.pipeline(
            (increment, {"name": "first", **PLACED}),
            (double, {"name": "left", "after": "first", **PLACED}),
            (plain, {"name": "right", "after": "first"}),
            (same, {"name": "straight", "after": "first", **PLACED}),
            (sum, {"name": "placed", **placed, **PLACED}),
            (sum, {"name": "here", **placed}),
        )
        results = list(pipeline.stream(range(50)))
        assert results == [{"placed": n * 4, "here": n * 4} for n in range(1, 51)]

    @pytest.mark.parametrize("options", [{}, PLACED], ids=["here", "placed"])
    def test_unjoined_outputs_are_given_back(
        self, tracker: Tracker, options: dict[str, Any]
    ) -> None:
        """When a branch filters or fails, what the others have made is let go."""
        pipeline = self.pipeline(
            (increment, {"name": "first", **PLACED}),
            (double, {"name": "left", "after": "first", **PLACED}),
            (skip_odd, {"name": "right", "after": "first", **options}),
            (
                Raising(when=lambda n: n % 5 == 0),
                {"name": "far", "after": "first", "on_error": "skip", **options},
            ),
            (sum, {"name": "join", "after": ["left", "right", "far"], **options}),
        )
        expected = [4 * n for n in range(1, 61) if n % 2 == 0 and n % 5]
        assert list(pipeline.stream(range(60))) == expected

    def test_branches_that_end_together_give_values(self, tracker: Tracker) -> None:
        """Several last stages: the members of the result are values."""
        pipeline = self.pipeline(
            (increment, {"name": "first", **PLACED}),
            (double, {"name": "left", "after": "first", **PLACED}),
            (same, {"name": "right", "after": "first", **PLACED}),
        )
        assert list(pipeline.stream([1, 2])) == [{"left": 4, "right": 2}, {"left": 6, "right": 3}]
        pipeline.forward(3)
        pipeline.drain(PATIENCE)
        assert pipeline.get_results() == {"left": 8, "right": 4}
        pipeline.forward(4)  # and one that nobody reads

    # -- values that are gone ----------------------------------------------------------

    @pytest.mark.parametrize("stage", [plain, plain_later, twice])
    @pytest.mark.parametrize("workers", [1, 2])
    def test_a_lost_value_is_a_failure_of_the_stage(
        self, tracker: Tracker, stage: Any, workers: int
    ) -> None:
        """In front of which it was asked for."""

        def lose_some(n: int) -> Any:
            return Lost(ValueError("gone")) if n % 4 == 0 else n

        pipeline = self.pipeline(
            (lose_some, PLACED), (stage, {"workers": workers, "on_error": "skip"})
        )
        results = list(pipeline.stream(range(20)))
        assert [n for n in results if n == int(n)] == [n for n in range(20) if n % 4]
        assert pipeline.statistics().stages[1].failed == 5

    def test_a_lost_result_is_raised_for_its_reader(self, tracker: Tracker) -> None:
        """Out of every call that reads; the pipeline goes on."""
        error = ValueError("gone")
        pipeline = self.pipeline((lambda n: Lost(error) if n == 1 else n, PLACED))
        pipeline.forward(1)
        pipeline.drain(PATIENCE)
        with pytest.raises(ValueError, match="gone"):
            pipeline.get_results()
        with pytest.raises(ValueError, match="gone"):
            pipeline.as_stage()(1)
        with pytest.raises(ValueError, match="gone"):
            list(pipeline.stream(range(3)))
        assert list(pipeline.stream([2, 3])) == [2, 3]

    def test_a_release_that_raises_harms_nobody(
        self, tracker: Tracker, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It is logged, and the item goes its way."""
        caplog.set_level(logging.ERROR, "PyStream")
        lost = Lost(ValueError("gone"), breaks=True)
        pipeline = self.pipeline((lambda n: lost, PLACED), (plain, {"on_error": "skip"}))
        assert list(pipeline.stream(range(3))) == []
        assert caplog.text.count("release() of a handle raised RuntimeError") == 3
