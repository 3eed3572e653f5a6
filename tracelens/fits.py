"""Latency and bandwidth of communication: lines through the transfer times of matched messages.

A transfer of S bytes takes alpha + S / B. Both are fitted for each kind, process group and kernel
where the recorded sizes tell them apart; else they stay unknown, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tracelens.classify import Op
from tracelens.collectives import CommTable, bus_factor
from tracelens.matching import Matches
from tracelens.thresholds import (
    FIT_ALONE_SHARE,
    FIT_RESIDUAL,
    FIT_SAME_SIZE,
    FIT_SIZES,
    FIT_SPAN,
)
from tracelens.trace import Floats

#: Algorithm and protocol in the names of NCCL's kernels. Since 2.19 one kernel carries out all of
#: them and its name has the one that it was compiled around (src/device/generate.py).
_ALGORITHM = re.compile(
    r"_((?:RING|TREE|COLLNET_?\w*?|NVLS_?\w*?|PAT)_(?:LL128|LL|SIMPLE))(?=[_(]|$)"
)


@dataclass(frozen=True, slots=True)
class Fit:
    """Transfers of one kind in one process group by one kernel: what they take by their size.

    Attributes
    ----------
    kind : str
    group : str or None
    group_size : int or None
    algorithm : str or None
        As the kernel's name has it (``RING_LL``); None where it has none.
    count : int
        Matched messages.
    alone : bool
        Only those with no compute beside them were fitted; else all.
    sizes : int
        Sizes among them that differ by more than a tenth.
    min_bytes, max_bytes : int
    algbw_gbps, busbw_gbps : float
        Bandwidth of the largest messages as measured, GB/s (1e9 bytes; nccl-tests,
        doc/PERFORMANCE.md).
    latency_us, bandwidth_gbps, bus_bandwidth_gbps : float or None
        alpha, and B as algorithm and as bus bandwidth; None where the fit fails.
    residual_pct : float or None
        Root mean square of the relative distances from the line.
    reason : str or None
        Why there is no line.
    """

    kind: str
    group: str | None
    group_size: int | None
    algorithm: str | None
    count: int
    alone: bool
    sizes: int
    min_bytes: int
    max_bytes: int
    algbw_gbps: float
    busbw_gbps: float | None
    latency_us: float | None = None
    bandwidth_gbps: float | None = None
    bus_bandwidth_gbps: float | None = None
    residual_pct: float | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class _Points:
    """Transfers of one key: bytes and ns, and whether compute ran beside them."""

    size: Floats
    transfer: Floats
    alone: NDArray[np.bool_]


def fit_transfers(tables: Sequence[CommTable], matches: Matches) -> tuple[Fit, ...]:
    """Fit the transfers of a run, most messages first.

    Parameters
    ----------
    tables : sequence of CommTable
        One a rank, in the order of `matches`.
    matches : Matches
    """
    found = _points(tables, matches)
    fits = [_fit(*key, points) for key, points in found.items()]
    return tuple(sorted(fits, key=lambda f: (-f.count, f.kind, f.algorithm or "")))


_Key = tuple[str, "str | None", "int | None", "str | None"]


def _points(tables: Sequence[CommTable], matches: Matches) -> dict[_Key, _Points]:
    """Each matched collective and message once, by kind, group and kernel."""
    parts: dict[_Key, list[_Points]] = {}
    seen = np.zeros(0, np.int64)
    single = [np.bincount(t.messages.row, minlength=len(t)) == 1 for t in tables]
    for i, t in enumerate(tables):
        number, wait = matches.number[i], matches.wait_ns[i]
        fresh = (number >= 0) & ~np.isin(number, seen)
        seen = np.concatenate((seen, number[fresh]))
        sent = np.zeros(len(t), bool)
        for a, row, b, other in matches.messages.tolist():
            if a == i:
                sent[row] |= single[a][row] and single[b][other]
        on = np.flatnonzero((fresh | sent) & (wait >= 0) & (t.bytes > 0) & (t.dur_ns > wait))
        # uneven exchanges have another size on every rank
        on = on[(t.kind[on] != Op.ALL_TO_ALL) | (t.in_nelems[on] == t.out_nelems[on])]
        for key, rows in _by_key(t, on).items():
            transfer = (t.dur_ns - wait)[rows].astype(float)
            alone = t.exposed_ns[rows] >= FIT_ALONE_SHARE * t.dur_ns[rows]
            parts.setdefault(key, []).append(_Points(t.bytes[rows].astype(float), transfer, alone))
    return {
        key: _Points(*(np.concatenate([getattr(p, f) for p in ps]) for f in _Points.__slots__))
        for key, ps in parts.items()
    }


def _by_key(table: CommTable, rows: NDArray[np.int64]) -> dict[_Key, NDArray[np.int64]]:
    columns = (table.kind, table.group, table.kernel)
    codes = np.stack([c[rows].astype(np.int64) for c in columns], axis=1)
    result: dict[_Key, list[NDArray[np.int64]]] = {}
    for kind, group, kernel in np.unique(codes, axis=0).tolist():
        told = _ALGORITHM.search(table.kernels[kernel])
        g = table.groups[group] if group >= 0 else None
        key = (
            Op(kind).label,
            g.label if g else None,
            g.size if g and g.size > 0 else None,
            told.group(1) if told else None,
        )
        result.setdefault(key, []).append(rows[(codes == (kind, group, kernel)).all(axis=1)])
    return {key: np.concatenate(parts) for key, parts in result.items()}


def _fit(
    kind: str, group: str | None, n: int | None, algorithm: str | None, points: _Points
) -> Fit:
    """The line of one key; those with compute beside them only count where the rest cannot tell."""
    size, transfer = _by_size(points.size[points.alone], points.transfer[points.alone])
    alone = _why_not(size) is None
    if not alone:
        size, transfer = _by_size(points.size, points.transfer)
    algbw = float(size[-1] / transfer[-1])
    factor = bus_factor(kind, n)
    measured = Fit(
        kind, group, n, algorithm, len(points.size), alone, len(size),
        int(size[0]), int(size[-1]), algbw, algbw * factor if factor else None,
    )  # fmt: skip
    reason = _why_not(size)
    if reason is not None:
        return replace(measured, reason=reason)
    latency, slope, residual = _line(size, transfer)
    if slope <= 0 or residual > FIT_RESIDUAL:
        reason = f"the transfers lie {100 * residual:.0f}% off any line"
        return replace(measured, reason=reason)
    return replace(
        measured,
        latency_us=None if latency is None else latency / 1000,
        bandwidth_gbps=1 / slope,
        bus_bandwidth_gbps=factor / slope if factor else None,
        residual_pct=100 * residual,
    )


def _by_size(size: Floats, transfer: Floats) -> tuple[Floats, Floats]:
    """Median size and transfer of messages of about one size, ascending."""
    order = np.argsort(size, kind="stable")
    size, transfer = size[order], transfer[order]
    cuts, last = [], 0.0
    for i, s in enumerate(size.tolist()):
        if s > FIT_SAME_SIZE * last:
            cuts.append(i)
            last = s
    return (
        np.array([np.median(part) for part in np.split(size, cuts[1:]) if len(part)]),
        np.array([np.median(part) for part in np.split(transfer, cuts[1:]) if len(part)]),
    )


def _why_not(size: Floats) -> str | None:
    """Why these sizes do not make a line; None if they do."""
    if len(size) < FIT_SIZES:
        return f"sizes that differ: {len(size)}; a line takes {FIT_SIZES}"
    if size[-1] < FIT_SPAN * size[0]:
        return f"the largest message is only {size[-1] / size[0]:.1f} times the smallest"
    return None


def _line(size: Floats, transfer: Floats) -> tuple[float | None, float, float]:
    """Latency in ns, slope in ns a byte and relative residual, by least relative squares.

    Relative, so that small messages say what a message costs and large ones what a byte does.
    The latency is None where the best line has none above 0.
    """
    weight = 1 / transfer
    columns = np.stack([weight, size * weight], axis=1)
    (alpha, slope), *_ = np.linalg.lstsq(columns, np.ones(len(size)), rcond=None)
    if alpha <= 0:
        x = size * weight
        alpha, slope = 0.0, float(x.sum() / (x * x).sum())
    off = (alpha + slope * size) * weight - 1
    residual = float(np.sqrt(np.mean(off * off)))
    return float(alpha) if alpha > 0 else None, float(slope), residual
