"""A chunk: the records of a moment, packed column by column, in memory as on disk.

Calls are grouped by their stage, so that a column holds what resembles its neighbours and no
record names its stage. All times are nanoseconds since the start of the run: what four bytes
hold in microseconds they hold in nanoseconds as well, as long as it lies within four seconds,
and reading the clock's own unit back spares a division per time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, TypeAlias

from pystream_core import ItemEnd, Span

from ._columns import Column, counted, indexes, narrowed, often_alike, total, values_of, words_of

OUTCOMES: Final = ("emitted", "filtered", "expanded", "failed", "retried", "absorbed")
BINS: Final = ("dropped", "filtered", "expanded", "absorbed", "expired", "failed", "completed")
# Codes are the places in these: append only, and at most 256.

_ENDS: Final = -1  # in place of a stage: the items that did not complete


class Calls(NamedTuple):
    """Ended calls of one stage, as columns, and what there is to know of their times.

    All of it is computed for one stage after another, while its numbers are in the processor's
    cache (measured: 0.18 us per span, and 0.23 with a pass over all stages for each figure).
    """

    stage: int
    seqs: Sequence[int]
    subs: Sequence[int]
    starts: Sequence[int]
    ends: Sequence[int]
    outcomes: Sequence[str]
    words: tuple[bytes, bytes, bytes]  # of queued, starts, ends
    totals: tuple[int, int, int]  # of the same
    begin: int  # the first start
    end: int  # the last end


def calls_of(spans: Sequence[Span], stages: int) -> list[Calls]:
    """The spans, grouped by their stage."""
    # Measured on 3.11, grouping and columns, per span: 62 to 85 ns like this, in any order of
    # the stages; zip() of each group 70 to 190, the more the longer; compress() 280.
    flat: list[list[Any]] = [[] for _ in range(stages)]
    extend = [group.extend for group in flat]
    for span in spans:
        extend[span[0]](span)
    return [_calls(stage, group) for stage, group in enumerate(flat) if group]


def _calls(stage: int, flat: list[Any]) -> Calls:
    seqs, subs, *times, outcomes = [flat[place::7] for place in range(1, 7)]
    queued, starts, ends = times
    words = words_of(queued), words_of(starts), words_of(ends)
    totals = total(queued), total(starts), total(ends)
    return Calls(stage, seqs, subs, starts, ends, outcomes, words, totals, min(starts), max(ends))


class Section(NamedTuple):
    """The calls of one stage, or the items that did not complete, as packed columns.

    These are the numbers of the items, their sub-numbers, two or three times, and a code.
    """

    stage: int
    size: int
    columns: tuple[Column, ...]


Sections: TypeAlias = tuple[Section, ...]


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Packed records of one run.

    Attributes:
        sections: of what was recorded, in the order of the stages.
        spans: number of ended calls in it.
        ended: number of items in it that did not complete.
        records: number of all records that it stands for, those of completed items too, which
            are not in it: they follow from the calls.
        first_seq: the lowest seq that is not in an earlier chunk, if there is one.
        last_seq: the highest seq so far.
    """

    sections: Sections
    spans: int
    ended: int
    records: int
    first_seq: int
    last_seq: int


def packed(
    calls: Sequence[Calls],
    ended: Sequence[ItemEnd],
    *,
    origin: int,
    records: int,
    first_seq: int,
) -> Chunk:
    """What was recorded, with times since ``origin``."""
    sections = [
        Section(
            each.stage,
            len(each.seqs),
            (
                counted(each.seqs),
                often_alike(each.subs),
                *(narrowed(words, origin) for words in each.words),
                indexes(each.outcomes, OUTCOMES),
            ),
        )
        for each in calls
    ]
    # A pipeline's items come about in order: what a stage saw last is near the highest.
    last = [each.seqs[-1] for each in calls]
    if ended:
        seqs, subs, begins, ends, bins = zip(*ended, strict=True)
        times = (narrowed(words_of(begins), origin), narrowed(words_of(ends), origin))
        columns = (counted(seqs), often_alike(subs), *times, indexes(bins, BINS))
        sections.append(Section(_ENDS, len(ended), columns))
        last.append(max(seqs))
    return Chunk(
        sections=tuple(sections),
        spans=sum(len(each.seqs) for each in calls),
        ended=len(ended),
        records=records,
        first_seq=first_seq,
        last_seq=max([first_seq - 1, *last]),
    )


def merged(first: Chunk, second: Chunk) -> Chunk:
    """Two chunks of a run as one, which takes less space than two small ones."""
    spans = [*spans_in(first.sections), *spans_in(second.sections)]
    stages = 1 + max((stage for stage, *_ in spans), default=-1)
    both = packed(
        calls_of(spans, stages),
        [*ended_in(first.sections), *ended_in(second.sections)],
        origin=0,
        records=first.records + second.records,
        first_seq=first.first_seq,
    )
    return replace(both, last_seq=second.last_seq)


def spans_in(sections: Sections) -> Iterator[Span]:
    """The calls, those of each stage in the order in which they were recorded."""
    for stage, size, columns in sections:
        if stage != _ENDS:
            *figures, codes = [values_of(column, size) for column in columns]
            outcomes = map(OUTCOMES.__getitem__, codes)
            yield from zip([stage] * size, *figures, outcomes, strict=True)


def ended_in(sections: Sections) -> Iterator[ItemEnd]:
    """The items that did not complete."""
    for stage, size, columns in sections:
        if stage == _ENDS:
            *figures, codes = [values_of(column, size) for column in columns]
            yield from zip(*figures, map(BINS.__getitem__, codes), strict=True)


def to_row(chunk: Chunk) -> tuple[str, bytes]:
    """The layout as JSON, and the data of all columns one after another."""
    layout = [
        [stage, size, *[[width, base] for width, base, _ in columns]]
        for stage, size, columns in chunk.sections
    ]
    data = b"".join(column.data for section in chunk.sections for column in section.columns)
    return json.dumps(layout, separators=(",", ":")), data


def from_row(layout: str, data: bytes) -> Sections:
    """The sections that ``to_row`` gave."""
    sections = []
    at = 0
    for stage, size, *columns in json.loads(layout):
        some = []
        for width, base in columns:
            some.append(Column(width, base, data[at : at + width * size]))
            at += width * size
        sections.append(Section(stage, size, tuple(some)))
    return tuple(sections)
