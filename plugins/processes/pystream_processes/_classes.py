"""Pickling by value what the main program, a function or a notebook defines, each class once.

cloudpickle sends the whole class with every object of it. Where the class is known already it sets
everything in it back to what it was when it was sent: counters, and methods, whose globals are
copies then; that would hit the very class that it came from. Here a class has a number that is
the same in all processes. It is made once in each, with its slots, and left alone from then on.
(cloudpickle makes it without; what is made of its objects there would not fit in here.)
"""

from __future__ import annotations

import io
import pickle
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Collection
from enum import Enum
from typing import Any

import cloudpickle

# Each by single operations of any thread. Whoever finds the number of a class finds the class by
# it, since that is there first.
_class_of: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
_number_of: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
_complete: weakref.WeakSet[Any] = weakref.WeakSet()  # all that is in them is
# Those made here last: between two items nothing else may hold a class, and what the stage keeps in
# it. Bounded, since a function may make one at each call.
_latest: deque[Any] = deque(maxlen=1024)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    def reducer_override(self, obj: Any) -> Any:
        reduced = super().reducer_override(obj)
        if type(reduced) is not tuple or len(reduced) != 6 or not issubclass(type(obj), type):
            return reduced
        number = _number_of.get(obj) or _numbered(obj)
        make, arguments, content, _, _, fill = reduced
        slots = vars(obj).get("__slots__")
        if isinstance(slots, Collection) and not issubclass(obj, (Enum, tuple)):
            kind, name, bases, namespace, *others = arguments
            arguments = (kind, name, bases, {**namespace, "__slots__": slots}, *others)
        return _begin, (number, make, arguments), (fill, content), None, None, _finish


def pickled(
    value: Any, buffer_callback: Callable[[pickle.PickleBuffer], bool] | None = None
) -> bytes:
    """The pickle of a value.

    Raises:
        Exception: whatever its pickling raises.
    """
    file = io.BytesIO()
    _Pickler(file, protocol=5, buffer_callback=buffer_callback).dump(value)
    return file.getvalue()


def _numbered(found: Any) -> str:
    number = uuid.uuid4().hex
    _class_of[number] = found
    _complete.add(found)
    return _number_of.setdefault(found, number)


def _begin(number: str, make: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """The class with this number, which may be empty so far."""
    found = _class_of.get(number)
    if found is None:
        found = _class_of.setdefault(number, make(*arguments))
        _number_of[found] = number
        _latest.append(found)
    return found


def _finish(made: Any, rest: tuple[Callable[[Any, Any], Any], Any]) -> None:
    """Put into it what is in it, unless it is there. (Two threads may both do so.)"""
    if made not in _complete:
        fill, content = rest
        fill(made, content)
        _complete.add(made)
