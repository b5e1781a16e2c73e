"""Discovery, isolation and look-up of plugins: the typed front of pluggy.

Nothing is read before a name is looked up that needs it. The look-up of a stage or source
reads the metadata of what is installed and imports that one object; executors, placements
and observers also import every module with hooks, once. A plugin that breaks there is named
in one warning and left out, and the rest works on.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib import import_module
from operator import attrgetter
from types import MappingProxyType, ModuleType
from typing import Any, Final, Generic, TypeVar, cast, get_args

import pluggy

from . import hookspecs
from ._errors import (
    AmbiguousName,
    PlanError,
    PluginError,
    PluginNotFound,
    describe_error,
    safe_repr,
)
from ._installed import (
    CORE,
    Broken,
    Kind,
    PluginInfo,
    Provided,
    foreign,
    leave_out,
    normalised,
    read_installed,
    version_of_core,
)
from ._observer import Observer
from ._options import Parameter, check_keywords, near_miss, parameters
from ._placement import Placement
from ._stage import Stage, StageFactory
from .hookspecs import ExecutorSpec, ObserverSpec, PlacementSpec

T = TypeVar("T")

_HOOKS: Final = MappingProxyType(
    {
        "pystream_executors": ("executor", ExecutorSpec),
        "pystream_placements": ("placement", PlacementSpec),
        "pystream_observers": ("observer", ObserverSpec),
    }
)
_BUILT_IN: Final = "serial"

_HOMES: Final = MappingProxyType(
    {
        ("executor", "threads"): "pystream-threads",
        ("observer", "sqlite"): "pystream-sqlite",
        ("placement", "process"): "pystream-processes",
        **{
            ("stage", name): "pystream-stages"
            for name in ("pace", "sample", "tee", "log", "count", "batch", "window", "unbatch")
        },
        **{("source", name): "pystream-stages" for name in ("lines", "jsonl")},
    }
)
"""Where the names that PyStream's own documentation uses come from."""


@dataclass(frozen=True, kw_only=True)
class Described(Provided):
    """Something provided by a plugin, loaded and laid open.

    Attributes:
        target: the loaded object.
        doc: its docstring, cleaned; empty if it has none.
        parameters: the options that it takes.
    """

    target: Any
    doc: str
    parameters: tuple[Parameter, ...]


@dataclass(frozen=True, kw_only=True)
class Available:
    """Everything that is installed, sorted by name, and how each plugin fared."""

    stages: tuple[Provided, ...]
    sources: tuple[Provided, ...]
    executors: tuple[Provided, ...]
    placements: tuple[Provided, ...]
    observers: tuple[Provided, ...]
    plugins: tuple[PluginInfo, ...]


@dataclass(frozen=True)
class _Hooked:
    offers: tuple[Provided, ...]
    plugins: tuple[PluginInfo, ...]


class _Once(Generic[T]):
    """A value that the first thread to need it makes while the others wait.

    Making it runs foreign code, which may come back here: from the same thread, or from
    another one that the first waits for. The former is refused, the latter bounded. What
    ``make`` raises is not kept, so the next call tries again.
    """

    def __init__(self, make: Callable[[], T], doing: Callable[[], str], patience: float) -> None:
        self._make = make
        self._doing = doing
        self._patience = patience
        self._lock = threading.Lock()  # guards _value and _maker; held while making
        self._value: T | None = None
        self._maker: int | None = None

    def get(self) -> T:
        if self._value is not None:
            return self._value
        me = threading.get_ident()
        if self._maker == me:  # only this thread could have put its own number there
            raise PluginError(
                f"plugins may not be looked up while {self._doing()}: do it in a function that "
                "runs later"
            )
        if not self._lock.acquire(timeout=self._patience):
            raise PluginError(
                f"gave up after {self._patience:g} s, in which another thread was still "
                f"{self._doing()}"
            )
        try:
            if self._value is None:
                self._maker = me
                self._value = self._make()
            return self._value
        finally:
            self._maker = None
            self._lock.release()


class Registry:
    """Everything that installed plugins provide, by name or by ``distribution/name``.

    All methods may be called from any thread. A method that finds a look-up under way in
    another thread waits for it, at most ``patience`` seconds.

    Args:
        patience: longest wait for another thread that imports plugins, in seconds.
    """

    def __init__(self, *, patience: float = 30.0) -> None:
        self._loading = "plugins"
        self._built_in = _Once(_read_built_in, lambda: "loading the core", patience)
        self._installed = _Once(read_installed, lambda: "reading what is installed", patience)
        self._hooked = _Once(
            self._read_hooks, lambda: f"importing the plugin {self._loading}", patience
        )

    def executor(self, name: str) -> Callable[..., Any]:
        """The factory of an executor; ``"serial"`` is found without reading anything.

        Raises:
            PluginNotFound: no plugin provides it, with what to do about that.
            AmbiguousName: several plugins do; use the identity of one.
            PluginError: it does not load.
        """
        return self._factory(self._find("executor", name))

    def placement(self, name: str) -> Callable[..., Placement]:
        """The factory of a placement; raises as :meth:`executor` does."""
        return self._factory(self._find("placement", name))

    def observer(self, name: str) -> Callable[..., Observer]:
        """The factory of an observer or profiler; raises as :meth:`executor` does."""
        return self._factory(self._find("observer", name))

    def stage(self, name: str, /, **options: Any) -> Any:
        """A registered stage, as :func:`stage` returns it."""
        found = self._find("stage", name)
        loaded = _usable(found, _load(found))
        check_keywords(loaded, options, f"stage {name!r}", item=True)
        if isinstance(loaded, StageFactory):
            return StageFactory(loaded.make, {**loaded.options, **options})
        if isinstance(loaded, type):
            return StageFactory(loaded, options)
        return functools.partial(loaded, **options) if options else loaded

    def source(self, name: str, /, **options: Any) -> Iterable[Any]:
        """A registered source, as :func:`source` returns it."""
        found = self._find("source", name)
        make = self._factory(found)
        check_keywords(make, options, f"source {name!r}")
        items = make(**options)
        if not isinstance(items, Iterable):
            raise PluginError(
                f"{_call_it(found)} returned {type(items).__name__}, which cannot be iterated"
            )
        return items

    def describe(self, kind: Kind, name: str) -> Described:
        """Load something and lay it open: where it is from, its docstring, its options.

        Args:
            kind: ``"stage"``, ``"source"``, ``"executor"``, ``"placement"`` or ``"observer"``.
            name: its name or identity.

        Raises:
            PluginNotFound: no plugin provides it, with what to do about that.
            AmbiguousName: several do; use the identity of one.
            PluginError: it does not load.
        """
        found = _dated(self._find(kind, name))
        target = _usable(found, _load(found)) if kind == "stage" else self._factory(found)
        doc = inspect.getdoc(target.make if isinstance(target, StageFactory) else target) or ""
        return Described(
            kind=kind,
            name=found.name,
            distribution=found.distribution,
            version=found.version,
            value=found.value,
            summary=found.summary or doc.partition("\n")[0],
            target=target,
            doc=doc,
            parameters=parameters(target, item=kind == "stage"),
        )

    def available(self) -> Available:
        """Everything that is installed, as :func:`available` returns it."""
        installed, hooked = self._installed.get(), self._hooked.get()
        built_in = map(_dated, self._built_in.get().offers)
        offers = (*built_in, *hooked.offers, *installed.entries)

        def of(kind: Kind) -> tuple[Provided, ...]:
            return tuple(
                sorted(
                    (offer for offer in offers if offer.kind == kind),
                    key=attrgetter("name", "distribution"),
                )
            )

        return Available(
            stages=of("stage"),
            sources=of("source"),
            executors=of("executor"),
            placements=of("placement"),
            observers=of("observer"),
            plugins=tuple(
                sorted(
                    (*installed.plugins, *hooked.plugins), key=attrgetter("distribution", "name")
                )
            ),
        )

    def _find(self, kind: Kind, name: str) -> Provided:
        if kind not in get_args(Kind):
            raise PlanError(f"kind must be one of {', '.join(get_args(Kind))}, not {kind!r}")
        if not isinstance(name, str):
            raise PlanError(f"the name of the {kind} must be text, not {name!r}")
        distribution, bare = _parted(name)
        if kind == "executor" and bare == _BUILT_IN and distribution in ("", CORE):
            return self._built_in.get().offers[0]
        offers = [offer for offer in self._offers(kind) if offer.kind == kind]
        found = [
            offer
            for offer in offers
            if offer.name == bare and distribution in ("", offer.distribution)
        ]
        if not found:
            raise PluginNotFound(self._explain(kind, name, offers))
        if len(found) > 1:
            identities = sorted(offer.identity for offer in found)
            raise AmbiguousName(
                f"several plugins provide the {kind} {name!r}: use one of "
                f"{', '.join(map(repr, identities))} instead"
            )
        return found[0]

    def _offers(self, kind: Kind) -> tuple[Provided, ...]:
        if kind in ("stage", "source"):
            return self._installed.get().entries
        return (*self._built_in.get().offers, *self._hooked.get().offers)

    def _factory(self, found: Provided) -> Callable[..., Any]:
        loaded = _load(found)
        if not callable(loaded):
            raise PluginError(
                f"{_call_it(found)} is {type(loaded).__name__}, which cannot be called"
            )
        return cast(Callable[..., Any], loaded)

    def _explain(self, kind: Kind, name: str, offers: Iterable[Provided]) -> str:
        installed = self._installed.get()
        plugins = installed.plugins
        if kind not in ("stage", "source"):
            plugins += self._hooked.get().plugins
        names = sorted({offer.name for offer in offers})
        home = home_of(kind, name)
        what = "observer or profiler" if kind == "observer" else kind
        ours = [known for known_kind, known in _HOMES if known_kind == kind]
        missing = home and home not in installed.distributions
        spelt_right = missing or _parted(name)[1] in ours
        near = "" if spelt_right else near_miss(name, sorted({*names, *ours}))
        lines = [f"no installed plugin provides the {what} {name!r}{near}."]
        if missing:
            folder = home.removeprefix("pystream-")
            lines.append(
                f"It comes with {home}: python -m pip install {home} (from a checkout: "
                f"python -m pip install . ./plugins/{folder})."
            )
        lines.append(f"Installed: {', '.join(names) or 'none'}.")
        left_out = [
            f"{plugin.identity} ({plugin.state}: {plugin.reason})"
            for plugin in sorted(plugins, key=attrgetter("identity"))
            if plugin.state != "loaded"
        ]
        if left_out:
            lines.append(f"Not loaded: {'; '.join(left_out)}.")
        if not home:
            lines.append("`pystream plugins` lists everything that is installed.")
        return " ".join(lines)

    def _read_hooks(self) -> _Hooked:
        manager = _manager()
        offers: list[Provided] = []
        plugins: list[PluginInfo] = []
        for entry in self._installed.get().entries:
            if entry.kind != "plugin":
                continue
            self._loading = entry.identity
            try:
                provided = _ask(manager, entry)
                _refuse_taken(provided, offers)
            except Broken as broken:
                info = leave_out(entry.name, entry.distribution, entry.version, broken)
            else:
                offers += provided
                info = PluginInfo(
                    name=entry.name,
                    distribution=entry.distribution,
                    version=entry.version,
                    state="loaded",
                )
            plugins.append(info)
        return _Hooked(tuple(offers), tuple(plugins))


@functools.cache
def registry() -> Registry:
    """The registry of this process."""
    return Registry()


def stage(name: str, /, **options: Any) -> Any:
    """A registered stage, ready for ``Pipeline.add``.

    Args:
        name: as ``pystream plugins`` lists it, or ``distribution/name``.
        options: for the stage; checked now, also when the stage is made by each worker.

    Raises:
        PluginNotFound: no plugin provides it, with what to do about that.
        AmbiguousName: several plugins do; use the identity of one.
        PlanError: the stage does not take these options, or needs more.
        PluginError: it does not load.
    """
    return registry().stage(name, **options)


def placement(name: str, /, **options: Any) -> Placement:
    """A placement with options, for ``Pipeline.add`` and ``parallelize``. Without options its name
    does.

    Args:
        name: as ``pystream plugins`` lists it, or ``distribution/name``.
        options: for the placement; checked now.

    Raises:
        PluginNotFound: no plugin provides it, with what to do about that.
        AmbiguousName: several plugins do; use the identity of one.
        PlanError: it does not take these options, or needs more.
        PluginError: it does not load.
    """
    make = registry().placement(name)
    what = f"placement {name!r}"
    check_keywords(make, options, what)
    found: Placement = built(make, Placement, what, **options)
    return found


def built(make: Callable[..., Any], kind: type, what: str, /, **options: Any) -> Any:
    """What a plugin's factory makes, if it is what its kind promises.

    Raises:
        PluginError: it is something else.
    """
    made = make(**options)
    if not isinstance(made, kind):
        raise PluginError(
            f"the factory of the {what} returned {type(made).__name__}, which is no "
            f"{kind.__name__}: tell the author of the plugin"
        )
    return made


def source(name: str, /, **options: Any) -> Iterable[Any]:
    """The items of a registered source, for ``stream`` and ``run``.

    Raises as :func:`stage` does, and whatever the source itself raises.

    Args:
        name: as ``pystream plugins`` lists it, or ``distribution/name``.
        options: for the source; checked first.
    """
    return registry().source(name, **options)


def available() -> Available:
    """Everything that is installed. Imports plugin modules, but no stage and no source.

    Raises:
        PluginError: called while a plugin is being imported, or a plugin is broken and
            ``PYSTREAM_STRICT_PLUGINS`` is set.
    """
    return registry().available()


def _manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager("pystream")
    manager.add_hookspecs(hookspecs)
    return manager


def _read_built_in() -> _Hooked:
    # By name, and through the hooks: the built-in enters by the same door as plugins. Its
    # version is filled in where it is shown, since reading metadata takes its time.
    entry = Provided(
        kind="plugin",
        name=_BUILT_IN,
        distribution=CORE,
        version="",
        value=f"{__package__}._serial",
    )
    return _Hooked(tuple(_ask(_manager(), entry)), ())


def _dated(offer: Provided) -> Provided:
    return offer if offer.version else replace(offer, version=version_of_core() or "unknown")


def _ask(manager: pluggy.PluginManager, entry: Provided) -> list[Provided]:
    """Import one module with hooks, register it, and call its hooks one by one."""
    with foreign("its import raised"):
        module = import_module(entry.value)
    try:
        _register(manager, entry, module)
        return _records(manager, entry, module)
    except Broken:
        if manager.has_plugin(entry.identity):
            manager.unregister(name=entry.identity)
        raise


def _register(manager: pluggy.PluginManager, entry: Provided, module: ModuleType) -> None:
    with foreign("it cannot be registered"):
        try:
            manager.register(module, name=entry.identity)
            manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise Broken(describe_error(error), "incompatible") from error
        if not manager.get_hookcallers(module):
            raise Broken(f"{entry.value} implements no hook: mark functions with @hookimpl")


def _records(manager: pluggy.PluginManager, entry: Provided, module: ModuleType) -> list[Provided]:
    offers: list[Provided] = []
    for caller in manager.get_hookcallers(module) or ():
        if caller.name not in _HOOKS:  # marked as optional: a hook of another version
            continue
        kind, record = _HOOKS[caller.name]
        for implementation in caller.get_hookimpls():
            if implementation.plugin is not module:
                continue
            with foreign(f"its hook {caller.name} raised"):  # the list may be hostile as well
                returned: Any = implementation.function()
                if not isinstance(returned, list):
                    raise Broken(
                        f"its hook {caller.name} must return a list, not {safe_repr(returned, 80)}"
                    )
                offers += [_offer(entry, kind, record, one) for one in returned]
    return offers


def _offer(entry: Provided, kind: str, record: type[Any], one: Any) -> Provided:
    if type(one) is not record:  # a subclass could have checked nothing
        raise Broken(f"it must return {record.__name__} records, not {safe_repr(one, 80)}")
    return replace(entry, kind=kind, name=one.name, value=one.factory, summary=one.summary)


def _refuse_taken(offers: Iterable[Provided], taken: Iterable[Provided]) -> None:
    seen = {(offer.kind, offer.identity) for offer in taken}
    for offer in offers:
        if offer.kind == "executor" and offer.name == _BUILT_IN:
            raise Broken(f"the executor {_BUILT_IN!r} is built in and cannot be replaced")
        if (offer.kind, offer.identity) in seen:
            raise Broken(f"{offer.distribution} provides the {offer.kind} {offer.name!r} twice")
        seen.add((offer.kind, offer.identity))


def _load(found: Provided) -> Any:
    module, _, attributes = found.value.partition(":")
    try:
        with foreign(f"importing {found.value} raised"):
            return attrgetter(attributes)(import_module(module))
    except Broken as broken:
        raise PluginError(f"{_call_it(found)} does not load: {broken}") from broken.__cause__


def _call_it(found: Provided) -> str:
    return f"the {found.kind} {found.name!r} of {found.distribution} {found.version}".rstrip()


def _usable(found: Provided, loaded: Any) -> Any:
    """What was loaded, if stages can be made of it; else PluginError."""
    if isinstance(loaded, StageFactory):
        return loaded
    if isinstance(loaded, type) and issubclass(loaded, Stage):
        if inspect.isabstract(loaded):
            missing = ", ".join(sorted(loaded.__abstractmethods__))
            raise PluginError(f"{_call_it(found)} is abstract: {loaded.__name__} lacks {missing}")
        return loaded
    if inspect.isroutine(loaded) or isinstance(loaded, functools.partial):
        if _takes_no_item(loaded):
            raise PluginError(f"{_call_it(found)} takes no item: its first parameter must be one")
        return loaded
    # An instance would be shared between pipelines; any other class is no stage when made.
    raise PluginError(
        f"{_call_it(found)} is {safe_repr(loaded, 80)}: it must be a subclass of Stage, a "
        "factory(...), or a function whose first parameter is the item"
    )


def _takes_no_item(function: Callable[..., Any]) -> bool:
    try:
        first = next(iter(inspect.signature(function).parameters.values()), None)
    except Exception:  # no signature, as with some built-ins
        return False
    return first is None or first.kind in (first.KEYWORD_ONLY, first.VAR_KEYWORD)


def _parted(name: str) -> tuple[str, str]:
    """The distribution, empty for a bare name, and the name. No registered name holds ``/``."""
    distribution, slash, bare = name.partition("/")
    return (normalised(distribution), bare) if slash else ("", name)


def home_of(kind: Kind, name: str) -> str:
    """The distribution of PyStream itself that provides a name, empty if none does."""
    distribution, bare = _parted(name)
    if kind in ("stage", "source") and bare.partition(".")[0] == "video":
        home = "pystream-video"
    else:
        home = _HOMES.get((kind, bare), "")
    return home if distribution in ("", home) else ""
