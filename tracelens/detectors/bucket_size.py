"""Buckets of another size, and overlap_comm: what the passes would save, and what it takes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tracelens.detectors import proof
from tracelens.detectors.buckets import Change, Reducing, best_bucket, prices
from tracelens.detectors.context import Charge, Context, PerRank, charge, spread
from tracelens.findings import Proof
from tracelens.thresholds import (
    BUCKET_WORTH,
    FEW_REDUCTIONS,
    MANY_REDUCTIONS,
    OVERLAP_SYNC_NS,
)
from tracelens.thresholds.replay import NOISE_PCT
from tracelens.trace import Bools
from tracelens.units import format_bytes, format_count, format_ns, ns_to_ms


@dataclass(frozen=True, slots=True)
class Seen:
    """What the rules for the reduction share: rows, how many a pass, what is exposed, and proof.

    `reducing`: what the passes take with other buckets; None where nothing is reduced.
    """

    masks: list[Bools]
    count: float
    exposed: PerRank
    reducing: Reducing | None
    evidence: tuple[str, ...]
    proof: tuple[Proof, ...]


def overlap_off(context: Context, seen: Seen, r: Reducing) -> Charge:
    bucket = recorded_bucket(context, r)
    best = best_bucket(context, r)
    changes = prices(context, r, False, [bucket] if best is None else [bucket, best])
    config: dict[str, object] = {"zero_optimization.overlap_comm": True}
    size, more = bucket, ""
    if best is not None:
        gain = changes[best].stays - changes[bucket].stays
        if gain.min() >= NOISE_PCT / 100 * context.step_ns:
            size, more = best, f", with reduce_bucket_size {_about(best, r)}"
            config |= _bucket_of(best, r) or {}
    change = changes[size]
    return charge(
        context,
        "overlap_off",
        "Gradients are reduced with nothing beside them: overlap_comm is off",
        np.maximum(change.saved - OVERLAP_SYNC_NS, 0.0),
        ranks=tuple(v.rank for v in context.views),
        evidence=(
            *if_it_stays(context, context.saving(change.stays) - OVERLAP_SYNC_NS),
            *seen.evidence,
            *_memory(context, r, 2 * size - bucket),
            *_costs_text(context, r),
            *context.setup["overlap_comm"].evidence,
        ),
        remedy=f"overlap_comm: true{more} (needs a second bucket buffer; not with pipelines)",
        config=config,
        proof=seen.proof,
    )


def other_bucket(context: Context, seen: Seen) -> Charge | None:
    """Buckets of another size, where they save something; info where there are few or many."""
    r = seen.reducing
    if r is None:
        return None
    bucket, best = recorded_bucket(context, r), best_bucket(context, r)
    few, many = seen.count <= FEW_REDUCTIONS, seen.count > MANY_REDUCTIONS
    changes = prices(context, r, True, sorted({*r.sizes, bucket}))
    change = changes[bucket if best is None else best]
    saved = max(context.saving(change.stays), context.saving(change.saved))
    worth = saved >= (BUCKET_WORTH if few or many else NOISE_PCT / 100) * context.step_ns
    if best is None or best == bucket or not worth:
        best, none = None, np.zeros(len(context.views))
        change = Change(none, none, none)
        if not few and not many:
            return None
    found = _Better(bucket, best, change, changes)
    small = many if best is None else best > bucket
    return (_too_small if small else _too_large)(context, seen, r, found)


@dataclass(frozen=True, slots=True)
class _Better:
    """The recorded bucket, the one that is advised, if any, what that saves, and what others do."""

    bucket: int
    best: int | None
    change: Change
    others: dict[int, Change]

    def evidence(self, context: Context, seen: Seen, r: Reducing) -> tuple[str, ...]:
        """What the change gives, by size, and what it is reckoned from."""
        saved = context.saving(self.change.stays)
        more = 0 if self.best is None else 2 * (self.best - self.bucket)
        return (
            *if_it_stays(context, saved),
            *seen.evidence,
            *_memory(context, r, more),
            *self._by_size(context, r),
            *_costs_text(context, r),
        )

    def _by_size(self, context: Context, r: Reducing) -> tuple[str, ...]:
        """How much shorter or longer the step is with each size, on this link."""
        ms = {n: ns_to_ms(context.saving(c.stays)) for n, c in self.others.items()}
        told = ", ".join(
            f"{format_count(n)}: {0.0 - round(x, 1):+.1f}"
            for n, x in ms.items()
            if n != self.bucket
        )
        sure = context.waits is not None or self.best is not None
        shown = bool(r.elements and told and sure)
        return (f"the step with other sizes on this link, ms: {told}",) if shown else ()

    def advice(self, context: Context, r: Reducing) -> str:
        """The size to set, or why none."""
        if self.best is not None:
            return f"reduce_bucket_size {_about(self.best, r)}"
        if context.waits is None:
            return "all ranks of the run tell what another reduce_bucket_size would give"
        return (
            "none by the recorded passes: with no other reduce_bucket_size are they shorter by "
            f"{100 * BUCKET_WORTH:g}% of the step"
        )


def _too_large(context: Context, seen: Seen, r: Reducing, found: _Better) -> Charge:
    bucket, whole = context.setup.value("reduce_bucket_size"), r.elements
    holds_all = isinstance(bucket, int) and 0 < whole <= bucket
    return charge(
        context,
        "bucket_too_large",
        "overlap_comm has little to overlap: few and large reductions",
        found.change.saved,
        of_launch=found.change.of_launch,
        ranks=tuple(v.rank for v in context.views),
        evidence=(
            *found.evidence(context, seen, r),
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
        remedy=found.advice(context, r),
        config=_bucket_of(found.best, r),
        proof=seen.proof,
    )


def _too_small(context: Context, seen: Seen, r: Reducing, found: _Better) -> Charge:
    """Many small buckets: each costs the host, the link and a stall of the compute stream."""
    auto = _is_auto(context)
    pace = 1.0 if context.profiler is None else context.profiler.pace
    extra = pace * np.array([v.host.hook_extra_ns for v in context.views])
    return charge(
        context,
        "bucket_too_small",
        f"{seen.count:g} reductions a backward pass where fewer and larger ones would do, "
        "{cost} a step"
        if found.best is not None
        else f"{seen.count:g} small reductions a backward pass",
        found.change.saved,
        of_launch=found.change.of_launch,
        ranks=tuple(v.rank for v in context.views),
        evidence=(
            *found.evidence(context, seen, r),
            f"a gradient hook that reduces a bucket takes {format_ns(float(np.median(extra)))} "
            "longer on the host than one that does not",
            *auto,
        ),
        remedy=found.advice(context, r)
        + (" as a number, which is the same whatever the model" if auto else ""),
        config=_bucket_of(found.best, r),
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


def _about(size: int, r: Reducing) -> str:
    """A bucket size in words: elements, or a part of the gradients where those are unknown."""
    if r.elements:
        return f"{format_count(size)} elements"
    return f"one {max(round(r.whole / size), 1)}th of the gradients"


def _bucket_of(size: int | None, r: Reducing) -> dict[str, object] | None:
    return {"zero_optimization.reduce_bucket_size": size} if size and r.elements else None


def recorded_bucket(context: Context, r: Reducing) -> int:
    """reduce_bucket_size, in the recurrence's unit; the largest reduction where it is unknown."""
    bucket = context.setup.value("reduce_bucket_size")
    known = isinstance(bucket, int) and not isinstance(bucket, bool) and r.elements > 0
    return bucket if known else r.largest  # type: ignore[return-value]


def _costs_text(context: Context, r: Reducing) -> tuple[str, ...]:
    """What the recurrence takes a reduction for; transfer is the least where it is not known."""
    if context.waits is None:
        return (f"reducing a bucket is taken to take {spread(r.host_ns)} of the host",)
    if not r.elements:
        return ()
    return (
        f"a reduction is taken to last {format_ns(r.line.alpha_ns)} and {r.line.beta_ns:.3g} ns an "
        f"element, and to take {spread(r.host_ns)} of the host",
    )


def _memory(context: Context, r: Reducing, more: int) -> tuple[str, ...]:
    """What larger or more buffers take; `more` in elements."""
    size = _element_bytes(context) * more
    if not r.elements or not size:
        return ()
    word = "more" if size > 0 else "less"
    return (f"the bucket's buffers take {format_bytes(abs(size))} {word}",)


def _element_bytes(context: Context) -> int:
    """Bytes of a gradient's element as it is reduced."""
    v = context.views[0]
    on = v.roles.reduction & (v.comm.bytes > 0) & (v.comm.nelems > 0)
    return int(np.median(v.comm.bytes[on] // v.comm.nelems[on])) if on.any() else 0


def if_it_stays(context: Context, saved: float) -> tuple[str, ...]:
    """What the remedy gives where a slow link stays: said beside the cost, which the link has."""
    if saved <= 0 or not _is_slow(context):
        return ()
    return (f"the slow link has its cost; if it stays, this saves {format_ns(saved)} a step",)


def _is_slow(context: Context) -> bool:
    return context.link is not None and context.link.slow
