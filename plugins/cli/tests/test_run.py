"""The command run: results, figures, failures, exit codes."""

from __future__ import annotations

import json
import logging
import os
import re

import pytest

CHAIN = """
[source]
use = "steps:numbers"
n = 20
[[stage]]
use = "steps:plus"
[[stage]]
use = "sample"
n = 2
"""


@pytest.mark.parametrize("executor", ["threads", "serial"])
def test_a_run_ends_with_tables_and_the_ledger(project, executor):
    """Stages with their figures, the bottleneck, throughput and the ledger, and code 0."""
    result = project.run(CHAIN, "--executor", executor)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split("  ")[0] == "Stage"
    assert "Service p50" in lines[0]
    assert re.search(r"^plus( \*)? +20 .* 20 +0 +20 +0$", result.stdout, re.MULTILINE)
    assert re.search(r"^sample( \*)? +20 .* 20 +10 +10 +0$", result.stdout, re.MULTILINE)
    assert re.search(r"^Throughput: [\d,.]+ items/s, latency p50 .+, p99 ", result.stdout, re.M)
    assert re.search(r"^\* Bottleneck: (plus|sample), busy \d+%", result.stdout, re.M)
    assert "Ledger: 20 admitted = 10 completed + 10 filtered" in lines
    assert lines[-1].startswith("Completed after ")
    assert f"({executor})" in lines[-1]


def test_without_profiler_the_figures_are_those_of_the_ledger(project):
    """No times are shown that nobody took, and nothing is recorded."""
    result = project.run(CHAIN, "--no-profile")
    assert "Service" not in result.stdout
    assert "Bottleneck" not in result.stdout
    assert re.search(r"^plus +20 +0 +20 +0$", result.stdout, re.MULTILINE)
    assert re.search(r"Completed after .*, [\d,.]+ items/s \(threads\)\.", result.stdout)
    assert not (project.folder / "profiles").exists()


@pytest.mark.parametrize("profile", ["--profile", "--no-profile"])
def test_where_nothing_came_through_no_rate_is_told(project, profile):
    """Of one item that failed at once none can be told."""
    text = '[source]\nuse = "steps:numbers"\n[[stage]]\nuse = "steps:boom"\nat = 0\n'
    result = project.run(text, profile)
    assert "Failed after " in result.stdout
    assert "items/s" not in result.stdout


def test_output_that_is_no_terminal_is_plain(project):
    """No escape sequences, no carriage returns, nothing on stderr."""
    result = project.run(CHAIN)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", result.output)
    assert result.stderr == ""


def test_limit_takes_that_many_items_and_drains(project):
    """An endless source ends after N items, all of which come through."""
    text = '[source]\nuse = "steps:endless"\n[[stage]]\nuse = "steps:plus"\n'
    result = project.run(text, "--limit", 50)
    assert result.exit_code == 0
    assert "Ledger: 50 admitted = 50 completed" in result.stdout
    assert "0 admitted = 0" in project.run(text, "--limit", 0).stdout


def test_json_is_one_object_and_nothing_else(project):
    """What stages print goes to stderr, so that programs can read stdout."""
    result = project.run(
        '[source]\nuse = "steps:numbers"\nn = 3\n[[stage]]\nuse = "steps:shout"\n', "--json"
    )
    found = json.loads(result.stdout)
    assert found["state"] == "completed"
    assert found["exit_code"] == 0
    assert found["statistics"]["completed"] == 3
    assert found["profile"]["stages"]["MainPipeline__shout"]["calls"] == 3
    assert found["failure"] is None
    assert found["duration"] > 0
    assert "item 2" in result.stderr


def test_a_failing_stage_is_told_once_and_gives_code_1(project):
    """One message with stage, item and cause; no traceback; figures all the same."""
    result = project.run('[source]\nuse = "steps:numbers"\n[[stage]]\nuse = "steps:boom"\n')
    assert result.exit_code == 1
    assert result.stderr.count("on item 3 (3)") == 1
    assert result.stderr.splitlines()[-1].startswith(
        "Error: stage 'MainPipeline__boom' raised on item 3 (3): ValueError: boom"
    )
    assert "Traceback" not in result.stderr
    assert "1 failed" in result.stdout
    assert "Failed after" in result.stdout


def test_debug_shows_the_traceback(project):
    """Before the command or behind it."""
    text = '[source]\nuse = "steps:numbers"\n[[stage]]\nuse = "steps:boom"\n'
    path = project.write(text)
    for arguments in (("run", path, "--debug"), ("--debug", "run", path)):
        result = project.invoke(*arguments)
        assert "Traceback" in result.stderr
        assert 'raise ValueError("boom")' in result.stderr


def test_a_failure_is_part_of_the_json(project):
    """Programs learn the stage, the item and the type."""
    result = project.run(
        '[source]\nuse = "steps:numbers"\n[[stage]]\nuse = "steps:boom"\n', "--json"
    )
    failure = json.loads(result.stdout)["failure"]
    assert result.exit_code == 1
    assert (failure["type"], failure["cause"]) == ("StageError", "ValueError")
    assert (failure["stage"], failure["seq"]) == ("MainPipeline__boom", 3)


@pytest.mark.parametrize("executor", ["threads", "serial"])
def test_a_failing_source_is_named_as_such(project, executor):
    """What the source raises is not blamed on a stage."""
    result = project.run('[source]\nuse = "steps:broken"\n', "--executor", executor)
    assert result.exit_code == 1
    assert "Error: the source failed: OSError: the cable is loose" in result.stderr
    assert "1 admitted = 1 completed" in result.stdout


def test_a_failing_cleanup_is_a_failure(project):
    """All items came through, but the work is not saved: code 1, with the reason."""
    result = project.run(
        '[source]\nuse = "steps:numbers"\n[[stage]]\nuse = "steps:FailsAtTheEnd"\n'
    )
    assert result.exit_code == 1
    assert "RuntimeError: the disk is full" in result.stderr.splitlines()[-1]


def test_skipped_failures_are_warnings(project):
    """Under another policy the run goes on, and what was lost is told."""
    result = project.run(
        '[source]\nuse = "steps:numbers"\n[[stage]]\nuse = "steps:boom"\non_error = "skip"\n'
    )
    assert result.exit_code == 0
    assert "warning: MainPipeline__boom: failed, skipped: 1 item" in result.stderr
    assert "10 admitted = 9 completed + 1 failed" in result.stdout


@pytest.mark.parametrize("executor", ["threads", "serial"])
def test_values_that_only_constructors_refuse_are_mistakes_of_the_file(project, executor):
    """All of them at once, with their places, and code 2."""
    result = project.run(
        '[source]\nuse = "steps:numbers"\n'
        '[[stage]]\nuse = "pace"\nrate = -1\n'
        '[[stage]]\nuse = "steps:Named"\n[stage.options]\nname = "bad"\n',
        "--executor",
        executor,
    )
    assert result.exit_code == 2
    assert "job.toml:3: stage[1] (pace): pace: rate must be" in result.stderr
    assert "job.toml:6: stage[2] (steps:Named): name must not be bad" in result.stderr
    assert result.stderr.splitlines()[-1] == (
        f"Error: 2 mistakes in {project.folder / 'job.toml'}; nothing was run"
    )
    assert result.stdout == ""


def test_a_bad_file_gives_code_2_and_its_mistakes_as_json(project):
    """Programs get the mistakes one by one."""
    result = project.run("[source]\nuse = 1\n[x]\n", "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == found["exit_code"] == 2
    assert found["state"] == "refused"
    assert [(each["key"], each["line"]) for each in found["failure"]["mistakes"]] == [
        ("source.use", 2),
        ("x", 3),
    ]


def test_an_unknown_executor_of_the_command_line_is_refused(project):
    """The mistake is named by its option, not by a key of the file."""
    result = project.run(CHAIN, "--executor", "serail")
    assert result.exit_code == 2
    assert "--executor: no installed plugin provides the executor 'serail'" in result.stderr


def test_options_of_the_files_executor_do_not_reach_another_one(project):
    """--executor replaces the executor together with its options."""
    result = project.run('[pipeline.options]\nname_prefix = "x"\n' + CHAIN, "--executor", "serial")
    assert result.exit_code == 0, result.output


def test_a_file_that_is_not_there_is_a_usage_error(project):
    """click says so, with code 2."""
    result = project.invoke("run", "nowhere.toml")
    assert result.exit_code == 2
    assert "nowhere.toml" in result.stderr


def test_the_log_is_left_as_it_was(project):
    """Neither handlers nor the level of the logger stay changed."""
    logger = logging.getLogger("PyStream")
    before = (list(logger.handlers), logger.level)
    project.run(CHAIN)
    assert (logger.handlers, logger.level) == before


@pytest.mark.parametrize("no_colour", [False, True])
def test_a_terminal_shows_progress_in_one_line(project, no_colour):
    """Rate, completed, in flight and losses while it runs; colours unless NO_COLOR is set."""
    pty = pytest.importorskip("pty")
    project.write(
        '[source]\nuse = "lines"\npath = "words.txt"\n'
        '[[stage]]\nuse = "pace"\nrate = 25\n[[stage]]\nuse = "log"\nlevel = "WARNING"\n'
    )
    (project.folder / "words.txt").write_text("word\n" * 10)
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    if no_colour:
        environment["NO_COLOR"] = "1"
    text = spawn(pty, ["run", "job.toml"], environment)
    assert re.search(r"\d\d:\d\d  [\d.]+/s  \d+ completed  \d+ in flight  0 lost", text)
    assert "10 admitted = 10 completed" in text
    assert bool(re.search(r"\x1b\[[\d;]*m", text)) is not no_colour


def spawn(pty, arguments, environment):
    """Run the tool on a terminal of its own and return what is written to it."""
    import subprocess
    import sys

    outer, inner = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "pystream", *arguments],
        stdin=inner,
        stdout=inner,
        stderr=inner,
        env=environment,
    ) as process:
        os.close(inner)
        pieces = []
        while True:
            try:
                piece = os.read(outer, 65536)
            except OSError:  # how Linux says that nobody writes any more
                break
            if not piece:
                break
            pieces.append(piece)
        assert process.wait() == 0
    os.close(outer)
    return b"".join(pieces).decode()


@pytest.mark.parametrize("executor", ["threads", "serial"])
def test_batching_stages_are_used_by_name(project, executor):
    """Lists of four, the last one shorter; then their items again."""
    batches = """
        [source]
        use = "steps:numbers"
        n = 10
        [[stage]]
        use = "batch"
        size = 4
        max_wait = 60
        [[stage]]
        use = "steps:shout"
        """
    result = project.run(batches, "--executor", executor)
    assert result.exit_code == 0, result.output
    said = [line for line in result.output.splitlines() if line.startswith("item ")]
    assert said == ["item [0, 1, 2, 3]", "item [4, 5, 6, 7]", "item [8, 9]"]
    assert "Ledger: 10 admitted + 3 spawned = 3 completed + 10 absorbed" in result.stdout
    result = project.run(f'{batches}[[stage]]\nuse = "unbatch"\n', "--executor", executor)
    assert "10 admitted + 13 spawned = 10 completed + 3 expanded + 10 absorbed" in result.stdout


@pytest.mark.parametrize(
    ("option", "message"),
    [("size = 0", "batch: size must be a whole number"), ("workers = 2\nsize = 4", "workers")],
)
def test_what_a_batch_refuses_is_a_message(project, option, message):
    """No traceback, and the code of a wrong file."""
    text = f'[source]\nuse = "steps:numbers"\n[[stage]]\nuse = "batch"\n{option}\n'
    result = project.run(text)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
