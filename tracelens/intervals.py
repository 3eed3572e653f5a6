"""Sets of time spans: union, intersection, difference, clipping. numpy only, no loop over spans.

A *span set* is a pair ``(start, end)`` of int64 arrays of one length: disjoint half-open spans
``[start, end)`` in ascending order, at least 1 ns apart. `union` makes one from any spans; every
other function takes and returns span sets. Cost is O(n log n) for unsorted input, O(n) otherwise.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tracelens.errors import InvariantError

Ns: TypeAlias = npt.NDArray[np.int64]
Spans: TypeAlias = tuple[Ns, Ns]


def empty() -> Spans:
    """The span set without spans."""
    none = np.empty(0, np.int64)
    return none, none


def union(start: Ns, end: Ns) -> Spans:
    """Merge spans that touch or overlap into disjoint ones.

    Parameters
    ----------
    start, end : int64 arrays of shape (n,)
        Spans in any order, ns; ``end >= start``. Empty spans are dropped.

    Returns
    -------
    Spans
        The same set of instants, as a span set.

    Raises
    ------
    InvariantError
        If the shapes differ or a span ends before it starts.

    Examples
    --------
    >>> s, e = union(np.array([30, 0, 5]), np.array([40, 10, 15]))
    >>> s.tolist(), e.tolist()
    ([0, 30], [15, 40])
    """
    if start.shape != end.shape:
        raise InvariantError(f"span starts {start.shape} and ends {end.shape} differ in shape")
    if (end < start).any():
        row = int(np.flatnonzero(end < start)[0])
        raise InvariantError(f"span {row} ends before it starts: [{start[row]}, {end[row]})")
    keep = end > start
    if not keep.all():
        start, end = start[keep], end[keep]
    if not len(start):
        return empty()
    if (start[1:] < start[:-1]).any():
        order = np.argsort(start, kind="stable")  # timsort: near-linear on nearly sorted rows
        start, end = start[order], end[order]
    reach = np.maximum.accumulate(end)
    first = np.concatenate(([True], start[1:] > reach[:-1]))
    heads = np.flatnonzero(first)
    return start[heads], reach[np.append(heads[1:], len(start)) - 1]


def intersect(a: Spans, b: Spans) -> Spans:
    """The instants that are in both sets.

    Examples
    --------
    >>> s, e = intersect((np.array([0, 20]), np.array([10, 30])), (np.array([5]), np.array([25])))
    >>> s.tolist(), e.tolist()
    ([5, 20], [10, 25])
    """
    a_start, a_end = a
    b_start, b_end = b
    if not len(a_start) or not len(b_start):
        return empty()
    low = np.searchsorted(b_end, a_start, "right")
    high = np.searchsorted(b_start, a_end, "left")
    count = np.maximum(high - low, 0)
    of_a = np.repeat(np.arange(len(a_start)), count)
    offset = np.arange(len(of_a)) - np.repeat(np.cumsum(count) - count, count)
    of_b = offset + np.repeat(low, count)
    return np.maximum(a_start[of_a], b_start[of_b]), np.minimum(a_end[of_a], b_end[of_b])


def subtract(a: Spans, b: Spans) -> Spans:
    """The instants of `a` that are not in `b`.

    Examples
    --------
    >>> s, e = subtract((np.array([0]), np.array([30])), (np.array([5, 20]), np.array([10, 40])))
    >>> s.tolist(), e.tolist()
    ([0, 10], [5, 20])
    """
    if not len(a[0]) or not len(b[0]):
        return a
    low = min(a[0][0], b[0][0])
    high = max(a[1][-1], b[1][-1])
    gap_start = np.concatenate(([low], b[1]))
    gap_end = np.concatenate((b[0], [high]))
    keep = gap_end > gap_start
    return intersect(a, (gap_start[keep], gap_end[keep]))


def length(spans: Spans) -> int:
    """Total ns covered."""
    return int((spans[1] - spans[0]).sum())


def covered_before(spans: Spans, at: Ns) -> Ns:
    """How many ns of the set lie before each instant.

    The difference of two values is the covered time between two instants, which makes clipping to
    any number of windows one prefix sum.

    Examples
    --------
    >>> covered_before((np.array([0, 20]), np.array([10, 30])), np.array([5, 15, 40])).tolist()
    [5, 10, 20]
    """
    start, end = spans
    at = np.asarray(at, np.int64)
    if not len(start):
        return np.zeros(at.shape, np.int64)
    total = np.concatenate(([0], np.cumsum(end - start)))
    k = np.searchsorted(start, at, "right")
    beyond = np.where(k > 0, np.maximum(end[np.maximum(k - 1, 0)] - at, 0), 0)
    return np.asarray(total[k] - beyond, np.int64)


def clip_lengths(spans: Spans, start: Ns, end: Ns) -> Ns:
    """Covered ns inside each window ``[start[i], end[i])``; windows may overlap."""
    return covered_before(spans, end) - covered_before(spans, start)


def contains(spans: Spans, at: Ns) -> npt.NDArray[np.bool_]:
    """Whether each instant lies in the set (starts included, ends not).

    Examples
    --------
    >>> contains((np.array([0]), np.array([10])), np.array([0, 9, 10])).tolist()
    [True, True, False]
    """
    start, end = spans
    if not len(start):
        return np.zeros(np.shape(at), bool)
    k = np.searchsorted(start, at, "right") - 1
    return np.asarray((k >= 0) & (at < end[np.maximum(k, 0)]))
