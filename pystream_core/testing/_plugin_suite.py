"""The checks of a distribution as tests. Got with :func:`pystream_core.testing.plugin_suite`."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

import pytest

from ._plugin_checks import CHECKS, Found, claim, examine


class PluginSuite:
    """One distribution's checks.

    Attributes:
        distribution: its name.
        leave_out: names of checks that are left out.
    """

    distribution: ClassVar[str] = ""
    leave_out: ClassVar[Collection[str]] = ()
    _found: ClassVar[Found | None] = None

    def found(self) -> Found:
        """The facts about the distribution, gathered once."""
        kind = type(self)
        if kind._found is None:
            kind._found = examine(self.distribution)
        return kind._found

    @pytest.mark.parametrize("check", CHECKS)
    def test_check(self, check: str) -> None:
        """Nothing is wrong, or what is to be done about it."""
        if check in self.leave_out:
            pytest.skip(f"left out: {claim(CHECKS[check])}")
        problems = CHECKS[check](self.found())
        if problems:
            told = "".join(f"\n- {problem}" for problem in problems)
            pytest.fail(
                f"{self.distribution} breaks the rule: {claim(CHECKS[check])}{told}", pytrace=False
            )
