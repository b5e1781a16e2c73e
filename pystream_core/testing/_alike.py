"""Whether two items are alike, also where ``==`` gives no single answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def alike(result: Any, expected: Any) -> bool:
    """Whether a result is what was expected.

    Lists, tuples and mappings are compared element by element, and must be of the same kind.
    Arrays must have the same shape and type of elements, and equal elements; an array that is
    expected as a list is compared as one. NaN is like NaN. The expected side is asked first, so
    that ``pytest.approx`` may stand there, also inside of lists.
    """
    if result is expected:
        return True
    for kind in (list, tuple):
        if isinstance(expected, kind) and isinstance(result, kind):
            same = type(result) is type(expected) and len(result) == len(expected)
            return same and all(map(alike, result, expected))
    if isinstance(expected, Mapping) and isinstance(result, Mapping):
        return result.keys() == expected.keys() and all(
            alike(result[key], expected[key]) for key in expected
        )
    if isinstance(expected, list) and hasattr(result, "tolist"):
        return alike(result.tolist(), expected)
    if _is_array(result) and _is_array(expected):
        return _arrays_alike(result, expected)
    return bool(expected == result) or (_is_nan(expected) and _is_nan(result))


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _arrays_alike(result: Any, expected: Any) -> bool:
    if tuple(result.shape) != tuple(expected.shape) or result.dtype != expected.dtype:
        return False
    equal = expected == result
    both_nan = (expected != expected) & (result != result)
    return bool((equal | both_nan).all())


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value
