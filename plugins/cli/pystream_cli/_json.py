"""Records as JSON, for programs that read what the tool prints."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import click

from pystream_core import Available, Provided, StageError

from ._listing import Inspected
from ._mistakes import BadFile
from ._run import Outcome


def as_json(value: Any) -> Any:
    """Plain lists, tables and values of records; anything unknown as its ``repr``."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [each.name for each in dataclasses.fields(value) if not each.name.startswith("_")]
        return {name: as_json(getattr(value, name)) for name in fields}
    if isinstance(value, Mapping):
        return {str(key): as_json(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return repr(value)


def print_json(value: Any) -> None:
    """Print one object, readable for people as well."""
    click.echo(json.dumps(as_json(value), indent=2))


def outcome_json(outcome: Outcome, *, file: str, executor: str) -> dict[str, Any]:
    """The object that ``pystream run --json`` prints."""
    return {
        "file": file,
        "executor": executor,
        "state": outcome.state,
        "exit_code": outcome.exit_code,
        "signal": outcome.signal,
        "duration": outcome.seconds,
        "statistics": as_json(outcome.statistics),
        "profile": as_json(outcome.profile),
        "failure": None if outcome.failure is None else failure_json(outcome.failure),
    }


def failure_json(error: BaseException) -> dict[str, Any]:
    """An error: its type, message, and what else is known of it."""
    found: dict[str, Any] = {"type": type(error).__name__, "message": str(error)}
    if isinstance(error, StageError):
        cause = error.__cause__
        found |= {
            "stage": error.path,
            "seq": error.seq,
            "cause": None if cause is None else type(cause).__name__,
        }
    if isinstance(error, BadFile):
        found["mistakes"] = as_json(error.mistakes)
    return found


def available_json(available: Available, beside: Mapping[str, str]) -> dict[str, Any]:
    """The object that ``pystream plugins --json`` prints."""
    found: dict[str, Any] = {"plugins": [as_json(each) for each in available.plugins]}
    for kind in ("executors", "placements", "observers", "stages", "sources"):
        offers: tuple[Provided, ...] = getattr(available, kind)
        found[kind] = [{**as_json(each), "identity": each.identity} for each in offers]
    found["warnings"] = list(beside.values())
    return found


def inspected_json(found: Inspected) -> dict[str, Any]:
    """The object that ``pystream inspect --json`` prints."""
    options = [
        {
            "name": each.name,
            "type": each.type,
            "required": each.required,
            "default": as_json(each.default),
            "doc": each.doc,
        }
        for each in found.options
    ]
    return {**as_json(found), "options": options}
