"""The README's Python runs, and prints what its comments say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_runs_and_prints_what_its_comments_say(number, capsys):
    """Every block of the page, each on its own."""
    block = BLOCKS[number]
    exec(compile(block, f"README.md, block {number}", "exec"), {"__name__": "readme"})
    said = re.findall(r"^(?:.*print\(.*\)  )?# (.+)$", block, re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == said


def test_every_stage_is_in_the_table():
    """One line for each of the entry points."""
    rows = re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)
    project = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    entries = re.findall(r'^(\w+) = "pystream_stages\.', project, re.MULTILINE)
    assert sorted(rows) == sorted(entries)
