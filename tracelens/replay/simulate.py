"""Run the ranks' programs: when each piece of work would start and end.

Every host issues in order, every stream works in order, a collective starts when its last rank has
arrived. Work begins at the latest of its launch, its stream, and what its stream waits for. Kernels
beside communication are slowed by a factor, and communication beside kernels by another. Where
communication runs that is issued later is known from the pass before only, so passes repeat until
the steps' length stays.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tracelens.errors import InvariantError
from tracelens.intervals import Spans, clip_lengths, empty, union
from tracelens.replay.program import ALL, Act, Program
from tracelens.trace import Int64s

#: `Played.cause` of work that its launch delayed.
HOST = -1
#: Passes at most, and the change of the steps' length, relative, at which they end.
PASSES = 12
SETTLED = 2e-4
#: A slowdown of at most 0.4 leaves 0.4 ** 5 = 1 % of the first guess' error.
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Costs:
    """What contention costs, and how long each collective's transfer takes alone.

    `transfer_ns` maps a collective to ns. `compute_slowdown` >= 1 is how much longer a kernel takes
    beside communication; `comm_slowdown` >= 0 the share of kernels' time beside a transfer that is
    added to it. `admitted`: the part of a kernel that fills the GPU after which a collective that
    became ready beside it starts; 0 where the programs' pauses have that in them.
    """

    transfer_ns: dict[int, float]
    compute_slowdown: float = 1.0
    comm_slowdown: float = 0.0
    admitted: float = 0.0


@dataclass(frozen=True, slots=True)
class Played:
    """One rank's program once it ran; ns from the common beginning, rows as the program's.

    `start`, `end` (m,): of GPU work; of other rows when the host reached and left them. `cause`
    (m,): row that the start waited for, or `HOST`.
    `finish`: when everything was done, `begin` when the steps began.
    """

    start: list[float]
    end: list[float]
    cause: list[int]
    begin: float
    finish: float

    @property
    def length_ns(self) -> float:
        """Length of the steps."""
        return self.finish - self.begin


_Request = tuple[int, float]
_Run = Generator[_Request, tuple[float, float], Played]


def simulate(
    programs: Sequence[Program], costs: Costs, settled: float = SETTLED
) -> tuple[Played, ...]:
    """Run all ranks.

    Parameters
    ----------
    programs : sequence of Program
    costs : Costs
    settled : float, optional
        Change of the steps' length, relative, at which the passes end.

    Raises
    ------
    InvariantError
        If the ranks wait for each other in a circle.
    """
    where = [_Beside(p, costs.compute_slowdown) for p in programs]
    filled = [_Filled(p, costs.admitted) for p in programs]
    busy: list[Spans] = [empty()] * len(programs)
    when: dict[int, tuple[float, float]] = {}
    zero = min(p.begin_ns for p in programs)
    before = 0.0
    for _ in range(PASSES):
        length = _lengths(costs, when, busy)
        runs = [
            _run(p, p.begin_ns - zero, w, f)
            for p, w, f in zip(programs, where, filled, strict=True)
        ]
        played, when = _meet(programs, runs, length)
        busy = [_computing(p, x) for p, x in zip(programs, played, strict=True)]
        total = sum(x.length_ns for x in played)
        if abs(total - before) <= settled * total:
            break
        before = total
    return played


def _lengths(
    costs: Costs, when: dict[int, tuple[float, float]], busy: Sequence[Spans]
) -> dict[int, float]:
    """How long each transfer takes beside the kernels of the pass before."""
    if not costs.comm_slowdown or not when:
        return costs.transfer_ns
    numbers = [n for n in costs.transfer_ns if n in when]
    start = np.array([when[n][0] for n in numbers]).astype(np.int64)
    alone = np.array([costs.transfer_ns[n] for n in numbers])
    lasts = alone
    for _ in range(ROUNDS):  # what lasts longer is beside more
        end = start + lasts.astype(np.int64)
        shared = np.mean([clip_lengths(b, start, end) for b in busy], axis=0)
        lasts = alone + costs.comm_slowdown * shared
    return {**costs.transfer_ns, **dict(zip(numbers, lasts.tolist(), strict=True))}


def _meet(
    programs: Sequence[Program], runs: Sequence[_Run], length: dict[int, float]
) -> tuple[tuple[Played, ...], dict[int, tuple[float, float]]]:
    """Let the ranks run until each has met all its others."""
    members: dict[int, int] = {}
    for p in programs:
        for n in p.meet[p.act == Act.MEET].tolist():
            members[n] = members.get(n, 0) + 1
    arrived: dict[int, list[tuple[int, float]]] = {}
    when: dict[int, tuple[float, float]] = {}
    done: list[Played | None] = [None] * len(runs)
    ready: list[tuple[int, tuple[float, float] | None]] = [(r, None) for r in range(len(runs))]
    while ready:
        rank, answer = ready.pop()
        try:
            number, at = next(runs[rank]) if answer is None else runs[rank].send(answer)
        except StopIteration as e:
            done[rank] = e.value
            continue
        here = arrived.setdefault(number, [])
        here.append((rank, at))
        if len(here) == members[number]:
            start = max(t for _, t in here)
            when[number] = start, start + length[number]
            ready += [(r, when[number]) for r, _ in here]
    played = [d for d in done if d is not None]
    if len(played) < len(runs):
        raise InvariantError("the ranks' collectives are not in one order")
    return tuple(played), when


class _Streams:
    """What a rank's streams have done: when each is free, and what it must wait for."""

    def __init__(self, p: Program, host: float) -> None:
        n = len(p.streams)
        self.free = [host + b for b in p.busy_until_ns]
        self.last = [-1] * n  # row of the latest work
        self.held, self.holder = [0.0] * n, [-1] * n
        self._at = dict.fromkeys(p.until[p.until >= 0].tolist(), -1)

    def did(self, stream: int, row: int, uid: int, end: float) -> None:
        """A stream has been given work that ends then."""
        self.free[stream], self.last[stream] = end, row
        if uid in self._at:
            self._at[uid] = row

    def ready(self, stream: int) -> tuple[float, int]:
        """When the next work of a stream may begin, and the row that it waits for."""
        if self.held[stream] > self.free[stream]:
            return self.held[stream], self.holder[stream]
        return self.free[stream], self.last[stream]

    def meant(self, target: int, until: int) -> list[int]:
        """Rows that a wait is for."""
        if until >= 0:
            return [self._at[until]]
        if target == ALL:
            return self.last
        return [self.last[target]] if target >= 0 else []

    def hold(self, stream: int, row: int, end: float) -> None:
        """A stream waits for a row."""
        if end > self.held[stream]:
            self.held[stream], self.holder[stream] = end, row


def _table(p: Program) -> Iterator[tuple[int, ...]]:
    columns = (p.act, p.gap_ns, p.cost_ns, p.stream, p.target, p.until, p.work_ns, p.lag_ns)
    more = (p.pause_ns, p.compute, p.comm, p.fills, p.meet, p.uid)
    return zip(*(c.tolist() for c in (*columns, *more)), strict=True)


def _run(p: Program, host: float, beside: _Beside, filled: _Filled) -> _Run:
    """One rank's pass: yields (collective, arrival) and is told (start, end)."""
    begin = host + max(p.busy_until_ns, default=0)
    streams = _Streams(p, host)
    starts, ends, causes = [0.0] * len(p), [0.0] * len(p), [-1] * len(p)
    beside.rewind()
    filled.rewind()
    for i, row in enumerate(_table(p)):
        act, gap, cost, stream, target, until, work, lag, pause, compute, comm = row[:11]
        fills, meet, uid = row[11:]
        host += gap
        if act > Act.MEET:
            starts[i] = host
            for k in streams.meant(target, until):
                if k < 0:
                    continue
                if act == Act.WAIT:
                    streams.hold(stream, k, ends[k])
                elif ends[k] > host:
                    host, causes[i] = ends[k], k
            host += cost
            ends[i] = host
            continue
        ready, causes[i] = streams.ready(stream)
        ready += pause
        if host + lag >= ready:
            ready, causes[i] = host + lag, HOST
        if act == Act.MEET:
            ready = filled.admit(ready, beside.drift)
            _, end = yield meet, ready
        elif compute:
            end = beside.end(ready, work)
            if fills:
                filled.ran(ready, end)
        else:
            end = ready + work
        if comm:
            beside.ran(ready, end, stream)
        starts[i], ends[i] = ready, end
        streams.did(stream, i, uid, end)
        host += cost
    return Played(starts, ends, causes, begin, max([host, *ends, *streams.free]))


class _Filled:
    """When kernels that take all of a rank's GPU run; known by the order of issue, as `_Beside`."""

    def __init__(self, program: Program, part: float) -> None:
        n = int((program.fills & (program.act == Act.LAUNCH)).sum()) if part else 0
        self._start, self._end = [math.inf] * n, [math.inf] * n
        self._part, self._seen = part, 0

    def rewind(self) -> None:
        """Begin another pass."""
        self._seen = 0

    def ran(self, start: float, end: float) -> None:
        """The next such kernel, in the order of issue."""
        if self._part:
            self._start[self._seen], self._end[self._seen] = start, end
            self._seen += 1

    def admit(self, at: float, drift: float) -> float:
        """When a collective that is ready then finds room; `drift` as `_Beside.drift`."""
        start, end, seen = self._start, self._end, self._seen
        k = bisect_right(start, at, 0, seen) - 1
        if k >= 0 and at < end[k]:
            return max(at, start[k] + self._part * (end[k] - start[k]))
        k = bisect_right(start, at - drift, seen) - 1
        if k >= seen and at < end[k] + drift:
            return max(at, start[k] + self._part * (end[k] - start[k]) + drift)
        return at


class _Beside:
    """When a rank's communication runs, and when kernels end that go slower beside it.

    Pieces of communication are known by the order of issue. Those that are issued later are known
    from the pass before, and have moved since as much as the kernels have: `drift`. Kernels ask in
    ascending order of start. What runs on their own stream is never beside them.
    """

    def __init__(self, program: Program, factor: float) -> None:
        issued = program.act <= Act.MEET
        n = int((program.comm & issued).sum())
        self._start, self._end = [math.inf] * n, [math.inf] * n
        self._begun = [math.inf] * int((program.compute & issued).sum())
        self._factor = factor
        self._seen = self._k = self._kernel = 0
        self.drift = 0.0
        streams = program.stream[program.compute & issued]
        self.stream = int(np.bincount(streams).argmax()) if len(streams) else -1

    def rewind(self) -> None:
        """Begin another pass; what the last one found stays until it is found anew."""
        self._seen = self._k = self._kernel = 0

    def ran(self, start: float, end: float, stream: int) -> None:
        """The next piece of communication, in the order of issue."""
        if stream == self.stream:
            start = end = -math.inf
        self._start[self._seen], self._end[self._seen] = start, end
        self._seen += 1

    def end(self, at: float, work: float) -> float:
        """End of work that begins at an instant."""
        start, end, factor, seen = self._start, self._end, self._factor, self._seen
        before, self._begun[self._kernel] = self._begun[self._kernel], at
        self._kernel += 1
        self.drift = moved = at - before if before < math.inf else 0.0
        if factor == 1.0:
            return at + work
        k, n = self._k, len(start)
        while k < n and end[k] + (moved if k >= seen else 0.0) <= at:
            k += 1
        self._k = min(k, seen)
        while k < n:
            shift = moved if k >= seen else 0.0
            first, last = start[k] + shift, end[k] + shift
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


def _spans(played: Played, rows: Int64s) -> Spans:
    if not len(rows):
        return empty()
    start = np.array(played.start)[rows].astype(np.int64)
    end = np.array(played.end)[rows].astype(np.int64)
    return union(start, end)


def _computing(p: Program, played: Played) -> Spans:
    return _spans(played, np.flatnonzero(p.compute))
