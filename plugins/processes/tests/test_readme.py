"""What the README shows works."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def test_the_examples_of_the_readme_run() -> None:
    """One after another, as they stand there."""
    pytest.importorskip("numpy")
    pytest.importorskip("pystream")
    examples = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(examples) == 3
    program = [sys.executable, "-W", "error", "-c", "\n".join(examples)]
    subprocess.run(program, check=True, timeout=15)


def test_the_plugin_is_light() -> None:
    """Looking at what is installed imports neither cloudpickle nor numpy nor a process."""
    code = (
        "import sys, pystream_processes.plugin as plugin; plugin.pystream_placements(); "
        "print([name for name in ('cloudpickle', 'numpy', 'multiprocessing', "
        "'pystream_processes._launcher') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=15, check=True
    )
    assert done.stdout == "[]\n"
