"""Lists the rules of the conformance suites: ``python -m pystream_core.testing``."""

from __future__ import annotations

from ._rules import EXECUTOR_RULES, OBSERVER_RULES, PLACEMENT_RULES, PROFILER_RULES, table

if __name__ == "__main__":
    for suite, rules in (
        ("executor_suite", EXECUTOR_RULES),
        ("placement_suite", PLACEMENT_RULES),
        ("observer_suite", OBSERVER_RULES),
        ("profiler_suite", PROFILER_RULES),
    ):
        print(f"{suite}\n\n{table(rules)}\n")  # noqa: T201
