"""A folder with stages and sources of its own, and the tool in this process or in another."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

STEPS = '''
"""What the pipeline files of the tests use."""

import threading

from pystream_core import SKIP, PlanError, Stage


def numbers(n: int = 10):
    """The numbers from 0.

    Args:
        n: how many.
    """
    yield from range(n)


def endless():
    number = 0
    while True:
        if number == 3:
            print("ready", flush=True)
        yield number
        number += 1


def blocked():
    yield 0
    print("ready", flush=True)
    threading.Event().wait()


def broken():
    yield 1
    raise OSError("the cable is loose")


def refuses():
    raise PlanError("no such camera")


def nothing():
    return 3


def boom(item, at: int = 3):
    if item == at:
        raise ValueError("boom")
    return item


def shout(item):
    print("item", item)
    return item


def plus(item, much: int = 1):
    return item + much


def stuck(item):
    if item == 2:
        print("ready", flush=True)
        threading.Event().wait()
    return item


def replaced(failure):
    return SKIP


class Named(Stage):
    """Has an option that `add` has too.

    Args:
        name: what to say.
        mode: how to say it.
    """

    def __init__(self, name: str = "x", mode: "str | None" = None):
        if name == "bad":
            raise PlanError("name must not be bad")
        self.said = name

    def __call__(self, item):
        return (self.said, item)

    def cleanup(self):
        pass


class FailsAtTheEnd(Stage):
    def __call__(self, item):
        return item

    def cleanup(self):
        raise RuntimeError("the disk is full")


ready_made = FailsAtTheEnd()
here_is = []


def remember(path: str):
    here_is.append(path)
    return [path]


three = [1, 2, 3]
'''


class Project:
    """Pipeline files in a folder of their own, and the tool run on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, text: str, name: str = "job.toml") -> Path:
        """A pipeline file."""
        path = self.folder / name
        path.write_text(textwrap.dedent(text))
        return path

    def invoke(self, *arguments: object):
        """Run the tool in this process."""
        from pystream_cli._main import cli

        return CliRunner().invoke(cli, [str(each) for each in arguments], prog_name="pystream")

    def run(self, text: str, *arguments: object):
        """Run a pipeline file in this process."""
        return self.invoke("run", self.write(text), *arguments)

    @contextmanager
    def start(self, text: str, *arguments: object) -> Iterator[subprocess.Popen]:
        """Run a pipeline file in another process, which takes Ctrl-C as from a terminal."""
        process = subprocess.Popen(
            [sys.executable, "-m", "pystream", "run", str(self.write(text)), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            start_new_session=True,
            # a shell's background job would hand down an ignored SIGINT
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project in an empty current folder, with the module ``steps`` beside its files."""
    (tmp_path / "steps.py").write_text(STEPS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYSTREAM_PROFILER_FOLDER", str(tmp_path / "profiles"))
    for variable in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(variable, raising=False)
    yield Project(tmp_path)
    sys.modules.pop("steps", None)
