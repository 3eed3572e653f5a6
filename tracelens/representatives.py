"""Which ranks to look at where there are many: one of each position, and those unlike their like.

Ranks that reduce their gradients together hold the same part of the model, so they have the same
work: they are one position (of the pipeline and tensor parallel grid). All of it comes from what is
kept of each rank, without its events.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tracelens.analysis import RankAnalysis
from tracelens.infer.roles import find_roles
from tracelens.thresholds import RANK_OUTLIER_PEERS, RANK_OUTLIER_SCORE, RANK_OUTLIER_SHARE
from tracelens.units import format_ns

#: What a rank may do unlike its like, and what to call it.
_MEASURES = {
    "compute": "compute",
    "idle": "idle time",
    "exposed_comm": "exposed communication",
}
#: Makes the median absolute deviation of normal numbers their standard deviation.
_NORMAL = 1.4826


@dataclass(frozen=True, slots=True)
class Representative:
    """A rank to look at, and why.

    `stands_for` are the ranks of its position, its own among them; none of an outlier.
    """

    rank: int
    stands_for: tuple[int, ...]
    why: str


def representatives(ranks: Sequence[RankAnalysis]) -> tuple[Representative, ...]:
    """Choose ranks: the middle one of each position, then outliers, the farthest first.

    The middle one has the median time of compute. An outlier is `RANK_OUTLIER_SCORE` robust
    deviations off its position's median, and `RANK_OUTLIER_SHARE` of the step, in either direction:
    who computes longest waits least. A position needs `RANK_OUTLIER_PEERS` ranks to have any.
    """
    means = {r.rank: m for r in ranks if (m := _means(r)) is not None}
    found: list[Representative] = []
    apart: list[tuple[float, Representative]] = []
    for members in positions([r for r in ranks if r.rank in means]):
        order = sorted(members, key=lambda k: (means[k]["compute"], k))
        middle = order[(len(order) - 1) // 2]
        found.append(Representative(middle, members, _place(members, len(means))))
        apart += _outliers(members, means)
    taken = {f.rank for f in found}
    odd = [o for _, o in sorted(apart, key=lambda a: (-a[0], a[1].rank)) if o.rank not in taken]
    return (*found, *odd)


def positions(ranks: Sequence[RankAnalysis]) -> list[tuple[int, ...]]:
    """Ranks by position, ascending; those of which the trace tells none are one."""
    members: dict[str, list[int]] = defaultdict(list)
    for r in ranks:
        members[_group(r)].append(r.rank)
    return sorted(tuple(sorted(m)) for m in members.values())


def _group(r: RankAnalysis) -> str:
    """The largest group over which the rank reduces gradients, by its ranks; none: empty.

    Experts are reduced over fewer ranks than the rest of the model.
    """
    c = r.facts.comm
    used = np.unique(c.group[find_roles(r.facts).reduction]).tolist()
    groups = [c.groups[g] for g in used if g >= 0]
    return max(groups, key=lambda g: (g.size, g.ranks)).ranks if groups else ""


def _means(r: RankAnalysis) -> dict[str, float] | None:
    """Mean ns a step of what ranks are compared by; None without a whole step."""
    use = r.steps.complete if r.steps.complete.any() else np.ones(len(r.steps), bool)
    if not use.any():
        return None
    return {m: float(getattr(r.breakdown, m)[use].mean()) for m in (*_MEASURES, "wall")}


def _place(members: tuple[int, ...], n: int) -> str:
    if len(members) == n:
        return "in the middle of all ranks"
    if len(members) == 1:
        return "alone in its position"
    return f"in the middle of the {len(members)} ranks that hold the same part of the model"


def _outliers(
    members: tuple[int, ...], means: dict[int, dict[str, float]]
) -> list[tuple[float, Representative]]:
    """Ranks that are unlike the others of their position, each with how far, by its worst."""
    if len(members) < RANK_OUTLIER_PEERS:
        return []
    step = float(np.median([means[k]["wall"] for k in members]))
    worst: dict[int, tuple[float, Representative]] = {}
    for measure, words in _MEASURES.items():
        values = np.array([means[k][measure] for k in members])
        off = values - np.median(values)
        spread = _NORMAL * float(np.median(np.abs(off)))
        far = np.abs(off) > np.maximum(RANK_OUTLIER_SCORE * spread, RANK_OUTLIER_SHARE * step)
        for i in np.flatnonzero(far).tolist():
            side = "more" if off[i] > 0 else "less"
            why = f"{format_ns(abs(float(off[i])))} a step {side} {words} than its like"
            if abs(off[i]) > worst.get(members[i], (0.0,))[0]:
                worst[members[i]] = (abs(float(off[i])), Representative(members[i], (), why))
    return list(worst.values())
