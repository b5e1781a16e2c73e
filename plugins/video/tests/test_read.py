"""The source video.read on files: whole, damaged, cut off, and no videos at all."""

from __future__ import annotations

import itertools
import os
import shutil

import numpy as np
import pytest
from pystream_video import VideoError, VideoReader

from pystream_core import PlanError, PyStreamError


def frames_until_error(path):
    """How many frames come before the one error, and the error."""
    count = 0
    with pytest.raises(VideoError) as caught:
        for _frame in VideoReader(path):
            count += 1
    return count, str(caught.value)


def open_files():
    return {os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}


def damaged(source, target, start, data):
    content = bytearray(source.read_bytes())
    content[start : start + len(data)] = data
    target.write_bytes(content)
    return target


def test_every_frame_of_a_file_comes_as_rgb(bunny):
    """All 132 frames come, as arrays (height, width, 3) of uint8, in green grass."""
    count = 0
    for frame in VideoReader(bunny):
        assert (frame.shape, frame.dtype) == ((720, 1280, 3), np.uint8)
        count += 1
    assert count == 132
    red, green, blue = frame[600:].mean(axis=(0, 1))
    assert green > red > blue


def test_frames_are_arrays_of_their_own(clip):
    """A frame does not change when the next one is read, and may be written to."""
    first, *_rest = frames = list(VideoReader(clip("a.mp4")))
    assert len(frames) == 20
    assert abs(int(first[40, 60, 0])) < 10
    first[:] = 0


@pytest.mark.parametrize(("loop", "total"), [(False, 20), (1, 20), (3, 60)])
def test_loop_plays_a_file_so_many_times(clip, loop, total):
    """loop is the number of times in all."""
    assert sum(1 for _ in VideoReader(clip("a.mp4"), loop=loop)) == total


def test_the_real_clip_twice_gives_264_frames(bunny):
    """Looping loses no frame at the seam."""
    assert sum(1 for _ in VideoReader(bunny, loop=2)) == 264


def test_loop_true_plays_for_ever(clip):
    """With True the file starts anew as long as somebody reads."""
    frames = iter(VideoReader(clip("a.mp4"), loop=True))
    assert sum(1 for _ in itertools.islice(frames, 70)) == 70
    frames.close()


def test_closing_the_iterator_closes_the_file(bunny, tmp_path):
    """Closing in the middle releases the file at once, and the source can be read again."""
    path = shutil.copy(bunny, tmp_path / "own.mp4")
    source = VideoReader(path)
    for _ in range(2):
        frames = iter(source)
        next(frames)
        assert str(path) in open_files()
        frames.close()
        assert str(path) not in open_files()


def test_close_ends_an_iteration(clip):
    """close() of the source ends the running iteration at its next frame."""
    source = VideoReader(clip("a.mp4"), loop=True)
    frames = iter(source)
    next(frames)
    source.close()
    assert list(frames) == []
    assert "a.mp4" in repr(source)


def test_a_file_whose_index_is_cut_off_is_named(bunny, tmp_path):
    """An MP4 cut at half has lost its index: one error names it, and FFmpeg's reason is kept."""
    path = tmp_path / "half.mp4"
    path.write_bytes(bunny.read_bytes()[: bunny.stat().st_size // 2])
    with pytest.raises(VideoError, match=r"half\.mp4 is no video that FFmpeg can read") as caught:
        list(VideoReader(path))
    assert isinstance(caught.value, PyStreamError)
    assert isinstance(caught.value, OSError)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(("ending", "why"), [("mp4", "in the middle"), ("mkv", "instead of 5.3 s")])
def test_a_cut_off_file_gives_its_frames_and_then_the_error(remuxed, ending, why):
    """Half a file that can be opened gives its 53 good frames, and does not end in silence."""
    path = remuxed(f"half.{ending}", movflags="+faststart")
    os.truncate(path, path.stat().st_size // 2)
    count, message = frames_until_error(path)
    assert count == 53
    assert why in message
    assert "copy or record it again" in message


@pytest.mark.parametrize("data", [b"\0" * 3000, bytes(range(1, 256)) * 12])
def test_damage_in_the_middle_ends_with_one_error(bunny, tmp_path, data, capfd):
    """Frames that FFmpeg would have had to invent are not given, and FFmpeg prints nothing."""
    path = damaged(bunny, tmp_path / "damaged.mp4", bunny.stat().st_size // 2, data)
    count, message = frames_until_error(path)
    assert 40 < count < 70
    assert f"damaged.mp4 holds a frame that cannot be decoded after {count} frames" in message
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("content", [b"", b"only words\n" * 100])
def test_a_file_that_is_no_video_is_named(tmp_path, content):
    """Empty and text files give the same clear error."""
    path = tmp_path / "words.mp4"
    path.write_bytes(content)
    assert frames_until_error(path)[0] == 0


def test_a_file_with_sound_only_is_named(remuxed):
    """The error says what is in the file instead of video."""
    count, message = frames_until_error(remuxed("sound.mp4", "audio"))
    assert count == 0
    assert "holds no video (it has audio)" in message


@pytest.mark.parametrize("loop", [False, True])
def test_a_file_without_a_frame_is_named(clip, loop):
    """A recording that was never finished is an error, and looping it does not spin."""
    with pytest.raises(VideoError, match="without a frame"):
        list(VideoReader(clip("empty.avi", frames=0), loop=loop))


def test_a_file_that_vanishes_after_the_call_is_named(clip):
    """What happens between the call and the first frame is an error of the video."""
    path = clip("a.mp4")
    source = VideoReader(path)
    path.unlink()
    with pytest.raises(VideoError, match=r"a\.mp4"):
        next(iter(source))


@pytest.mark.parametrize(("name", "what"), [("nothing.mp4", "does not exist"), ("", "is a folder")])
def test_a_missing_file_is_refused_at_the_call(tmp_path, name, what):
    """A path without a file is refused when the source is described."""
    with pytest.raises(PlanError, match=what):
        VideoReader(tmp_path / name)


@pytest.mark.parametrize(
    "options",
    [
        {"loop": 0},
        {"loop": "yes"},
        {"reconnect": 1.0},
        {"timeout": 0},
        {"timeout": "1"},
        {"realtime": 1},
        {"options": "rtsp_transport=tcp"},
        {"format": "no such format"},
        {"format": 3},
        {"path": ""},
        {"path": b"bytes"},
        {"path": "rtsp://camera/1", "reconnect": 0},
        {"path": "/dev/video0", "format": "lavfi", "loop": True},
    ],
)
def test_options_without_meaning_are_refused_at_the_call(bunny, options):
    """Wrong types, ranges and combinations are refused with a way out."""
    with pytest.raises(PlanError, match=r"video\.read: "):
        VideoReader(**{"path": bunny, **options})
