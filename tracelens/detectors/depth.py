"""Reductions that hold compute up: DeepSpeed's overlap_comm is one bucket deep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tracelens.detectors import proof
from tracelens.detectors.context import Charge, Context, RankView, charge, spread
from tracelens.thresholds import CONTENTION, INFO_SHARE, RESUME_NS
from tracelens.trace import Bools, Int64s


def depth1_reduce_stall(context: Context, masks: Sequence[Bools]) -> Iterator[Charge]:
    """Does compute wait for one reduction before the next may begin?

    DeepSpeed 0.14.3 and later lets the compute stream wait for the reduction of the bucket before
    (stage_1_and_2.py, average_tensor; issue 8364). Cost: how much earlier each backward pass would
    end if reductions queued up behind each other and compute went on, by the lengths recorded:

        as it is    S_k = max(t_k, R_k-1), R_k = S_k + d_k, compute goes on at S_k
        queued up   R_k = max(t_k, R_k-1) + d_k, compute goes on at t_k

    and less what compute beside it slows (`CONTENTION`).

    Where the link is the limit both end alike; what a slow link adds is its own finding's. Silent
    below `INFO_SHARE` of the step.
    """
    if context.waits is None:
        return
    pairs = [_stalls(v, m) for v, m in zip(context.views, masks, strict=True)]
    link = context.link
    saved = np.array([saved for saved, _ in pairs]) * (1 - (link.excess if link else 0.0))
    saved = saved * (1 - CONTENTION)
    if context.saving(saved) < INFO_SHARE * context.step_ns:
        return
    stalls = np.array([stall for _, stall in pairs])
    yield charge(
        context,
        "depth1_reduce_stall",
        "Compute waits for one reduction before it may fill the next bucket, {cost} a step",
        saved,
        ranks=tuple(v.rank for v in context.views),
        evidence=(
            f"compute stands still until a reduction ends: {spread(stalls)} a step",
            f"with reductions queued up behind each other the passes end {spread(saved)} earlier",
        ),
        remedy="DeepSpeed 0.14.3 and later waits so (issue 8364), ZeRO-3 and DDP do not; by the "
        "recorded passes another reduce_bucket_size saves less than can be told",
        proof=proof.of_rows(context, masks),
    )


def _stalls(view: RankView, mask: Bools) -> tuple[float, float]:
    """What queueing would save a rank, and how long its compute stands still, ns a step."""
    c = view.comm
    on = np.flatnonzero(mask & (c.step >= 0) & view.whole[np.maximum(c.step, 0)])
    arrived = c.start_ns + np.maximum(view.wait_ns, 0)
    saved = stalled = 0
    for step in np.unique(c.step[on]).tolist():
        for micro in np.unique(c.micro[on[c.step[on] == step]]).tolist():
            rows = on[(c.step[on] == step) & (c.micro[on] == micro)]
            rows = rows[np.argsort(arrived[rows], kind="stable")]
            stall = _held_up(view, arrived[rows], c.end_ns[rows])
            stalled += int(stall.sum())
            saved += _gain(arrived[rows], c.end_ns[rows], stall)
    n = max(int(view.whole.sum()), 1)
    return saved / n, stalled / n


def _held_up(view: RankView, start_ns: Int64s, end_ns: Int64s) -> Int64s:
    """How long compute stood still before the end of each reduction and went on with it."""
    begins, ends = view.compute
    if not len(begins):
        return np.zeros(len(start_ns), np.int64)
    after = np.searchsorted(begins, end_ns, "left")
    last = len(begins) - 1
    resumes = (after <= last) & (begins[np.minimum(after, last)] - end_ns < RESUME_NS)
    before = ends[np.maximum(after - 1, 0)]
    idle = np.where(after > 0, end_ns - np.maximum(before, start_ns), 0)
    return np.where(resumes, np.maximum(idle, 0), 0)


def _gain(start_ns: Int64s, end_ns: Int64s, stall: Int64s) -> int:
    """How much earlier a pass ends if its compute never stands still, ns.

    Times of the queue are counted from the first reduction; what follows the last one stays.
    """
    length = end_ns - start_ns
    moved, free = 0, int(end_ns[0])
    for k in range(1, len(start_ns)):
        moved += int(stall[k - 1])
        free = max(int(start_ns[k]) - moved, free) + int(length[k])
    compute_saves = moved
    link_saves = int(end_ns[-1]) - free
    return max(min(compute_saves, link_saves), 0)
