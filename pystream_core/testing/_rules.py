"""The rules that the suites check, each with the tests that show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Rule:
    """One promise of a contract.

    Attributes:
        name: a word or two, for tables.
        text: the promise, a sentence.
        tests: names of the tests that show it, without parameters.
    """

    name: str
    text: str
    tests: tuple[str, ...]


EXECUTOR_RULES: Final[tuple[Rule, ...]] = ()
