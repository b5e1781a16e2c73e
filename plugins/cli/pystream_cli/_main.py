"""The commands of ``pystream``.

What is slow to import (rich, the database, the plugins) is imported by the commands that need
it, so that ``pystream --help`` answers at once.
"""

from __future__ import annotations

import codecs
import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from . import __version__

if TYPE_CHECKING:
    from rich.console import Console

    from ._build import Job
    from ._run import Outcome

_INTERRUPTED = 130
_NARROWEST = 72  # columns: narrower tables would lose figures, so the terminal breaks their lines
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
_PLAIN = {"µ": "u", "…": "..."}

F = TypeVar("F", bound=Callable[..., Any])


class Refused(click.ClickException):
    """An error that is shown as one message."""


class Misdescribed(Refused):
    """What the user wrote is wrong, so nothing was run."""

    exit_code = 2

    def __init__(self, message: str, lines: Sequence[str] = ()) -> None:
        super().__init__(message)
        self._lines = lines

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the mistakes, each on its line, and then what to do."""
        for line in self._lines:
            click.echo(line, err=True, file=file)
        super().show(file)


class Commands(click.Group):
    """Shows every error of PyStream as one message, and guesses what a wrong command meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command of a name; one that nearly is one is refused with what was meant."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            from pystream_core import near_miss

            ctx.fail(
                f"there is no command {name!r}{near_miss(name, self.commands)}. "
                f"Commands: {', '.join(self.commands)}"
            )
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(_INTERRUPTED)
        except Exception as error:
            from pystream_core import PyStreamError

            if not isinstance(error, PyStreamError):
                raise
            raise _refused(error) from error


def _debug_option(command: F) -> F:
    """``--debug``, before the command or behind it."""

    def remember(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            ctx.find_root().obj = True

    return click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        callback=remember,
        help="Show tracebacks of errors.",
    )(command)


def _json_option(command: F) -> F:
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object, and nothing else."
    )(command)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="`pystream COMMAND --help` says more about each of them.",
)
@click.version_option(__version__, "-V", "--version", prog_name="pystream")
@_debug_option
def cli() -> None:
    """Run real-time stage pipelines, and look at what is installed and recorded."""


@cli.command()
@click.argument(
    "file", metavar="FILE.toml", type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--executor", metavar="NAME", help='Run with this executor ("threads", "serial", …).')
@click.option(
    "--profile/--no-profile",
    default=None,
    help="Measure the stages, whatever the file says.  [default: as the file says, else yes]",
)
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(min=0),
    help="Take only the first N items of the source.",
)
@_json_option
@_debug_option
@click.pass_context
def run(
    ctx: click.Context,
    file: Path,
    executor: str | None,
    profile: bool | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Run the pipeline that FILE.toml describes.

    \b
    [pipeline]                    # may be left out
    executor = "threads"          # or "serial", …
    profile = true
    drain_timeout = 10.0          # also: stuck_timeout, placement, profiler,
                                  # observers = [], options = {} of the executor
    \b
    [source]
    use = "lines"                 # a registered name, or "module:attr"
    path = "{here}/words.txt"     # {here} is the folder of this file
    \b
    [[stage]]                     # one for each stage, in their order
    use = "my_stages:Count"       # modules are looked for in that folder too
    name = "count"
    workers = 2                   # also: ordered, capacity, overflow, on_error,
                                  # max_age, placement = "process", or with
                                  # options: { use = "process", timeout = 2.0 }
    after = "other"               # the stage, or list of stages, that it follows;
                                  # left out: the one before
    letters = "abc"               # an option of the stage itself
    options = { name = "x" }      # the same, for names that are taken above
    \b
    on_error = "stop"             # or "skip", or "module:attr", or
    on_error = { retry = 3, backoff = 0.1, then = "skip" }

    Other relative paths are relative to the current folder.

    Ctrl-C and SIGTERM stop the source and let finish what is in flight; a second one aborts.

    Exit codes: 0 completed, 1 failed, 2 wrong file or options (nothing was run), 130 after
    Ctrl-C, 143 after SIGTERM.
    """
    with _reported_as_json(as_json, str(file)):
        ctx.exit(_run(file, executor, profile, limit, as_json))


@cli.command()
@click.argument(
    "file", metavar="FILE.toml", type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--mermaid", is_flag=True, help="Print a Mermaid flowchart.")
@click.option("--dot", is_flag=True, help="Print a digraph for Graphviz.")
@click.option("--svg", is_flag=True, help="Print a picture, as SVG.")
@_debug_option
def graph(file: Path, **formats: bool) -> None:
    """Draw the stages that FILE.toml describes, as a tree.

    Nothing is run: the names in the file are looked up, and everything that is wrong with it is
    told as by `pystream run`. Modules that it names are imported.

    Exit codes: 0 drawn, 2 wrong file or options.
    """
    asked = [name for name, given in formats.items() if given]
    if len(asked) > 1:
        given = " and ".join(f"--{name}" for name in asked)
        raise click.UsageError(f"{given} cannot be printed at once: choose one")
    from ._build import describe

    with _log(), redirect_stdout(sys.stderr):  # what modules print while they are imported
        drawing = describe(file).graph()
    if asked:
        click.echo(getattr(drawing, asked[0])(), nl=False)
        return
    from ._console import print_tree

    print_tree(_stdout(), drawing.text)


@cli.command()
@_json_option
@_debug_option
def plugins(as_json: bool) -> None:
    """List the installed plugins, and what they provide."""
    from pystream_core import available

    from ._listing import others, print_plugins, summarized

    with _log(), _reported_as_json(as_json):
        found, beside = summarized(available()), others()
        if as_json:
            from ._json import available_json, print_json

            print_json(available_json(found, beside))
        else:
            print_plugins(_stdout(width=200), found)
    for warning in beside.values():
        _echo_line("warning", warning)


@cli.command()
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice(["stage", "source", "executor", "placement", "observer"]),
    help="What NAME is, where several things have that name.",
)
@_json_option
@_debug_option
def inspect(name: str, kind: Any, as_json: bool) -> None:
    """Show what something installed does, and its options.

    NAME is that of a stage, source, executor, placement or observer, as `pystream plugins` lists
    it: the bare name, or the identity, distribution/name.
    """
    from ._listing import inspect, print_inspected

    with _log(), _reported_as_json(as_json):
        found = inspect(name, kind)
        if as_json:
            from ._json import inspected_json, print_json

            print_json(inspected_json(found))
        else:
            print_inspected(_stdout(width=100), found)


@cli.command()
@click.argument("run", required=False)
@click.option(
    "--folder",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False),
    help="Where the profiler's database is.  [default: the profiler folder]",
)
@_json_option
@_debug_option
def profile(run: str | None, folder: str | None, as_json: bool) -> None:
    """List the recorded runs, or show one.

    RUN is the id of a run, or the beginning of it, or `latest`.
    """
    from ._history import chosen, print_heading, print_runs, recorded
    from ._json import print_json
    from ._tables import print_profile

    with _log(), _reported_as_json(as_json):
        runs = recorded(folder)
        if run is None:
            if as_json:
                print_json({"runs": runs})
            elif runs:
                print_runs(_stdout(), runs)
            else:
                click.echo("No runs are recorded yet: `pystream run --profile FILE` records one.")
            return
        from pystream_sqlite import read_profile

        one = chosen(runs, run)
        found = read_profile(one.id, folder)
        if as_json:
            print_json({"run": one, "profile": found})
        else:
            print_heading(_stdout(), one)
            print_profile(_stdout(), found)


@cli.command()
@click.argument("distribution")
@_json_option
@_debug_option
@click.pass_context
def check(ctx: click.Context, distribution: str, as_json: bool) -> None:
    """Check an installed plugin for what its users rely on.

    DISTRIBUTION is the name that pip knows it by, such as acme-blur. It may be installed from its
    sources: python -m pip install -e .

    What it provides is imported in an interpreter of its own. The same checks are tests with
    pystream_core.testing.plugin_suite("acme-blur").

    Exit codes: 0 all passed, 1 something is wrong, 2 there is no such distribution.
    """
    from pystream_core.testing import check_plugin

    from ._check import checks_json, print_checks

    with _log(), _reported_as_json(as_json):
        checks = check_plugin(distribution)
    if as_json:
        from ._json import print_json

        print_json(checks_json(distribution, checks))
    else:
        print_checks(_stdout(width=100), distribution, checks)
    ctx.exit(0 if all(each.passed for each in checks) else 1)


@cli.command()
@click.argument("kind", metavar="KIND")
@click.argument("name", metavar="NAME")
@click.option(
    "--folder",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=".",
    help="Where the new folder is made.  [default: the current folder]",
)
@click.option("--author", metavar="TEXT", help='Who wrote it.  [default: "The NAME developers"]')
@click.option(
    "--license",
    "license_name",
    type=click.Choice(["MIT", "none"], case_sensitive=False),
    default="MIT",
    help="Under which licence it is.  [default: MIT]",
)
@_json_option
@_debug_option
def new(
    kind: str, name: str, folder: Path, author: str | None, license_name: str, as_json: bool
) -> None:
    """Write a new plugin that passes its own tests.

    KIND is what it provides: stage, executor, placement or observer. NAME is that of the
    distribution, a prefix of your own and what it is: `pystream new stage acme-blur` writes the
    folder acme-blur with the stage acme.blur.

    It is complete: code to change, tests with the conformance suite, an example, what pip and PyPI
    need. An existing folder is left alone.

    Exit codes: 0 written, 1 the disk refused it, 2 no such kind or a name that is not legal.
    """
    from ._new import plan_project, write_project

    with _reported_as_json(as_json):
        project = plan_project(kind, name)
        written = write_project(project, folder, author=author, license_name=license_name)
    if as_json:
        from ._json import print_json

        print_json(written)
        return
    click.echo(f"Wrote the {written.kind} {written.name} to {written.folder}:\n")
    for each in written.files:
        click.echo(f"  {each}")
    click.echo("\nNext:\n")
    for command in written.commands:
        click.echo(f"  {command}")


def enter(arguments: Sequence[str] | None) -> None:
    """The entry point. Leaves the program with the command's exit code."""
    codecs.register_error("pystream", _in_plain_letters)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who called the tool
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  (until the end)
        reconfigure = getattr(getattr(sys, name), "reconfigure", None)
        if reconfigure is not None:  # names may hold what the terminal's encoding lacks
            reconfigure(errors="pystream")
    try:
        cli.main(args=None if arguments is None else list(arguments), prog_name="pystream")
    except KeyboardInterrupt:  # while click itself was at work
        sys.exit(_INTERRUPTED)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        sys.exit(f"Error: the output cannot be written: {error.strerror}")


def _in_plain_letters(error: UnicodeError) -> tuple[str, int]:
    """What to write instead of characters that the terminal's encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(each, "?") for each in lacking), error.end


def _run(
    file: Path, executor: str | None, profile: bool | None, limit: int | None, as_json: bool
) -> int:
    """Build and run a file, print what came of it, and return the exit code."""
    from ._build import load
    from ._console import console, is_terminal, log_lines
    from ._run import execute

    live = is_terminal(sys.stderr)
    screen = console(sys.stderr) if live else None
    show = _line_on(screen)
    # What stages print must not get between the object and its reader.
    printing: AbstractContextManager[Any] = (
        redirect_stdout(sys.stderr) if as_json else nullcontext()
    )
    with log_lines(show, tracebacks=_debug()) as release:
        with printing:
            job = load(file, executor=executor, profile=profile)
            for note in job.notes:
                show("warning", note)
            outcome = execute(
                job,
                limit=limit,
                tell=lambda text: show("", text),
                watch=_watch(screen, job, limit, redirect=not as_json and sys.stdout.isatty()),
            )
        release(outcome.failure)
        _refuse_what_stages_refuse(job, outcome)
    if as_json:
        from ._json import outcome_json, print_json

        print_json(outcome_json(outcome, file=str(file), executor=job.executor))
    else:
        _print_outcome(job, outcome)
    if outcome.failure is not None:
        _show_failure(outcome)
    return outcome.exit_code


def _watch(
    screen: Console | None, job: Job, limit: int | None, *, redirect: bool
) -> Callable[[Any], AbstractContextManager[None]]:
    if screen is None:
        return lambda _: nullcontext()
    from ._progress import progress

    return lambda tap: progress(screen, job.pipeline, tap, limit=limit, redirect=redirect)


def _refuse_what_stages_refuse(job: Job, outcome: Outcome) -> None:
    """A start that failed because of the file's values is a mistake in the file."""
    from pystream_core import PlanError

    cause = None if outcome.failure is None else outcome.failure.__cause__
    if outcome.blame == "start" and isinstance(cause, PlanError):
        refused = job.refused_by_stages()
        if refused is not None:
            raise refused from outcome.failure


def _print_outcome(job: Job, outcome: Outcome) -> None:
    from ._tables import duration, print_run

    screen = _stdout()
    print_run(screen, outcome.statistics, outcome.profile)
    how = {
        "completed": "Completed",
        "stopped": f"Stopped by {outcome.signal} and drained",
        "aborted": f"Aborted by {outcome.signal or 'SIGINT'}",
        "failed": "Failed",
    }[outcome.state]
    completed = outcome.statistics.completed
    profiled = outcome.profile is not None and outcome.profile.pipelines
    # A profile tells the throughput; and where nothing came through there is none to tell.
    told = not profiled and completed and outcome.seconds
    rate = f", {completed / outcome.seconds:,.1f} items/s" if told else ""
    screen.print(f"{how} after {duration(outcome.seconds)}{rate} ({job.executor}).")


def _show_failure(outcome: Outcome) -> None:
    """The failure, told once, and last."""
    from pystream_core import CleanupError, PyStreamError

    error = outcome.failure
    assert error is not None
    if _debug():
        traceback.print_exception(error)
    if isinstance(error, PyStreamError):
        text = str(error)
        if isinstance(error, CleanupError):
            text += ": " + "; ".join(f"{type(one).__name__}: {one}" for one in error.errors)
    else:
        text = f"{type(error).__name__}: {error}"
    if outcome.blame == "source":
        text = f"the source failed: {text}"
    hint = "" if _debug() else " (--debug shows the traceback)"
    click.echo(f"Error: {text}{hint}", err=True)


@contextmanager
def _reported_as_json(wanted: bool, file: str | None = None) -> Iterator[None]:
    """With ``--json`` an error is an object on stdout as well."""
    from pystream_core import PyStreamError

    try:
        yield
    except PyStreamError as error:
        if wanted:
            from ._json import failure_json, print_json

            about = {} if file is None else {"file": file, "state": "refused"}
            code = _refused(error, quiet=True).exit_code
            print_json({**about, "exit_code": code, "failure": failure_json(error)})
        raise


@contextmanager
def _log() -> Iterator[None]:
    from ._console import log_lines

    with log_lines(_echo_line, tracebacks=_debug()):
        yield


def _refused(error: Exception, *, quiet: bool = False) -> Refused:
    """An error of PyStream as the command line shows it."""
    from pystream_core import AmbiguousName, PlanError, PluginNotFound

    from ._mistakes import BadFile

    if _debug() and not quiet:
        traceback.print_exception(error)
    if isinstance(error, BadFile):
        return Misdescribed(error.summary, error.lines)
    mistaken = isinstance(error, (PlanError, PluginNotFound, AmbiguousName))
    return Misdescribed(str(error)) if mistaken else Refused(str(error))


def _line_on(screen: Console | None) -> Callable[[str, str], None]:
    """What shows a level and a text on stderr, above the progress if there is one."""
    if screen is None:
        return _echo_line
    from rich.text import Text

    styles = {"warning": "yellow", "error": "red", "critical": "bold red"}

    def show(level: str, text: str) -> None:
        prefix = f"{level}: " if level not in ("", "info") else ""
        screen.print(Text(prefix, style=styles.get(level, "")) + Text(text))

    return show


def _echo_line(level: str, text: str) -> None:
    click.echo(f"{level}: {text}" if level not in ("", "info") else text, err=True)


def _stdout(*, width: int | None = None) -> Console:
    from ._console import console

    return console(sys.stdout, width=width, least=_NARROWEST)


def _debug() -> bool:
    ctx = click.get_current_context(silent=True)
    return ctx is not None and bool(ctx.find_root().obj)
