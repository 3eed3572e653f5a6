"""Causes on the host: loading, allocating, pausing, saving, the CPU optimizer, launching."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tracelens.detectors.context import Charge, Context, PerRank, RankView, charge
from tracelens.host import Cause
from tracelens.thresholds import (
    HOST_BOUND_SHARE,
    LAUNCH_DELAY_NS,
    OWN_SYNCS,
    SAVE_BYTES,
    SCALAR_NELEMS,
    TIMER_SYNCS,
)
from tracelens.units import format_bytes, format_ns


def _ranks(context: Context, hit: object) -> tuple[int, ...]:
    return tuple(v.rank for v, h in zip(context.views, hit, strict=True) if h)  # type: ignore[call-overload]


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
        ranks=_ranks(context, idle > 0),
        evidence=(
            f"no GPU work runs in {format_ns(float(idle.min()))} to {format_ns(float(idle.max()))}"
            " a step of the enumerate(DataLoader) range, by rank",
        ),
        remedy="DataLoader(num_workers > 0, prefetch_factor, persistent_workers=True), or do the "
        "preparation ahead of training",
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
        ranks=_ranks(context, idle > 0),
        evidence=(
            f"idle between the backward pass and the end of the step: {_spread(idle)}",
            f"copies between host and GPU with nothing beside them: {_spread(copied)}",
        ),
        remedy="keep optimizer state on the GPU if it fits (remove offload_optimizer), offload only"
        " a part (ratio, ZeRO-3), bind cores to ranks and give the optimizer more threads",
        config={"zero_optimization.offload_optimizer": None},
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
        ranks=_ranks(context, calls >= 1),
        evidence=(
            f"{calls.max():.0f} cudaMalloc and cudaFree calls a step; a warm cache makes none",
            f"the GPU is idle inside them for {_spread(idle)} a step",
        ),
        remedy="remove torch.cuda.empty_cache() from the loop; if memory is short, lower "
        "micro-batch, reduce_bucket_size or stage3_max_live_parameters, or set "
        "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
    )


def _spread(values: PerRank) -> str:
    low, high = float(values.min()), float(values.max())
    same = high - low < 0.05 * high
    return format_ns(high) if same else f"{format_ns(low)} to {format_ns(high)} by rank"


def checkpoint_save(context: Context) -> Iterator[Charge]:
    """Is something large copied to pageable memory and written, in some steps only?

    Cost: those copies and the pauses of the same steps, where they make the step longer. Without
    copies it is `host_pause`.
    """
    found = [_saving_steps(v.host.save_bytes) for v in context.views]
    if not any(len(f) for f in found):
        return
    cause = []
    for view, steps in zip(context.views, found, strict=True):
        spent = np.zeros(len(view.steps), np.int64)
        spent[steps] = view.host.save_ns[steps] + view.host.idle_ns[steps, Cause.PAUSE]
        cause.append(spent)
    size = max(int(v.host.save_bytes.max()) for v in context.views)
    numbers = {int(v.steps.number[i]) for v, f in zip(context.views, found, strict=True) for i in f}
    yield charge(
        context,
        "checkpoint_save",
        "Saving to the host holds all ranks up, {cost} a step on average",
        context.per_rank(cause),
        ranks=_ranks(context, [len(f) > 0 for f in found]),
        steps=tuple(sorted(numbers)),
        evidence=(
            f"{size / 1e6:,.0f} MB copied to pageable memory in step {min(numbers)}, not in others",
            f"copies and the pause after them take {format_ns(float(max(c.max() for c in cause)))}",
        ),
        remedy="save less often or asynchronously (pinned staging buffers, a background writer; "
        "torch.distributed.checkpoint.async_save)",
    )


def _saving_steps(size: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> list[int]:
    large = np.flatnonzero(size >= SAVE_BYTES)
    return large.tolist() if 0 < len(large) < len(size) else []


def host_pause(context: Context) -> Iterator[Charge]:
    """Are there stretches without any event on any thread, while the GPU idles?

    Cost: idle time inside them, where it makes the step longer; pauses in steps that save a
    checkpoint are charged there. Garbage collection, sleeping, blocking file access and slow
    Python all look like this without stacks.
    """
    cause, pauses = [], []
    for view in context.views:
        spent = view.host.idle_ns[:, Cause.PAUSE].copy()
        saving = _saving_steps(view.host.save_bytes)
        spent[saving] = 0
        cause.append(spent)
        pauses += [(p, view) for p in view.host.pauses if p.step not in saving]
    idle = context.per_rank(cause)
    if idle.max() <= 0 or not pauses:
        return
    longest, view = max(pauses, key=lambda p: p[0].dur_ns)
    ranks = _ranks(context, idle > 0)
    whose = f"Rank {ranks[0]}'s" if len(ranks) == 1 < len(context.views) else "The"
    yield charge(
        context,
        "host_pause",
        f"{whose} host does nothing that the trace shows for {{cost}} a step",
        idle,
        ranks=ranks,
        steps=tuple(sorted({int(v.steps.number[p.step]) for p, v in pauses})),
        evidence=(
            f"{len(pauses)} pauses with no event on any thread; the longest, "
            f"{format_ns(longest.dur_ns)} on rank {view.rank}, after {longest.after} and before "
            f"{longest.before}",
            "garbage collection, sleep, blocking I/O and slow Python look alike here; one step "
            "recorded with with_stack=True tells them apart",
        ),
        remedy="record one step with with_stack=True; if it is garbage collection, gc.disable() "
        "and gc.collect() at a fixed interval on all ranks together",
    )


def host_sync(context: Context) -> Iterator[Charge]:
    """Does the host wait for the GPU inside forward or backward, and leave it dry?

    Fires on more synchronising calls per backward pass than DeepSpeed's own (`OWN_SYNCS`). Cost:
    idle time in gaps that began while the host was blocked in such a call. A queue that is empty
    anyway makes them free. One device synchronisation for each collective, on top of the throughput
    timer's two a backward pass, is DeepSpeed's
    comms_logger (comm/comm.py), which any key of that name switches on.
    """
    counts = [
        sum(n for name, n in v.host.syncs.items() if "Event" not in name) for v in context.views
    ]
    passes = max(context.views[0].facts.n_passes, 1.0)
    at = int(np.argmax(counts))
    if counts[at] <= OWN_SYNCS * passes:
        return
    view = context.views[at]
    logger = _is_comms_logger(view)
    yield charge(
        context,
        "comms_logger" if logger else "host_sync",
        "DeepSpeed's comms_logger synchronises after every collective, {cost} a step"
        if logger
        else f"The host waits for the GPU {counts[at]:.0f} times in forward and backward, "
        "{cost} a step",
        context.idle(Cause.SYNC),
        ranks=tuple(v.rank for v in context.views),
        evidence=(
            ", ".join(f"{n:g} {name}" for name, n in view.host.syncs.items())
            + f" a step on rank {view.rank} before the end of the backward pass",
            f"idle after them: {_spread(context.idle(Cause.SYNC))} a step",
        ),
        remedy='delete the whole "comms_logger" key: {"enabled": false} leaves it on'
        if logger
        else "remove .item(), .cpu(), print and assertions on GPU values from the loop, or do them "
        "every n-th step; non_blocking copies",
    )


def _is_comms_logger(view: RankView) -> bool:
    collectives = int(((view.comm.step >= 0) & view.whole[np.maximum(view.comm.step, 0)]).sum())
    timer = TIMER_SYNCS * view.facts.n_passes * view.facts.n_steps
    syncs = view.facts.syncs.get("cudaDeviceSynchronize", 0) - timer
    return collectives > OWN_SYNCS * view.facts.n_steps and syncs >= collectives


def pageable_copy(context: Context) -> Iterator[Charge]:
    """Are tensors copied from or to pageable memory, with nothing beside it? Cost: that time.

    Silent about scalars (`SCALAR_NELEMS` of 8 bytes): a loss scale, a learning rate; and about
    steps that save a checkpoint.
    """
    times, sizes = [], []
    for v in context.views:
        usual = np.ones(len(v.steps), bool)
        usual[_saving_steps(v.host.save_bytes)] = False
        times.append(v.host.input_ns + v.host.save_ns * usual)
        sizes.append(v.host.input_bytes + v.host.save_bytes * usual)
    spent, size = context.per_rank(times), context.per_rank(sizes).max()
    if spent.max() <= 0 or size <= 8 * SCALAR_NELEMS:
        return
    yield charge(
        context,
        "pageable_copy",
        "Copies from or to pageable host memory, {cost} a step",
        spent,
        ranks=_ranks(context, spent > 0),
        evidence=(f"{format_bytes(size)} a step, exposed for {_spread(spent)}",),
        remedy="pin_memory=True in the DataLoader and non_blocking=True in .to(); with offloading, "
        "pin_memory: true in offload_optimizer and offload_param",
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
        ranks=_ranks(context, spent > 0),
        evidence=(
            f"copies between host and GPU with nothing beside them: {_spread(spent)}",
            *context.setup["offload_param"].evidence,
        ),
        remedy="keep parameters on the GPU if they fit (remove offload_param), raise "
        "stage3_max_live_parameters and stage3_prefetch_bucket_size, or give each fetch more "
        "compute (micro-batch)",
        config={"zero_optimization.offload_param": None},
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
    if idle[at] < HOST_BOUND_SHARE * context.step_ns or host.launch_delay_ns > LAUNCH_DELAY_NS:
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
        " fused optimizers and norms; fewer Python hooks and synchronisations; note that the "
        "profiler itself slows the host",
    )
