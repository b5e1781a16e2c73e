"""The calls that one worker makes back to back, one after another or through branches."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from time import perf_counter_ns
from typing import Any

from ._call import Step
from ._executor import ANOTHER_BRANCH, Envelope, Run
from ._lifecycle import Instance
from ._observer import Trace


class Chain:
    """The stages that one worker runs back to back: one of them, or a nested serial pipeline,
    or in serial mode all of them. Used by one thread at a time.

    Attributes:
        position: index in ``steps`` of the stage that is working, for naming a stuck one; when
            ``outputs`` has just given out something, of the stage that it comes from.
        expands: items are processed by ``outputs``, since there is a generator or batching
            stage among the stages or they branch; otherwise by ``call``.
        batches: there is a batching stage among them, so the chain has to be flushed.
        timed: one of those is to be flushed when an item has waited in it for too long.
        branches: the stages do not simply follow one another.
        plain: the stages, when none is a generator or has to be called by its step, so that a
            caller may run them in a loop of its own and report what deviates to ``after``;
            else None. With an observer he records their calls as well.
    """

    def __init__(self, run: Run, steps: Sequence[Step], trace: Trace | None = None) -> None:
        self.steps = tuple(steps)
        self.position = 0
        self._run = run
        self._trace = trace
        self._first = steps[0].index if steps else 0
        # Copies of the item in hand that wait for their stage, by its position. Changed by the
        # worker; when that is stuck, emptied by the closer.
        self._waiting: dict[int, Envelope] = {}
        self._in_hand: Envelope | None = None  # where the stages branch
        graph = run.plan.graph
        own = range(self._first, self._first + len(steps))
        # What a stage makes goes, by its position: to positions here, and None for all others;
        # each with whether outputs are joined there.
        self._targets: list[tuple[tuple[int | None, bool], ...]] = []
        for stage in own:
            followers = graph.followers[stage]
            targets: list[tuple[int | None, bool]] = [
                (each - self._first, graph.gathered(each) is not None)
                for each in followers
                if each in own
            ]
            if any(each not in own for each in followers):
                targets.append((None, False))
            self._targets.append(tuple(targets))
        following = [*range(1, len(steps)), None]
        self.branches = self._targets != [((each, False),) for each in following[: len(steps)]]
        self.expands = self.branches or any(step.expands for step in steps)
        self.batches = any(step.batches for step in steps)
        self.timed = any(step.waits_at_most for step in steps)
        self.plain: tuple[Callable[[Any], Any], ...] | None = None
        if not self.expands and not any(step.alone for step in steps):
            self.plain = tuple(step.stage for step in steps)
        self.call: Callable[[Envelope], bool] = steps[0].call if len(steps) == 1 else self._call_all

    def _call_all(self, envelope: Envelope) -> bool:
        run = self._run
        seq = envelope.seq
        for position, step in enumerate(self.steps):
            if seq < run.floor:
                step.discard(envelope)
                return False
            self.position = position
            if not step.call(envelope):
                return False
        return True

    def after(
        self, position: int, envelope: Envelope, error: BaseException | None
    ) -> Iterator[Envelope]:
        """What comes of an item that ``plain`` did not bring through.

        Args:
            position: of the stage that raised, or that returned what the envelope holds.
            envelope: with what that stage returned, or was given when it raised.
            error: what it raised, None when it returned.
        """
        for step in self.steps[:position]:
            step.counters.received += 1
            step.counters.emitted += 1
        step = self.steps[position]
        step.counters.received += 1
        if error is not None:
            if not step.failed(envelope, error):
                return
        elif not step.hand_on(envelope, envelope.value):
            return
        yield from self._onward(envelope, position)

    def outputs(self, envelope: Envelope) -> Iterator[Envelope]:
        """Everything that comes of one item, as soon as it is made."""
        if not self.branches:
            yield from self._pass_through(envelope, 0)
            return
        self._waiting[0] = envelope
        yield from self._walk(0)

    def _onward(self, envelope: Envelope, position: int) -> Iterator[Envelope]:
        """What comes of an item that has left the stage at this position."""
        if self.branches:
            out = self._hand_out(envelope, position)
            if out is not None:
                yield out
            yield from self._walk(position + 1)
        else:
            yield from self._pass_through(envelope, position + 1)

    def _pass_through(self, envelope: Envelope, first: int) -> Iterator[Envelope]:
        for position in range(first, len(self.steps)):
            step = self.steps[position]
            if envelope.seq < self._run.floor:
                step.discard(envelope)
                return
            self.position = position
            if step.expands:
                yield from self._give_out(step.expand(envelope), position)
                return
            if not step.call(envelope):
                return
        yield envelope

    def flush(self, *, overdue: bool = False) -> Iterator[Envelope]:
        """What still waits in batching stages, brought through the stages behind them.

        Args:
            overdue: only where items have waited for longer than they may.
        """
        for position, step in enumerate(self.steps):
            if step.batches and not (overdue and not 0 < step.due_ns <= perf_counter_ns()):
                self.position = position
                yield from self._give_out(step.flush(), position)

    @property
    def due_ns(self) -> int:
        """When the first batching stage has to be flushed; 0: nothing waits."""
        return min((step.due_ns for step in self.steps if step.due_ns), default=0)

    def lose_held(self, reason: str) -> None:
        """What waits in batching stages will not come out any more."""
        for step in self.steps:
            step.lose_held(reason)

    def _give_out(
        self, children: Generator[Envelope, None, None], position: int
    ) -> Iterator[Envelope]:
        try:
            for child in children:
                yield from self._onward(child, position)
                self.position = position
        except GeneratorExit:
            children.close()
            raise
        except BaseException as error:  # a later stage: the generator is to end too
            children.throw(error)

    def _walk(self, first: int) -> Iterator[Envelope]:
        """Call the stages from this position on, each with the copy that waits for it.

        In the order of the plan, so that each finds the outputs of those that feed it.
        """
        waiting = self._waiting
        try:
            for position in range(first, len(self.steps)):
                envelope = waiting.pop(position, None)
                if envelope is None:
                    continue
                step = self.steps[position]
                if envelope.seq < self._run.floor:
                    step.discard(envelope)
                    continue
                self.position = position
                if step.expands:  # every item passes it, so nothing else waits
                    yield from self._give_out(step.expand(envelope), position)
                    return
                self._in_hand = envelope
                handed_on = step.call(envelope)
                self._in_hand = None
                out = self._hand_out(envelope, position) if handed_on else None
                if out is None:
                    continue
                yield out
        except BaseException as error:  # the rest of this item is not worked on any more
            self._in_hand = None
            why = "reader left" if isinstance(error, GeneratorExit) else ANOTHER_BRANCH
            self._lose_waiting(why)
            raise

    def _hand_out(self, envelope: Envelope, position: int) -> Envelope | None:
        """Give what a stage has made to its followers here; what there is for all others."""
        targets = self._targets[position]
        copies = envelope.copies(len(targets)) if len(targets) > 1 else (envelope,)
        out = None
        for (target, joins), copy in zip(targets, copies, strict=True):
            if target is None:
                out = copy
            elif not joins or self._run.arrive(
                self._first + target, self._first + position, copy, self._trace
            ):
                self._waiting[target] = copy
        return out

    def abandon(self, items: Sequence[Envelope] = ()) -> None:
        """The closer leaves the worker behind: end its copies of an item in several branches,
        and what waits in batching stages. Another item is counted by the ledger itself.

        Args:
            items: what the worker has in hand, as far as the closer knows.
        """
        self._lose_waiting("abandoned")
        self.lose_held("abandoned")
        for copy in items if self._in_hand is None else (self._in_hand,):
            if copy.branches is not None:
                stage = self._first + self.position
                self._run.end(copy, "dropped", None, stage=stage, reason="abandoned")

    def _lose_waiting(self, reason: str) -> None:
        """End the copies that wait for a stage which is not called any more."""
        while self._waiting:
            try:
                position, envelope = self._waiting.popitem()
            except KeyError:  # pragma: no cover - a stuck worker just came back and took it
                return
            why = self._run.reason if envelope.seq < self._run.floor else reason
            self._run.lose(envelope, self._first + position, self._trace, why)


def cleanup_all(instances: Sequence[Instance]) -> list[BaseException]:
    """Clean up instances one after another; what was raised, in their order."""
    errors = (instance.cleanup() for instance in instances)
    return [error for error in errors if error is not None]
