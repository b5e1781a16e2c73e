"""The sources lines and jsonl, on real files."""

from __future__ import annotations

import logging
import os
import threading
import time

import pytest
from pystream_stages import JsonLines, Lines

from pystream_core import PlanError

QUICK = {"follow": True, "interval": 0.005}


@pytest.fixture
def path(tmp_path):
    """A text file of three lines."""
    file = tmp_path / "log.txt"
    file.write_text("one\ntwo\nthree\n")
    return file


class Follower:
    """Reads a source in a thread, so that the test can write and wait meanwhile."""

    def __init__(self, source):
        self.source = source
        self.lines = []
        self.error = None
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self):
        try:
            for line in self.source:
                with self._news:
                    self.lines.append(line)
                    self._news.notify()
        except BaseException as error:
            self.error = error

    def wait_lines(self, *lines):
        with self._news:
            self._news.wait_for(lambda: self.lines[-len(lines) :] == list(lines), 5)
        assert self.lines[-len(lines) :] == list(lines)

    def close(self):
        self.source.close()
        self._thread.join(5)
        assert not self._thread.is_alive()


@pytest.fixture
def follow():
    """Starts followers and ends them after the test."""
    started = []

    def start(source):
        started.append(Follower(source))
        return started[-1]

    yield start
    for follower in started:
        follower.close()


def append(path, text):
    with path.open("a", newline="") as file:
        file.write(text)


def open_files():
    return {os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}


def test_lines_come_without_their_newlines(path):
    """Every line is an item, the newline is not part of it, and each iteration starts anew."""
    source = Lines(path)
    assert list(source) == list(source) == ["one", "two", "three"]


def test_lines_keep_newlines_when_asked(path):
    """With keep_newline a line ends as in the file, also a last one without newline."""
    append(path, "four")
    assert list(Lines(path, keep_newline=True)) == ["one\n", "two\n", "three\n", "four"]


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"\n\n", ["", ""]),
        (b"a\r\nb\rc", ["a", "b", "c"]),
        ("ä\u2028ö\n".encode(), ["ä\u2028ö"]),
        (b"x" * 200_000 + b"\ny", ["x" * 200_000, "y"]),
    ],
)
def test_lines_splits_as_open_does(path, content, lines):
    """Every newline convention counts, other separators do not, and lines may be long."""
    path.write_bytes(content)
    assert list(Lines(path)) == lines


def test_lines_reads_other_encodings(path):
    """An encoding of two bytes per character is decoded as a whole."""
    path.write_text("ä\nö\n", encoding="utf-16")
    assert list(Lines(path, encoding="utf-16")) == ["ä", "ö"]


def test_lines_gives_the_good_lines_before_a_bad_one(path):
    """Bytes that are no text raise an error that names the file and the line."""
    path.write_bytes(b"one\ntwo\nthr\xffee\nfour\n")
    lines = iter(Lines(path))
    assert [next(lines), next(lines)] == ["one", "two"]
    with pytest.raises(ValueError, match=r"log\.txt, line 3: not utf-8 text"):
        next(lines)
    assert list(Lines(path, errors="ignore"))[2] == "three"


def test_lines_names_a_character_cut_off_at_the_end(path):
    """Half a character at the end of the file is an error too."""
    path.write_bytes("one\nä".encode()[:-1])
    with pytest.raises(ValueError, match="line 2"):
        list(Lines(path))


def test_closing_the_iterator_closes_the_file(path):
    """Closing an iterator that has not ended releases the file at once."""
    for source in (Lines(path), JsonLines(path, on_error="skip", follow=True)):
        append(path, "4\n5\n")
        iterator = iter(source)
        next(iterator)
        assert str(path) in open_files()
        iterator.close()
        assert str(path) not in open_files()


def test_follow_gives_lines_as_they_come(path, follow):
    """A growing file gives its new lines, and closing the source ends the iteration."""
    follower = follow(Lines(path, **QUICK))
    follower.wait_lines("one", "two", "three")
    append(path, "four\nfive\n")
    follower.wait_lines("four", "five")
    follower.close()
    assert follower.error is None
    assert str(path) not in open_files()


def test_follow_waits_for_the_end_of_a_half_written_line(path, follow):
    """A line is given when its newline comes, in one piece, also if a character was halved."""
    follower = follow(Lines(path, **QUICK))
    follower.wait_lines("three")
    half = "grün".encode()
    for piece in (half[:3], half[3:], b"\nlast\n"):
        with path.open("ab") as file:
            file.write(piece)
    follower.wait_lines("three", "grün", "last")


def test_follow_starts_anew_when_the_file_is_truncated(path, follow, caplog):
    """A file that shrank is read from its start."""
    follower = follow(Lines(path, **QUICK))
    follower.wait_lines("three")
    path.write_text("new\n")
    follower.wait_lines("three", "new")
    assert "was truncated" in caplog.text


def test_follow_goes_on_with_the_file_that_took_the_name(path, follow):
    """A rotated file is read to its end, unfinished line included, then the new one."""
    follower = follow(Lines(path, **QUICK))
    follower.wait_lines("three")
    old = path.with_suffix(".1")
    path.rename(old)
    append(old, "late\nunfinished")
    path.with_suffix(".new").write_text("first of the new\n")
    path.with_suffix(".new").rename(path)
    follower.wait_lines("three", "late", "unfinished", "first of the new")


def test_follow_ends_when_idle_long_enough(path, caplog):
    """With until_idle the iteration ends, and an unfinished last line is not given but named."""
    append(path, "fo")
    started = time.monotonic()
    assert list(Lines(path, until_idle=0.05, **QUICK)) == ["one", "two", "three"]
    assert 0.05 <= time.monotonic() - started < 5
    assert "left unread, 2 characters of it" in caplog.text


def test_a_closed_source_can_be_read_again(path):
    """close() ends one iteration, not the source."""
    source = Lines(path)
    iterator = iter(source)
    next(iterator)
    source.close()
    assert list(iterator) == []
    assert len(list(source)) == 3
    assert "log.txt" in repr(source)


@pytest.mark.parametrize("source", [Lines, JsonLines])
@pytest.mark.parametrize(("name", "what"), [("nothing", "does not exist"), (".", "is a folder")])
def test_a_missing_file_is_named_at_the_call(tmp_path, source, name, what):
    """A path without a file is refused when the source is described."""
    with pytest.raises(PlanError, match=what):
        source(tmp_path / name)


@pytest.mark.parametrize(
    "options",
    [
        {"encoding": "utf-99"},
        {"encoding": "hex"},
        {"encoding": None},
        {"errors": "maybe"},
        {"follow": True, "interval": 0},
        {"follow": True, "until_idle": -1},
        {"until_idle": 1.0},
    ],
)
def test_options_without_meaning_are_refused_at_the_call(path, options):
    """Encodings, times and combinations that cannot work are refused with a way out."""
    with pytest.raises(PlanError, match="lines: "):
        Lines(path, **options)


def test_jsonl_gives_values(path):
    """Every line is one value, of any JSON type; blank lines are passed over."""
    path.write_text('{"a": 1}\n\n[2, "ü"]\n  \nnull\n3')
    assert list(JsonLines(path)) == [{"a": 1}, [2, "ü"], None, 3]


def test_jsonl_stops_at_a_bad_line(path):
    """The error names the file and the line, after the good values before it."""
    path.write_text("1\n\n{oops\n4\n")
    values = iter(JsonLines(path))
    assert next(values) == 1
    with pytest.raises(ValueError, match=r"log\.txt, line 3: not JSON"):
        next(values)
    assert str(path) not in open_files()


def test_jsonl_leaves_out_and_counts_bad_lines(path, caplog):
    """With on_error="skip" the good values come, the bad ones are counted and logged."""
    path.write_text("1\n{oops\n" + "[" * 100_000 + "\n4\n")
    source = JsonLines(path, on_error="skip")
    with caplog.at_level(logging.WARNING, logger="PyStream.stages"):
        assert list(source) == [1, 4]
    assert source.skipped == 2
    assert "line 2" in caplog.text
    assert "2 bad lines left out" in caplog.text


def test_jsonl_counts_a_single_bad_line_in_the_singular(path, caplog):
    """One line is not "1 bad lines"."""
    path.write_text("{oops\n4\n")
    with caplog.at_level(logging.WARNING, logger="PyStream.stages"):
        assert list(JsonLines(path, on_error="skip")) == [4]
    assert "1 bad line left out" in caplog.text


def test_jsonl_follows_a_growing_file(path, follow):
    """Values of a growing file come as their lines are finished."""
    path.write_text("1\n")
    follower = follow(JsonLines(path, **QUICK))
    append(path, '{"a":')
    append(path, " 2}\n")
    follower.wait_lines(1, {"a": 2})


def test_jsonl_refuses_an_unknown_policy(path):
    """on_error takes two words."""
    with pytest.raises(PlanError, match='"stop" or "skip"'):
        JsonLines(path, on_error="ignore")
