"""The examples of the documentation are real files that run, and give what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"


def python(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a fresh interpreter in a folder; profiles go there as well."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYSTREAM_PROFILER_FOLDER": str(folder / "profiles")},
        capture_output=True,
        text=True,
        timeout=18,
    )


def check_video(path: Path) -> None:
    """All frames of the clip are there, in the new size, and rectangles are drawn on some."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (640, 360, 25)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 132
    red, green, blue = np.moveaxis(frames[60].astype(int), -1, 0)
    drawn = (green > 180) & (red < 90) & (blue < 120)  # the colour of the rectangles
    assert drawn.sum() > 50
    assert np.ptp(frames[60]) > 200  # a picture, not one colour


@pytest.mark.parametrize("command", ["toml", "script"])
def test_the_motion_example_writes_a_playable_video(tmp_path: Path, command: str) -> None:
    """By the command line tool from its TOML file, and as a Python script."""
    arguments = {
        "toml": ["-m", "pystream", "run", str(EXAMPLES / "motion.toml")],
        "script": [str(EXAMPLES / "motion.py")],
    }[command]
    done = python(*arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "132 admitted = 132 completed" in done.stdout
    assert "ottleneck" in done.stdout
    check_video(tmp_path / "motion.mp4")
    assert (tmp_path / "profiles" / "profiles.sqlite").is_file()


TREE = """\
input
resize
├─ motion
│  ↳ curve
├─ small
│  gray
│  brightness
│  ↳ curve
curve ← (motion, brightness)
write
output
"""


@pytest.mark.parametrize("command", ["toml", "script"])
def test_the_branches_example_writes_both_branches_into_one_picture(
    tmp_path: Path, command: str
) -> None:
    """Every frame has its rectangles from one branch and its point of the curve from the other."""
    arguments = {
        "toml": ["-m", "pystream", "run", str(EXAMPLES / "branches.toml")],
        "script": [str(EXAMPLES / "branches.py")],
    }[command]
    done = python(*arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "132 admitted = 132 completed" in done.stdout
    with av.open(str(tmp_path / "branches.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [frame.shape for frame in frames] == [(432, 640, 3)] * 132
    red, green, blue = np.moveaxis(frames[60].astype(int), -1, 0)
    assert ((green > 180) & (red < 90) & (blue < 120))[:360].sum() > 50  # rectangles
    for number in (20, 60, 131):
        red, green, blue = np.moveaxis(frames[number][360:].astype(int), -1, 0)
        columns = ((red > 150) & (blue < 140) & (red > green)).any(axis=0)  # the curve is yellow
        drawn = 4 * (number + 1)
        assert columns[:drawn].mean() > 0.8
        assert not columns[drawn + 8 :].any()


def test_the_branches_example_draws_itself(tmp_path: Path) -> None:
    """The file and the script are the same pipeline; drawing it writes nothing."""
    done = python("-m", "pystream", "graph", str(EXAMPLES / "branches.toml"), folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, TREE), done.stderr
    assert list(tmp_path.iterdir()) == []
    script = python(str(EXAMPLES / "branches.py"), folder=tmp_path)
    assert script.stdout.startswith(TREE), script.stderr


def test_the_live_example_reads_results_while_it_runs(tmp_path: Path) -> None:
    """The newest frame wins; what was dropped is counted."""
    done = python(str(EXAMPLES / "live.py"), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    numbers = [int(number) for number in re.findall(r"result of frame (\d+)", done.stdout)]
    assert len(numbers) == 10
    assert numbers == sorted(set(numbers))
    assert "dropped (overflow)" in done.stdout.splitlines()[-1]


def test_the_readme_s_python_runs_and_prints_what_its_comments_say(tmp_path: Path) -> None:
    """The quick start is executed word for word."""
    block = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    assert len([line for line in block.splitlines() if line.strip()]) <= 15
    done = python("-c", block, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    said = re.findall(r"print\(.*?#\s*(.+)$", block, re.MULTILINE)
    assert done.stdout.splitlines()[: len(said)] == said


def test_the_asynchronous_program_of_the_threads_readme_runs(tmp_path: Path) -> None:
    """It prints every answer, in order, and complains of nothing."""
    text = (ROOT / "plugins" / "threads" / "README.md").read_text()
    block = re.findall(r"```python\n(import asyncio.*?)```", text, re.DOTALL)[0]
    done = python("-c", block, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"answer {number}" for number in range(100)]


@pytest.mark.parametrize("name", ["README.md", *(f"plugins/{each}/README.md" for each in (
    "threads", "sqlite", "stages", "video", "cli", "bundle",
))])  # fmt: skip
def test_links_and_files_that_a_readme_names_exist(name: str) -> None:
    """Relative links point to something."""
    page = ROOT / name
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{name} links to {target}"


def test_the_clip_stands_beside_its_attribution() -> None:
    """Creative Commons Attribution 3.0."""
    text = (EXAMPLES / "data" / "README.md").read_text()
    assert "Blender Foundation" in text
    assert "Creative Commons Attribution 3.0" in text
