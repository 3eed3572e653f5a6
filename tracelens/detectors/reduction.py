"""The reduction of gradients: what leaves it exposed, and what would hide it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from tracelens.detectors.context import Charge, Context, PerRank, charge
from tracelens.detectors.exposure import amount_text, exposed_of, find_link, sure_of
from tracelens.host import Cause
from tracelens.infer.zero import by_micro_step
from tracelens.intervals import clip_lengths
from tracelens.thresholds import (
    CONTENTION,
    FEW_REDUCTIONS,
    GOOD_REDUCTIONS,
    MANY_REDUCTIONS,
    OVERLAP_SYNC_NS,
)
from tracelens.units import format_bytes, format_count, format_ns


def gradient_reduction(context: Context) -> Iterator[Charge]:
    """What leaves the reduction of gradients exposed, and what would hide it?

    First by the setup, then reductions that another stage would not make.
    """
    left = exposed_of(context, "reduction")
    for c in _by_setup(context):
        yield c
        if not c.of_launch:
            left = np.maximum(left - c.cause, 0.0)
        context = replace(context, explained=context.explained + c.cause)
    yield from _every_micro_step(context, left)


def _by_setup(context: Context) -> Iterator[Charge]:
    """The remedy by the setup.

    One of overlap_off, bucket_too_large, bucket_too_small or, where none of them explains it,
    exposed_gradient_reduction. Cost: the exposed transfer that the remedy would hide, less
    `CONTENTION`, and less `OVERLAP_SYNC_NS` for switching overlap_comm on; for many small buckets
    the host's work for them where the GPU waits for its host.
    """
    exposed = exposed_of(context, "reduction")
    count = _reductions(context)
    stage = context.setup["zero_stage"]
    zero = stage.value in (1, 2) or (stage.value is None and set(stage.candidates) == {1, 2})
    overlap = context.setup.value("overlap_comm")
    seen = (f"reductions in a backward pass: {count:g}; {amount_text(context, exposed)}",)
    hideable = sure_of(context, _hideable(context, exposed))

    def evidence(key: str) -> tuple[str, ...]:
        return context.setup[key].evidence

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
            evidence=(*_as_it_is(context, OVERLAP_SYNC_NS), *seen, *evidence("overlap_comm")),
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
            evidence=(*_as_it_is(context), *seen, *evidence("reduce_bucket_size")),
            remedy=f"reduce_bucket_size about {format_count(size)} elements: "
            f"{GOOD_REDUCTIONS} buckets a pass, of which only the last stays exposed",
            config={"zero_optimization.reduce_bucket_size": size},
        )
    elif exposed.min() > 0:
        yield charge(
            context,
            "exposed_gradient_reduction",
            "Gradient reduction is exposed, {cost} a step",
            sure_of(context, exposed),
            ranks=tuple(v.rank for v in context.views),
            evidence=seen,
            remedy="overlap it with the backward pass (ZeRO-1 or 2 with overlap_comm, DDP, ZeRO-3 "
            "with overlap_comm), or give the pass more compute per gradient (micro-batch)",
        )


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
        sure_of(context, left * np.minimum(share, 1.0)),
        ranks=tuple(v.rank for v in context.views),
        evidence=(
            f"{format_bytes(moved)} a step are reduced before the last of {passes} micro-steps",
            f"{100 * float(np.minimum(share, 1.0).mean()):.0f}% of the exposed reduction is theirs",
        ),
        remedy="stage 1 reduces once a step and keeps whole gradients in memory; or fewer and "
        "larger micro-steps",
        config={"zero_optimization.stage": 1},
    )


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
    saved = float((sure_of(context, _hideable(context, whole)) - less_ns).min())
    if saved <= 0:
        return ()
    return (f"the slow link has its cost; if it stays, this saves up to {format_ns(saved)} a step",)


def _reductions(context: Context) -> float:
    """Reductions of gradients per backward pass, mean over ranks."""
    counts = []
    for view, roles in zip(context.views, context.roles(), strict=True):
        passes = view.facts.passes
        inside = passes.step >= 0
        n = int(view.whole[passes.step[inside]].sum())
        counts.append(float(roles.reduction.sum()) / max(n, view.facts.n_steps, 1))
    return float(np.mean(counts))
