"""What the installed distributions offer to PyStream, read without importing any of it.

Distributions are read one by one, each in its own guard: ``entry_points()`` would raise for
all of them because of one whose metadata is damaged. Filters and version ranges are applied
here, so a plugin that is left out is never imported.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Final, Literal

from ._errors import PluginError, describe_error

logger = logging.getLogger("PyStream")

CORE: Final = "pystream-core"
ONLY: Final = "PYSTREAM_PLUGINS"
WITHOUT: Final = "PYSTREAM_DISABLE_PLUGINS"
STRICT: Final = "PYSTREAM_STRICT_PLUGINS"

Kind = Literal["executor", "placement", "observer", "stage", "source"]
State = Literal["loaded", "failed", "incompatible", "disabled"]

_KINDS: Final = {"pystream": "plugin", "pystream.stages": "stage", "pystream.sources": "source"}


@dataclass(frozen=True, kw_only=True)
class Provided:
    """Something that an installed distribution provides under a name.

    Attributes:
        kind: ``"executor"``, ``"placement"``, ``"observer"``, ``"stage"`` or ``"source"``.
        name: what users write.
        distribution: the distribution that provides it, in normalised form.
        version: version of that distribution, ``"unknown"`` if its metadata has none.
        value: what is imported on first use, ``"package.module:attr"``.
        summary: one line, empty where it is not known without importing.
    """

    kind: str
    name: str
    distribution: str
    version: str
    value: str
    summary: str = ""

    @property
    def identity(self) -> str:
        """``distribution/name``: unique, and accepted wherever the name is."""
        return f"{self.distribution}/{self.name}"


@dataclass(frozen=True, kw_only=True)
class PluginInfo:
    """How one plugin fared.

    Attributes:
        name: of the entry point; of the distribution when it is about all of that.
        distribution: the distribution, in normalised form.
        version: version of that distribution, ``"unknown"`` if its metadata has none.
        state: ``"loaded"``; ``"failed"`` (does not load, or breaks the contract of plugins);
            ``"incompatible"`` (made for another version); ``"disabled"`` (by the filters in
            the environment). A distribution with stages and sources only is ``"loaded"``
            although these are imported on first use.
        reason: why it is not loaded.
    """

    name: str
    distribution: str
    version: str
    state: State
    reason: str = ""

    @property
    def identity(self) -> str:
        """What the filters in the environment call it."""
        if self.name == self.distribution:
            return self.distribution
        return f"{self.distribution}/{self.name}"


@dataclass(frozen=True)
class Installed:
    """Everything on offer: entries that may be imported, and the plugins that may not.

    Attributes:
        entries: of kind ``"stage"``, ``"source"``, and ``"plugin"`` for modules with hooks.
        plugins: what was left out, and distributions that offer no hooks.
        distributions: normalised names of all distributions that offer anything.
    """

    entries: tuple[Provided, ...]
    plugins: tuple[PluginInfo, ...]
    distributions: frozenset[str]


class Broken(Exception):
    """Why a plugin cannot be used. Never leaves the registry."""

    def __init__(self, reason: str, state: State = "failed") -> None:
        super().__init__(reason)
        self.state: State = state


@contextmanager
def foreign(what: str) -> Iterator[None]:
    """Run somebody else's code: whatever it raises becomes Broken.

    SystemExit too: a plugin may not end the program by being installed. Ctrl-C may.
    """
    try:
        yield
    except (KeyboardInterrupt, Broken):
        raise
    except BaseException as error:
        raise Broken(f"{what}: {describe_error(error)}") from error


def leave_out(name: str, distribution: str, version: str, broken: Broken) -> PluginInfo:
    """Record a plugin that cannot be used, with one line of warning.

    Raises:
        PluginError: ``PYSTREAM_STRICT_PLUGINS`` asks for it.
    """
    reason = " ".join(str(broken).split())[:500]
    info = PluginInfo(
        name=name, distribution=distribution, version=version, state=broken.state, reason=reason
    )
    if os.environ.get(STRICT, "") not in ("", "0"):
        raise PluginError(
            f"plugin {info.identity} {version} is {info.state}: {reason} (an error because "
            f"{STRICT} is set)"
        ) from broken
    logger.warning("plugin %s %s is left out: %s", info.identity, version, reason)
    return info


def normalised(name: str) -> str:
    """The name of a distribution, or an identity, as it is compared (PEP 503)."""
    distribution, slash, rest = name.strip().partition("/")
    return re.sub(r"[-_.]+", "-", distribution).lower() + slash + rest


def read_installed() -> Installed:
    """Read what is installed. Reads files, imports no plugin, never raises because of one.

    Of several copies of a distribution on ``sys.path`` the first counts, as it does for
    imports.

    Raises:
        PluginError: a plugin is broken and ``PYSTREAM_STRICT_PLUGINS`` is set.
    """
    filters = _Filters(os.environ)
    core = version_of_core()
    entries: list[Provided] = []
    plugins: list[PluginInfo] = []
    known: set[str] = set()
    for found in sorted(_distributions(), key=attrgetter("name")):
        known |= {found.name, *(entry.identity for entry in found.offers)}
        allowed, refused = filters.split(found)
        plugins += refused
        if refused and not allowed:
            continue
        try:
            _check(found, core)
        except Broken as broken:
            plugins.append(leave_out(found.name, found.name, found.version, broken))
            continue
        sound, unsound = _sound(allowed)
        entries += sound
        plugins += unsound
        if sound and all(entry.kind != "plugin" for entry in allowed):
            plugins.append(
                PluginInfo(
                    name=found.name,
                    distribution=found.name,
                    version=found.version,
                    state="loaded",
                )
            )
    filters.warn_about_unknown(known)
    entries.sort(key=attrgetter("kind", "name", "distribution"))
    return Installed(tuple(entries), tuple(plugins), frozenset(known))


@dataclass(frozen=True)
class _Found:
    name: str
    version: str
    dist: Any
    offers: tuple[Provided, ...]
    broken: Broken | None


def _distributions() -> list[_Found]:
    """Each distribution that offers us anything, or would if it were not damaged."""
    import importlib_metadata

    found: dict[str, _Found] = {}
    for dist in _each(importlib_metadata.distributions):
        broken: Broken | None = None
        points: list[tuple[str, str, str]] = []
        try:
            with foreign("its entry points cannot be read"):
                ours = filter(lambda point: point.group in _KINDS, dist.entry_points)
                points = [
                    (_KINDS[point.group], str(point.name), str(point.value)) for point in ours
                ]
        except Broken as error:
            broken = error
        if not points and not (broken and _mentions_us(dist)):
            continue
        given = _read(dist, "name")
        if given and _is_shadowed(dist, given):
            continue
        # A folder's name is for the message only; no public attribute tells it.
        name = normalised(given or os.path.basename(str(getattr(dist, "_path", "unnamed"))))
        name = name.replace("/", "-")
        version = _read(dist, "version") or "unknown"
        offers = tuple(
            Provided(kind=kind, name=entry, distribution=name, version=version, value=value)
            for kind, entry, value in points
        )
        broken = broken or (None if given else Broken("its metadata has no name"))
        found.setdefault(name, _Found(name, version, dist, offers, broken))
    return list(found.values())


def _each(discover: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    """The distributions, ending early when somebody else's finder raises."""
    try:
        with foreign("the search for distributions broke off"):
            distributions = iter(discover())
        while True:
            with foreign("the search for distributions broke off"):
                dist = next(distributions, None)
            if dist is None:
                return
            yield dist
    except Broken as broken:
        logger.warning("plugins may be missing: %s", broken)


def _read(dist: Any, attribute: str) -> Any:
    """An attribute of a distribution, None where its metadata is missing or damaged."""
    try:
        with foreign(attribute):
            return getattr(dist, attribute)
    except Broken:
        return None


def _mentions_us(dist: Any) -> bool:
    try:
        with foreign("its entry points"):
            text = dist.read_text("entry_points.txt") or ""
    except Broken:
        text = ""
    return "[pystream" in text or any(map(_CORE_RANGE.fullmatch, _read(dist, "requires") or ()))


def _is_shadowed(dist: Any, name: str) -> bool:
    """Whether a copy of the distribution in an earlier folder of ``sys.path`` hides it."""
    import importlib_metadata

    try:
        with foreign("the copies of a distribution"):
            first = importlib_metadata.distribution(name)
            return str(first.locate_file("")) != str(dist.locate_file(""))
    except Broken:  # nothing is found under this name, so nothing hides it
        return False


def _sound(offers: Sequence[Provided]) -> tuple[list[Provided], list[PluginInfo]]:
    """Which entries of one distribution can be used; one of the others spoils only itself."""
    sound: list[Provided] = []
    unsound: dict[tuple[str, str], PluginInfo] = {}
    times = Counter((offer.kind, offer.name) for offer in offers)
    for offer in offers:
        key = (offer.kind, offer.name)
        try:
            if times[key] > 1:
                raise Broken(f"the {offer.kind} {offer.name!r} is there {times[key]} times")
            if not offer.name or "/" in offer.name:
                raise Broken(f"{offer.name!r} is no name: it must be text without '/'")
            sound.append(replace(offer, value=_target(offer)))
        except Broken as broken:
            if key not in unsound:
                unsound[key] = leave_out(offer.name, offer.distribution, offer.version, broken)
    return sound, list(unsound.values())


def _target(offer: Provided) -> str:
    """The value of an entry point without extras and blanks.

    Checked by hand: some versions of importlib_metadata check it, some raise on access.
    """
    found = _VALUE.fullmatch(offer.value)
    wanted = "package.module" if offer.kind == "plugin" else "package.module:attr"
    if found is None or bool(found["attr"]) == (offer.kind == "plugin"):
        raise Broken(f"its entry point must be of the form {wanted!r}, not {offer.value!r}")
    return f"{found['module']}:{found['attr']}" if found["attr"] else found["module"]


_VALUE: Final = re.compile(
    r"\s*(?P<module>\w+(\.\w+)*)\s*(:\s*(?P<attr>\w+(\.\w+)*)\s*)?(\[.*\]\s*)?"
)


class _Filters:
    """What the environment lets in: distributions or identities, comma-separated."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        def names(variable: str) -> set[str]:
            parts = environ.get(variable, "").split(",")
            return {normalised(part) for part in parts if part.strip()}

        self._only = names(ONLY) if ONLY in environ else None
        self._without = names(WITHOUT)

    def split(self, found: _Found) -> tuple[list[Provided], list[PluginInfo]]:
        """The offers that may be used, and a record of what may not."""
        refusals = [(offer, self._refusal(offer.identity)) for offer in found.offers]
        allowed = [offer for offer, reason in refusals if not reason]
        whole = "" if allowed else self._refusal(found.name)
        refused = [(found.name, whole)] if whole else [(o.name, why) for o, why in refusals if why]
        return allowed, [
            PluginInfo(
                name=name,
                distribution=found.name,
                version=found.version,
                state="disabled",
                reason=reason,
            )
            for name, reason in refused
        ]

    def _refusal(self, identity: str) -> str:
        names = {identity, identity.partition("/")[0]}
        if names & self._without:
            return f"named in {WITHOUT}"
        if self._only is not None and not names & self._only:
            return f"not named in {ONLY}"
        return ""

    def warn_about_unknown(self, known: Iterable[str]) -> None:
        # "serial" is no plugin to be found here, and the filters never touch it.
        known = {*known, CORE, f"{CORE}/serial"}
        for variable, names in ((ONLY, self._only or set()), (WITHOUT, self._without)):
            for name in sorted(names - known):
                logger.warning(
                    "%s names %r, which is not installed; names that it may hold: %s",
                    variable,
                    name,
                    ", ".join(sorted(known)),
                )


_CORE_RANGE: Final = re.compile(
    r"pystream[-_.]+core\s*(?:\[[^]]*\])?\s*(?:\((?P<old>[^)]*)\)|(?P<range>[<>=!~@][^;]*)?)\s*"
    r"(?P<marker>;.*)?",
    re.IGNORECASE | re.DOTALL,
)


def version_of_core() -> str:
    """Version of the running core, empty if it is not installed but used from its sources."""
    import importlib_metadata

    try:
        with foreign("the version of the core"):
            return importlib_metadata.version(CORE)
    except Broken:
        return ""


def _check(found: _Found, core: str) -> None:
    """Raise Broken if the distribution is damaged or asks for another version of the core.

    Only plain ranges of numeric versions are judged; whatever else a requirement says (a
    marker, a pre-release, a URL) passes, since pip has judged it.
    """
    if found.broken is not None:
        raise found.broken
    for requirement in _read(found.dist, "requires") or ():
        match = _CORE_RANGE.fullmatch(requirement)
        if match is None or match["marker"]:
            continue
        text = (match["old"] or match["range"] or "").strip()
        if any(excludes(clause.strip(), core) for clause in text.split(",")):
            raise Broken(f"it needs {CORE} {text}, and {core} is installed", "incompatible")


def excludes(clause: str, version: str) -> bool:
    """Whether one clause of a plain version range leaves out a release; False if not known."""
    match = re.fullmatch(r"(>=|<=|<|>|==|!=|~=)\s*(\d+(?:\.\d+)*)(\.\*)?", clause)
    if match is None or not re.fullmatch(r"\d+(\.\d+)*", version):
        return False
    operator, text, wildcard = match.groups()
    wanted, running = _release(text), _release(version)
    length = max(len(wanted), len(running))
    padded = wanted + (0,) * (length - len(wanted))
    running += (0,) * (length - len(running))
    if wildcard:
        same = running[: len(wanted)] == wanted
        return operator in ("==", "!=") and same == (operator == "!=")
    if operator == "~=":
        return running < padded or running[: len(wanted) - 1] != wanted[:-1]
    return not {
        ">=": running >= padded,
        "<=": running <= padded,
        ">": running > padded,
        "<": running < padded,
        "==": running == padded,
        "!=": running != padded,
    }[operator]


def _release(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))
