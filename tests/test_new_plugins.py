"""The way of a stranger: a plugin is written, installed where nothing else is, tested and used."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "docs" / "examples" / "acme_stages"
KINDS = ["stage", "executor", "placement", "observer"]
OURS = ["threads", "sqlite", "cli", "bundle"]

pytestmark = pytest.mark.timeout(150)  # the first test of them installs everything


@dataclass(frozen=True)
class Place:
    """A folder with new plugins, and an environment in which they are installed.

    Attributes:
        folder: where they were written, and a copy of the example.
        bin: the programs of the environment.
    """

    folder: Path
    bin: Path

    def run(
        self, *command: str, inside: str = "", timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment in one of the folders."""
        program = self.bin / command[0]
        folder = self.folder / inside
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
        }
        environment |= {"PYSTREAM_PROFILER_FOLDER": str(self.folder / "profiles"), "COLUMNS": "100"}
        return subprocess.run(
            [str(program), *command[1:]],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """One plugin of each kind and the example, built as wheels and installed."""
    folder = tmp_path_factory.mktemp("stranger")
    for kind in KINDS:
        _run(sys.executable, "-m", "pystream", "new", kind, f"acme-{kind}", cwd=folder)
    left_out = shutil.ignore_patterns("__pycache__", ".*_cache")
    shutil.copytree(EXAMPLE, folder / "acme_stages", ignore=left_out)
    sources = [ROOT, *(ROOT / "plugins" / name for name in OURS)]
    sources += [folder / f"acme-{kind}" for kind in KINDS]
    sources.append(folder / "acme_stages")
    pip = (sys.executable, "-m", "pip")
    options = ("-q", "--no-deps", "--no-build-isolation", "-w", "wheels")
    _run(*pip, "wheel", *options, *map(str, sources), cwd=folder)
    _run(sys.executable, "-m", "venv", "--without-pip", "environment", cwd=folder)
    programs = folder / "environment" / ("Scripts" if os.name == "nt" else "bin")
    names = ["pystream-core[testing]", *(f"pystream-{name}" for name in OURS), "acme-stages"]
    names += [f"acme-{kind}" for kind in KINDS]
    install = ("install", "-q", "--find-links", "wheels", *names)
    _run(*pip, "--python", str(programs / "python"), *install, cwd=folder)
    return Place(folder, programs)


def _run(*command: str, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("folder", [*(f"acme-{kind}" for kind in KINDS), "acme_stages"])
def test_a_plugin_passes_its_own_tests(place: Place, folder: str) -> None:
    """As it was written, against what is installed."""
    done = place.run("pytest", "-q", "-p", "no:cacheprovider", inside=folder)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_plugin_has_no_fault_that_checkers_find(place: Place, kind: str) -> None:
    """ruff finds nothing to say, nor does mypy in its strict mode."""
    folder = place.folder / f"acme-{kind}"
    _run(
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--isolated",
        "--no-cache",
        "--select",
        "E,F,W,I,B,UP,RUF",
        "--line-length",
        "100",
        ".",
        cwd=folder,
    )
    _run(
        sys.executable,
        "-m",
        "ruff",
        "format",
        "--isolated",
        "--no-cache",
        "--check",
        "--line-length",
        "100",
        ".",
        cwd=folder,
    )
    options = ("--strict", "--no-incremental", f"--python-executable={place.bin / 'python'}")
    _run(sys.executable, "-m", "mypy", *options, f"acme_{kind}", cwd=folder)


@pytest.mark.parametrize("name", [*(f"acme-{kind}" for kind in KINDS), "acme-stages"])
def test_check_finds_nothing_wrong(place: Place, name: str) -> None:
    """All checks pass, in words and in JSON."""
    done = place.run("pystream", "check", name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all 10 checks passed." in done.stdout
    found = json.loads(place.run("pystream", "check", name, "--json").stdout)
    assert found["passed"]
    assert len(found["checks"]) == 10


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_of_a_new_plugin_runs(place: Place, kind: str) -> None:
    """``pystream run example/pipeline.toml``, the third of the commands that are shown."""
    done = place.run("pystream", "run", "example/pipeline.toml", inside=f"acme-{kind}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Ledger: 60 admitted = " in done.stdout


def test_a_strangers_stages_run_from_a_file(place: Place) -> None:
    """Found by their entry points alone: the example of the package."""
    done = place.run("pystream", "run", "example/greenhouse.toml", inside="acme_stages")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["28.01 is above the limit", "25.97 is below the limit"]
    assert "Ledger: 1440 admitted = 2 completed + 1438 filtered" in lines


def test_a_strangers_stages_are_used_from_python(place: Place) -> None:
    """By ``pystream_core.stage``, which loads them on first use."""
    program = """
import sys
import pystream, pystream_core
assert "acme_stages" not in sys.modules
names = {one.name for one in pystream_core.available().stages}
assert names >= {"acme.smooth", "acme.threshold"}, names
pipeline = pystream.Pipeline()
pipeline.add(pystream_core.stage("acme.smooth", size=3))
pipeline.add(pystream_core.stage("acme.threshold", high=28.0, low=26.0))
with pipeline.parallelize():
    readings = [20.0, 21.0, 90.0, 21.0, 29.0, 30.0, 31.0, 20.0, 20.0]
    print([alarm.state for alarm in pipeline.stream(readings)])
"""
    done = place.run("python", "-c", program)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "['above', 'below']\n"


def test_the_environment_is_a_strangers(place: Place) -> None:
    """Nothing of this repository is found but what was installed there."""
    program = "import pystream_core, acme_stage; print(pystream_core.__file__, acme_stage.__file__)"
    for path in place.run("python", "-c", program).stdout.split():
        assert Path(path).is_relative_to(place.folder / "environment")
