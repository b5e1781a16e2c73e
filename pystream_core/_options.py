"""Options that users give by keyword to something a plugin provides."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ._errors import PlanError, safe_repr
from ._stage import Stage, StageFactory

_Kind = inspect.Parameter


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


def parameters(target: Callable[..., Any], *, item: bool = False) -> tuple[Parameter, ...]:
    """The options that a stage, source or factory takes by keyword.

    Something whose signature is not known takes ``**options``: its call will tell.

    Args:
        target: a function, a class, or a ``factory(...)``, whose own options are defaults here.
        item: it is a stage, so the first parameter of a function is no option but the item.
    """
    call, preset = target, {}
    if isinstance(target, StageFactory):
        call, preset, item = target.make, target.options, False
    elif isinstance(target, type) and issubclass(target, Stage):
        item = False
    try:
        found = list(inspect.signature(call).parameters.values())
    except Exception:  # a built-in without a signature, or a broken one
        return (Parameter(name="**options"),)
    if item and found and found[0].kind in (_Kind.POSITIONAL_ONLY, _Kind.POSITIONAL_OR_KEYWORD):
        del found[0]
    options: list[Parameter] = []
    for one in found:
        if one.kind in (_Kind.POSITIONAL_ONLY, _Kind.VAR_POSITIONAL):
            continue
        text = "" if one.annotation is _Kind.empty else _type_text(one.annotation)
        if one.kind is _Kind.VAR_KEYWORD:
            options.append(Parameter(name=f"**{one.name}", type=text))
            continue
        default = preset.get(one.name, one.default)
        required = default is _Kind.empty
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
    item: bool = False,
    beside: Sequence[str] = (),
) -> None:
    """Refuse options that ``target`` does not take, and missing ones that it needs.

    Args:
        target: what will be called with the options.
        options: given by the user.
        what: how the message calls it, for example ``"stage 'acme.blur'"``.
        item: see :func:`parameters`.
        beside: further names that the user can have meant, which go elsewhere.

    Raises:
        PlanError: naming every such option, the nearest known ones, and all known ones.
    """
    known = parameters(target, item=item)
    names = [one.name for one in known if not one.name.startswith("**")]
    wrong = []
    if len(names) == len(known):
        wrong += [
            f"has no option {name!r}{near_miss(name, [*names, *beside])}"
            for name in options
            if name not in names
        ]
    wrong += [
        f"needs the option {one.name!r}"
        for one in known
        if one.required and one.name not in options
    ]
    if wrong:
        raise PlanError(f"{what} {' and '.join(wrong)}. {_listing(known)}")


def near_miss(name: str, names: Iterable[str]) -> str:
    """`` (did you mean …?)`` for a misspelt name, empty if nothing comes near."""
    near = difflib.get_close_matches(name, list(names), n=2)
    return f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""


def _listing(known: Sequence[Parameter]) -> str:
    if not known:
        return "It takes no options."
    return f"Its options: {', '.join(map(str, known))}."


def _type_text(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
