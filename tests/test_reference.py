"""The documented API of ``pystream``, to the letter: names, signatures, and every sentence."""

from __future__ import annotations

import inspect
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any, get_type_hints

import pystream
import pytest

import pystream_core

EMPTY = inspect.Parameter.empty
POSITIONAL = inspect.Parameter.POSITIONAL_OR_KEYWORD
KEYWORD = inspect.Parameter.KEYWORD_ONLY
DEADLINE = 5.0


class Recording(pystream.Stage[Any]):
    """A stage that writes down its cleanups."""

    def __init__(self, log: list[str] | None = None) -> None:
        self.log = [] if log is None else log

    def __call__(self, data: Any) -> Any:
        return data

    def cleanup(self) -> None:
        self.log.append("cleanup")


@pytest.fixture(params=["serialize", "parallelize"])
def choose(request: pytest.FixtureRequest) -> Callable[[pystream.Pipeline], pystream.Pipeline]:
    """Each of the two modes."""
    return lambda pipeline: getattr(pipeline, request.param)()


@pytest.fixture
def pipeline() -> Iterator[pystream.Pipeline]:
    """An empty pipeline, cleaned up afterwards."""
    made = pystream.Pipeline()
    yield made
    made.cleanup()


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    found = dict(inspect.signature(function).parameters)
    found.pop("self", None)
    return found


def documented(function: Callable[..., Any]) -> list[tuple[str, Any]]:
    """The positional parameters with their defaults."""
    return [
        (name, each.default)
        for name, each in parameters(function).items()
        if each.kind is POSITIONAL
    ]


def additions(function: Callable[..., Any]) -> dict[str, Any]:
    """The keyword-only parameters with their defaults."""
    return {
        name: each.default for name, each in parameters(function).items() if each.kind is KEYWORD
    }


# -- names and signatures ------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "Pipeline",
        "Stage",
        "get_profiler_db_folder",
        "set_profiler_db_folder",
        "logger",
        "MAIN_PIPELINE_NAME",
    ],
)
def test_every_documented_name_is_importable(name: str) -> None:
    """``from pystream import name`` works and ``dir`` lists it."""
    assert getattr(pystream, name) is not None
    assert name in dir(pystream)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """The lazy names do not swallow misspelt ones."""
    with pytest.raises(AttributeError, match="get_profiler_folder"):
        _ = pystream.get_profiler_folder


def test_the_classes_are_those_of_the_core() -> None:
    """``pystream.Pipeline`` and ``pystream.Stage`` are the core's own classes."""
    assert pystream.Pipeline is pystream_core.Pipeline
    assert pystream.Stage is pystream_core.Stage


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("__init__", [("input_generator", None), ("use_profiler", False)]),
        ("add", [("stage", EMPTY), ("name", None)]),
        ("as_stage", []),
        ("cleanup", []),
        ("get_profiles", []),
        ("get_results", []),
        (
            "parallelize",
            [
                ("block_input", True),
                ("input_timeout", 10),
                ("block_output", False),
                ("output_timeout", 10),
            ],
        ),
        ("serialize", []),
        ("start_loop", [("period", 0.01)]),
        ("stop_loop", []),
    ],
)
def test_documented_parameters_have_their_names_order_and_defaults(
    method: str, expected: list[tuple[str, Any]]
) -> None:
    """The positional parameters are the documented ones, no more and no fewer."""
    assert documented(getattr(pystream.Pipeline, method)) == expected


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("__init__", {"profiler": "sqlite", "observers": ()}),
        (
            "add",
            {
                "workers": 1,
                "ordered": True,
                "capacity": "auto",
                "overflow": "block",
                "on_error": "stop",
                "max_age": None,
                "placement": None,
                "after": None,
            },
        ),
        ("parallelize", {"executor": "threads", "drain_timeout": 10.0, "stuck_timeout": 5.0}),
        ("cleanup", {"timeout": None}),
        ("serialize", {}),
        ("forward", {}),
        ("start_loop", {}),
    ],
)
def test_additions_are_keyword_only(method: str, expected: dict[str, Any]) -> None:
    """What the reference does not know cannot be given by position."""
    assert additions(getattr(pystream.Pipeline, method)) == expected


def test_forward_defaults_to_a_request_for_the_input_generator() -> None:
    """The default of ``forward`` is an InputGeneratorRequest with a readable repr."""
    [(name, default)] = documented(pystream.Pipeline.forward)
    assert name == "data"
    assert type(default).__name__ == "InputGeneratorRequest"
    assert repr(default) == "<item of the input generator>"


@pytest.mark.parametrize(
    ("method", "parameter", "expected"),
    [
        ("__init__", "use_profiler", bool),
        ("add", "name", str | None),
        ("add", "return", type(None)),
        ("as_stage", "return", pystream.Stage[Any]),
        ("cleanup", "return", type(None)),
        ("forward", "data", Any),
        ("forward", "return", bool),
        ("get_profiles", "return", tuple[dict[str, float], dict[str, float]]),
        ("get_results", "return", Any),
        ("parallelize", "block_input", bool),
        ("parallelize", "input_timeout", float),
        ("parallelize", "block_output", bool),
        ("parallelize", "output_timeout", float),
        ("parallelize", "return", pystream.Pipeline),
        ("serialize", "return", pystream.Pipeline),
        ("start_loop", "period", float),
        ("start_loop", "return", type(None)),
        ("stop_loop", "return", type(None)),
    ],
)
def test_annotations_are_the_documented_ones(method: str, parameter: str, expected: Any) -> None:
    """Each stated annotation resolves to the stated type."""
    hints = get_type_hints(getattr(pystream.Pipeline, method))
    assert hints[parameter] == expected


def test_functions_of_the_profiler_folder_have_their_signatures() -> None:
    """``get_profiler_db_folder() -> str`` and ``set_profiler_db_folder(folder_path) -> None``."""
    assert documented(pystream.get_profiler_db_folder) == []
    assert documented(pystream.set_profiler_db_folder) == [("folder_path", EMPTY)]
    assert get_type_hints(pystream.get_profiler_db_folder)["return"] is str
    assert get_type_hints(pystream.set_profiler_db_folder)["return"] is type(None)


def test_every_documented_object_has_a_docstring() -> None:
    """The documentation is in the code as well."""
    for name in ("add", "as_stage", "cleanup", "forward", "get_profiles", "get_results"):
        assert getattr(pystream.Pipeline, name).__doc__
    for name in ("parallelize", "serialize", "start_loop", "stop_loop"):
        assert getattr(pystream.Pipeline, name).__doc__
    assert pystream.Pipeline.__doc__
    assert pystream.Stage.__doc__


def test_the_main_pipeline_is_called_main_pipeline() -> None:
    """``MAIN_PIPELINE_NAME`` is ``"MainPipeline"``."""
    assert pystream.MAIN_PIPELINE_NAME == "MainPipeline"


def test_the_logger_is_pystream_at_info() -> None:
    """The logger is ``PyStream``, at INFO after the import, without a handler of ours."""
    code = (
        "import logging, pystream; l = pystream.logger;"
        "assert l is logging.getLogger('PyStream'); assert l.level == logging.INFO;"
        "assert l.handlers == []; assert logging.getLogger().handlers == [];"
        "assert repr(l) == '<Logger PyStream (INFO)>', repr(l)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=DEADLINE * 2)
    assert pystream.logger is logging.getLogger("PyStream")


def test_a_level_that_was_set_before_stays() -> None:
    """A program that set its own level before the import keeps it."""
    code = (
        "import logging; logging.getLogger('PyStream').setLevel(logging.ERROR);"
        "import pystream; assert pystream.logger.level == logging.ERROR"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=DEADLINE * 2)


# -- Pipeline(...) -------------------------------------------------------------------------


def test_the_input_generator_makes_the_pipeline_autonomous() -> None:
    """Given as the first argument, it is what ``forward()`` without an item takes from."""
    numbers = iter(range(3))
    pipeline = pystream.Pipeline(lambda: next(numbers)).serialize()
    assert [pipeline.forward(), pipeline.get_results()] == [True, 0]
    assert [pipeline.forward(), pipeline.get_results()] == [True, 1]
    pipeline.cleanup()


def test_without_an_input_generator_the_item_has_to_be_given(
    pipeline: pystream.Pipeline, choose: Callable[..., Any]
) -> None:
    """``forward()`` without an item is refused with what to do."""
    choose(pipeline)
    with pytest.raises(pystream.PlanError, match="input_generator"):
        pipeline.forward()


def test_use_profiler_is_the_second_argument(tmp_path: Any) -> None:
    """``Pipeline(None, True)`` profiles; the folder may be set before it is made."""
    before = pystream.get_profiler_db_folder()
    try:
        assert pystream.set_profiler_db_folder(str(tmp_path)) is None
        assert pystream.get_profiler_db_folder() == str(tmp_path)
        with pystream.Pipeline(None, True) as pipeline:
            pipeline.add(lambda item: item, "A")
            pipeline.serialize()
            pipeline.forward(1)
            latency, throughput = pipeline.get_profiles()
    finally:
        pystream.set_profiler_db_folder(before)
    assert set(latency) == set(throughput) == {"MainPipeline", "MainPipeline__A"}
    assert all(value > 0 for value in (*latency.values(), *throughput.values()))


# -- add -----------------------------------------------------------------------------------


def test_add_returns_none(pipeline: pystream.Pipeline) -> None:
    """As documented."""
    assert pipeline.add(lambda item: item) is None


def test_a_function_is_a_stage(pipeline: pystream.Pipeline, choose: Callable[..., Any]) -> None:
    """It takes an item and returns one."""
    pipeline.add(lambda item: item + 1)
    pipeline.add(lambda item: item * 2)
    choose(pipeline)
    assert pipeline.forward(1)
    pipeline.drain()
    assert pipeline.get_results() == 4


def test_an_object_of_a_stage_class_is_a_stage(
    pipeline: pystream.Pipeline, choose: Callable[..., Any]
) -> None:
    """Its ``__call__`` works on items, its ``cleanup`` runs in the pipeline's cleanup."""
    stage = Recording()
    pipeline.add(stage)
    choose(pipeline)
    assert pipeline.forward("x")
    pipeline.drain()
    assert pipeline.get_results() == "x"
    assert stage.log == []
    pipeline.cleanup()
    assert stage.log == ["cleanup"]


def test_default_names_count_the_stages(pipeline: pystream.Pipeline) -> None:
    """An unnamed stage is ``Stage_i`` with its sequence number in this pipeline."""
    for name in (None, "own", None):
        pipeline.add(lambda item: item, name)
    assert "Stage_1 -> own -> Stage_3" in repr(pipeline)
    other = pystream.Pipeline()
    other.add(lambda item: item)
    assert "Stage_1" in repr(other)


def test_an_unnamed_object_is_named_by_the_pipeline(pipeline: pystream.Pipeline) -> None:
    """Its ``name`` is ``""`` by default and assigned when it is added."""
    first, second = Recording(), Recording()
    assert first.name == pystream.Stage.name == ""
    pipeline.add(first)
    pipeline.add(second, "given")
    assert (first.name, second.name) == ("Stage_1", "given")


def test_an_objects_own_name_is_used_and_kept(pipeline: pystream.Pipeline) -> None:
    """A name that the child class defines names the stage; the object is not renamed."""
    stage = Recording()
    stage.name = "mine"
    pipeline.add(stage)
    other = Recording()
    other.name = "other"
    pipeline.add(other, "given")
    assert "mine -> given" in repr(pipeline)
    assert (stage.name, other.name) == ("mine", "other")


def test_a_name_from_one_pipeline_is_not_the_objects_own() -> None:
    """An object that one pipeline named gets a fresh name in the next one."""
    stage = Recording()
    pystream.Pipeline().add(stage)
    second = pystream.Pipeline()
    second.add(lambda item: item)
    second.add(stage)
    assert "Stage_1 -> Stage_2" in repr(second)


def test_a_taken_default_name_moves_on(pipeline: pystream.Pipeline) -> None:
    """``Stage_2`` given by hand makes the second stage ``Stage_3``."""
    pipeline.add(lambda item: item, "Stage_2")
    pipeline.add(lambda item: item)
    assert "Stage_2 -> Stage_3" in repr(pipeline)


# -- as_stage ------------------------------------------------------------------------------


def test_as_stage_before_a_mode_is_undefined(pipeline: pystream.Pipeline) -> None:
    """PipelineUndefined when neither ``serialize`` nor ``parallelize`` has been invoked."""
    with pytest.raises(pystream.PipelineUndefined):
        pipeline.as_stage()


def test_as_stage_gives_a_stage_for_a_pipeline_inside_a_pipeline(
    pipeline: pystream.Pipeline, choose: Callable[..., Any]
) -> None:
    """It is a Stage, callable and addable."""
    child = pystream.Pipeline()
    child.add(lambda item: item + 1)
    stage = choose(child).as_stage()
    assert isinstance(stage, pystream.Stage)
    assert stage(1) == 2
    pipeline.add(stage, "Child")
    choose(pipeline)
    pipeline.forward(10)
    pipeline.drain()
    assert pipeline.get_results() == 11


# -- cleanup -------------------------------------------------------------------------------


def test_cleanup_does_nothing_before_initialisation() -> None:
    """Without a mode no stage is cleaned up, and the pipeline can still get one."""
    stage = Recording()
    pipeline = pystream.Pipeline()
    pipeline.add(stage)
    assert pipeline.cleanup() is None
    assert stage.log == []
    pipeline.serialize()
    assert pipeline.forward(1)
    pipeline.cleanup()
    assert stage.log == ["cleanup"]


def test_cleanup_stops_the_pipeline(choose: Callable[..., Any]) -> None:
    """Afterwards ``forward``, ``get_results`` and ``as_stage`` raise PipelineUndefined."""
    stage = Recording()
    pipeline = pystream.Pipeline()
    pipeline.add(stage)
    choose(pipeline).forward(1)
    pipeline.cleanup()
    pipeline.cleanup()
    assert stage.log == ["cleanup"]
    for call in (lambda: pipeline.forward(2), pipeline.get_results, pipeline.as_stage):
        with pytest.raises(pystream.PipelineUndefined):
            call()


# -- forward -------------------------------------------------------------------------------


def test_forward_before_a_mode_is_undefined(pipeline: pystream.Pipeline) -> None:
    """PipelineUndefined when neither ``serialize`` nor ``parallelize`` has been invoked."""
    with pytest.raises(pystream.PipelineUndefined, match=r"serialize\(\) or parallelize\(\)"):
        pipeline.forward(1)


def test_forward_returns_true_when_the_item_is_in(
    pipeline: pystream.Pipeline, choose: Callable[..., Any]
) -> None:
    """True: forwarded successfully; None is an item like any other."""
    seen: list[Any] = []
    pipeline.add(seen.append)
    choose(pipeline)
    assert pipeline.forward(None) is True
    assert pipeline.forward(data=2) is True
    pipeline.drain()
    assert seen == [None, 2]


def test_forward_returns_false_without_blocking_when_the_first_stage_is_busy() -> None:
    """With ``block_input=False`` a full front refuses at once."""
    release, entered = threading.Event(), threading.Event()

    def hold(item: Any) -> Any:
        entered.set()
        assert release.wait(DEADLINE)
        return item

    pipeline = pystream.Pipeline()
    pipeline.add(hold)
    assert pipeline.parallelize(block_input=False) is pipeline
    assert pipeline.forward(1) is True
    assert entered.wait(DEADLINE)
    start = monotonic()
    answers = [pipeline.forward(item) for item in range(20)]
    assert monotonic() - start < DEADLINE
    assert answers[-1] is False
    release.set()
    pipeline.cleanup()
    statistics = pipeline.statistics()
    assert statistics.rejected == answers.count(False)
    assert statistics.completed == statistics.admitted == 1 + answers.count(True)


def test_forward_blocks_at_most_the_input_timeout() -> None:
    """With ``block_input`` a full front is waited for, then refused."""
    release, entered = threading.Event(), threading.Event()

    def hold(item: Any) -> Any:
        entered.set()
        assert release.wait(DEADLINE)
        return item

    pipeline = pystream.Pipeline()
    pipeline.add(hold, capacity=1)
    pipeline.parallelize(True, 0.15)
    assert pipeline.forward(1)
    assert entered.wait(DEADLINE)
    assert pipeline.forward(2)
    start = monotonic()
    assert pipeline.forward(3) is False
    assert 0.14 <= monotonic() - start < DEADLINE
    threading.Timer(0.03, release.set).start()
    assert pipeline.forward(4) is True  # room comes within the timeout
    pipeline.cleanup()


def test_a_slow_setup_does_not_count_against_the_input_timeout() -> None:
    """Starting may take longer than ``input_timeout``."""

    class Slow(Recording):
        def setup(self) -> None:
            threading.Event().wait(0.12)

    pipeline = pystream.Pipeline()
    pipeline.add(Slow())
    pipeline.parallelize(input_timeout=0.05)
    assert pipeline.forward(1) is True
    pipeline.cleanup()


# -- get_profiles --------------------------------------------------------------------------


def test_get_profiles_is_a_tuple_of_two_dicts(
    pipeline: pystream.Pipeline, choose: Callable[..., Any]
) -> None:
    """Empty without a profiler, also before a mode is chosen."""
    assert pipeline.get_profiles() == ({}, {})
    choose(pipeline).forward(1)
    profiles = pipeline.get_profiles()
    assert isinstance(profiles, tuple)
    assert profiles == ({}, {})


# -- get_results ---------------------------------------------------------------------------


def test_get_results_before_a_mode_is_undefined(pipeline: pystream.Pipeline) -> None:
    """PipelineUndefined when neither ``serialize`` nor ``parallelize`` has been invoked."""
    with pytest.raises(pystream.PipelineUndefined):
        pipeline.get_results()


def test_get_results_gives_the_last_data_once(
    pipeline: pystream.Pipeline, choose: Callable[..., Any]
) -> None:
    """None when nothing is new, the newest result otherwise, and never the same one twice."""
    pipeline.add(lambda item: item)
    choose(pipeline)
    assert pipeline.get_results() is None
    for item in range(5):
        pipeline.forward(item)
    pipeline.drain()
    assert pipeline.get_results() == 4
    assert pipeline.get_results() is None
    pipeline.forward(4)  # an equal item is new data all the same
    pipeline.drain()
    assert pipeline.get_results() == 4
    assert pipeline.get_results() is None


def test_get_results_does_not_block_by_default(pipeline: pystream.Pipeline) -> None:
    """``block_output=False``: the timeout plays no part."""
    pipeline.add(lambda item: item)
    pipeline.parallelize(output_timeout=30)
    start = monotonic()
    assert pipeline.get_results() is None
    assert monotonic() - start < DEADLINE


def test_get_results_blocks_at_most_the_output_timeout(pipeline: pystream.Pipeline) -> None:
    """``block_output=True``: None comes after the timeout, a result as soon as it is there."""
    pipeline.add(lambda item: item)
    pipeline.parallelize(block_output=True, output_timeout=0.15)
    start = monotonic()
    assert pipeline.get_results() is None
    assert 0.14 <= monotonic() - start < DEADLINE
    pipeline.parallelize(True, 10, True, 10)
    threading.Timer(0.02, pipeline.forward, ("x",)).start()
    start = monotonic()
    assert pipeline.get_results() == "x"
    assert monotonic() - start < 5


# -- modes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["serialize", "parallelize"])
def test_choosing_a_mode_returns_the_pipeline(pipeline: pystream.Pipeline, method: str) -> None:
    """So that calls can be chained."""
    assert getattr(pipeline, method)() is pipeline


def test_parallel_stages_live_in_different_threads(pipeline: pystream.Pipeline) -> None:
    """Each stage has a thread of its own, none of them the caller's, and works on its own."""
    threads: dict[str, set[int]] = {"A": set(), "B": set()}
    meeting = threading.Barrier(2, timeout=DEADLINE)

    def stage(name: str) -> Callable[[int], int]:
        def work(item: int) -> int:
            threads[name].add(threading.get_ident())
            if (name, item) in (("A", 1), ("B", 0)):
                meeting.wait()  # item 1 is in A while item 0 is in B
            return item

        return work

    pipeline.add(stage("A"), capacity=4)
    pipeline.add(stage("B"), capacity=4)
    pipeline.parallelize()
    for item in range(4):
        assert pipeline.forward(item)
    pipeline.drain()
    assert [len(idents) for idents in threads.values()] == [1, 1]
    assert len({threading.get_ident()}.union(*threads.values())) == 3


def test_parallel_items_pass_the_stages_in_the_defined_order(pipeline: pystream.Pipeline) -> None:
    """Every item meets A before B before C."""
    for name in "ABC":
        pipeline.add(lambda item, name=name: item + name)
    pipeline.parallelize()
    assert list(pipeline.stream(["1", "2", "3"])) == ["1ABC", "2ABC", "3ABC"]


def test_serial_stages_run_in_sequence_in_the_callers_thread(pipeline: pystream.Pipeline) -> None:
    """``forward`` returns when the item is through all stages."""
    seen: list[tuple[str, int]] = []
    for name in "ABC":
        pipeline.add(lambda item, name=name: seen.append((name, threading.get_ident())) or item)
    pipeline.serialize().forward(1)
    assert seen == [(name, threading.get_ident()) for name in "ABC"]
    assert pipeline.get_results() == 1


# -- the loop ------------------------------------------------------------------------------


def test_the_loop_pushes_generated_items_at_the_period(choose: Callable[..., Any]) -> None:
    """Autonomous from ``start_loop`` to ``stop_loop``."""
    seen: list[float] = []
    enough = threading.Event()

    def stage(item: float) -> float:
        seen.append(monotonic())
        if len(seen) == 6:
            enough.set()
        return item

    pipeline = pystream.Pipeline(monotonic)
    pipeline.add(stage)
    choose(pipeline)
    begun = monotonic()
    assert pipeline.start_loop(0.02) is None
    assert enough.wait(DEADLINE)
    assert pipeline.stop_loop() is None
    pipeline.drain()
    count = len(seen)
    assert pipeline.statistics().admitted == count
    assert seen[5] - begun >= 0.099  # five periods; the first item itself may come late
    assert pipeline.get_results() is not None
    pipeline.cleanup()
    assert len(seen) == count


def test_the_loop_before_a_mode_is_undefined() -> None:
    """``start_loop`` needs a mode; ``stop_loop`` without a loop is harmless."""
    pipeline = pystream.Pipeline(lambda: 1)
    with pytest.raises(pystream.PipelineUndefined):
        pipeline.start_loop()
    pipeline.stop_loop()
    pipeline.serialize().stop_loop()
    pipeline.cleanup()


# -- Stage ---------------------------------------------------------------------------------


def test_stage_is_abstract_in_call_and_cleanup() -> None:
    """Both have to be defined by the child class."""
    assert pystream.Stage.__abstractmethods__ == {"__call__", "cleanup"}
    with pytest.raises(TypeError, match="abstract"):
        pystream.Stage()  # type: ignore[abstract]


def test_stage_call_and_cleanup_have_their_signatures() -> None:
    """``__call__(data)`` and ``cleanup()``."""
    assert documented(pystream.Stage.__call__) == [("data", EMPTY)]
    assert documented(pystream.Stage.cleanup) == []


def test_stage_takes_a_type_argument() -> None:
    """The reference writes ``Callable[[T], T]``: a stage is generic in its item."""

    class Double(pystream.Stage[int]):
        def __call__(self, data: int) -> int:
            return data * 2

        def cleanup(self) -> None: ...

    assert Double()(2) == 4
    assert Double().name == ""


def test_a_pipeline_without_stages_passes_its_items_on(
    pipeline: pystream.Pipeline, choose: Callable[..., Any]
) -> None:
    """Forwarded, streamed and drained like any other, in both modes."""
    choose(pipeline)
    assert pipeline.forward("x")
    pipeline.drain()
    assert pipeline.get_results() == "x"
    assert list(pipeline.stream(range(50))) == list(range(50))
    pipeline.cleanup()
    assert pipeline.statistics().completed == 51
