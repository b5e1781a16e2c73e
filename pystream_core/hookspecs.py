"""The hooks that a plugin implements, and the records it returns.

A plugin is a module with functions marked by :data:`hookimpl`, named in the entry-point
group ``pystream`` of its distribution::

    # pyproject.toml
    [project.entry-points.pystream]
    threads = "pystream_threads.plugin"

    # pystream_threads/plugin.py
    from pystream_core import ExecutorSpec, hookimpl

    @hookimpl
    def pystream_executors():
        return [ExecutorSpec(name="threads", factory="pystream_threads:ThreadsExecutor")]

Hooks run when names are looked up, never per item. A record names its factory as text
(``"package.module:attr"``), which is imported on first use, so the plugin module stays light.
"""

from __future__ import annotations

from dataclasses import dataclass

import pluggy

from ._errors import PluginError

hookspec = pluggy.HookspecMarker("pystream")
hookimpl = pluggy.HookimplMarker("pystream")
"""Marks a function of a plugin module as the implementation of the hook of its name."""


@dataclass(frozen=True, kw_only=True)
class _Record:
    name: str
    factory: str
    summary: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or "/" in self.name:
            raise PluginError(
                f"{type(self).__name__}: name must be text without '/', not {self.name!r}"
            )
        module, colon, attribute = (
            self.factory.partition(":") if isinstance(self.factory, str) else ("", "", "")
        )
        if not (module and colon and attribute):
            raise PluginError(
                f"{type(self).__name__} {self.name!r}: factory must be text of the form "
                f"'package.module:attr', not {self.factory!r}"
            )
        if not isinstance(self.summary, str):
            raise PluginError(
                f"{type(self).__name__} {self.name!r}: summary must be text, not {self.summary!r}"
            )


@dataclass(frozen=True, kw_only=True)
class ExecutorSpec(_Record):
    """An executor that ``parallelize(executor=name, **options)`` can use.

    Attributes:
        name: what users write.
        factory: ``"package.module:attr"`` of a callable that takes the options as keywords
            and returns an ``Executor``.
        summary: one line for listings.
    """


@dataclass(frozen=True, kw_only=True)
class PlacementSpec(_Record):
    """A placement that ``add(placement=name)`` can use; its factory must do
    without arguments, and may take the options of ``placement(name, **options)`` as keywords."""


@dataclass(frozen=True, kw_only=True)
class ObserverSpec(_Record):
    """An observer or profiler that ``Pipeline(observers=[name])`` and ``profiler=name`` can
    use; its factory takes no arguments and returns an ``Observer``."""


@hookspec
def pystream_executors() -> list[ExecutorSpec]:  # type: ignore[empty-body]
    """The executors of this plugin."""


@hookspec
def pystream_placements() -> list[PlacementSpec]:  # type: ignore[empty-body]
    """The placements of this plugin."""


@hookspec
def pystream_observers() -> list[ObserverSpec]:  # type: ignore[empty-body]
    """The observers and profilers of this plugin."""
