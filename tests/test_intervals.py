"""The interval algebra against the plainest model there is: one boolean an instant."""

from __future__ import annotations

from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracelens.errors import InvariantError
from tracelens.intervals import (
    Ns,
    Spans,
    clip_lengths,
    contains,
    covered_before,
    empty,
    intersect,
    length,
    subtract,
    union,
)

#: Instants run from -RANGE to RANGE; negative ones are real: clocks may start after an event. Few
#: instants, so that spans of two sets often touch: that is where off-by-one errors live.
RANGE = 12

Instants = npt.NDArray[np.bool_]
Raw = list[tuple[int, int]]

instants = st.integers(-RANGE, RANGE)
raw_spans = st.lists(st.tuples(instants, instants).map(lambda p: (min(p), max(p))), max_size=12)
many_instants = st.lists(instants, max_size=20).map(lambda v: np.array(v, np.int64))


def spans_of(raw: Raw) -> Spans:
    table = np.array(raw, np.int64).reshape(-1, 2)
    return union(table[:, 0], table[:, 1])


def painted(raw: Raw) -> Instants:
    """True at index i where instant ``i - RANGE`` is covered: the brute force."""
    on = np.zeros(2 * RANGE, bool)
    for start, end in raw:
        on[start + RANGE : end + RANGE] = True
    return on


def as_raw(spans: Spans) -> Raw:
    return list(zip(spans[0].tolist(), spans[1].tolist(), strict=True))


def check_span_set(spans: Spans) -> None:
    start, end = spans
    assert start.dtype == end.dtype == np.int64
    assert (end > start).all(), "an empty span"
    assert (start[1:] > end[:-1]).all(), "spans overlap, touch or are out of order"


@given(raw_spans)
def test_union_covers_the_same_instants_as_disjoint_ascending_spans(raw: Raw) -> None:
    result = spans_of(raw)
    check_span_set(result)
    assert (painted(as_raw(result)) == painted(raw)).all()
    assert length(result) == painted(raw).sum()


@given(raw_spans, st.randoms(use_true_random=False))
def test_union_does_not_depend_on_order(raw: Raw, random: Random) -> None:
    shuffled = list(raw)
    random.shuffle(shuffled)
    assert as_raw(spans_of(shuffled)) == as_raw(spans_of(raw))


@given(raw_spans)
def test_union_of_a_span_set_is_itself(raw: Raw) -> None:
    once = spans_of(raw)
    assert as_raw(union(*once)) == as_raw(once)


@given(raw_spans, raw_spans)
def test_intersect(a: Raw, b: Raw) -> None:
    result = intersect(spans_of(a), spans_of(b))
    check_span_set(result)
    assert (painted(as_raw(result)) == (painted(a) & painted(b))).all()


@given(raw_spans, raw_spans)
def test_subtract(a: Raw, b: Raw) -> None:
    result = subtract(spans_of(a), spans_of(b))
    check_span_set(result)
    assert (painted(as_raw(result)) == (painted(a) & ~painted(b))).all()


@given(raw_spans, raw_spans)
def test_what_is_shared_and_what_is_left_add_up(a: Raw, b: Raw) -> None:
    a_set, b_set = spans_of(a), spans_of(b)
    assert length(intersect(a_set, b_set)) + length(subtract(a_set, b_set)) == length(a_set)


@given(raw_spans, many_instants)
def test_covered_before(raw: Raw, at: Ns) -> None:
    on = painted(raw)
    expected = [int(on[: i + RANGE].sum()) for i in at.tolist()]
    assert covered_before(spans_of(raw), at).tolist() == expected


@given(raw_spans, raw_spans)
def test_clip_lengths_of_windows_that_may_overlap(raw: Raw, windows: Raw) -> None:
    on = painted(raw)
    window = np.array(windows, np.int64).reshape(-1, 2)
    expected = [int(on[s + RANGE : e + RANGE].sum()) for s, e in windows]
    assert clip_lengths(spans_of(raw), window[:, 0], window[:, 1]).tolist() == expected


@given(raw_spans, many_instants)
def test_contains(raw: Raw, at: Ns) -> None:
    on = np.append(painted(raw), False)  # the last instant is the end of all
    assert contains(spans_of(raw), at).tolist() == on[at + RANGE].tolist()


def test_nothing_in_nothing_out() -> None:
    a = spans_of([(0, 10)])
    assert as_raw(union(*empty())) == []
    assert as_raw(intersect(a, empty())) == as_raw(intersect(empty(), a)) == []
    assert as_raw(subtract(empty(), a)) == []
    assert as_raw(subtract(a, empty())) == [(0, 10)]


def test_touching_spans_merge_and_a_gap_of_one_nanosecond_stays() -> None:
    assert as_raw(spans_of([(0, 5), (5, 9)])) == [(0, 9)]
    assert as_raw(spans_of([(0, 5), (6, 9)])) == [(0, 5), (6, 9)]


def test_spans_that_only_touch_share_nothing() -> None:
    left, right = spans_of([(0, 5)]), spans_of([(5, 9)])
    assert as_raw(intersect(left, right)) == as_raw(intersect(right, left)) == []
    assert as_raw(subtract(left, right)) == [(0, 5)]
    assert as_raw(subtract(right, left)) == [(5, 9)]


def test_a_long_span_hides_those_nested_in_it() -> None:
    assert as_raw(spans_of([(0, 30), (5, 10), (12, 14), (29, 33)])) == [(0, 33)]


def test_spans_of_nanoseconds_since_1970_stay_exact() -> None:
    now = 1_790_857_026_000_000_001  # does not fit a float64
    assert as_raw(spans_of([(now, now + 1), (now + 1, now + 3)])) == [(now, now + 3)]
    assert covered_before((np.array([now]), np.array([now + 3])), np.array([now + 2])) == [2]


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [([3, 5], [4, 2], r"span 1 ends before it starts: \[5, 2\)"), ([1], [2, 3], "differ in shape")],
)
def test_what_is_no_span_is_our_bug(start: list[int], end: list[int], message: str) -> None:
    with pytest.raises(InvariantError, match=message):
        union(np.array(start), np.array(end))
