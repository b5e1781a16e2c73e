"""The list of deliberately wrong implementations: which rule each one breaks, and what shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

Made = TypeVar("Made", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """One wrong implementation.

    Attributes:
        name: under which it is registered.
        factory: the class, as text.
        does: what is wrong with it, in words.
        rule: the rule that it breaks.
        test: the test of that rule that has to catch it.
        shows: what that failure says, a regular expression.
        suite: name of the class of its tests.
        attributes: of the suite's class, besides.
    """

    name: str
    factory: str
    does: str
    rule: str
    test: str
    shows: str
    suite: str
    attributes: dict[str, Any]


class Catalogue(list[Wrong]):
    """The wrong implementations of one kind, in the order of their classes."""

    def add(self, rule: str, test: str, shows: str, **attributes: Any) -> Callable[[Made], Made]:
        """A decorator that enters a class; its docstring says what is wrong with it."""

        def enter(made: Made) -> Made:
            self.append(
                Wrong(
                    name=made.__name__,
                    factory=f"{made.__module__}:{made.__name__}",
                    does=(made.__doc__ or "").strip().rstrip("."),
                    rule=rule,
                    test=test,
                    shows=shows,
                    suite=f"Test{len(self)}{made.__name__}",
                    attributes=attributes,
                )
            )
            return made

        return enter
