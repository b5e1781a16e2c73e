"""The checks of an installed distribution, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

from pystream_core.testing import Check

from ._tables import counted, table

if TYPE_CHECKING:
    from rich.console import Console


def print_checks(console: Console, distribution: str, checks: Sequence[Check]) -> None:
    """A row for each check, what is wrong beneath, and how many failed."""
    from rich.padding import Padding
    from rich.text import Text

    made = table("Check", "Result", "What it means")
    for check in checks:
        result = Text("ok", "green") if check.passed else Text("failed", "bold red")
        made.add_row(check.name, result, check.claim)
    console.print(made)
    failed = [check for check in checks if not check.passed]
    for check in failed:
        console.print()
        console.print(Text(f"{check.name}: {check.claim}, but", "bold"))
        for problem in check.problems:
            console.print(Padding(Text(f"- {problem}"), (0, 0, 0, 2)), soft_wrap=False)
    console.print()
    what = f"{distribution} {metadata.version(distribution)}"
    if failed:
        console.print(f"{what}: {counted(len(failed), 'check')} of {len(checks)} failed.")
    else:
        console.print(f"{what}: all {len(checks)} checks passed.")


def checks_json(distribution: str, checks: Sequence[Check]) -> dict[str, Any]:
    """The object that ``pystream check --json`` prints."""
    passed = all(check.passed for check in checks)
    return {
        "distribution": distribution,
        "version": metadata.version(distribution),
        "passed": passed,
        "exit_code": 0 if passed else 1,
        "checks": [
            {
                "name": check.name,
                "claim": check.claim,
                "passed": check.passed,
                "problems": list(check.problems),
            }
            for check in checks
        ],
    }
