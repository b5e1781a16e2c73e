"""Looks at one installed distribution in an interpreter of its own, and prints what it found.

Run by :mod:`._plugin_checks` as ``python -c``: its code may be anything, so it is imported where
it can print, exit, crash or hang without harm. Facts only; what they mean is judged elsewhere.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from time import perf_counter
from typing import Any, Final

_KINDS: Final = ("executor", "placement", "observer", "stage", "source")


def main(distribution: str, core_time: float) -> None:
    """Look at a distribution and print one JSON object as the last line of stdout.

    Args:
        distribution: its normalised name.
        core_time: seconds that the import of the core took here.
    """
    logging.getLogger("PyStream").addHandler(logging.NullHandler())
    installed = _of_distribution(distribution)
    # What reads metadata belongs to the core's listing, not to the plugin.
    hooks = [entry for entry in installed if entry["kind"] == "plugin"]
    facts = {
        "core_time": core_time,
        "entries": installed,
        "modules": [_import(entry["value"]) for entry in hooks],
    }
    facts |= _listed(distribution)
    sys.stdout.write(f"\n{json.dumps(facts)}\n")


def _of_distribution(distribution: str) -> list[dict[str, str]]:
    """The entry points of the distribution that can be used."""
    from pystream_core._installed import read_installed

    return [
        {"kind": each.kind, "name": each.name, "value": each.value}
        for each in read_installed().entries
        if each.distribution == distribution
    ]


def _import(module: str) -> dict[str, Any]:
    """Import a module with hooks, and say what that did."""
    before = set(sys.modules)
    handlers = list(logging.getLogger().handlers)
    threads = set(threading.enumerate())
    printed = _Printed()
    error = ""
    begin = perf_counter()
    with printed.kept():
        loaded, error = _attempt(lambda: import_module(module))
    seconds = perf_counter() - begin
    effects = []
    if printed.text:
        effects.append(f"prints {printed.text[:60]!r}")
    if logging.getLogger().handlers != handlers:
        effects.append("adds a handler to the root logger")
    effects += [
        f"starts the thread {one.name!r}" for one in threading.enumerate() if one not in threads
    ]
    marked, unmarked = _hooks_of(loaded)
    return {
        "module": module,
        "error": error,
        "seconds": seconds,
        "imported": sorted(set(sys.modules) - before),
        "effects": effects,
        "marked": marked,
        "unmarked": unmarked,
    }


def _hooks_of(module: Any) -> tuple[list[str], list[str]]:
    """Names of the functions of a module that are marked as hooks; of those that look like one
    and are not."""
    marked: list[str] = []
    unmarked: list[str] = []
    for name, value in list(getattr(module, "__dict__", {}).items()):
        if not inspect.isroutine(value):
            continue
        if getattr(value, "pystream_impl", None) is not None:
            marked.append(name)
        elif name.startswith("pystream_"):
            unmarked.append(name)
    return marked, unmarked


def _listed(distribution: str) -> dict[str, Any]:
    """What the registry says of the distribution, and of everything with its names."""
    from pystream_core import available

    found, error = _attempt(available)
    if found is None:
        return {"registry_error": error, "refused": [], "offers": [], "taken": []}
    offers = [each for kind in _KINDS for each in getattr(found, f"{kind}s")]
    own = [each for each in offers if each.distribution == distribution]
    names = {(each.kind, each.name) for each in own}
    return {
        "registry_error": "",
        "refused": [
            {"identity": each.identity, "reason": each.reason}
            for each in found.plugins
            if each.distribution == distribution and each.state != "loaded"
        ],
        "offers": [_laid_open(each) for each in own],
        "taken": [
            {"kind": each.kind, "name": each.name, "by": each.distribution}
            for each in offers
            if each.distribution != distribution and (each.kind, each.name) in names
        ],
    }


def _laid_open(offer: Any) -> dict[str, Any]:
    """Load one thing, and try whether it is what its kind promises."""
    from pystream_core import registry

    found, error = _attempt(lambda: registry().describe(offer.kind, offer.identity))
    problem = error
    summary = offer.summary
    if found is not None:
        problem = _misfit(offer.kind, found)
        if offer.kind in ("stage", "source"):  # else the record says it
            summary = _first_line(found.target)
    return {
        "kind": offer.kind,
        "name": offer.name,
        "value": offer.value,
        "summary": summary,
        "problem": problem,
    }


def _first_line(target: Any) -> str:
    """The first line of its own docstring, not of one that it inherits."""
    from pystream_core import StageFactory

    made = target.make if isinstance(target, StageFactory) else target
    return str(getattr(made, "__doc__", None) or "").strip().partition("\n")[0]


def _misfit(kind: str, found: Any) -> str:
    """Why what was loaded does not fit its kind; empty if it does."""
    from pystream_core import Executor, Observer, Placement

    if kind == "stage":
        return _takes_no_single_item(found.target)
    if kind == "source":
        return ""
    contract: type[Any] = {"executor": Executor, "placement": Placement, "observer": Observer}[kind]
    required = [each.name for each in found.parameters if each.required]
    target = found.target
    if kind != "executor" and required:
        return f"its factory must do without arguments, and needs {', '.join(required)}"
    if isinstance(target, type) and not issubclass(target, contract):
        return f"{target.__name__} is no subclass of pystream_core.{contract.__name__}"
    if required:  # only its users know what to give
        return ""
    made, error = _attempt(target)
    if error:
        return f"calling its factory without options raised: {error}"
    if not isinstance(made, contract):
        return (
            f"its factory gives {type(made).__name__}, which is no subclass of "
            f"pystream_core.{contract.__name__}"
        )
    return ""


def _takes_no_single_item(target: Any) -> str:
    """Why a stage cannot be called with an item and nothing else; empty if it can."""
    from pystream_core import Stage, StageFactory

    if isinstance(target, StageFactory):
        target = target.make
        if not isinstance(target, type):
            return ""
    if isinstance(target, type):
        if not issubclass(target, Stage):
            return ""
        call = target.__call__
        given: tuple[Any, ...] = (None, None)
    else:
        return ""
    try:
        signature = inspect.signature(call)
    except (TypeError, ValueError):
        return ""
    try:
        signature.bind(*given)
    except TypeError:
        return f"its __call__{signature} cannot be called with an item alone"
    return ""


def _attempt(call: Callable[[], Any]) -> tuple[Any, str]:
    """What a call gives, and what it raised, in words."""
    from pystream_core._errors import describe_error

    try:
        return call(), ""
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return None, " ".join(describe_error(error).split())[:500]


class _Printed:
    """What is written to the descriptors of stdout and stderr meanwhile."""

    def __init__(self) -> None:
        self.text = ""

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        import tempfile

        with tempfile.TemporaryFile() as file:
            sys.stdout.flush()
            kept = os.dup(1)
            os.dup2(file.fileno(), 1)
            try:
                yield
            finally:
                with contextlib.suppress(Exception):
                    sys.stdout.flush()
                os.dup2(kept, 1)
                os.close(kept)
                file.seek(0)
                self.text = file.read(1000).decode(errors="replace").strip()
