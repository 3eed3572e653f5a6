"""Which events of a thread or stream lie on which line, so that no two on one line overlap."""

from __future__ import annotations

import heapq

import numpy as np

from .lod import Int32s, Int64s

#: Nesting deeper than this is laid out one event at a time, in as few lines as will do.
DEEP = 256


def nesting(start: Int64s, end: Int64s) -> Int32s:
    """Depth of each event: children lie below what they are nested in.

    An event that reaches out of what it began in (a launch call that ends a nanosecond after its
    operator) lies below it like a child.

    Parameters
    ----------
    start, end : int64 (n,)
        Ascending in start; longer ones first where starts are equal.

    Returns
    -------
    int32 (n,)
        On one depth no two events overlap; an event without a length takes 1 ns.

    Examples
    --------
    >>> nesting(np.array([0, 1, 2, 5]), np.array([9, 4, 3, 6])).tolist()
    [0, 1, 2, 1]
    """
    end = np.maximum(end, start + 1)
    depth = np.zeros(len(start), np.int32)
    left = np.arange(len(start))
    for level in range(DEEP):
        if not len(left):
            return depth
        depth[left] = level
        reach = np.maximum.accumulate(end[left])
        left = left[1:][start[left[1:]] < reach[:-1]]
    depth[left] = DEEP + packed(start[left], end[left])
    return depth


def packed(start: Int64s, end: Int64s) -> Int32s:
    """Lines for events that overlap any way: each goes on the lowest line that is free.

    As `nesting`, but siblings that overlap in a chain take two lines, not one each.

    Examples
    --------
    >>> packed(np.array([0, 5, 10]), np.array([10, 15, 20])).tolist()
    [0, 1, 0]
    """
    end = np.maximum(end, start + 1)
    line = np.zeros(len(start), np.int32)
    if not (start[1:] < end[:-1]).any():
        return line
    busy: list[tuple[int, int]] = []  # (until, line)
    free: list[int] = []
    lines = 0
    for i, (s, e) in enumerate(zip(start.tolist(), end.tolist(), strict=True)):
        while busy and busy[0][0] <= s:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if free:
            at = heapq.heappop(free)
        else:
            at, lines = lines, lines + 1
        line[i] = at
        heapq.heappush(busy, (e, at))
    return line
