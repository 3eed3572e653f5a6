"""Events by name."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .details import Frame, place
from .lanes import RankLanes

#: Bars of the histogram that shows where matches are.
BINS = 400


class Hits(NamedTuple):
    """Events of a rank with matching names: int64 rows of `Slices`, ascending."""

    book: RankLanes
    rows: np.ndarray


def find(book: RankLanes, wanted: str) -> Hits:
    """Events whose name has the text in it, in any case."""
    text = wanted.casefold()
    trace = book.seen.trace
    names = [i for i, name in enumerate(trace.strings) if text in name.casefold()]
    hit = np.zeros(len(trace.strings) + 1, bool)
    hit[names] = True
    return Hits(book, np.flatnonzero(hit[trace.slices.name] & (book.lane >= 0)))


def told(hits: list[Hits], after: int, forward: bool, frame: Frame) -> dict[str, Any]:
    """How many there are, where they are, and the one next to an instant.

    Parameters
    ----------
    hits : list of Hits
        One a rank.
    after : int
        ns on the frame's axis; the next match begins later (or earlier).
    forward : bool
        Later, else earlier. Behind the last comes the first.
    frame : Frame
    """
    found = [(h, h.book.seen.trace.slices.ts_ns[h.rows] + frame.shift(h.book.rank)) for h in hits]
    start = np.concatenate([s for _, s in found]) if found else np.empty(0, np.int64)
    if not len(start):
        return {"n": 0, "bins": [], "next": None}
    which = np.repeat(np.arange(len(found)), [len(s) for _, s in found])
    order = np.lexsort((which, start))
    ascending = start[order]
    if forward:
        at = int(np.searchsorted(ascending, after, "right"))
    else:
        at = int(np.searchsorted(ascending, after, "left")) - 1
    at %= len(order)
    of = int(which[order[at]])
    row = int(hits[of].rows[order[at] - int(np.flatnonzero(which == of)[0])])
    low, high = extent([h.book for h in hits], frame)
    bins, _ = np.histogram(start, BINS, (low, max(high, low + 1)))
    return {
        "n": len(start),
        "at": at + 1,
        "bins": bins.tolist(),
        "span": [low, high],
        "next": place(hits[of].book, row, frame),
    }


def extent(books: list[RankLanes], frame: Frame) -> tuple[int, int]:
    """From the first start to the last end of all ranks, on the frame's axis."""
    return (
        min(b.start_ns + frame.shift(b.rank) for b in books),
        max(b.end_ns + frame.shift(b.rank) for b in books),
    )
