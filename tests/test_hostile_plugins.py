"""G13: broken plugins harm nobody else, and the core names the culprit.

Each plugin is a distribution as an installer leaves it: a module and a ``*.dist-info``. All
of them are on the path of one interpreter at once, next to a sound one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HEAD = "from pystream_core import ExecutorSpec, ObserverSpec, PlacementSpec, hookimpl\n"
SOUND = (
    HEAD
    + """
@hookimpl
def pystream_executors():
    return [ExecutorSpec(name=NAME, factory=__name__ + ":make")]

def make():
    return NAME
"""
)


def hook(body: str, head: str = "", signature: str = "pystream_executors()") -> str:
    """The source of a plugin module with one hook."""
    return f"{HEAD}{head}\n@hookimpl\ndef {signature}:\n    {body}\n"


def spec(name: str) -> str:
    """The source of one sound record."""
    return f'ExecutorSpec(name="{name}", factory="acme:make")'


@dataclass(frozen=True)
class Hostile:
    """One broken plugin module, and what is to be said about it."""

    code: str
    reason: str
    state: str = "failed"


HOSTILE: Mapping[str, Hostile] = {
    "raises-on-import": Hostile("1/0", "ZeroDivisionError"),
    "exits-on-import": Hostile("raise SystemExit(3)", "SystemExit: 3"),
    "raises-base-exception": Hostile(
        "class Worst(BaseException): pass\nraise Worst('no')", "Worst: no"
    ),
    "generator-exit-on-import": Hostile("raise GeneratorExit", "GeneratorExit"),
    "raises-what-has-no-text": Hostile(
        "class Mute(Exception):\n    def __str__(self): 1/0\nraise Mute", "str raises Zero"
    ),
    "syntax-error": Hostile("def (", "SyntaxError"),
    "needs-what-is-missing": Hostile("import acme_no_such_module", "ModuleNotFoundError"),
    "warns-on-import": Hostile("import warnings\nwarnings.warn('old')", "UserWarning: old"),
    "recurses": Hostile("def f(): f()\nf()", "RecursionError"),
    "looks-up-on-import": Hostile(
        "from pystream_core._registry import available\navailable()", "may not be looked up"
    ),
    "looks-up-in-hook": Hostile(
        hook("return registry().executor('nowhere')", "from pystream_core._registry import *"),
        "may not be looked up",
    ),
    "is-no-module": Hostile("import sys\nsys.modules[__name__] = object()\n", "implements no hook"),
    "implements-no-hook": Hostile("def pystream_executors(): return []", "implements no hook"),
    "hook-raises": Hostile(hook("raise KeyError('gone')"), "pystream_executors raised: KeyError"),
    "hook-exits": Hostile(hook("raise SystemExit"), "raised: SystemExit"),
    "hook-unknown": Hostile(
        hook("return []", signature="pystream_teapots()"), "unknown hook", "incompatible"
    ),
    "hook-wants-arguments": Hostile(
        hook("return []", signature="pystream_executors(app)"), "app", "incompatible"
    ),
    "hook-is-generator": Hostile(hook("yield " + spec("x")), "must return a list"),
    "hook-returns-none": Hostile(hook("return None"), "must return a list, not None"),
    "hook-returns-iterator": Hostile(hook(f"return iter([{spec('x')}])"), "must return a list"),
    "hook-is-coroutine": Hostile(
        hook("return []").replace("\ndef ", "\nasync def "), "must return a list"
    ),
    "hook-returns-dicts": Hostile(hook("return [{'name': 'x'}]"), "ExecutorSpec records"),
    "hook-returns-other-records": Hostile(
        hook("return [PlacementSpec(name='x', factory='a:b')]"), "ExecutorSpec records"
    ),
    "hook-returns-subclass": Hostile(
        hook(
            "return [Own(name='x', factory='a:b')]",
            "class Own(ExecutorSpec):\n    def __post_init__(self): pass\n",
        ),
        "ExecutorSpec records",
    ),
    "hook-returns-unprintable": Hostile(
        hook("return [Bad()]", "class Bad:\n    def __repr__(self): raise SystemExit\n"),
        "repr raises SystemExit",
    ),
    "hook-returns-evil-list": Hostile(
        hook("return Evil()", "class Evil(list):\n    def __iter__(self): raise SystemExit\n"),
        "SystemExit",
    ),
    "record-is-wrong": Hostile(
        hook("return [ExecutorSpec(name='x', factory='no-colon')]"), "package.module:attr"
    ),
    "record-has-slash": Hostile(
        hook("return [ExecutorSpec(name='acme-sound/sound', factory='a:b')]"), "without '/'"
    ),
    "names-twice": Hostile(hook(f"return [{spec('x')}, {spec('x')}]"), "'x' twice"),
    "replaces-serial": Hostile(hook(f"return [{spec('serial')}]"), "cannot be replaced"),
    "one-hook-spoils-both": Hostile(
        hook(f"return [{spec('spoilt')}]") + "@hookimpl\ndef pystream_observers():\n    1/0\n",
        "pystream_observers raised",
    ),
    "exits-with-text": Hostile("import sys\nsys.exit('bye')", "SystemExit: bye"),
}

PROBE = """
import json, logging, sys
lines = []
class Keep(logging.Handler):
    def emit(self, record):
        lines.append((record.name, record.levelname, record.getMessage()))
logging.getLogger("PyStream").addHandler(Keep())
from pystream_core import PluginError, PluginNotFound
from pystream_core._registry import Registry, available, registry, source, stage
def attempt(call):
    try:
        return repr(call())
    except Exception as error:
        return f"{type(error).__name__}: {error}"
"""
REPORT = """
found = available()
print(json.dumps({
    "plugins": {p.identity: [p.state, p.reason] for p in found.plugins},
    "executors": [e.identity for e in found.executors],
    "stages": [s.identity for s in found.stages],
    "serial": registry().executor("serial").__name__,
    "lines": lines,
    "modules": sorted(m for m in sys.modules if m.startswith("acme")),
    "asked": {name: attempt(call) for name, call in globals().get("asked", {}).items()},
}))
"""


def distribution(
    folder: Path,
    name: str,
    entry_points: str | bytes,
    *,
    metadata: str | bytes | None = "",
    requires: str = "pystream-core>=1.0,<2",
) -> None:
    """Write the ``*.dist-info`` of one distribution."""
    info = folder / f"{name.replace('-', '_')}-1.5.dist-info"
    info.mkdir(parents=True)
    if metadata == "":
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\nRequires-Dist: {requires}\n"
    for file, content in (("METADATA", metadata), ("entry_points.txt", entry_points)):
        if content is not None:
            data = content if isinstance(content, bytes) else content.encode()
            (info / file).write_bytes(data)
    (info / "RECORD").write_text("")


def sound(folder: Path, module: str, executor: str) -> None:
    """Write the module of a plugin that works."""
    (folder / f"{module}.py").write_text(f"NAME = {executor!r}\n{SOUND}")


def probe(*folders: Path, code: str = "", **environ: str) -> dict[str, Any]:
    """What an interpreter with these folders on its path reports."""
    inherited = {key: text for key, text in os.environ.items() if not key.startswith("PYSTREAM")}
    path = os.pathsep.join(map(str, folders))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROBE + code + REPORT],
        env={**inherited, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **environ},
        capture_output=True,
        text=True,
        timeout=18,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    result["stderr"] = done.stderr
    return result


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report of an interpreter with all hostile modules and a sound plugin."""
    folder = tmp_path_factory.mktemp("hostile")
    for name, hostile in HOSTILE.items():
        module = f"acme_{name.replace('-', '_')}"
        distribution(folder, f"acme-{name}", f"[pystream]\nplug = {module}\n")
        (folder / f"{module}.py").write_text(hostile.code)
    for name in ("acme-aaa", "acme-zzz"):  # sorted before and behind the broken ones
        distribution(folder, name, f"[pystream]\nplug = {name.replace('-', '_')}\n")
        sound(folder, name.replace("-", "_"), name)
    asked = "asked = {n: registry().executor(n) for n in ('acme-aaa', 'acme-zzz')}\n"
    return probe(folder, code=asked)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_plugin_is_named_once_with_its_reason(modules: dict[str, Any], name: str) -> None:
    """Its state tells what is wrong, in one line of warning on the logger PyStream."""
    state, reason = modules["plugins"][f"acme-{name}/plug"]
    assert state == HOSTILE[name].state
    assert HOSTILE[name].reason in reason
    lines = [line for line in modules["lines"] if f"acme-{name}/plug " in line[2]]
    assert [line[:2] for line in lines] == [["PyStream", "WARNING"]]
    assert "\n" not in lines[0][2]


def test_sound_plugins_work_next_to_hostile_ones(modules: dict[str, Any]) -> None:
    """Those sorted before and behind them provide what they should, and nobody else does."""
    mine = [identity for identity in modules["executors"] if identity.startswith("acme")]
    assert mine == ["acme-aaa/acme-aaa", "acme-zzz/acme-zzz"]
    assert modules["asked"] == {"acme-aaa": "'acme-aaa'", "acme-zzz": "'acme-zzz'"}
    assert modules["serial"] == "SerialExecutor"


def test_there_are_twenty_kinds_of_hostile_plugins() -> None:
    """The figure that G13 promises."""
    assert len(HOSTILE) >= 20


@pytest.fixture(scope="module")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report of an interpreter with damaged and misleading distributions."""
    folder = tmp_path_factory.mktemp("metadata")
    for module in ("a", "b", "shared", "old", "sound"):
        sound(folder, f"acme_{module}", module)
    sound(folder, "acme_same", "a")
    plug = "[pystream]\nplug = acme_old\n"
    distribution(folder, "acme-too-new", plug, requires="pystream-core (>=7.0)")
    distribution(folder, "acme-too-old", plug, requires="PyStream_Core<1")
    distribution(folder, "acme-nameless", plug, metadata="Version: 1.0\n")
    distribution(folder, "acme-no-metadata", plug, metadata=None)
    distribution(folder, "acme-binary", plug, metadata=b"\xff\xfe\x00")
    distribution(folder, "acme-damaged", "[pystream]\nplug = acme_old\nno equals sign\n")
    distribution(folder, "acme-unreadable", b"[pystream]\nplug = \xff\xfe\n")
    distribution(folder, "acme-points-nowhere", "[pystream]\nplug = acme old!\n")
    distribution(folder, "acme-points-at-object", "[pystream]\nplug = acme_old:make\n")
    distribution(folder, "acme-says-twice", "[pystream]\nplug = acme_old\nplug = acme_a\n")
    distribution(folder, "acme-two-modules", "[pystream]\na = acme_a\nb = acme_same\n")
    distribution(folder, "acme-shares", "[pystream]\na = acme_shared\nb = acme_shared\n")
    distribution(folder, "pystream-core-imposter", "[pystream]\nplug = acme_old\n", metadata=None)
    distribution(folder, "acme-sound", "[pystream]\nplug = acme_sound\n")
    # Unrelated to PyStream, and as broken as can be found on real machines:
    distribution(folder, "other-damaged", "[console_scripts]\nno equals sign\n", requires="x")
    distribution(folder, "other-binary", b"\xff\xfe", metadata=b"\xff\xfe")
    distribution(folder, "other-empty", "", metadata=None)
    (folder / "other_file-1.0.dist-info").write_text("a file where a folder should be")
    distribution(
        folder,
        "acme-stages",
        "[pystream.stages]\n"
        "acme.good = acme_stages:good\n"
        "acme.twice = acme_stages:good\nacme.twice = acme_stages:other\n"
        "acme/slash = acme_stages:good\n"
        "acme.module = acme_stages\n"
        "acme.absent = acme_stages:absent\n"
        "acme.exits = acme_exits:stage\n"
        "[pystream.sources]\nacme.exits = acme_exits:source\n",
    )
    (folder / "acme_stages.py").write_text(
        "from pystream_core._registry import stage\ndef good(item): return item\n"
    )
    (folder / "acme_exits.py").write_text("raise SystemExit(1)")
    asked = (
        "asked = {n: (lambda n=n: stage(n)) for n in ('acme.good', 'acme.twice', 'acme.absent', "
        "'acme.exits')}\nasked['source'] = lambda: source('acme.exits')\n"
    )
    return probe(folder, code=asked)


@pytest.mark.parametrize(
    ("identity", "state", "reason"),
    [
        ("acme-too-new", "incompatible", "needs pystream-core >=7.0, and 1."),
        ("acme-too-old", "incompatible", "needs pystream-core <1, and 1."),
        ("acme-nameless-1-5-dist-info", "failed", "no name"),
        ("acme-no-metadata-1-5-dist-info", "failed", "no name"),
        ("acme-binary-1-5-dist-info", "failed", "no name"),
        ("acme-damaged", "failed", "entry points cannot be read"),
        ("acme-unreadable", "failed", "entry points cannot be read: UnicodeDecodeError"),
        ("acme-points-at-object/plug", "failed", "must be of the form 'package.module'"),
        ("acme-says-twice/plug", "failed", "is there 2 times"),
        ("acme-two-modules/a", "loaded", ""),
        ("acme-two-modules/b", "failed", "'a' twice"),
        ("acme-shares/a", "loaded", ""),
        ("acme-shares/b", "failed", "already registered"),
        ("acme-stages", "loaded", ""),
        ("acme-stages/acme.twice", "failed", "is there 2 times"),
        ("acme-stages/acme/slash", "failed", "without '/'"),
        ("acme-stages/acme.module", "failed", "must be of the form 'package.module:attr'"),
    ],
)
def test_damaged_metadata_is_named(
    metadata: dict[str, Any], identity: str, state: str, reason: str
) -> None:
    """What is wrong is in the record of the plugin, and one warning tells it."""
    found = metadata["plugins"][identity]
    assert found[0] == state
    assert reason in found[1]
    warnings = [line for line in metadata["lines"] if f"plugin {identity} " in line[2]]
    assert len(warnings) == (state != "loaded")


def test_an_entry_point_that_is_no_reference_is_named(metadata: dict[str, Any]) -> None:
    """Some versions of importlib_metadata refuse the whole file for it, some only the entry."""
    (found,) = (
        info
        for identity, info in metadata["plugins"].items()
        if identity.partition("/")[0] == "acme-points-nowhere"
    )
    assert found[0] == "failed"
    assert "acme old!" in found[1]


def test_damaged_metadata_harms_nobody_else(metadata: dict[str, Any]) -> None:
    """Sound plugins work, incompatible ones are not imported, unrelated ones not mentioned."""
    assert {"acme-sound/sound", "acme-two-modules/a"} <= set(metadata["executors"])
    assert "acme_old" not in metadata["modules"]
    assert not [line for line in metadata["lines"] if "other" in line[2]]
    assert not [name for name in metadata["plugins"] if name.startswith("other")]


def test_broken_stages_and_sources_fail_where_they_are_asked_for(
    metadata: dict[str, Any],
) -> None:
    """Each error names the distribution; those next to them work."""
    asked = metadata["asked"]
    assert asked["acme.good"].startswith("<function good")
    assert asked["acme.twice"].startswith("PluginNotFound")
    for name in ("acme.absent", "acme.exits", "source"):
        assert asked[name].startswith("PluginError")
        assert "of acme-stages 1.5 does not load" in asked[name]
    assert "SystemExit: 1" in asked["source"]


def test_a_broken_finder_on_the_path_is_survived(tmp_path: Path) -> None:
    """The search ends early with a warning; what was found until then works."""
    distribution(tmp_path, "acme-sound", "[pystream]\nplug = acme_sound\n")
    sound(tmp_path, "acme_sound", "sound")
    code = (
        "class Finder:\n"
        "    def find_spec(self, *a): return None\n"
        "    def find_distributions(self, *a): raise SystemExit('finder')\n"
        "sys.meta_path.append(Finder())\n"
    )
    report = probe(tmp_path, code="import importlib_metadata\n" + code)
    assert "acme-sound/sound" in report["executors"]
    assert any("SystemExit: finder" in line[2] for line in report["lines"])


def test_a_look_up_during_an_import_never_hangs(tmp_path: Path) -> None:
    """Stages are found there; another thread's look-up is refused after its patience."""
    distribution(tmp_path, "acme-nested", "[pystream]\nplug = acme_nested\n")
    distribution(tmp_path, "acme-stages", "[pystream.stages]\nacme.good = acme_stages:good\n")
    (tmp_path / "acme_stages.py").write_text("def good(item): return item")
    (tmp_path / "acme_nested.py").write_text(
        "import sys, threading\n"
        "from pystream_core._registry import stage, registry\n"
        "stage('acme.good'), registry().executor('serial')\n"
        "errors = []\n"
        "def other():\n"
        "    try: sys.patient.available()\n"
        "    except Exception as error: errors.append(error)\n"
        "thread = threading.Thread(target=other)\nthread.start()\nthread.join(10)\n"
        "raise errors[0]\n"
    )
    code = "sys.patient = Registry(patience=0.2)\nsys.patient.available()\n"
    report = probe(tmp_path, code=code)
    state, reason = report["plugins"]["acme-nested/plug"]
    assert state == "failed"
    refused = [line[2] for line in report["lines"] if "gave up after 0.2 s" in line[2]]
    assert "importing the plugin acme-nested/plug" in refused[0]
    assert reason  # the second registry met the same plugin and is none the worse for it


def test_ctrl_c_during_an_import_is_not_swallowed(tmp_path: Path) -> None:
    """KeyboardInterrupt passes through, and the next look-up starts afresh."""
    distribution(tmp_path, "acme-slow", "[pystream]\nplug = acme_slow\n")
    sound(tmp_path, "acme_slow", "slow")
    source = (tmp_path / "acme_slow.py").read_text()
    (tmp_path / "acme_slow.py").write_text(
        "import sys\nif not hasattr(sys, 'again'):\n    sys.again = 1\n"
        f"    raise KeyboardInterrupt\n{source}"
    )
    code = "try: available()\nexcept KeyboardInterrupt: pass\nelse: raise AssertionError\n"
    assert "acme-slow/slow" in probe(tmp_path, code=code)["executors"]


def test_filters_keep_hostile_plugins_from_being_imported(tmp_path: Path) -> None:
    """A plugin that cannot be survived at all can be switched off from outside."""
    distribution(tmp_path, "acme-kills", "[pystream]\nplug = acme_kills\n")
    (tmp_path / "acme_kills.py").write_text("import os\nos._exit(9)")
    distribution(tmp_path, "acme-sound", "[pystream]\nplug = acme_sound\n")
    sound(tmp_path, "acme_sound", "sound")
    without = probe(tmp_path, PYSTREAM_DISABLE_PLUGINS="Acme_Kills")
    assert without["plugins"]["acme-kills"] == ["disabled", "named in PYSTREAM_DISABLE_PLUGINS"]
    assert "acme-sound/sound" in without["executors"]
    none = probe(tmp_path, PYSTREAM_PLUGINS="", PYSTREAM_STRICT_PLUGINS="1")
    assert none["executors"] == ["pystream-core/serial"]
    assert none["modules"] == []
    assert none["lines"] == []


def test_really_installed_plugins_are_found_and_isolated(tmp_path: Path) -> None:
    """Two plugins built by flit and installed by pip: one works, the other is named."""
    pytest.importorskip("flit_core")
    pytest.importorskip("pip")
    projects = []
    for name, code in (("built_sound", f"NAME = 'built'\n{SOUND}"), ("built_broken", "1/0")):
        project = tmp_path / name
        project.mkdir()
        projects.append(str(project))
        (project / f"acme_{name}.py").write_text(f'"""A plugin."""\n{code}')
        (project / "pyproject.toml").write_text(
            '[build-system]\nrequires = ["flit_core"]\nbuild-backend = "flit_core.buildapi"\n'
            f'[project]\nname = "Acme.{name}"\nversion = "1.5"\ndescription = "A plugin"\n'
            'dependencies = ["pystream-core>=1.0,<2"]\n'
            f'[project.entry-points.pystream]\nplug = "acme_{name}"\n'
            f'[tool.flit.module]\nname = "acme_{name}"\n'
        )
    target = tmp_path / "target"
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--no-compile"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", str(target), *projects],
        check=True,
        timeout=18,
        capture_output=True,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    report = probe(target)
    assert "acme-built-sound/built" in report["executors"]
    assert report["plugins"]["acme-built-broken/plug"][0] == "failed"
    assert "ZeroDivisionError" in report["plugins"]["acme-built-broken/plug"][1]
