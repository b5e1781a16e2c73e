"""The command line tool of PyStream: ``pystream``, also as ``python -m pystream``."""

from __future__ import annotations

from collections.abc import Sequence

__version__ = "1.0.0"

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line tool and leave the program with its exit code.

    Args:
        arguments: what to run, by default what the program was called with.

    Raises:
        SystemExit: always.
    """
    from ._main import enter

    enter(arguments)
