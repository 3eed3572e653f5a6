"""Run the ranks' programs: when each piece of work would start and end.

Every host issues in order, every stream works in order, a collective starts when its last rank has
arrived. Work begins at the latest of its launch, its stream, and what its stream waits for. Kernels
beside communication are slowed by a factor, and communication beside kernels by another. Where
communication runs that is issued later is known from the pass before only, so passes repeat until
the steps' length stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tracelens.errors import InvariantError
from tracelens.intervals import clip_lengths
from tracelens.replay.graph import find_graph
from tracelens.replay.passes import Pass, Rank
from tracelens.replay.program import Act, Program
from tracelens.thresholds.replay import PASSES, ROUNDS, SETTLED
from tracelens.trace import Floats, Int64s

#: `Played.cause` of work that its launch delayed.
HOST = -1


@dataclass(frozen=True, slots=True)
class Costs:
    """What contention costs, and how long each collective's transfer takes alone.

    `transfer_ns` maps a collective to ns. `product_slowdown` and `compute_slowdown` >= 1 are how
    much longer products and attention, and all other kernels, take beside communication;
    `comm_slowdown` >= 0 the share of kernels' time beside a transfer that is added to it.
    `admitted`: the part of a kernel that fills the GPU after which a collective that
    became ready beside it starts; 0 where the programs' pauses have that in them. `host`: what all
    time of the hosts is multiplied by.
    """

    transfer_ns: dict[int, float]
    product_slowdown: float = 1.0
    compute_slowdown: float = 1.0
    comm_slowdown: float = 0.0
    admitted: float = 0.0
    host: float = 1.0


@dataclass(frozen=True, slots=True)
class Played:
    """One rank's program once it ran; ns from the common beginning, rows as the program's.

    `start`, `end` float64 (m,): of GPU work; of other rows when the host reached and left them.
    `cause` int64 (m,): row that the start waited for, or `HOST`.
    `finish`: when everything was done, `begin` when the steps began.
    """

    start: Floats
    end: Floats
    cause: Int64s
    begin: float
    finish: float

    @property
    def length_ns(self) -> float:
        """Length of the steps."""
        return self.finish - self.begin


@dataclass(frozen=True, slots=True)
class Simulation:
    """The ranks' programs as they ran.

    `ranks` and `when`, the start and end of each collective: as the last pass left them.
    `length_ns` (r,): length of each rank's steps.
    """

    programs: tuple[Program, ...]
    ranks: tuple[Rank, ...]
    when: dict[int, tuple[float, float]]
    length_ns: tuple[float, ...]

    @property
    def step_ns(self) -> float:
        """Length of a step, mean over ranks."""
        each = zip(self.programs, self.length_ns, strict=True)
        return float(np.mean([ns / p.n_steps for p, ns in each]))

    def played(self) -> tuple[Played, ...]:
        """Every rank's rows, and what each waited for."""
        return tuple(_played(p, r) for p, r in zip(self.programs, self.ranks, strict=True))

    def again(self, costs: Costs, settled: float = SETTLED) -> Simulation:
        """The same programs with other costs: what this run found is where the passes begin.

        `settled`: change of the steps' length, relative, at which they end.
        """
        ranks = tuple(r.copy(costs.host) for r in self.ranks)
        return _settle(self.programs, ranks, costs, settled, self.when)


def simulate(programs: Sequence[Program], costs: Costs) -> Simulation:
    """Run all ranks.

    Raises
    ------
    InvariantError
        If the ranks wait for each other in a circle.
    """
    zero = min(p.begin_ns for p in programs)
    ranks = tuple(Rank(p, find_graph(p), p.begin_ns - zero, costs.host) for p in programs)
    return _settle(tuple(programs), ranks, costs, SETTLED, {})


def _settle(
    programs: tuple[Program, ...],
    ranks: tuple[Rank, ...],
    costs: Costs,
    settled: float,
    when: dict[int, tuple[float, float]],
) -> Simulation:
    """Passes until the steps' length stays."""
    members: dict[int, int] = {}
    for p in programs:
        for n in p.meet[p.act == Act.MEET].tolist():
            members[n] = members.get(n, 0) + 1
    before = 0.0
    for _ in range(PASSES):
        length = _lengths(costs, when, ranks)
        runs = [
            r.run(costs.product_slowdown, costs.compute_slowdown, costs.admitted) for r in ranks
        ]
        when = _meet(runs, members, length)
        lasts = tuple(r.finish - r.begin for r in ranks)
        if abs(sum(lasts) - before) <= settled * sum(lasts):
            break
        before = sum(lasts)
    return Simulation(programs, ranks, when, lasts)


def _lengths(
    costs: Costs, when: dict[int, tuple[float, float]], ranks: Sequence[Rank]
) -> dict[int, float]:
    """How long each transfer takes beside the kernels of the pass before."""
    if not costs.comm_slowdown or not when:
        return costs.transfer_ns
    busy = [r.computing() for r in ranks]
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
    runs: Sequence[Pass], members: dict[int, int], length: dict[int, float]
) -> dict[int, tuple[float, float]]:
    """Let the ranks run until each has met all its others; start and end of each collective."""
    arrived: dict[int, list[tuple[int, float]]] = {}
    when: dict[int, tuple[float, float]] = {}
    left = len(runs)
    ready: list[tuple[int, tuple[float, float] | None]] = [(r, None) for r in range(len(runs))]
    while ready:
        rank, answer = ready.pop()
        try:
            number, at = next(runs[rank]) if answer is None else runs[rank].send(answer)
        except StopIteration:
            left -= 1
            continue
        here = arrived.setdefault(number, [])
        here.append((rank, at))
        if len(here) == members[number]:
            start = max(t for _, t in here)
            when[number] = start, start + length[number]
            ready += [(r, when[number]) for r, _ in here]
    if left:
        raise InvariantError("the ranks' collectives are not in one order")
    return when


def _played(p: Program, r: Rank) -> Played:
    """What a rank's last pass did, row by row."""
    host = r.host + r.graph.host_ns * r.factor
    rows = np.array([row for row, _ in r.waited], np.int64)
    late = np.array([at for _, at in r.waited]) - host[rows]
    k = np.searchsorted(rows, np.arange(len(p)), "left") - 1
    reached = host + (np.where(k >= 0, late[np.maximum(k, 0)], 0.0) if len(rows) else 0.0)
    issued = p.act <= Act.MEET
    left = reached.copy()
    left[rows] += np.diff(late, prepend=0.0)
    start = np.where(issued, r.start, reached)
    end = np.where(issued, r.end, left + p.cost_ns * r.factor)
    return Played(start, end, _causes(p, r, reached, end), r.begin, r.finish)


def _causes(p: Program, r: Rank, reached: Floats, end: Floats) -> Int64s:
    """The row that each row's start waited for."""
    busy = r.host + np.array(p.busy_until_ns, float)
    issued = p.act <= Act.MEET
    cause = np.where(issued, r.graph.before, HOST)
    none = busy[p.stream] if len(busy) else reached
    ready = np.where(issued, np.where(cause >= 0, end[cause], none), reached)
    for row, after in r.graph.after.items():
        for k in after:
            if end[k] > ready[row]:
                ready[row], cause[row] = end[k], k
    late = issued & (reached + p.lag_ns >= ready + p.pause_ns)
    return np.where(late, HOST, cause)
