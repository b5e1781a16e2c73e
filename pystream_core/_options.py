"""Options that users give by keyword to something a plugin provides."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ._errors import PlanError, safe_repr


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One option of a stage, source, executor, placement or observer.

    Attributes:
        name: what users write; ``"**options"`` stands for any further ones.
        type: its annotation as text, empty if it has none.
        default: its default, None if it is required.
        required: whether it must be given.
    """

    name: str
    type: str = ""
    default: Any = None
    required: bool = False

    def __str__(self) -> str:
        if self.required or self.name.startswith("**"):
            return f"{self.name} (required)" if self.required else self.name
        return f"{self.name}={safe_repr(self.default, 60)}"


def parameters(
    target: Callable[..., Any], *, skip: int = 0, preset: Mapping[str, Any] | None = None
) -> tuple[Parameter, ...] | None:
    """The options that ``target`` takes by keyword, None if its signature is not known.

    Args:
        target: what will be called with them.
        skip: number of leading positional parameters that are no options, such as the item.
        preset: options given before, which count as defaults.
    """
    try:
        found = list(inspect.signature(target).parameters.values())
    except Exception:  # a built-in without a signature, or a broken one: its call will tell
        return None
    if found and found[0].kind is inspect.Parameter.VAR_POSITIONAL:
        skip = 0
    preset = preset or {}
    options: list[Parameter] = []
    for one in found[skip:]:
        if one.kind is inspect.Parameter.VAR_POSITIONAL:
            continue
        annotation = one.annotation
        text = "" if annotation is inspect.Parameter.empty else _type_text(annotation)
        if one.kind is inspect.Parameter.VAR_KEYWORD:
            options.append(Parameter(name=f"**{one.name}", type=text))
        elif one.kind is not inspect.Parameter.POSITIONAL_ONLY:
            default = preset.get(one.name, one.default)
            required = default is inspect.Parameter.empty
            options.append(
                Parameter(
                    name=one.name,
                    type=text,
                    default=None if required else default,
                    required=required,
                )
            )
    return tuple(options)


def check_keywords(
    target: Callable[..., Any],
    options: Mapping[str, Any],
    what: str,
    *,
    skip: int = 0,
    preset: Mapping[str, Any] | None = None,
    beside: Sequence[str] = (),
) -> None:
    """Refuse options that ``target`` does not take, and missing ones that it needs.

    Args:
        target: what will be called with the options.
        options: given by the user.
        what: how the message calls it, for example ``"stage 'acme.blur'"``.
        skip: number of leading positional parameters that are no options, such as the item.
        preset: options given before, which count as defaults.
        beside: further names that the user can have meant, which go elsewhere.

    Raises:
        PlanError: naming the option, the nearest known one, and all known ones.
    """
    known = parameters(target, skip=skip, preset=preset)
    if known is None:
        return
    names = [one.name for one in known if not one.name.startswith("**")]
    if len(names) == len(known):
        for name in options:
            if name not in names:
                near = near_miss(name, [*names, *beside])
                raise PlanError(f"{what} has no option {name!r}{near}. {_listing(known)}")
    for one in known:
        if one.required and one.name not in options:
            raise PlanError(f"{what} needs the option {one.name!r}. {_listing(known)}")


def near_miss(name: str, names: Sequence[str]) -> str:
    """`` (did you mean …?)`` for a misspelt name, empty if nothing comes near."""
    near = difflib.get_close_matches(name, names, n=2)
    return f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""


def _listing(known: Sequence[Parameter]) -> str:
    if not known:
        return "It takes no options."
    return f"Its options: {', '.join(map(str, known))}."


def _type_text(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
