"""Level of detail: what a window of a row of events looks like in so many pixels.

A row is a sequence of disjoint events in ascending order. For any window the events that are
wide enough are told one by one, and where there are others, each pixel tells how many events begin
in it, how much of it is busy, and with what most. Both come from prefix sums read at the pixels'
edges, so the cost depends on pixels and not on events, and no event is ever left out of the counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tracelens.intervals import Spans, clip_lengths, empty

from .sums import Ascending, ClassSums, Int32s, Int64s, UInt8s

Floats: TypeAlias = npt.NDArray[np.float32]

#: An event at least this wide, in pixels, is a rectangle of its own at any zoom: below it neither
#: a border nor a colour can be told from the neighbour's.
MARK_PX = 3
#: At most so many events of a row in view are looked at one by one.
FEW = 2_000
#: The class of a pixel in which nothing is busy.
NOTHING = 255


@dataclass(frozen=True, slots=True)
class Row:
    """Disjoint events in ascending order, with what is needed to tell of any window.

    Attributes
    ----------
    start_ns, end_ns : int64 (n,)
    event : int32 (n,)
        Row of the trace's `Slices`; -1 for what was derived (steps, phases, the GPU as a whole).
    name : int32 (n,)
        Index into the rank's strings.
    cls : uint8 (n,)
        Index into `classes.CLASSES`.
    exposed : Spans
        When this row's communication runs with no compute beside it.
    """

    start_ns: Int64s
    end_ns: Int64s
    event: Int32s
    name: Int32s
    cls: UInt8s
    exposed: Spans = field(default_factory=empty)
    _starts: Ascending = field(init=False, repr=False)
    _sums: ClassSums = field(init=False, repr=False)
    _longest_first: Int32s = field(init=False, repr=False)

    def __post_init__(self) -> None:
        length = self.end_ns - self.start_ns
        object.__setattr__(self, "_starts", Ascending(self.start_ns))
        object.__setattr__(self, "_sums", ClassSums.of(length, self.cls))
        order = np.argsort(-length, kind="stable").astype(np.int32)
        object.__setattr__(self, "_longest_first", order)

    def __len__(self) -> int:
        return len(self.start_ns)

    def within(self, t0: int, t1: int) -> tuple[int, int]:
        """First and past-the-last event that begins in ``[t0, t1)`` or reaches into it."""
        first = int(np.searchsorted(self.start_ns, t0, "left"))
        if first and self.end_ns[first - 1] > t0:
            first -= 1
        return first, max(first, int(np.searchsorted(self.start_ns, t1, "left")))

    def begun(self, edges: Int64s) -> Int64s:
        """How many events begin before each edge."""
        return self._starts.before(edges)

    def busy(self, edges: Int64s, before: Int64s | None = None) -> dict[int, Int64s]:
        """Busy ns of each class between neighbouring edges: int64 (len(edges) - 1,) by class.

        `before` is what `begun` gives for the edges, where that is known.
        """
        before = self.begun(edges) if before is None else before
        last = np.maximum(before - 1, 0)
        beyond = np.where(before > 0, np.maximum(self.end_ns[last] - edges, 0), 0)
        own, sums = self.cls[last], self._sums
        return {
            c: np.diff(upto - np.where(own == c, beyond, 0))
            for c, upto in zip(sums.codes, sums.before(before), strict=True)
        }

    def counts(self, edges: Int64s, before: Int64s | None = None) -> Int64s:
        """Events that begin between neighbouring edges; the first also has those begun before it
        that reach into it.
        """
        before = self.begun(edges) if before is None else before
        count = np.diff(before)
        if before[0] and self.end_ns[before[0] - 1] > edges[0]:
            count[0] += 1
        return count

    def long(self, t0: int, t1: int, at_least_ns: float) -> Int64s:
        """Events within the window that last at least so long, ascending."""
        first, stop = self.within(t0, t1)
        order = self._longest_first
        low, high = 0, len(order)
        while low < high:  # lengths descend along `order`
            middle = (low + high) // 2
            i = order[middle]
            if self.end_ns[i] - self.start_ns[i] >= at_least_ns:
                low = middle + 1
            else:
                high = middle
        if low < stop - first:
            found = order[:low]
            return np.sort(found[(found >= first) & (found < stop)]).astype(np.int64)
        length = self.end_ns[first:stop] - self.start_ns[first:stop]
        return first + np.flatnonzero(length >= at_least_ns)


@dataclass(frozen=True, slots=True)
class Drawing:
    """What a window of a row looks like.

    Attributes
    ----------
    n : int
        Events in the window.
    marks : int64 (m,)
        Those that are told one by one: indices into the row, ascending.
    x0, x1 : float32 (m,)
        Where they begin and end, pixels from the window's start, cut shortly outside of it.
    count : int64 (w,) or None
        Events by pixel (all, those in `marks` too); None where `marks` are all there are.
    cls, cover : uint8 (w,) or None
        What most of a pixel's busy time is (`NOTHING` for none), and how much of the pixel is busy,
        in 255ths, rounded up: 0 is idle and without an event.
    exposed : uint8 (w,) or None
        How much of the pixel is exposed communication; None where there is none in view.
    """

    n: int
    marks: Int64s
    x0: Floats
    x1: Floats
    count: Int64s | None
    cls: UInt8s | None
    cover: UInt8s | None
    exposed: UInt8s | None


def edges_of(t0: int, t1: int, width: int) -> Int64s:
    """Edges of `width` pixels in whole ns: int64 (width + 1,), first t0 and last t1.

    Examples
    --------
    >>> edges_of(0, 10, 4).tolist()
    [0, 2, 5, 7, 10]
    """
    whole, rest = divmod(t1 - t0, width)
    i = np.arange(width + 1, dtype=np.int64)
    return t0 + whole * i + rest * i // width


def draw(row: Row, t0: int, t1: int, width: int) -> Drawing:
    """What the window ``[t0, t1)`` of a row looks like, `width` pixels wide."""
    first, stop = row.within(t0, t1)
    edges = edges_of(t0, t1, width)
    px = (t1 - t0) / width
    alone = stop - first <= FEW and _apart(row, (first, stop), edges)
    marks = np.arange(first, stop) if alone else row.long(t0, t1, MARK_PX * px)
    x0 = np.clip((row.start_ns[marks] - t0) / px, -8, width + 8).astype(np.float32)
    x1 = np.clip((row.end_ns[marks] - t0) / px, -8, width + 8).astype(np.float32)
    exposed = _exposed(row.exposed, edges)
    if len(marks) == stop - first:
        return Drawing(stop - first, marks, x0, x1, None, None, None, exposed)
    before = row.begun(edges)
    count = row.counts(edges, before)
    cls, cover = _mixture(row, edges, before, count)
    return Drawing(stop - first, marks, x0, x1, count, cls, cover, exposed)


def _apart(row: Row, span: tuple[int, int], edges: Int64s) -> bool:
    """Whether no two events begin on one pixel, so that each can be seen."""
    pixel = np.searchsorted(edges, row.start_ns[slice(*span)], "right")
    return bool((np.diff(pixel) > 0).all())


def _mixture(row: Row, edges: Int64s, before: Int64s, count: Int64s) -> tuple[UInt8s, UInt8s]:
    """The class that most of each pixel is, and how much of it is busy."""
    busy = row.busy(edges, before)
    codes = np.array([*busy], np.uint8)
    by_class = np.stack([*busy.values()])
    total = by_class.sum(axis=0)
    cls = codes[by_class.argmax(axis=0)]
    cover = np.ceil(255 * total / np.maximum(np.diff(edges), 1)).clip(0, 255).astype(np.uint8)
    instants = (total == 0) & (count > 0)  # events without a length are seen, too
    cover[instants] = 1
    cls[instants] = row.cls[np.minimum(before[:-1][instants], len(row) - 1)]
    cls[(total == 0) & (count == 0)] = NOTHING
    return cls, cover


def _exposed(spans: Spans, edges: Int64s) -> UInt8s | None:
    """How much of each pixel the spans fill, in 255ths rounded up; None for nothing at all."""
    if not len(spans[0]):
        return None
    inside = clip_lengths(spans, edges[:-1], edges[1:])
    if not inside.any():
        return None
    return np.ceil(255 * inside / np.maximum(np.diff(edges), 1)).astype(np.uint8)
