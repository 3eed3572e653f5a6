"""The reduction of gradients: what leaves it exposed, and what would hide it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from tracelens.detectors import proof
from tracelens.detectors.context import Charge, Context, PerRank, charge, spread
from tracelens.detectors.depth import depth1_reduce_stall
from tracelens.detectors.exposure import amount_text, exposed_of, sure_of
from tracelens.findings import Proof
from tracelens.host import Cause
from tracelens.infer.zero import by_micro_step
from tracelens.intervals import clip_lengths
from tracelens.thresholds import (
    BROKEN_IDLE_SHARE,
    BROKEN_OVERLAP,
    BUCKET_HOST_NS,
    CONTENTION,
    FEW_REDUCTIONS,
    GOOD_REDUCTIONS,
    MANY_REDUCTIONS,
    OVERLAP_SYNC_NS,
)
from tracelens.trace import Bools
from tracelens.units import format_bytes, format_count, format_ns


def gradient_reduction(context: Context) -> Iterator[Charge]:
    """What leaves the reduction of gradients exposed, and what would hide it?

    First by the setup, then reductions that another stage would not make.
    """
    left = sure_of(context, "reduction")
    for c in _by_setup(context):
        yield c
        left = np.maximum(left - (c.cause - c.of_launch), 0.0)
        context = replace(context, explained=context.explained + c.cause)
    yield from _every_micro_step(context, left)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the rules for the reduction share: rows, how many a pass, what is exposed, and proof."""

    masks: list[Bools]
    count: float
    exposed: PerRank
    hideable: PerRank
    evidence: tuple[str, ...]
    proof: tuple[Proof, ...]


def _look(context: Context) -> _Seen:
    masks = [r.reduction for r in context.roles()]
    exposed, count = exposed_of(context, "reduction"), reductions_per_pass(context)
    return _Seen(
        masks,
        count,
        exposed,
        _hideable(context, sure_of(context, "reduction")),
        (f"reductions in a backward pass: {count:g}; {amount_text(context, 'reduction')}",),
        proof.of_rows(context, masks),
    )


def _by_setup(context: Context) -> Iterator[Charge]:
    """The remedy by the setup.

    One of overlap_off, bucket_too_large, bucket_too_small, overlap_broken or, where none of them
    explains it, exposed_gradient_reduction, which depth1_reduce_stall may go before. Cost: the
    exposed transfer that the remedy would hide, less `CONTENTION`, and less `OVERLAP_SYNC_NS` for
    switching overlap_comm on; for many small buckets the host's work for them where the GPU waits
    for its host.
    """
    seen = _look(context)
    stage = context.setup["zero_stage"]
    zero = stage.value in (1, 2) or (stage.value is None and set(stage.candidates) == {1, 2})
    overlap = context.setup.value("overlap_comm")
    if zero and overlap is True and seen.count > MANY_REDUCTIONS:
        yield from _too_small(context, seen.count)
    elif seen.exposed.max() <= 0:
        return
    elif zero and overlap is False:
        yield _overlap_off(context, seen)
    elif zero and overlap is True and 0 < seen.count <= FEW_REDUCTIONS:
        yield _too_large(context, seen)
    elif zero and overlap is True and _nothing_hidden(context, seen):
        yield _overlap_broken(context, seen)
    elif seen.exposed.min() > 0:
        if zero and overlap is True:
            for c in depth1_reduce_stall(context, seen.masks):
                yield c
                seen = replace(seen, exposed=np.maximum(seen.exposed - c.cause, 0.0))
                context = replace(context, explained=context.explained + c.cause)
        yield _exposed(context, seen)


def _overlap_off(context: Context, seen: _Seen) -> Charge:
    return charge(
        context,
        "overlap_off",
        "Gradients are reduced with nothing beside them: overlap_comm is off",
        np.maximum(seen.hideable - OVERLAP_SYNC_NS, 0.0),
        ranks=tuple(v.rank for v in context.views),
        evidence=(
            *_as_it_is(context, OVERLAP_SYNC_NS),
            *seen.evidence,
            *context.setup["overlap_comm"].evidence,
        ),
        remedy="overlap_comm: true (needs a second bucket buffer; not with pipelines)",
        config={"zero_optimization.overlap_comm": True},
        proof=seen.proof,
    )


def _too_large(context: Context, seen: _Seen) -> Charge:
    size = _good_bucket(context)
    bucket, whole = context.setup.value("reduce_bucket_size"), GOOD_REDUCTIONS * size
    holds_all = isinstance(bucket, int) and 0 < whole <= bucket
    host = _host_for_more(context, seen.count)
    cause = np.maximum(seen.hideable - host, 0.0)
    worth = bool((seen.hideable >= host).all())
    return charge(
        context,
        "bucket_too_large",
        "overlap_comm has little to overlap: few and large reductions",
        cause,
        ranks=tuple(v.rank for v in context.views),
        evidence=(
            *_as_it_is(context),
            *(
                (f"more would cost the host {spread(host)} a step, which it does not have",)
                if host.max() > 0
                else ()
            ),
            *seen.evidence,
            *context.setup["reduce_bucket_size"].evidence,
            *(
                (
                    f"one bucket holds all {format_count(whole)} gradients: it is not full "
                    "before the pass ends, so nothing can be overlapped",
                )
                if holds_all
                else ()
            ),
        ),
        remedy=("" if worth else "first more work per launch (launch_bound); then ")
        + f"reduce_bucket_size {_about(size)}: {GOOD_REDUCTIONS} buckets a pass, of which only the "
        "last stays exposed",
        config=_bucket_of(size) if worth else None,
        proof=seen.proof,
    )


def _host_for_more(context: Context, count: float) -> PerRank:
    """Host time that well-sized buckets would take of each rank on top, ns a step.

    As far as the GPU waits for its host in backward passes: a host that is ahead has the time.
    """
    passes = np.array([v.facts.n_passes for v in context.views])
    more = max(GOOD_REDUCTIONS - count, 0.0) * passes * BUCKET_HOST_NS
    return np.minimum(more, _host_in_backward(context))


def _host_in_backward(context: Context) -> PerRank:
    """Idle time of each rank in which its host has not launched the next backward work."""
    return context.hosts([v.host.backward_launch_ns for v in context.views], Cause.LAUNCH)


def _nothing_hidden(context: Context, seen: _Seen) -> bool:
    """Whether no reduction runs beside compute although the host is ahead of the GPU."""
    if context.waits is None:
        return False
    idle = context.recorded_idle(Cause.LAUNCH).max()
    hidden = context.transfer(seen.masks) - context.exposed_transfer(seen.masks)
    ahead = idle < BROKEN_IDLE_SHARE * context.step_ns
    return bool(ahead and hidden.sum() < BROKEN_OVERLAP * context.transfer(seen.masks).sum())


def _overlap_broken(context: Context, seen: _Seen) -> Charge:
    return charge(
        context,
        "overlap_broken",
        "overlap_comm is on and overlaps nothing: compute and reductions alternate",
        seen.hideable,
        ranks=tuple(v.rank for v in context.views),
        evidence=(*seen.evidence, *context.setup["overlap_comm"].evidence),
        remedy="if you run DeepSpeed 0.17.5 to 0.18.4: upgrade to 0.18.5 or later; these versions "
        "make the streams wait for each other at each bucket (pull request 7371; undone by 7805). "
        "Else set contiguous_gradients true, and remove the whole comms_logger key",
        proof=seen.proof,
    )


def _exposed(context: Context, seen: _Seen) -> Charge:
    return charge(
        context,
        "exposed_gradient_reduction",
        "Gradient reduction is exposed, {cost} a step",
        np.minimum(seen.exposed, sure_of(context, "reduction")),
        ranks=tuple(v.rank for v in context.views),
        evidence=seen.evidence,
        remedy="overlap it with the backward pass (ZeRO-1 or 2 with overlap_comm, DDP, ZeRO-3 "
        "with overlap_comm), or give the pass more compute per gradient (micro-batch)",
        proof=seen.proof,
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
    stays = float((context.exposed_transfer(rows, least=True)).min())
    view = context.views[0]
    moved = float(np.maximum(view.comm.bytes[rows[0]], 0).sum()) / max(view.facts.n_steps, 1)
    passes = f"{view.facts.n_passes:g}"
    yield charge(
        context,
        "zero2_reduces_every_microstep",
        f"ZeRO-2 reduces all gradients in each of {passes} micro-steps, {{cost}} a step",
        left * np.minimum(share, 1.0),
        ranks=tuple(v.rank for v in context.views),
        evidence=(
            f"{format_bytes(moved)} a step are reduced before the last of {passes} micro-steps",
            f"{100 * float(np.minimum(share, 1.0).mean()):.0f}% of the exposed reduction is theirs",
            *_against_zero3(view.facts.n_passes),
            *(_if_it_stays(stays) if _is_slow(context) else ()),
        ),
        remedy="stage 1 reduces once a step and keeps whole gradients in memory; or fewer and "
        "larger micro-steps",
        config={"zero_optimization.stage": 1},
        proof=proof.of_rows(context, rows),
    )


def _against_zero3(passes: float) -> tuple[str, ...]:
    """What stages move a step, in parameters over the bus (2 for an all-reduce of all, 1 else).

    ZeRO-3 that keeps parameters gathered between passes (stage3_max_live_parameters) gathers them
    once a pass, else twice.
    """
    zero2, least, most = 2 * passes + 1, 2 * passes, 3 * passes
    return (
        f"a step moves each parameter {zero2:g} times over the bus; in ZeRO-1 3 times, in ZeRO-3 "
        f"{least:g} times where it keeps parameters gathered and {most:g} where not",
    )


def _too_small(context: Context, count: float) -> Iterator[Charge]:
    """Many small buckets: each costs the host more than its transfer takes."""
    pace = 1.0 if context.profiler is None else context.profiler.pace
    extra = pace * np.array([v.host.hook_extra_ns for v in context.views])
    per_step = np.array([v.host.hook_reductions / max(len(v.steps), 1) for v in context.views])
    cause = extra * np.maximum(per_step * (1 - GOOD_REDUCTIONS / count), 0)
    # a host that is ahead of its GPU in the pass has that time to spare; what a rank waits for
    # others may hide that, so where waiting is unknown any idle time for its host counts
    room = _host_in_backward(context)
    cause = np.minimum(cause, room if context.waits is not None else context.idle(Cause.LAUNCH))
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
            *_is_auto(context),
        ),
        remedy=f"reduce_bucket_size {_about(size)} ({GOOD_REDUCTIONS} a pass) as a number: Hugging "
        'Face\'s "auto" sets hidden_size squared, smaller than most weights',
        config=_bucket_of(size),
        proof=proof.of_moments(context, "hook"),
    )


def _is_auto(context: Context) -> tuple[str, ...]:
    """Whether the bucket is what Hugging Face puts for "auto": hidden_size squared."""
    bucket = context.setup.value("reduce_bucket_size")
    if not isinstance(bucket, int) or isinstance(bucket, bool) or bucket < 1:
        return ()
    hidden = math.isqrt(bucket)
    weights = set().union(*(v.facts.weights for v in context.views))
    if hidden * hidden != bucket or bucket not in weights or max(weights) <= bucket:
        return ()
    return (
        f"the bucket has {hidden:,} x {hidden:,} elements, a square weight's size, as Hugging Face "
        'puts for "auto"; every larger weight is a message of its own',
    )


def _about(size: int) -> str:
    return f"about {format_count(size)} elements" if size else "a twelfth of the gradients"


def _bucket_of(size: int) -> dict[str, int] | None:
    return {"zero_optimization.reduce_bucket_size": size} if size else None


def _good_bucket(context: Context) -> int:
    """Elements of a bucket that splits the gradients of one pass well, two digits; 0 unknown."""
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
    if not _is_slow(context):
        return ()
    whole = context.exposed_transfer([r.reduction for r in context.roles()], least=True)
    return _if_it_stays(float((_hideable(context, whole) - less_ns).min()))


def _is_slow(context: Context) -> bool:
    return context.link is not None and context.link.slow


def _if_it_stays(saved: float) -> tuple[str, ...]:
    if saved <= 0:
        return ()
    return (f"the slow link has its cost; if it stays, this saves up to {format_ns(saved)} a step",)


def reductions_per_pass(context: Context) -> float:
    """Reductions of gradients per backward pass, mean over ranks."""
    counts = []
    for view, roles in zip(context.views, context.roles(), strict=True):
        passes = view.facts.passes
        inside = passes.step >= 0
        n = int(view.whole[passes.step[inside]].sum())
        counts.append(float(roles.reduction.sum()) / max(n, view.facts.n_steps, 1))
    return float(np.mean(counts))
