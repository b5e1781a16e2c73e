"""What is written for a reader of the repository or of a terminal, shown in the manual.

``README.md`` of a plugin and ``CONTRIBUTING.md`` link to their neighbours by relative paths; here
these pages are parts of the manual. The help of a command shows an example line by line, here it is
a block of code. Overloads are for type checkers, here the signature is what can be called.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parent.parent
ROOT = DOCS.parent
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#|/)([^)#\s]+)(#[^)\s]+)?\)")
PAGES = {
    "README.md": "/index.md",
    "CHANGELOG.md": "/changelog.md",
    "CONTRIBUTING.md": "/contributing.md",
}


def page_of(path: Path) -> str | None:
    """The page of the manual that shows a file of the repository."""
    if path.is_relative_to(DOCS) and path.suffix == ".md" and "examples" not in path.parts:
        return f"/{path.relative_to(DOCS).as_posix()}"
    name = path.relative_to(ROOT).as_posix()
    parts = name.split("/")
    if parts[0] == "plugins" and len(parts) == 3 and parts[2] == "README.md":
        return f"/plugins/{parts[1]}.md"
    return PAGES.get(name)


def in_the_manual(text: str, folder: Path) -> str:
    """The text of a file in ``folder`` with links to pages; other links become plain words."""

    def link(found: re.Match[str]) -> str:
        words, target, anchor = found.groups()
        page = page_of((folder / target).resolve())
        return words if page is None else f"[{words}]({page}{anchor or ''})"

    return _LINK.sub(link, text)


def _included(app: Sphinx, path: Path, docname: str, content: list[str]) -> None:
    file = (DOCS / path).resolve()
    if file.suffix == ".md":
        content[0] = in_the_manual(content[0], file.parent)


def _described(app: Sphinx, ctx: Any, lines: list[str]) -> None:
    """The lines that sphinx-click keeps apart, as one block."""
    kept = [number for number, line in enumerate(lines) if line.startswith("| ")]
    if kept:
        first, last = kept[0], kept[-1] + 1
        example = [f"   {line.removeprefix('| ')}".rstrip() for line in lines[first:last]]
        lines[first:last] = ["", ".. code-block:: toml", "", *example, ""]


def _without_overloads(app: Sphinx) -> None:
    from sphinx.pycode import ModuleAnalyzer

    for name in [name for name in sys.modules if name.startswith("pystream_core.")]:
        analyzer = ModuleAnalyzer.for_module(name)
        analyzer.analyze()
        analyzer.overloads.clear()


def setup(app: Sphinx) -> dict[str, Any]:
    app.setup_extension("sphinx_click")
    app.connect("include-read", _included)
    app.connect("sphinx-click-process-description", _described)
    app.connect("builder-inited", _without_overloads)
    return {"parallel_read_safe": True}
