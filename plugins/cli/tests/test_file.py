"""Pipeline files: what they mean, and what is wrong with them."""

from __future__ import annotations

import dataclasses
import sys
import threading

import pytest
from pystream_cli._mistakes import BadFile, key_lines

from pystream_core import Retry

SOURCE = '[source]\nuse = "steps:numbers"\n'


def load(project, text):
    from pystream_cli._build import load

    return load(project.write(text))


def mistakes(project, text):
    """Every mistake as ``(line, key, message)``."""
    with pytest.raises(BadFile) as raised:
        load(project, text)
    return [(each.line, each.key, each.message) for each in raised.value.mistakes]


def only(project, text):
    (found,) = mistakes(project, text)
    return found


def options_of(job):
    return [entry.options for entry in job.pipeline._description.entries]


def names_of(job):
    return [entry.name for entry in job.pipeline._description.entries]


def test_every_option_of_add_reaches_the_pipeline(project):
    """A stage may have each option of Pipeline.add."""
    job = load(
        project,
        SOURCE
        + """
[[stage]]
use = "steps:plus"
name = "add"
workers = 2
ordered = false
capacity = 7
overflow = "drop_oldest"
max_age = 1.5
on_error = { retry = 3, backoff = 0.1, then = "skip" }
[[stage]]
use = "steps:plus"
on_error = "steps:replaced"
""",
    )
    first, second = options_of(job)
    assert (first.workers, first.ordered, first.capacity) == (2, False, 7)
    assert (first.overflow, first.max_age) == ("drop_oldest", 1.5)
    assert first.on_error == Retry(3, 0.1, "skip")
    assert second.on_error is sys.modules["steps"].replaced
    assert names_of(job) == ["add", "plus"]


def test_own_options_stand_beside_use_or_in_a_table_of_their_own(project):
    """A name that add() has too is the stage's own in [stage.options]."""
    job = load(
        project,
        SOURCE
        + """
[[stage]]
use = "steps:Named"
mode = "loud"
name = "speaker"
[stage.options]
name = "hello"
""",
    )
    assert names_of(job) == ["speaker"]
    assert list(job.pipeline.serialize().stream([1])) == [("hello", 1)]
    job.pipeline.cleanup()


def test_stages_without_a_name_are_called_by_what_they_use(project):
    """Names follow from use, numbered where they are taken."""
    job = load(
        project,
        SOURCE
        + '[[stage]]\nuse = "steps:plus"\n' * 2
        + '[[stage]]\nuse = "pace"\nname = "plus_3"\n'
        + '[[stage]]\nuse = "steps:plus"\n[[stage]]\nuse = "pystream-stages/pace"\n',
    )
    assert names_of(job) == ["plus", "plus_2", "plus_3", "plus_4", "pace"]


def test_here_is_the_folder_of_the_file(project, monkeypatch, tmp_path_factory):
    """{here} is filled in, other relative paths stay as they are, wherever it is run from."""
    path = project.write('[source]\nuse = "steps:remember"\npath = "{here}/x.mp4"\n')
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    from pystream_cli._build import load

    assert load(path).source == [f"{project.folder}/x.mp4"]
    project.write('[source]\nuse = "steps:remember"\npath = "x.mp4"\n')
    assert load(path).source == ["x.mp4"]


def test_here_is_filled_in_inside_lists_and_tables(project):
    """Texts at any depth know the folder."""
    from pystream_cli._file import _placed

    assert _placed({"a": ["{here}/b", 1], "c": {"d": "{here}"}}, "/x") == {
        "a": ["/x/b", 1],
        "c": {"d": "/x"},
    }


def test_an_iterable_is_a_source_too(project):
    """module:attr may name something that is there already."""
    assert load(project, '[source]\nuse = "steps:three"\n').source == [1, 2, 3]


def test_pipeline_options_reach_parallelize(project):
    """Timeouts and the executor's options are handed on."""
    job = load(
        project,
        "[pipeline]\nprofile = false\ndrain_timeout = 3\nstuck_timeout = 1.5\n"
        '[pipeline.options]\nname_prefix = "mine"\n' + SOURCE,
    )
    settings = job.pipeline._session.settings
    assert (settings.drain_timeout, settings.stuck_timeout) == (3.0, 1.5)
    assert job.pipeline._session.executor._name_prefix == "mine"
    assert not job.profiled


def test_a_drain_timeout_without_end_is_one_that_threads_can_wait(project):
    """TOML knows inf, and a wait on a lock does not."""
    job = load(project, "[pipeline]\ndrain_timeout = inf\n" + SOURCE)
    assert job.drain_timeout == threading.TIMEOUT_MAX


def test_options_of_an_executor_that_takes_any_are_none_of_the_pipelines(project, monkeypatch):
    """They would reach the pipeline instead of the executor."""
    from pystream_core import Executor, registry

    class Anything(Executor):
        def __init__(self, **options):
            pass

    described = registry().describe("executor", "serial")
    monkeypatch.setattr(
        type(registry()),
        "describe",
        lambda self, kind, name: dataclasses.replace(described, target=Anything),
    )
    text = '[pipeline]\nexecutor = "any"\noptions = {drain_timeout = 3}\n'
    _, key, message = only(project, text + SOURCE.replace("steps:numbers", "steps:three"))
    assert (key, message) == (
        "pipeline.options.drain_timeout",
        "is an option of the pipeline, not of its executor",
    )


def test_all_mistakes_are_reported_at_once_with_line_and_key(project):
    """Wrong keys, types, values and names of the whole file come in one error, in its order."""
    found = mistakes(
        project,
        """\
[pipelin]
[pipeline]
executor = "thraeds"
profile = "yes"
[source]
use = "lines"
pat = "x"
[[stage]]
name = "one"
use = "sample"
n = "4"
workers = "4"
on_error = { retry = 0, bakoff = 1 }
[[stage]]
name = "one"
use = "steps:pluss"
overflow = "drop_old"
[[stage]]
use = "pace"
rate = -1
[[stage]]
use = "acme.blur"
""",
    )
    assert [(line, key) for line, key, _ in found] == [
        (1, "pipelin"),
        (3, "pipeline.executor"),
        (4, "pipeline.profile"),
        (5, "source.path"),
        (7, "source.pat"),
        (11, "stage[1].n (one)"),
        (12, "stage[1].workers (one)"),
        (13, "stage[1].on_error.bakoff (one)"),
        (13, "stage[1].on_error.retry (one)"),
        (15, "stage[2].name (one)"),
        (16, "stage[2].use (one)"),
        (17, "stage[2].overflow (one)"),
        (18, "stage[3] (pace)"),
        (22, "stage[4].use (acme.blur)"),
    ]
    by_key = {key: message for _, key, message in found}
    assert by_key["pipelin"] == (
        "unknown key (did you mean 'pipeline'?); known: pipeline, source, stage"
    )
    assert "did you mean 'threads'?" in by_key["pipeline.executor"]
    assert by_key["pipeline.profile"] == 'must be true or false, not "yes"'
    assert "did you mean 'path'?" in by_key["source.pat"]
    assert by_key["stage[1].n (one)"] == 'must be a whole number, not "4"'
    assert by_key["stage[1].workers (one)"] == 'must be a whole number from 1, not "4"'
    assert "did you mean 'plus'?" in by_key["stage[2].use (one)"]
    assert "did you mean 'drop_oldest'?" in by_key["stage[2].overflow (one)"]
    assert "rate must be" in by_key["stage[3] (pace)"]


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ("", "source", "is missing"),
        ("source = 3", "source", "must be a table"),
        ("[source]\nn = 3", "source.use", "is missing"),
        ("[source]\nuse = 3", "source.use", "must be text, not 3"),
        ('[source]\nuse = "steps:refuses"', "source", "no such camera"),
        ('[source]\nuse = "sys:exit"', "source", "raised SystemExit"),
        ('[source]\nuse = "steps:broken"\nx = 1', "source.x", "it takes no options"),
        ('[source]\nuse = "steps:nothing"', "source.use", "an int, which cannot be iterated"),
        ('[source]\nuse = "steps:remember"', "source.path", "is missing"),
        ('[source]\nuse = "nowhere:x"', "source.use", "there is no module 'nowhere'"),
        ('[source]\nuse = "steps:"', "source.use", 'the form "module:attr"'),
        ('[source]\nuse = "video.raed"', "source.use", "video.raed"),
        (f'{SOURCE}[stage]\nuse = "pace"', "stage", "two brackets"),
        (f"stage = [1]\n{SOURCE}", "stage", "two brackets"),
        (f"{SOURCE}[[stage]]\nworkers = 2", "stage[1].use", "is missing"),
        (f'{SOURCE}[[stage]]\nuse = "steps:three"', "stage[1].use (steps:three)", "a list"),
        (f'{SOURCE}[[stage]]\nuse = "pace"\nname = 3', "stage[1].name (pace)", "must be text"),
        (f'{SOURCE}[[stage]]\nuse = "pace"\nname = "a__b"', "stage[1].name (a__b)", "underscore"),
        (f'{SOURCE}[[stage]]\nuse = "pace"\noptions = 3', "stage[1].options (pace)", "a table"),
        (f'{SOURCE}[[stage]]\nuse = "pace"\nmax_age = 0', "stage[1].max_age (pace)", "above 0"),
        (
            f'{SOURCE}[[stage]]\nuse = "pace"\nafter = "x"',
            "stage[1].after (pace)",
            "there is no stage 'x'",
        ),
        (
            f'{SOURCE}[[stage]]\nuse = "pace"\nplacement = "elsewhere"',
            "stage[1].placement (pace)",
            "no installed plugin provides the placement",
        ),
        (
            f'{SOURCE}[[stage]]\nuse = "pace"\non_error = "steps:three"',
            "stage[1].on_error (pace)",
            "not a function",
        ),
        (
            f'{SOURCE}[[stage]]\nuse = "pace"\non_error = {{ backoff = 1 }}',
            "stage[1].on_error.retry (pace)",
            "is missing",
        ),
        (
            f'{SOURCE}[[stage]]\nuse = "pace"\nrate = 1\noptions = {{ rate = 2 }}',
            "stage[1].rate (pace)",
            "given twice",
        ),
        (
            f'{SOURCE}[[stage]]\nuse = "pace"\n[stage.options]\nrat = 2',
            "stage[1].options.rat (pace)",
            "did you mean 'rate'?",
        ),
        (f'{SOURCE}[[stage]]\nuse = "tee"', "stage[1].to (tee)", "is missing"),
        (f"[pipeline]\ndrain_timeout = -1\n{SOURCE}", "pipeline.drain_timeout", "from 0"),
        (f'[pipeline]\nobservers = ["x"]\n{SOURCE}', "pipeline.observers", "'x'"),
        (f'[pipeline]\nprofiler = "x"\nprofile = true\n{SOURCE}', "pipeline.profiler", "'x'"),
        (f"[pipeline]\n[pipeline.options]\nx = 1\n{SOURCE}", "pipeline.options.x", "no such"),
        (
            f'[pipeline]\nexecutor = "serial"\noptions = {{ x = 1 }}\n{SOURCE}',
            "pipeline.options",
            "takes no options",
        ),
        (f'[pipeline]\nplacement = "x"\n{SOURCE}', "pipeline.placement", "'x'"),
        (f"[pipeline]\nplacement = {{ x = 1 }}\n{SOURCE}", "pipeline.placement", 'use = "process"'),
        (
            f'{SOURCE}[[stage]]\nuse = "pace"\nplacement = {{ timeout = 1 }}',
            "stage[1].placement (pace)",
            'use = "process"',
        ),
        (
            f'{SOURCE}[[stage]]\nuse = "pace"\nplacement = {{ use = "process", timeuot = 1 }}',
            "stage[1].placement.timeuot (pace)",
            "did you mean 'timeout'?",
        ),
        (
            f'{SOURCE}[[stage]]\nuse = "pace"\nplacement = {{ use = "process", timeout = -1 }}',
            "stage[1].placement (pace)",
            "timeout must be seconds above 0",
        ),
        (
            f'{SOURCE}[[stage]]\nuse = "pace"\nplacement = {{ use = "elsewhere", x = 1 }}',
            "stage[1].placement (pace)",
            "no installed plugin provides the placement",
        ),
    ],
)
def test_a_mistake_is_named_with_its_key_and_what_is_right(project, text, key, message):
    """One mistake at a time, each with its key and what to do."""
    _, found, said = only(project, text)
    assert found == key
    assert message in said


@pytest.mark.parametrize("use", ["steps:plus", "pace", "steps:FailsAtTheEnd", "steps:ready_made"])
@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("worker = 2", "workers"),
        ('aftr = "a"', "after"),
        ("maxage = 1", "max_age"),
        ('nam = "x"', "name"),
    ],
)
def test_a_misspelt_option_of_every_stage_is_told_from_one_of_its_own(project, use, line, meant):
    """Most options of a stage stand beside those of ``add``, so these are near misses, too."""
    _, key, said = only(project, f'{SOURCE}[[stage]]\nuse = "{use}"\n{line}')
    assert key == f"stage[1].{line.split()[0]} ({use})"
    assert f"'{meant}'" in said.partition("did you mean ")[2].partition("?")[0]


def test_what_stands_in_the_table_of_a_stages_own_options_is_none_of_every_stage(project):
    """There the name that is near would be as wrong."""
    _, key, said = only(project, f'{SOURCE}[[stage]]\nuse = "pace"\n[stage.options]\nworker = 2')
    assert key == "stage[1].options.worker (pace)"
    assert "workers" not in said


def test_broken_toml_is_told_with_line_and_column(project):
    """A syntax error names file, line and column."""
    with pytest.raises(BadFile, match=r"job\.toml:2:7: no TOML: ") as raised:
        load(project, "[source]\nuse = \n")
    assert len(raised.value.mistakes) == 1


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[source]\nuse = lines\n", "text stands in quotes"),
        ("[pipeline]\nprofile = True\n", "true and false"),
        ('[source]\nuse = "a"\nuse = "b"\n', "given twice"),
    ],
)
def test_common_slips_in_toml_are_told_with_what_is_right(project, text, hint):
    """The parser's few words alone do not say what to do."""
    with pytest.raises(BadFile, match=hint):
        load(project, text)


def test_a_file_that_is_no_text_is_one_clear_mistake(project):
    """Bytes that are not UTF-8 are refused as such."""
    path = project.write("")
    path.write_bytes(b"\xff\xfe\x00")
    from pystream_cli._build import load

    with pytest.raises(BadFile, match="not UTF-8"):
        load(path)


def test_nobody_who_did_not_ask_for_a_profiler_is_refused_for_lack_of_one(project, monkeypatch):
    """Without the profiler the run is only noted to have no profile."""
    import pystream_cli._build as build

    from pystream_core import Registry

    monkeypatch.setenv("PYSTREAM_DISABLE_PLUGINS", "pystream-sqlite")
    fresh = Registry()
    monkeypatch.setattr(build, "registry", lambda: fresh)
    monkeypatch.setattr("pystream_core._registry.registry", lambda: fresh)
    job = load(project, SOURCE)
    assert not job.profiled
    assert "no installed plugin provides" in job.notes[0]
    assert only(project, "[pipeline]\nprofile = true\n" + SOURCE)[1] == "pipeline.profiler"


def test_lines_of_keys_are_found_past_long_texts_and_sub_tables():
    """Lines inside texts of three quotes are no keys."""
    lines = key_lines(
        'a = """\n[x]\nb = 1\n"""\n[t]\nc.d = 1 # x = 2\n[[s]]\n[[s]]\n[s.o]\ne = 1\n# f = 1\n'
    )
    assert lines == {
        ("a",): 1,
        ("t",): 5,
        ("t", "c", "d"): 6,
        ("s",): 7,
        ("s", 1): 7,
        ("s", 2): 8,
        ("s", 2, "o"): 9,
        ("s", 2, "o", "e"): 10,
    }
