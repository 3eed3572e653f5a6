"""Peaks of the allocator by what a step does: forward, reducing gradients, updating."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from tracelens.analysis import RankEvents
from tracelens.gradients import find_gradients
from tracelens.trace import Bools, Int64s


@dataclass(frozen=True, slots=True)
class Recorded:
    """Allocated memory of a GPU in whole steps, bytes.

    `resident_bytes`: the least, between steps. `forward_bytes`: the most before the first gradient
    of a backward pass. `reducing_bytes`: from there until the buckets are freed. `updating_bytes`:
    after the step's last reduction. `reserved_bytes`: the most that the allocator had of the GPU.
    """

    resident_bytes: int
    forward_bytes: int
    reducing_bytes: int
    updating_bytes: int
    reserved_bytes: int

    @property
    def peak_bytes(self) -> int:
        """The most that was allocated."""
        return max(self.forward_bytes, self.reducing_bytes, self.updating_bytes)

    def to_json(self) -> dict[str, int]:
        """The fields and the peak."""
        return {**asdict(self), "peak_bytes": self.peak_bytes}


def find_peaks(seen: RankEvents, device: int, buckets: Sequence[int]) -> Recorded | None:
    """The peaks of a rank; None if no memory was recorded in a whole step with a backward pass.

    Parameters
    ----------
    seen : RankEvents
    device : int
        The GPU.
    buckets : sequence of int
        Elements of the bucket buffers that hooks allocate.
    """
    m, steps, passes = seen.trace.memory, seen.found.steps, seen.phases.passes
    on = (m.device == device) & (m.allocated >= 0)
    ts, allocated, size = m.ts_ns[on], m.allocated[on], m.bytes[on]
    whole = np.zeros(len(ts), bool)
    forward, reducing = np.zeros(len(ts), bool), np.zeros(len(ts), bool)
    for i in np.flatnonzero(steps.complete).tolist():
        inside = (ts >= steps.host_start_ns[i]) & (ts < steps.host_end_ns[i])
        mine = np.flatnonzero(passes.step == i)
        since = int(steps.host_start_ns[i])
        for k in mine.tolist():
            hooks = find_gradients(seen.trace, int(passes.start_ns[k]), int(passes.end_ns[k]) + 1)
            if not len(hooks):
                continue
            first = int(hooks.start_ns[0])
            end = _freed(ts, size, first, int(passes.end_ns[k]), buckets)
            forward |= inside & (ts >= since) & (ts < first)
            reducing |= inside & (ts >= first) & (ts <= end)
            since = end + 1
        whole |= inside if len(mine) else False
    if not forward.any() or not reducing.any():
        return None
    return Recorded(
        resident_bytes=int(allocated[whole].min()),
        forward_bytes=int(allocated[forward].max()),
        reducing_bytes=int(allocated[reducing].max()),
        updating_bytes=_most(allocated, whole & ~forward & ~reducing),
        reserved_bytes=int(m.reserved[on][whole].max()),
    )


def _most(allocated: Int64s, on: Bools) -> int:
    return int(allocated[on].max()) if on.any() else 0


def _freed(ts: Int64s, size: Int64s, first: int, end: int, buckets: Sequence[int]) -> int:
    """When the bucket buffers of a pass are freed, ns; its end where there are none.

    The host waits for the last reduction before it frees them, so that is well after the last node.
    """
    made = (ts >= first) & (ts <= end)
    fitting = np.zeros(len(ts), bool)
    for n in set(buckets):
        for width in _WIDTHS:
            fitting |= (size >= n * width) & (size < n * width + _ROUNDED)
    made &= fitting
    if not made.any():
        return end
    blocks = -size[made]
    freed = ts[(ts > ts[made][0]) & np.isin(size, blocks)][: len(blocks)]
    return max(end, int(freed[-1])) if len(freed) else end


#: Bytes an element of a bucket, and by how much the allocator may give a larger block: it takes
#: memory from the GPU in these units (CUDACachingAllocator.cpp, kRoundLarge).
_WIDTHS = (2, 4)
_ROUNDED = 2 << 20
