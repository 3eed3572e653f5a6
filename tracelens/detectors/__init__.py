"""Causes of a slow step: one small pure function each, in a tuple that you can read.

A detector takes a `Context` and yields findings. Each run ends as fired, clean, or not applicable
with the reason, so that silence is never mistaken for health.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from tracelens.detectors import (
    comm,
    declared,
    host_side,
    late,
    outlier,
    pauses,
    ranks,
    recording,
    reduction,
    stages,
    syncs,
    work,
)
from tracelens.detectors.context import Charge, Context, RankView, Verdict
from tracelens.detectors.late import is_shared
from tracelens.detectors.link import find_link
from tracelens.detectors.recording import drift, drift_text, without_profiler
from tracelens.findings import Finding
from tracelens.infer.facts import did_not_run

__all__ = [
    "DETECTORS",
    "Context",
    "Detector",
    "RankView",
    "Verdict",
    "drift",
    "drift_text",
    "find_link",
    "is_shared",
    "run_all",
    "without_profiler",
]


@dataclass(frozen=True, slots=True)
class Detector:
    """A detector: the ids it can fire, what it needs, and the function.

    `needs` may name ``host`` (host ops), ``stacks`` (Python frames), ``ranks`` (waiting known of
    several ranks), ``loader``, ``comm``, ``link``, ``alike`` (all ranks run the same model) or
    ``exclusive`` (no other process on the GPU), ``unprofiled`` (steps timed without a profiler),
    ``steady`` (which do not become longer or shorter on their own), ``steps`` (found), ``run``
    (what was launched did run); see `_LACKS`.
    """

    ids: tuple[str, ...]
    run: Callable[[Context], Iterator[Charge]]
    needs: tuple[str, ...] = ()


#: In this order: what is explained by one is not charged again by a later one.
DETECTORS: tuple[Detector, ...] = (
    Detector(("gpu_shared",), late.gpu_shared),
    Detector(("device_wait",), late.device_wait),
    Detector(("profiler_overhead",), recording.profiler_overhead, ("unprofiled", "steady")),
    Detector(("dataloader_stall",), host_side.dataloader_stall, ("loader",)),
    Detector(("allocator_churn",), host_side.allocator_churn, ("steps",)),
    Detector(("checkpoint_save",), pauses.checkpoint_save),
    Detector(("gc_pause",), pauses.gc_pause, ("stacks",)),
    Detector(("host_pause",), pauses.host_pause, ("host",)),
    Detector(("optimizer_offload_stall",), host_side.optimizer_offload_stall, ("host",)),
    Detector(("pageable_copy",), host_side.pageable_copy),
    Detector(("param_offload_stall",), host_side.param_offload_stall),
    Detector(("zero3_host_backpressure",), syncs.zero3_host_backpressure, ("host",)),
    Detector(("host_sync", "comms_logger"), syncs.host_sync, ("host",)),
    Detector(("slow_interconnect",), comm.slow_interconnect, ("comm", "ranks", "link")),
    Detector(
        (
            "overlap_off",
            "bucket_too_large",
            "bucket_too_small",
            "overlap_broken",
            "depth1_reduce_stall",
            "exposed_gradient_reduction",
            "zero2_reduces_every_microstep",
        ),
        reduction.gradient_reduction,
        ("comm", "exclusive"),
    ),
    Detector(
        ("post_step_allgather_exposed",), comm.post_step_allgather_exposed, ("comm", "exclusive")
    ),
    Detector(
        ("exposed_parameter_fetch", "zero3_late_prefetch", "zero3_bandwidth_bound"),
        comm.exposed_parameter_fetch,
        ("comm", "exclusive"),
    ),
    Detector(("exposed_all_to_all",), comm.exposed_all_to_all, ("comm", "exclusive")),
    Detector(
        ("exposed_activation_reduction",), comm.exposed_activation_reduction, ("comm", "exclusive")
    ),
    Detector(("exposed_p2p",), comm.exposed_p2p, ("comm", "exclusive")),
    Detector(("pipeline_bubble",), stages.pipeline_bubble, ("comm", "ranks", "exclusive")),
    Detector(("moe_imbalance",), work.moe_imbalance, ("comm", "ranks", "exclusive")),
    Detector(("activation_recompute",), work.activation_recompute, ("host",)),
    Detector(("uneven_work",), ranks.uneven_work, ("ranks", "exclusive")),
    Detector(("straggler_compute",), ranks.straggler_compute, ("ranks", "exclusive", "alike")),
    Detector(("slow_step_outlier",), outlier.slow_step_outlier),
    Detector(("straggler_host",), ranks.straggler_host, ("ranks", "exclusive")),
    Detector(("step_end_sync",), syncs.step_end_sync, ("host",)),
    Detector(("launch_bound",), host_side.launch_bound, ("run",)),
    Detector(
        ("config_contradiction", "config_without_effect", "allgather_bucket_no_effect"),
        declared.against_config,
        ("ds_config",),
    ),
)

_HAS: dict[str, Callable[[Context], bool]] = {
    "host": lambda c: all(v.facts.has_host_ops for v in c.views),
    "ranks": lambda c: c.waits is not None,
    "stacks": lambda c: any(v.host.shows_python for v in c.views),
    "loader": lambda c: any(v.facts.starting("enumerate(DataLoader)") for v in c.views),
    "comm": lambda c: any(len(v.comm) for v in c.views),
    "exclusive": lambda c: not c.shared_gpu,
    "unprofiled": lambda c: c.unprofiled_ns is not None,
    "steady": lambda c: recording.drift(c) is None,
    "alike": lambda c: not stages.has_stages(c),
    "steps": lambda c: all(v.facts.stepped for v in c.views),
    "run": lambda c: all(not did_not_run(v.facts) for v in c.views),
    "link": lambda c: c.link is not None,
    "ds_config": lambda c: c.ds_config is not None,
}

_LACKS = {
    "host": "host ops were not recorded",
    "ranks": "waiting is not known: every rank of a group, and both of a send, have to be read",
    "stacks": "neither Python stacks nor garbage collections were recorded",
    "loader": "no enumerate(DataLoader) range was recorded",
    "comm": "no communication was recorded",
    "exclusive": "another process used the GPU: lengths of collectives cannot be trusted",
    "unprofiled": "no manifest tells how long steps are without a profiler",
    "steady": "steps became longer or shorter while they were timed without a profiler",
    "alike": "the stages of a pipeline run different kernels",
    "steps": "no steps were found, and the start of a job allocates, too",
    "run": "kernel launches have no work on the GPU: a graph was captured, or work is missing",
    "link": "no large collective, or the GPU's link speed is not known, or the GPU was shared",
    "ds_config": "no ds_config is known: give it (--ds-config), or record with a collector",
}


def missing(context: Context, needs: tuple[str, ...]) -> str | None:
    """Why a detector cannot run; None if it can."""
    if all((v.breakdown.idle == v.breakdown.wall).all() for v in context.views):
        return "the recording holds no GPU work"
    return next((_LACKS[n] for n in needs if not _HAS[n](context)), None)


def run_all(context: Context) -> tuple[tuple[Finding, ...], tuple[Verdict, ...]]:
    """Run all detectors: findings by cost, largest first, and how each id ended.

    Where it is known what recording takes of the steps, costs are those of the run without it.
    """
    findings, verdicts = _run(context)
    known = recording.without_profiler(context)
    if known is not context:
        plain, verdicts = _run(known)
        findings = recording.beside_recorded(plain, findings)
    return tuple(sorted(findings, key=lambda f: -f.cost_ms_per_step)), verdicts


def _run(context: Context) -> tuple[tuple[Finding, ...], tuple[Verdict, ...]]:
    """Ask the detectors in their order: findings as they come, and how each id ended."""
    findings: list[Finding] = []
    verdicts: list[Verdict] = []
    for detector in DETECTORS:
        reason = missing(context, detector.needs)
        found = [] if reason else list(detector.run(context))
        findings += [c.finding for c in found]
        for c in found:
            context = _after(context, c)
        fired = {c.finding.id for c in found}
        for name in detector.ids:
            status = "fired" if name in fired else "not_applicable" if reason else "clean"
            verdicts.append(Verdict(name, status, reason))  # type: ignore[arg-type]
    return tuple(findings), tuple(verdicts)


def _after(context: Context, charge: Charge) -> Context:
    """The context in which a finding's cause is gone."""
    return replace(
        context,
        explained=context.explained + charge.cause,
        explained_launch=context.explained_launch + charge.of_launch,
    )
