"""What the recorded backward passes would last with other buckets: inputs of the recurrence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tracelens.detectors.context import Context, PerRank, RankView
from tracelens.detectors.exposure import sure_of
from tracelens.gradients import fill
from tracelens.host import Cause
from tracelens.intervals import clip_lengths
from tracelens.reducing import Costs, Filling, Flush, Spent, fit_reductions, host_line, spend
from tracelens.thresholds import (
    CONTENTION,
    GOOD_REDUCTIONS,
    INFO_SHARE,
    MAX_BUCKET,
    MIN_BUCKETS,
    PADDING_SHARE,
    PIECES,
)
from tracelens.trace import Floats, Int64s
from tracelens.transfer import Line


@dataclass(frozen=True, slots=True)
class Reducing:
    """How the recorded passes reduce gradients, and what a reduction costs.

    Attributes
    ----------
    groups : tuple of (Filling, flushes as recorded, index of the rank of each pass)
    line : Line
        What a reduction takes of the link.
    host_ns : float64 (ranks,)
        What it takes of each rank's host.
    steps : int64 (ranks,)
        Whole steps of each rank.
    elements : int
        Elements that a pass reduces; 0 where they were not recorded.
    exact : bool
        Whether the gradients were recorded; else their order within a bucket is made up.
    """

    groups: tuple[tuple[Filling, tuple[Flush, ...], Int64s], ...]
    line: Line
    host_ns: Floats
    steps: Int64s
    elements: int
    exact: bool

    def as_recorded(self, overlap: bool) -> Spent:
        """Time of the passes with the recorded buckets, ns a step of each rank."""
        return self._sum([(f, flushes) for f, flushes, _ in self.groups], overlap)

    def with_bucket(self, nelems: int) -> Spent:
        """The same with overlap_comm on and the buckets that the flush rule makes of a size."""
        made = []
        for f, _, _ in self.groups:
            buckets = fill(f.nelems, nelems)
            made.append((f, tuple(Flush(b.at, b.nelems) for b in buckets)))
        return self._sum(made, True)

    def _sum(self, made: Sequence[tuple[Filling, tuple[Flush, ...]]], overlap: bool) -> Spent:
        total = np.zeros((2, len(self.steps)))
        for (f, flushes), (_, _, rank) in zip(made, self.groups, strict=True):
            spent = spend(f, flushes, overlap, Costs(self.line, self.host_ns[rank]))
            for row, ns in zip(total, spent, strict=True):
                np.add.at(row, rank, ns)
        return Spent(*(total / np.maximum(self.steps, 1)))

    def at_speed(self, share: float) -> Reducing:
        """On a link on which each element takes this share of its time; latency stays."""
        line = Line(self.line.alpha_ns, self.line.beta_ns * share, self.line.spread)
        return replace(self, line=line)

    def free_host(self) -> Reducing:
        """As if buckets took no time of the host."""
        return replace(self, host_ns=self.host_ns * 0)

    @property
    def whole(self) -> int:
        """What a pass reduces, in the unit of sizes: elements, or time where they are unknown."""
        return max((sum(f.nelems) for f, _, _ in self.groups), default=0)

    @property
    def largest(self) -> int:
        """The largest recorded reduction, in that unit."""
        return max(b.nelems for _, flushes, _ in self.groups for b in flushes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Bucket sizes worth a try: 1, 2 and 5 times powers of ten; parts where unknown.

        Where gradients were not recorded they may be larger than what many buckets would hold.
        """
        if not self.elements:
            parts = (self.whole // k for k in (GOOD_REDUCTIONS, GOOD_REDUCTIONS // 2))
            return tuple(n for n in parts if n)
        tens = 10 ** np.arange(1, 10)
        steps = np.sort(np.concatenate((tens, 2 * tens, 5 * tens)))
        most = PIECES if self.exact else GOOD_REDUCTIONS
        large = steps > min(self.whole // MIN_BUCKETS, MAX_BUCKET)
        return tuple(steps[~large & (steps * most >= self.whole)].tolist())


@dataclass(frozen=True, slots=True)
class _Pass:
    """One pass of one rank: its gradients, what lies between them, and its reductions.

    `flushed` int64 (g,): reductions in each hook; `members` and `extra_ns` of each hook that
    reduces: gradients, and how much longer it takes. `taken`: of each reduction the collective's
    number, elements, transfer and what it took besides, ns.
    """

    rank: int
    nelems: tuple[int, ...]
    work_ns: Floats
    host_ns: Floats
    flushes: tuple[Flush, ...]
    flushed: Int64s
    members: Floats
    extra_ns: Floats
    taken: tuple[tuple[int, int, float, float], ...]
    exact: bool


def find_reducing(context: Context) -> Reducing | None:
    """How the run reduces; None where nothing is reduced."""
    passes = [p for i, v in enumerate(context.views) for p in _passes(i, v)]
    if not passes:
        return None
    pace = 1.0 if context.profiler is None else context.profiler.pace
    own = np.array([_host_ns(passes, i) for i in range(len(context.views))])
    groups: dict[object, list[_Pass]] = defaultdict(list)
    for p in passes:
        groups[p.nelems, p.flushes].append(p)
    sized = all((v.comm.in_nelems[v.roles.reduction] > 0).all() for v in context.views)
    return Reducing(
        groups=tuple(_group(same, own, pace) for same in groups.values()),
        line=_line(passes, _latency(context)),
        host_ns=own * pace,
        steps=np.array([int(v.whole.sum()) for v in context.views]),
        elements=max(sum(p.nelems) for p in passes) if sized else 0,
        exact=all(p.exact for p in passes),
    )


def _host_ns(passes: list[_Pass], rank: int) -> float:
    """What reducing a bucket takes of a rank's host, whatever is in it."""
    mine = [p for p in passes if p.rank == rank]
    members = np.concatenate([p.members for p in mine]) if mine else np.zeros(0)
    extra = np.concatenate([p.extra_ns for p in mine]) if mine else np.zeros(0)
    return host_line(members, extra)[0]


def _group(
    same: list[_Pass], own_ns: Floats, pace: float
) -> tuple[Filling, tuple[Flush, ...], Int64s]:
    """Passes alike, with a host that needs `pace` of its recorded time."""
    host = []
    for p in same:
        between = p.host_ns.copy()
        between[1:] = pace * np.maximum(between[1:] - own_ns[p.rank] * p.flushed[:-1], 0)
        host.append(between)
    f = Filling(same[0].nelems, np.stack([p.work_ns for p in same]), np.stack(host))
    return f, same[0].flushes, np.array([p.rank for p in same])


def _line(passes: list[_Pass], latency_ns: float) -> Line:
    """Time of a reduction by its size: the shortest over ranks, of the last one to be ready."""
    found: dict[int, tuple[int, float, float]] = {}
    for p in passes:
        for number, n, transfer, lag in p.taken:
            key = number if number >= 0 else -1 - len(found)
            _, t, besides = found.get(key, (n, transfer, lag))
            found[key] = n, min(transfer, t), float(np.fmin(lag, besides))
    sizes, times, lags = (np.array(c) for c in zip(*found.values(), strict=True))
    return fit_reductions(sizes, times, lags, latency_ns)


def _latency(context: Context) -> float:
    """What the shortest collective takes that was seen on all its ranks, ns; inf if none was."""
    known = [v.transfer_ns[0, (v.collective >= 0) & (v.comm.step >= 0)] for v in context.views]
    return float(min((int(t.min()) for t in known if len(t)), default=np.inf))


def _passes(rank: int, v: RankView) -> Iterator[_Pass]:
    c = v.comm
    on = np.flatnonzero(v.roles.reduction & (c.step >= 0) & v.whole[np.maximum(c.step, 0)])
    on = on[np.argsort(np.where(c.host_ns[on] >= 0, c.host_ns[on], c.start_ns[on]), kind="stable")]
    key = np.stack([c.step[on], c.micro[on]], axis=1)
    ends: dict[int, int] = {}
    for step, micro in np.unique(key, axis=0).tolist():
        rows = on[(c.step[on] == step) & (c.micro[on] == micro)]
        g = np.flatnonzero((v.ready.step == step) & (v.ready.micro == micro))
        sizes, sent = v.ready.nelems[g], c.in_nelems[rows]
        known = len(g) > 0 and (sizes > 0).all() and (sent > 0).all()
        if known and abs(int(sizes.sum()) - int(sent.sum())) <= PADDING_SHARE * int(sent.sum()):
            yield _of_gradients(rank, v, rows, g)
        else:
            yield _of_pieces(rank, v, rows, ends.get(step, int(v.steps.start_ns[step])))
        ends[step] = int(c.end_ns[rows].max())


def _of_gradients(rank: int, v: RankView, rows: Int64s, g: Int64s) -> _Pass:
    """A pass whose gradients were recorded."""
    c, r = v.comm, v.ready
    start, ends = r.start_ns[g], r.end_ns[g]
    at = np.searchsorted(start, c.host_ns[rows], "right") - 1
    hooked = (at >= 0) & (c.host_ns[rows] < ends[np.maximum(at, 0)])
    place = np.where(hooked, at, at + 1)
    flushed = np.bincount(at[hooked], minlength=len(g))
    until = np.searchsorted(np.cumsum(r.nelems[g]), np.cumsum(c.in_nelems[rows]))
    members = np.bincount(at[hooked], np.diff(until, prepend=0)[hooked], len(g))
    length = (ends - start).astype(float)
    inside = np.flatnonzero((flushed > 0) & (np.arange(len(g)) > 0))
    usual = v.host.hook_ns - v.host.hook_extra_ns
    host = np.diff(start, prepend=start[0]).astype(float)
    host[0] = start[0] - r.ready_ns[g[0]]
    before = np.concatenate(([0], c.end_ns[rows][:-1]))
    begin = np.maximum(np.maximum(before, c.host_ns[rows]), r.ready_ns[g[np.maximum(at, 0)]])
    arrived = c.start_ns[rows] + v.wait_ns[rows]
    lag = np.where(hooked & (v.wait_ns[rows] >= 0), (arrived - begin).astype(float), np.nan)
    return _Pass(
        rank=rank,
        nelems=tuple(r.nelems[g].tolist()),
        work_ns=r.work_ns[g] - CONTENTION * r.beside_ns[g],
        host_ns=host,
        flushes=tuple(map(Flush, place.tolist(), c.in_nelems[rows].tolist())),
        flushed=flushed,
        members=np.maximum(members[inside], 1.0),
        extra_ns=length[inside] - usual,
        taken=_taken(v, rows, c.in_nelems[rows], lag),
        exact=True,
    )


def _of_pieces(rank: int, v: RankView, rows: Int64s, begin_ns: int) -> _Pass:
    """A pass whose gradients were not: they are taken to become ready evenly between reductions.

    Where elements are not known either, the time of a reduction stands for them.
    """
    c = v.comm
    took = np.maximum(v.transfer_ns[0, rows], 1)
    size = c.in_nelems[rows] if (c.in_nelems[rows] > 0).all() else took
    count = np.maximum(np.rint(PIECES * size / size.sum()).astype(np.int64), 1)
    count = np.minimum(count, size)
    arrived = np.maximum.accumulate(c.start_ns[rows] + np.maximum(v.wait_ns[rows], 0))
    spans = v.backward if len(v.backward[0]) else v.compute
    first = int(np.searchsorted(spans[0], begin_ns, "left"))
    begin = int(spans[0][first]) if first < len(spans[0]) else begin_ns
    edges = np.maximum.accumulate(np.concatenate(([min(begin, int(arrived[0]))], arrived)))
    work = clip_lengths(spans, edges[:-1], edges[1:]).astype(float)
    sizes: list[int] = []
    for n, k in zip(size.tolist(), count.tolist(), strict=True):
        sizes += np.diff(np.arange(k + 1) * n // k).tolist()
    last = np.cumsum(count) - 1
    hooked = len(rows) if v.host.hook_ns > 0 else 0
    return _Pass(
        rank=rank,
        nelems=tuple(sizes),
        work_ns=np.repeat(work / count, count),
        host_ns=_hosts(v, rows, count, int(edges[0])),
        flushes=tuple(map(Flush, last.tolist(), size.tolist())),
        flushed=np.bincount(last, minlength=len(sizes)),
        members=np.ones(hooked),
        extra_ns=np.full(hooked, v.host.hook_extra_ns),
        taken=_taken(v, rows, size, np.full(len(rows), np.nan)),
        exact=False,
    )


def _hosts(v: RankView, rows: Int64s, count: Int64s, begin_ns: int) -> Floats:
    """Host time before each piece: even between the launches of reductions; none if unknown."""
    launch = v.comm.host_ns[rows]
    passes = v.facts.passes.start_ns
    at = int(np.searchsorted(passes, launch[0], "right")) - 1
    if (launch < 0).any() or at < 0:
        host = np.zeros(int(count.sum()))
        host[0] = -np.inf
        return host
    host = np.repeat(np.diff(launch, prepend=passes[at]) / count, count)
    host[0] += float(passes[at] - begin_ns)
    return host


def _taken(
    v: RankView, rows: Int64s, size: Int64s, lag: Floats
) -> tuple[tuple[int, int, float, float], ...]:
    transfer = v.transfer_ns[0, rows].astype(float)
    columns = v.collective[rows], size, transfer, lag
    return tuple(zip(*(c.tolist() for c in columns), strict=True))


@dataclass(frozen=True, slots=True)
class Change:
    """What another setting saves of each rank, ns a step.

    `saved`: with what a slow link is charged for gone. `of_launch`: the part of it for which the
    GPU has nothing launched. `stays`: if the link stays as it is.
    """

    saved: PerRank
    of_launch: PerRank
    stays: PerRank


def prices(context: Context, r: Reducing, overlap: bool, sizes: Sequence[int]) -> dict[int, Change]:
    """What buckets of each size save with overlap_comm, where it was as `overlap` says.

    The recurrence's difference, less what it has too much: the recording shows how much transfer
    was exposed, and for how long the GPU had nothing launched in passes.
    """
    free = r.free_host()
    without = replace(free, line=Line(0.0, 0.0, 0.0))
    idle = free.as_recorded(overlap).idle - without.as_recorded(overlap).idle
    exposed = context.exposed_transfer([v.roles.reduction for v in context.views])
    share = np.minimum(exposed / np.maximum(idle, 1.0), 1.0)
    room, sure = _launch_idle(context), sure_of(context, "reduction")

    def saved(r: Reducing) -> dict[int, tuple[PerRank, PerRank]]:
        free, found = r.free_host(), {}
        now, link_now = r.as_recorded(overlap).length, free.as_recorded(overlap).length
        for n in sizes:
            of_link = link_now - free.with_bucket(n).length
            of_host = now - r.with_bucket(n).length - of_link
            found[n] = of_link * share, np.minimum(of_host, room)
        return found

    def change(stays: tuple[PerRank, PerRank], of: tuple[PerRank, PerRank]) -> Change:
        whole = np.maximum(np.minimum(of[0], sure) + of[1], 0.0)
        return Change(whole, np.clip(of[1], 0.0, whole), stays[0] + stays[1])

    excess = context.link.excess if context.link else 0.0
    recorded = saved(r)
    at_link_speed = saved(r.at_speed(1 - excess)) if excess else recorded
    return {n: change(recorded[n], at_link_speed[n]) for n in sizes}


def best_bucket(context: Context, r: Reducing) -> int | None:
    """The size with which the slowest rank's passes end first, overlap_comm on.

    Of those that differ by less than `INFO_SHARE` of the step the smallest, which takes the least
    memory.
    """
    times = {n: float(r.with_bucket(n).length.max()) for n in r.sizes}
    least = min(times.values(), default=0.0) + INFO_SHARE * context.step_ns
    return min((n for n, t in times.items() if t <= least), default=None)


def _launch_idle(context: Context) -> PerRank:
    """Time of each rank's passes in which the GPU had nothing launched, ns a step.

    What a rank waits for others may hide that it launches late: where waiting is unknown any idle
    time for its host counts.
    """
    if context.waits is None:
        return context.idle(Cause.LAUNCH)
    return context.hosts([v.host.backward_launch_ns for v in context.views], Cause.LAUNCH)
