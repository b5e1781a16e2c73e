"""The stages of the placement suite: at the top of a module without pytest, so that they can be
imported wherever they are called. They report through their results and through a folder."""

from __future__ import annotations

import itertools
import os
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .._stage import SKIP, Stage
from ._stages import FAILURES
from ._suite_stages import Triples, twice

_LONGEST = 15.0  # seconds that a stage waits for the test at most
_STEP = 0.002


def place() -> str:
    """Where this is called: the process and the thread."""
    return f"{os.getpid()}-{threading.get_ident()}"


class Noted(NamedTuple):
    """One line of a journal."""

    event: str
    stage: str
    place: str


class Journal:
    """A folder in which stages write down what happens to them, and find what they are to do.

    Args:
        folder: where; the test and the places of its stages see it alike.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def note(self, event: str, stage: str) -> None:
        """Write a line, whole, behind those of others."""
        line = " ".join(Noted(event, stage, place())) + "\n"
        file = os.open(Path(self.folder) / "journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)

    def read(self) -> list[Noted]:
        """All lines so far."""
        try:
            text = (Path(self.folder) / "journal").read_text()
        except FileNotFoundError:
            return []
        return [Noted(*line.split()) for line in text.splitlines()]

    def count(self, event: str) -> int:
        """How often that happened."""
        return sum(noted.event == event for noted in self.read())

    def lives(self) -> dict[str, Counter[str]]:
        """What happened to each stage, how often."""
        found: dict[str, Counter[str]] = {}
        for noted in self.read():
            found.setdefault(noted.stage, Counter())[noted.event] += 1
        return found

    def set(self, word: str) -> None:
        """Tell the stages something."""
        (Path(self.folder) / word).touch()

    def clear(self, word: str) -> None:
        """That is over."""
        (Path(self.folder) / word).unlink(missing_ok=True)

    def says(self, word: str) -> bool:
        """Whether they have been told that."""
        return (Path(self.folder) / word).exists()

    def wait(self, word: str) -> None:
        """Wait until they have been told that.

        Raises:
            TimeoutError: they have not.
        """
        never = threading.Event()
        for _ in range(int(_LONGEST / _STEP)):
            if self.says(word):
                return
            never.wait(_STEP)
        raise TimeoutError(f"the test never said {word!r}")


class Witness(Stage[Any]):
    """Notes what happens to it.

    It raises ValueError in ``setup`` and ``cleanup`` when the journal says ``bad setup`` or
    ``bad cleanup``, and for the item ``"bad"``.

    Args:
        folder: of the journal.
    """

    def __init__(self, folder: str) -> None:
        self.journal = Journal(folder)
        self.identity = uuid.uuid4().hex
        self.journal.note("made", self.identity)

    def setup(self) -> None:
        """Note it."""
        if self.journal.says("bad setup"):
            raise ValueError("bad setup")
        self.journal.note("setup", self.identity)

    def __call__(self, data: Any) -> Any:
        """The item, as it came."""
        self.journal.note("call", self.identity)
        if isinstance(data, str) and data == "bad":
            raise ValueError("bad item")
        return data

    def cleanup(self) -> None:
        """Note it."""
        self.journal.note("cleanup", self.identity)
        if self.journal.says("bad cleanup"):
            raise ValueError("bad cleanup")


class Waiting(Witness):
    """The same, but each call waits until the journal says ``go``."""

    def __call__(self, data: Any) -> Any:
        """The item, when it may go."""
        super().__call__(data)
        self.journal.wait("go")
        return data


class Unready(Witness):
    """The same, but its setup waits until the journal says ``go``."""

    def setup(self) -> None:
        """Ready, when it may go."""
        super().setup()
        self.journal.wait("go")


class Endless:
    """A generator stage without end, that notes each output and when it is closed."""

    def __init__(self, folder: str) -> None:
        self.journal = Journal(folder)

    def __call__(self, item: int) -> Iterator[int]:
        """Numbers from the item on."""
        try:
            for number in itertools.count(item):
                self.journal.note("output", "endless")
                yield number
        finally:
            self.journal.note("closed", "endless")


class Holding:
    """A stage that cannot leave its process, since it holds a lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __call__(self, item: Any) -> Any:
        """The item."""
        with self.lock:
            return item


class Refused(Exception):
    """An exception of the user's own."""


class Raiser:
    """Raises what it is asked for by name.

    Args:
        kind: name of one of ``FAILURES``, or ``Refused``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self, item: Any) -> Any:
        """Raise it, with the item as its argument."""
        raise {kind.__name__: kind for kind in (*FAILURES, Refused)}[self.kind](item)


class FailsTwice:
    """Raises the first two times that it is called."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, item: Any) -> Any:
        """The item, the third time."""
        self.calls += 1
        if self.calls < 3:
            raise ValueError(f"call {self.calls}")
        return item


class Unmakeable:
    """Cannot be made where it is to be called."""

    def __init__(self) -> None:
        raise LookupError("no model here")

    def __call__(self, item: Any) -> Any:
        """Never called."""


def sometimes_slow(item: int) -> int:
    """The negative of the item, after 3 ms for every fifth one."""
    if item % 5 == 0:
        threading.Event().wait(0.003)
    return -item


def drop_odd(item: int) -> Any:
    """SKIP for odd numbers."""
    return SKIP if item % 2 else item


def some(item: int) -> Iterator[Any]:
    """A generator stage: the item, SKIP, the item, and an error at the third one."""
    yield item
    yield SKIP
    yield item
    if item == 2:
        raise ValueError("third")


def none_at_all(item: Any) -> None:
    """None, whatever comes."""


def takes_time(item: Any) -> Any:
    """The item, after 5 ms."""
    threading.Event().wait(0.005)
    return item


def make_twice() -> Any:
    """A factory whose generator stage does not show before it is called."""
    return twice


def make_triples() -> Any:
    """A factory whose batching stage does not show before it is called."""
    return Triples()
