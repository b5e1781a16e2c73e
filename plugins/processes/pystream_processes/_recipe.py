"""A stage, or what makes it, as bytes; what cannot be pickled is named."""

from __future__ import annotations

import functools
import inspect
import pickle
import sys
from collections.abc import Iterator
from typing import Any, Final

import cloudpickle

from pystream_core import PlanError, StageFactory, StageSpec

from ._classes import pickled

_DEPTH: Final = 6  # how far into attributes of attributes a culprit is looked for


def recipe_of(spec: StageSpec) -> tuple[bytes, Any]:
    """What the child makes its stage of, and the stage or factory itself.

    Raises:
        PlanError: it cannot be pickled, with the attribute that cannot.
    """
    given: Any = spec.make() if spec.shared else spec.make
    _take_main_by_value()
    try:
        return pickled(given), given
    except Exception as error:
        where, culprit, why = _culprit(given, _label(given), error)
        raise PlanError(
            f"stage {spec.name!r} cannot be placed in a process, since {where} "
            f"({type(culprit).__name__}) cannot be pickled: {why}. Make it in setup(), which runs "
            f"in the process, or give the class or factory(...) instead of an object"
        ) from error


def _take_main_by_value() -> None:
    """In a process that multiprocessing has spawned the main program has another name, under
    which nobody else can import it either."""
    module = sys.modules.get("__mp_main__")
    if module is not None and module.__name__ == "__mp_main__":
        cloudpickle.register_pickle_by_value(module)


def make(recipe: bytes) -> Any:
    """The stage, in the child."""
    given = pickle.loads(recipe)
    return given() if isinstance(given, StageFactory) else given


def _label(given: Any) -> str:
    if isinstance(given, StageFactory):
        return "the factory"
    return getattr(given, "__qualname__", None) or f"the {type(given).__qualname__}"


def _culprit(value: Any, where: str, error: Exception) -> tuple[str, Any, Exception]:
    """The innermost thing that cannot be pickled, where it is, and why."""
    for _ in range(_DEPTH):
        for place, inner in _inside(value):
            found = _refusal(inner)
            if found is not None:
                where, value, error = f"{where}{place}", inner, found
                break
        else:
            break
    return where, value, error


def _refusal(value: Any) -> Exception | None:
    try:
        pickled(value)
    except Exception as error:
        return error
    return None


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    """What a value holds, with how one would write it."""
    if isinstance(value, StageFactory):
        yield f" {getattr(value.make, '__qualname__', 'make')}", value.make
        yield from ((f"'s option {key}", each) for key, each in value.options.items())
    elif isinstance(value, functools.partial):
        yield ".func", value.func
        yield from ((f".args[{index}]", each) for index, each in enumerate(value.args))
        yield from ((f".keywords[{key!r}]", each) for key, each in value.keywords.items())
    elif inspect.isfunction(value):
        yield from _of_function(value)
    elif inspect.ismethod(value):
        yield ".__self__", value.__self__
    elif isinstance(value, dict):
        yield from ((f"[{key!r}]", each) for key, each in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{index}]", each) for index, each in enumerate(value))
    else:
        yield from ((f".{name}", each) for name, each in getattr(value, "__dict__", {}).items())


def _of_function(function: Any) -> Iterator[tuple[str, Any]]:
    try:
        found = inspect.getclosurevars(function)
    except (TypeError, ValueError):
        return
    for kind in (found.nonlocals, found.globals):
        yield from ((f"'s variable {name}", each) for name, each in kind.items())
    yield from ((f"'s default {index}", each) for index, each in enumerate(_defaults(function)))


def _defaults(function: Any) -> list[Any]:
    return [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
