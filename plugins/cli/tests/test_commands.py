"""The other commands: plugins, inspect, profile, and the tool itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata

import pytest
from pystream_cli import _listing

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CHAIN = '[source]\nuse = "steps:numbers"\n[[stage]]\nuse = "steps:plus"\n'


def test_help_names_every_command(project):
    """One line for each, none cut off."""
    result = project.invoke("--help")
    assert result.exit_code == 0
    for name in ("run", "plugins", "inspect", "profile"):
        assert f"\n  {name} " in result.stdout
    assert "..." not in result.stdout.partition("Commands:")[2]


def test_version_is_that_of_the_distribution(project):
    """The number in the code is the one that is installed."""
    assert metadata.version("pystream-cli") in project.invoke("--version").stdout


def test_a_wrong_command_is_guessed(project):
    """The nearest one is named, with code 2."""
    result = project.invoke("rnu")
    assert result.exit_code == 2
    assert "there is no command 'rnu' (did you mean 'run'?)" in result.stderr


def test_help_imports_nothing_heavy():
    """rich, the registry's scan and the database wait until they are needed."""
    code = (
        "import sys\n"
        "before = set(sys.modules)\n"  # tracers and site files import things, too
        "from pystream_cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'rich', 'sqlite3', 'pystream_sqlite', 'importlib_metadata', 'numpy',"
        " 'pystream_core'} & (set(sys.modules) - before)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_plugins_lists_what_is_installed(project):
    """Plugins with their state, and everything that they provide."""
    result = project.invoke("plugins")
    assert result.exit_code == 0
    for text in ("pystream-threads/threads", "pystream-core/serial", "pystream-stages/pace"):
        assert text in result.stdout
    found = json.loads(project.invoke("plugins", "--json").stdout)
    assert "threads" in {each["name"] for each in found["executors"]}
    assert "loaded" in {each["state"] for each in found["plugins"]}
    assert "lines" in {each["name"] for each in found["sources"]}


def test_plugins_tells_what_stages_do_without_importing_them(project):
    """The first line of each docstring is read from the source, a package's code never runs."""
    code = (
        "import sys\n"
        "from pystream_cli import main\n"
        "try:\n    main(['plugins'])\nexcept SystemExit: pass\n"
        "print(sorted({'pystream_stages', 'pystream_video', 'numpy'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "Pass items on, no faster than `rate` items per second." in done.stdout
    found = json.loads(project.invoke("plugins", "--json").stdout)
    assert all(each["summary"] for each in [*found["stages"], *found["sources"]])


@pytest.mark.parametrize(
    "value",
    ["steps:here_is", "steps:nothing_there", "nowhere:x", "steps.deeper:x", "sys:exit", "bad:x"],
)
def test_what_has_no_docstring_in_its_source_has_no_summary(project, monkeypatch, value):
    """Whatever an entry point names, the listing goes on."""
    (project.folder / "bad.py").write_text("def (")
    monkeypatch.syspath_prepend(project.folder)
    assert _listing._first_line(value) == ""
    assert _listing._first_line("steps:numbers") == "The numbers from 0."


def test_a_coroutine_stage_has_a_summary_as_any_other(tmp_path, monkeypatch):
    """Its docstring is read like that of an ordinary function."""
    (tmp_path / "fetching.py").write_text('async def fetch(item):\n    """Fetch it."""\n')
    monkeypatch.syspath_prepend(tmp_path)
    assert _listing._first_line("fetching:fetch") == "Fetch it."
    assert "steps" not in sys.modules


def test_plugins_warns_about_distributions_that_get_in_the_way(project, monkeypatch):
    """pystream-pipeline owns the same import name: say so, and what to do."""
    installed = {"pystream-pipeline": "0.2.0"}

    def version(name):
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(metadata, "version", version)
    assert list(_listing.others()) == ["pystream-pipeline"]
    result = project.invoke("plugins")
    assert "warning: the distribution pystream-pipeline 0.2.0 is installed" in result.stderr
    assert "pip uninstall pystream-pipeline" in result.stderr


@pytest.mark.parametrize(
    ("name", "option", "meaning"),
    [
        ("pace", "rate", "items per second"),
        ("lines", "path", "the file; it must exist."),
        ("threads", "name_prefix", "how the names of its threads begin."),
        ("pystream-stages/sample", "offset", "how many items to filter"),
    ],
)
def test_inspect_shows_options_with_types_defaults_and_docs(project, name, option, meaning):
    """From the signature and the docstring."""
    text = project.invoke("inspect", name).stdout
    assert meaning in text
    assert "In a pipeline file:" in text
    found = json.loads(project.invoke("inspect", name, "--json").stdout)
    (one,) = [each for each in found["options"] if each["name"] == option]
    assert one["doc"].startswith(meaning)
    assert one["type"]


def test_examples_of_everything_installed_are_valid_files(project):
    """Each snippet is TOML, also with its comments taken away."""
    found = json.loads(project.invoke("plugins", "--json").stdout)
    for kind in ("stages", "sources", "executors", "observers"):
        for each in found[kind]:
            one = _listing.inspect(each["identity"], kind[:-1])
            tomllib.loads(one.example)
            tomllib.loads(one.example.replace("\n# ", "\n").replace("…", '"x"').replace('""', '"'))


def test_own_options_that_clash_are_shown_in_their_table():
    """jsonl's on_error is its own; a stage's would be add()'s."""
    from pystream_cli._options import Option

    options = [Option(name="on_error", default="stop", type="str"), Option(name="x", default=1)]
    assert _listing.example("source", "s", options).splitlines() == [
        "[source]",
        'use = "s"',
        '# on_error = "stop"',
        "# x = 1",
    ]
    assert _listing.example("stage", "s", options).splitlines() == [
        "[[stage]]",
        'use = "s"',
        "# x = 1",
        "",
        "[stage.options]",
        '# on_error = "stop"',
    ]


@pytest.mark.parametrize("kind", [(), ("--kind", "stage")])
def test_inspect_of_something_unknown_guesses(project, kind):
    """One message with the nearest name, no traceback, and code 2 as for any wrong argument."""
    result = project.invoke("inspect", "sampel", *kind)
    assert result.exit_code == 2
    assert "did you mean 'sample'" in result.stderr
    assert "Traceback" not in result.stderr


def test_inspect_of_a_module_says_that_it_knows_registered_names(project):
    """A pipeline file may say module:attr, this command may not."""
    assert "not module:attr" in project.invoke("inspect", "steps:slow").stderr


def test_inspect_of_something_that_is_missing_says_so(project):
    """In words, and in the JSON."""
    result = project.invoke("inspect", "elsewhere", "--json")
    assert "'elsewhere'" in result.stderr
    assert json.loads(result.stdout)["failure"]["type"] == "PluginNotFound"


def test_profile_lists_runs_and_shows_one(project):
    """Newest first; by the beginning of the id, or as latest."""
    assert "No runs are recorded yet" in project.invoke("profile").stdout
    assert project.invoke("profile", "latest").exit_code == 2
    project.run(CHAIN, "--profile")
    project.run(CHAIN, "--profile", "--executor", "serial")
    runs = json.loads(project.invoke("profile", "--json").stdout)["runs"]
    assert [run["executor"] for run in runs] == ["serial", "threads"]
    assert runs[1]["id"][:8] in project.invoke("profile").stdout
    shown = project.invoke("profile", runs[1]["id"][:8]).stdout
    assert f"Run {runs[1]['id']}" in shown
    assert "plus *" in shown
    assert "Throughput: " in shown
    latest = json.loads(project.invoke("profile", "latest", "--json").stdout)
    assert latest["run"]["id"] == runs[0]["id"]
    assert latest["profile"]["stages"]["MainPipeline__plus"]["calls"] == 10


def test_profile_of_an_unknown_run_names_the_known_ones(project):
    """With code 2."""
    project.run(CHAIN, "--profile")
    result = project.invoke("profile", "zzz")
    assert result.exit_code == 2
    assert "there are: " in result.stderr


def test_a_misspelt_latest_is_guessed(project):
    """It stands among the ids."""
    project.run(CHAIN, "--profile")
    assert "did you mean 'latest'?" in project.invoke("profile", "latset").stderr


def test_profile_reads_another_folder(project):
    """--folder says where; it must be there."""
    assert project.invoke("profile", "--folder", project.folder).exit_code == 0
    assert project.invoke("profile", "--folder", "nowhere").exit_code == 2


def test_inspect_shows_prose_for_people(project):
    """Without the marks of docstrings, and with paragraphs that the terminal breaks."""
    text = project.invoke("inspect", "video.read").stdout
    assert "``" not in text
    assert ":class:" not in text
    assert _listing._flowing("One\ntwo.\n\n- a\n- b\n\nx\n  y") == "One two.\n\n- a\n- b\n\nx\n  y"


def test_inspect_of_the_profiler_tells_users_what_it_does(project):
    """Where the history lies and how long it grows, rather than how it is made."""
    text = " ".join(project.invoke("inspect", "sqlite").stdout.split())
    assert "PYSTREAM_PROFILER_FOLDER" in text
    assert "20 runs and 100,000 items" in text
    assert "collect" not in text


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a disk that is always full")
@pytest.mark.parametrize("arguments", [("plugins",), ("plugins", "--json")])
def test_output_that_cannot_be_written_is_one_message(arguments):
    """A full disk is no traceback."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pystream", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr == "Error: the output cannot be written: No space left on device\n"


@pytest.mark.parametrize("arguments", ["plugins", "plugins --json", "inspect nope", "--help"])
def test_a_reader_who_leaves_is_no_traceback(arguments):
    """As with ``| head``: also when nothing is read at all, and with closed streams."""
    tool = f"{sys.executable} -m pystream {arguments}"
    for command in (f"{tool} | true", f"{tool} >&-", f"{tool} >&- 2>&-"):
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr
        assert "Exception" not in done.stderr


def test_letters_that_the_terminal_lacks_are_written_in_others(project):
    """µ and … have plain forms; anything else is a question mark."""
    (project.folder / "names.py").write_text(
        "def source():\n    raise OSError('10 µm… über')\n    yield\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pystream", "run", project.write('[source]\nuse = "names:source"')],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "koi8-r"},
    )
    assert "OSError: 10 um... ?ber" in done.stderr


def test_python_m_pystream_is_the_same_tool():
    """For those whose scripts folder is not on the path."""
    done = subprocess.run(
        [sys.executable, "-m", "pystream", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("pystream, version ")
