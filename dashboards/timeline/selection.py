"""What happened in a range of time: sums by class, and by name."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracelens.intervals import clip_lengths, length, union

from .classes import CLASSES, CODE
from .lanes import Lane, RankLanes
from .wire import short

#: Names that are listed; all are counted.
MAX_NAMES = 40


def of_rank(book: RankLanes, t0: int, t1: int) -> dict[str, Any]:
    """How the GPU of a rank spent ``[t0, t1)``, in its own time; the four parts make the whole."""
    edges = np.array([t0, t1])
    busy: dict[int, int] = {}
    for lane in book.lanes:
        if lane.kind == "whole":
            busy = {c: int(ns.sum()) for c, ns in lane.rows[0].busy(edges).items()}
    compute = busy.get(CODE["compute"], 0)
    comm = busy.get(CODE["exposed communication"], 0)
    copy = busy.get(CODE["copy"], 0)
    return {
        "rank": book.rank,
        "wall": t1 - t0,
        "compute": compute,
        "exposed_comm": comm,
        "exposed_copy": copy,
        "idle": t1 - t0 - compute - comm - copy,
        "n": sum(
            int(np.subtract(*row.within(t0, t1)[::-1]))
            for lane in book.lanes
            if lane.kind == "stream"
            for row in lane.rows
        ),
    }


def of_lane(book: RankLanes, lane: Lane, t0: int, t1: int) -> dict[str, Any]:
    """What ran on one lane within ``[t0, t1)``: events, union of their time, exposed part."""
    spans, n, exposed = [], 0, 0
    for row in lane.rows:
        first, stop = row.within(t0, t1)
        n += stop - first
        start = np.maximum(row.start_ns[first:stop], t0)
        spans.append((start, np.maximum(np.minimum(row.end_ns[first:stop], t1), start)))
        exposed += int(clip_lengths(row.exposed, np.array([t0]), np.array([t1]))[0])
    start, end = (np.concatenate([s[k] for s in spans]) for k in (0, 1))
    return {
        "label": lane.label,
        "n": n,
        "busy": length(union(start, end)),
        "exposed": exposed,
    }


def names(chosen: list[tuple[RankLanes, Lane]], spans: list[tuple[int, int]]) -> dict[str, Any]:
    """What ran by name, over lanes: most time first.

    Parameters
    ----------
    chosen : list of (RankLanes, Lane)
    spans : list of (t0, t1)
        The range in the own time of each lane's rank.

    Returns
    -------
    dict
        ``names``, how many there are in all; ``rows``, the first `MAX_NAMES`: name, class, events,
        ns within the range (nested events count in their own and in their parents' time), ns of the
        longest within it.
    """
    told: dict[tuple[str, int], list[int]] = {}
    for (book, lane), (t0, t1) in zip(chosen, spans, strict=True):
        for row in lane.rows:
            first, stop = row.within(t0, t1)
            if first == stop:
                continue
            part = slice(first, stop)
            inside = np.minimum(row.end_ns[part], t1) - np.maximum(row.start_ns[part], t0)
            inside = np.maximum(inside, 0)
            code, at = np.unique(
                row.name[part].astype(np.int64) << 8 | row.cls[part], return_inverse=True
            )
            count = np.bincount(at)
            total = np.zeros(len(code), np.int64)
            np.add.at(total, at, inside)
            most = np.zeros(len(code), np.int64)
            np.maximum.at(most, at, inside)
            for c, n, t, m in zip(
                code.tolist(), count.tolist(), total.tolist(), most.tolist(), strict=True
            ):
                seen = told.setdefault((book.strings[c >> 8], c & 0xFF), [0, 0, 0])
                seen[0], seen[1], seen[2] = seen[0] + n, seen[1] + t, max(seen[2], m)
    order = sorted(told.items(), key=lambda item: (-item[1][1], item[0]))
    return {
        "names": len(order),
        "rows": [
            {"name": short(name), "class": CLASSES[c].name, "n": n, "total": t, "longest": m}
            for (name, c), (n, t, m) in order[:MAX_NAMES]
        ],
    }
