"""Level of detail: no zoom loses an event or a nanosecond, whatever is merged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboards.timeline.depths import DEEP, nesting, packed
from dashboards.timeline.lod import FEW, MARK_PX, NOTHING, Row, draw, edges_of
from dashboards.timeline.sums import Ascending, ClassSums
from tracelens.intervals import clip_lengths

Events = list[tuple[int, int]]


@st.composite
def rows(draw_from: st.DrawFn) -> Row:
    """Disjoint events with gaps and lengths of any size, some without a length."""
    size = st.integers(0, 40) | st.integers(0, 100_000)
    parts = draw_from(st.lists(st.tuples(size, size, st.integers(0, 3)), min_size=1, max_size=60))
    start, end, now = [], [], draw_from(st.integers(-1000, 1000))
    for gap, length, _ in parts:
        start.append(now + gap)
        end.append(now + gap + length)
        now += gap + max(length, 1)
    return row_of(start, end, [c for _, _, c in parts])


def row_of(start: list[int], end: list[int], cls: list[int]) -> Row:
    n = np.arange(len(start), dtype=np.int32)
    return Row(np.array(start, np.int64), np.array(end, np.int64), n, n, np.array(cls, np.uint8))


@st.composite
def windows(draw_from: st.DrawFn) -> tuple[int, int, int]:
    t0 = draw_from(st.integers(-2_000, 200_000))
    return t0, t0 + draw_from(st.integers(1, 300_000)), draw_from(st.integers(1, 300))


def in_view(row: Row, t0: int, t1: int) -> list[int]:
    """Events that begin in the window or reach into it, one by one."""
    pairs = zip(row.start_ns.tolist(), row.end_ns.tolist(), strict=True)
    return [i for i, (s, e) in enumerate(pairs) if t0 <= s < t1 or (s < t0 < e)]


@given(rows(), windows())
def test_no_event_is_lost_at_any_zoom(row: Row, window: tuple[int, int, int]) -> None:
    t0, t1, width = window
    seen = draw(row, t0, t1, width)
    expected = in_view(row, t0, t1)
    assert seen.n == len(expected)
    if seen.count is None:
        assert seen.marks.tolist() == expected
    else:
        assert int(seen.count.sum()) == len(expected)
        assert set(seen.marks.tolist()) <= set(expected)


@given(rows(), windows())
def test_busy_time_is_kept_at_any_zoom(row: Row, window: tuple[int, int, int]) -> None:
    t0, t1, width = window
    busy = row.busy(edges_of(t0, t1, width))
    for c in range(4):
        of_class = row.cls == c
        inside = np.minimum(row.end_ns, t1) - np.maximum(row.start_ns, t0)
        assert int(busy.get(c, np.zeros(1)).sum()) == int(inside[of_class].clip(0).sum())


@given(rows(), windows())
def test_each_pixel_has_its_own_share(row: Row, window: tuple[int, int, int]) -> None:
    edges = edges_of(*window)
    busy = row.busy(edges)
    for c in busy:
        on = row.cls == c
        for i in (0, len(edges) // 2 - 1, len(edges) - 2):
            low, high = edges[max(i, 0)], edges[max(i, 0) + 1]
            inside = np.minimum(row.end_ns, high) - np.maximum(row.start_ns, low)
            assert int(busy[c][max(i, 0)]) == int(inside[on].clip(0).sum())


@given(rows(), windows())
def test_a_pixel_with_an_event_is_never_blank(row: Row, window: tuple[int, int, int]) -> None:
    seen = draw(row, *window)
    if seen.count is None or seen.cover is None or seen.cls is None:
        return
    assert (seen.cover[seen.count > 0] > 0).all()
    assert ((seen.cls == NOTHING) == (seen.cover == 0)).all()


@given(rows(), windows())
def test_what_is_wide_is_told_one_by_one(row: Row, window: tuple[int, int, int]) -> None:
    t0, t1, width = window
    least = MARK_PX * (t1 - t0) / width
    wide = [i for i in in_view(row, t0, t1) if row.end_ns[i] - row.start_ns[i] >= least]
    assert set(wide) <= set(draw(row, t0, t1, width).marks.tolist())
    assert row.long(t0, t1, least).tolist() == wide


@given(st.integers(-(10**15), 10**15), st.integers(1, 10**15), st.integers(1, 3000))
def test_edges_tile_the_window(t0: int, span: int, width: int) -> None:
    edges = edges_of(t0, t0 + span, width)
    assert (edges[0], edges[-1], len(edges)) == (t0, t0 + span, width + 1)
    steps = np.diff(edges)
    assert steps.min() >= 0
    assert steps.max() - steps.min() <= 1


def test_what_is_drawn_is_bounded_by_pixels_not_by_events() -> None:
    n = 50 * FEW
    start = np.arange(n, dtype=np.int64) * 10
    i = np.arange(n, dtype=np.int32)
    seen = draw(Row(start, start + 9, i, i, np.zeros(n, np.uint8)), 0, 10 * n, 800)
    assert seen.count is not None
    assert (len(seen.marks), len(seen.count), int(seen.count.sum())) == (0, 800, n)


def test_exposed_time_is_seen_however_short() -> None:
    n = np.arange(2, dtype=np.int32)
    exposed = np.array([500_000]), np.array([500_001])
    row = Row(
        np.array([0, 600_000]), np.array([550_000, 10**6]), n, n, np.zeros(2, np.uint8), exposed
    )
    seen = draw(row, 0, 10**6, 100)
    assert seen.exposed is not None
    assert np.flatnonzero(seen.exposed).tolist() == [50]
    assert draw(row, 0, 400_000, 100).exposed is None


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 70_000, 70_016, 131_072])
@pytest.mark.parametrize("spread", [1, 50, 10**12])
def test_long_arrays_are_looked_up_as_numpy_would(n: int, spread: int) -> None:
    """Gaps and repeats of all sizes, keys on and beside every kind of entry."""
    chance = np.random.default_rng(n + spread)
    values = np.cumsum(chance.integers(0, spread, n) * (chance.random(n) < 0.7))
    some = values[chance.integers(0, max(n, 1), 2_000 if n else 0)]
    keys = np.sort(np.concatenate((some, some + 1, some - 1, [-5, values[-1] + 9 if n else 9])))
    expected = np.searchsorted(values, keys, "left")
    assert Ascending(values).before(keys).tolist() == expected.tolist()


@pytest.mark.parametrize("classes", [1, 2, 3, 4, 7])
def test_sums_by_class_are_those_of_counting(classes: int) -> None:
    chance = np.random.default_rng(classes)
    length, cls = chance.integers(0, 100, 500), chance.integers(0, classes, 500).astype(np.uint8)
    sums = ClassSums.of(length, cls)
    assert sums.codes == tuple(range(classes))
    at = np.array([0, 1, 250, 499, 500])
    expected = [[int(length[:i][cls[:i] == c].sum()) for i in at] for c in sums.codes]
    assert [s.tolist() for s in sums.before(at)] == expected


# ---------------------------------------------------------------------------------------- depths
def overlaps(start: np.ndarray, end: np.ndarray, line: np.ndarray) -> bool:
    """Whether two events on one line overlap; an event without a length takes 1 ns."""
    end = np.maximum(end, start + 1)
    for d in np.unique(line):
        mine = line == d
        if (start[mine][1:] < end[mine][:-1]).any():
            return True
    return False


ANY = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 30)), max_size=40)


@given(ANY)
def test_no_two_events_on_one_line_overlap(events: Events) -> None:
    events = sorted(events, key=lambda e: (e[0], -e[1]))
    start = np.array([s for s, _ in events], np.int64)
    end = start + np.array([d for _, d in events], np.int64)
    assert not overlaps(start, end, nesting(start, end))
    assert not overlaps(start, end, packed(start, end))


@given(ANY)
def test_packing_takes_as_few_lines_as_there_can_be(events: Events) -> None:
    events = sorted(events, key=lambda e: (e[0], -e[1]))
    start = np.array([s for s, _ in events], np.int64)
    end = np.maximum(start + np.array([d for _, d in events], np.int64), start + 1)
    most = max((int(((start <= t) & (end > t)).sum()) for t in start), default=0)
    assert len(np.unique(packed(start, end))) == most


@pytest.mark.parametrize("n", [3, DEEP + 50])
def test_children_lie_below_their_parents(n: int) -> None:
    start = np.arange(n, dtype=np.int64)
    end = 3 * n - start
    assert nesting(start, end).tolist() == list(range(n))


def test_clipping_agrees_with_the_intervals() -> None:
    row = row_of([0, 10, 20], [5, 15, 40], [1, 1, 1])
    edges = edges_of(2, 30, 7)
    expected = clip_lengths((row.start_ns, row.end_ns), edges[:-1], edges[1:])
    assert row.busy(edges)[1].tolist() == expected.tolist()
