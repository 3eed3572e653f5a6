"""Calls in which the host waits for the GPU, and leaves it dry."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tracelens.detectors import proof
from tracelens.detectors.context import Charge, Context, PerRank, RankView, charge, ranks_of, spread
from tracelens.detectors.recording import drift, drift_text
from tracelens.host import Cause
from tracelens.thresholds import BACKPRESSURE_SHARE, INFO_SHARE, OWN_SYNCS, TIMER_SYNCS


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
    logger, grown = _is_comms_logger(view), drift(context)
    idle = context.idle(Cause.SYNC)
    if context.setup.value("zero_stage") == 3:
        idle = np.maximum(idle - _after_events(context), 0.0)
    yield charge(
        context,
        "comms_logger" if logger else "host_sync",
        "DeepSpeed's comms_logger synchronises after every collective, {cost} a step"
        if logger
        else f"The host waits for the GPU {counts[at]:.0f} times in forward and backward, "
        "{cost} a step",
        idle,
        ranks=tuple(v.rank for v in context.views),
        evidence=(
            ", ".join(f"{n:g} {name}" for name, n in view.host.syncs.items())
            + f" a step on rank {view.rank} before the end of the backward pass",
            *((drift_text(grown),) if logger and grown and grown.last > grown.first else ()),
            f"idle after them: {spread(idle)} a step",
        ),
        remedy='delete the whole "comms_logger" key: {"enabled": false} leaves it on'
        if logger
        else "remove .item(), .cpu(), print and assertions on GPU values from the loop, or do them "
        "every n-th step; non_blocking copies",
        proof=proof.of_moments(context, "sync"),
    )


def _is_comms_logger(view: RankView) -> bool:
    collectives = int(((view.comm.step >= 0) & view.whole[np.maximum(view.comm.step, 0)]).sum())
    timer = TIMER_SYNCS * view.facts.n_passes * view.facts.n_steps
    syncs = view.facts.syncs.get("cudaDeviceSynchronize", 0) - timer
    return collectives > OWN_SYNCS * view.facts.n_steps and syncs >= collectives


def zero3_host_backpressure(context: Context) -> Iterator[Charge]:
    """Does ZeRO-3 hold its own host up until earlier fetches are done, and leave the GPU dry?

    Fires where the idle time in gaps that began in cudaEventSynchronize is `BACKPRESSURE_SHARE` of
    the step. Cost: that time. DeepSpeed keeps at most two fetches under way and synchronises with
    the oldest (partitioned_param_coordinator.py, 0.19.8), as it does with reductions (stage3.py).
    """
    idle = _after_events(context)
    if context.setup.value("zero_stage") != 3:
        return
    if idle.max() < BACKPRESSURE_SHARE * context.step_ns:
        return
    yield charge(
        context,
        "zero3_host_backpressure",
        "ZeRO-3 holds its host up until fetches are done, {cost} a step",
        idle,
        ranks=ranks_of(context, idle > 0),
        evidence=(
            f"idle in gaps that began in cudaEventSynchronize: {spread(idle)} a step",
            f"{max(v.host.syncs.get('cudaEventSynchronize', 0.0) for v in context.views):g} of "
            "them a step before the end of the backward pass",
        ),
        remedy="fewer and larger fetches: leaf modules (set_z3_leaf_modules) or "
        "stage3_module_granularity_threshold (DeepSpeed 0.16 and later), a larger "
        "stage3_prefetch_bucket_size and stage3_param_persistence_threshold",
        proof=proof.of_moments(
            context, "sync", only=lambda v, m: m.name.endswith("EventSynchronize")
        ),
    )


def step_end_sync(context: Context) -> Iterator[Charge]:
    """Does the host wait for the whole GPU at the end of each step before it launches the next?

    Cost: the gap after each device synchronisation that follows the backward pass, as far as the
    call blocked. DeepSpeed's throughput timer makes one a micro-step (utils/timer.py), and so does
    ``wall_clock_breakdown``; torch.cuda.synchronize() of one's own looks the same. Silent below
    `INFO_SHARE` of the step.
    """
    spent = context.hosts([v.host.step_sync_ns for v in context.views], Cause.LAUNCH)
    if context.saving(spent) < INFO_SHARE * context.step_ns:
        return
    yield charge(
        context,
        "step_end_sync",
        "The host waits for the whole GPU at the end of each step, {cost} a step",
        spent,
        of_launch=True,
        ranks=ranks_of(context, spent > 0),
        evidence=(f"gaps after cudaDeviceSynchronize behind the backward pass: {spread(spent)}",),
        remedy='DeepSpeed 0.14.3 and later: "timers": {"throughput": {"synchronized": false}}, and '
        "wall_clock_breakdown false; else remove torch.cuda.synchronize() from the loop",
        config={"timers.throughput.synchronized": False}
        if context.setup.value("framework") == "deepspeed"
        else None,
    )


def _after_events(context: Context) -> PerRank:
    return context.hosts([v.host.event_sync_ns for v in context.views], Cause.SYNC)
