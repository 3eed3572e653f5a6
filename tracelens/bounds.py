"""What one rank's recording still says about waiting and transfer: bounds.

Without the other ranks a collective is waiting and transfer together. Its transfer takes no
longer than the shortest of its size on this rank (and what transfers of one size differ by), and no
shorter than its bytes take over the fastest link that the GPU has.
"""

from __future__ import annotations

import numpy as np

from tracelens.classify import Op
from tracelens.collectives import CommTable
from tracelens.intervals import Spans, clip_lengths
from tracelens.matching import waiting_spans
from tracelens.peaks import is_named
from tracelens.steps import Steps
from tracelens.thresholds import NVLINK_GBPS, TRANSFER_SCATTER
from tracelens.trace import Int64s

#: Kinds of which each rank sends or receives all but its own part of the message.
_SHARED = (Op.ALL_REDUCE, Op.ALL_GATHER, Op.REDUCE_SCATTER, Op.REDUCE, Op.ALL_TO_ALL)
#: Kinds whose message goes over some link of this rank as a whole.
_WHOLE = (Op.BROADCAST, Op.P2P)


def nvlink_gbps(device: str | None) -> float | None:
    """NVLink bandwidth of a GPU in one direction, GB/s; None where it is not known.

    Examples
    --------
    >>> nvlink_gbps("NVIDIA H200"), nvlink_gbps("NVIDIA L4")
    (450.0, None)
    """
    if any(is_named(device, board) for board in ("PCIe", "NVL")):
        return None
    return next((v for k, v in NVLINK_GBPS.items() if is_named(device, k)), None)


def transfer_bounds(table: CommTable, wait_ns: Int64s, device: str | None) -> tuple[Int64s, Int64s]:
    """Least and most that each row's transfer takes, ns: int64 (m,) both.

    Parameters
    ----------
    table : CommTable
    wait_ns : int64 (m,)
        Waiting of each row; where it is known both bounds are the transfer. -1 unknown.
    device : str or None
        The GPU's name.
    """
    length = table.dur_ns
    key = np.stack(
        [c.astype(np.int64) for c in (table.kind, table.group, table.kernel, table.bytes)]
    )
    _, same = np.unique(key, axis=1, return_inverse=True)
    shortest = np.full(int(same.max(initial=-1)) + 1, np.iinfo(np.int64).max // 2)
    np.minimum.at(shortest, same, length)
    usual = (shortest * (1 + TRANSFER_SCATTER)).astype(np.int64)
    most = np.where(table.bytes >= 0, np.minimum(usual[same], length), length)
    least = np.minimum(_least(table, nvlink_gbps(device)), most)
    known = wait_ns >= 0
    return np.where(known, length - wait_ns, least), np.where(known, length - wait_ns, most)


def _least(table: CommTable, link_gbps: float | None) -> Int64s:
    """What the bytes that a rank has to send or receive take over its link, ns; 0 if unknown."""
    if link_gbps is None:
        return np.zeros(len(table), np.int64)
    sizes = np.array([g.size for g in table.groups] + [-1])[table.group]
    part = np.where(sizes > 1, 1 - 1 / np.maximum(sizes, 2), 0.5)
    # of uneven exchanges a rank may keep most of its own
    part[(table.kind == Op.ALL_TO_ALL) & (table.in_nelems != table.out_nelems)] = 0.0
    part[np.isin(table.kind, _WHOLE)] = 1.0
    part[~np.isin(table.kind, (*_SHARED, *_WHOLE)) | (sizes == 1)] = 0.0
    return (part * np.maximum(table.bytes, 0) / link_gbps).astype(np.int64)


def exposed_wait_bounds(
    table: CommTable, bounds: tuple[Int64s, Int64s], compute: Spans, steps: Steps
) -> tuple[Int64s, Int64s]:
    """Least and most of each step's exposed communication that is waiting, ns: int64 (k,) both."""
    least, most = bounds
    low, high = (
        clip_lengths(waiting_spans(table, table.dur_ns - x, compute), steps.start_ns, steps.end_ns)
        for x in (most, least)
    )
    return low, np.maximum(low, high)
