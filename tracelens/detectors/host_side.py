"""Causes on the host: loading, allocating, pausing, saving, the CPU optimizer, launching."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tracelens.detectors import proof
from tracelens.detectors.context import Charge, Context, PerRank, charge, ranks_of, spread
from tracelens.detectors.pauses import in_usual_step, saving_steps
from tracelens.host import Cause
from tracelens.thresholds import (
    HOST_BOUND_SHARE,
    LAUNCH_DELAY_NS,
    SCALAR_BYTES,
)
from tracelens.units import format_bytes, format_ns


def dataloader_stall(context: Context) -> Iterator[Charge]:
    """Does the GPU idle while the data loader's range runs?

    Cost: idle time inside the range, where it makes the step longer. Source: the ranges that
    torch.utils.data puts around ``__next__`` (torch/utils/data/dataloader.py).
    """
    idle = context.idle(Cause.LOADER)
    if idle.max() <= 0:
        return
    yield charge(
        context,
        "dataloader_stall",
        "The GPU waits {cost} a step for the data loader",
        idle,
        ranks=ranks_of(context, idle > 0),
        evidence=(
            f"no GPU work runs in {format_ns(float(idle.min()))} to {format_ns(float(idle.max()))}"
            " a step of the enumerate(DataLoader) range, by rank",
        ),
        remedy="DataLoader(num_workers > 0, prefetch_factor, persistent_workers=True), or do the "
        "preparation ahead of training",
        proof=proof.of_moments(context, "loader"),
    )


def optimizer_offload_stall(context: Context) -> Iterator[Charge]:
    """Does the GPU idle while the optimizer runs on the host?

    Cost: idle time from the backward pass to the end of the step, where it makes the step longer,
    and exposed copies of gradients and parameters in pinned memory, unless parameters are offloaded
    too (param_offload_stall).
    """
    idle = context.idle(Cause.CPU_OPTIMIZER)
    if idle.max() <= 0:
        return
    copied = idle * 0.0 if _offloads_parameters(context) else _pinned(context)
    yield charge(
        context,
        "optimizer_offload_stall",
        "The GPU idles {cost} a step while the optimizer runs on the CPU",
        idle + copied,
        ranks=ranks_of(context, idle > 0),
        evidence=(
            f"idle between the backward pass and the end of the step: {spread(idle)}",
            f"copies between host and GPU with nothing beside them: {spread(copied)}",
        ),
        remedy="keep optimizer state on the GPU if it fits (remove offload_optimizer), offload only"
        " a part (ratio, ZeRO-3), bind cores to ranks and give the optimizer more threads",
        config={"zero_optimization.offload_optimizer": None},
        proof=proof.of_moments(context, "cpu_optimizer"),
    )


def allocator_churn(context: Context) -> Iterator[Charge]:
    """Is GPU memory allocated and freed with the driver in steady steps?

    Cost: idle time inside those calls, where it makes the step longer. torch's caching allocator
    makes none once warm, unless memory is short or ``empty_cache`` gives it back.
    """
    calls = context.per_rank([v.host.allocator_calls for v in context.views])
    idle = context.idle(Cause.ALLOCATOR)
    if calls.max() < 1 or idle.max() <= 0:
        return
    yield charge(
        context,
        "allocator_churn",
        "Driver allocations cost {cost} a step",
        idle,
        ranks=ranks_of(context, calls >= 1),
        evidence=(
            f"{calls.max():.0f} cudaMalloc and cudaFree calls a step; a warm cache makes none",
            f"the GPU is idle inside them for {spread(idle)} a step",
        ),
        remedy="remove torch.cuda.empty_cache() from the loop; if memory is short, lower "
        "micro-batch, reduce_bucket_size or stage3_max_live_parameters, or set "
        "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
        proof=proof.of_moments(context, "allocator"),
    )


def pageable_copy(context: Context) -> Iterator[Charge]:
    """Are tensors copied from or to pageable memory, with nothing beside it? Cost: that time.

    Silent about scalars (`SCALAR_BYTES`): a loss scale, a learning rate; and about
    steps that save a checkpoint.
    """
    times, sizes = [], []
    for v in context.views:
        usual = np.ones(len(v.steps), bool)
        usual[saving_steps(v.host.save_bytes)] = False
        times.append(v.host.input_ns + v.host.save_ns * usual)
        sizes.append(v.host.input_bytes + v.host.save_bytes * usual)
    spent, size = context.per_rank(times), context.per_rank(sizes).max()
    if spent.max() <= 0 or size <= SCALAR_BYTES:
        return
    yield charge(
        context,
        "pageable_copy",
        "Copies from or to pageable host memory, {cost} a step",
        spent,
        ranks=ranks_of(context, spent > 0),
        evidence=(f"{format_bytes(size)} a step, exposed for {spread(spent)}",),
        remedy="pin_memory=True in the DataLoader and non_blocking=True in .to(); with offloading, "
        "pin_memory: true in offload_optimizer and offload_param",
        proof=proof.of_moments(context, "input", "save", only=in_usual_step),
    )


def param_offload_stall(context: Context) -> Iterator[Charge]:
    """Does the GPU wait for offloaded parameters to be copied?

    Cost: exposed copies between host and GPU in pinned memory (pageable_copy has the others).
    """
    spent = _pinned(context)
    if not _offloads_parameters(context) or spent.max() <= 0:
        return
    yield charge(
        context,
        "param_offload_stall",
        "Offloaded parameters are copied with nothing beside it, {cost} a step",
        spent,
        ranks=ranks_of(context, spent > 0),
        evidence=(
            f"copies between host and GPU with nothing beside them: {spread(spent)}",
            *context.setup["offload_param"].evidence,
        ),
        remedy="keep parameters on the GPU if they fit (remove offload_param), raise "
        "stage3_max_live_parameters and stage3_prefetch_bucket_size, or give each fetch more "
        "compute (micro-batch)",
        config={"zero_optimization.offload_param": None},
        proof=proof.of_moments(context, "copy"),
    )


def _offloads_parameters(context: Context) -> bool:
    return context.setup.value("offload_param") in ("cpu", "nvme")


def _pinned(context: Context) -> PerRank:
    """Exposed copies between host and GPU that are not to or from pageable memory."""
    rows = [v.host.host_copy_ns - v.host.input_ns - v.host.save_ns for v in context.views]
    return np.maximum(context.per_rank(rows), 0.0)


def launch_bound(context: Context) -> Iterator[Charge]:
    """Is the host too slow to keep the GPU busy?

    Fires where, on the rank that the others wait for, the host's launching leaves the GPU idle for
    `HOST_BOUND_SHARE` of the step and kernels start as soon as they are launched. Cost: that idle
    time, less what other findings (many small buckets, one late host) are charged for.
    """
    idle = context.idle(Cause.LAUNCH)
    at = context.critical
    last = "" if at is None else ", which the others wait for last,"
    at = int(idle.argmin()) if at is None else at
    host = context.views[at].host
    if not context.step_ns or idle[at] < HOST_BOUND_SHARE * context.step_ns:
        return
    if host.launch_delay_ns > LAUNCH_DELAY_NS:
        return
    yield charge(
        context,
        "launch_bound",
        "The host is the limit: the GPU has nothing launched, {cost} a step",
        np.maximum(idle - context.explained_launch, 0.0),
        of_launch=True,
        ranks=tuple(v.rank for v in context.views),
        evidence=(
            f"on rank {context.views[at].rank}{last} the GPU has nothing launched for "
            f"{format_ns(float(idle[at]))}, {100 * idle[at] / context.step_ns:.0f}% of the step",
            f"its {host.n_kernels:,.0f} kernels a step start {format_ns(host.launch_delay_ns)} "
            f"after their launch (median), so the queue is empty; they take "
            f"{format_ns(host.kernel_ns)} each, launching one {format_ns(host.call_ns)}",
        ),
        remedy="more work per launch: larger micro-batch or sequence, torch.compile or CUDA graphs,"
        " fused optimizers and norms; fewer Python hooks and synchronisations"
        + ("" if context.profiler else "; note that the profiler itself slows the host"),
        proof=proof.of_moments(context, "launch", ranks=(context.views[at].rank,)),
    )
