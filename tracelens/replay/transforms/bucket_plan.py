"""What a rank does to reduce gradients, as recorded, and the buckets that another setting makes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from tracelens.errors import CannotPredict
from tracelens.gradients import Bucket, fill
from tracelens.reducing import host_line
from tracelens.replay.model import RankModel
from tracelens.replay.program import Act, Program
from tracelens.thresholds.replay import HELD_NS, MIN_PLAIN_HOOKS, SMALL_SHARE
from tracelens.trace import Bools, Floats, Int64s

SHAPES = "record operand sizes: record_shapes=True"


@dataclass(frozen=True, slots=True)
class Setting:
    """How gradients are reduced. `bucket` in elements."""

    bucket: int
    overlap: bool


@dataclass(frozen=True, slots=True)
class Old:
    """What a rank's program does to reduce gradients now.

    `rows` bool (m,): all of it. `heads` int64: positions of the reductions. `extra_ns`: host time
    of reducing each bucket: (of a bucket, of each gradient in it). `divide`, `copy`, `own`: GPU
    time per element of dividing a bucket, of copying out the rank's part of it, and of copying a
    gradient into it (which moves as many bytes as dividing does). `starts`: lag and pause of a
    reduction, and of what divides. `spare_ns` maps a position to host time that taking the rows
    away must leave there.
    """

    rows: Bools
    heads: Int64s
    extra_ns: tuple[float, float]
    divide: float
    copy: float
    own: float
    starts: tuple[tuple[int, int], tuple[int, int]]
    spare_ns: dict[int, int]


@dataclass(frozen=True, slots=True)
class Plan:
    """The buckets of every pass that reduces: (first, behind the last gradient, buckets).

    `counts` maps a hook that reduces in the recording to the gradients that it reduces.
    """

    old: Old
    passes: tuple[tuple[int, int, tuple[Bucket, ...]], ...]
    now: Setting
    counts: dict[int, int]

    def flushing(self, m: RankModel) -> Int64s:
        """Hooks that reduce in the recording."""
        hooks = np.unique(m.program.hook[self.old.heads])
        return hooks[hooks >= 0].astype(np.int64)

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of all buckets, elements."""
        return tuple(b.nelems for *_, made in self.passes for b in made)


def make_plan(m: RankModel, now: Setting, then: Setting) -> Plan:
    g, p = m.host.gradients, m.program
    if not len(g) or (g.nelems < 0).any():
        raise CannotPredict("the gradients' sizes were not recorded", hint=SHAPES)
    heads = np.flatnonzero(np.isin(p.uid, m.reductions))
    if not len(heads):
        raise CannotPredict("no gradient was reduced in the steps that were recorded")
    if not explains(m, now):
        raise CannotPredict(
            f"the recorded buckets are not those of reduce_bucket_size {now.bucket:,}",
            hint="experts, tied or frozen parameters reduce in buckets of their own",
        )
    passes: list[tuple[int, int, tuple[Bucket, ...]]] = []
    counts: dict[int, int] = {}
    for x in _reducing(m, now):
        sizes = g.nelems[x.first : x.stop].tolist() if then.overlap else x.sizes
        made = fill(sizes, then.bucket)
        if x.behind and not then.overlap:
            made = tuple(replace(b, at=x.stop - x.first) for b in made)
        passes.append((x.first, x.stop, made))
        counts |= {x.first + b.at: len(b.members) for b in fill(x.sizes, now.bucket)}
    return Plan(_old(m, now, heads), tuple(passes), now, counts)


def explains(m: RankModel, setting: Setting) -> bool:
    """Whether the flush rule makes a rank's recorded reductions with a setting, in every pass."""
    g = m.host.gradients
    if not len(g) or (g.nelems < 0).any():
        return False
    found = [
        _same(
            x.seen,
            [b.nelems for b in fill(x.sizes, setting.bucket)],
            SMALL_SHARE if x.behind else 0.0,
        )
        for x in _reducing(m, setting)
    ]
    return bool(found) and all(found)


@dataclass(frozen=True, slots=True)
class _Pass:
    """A backward pass that reduces: its gradients in the order in which they fill buckets.

    `first`, `stop`: of its gradients; `sizes` of each and `seen` of the reductions, elements;
    `behind`: whether all of them are reduced behind the pass.
    """

    first: int
    stop: int
    sizes: list[int]
    seen: list[int]
    behind: bool


def _reducing(m: RankModel, now: Setting) -> Iterator[_Pass]:
    """The passes that reduce; micro-steps that do not are left out."""
    g, p = m.host.gradients, m.program
    heads = np.flatnonzero(np.isin(p.uid, m.reductions))
    hook_at = positions(p, m.host.uid)
    for first, stop in backward_passes(p, hook_at):
        limit = hook_at[stop] if stop < len(g) else len(p)
        mine = heads[(heads >= hook_at[first]) & (heads < limit)]
        if not len(mine):
            continue
        sizes = g.nelems[first:stop].tolist()
        behind = bool((p.hook[mine] < 0).all()) and not now.overlap
        if behind:  # stage 1 reduces its parameters in their own order, behind the pass: that of a
            # layer's small ones is not the reverse of the hooks'
            sizes = sizes[::-1]
        seen = [m.nelems[int(u)] for u in p.uid[mine].tolist()]
        yield _Pass(first, stop, sizes, seen, behind)


def positions(p: Program, uid: Int64s) -> Int64s:
    """Where rows are in the program now."""
    order = np.argsort(p.uid)
    return order[np.searchsorted(p.uid[order], uid)]


def backward_passes(p: Program, hook_at: Int64s) -> list[tuple[int, int]]:
    """First and behind-last gradient of every backward pass, by step and micro-step."""
    key = np.stack([p.step[hook_at], p.micro[hook_at]], axis=1)
    edge = np.flatnonzero((key[1:] != key[:-1]).any(axis=1)) + 1
    bounds = [0, *edge.tolist(), len(hook_at)]
    return list(pairwise(bounds))


def _same(seen: Sequence[int], ruled: Sequence[int], slack: float) -> bool:
    """Whether the recorded sizes are the rule's, where a large one may be reduced in pieces.

    allreduce_and_scatter reduces what it has once that is over the bucket's size: a parameter that
    lies in two ranks' partitions may go in two pieces. `slack` is the share of all elements that
    may lie in a neighbouring bucket.
    """
    edges, marks = np.cumsum(seen), np.cumsum(ruled)
    if edges[-1] != marks[-1]:
        return False
    k = np.minimum(np.searchsorted(edges, marks), len(edges) - 1)
    off = np.minimum(np.abs(edges[k] - marks), np.abs(edges[np.maximum(k - 1, 0)] - marks))
    return bool((off <= slack * marks[-1]).all())


def _old(m: RankModel, now: Setting, heads: Int64s) -> Old:
    p = m.program
    gone = np.zeros(len(p), bool)
    divide = copied = 0.0
    divides: list[int] = []
    launches = np.flatnonzero((p.act == Act.LAUNCH) | (p.act == Act.MEET))
    for h in heads.tolist():
        before, after = _around(m, now, launches, h)
        gone[h] = True
        gone[before] = gone[after] = True
        divides += before.tolist()
        divide += float(p.work_ns[before].sum())
        copied += float(p.work_ns[after].sum())
    total = float(sum(m.nelems[int(u)] for u in p.uid[heads].tolist()))
    flushing = np.unique(p.hook[heads])
    flushing = flushing[flushing >= 0]
    # waits issued in a hook that reduces are there for the reduction
    gone |= (p.act == Act.WAIT) & np.isin(p.hook, flushing)
    return Old(
        rows=gone,
        heads=heads,
        extra_ns=(0.0, 0.0),
        divide=divide / total,
        copy=copied / total,
        own=divide / total,
        starts=(late(p, heads), late(p, np.array(divides, np.int64))),
        spare_ns={},
    )


def late(p: Program, at: Int64s) -> tuple[int, int]:
    """Mean lag and pause of some rows, without what held single ones up, ns."""
    if not len(at):
        return 0, 0
    lag, pause = p.lag_ns[at], p.pause_ns[at]
    return int(np.minimum(lag, HELD_NS).mean()), int(np.minimum(pause, HELD_NS).mean())


def typical(p: Program) -> tuple[int, int]:
    """Median lag and pause of all work, ns."""
    launched = p.act <= Act.MEET
    return int(np.median(p.lag_ns[launched])), int(np.median(p.pause_ns[launched]))


def usual(p: Program, at: Int64s) -> tuple[int, int]:
    """Median lag and pause of some rows, ns."""
    return (int(np.median(p.lag_ns[at])), int(np.median(p.pause_ns[at]))) if len(at) else (0, 0)


def _around(m: RankModel, now: Setting, launches: Int64s, head: int) -> tuple[Int64s, Int64s]:
    """Positions of what divides the bucket before a reduction, and of what copies it after."""
    p = m.program
    stream = p.stream[head]
    k = int(np.searchsorted(launches, head))
    before, after = [], []
    if k and p.stream[launches[k - 1]] == stream and p.compute[launches[k - 1]]:
        before.append(int(launches[k - 1]))
    hook = int(p.hook[head])
    own = int(m.host.gradients.nelems[hook]) if 0 <= hook < len(m.host.gradients) else -1
    for i in launches[k + 1 :].tolist():
        mine = p.stream[i] == stream and p.hook[i] == hook
        if not mine or int(p.uid[i]) not in m.copied:
            if p.stream[i] != stream and p.hook[i] == hook:
                continue  # the compute stream's, with overlap
            break
        after.append(i)
    if not now.overlap and after and 0 < own <= now.bucket:
        after.pop()  # the hook's own gradient goes into the next bucket
    return np.array(before, np.int64), np.array(after, np.int64)


def with_host_time(plans: list[Plan], ranks: Sequence[RankModel]) -> list[Plan]:
    """The plans with the host time of a reduction: one line through all ranks' hooks."""
    sizes, times = [], []
    for plan, m in zip(plans, ranks, strict=True):
        size, time = _hook_times(plan, m)
        sizes.append(size)
        times.append(time)
    extra = host_line(np.concatenate(sizes), np.concatenate(times))
    return [
        replace(p, old=replace(p.old, extra_ns=extra, spare_ns=_spare(p, m, extra)))
        for p, m in zip(plans, ranks, strict=True)
    ]


def _hook_times(plan: Plan, m: RankModel) -> tuple[Floats, Floats]:
    """Gradients in each bucket that a hook reduced, and how much longer that hook took, ns.

    Longer than hooks without a reduction; where there are none, the time of the rows themselves. A
    pass's first hook is left out: it allocates.
    """
    g = m.host.gradients
    heads = np.array([first for first, *_ in plan.passes], np.int64)
    flushing = plan.flushing(m)
    flushing = flushing[~np.isin(flushing, heads)]
    length = (g.end_ns - g.start_ns).astype(float)
    plain = np.ones(len(g), bool)
    plain[heads] = plain[flushing] = False
    known = np.array([h for h in flushing.tolist() if h in plan.counts], np.int64)
    if plain.sum() >= MIN_PLAIN_HOOKS:
        more = length[known] - length[plain].mean()
    else:
        more = _spent(plan, m)[known]
    return np.array([plan.counts[h] for h in known.tolist()], float), more


def _spent(plan: Plan, m: RankModel) -> Floats:
    """Host time of each hook that its reduction's own rows take, ns."""
    p = m.program
    spent = (p.gap_ns + p.cost_ns) * plan.old.rows
    inside = p.hook >= 0
    weights = spent[inside].astype(np.float64)
    return np.bincount(p.hook[inside], weights, len(m.host.gradients)).astype(np.float64)


def _spare(plan: Plan, m: RankModel, extra: tuple[float, float]) -> dict[int, int]:
    """Host time that taking a hook's reduction away leaves there, ns, by position."""
    p = m.program
    in_hooks = _spent(plan, m)
    spare = {}
    for h in plan.flushing(m).tolist():
        first = int(np.flatnonzero(plan.old.rows & (p.hook == h))[0])
        spare[first] = int(max(in_hooks[h] - extra[0] - extra[1] * plan.counts.get(h, 0), 0))
    return spare
