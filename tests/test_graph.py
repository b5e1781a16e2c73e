"""How stages are arranged, and which graphs are refused, each with what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pystream_core import SKIP, Pipeline, PlanError, Stage, factory
from pystream_core._graph import Gathered, Graph, arrange


def same(item: Any) -> Any:
    return item


def twice(item: Any) -> Iterator[Any]:
    yield item
    yield item


class Collect(Stage[Any]):
    """Keeps everything to its end."""

    def __init__(self) -> None:
        self.items: list[Any] = []

    def __call__(self, data: Any) -> Any:
        self.items.append(data)
        return SKIP

    def flush(self) -> list[Any]:
        items, self.items = self.items, []
        return [items]

    def cleanup(self) -> None: ...


def pipeline(**after: Any) -> Pipeline:
    """Stages by name with what they come after; "default" means nothing is said."""
    made = Pipeline()
    for name, feeders in after.items():
        made.add(same, name, after=None if feeders == "default" else feeders)
    return made


def test_a_chain_stays_as_it_was_added() -> None:
    """Without after= every stage follows the one before."""
    assert arrange(dict.fromkeys("abc")) == {"a": (), "b": ("a",), "c": ("b",)}
    assert arrange({}) == {}


def test_stages_come_behind_what_feeds_them_and_else_in_their_order() -> None:
    """Only as much is moved as has to be."""
    given = {"a": None, "late": ["d"], "b": ["a"], "c": ["a"], "d": ["c", "b"]}
    assert list(arrange(given)) == ["a", "b", "c", "d", "late"]


def test_the_default_is_the_stage_added_before() -> None:
    """Not the one that comes before in the arranged order."""
    given = {"a": None, "late": ["c"], "next": None, "c": ["a"]}
    assert arrange(given)["next"] == ("late",)


#       0 -> 1 -> 3 -> 4
#       0 -> 2 -> 3
DIAMOND = Graph((None, 0, 0, Gathered((1, 2)), 3), 4)


@pytest.mark.parametrize(("index", "around"), [(0, ()), (1, (2,)), (2, (1,)), (3, ()), (4, ())])
def test_a_stage_that_items_get_past_is_known(index: int, around: tuple[int, ...]) -> None:
    """Before the first branch and behind the last join nothing gets past a stage."""
    assert DIAMOND.around(index) == around


def test_a_way_that_jumps_over_a_stage_leads_past_it() -> None:
    """0 feeds both 1 and the join of the two."""
    graph = Graph((None, 0, Gathered((0, 1))), 2)
    assert graph.around(1) == (0,)


def test_a_last_stage_beside_others_leads_past_them() -> None:
    """0 -> 1 and 0 -> 2 are both last."""
    graph = Graph((None, 0, 0), Gathered((1, 2), ("b", "c")))
    assert graph.around(1) == (2,)
    assert graph.followers == ((1, 2), (3,), (3,))
    assert graph.feeders[-1] == (1, 2)
    assert not graph.linear


def test_outputs_are_composed_as_the_graph_says() -> None:
    """Tuples and dicts, inside one another."""
    gathered = Gathered((Gathered((0, 1), ("a", "b")), 2))
    assert gathered.compose({0: "x", 1: "y", 2: "z"}) == ({"a": "x", "b": "y"}, "z")


def nested(child: Pipeline, **after: Any) -> Pipeline:
    made = pipeline(first="default", side="first")
    made.add(child.serialize().as_stage(), "child", after="first")
    for name, feeders in after.items():
        made.add(same, name, after=feeders)
    return made


def with_stage(stage: Any, **options: Any) -> Pipeline:
    made = pipeline(first="default", other="first")
    made.add(stage, "many", after="first", **options)
    return made


def in_a_child(stage: Any) -> Pipeline:
    child = Pipeline()
    child.add(stage, "many")
    return nested(child)


def jumped_over() -> Pipeline:
    made = pipeline(first="default")
    made.add(twice, "many")
    made.add(same, "join", after=["first", "many"])
    return made


REFUSED: dict[str, tuple[Callable[[], Pipeline], str]] = {
    "unknown name": (
        lambda: pipeline(resize="default", motion="rezise"),
        r"stage 'motion' is to come after 'rezise', which is no stage of this pipeline: did you "
        r"mean 'resize'\? its stages are 'resize', 'motion'",
    ),
    "a full path": (
        lambda: pipeline(a="default", b="MainPipeline__a"),
        r"'MainPipeline__a', which is no stage of this pipeline: did you mean 'a'\? its stages "
        r"are 'a', 'b'",
    ),
    "a full path, misspelt": (
        lambda: pipeline(resize="default", b="MainPipeline__Resise"),
        r"did you mean 'resize'\? its stages are 'resize', 'b'",
    ),
    "a full path into a nested pipeline": (
        lambda: nested(pipeline(a="default"), b="MainPipeline__child__a"),
        r"stage 'b' .*: did you mean 'child'\? its stages are 'first', 'side', 'child', 'b'",
    ),
    "a full path inside a nested pipeline": (
        lambda: pipeline(a="default", b="MainPipeline__child__a"),
        r"stage 'b' .*: did you mean 'a'\? its stages are 'a', 'b'",
    ),
    "a full path to nowhere": (
        lambda: pipeline(a="default", b="MainPipeline__x__y"),
        r"'MainPipeline__x__y', which is no stage of this pipeline: its stages are 'a', 'b'",
    ),
    "the input": (
        lambda: pipeline(a="default", b="input"),
        r"stage 'b' is to come after 'input', .*: the first stage that is added takes the input.*"
        r"add\(lambda item: item\); its stages are 'a', 'b'",
    ),
    "a name twice": (lambda: pipeline(a="default", b=["a", "a"]), r"after names 'a' twice"),
    "itself": (lambda: pipeline(a="default", b="b"), r"in a circle: 'b' -> 'b'\."),
    "a circle": (
        lambda: pipeline(a="default", b=["a", "d"], c="b", d="c"),
        r"in a circle: '(\w)' -> '\w' -> '\w' -> '\1'\. .*change one after=",
    ),
    "behind a circle": (
        lambda: pipeline(a="default", b="c", c="b", d="c"),
        r"in a circle: .*; so nothing reaches 'd'",
    ),
    "no first stage": (lambda: pipeline(a="b", b="a"), r"in a circle"),
    "a generator beside a branch": (
        lambda: with_stage(twice),
        r"'MainPipeline__many' makes several items of one, so it cannot stand beside other "
        r"branches: items that get past it \(from 'MainPipeline__other'\) would find no partner\. "
        r"Put it before the first branch or behind the last join",
    ),
    "a batching stage beside a branch": (
        lambda: with_stage(Collect()),
        r"'MainPipeline__many' keeps items to give out other ones, so it cannot stand beside",
    ),
    "a batching class beside a branch": (lambda: with_stage(Collect), r"keeps items"),
    "a generator in a nested branch": (
        lambda: in_a_child(twice),
        r"'MainPipeline__child__many' makes several .*from 'MainPipeline__side'",
    ),
    "a generator that a way leads around": (jumped_over, r"from 'MainPipeline__first'"),
    "an empty pipeline in a join": (
        lambda: nested(Pipeline(), join=["child", "side"]),
        r"stage 'join' needs the output of 'child', a pipeline without stages: add a stage",
    ),
    "an empty pipeline at the end": (
        lambda: nested(Pipeline()),
        r"the result of 'MainPipeline' needs the output of 'child', a pipeline without stages",
    ),
}


@pytest.mark.parametrize("mode", ["serialize", "parallelize"])
@pytest.mark.parametrize("case", REFUSED)
def test_a_graph_that_cannot_work_is_refused_when_a_mode_is_chosen(case: str, mode: str) -> None:
    """With the offending names and what to do; the pipeline is as it was before."""
    make, expected = REFUSED[case]
    made = make()
    with pytest.raises(PlanError, match=expected):
        getattr(made, mode)()
    assert "no mode" in repr(made)
    made.cleanup()


@pytest.mark.parametrize("mode", ["serialize", "parallelize"])
@pytest.mark.parametrize("made", [lambda: twice, Collect], ids=["generator", "batching"])
def test_what_a_factory_makes_cannot_stand_beside_branches_either(made: Any, mode: str) -> None:
    """It is found at the start at the latest, since nothing tells before."""
    one = with_stage(factory(lambda: made()))
    with pytest.raises(PlanError, match="cannot stand beside other branches") as caught:
        try:
            getattr(one, mode)().start()
        except Exception as error:
            raise error.__cause__ or error from None
    assert "MainPipeline__many" in str(caught.value)
    one.cleanup()


if __name__ == "__main__":  # every message once, for reading
    for case, (make, _) in REFUSED.items():
        try:
            make().serialize()
        except PlanError as error:
            print(f"{case}\n    {error}")  # noqa: T201
