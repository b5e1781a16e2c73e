"""Branches in pipeline files, and ``pystream graph``."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from xml.etree import ElementTree as ET

import pytest
from pystream_cli._console import print_tree
from rich.console import Console

from pystream_core import Pipeline

BRANCHES = """
    [source]
    use = "steps:numbers"
    n = 4
    [[stage]]
    use = "steps:shout"
    workers = 2
    [[stage]]
    name = "one"
    use = "steps:plus"
    [[stage]]
    name = "ten"
    use = "steps:plus"
    much = 10
    after = "shout"
    [[stage]]
    name = "both"
    use = "steps:shout"
    after = ["ten", "one"]
"""
LEAVES = BRANCHES + '[[stage]]\nname = "side"\nuse = "steps:shout"\nafter = "one"\n'
TREE = """\
input
shout [workers=2]
├─ one
│  ↳ both
├─ ten
│  ↳ both
both ← (ten, one)
output
"""


def messages(result):
    """Key and message of every mistake; nothing was run."""
    assert result.exit_code == 2, result.output
    *lines, last = result.stderr.splitlines()
    assert last.endswith("; nothing was run")
    return dict(line.split(": ", 2)[1:] for line in lines)


# -- running -------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", ["serial", "threads"])
def test_a_stage_after_several_gets_their_outputs_in_the_order_named(project, executor) -> None:
    """A text names one stage, a list several."""
    result = project.run(BRANCHES, "--executor", executor, "--no-profile")
    assert result.exit_code == 0, result.output
    for number in range(4):
        assert f"item ({number + 10}, {number + 1})" in result.stdout
    assert "Ledger: 4 admitted = 4 completed" in result.stdout
    rows = [line.split() for line in result.stdout.splitlines()]
    for name in ("shout", "one", "ten", "both"):
        assert [name, "4", "4", "0"] in rows


def test_several_last_stages_end_each_item_once(project) -> None:
    """The table counts calls of each stage, the ledger items."""
    result = project.run(LEAVES)
    assert result.exit_code == 0, result.output
    assert "Ledger: 4 admitted = 4 completed" in result.stdout
    assert [line.split()[0] for line in result.stdout.splitlines() if " 4 " in line][:5] == [
        "shout", "one", "ten", "both", "side"
    ]  # fmt: skip


def test_a_stage_may_follow_one_that_is_named_by_what_it_uses(project) -> None:
    """As the table of the run names it."""
    text = """
        [source]
        use = "steps:three"
        [[stage]]
        use = "steps:plus"
        [[stage]]
        use = "steps:plus"
        [[stage]]
        use = "steps:shout"
        after = ["plus_2", "plus"]
    """
    result = project.run(text, "--no-profile")
    assert result.exit_code == 0, result.output
    assert "item (3, 2)" in result.stdout


# -- mistakes ------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["run", "graph"])
def test_all_mistakes_of_after_are_told_at_once(project, command: str) -> None:
    """With the line, the key and what was meant, beside mistakes of other kinds."""
    text = """
        [pipeline]
        executor = "treads"
        [source]
        use = "steps:numbers"
        m = 3
        [[stage]]
        use = "steps:plus"
        [[stage]]
        name = "two"
        use = "steps:pluss"
        after = "plu"
        [[stage]]
        name = "three"
        use = "steps:plus"
        after = ["two", "two"]
        [[stage]]
        name = "four"
        use = "steps:plus"
        after = 3
        [[stage]]
        name = "five"
        use = "steps:plus"
        after = ["two", 5]
        [[stage]]
        name = "six"
        use = "steps:plus"
        after = []
    """
    found = messages(project.invoke(command, project.write(text)))
    wanted = "must be the name of a stage, or a list of at least one, not"
    assert found["stage[2].after (two)"].startswith(
        "there is no stage 'plu' (did you mean 'plus'?); stages: 'plus', 'two', "
    )
    assert found["stage[3].after (three)"] == "names 'two' twice"
    assert found["stage[4].after (four)"] == f"{wanted} 3"
    assert found["stage[5].after (five)"] == wanted + ' ["two", 5]'
    assert found["stage[6].after (six)"] == f"{wanted} []"
    assert {"pipeline.executor", "source.m", "stage[2].use (two)"} <= found.keys()
    assert len(found) == 8


@pytest.mark.parametrize("after", ["MainPipeline__plus", "MainPipeline__plus__x", "plus__x"])
def test_a_full_path_as_errors_show_it_is_told_with_the_name_that_is_meant(project, after) -> None:
    """Tables and messages name stages by their paths, ``after`` by their names."""
    text = f"""
        [source]
        use = "steps:numbers"
        [[stage]]
        use = "steps:plus"
        [[stage]]
        use = "steps:shout"
        after = "{after}"
    """
    found = messages(project.invoke("graph", project.write(text)))
    assert found["stage[2].after (steps:shout)"].startswith(
        f"there is no stage '{after}' (did you mean 'plus'?); stages: 'plus', "
    )


@pytest.mark.parametrize("command", ["run", "graph"])
def test_a_circle_is_told_at_a_stage_that_makes_it(project, command: str) -> None:
    """In the words of the core, with the key."""
    text = """
        [source]
        use = "steps:three"
        [[stage]]
        name = "a"
        use = "steps:plus"
        [[stage]]
        name = "b"
        use = "steps:plus"
        after = ["a", "c"]
        [[stage]]
        name = "c"
        use = "steps:plus"
    """
    found = messages(project.invoke(command, project.write(text)))
    assert list(found) == ["stage[2].after (b)"]
    assert "in a circle" in found["stage[2].after (b)"]


@pytest.mark.parametrize("command", ["run", "graph"])
def test_a_generator_beside_a_branch_is_told_at_its_own_key(project, command: str) -> None:
    """It is the generator that stands in the wrong place."""
    text = """
        [source]
        use = "steps:three"
        [[stage]]
        use = "steps:plus"
        [[stage]]
        name = "many"
        use = "steps:numbers"
        [[stage]]
        name = "side"
        use = "steps:plus"
        after = "plus"
    """
    found = messages(project.invoke(command, project.write(text)))
    assert list(found) == ["stage[2] (many)"]
    assert "it cannot stand beside other branches" in found["stage[2] (many)"]


def test_what_is_left_out_of_a_file_is_not_missed_as_well(project) -> None:
    """A stage without use, or with a bad name, is one mistake, not one for each follower."""
    text = """
        [source]
        use = "steps:three"
        [[stage]]
        use = "steps:plus"
        [[stage]]
        name = "lost"
        [[stage]]
        name = "a__b"
        use = "steps:plus"
        [[stage]]
        name = "last"
        use = "steps:plus"
        after = ["lost", "a__b"]
    """
    found = messages(project.run(text))
    assert sorted(found) == ["stage[2].use (lost)", "stage[3].name (a__b)"]


# -- drawing -------------------------------------------------------------------------------


def test_graph_prints_the_tree(project) -> None:
    """Plain where nobody looks at it, and nothing else on stdout."""
    result = project.invoke("graph", project.write(BRANCHES))
    assert (result.exit_code, result.stdout, result.stderr) == (0, TREE, "")


def test_graph_neither_opens_the_source_nor_makes_a_stage(project) -> None:
    """Names are looked up; what a constructor refuses is not its business."""
    text = """
        [source]
        use = "steps:refuses"
        [[stage]]
        use = "steps:Named"
        [stage.options]
        name = "bad"
    """
    result = project.invoke("graph", project.write(text))
    assert (result.exit_code, result.stdout) == (0, "input\nNamed\noutput\n")
    assert project.run(text).exit_code == 2
    assert not (project.folder / "profiles").exists()


def test_graph_shows_what_would_run(project) -> None:
    """A serial pipeline has no workers."""
    text = '[pipeline]\nexecutor = "serial"\n' + BRANCHES
    result = project.invoke("graph", project.write(text))
    assert result.stdout == TREE.replace(" [workers=2]", "")


@pytest.mark.parametrize(
    ("option", "begins"),
    [("--mermaid", "flowchart TD\n"), ("--dot", "digraph pipeline {\n"), ("--svg", "<svg ")],
)
def test_graph_prints_other_formats_and_nothing_else(project, option: str, begins: str) -> None:
    """Also when a module prints while it is imported."""
    (project.folder / "loud.py").write_text("print('imported')\ndef step(item): return item\n")
    text = BRANCHES.replace('name = "both"\n    use = "steps:shout"', 'use = "loud:step"')
    result = project.invoke("graph", project.write(text), option)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(begins)
    assert result.stdout.endswith("\n")
    assert "imported" not in result.stdout
    assert all(name in result.stdout for name in ("input", "shout", "ten", "step", "output"))
    if option == "--svg":
        ET.fromstring(result.stdout)


@pytest.mark.parametrize(
    "options", [("--svg", "--dot"), ("--dot", "--svg"), ("--mermaid", "--dot", "--svg")]
)
def test_graph_prints_one_format_and_refuses_several(project, options: tuple[str, ...]) -> None:
    """One of them in silence would end in a file of the wrong kind."""
    result = project.invoke("graph", project.write(BRANCHES), *options)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert all(option in result.stderr for option in options)
    assert "choose one" in result.stderr


def test_graph_takes_the_same_format_twice(project) -> None:
    """As other flags."""
    path = project.write(BRANCHES)
    twice, once = (project.invoke("graph", path, *["--dot"] * times) for times in (2, 1))
    assert (twice.exit_code, twice.stdout) == (0, once.stdout)


@pytest.mark.parametrize("width", [80, 40])
def test_the_tree_fits_a_terminal(width: int) -> None:
    """Options that have no room beside a name stand below it; nothing is cut off."""
    pipeline = Pipeline()
    pipeline.add(abs, "first", workers=2, overflow="drop_oldest", max_age=0.25)
    pipeline.add(abs, "second")
    screen = Console(file=io.StringIO(), force_terminal=True, width=width)
    print_tree(screen, pipeline.graph().text)
    lines = re.sub(r"\x1b\[[\d;]*m", "", screen.file.getvalue()).splitlines()
    assert max(map(len, lines)) <= width
    assert [line for line in lines if line.strip()[:1] != "["] == [
        "input", *(["first"] if width == 40 else [lines[1]]), "second", "output"
    ]  # fmt: skip
    words = " ".join(lines)
    assert all(each in words for each in ("workers=2", "overflow=drop_oldest", "max_age=0.25"))


def test_the_tree_is_drawn_with_what_the_encoding_has(project) -> None:
    """No question marks where lines should be."""
    done = subprocess.run(
        [sys.executable, "-m", "pystream", "graph", str(project.write(BRANCHES))],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=15,
    )
    assert done.returncode == 0, done.stderr
    assert "|- one\n|  > both\n" in done.stdout
    assert "both <- (ten, one)" in done.stdout


def test_graph_needs_a_file_that_is_there(project) -> None:
    """Exit code 2, as for every wrong argument."""
    assert project.invoke("graph", "nothing.toml").exit_code == 2


def test_inspect_names_after_among_what_every_stage_takes(project) -> None:
    """As the file takes it."""
    assert "after" in project.invoke("inspect", "pace").stdout
