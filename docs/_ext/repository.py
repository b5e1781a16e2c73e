"""Links that are right in the repository, for the pages that include its files.

``README.md`` of a plugin and ``CONTRIBUTING.md`` link to their neighbours by relative paths, as a
reader of the repository expects. Here these pages are parts of the manual.
"""

from __future__ import annotations

import re
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


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("include-read", _included)
    return {"parallel_read_safe": True}
