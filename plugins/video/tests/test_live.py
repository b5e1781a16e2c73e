"""The source video.read on URLs, devices, and in real time."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import socket
import threading
import time

import pytest
from pystream_video import VideoError, VideoReader

LAVFI = {"format": "lavfi"}


@pytest.fixture
def slowly():
    """Waits a little between two frames, as a slow stage would."""
    return threading.Event().wait


class WhenLogged(logging.Handler):
    """Does something when a message has been logged so many times."""

    def __init__(self, text, times, act):
        super().__init__()
        self.text, self.left, self.act = text, times, act

    def emit(self, record):
        if self.text in record.getMessage():
            self.left -= 1
            if self.left == 0:
                self.act()


@pytest.fixture
def when_logged():
    """``when_logged(text, times, act)`` calls ``act`` at the n-th message with that text."""
    logger = logging.getLogger("PyStream.video")
    handlers = []

    def add(text, times, act):
        handlers.append(WhenLogged(text, times, act))
        logger.addHandler(handlers[-1])

    yield add
    for handler in handlers:
        logger.removeHandler(handler)


def test_a_url_is_read_to_its_end(site, clip):
    """A transport stream over HTTP gives all of its frames."""
    clip("a.ts")
    assert sum(1 for _ in VideoReader(site.url("a.ts"))) == 20


def test_a_recording_behind_a_url_must_be_whole(site, remuxed):
    """A file over HTTP that states its length and is cut off ends with the error."""
    path = remuxed("half.mkv", "video")
    os.truncate(path, path.stat().st_size // 2)
    # FFmpeg reports the end or a failed reading, as the last bytes happen to come
    with pytest.raises(
        VideoError, match=r"half\.mkv (ends at|cannot be read further) .* 48 frames"
    ):
        list(VideoReader(site.url("half.mkv")))


def test_an_mp4_that_needs_range_requests_says_so(site, bunny, tmp_path):
    """The error of an MP4 whose index cannot be reached tells what the server lacks."""
    shutil.copy(bunny, tmp_path / "a.mp4")
    with pytest.raises(VideoError, match="Range requests"):
        list(VideoReader(site.url("a.mp4")))


def test_a_missing_url_is_named(site):
    """What the server answered is in the message."""
    with pytest.raises(VideoError, match=r"nothing\.ts cannot be opened .*404"):
        list(VideoReader(site.url("nothing.ts")))


def test_damage_of_a_live_input_is_passed_over(site, bunny, remuxed):
    """A live input goes on after damaged data; losses are in its nature."""
    path = remuxed("live.ts", "video")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4000] = bytes(4000)
    path.write_bytes(content)
    assert sum(1 for _ in VideoReader(site.url("live.ts"))) > 120


def test_a_lost_url_is_opened_again(site, clip, when_logged, caplog):
    """With reconnect the frames go on when the server that went away comes back."""
    clip("a.ts")
    source = VideoReader(site.url("a.ts"), reconnect=0.01)
    frames = iter(source)
    for _ in range(20):
        next(frames)
    site.stop()
    when_logged("refused", 2, site.start)
    for _ in range(30):
        assert next(frames).shape == (48, 64, 3)
    frames.close()
    assert "it ended; opening it again in 0.0 s" in caplog.text
    assert "Connection refused" in caplog.text


def test_the_time_between_attempts_doubles_up_to_half_a_minute(caplog, monkeypatch):
    """While the server is away the attempts become rarer, but do not stop."""
    source = VideoReader("http://127.0.0.1:1/a.ts", reconnect=2.5)
    waits = []

    def wait(stop, seconds):
        waits.append(seconds)
        if len(waits) == 6:
            stop.set()

    monkeypatch.setattr(threading.Event, "wait", wait)
    assert list(source) == []
    assert waits == [2.5, 5.0, 10.0, 20.0, 30.0, 30.0]


def test_close_ends_the_wait_for_the_next_attempt(when_logged):
    """A source that waits to reconnect ends at once when it is closed."""
    source = VideoReader("http://127.0.0.1:1/a.ts", reconnect=60.0)
    when_logged("opening it again", 1, source.close)
    assert list(source) == []


def test_an_address_that_cannot_work_is_not_tried_again():
    """With reconnect, too, an unknown protocol is an error at once."""
    with pytest.raises(VideoError, match="nonsense://camera cannot be opened"):
        list(VideoReader("nonsense://camera", reconnect=60.0))


def test_a_server_that_never_answers_ends_by_the_timeout():
    """Opening takes no longer than the timeout."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/a.ts"
        started = time.monotonic()
        with pytest.raises(VideoError, match="cannot be opened"):
            list(VideoReader(url, timeout=0.2))
        assert time.monotonic() - started < 5


def test_a_device_is_read_by_its_format():
    """A format names a device; its frames come one by one."""
    frames = iter(VideoReader("testsrc=size=64x48:rate=200", **LAVFI))
    assert [frame.shape for frame in itertools.islice(frames, 3)] == [(48, 64, 3)] * 3
    frames.close()


def test_realtime_drops_late_frames_and_counts_them(clip, slowly, caplog):
    """A slow reader gets fewer frames, and received and dropped are all there were."""
    source = VideoReader(clip("a.mp4", frames=60, rate=200), realtime=True)
    received = 0
    for _frame in source:
        received += 1
        slowly(0.03)
    assert received + source.dropped == 60
    assert 2 <= received <= 15
    assert f"{source.dropped} frames dropped at the source as late" in caplog.text


def test_realtime_paces_a_file_by_its_timestamps(clip):
    """A fast reader gets every frame, in the time that the file takes to play."""
    source = VideoReader(clip("a.mp4", frames=30, rate=100), realtime=True)
    started = time.monotonic()
    received = sum(1 for _ in source)
    assert time.monotonic() - started >= 29 / 100 - 0.005
    assert received + source.dropped == 30
    assert received >= 20


def test_realtime_gives_the_newest_frame(clip, slowly):
    """The frame after a long pause is one of the latest, not the one that came next."""
    frames = iter(VideoReader(clip("a.mp4", frames=30, rate=200), realtime=True))
    next(frames)
    slowly(0.3)
    assert next(frames)[40, 60, 0] > 29 * 8 - 15
    frames.close()


def test_realtime_delivers_the_error(bunny, tmp_path):
    """What the reading thread meets is raised to the reader."""
    path = tmp_path / "words.mp4"
    path.write_text("words")
    with pytest.raises(VideoError, match="words"):
        list(VideoReader(path, realtime=True))


def test_closing_in_real_time_leaves_no_thread(clip):
    """Closing the iterator ends the reading thread, and counts the frame in the slot."""
    before = set(threading.enumerate())
    source = VideoReader(clip("a.mp4", rate=200), realtime=True, loop=True)
    frames = iter(source)
    next(frames)
    frames.close()
    assert set(threading.enumerate()) == before


def test_close_releases_a_reader_that_waits(site):
    """In real time close() from another thread ends a wait for a frame that does not come."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/a.ts"
        source = VideoReader(url, realtime=True, timeout=0.4)
        frames = iter(source)

        def close_when_connected():
            with listening.accept()[0]:
                source.close()

        closer = threading.Thread(target=close_when_connected)
        closer.start()
        assert list(frames) == []
        closer.join(5)


def test_a_realtime_source_that_was_never_read_can_be_closed(clip):
    """Closing before the first frame starts nothing."""
    before = set(threading.enumerate())
    source = VideoReader(clip("a.mp4"), realtime=True)
    frames = iter(source)
    source.close()
    frames.close()
    assert source.dropped == 0
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize(("timeout", "ends"), [(None, "with that reading"), (2.0, "within 2 s")])
def test_a_reading_that_does_not_return_is_named(clip, monkeypatch, caplog, timeout, ends):
    """What is left behind is told with the time when it ends, also where there is no limit."""
    from pystream_video.newest import Newest

    join = Newest.join
    monkeypatch.setattr(Newest, "join", lambda self, seconds: join(self, seconds) and False)
    frames = iter(VideoReader(clip("a.mp4"), realtime=True, timeout=timeout))
    next(frames)
    frames.close()
    assert f"is still being read; its thread ends {ends}" in caplog.text
