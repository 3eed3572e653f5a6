"""The reduction of gradients: what leaves it exposed, and what would hide it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from tracelens.detectors import proof
from tracelens.detectors.bucket_size import (
    Seen,
    if_it_stays,
    other_bucket,
    overlap_off,
    recorded_bucket,
)
from tracelens.detectors.buckets import find_reducing, prices
from tracelens.detectors.context import Charge, Context, PerRank, charge
from tracelens.detectors.depth import depth1_reduce_stall
from tracelens.detectors.exposure import amount_text, exposed_of, sure_of
from tracelens.host import Cause
from tracelens.infer.zero import by_micro_step
from tracelens.thresholds import (
    BROKEN_IDLE_SHARE,
    BROKEN_OVERLAP,
    FEW_REDUCTIONS,
    MANY_REDUCTIONS,
)
from tracelens.units import format_bytes


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


def _look(context: Context) -> Seen:
    masks = [r.reduction for r in context.roles()]
    exposed, count = exposed_of(context, "reduction"), reductions_per_pass(context)
    return Seen(
        masks,
        count,
        exposed,
        find_reducing(context),
        (f"reductions in a backward pass: {count:g}; {amount_text(context, 'reduction')}",),
        proof.of_rows(context, masks),
    )


def _by_setup(context: Context) -> Iterator[Charge]:
    """The remedy by the setup.

    One of overlap_off, overlap_broken, bucket_too_large, bucket_too_small or, where none of them
    explains it, exposed_gradient_reduction, which depth1_reduce_stall may go before. Cost: the
    difference that the remedy makes to the passes by the recurrence of `tracelens.reducing`, and
    less `OVERLAP_SYNC_NS` for switching overlap_comm on.
    """
    seen = _look(context)
    stage = context.setup["zero_stage"]
    zero = stage.value in (1, 2) or (stage.value is None and set(stage.candidates) == {1, 2})
    overlap = context.setup.value("overlap_comm") if zero and seen.reducing else None
    shows = bool(seen.exposed.max() > 0)
    if overlap is False and shows and seen.reducing:
        yield overlap_off(context, seen, seen.reducing)
        return
    if overlap is True and seen.count > FEW_REDUCTIONS and shows and _nothing_hidden(context, seen):
        yield _overlap_broken(context, seen)
        return
    usual = FEW_REDUCTIONS < seen.count <= MANY_REDUCTIONS
    many = seen.count > MANY_REDUCTIONS
    other = other_bucket(context, seen) if overlap is True and (shows or many) else None
    if other is not None:
        yield other
        seen = replace(seen, exposed=np.maximum(seen.exposed - other.cause, 0.0))
        context = replace(context, explained=context.explained + other.cause)
    if seen.exposed.min() > 0 and (usual or overlap is not True):
        for c in depth1_reduce_stall(context, seen.masks) if overlap and other is None else ():
            yield c
            seen = replace(seen, exposed=np.maximum(seen.exposed - c.cause, 0.0))
            context = replace(context, explained=context.explained + c.cause)
        yield _exposed(context, seen)


def _nothing_hidden(context: Context, seen: Seen) -> bool:
    """Whether no reduction runs beside compute although the host is ahead of the GPU."""
    if context.waits is None:
        return False
    idle = context.recorded_idle(Cause.LAUNCH).max()
    ahead = idle < BROKEN_IDLE_SHARE * context.step_ns
    return bool(ahead and _hidden_share(context, seen) < BROKEN_OVERLAP)


def _hidden_share(context: Context, seen: Seen) -> float:
    """The part of the reductions' transfer that runs beside compute, over all ranks."""
    whole = float(context.transfer(seen.masks).sum())
    return 1 - float(context.exposed_transfer(seen.masks).sum()) / whole if whole > 0 else 1.0


def _overlap_broken(context: Context, seen: Seen) -> Charge:
    return charge(
        context,
        "overlap_broken",
        "overlap_comm is on and overlaps nothing: compute and reductions alternate",
        _unbroken(context, seen),
        ranks=tuple(v.rank for v in context.views),
        evidence=(*seen.evidence, *context.setup["overlap_comm"].evidence),
        remedy="if you run DeepSpeed 0.17.5 to 0.18.4: upgrade to 0.18.5 or later; these versions "
        "make the streams wait for each other at each bucket (pull request 7371; undone by 7805). "
        "Else set contiguous_gradients true, and remove the whole comms_logger key",
        proof=seen.proof,
    )


def _unbroken(context: Context, seen: Seen) -> PerRank:
    """What overlap that works would save: what runs one after the other is as if it were off."""
    r = seen.reducing
    if r is None:
        return np.zeros(len(context.views))
    bucket = recorded_bucket(context, r)
    return prices(context, r, False, [bucket])[bucket].saved


def _exposed(context: Context, seen: Seen) -> Charge:
    return charge(
        context,
        "exposed_gradient_reduction",
        "Gradient reduction is exposed, {cost} a step",
        np.minimum(seen.exposed, sure_of(context, "reduction")),
        ranks=tuple(v.rank for v in context.views),
        evidence=seen.evidence,
        remedy=(
            "it is overlapped already: what is left is longer than the compute beside it, or the "
            "last bucket's, behind which no backward pass is left; more compute per gradient "
            "(micro-batch, accumulation) or a faster link makes it less"
            if _hidden_share(context, seen) >= BROKEN_OVERLAP
            else "overlap it with the backward pass (ZeRO-1 or 2 with overlap_comm, DDP, ZeRO-3 "
            "with overlap_comm), or give the pass more compute per gradient (micro-batch)"
        ),
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
            *if_it_stays(context, stays),
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


def reductions_per_pass(context: Context) -> float:
    """Reductions of gradients per backward pass, mean over ranks."""
    counts = []
    for view, roles in zip(context.views, context.roles(), strict=True):
        passes = view.facts.passes
        inside = passes.step >= 0
        n = int(view.whole[passes.step[inside]].sum())
        counts.append(float(roles.reduction.sum()) / max(n, view.facts.n_steps, 1))
    return float(np.mean(counts))
