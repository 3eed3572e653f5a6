"""Exposed communication: a slow link, gradients, parameters, activations, exchanges.

The time in which collectives transfer and no compute runs is charged once: what a slow link adds
first, then what the setup of the reduction leaves exposed, then the rest by purpose. Waiting for a
late rank is that rank's finding, not communication's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from tracelens.classify import Op
from tracelens.detectors.context import Charge, Context, PerRank, charge
from tracelens.host import Cause
from tracelens.infer.zero import by_micro_step
from tracelens.intervals import clip_lengths
from tracelens.thresholds import (
    CONTENTION,
    FEW_REDUCTIONS,
    GOOD_REDUCTIONS,
    HOST_BOUND_SHARE,
    LARGE_MESSAGE_BYTES,
    MANY_REDUCTIONS,
    NVLINK_GBPS,
    NVLINK_REACHED,
    OVERLAP_SYNC_NS,
    PREFETCH_DEFAULT,
    PREFETCH_SHARE,
    SLOW_LINK_SHARE,
)
from tracelens.units import format_bytes, format_count, format_ns


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


def find_link(context: Context) -> Link | None:
    """The link by its large collectives; None if they or the GPU's NVLink speed are unknown."""
    speed = next((v for k, v in NVLINK_GBPS.items() if k in (context.device or "")), None)
    busbw = []
    for view in context.views:
        c = view.comm
        sizes = np.array([g.size for g in c.groups] + [0], float)[c.group]
        factor = np.where(c.kind == Op.ALL_REDUCE, 2.0, 1.0) * (sizes - 1) / np.maximum(sizes, 1)
        kinds = np.isin(c.kind, (Op.ALL_REDUCE, Op.ALL_GATHER, Op.REDUCE_SCATTER))
        on = kinds & (c.bytes >= LARGE_MESSAGE_BYTES) & (view.wait_ns >= 0) & (sizes > 1)
        transfer = (c.dur_ns - view.wait_ns)[on]
        busbw += (factor[on] * c.bytes[on] / np.maximum(transfer, 1)).tolist()
    if speed is None or not busbw or context.shared_gpu:
        return None
    reached = float(np.median(busbw))
    return Link(reached, NVLINK_REACHED * speed, reached < SLOW_LINK_SHARE * speed)


def slow_interconnect(context: Context) -> Iterator[Charge]:
    """Do collectives run far below what this GPU's NVLink carries?

    Cost: the exposed transfer time beyond what three quarters of NVLink's bandwidth would take.
    Ranks on several hosts meet a slower network; a trace does not say where its ranks run.
    """
    link = find_link(context)
    if link is None or not link.slow:
        return
    transfer = context.exposed_transfer([np.ones(len(v.comm), bool) for v in context.views])
    yield charge(
        context,
        "slow_interconnect",
        f"Collectives reach {link.reached:.0f} GB/s where NVLink gives {link.expected:.0f}",
        transfer * link.excess,
        ranks=tuple(v.rank for v in context.views),
        evidence=(
            f"median bus bandwidth of collectives over 32 MiB, waiting taken off: "
            f"{link.reached:.1f} GB/s on {context.device}",
            f"{format_ns(float(transfer.min()))} a step of transfer with no compute beside it",
        ),
        remedy="if the ranks share a host: NCCL_P2P_DISABLE and NCCL_P2P_LEVEL unset, "
        "nvidia-smi topo -m and nvlink -s, NCCL_DEBUG=INFO says which transport is used; across "
        "hosts: check that NCCL uses InfiniBand or RoCE (NCCL_IB_DISABLE unset, all NICs up)",
    )


def _exposed(context: Context, role: str) -> PerRank:
    """Exposed transfer of a role, less what the slow link is charged for."""
    link = find_link(context)
    masks = [getattr(r, role) for r in context.roles()]
    return context.exposed_transfer(masks) * (1 - (link.excess if link else 0.0))


def _sure(context: Context, exposed: PerRank) -> PerRank:
    """What is sure to be lost: nothing where waiting could not be told from transfer."""
    return exposed if context.waits is not None else exposed * 0.0


def _hideable(context: Context, exposed: PerRank) -> PerRank:
    """What of exposed reductions more and well-sized buckets would hide, ns a step.

    All but the last bucket, beside as much of the backward pass as follows the first one and has
    no reduction beside it yet; what is hidden slows compute (`CONTENTION`).
    """
    masks = [r.reduction for r in context.roles()]
    room = context.exposed_transfer(masks) - context.transfer(masks)
    for i, v in enumerate(context.views):
        spans = v.backward if len(v.backward[0]) else v.compute
        inside = clip_lengths(spans, v.steps.start_ns, v.steps.end_ns)
        room[i] += float(inside[v.whole].mean())
    most = np.minimum(exposed, np.maximum(room, 0.0))
    return most * (1 - 1 / GOOD_REDUCTIONS) * (1 - CONTENTION)


def _as_it_is(context: Context, less_ns: float = 0.0) -> tuple[str, ...]:
    """What the remedy gives where a slow link stays: said beside the cost, which the link has."""
    link = find_link(context)
    if link is None or not link.slow:
        return ()
    whole = context.exposed_transfer([r.reduction for r in context.roles()])
    saved = float((_sure(context, _hideable(context, whole)) - less_ns).min())
    if saved <= 0:
        return ()
    return (f"the slow link has its cost; if it stays, this saves up to {format_ns(saved)} a step",)


def _amount(context: Context, exposed: PerRank) -> str:
    """How much is exposed, and whether waiting is in it."""
    low = format_ns(float(exposed.min()))
    if context.waits is not None:
        return f"{low} a step of transfer has no compute beside it"
    high = format_ns(float(exposed.max()))
    spread = low if low == high else f"{low} to {high} by rank"
    return (
        f"at most {spread} a step has no compute beside it; waiting for other ranks is part of "
        "that and cannot be told from it here"
    )


def _reductions(context: Context) -> float:
    """Reductions of gradients per backward pass, mean over ranks."""
    counts = []
    for view, roles in zip(context.views, context.roles(), strict=True):
        passes = view.facts.passes
        inside = passes.step >= 0
        n = int(view.whole[passes.step[inside]].sum())
        counts.append(float(roles.reduction.sum()) / max(n, view.facts.n_steps, 1))
    return float(np.mean(counts))


def gradient_reduction(context: Context) -> Iterator[Charge]:
    """What leaves the reduction of gradients exposed, and what would hide it?

    First by the setup, then reductions that another stage would not make.
    """
    left = _exposed(context, "reduction")
    for c in _by_setup(context):
        yield c
        if not c.of_launch:
            left = np.maximum(left - c.cause, 0.0)
        context = replace(context, explained=context.explained + c.cause)
    yield from _every_micro_step(context, left)


def _every_micro_step(context: Context, left: PerRank) -> Iterator[Charge]:
    """ZeRO-2 reduces in every micro-step (runtime/zero/stage_1_and_2.py), ZeRO-1 in the last.

    Cost: the share of the exposed transfer that is left which lies before the last one.
    """
    if context.setup.value("zero_stage") != 2:
        return
    pairs = [
        (v, r, by_micro_step(v.facts, r))
        for v, r in zip(context.views, context.roles(), strict=True)
    ]
    rows = [told[1] for _, _, told in pairs if told is not None]
    if len(rows) < len(pairs) or not all(early.any() for early in rows):
        return
    whole = context.exposed_transfer([r.reduction for _, r, _ in pairs])
    share = context.exposed_transfer(rows) / np.maximum(whole, 1.0)
    view = context.views[0]
    moved = float(np.maximum(view.comm.bytes[rows[0]], 0).sum()) / max(view.facts.n_steps, 1)
    passes = f"{view.facts.n_passes:g}"
    yield charge(
        context,
        "zero2_reduces_every_microstep",
        f"ZeRO-2 reduces all gradients in each of {passes} micro-steps, {{cost}} a step",
        _sure(context, left * np.minimum(share, 1.0)),
        ranks=tuple(v.rank for v in context.views),
        evidence=(
            f"{format_bytes(moved)} a step are reduced before the last of {passes} micro-steps",
            f"{100 * float(np.minimum(share, 1.0).mean()):.0f}% of the exposed reduction is theirs",
        ),
        remedy="stage 1 reduces once a step and keeps whole gradients in memory; or fewer and "
        "larger micro-steps",
        config={"zero_optimization.stage": 1},
    )


def _by_setup(context: Context) -> Iterator[Charge]:
    """The remedy by the setup.

    One of overlap_off, bucket_too_large, bucket_too_small or, where none of them explains it,
    exposed_gradient_reduction. Cost: the exposed transfer that the remedy would hide, less
    `CONTENTION`, and less `OVERLAP_SYNC_NS` for switching overlap_comm on; for many small buckets
    the host's work for them where the GPU waits for its host.
    """
    exposed = _exposed(context, "reduction")
    count = _reductions(context)
    stage = context.setup["zero_stage"]
    zero = stage.value in (1, 2) or (stage.value is None and set(stage.candidates) == {1, 2})
    overlap = context.setup.value("overlap_comm")
    seen = (f"reductions in a backward pass: {count:g}; {_amount(context, exposed)}",)
    hideable = _sure(context, _hideable(context, exposed))
    if zero and overlap is True and count > MANY_REDUCTIONS:
        yield from _too_small(context, count)
    elif exposed.max() <= 0:
        return
    elif zero and overlap is False:
        yield charge(
            context,
            "overlap_off",
            "Gradients are reduced with nothing beside them: overlap_comm is off",
            np.maximum(hideable - OVERLAP_SYNC_NS, 0.0),
            ranks=tuple(v.rank for v in context.views),
            evidence=(
                *_as_it_is(context, OVERLAP_SYNC_NS),
                *seen,
                *context.setup["overlap_comm"].evidence,
            ),
            remedy="overlap_comm: true (needs a second bucket buffer; not with pipelines)",
            config={"zero_optimization.overlap_comm": True},
        )
    elif zero and overlap is True and 0 < count <= FEW_REDUCTIONS:
        size = _good_bucket(context)
        yield charge(
            context,
            "bucket_too_large",
            "overlap_comm has little to overlap: few and large reductions",
            hideable,
            ranks=tuple(v.rank for v in context.views),
            evidence=(
                *_as_it_is(context),
                *seen,
                *context.setup["reduce_bucket_size"].evidence,
            ),
            remedy=f"reduce_bucket_size about {format_count(size)} elements: "
            f"{GOOD_REDUCTIONS} buckets a pass, of which only the last stays exposed",
            config={"zero_optimization.reduce_bucket_size": size},
        )
    elif exposed.min() > 0:
        yield charge(
            context,
            "exposed_gradient_reduction",
            "Gradient reduction is exposed, {cost} a step",
            _sure(context, exposed),
            ranks=tuple(v.rank for v in context.views),
            evidence=seen,
            remedy="overlap it with the backward pass (ZeRO-1 or 2 with overlap_comm, DDP, ZeRO-3 "
            "with overlap_comm), or give the pass more compute per gradient (micro-batch)",
        )


def _good_bucket(context: Context) -> int:
    """Elements of a bucket that splits the gradients of one pass well, two digits."""
    totals = []
    for view, roles in zip(context.views, context.roles(), strict=True):
        c = view.comm
        n = int(c.in_nelems[roles.reduction & (c.in_nelems > 0)].sum())
        passes = max(int(view.whole[view.facts.passes.step.clip(0)].sum()), 1)
        totals.append(n / passes)
    size = float(np.mean(totals)) / GOOD_REDUCTIONS
    return int(float(f"{size:.1e}"))


def _too_small(context: Context, count: float) -> Iterator[Charge]:
    """Many small buckets: each costs the host more than its transfer takes."""
    extra = np.array([v.host.hook_extra_ns for v in context.views])
    per_step = np.array([v.host.hook_reductions / max(len(v.steps), 1) for v in context.views])
    cause = extra * np.maximum(per_step * (1 - GOOD_REDUCTIONS / count), 0)
    # a host that is ahead of its GPU has that time to spare
    cause = np.minimum(cause, context.idle(Cause.LAUNCH))
    size = _good_bucket(context)
    yield charge(
        context,
        "bucket_too_small",
        f"{count:g} small reductions a backward pass keep the host busy, {{cost}} a step",
        cause,
        of_launch=True,
        ranks=tuple(v.rank for v in context.views),
        evidence=(
            f"a gradient hook that reduces a bucket takes {format_ns(float(np.median(extra)))} "
            "longer on the host than one that does not",
            f"{per_step.mean():g} hooks a step reduce",
        ),
        remedy=f"reduce_bucket_size about {format_count(size)} elements ({GOOD_REDUCTIONS} a pass);"
        ' Hugging Face\'s "auto" sets hidden_size squared, smaller than most weights',
        config={"zero_optimization.reduce_bucket_size": size},
    )


def post_step_allgather_exposed(context: Context) -> Iterator[Charge]:
    """How much of the step do ZeRO-1 and 2 spend gathering parameters after the optimizer?

    Cost: its exposed transfer. DeepSpeed never overlaps it (issues 6876, 3338), and
    allgather_bucket_size has had no effect since 0.12.4.
    """
    exposed = _exposed(context, "gather")
    if exposed.min() <= 0 or context.setup.value("zero_stage") == 3:
        return
    yield charge(
        context,
        "post_step_allgather_exposed",
        "Parameters are gathered after the optimizer, {cost} a step",
        _sure(context, exposed),
        ranks=tuple(v.rank for v in context.views),
        evidence=(f"all_gather after the optimizer: {_amount(context, exposed)}",),
        remedy="inherent in ZeRO-1 and 2: allgather_bucket_size does nothing since DeepSpeed "
        "0.12.4; fewer parameter groups, more accumulation per step, or ZeRO-3 with a large "
        "stage3_param_persistence_threshold",
    )


def exposed_parameter_fetch(context: Context) -> Iterator[Charge]:
    """How long do layers wait for their parameters (ZeRO-3, FSDP)? Cost: exposed transfer.

    zero3_late_prefetch where ZeRO-3 hides less than `PREFETCH_SHARE` of the fetching although its
    host is ahead of the GPU: each fetch is issued when its layer needs it. (A host that is behind
    issues everything late, prefetched or not.)
    """
    exposed = _exposed(context, "fetch")
    if exposed.min() <= 0:
        return
    masks = [r.fetch for r in context.roles()]
    whole = context.transfer(masks)
    hidden = 1 - float(context.exposed_transfer(masks).sum() / max(whole.sum(), 1.0))
    zero3 = context.setup.value("zero_stage") == 3 and context.waits is not None
    at = context.critical
    behind = at is None or context.idle(Cause.LAUNCH)[at] > HOST_BOUND_SHARE * context.step_ns
    late = zero3 and not behind and hidden < PREFETCH_SHARE
    yield charge(
        context,
        "zero3_late_prefetch" if late else "exposed_parameter_fetch",
        "Layers wait for their parameters, {cost} a step",
        _sure(context, exposed),
        ranks=tuple(v.rank for v in context.views),
        evidence=(
            f"all_gather in forward and backward: {_amount(context, exposed)}",
            f"{100 * hidden:.0f}% of the fetching runs beside compute",
        ),
        remedy="stage3_prefetch_bucket_size above one layer's parameters (0, or "
        "stage3_max_live_parameters 0, switches prefetching off), stage3_max_live_parameters and "
        "stage3_max_reuse_distance so that the backward pass does not gather again, a larger "
        "micro-batch",
        config={"zero_optimization.stage3_prefetch_bucket_size": PREFETCH_DEFAULT}
        if late
        else None,
    )


def exposed_all_to_all(context: Context) -> Iterator[Charge]:
    """How long do experts or sequence parts travel unhidden? Cost: exposed transfer."""
    yield from _by_role(context, "exchange", "exposed_all_to_all", "all-to-all exchange")


def exposed_activation_reduction(context: Context) -> Iterator[Charge]:
    """How long are tensor-parallel activations reduced unhidden? Cost: exposed transfer."""
    yield from _by_role(
        context, "activation", "exposed_activation_reduction", "activation reduction"
    )


def pipeline_bubble(context: Context) -> Iterator[Charge]:
    """How long do pipeline stages stand in sends and receives? Cost: that time, exposed.

    Waiting for a neighbour and transferring are not told apart, so the cost is not sure and 0.
    """
    yield from _by_role(context, "p2p", "pipeline_bubble", "sending and receiving between stages")


def _by_role(context: Context, role: str, id: str, what: str) -> Iterator[Charge]:
    exposed = _exposed(context, role)
    if exposed.min() <= 0:
        return
    yield charge(
        context,
        id,
        f"{what[0].upper()}{what[1:]} is exposed, {{cost}} a step",
        _sure(context, exposed),
        ranks=tuple(v.rank for v in context.views),
        evidence=(f"{what}: {_amount(context, exposed)}",),
        remedy={
            "exchange": "fewer or larger exchanges, groups within a host, an overlapping variant",
            "activation": "smaller tensor-parallel groups, sequence parallelism, overlapping GEMMs",
            "p2p": "more micro-batches per step, more even stages",
        }[role],
    )
