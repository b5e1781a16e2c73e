"""What plugins register, with its options: ``.. registered:: stages``, taken from the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from pystream_core import Provided, available

if TYPE_CHECKING:
    from sphinx.application import Sphinx

GROUPS = ("stages", "sources", "executors", "placements", "observers")


class Registered(SphinxDirective):
    """One section for each name of a kind: who provides it, what it does, and its options."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        group = self.arguments[0]
        if group not in GROUPS:
            raise self.error(f"registered: one of {', '.join(GROUPS)}, not {group!r}")
        return [self._section(one, group) for one in getattr(available(), group)]

    def _section(self, one: Provided, group: str) -> nodes.section:
        name = f"{group[:-1]}-{one.name}".replace(".", "-")
        section = nodes.section(ids=[name], names=[name])
        section += nodes.title("", "", nodes.literal("", one.name))
        module, _, attribute = one.value.partition(":")
        text = [f"From ``{one.distribution}``.", "", f".. autoclass:: {module}.{attribute}", ""]
        self.state.nested_parse(StringList(text, source=group), self.content_offset, section)
        return section


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("registered", Registered)
    return {"parallel_read_safe": True}
