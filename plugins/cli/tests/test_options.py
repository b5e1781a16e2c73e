"""Options laid open: from signatures, annotations and docstrings."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Optional

import pytest
from pystream_cli._options import args_section, fits, in_toml, prose, signature, words

from pystream_core import Stage, factory


class Blur(Stage):
    """Blur frames.

    Args:
        radius: from the class.
    """

    def __init__(self, radius: float = 1.0, kind: Literal["box", "gauss"] = "box", **more: Any):
        """Set it up.

        Args:
            kind: the shape
                of the blur.
        """

    def __call__(self, data):
        return data

    def cleanup(self):
        pass


@pytest.mark.parametrize(
    ("value", "hint", "fitting"),
    [
        (1, int, True),
        (True, int, False),
        ("1", int, False),
        (1, float, True),
        (True, float, False),
        ("x", str, True),
        (1, bool, False),
        (1, Optional[str], False),  # noqa: UP045  (both ways of writing it)
        ("x", str | None, True),
        ("a", Literal["a", "b"], True),
        ("c", Literal["a", "b"], False),
        (True, Literal[1], False),
        ("x", Path, True),
        (1, str | os.PathLike[str], False),
        ([1], list[int], True),
        ("x", list[int], False),
        ([1], Sequence[int], True),
        ({}, Mapping[str, int], True),
        ([], dict, False),
        (1, Callable[[], int], False),
        ("m:x", Callable[[], int] | str, True),
        (dt.date(2000, 1, 1), dt.date, True),
        ("x", dt.date, False),
        (1, Any, True),
        (1, object, True),
        ("x", "nonsense", True),
    ],
)
def test_values_are_judged_by_annotations(value, hint, fitting):
    """What TOML can hold is checked, anything else passes."""
    assert fits(value, hint) is fitting


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (bool, "true or false"),
        (int | None, "a whole number"),
        (float | Literal["auto"], 'a number or "auto"'),
        (str | os.PathLike[str], "text"),
        (str | Callable[[], int], "text"),
        (Mapping[str, int], "a table"),
        (tuple[int, ...], "a list"),
        (dt.date, "datetime.date"),
    ],
)
def test_annotations_are_said_in_the_words_of_toml(hint, text):
    """Messages speak of tables and texts, not of dict and str."""
    assert words(hint) == text


def test_docs_come_from_the_class_and_its_constructor():
    """Both docstrings count, with their continued lines."""
    found = signature(Blur, item=True)
    assert [(one.name, one.default, one.doc) for one in found.options] == [
        ("radius", 1.0, "from the class."),
        ("kind", "box", "the shape of the blur."),
    ]
    assert found.open


def test_the_item_is_no_option_of_a_function():
    """The first parameter of a stage function is the item; of a source it is an option."""

    def stage(item, x=1):
        return item

    assert [one.name for one in signature(stage, item=True).options] == ["x"]
    assert [one.name for one in signature(stage, item=False).options] == ["item", "x"]


def test_options_of_a_factory_have_its_values_as_defaults():
    """What a factory was given need not be given again."""
    (radius, _) = signature(factory(Blur, radius=3.0), item=True).options
    assert radius.default == 3.0


def test_wrong_options_are_all_found():
    """Unknown, missing and mistyped ones, each with what is right."""

    def source(path: str, n: int = 1, *, mode: Literal["fast", "slow"] = "fast"):
        return []

    wrong = dict(signature(source, item=False).wrong({"n": "x", "mode": "fats", "pth": 1}))
    assert wrong["n"] == 'must be a whole number, not "x"'
    assert wrong["mode"] == 'must be "fast" or "slow", not "fats" (did you mean \'fast\'?)'
    assert wrong["pth"] == (
        "no such option (did you mean 'path'?); "
        'its options: path (required), n = 1, mode = "fast"'
    )
    assert wrong["path"].startswith("is missing")


def test_what_has_no_signature_takes_anything():
    """Built-ins without a signature decide themselves."""
    assert signature(dict.fromkeys, item=False).wrong({}) == []
    assert signature(max, item=True).wrong({"key": 1}) == []


def test_annotations_that_cannot_be_evaluated_judge_nothing():
    """A name that does not exist must not break the look at the others."""

    def stage(item, x: Missing = 1):  # noqa: F821
        return item

    assert signature(stage, item=True).wrong({"x": "anything"}) == []


def test_sections_are_parted_from_prose():
    """What a thing does ends where its sections begin."""
    doc = (
        "Does it.\n\nAnd more.\n\nArgs:\n    a, b: both\n\n    c (int): one\n\nRaises:\n    d: no\n"
    )
    assert prose(doc) == "Does it.\n\nAnd more."
    assert args_section(doc) == {"a": "both", "b": "both", "c": "one"}
    assert args_section("Nothing here.") == {}


def test_values_are_written_as_toml_writes_them():
    """Texts quoted, truth in lower case, what TOML lacks not at all."""
    assert in_toml([True, 1, 'a "b"']) == '[true, 1, "a \\"b\\""]'
    assert in_toml(None) is None
    assert in_toml([object()]) is None
