"""Counts what each test leaves behind, and knows the conformance suites of PyStream."""

pytest_plugins = ["pystream_core.testing.fixtures"]
