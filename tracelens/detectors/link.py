"""The link that large collectives cross, held against what the GPU's NVLink carries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tracelens.bounds import nvlink_gbps
from tracelens.classify import Op
from tracelens.collectives import CommTable, bus_factor
from tracelens.thresholds import LARGE_MESSAGE_BYTES, NVLINK_REACHED, SLOW_LINK_SHARE
from tracelens.trace import Int64s

#: Collectives of which every byte crosses a link; all-to-alls may keep most of theirs.
_KINDS = (Op.ALL_REDUCE, Op.ALL_GATHER, Op.REDUCE_SCATTER)


@dataclass(frozen=True, slots=True)
class Link:
    """Bus bandwidth of large messages, GB/s, what NVLink would give, and whether it is slow."""

    reached: float
    expected: float
    slow: bool

    @property
    def excess(self) -> float:
        """Share of transfer time that a link as fast as expected would not take."""
        return 1 - self.reached / self.expected if self.slow else 0.0


def find_link(
    tables: Sequence[CommTable], waits: Sequence[Int64s], device: str | None
) -> Link | None:
    """The link by its large collectives; None if they or the GPU's NVLink speed are unknown.

    Parameters
    ----------
    tables : sequence of CommTable
        One a rank.
    waits : sequence of int64 (m,)
        Waiting of each row, ns; -1 where it is unknown.
    device : str or None
        The GPU's name.
    """
    speed = nvlink_gbps(device)
    busbw: list[float] = []
    for c, wait in zip(tables, waits, strict=True):
        large = (c.bytes >= LARGE_MESSAGE_BYTES) & (wait >= 0) & (c.group >= 0)
        for kind in _KINDS:
            factors = [bus_factor(kind.label, g.size if g.size > 0 else None) for g in c.groups]
            for group, factor in enumerate(factors):
                on = large & (c.kind == kind) & (c.group == group)
                if factor and on.any():
                    transfer = np.maximum((c.dur_ns - wait)[on], 1)
                    busbw += (factor * c.bytes[on] / transfer).tolist()
    if speed is None or not busbw:
        return None
    reached = float(np.median(busbw))
    return Link(reached, NVLINK_REACHED * speed, reached < SLOW_LINK_SHARE * speed)
