"""How long the same kernels of a step are, step by step: interrupted ones are longer.

A process whose time slice ends is taken off the GPU in the middle of its kernels, and the recorded
length of those spans the other process's slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tracelens.classify import Op, is_compute
from tracelens.links import GpuWork
from tracelens.steps import StepMap
from tracelens.thresholds import BESIDE_COMM_SHARE, EXTRA_WORK_SHARE, SLICE_NS
from tracelens.trace import Bools, Floats, Int64s, Trace


@dataclass(frozen=True, slots=True)
class KernelLengths:
    """Compute kernels but the optimizer's, of the stream that computes most.

    Kernels of one stream never run at once, so what several of them last longer adds up. A name
    counts that every whole step has equally often, and its n-th kernel of a step is taken for the
    same as the n-th of another step or rank.

    Attributes
    ----------
    names : tuple of str (m,)
        Ascending.
    first : int64 (m + 1,)
        Where each name's columns begin.
    length_ns : int64 (k, n)
        A row each whole step; a single row, the lower medians, where nothing started late.
    """

    names: tuple[str, ...]
    first: Int64s
    length_ns: Int64s

    def __post_init__(self) -> None:
        for column in (self.first, self.length_ns):
            column.flags.writeable = False

    def usual(self) -> Int64s:
        """Lower medians over the steps, int64 (n,)."""
        return np.asarray(np.sort(self.length_ns, axis=0)[(len(self.length_ns) - 1) // 2])

    def columns(self) -> dict[str, slice]:
        """Columns of each name."""
        edges = self.first.tolist()
        return {n: slice(a, b) for n, a, b in zip(self.names, edges, edges[1:], strict=False)}


@dataclass(frozen=True, slots=True)
class Stretch:
    """How much longer a rank's interrupted kernels are, a step.

    `ns`: in all and, by name, in `by_name`; `count`: kernels; `each_ns`: the median one;
    `by_step`: compared with the rank's own other steps, not with other ranks.
    """

    ns: float
    count: float
    each_ns: float
    by_name: dict[str, float]
    by_step: bool


def kernel_lengths(
    trace: Trace, work: GpuWork, found: StepMap, whole: Bools, *, each: bool
) -> KernelLengths:
    """Measure them. `each`: keep every step, not the medians alone."""
    on = is_compute(work.op) & (work.op != Op.OPTIMIZER) & (found.of_work >= 0)
    on &= whole[np.maximum(found.of_work, 0)]
    length = work.end_ns - work.start_ns
    track = trace.slices.track[work.row]
    if on.any():
        on &= track == np.bincount(track[on], length[on]).argmax()
    rows, k = np.flatnonzero(on), int(whole.sum())
    step = (np.cumsum(whole) - 1)[found.of_work[rows]]
    codes, name = np.unique(trace.slices.name[work.row[rows]], return_inverse=True)
    names = np.array([trace.strings[c] for c in codes.tolist()], object)
    order = np.argsort(names)
    names, name = names[order], np.argsort(order)[name]
    # (a table of all names in all steps would be large: every step may have kernels of its own)
    pairs, count = np.unique(name * k + step, return_counts=True)
    least, most = np.full(len(names), len(rows)), np.zeros(len(names), np.int64)
    np.minimum.at(least, pairs // k, count)
    np.maximum.at(most, pairs // k, count)
    same = (np.bincount(pairs // k, minlength=len(names)) == k) & (least == most)
    kept = same[name]
    rows, step, name = rows[kept], step[kept], name[kept]
    width = most[same]
    table = length[rows[np.lexsort((rows, name, step))]].reshape(k, int(width.sum()))
    first = np.concatenate(([0], np.cumsum(width))).astype(np.int64)
    kept_names = tuple(names[same].tolist())
    every = KernelLengths(kept_names, first, table)
    return every if each else KernelLengths(kept_names, first, every.usual()[None])


def stretch(own: KernelLengths, others: Sequence[KernelLengths]) -> Stretch | None:
    """Find what a rank's interrupted kernels last longer than the same kernels of other ranks.

    Or, without others, than in its own other steps: then a kernel that is interrupted in most of
    them is not seen. Interrupted is what lasts longer by a time slice or more (`SLICE_NS`) and by
    more than communication beside it explains (`BESIDE_COMM_SHARE`). None where that is not known:
    nothing to compare, or the kernels that were not interrupted are longer as well
    (`EXTRA_WORK_SHARE`): other work, or another clock.
    """
    own_at = own.columns()
    places = [o.columns() for o in others]
    names = [n for n, at in own_at.items() if all(_as_many(p, n, at) for p in places)]
    if not names or (not others and len(own.length_ns) < 2):
        return None
    mine = np.concatenate([own.length_ns[:, own_at[n]] for n in names], axis=1)
    usual = _usual([(own, own_at)] if not others else list(zip(others, places, strict=True)), names)
    longer = mine - usual
    hit = longer >= np.maximum(SLICE_NS, BESIDE_COMM_SHARE * usual)
    rest = float(np.where(hit, 0, usual).sum())
    if float(mine[~hit].sum()) > (1 + EXTRA_WORK_SHARE) * rest:
        return None
    k = len(mine)
    spent = np.where(hit, longer, 0.0).sum(axis=0) / k
    widths = [own_at[n].stop - own_at[n].start for n in names]
    sums = np.add.reduceat(spent, np.concatenate(([0], np.cumsum(widths)[:-1])))
    return Stretch(
        ns=float(spent.sum()),
        count=float(hit.sum()) / k,
        each_ns=float(np.median(longer[hit])) if hit.any() else 0.0,
        by_name=dict(zip(names, sums.tolist(), strict=True)),
        by_step=not others,
    )


def _as_many(columns: dict[str, slice], name: str, like: slice) -> bool:
    at = columns.get(name, slice(0, 0))
    return bool(at.stop - at.start == like.stop - like.start)


def _usual(of: Sequence[tuple[KernelLengths, dict[str, slice]]], names: Sequence[str]) -> Floats:
    """How long some kernels usually are: medians over ranks of their medians."""
    rows = [np.concatenate([o.usual()[at[n]] for n in names]) for o, at in of]
    return np.asarray(np.median(np.stack(rows), axis=0))
