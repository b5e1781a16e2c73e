"""The stages video.resize, video.gray and video.motion."""

from __future__ import annotations

import copy
import inspect
import pickle
import subprocess
import sys
from importlib.metadata import entry_points

import numpy as np
import pystream_video
import pytest
from pystream_video import Box, Gray, Motion, MotionFrame, Resize, VideoWriter
from pystream_video.regions import connected, merged

from pystream_core import PlanError, Stage


def plain(height=240, width=320, value=0):
    return np.full((height, width, 3), value, np.uint8)


def with_squares(*corners, side=40, **size):
    """A black frame with a white square at each (left, top)."""
    frame = plain(**size)
    for left, top in corners:
        frame[top : top + side, left : left + side] = 255
    return frame


def motion_of(*frames, **options):
    """What the last of several frames gives."""
    stage = Motion(**options)
    return [stage(frame) for frame in frames][-1]


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("name", ["resize", "same size", "gray", "motion", "write"])
def test_no_stage_changes_a_frame_that_others_may_have_too(tmp_path, name, gray) -> None:
    """Branches get the same array, here one that cannot be written to; its copy is drawn into."""
    stage = {
        "resize": lambda: Resize(width=160),
        "same size": lambda: Resize(width=320, height=240),
        "gray": Gray,
        "motion": Motion,
        "write": lambda: VideoWriter(tmp_path / "out.mkv", codec="ffv1", pixel_format="gray"),
    }[name]()
    for corner in (40, 120):
        frame = with_squares((corner, 60))
        frame = frame[..., 0].copy() if gray else frame
        before = frame.copy()
        frame.flags.writeable = False
        result = stage(frame)
        assert (frame == before).all()
        assert name in ("same size", "gray", "write") or not np.shares_memory(result, frame)
    assert name != "motion" or result.count == 2
    stage.cleanup()


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"width": 640}, (360, 640, 3)),
        ({"height": 360}, (360, 640, 3)),
        ({"width": 100, "height": 101}, (101, 100, 3)),
        ({"width": 333}, (188, 333, 3)),
        ({"width": 2560}, (1440, 2560, 3)),
        ({"width": 2}, (2, 2, 3)),
    ],
)
def test_resize_gives_the_size_and_keeps_the_ratio(options, shape):
    """A missing side keeps the ratio and is even; two sides are taken as they are."""
    assert Resize(**options)(plain(720, 1280)).shape == shape


def test_resize_keeps_the_picture():
    """Colours stay where they were, in gray frames too."""
    frame = plain(200, 400)
    frame[:, 200:] = (200, 100, 50)
    small = Resize(width=100)(frame)
    assert np.abs(small[25, 80].astype(int) - (200, 100, 50)).max() <= 3
    assert small[25, 20].max() <= 3
    assert Resize(width=100)(frame[:, :, 0]).shape == (50, 100)


def test_resize_passes_a_frame_of_that_size_unchanged():
    """Nothing is copied when there is nothing to do."""
    frame = plain(100, 200)
    assert Resize(width=200)(frame) is frame


@pytest.mark.parametrize(
    "options",
    [{}, {"width": 0}, {"height": -2}, {"width": 10.5}, {"width": True}, {"width": 10**6}],
)
def test_resize_refuses_sizes_without_meaning(options):
    """A size that is none is refused when the stage is described."""
    with pytest.raises(PlanError, match=r"video\.resize: "):
        Resize(**options)


def test_gray_gives_brightness():
    """White stays 255, black 0, green is brighter than blue; gray frames pass unchanged."""
    frame = plain(8, 8)
    frame[0], frame[2], frame[4] = 255, (0, 255, 0), (0, 0, 255)
    gray = Gray()(frame)
    assert gray.shape == (8, 8)
    assert gray[0, 0] == 255
    assert gray[6, 0] == 0
    assert gray[2, 0] > 140 > 40 > gray[4, 0]
    assert Gray()(gray) is gray


NO_FRAMES = [
    None,
    "frame",
    [[0]],
    np.zeros((4, 4, 3)),
    np.zeros((4, 4, 4), np.uint8),
    np.zeros(4, np.uint8),
    np.zeros((0, 4, 3), np.uint8),
]


@pytest.mark.parametrize("item", NO_FRAMES, ids=str)
@pytest.mark.parametrize("stage", [Gray(), Resize(width=10), Motion()])
def test_what_is_no_frame_is_named(stage, item):
    """The error says what a frame is and what came instead."""
    with pytest.raises(TypeError, match=r"video\.\w+: a frame is a numpy array of uint8"):
        stage(item)


@pytest.mark.parametrize("stage", [Gray, lambda: Resize(width=64), Motion])
def test_frames_that_are_views_are_taken(stage):
    """A flipped, cut or transposed view is a frame like any other."""
    frame = np.random.default_rng(1).integers(0, 256, (100, 120, 3), dtype=np.uint8)
    for view in (frame[::-1], frame[10:50, 20:80], frame[..., ::-1], frame.transpose(1, 0, 2)):
        assert np.array_equal(stage()(view), stage()(view.copy()))


def test_motion_finds_what_moved():
    """The region holds the places where the square was and where it is."""
    found = motion_of(with_squares((40, 60)), with_squares((60, 60)))
    assert found.count == 1
    [box] = found.regions
    assert np.abs(np.subtract(box, (40, 60, 100, 100))).max() <= 4


def test_motion_tells_distant_regions_apart_and_joins_near_ones():
    """Two squares far from each other are two regions, near each other one."""
    assert motion_of(plain(), with_squares((10, 10), (200, 150))).count == 2
    assert motion_of(plain(), with_squares((10, 10), (60, 10))).count == 1


def test_motion_gives_the_largest_region_first():
    """Regions are sorted by size."""
    frame = with_squares((10, 10))
    frame[100:220, 150:300] = 255
    first, second = motion_of(plain(), frame).regions
    assert first.left > second.left


def test_motion_draws_on_a_copy():
    """The rectangle lies on the edge of the region, and the frame given stays as it was."""
    frame = with_squares((48, 64))
    given = frame.copy()
    found = motion_of(plain(), frame)
    box = found.regions[0]
    assert tuple(found[box.top, box.left]) == (40, 255, 90)
    assert np.array_equal(frame, given)
    drawn = np.any(found != frame, axis=2)
    assert drawn.any()
    drawn[box.top : box.bottom, box.left : box.right] = False
    assert not drawn.any()


def test_motion_without_drawing_leaves_the_pixels():
    """With draw=False only the regions are added."""
    frame = with_squares((48, 64))
    found = motion_of(plain(), frame, draw=False)
    assert found.count == 1
    assert np.array_equal(found, frame)


def test_motion_works_on_gray_frames():
    """Gray frames give gray frames, marked in white."""
    found = motion_of(plain()[..., 0], with_squares((48, 64))[..., 0] // 2)
    assert found.shape == (240, 320)
    assert found.count == 1
    assert found[found.regions[0].top, found.regions[0].left] == 255


def test_motion_has_nothing_to_say_about_a_first_frame():
    """The first frame, one of a new size, and a still one have no regions."""
    stage = Motion()
    assert stage(with_squares((10, 10))).count == 0
    assert stage(with_squares((10, 10))).count == 0
    assert stage(with_squares((90, 10), height=120)).count == 0
    assert stage(with_squares((10, 10), height=120)).count == 2
    stage.cleanup()


def test_motion_passes_over_noise():
    """The noise of a camera is no motion."""
    noise = np.random.default_rng(1)
    frames = [plain(value=100) + noise.integers(0, 30, (240, 320, 3), np.uint8) for _ in range(3)]
    assert motion_of(*frames).count == 0


def test_threshold_and_area_decide_what_counts():
    """A faint change and a small one are left out, or not, as asked."""
    faint = plain()
    faint[50:90, 50:90] = 20
    assert motion_of(plain(), faint).count == 0
    assert motion_of(plain(), faint, threshold=10).count == 1
    small = with_squares((48, 48), side=16)
    assert motion_of(plain(), small).count == 0
    assert motion_of(plain(), small, min_area=200).count == 1


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (17, 2), (721, 1279)])
def test_motion_takes_frames_of_any_size(size):
    """Frames smaller than a cell and odd ones work; boxes stay inside the frame."""
    height, width = size
    found = motion_of(plain(height, width), plain(height, width, value=255), min_area=0)
    assert found.shape == (height, width, 3)
    for box in found.regions:
        assert 0 <= box.left < box.right <= width
        assert 0 <= box.top < box.bottom <= height
    assert found.count == (1 if height * width > 100 else found.count)


def test_the_real_clip_moves_where_the_animal_is(bunny):
    """In the real clip a few regions move, most of them on the animal left of the middle."""
    stage = Motion()
    found = [stage(frame) for frame in pystream_video.VideoReader(bunny)]
    assert max(frame.count for frame in found) <= 6
    assert sum(frame.count > 0 for frame in found) > 100
    middles = [(box.left + box.right) / 2 for frame in found for box in frame.regions]
    assert 200 < np.median(middles) < 700


def test_a_motion_frame_keeps_its_regions_where_they_fit():
    """Copies and pickles keep the regions; slices and plain arrays have none."""
    frame = MotionFrame(plain(), (Box(1, 2, 3, 4),))
    for same in (frame.copy(), copy.deepcopy(frame), pickle.loads(pickle.dumps(frame)), frame + 1):
        assert isinstance(same, MotionFrame)
        assert same.regions == (Box(1, 2, 3, 4),)
    assert frame[10:20].count == 0
    assert plain().view(MotionFrame).regions == ()


@pytest.mark.parametrize(
    "options", [{"threshold": 256}, {"threshold": -1}, {"min_area": "9"}, {"draw": 1}]
)
def test_motion_refuses_options_without_meaning(options):
    """Options out of range are refused when the stage is described."""
    with pytest.raises(PlanError, match=r"video\.motion: "):
        Motion(**options)


def flooded(grid):
    """The bounding boxes of connected cells, by the slowest sure way."""
    waiting = set(zip(*map(np.ndarray.tolist, np.nonzero(grid)), strict=True))
    boxes = set()
    while waiting:
        part, edge = set(), [waiting.pop()]
        while edge:
            row, column = edge.pop()
            part.add((row, column))
            near = {(row + y, column + x) for y in (-1, 0, 1) for x in (-1, 0, 1)} & waiting
            waiting -= near
            edge.extend(near)
        rows, columns = zip(*part, strict=True)
        boxes.add((min(rows), max(rows) + 1, min(columns), max(columns) + 1))
    return boxes


@pytest.mark.parametrize("seed", range(60))
def test_connected_parts_are_those_of_a_flood_fill(seed):
    """On random grids the fast way finds the same parts as the slow one."""
    random = np.random.default_rng(seed)
    grid = random.random((random.integers(1, 20), random.integers(1, 25))) < random.random()
    found = [(y.start, y.stop, x.start, x.stop) for y, x in connected(grid)]
    assert set(found) == flooded(grid)


@pytest.mark.parametrize("seed", range(20))
def test_merged_boxes_lie_apart(seed):
    """No two boxes that remain are near each other, and every one given lies in one of them."""
    random = np.random.default_rng(seed)
    corners = random.integers(1, 100, (random.integers(0, 12), 4)).tolist()
    boxes = [Box(x, y, x + width, y + height) for x, y, width, height in corners]
    kept = merged(boxes, gap=3)
    for box in boxes:
        assert any(
            k.left <= box.left <= box.right <= k.right
            and k.top <= box.top <= box.bottom <= k.bottom
            for k in kept
        )
    assert sorted(merged(kept, gap=3)) == sorted(kept)


def _entries(group):
    return {e.name: e for e in entry_points(group=group) if e.value.startswith("pystream_video")}


def test_the_entry_points_name_stages_and_the_source():
    """The documented names lead to Stage subclasses and to the reader."""
    stages = {name: entry.load() for name, entry in _entries("pystream.stages").items()}
    assert sorted(stages) == ["video.gray", "video.motion", "video.resize", "video.write"]
    assert all(issubclass(stage, Stage) for stage in stages.values())
    assert _entries("pystream.sources")["video.read"].load() is pystream_video.VideoReader


@pytest.mark.parametrize("group", ["pystream.stages", "pystream.sources"])
def test_every_option_is_annotated_and_described(group):
    """``pystream inspect`` finds a type, a default and a line of text for every option."""
    for name, entry in _entries(group).items():
        made = entry.load()
        for option in inspect.signature(made).parameters.values():
            assert option.annotation is not inspect.Parameter.empty, (name, option)
            assert option.default is not inspect.Parameter.empty or option.name == "path"
            assert f"\n    {option.name}: " in inspect.getdoc(made.__init__), (name, option)


def test_listing_and_importing_the_package_loads_no_video_library():
    """av and numpy are imported when something of them is used, not before."""
    code = (
        "import sys, importlib.metadata as m, pystream_video\n"
        "list(m.entry_points(group='pystream.stages'))\n"
        "assert not {'av', 'numpy'} & set(sys.modules), 'loaded'\n"
        "pystream_video.Resize\n"
        "assert 'av' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=15)


def test_every_public_name_is_there():
    """The package offers what it lists, and nothing else by mistake."""
    for name in pystream_video.__all__:
        assert getattr(pystream_video, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        pystream_video.nothing  # noqa: B018
