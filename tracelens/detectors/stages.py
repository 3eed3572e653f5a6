"""Pipeline stages: what they wait for each other, and whose work is longest."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tracelens.detectors import proof
from tracelens.detectors.context import Charge, Context, RankView, charge
from tracelens.host import Cause
from tracelens.infer.result import Setup
from tracelens.intervals import clip_lengths, intersect, union
from tracelens.matching import waiting_spans
from tracelens.thresholds import ENOUGH_MICRO_BATCHES, EXTRA_WORK_SHARE
from tracelens.trace import Int64s
from tracelens.units import format_ns


def has_stages(context: Context) -> bool:
    """Whether ranks send to each other between the passes."""
    return any(v.roles.p2p.any() for v in context.views)


def pipeline_bubble(context: Context) -> Iterator[Charge]:
    """How long do all pipeline stages stand waiting for another one?

    Cost: the exposed waiting of the rank that waits least. A step is a rank's own time and its
    waiting, so with nobody waiting it is shorter by that; what others wait longer is uneven work.
    While the pipeline drains, the first to be done waits in the next collective: that counts, as
    long as some rank waits as much for its neighbours. No more than even stages leave empty, where
    stages and micro-batches are known (else no more than all ranks wait in sends and receives): the
    rest is late hosts and uneven work.
    """
    waits = context.waits
    if not has_stages(context) or waits is None:
        return
    between = context.per_rank([_waiting(v) for v in context.views])
    stages, micro = _shape(context.setup)
    known = stages > 1 and micro > 0
    most = _ideal(stages, micro) * context.step_ns if known else float(between.min())
    empty = min(float(waits.min()), float(between.max()), most)
    if empty <= 0:
        return
    few = stages > 1 and 0 < micro < ENOUGH_MICRO_BATCHES * stages
    yield charge(
        context,
        "pipeline_bubble",
        "Pipeline stages wait for each other, {cost} a step",
        # waiting is a rank's own time to spare already: charging it explains nothing of the rest
        np.zeros(len(waits)),
        idle_ns=empty,
        ranks=tuple(v.rank for v in context.views),
        evidence=(
            f"ranks wait {format_ns(float(waits.min()))} to {format_ns(float(waits.max()))} a step "
            "for others with no compute beside it, of that "
            f"{format_ns(float(between.min()))} to {format_ns(float(between.max()))} in sends and "
            "receives",
            *_ideal_text(stages, micro),
        ),
        remedy="more micro-batches a step (a larger batch, or smaller micro-batches), an "
        "interleaved schedule, stages of equal length (partition_method)",
        config={"gradient_accumulation_steps": ENOUGH_MICRO_BATCHES * stages} if few else None,
        proof=proof.of_waits(context, [v.roles.p2p for v in context.views]),
    )


def _waiting(view: RankView) -> Int64s:
    """Exposed waiting in sends and receives, per step."""
    c, on = view.comm, view.roles.p2p
    arrived = c.start_ns[on] + np.maximum(view.wait_ns[on], 0)
    spans = waiting_spans(c, view.wait_ns, view.compute)
    spans = intersect(union(c.start_ns[on], arrived), spans)
    return clip_lengths(spans, view.steps.start_ns, view.steps.end_ns)


def _shape(setup: Setup) -> tuple[int, int]:
    """Stages and micro-batches a step; 0 where unknown."""
    keys = "pipeline_parallel_size", "gradient_accumulation_steps"
    stages, micro = (int(setup.value(k) or 0) for k in keys)
    return stages, micro


def _ideal(stages: int, micro: int) -> float:
    """Share of the step that even stages leave empty."""
    return (stages - 1) / (micro + stages - 1)


def _ideal_text(stages: int, micro: int) -> tuple[str, ...]:
    if stages < 2 or micro < 1:
        return ()
    return (
        f"{stages} even stages and {micro} micro-batches leave (p - 1) / (m + p - 1) = "
        f"{100 * _ideal(stages, micro):.0f}% of the step empty (arXiv:1811.06965), and no more "
        "is charged",
    )


def uneven_stages(context: Context) -> Iterator[Charge]:
    """Has a pipeline stage more GPU work than the mean of all?

    Cost: its compute above the mean, less the time in which its GPU idles for its host anyway: a
    step follows the slowest stage, and what that gives away the others take.
    """
    compute = context.per_rank([v.breakdown.compute for v in context.views])
    above = np.maximum(compute - compute.mean(), 0.0)
    if above.max() <= EXTRA_WORK_SHARE * float(compute.mean()):
        return
    long = above > 0.5 * above.max()
    ranks = tuple(v.rank for v, a in zip(context.views, long, strict=True) if a)
    yield charge(
        context,
        "uneven_work",
        f"The stage of rank {ranks[0]} computes {format_ns(float(above.max()))} a step longer "
        "than the mean stage",
        np.maximum(above - context.idle(Cause.LAUNCH), 0.0),
        ranks=ranks,
        evidence=(
            "compute by rank: "
            + ", ".join(
                f"{v.rank}: {format_ns(float(x))}"
                for v, x in zip(context.views, compute, strict=True)
            ),
        ),
        remedy="cut the model by time, not by layers or parameters alone: the head, the embedding "
        "and the loss are work too (partition_method, or fewer layers on that stage)",
    )
