"""The original PyStream, in an environment of its own, since it owns the same import name."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

from children import Child

_WANTED = "pystream-pipeline==0.2.0"
_NEEDS = ("pandas", "numpy")  # current ones, whatever it pins
_FOLDER = Path(__file__).parent / ".original"
_PYTHON = _FOLDER / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def original() -> Child:
    """A process with the original PyStream that makes the measurements of ``documented``.

    Raises:
        ImportError: it cannot be installed.
    """
    return Child("documented", interpreter())


def interpreter() -> str:
    """The Python of its environment, which is made on first use.

    Raises:
        ImportError: it cannot be installed.
    """
    failure = _install()
    if failure:
        raise ImportError(failure)
    return str(_PYTHON)


@functools.cache
def _install() -> str:
    """Why it is not installed; empty when it is."""
    if _imports():
        return ""
    pip = [str(_PYTHON), "-m", "pip", "install", "-q"]
    steps = (
        [sys.executable, "-m", "venv", "--clear", str(_FOLDER)],
        [*pip, *_NEEDS],
        [*pip, "--no-deps", _WANTED],
    )
    print(f"installing {_WANTED} in {_FOLDER}", file=sys.stderr)
    for step in steps:
        if subprocess.run(step, stdout=subprocess.DEVNULL).returncode:
            return f"{_WANTED}: {' '.join(step[1:])} failed"
    return "" if _imports() else f"{_WANTED} cannot be imported"


def _imports() -> bool:
    command = [str(_PYTHON), "-c", "import pystream"]
    return _PYTHON.exists() and not subprocess.run(command, stderr=subprocess.DEVNULL).returncode
