"""The stage ``tee``: a callable sees every item on the side."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from pystream_core import PlanError, Stage


class Tee(Stage[Any]):
    """Call something with each item, then pass the item on unchanged.

    What the callable returns is ignored. What it raises is a failure of this stage, treated
    by its ``on_error``. It runs in this stage's worker and blocks the items behind it as long
    as it takes; it sees the item itself, not a copy.
    """

    def __init__(self, to: Callable[[Any], Any] | str) -> None:
        """Choose what sees the items.

        Args:
            to: a callable that takes the item, or ``"module:attr"`` naming one.

        Raises:
            PlanError: it is neither, cannot be imported, or is a coroutine or generator function.
        """
        target: Any = _imported(to) if isinstance(to, str) else to
        if not callable(target):
            raise PlanError(f"tee: to must be a callable or 'module:attr' of one, not {to!r}")
        if inspect.iscoroutinefunction(target) or inspect.isgeneratorfunction(target):
            raise PlanError(
                f"tee: calling {to!r} would run nothing, since it is a coroutine or generator "
                f"function; give an ordinary function"
            )
        self._to: Callable[[Any], Any] = target

    def __call__(self, data: Any) -> Any:
        """Show the item to the callable and return it; raises what the callable raises."""
        self._to(data)
        return data

    def cleanup(self) -> None:
        """Nothing to let go."""


def _imported(reference: str) -> Any:
    """The object that ``"module:attr"`` names."""
    module, colon, attribute = reference.partition(":")
    if not (module and colon and attribute):
        raise PlanError(f"tee: to must have the form 'module:attr', not {reference!r}")
    try:
        found: Any = importlib.import_module(module)
        for name in attribute.split("."):
            found = getattr(found, name)
    except Exception as error:  # importing runs foreign code
        raise PlanError(
            f"tee: to={reference!r} cannot be imported ({type(error).__name__}: {error}); check "
            f"the spelling, and that the module can be found from where this runs"
        ) from error
    return found
