"""Look-up of plugins: names, identities, options, filters and messages."""

from __future__ import annotations

import functools
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pystream_core import (
    AmbiguousName,
    ExecutorSpec,
    Pipeline,
    PlanError,
    PluginError,
    PluginNotFound,
    Stage,
    StageFactory,
    _installed as installed_module,
    _registry,
    _registry as registry_module,
    factory,
    placement,
)
from pystream_core._installed import _CORE_RANGE, Installed, excludes
from pystream_core._options import check_keywords, parameters
from pystream_core._registry import Registry, _Once

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a distribution (metadata and one module) on the path, alone in what is let in."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("PYSTREAM_STRICT_PLUGINS", raising=False)
    monkeypatch.delenv("PYSTREAM_DISABLE_PLUGINS", raising=False)
    monkeypatch.setenv("PYSTREAM_PLUGINS", "")
    before = set(sys.modules)

    def install(
        name: str,
        module: str,
        *,
        code: str = "",
        hooks: dict[str, str] | None = None,
        stages: dict[str, str] | None = None,
        sources: dict[str, str] | None = None,
        requires: str = "pystream-core>=1,<2",
    ) -> None:
        info = tmp_path / f"{name.replace('-', '_')}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\nRequires-Dist: {requires}\n"
        )
        groups = {"pystream": hooks, "pystream.stages": stages, "pystream.sources": sources}
        (info / "entry_points.txt").write_text(
            "".join(
                f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in points.items())
                for group, points in groups.items()
                if points
            )
        )
        (info / "RECORD").write_text("")
        (tmp_path / f"{module}.py").write_text(code)
        monkeypatch.setenv("PYSTREAM_PLUGINS", f"{os.environ['PYSTREAM_PLUGINS']},{name}")

    yield install
    for added in set(sys.modules) - before:
        if added.startswith("acme"):
            del sys.modules[added]


EXECUTORS = """
from pystream_core import ExecutorSpec, ObserverSpec, PlacementSpec, hookimpl

@hookimpl
def pystream_executors():
    return [ExecutorSpec(name="fast", factory=__name__ + ":make", summary="very fast")]

@hookimpl
def pystream_placements():
    return [PlacementSpec(name="far", factory=__name__ + ":make")]

@hookimpl
def pystream_observers():
    return [ObserverSpec(name="eye", factory=__name__ + ":make")]

def make(speed: int = 3):
    '''Make it.

    Slowly.
    '''
"""

STAGES = """
from pystream_core import Stage, factory

class Blur(Stage):
    '''Blur frames.'''
    def __init__(self, sigma: float = 1.0, *, size: int):
        self.sigma, self.size = sigma, size
    def __call__(self, data): return data
    def cleanup(self): pass

class Plain(Stage):
    def __call__(self, data): return data
    def cleanup(self): pass

class Half(Stage):
    def __call__(self, data): return data

class NoStage:
    def __call__(self, data): return data

blur = factory(Blur, sigma=2.0, size=5)

def scale(item, by: "int", offset=0):
    '''Scale items.'''
    return item * by + offset

def same(item): return item
def any_options(*args, **options): return args, options
def nothing(): pass
instance = Plain()
"""

SOURCES = """
def numbers(stop: int, start=0):
    '''Count.'''
    return range(start, stop)
def nothing(): return None
no_callable = 5
"""


# --- executors, placements, observers -----------------------------------------------------


def test_serial_is_found_without_reading_any_metadata() -> None:
    """The built-in executor costs no scan, by name and by identity."""
    code = (
        "import sys\nfrom pystream_core._registry import registry\n"
        "assert registry().executor('serial') is registry().executor('pystream-core/serial')\n"
        "assert registry().executor('serial').__name__ == 'SerialExecutor'\n"
        "assert 'importlib_metadata' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=20)


def test_hooked_things_are_found_by_name_and_identity(install: Install) -> None:
    """A factory is the loaded object of its record, whatever the spelling of the identity."""
    install("Acme_Exec", "acme_exec", code=EXECUTORS, hooks={"plug": "acme_exec"})
    registry = Registry()
    make = registry.executor("fast")
    assert make.__name__ == "make"
    assert registry.executor("acme-exec/fast") is make
    assert registry.executor("ACME.exec/fast") is make
    assert registry.placement("far") is make
    assert registry.observer("eye") is make


def test_serial_is_listed_with_its_version(install: Install) -> None:
    """The built-in executor appears in listings as any other."""
    (serial,) = Registry().available().executors
    assert serial.identity == "pystream-core/serial"
    assert serial.version
    assert serial.summary
    assert Registry().describe("executor", "serial").version == serial.version


def test_two_providers_of_a_name_are_ambiguous_only_by_the_bare_name(install: Install) -> None:
    """The error lists the identities, and each of them works."""
    install("acme-a", "acme_a", code=EXECUTORS, hooks={"plug": "acme_a"})
    install("acme-b", "acme_b", code=EXECUTORS, hooks={"plug": "acme_b"})
    registry = Registry()
    assert len(registry.available().executors) == 3
    with pytest.raises(AmbiguousName, match=r"'acme-a/fast', 'acme-b/fast'"):
        registry.executor("fast")
    assert registry.executor("acme-b/fast").__module__ == "acme_b"


def test_a_factory_that_does_not_load_is_a_plugin_error(install: Install) -> None:
    """The error names the plugin and is chained to the cause; what cannot be called is refused."""
    code = EXECUTORS.replace('":make", summary', '":absent", summary') + "\nmake = 5\n"
    install("acme-c", "acme_c", code=code, hooks={"plug": "acme_c"})
    with pytest.raises(PluginError, match=r"executor 'fast' of acme-c 1\.5 .*absent") as caught:
        Registry().executor("fast")
    assert isinstance(caught.value.__cause__, AttributeError)
    with pytest.raises(PluginError, match="int, which cannot be called"):
        Registry().placement("far")


def test_an_optional_hook_of_another_version_is_passed_over(install: Install) -> None:
    """A plugin may serve later hooks too, if it says that they are optional."""
    code = EXECUTORS + "@hookimpl(optionalhook=True)\ndef pystream_teapots(pot): 1/0\n"
    install("acme-k", "acme_k", code=code, hooks={"plug": "acme_k"})
    registry = Registry()
    assert registry.executor("fast")
    assert [one.state for one in registry._hooked.get().plugins] == ["loaded"]


# --- not found ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "distribution", "folder"),
    [
        ("executor", "threads", "pystream-threads", "threads"),
        ("placement", "process", "pystream-processes", "processes"),
        ("stage", "tee", "pystream-stages", "stages"),
        ("stage", "batch", "pystream-stages", "stages"),
        ("source", "jsonl", "pystream-stages", "stages"),
        ("stage", "video.resize", "pystream-video", "video"),
        ("source", "pystream-video/video.read", "pystream-video", "video"),
    ],
)
def test_a_missing_plugin_of_ours_is_named_with_its_command(
    monkeypatch: pytest.MonkeyPatch, kind: Any, name: str, distribution: str, folder: str
) -> None:
    """The message holds the pip command, from the index and from a checkout."""
    registry = Registry()
    nothing = registry_module._Hooked((), ())
    empty = Installed((), (), frozenset())
    monkeypatch.setattr(registry, "_installed", _Once(lambda: empty, str, 1))
    monkeypatch.setattr(registry, "_hooked", _Once(lambda: nothing, str, 1))
    with pytest.raises(PluginNotFound) as caught:
        registry.describe(kind, name)
    message = str(caught.value)
    assert f"python -m pip install {distribution} " in message
    assert f"python -m pip install . ./plugins/{folder})" in message


def test_an_unknown_name_is_answered_with_near_misses_and_what_did_not_load(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    """The message names what is installed, what is broken and why, and where to look."""
    install("acme-d", "acme_d", code=EXECUTORS, hooks={"plug": "acme_d"})
    install("acme-e", "acme_e", code="1/0", hooks={"plug": "acme_e"})
    with pytest.raises(PluginNotFound) as caught:
        Registry().executor("fasst")
    message = str(caught.value)
    assert "did you mean 'fast'" in message
    assert "Installed: fast, serial." in message
    assert "acme-e/plug (failed: its import raised: ZeroDivisionError" in message
    assert "`pystream plugins`" in message
    assert isinstance(caught.value, LookupError)


def test_names_and_kinds_of_the_wrong_type_are_refused(install: Install) -> None:
    """What is no text is no name, and a kind is one of five."""
    with pytest.raises(PlanError, match="must be text"):
        Registry().executor(5)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="kind must be one of"):
        Registry().describe("thing", "x")  # type: ignore[arg-type]


# --- stages and sources -------------------------------------------------------------------


@pytest.fixture
def acme(install: Install) -> Registry:
    """A registry with stages and sources of all sorts."""
    names = ("Blur", "Plain", "Half", "NoStage", "blur", "scale", "same", "any_options")
    stages = {
        f"acme.{name}": f"acme_stages:{name}" for name in (*names, "nothing", "instance", "absent")
    }
    install("acme-stages", "acme_stages", code=STAGES, stages=stages)
    names = ("numbers", "nothing", "no_callable")
    sources = {f"acme.{name}": f"acme_sources:{name}" for name in names}
    install("acme-sources", "acme_sources", code=SOURCES, sources=sources)
    return Registry()


def test_a_stage_class_becomes_a_factory_of_it(acme: Registry) -> None:
    """Each worker makes its own instance with the given options."""
    made = acme.stage("acme.Blur", size=3)
    assert isinstance(made, StageFactory)
    assert made().size == 3
    assert made().sigma == 1.0
    assert made() is not made()
    assert acme.stage("acme-stages/acme.Plain")() is not None


def test_options_override_those_of_a_factory(acme: Registry) -> None:
    """A factory's own options count as defaults and stay as they are."""
    assert acme.stage("acme.blur")().sigma == 2.0
    assert acme.stage("acme.blur", size=7)().size == 7
    assert acme.stage("acme.blur")().size == 5
    with pytest.raises(PlanError, match=r"has no option 'siz' .*'size'.*sigma=2\.0, size=5"):
        acme.stage("acme.blur", siz=1)


def test_options_of_a_function_are_bound_as_keywords(acme: Registry) -> None:
    """The item stays the first argument; a function without options is returned as it is."""
    scale = acme.stage("acme.scale", by=3)
    assert isinstance(scale, functools.partial)
    assert scale(2) == 6
    assert acme.stage("acme.same").__name__ == "same"
    assert acme.stage("acme.any_options", name=1, self=2)(0) == ((0,), {"name": 1, "self": 2})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"stage 'acme.scale' needs the option 'by'\. Its options: by \(required\), offset=0"),
        ({"by": 1, "ofset": 2}, r"no option 'ofset' \(did you mean 'offset'\?\)"),
        ({"by": 1, "item": 2}, "no option 'item'"),
    ],
)
def test_wrong_options_of_a_stage_are_refused_at_once(
    acme: Registry, options: dict[str, Any], message: str
) -> None:
    """The message names the stage, the option, the near miss, and the known options."""
    with pytest.raises(PlanError, match=message):
        acme.stage("acme.scale", **options)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Half", "abstract: Half lacks cleanup"),
        ("NoStage", "must be a subclass of Stage"),
        ("instance", "must be a subclass of Stage"),
        ("nothing", "takes no item"),
        ("absent", "does not load: .*AttributeError"),
    ],
)
def test_what_is_no_stage_is_a_plugin_error(acme: Registry, name: str, message: str) -> None:
    """The message names the distribution and what a stage must be."""
    with pytest.raises(PluginError, match=rf"acme-stages 1\.5.*{message}"):
        acme.stage(f"acme.{name}")


def test_a_source_is_called_with_its_options(acme: Registry) -> None:
    """The result is iterable; options are checked before the call."""
    assert list(acme.source("acme.numbers", stop=3, start=1)) == [1, 2]
    with pytest.raises(PlanError, match=r"source 'acme\.numbers' needs the option 'stop'"):
        acme.source("acme.numbers")
    with pytest.raises(PluginError, match="NoneType, which cannot be iterated"):
        acme.source("acme.nothing")
    with pytest.raises(PluginError, match="cannot be called"):
        acme.source("acme.no_callable")


def test_stages_and_sources_are_listed_without_importing_them(acme: Registry) -> None:
    """The listing is sorted, carries identities, and loads nothing."""
    found = acme.available()
    assert [one.name for one in found.sources] == [
        "acme.no_callable",
        "acme.nothing",
        "acme.numbers",
    ]
    assert found.sources[2].identity == "acme-sources/acme.numbers"
    assert found.sources[2].value == "acme_sources:numbers"
    states = {plugin.identity: plugin.state for plugin in found.plugins}
    assert states["acme-stages"] == states["acme-sources"] == "loaded"
    assert not {"acme_stages", "acme_sources"} & set(sys.modules)


def test_describe_lays_options_open(acme: Registry) -> None:
    """Name, type, default and need of each option, with docstring and origin."""
    scale = acme.describe("stage", "acme.scale")
    assert (scale.distribution, scale.version, scale.summary) == (
        "acme-stages",
        "1.5",
        "Scale items.",
    )
    by, offset = scale.parameters
    assert (by.name, by.type, by.required) == ("by", "int", True)
    assert (offset.name, offset.default, offset.required) == ("offset", 0, False)
    blur = acme.describe("stage", "acme.blur")
    assert blur.doc == "Blur frames."
    assert [(one.name, one.default) for one in blur.parameters] == [("sigma", 2.0), ("size", 5)]
    assert acme.describe("stage", "acme.Plain").parameters == ()
    assert acme.describe("stage", "acme.any_options").parameters[0].name == "**options"
    assert acme.describe("source", "acme.numbers").doc == "Count."


def test_the_public_functions_use_the_registry_of_the_process(
    acme: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """stage(), source() and available() are the methods of one registry."""
    assert registry_module.registry() is registry_module.registry()
    monkeypatch.setattr(registry_module, "registry", lambda: acme)
    assert registry_module.stage("acme.scale", by=2)(4) == 8
    assert list(registry_module.source("acme.numbers", stop=1)) == [0]
    assert registry_module.available() == acme.available()


def test_a_builtin_without_signature_may_be_a_stage(install: Install) -> None:
    """What cannot be inspected is taken on trust; its first call will tell."""
    install("acme-l", "acme_l", stages={"acme.next": "builtins:next"})
    assert Registry().stage("acme.next") is next


def test_the_name_in_the_metadata_counts_not_that_of_the_folder(
    install: Install, tmp_path: Path
) -> None:
    """Some installers shorten folder names."""
    install("acme-m", "acme_m", stages={"acme.x": "acme_m:x"})
    (tmp_path / "acme_m-1.5.dist-info").rename(tmp_path / "am-1.5.dist-info")
    assert [one.identity for one in Registry().available().stages] == ["acme-m/acme.x"]


# --- filters and strictness ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("only", "without", "names"),
    [
        ("", "", []),
        ("Acme.Stages", "", ["acme.same", "acme.scale"]),
        ("acme-stages/acme.same", "", ["acme.same"]),
        (None, "acme_stages", []),
        (None, "acme-stages/acme.same", ["acme.scale"]),
        ("acme-stages", "ACME_STAGES/acme.scale", ["acme.same"]),
    ],
)
def test_filters_act_on_distributions_and_identities(
    install: Install,
    monkeypatch: pytest.MonkeyPatch,
    only: str | None,
    without: str,
    names: list[str],
) -> None:
    """What is filtered out is neither listed nor found, and is reported as disabled."""
    stages = {"acme.same": "acme_stages:same", "acme.scale": "acme_stages:scale"}
    install("acme-stages", "acme_stages", code=STAGES, stages=stages)
    monkeypatch.setenv("PYSTREAM_DISABLE_PLUGINS", without)
    if only is None:
        monkeypatch.delenv("PYSTREAM_PLUGINS")
    else:
        monkeypatch.setenv("PYSTREAM_PLUGINS", only)
    registry = Registry()
    installed = registry._installed.get()
    mine = [one.name for one in installed.entries if one.distribution == "acme-stages"]
    assert mine == names
    disabled = [one for one in installed.plugins if one.distribution == "acme-stages"]
    disabled = [one for one in disabled if one.state == "disabled"]
    if names:
        assert {one.name for one in disabled} == set(stages) - set(names)
    else:
        assert [one.identity for one in disabled] == ["acme-stages"]
        with pytest.raises(PluginNotFound, match=r"acme-stages \(disabled: .*PYSTREAM_"):
            registry.stage("acme.same")


def test_a_disabled_plugin_is_never_imported(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Filters act before the import, and never on serial."""
    install("acme-f", "acme_f", code="raise SystemExit", hooks={"plug": "acme_f"})
    monkeypatch.setenv("PYSTREAM_DISABLE_PLUGINS", "acme-f, serial, pystream-core")
    monkeypatch.setenv("PYSTREAM_STRICT_PLUGINS", "1")
    registry = Registry()
    assert [one.name for one in registry.available().executors] == ["serial"]
    assert "acme_f" not in sys.modules


def test_unknown_names_in_filters_are_warned_about_once(
    install: Install, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A misspelt filter would otherwise switch everything off in silence."""
    install("acme-g", "acme_g", stages={"acme.x": "acme_g:x"})
    monkeypatch.setenv("PYSTREAM_PLUGINS", "acme-g,acmee")
    registry = Registry()
    registry.available()
    registry.available()
    (line,) = [record.getMessage() for record in caplog.records]
    assert "PYSTREAM_PLUGINS names 'acmee'" in line
    assert "acme-g" in line


def test_strictness_turns_isolation_into_an_error(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look-up that meets the broken plugin raises, chained to the cause."""
    install("acme-h", "acme_h", code="1/0", hooks={"plug": "acme_h"})
    monkeypatch.setenv("PYSTREAM_STRICT_PLUGINS", "1")
    registry = Registry()
    for _ in range(2):
        with pytest.raises(PluginError, match=r"acme-h/plug 1\.5 is failed.*PYSTREAM_STRICT"):
            registry.executor("fast")
    assert registry.executor("serial")


def test_one_broken_plugin_costs_one_warning_line(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    """The line is on the logger PyStream, names the plugin, and comes once."""
    install("acme-i", "acme_i", code="raise ValueError('a\\nb')", hooks={"plug": "acme_i"})
    registry = Registry()
    registry.available()
    registry.available()
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("PyStream", logging.WARNING)
    assert "\n" not in record.getMessage()
    assert "acme-i/plug 1.5" in record.getMessage()


def test_a_shadowed_copy_does_not_count(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two copies of a distribution on the path the first one counts, as for imports."""
    install("acme-j", "acme_j", stages={"acme.old": "acme_j:x"})
    for version, offers in (("2.0", "acme.new = acme_j:x"), ("3.0", "")):
        folder = tmp_path / version
        info = folder / f"Acme.J-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Name: Acme.J\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[pystream.stages]\n{offers}\n" if offers else "")
        monkeypatch.syspath_prepend(folder)
        expected = [offers.partition(" ")[0]] if offers else []
        assert [one.name for one in Registry().available().stages] == expected


# --- threads ------------------------------------------------------------------------------


def test_many_threads_make_a_value_once() -> None:
    """All get the value that the first one made."""
    made: list[int] = []
    once = _Once(lambda: made.append(1) or object(), str, 5.0)
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(once.get())) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(made) == 1
    assert len(set(map(id, found))) == 1


def test_a_thread_that_waited_takes_what_the_other_made() -> None:
    """The value is looked at once more when the lock is had."""

    class LockThatTheOtherJustLeft:
        def acquire(self, timeout: float) -> bool:
            once._value = "made by the other"
            return True

        def release(self) -> None:
            pass

    once = _Once(lambda: "made again", str, 5.0)
    once._lock = LockThatTheOtherJustLeft()  # type: ignore[assignment]
    assert once.get() == "made by the other"


def test_a_second_thread_waits_no_longer_than_its_patience() -> None:
    """An import that waits for another thread's look-up ends in an error, not in a hang."""
    errors: list[BaseException] = []

    def other() -> None:
        try:
            once.get()
        except PluginError as error:
            errors.append(error)

    def make() -> str:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(10)
        return "made"

    once = _Once(make, lambda: "importing acme", 0.05)
    assert once.get() == "made"
    assert "gave up after 0.05 s" in str(errors[0])


def test_what_is_not_made_is_tried_again() -> None:
    """A failure is not kept: the next call makes the value."""
    attempts = iter([ZeroDivisionError, None])

    def make() -> str:
        error = next(attempts)
        if error is not None:
            raise error
        return "made"

    once = _Once(make, str, 1.0)
    with pytest.raises(ZeroDivisionError):
        once.get()
    assert once.get() == "made"


# --- options and version ranges -----------------------------------------------------------


def test_targets_without_signature_take_any_options() -> None:
    """Some built-ins have no signature; their call will tell."""
    (others,) = parameters(dict)
    assert (others.name, others.required) == ("**options", False)
    check_keywords(dict, {"anything": 1}, "executor 'x'")


def test_executor_options_are_checked_against_the_factory() -> None:
    """An unknown option is refused with the list of known ones, none is said so."""
    with pytest.raises(PlanError, match=r"executor 'x' has no option 'queue'\. It takes no opt"):
        check_keywords(lambda: None, {"queue": 1}, "executor 'x'")
    check_keywords(lambda *, queue=1: None, {"queue": 1}, "executor 'x'")


def test_a_name_that_is_right_is_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is only switched off is told as such, without asking whether its name was meant."""
    monkeypatch.setenv("PYSTREAM_DISABLE_PLUGINS", "pystream-sqlite")
    with pytest.raises(PluginNotFound, match=r"named in PYSTREAM_DISABLE_PLUGINS") as missing:
        Registry().observer("sqlite")
    assert "did you mean" not in str(missing.value)


def test_every_wrong_option_is_named_at_once() -> None:
    """Nobody has to run three times to learn of three mistakes."""

    def blur(item: object, *, size: int, radius: int = 1) -> object:
        return item

    with pytest.raises(PlanError) as refused:
        check_keywords(blur, {"sise": 1, "x": 2}, "stage 'blur'", item=True)
    assert str(refused.value) == (
        "stage 'blur' has no option 'sise' (did you mean 'size'?) and has no option 'x' and needs "
        "the option 'size'. Its options: size (required), radius=1."
    )


def test_the_item_is_no_option_of_a_stage() -> None:
    """Of a function it is the first parameter; what makes stages takes options only."""

    def make(radius: int, size: int = 1) -> Stage[object]:
        raise NotImplementedError

    assert [one.name for one in parameters(make, item=True)] == ["size"]
    assert [one.name for one in parameters(factory(make, radius=2), item=True)] == [
        "radius",
        "size",
    ]
    assert [one.default for one in parameters(factory(make, radius=2))] == [2, 1]
    assert [one.name for one in parameters(lambda *items, size=1: items, item=True)] == ["size"]
    assert [one.name for one in parameters(lambda *, size: size, item=True)] == ["size"]


@pytest.mark.parametrize(
    ("clause", "version", "expected"),
    [
        (">=1.0", "1.0.0", False),
        (">=1.0.1", "1.0.0", True),
        (">=2", "10.0", False),
        ("<2", "2.0.0", True),
        ("<2", "1.9.9", False),
        ("<=1.0", "1.0.0", False),
        ("<= 0.9", "1.0.0", True),
        (">1", "1.0", True),
        ("==1.0", "1.0.0", False),
        ("==1.0", "1.1.0", True),
        ("==1.*", "1.5.0", False),
        ("==2.*", "1.5.0", True),
        ("!=1.0", "1.0.0", True),
        ("!=1.*", "1.2.0", True),
        ("!=1.*", "2.2.0", False),
        ("~=1.2", "1.9.0", False),
        ("~=1.2", "1.1.0", True),
        ("~=1.2", "2.0.0", True),
        ("~=1.2.3", "1.3.0", True),
        (">=2.0a1", "1.0", False),
        ("===1.0", "2.0", False),
        (">=2", "1.0rc1", False),
        (">=2", "", False),
        ("", "1.0", False),
    ],
)
def test_version_ranges_are_judged_only_when_they_are_plain(
    clause: str, version: str, expected: bool
) -> None:
    """Numeric versions are compared; everything else counts as compatible."""
    assert excludes(clause, version) is expected


def test_a_core_that_is_not_installed_suits_every_plugin(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Used from its sources the core has no version to compare with."""
    install("acme-n", "acme_n", stages={"acme.x": "acme_n:x"}, requires="pystream-core>=9")
    monkeypatch.setattr(installed_module, "CORE", "pystream-core-not-installed")
    assert installed_module.version_of_core() == ""
    assert [one.name for one in Registry().available().stages] == ["acme.x"]


@pytest.mark.parametrize(
    ("requirement", "text"),
    [
        ("pystream-core>=1.0,<2", ">=1.0,<2"),
        ("PyStream_Core (>=1.0)", ">=1.0"),
        ("pystream.core[testing] >= 1 ; extra == 'test'", ">= 1 "),
        ("pystream-core", ""),
        ("pystream-core-extras>=5", None),
        ("pystream-corex>=5", None),
    ],
)
def test_requirements_on_the_core_are_recognised(requirement: str, text: str | None) -> None:
    """In any spelling, and no other distribution's."""
    match = _CORE_RANGE.fullmatch(requirement)
    assert (match and (match["old"] or match["range"] or "").strip()) == (text and text.strip())


def test_records_name_their_factory_as_text() -> None:
    """A record without module and attribute is refused where it is made."""
    with pytest.raises(PluginError, match=r"package\.module:attr"):
        ExecutorSpec(name="x", factory="module")


def test_a_record_whose_summary_is_no_text_is_refused() -> None:
    """Listings print it."""
    with pytest.raises(PluginError, match="summary must be text"):
        ExecutorSpec(name="x", factory="package.module:attr", summary=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("use", "what"),
    [
        (lambda: placement("far"), "placement 'far' returned NoneType, which is no Placement"),
        (lambda: Pipeline(observers=["eye"]), "observer 'eye' returned NoneType, which is no Obs"),
        (
            lambda: Pipeline().parallelize(executor="fast"),
            "executor 'fast' returned NoneType, which is no Executor",
        ),
    ],
    ids=["placement", "observer", "executor"],
)
def test_what_a_factory_makes_has_to_be_of_its_kind(
    install: Install, monkeypatch: pytest.MonkeyPatch, use: Any, what: str
) -> None:
    """The plugin is named, not a missing attribute somewhere."""
    install("acme-exec", "acme_exec", code=EXECUTORS, hooks={"plug": "acme_exec"})
    fresh = Registry()
    monkeypatch.setattr(_registry, "registry", lambda: fresh)
    with pytest.raises(PluginError, match=what):
        use()
