"""What is installed, listed, and one thing of it laid open."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from pystream_core import (
    Available,
    Pipeline,
    PlanError,
    PluginNotFound,
    Provided,
    near_miss,
    registry,
)

from ._options import Option, fits, in_toml, plain, prose, signature
from ._tables import table

if TYPE_CHECKING:
    from rich.console import Console

Kind = Literal["stage", "source", "executor", "placement", "observer"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

_DOCUMENTED: Final = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_LAID_OUT: Final = re.compile(r"^(\s|[-*|>]|\d+[.)])|::$", re.MULTILINE)

_NOT_OURS: Final = {
    "pystream-pipeline": "it owns the same import name, pystream: uninstall it (python -m pip "
    "uninstall pystream-pipeline), then reinstall pystream-bundle",
    "pystream": "it is not ours; if you meant this library, uninstall it (python -m pip "
    "uninstall pystream), then reinstall pystream-bundle",
}


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """One provided thing, laid open.

    Attributes:
        kind, name, identity, distribution, version, value: see ``Provided``.
        summary: its first line of documentation.
        doc: what its docstring says before the sections.
        options: what it takes.
        open: whether it takes others too.
        example: how a pipeline file uses it.
    """

    kind: str
    name: str
    identity: str
    distribution: str
    version: str
    value: str
    summary: str
    doc: str
    options: tuple[Option, ...]
    open: bool
    example: str


def others() -> dict[str, str]:
    """Installed distributions that get in the way, with what to do about each."""
    from importlib import metadata

    found = {}
    for name, advice in _NOT_OURS.items():
        try:
            version = metadata.version(name)
        except Exception:  # not there, or its metadata is damaged: then pip does not see it either
            continue
        found[name] = f"the distribution {name} {version} is installed beside: {advice}"
    return found


def summarized(available: Available) -> Available:
    """The same, where stages and sources have the first line of their docstring.

    That is read from their source, since a listing imports none of them; what is made in
    another way, or re-exported, stays without.
    """

    def with_line(offers: tuple[Provided, ...]) -> tuple[Provided, ...]:
        return tuple(
            each if each.summary else replace(each, summary=_first_line(each.value))
            for each in offers
        )

    return replace(
        available, stages=with_line(available.stages), sources=with_line(available.sources)
    )


def _first_line(value: str) -> str:
    """The first line of the docstring of ``module:attr``, empty if it is not to be found."""
    module, _, attribute = value.partition(":")
    try:
        for node in ast.parse(_source_of(module)).body:
            if isinstance(node, _DOCUMENTED) and node.name == attribute:
                return plain((ast.get_docstring(node) or "").partition("\n")[0])
    except Exception:  # there may be no source, and it may hold anything
        pass
    return ""


def _source_of(module: str) -> str:
    """The source of a module, found without importing the packages that it is in."""
    loader: Any = None
    path: Sequence[str] | None = None
    name = ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        spec = PathFinder.find_spec(name, path)
        if spec is None:
            raise ModuleNotFoundError(name)
        loader, path = spec.loader, spec.submodule_search_locations or ()
    source: str = loader.get_source(module)
    return source


def print_plugins(console: Console, available: Available) -> None:
    """A table of plugins and how they fared, and one of everything that they provide."""
    reasons = ["Reason"] if any(one.reason for one in available.plugins) else []
    plugins = table("Plugin", "Distribution", "Version", "State", *reasons)
    for one in available.plugins:
        row = (one.name, one.distribution, one.version, one.state)
        plugins.add_row(*row, *([one.reason] if reasons else []))
    if available.plugins:
        console.print(plugins)
    else:
        console.print("No plugins are installed.")
    for title, offers in _by_kind(available):
        console.print()
        if not offers:
            console.print(f"{title}: none")
            continue
        made = table(title, "Identity", "Summary" if any(o.summary for o in offers) else "Object")
        for offer in offers:
            made.add_row(offer.name, offer.identity, offer.summary or offer.value)
        console.print(made)
    console.print()
    console.print("`pystream inspect NAME` shows what one of them does, and its options.")


def inspect(name: str, kind: Kind | None) -> Inspected:
    """Lay one thing open.

    Args:
        name: its name or identity.
        kind: what it is; None finds out.

    Raises:
        PyStreamError: there is none, or several, or it does not load.
    """
    if kind is None:
        kind = _kind_of(name)
    found = registry().describe(kind, name)
    takes = signature(found.target, item=kind == "stage")
    return Inspected(
        kind=kind,
        name=found.name,
        identity=found.identity,
        distribution=found.distribution,
        version=found.version,
        value=found.value,
        summary=found.summary,
        doc=prose(found.doc),
        options=takes.options,
        open=takes.open,
        example=example(kind, name, takes.options),
    )


def print_inspected(console: Console, found: Inspected) -> None:
    """What it is and does, its options, and how a pipeline file uses it."""
    console.print(f"{found.kind} {found.name}", style="bold")
    console.print(f"from {found.distribution} {found.version}, {found.value}")
    if found.doc or found.summary:
        console.print()
        console.print(_flowing(found.doc or found.summary), overflow="fold")
    console.print()
    if found.options:
        options = table("Option", "Type", "Default", "Meaning")
        for option in found.options:
            options.add_row(option.name, option.type, _default(option), option.doc)
        console.print(options)
    elif not found.open:
        console.print("It takes no options of its own.")
    if found.open:
        console.print("It takes further options, which its signature does not name.")
    if found.kind == "stage":
        console.print()
        console.print(f"As every stage it takes {', '.join(add_options())} too.")
    console.print()
    console.print("In a pipeline file:", style="bold")
    console.print()
    for line in found.example.splitlines():
        console.print(f"  {line}".rstrip(), soft_wrap=True)


def _flowing(doc: str) -> str:
    """Paragraphs with each on one line, for the terminal to break; laid out ones stay as is."""
    parts = doc.split("\n\n")
    return "\n\n".join(
        part if _LAID_OUT.search(part) else part.replace("\n", " ") for part in parts
    )


def example(kind: Kind, name: str, options: Iterable[Option]) -> str:
    """A piece of a pipeline file: required options set, the others commented out."""
    quoted = in_toml(name)
    if kind == "executor":
        head, table_name = ["[pipeline]", f"executor = {quoted}"], "[pipeline.options]"
        if name == "serial":
            return "\n".join(head)
    elif kind == "observer":
        return f"[pipeline]\nobservers = [{quoted}]  # or, for a profiler: profiler = {quoted}"
    elif kind == "placement":
        return f'[[stage]]\nuse = "module:attr"\nplacement = {quoted}'
    else:
        head, table_name = ["[[stage]]" if kind == "stage" else "[source]", f"use = {quoted}"], ""
    clashing = {*add_options(), "name", "options"} if kind == "stage" else set()
    beside = [one for one in options if one.name not in clashing]
    inside = [one for one in options if one.name in clashing]
    lines = [*head]
    if table_name and beside:
        lines += ["", table_name]
    lines += [_assignment(one) for one in beside]
    if inside:
        lines += ["", "[stage.options]", *map(_assignment, inside)]
    return "\n".join(lines)


def add_options() -> tuple[str, ...]:
    """The options of ``Pipeline.add`` that a file may give to every stage."""
    from inspect import signature as python_signature

    names = python_signature(Pipeline.add).parameters
    return tuple(name for name in names if name not in ("self", "stage"))


def _assignment(option: Option) -> str:
    value = in_toml(option.default)
    if option.required:
        return f"{option.name} = {_sample(option.hint)}"
    return f"# {option.name} = {'…' if value is None else value}"


def _sample(hint: Any) -> str:
    """Some value of that type, to be replaced."""
    samples: tuple[Any, ...] = ("…", 1, 1.0, True, [])
    for value in samples:
        if fits(value, hint):
            return in_toml(value) or '"…"'
    return '"…"'


def _default(option: Option) -> str:
    if option.required:
        return "required"
    if option.default is None:
        return "none"
    return in_toml(option.default) or repr(option.default)


def _kind_of(name: str) -> Kind:
    available = registry().available()
    kinds = [
        kind
        for kind, (_, offers) in zip(KINDS, _by_kind(available, KINDS), strict=True)
        if any(name in (offer.name, offer.identity) for offer in offers)
    ]
    if len(kinds) > 1:
        raise PlanError(
            f"{name!r} is the name of {' and '.join(map(_with_article, kinds))}: "
            f"say which, --kind {kinds[0]}"
        )
    if kinds:
        return kinds[0]
    # An identity that is written differently, or something of ours that is not installed: the
    # registry knows the former, and names the command for the latter.
    refusals = []
    for kind in KINDS:
        try:
            registry().describe(kind, name)
        except PluginNotFound as error:
            refusals.append(error)
        else:
            return kind
    for refusal in refusals:
        if "pip install" in str(refusal):
            raise refusal
    names = {offer.name for _, offers in _by_kind(available) for offer in offers}
    if ":" in name:
        raise PluginNotFound(
            f"inspect takes a registered name, as `pystream plugins` lists them, not module:attr "
            f"as {name!r}"
        )
    raise PluginNotFound(
        f"nothing that is installed is called {name!r}{near_miss(name, sorted(names))}. "
        f"`pystream plugins` lists everything"
    )


def _with_article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _by_kind(
    available: Available, kinds: Sequence[str] = ("executor", "placement", "observer", *KINDS[:2])
) -> list[tuple[str, tuple[Provided, ...]]]:
    return [(f"{kind.capitalize()}s", getattr(available, f"{kind}s")) for kind in kinds]
