"""The figures, against a plain model of what they mean."""

import math
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from pystream_sqlite._recording import Recording
from pystream_sqlite._summary import Summary

from pystream_core import Profile, RunInfo

PATHS = (
    ("MainPipeline", "A"),
    ("MainPipeline", "Child", "B"),
    ("MainPipeline", "Child", "C"),
    ("MainPipeline", "D"),
)


def run_info(paths=PATHS, workers=None, started=10**15, feeders=()):
    return RunInfo(
        id="r",
        stages=paths,
        workers=tuple(workers or [1] * len(paths)),
        executor="serial",
        started_ns=started,
        started_at=0.0,
        feeders=feeders,
    )


def percentile(values, share):
    return sorted(values)[math.ceil(share * len(values)) - 1]


times = st.lists(
    st.tuples(
        st.lists(st.integers(0, 10**9), min_size=8, max_size=8),  # queue and service, by stage
        st.integers(0, 10**6),  # admitted after the one before
        st.integers(0, 8),  # where it ends: 0 to 3 filtered, else completed
    ),
    min_size=1,
    max_size=30,
)


@given(times, st.integers(1, 40), st.integers(1, 3))
@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_figures_agree_with_a_plain_model(items, batch, workers):
    """Also when an item's records come in several batches, in any order of the stages."""
    origin = 10**15
    spans, ends = [], []
    admitted = origin
    for seq, (parts, gap, end_at) in enumerate(items):
        admitted += gap
        now = admitted
        for stage in range(4):
            queue, service = parts[2 * stage : 2 * stage + 2]
            outcome = "filtered" if end_at == stage else "emitted"
            spans.append((stage, seq, 0, now, now + queue, now + queue + service, outcome))
            now += queue + service
            if end_at == stage:
                break
        ends.append((seq, 0, admitted, now, "filtered" if end_at < 4 else "completed"))
    summary = Summary(run_info(workers=[workers] * 4))
    shuffled = sorted(spans, key=lambda span: -span[0])
    for begin in range(0, len(shuffled), batch):
        summary.add(shuffled[begin : begin + batch], [])
    summary.add([], ends)
    profile = summary.profile(3)

    assert profile.lost == 3
    window = max(1, max(s[5] for s in spans) - min(s[4] for s in spans))
    for index, path in enumerate(PATHS):
        mine = [span for span in spans if span[0] == index]
        name = "__".join(path)
        if not mine:
            assert name not in profile.stages
            continue
        figures = profile.stages[name]
        service = [max(1, s[5] - s[4]) for s in mine]
        exact = sum(s[5] - s[4] for s in mine)
        queue = [s[4] - s[3] for s in mine]
        assert figures.calls == len(mine)
        assert figures.service.mean == pytest.approx(max(1, exact / len(mine)) / 1e9)
        assert figures.service.p50 == percentile(service, 0.5) / 1e9
        assert figures.service.p99 == percentile(service, 0.99) / 1e9
        assert figures.queue.p90 == percentile(queue, 0.9) / 1e9
        frame = max(1, max(s[5] for s in mine) - min(s[4] for s in mine))
        assert figures.throughput == pytest.approx(len(mine) / frame * 1e9)
        assert figures.busy == pytest.approx(min(1, exact / (workers * window)))
    assert profile.stages[profile.bottleneck].busy == max(s.busy for s in profile.stages.values())

    completed = [end for end in ends if end[4] == "completed"]
    assert ("MainPipeline" in profile.pipelines) == bool(completed)
    if completed:
        main = profile.pipelines["MainPipeline"]
        latencies = [max(1, end - begin) for _, _, begin, end, _ in completed]
        assert main.items == len(completed)
        assert main.latency.mean == pytest.approx(sum(latencies) / len(latencies) / 1e9)
        frame = max(1, max(e[3] for e in completed) - min(e[2] for e in ends))
        assert main.throughput == pytest.approx(len(completed) / frame * 1e9)
    entered = {s[1]: s[4] for s in spans if s[0] == 1}
    left = {s[1]: s[5] for s in spans if s[0] == 2 and s[6] == "emitted"}
    assert ("MainPipeline__Child" in profile.pipelines) == bool(left)
    if left:
        child = profile.pipelines["MainPipeline__Child"]
        latencies = [max(1, end - entered[seq]) for seq, end in left.items()]
        assert child.items == len(left)
        assert child.latency.p90 == percentile(latencies, 0.9) / 1e9
        frame = max(1, max(left.values()) - min(entered.values()))
        assert child.throughput == pytest.approx(len(left) / frame * 1e9)


def test_an_empty_run_has_an_empty_profile():
    assert Summary(run_info()).profile(0) == Profile()


def test_an_instantaneous_call_still_has_figures_above_zero():
    summary = Summary(run_info(paths=(("MainPipeline", "A"),)))
    summary.add([(0, 0, 0, 5, 5, 5, "emitted")], [(0, 0, 5, 5, "completed")])
    profile = summary.profile(0)
    (stage,), (pipeline,) = profile.stages.values(), profile.pipelines.values()
    for value in (stage.service.mean, stage.service.p50, pipeline.latency.p99):
        assert 0 < value < 1e-6
    assert 0 < stage.throughput < math.inf
    assert 0 < pipeline.throughput < math.inf


def test_failed_and_retried_calls_count_as_ended():
    summary = Summary(run_info())
    summary.add([(0, 0, 0, 1, 2, 12, "retried"), (0, 0, 0, 1, 22, 32, "failed")], [])
    profile = summary.profile(0)
    assert profile.stages["MainPipeline__A"].calls == 2
    assert profile.pipelines == {}


def test_spawned_items_count_from_the_start_of_their_parent():
    """An item expanded inside a nested pipeline lends its start to its children."""
    summary = Summary(run_info())
    children = [(2, 7, sub, 20, 30, 40 + sub, "emitted") for sub in range(3)]
    summary.add(children[:1], [])
    summary.add([(1, 7, 0, 5, 10, 20, "expanded"), *children[1:]], [])
    child = summary.profile(0).pipelines["MainPipeline__Child"]
    assert child.items == 3
    assert child.latency.mean == pytest.approx(31e-9)


def test_pipelines_in_pipelines_each_have_figures():
    paths = (("M", "A", "B", "x"), ("M", "A", "B", "y"), ("M", "A", "z"))
    summary = Summary(run_info(paths=paths))
    summary.add(
        [(stage, 0, 0, 0, 10 * stage, 10 * stage + 5, "emitted") for stage in range(3)],
        [(0, 0, 0, 30, "completed")],
    )
    pipelines = summary.profile(0).pipelines
    assert {name: p.latency.p50 for name, p in pipelines.items()} == {
        "M": 30e-9,
        "M__A": 25e-9,
        "M__A__B": 15e-9,
    }


def test_a_retried_first_call_is_where_the_latency_begins():
    summary = Summary(run_info())
    summary.add([(1, 0, 0, 0, 10, 11, "retried"), (1, 0, 0, 0, 20, 21, "emitted")], [])
    summary.add([(2, 0, 0, 21, 30, 40, "emitted")], [])
    assert summary.profile(0).pipelines["MainPipeline__Child"].latency.p50 == 30e-9


# A -> Child: B -> (C, D, E) -> F; in Child only D and E join inside, as G
BRANCHING = (
    ("MainPipeline", "A"),
    ("MainPipeline", "Child", "B"),
    ("MainPipeline", "Child", "C"),
    ("MainPipeline", "Child", "D"),
    ("MainPipeline", "Child", "E"),
    ("MainPipeline", "Child", "G"),
    ("MainPipeline", "F"),
)
FEEDERS = ((), (0,), (1,), (1,), (1,), (3, 4), (2, 5), (6,))


def branching_info(feeders=FEEDERS):
    return run_info(paths=BRANCHING, feeders=feeders)


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(1, 1000), min_size=5, max_size=5),  # service of B, C, D, E, G
            st.sampled_from([None, 1, 2, 3, 5]),  # where it is filtered
        ),
        min_size=1,
        max_size=20,
    ),
    st.integers(1, 30),
    st.randoms(),
)
@settings(max_examples=50, deadline=None)
def test_a_nested_pipeline_with_several_ends_lasts_to_the_latest(items, batch, rng):
    """From its first stage's start; only items that all ends have handed on count."""
    spans, expected = [], []
    for seq, ((b, c, d, e, g), filtered) in enumerate(items):
        begin = 10_000 * seq
        ends = {1: begin + b}
        ends |= {2: ends[1] + c, 3: ends[1] + d, 4: ends[1] + e}
        ends[5] = max(ends[3], ends[4]) + g
        gone = {1: {2, 3, 4, 5}, 3: {5}}.get(filtered, set())
        for stage, end in ends.items():
            if stage not in gone:
                start = begin if stage == 1 else max(ends[f] for f in FEEDERS[stage])
                outcome = "filtered" if stage == filtered else "emitted"
                spans.append((stage, seq, 0, start, start, end, outcome))
        if filtered is None:
            expected.append((begin, max(ends[2], ends[5])))
    rng.shuffle(spans)
    summary = Summary(branching_info())
    for at in range(0, len(spans), batch):
        summary.add(spans[at : at + batch], [])
    pipelines = summary.profile(0).pipelines
    assert ("MainPipeline__Child" in pipelines) == bool(expected)
    if expected:
        child = pipelines["MainPipeline__Child"]
        latencies = [end - begin for begin, end in expected]
        assert child.items == len(expected)
        assert child.latency.mean == pytest.approx(sum(latencies) / len(latencies) / 1e9)
        assert child.latency.p90 == percentile(latencies, 0.9) / 1e9
        window = max(end for _, end in expected)  # the first item came at 0
        assert child.throughput == pytest.approx(len(expected) / window * 1e9)


def test_pipelines_on_two_branches_have_figures_of_their_own():
    """Neither begins with the other, although their stages are listed in a row."""
    paths = (("M", "a"), ("M", "X", "x"), ("M", "X", "y"), ("M", "Y", "z"))
    summary = Summary(run_info(paths=paths, feeders=((), (0,), (0,), (0,), (1, 2, 3))))
    summary.add(
        [
            (1, 0, 0, 0, 10, 15, "emitted"),
            (2, 0, 0, 0, 8, 12, "emitted"),
            (3, 0, 0, 0, 20, 90, "emitted"),
        ],
        [],
    )
    pipelines = summary.profile(0).pipelines
    assert pipelines["M__X"].latency.p50 == 7e-9  # two first stages: from the earlier start
    assert pipelines["M__Y"].latency.p50 == 70e-9


def test_a_list_lasts_from_the_last_item_that_went_into_it():
    """An item that was absorbed inside a nested pipeline lends its start to the list."""
    summary = Summary(run_info())
    absorbed = [(1, seq, 0, 0, 10 * seq, 10 * seq + 1, "absorbed") for seq in range(3)]
    summary.add([*absorbed, (2, 2, 0, 21, 30, 40, "emitted")], [])
    child = summary.profile(0).pipelines["MainPipeline__Child"]
    assert (child.items, child.latency.p50) == (1, 20e-9)


def test_items_that_one_branch_has_lost_are_forgotten(monkeypatch):
    """What the others have done of them does not pile up."""
    from pystream_sqlite import _summary

    monkeypatch.setattr(_summary, "WAITING", 100)
    summary = Summary(branching_info())
    for seq in range(0, 1000, 10):
        summary.add(
            [
                (stage, s, 0, 0, s, 2 * s, "emitted")
                for s in range(seq, seq + 10)
                for stage in (1, 2)
            ],
            [],
        )
    (child,) = summary._nested
    assert len(child._parts) <= 100
    assert child._ended == {}


def test_memory_is_bounded_and_sums_stay_exact(monkeypatch):
    from pystream_sqlite import _summary

    monkeypatch.setattr(_summary, "KEPT", 100)
    monkeypatch.setattr(_summary, "WAITING", 100)
    summary = Summary(run_info())
    for seq in range(0, 5000, 10):
        batch = [
            (stage, s, 0, 0, s, 2 * s, "emitted") for s in range(seq, seq + 10) for stage in (0, 1)
        ]
        summary.add(batch, [])
    stage = summary._stages[0]
    assert max(len(each._last) for each in (stage.queued, stage.starts, stage.ends)) <= 125
    assert len(summary._nested[0]._started[0]) <= 110
    figures = summary.profile(0).stages["MainPipeline__A"]
    assert figures.calls == 5000
    assert figures.service.mean == pytest.approx(2499.5e-9)
    assert figures.service.p50 >= 4900e-9


def test_a_summary_of_many_items_is_fast():
    """100,000 items of five stages in a fraction of a second of CPU; docs/performance.md has the
    figure."""
    import random

    rng = random.Random(1)
    summary = Summary(run_info(paths=tuple(("MainPipeline", str(i)) for i in range(5))))
    spans = [
        (stage, seq, 0, 0, rng.randrange(10**6), rng.randrange(10**6, 10**7), "emitted")
        for seq in range(20_000)
        for stage in range(5)
    ]
    for _ in range(5):
        summary.add(spans, [(s[1], 0, s[4], s[5], "completed") for s in spans[::5]])
    took = []
    for _ in range(3):
        begin = time.thread_time()
        summary.profile(0)
        took.append(time.thread_time() - begin)
    assert min(took) < 1


def test_other_threads_wait_for_a_summary_only_briefly():
    """It holds the interpreter lock in pieces: at most some 5 ms; best of three."""
    summary = Summary(run_info(paths=tuple(("MainPipeline", str(i)) for i in range(5))))
    spans = [
        (stage, seq, 0, 0, 7919 * seq % 10**6, 10**6 + 104729 * seq % 10**7, "emitted")
        for seq in range(50_000)
        for stage in range(5)
    ]
    summary.add(spans, [(s[1], 0, s[4], s[5], "completed") for s in spans[::5]])

    def longest_wait():
        done = threading.Event()
        waits = []

        def look():
            last = time.perf_counter()
            while not done.is_set():
                now = time.perf_counter()
                waits.append(now - last)
                last = now

        looking = threading.Thread(target=look)
        looking.start()
        summary.profile(0)
        done.set()
        looking.join()
        return max(waits)

    assert min(longest_wait() for _ in range(3)) < 0.05


def test_taking_in_a_batch_is_cheap():
    """A span costs some 0.25 us, so it may stay on: at most 1 us, best of five."""
    run = run_info(paths=tuple(("MainPipeline", str(i)) for i in range(5)))
    spans = [
        (
            stage,
            seq,
            0,
            *(10**15 + 10_000 * seq + 1000 * stage + t for t in (0, 200, 900)),
            "emitted",
        )
        for seq in range(1000)
        for stage in range(5)
    ]
    items = [(seq, 0, 10**15 + seq, 10**15 + 2 * seq, "completed") for seq in range(1000)]
    for some in (spans, sorted(spans)):
        took = []
        for _ in range(5):
            recording = Recording(run)
            begin = time.thread_time()
            recording.collect(some, items)
            took.append(time.thread_time() - begin)
        assert min(took) / len(spans) < 1e-6
