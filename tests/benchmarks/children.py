"""Measuring in a process of its own: a fresh one, or one with the original PyStream."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from types import TracebackType
from typing import Any


class Child:
    """A Python process that calls functions of one module when asked to.

    Args:
        module: the module beside this file.
        python: its interpreter, by default this one.
    """

    def __init__(self, module: str, python: str = sys.executable) -> None:
        self._process = subprocess.Popen(
            [python, __file__, module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, function: str, *arguments: Any) -> Any:
        """What the function returns; blocks until it has.

        Raises:
            RuntimeError: the process ended instead of answering.
        """
        self.begin(function, *arguments)
        return self.answer()

    def begin(self, function: str, *arguments: Any) -> None:
        """Let it call the function; ``answer`` is to follow."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([function, arguments]) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """What the function returns whose call has begun; blocks and raises as ``ask``."""
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"a function failed in {self._process.args!r}")
        return json.loads(answer)

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()


def _answer_all(module: str) -> None:
    functions = import_module(module)
    for line in sys.stdin:
        function, arguments = json.loads(line)
        print(json.dumps(getattr(functions, function)(*arguments)), flush=True)


if __name__ == "__main__":
    _answer_all(sys.argv[1])
