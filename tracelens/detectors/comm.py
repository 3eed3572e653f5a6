"""Exposed communication: a slow link, parameters, activations, exchanges.

The time in which collectives transfer and no compute runs is charged once: what a slow link adds
first, then what the setup of the reduction leaves exposed, then the rest by purpose. Waiting for a
late rank is that rank's finding, not communication's.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tracelens.detectors import proof
from tracelens.detectors.context import Charge, Context, charge
from tracelens.detectors.exposure import amount_text, exposed_of, sure_of
from tracelens.host import Cause
from tracelens.intervals import union
from tracelens.thresholds import (
    HOST_BOUND_SHARE,
    ONE_WEIGHT_SHARE,
    PREFETCH_DEFAULT,
    PREFETCH_SHARE,
    ZERO3_BUSY,
)
from tracelens.units import format_ns


def slow_interconnect(context: Context) -> Iterator[Charge]:
    """Do collectives run far below what this GPU's NVLink carries?

    Cost: the exposed transfer time beyond what three quarters of NVLink's bandwidth would take.
    Ranks on several hosts meet a slower network; a trace does not say where its ranks run.
    """
    link = context.link
    if link is None or not link.slow:
        return
    everything = [np.ones(len(v.comm), bool) for v in context.views]
    transfer = context.exposed_transfer(everything)
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
        remedy="if the ranks share a host: NCCL_P2P_DISABLE, NCCL_P2P_LEVEL and "
        "NCCL_MAX_NCHANNELS unset, nvidia-smi topo -m and nvlink -s, NCCL_DEBUG=INFO says "
        "which transport is used; across hosts: check that NCCL uses InfiniBand or RoCE "
        "(NCCL_IB_DISABLE unset, all NICs up)",
        proof=proof.of_rows(context, everything),
    )


def post_step_allgather_exposed(context: Context) -> Iterator[Charge]:
    """How much of the step do ZeRO-1 and 2 spend gathering parameters after the optimizer?

    Cost: its exposed transfer. DeepSpeed never overlaps it (issues 6876, 3338), and
    allgather_bucket_size has had no effect since 0.12.4.
    """
    exposed = exposed_of(context, "gather")
    stages = context.setup["zero_stage"].candidates if "zero_stage" in context.setup else ()
    if exposed.min() <= 0 or not {1, 2} & set(stages):
        return
    yield charge(
        context,
        "post_step_allgather_exposed",
        "Parameters are gathered after the optimizer, {cost} a step",
        sure_of(context, "gather"),
        ranks=tuple(v.rank for v in context.views),
        evidence=(f"all_gather after the optimizer: {amount_text(context, 'gather')}",),
        remedy="inherent in ZeRO-1 and 2: allgather_bucket_size does nothing since DeepSpeed "
        "0.12.4; fewer parameter groups, more accumulation per step, or ZeRO-3 with a large "
        "stage3_param_persistence_threshold",
        proof=proof.of_rows(context, [r.gather for r in context.roles()]),
    )


def exposed_parameter_fetch(context: Context) -> Iterator[Charge]:
    """How long do layers wait for their parameters (ZeRO-3, FSDP)? Cost: exposed transfer.

    zero3_late_prefetch where ZeRO-3 hides less than `PREFETCH_SHARE` of the fetching although its
    host is ahead of the GPU, and each weight is fetched by itself, when its layer needs it. (A host
    that is behind issues everything late, prefetched or not.) zero3_bandwidth_bound where the link
    carries parameters or gradients for `ZERO3_BUSY` of the passes: no prefetching hides what does
    not fit.
    """
    exposed = exposed_of(context, "fetch")
    if exposed.min() <= 0:
        return
    masks = [r.fetch for r in context.roles()]
    whole = context.transfer(masks)
    hidden = 1 - float(context.exposed_transfer(masks).sum() / max(whole.sum(), 1.0))
    zero3 = context.setup.value("zero_stage") == 3 and context.waits is not None
    at = context.critical
    behind = (
        at is None or context.recorded_idle(Cause.LAUNCH)[at] > HOST_BOUND_SHARE * context.step_ns
    )
    late = zero3 and not behind and hidden < PREFETCH_SHARE and _one_by_one(context)
    busy = _link_busy(context) if zero3 else 0.0
    if busy >= ZERO3_BUSY:
        yield _bandwidth_bound(context, busy)
        return
    yield charge(
        context,
        "zero3_late_prefetch" if late else "exposed_parameter_fetch",
        "Layers wait for their parameters, {cost} a step",
        sure_of(context, "fetch"),
        ranks=tuple(v.rank for v in context.views),
        evidence=(
            f"all_gather in forward and backward: {amount_text(context, 'fetch')}",
            f"{100 * hidden:.0f}% of the fetching runs beside compute",
        ),
        remedy=f"{_prefetching(context)}, a larger micro-batch",
        config={"zero_optimization.stage3_prefetch_bucket_size": PREFETCH_DEFAULT}
        if late
        else None,
        proof=proof.of_rows(context, masks),
    )


_OF_FSDP = {
    "fsdp1": "forward_prefetch=True and backward_prefetch=BackwardPrefetch.BACKWARD_PRE, "
    "sharding_strategy=SHARD_GRAD_OP where memory is left, so that the backward pass does not "
    "gather again",
    "fsdp2": "set_modules_to_forward_prefetch and set_modules_to_backward_prefetch, "
    "reshard_after_forward=False where memory is left, so that the backward pass does not gather "
    "again",
}


def _prefetching(context: Context) -> str:
    """What gathers parameters earlier, or less often, in the framework that ran."""
    return _OF_FSDP.get(
        str(context.setup.value("framework")),
        "stage3_prefetch_bucket_size above one layer's parameters (0, or "
        "stage3_max_live_parameters 0, switches prefetching off), stage3_max_live_parameters and "
        "stage3_max_reuse_distance so that the backward pass does not gather again",
    )


def _bandwidth_bound(context: Context, busy: float) -> Charge:
    return charge(
        context,
        "zero3_bandwidth_bound",
        "Layers wait for their parameters: the link is full, {cost} a step",
        sure_of(context, "fetch"),
        ranks=tuple(v.rank for v in context.views),
        evidence=(
            f"the link carries parameters or gradients for {100 * busy:.0f}% of the passes",
            f"all_gather in forward and backward: {amount_text(context, 'fetch')}",
        ),
        remedy="more compute for what is fetched (micro-batch), or less to fetch: ZeRO-2 where the "
        "model fits, stage3_max_live_parameters and stage3_max_reuse_distance so that the backward "
        "pass does not gather again, hierarchical partitions or quantized weights (ZeRO++: "
        "zero_hpz_partition_size, zero_quantized_weights; DeepSpeed 0.10 and later)",
        proof=proof.of_rows(context, [r.fetch for r in context.roles()]),
    )


def _one_by_one(context: Context) -> bool:
    """Whether most fetches carry one weight: prefetching gathers several at once."""
    weights = np.array(sorted(set().union(*(v.facts.weights for v in context.views))), np.int64)
    sizes = np.concatenate([v.comm.out_nelems[v.roles.fetch] for v in context.views])
    return bool(len(sizes) and np.isin(sizes, weights).mean() >= ONE_WEIGHT_SHARE)


def _link_busy(context: Context) -> float:
    """Share of forward and backward in which parameters or gradients travel, mean over ranks."""
    shares = []
    for v in context.views:
        c = v.comm
        for step in np.flatnonzero(v.whole).tolist():
            on = (v.roles.fetch | v.roles.reduction) & (c.step == step)
            if on.any():
                moves = union((c.start_ns + np.maximum(v.wait_ns, 0))[on], c.end_ns[on])
                passes = int(c.end_ns[on].max() - c.start_ns[on].min())
                shares.append(float((moves[1] - moves[0]).sum()) / max(passes, 1))
    return float(np.mean(shares)) if shares else 0.0


def exposed_all_to_all(context: Context) -> Iterator[Charge]:
    """How long do experts or sequence parts travel unhidden? Cost: exposed transfer."""
    yield from _by_role(context, "exchange", "exposed_all_to_all", "all-to-all exchange")


def exposed_activation_reduction(context: Context) -> Iterator[Charge]:
    """How long are tensor-parallel activations reduced unhidden? Cost: exposed transfer."""
    yield from _by_role(
        context, "activation", "exposed_activation_reduction", "activation reduction"
    )


def exposed_p2p(context: Context) -> Iterator[Charge]:
    """How long do activations and their gradients travel between stages unhidden? Cost: that time.

    Waiting for the neighbour is `pipeline_bubble`'s.
    """
    yield from _by_role(context, "p2p", "exposed_p2p", "sending and receiving between stages")


def _by_role(context: Context, role: str, id: str, what: str) -> Iterator[Charge]:
    exposed = exposed_of(context, role)
    if exposed.min() <= 0:
        return
    yield charge(
        context,
        id,
        f"{what[0].upper()}{what[1:]} is exposed, {{cost}} a step",
        sure_of(context, role),
        ranks=tuple(v.rank for v in context.views),
        evidence=(f"{what}: {amount_text(context, role)}",),
        remedy={
            "exchange": "fewer or larger exchanges, groups within a host, an overlapping variant",
            "activation": "smaller tensor-parallel groups, sequence parallelism, overlapping GEMMs",
            "p2p": "fewer stages, neighbours on one host, cuts where activations are small",
        }[role],
        proof=proof.of_rows(context, [getattr(r, role) for r in context.roles()]),
    )
