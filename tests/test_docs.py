"""The manual: it builds without a warning, its code runs, and nothing public is missing in it."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from html import unescape
from pathlib import Path
from typing import Any, get_args

import click
import pystream
import pytest

import pystream_core
from pystream_core import _errors, _ledger, _plan, hookspecs

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(
    page for page in DOCS.rglob("*.md") if "examples" not in page.relative_to(DOCS).parts
)
PAGE_NAMES = [page.relative_to(DOCS).as_posix() for page in PAGES]
RUNNABLE = [ROOT / "README.md", *PAGES]
LANGUAGES = {"python", "toml", "sh", "console", "text", "glossary", "toctree", "eval-rst"}
DIRECTIVES = {"{include}", "{literalinclude}", "{glossary}", "{toctree}", "{eval-rst}"}
PLUGINS = [
    "pystream",
    "pystream_core",
    "pystream_core.testing",
    "pystream_core.hookspecs",
    "pystream_sqlite",
    "pystream_processes",
    "pystream_stages",
    "pystream_threads",
    "pystream_video",
    "pystream_cli",
]


# -- the pages as text ---------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        language: what stands behind the fence.
        line: number of its first line of content.
        left_out: why it is not run; empty when it is.
    """

    page: Path
    language: str
    line: int
    text: str
    left_out: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"


_FENCE = re.compile(r"^(`{3,}|:{3,})(\S*).*$")
_LEFT_OUT = re.compile(r"^<!-- not run: (.+) -->$")


def blocks(page: Path) -> Iterator[Block]:
    """Every fenced block of a page, in order."""
    lines = page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        opened = _FENCE.match(lines[number])
        if opened:
            end = lines.index(opened[1], number + 1)
            reason = _LEFT_OUT.match(lines[number - 1]) if number else None
            yield Block(
                page,
                opened[2],
                number + 2,
                "\n".join(lines[number + 1 : end]) + "\n",
                reason[1] if reason else "",
            )
            number = end
        number += 1


def of_language(*languages: str) -> list[Block]:
    return [
        block
        for page in RUNNABLE
        for block in blocks(page)
        if block.language in languages and not block.left_out
    ]


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """A folder that looks like a checkout, to run what the pages show in."""
    (tmp_path / "docs").symlink_to(DOCS)
    return tmp_path


def run(*command: str, folder: Path, timeout: float = 18) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder; profiles go there as well."""
    environment = {**os.environ, "PYSTREAM_PROFILER_FOLDER": str(folder / "profiles")}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout
    )


def with_python() -> list[Path]:
    return [
        page
        for page in RUNNABLE
        if any(each.language == "python" and not each.left_out for each in blocks(page))
    ]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("page", with_python(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_python_of_a_page_runs_and_prints_what_its_comments_say(page: Path, room: Path) -> None:
    """All its blocks, in order, as one program; lines have the numbers that they have there."""
    program = [""] * len(page.read_text(encoding="utf-8").splitlines())
    said = []
    for block in blocks(page):
        if block.language != "python" or block.left_out:
            continue
        lines = block.text.splitlines()
        program[block.line - 1 : block.line - 1 + len(lines)] = lines
        said += re.findall(r"^.*print\(.*\)  # (.+)$", block.text, re.MULTILINE)
    script = room / "page.py"
    script.write_text("\n".join(program) + "\n", encoding="utf-8")
    done = run(sys.executable, "-W", "error", str(script), folder=room, timeout=50)
    assert done.returncode == 0, f"{page.name}: {done.stderr}"
    missing = Counter(said) - Counter(done.stdout.splitlines())
    assert not missing, f"{page.name}: printed is\n{done.stdout}"


def test_a_block_that_is_not_run_says_why() -> None:
    """Every block has a language that the tests know, and every reason is one."""
    wrong = [
        f"{block}: {block.language or 'no language'}"
        for page in RUNNABLE
        for block in blocks(page)
        if block.language not in LANGUAGES | DIRECTIVES
    ]
    assert not wrong
    reasons = [block.left_out for page in RUNNABLE for block in blocks(page) if block.left_out]
    assert all(len(reason.split()) > 2 for reason in reasons)


GROUPS = {"pystream", "pystream.stages", "pystream.sources"}


@pytest.mark.parametrize("block", of_language("toml"), ids=str)
def test_a_toml_block_is_read(block: Block, room: Path) -> None:
    """A pipeline file by the command's own loader; a piece of a pyproject by its groups."""
    document = tomllib.loads(block.text)
    if "project" in document:
        groups = document["project"]["entry-points"]
        assert set(groups) <= GROUPS
        for group in groups.values():
            assert all(re.fullmatch(r"[\w.]+(:[\w.]+)?", value) for value in group.values())
        return
    file = room / "pipeline.toml"
    file.write_text(block.text, encoding="utf-8")
    done = run(sys.executable, "-m", "pystream", "graph", str(file), folder=room)
    assert done.returncode == 0, f"{block}: {done.stderr}"


def commands() -> dict[str, list[str]]:
    """Each page with the lines of its shell blocks that call ``pystream``, in order."""
    found: dict[str, list[str]] = {}
    for block in of_language("sh", "console"):
        for line in block.text.splitlines():
            line = line.removeprefix("$ ").partition("  #")[0].strip()
            line = line.rpartition("&& ")[2]
            if line.startswith("pystream "):
                found.setdefault(block.page.relative_to(ROOT).as_posix(), []).append(line)
    return found


@pytest.mark.timeout(60)
@pytest.mark.parametrize("page", sorted(commands()))
def test_the_commands_of_a_page_work(page: str, room: Path) -> None:
    """Those that call ``pystream``, one after another in one folder."""
    for command in commands()[page]:
        words = command.split()
        assert words[0] == "pystream"
        done = run(sys.executable, "-m", *words, folder=room, timeout=50)
        assert done.returncode == 0, f"{page}: {command}\n{done.stderr}"


# -- the built manual ----------------------------------------------------------------------


@dataclass(frozen=True)
class Manual:
    """The built manual.

    Attributes:
        folder: of the HTML pages.
        objects: what Sphinx can link to, by domain and role: names.
    """

    folder: Path
    objects: dict[str, frozenset[str]]

    def page(self, name: str) -> str:
        """The text of a page without its markup."""
        text = (self.folder / name).read_text(encoding="utf-8")
        body = re.search(r"<article.*?</article>", text, re.DOTALL)
        assert body, name
        return unescape(re.sub(r"<[^>]+>", "", body[0]))


@pytest.fixture(scope="session")
def manual(tmp_path_factory: pytest.TempPathFactory) -> Manual:
    """Build it once, with warnings as errors."""
    pytest.importorskip("sphinx")
    room = tmp_path_factory.mktemp("manual")
    out = room / "html"
    done = run(
        *(sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"),
        *("-d", str(room / "doctrees"), str(DOCS), str(out)),
        folder=ROOT,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return Manual(out, inventory(out / "objects.inv"))


def inventory(path: Path) -> dict[str, frozenset[str]]:
    from sphinx.util.inventory import InventoryFile

    with path.open("rb") as file:
        loaded: Any = InventoryFile.load(file, "", lambda base, uri: uri)
    data = getattr(loaded, "data", loaded)
    return {role: frozenset(names) for role, names in data.items()}


@pytest.mark.timeout(180)
def test_the_manual_builds_without_a_warning(manual: Manual) -> None:
    """Which also means that its internal links, terms and cross-references resolve."""
    for name in PAGE_NAMES:
        assert (manual.folder / name).with_suffix(".html").is_file()


@pytest.mark.timeout(180)
def test_no_page_is_empty(manual: Manual) -> None:
    """Each has words of its own."""
    short = [name for name in PAGE_NAMES if len(manual.page(f"{name[:-3]}.html").split()) < 40]
    assert not short


@pytest.mark.timeout(180)
def test_links_from_page_to_page_and_to_their_places_resolve(manual: Manual) -> None:
    """Every relative link of the built pages leads to a file, and every # to an id in it."""
    ids: dict[Path, set[str]] = {}
    wrong = []
    for page in manual.folder.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r'<a [^>]*href="([^"]*)"', text):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, place = unescape(target).partition("#")
            file = (page.parent / name).resolve() if name else page
            if file not in ids and file.suffix == ".html" and file.is_file():
                found = file.read_text(encoding="utf-8")
                ids[file] = set(map(unescape, re.findall(r'\bid="([^"]+)"', found)))
            if not file.is_file() or (place and file.suffix == ".html" and place not in ids[file]):
                wrong.append(f"{page.relative_to(manual.folder)}: {target}")
    assert not wrong


# -- nothing is missing --------------------------------------------------------------------


def public_names(module: Any) -> set[str]:
    """What a module exports: ``__all__``, else what its text imports ``as`` itself or defines."""
    if hasattr(module, "__all__"):
        return set(module.__all__)
    tree = Path(inspect.getfile(module)).read_text(encoding="utf-8")
    names = set(re.findall(r"\b(\w+) as \1\b", tree))
    names |= set(re.findall(r"^(?:def|class) ([a-zA-Z]\w*)", tree, re.MULTILINE))
    names |= set(re.findall(r"^([a-zA-Z]\w*)(?:: [\w\[\]]+)? = ", tree, re.MULTILINE))
    return {name for name in names if not name.startswith("_")}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", PLUGINS)
def test_every_public_name_is_in_the_reference(manual: Manual, name: str) -> None:
    """Under the module that people import it from, or as the same object of another one."""
    documented: dict[int, str] = {}
    texts = set()
    for role, names in manual.objects.items():
        if role.startswith("py:"):
            texts |= names
    for full in texts:
        module, _, attribute = full.rpartition(".")
        if module in sys.modules and hasattr(sys.modules[module], attribute):
            documented[id(getattr(sys.modules[module], attribute))] = full
    module = importlib.import_module(name)
    left_out = {"T", "hookspec"}  # for type checkers; for the core itself
    missing = [
        each
        for each in sorted(public_names(module) - left_out)
        if f"{name}.{each}" not in texts
        and id(getattr(module, each)) not in documented
        and not is_registered(getattr(module, each))
    ]
    assert not missing


def is_registered(target: Any) -> bool:
    """Shown under the name that a plugin registers it by."""
    found = pystream_core.available()
    values = [
        one.value
        for group in (
            found.stages,
            found.sources,
            found.executors,
            found.placements,
            found.observers,
        )
        for one in group
    ]
    for value in values:
        module, _, attribute = value.partition(":")
        if getattr(importlib.import_module(module), attribute) is target:
            return True
    return False


HOOKS = sorted(
    name
    for name, each in vars(hookspecs).items()
    if name.startswith("pystream_") and callable(each)
)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented_with_its_signature_an_example_and_its_user(
    manual: Manual, hook: str
) -> None:
    """On hooks.md: generated, written as an example, and linked to the plugin that uses it."""
    function = getattr(hookspecs, hook)
    signature = str(inspect.signature(function)).replace("'", "")
    assert f"pystream_core.hookspecs.{hook}" in manual.objects["py:function"]
    page = (DOCS / "hooks.md").read_text(encoding="utf-8")
    section = next(part for part in page.split("\n## ") if f"hookspecs.{hook}" in part)
    assert f"@hookimpl\ndef {hook}{signature}:" in section
    user = re.search(r"Used by \[([\w-]+)\]\(plugins/(\w+)\.md\)", section)
    assert user
    source = ROOT / "plugins" / user[2] / user[1].replace("-", "_") / "plugin.py"
    assert f"def {hook}(" in source.read_text(encoding="utf-8")
    built = " ".join(manual.page("hooks.html").split())
    assert f"{hook}{signature}".replace(" ", "") in built.replace(" ", "")


ERRORS = sorted(
    name
    for name, each in vars(_errors).items()
    if isinstance(each, type) and issubclass(each, pystream.PyStreamError)
)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("error", ERRORS)
def test_every_error_is_in_the_reference_and_says_what_to_do(manual: Manual, error: str) -> None:
    """The page on failures has a row for each."""
    assert f"pystream.{error}" in manual.objects["py:exception"]
    if error != "PyStreamError":
        page = (DOCS / "howto" / "failures.md").read_text(encoding="utf-8")
        assert re.search(rf"^\| `{error}` \| .+ \| .+ \|$", page, re.MULTILINE)


def keywords(method: str) -> list[str]:
    found = inspect.signature(getattr(pystream.Pipeline, method)).parameters
    return [name for name in found if name not in ("self", "stage", "options")]


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("method", "option"),
    [
        (method, option)
        for method in ("add", "parallelize", "__init__")
        for option in keywords(method)
    ],
)
def test_every_option_is_explained_and_has_the_documented_default(
    manual: Manual, method: str, option: str
) -> None:
    """By hand on the page on choosing them, and in the generated signature."""
    page = (DOCS / "howto" / "choose.md").read_text(encoding="utf-8")
    terms = re.findall(r"^(`.+`)\n: ", page, re.MULTILINE)
    assert f"`{option}`" in " ".join(terms)
    parameter = inspect.signature(getattr(pystream.Pipeline, method)).parameters[option]
    shown = re.sub(r"\s+", " ", manual.page("reference/pystream.html"))
    default = repr(parameter.default)
    assert re.search(rf"\b{option}: [^=]*= {re.escape(default)}", shown), (option, default)
    assert {option for option in keywords("add") if option != "name"} == {
        each.name for each in fields(_plan.StageOptions)
    }


def command_line() -> Iterator[tuple[str, str]]:
    """Every command with each of its options."""
    from pystream_cli import _main

    assert isinstance(_main.cli, click.Group)
    for option in _main.cli.params:
        for text in (*option.opts, *option.secondary_opts):
            yield "pystream", text
    for name, command in _main.cli.commands.items():
        for parameter in command.params:
            if isinstance(parameter, click.Argument):
                yield name, (parameter.metavar or parameter.name or "").upper()
            else:
                for text in (*parameter.opts, *parameter.secondary_opts):
                    yield name, text


@pytest.mark.timeout(180)
def test_every_command_and_option_of_the_command_line_is_documented(manual: Manual) -> None:
    """In the section of its command, with what it does."""
    page = manual.page("reference/cli.html")
    sections = re.split(r"\npystream (?=[a-z]+)|\n(?=pystream\S*\n)", page)
    missing = []
    for command, text in command_line():
        section = next((each for each in sections if each.startswith(command)), "")
        if text not in section and text.upper() not in section.upper():
            missing.append(f"{command} {text}")
    assert not missing


WORDS = [
    "item",
    "seq",
    "stage",
    "source",
    "sink",
    "executor",
    "worker",
    "channel",
    "capacity",
    "backpressure",
    "admit",
    "rejected",
    "close",
    "drain",
    "abort",
    "timeout",
    "deadline",
    "observer",
    "span",
    "latency",
    "throughput",
    "period",
    "jitter",
    "placement",
    "handle",
    "ledger",
    "bin",
    "freshness",
    "plugin",
    "identity",
    "hook",
    "run",
    "plan",
    "mode",
    "batching·stage",
    "overflow·policy",
    "service·time",
    "queue·time",
    "missed·tick",
    "entry·point",
]


@pytest.mark.timeout(180)
def test_the_glossary_has_every_word_that_messages_and_figures_use(manual: Manual) -> None:
    """The table of words, every bin, and every figure of the ledger that is no path."""
    terms = {term.lower() for term in manual.objects["std:term"]}
    words = {word.replace("·", " ") for word in WORDS} | set(get_args(_ledger.Bin))
    figures = {each.name.replace("_", " ") for each in fields(pystream.Statistics)}
    wanted = words | (figures - {"stages", "unjoined", "admitted"})
    assert not wanted - terms
    page = (DOCS / "glossary.md").read_text(encoding="utf-8")
    for policy in ("block", "drop_oldest", "drop_newest"):
        assert f'"{policy}"' in page


def test_each_term_is_used_in_the_manual_or_in_a_message() -> None:
    """A word that nobody uses needs no meaning."""
    page = (DOCS / "glossary.md").read_text(encoding="utf-8")
    terms = re.findall(r"^([A-Za-z][\w ]*)\n  \S", page, re.MULTILINE)
    assert len(terms) == len(set(terms)) > 40
    others = " ".join(
        each.read_text(encoding="utf-8").lower() for each in PAGES if each.name != "glossary.md"
    )
    assert [term for term in terms if term.lower() not in others] == []


def test_the_goals_that_are_called_reached_are_those_of_the_table() -> None:
    """A goal with a figure that was missed is called so."""
    page = (DOCS / "performance.md").read_text(encoding="utf-8")
    verdicts = re.findall(r"^\| \*\*(\d+)\*\*.*\*\*(pass|MISSED)\*\*", page, re.MULTILINE)
    assert len(verdicts) == 11
    said = re.search(r"\*\*Reached: (.*?)\. Missed, in single figures: (.*?)\.\*\*", page)
    assert said is not None
    for numbers, verdict in zip(said.groups(), ("pass", "MISSED"), strict=True):
        assert re.findall(r"\d+", numbers) == [goal for goal, each in verdicts if each == verdict]


def test_what_is_said_of_speed_stands_in_the_published_table() -> None:
    """The page that says why quotes the latest table, not an older one."""
    table = (DOCS / "performance.md").read_text(encoding="utf-8")
    page = (DOCS / "why.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^\| (?:PyStream, )?([^|]+) \| ([\d.]+) \|$", page, re.MULTILINE)
    assert len(quoted) == 5
    for name, micros in quoted:
        line = rf"^\| +\| {re.escape(name.replace('`', ''))} +\| {re.escape(micros)} us/item"
        assert re.search(line, table, re.MULTILINE), name
    times = re.findall(r"(?:\(|by hand |pypeln )(\d\.\d\d)(?: times serial|,|\))", page)
    assert len(times) == 3
    assert [each for each in times if f"| {each} x " not in table] == []
    frames = re.search(r"at ([\d.]+) of the rate of one copy \((\d+) times pypeln's\)", page)
    assert frames is not None
    measured = [
        re.search(rf"^\| +\| {re.escape(name)} +\| ([\d.]+) x", table, re.MULTILINE)
        for name in (
            "rate / that of one copy of the frame",
            "1080p frames, three stages: pypeln / ours",
        )
    ]
    assert [float(each) for each in frames.groups()] == [
        round(float(each[1]), digits) for each, digits in zip(measured, (2, 0), strict=True) if each
    ]
