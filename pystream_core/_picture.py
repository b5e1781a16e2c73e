"""Boxes and arrows as SVG: a small layered layout, without a dependency.

Boxes stand in layers from top to bottom, each below those that feed it. A group is laid out on
its own and then stands as one box in what is around it. The colours do not rest on those of the
page: every text stands on a fill that is drawn here, in light and in dark mode.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

_FONT: Final = "ui-sans-serif, system-ui, -apple-system, 'Segoe UI', Roboto, Arial, sans-serif"
_STYLE: Final = """
.pystream-graph .box{fill:#e8eefc;stroke:#5b7bd5}
.pystream-graph .end{fill:#e9ebef;stroke:#8a94a6}
.pystream-graph .group{fill:#f6f7fa;stroke:#8a94a6}
.pystream-graph text{fill:#14213d}
.pystream-graph .note{fill:#46536e}
.pystream-graph .edge{stroke:#7c8798}
.pystream-graph .tip{fill:#7c8798}
@media (prefers-color-scheme: dark){
.pystream-graph .box{fill:#24314f;stroke:#7f9cf0}
.pystream-graph .end{fill:#353b47;stroke:#8a94a6}
.pystream-graph .group{fill:#191d26;stroke:#8a94a6}
.pystream-graph text{fill:#eef2ff}
.pystream-graph .note{fill:#c3cce0}
}"""

_LETTER, _SMALL_LETTER = 7.6, 6.4  # pixels; on the wide side, since fonts differ
_LINE, _SMALL_LINE = 18.0, 15.0
_PAD = 12.0
_GAP = 26.0  # beside one another
_STEP = 34.0  # between layers
_TIP = 7.0
_SWEEPS = 12


@dataclass(frozen=True, kw_only=True)
class Box:
    """One box of a picture.

    Attributes:
        name: its first line.
        notes: smaller lines below.
        full: the text of its tooltip.
        end: the input or the output, drawn round.
        groups: the groups that it stands in, from the outermost.
        feeders: the places in the list of those that point to it; all come before it.
    """

    name: str
    notes: tuple[str, ...] = ()
    full: str = ""
    end: bool = False
    groups: tuple[str, ...] = ()
    feeders: tuple[int, ...] = ()


def svg(boxes: Sequence[Box], title: str, labels: dict[tuple[str, ...], str]) -> str:
    """The picture as a complete SVG document.

    Args:
        boxes: what to draw, each behind those that feed it. A group has one way in and one
            way out.
        title: what it shows, for those who cannot see it.
        labels: what each group is called.
    """
    whole = _laid(boxes, (), labels)
    width, height = whole.width, whole.height
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="pystream-graph" role="img" '
        f'width="{_n(width)}" height="{_n(height)}" viewBox="0 0 {_n(width)} {_n(height)}" '
        f'style="max-width:100%" aria-label="{escaped(title)}">',
        f"<title>{escaped(title)}</title>",
        f"<style>{_STYLE}\n</style>",
        f'<g font-family="{_FONT}" font-size="13" stroke-width="1.2" text-anchor="middle">',
    ]
    _draw(whole, 0.0, 0.0, boxes, out)
    out += ["</g>", "</svg>"]
    return "\n".join(out) + "\n"


def escaped(text: str) -> str:
    """Text for XML, between tags and in attributes."""
    for plain, entity in (("&", "amp"), ("<", "lt"), (">", "gt"), ('"', "quot"), ("'", "#39")):
        text = text.replace(plain, f"&{entity};")
    return text


@dataclass(eq=False)
class _Item:
    """Something that stands in a layer: a box, a group, or an arrow that passes by.

    Attributes:
        box: the box's place in the list; None for the others.
        label: what a group is called.
        enter, leave: where arrows come in and go out, from the middle.
        x, y: its middle, and its upper edge, in what it stands in.
        edges: of a group: the arrows inside as items that they lead through.
    """

    width: float
    height: float
    box: int | None = None
    label: str = ""
    enter: float = 0.0
    leave: float = 0.0
    x: float = 0.0
    y: float = 0.0
    layers: list[list[_Item]] = field(default_factory=list)
    tops: list[tuple[float, float]] = field(default_factory=list)
    edges: list[list[_Item]] = field(default_factory=list)
    above: list[_Item] = field(default_factory=list)
    below: list[_Item] = field(default_factory=list)
    layer: int = 0


def _laid(
    boxes: Sequence[Box], group: tuple[str, ...], labels: dict[tuple[str, ...], str]
) -> _Item:
    """A group with everything in it placed; the empty group is the picture."""
    depth = len(group)
    items: dict[int | str, _Item] = {}
    arrows: dict[tuple[int | str, int | str], None] = {}

    def key(number: int) -> int | str:
        groups = boxes[number].groups
        return groups[depth] if len(groups) > depth else number

    for number, box in enumerate(boxes):
        if box.groups[:depth] != group:
            continue
        name = key(number)
        if name not in items:
            items[name] = (
                _laid(boxes, (*group, name), labels) if isinstance(name, str) else _sized(box, name)
            )
        for feeder in box.feeders:
            if boxes[feeder].groups[:depth] == group and key(feeder) != name:
                arrows[key(feeder), name] = None
    whole = _Item(0.0, 0.0, label=labels.get(group, ""))
    for first, last in arrows:  # in the order of those that they lead to
        items[last].layer = max(items[last].layer, items[first].layer + 1)
    whole.layers = [[] for _ in range(max(item.layer for item in items.values()) + 1)]
    for item in items.values():
        whole.layers[item.layer].append(item)
    for first, last in arrows:
        whole.edges.append(_threaded(whole, items[first], items[last]))
    _order(whole.layers)
    _spread(whole.layers)
    _frame(whole)
    return whole


def _sized(box: Box, number: int) -> _Item:
    wide = max(
        [_breadth(box.name) * _LETTER, *(_breadth(note) * _SMALL_LETTER for note in box.notes)]
    )
    high = _LINE + len(box.notes) * _SMALL_LINE
    return _Item(max(64.0, wide + 2 * _PAD), high + _PAD, box=number)


def _threaded(whole: _Item, first: _Item, last: _Item) -> list[_Item]:
    """The items that an arrow leads through, with a place for it in each layer between."""
    way = [first]
    for layer in range(first.layer + 1, last.layer):
        passing = _Item(4.0, 0.0, layer=layer)
        whole.layers[layer].append(passing)
        way.append(passing)
    way.append(last)
    for upper, lower in pairwise(way):
        upper.below.append(lower)
        lower.above.append(upper)
    return way


def _order(layers: list[list[_Item]]) -> None:
    """Arrange the items of each layer so that few arrows cross."""
    best, fewest = [list(layer) for layer in layers], _crossings(layers)
    for sweep in range(_SWEEPS):
        if not fewest:
            break
        down = sweep % 2 == 0
        for layer, beside in _neighbours(layers, down):
            place = {id(item): float(number) for number, item in enumerate(beside)}
            wanted = {}
            for number, item in enumerate(layer):
                near = [place[id(one)] for one in (item.above if down else item.below)]
                wanted[id(item)] = sum(near) / len(near) if near else float(number)
            layer.sort(key=lambda item: wanted[id(item)])
        if (crossings := _crossings(layers)) < fewest:
            best, fewest = [list(layer) for layer in layers], crossings
    layers[:] = best


def _crossings(layers: list[list[_Item]]) -> int:
    total = 0
    for upper, lower in pairwise(layers):
        place = {id(item): number for number, item in enumerate(lower)}
        seen: list[int] = []
        for item in upper:
            ends = [place[id(one)] for one in item.below]
            total += sum(one > end for end in ends for one in seen)
            seen += ends
    return total


def _neighbours(layers: list[list[_Item]], down: bool) -> Iterable[tuple[list[_Item], list[_Item]]]:
    """Each layer with the one before it, in the direction of the sweep."""
    if down:
        return zip(layers[1:], layers, strict=False)
    return zip(layers[-2::-1], layers[:0:-1], strict=False)


def _spread(layers: list[list[_Item]]) -> None:
    """Give every item its middle: below those that feed it and above those that it feeds."""
    for layer in layers:
        _settle(layer, [0.0] * len(layer))
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for layer, _ in _neighbours(layers, down):
            wanted = []
            for item in layer:
                if down:
                    near = [one.x + one.leave - item.enter for one in item.above]
                else:
                    near = [one.x + one.enter - item.leave for one in item.below]
                wanted.append(sum(near) / len(near) if near else item.x)
            _settle(layer, wanted)


def _settle(layer: list[_Item], wanted: list[float]) -> None:
    """Put items as near to where they want to be as their widths allow, in their order.

    The least sum of squares: neighbours that would overlap are merged into blocks, which
    stand at the mean of what their members want.
    """
    offsets = [0.0]
    for left, right in pairwise(layer):
        offsets.append(offsets[-1] + (left.width + right.width) / 2 + _GAP)
    blocks: list[tuple[float, int]] = []
    for offset, place in zip(offsets, wanted, strict=False):
        mean, size = place - offset, 1
        while blocks and blocks[-1][0] >= mean:
            before, others = blocks.pop()
            mean, size = (mean * size + before * others) / (size + others), size + others
        blocks.append((mean, size))
    places = [mean for mean, size in blocks for _ in range(size)]
    for item, offset, place in zip(layer, offsets, places, strict=False):
        item.x = place + offset


def _frame(whole: _Item) -> None:
    """Stack the layers and measure what is around them."""
    everything = [item for layer in whole.layers for item in layer]
    left = min(item.x - item.width / 2 for item in everything)
    right = max(item.x + item.width / 2 for item in everything)
    first, last = whole.layers[0][0], whole.layers[-1][0]
    shift = _PAD - left
    label = _breadth(whole.label) * _SMALL_LETTER
    if whole.label:  # the arrow that comes in passes beside the label
        shift = max(shift, label + 2 * _PAD - first.x - first.enter)
    y = _PAD + (_SMALL_LINE if whole.label else 0.0)
    for layer in whole.layers:
        high = max(item.height for item in layer)
        for item in layer:
            item.x += shift
            item.y = y + (high - item.height) / 2
        whole.tops.append((y, y + high))
        y += high + _STEP
    whole.width = max(right + shift, label + _PAD) + _PAD
    whole.height = y - _STEP + _PAD
    whole.enter = first.x + first.enter - whole.width / 2
    whole.leave = last.x + last.leave - whole.width / 2


def _draw(whole: _Item, x: float, y: float, boxes: Sequence[Box], out: list[str]) -> None:
    """Draw what is in a group whose upper left corner stands at x, y: arrows beneath boxes."""
    if whole.label:
        out.append(
            f'<rect class="group" x="{_n(x)}" y="{_n(y)}" width="{_n(whole.width)}" '
            f'height="{_n(whole.height)}" rx="8" stroke-dasharray="4 3"/>'
        )
        out.append(
            f'<text class="note" font-size="11" text-anchor="start" x="{_n(x + _PAD)}" '
            f'y="{_n(y + _PAD + 6)}">{escaped(whole.label)}</text>'
        )
        _stubs(whole, x, y, out)
    for way in whole.edges:
        out.append(_arrow(whole, way, x, y))
    for layer in whole.layers:
        for item in layer:
            left, top = x + item.x - item.width / 2, y + item.y
            if item.box is not None:
                out.append(_boxed(boxes[item.box], item, left, top))
            elif item.layers:
                _draw(item, left, top, boxes, out)


def _stubs(whole: _Item, x: float, y: float, out: list[str]) -> None:
    """The way of an arrow from the edge of a group to its first box, and from its last one."""
    first, last = whole.layers[0][0], whole.layers[-1][0]
    enter, leave = x + first.x + first.enter, x + last.x + last.leave
    if first.box is None:  # a group inside, which draws the rest
        out.append(_line([f"M{_n(enter)} {_n(y)}", f"V{_n(y + first.y)}"]))
    else:
        out.append(_line([f"M{_n(enter)} {_n(y)}", f"V{_n(y + first.y - _TIP)}"]))
        out.append(_tip(enter, y + first.y))
    out.append(_line([f"M{_n(leave)} {_n(y + last.y + last.height)}", f"V{_n(y + whole.height)}"]))


def _arrow(whole: _Item, way: list[_Item], x: float, y: float) -> str:
    first, last = way[0], way[-1]
    at = x + first.x + first.leave
    path = [f"M{_n(at)} {_n(y + first.y + first.height)}"]
    for upper, lower in pairwise(way):
        start = y + whole.tops[upper.layer][1]
        end = y + whole.tops[lower.layer][0] - (_TIP if lower is last else 0.0)
        to = x + lower.x + lower.enter
        path.append(f"V{_n(start)}")
        if abs(to - at) < 0.5:
            path.append(f"V{_n(end)}")
        else:
            half = _n((start + end) / 2)
            path.append(f"C{_n(at)} {half} {_n(to)} {half} {_n(to)} {_n(end)}")
        at = to
    if last.layers:  # a group: the tip stands at its first box
        path.append(f"V{_n(y + last.y)}")
        return _line(path)
    path.append(f"V{_n(y + last.y - _TIP)}")
    return f"{_line(path)}\n{_tip(at, y + last.y)}"


def _line(path: list[str]) -> str:
    return f'<path class="edge" fill="none" d="{" ".join(path)}"/>'


def _tip(x: float, y: float) -> str:
    points = ((x, y), (x - 4, y - _TIP - 1), (x + 4, y - _TIP - 1))
    shown = " ".join(f"{_n(a)},{_n(b)}" for a, b in points)
    return f'<polygon class="tip" points="{shown}"/>'


def _boxed(box: Box, item: _Item, left: float, top: float) -> str:
    middle = _n(left + item.width / 2)
    base = top + _PAD / 2 + 13
    lines = [f'<text x="{middle}" y="{_n(base)}">{escaped(box.name)}</text>']
    for number, note in enumerate(box.notes, 1):
        lines.append(
            f'<text class="note" font-size="11" x="{middle}" '
            f'y="{_n(base + number * _SMALL_LINE)}">{escaped(note)}</text>'
        )
    rounded = min(item.height / 2, 15.0) if box.end else 5.0
    return (
        f"<g><title>{escaped(box.full or box.name)}</title>"
        f'<rect class="{"end" if box.end else "box"}" x="{_n(left)}" y="{_n(top)}" '
        f'width="{_n(item.width)}" height="{_n(item.height)}" rx="{_n(rounded)}"/>'
        f"{''.join(lines)}</g>"
    )


def _breadth(text: str) -> int:
    """How many letters wide a text is; those of East Asia count double."""
    return sum(2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text)


def _n(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
