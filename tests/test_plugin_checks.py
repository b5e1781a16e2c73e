"""The checks of plugins: our own distributions pass them, and each broken one is caught.

Each broken distribution is a sound one but for one thing, as an installer leaves it: a package
and a ``*.dist-info``, in a folder of its own on the path.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pystream_core import PlanError, PluginNotFound
from pystream_core.testing import Check, check_plugin, plugin_suite
from pystream_core.testing._plugin_checks import CHECKS

TestThreads = plugin_suite("pystream-threads")
TestSqlite = plugin_suite("pystream-sqlite")
TestStages = plugin_suite("pystream-stages")
TestVideo = plugin_suite("pystream-video")
TestProcesses = plugin_suite("pystream-processes")

METADATA = """\
Metadata-Version: 2.1
Name: acme-things
Version: 1.5
Summary: Things
Requires-Python: >=3.10
Requires-Dist: pystream-core>=1.0,<2
"""
ENTRY_POINTS = """\
[pystream]
things = acme_things.plugin

[pystream.stages]
acme.blur = acme_things.stage:Blur
acme.plus = acme_things.stage:plus

[pystream.sources]
acme.numbers = acme_things.stage:numbers
"""
PLUGIN = """
from pystream_core import ExecutorSpec, ObserverSpec, PlacementSpec, hookimpl

@hookimpl
def pystream_executors():
    return [ExecutorSpec(name="acme.line", factory="acme_things.flow:Line", summary="one line")]

@hookimpl
def pystream_placements():
    return [PlacementSpec(name="acme.here", factory="acme_things.flow:Here", summary="here")]

@hookimpl
def pystream_observers():
    return [ObserverSpec(name="acme.eye", factory="acme_things.flow:Eye", summary="looks")]
"""
FLOW = """
from pystream_core import Observer, Placement, registry

class Here(Placement):
    def wrap(self, spec):
        return spec

class Eye(Observer):
    pass

def Line():
    return registry().executor("serial")()
"""
STAGE = '''
from pystream_core import Stage

class Blur(Stage):
    """Blur it."""

    def __call__(self, item):
        return item

    def cleanup(self):
        pass

def plus(item, much=1):
    """Add to it."""
    return item + much

def numbers(n=3):
    """Some numbers."""
    return range(n)
'''


@dataclass(frozen=True)
class Things:
    """A distribution: sound, but for what is given here."""

    metadata: tuple[str, str] = ("", "")
    points: tuple[str, str] = ("", "")
    plugin: tuple[str, str] = ("", "")
    flow: tuple[str, str] = ("", "")
    stage: tuple[str, str] = ("", "")
    files: Mapping[str, str | None] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write it into a folder."""
        info = folder / "acme_things-1.5.dist-info"
        package = folder / "acme_things"
        info.mkdir(parents=True)
        package.mkdir()
        written = {
            "acme_things-1.5.dist-info/METADATA": changed(METADATA, self.metadata),
            "acme_things-1.5.dist-info/entry_points.txt": changed(ENTRY_POINTS, self.points),
            "acme_things/__init__.py": "",
            "acme_things/py.typed": "",
            "acme_things/plugin.py": changed(PLUGIN, self.plugin),
            "acme_things/flow.py": changed(FLOW, self.flow),
            "acme_things/stage.py": changed(STAGE, self.stage),
            **self.files,
        }
        for name, text in written.items():
            if text is not None:
                path = folder / name
                path.parent.mkdir(exist_ok=True)
                path.write_text(text)


def changed(text: str, change: tuple[str, str]) -> str:
    """A text in which something is replaced, or behind which something is added."""
    old, new = change
    assert old in text
    return text.replace(old, new) if old else text + new


def failed(checks: tuple[Check, ...]) -> dict[str, str]:
    """What is wrong, by the name of the check."""
    return {check.name: "\n".join(check.problems) for check in checks if not check.passed}


OTHER = {
    "acme_other-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: acme-other\nVersion: 1\n",
    "acme_other-1.0.dist-info/entry_points.txt": "[pystream.stages]\nacme.plus = acme_o:plus\n",
    "acme_o.py": "def plus(item): return item\n",
}
RECORD = 'PlacementSpec(name="acme.here"'

BROKEN: Mapping[str, tuple[str, str, Things]] = {
    "offers nothing": (
        "entry-points",
        "it offers nothing",
        Things(points=(ENTRY_POINTS, "[console_scripts]\nx = acme_things:x\n")),
    ),
    "an entry point of a wrong form": (
        "entry-points",
        "must be of the form 'package.module:attr'",
        Things(points=("acme_things.stage:plus", "acme_things")),
    ),
    "raises when it is imported": (
        "entry-points",
        "ZeroDivisionError",
        Things(plugin=("", "1 / 0\n")),
    ),
    "ends the interpreter": (
        "entry-points",
        "ended the interpreter with code 3",
        Things(plugin=("", "import os; os._exit(3)\n")),
    ),
    "needs another core": (
        "entry-points",
        "it needs pystream-core >=7.0",
        Things(metadata=("pystream-core>=1.0,<2", "pystream-core>=7.0")),
    ),
    "names what is not there": (
        "loads",
        "stage 'acme.plus' (acme_things.stage:minus): PluginError",
        Things(points=("stage:plus", "stage:minus")),
    ),
    "needs what is not installed": (
        "loads",
        "No module named 'acme_missing'",
        Things(stage=("", "import acme_missing\n")),
    ),
    "a stage that is abstract": (
        "loads",
        "is abstract",
        Things(stage=("def cleanup", "def clean")),
    ),
    "a stage that takes no item": (
        "loads",
        "takes no item",
        Things(stage=("def plus(item, much", "def plus(*, much")),
    ),
    "a class that takes no item": (
        "loads",
        "__call__(self) cannot be called with an item alone",
        Things(stage=("__call__(self, item)", "__call__(self)")),
    ),
    "a class that takes two": (
        "loads",
        "__call__(self, item, more) cannot be called",
        Things(stage=("__call__(self, item)", "__call__(self, item, more)")),
    ),
    "a source that is none": (
        "loads",
        "source 'acme.numbers' (acme_things.stage:numbers): PluginError",
        Things(stage=("", "numbers = [1, 2]\n")),
    ),
    "an executor that is none": (
        "loads",
        "its factory gives object, which is no subclass of pystream_core.Executor",
        Things(flow=("", "def Line(): return object()\n")),
    ),
    "an executor that cannot be made": (
        "loads",
        "calling its factory without options raised: OSError: no line",
        Things(flow=("", "def Line(): raise OSError('no line')\n")),
    ),
    "a placement of another class": (
        "loads",
        "Here is no subclass of pystream_core.Placement",
        Things(flow=("class Here(Placement)", "class Here")),
    ),
    "an observer that needs to be told something": (
        "loads",
        "its factory must do without arguments, and needs where",
        Things(flow=("", "def Eye(where): return Observer()\n")),
    ),
    "a name without a prefix": (
        "names",
        "the stage 'plus' must",
        Things(points=("acme.plus", "plus")),
    ),
    "a name with large letters": (
        "names",
        "'acme.Plus'",
        Things(points=("acme.plus", "acme.Plus")),
    ),
    "a prefix of ours": ("names", "prefix 'video'", Things(points=("acme.plus", "video.plus"))),
    "an executor without a prefix": ("names", "'line'", Things(plugin=("acme.line", "line"))),
    "a name that another one has": (
        "names",
        "'acme.plus' is provided by acme-other as well",
        Things(files=OTHER),
    ),
    "a hook that is not marked": (
        "hooks",
        "function 'pystream_placements' is not marked",
        Things(plugin=("@hookimpl\ndef pystream_placements", "def pystream_placements")),
    ),
    "a hook that is misspelt": (
        "hooks",
        "no hook 'pystream_observer' (did you mean 'pystream_observers'",
        Things(plugin=("def pystream_observers", "def pystream_observer")),
    ),
    "imports numpy": ("light", "imports numpy while", Things(plugin=("", "import numpy\n"))),
    "imports numpy in its package": (
        "light",
        "and not in __init__.py",
        Things(files={"acme_things/__init__.py": "import numpy\n"}),
    ),
    "is slow to import": (
        "light",
        "times as long to import as PyStream itself",
        Things(
            plugin=("", "import time; end = time.time() + 0.6\nwhile time.time() < end: pass\n")
        ),
    ),
    "prints": ("light", "prints 'hello'", Things(plugin=("", "print('hello')\n"))),
    "starts a thread": (
        "light",
        "starts the thread 'mine'",
        Things(
            plugin=(
                "",
                "import threading as t\n"
                "t.Thread(target=t.Event().wait, daemon=True, name='mine').start()\n",
            )
        ),
    ),
    "sets up logging": (
        "light",
        "adds a handler to the root logger",
        Things(plugin=("", "import logging; logging.basicConfig()\n")),
    ),
    "does not depend on the core": (
        "core",
        "does not depend on pystream-core: write",
        Things(metadata=("Requires-Dist: pystream-core>=1.0,<2\n", "")),
    ),
    "depends on the core in an extra only": (
        "core",
        "does not depend on pystream-core",
        Things(metadata=("core>=1.0,<2", "core>=1.0,<2; extra == 'all'")),
    ),
    "has no upper bound": (
        "core",
        "'>=1.0' allows 2.0",
        Things(metadata=("core>=1.0,<2", "core>=1.0")),
    ),
    "has a far upper bound": (
        "core",
        "'>=1.0,<9' allows 2.0",
        Things(metadata=("core>=1.0,<2", "core>=1.0,<9")),
    ),
    "has no lower bound": (
        "core",
        "'<2' has no lower",
        Things(metadata=("core>=1.0,<2", "core<2")),
    ),
    "has no bounds": (
        "core",
        "pystream-core without a range allows 2.0",
        Things(metadata=("core>=1.0,<2", "core")),
    ),
    "does not say for which Python": (
        "python",
        'requires-python = ">=3.10"',
        Things(metadata=("Requires-Python: >=3.10\n", "")),
    ),
    "does not say what it is": (
        "summary",
        "description = ...",
        Things(metadata=("Summary: Things\n", "")),
    ),
    "a stage without a docstring": (
        "summary",
        "'acme.plus': begin its docstring",
        Things(stage=('    """Add to it."""\n', "")),
    ),
    "a class without a docstring": (
        "summary",
        "'acme.blur': begin its docstring",
        Things(stage=('    """Blur it."""\n\n', "")),
    ),
    "a record without a summary": (
        "summary",
        "'acme.eye': give its record a summary=",
        Things(plugin=(', summary="looks"', "")),
    ),
    "is not typed": ("typed", "py.typed into", Things(files={"acme_things/py.typed": None})),
    "is a single module": (
        "typed",
        "acme_one.py is a single module",
        Things(
            points=("acme_things.stage:plus", "acme_one:plus"),
            files={"acme_one.py": 'def plus(item):\n    """Add."""\n    return item\n'},
        ),
    ),
    "imports a private module": (
        "public",
        "stage.py:20 uses pystream_core._stage",
        Things(stage=("", "import pystream_core._stage\n")),
    ),
    "imports a private name": (
        "public",
        "uses pystream_core._plan.Plan",
        Things(stage=("", "from pystream_core._plan import Plan\n")),
    ),
    "imports a private name from the package": (
        "public",
        "uses pystream_core._plan,",
        Things(stage=("", "from pystream_core import _plan\n")),
    ),
    "uses a private attribute": (
        "public",
        "uses pystream_core._registry",
        Things(stage=("", "import pystream_core\nx = pystream_core._registry\n")),
    ),
}
ALSO = {"a hook that is misspelt": {"entry-points"}, "needs another core": {"core"}}
"""What else is wrong with them."""


def test_a_sound_distribution_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every check has its say, and finds nothing."""
    Things().write(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    checks = check_plugin("Acme_Things")
    assert failed(checks) == {}
    assert [check.name for check in checks] == list(CHECKS)
    assert all(check.claim for check in checks)
    assert not [name for name in sys.modules if name.startswith("acme_things")]


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_distribution_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """By the check that is about it, and no other one; with what is wrong."""
    check, told, things = BROKEN[what]
    things.write(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    found = failed(check_plugin("acme-things"))
    assert found.keys() - ALSO.get(what, set()) == {check}, found
    assert told in found[check]


def test_every_check_has_a_distribution_that_it_catches() -> None:
    """No check is there that nothing can fail."""
    assert {check for check, _, _ in BROKEN.values()} == set(CHECKS)


def test_a_distribution_that_hangs_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a time that is stated."""
    Things(plugin=("", "import threading; threading.Event().wait()\n")).write(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    found = failed(check_plugin("acme-things", patience=1))
    assert "did not end within 1 s" in found["entry-points"]


def test_functions_alone_need_no_dependency(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage needs no PyStream code beyond an entry point."""
    Things(
        metadata=("Requires-Dist: pystream-core>=1.0,<2\n", ""),
        points=(ENTRY_POINTS, "[pystream.stages]\nacme.plus = acme_things.plain:plus\n"),
        files={
            "acme_things/plain.py": 'def plus(item):\n    """Add."""\n    return item\n',
            "acme_things/plugin.py": None,
            "acme_things/flow.py": None,
            "acme_things/stage.py": None,
        },
    ).write(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert failed(check_plugin("acme-things")) == {}


def test_what_is_not_installed_is_guessed() -> None:
    """With those that plug into PyStream."""
    with pytest.raises(PluginNotFound, match="did you mean 'pystream-threads'") as caught:
        check_plugin("pystream-thread")
    assert "pystream-stages" in str(caught.value)


def test_the_environment_does_not_hide_what_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Filters, and strictness about other plugins, are for users."""
    Things().write(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYSTREAM_PLUGINS", "")
    monkeypatch.setenv("PYSTREAM_STRICT_PLUGINS", "1")
    assert failed(check_plugin("acme-things")) == {}


def test_the_suite_fails_with_what_to_do(tmp_path: Path) -> None:
    """In an author's project; what is left out is skipped."""
    Things(stage=('    """Add to it."""\n', ""), files={"acme_things/py.typed": None}).write(
        tmp_path
    )
    (tmp_path / "test_things.py").write_text(
        "from pystream_core.testing import plugin_suite\n"
        "TestPlugin = plugin_suite('acme-things', leave_out=['typed'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=15,
        env={"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert f"1 failed, {len(CHECKS) - 2} passed, 1 skipped" in done.stdout
    assert "acme-things breaks the rule: It and everything it provides says" in done.stdout
    assert "- `pystream plugins` has nothing to say of 'acme.plus'" in done.stdout


def test_a_check_that_is_not_there_cannot_be_left_out() -> None:
    """The nearest one is named."""
    with pytest.raises(PlanError, match=r"no check 'type' .did you mean 'typed'"):
        plugin_suite("acme-things", leave_out=["type"])
