"""How much kernels and communication slow each other, measured on the recording itself.

Layers repeat: the same kernel runs with communication beside it and without. What it lasts longer
with it is the slowdown (whatever its cause: SMs, memory bandwidth, power).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracelens.intervals import clip_lengths, union
from tracelens.replay.program import Program
from tracelens.thresholds.replay import (
    ALONE_SHARE,
    BESIDE_SHARE,
    LATE_ADMISSION,
    LONG_KERNEL_NS,
    MAX_SLOWDOWN,
    MIN_CONTENDED,
    PRIOR_ADMISSION,
    PRIOR_SLOWDOWN,
)
from tracelens.trace import Int64s


@dataclass(frozen=True, slots=True)
class Slowdown:
    """How much longer a kernel takes beside communication.

    `factor` >= 1; `measured` tells it from the prior; `kernels` is how many were compared.
    """

    factor: float
    measured: bool
    kernels: int


def beside(program: Program, start_ns: Int64s, end_ns: Int64s) -> Int64s:
    """For how long of each row's time communication ran on the GPU, ns; int64 (m,)."""
    comm = program.comm
    return clip_lengths(union(start_ns[comm], end_ns[comm]), start_ns, end_ns)


def measure(
    programs: Sequence[Program],
    names: Sequence[Int64s],
    times: Sequence[tuple[Int64s, Int64s]],
) -> Slowdown:
    """The slowdown of kernels, from all ranks.

    A kernel is told by its name and its neighbours' on the stream: its place in the layer. Of each
    the median length without communication is the work w; with a share f of its length D beside
    communication, D (1 - f) + D f / s = w. The slope of 1 - w / D over f is 1 - 1 / s.

    Parameters
    ----------
    programs : sequence of Program
    names : sequence of int64 (m,)
        Code of the kernel's name in each row, -1 none; codes are the rank's own.
    times : sequence of (start, end), int64 (m,) each
        As recorded, ns.
    """
    above, below, count = 0.0, 0.0, 0
    for program, name, (start, end) in zip(programs, names, times, strict=True):
        rows = np.flatnonzero(program.compute & (end > start))
        if len(rows) < 3:
            continue
        length = (end - start)[rows].astype(float)
        share = beside(program, start, end)[rows] / length
        at = name[rows]
        place = np.stack([np.roll(at, 1), at, np.roll(at, -1)], axis=1)
        _, kind = np.unique(place, axis=0, return_inverse=True)
        alone = _medians(kind.reshape(-1), length, share <= ALONE_SHARE)
        with_comm = (share >= BESIDE_SHARE) & (alone > 0)
        d, f, w = length[with_comm], share[with_comm], alone[with_comm]
        above += float((d * f * (1 - w / d)).sum())
        below += float((d * f * f).sum())
        count += int(with_comm.sum())
    if count < MIN_CONTENDED or below <= 0:
        return Slowdown(PRIOR_SLOWDOWN, False, count)
    slope = min(max(above / below, 0.0), 1 - 1 / MAX_SLOWDOWN)
    return Slowdown(1 / (1 - slope), True, count)


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


def alone(program: Program, factor: float, start_ns: Int64s, end_ns: Int64s) -> Int64s:
    """Length of each row's work with nothing beside it, ns; int64 (m,)."""
    shared = beside(program, start_ns, end_ns)
    less = np.where(program.compute, shared * (1 - 1 / factor), 0)
    return np.maximum(program.work_ns - less, 0).astype(np.int64)


def measure_admission(programs: Sequence[Program], times: Sequence[tuple[Int64s, Int64s]]) -> float:
    """The part of a kernel that fills the GPU after which collectives begin beside it, mean.

    A collective that becomes ready while such a kernel runs finds no free multiprocessor before the
    kernel's last blocks end: all that begin during such a kernel begin late in it.
    """
    parts: list[NDArray[np.float64]] = []
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
