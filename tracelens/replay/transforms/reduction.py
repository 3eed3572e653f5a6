"""reduce_bucket_size and overlap_comm of ZeRO-1 and ZeRO-2: other buckets, elsewhere.

DeepSpeed 0.19.8 runtime/zero/stage_1_and_2.py: hooks copy gradients into a bucket and reduce it
when the next gradient would overfill it (reduce_independent_p_g_buckets_and_remove_grads); a bucket
is divided, all-reduced and, on the ranks that own parts of it, copied (average_tensor,
reduce_ipg_grads). With overlap_comm that happens on a stream of its own; that stream waits for the
gradients, and the compute stream waits for the reduction before (a pipeline of depth one, since
0.14.3); the pass ends with a synchronisation of the device
(independent_gradient_partition_epilogue).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

import numpy as np

from tracelens.errors import CannotPredict
from tracelens.gradients import Bucket
from tracelens.replay.model import Model, RankModel
from tracelens.replay.program import ALL, Act, Program, edit, listed
from tracelens.replay.transforms.bucket_plan import (
    SHAPES,
    Old,
    Plan,
    Setting,
    make_plan,
    positions,
    typical,
    with_host_time,
)
from tracelens.thresholds import BUCKET_LAG_NS
from tracelens.thresholds.replay import SYNC_NS
from tracelens.trace import Bools, Int64s

__all__ = ["Setting", "reduce_with", "reducing_rows"]

New: TypeAlias = "tuple[int, dict[str, object]]"
"""A new row and the position that it goes before."""

Starts: TypeAlias = "tuple[tuple[int, int], tuple[int, int], tuple[int, int]]"
"""(Lag, pause) of a reduction, of what divides its bucket, and of what copies out of it, ns."""


def reduce_with(model: Model, now: Setting, then: Setting) -> Model:
    """The model with its gradients reduced another way.

    Raises
    ------
    CannotPredict
        If the recording does not show the gradients, or its buckets are not what the flush rule
        makes of them.
    """
    line = model.reduction
    if line is None:
        raise CannotPredict("no reduction of known size was recorded", hint=SHAPES)
    transfer = dict(model.costs.transfer_ns)
    number = max(transfer, default=-1) + 1
    plans = with_host_time([make_plan(m, now, then) for m in model.ranks], model.ranks)
    if len({p.shape for p in plans}) > 1:
        raise CannotPredict("the ranks' gradients differ", hint="compare the ranks' models")
    for k, n in enumerate(plans[0].shape):
        transfer[number + k] = line.at(n)
    ranks = tuple(_rebuilt(m, p, number, then) for m, p in zip(model.ranks, plans, strict=True))
    return replace(model, ranks=ranks, costs=replace(model.costs, transfer_ns=transfer))


def reducing_rows(model: Model, now: Setting) -> list[Bools]:
    """Rows of each rank's program that are there to reduce gradients; bool (m,) a rank.

    Raises
    ------
    CannotPredict
        As `reduce_with`.
    """
    return [make_plan(m, now, now).old.rows for m in model.ranks]


def _rebuilt(m: RankModel, plan: Plan, number: int, then: Setting) -> RankModel:
    """The rank's program with the planned buckets in place of its own."""
    p, g, old = m.program, m.host.gradients, plan.old
    hook_at = positions(p, m.host.uid)
    keep = ~old.rows
    blocks: list[New] = []
    for at, ns in old.spare_ns.items():
        if ns:
            blocks.append(_like(p, at, act=Act.WAIT, gap_ns=ns))
    comp = m.compute_stream
    red = _reduction_stream(p, m, plan.now, comp)
    first_number = number
    starts = _starts(p, plan, then)
    for first, stop, buckets in plan.passes:
        limit = hook_at[stop] if stop < len(g) else len(p)
        epilogue = _epilogue(p, old, hook_at, (first, stop), int(limit))
        for b in buckets:
            i = first + b.at
            at = int(hook_at[i]) if b.at < stop - first else epilogue
            blocks += _flush(p, at, b, (old, starts), (comp, red, number), then.overlap)
            number += 1
        blocks += _copies(m, plan, (first, stop), then)
        keep, sync = _device_sync(p, keep, epilogue, plan.now, then)
        blocks += sync
    streams, busy = _streams(p, red)
    program = edit(replace(p, streams=streams, busy_until_ns=busy), keep, *listed(blocks))
    made = np.flatnonzero((program.meet >= first_number) & (program.act == Act.MEET))
    sizes = dict(zip(program.uid[made].tolist(), plan.shape, strict=True))
    return replace(m, program=program, reductions=program.uid[made], nelems={**m.nelems, **sizes})


def _streams(p: Program, red: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The streams, with one for reductions where there was none."""
    if red < len(p.streams):
        return p.streams, p.busy_until_ns
    return (*p.streams, -1), (*p.busy_until_ns, 0)


def _reduction_stream(p: Program, m: RankModel, now: Setting, comp: int) -> int:
    if now.overlap:
        on = p.stream[np.isin(p.uid, m.reductions)]
        on = on[on != comp]
        if len(on):
            return int(on[0])
    return len(p.streams)


def _epilogue(p: Program, old: Old, hook_at: Int64s, span: tuple[int, int], limit: int) -> int:
    """Where the last bucket of a pass is reduced: where the recorded one was, behind all hooks."""
    last = int(hook_at[span[1] - 1])
    behind = np.flatnonzero(old.rows[last:limit] & (p.hook[last:limit] < 0)) + last
    if len(behind):
        return int(behind[0])
    inside = np.flatnonzero(p.hook[last:limit] == span[1] - 1) + last
    return int(inside[-1]) + 1 if len(inside) else last


def _like(p: Program, at: int, **columns: object) -> New:
    """One new row before a position, of the step and micro-step of the row there."""
    k = min(at, len(p) - 1)
    return at, {"step": int(p.step[k]), "micro": int(p.micro[k]), **columns}


def _starts(p: Program, plan: Plan, then: Setting) -> Starts:
    if not then.overlap:
        return (typical(p),) * 3
    (lag, pause), divides = plan.old.starts
    if plan.now.overlap:
        return (lag, pause), divides, (lag, pause)
    # no reduction of the recording had to wait until a kernel beside it lets go of the GPU
    return (lag, max(pause, BUCKET_LAG_NS)), divides, (lag, pause)


def _flush(
    p: Program,
    at: int,
    b: Bucket,
    how: tuple[Old, Starts],
    where: tuple[int, int, int],
    overlap: bool,
) -> list[New]:
    """The rows that reduce a bucket."""
    comp, red, number = where
    old, starts = how
    stream = red if overlap else comp
    reduces, divides, copies = (
        {"stream": stream, "lag_ns": lag, "pause_ns": pause} for lag, pause in starts
    )
    host = old.extra_ns[0] + old.extra_ns[1] * len(b.members)
    made = []
    if overlap:
        made.append(_like(p, at, act=Act.WAIT, gap_ns=host, stream=red, target=comp))
        made.append(_like(p, at, act=Act.WAIT, stream=comp, target=red))
    else:
        made.append(_like(p, at, act=Act.WAIT, gap_ns=host))
    divide = old.divide * b.nelems
    made.append(_like(p, at, act=Act.LAUNCH, work_ns=divide, compute=not overlap, **divides))
    made.append(_like(p, at, act=Act.MEET, meet=number, comm=True, **reduces))
    if old.copy:
        made.append(_like(p, at, act=Act.LAUNCH, work_ns=old.copy * b.nelems, **copies))
    return made


def _copies(m: RankModel, plan: Plan, span: tuple[int, int], then: Setting) -> list[New]:
    """Copies into the bucket of gradients that it holds now and was too small for before."""
    p, g = m.program, m.host.gradients
    hook_at = positions(p, m.host.uid)
    lag, pause = typical(p)
    blocks = []
    for i in range(*span):
        n = int(g.nelems[i])
        if plan.now.bucket < n <= then.bucket:
            work = plan.old.own * n
            row = _like(
                p, int(hook_at[i]), act=Act.LAUNCH, work_ns=work, stream=m.compute_stream,
                lag_ns=lag, pause_ns=pause,
            )  # fmt: skip
            blocks.append(row)
    return blocks


def _device_sync(
    p: Program, keep: Bools, epilogue: int, now: Setting, then: Setting
) -> tuple[Bools, list[New]]:
    """The synchronisation that ends a backward pass with overlap_comm, taken out or put in."""
    if now.overlap == then.overlap:
        return keep, []
    if then.overlap:
        return keep, [_like(p, epilogue, act=Act.SYNC, target=ALL, cost_ns=SYNC_NS)]
    after = np.flatnonzero((p.act[epilogue:] == Act.SYNC) & (p.target[epilogue:] == ALL))
    work = np.flatnonzero((p.act[epilogue:] <= Act.MEET) & keep[epilogue:])
    keep = keep.copy()
    if len(after) and (not len(work) or after[0] < work[0]):
        keep[epilogue + after[0]] = False
    return keep, []
