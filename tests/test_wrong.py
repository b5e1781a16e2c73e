"""The conformance suites catch what is wrong: every rule has an implementation that breaks it.

``python tests/wrong/run.py`` prints the table.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pystream_core.testing import (
    executor_suite,
    observer_suite,
    placement_suite,
    profiler_suite,
)
from pystream_core.testing._rules import (
    EXECUTOR_RULES,
    OBSERVER_RULES,
    PLACEMENT_RULES,
    PROFILER_RULES,
    Rule,
)

RUN = Path(__file__).parent / "wrong" / "run.py"
KINDS = {
    "executor": (executor_suite, EXECUTOR_RULES),
    "placement": (placement_suite, PLACEMENT_RULES),
    "observer": (observer_suite, OBSERVER_RULES),
    "profiler": (profiler_suite, PROFILER_RULES),
}


def try_all(kind: str) -> list[dict[str, Any]]:
    """What becomes of the wrong implementations of this kind, in a process of its own."""
    command = [sys.executable, str(RUN), "--json", kind]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert ran.returncode == 0, ran.stderr
    found: list[dict[str, Any]] = json.loads(ran.stdout)
    return found


@pytest.fixture(scope="module")
def found() -> dict[str, list[dict[str, Any]]]:
    """That of all kinds, side by side: most of the time goes by until what hangs is ended."""
    with ThreadPoolExecutor(len(KINDS)) as pool:
        return dict(zip(KINDS, pool.map(try_all, KINDS), strict=True))


@pytest.fixture(params=KINDS)
def suite(request: pytest.FixtureRequest) -> tuple[set[str], tuple[Rule, ...]]:
    """The tests of a suite, and its rules."""
    make, rules = KINDS[request.param]
    return {name for name in dir(make("x")) if name.startswith("test_")}, rules


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", KINDS)
def test_every_rule_has_a_wrong_implementation_that_is_caught(
    kind: str, found: dict[str, list[dict[str, Any]]]
) -> None:
    """By a test of that rule, with the failure that was expected. Those that hang as well."""
    tests = {rule.name: rule.tests for rule in KINDS[kind][1]}
    assert [one for one in found[kind] if not one["failures"]] == []
    assert {one["rule"] for one in found[kind]} == set(tests)
    assert [one for one in found[kind] if one["test"] not in tests[one["rule"]]] == []


def test_every_test_of_a_suite_shows_a_rule(suite: tuple[set[str], tuple[Rule, ...]]) -> None:
    """And the rules name no test that there is not."""
    tests, rules = suite
    assert {name for rule in rules for name in rule.tests} == tests


def test_the_rules_can_be_listed() -> None:
    """``python -m pystream_core.testing`` prints them, without pytest."""
    program = (
        "import runpy, sys; sys.modules['pytest'] = None; "
        "runpy.run_module('pystream_core.testing', run_name='__main__')"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True
    )
    for rule in (*EXECUTOR_RULES, *PLACEMENT_RULES, *OBSERVER_RULES, *PROFILER_RULES):
        assert f"{rule.name}: {rule.text}" in ran.stdout
