"""What all conformance suites have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest

from .._errors import CleanupError
from .._pipeline import Pipeline
from ._deadline import Deadline
from ._law import broken_law
from ._rules import Rule
from ._stages import Gate


class Conformance:
    """The frame of a suite: every test has a deadline (see ``fixtures``), and afterwards every
    pipeline that it made is stopped and its ledger is checked.

    Attributes:
        switches: what an implementation may leave out, by the class attribute that says so, in
            words. A subclass sets one to False; its refusal is then tested instead.
        rules: what the tests show.
        deadline: seconds after which a test that has not ended is stopped and fails with the
            stacks of all threads. (In the main thread, on systems with POSIX signals.)
    """

    switches: ClassVar[Mapping[str, str]] = {}
    rules: ClassVar[tuple[Rule, ...]] = ()
    deadline: ClassVar[float] = 15.0

    @pytest.fixture(autouse=True)
    def _made(self) -> Iterator[None]:
        """Clean up every pipeline of the test, check its ledger, and let it go."""
        self.made: list[Pipeline] = []
        self.gates: list[Gate] = []
        yield
        self.end_all()
        for pipeline in self.made:
            session = pipeline._session
            if session is not None:
                feeders = session.run.plan.graph.feeders
                assert broken_law(pipeline.statistics(), feeders) == []
        self.made.clear()  # pytest keeps the suite's object to the end of the run
        self.gates.clear()

    @classmethod
    def within_deadline(cls, what: str) -> Deadline:
        """A context that ends and fails after ``deadline``, with the stacks of all threads."""
        return Deadline(cls.deadline, lambda report: pytest.fail(f"{what} {report}", pytrace=False))

    def end_all(self) -> None:
        """Open every gate, stop every pipeline; what one of them raises there fails the test."""
        with self.within_deadline("the cleanup after the test"):
            self._end_all()

    def _end_all(self) -> None:
        for gate in self.gates:
            gate.open()
        first: BaseException | None = None
        for pipeline in self.made:
            try:
                pipeline.abort()
                pipeline.cleanup()
            except CleanupError:
                pass
            except BaseException as error:
                first = first or error
        if first is not None:
            raise first

    def gate(self, *args: Any, **options: Any) -> Gate:
        """A gate that is opened at the end in any case."""
        self.gates.append(Gate(*args, **options))
        return self.gates[-1]

    def needs(self, *switches: str) -> None:
        """Leave the test out unless the implementation supports all of this."""
        for switch in switches:
            if not getattr(self, switch):
                pytest.skip(f"it says {switch} = False")
