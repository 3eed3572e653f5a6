"""Causes of a slow step: one small pure function each, in a tuple that you can read.

A detector takes a `Context` and yields findings. Each run ends as fired, clean, or not applicable
with the reason, so that silence is never mistaken for health.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from tracelens.detectors import comm, exposure, host_side, ranks, reduction
from tracelens.detectors.context import Charge, Context, RankView, Verdict
from tracelens.findings import Finding
from tracelens.thresholds import STALLS

__all__ = ["DETECTORS", "Context", "Detector", "RankView", "Verdict", "run_all"]


@dataclass(frozen=True, slots=True)
class Detector:
    """A detector: the ids it can fire, what it needs, and the function.

    `needs` may name ``host`` (host ops), ``ranks`` (waiting known of several ranks), ``loader``,
    ``comm``, ``link`` or ``exclusive`` (no other process on the GPU).
    """

    ids: tuple[str, ...]
    run: Callable[[Context], Iterator[Charge]]
    needs: tuple[str, ...] = ()


#: In this order: what is explained by one is not charged again by a later one.
DETECTORS: tuple[Detector, ...] = (
    Detector(("gpu_shared",), ranks.gpu_shared),
    Detector(("dataloader_stall",), host_side.dataloader_stall, ("loader",)),
    Detector(("allocator_churn",), host_side.allocator_churn),
    Detector(("checkpoint_save",), host_side.checkpoint_save),
    Detector(("host_pause",), host_side.host_pause, ("host",)),
    Detector(("optimizer_offload_stall",), host_side.optimizer_offload_stall, ("host",)),
    Detector(("pageable_copy",), host_side.pageable_copy),
    Detector(("param_offload_stall",), host_side.param_offload_stall),
    Detector(("host_sync", "comms_logger"), host_side.host_sync, ("host",)),
    Detector(("slow_interconnect",), comm.slow_interconnect, ("comm", "ranks", "link")),
    Detector(
        (
            "overlap_off",
            "bucket_too_large",
            "bucket_too_small",
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
        ("exposed_parameter_fetch", "zero3_late_prefetch"),
        comm.exposed_parameter_fetch,
        ("comm", "exclusive"),
    ),
    Detector(("exposed_all_to_all",), comm.exposed_all_to_all, ("comm", "exclusive")),
    Detector(
        ("exposed_activation_reduction",), comm.exposed_activation_reduction, ("comm", "exclusive")
    ),
    Detector(("pipeline_bubble",), comm.pipeline_bubble, ("comm", "exclusive")),
    Detector(("uneven_work", "straggler_compute"), ranks.uneven_work, ("ranks", "exclusive")),
    Detector(("slow_step_outlier",), ranks.slow_step_outlier),
    Detector(("straggler_host",), ranks.straggler_host, ("ranks", "exclusive")),
    Detector(("launch_bound",), host_side.launch_bound),
)

_HAS: dict[str, Callable[[Context], bool]] = {
    "host": lambda c: all(v.facts.has_host_ops for v in c.views),
    "ranks": lambda c: c.waits is not None,
    "loader": lambda c: any(v.facts.starting("enumerate(DataLoader)") for v in c.views),
    "comm": lambda c: any(len(v.comm) for v in c.views),
    "exclusive": lambda c: not c.shared_gpu,
    "link": lambda c: exposure.find_link(c) is not None,
}

_LACKS = {
    "host": "host ops were not recorded",
    "ranks": "waiting is not known: every rank of each group has to be read, sends not counted",
    "loader": "no enumerate(DataLoader) range was recorded",
    "comm": "no communication was recorded",
    "exclusive": "another process used the GPU: lengths of collectives cannot be trusted",
    "link": "no large collective, or the GPU's link speed is not known, or the GPU was shared",
}


def missing(context: Context, needs: tuple[str, ...]) -> str | None:
    """Why a detector cannot run; None if it can."""
    return next((_LACKS[n] for n in needs if not _HAS[n](context)), None)


def is_shared(views: tuple[RankView, ...]) -> bool:
    """Whether another process used some rank's GPU."""
    return any(int(v.host.stalls.sum()) >= STALLS for v in views)


def run_all(context: Context) -> tuple[tuple[Finding, ...], tuple[Verdict, ...]]:
    """Run all detectors: findings by cost, largest first, and how each id ended."""
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
    return tuple(sorted(findings, key=lambda f: -f.cost_ms_per_step)), tuple(verdicts)


def _after(context: Context, charge: Charge) -> Context:
    """The context in which a finding's cause is gone."""
    launch = charge.cause if charge.of_launch else charge.cause * 0.0
    return replace(
        context,
        explained=context.explained + charge.cause,
        explained_launch=context.explained_launch + launch,
    )
