"""Making the classes of conformance tests, without pytest up to that moment."""

from __future__ import annotations

import importlib
from typing import Any

_PACKAGE = __package__ or ""
_SUITES = (
    "_conformance",
    "_suite",
    "_flow_suite",
    "_handle_suite",
    "_placement_suite",
    "_observer_suite",
    "_profiler_suite",
)


def load(*modules: str) -> Any:
    """The last of these modules of the kit, all of them with rewritten assertions.

    Args:
        modules: their names without the package.

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

    # All of them at once: one may import another, which then counts as not rewritten.
    pytest.register_assert_rewrite(*(f"{_PACKAGE}.{name}" for name in (*_SUITES, *modules)))
    return [importlib.import_module(f"{_PACKAGE}.{name}") for name in modules][-1]


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
