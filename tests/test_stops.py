"""Stops at any moment: whatever comes between, the ledger adds up and every stage is cleaned up.

Each round makes a pipeline of random shape, reads an endless stream in one thread, and stops it
from another: by cleanup, by abort, by leaving, by a failure. Threads change as often as the
interpreter lets them.
"""

from __future__ import annotations

import itertools
import random
from time import monotonic

import pytest

from pystream_core import Pipeline, PipelineTerminated, StageError
from pystream_core.testing import (
    PATIENCE,
    Raising,
    Recorder,
    broken_law,
    frantic_switching,
    in_thread,
    wait_until,
)


def twice(item):
    yield item
    yield item


def same(item):
    return item


class Round:
    """One pipeline of random shape, and how it is stopped."""

    def __init__(self, chance):
        self.mode = chance.choice(["parallelize", "parallelize", "serialize"])
        self.how = chance.choice(["cleanup", "abort", "leave", "fail"])
        self.after = chance.randrange(60)
        overflow = ["block"] if self.how == "fail" else ["block", "drop_oldest", "drop_newest"]
        self.got = []
        self.recorder = Recorder()
        self.pipeline = Pipeline()
        self.pipeline.add(self.recorder)
        if chance.random() < 0.7:
            self.pipeline.add(twice, workers=chance.choice([1, 3]))
        self.pipeline.add(
            same,
            workers=chance.choice([1, 2]),
            ordered=chance.choice([True, False]),
            capacity=chance.choice([1, "auto"]),
            overflow=chance.choice(overflow),
        )
        if self.how == "fail":
            self.pipeline.add(Raising(when=lambda item: item == self.after))
        getattr(self.pipeline, self.mode)()

    def read(self):
        """Read until something ends the stream."""
        try:
            for result in self.pipeline.stream(itertools.count()):
                self.got.append(result)
                if self.how == "leave" and len(self.got) >= self.after:
                    return
        except (PipelineTerminated, StageError):
            pass

    def play(self):
        """Stop it, and see that all is well."""
        reader = in_thread(self.read)
        if self.how in ("cleanup", "abort"):
            assert wait_until(lambda: len(self.got) >= self.after)
            getattr(self.pipeline, self.how)()
        assert reader.wait().error is None
        if self.how == "leave":
            self.pipeline.drain(PATIENCE)
            assert self.pipeline.get_results() is None
        self.pipeline.cleanup()
        statistics = self.pipeline.statistics()
        assert broken_law(statistics) == [], f"{self.mode} {self.how}: {statistics}"
        assert self.recorder.broken == []
        # Stopped amid its start a stage may not have been set up; then it need not be cleaned up.
        assert len(self.recorder.setups) <= len(self.recorder.cleanups) <= 1


@pytest.mark.parametrize("interval", [1e-6, 5e-3])
def test_any_stop_of_any_stream_adds_up(interval):
    """A second and a half of random rounds."""
    play_rounds(interval, seconds=1.5)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("interval", [1e-6, 1e-4, 5e-3])
def test_thousands_of_stops_add_up(interval):
    """The same for a minute each."""
    play_rounds(interval, seconds=60)


def play_rounds(interval, seconds):
    chance = random.Random()
    deadline = monotonic() + seconds
    with frantic_switching(interval):
        while monotonic() < deadline:
            Round(chance).play()
