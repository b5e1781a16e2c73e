"""The graph of a pipeline for people: as a tree, for Mermaid and Graphviz, as a picture."""

from __future__ import annotations

import collections
import functools
import html
import itertools
import re
import subprocess
import sys
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings, strategies as st

from pystream_core import Pipeline, PlanError, Retry, Stage
from pystream_core._drawing import Drawing, visible
from pystream_core._plan import SEPARATOR

SVG = "{http://www.w3.org/2000/svg}"
NASTY = [
    'say "hi"',
    "it's",
    "two\nlines\r\n\tand\vmore",
    "<script>alert(1)</script>",
    "]]>",
    "`code` **bold** _em_ 1. list",
    "- item",
    "\\N \\G \\",
    "a]b[c{d}e(f)g|h;i%%j#quot;&lt;&amp;&#60;",
    "\x1b[31mred\x07\x85\u2028",
    "\u202egnp.exe",
    "日本語 ステージ",
    "ünïcödé 🎞️",
    "\ufffe\U0001fffe",
    "--> end subgraph",
    "$HOME {here} {0} %s",
    " ",
    "x" * 500,
]


def keep(item):
    return item


def twice(item):
    yield item
    yield item


def chain(*names, **options):
    """A pipeline of stages that follow one another."""
    pipeline = Pipeline()
    for name in names:
        pipeline.add(keep, name, **options)
    return pipeline


def branches(*stages, pipeline=None):
    """A pipeline of ``name`` or ``(name, after)``."""
    pipeline = Pipeline() if pipeline is None else pipeline
    for one in stages:
        name, after = one if isinstance(one, tuple) else (one, None)
        if isinstance(name, Pipeline):
            pipeline.add(name.serialize().as_stage(), "child", after=after)
        else:
            pipeline.add(keep, name, after=after)
    return pipeline


@pytest.fixture
def diamond():
    """One branch of two stages and one of one, joined."""
    pipeline = Pipeline()
    pipeline.add(keep, "resize")
    pipeline.add(keep, "motion", workers=2, overflow="drop_oldest", max_age=0.1)
    pipeline.add(keep, "blur")
    pipeline.add(keep, "curve", after="resize", placement="elsewhere")
    pipeline.add(keep, "join", after=["blur", "curve"])
    pipeline.add(keep, "write")
    return pipeline


# -- what the formats say, read by small parsers --------------------------------------------


def read_mermaid(text):
    """Nodes by label, groups and arrows, of a flowchart; AssertionError if it is none."""
    head, *lines = text.splitlines()
    assert head == "flowchart TD"
    labels, groups, arrows, depth = {}, [], [], 0
    for line in map(str.strip, lines):
        if line == "end":
            depth -= 1
            continue
        if found := re.fullmatch(r"(n\d+) --> (n\d+)", line):
            arrows.append(found.groups())
            continue
        found = re.fullmatch(r'(subgraph )?(\w\d+)(?:\["([^"]*)"\]|\(\["([^"]*)"\]\))', line)
        assert found, line
        label = found[3] if found[3] is not None else found[4]
        assert not set(label.replace("<br/>", "")) & set('<>`*&"[]{}()\\|%'), label
        assert not re.search(r"#(?!\d+;)", label)
        plain = [
            re.sub(r"#(\d+);", lambda one: chr(int(one[1])), part).replace("\\\u200bn", r"\n")
            for part in label.split("<br/>")
        ]
        if found[1]:
            depth += 1
            groups.append(plain[0])
        else:
            labels[found[2]] = plain
    assert depth == 0
    return labels, groups, arrows


def read_dot(text):
    """The same of a digraph: a tokenizer of Graphviz's quoted texts."""
    text.encode()
    token = re.compile(r'\s*("(?:[^"\\]|\\.)*"|->|\w+|[{}\[\];=,])', re.DOTALL)
    tokens, at = [], 0
    while at < len(text.rstrip()):
        found = token.match(text, at)
        assert found, text[at : at + 60]
        tokens.append(found[1])
        at = found.end()
    assert tokens[:3] == ["digraph", "pipeline", "{"]
    assert tokens.count("{") == tokens.count("}")

    def unquoted(quoted):
        lines = re.split(r"(?<!\\)((?:\\\\)*)\\n", quoted[1:-1])
        lines = ["".join(pair) for pair in zip(lines[::2], [*lines[1::2], ""], strict=True)]
        return [html.unescape(re.sub(r"\\(.)", r"\1", line)) for line in lines]

    labels, groups, arrows = {}, [], []
    for place, each in enumerate(tokens):
        if each == "label" and tokens[place - 2].startswith("n"):
            labels[tokens[place - 2]] = unquoted(tokens[place + 2])
        elif each == "label":
            groups += unquoted(tokens[place + 2])
        elif each == "->":
            arrows.append((tokens[place - 1], tokens[place + 1]))
    return labels, groups, arrows


def read_svg(text):
    """The lines of text in every box, and the tooltips; a parse error if it is no XML."""
    root = ET.fromstring(text)
    assert root.tag == f"{SVG}svg"
    tags = {each.tag.removeprefix(SVG) for each in root.iter()}
    assert tags <= {"svg", "title", "style", "g", "rect", "text", "path", "polygon"}
    boxes = [each for each in root.iter(f"{SVG}g") if each.find(f"{SVG}rect") is not None]
    boxes = [each for each in boxes if each.find(f"{SVG}title") is not None]
    return (
        [[line.text for line in box.findall(f"{SVG}text")] for box in boxes],
        [box.find(f"{SVG}title").text for box in boxes],
    )


def shown(name):
    """How a name looks in every drawing."""
    plain = visible(name)
    return plain if len(plain) <= 60 else f"{plain[:59]}…"


# -- the tree --------------------------------------------------------------------------------


def test_branches_stand_indented_and_the_join_once_behind_them(diamond) -> None:
    """A chain runs straight down; each branch ends by naming the join."""
    assert diamond.graph().text() == (
        "input\n"
        "resize\n"
        "├─ motion [workers=2, overflow=drop_oldest, max_age=0.1]\n"
        "│  blur\n"
        "│  ↳ join\n"
        "├─ curve [placement=elsewhere]\n"
        "│  ↳ join\n"
        "join ← (blur, curve)\n"
        "write\n"
        "output\n"
    )
    assert f"{diamond.graph()}\n" == diamond.graph().text()


def test_ascii_lines_and_a_narrow_width_fold_the_options_below_the_name(diamond) -> None:
    """Nothing is cut off: what does not fit beside a name stands below it."""
    text = diamond.graph().text(width=40, ascii=True)
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 40
    assert "|- motion\n|    [workers=2]\n|    [overflow=drop_oldest]\n|    [max_age=0.1]\n" in text
    assert "|- motion\n|    [workers=2, over" in diamond.graph().text(width=52, ascii=True)
    assert "join <- (blur, curve)" in text


class Replace:
    """A policy that is an object."""

    def __call__(self, failure):
        return 0

    def __repr__(self):
        return "Replace(with\u202e a very long text that would not fit into any box of a picture)"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, "s"),
        ({"on_error": "stop", "capacity": "auto", "ordered": True}, "s"),
        ({"workers": 2, "ordered": False}, "s [workers=2, ordered=False]"),
        ({"ordered": False}, "s"),
        ({"capacity": 1, "overflow": "drop_oldest"}, "s [capacity=1, overflow=drop_oldest]"),
        ({"on_error": "skip"}, "s [on_error=skip]"),
        ({"on_error": Retry(3)}, "s [on_error=Retry(3)]"),
        ({"on_error": Retry(3, 0.1)}, "s [on_error=Retry(3, backoff=0.1)]"),
        ({"on_error": Retry(3, then="skip")}, "s [on_error=Retry(3, then=skip)]"),
        ({"on_error": Retry(3, 1, "skip")}, "s [on_error=Retry(3, backoff=1, then=skip)]"),
        ({"on_error": keep}, "s [on_error=keep]"),
        ({"on_error": lambda failure: 0}, "s [on_error=<lambda>]"),
        ({"on_error": Replace()}, "s [on_error=Replace]"),
        ({"on_error": functools.partial(keep)}, "s [on_error=keep]"),
        ({"on_error": Replace().__call__}, "s [on_error=Replace.__call__]"),
        (
            {"max_age": 0.5, "on_error": "skip", "capacity": 3, "workers": 2, "placement": "far"},
            "s [workers=2, capacity=3, max_age=0.5, on_error=skip, placement=far]",
        ),
    ],
)
def test_every_option_that_changes_what_happens_to_items_is_shown(options, line) -> None:
    """Defaults are left out, and the others are as short as they can be said."""
    assert str(chain("s", **options).graph()) == f"input\n{line}\noutput"


def test_a_policy_stands_in_every_format() -> None:
    """Also one whose name holds what a format would take for its own."""
    drawing = chain("s", on_error=lambda failure: 0, capacity=2).graph()
    notes = ["capacity=2", "on_error=<lambda>"]
    assert read_mermaid(drawing.mermaid())[0]["n1"] == ["s", *notes]
    assert read_dot(drawing.dot())[0]["n1"] == ["s", *notes]
    assert read_svg(drawing.svg())[0][1] == ["s", *notes]


def test_several_last_stages_show_the_dict_that_they_give() -> None:
    """The output names its keys."""
    assert str(branches("a", "b", ("c", "a")).graph()) == (
        "input\na\n├─ b\n│  ↳ output\n├─ c\n│  ↳ output\noutput ← {b, c}"
    )


def test_a_nested_pipeline_is_a_group_with_one_way_in_and_out() -> None:
    """Its stages stand behind a bar, what it gives out is named, and the rest goes on outside."""
    child = branches("a", "b", ("c", "a"))
    pipeline = branches("first", child, ("side", "first"), ("join", ["child", "side"]))
    assert str(pipeline.graph()) == (
        "input\n"
        "first\n"
        "├─ child:\n"
        "│  ╎ a\n"
        "│  ╎ ├─ b\n"
        "│  ╎ │  ↳ {b, c}\n"
        "│  ╎ ├─ c\n"
        "│  ╎ │  ↳ {b, c}\n"
        "│  ╎ {b, c}\n"
        "│  ↳ join\n"
        "├─ side\n"
        "│  ↳ join\n"
        "join ← (child, side)\n"
        "output"
    )
    with pipeline.serialize():  # what it says is what happens
        assert list(pipeline.stream([1])) == [({"b": 1, "c": 1}, 1)]


def test_joins_that_do_not_nest_are_drawn_once_each() -> None:
    """Every arrow is there, also where branches cross."""
    pipeline = branches("a", "b", ("c", "a"), ("d", ["b", "c"]), ("e", ["a", "c"]), ("f", "b"))
    text = str(pipeline.graph())
    for name in "abcdef":
        assert len(re.findall(rf"^[├└│─╎ ]*{name}\b", text, re.MULTILINE)) == 1
    assert text.count("↳ d") == 2
    assert text.count("↳ e") == 2
    assert text.count("↳ output") == 3
    assert text.endswith("output ← {d, e, f}")


@pytest.mark.parametrize("length", [0, 1, 100])
def test_a_chain_of_any_length_is_as_long_as_its_tree(length: int) -> None:
    """Also a pipeline without stages, which passes items on."""
    pipeline = chain(*(f"s{number}" for number in range(length)))
    assert str(pipeline.graph()).split("\n") == [
        "input",
        *(f"s{number}" for number in range(length)),
        "output",
    ]
    read_svg(pipeline.graph().svg())


def test_a_thousand_stages_that_branch_at_each_are_drawn() -> None:
    """No recursion into the depth of a graph."""
    stages: list = ["s0"]
    for number in range(1, 400):
        stages += [(f"s{number}", f"s{number - 1}"), (f"side{number}", f"s{number - 1}")]
    drawing = branches(*stages).graph()
    assert drawing.text().count("↳ output") == 400
    assert len(read_mermaid(drawing.mermaid())[0]) == 801
    assert len(read_dot(drawing.dot())[0]) == 801


# -- the door --------------------------------------------------------------------------------


def test_a_graph_needs_no_mode_and_starts_nothing() -> None:
    """No stage is made, set up or called."""
    made = []

    class Costly(Stage):
        def __init__(self):
            made.append(self)

        def __call__(self, item):
            return item

        def cleanup(self):
            made.append(self)

    pipeline = Pipeline()
    pipeline.add(Costly, "costly", workers=3)
    assert "costly [workers=3]" in str(pipeline.graph())
    pipeline.parallelize()
    assert "costly [workers=3]" in str(pipeline.graph())
    pipeline.serialize()
    assert "workers" not in str(pipeline.graph())  # a serial pipeline has none
    pipeline.cleanup()
    assert "costly" in str(pipeline.graph())
    assert made == []


def test_a_graph_stays_as_it_was_when_it_was_made() -> None:
    """It is a picture of a plan, not a view."""
    pipeline = chain("a")
    drawing = pipeline.graph()
    pipeline.add(keep, "b")
    assert "b" not in str(drawing).split("\n")
    assert isinstance(drawing, Drawing)
    assert repr(drawing) == "<graph of a>"


@pytest.mark.parametrize(
    "stages", [["a", ("b", "aa")], [("a", "b"), ("b", "a")], ["a", ("b", ["a", "a"])]]
)
def test_a_plan_that_is_wrong_is_refused_as_a_mode_refuses_it(stages) -> None:
    """The same class and the same text."""
    pipeline = branches(*stages)
    with pytest.raises(PlanError) as drawn:
        pipeline.graph()
    with pytest.raises(PlanError) as chosen:
        pipeline.parallelize()
    assert (type(drawn.value), str(drawn.value)) == (type(chosen.value), str(chosen.value))


def test_a_generator_beside_a_branch_is_refused_here_too() -> None:
    """What only a mode would say otherwise."""
    pipeline = branches("a", "b")
    pipeline.add(twice, "twice", after="a")
    with pytest.raises(PlanError, match="twice"):
        pipeline.graph()


def test_drawing_is_imported_on_use_only() -> None:
    """A pipeline that nobody looks at loads neither the drawing nor the picture."""
    code = (
        "import sys, pystream_core; pystream_core.Pipeline().serialize().cleanup(); "
        "print([name for name in sys.modules if name.endswith(('_drawing', '_picture'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=15)
    assert done.stdout.strip() == "[]", done.stderr


# -- formats ---------------------------------------------------------------------------------


def test_every_format_has_every_stage_and_every_arrow(diamond) -> None:
    """Input and output among them."""
    drawing = diamond.graph()
    labels, _, arrows = read_mermaid(drawing.mermaid())
    names = ["input", "resize", "motion", "blur", "curve", "join", "write", "output"]
    assert [label[0] for label in labels.values()] == names
    assert labels["n2"][1:] == ["workers=2", "overflow=drop_oldest", "max_age=0.1"]
    assert labels["n5"][1:] == ["(blur, curve)"]
    between = [("n0", "n1"), ("n1", "n2"), ("n2", "n3"), ("n1", "n4"), ("n3", "n5"), ("n4", "n5")]
    assert arrows == [*between, ("n5", "n6"), ("n6", "n7")]
    assert read_dot(drawing.dot()) == (labels, [], arrows)
    texts, _ = read_svg(drawing.svg())
    assert sorted(texts) == sorted(labels.values())
    assert drawing.svg().count('class="edge"') == len(arrows)


def test_the_picture_says_in_words_what_it_shows(diamond) -> None:
    """A title and a label for those who cannot see it."""
    root = ET.fromstring(diamond.graph().svg())
    words = "Pipeline of 6 stages: resize -> (motion -> blur, curve) -> join -> write"
    assert root.get("role") == "img"
    assert root.get("aria-label") == words
    assert root.find(f"{SVG}title").text == words


def test_boxes_of_the_picture_do_not_overlap() -> None:
    """Neither one another nor the edge of the picture; a group holds its own boxes only."""
    child = branches("a", "b", ("c", "a"), ("a wide one, " * 4, "a"))
    pipeline = branches("first", child, ("side", "first"), ("join", ["child", "side", "first"]))
    root = ET.fromstring(pipeline.graph().svg())
    width, height = float(root.get("width")), float(root.get("height"))
    rects = [
        (
            rect.get("class"),
            *(float(rect.get(key)) for key in ("x", "y", "width", "height")),
        )
        for rect in root.iter(f"{SVG}rect")
    ]
    (group,) = (rect[1:] for rect in rects if rect[0] == "group")
    boxes = [rect[1:] for rect in rects if rect[0] != "group"]
    assert all(x >= 0 and y >= 0 and x + w <= width and y + h <= height for x, y, w, h in boxes)

    def apart(one, two):
        return (
            one[0] + one[2] <= two[0]
            or two[0] + two[2] <= one[0]
            or one[1] + one[3] <= two[1]
            or two[1] + two[3] <= one[1]
        )

    assert all(apart(one, two) for one in boxes for two in boxes if one is not two)
    assert len([box for box in boxes if not apart(box, group)]) == 5


def test_any_name_can_be_drawn_in_every_format() -> None:
    """Quotes, brackets, markup, line breaks and control characters mean nothing there."""
    pipeline = Pipeline()
    pipeline.add(keep, "start")
    for name in NASTY:
        pipeline.add(keep, name, after="start")
    check_names(pipeline.graph(), [*NASTY])


def check_names(drawing, names, groups=()):
    looks = sorted(shown(name) for name in names)
    for reader, text in ((read_mermaid, drawing.mermaid()), (read_dot, drawing.dot())):
        labels, found, _ = reader(text)
        got = sorted(label[0] for label in labels.values())
        assert [each for each in got if each not in ("input", "output", "start")] == looks
        assert sorted(found) == sorted(shown(name) for name in groups)
    texts, tips = read_svg(drawing.svg())
    assert set(looks) <= {lines[0] for lines in texts}
    for name in names:
        assert visible(name, keep="\n") in tips
    lines = drawing.text().splitlines()
    assert len(lines) == len(drawing.text().split("\n")) - 1
    assert all(line.isprintable() for line in lines)
    assert all(any(look in line for line in lines) for look in looks)


names = st.text(
    st.one_of(
        st.sampled_from("\"'<>&#;`[](){}|\\\n\r\t%*_-. 1ab→日\u202e\ufeff"),
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
    ),
    min_size=1,
    max_size=12,
).filter(
    lambda name: SEPARATOR not in name and name not in ("MainPipeline", "input", "output", "start")
)


@settings(deadline=None, max_examples=150)
@given(st.lists(names, min_size=2, max_size=5, unique=True), names)
def test_names_of_any_text_come_back_out_of_each_format(found, group) -> None:
    """Read back by a parser they are what they were."""
    if group == found[-1]:
        return
    child = chain(*found[:-1])
    pipeline = Pipeline()
    pipeline.add(keep, "start")
    pipeline.add(child.serialize().as_stage(), group)
    pipeline.add(keep, found[-1], after="start")
    check_names(pipeline.graph(), found, [group])


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_any_graph_is_drawn_completely(data) -> None:
    """As many arrows in each format as the plan has, and each stage on one line of the tree."""
    pipeline = Pipeline()
    pipeline.add(keep, "s0")
    for number in range(1, data.draw(st.integers(1, 9))):
        after = data.draw(st.lists(st.integers(0, number - 1), min_size=1, max_size=3, unique=True))
        pipeline.add(keep, f"s{number}", after=[f"s{each}" for each in after])
    plan, _ = pipeline._description.plan()
    arrows = sum(max(1, len(feeders)) for feeders in plan.graph.feeders)
    drawing = pipeline.graph()
    assert len(read_mermaid(drawing.mermaid())[2]) == arrows
    assert len(read_dot(drawing.dot())[2]) == arrows
    assert drawing.svg().count('class="edge"') == arrows
    lines = [re.sub(r"^[├└─│ ]*", "", line).split(" ← ")[0] for line in str(drawing).splitlines()]
    assert sorted(line for line in lines if not line.startswith("↳")) == sorted(
        ["input", *(spec.path[-1] for spec in plan.stages), "output"]
    )
    joins = [feeders for feeders in plan.graph.feeders if len(feeders) > 1]
    assert sum(line.startswith("↳") for line in lines) == sum(map(len, joins))
    assert repr(pipeline).count("s0") == 1


def any_pipeline(data, depth, count):
    """A random graph, some of whose stages are pipelines; names are numbers."""
    pipeline = Pipeline()
    added: list[str] = []
    for _ in range(data.draw(st.integers(1, 5))):
        name = f"s{next(count)}"
        after = None
        if added and data.draw(st.booleans()):
            after = data.draw(st.lists(st.sampled_from(added), min_size=1, max_size=3, unique=True))
        if depth and data.draw(st.integers(0, 3)) == 0:
            child = any_pipeline(data, depth - 1, count)
            pipeline.add(child.serialize().as_stage(), name, after=after)
        else:
            pipeline.add(keep, name, after=after)
        added.append(name)
    return pipeline


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_any_nested_graph_is_drawn_without_overlaps_and_in_its_groups(data) -> None:
    """Two rectangles of the picture are apart or one holds the other, as in the plan."""
    pipeline = any_pipeline(data, 2, itertools.count())
    plan, _ = pipeline._description.plan()
    drawing = pipeline.graph()
    root = ET.fromstring(drawing.svg())
    rects = [
        (rect.get("class"), *(float(rect.get(key)) for key in ("x", "y", "width", "height")))
        for rect in root.iter(f"{SVG}rect")
    ]
    held = collections.Counter()
    for one, (kind, x, y, w, h) in enumerate(rects):
        for other, (_, left, top, wide, high) in enumerate(rects):
            apart = x + w <= left or left + wide <= x or y + h <= top or top + high <= y
            holds = x <= left and y <= top and left + wide <= x + w and top + high <= y + h
            inside = left <= x and top <= y and x + w <= left + wide and y + h <= top + high
            assert one == other or apart or holds or inside
            if kind == "group" and holds and one != other and rects[other][0] == "box":
                held[one] += 1
    paths = [node.groups for node in drawing._flow.nodes if not node.end]
    groups = {path[:depth] for path in paths for depth in range(1, len(path) + 1)}
    sizes = [sum(path[: len(group)] == group for path in paths) for group in groups]
    assert sorted(held.values()) == sorted(sizes)
    assert sorted(read_mermaid(drawing.mermaid())[1]) == sorted(group[-1] for group in groups)
    assert read_dot(drawing.dot()) == read_mermaid(drawing.mermaid())
    lines = [re.sub(r"^[├└─│╎ ]*", "", line) for line in str(drawing).splitlines()]
    stages = [line.split(" ← ")[0] for line in lines if re.match(r"s\d+( ←|$)", line)]
    assert sorted(stages) == sorted(spec.path[-1] for spec in plan.stages)
    headers = [line[:-1] for line in lines if line.endswith(":")]
    assert sorted(headers) == sorted(group[-1] for group in groups)
    pipeline.cleanup()


# -- in a notebook, and in a log -------------------------------------------------------------


def test_a_notebook_shows_a_pipeline_as_a_picture(diamond) -> None:
    """With the repr for where there are no pictures; include and exclude choose."""
    bundle = diamond._repr_mimebundle_()
    assert bundle == {"text/plain": repr(diamond), "image/svg+xml": diamond.graph().svg()}
    assert diamond._repr_mimebundle_(include=["text/plain"]) == {"text/plain": repr(diamond)}
    assert list(diamond._repr_mimebundle_(exclude={"text/plain"})) == ["image/svg+xml"]
    assert diamond.graph()._repr_svg_() == bundle["image/svg+xml"]


def test_a_notebook_shows_a_wrong_plan_as_text_with_the_reason() -> None:
    """Looking at a pipeline that is being built never raises."""
    pipeline = branches("a", ("b", "c"))
    bundle = pipeline._repr_mimebundle_(None, None)
    assert list(bundle) == ["text/plain"]
    assert "which is no stage of this pipeline" in bundle["text/plain"]
    assert repr(pipeline) == "<Pipeline a, b (which do not fit together) (no mode)>"


@pytest.mark.parametrize(
    ("stages", "line"),
    [
        ([], "no stages"),
        (["a"], "a"),
        (["a", "b", "c"], "a -> b -> c"),
        (["a", "b", ("c", "a"), ("d", ["b", "c"])], "a -> (b, c) -> d"),
        (["a", "b", ("c", "a")], "a -> (b, c)"),
        (
            ["a", "b", ("c", "b"), ("d", "b"), ("e", ["c", "d"]), ("f", "a"), ("g", ["e", "f"])],
            "a -> (b -> (c, d) -> e, f) -> g",
        ),
        (["a", "b", ("c", ["a", "b"])], "a, b, c (branching)"),
        ([f"s{number}" for number in range(100)],
         "s0 -> s1 -> s2 -> … -> s98 -> s99 (100 stages)"),
        (["s", *((f"s{number}", "s") for number in range(99))],
         "s, s0, s1, …, s97, s98 (100 stages, branching)"),
        (["a\nb", "c" * 500], "a\\nb -> " + "c" * 59 + "…"),
    ],
)  # fmt: skip
def test_repr_names_the_stages_as_they_follow_one_another(stages, line: str) -> None:
    """In a line of bounded length, and in words where a line cannot show it."""
    pipeline = branches(*stages)
    assert repr(pipeline) == f"<Pipeline {line} (no mode)>"
    with pipeline.serialize():
        assert repr(pipeline) == f"<Pipeline {line} (serial, not started, 0 in flight)>"
    assert len(repr(pipeline)) < 260
