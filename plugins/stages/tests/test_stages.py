"""The stages pace, sample, tee, log and count, called directly."""

from __future__ import annotations

import inspect
import logging
import math
import threading
import time
from importlib.metadata import entry_points

import pytest
from pystream_stages import Count, Log, Pace, Sample, Tee

from pystream_core import SKIP, PlanError, Stage


class ManualClock:
    """A clock that only waiting and the test move on."""

    def __init__(self, pace):
        self.now = 1000.0
        self.waits = []
        pace._now = lambda: self.now
        pace._wait = self.wait

    def wait(self, seconds):
        self.waits.append(seconds)
        self.now += seconds


def paced(rate):
    pace = Pace(rate=rate)
    return pace, ManualClock(pace)


def test_pace_gives_every_item_a_period():
    """Items that are always ready leave exactly one period apart."""
    pace, clock = paced(4)
    left = [(pace(item), clock.now) for item in range(5)]
    assert left == [(item, 1000.0 + item * 0.25) for item in range(5)]


def test_pace_does_not_drift_when_waits_end_late():
    """A wait that always ends 10 ms late delays the hundredth item by 10 ms, not by 1 s."""
    pace, clock = paced(10)
    on_time = clock.wait
    pace._wait = lambda seconds: on_time(seconds + 0.01)
    for item in range(101):
        pace(item)
    assert clock.now == pytest.approx(1000.0 + 100 * 0.1 + 0.01)


def test_pace_does_not_catch_up_in_a_burst():
    """After a long pause one item passes at once and the next one waits a full period."""
    pace, clock = paced(10)
    pace(0)
    clock.now += 60
    pace(1)
    assert clock.waits == []
    pace(2)
    assert clock.waits == [pytest.approx(0.1)]


def test_pace_never_waits_more_than_a_period():
    """A call blocks at most one period, however fast items come."""
    pace, clock = paced(5)
    for item in range(50):
        pace(item)
        clock.now += 0.001 * (item % 3)
    assert max(clock.waits) <= 0.2 + 1e-9


def test_pace_keeps_the_rate_on_the_real_clock():
    """Twenty items at 400 per second take no less than 19 periods."""
    pace = Pace(rate=400)
    started = time.monotonic()
    for item in range(20):
        pace(item)
    assert time.monotonic() - started >= 19 / 400 - 0.001


def test_cleanup_ends_a_wait_of_pace():
    """A stage that waits in another thread goes on at once when it is cleaned up."""
    pace = Pace(rate=0.05)
    pace(0)
    worker = threading.Thread(target=pace, args=(1,))
    worker.start()
    pace.cleanup()
    worker.join(5)
    assert not worker.is_alive()


def test_pace_keeps_its_rate_again_after_a_cleanup():
    """A pipeline may start afresh with the same object."""
    pace = Pace(rate=100)
    pace.setup()
    pace.cleanup()
    pace.setup()
    begin = time.monotonic()
    for item in range(4):
        pace(item)
    assert time.monotonic() - begin >= 0.025


@pytest.mark.parametrize("rate", [0, -1, 0.001, math.inf, math.nan, "25", None, True])
def test_pace_refuses_a_rate_that_is_none(rate):
    """A rate that is no rate is refused when the stage is described."""
    with pytest.raises(PlanError, match="items per second"):
        Pace(rate=rate)


@pytest.mark.parametrize(
    ("n", "offset", "passed"),
    [(1, 0, [0, 1, 2, 3, 4, 5, 6]), (3, 0, [0, 3, 6]), (3, 2, [2, 5]), (2, 5, [5]), (9, 9, [])],
)
def test_sample_passes_every_nth_item(n, offset, passed):
    """One item of n passes, beginning after the offset."""
    sample = Sample(n=n, offset=offset)
    assert [item for item in range(7) if sample(item) is not SKIP] == passed


@pytest.mark.parametrize("options", [{"n": 0}, {"n": 1.5}, {"n": True}, {"offset": -1}])
def test_sample_refuses_numbers_without_meaning(options):
    """Options that are no counts are refused when the stage is described."""
    with pytest.raises(PlanError, match="whole number"):
        Sample(**options)


def test_tee_shows_the_item_and_passes_the_same_one():
    """The callable gets the very item, and its result is ignored."""
    seen = []
    item = object()
    assert Tee(to=seen.append)(item) is item
    assert seen == [item]


def test_tee_finds_its_callable_by_name(monkeypatch, tmp_path):
    """Text of the form module:attr names the callable."""
    (tmp_path / "a_side_module.py").write_text("seen = []\nclass Side:\n    show = seen.append\n")
    monkeypatch.syspath_prepend(tmp_path)
    Tee(to="a_side_module:Side.show")(7)
    import a_side_module

    assert a_side_module.seen == [7]


def test_tee_lets_a_failure_out():
    """What the callable raises is a failure of the stage."""
    with pytest.raises(ZeroDivisionError):
        Tee(to=lambda item: 1 / item)(0)


async def a_coroutine(item):
    """Nothing calls it."""


def a_generator(item):
    """Nothing calls it."""
    yield item


@pytest.mark.parametrize(
    "to",
    [None, 5, "", "json", "json:", ":loads", "json:nothing", "no_such_module:f", "json:__name__"],
)
def test_tee_refuses_what_it_cannot_call(to):
    """A target that cannot be found or called is refused when the stage is described."""
    with pytest.raises(PlanError, match="tee: to"):
        Tee(to=to)


@pytest.mark.parametrize("to", [a_coroutine, a_generator])
def test_tee_refuses_functions_whose_call_runs_nothing(to):
    """Coroutine and generator functions are refused, because nobody would run them."""
    with pytest.raises(PlanError, match="ordinary function"):
        Tee(to=to)


def test_log_writes_every_nth_item(caplog):
    """The first item of each n is logged with its number, at the given level and logger."""
    stage = Log(level="debug", every=2, logger="acme", template="{count} -> {item}")
    with caplog.at_level(logging.DEBUG, logger="acme"):
        assert [stage(item) for item in "abcde"] == list("abcde")
    assert caplog.record_tuples == [
        ("acme", logging.DEBUG, f"{number} -> {item!r}")
        for number, item in zip((1, 3, 5), "ace", strict=True)
    ]


def test_log_formats_nothing_while_the_logger_is_off(caplog):
    """With the level off the item is not asked for its repr."""

    class Untouchable:
        def __repr__(self):
            raise AssertionError("asked for its repr")

    with caplog.at_level(logging.WARNING, logger="PyStream.stages"):
        Log(level="INFO")(Untouchable())
    assert caplog.records == []


class Broken:
    def __repr__(self):
        raise SystemExit


class Array:
    shape = (720, 1280, 3)
    dtype = "uint8"

    def __repr__(self):
        raise AssertionError("the repr of an array is slow")


@pytest.mark.parametrize(
    ("item", "part"),
    [
        (Broken(), "whose repr raises SystemExit"),
        (Array(), "<Array (720, 1280, 3) uint8>"),
        ("x" * 10**6, "..."),
        (list(range(10**6)), "..."),
        ("%s {item}", "%s {item}"),
    ],
)
def test_log_shows_any_item_in_a_few_characters(caplog, item, part):
    """The text is short and safe, whatever the item is."""
    with caplog.at_level(logging.INFO, logger="PyStream.stages"):
        assert Log()(item) is item
    [record] = caplog.records
    assert part in record.getMessage()
    assert len(record.getMessage()) < 300


@pytest.mark.parametrize(
    "options",
    [
        {"level": "LOUD"},
        {"level": None},
        {"every": 0},
        {"template": "{nothing}"},
        {"template": "{"},
        {"template": None},
    ],
)
def test_log_refuses_options_without_meaning(options):
    """Bad levels, counts and templates are refused when the stage is described."""
    with pytest.raises(PlanError, match="log: "):
        Log(**options)


def test_count_counts_and_logs_the_total(caplog):
    """Items pass, the count can be read, and cleanup logs it."""
    stage = Count(label="frames")
    assert [stage(item) for item in (None, 0, "")] == [None, 0, ""]
    assert stage.count == 3
    assert repr(stage) == "<Count 3 frames>"
    with caplog.at_level(logging.INFO, logger="PyStream.stages"):
        stage.cleanup()
    assert "count of frames: 3" in caplog.text


@pytest.mark.parametrize("options", [{"level": "x"}, {"label": 3}])
def test_count_refuses_options_without_meaning(options):
    """A level that is none is refused when the stage is described."""
    with pytest.raises(PlanError, match="count: "):
        Count(**options)


def _entries(group):
    return {
        entry.name: entry
        for entry in entry_points(group=group)
        if entry.value.startswith("pystream_stages")
    }


def test_the_entry_points_name_stages_and_sources():
    """Every stage is a Stage subclass, and the names are the documented ones."""
    stages = {name: entry.load() for name, entry in _entries("pystream.stages").items()}
    assert sorted(stages) == [
        "batch",
        "count",
        "log",
        "pace",
        "sample",
        "tee",
        "unbatch",
        "window",
    ]
    assert all(issubclass(stage, Stage) for stage in stages.values())
    assert sorted(_entries("pystream.sources")) == ["jsonl", "lines"]


@pytest.mark.parametrize("group", ["pystream.stages", "pystream.sources"])
def test_every_option_is_annotated_and_described(group):
    """``pystream inspect`` finds a type and a line of text for every option."""
    for name, entry in _entries(group).items():
        made = entry.load()
        for option in inspect.signature(made).parameters.values():
            assert option.annotation is not inspect.Parameter.empty, (name, option)
            assert f"\n    {option.name}: " in inspect.getdoc(made.__init__), (name, option)
