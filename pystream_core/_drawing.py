"""A pipeline's graph for people: as a tree of text, for Mermaid and Graphviz, and as SVG.

All four are drawn from one :class:`_Flow`: the stages of a plan between the input and the
output, each behind those that feed it. Names can hold any text: what cannot be seen is written
out (:func:`visible`), what a format would take for its own is escaped by that format's part.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Final

from ._errors import PlanError, call_name
from ._graph import Feed, Gathered, arrange, feeders_of
from ._plan import ErrorPolicy, Plan, Retry, StageSpec, placement_name

_LONGEST_NAME: Final = 60
_LONGEST_OUTLINE: Final = 160
_MANY: Final = 16  # names that an outline may hold

# tee, corner, passing line, group, mention, what is brought together
_LINES: Final = ("├─ ", "└─ ", "│  ", "╎ ", "↳ ", "← ")
_ASCII_LINES: Final = ("|- ", "`- ", "|  ", ": ", "> ", "<- ")


class Drawing:
    """The graph of a pipeline as it stood when this was made. Made by ``Pipeline.graph``.

    Each stage shows the options that change what becomes of items: ``workers``, ``ordered`` of
    several, ``capacity``, ``overflow``, ``max_age``, ``on_error`` and ``placement``, where they
    are not the defaults. A stage after several, and an output that is a dict, show what they
    are given. Nested pipelines are groups; one without stages, which only passes items on, is
    left out. A notebook shows it as a picture.
    """

    def __init__(self, plan: Plan, placement: Any = None) -> None:
        self._flow = _flow(plan, placement)

    def text(self, *, width: int | None = None, ascii: bool = False) -> str:
        """A tree of text, one line for each stage and one for each mention of a join.

        What follows stands below. Where branches part they are indented; a stage that joins
        them stands once, behind them, and each branch ends in a line that refers to it.

        Args:
            width: columns: where options do not fit beside a name, they stand below it.
            ascii: draw the lines with ASCII characters only; names stay as they are.
        """
        return "\n".join(_tree(self._flow, _ASCII_LINES if ascii else _LINES, width)) + "\n"

    def mermaid(self) -> str:
        """A Mermaid flowchart."""
        return "\n".join(_mermaid(self._flow)) + "\n"

    def dot(self) -> str:
        """A digraph for Graphviz, in UTF-8."""
        return "\n".join(_dot(self._flow)) + "\n"

    def svg(self) -> str:
        """A picture, as a complete SVG document for light and dark mode."""
        from ._picture import Box, svg

        flow = self._flow
        boxes = [
            Box(
                name=node.label,
                notes=tuple(_shortened(note, 44) for note in node.notes),
                full=visible("\n".join((node.name, *node.notes)), keep="\n"),
                end=node.end,
                groups=node.groups,
                feeders=node.feeders,
            )
            for node in flow.nodes
        ]
        labels = {group: _shortened(visible(group[-1]), 30) for group in flow.groups}
        stages = len([node for node in flow.nodes if node.stage])
        title = f"Pipeline of {stages} stage{'' if stages == 1 else 's'}: {_outlined(flow)}"
        return svg(boxes, title, labels)

    def __str__(self) -> str:
        return self.text().rstrip("\n")

    def __repr__(self) -> str:
        return f"<graph of {_outlined(self._flow)}>"

    def _repr_svg_(self) -> str:
        return self.svg()


def outline(after: Mapping[str, Sequence[str] | None]) -> str:
    """The stages of one pipeline in a line, bounded: ``a -> (b, c) -> d``.

    Branches that do not nest have no such form: they are named one behind the other.

    Args:
        after: what each stage was said to follow, in the order of adding; see ``arrange``.
    """
    if all(each is None for each in after.values()):  # most pipelines, and often shown
        return _chained(list(after))
    try:
        arranged = arrange(after)
    except PlanError:
        return _listed(list(after), "which do not fit together")
    places = {name: number for number, name in enumerate(arranged, 1)}
    nodes = [_Node("input", end=True)]
    for name, feeders in arranged.items():
        nodes.append(_Node(name, feeders=tuple(places[each] for each in feeders) or (0,), stage=1))
    used = {feeder for node in nodes for feeder in node.feeders}
    ends = tuple(number for number in range(len(nodes)) if number not in used)
    nodes.append(_Node("output", feeders=ends, end=True))
    return _outlined(_Flow(tuple(nodes)))


def visible(text: str, *, keep: str = "") -> str:
    """Text in which every character can be seen: line breaks and the like are written out."""
    return "".join(
        each
        if each.isprintable() or each in keep
        else each.encode("unicode_escape", "replace").decode()
        for each in text
    )


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


@dataclass(frozen=True)
class _Node:
    """Something that is drawn.

    Attributes:
        name: what it is called.
        notes: what else there is to know.
        groups: the nested pipelines around it, from the outermost.
        feeders: the numbers of those that feed it, each once; all come before it.
        stage: it is a stage (1) rather than an end, or the dict that a nested pipeline gives.
        end: it is the input or the output.
    """

    name: str
    notes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    feeders: tuple[int, ...] = ()
    stage: int = 0
    end: bool = False

    @property
    def label(self) -> str:
        return _shortened(visible(self.name), _LONGEST_NAME)


@dataclass(frozen=True)
class _Flow:
    """Everything between the input (the first node) and the output (the last one)."""

    nodes: tuple[_Node, ...]

    @cached_property
    def followers(self) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in self.nodes]
        for number, node in enumerate(self.nodes):
            for feeder in node.feeders:
                found[feeder].append(number)
        return found

    @cached_property
    def gates(self) -> list[int]:
        """For each node the last one through which every way from the input to it leads."""
        gates, depth = [0], [0]
        for node in self.nodes[1:]:
            gate, *others = node.feeders
            for other in others:
                while gate != other:
                    if depth[gate] < depth[other]:
                        gate, other = other, gate
                    gate = gates[gate]
            gates.append(gate)
            depth.append(depth[gate] + 1)
        return gates

    @cached_property
    def joins(self) -> list[list[int]]:
        """For each node the joins of the branches that part there."""
        found: list[list[int]] = [[] for _ in self.nodes]
        for number, node in enumerate(self.nodes):
            if len(node.feeders) > 1:
                found[self.gates[number]].append(number)
        return found

    @cached_property
    def groups(self) -> dict[tuple[str, ...], int]:
        """The nested pipelines, outer before inner, and the first node in each."""
        found: dict[tuple[str, ...], int] = {}
        for number, node in enumerate(self.nodes):
            for depth in range(1, len(node.groups) + 1):
                found.setdefault(node.groups[:depth], number)
        return found

    def alone(self, number: int) -> bool:
        """It has one feeder, so it stands below that."""
        return len(self.nodes[number].feeders) == 1


def _flow(plan: Plan, placement: Any) -> _Flow:
    """What is drawn of a plan."""
    nodes = [_Node("input", end=True)]
    paths: list[tuple[str, ...]] = [()]
    places: dict[int | Gathered, int] = {}
    main = plan.stages[0].path[:1] if plan.stages else ()

    def feeders(
        feed: Feed, at: tuple[str, ...], *, last: bool = False
    ) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """The nodes that a feed comes from, and how what is brought together looks."""
        if not isinstance(feed, Gathered) or not (feed.names is None or last):
            return (place(feed),), ()
        found = tuple(place(part) for part in feed.parts)
        names = feed.names or tuple(_called(paths[each], at) for each in found)
        shown = _few(names)
        brought = f"({shown})" if feed.names is None else f"{{{shown}}}"
        return tuple(dict.fromkeys(found)), (brought,)

    def place(feed: Feed) -> int:
        if feed is None:
            return 0
        if feed in places:
            return places[feed]
        # The dict that a nested pipeline of several last stages gives out. Its keys are names
        # inside that pipeline, so what all these stages have in common is its path.
        assert isinstance(feed, Gathered)
        group = _common([plan.stages[each].path for each in feeders_of(feed)])
        found = tuple(dict.fromkeys(place(part) for part in feed.parts))
        nodes.append(_Node(f"{{{_few(feed.names or ())}}}", groups=group[1:], feeders=found))
        paths.append(group)
        places[feed] = len(nodes) - 1
        return places[feed]

    for index, (spec, feed) in enumerate(zip(plan.stages, plan.graph.feeds, strict=True)):
        found, joined = feeders(feed, spec.path)
        notes = (*joined, *_options(spec, placement))
        nodes.append(_Node(spec.path[-1], notes, spec.path[1:-1], found, stage=1))
        paths.append(spec.path)
        places[index] = len(nodes) - 1
    result = plan.graph.result
    own = isinstance(result, Gathered) and (
        _common([plan.stages[each].path for each in feeders_of(result)]) == main
    )
    found, joined = feeders(result, main, last=own)
    nodes.append(_Node("output", joined, feeders=found, end=True))
    return _Flow(tuple(nodes))


def _few(names: Sequence[str]) -> str:
    """Names in a line; of many the first ones and the last."""
    shown = [_shortened(visible(name), _LONGEST_NAME) for name in names]
    return ", ".join([*shown[:6], "…", shown[-1]] if len(shown) > 8 else shown)


def _common(paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """What several paths have in common, from the main pipeline down."""
    shared = 0
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared += 1
    return paths[0][:shared]


def _called(path: tuple[str, ...], at: tuple[str, ...]) -> str:
    """What a stage is called, or the nested pipeline that it stands in, from somewhere else."""
    return path[min(len(_common([path, at])), len(path) - 1)] if path else "input"


def _options(spec: StageSpec, placement: Any) -> Iterator[str]:
    options = spec.options
    if options.workers > 1:
        yield f"workers={options.workers}"
        if not options.ordered:  # of one worker it says nothing
            yield "ordered=False"
    if options.capacity != "auto":
        yield f"capacity={options.capacity}"
    if options.overflow != "block":
        yield f"overflow={options.overflow}"
    if options.max_age is not None:
        yield f"max_age={options.max_age:g}"
    if options.on_error != "stop":
        yield f"on_error={_policy(options.on_error)}"
    placement = placement if options.placement is None else options.placement
    if placement is not None:
        yield f"placement={visible(placement_name(placement))}"


def _policy(policy: ErrorPolicy) -> str:
    """What is done with a failure, as short as it can be said: no defaults, own names only."""
    if isinstance(policy, str):
        return policy
    if isinstance(policy, Retry):
        backoff = f", backoff={policy.backoff:g}" if policy.backoff else ""
        then = f", then={policy.then}" if policy.then != "stop" else ""
        return f"Retry({policy.times}{backoff}{then})"
    policy = policy.func if isinstance(policy, partial) else policy
    named = policy if inspect.isroutine(policy) else type(policy)
    return _shortened(visible(call_name(named).rpartition("<locals>.")[2]), _LONGEST_NAME)


# -- text ------------------------------------------------------------------------------


def _tree(flow: _Flow, lines: Sequence[str], width: int | None) -> Iterator[str]:
    bar, mention, brought = lines[3:]
    # What is still to be drawn: before its first line, before its others without the bars of
    # groups, how many groups that stands in, the node, and whether it is only mentioned.
    waiting: list[tuple[str, str, int, int, bool]] = [("", "", 0, 0, False)]
    while waiting:
        lead, prefix, depth, number, mentioned = waiting.pop()
        node = flow.nodes[number]
        if mentioned:
            yield f"{lead}{mention}{node.label}"
            continue
        gate = flow.nodes[flow.gates[number]].groups
        shared = len(_common([gate, node.groups]))
        for level in range(shared, len(node.groups)):
            yield f"{lead}{_shortened(visible(node.groups[level]), _LONGEST_NAME)}:"
            lead = prefix + bar * (level + 1 - depth)
        inside = prefix + bar * max(0, len(node.groups) - depth)
        yield from _described(node, lead, inside, brought, width)
        waiting += reversed(_below(flow, number, prefix, depth, lines))


def _below(
    flow: _Flow, number: int, prefix: str, depth: int, lines: Sequence[str]
) -> list[tuple[str, str, int, int, bool]]:
    """What stands below a node: branches, and then the join that all of them lead to."""
    tee, corner, passing, bar = lines[:4]

    def before(other: int) -> tuple[str, int]:
        """What stands before the line of another node, and in how many groups."""
        around = [flow.nodes[each].groups for each in (number, other)]
        level = max(depth, len(_common(around)))
        return prefix + bar * (level - depth), level

    *more, last = flow.joins[number] or [0]  # the input joins nothing
    branches = [(each, not flow.alone(each)) for each in flow.followers[number]]
    branches += [(each, False) for each in more]
    straight = (last, False) if last else branches.pop() if len(branches) == 1 else None
    found = []
    for place, (other, mentioned) in enumerate(branches, 1):
        ends = straight is None and place == len(branches)
        start, level = before(other)
        rest = start + (" " * len(corner) if ends else passing)
        found.append((start + (corner if ends else tee), rest, level, other, mentioned))
    if straight is not None:
        found.append((before(straight[0])[0], prefix, depth, *straight))
    return found


def _described(
    node: _Node, lead: str, inside: str, brought: str, width: int | None
) -> Iterator[str]:
    """The line of a node; more than one where it would be too long."""
    joined = [note for note in node.notes if note[:1] in "({"]
    options = [note for note in node.notes if note[:1] not in "({"]
    notes = [
        *(f"{brought}{note}" for note in joined),
        *([f"[{', '.join(options)}]"] if options else []),
    ]
    line = " ".join([lead + node.label, *notes])
    if width is None or len(line) <= width:
        yield line
        return
    yield lead + node.label
    for note in notes:
        if len(inside) + 2 + len(note) > width and note.startswith("["):
            yield from (f"{inside}  [{option}]" for option in options)
        else:
            yield f"{inside}  {note}"


# -- other tools -----------------------------------------------------------------------


def _mermaid(flow: _Flow) -> Iterator[str]:
    def line(number: int) -> str:
        node = flow.nodes[number]
        text = "<br/>".join(_for_mermaid(one) for one in (node.label, *node.notes))
        return f'n{number}(["{text}"])' if node.end else f'n{number}["{text}"]'

    yield "flowchart TD"
    yield from _in_groups(
        flow, line, lambda number, name: f'subgraph g{number}["{_for_mermaid(name)}"]', "end"
    )
    for number, node in enumerate(flow.nodes):
        for feeder in node.feeders:
            yield f"    n{feeder} --> n{number}"


def _for_mermaid(text: str) -> str:
    """Everything but letters, digits and spaces as a number, unless it stands between two of
    them and means nothing there: Mermaid reads HTML and Markdown in its labels."""
    out = []
    for place, each in enumerate(text):
        beside = text[place - 1 : place] + text[place + 1 : place + 2]
        between = each in "_-." and len(beside) == 2 and beside.isalnum()
        plain = each.isalnum() or each == " " or each in ",=" or between
        out.append(each if plain else f"#{ord(each)};")
        if text[place : place + 2] == r"\n":  # a line break even when it is written so
            out.append("#8203;")  # a space without width
    return "".join(out)


def _dot(flow: _Flow) -> Iterator[str]:
    def line(number: int) -> str:
        node = flow.nodes[number]
        text = r"\n".join(_for_dot(one) for one in (node.label, *node.notes))
        return f'n{number} [label="{text}"{", style=rounded" if node.end else ""}];'

    yield "digraph pipeline {"
    yield '    charset="UTF-8";'
    yield "    node [shape=box];"
    yield from _in_groups(
        flow,
        line,
        lambda number, name: f'subgraph cluster_{number} {{ label="{_for_dot(name)}";',
        "}",
    )
    for number, node in enumerate(flow.nodes):
        for feeder in node.feeders:
            yield f"    n{feeder} -> n{number};"
    yield "}"


def _for_dot(text: str) -> str:
    r"""Graphviz reads backslashes (``\N`` is the node's name) and HTML's entities."""
    for plain, safe in (("\\", "\\\\"), ('"', '\\"'), ("&", "&amp;")):
        text = text.replace(plain, safe)
    return text


def _in_groups(flow: _Flow, line: Any, opening: Any, closing: str) -> Iterator[str]:
    """Every node once, those of a nested pipeline between the lines of its group. The last one
    is the output, which stands in none."""
    numbers = {group: number for number, group in enumerate(flow.groups)}
    open_: tuple[str, ...] = ()
    for number in sorted(range(len(flow.nodes)), key=lambda each: _sort_key(flow, each)):
        groups = flow.nodes[number].groups
        shared = len(_common([open_, groups]))
        for level in range(len(open_), shared, -1):
            yield "    " * level + closing
        for level in range(shared, len(groups)):
            group = groups[: level + 1]
            name = _shortened(visible(group[-1]), _LONGEST_NAME)
            yield "    " * (level + 1) + opening(numbers[group], name)
        open_ = groups
        yield "    " * (len(groups) + 1) + line(number)


def _sort_key(flow: _Flow, number: int) -> tuple[int, ...]:
    """Puts nodes of one group together, at the place of its first one."""
    groups = flow.nodes[number].groups
    return (*(flow.groups[groups[:level]] for level in range(1, len(groups) + 1)), number)


# -- one line --------------------------------------------------------------------------


class _NotNested(Exception):
    """Branches part and join in a way that parentheses cannot show."""


def _chained(names: Sequence[str]) -> str:
    if not names:
        return "no stages"
    text = " -> ".join(_shortened(visible(name), _LONGEST_NAME) for name in names[: _MANY + 1])
    fits = len(names) <= _MANY and len(text) <= _LONGEST_OUTLINE
    return text if fits else _listed(names, "", arrows=True)


def _outlined(flow: _Flow) -> str:
    names = [node.name for node in flow.nodes if node.stage]
    if all(len(each) == 1 for each in flow.followers[:-1]):
        return _chained(names)
    if len(names) <= _MANY:
        try:
            text = " -> ".join(_in_series(flow, 0, len(flow.nodes) - 1))
        except _NotNested:
            text = ""
        if 0 < len(text) <= _LONGEST_OUTLINE:
            return text
    return _listed(names, "branching")


def _in_series(flow: _Flow, number: int, stop: int) -> list[str]:
    """What stands between a node, itself included, and the one where its branch ends."""
    parts: list[str] = []
    while number != stop:
        node = flow.nodes[number]
        if node.stage:
            parts.append(node.label)
        following = flow.followers[number]
        if following == [stop]:
            break
        if len(following) == 1 and flow.alone(following[0]):
            number = following[0]
            continue
        if len(flow.joins[number]) != 1 or not all(map(flow.alone, following)):
            raise _NotNested
        join = flow.joins[number][0]
        branches = [" -> ".join(_in_series(flow, each, join)) for each in following]
        parts.append(f"({', '.join(branches)})")
        number = join
    return parts


def _listed(names: Sequence[str], remark: str, *, arrows: bool = False) -> str:
    """Names that are too many for a line, or have no order that a line could show."""
    few = names if len(names) <= 6 else [*names[:3], "…", *names[-2:]]
    if len(names) > 6:
        remark = f"{len(names)} stages{f', {remark}' if remark else ''}"
    shown = (" -> " if arrows else ", ").join(_shortened(visible(name), 30) for name in few)
    return shown + (f" ({remark})" if remark else "")
