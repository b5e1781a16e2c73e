"""The conformance suites catch what is wrong: every rule has an implementation that breaks it.

``python tests/wrong/run.py`` prints the table.
"""

from __future__ import annotations

import json
import subprocess
import sys
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


def caught(*kinds: str) -> list[dict[str, Any]]:
    """What became of the wrong implementations of these kinds."""
    command = [sys.executable, str(RUN), "--json", *kinds]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert ran.returncode == 0, ran.stderr
    found: list[dict[str, Any]] = json.loads(ran.stdout)
    return found


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> tuple[set[str], tuple[Rule, ...]]:
    """The tests of a suite, and its rules."""
    make, rules = KINDS[request.param]
    return {name for name in dir(make("x")) if name.startswith("test_")}, rules


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kinds", [["executor"], ["placement", "observer", "profiler"]])
def test_every_rule_has_a_wrong_implementation_that_is_caught(kinds: list[str]) -> None:
    """By a test of that rule, with the failure that was expected. Those that hang as well."""
    found = caught(*kinds)
    assert [one for one in found if not one["failures"]] == []
    for kind in kinds:
        tests = {rule.name: rule.tests for rule in KINDS[kind][1]}
        ours = [one for one in found if one["kind"] == kind]
        assert {one["rule"] for one in ours} == set(tests)
        assert [one for one in ours if one["test"] not in tests[one["rule"]]] == []


def test_every_test_of_a_suite_shows_a_rule(kind: tuple[set[str], tuple[Rule, ...]]) -> None:
    """And the rules name no test that there is not."""
    tests, rules = kind
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
