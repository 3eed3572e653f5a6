"""How much kernels and communication slow each other, measured on the recording itself.

Layers repeat: the same kernel runs with communication beside it and without. What it lasts longer
with it is the slowdown (whatever its cause: SMs, memory bandwidth, power). Products and attention,
which fill the multiprocessors, are slowed more than others: the two are measured apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tracelens.intervals import clip_lengths, union
from tracelens.replay.program import Program
from tracelens.thresholds.replay import (
    ALONE_SHARE,
    BESIDE_SHARE,
    LATE_ADMISSION,
    LONG_KERNEL_NS,
    MAX_PRODUCT_SLOWDOWN,
    MAX_SLOWDOWN,
    MIN_COMPARED,
    MIN_CONTENDED,
    OTHERS_SLOWED,
    PRIOR_ADMISSION,
    PRIOR_PRODUCT_SLOWDOWN,
)
from tracelens.trace import Bools, Floats, Int64s


@dataclass(frozen=True, slots=True)
class Slowdown:
    """How much longer kernels take beside communication, >= 1.

    `products` of matrix products and attention, `others` of all other kernels. `measured`: whether
    products were; `kernels` is how many were compared.
    """

    products: float
    others: float
    measured: bool
    kernels: int

    def of(self, program: Program) -> Floats:
        """The factor of each row; float64 (m,)."""
        kinds = np.where(program.fills, self.products, self.others)
        return np.where(program.compute, kinds, 1.0)


@dataclass(frozen=True, slots=True)
class Kernels:
    """What a rank's rows are, for telling the same kernel again; (m,) each.

    `code` int64: of a kernel's name, and of its operands' sizes where those were recorded
    (`sized`, bool); -1 none.
    """

    code: Int64s
    sized: Bools


def beside(program: Program, start_ns: Int64s, end_ns: Int64s) -> Int64s:
    """For how long of each row's time communication ran on the GPU, ns; int64 (m,)."""
    comm = program.comm
    return clip_lengths(union(start_ns[comm], end_ns[comm]), start_ns, end_ns)


def measure(
    programs: Sequence[Program],
    kernels: Sequence[Kernels],
    times: Sequence[tuple[Int64s, Int64s]],
) -> Slowdown:
    """The slowdown of kernels, from all ranks.

    A product is told by its name and its operands' sizes (kernels that stay on the GPU have one
    name and grid for all sizes); any other kernel, or a product without sizes, by its name and its
    neighbours' on the stream: its place in the layer.

    Parameters
    ----------
    programs : sequence of Program
    kernels : sequence of Kernels
        Codes are the rank's own.
    times : sequence of (start, end), int64 (m,) each
        As recorded, ns.
    """
    parts = [_compared(p, k, t) for p, k, t in zip(programs, kernels, times, strict=True)]
    if not parts:
        parts = [np.empty((4, 0))]
    found = np.concatenate(parts, axis=1)
    fills = found[3] > 0
    products = _factor(found[:3, fills], MAX_PRODUCT_SLOWDOWN)
    others = _factor(found[:3, ~fills], MAX_SLOWDOWN)
    measured = products is not None
    products = products or PRIOR_PRODUCT_SLOWDOWN
    others = others or 1 + OTHERS_SLOWED * (products - 1)
    return Slowdown(products, others, measured, int((found[2] > 0).sum()))


def _compared(program: Program, kernels: Kernels, times: tuple[Int64s, Int64s]) -> Floats:
    """Kernels beside communication: length, share of it beside, length alone (-1), product or not.

    float64 (4, n).
    """
    start, end = times
    rows = np.flatnonzero(program.compute & (end > start))
    length = (end - start)[rows].astype(float)
    share = beside(program, start, end)[rows] / np.maximum(length, 1)
    code, sized = kernels.code[rows], kernels.sized[rows] & program.fills[rows]
    sides = [np.where(sized, -1, np.roll(code, k)) for k in (1, -1)]
    _, kind = np.unique(np.stack([code, *sides], axis=1), axis=0, return_inverse=True)
    alone = _medians(kind.reshape(-1), length, share <= ALONE_SHARE)
    near = share >= BESIDE_SHARE
    return np.stack([length, share, alone, program.fills[rows].astype(float)])[:, near]


def _factor(found: Floats, most: float) -> float | None:
    """The slowdown of some kernels; None where too few can be compared.

    With a share f of its length D beside communication and w alone, D (1 - f) + D f / s = w. The
    slope of 1 - w / D over f is 1 - 1 / s.
    """
    known = found[2] > 0
    d, f, w = found[:, known]
    if known.sum() < MIN_CONTENDED or d.sum() < MIN_COMPARED * found[0].sum():
        return None
    slope = float((d * f * (1 - w / d)).sum() / (d * f * f).sum())
    return 1 / (1 - min(max(slope, 0.0), 1 - 1 / most))


def _medians(kind: Int64s, length: np.ndarray, alone: np.ndarray) -> np.ndarray:
    """Median length of each row's kind over the rows that ran alone; -1 where none did."""
    order = np.lexsort((length, kind))
    order = order[alone[order]]
    kinds, first, count = np.unique(kind[order], return_index=True, return_counts=True)
    middle = length[order][first + count // 2]
    k = np.minimum(np.searchsorted(kinds, kind), max(len(kinds) - 1, 0))
    if not len(kinds):
        return np.full(len(kind), -1.0)
    return np.where(kinds[k] == kind, middle[k], -1.0)


def alone(program: Program, slowdown: Slowdown, start_ns: Int64s, end_ns: Int64s) -> Int64s:
    """Length of each row's work with nothing beside it, ns; int64 (m,)."""
    less = beside(program, start_ns, end_ns) * (1 - 1 / slowdown.of(program))
    return np.maximum(program.work_ns - less, 0).astype(np.int64)


def measure_admission(programs: Sequence[Program], times: Sequence[tuple[Int64s, Int64s]]) -> float:
    """The part of a kernel that fills the GPU after which collectives begin beside it, mean.

    A collective that becomes ready while such a kernel runs finds no free multiprocessor before the
    kernel's last blocks end: all that begin during such a kernel begin late in it.
    """
    parts: list[Floats] = []
    for p, (start, end) in zip(programs, times, strict=True):
        rows = np.flatnonzero(p.fills & (end - start >= LONG_KERNEL_NS))
        rows = rows[np.argsort(start[rows], kind="stable")]
        at = start[p.meet >= 0]
        if not len(rows) or not len(at):
            continue
        k = np.searchsorted(start[rows], at, "right") - 1
        inside = (k >= 0) & (at < end[rows[np.maximum(k, 0)]])
        first, last = start[rows[k[inside]]], end[rows[k[inside]]]
        parts.append((at[inside] - first) / (last - first))
    part = np.concatenate(parts) if parts else np.empty(0)
    if len(part) < MIN_CONTENDED:
        return PRIOR_ADMISSION
    return float(part.mean()) if np.median(part) >= LATE_ADMISSION else 0.0
