"""Shared fixtures of all distributions; the count of leftovers watches every test."""

pytest_plugins = ["pystream_core.testing.fixtures"]
