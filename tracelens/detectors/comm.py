"""Exposed communication: a slow link, parameters, activations, exchanges.

The time in which collectives transfer and no compute runs is charged once: what a slow link adds
first, then what the setup of the reduction leaves exposed, then the rest by purpose. Waiting for a
late rank is that rank's finding, not communication's.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tracelens.detectors.context import Charge, Context, charge
from tracelens.detectors.exposure import amount_text, exposed_of, find_link, sure_of
from tracelens.host import Cause
from tracelens.thresholds import HOST_BOUND_SHARE, PREFETCH_DEFAULT, PREFETCH_SHARE
from tracelens.units import format_ns


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
        remedy="if the ranks share a host: NCCL_P2P_DISABLE, NCCL_P2P_LEVEL and "
        "NCCL_MAX_NCHANNELS unset, nvidia-smi topo -m and nvlink -s, NCCL_DEBUG=INFO says "
        "which transport is used; across hosts: check that NCCL uses InfiniBand or RoCE "
        "(NCCL_IB_DISABLE unset, all NICs up)",
    )


def post_step_allgather_exposed(context: Context) -> Iterator[Charge]:
    """How much of the step do ZeRO-1 and 2 spend gathering parameters after the optimizer?

    Cost: its exposed transfer. DeepSpeed never overlaps it (issues 6876, 3338), and
    allgather_bucket_size has had no effect since 0.12.4.
    """
    exposed = exposed_of(context, "gather")
    if exposed.min() <= 0 or context.setup.value("zero_stage") == 3:
        return
    yield charge(
        context,
        "post_step_allgather_exposed",
        "Parameters are gathered after the optimizer, {cost} a step",
        sure_of(context, exposed),
        ranks=tuple(v.rank for v in context.views),
        evidence=(f"all_gather after the optimizer: {amount_text(context, exposed)}",),
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
    exposed = exposed_of(context, "fetch")
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
        sure_of(context, exposed),
        ranks=tuple(v.rank for v in context.views),
        evidence=(
            f"all_gather in forward and backward: {amount_text(context, exposed)}",
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
    exposed = exposed_of(context, role)
    if exposed.min() <= 0:
        return
    yield charge(
        context,
        id,
        f"{what[0].upper()}{what[1:]} is exposed, {{cost}} a step",
        sure_of(context, exposed),
        ranks=tuple(v.rank for v in context.views),
        evidence=(f"{what}: {amount_text(context, exposed)}",),
        remedy={
            "exchange": "fewer or larger exchanges, groups within a host, an overlapping variant",
            "activation": "smaller tensor-parallel groups, sequence parallelism, overlapping GEMMs",
            "p2p": "more micro-batches per step, more even stages",
        }[role],
    )
