"""The sink video.write: what is in the file, and when there is one."""

from __future__ import annotations

import os
import shutil
import threading

import av
import numpy as np
import pytest
from pystream_video import Motion, Resize, VideoError, VideoReader, VideoWriter

from pystream_core import PlanError


def moving(count=10, height=48, width=64):
    """Frames with a red square that moves to the right."""
    for number in range(count):
        frame = np.full((height, width, 3), 60, np.uint8)
        frame[8:24, 2 * number : 2 * number + 16] = (220, 40, 30)
        yield frame


def written(path, frames, **options):
    """The file as FFmpeg decodes it: its stream's facts and its frames."""
    stage = VideoWriter(path, **options)
    for frame in frames:
        assert stage(frame) is frame
    stage.cleanup()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        facts = (stream.codec_context.name, stream.width, stream.height, stream.average_rate)
    return facts, list(VideoReader(path))


def distance(one, other):
    return np.abs(one.astype(int) - other).mean()


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov", "a.avi", "a.ts"])
def test_the_file_plays_in_every_container(tmp_path, name):
    """Every frame comes back, alike, in the order and rate in which it was written."""
    frames = list(moving())
    facts, back = written(tmp_path / name, frames, rate=30)
    assert facts == ("h264", 64, 48, 30)
    assert len(back) == 10
    assert max(distance(*pair) for pair in zip(frames, back, strict=True)) < 4
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize(
    ("codec", "facts"), [("mpeg4", "mpeg4"), ("libx264", "h264"), ("libx265", "hevc")]
)
def test_the_codec_is_chosen_by_name(tmp_path, codec, facts, capfd):
    """Encoders write what they are named for, and print nothing."""
    frames = list(moving(height=96, width=128))
    found, back = written(tmp_path / "a.mp4", frames, codec=codec)
    assert found[0] == facts
    assert distance(frames[-1], back[-1]) < 6
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_better_quality_is_larger(tmp_path, codec):
    """The quality decides the size, also for encoders that only know a bit rate."""
    noise = np.random.default_rng(1)
    coarse = [noise.integers(0, 256, (12, 16, 3), dtype=np.uint8) for _ in range(15)]
    frames = [Resize(width=128, height=96)(image) for image in coarse]
    sizes = []
    for quality in (5, 45):
        written(tmp_path / "a.mp4", frames, codec=codec, quality=quality)
        sizes.append((tmp_path / "a.mp4").stat().st_size)
    assert sizes[0] > 1.5 * sizes[1]


def test_colours_survive_writing_and_reading(tmp_path):
    """A plain colour comes back within a few steps."""
    frame = np.full((64, 64, 3), (200, 60, 20), np.uint8)
    _facts, back = written(tmp_path / "a.mp4", [frame] * 3)
    assert np.abs(back[1][32, 32].astype(int) - (200, 60, 20)).max() <= 4


def test_gray_frames_are_written(tmp_path):
    """Frames without colour make a video too."""
    frames = [frame[..., 0].copy() for frame in moving()]
    _facts, back = written(tmp_path / "a.mp4", frames)
    assert distance(frames[5], back[5][..., 1]) < 4


@pytest.mark.parametrize(("height", "width"), [(47, 64), (48, 63), (47, 63), (1, 1)])
def test_odd_sizes_are_padded(tmp_path, height, width):
    """A line or column is repeated to make the size even; gray and colour alike."""
    frames = list(moving(3, height, width))
    facts, back = written(tmp_path / "a.mp4", frames)
    assert facts[1:3] == (width + width % 2, height + height % 2)
    assert distance(frames[0], back[0][:height, :width]) < 8
    written(tmp_path / "b.mp4", [frame[..., 0] for frame in frames])


def test_a_pixel_format_without_shared_colours_keeps_odd_sizes(tmp_path):
    """Where the pixel format takes odd sizes nothing is padded."""
    facts, _back = written(tmp_path / "a.mp4", moving(3, 47, 63), pixel_format="yuv444p")
    assert facts[1:3] == (63, 47)


def test_a_frame_of_another_size_is_refused_and_the_rest_kept(tmp_path):
    """The failure names both sizes, and the frames before it make a whole video."""
    stage = VideoWriter(tmp_path / "a.mp4")
    for frame in moving(5):
        stage(frame)
    with pytest.raises(ValueError, match="64x50 cannot follow those of 64x48"):
        stage(np.zeros((50, 64, 3), np.uint8))
    with pytest.raises(TypeError, match=r"video\.write: a frame is"):
        stage(None)
    stage.cleanup()
    assert len(list(VideoReader(tmp_path / "a.mp4"))) == 5


def test_the_file_appears_when_it_is_complete(tmp_path):
    """Until cleanup the old file is there, and afterwards the new one; twice is harmless."""
    path = tmp_path / "a.mp4"
    path.write_text("old")
    stage = VideoWriter(path)
    for frame in moving():
        stage(frame)
        assert path.read_text() == "old"
    stage.cleanup()
    stage.cleanup()
    assert len(list(VideoReader(path))) == 10


def test_without_a_frame_there_is_no_file(tmp_path):
    """A pipeline that ends before its first frame leaves nothing, and keeps what was there."""
    path = tmp_path / "a.mp4"
    VideoWriter(path).cleanup()
    assert os.listdir(tmp_path) == []


def test_a_first_frame_that_fails_leaves_nothing(tmp_path, monkeypatch):
    """When the encoder refuses the first frame, cleanup removes the hidden file."""
    stage = VideoWriter(tmp_path / "a.mp4")

    def refuse(*_):
        raise av.error.InvalidDataError(1, "no")

    monkeypatch.setattr("pystream_video.encode.Encoding.write", refuse)
    with pytest.raises(av.error.InvalidDataError):
        stage(next(moving()))
    stage.cleanup()
    assert os.listdir(tmp_path) == []


def test_a_file_that_cannot_be_finished_is_removed_and_named(tmp_path, monkeypatch):
    """When the last step fails, nothing half is left and the error names the target."""
    stage = VideoWriter(tmp_path / "a.mp4")
    for frame in moving():
        stage(frame)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(VideoError, match=r"a\.mp4 cannot be written .*No space left"):
        stage.cleanup()
    assert os.listdir(tmp_path) == []


def test_a_folder_that_vanishes_is_named(tmp_path):
    """What happens between the description and the first frame is an error of the video."""
    folder = tmp_path / "there"
    folder.mkdir()
    stage = VideoWriter(folder / "a.mp4")
    shutil.rmtree(folder)
    with pytest.raises(VideoError, match=r"a\.mp4 cannot be written after 0 frames"):
        stage(next(moving()))
    stage.cleanup()


def test_a_file_that_may_not_be_overwritten_is_not(tmp_path):
    """overwrite=False refuses at the description, and keeps both when one appears later."""
    path = tmp_path / "a.mp4"
    stage = VideoWriter(path, overwrite=False)
    stage(next(moving()))
    path.write_text("mine")
    with pytest.raises(VideoError, match="is kept as"):
        stage.cleanup()
    assert path.read_text() == "mine"
    assert len(os.listdir(tmp_path)) == 2
    with pytest.raises(PlanError, match="exists"):
        VideoWriter(path, overwrite=False)


def test_motion_frames_of_the_real_clip_are_written_from_a_worker_thread(bunny, tmp_path):
    """read, resize, motion and write make a playable file of all 132 frames."""
    failures = []

    def work():
        try:
            resize, motion = Resize(width=320), Motion()
            stage = VideoWriter(tmp_path / "a.mp4")
            for frame in VideoReader(bunny):
                marked = motion(resize(frame))
                assert stage(marked) is marked
            stage.cleanup()
        except BaseException as error:
            failures.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    worker.join(15)
    assert failures == []
    frames = list(VideoReader(tmp_path / "a.mp4"))
    assert len(frames) == 132
    assert frames[0].shape == (180, 320, 3)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"path": "missing/a.mp4"}, "does not exist"),
        ({"path": "."}, "is a folder"),
        ({"path": "a"}, "no video file that ends in ''"),
        ({"path": "a.txt"}, r"no video file that ends in '\.txt'"),
        ({"path": "a.gif", "codec": "libx264"}, r"\.gif files cannot hold libx264"),
        ({"rate": 0}, "rate"),
        ({"rate": "25"}, "rate"),
        ({"overwrite": "no"}, "overwrite must be True or False"),
        ({"quality": 99}, "quality"),
        ({"quality": 2.5}, "quality"),
        ({"codec": "nonsense"}, "no video encoder 'nonsense'"),
        ({"codec": "aac"}, "no video encoder 'aac'"),
        ({"pixel_format": "nonsense"}, "it takes yuv420p"),
    ],
)
def test_options_without_meaning_are_refused_at_the_description(tmp_path, options, what):
    """Folders, endings, encoders and numbers that cannot work are refused with a way out."""
    path = tmp_path / options.pop("path", "a.mp4")
    with pytest.raises(PlanError, match=what):
        VideoWriter(path, **options)
    assert os.listdir(tmp_path) == []
