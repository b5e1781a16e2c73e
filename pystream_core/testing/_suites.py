"""Making the classes of conformance tests, without pytest up to that moment."""

from __future__ import annotations

import importlib
from typing import Any

_PACKAGE = __package__ or ""


def load(*modules: str) -> Any:
    """The last of these modules of the kit, all of them with rewritten assertions.

    Args:
        modules: their names without the package, each one after those that it imports.

    Raises:
        ImportError: pytest or hypothesis is not installed, with the command.
    """
    for needed in ("pytest", "hypothesis"):
        try:
            importlib.import_module(needed)
        except ImportError as error:
            raise ImportError(
                f"the conformance suites need {needed}, which is not installed: "
                f"python -m pip install 'pystream-core[testing]'"
            ) from error
    import pytest

    paths = [f"{_PACKAGE}.{name}" for name in modules]
    pytest.register_assert_rewrite(*paths)
    return [importlib.import_module(path) for path in paths][-1]


def suite_class(suite: type, name: str, **attributes: Any) -> type:
    """A class of its own for one implementation; pytest collects it under the name that the
    author's module gives it."""
    title = "".join(part for part in name.title() if part.isalnum())
    return type(f"Test{title}", (suite,), attributes)


def switches(suite: type, given: dict[str, Any]) -> dict[str, Any]:
    """What was given, if these are switches of the suite.

    Raises:
        TypeError: one is not, with the list of those that are.
    """
    known = sorted(suite.switches)  # type: ignore[attr-defined]
    for name in given:
        if name not in known:
            raise TypeError(
                f"{suite.__name__} has no switch {name!r}; there are {', '.join(known) or 'none'}"
            )
    return given
