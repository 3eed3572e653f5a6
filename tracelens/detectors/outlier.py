"""A step that is much longer than the others, and what it did that they did not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tracelens.detectors import proof
from tracelens.detectors.context import Charge, Context, PerRank, RankView, charge
from tracelens.host import Cause
from tracelens.thresholds import EXTRA_WORK_SHARE, ONE_RANK_SHARE, OUTLIER_SHARE
from tracelens.trace import Int64s
from tracelens.units import format_ns

_COMPILES = re.compile(r"dynamo|inductor|CompiledFxGraph|compile_fx|triton.*compil", re.IGNORECASE)

_REMEDY = {
    "compilation": "recompilation: shapes that change compile again (torch.compile(dynamic=True), "
    "mark_dynamic, padding to a few lengths); warm up every shape before training",
    "allocation": "memory is allocated anew: a longer batch than ever before (warm up with the "
    "longest), fragmentation (PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True)",
    "compute": "more compute in one step is a longer batch: pad or bucket by length",
    "loader": "the data loader was late: more workers, a larger prefetch_factor, shards that are "
    "opened ahead",
    "host": "more idle time is the host's: evaluation, logging, a checkpoint; do it every n-th "
    "step, asynchronously, and on all ranks at the same time",
}

#: Causes of idle time that detectors before this one charge.
_CHARGED = (Cause.CPU_OPTIMIZER, Cause.LOADER, Cause.ALLOCATOR, Cause.PAUSE, Cause.SYNC)


@dataclass(frozen=True, slots=True)
class _Outlier:
    """A long step: rows of the steps that all ranks have, its place among them, and growth in ns.

    `growth`: how much longer than in its median step each rank is busy or idle, waiting for others
    left out, in this step or the one before (`where`): a rank that is late with a step's first work
    has that in the window before, and makes the others wait in this one.
    """

    rows: list[Int64s]
    at: int
    wall: float
    median: float
    growth: PerRank
    where: list[int]

    @property
    def excess(self) -> float:
        return self.wall - self.median


def slow_step_outlier(context: Context) -> Iterator[Charge]:
    """Is one step much longer than the others, without a pause or a save that explains it?

    Cost: what each rank does longer in it than in its median step, spread over all steps; without
    its compute where the step has larger matrix products, for a longer batch is no loss, and
    without what its loading, allocating and the like are charged for already. The
    evidence has the part that grew, the rank that was late alone, and the host's events that other
    steps do not have.
    """
    found = _find(context)
    if found is None:
        return
    numbers = context.views[0].steps.number[found.rows[0]].tolist()
    number = numbers[found.at]
    alone = _late_alone(found)
    parts = _growth_of_parts(context, found, alone)
    most = max(parts, key=lambda p: parts[p])
    ranks = tuple(v.rank for v in context.views)
    whose = "" if alone is None else f": rank {ranks[alone]} is late"
    n = len(found.rows[0])
    larger = _more_work(context, found)
    lost = np.maximum(found.growth - larger - _of_profiler(context, found), 0.0) / n
    lost = np.maximum(
        lost - np.minimum(_growth_of(context, found, _CHARGED) / n, context.charged), 0.0
    )
    whose += ": a longer batch" if larger.any() and most == "compute" else ""
    names = _only_there(context, found, alone)
    seen = {number} if alone is None else {number, numbers[found.where[alone]]}
    yield charge(
        context,
        "slow_step_outlier",
        f"Step {number} takes {format_ns(found.excess)} longer than the median step{whose}",
        lost,
        of_launch=_growth_of(context, found, (Cause.LAUNCH,)) / n,
        ranks=ranks if alone is None else (ranks[alone],),
        steps=tuple(sorted(seen)),
        evidence=(
            f"{format_ns(found.wall)} against {format_ns(found.median)}, mean of ranks; most of "
            f"it is {most.replace('_', ' ')} (+{format_ns(parts[most])})",
            *(() if alone is None else (_alone_text(context, found, alone),)),
            *names,
        ),
        remedy=_REMEDY[_kind(most, names)],
        proof=proof.of_steps(context, number),
    )


def _find(context: Context) -> _Outlier | None:
    rows = _common_steps(context)
    if len(rows[0]) < 3:
        return None
    pairs = list(zip(context.views, rows, strict=True))
    walls = np.mean([v.breakdown.wall[r] for v, r in pairs], axis=0)
    at, median = int(walls.argmax()), float(np.median(walls))
    if walls[at] - median < OUTLIER_SHARE * median:
        return None
    pauses = context.per_rank(
        [v.host.idle_ns[:, Cause.PAUSE] + v.host.save_ns for v in context.views]
    ).max() * len(walls)
    if pauses > 0.5 * (walls[at] - median):
        return None
    before = max(at - 1, 0)
    own = [_own(v)[r] for v, r in pairs]
    where = [at if _excess(x, at) >= _excess(x, before) else before for x in own]
    growth = np.array([_excess(x, k) for x, k in zip(own, where, strict=True)])
    return _Outlier(rows, at, float(walls[at]), median, growth, where)


def _growth_of_parts(context: Context, found: _Outlier, alone: int | None) -> dict[str, float]:
    """Growth of what a step is made of: of the rank that is late alone, else of all, mean."""
    which = range(len(context.views)) if alone is None else [alone]
    return {
        name: float(np.mean([_excess(of[i][found.rows[i]], found.where[i]) for i in which]))
        for name, of in _parts(context).items()
    }


def _growth_of(context: Context, found: _Outlier, causes: Sequence[Cause]) -> PerRank:
    """Growth of some causes of each rank's idle time, ns."""
    growth = np.zeros(len(context.views))
    for i, (view, rows) in enumerate(zip(context.views, found.rows, strict=True)):
        for cause in causes:
            more = max(_excess(view.host.idle_ns[rows, cause], found.where[i]), 0.0)
            growth[i] += more * context.kept(cause)
    return growth


def _of_profiler(context: Context, found: _Outlier) -> PerRank:
    """What of the growth of each rank's idle time is the profiler's doing, ns."""
    recorded = _growth_of(replace(context, profiler=None), found, tuple(Cause))
    return recorded - _growth_of(context, found, tuple(Cause))


def _parts(context: Context) -> dict[str, list[Int64s]]:
    """What a step is made of, (k,) of each rank."""
    views = context.views
    parts = {
        p: [getattr(v.breakdown, p) for v in views]
        for p in ("compute", "exposed_comm", "exposed_copy")
    }
    for cause in Cause:
        name = "idle for " + {"LAUNCH": "launching"}.get(cause.name, cause.name.lower())
        parts[name.replace("_", " ")] = [v.host.idle_ns[:, cause] for v in views]
    return parts


def _own(view: RankView) -> Int64s:
    """Each step less its waiting for others, where that is known."""
    return view.breakdown.wall - np.maximum(view.exposed_wait_ns, 0)


def _more_work(context: Context, found: _Outlier) -> PerRank:
    """Growth of compute on ranks whose matrix products are larger in that step, ns; else 0."""
    more = np.zeros(len(context.views))
    for i, (view, rows) in enumerate(zip(context.views, found.rows, strict=True)):
        sizes = view.host.operand_nelems[rows]
        if _excess(sizes, found.at) > EXTRA_WORK_SHARE * float(np.median(sizes)):
            more[i] = max(_excess(view.breakdown.compute[rows], found.at), 0.0)
    return more


def _late_alone(found: _Outlier) -> int | None:
    """The one rank whose own time grew while the others' did not; None if there is none."""
    if len(found.growth) < 2:
        return None
    order = np.argsort(-found.growth)
    first, second = found.growth[order[:2]]
    much = first >= (1 - ONE_RANK_SHARE) * found.excess
    return int(order[0]) if much and second <= ONE_RANK_SHARE * found.excess else None


def _alone_text(context: Context, found: _Outlier, alone: int) -> str:
    others = np.delete(found.growth, alone)
    return (
        f"rank {context.views[alone].rank} is busy or idle {format_ns(float(found.growth[alone]))} "
        f"longer than in its median step, the others up to {format_ns(max(float(others.max()), 0))}"
    )


def _only_there(context: Context, found: _Outlier, alone: int | None) -> tuple[str, ...]:
    """Host events of the step that the others do not have, or not as often."""
    which = range(len(context.views)) if alone is None else [alone]
    new: dict[str, float] = {}
    more: dict[str, tuple[float, float]] = {}
    for i in which:
        view, rows = context.views[i], found.rows[i]
        for p in view.host.peculiar:
            at = found.where[i]
            here = int(p.count[rows[at]])
            others = np.delete(p.count[rows], at)
            if _excess(p.spent_ns[rows], at) <= 0 or here <= others.max():
                continue
            if others.max() == 0:
                new.setdefault(p.name, here)
            else:
                more.setdefault(p.name, (here, float(np.median(others))))
    texts = []
    if new:
        shown = [f"{n} ({c:g})" for n, c in [*new.items()][:4]]
        texts.append("only in this step: " + ", ".join(shown))
    if more:
        shown = [f"{n} ({a:g}, else {b:g})" for n, (a, b) in [*more.items()][:4]]
        texts.append("more often in this step: " + ", ".join(shown))
    return tuple(texts)


def _kind(most: str, names: tuple[str, ...]) -> str:
    """Which remedy fits."""
    if any(_COMPILES.search(n) for n in names):
        return "compilation"
    if most == "compute":
        return "compute"
    if most == "idle for allocator":
        return "allocation"
    return "loader" if most == "idle for loader" else "host"


def _common_steps(context: Context) -> list[Int64s]:
    """Rows of the whole steps that every rank has, by number; none where numbers repeat."""
    numbers = [v.steps.number[v.whole] for v in context.views]
    shared = set.intersection(*(set(n.tolist()) for n in numbers))
    if any(len(set(n.tolist())) < len(n) for n in numbers):
        shared = set()
    return [
        np.flatnonzero(v.whole & np.isin(v.steps.number, sorted(shared))) for v in context.views
    ]


def _excess(values: Int64s, at: int) -> float:
    return float(values[at] - np.median(values))
