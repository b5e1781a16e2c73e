"""Placements that each break one rule: the inline one, bent."""

from __future__ import annotations

import copy
import ctypes
import threading
from collections.abc import Iterator
from dataclasses import replace
from time import perf_counter_ns
from typing import Any

from catalogue import Catalogue

from pystream_core import SKIP, PlacedStage, Placement, StageSpec
from pystream_core.testing._placement import _Placed, _PlacedGenerator
from pystream_core.testing._polled import HelperCalls

WRONG = Catalogue()

INLINE = {"ends_stuck_calls": False}  # a thread cannot be ended


class Inline(Placement):
    """What the classes below change a little."""

    placed: type = _Placed
    generator: type = _PlacedGenerator

    def wrap(self, spec: StageSpec) -> StageSpec:
        kind = self.generator if spec.kind == "generator" else self.placed
        return replace(spec, make=lambda: kind(spec), shared=False)


@WRONG.add("starts nothing", "test_wrap_starts_nothing", "thread 'early'", **INLINE)
class StartsEarly(Inline):
    """Starts its helper when the plan is built."""

    def wrap(self, spec: StageSpec) -> StageSpec:
        threading.Thread(target=threading.Event().wait, name="early", daemon=True).start()
        return super().wrap(spec)


@WRONG.add("starts nothing", "test_a_mode_that_never_starts_makes_nothing", "made", **INLINE)
@WRONG.add("one per worker", "test_every_worker_has_a_stage_of_its_own", "assert", **INLINE)
class MakesEarly(Inline):
    """Makes the stage when the plan is built, one for all workers."""

    def wrap(self, spec: StageSpec) -> StageSpec:
        stage = spec.make()
        return super().wrap(replace(spec, make=lambda: stage))


@WRONG.add("specification", "test_the_specification_stays_as_it_is", "assert", **INLINE)
class Renames(Inline):
    """Puts its own name into the path."""

    def wrap(self, spec: StageSpec) -> StageSpec:
        return super().wrap(replace(spec, path=(*spec.path[:-1], f"placed {spec.path[-1]}")))


class Deaf(_Placed):
    def _make(self) -> None:
        self._stage = self._spec.make()


@WRONG.add("refusals", "test_what_a_factory_makes_is_looked_at", "assert", **INLINE)
class TakesAnything(Inline):
    """Calls whatever a factory makes as if it were a function."""

    placed = Deaf


@WRONG.add(
    "refusals",
    "test_what_cannot_be_placed_is_refused",
    "DID NOT RAISE",
    supports_local_stages=False,
    **INLINE,
)
class RefusesNothing(Inline):
    """Says that it cannot place some stages, and takes them."""


class Patient(_Placed):
    def setup(self) -> None:
        try:
            super().setup()
        except Exception:
            pass


@WRONG.add("setup", "test_a_setup_that_raises", "DID NOT RAISE", deadline=0.5, **INLINE)
class StartsAnyhow(Inline):
    """Keeps to itself that setup has failed."""

    placed = Patient


class Untidy(_Placed):
    def cleanup(self) -> None:
        self._stop()


@WRONG.add("cleanup", "test_cleanup_happens_once", r"assert \[0, 0\] == \[1, 1\]", **INLINE)
class NeverCleansUp(Inline):
    """Ends its helper without cleaning the stage up."""

    placed = Untidy


class Twice(_Placed):
    def cleanup(self) -> None:
        self._ask(self._stage.cleanup)
        super().cleanup()


@WRONG.add("cleanup", "test_cleanup_happens_once", r"assert \[2, 2\] == \[1, 1\]", **INLINE)
class CleansUpTwice(Inline):
    """Cleans the stage up twice."""

    placed = Twice


class Late(_Placed):
    answer: Any = None

    def __call__(self, data: Any) -> Any:
        answer, self.answer = self.answer, super().__call__(data)
        return answer


@WRONG.add("own answer", "test_every_item_has_its_own_answer_in_order", "StageError", **INLINE)
class OneBehind(Inline):
    """Gives the answer to the item before."""

    placed = Late


class Copying(_Placed):
    def __call__(self, data: Any) -> Any:
        answer = super().__call__(data)
        return copy.copy(_Other) if answer is SKIP else answer


_Other = object()


@WRONG.add("SKIP", "test_skip_filters", "assert|StageError", **INLINE)
class LosesSkip(Inline):
    """Brings back something like SKIP."""

    placed = Copying


class Hogging(_Placed):
    def __call__(self, data: Any) -> Any:
        ctypes.PyDLL(None).usleep(150_000)  # with the interpreter lock
        return super().__call__(data)


@WRONG.add("no lock", "test_a_waiting_call_lets_other_threads_run", "assert|did not end", **INLINE)
class HoldsTheLock(Inline):
    """Waits in C code with the interpreter lock."""

    placed = Hogging


class OtherClock(_Placed, PlacedStage):
    def __call__(self, data: Any) -> Any:
        answer = super().__call__(data)
        self.span_ns = (10**6, perf_counter_ns() + 10**12)
        return answer


@WRONG.add("spans", "test_spans_lie_within_the_call", "assert", **INLINE)
class ReadsAnotherClock(Inline):
    """Says when a call was by a clock of its own."""

    placed = OtherClock


class Listing(_Placed, PlacedStage):
    def bring(self, value: Any) -> Any:
        return [value]


@WRONG.add("brought", "test_what_was_brought_stands_for_the_value", "assert", **INLINE)
class BringsAnother(Inline):
    """Lets something else wait in place of a value."""

    placed = Listing


class Beside(HelperCalls, _Placed):
    """Calls of which can be submitted."""


class PolledInline(Inline):
    """The model for those that are polled."""

    placed = Beside

    def wrap(self, spec: StageSpec) -> StageSpec:
        wrapped = super().wrap(spec)
        return replace(wrapped, polled=spec.kind != "generator")


class LastAnswer(Beside):
    last: Any = None

    def result(self) -> Any:
        answer, self.last = self.last, super().result()
        return answer


@WRONG.add("polled", "test_polled_calls_are_calls", "assert None == 0", **INLINE)
class PolledOneBehind(PolledInline):
    """Gives the answer to what was submitted before."""

    placed = LastAnswer


class Silent(Beside):
    def submit(self, value: Any) -> None:
        super().submit(value)
        self.descriptors = ()


@WRONG.add("polled", "test_polled_calls_are_calls", "nothing says that", deadline=9.0, **INLINE)
class RingsNoBell(PolledInline):
    """Has no descriptor that tells when to look."""

    placed = Silent


class Waiting(Beside):
    def submit(self, value: Any) -> None:
        super().submit(value)
        while not super().done():
            threading.Event().wait(0.001)


@WRONG.add("polled", "test_a_polled_call_is_not_waited_for", "did not", deadline=0.5, **INLINE)
class WaitsInSubmit(PolledInline):
    """Submits a call by calling."""

    placed = Waiting


class Eager(_PlacedGenerator):
    def __call__(self, data: Any) -> Iterator[Any]:
        outputs = self._ask(lambda: list(zip(range(1000), self._stage(data), strict=False)))
        yield from [output for _, output in outputs]


@WRONG.add("generators", "test_outputs_are_made_when_they_are_asked_for", "assert|end", **INLINE)
class MakesAhead(Inline):
    """Makes a lot of outputs before it gives out the first one."""

    generator = Eager


class Translating(_Placed):
    def __call__(self, data: Any) -> Any:
        try:
            return super().__call__(data)
        except BaseException as error:
            raise RuntimeError(repr(error)) from error


@WRONG.add("exceptions", "test_an_exception_arrives_as_what_it_is", "assert|RuntimeError", **INLINE)
class TranslatesErrors(Inline):
    """Raises an error of its own in place of the stage's."""

    placed = Translating


@WRONG.add("stops", "test_a_stuck_call_ends_or_is_named", "did not return|did not end")
@WRONG.add("stops", "test_a_stuck_setup_ends_or_is_named", "did not return|did not end")
class CannotEndCalls(Inline):
    """Does not end a stuck call though it says so."""


class Leaving(_Placed):
    def _stop(self) -> None:
        if self._helper is not None:
            self._helper.name = "helper left"


@WRONG.add("nothing left", "test_nothing_is_left_behind", "helper left", **INLINE)
class LeavesItsHelper(Inline):
    """Does not end its helper."""

    placed = Leaving


class Once(_Placed):
    lives = 0

    def setup(self) -> None:
        super().setup()
        type(self).lives += 1
        if type(self).lives > 1:
            self.cleanup()
            raise RuntimeError("used up")


@WRONG.add("again", "test_start_and_stop_many_times", "used up", **INLINE)
class OnlyOnce(Inline):
    """Starts a single time."""

    placed = Once
