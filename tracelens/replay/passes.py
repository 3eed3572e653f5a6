"""One pass over a rank's program: the inner loop of the simulation.

What does not change from pass to pass is in a tuple a piece of work; what the pass before found
(when communication ran, when kernels began) stays in the rank's lists until it is found anew.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Generator
from typing import TypeAlias

import numpy as np

from tracelens.intervals import Spans, union
from tracelens.replay.graph import Graph
from tracelens.replay.program import Act, Program

Request: TypeAlias = tuple[int, float]
Pass: TypeAlias = Generator[Request, tuple[float, float], None]

_NEVER = math.inf
#: Kinds of items.
_SYNC, _MEET, _KERNEL, _FILLS, _COMM, _OTHER = range(6)

_Item: TypeAlias = tuple[int, int, int, float, int, int, tuple[int, ...], int]


class Windows:
    """When some of a rank's work runs; known by the order of issue.

    What is issued later than `seen` pieces is known from the pass before, and has moved since as
    much as the kernels have: `drift`.
    """

    __slots__ = ("end", "seen", "start")

    def __init__(self, count: int) -> None:
        self.start, self.end = [_NEVER] * count, [_NEVER] * count
        self.seen = 0

    def ran(self, start: float, end: float) -> None:
        """The next piece, in the order of issue."""
        self.start[self.seen], self.end[self.seen] = start, end
        self.seen += 1

    def copy(self) -> Windows:
        """The same, to be found anew."""
        made = Windows(0)
        made.start, made.end = self.start.copy(), self.end.copy()
        return made

    def admit(self, part: float, at: float, drift: float) -> float:
        """When a collective that is ready finds room beside these kernels, which fill the GPU."""
        start, end, seen = self.start, self.end, self.seen
        k = bisect_right(start, at, 0, seen) - 1
        if k >= 0 and at < end[k]:
            return max(at, start[k] + part * (end[k] - start[k]))
        k = bisect_right(start, at - drift, seen) - 1
        if k >= seen and at < end[k] + drift:
            return max(at, start[k] + part * (end[k] - start[k]) + drift)
        return at


class Rank:
    """A rank between two passes.

    Attributes
    ----------
    start, end : list of float
        Of each row that is GPU work, as the last pass left them; ns from the common beginning.
    finish : float
        When everything was done.
    waited : list of (row, float)
        Calls of the host that wait, and the host's time when it went on from them.
    """

    def __init__(self, p: Program, graph: Graph, host_ns: float, factor: float) -> None:
        self.program, self.graph = p, graph
        self.host = host_ns
        self.begin = host_ns + max(p.busy_until_ns, default=0)
        self.start, self.end = [_NEVER] * len(p), [0.0] * len(p)
        issued = p.act <= Act.MEET
        streams = p.stream[p.compute & issued]
        #: the stream of most kernels: what runs there is never beside them
        self.own = int(np.bincount(streams).argmax()) if len(streams) else -1
        self.comm = Windows(int((p.comm & issued & (p.stream != self.own)).sum()))
        self.filled = Windows(int((p.fills & (p.act == Act.LAUNCH)).sum()))
        self.kernels = np.flatnonzero(p.compute)
        self.finish = 0.0
        self.waited: list[tuple[int, float]] = []
        self._set_items(factor)

    def _set_items(self, factor: float) -> None:
        p, after = self.program, self.graph.after
        plain = (p.act == Act.LAUNCH) & ~p.compute
        kinds = [p.act == Act.SYNC, p.act == Act.MEET, plain & p.comm, plain, p.fills]
        kind = np.select(kinds, [_SYNC, _MEET, _COMM, _OTHER, _FILLS], _KERNEL)
        called = self.graph.host_ns * factor + np.where(p.act == Act.SYNC, 0, p.lag_ns)
        held = np.zeros(len(p), bool)
        held[list(after)] = True
        rows = np.flatnonzero((p.act <= Act.MEET) | held)
        columns = (rows, kind[rows], p.stream[rows], called[rows], p.pause_ns[rows],
                   p.work_ns[rows])  # fmt: skip
        deps = [after.get(i, ()) for i in rows.tolist()]
        meet = p.meet[rows].tolist()
        self._items: list[_Item] = list(
            zip(*(c.tolist() for c in columns), deps, meet, strict=True)
        )
        spent = self.graph.host_ns[-1] + p.cost_ns[-1] if len(p) else 0.0
        self._spent, self.factor = float(spent) * factor, factor

    def copy(self, factor: float) -> Rank:
        """The same rank with its host's time multiplied by a factor, for other passes."""
        made = Rank.__new__(Rank)
        made.__dict__.update(self.__dict__)
        made.start, made.end = self.start.copy(), self.end.copy()
        made.comm, made.filled = self.comm.copy(), self.filled.copy()
        if factor != self.factor:
            made._set_items(factor)
        return made

    def computing(self) -> Spans:
        """When kernels ran."""
        start, end = (np.array(c)[self.kernels].astype(np.int64) for c in (self.start, self.end))
        return union(start, end)

    def run(self, product: float, other: float, part: float) -> Pass:  # noqa: C901 - one loop, for speed
        """One pass: yields (collective, arrival) and is told (start, end).

        Parameters
        ----------
        product, other : float
            How much longer products and attention, and other kernels, take beside communication.
        part : float
            Of a kernel that fills the GPU, after which collectives begin beside it; 0: any time.
        """
        start, end, comm, filled = self.start, self.end, self.comm, self.filled
        free = [self.host + b for b in self.program.busy_until_ns]
        own, base, drift = self.own, self.host, 0.0
        comm.seen = filled.seen = 0
        first, last, total = comm.start, comm.end, len(comm.start)
        passed = [0] * len(free)  # by stream: kernels of one begin in order, those of two do not
        waited: list[tuple[int, float]] = []
        for row, kind, stream, call, pause, work, after, meet in self._items:
            at = base + call
            if kind == _SYNC:
                for k in after:
                    if end[k] > at:
                        at = end[k]
                base = at - call
                waited.append((row, at))
                continue
            ready = free[stream]
            for k in after:
                if end[k] > ready:
                    ready = end[k]
            ready += pause
            if at < ready:
                at = ready
            if kind >= _COMM:
                stop = at + work
                if kind == _COMM and stream != own:
                    comm.ran(at, stop)
            elif kind == _MEET:
                if part:
                    at = filled.admit(part, at, drift)
                _, stop = yield meet, at
                if stream != own:
                    comm.ran(at, stop)
            else:
                drift = at - start[row] if start[row] < _NEVER else 0.0
                stop = at + work
                seen, over = comm.seen, passed[stream]
                while over < total and last[over] + (drift if over >= seen else 0.0) <= at:
                    over += 1
                if over < total and first[over] + (drift if over >= seen else 0.0) < stop:
                    factor = product if kind == _FILLS else other
                    stop = _beside(comm, factor, over, drift, at, work)
                passed[stream] = min(over, seen)
                if kind == _FILLS:
                    filled.ran(at, stop)
            start[row], end[row], free[stream] = at, stop, stop
        self.waited = waited
        self.finish = max([base + self._spent, *free])


def _beside(comm: Windows, factor: float, k: int, drift: float, at: float, work: float) -> float:
    """End of a kernel that communication runs beside, from the `k`-th piece on."""
    start, end, seen = comm.start, comm.end, comm.seen
    while k < len(start):
        moved = drift if k >= seen else 0.0
        first, last = start[k] + moved, end[k] + moved
        if first >= at + work:
            break
        if first > at:  # alone until communication begins
            work -= first - at
            at = first
        inside = (last - at) / factor
        if work <= inside:
            return at + work * factor
        if inside > 0:
            work -= inside
            at = last
        k += 1
    return at + work
