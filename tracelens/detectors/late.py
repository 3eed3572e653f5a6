"""Work that starts late on an idle device, or is interrupted: by another process, or who knows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tracelens.detectors import proof
from tracelens.detectors.context import Charge, Context, PerRank, RankView, charge, ranks_of
from tracelens.detectors.stages import has_stages
from tracelens.findings import Proof
from tracelens.host import Cause
from tracelens.lengths import Stretch, stretch
from tracelens.thresholds import COMPARED_RANKS, INFO_SHARE, SLICED_SHARE, STALL_NS, STALLS
from tracelens.trace import Bools, Int64s
from tracelens.units import format_ns


def is_shared(views: Sequence[RankView]) -> bool:
    """Whether another process used some rank's GPU.

    Late starts that only that explains have to be `STALLS` or more, and `SLICED_SHARE` of all:
    where the recording lacks work, or a stream waits for a signal, what starts late was queued.
    """
    return any(_is_sliced(v) for v in views)


def _is_sliced(view: RankView) -> bool:
    n = _count(view, view.host.late.plain)
    return n >= STALLS and n >= SLICED_SHARE * int(view.host.stalls.sum())


def _all(view: RankView) -> Bools:
    return np.ones(len(view.host.late.row), bool)


def _count(view: RankView, on: Bools) -> int:
    return int(view.host.late.count(view.steps, on).sum())


def _counts(context: Context, chosen: Sequence[Bools]) -> Int64s:
    """How many of the chosen late starts each rank has."""
    pairs = zip(context.views, chosen, strict=True)
    return np.array([_count(v, on) for v, on in pairs], np.int64)


def _spent(context: Context, chosen: Sequence[Bools]) -> PerRank:
    """How long the chosen late starts of each rank are, ns a step."""
    pairs = zip(context.views, chosen, strict=True)
    return context.per_rank([v.host.late.length_ns(v.steps, on) for v, on in pairs])


def gpu_shared(context: Context) -> Iterator[Charge]:
    """Does another process use the GPU?

    Launched work that an otherwise idle device starts late has waited for somebody else's time
    slice, and kernels that one interrupted are longer by it. Cost: both, where they make the step
    longer; less, as of straggler_compute, the time in which that GPU idles for its host.
    Collectives that were stretched are not told apart from slow links.
    """
    if not context.shared_gpu:
        return
    chosen = [v.host.late.slices for v in context.views]
    count, spent = _counts(context, chosen), _spent(context, chosen)
    hit = count >= STALLS
    found = [
        _interrupted(context, v) if h else None for v, h in zip(context.views, hit, strict=True)
    ]
    longer = np.array([0.0 if s is None else s.ns for s in found])
    what = "work starts late and kernels are interrupted" if longer.any() else "work starts late"
    yield charge(
        context,
        "gpu_shared",
        f"Another process uses {_whose(context, hit)}: {what}, {{cost}} a step",
        spent + np.maximum(longer - context.idle(Cause.LAUNCH), 0.0),
        ranks=ranks_of(context, hit),
        evidence=(
            f"{count.sum()} times launched work started more than {format_ns(STALL_NS)} late "
            f"on an idle device, {format_ns(float(spent.max()))} a step on rank "
            f"{context.views[int(spent.argmax())].rank}",
            _told(context, found),
            "lengths of collectives are not trusted as bandwidth here, and what time slices add to "
            "them is not in the cost",
        ),
        remedy="find the other process (nvidia-smi), stop it or move it, and record again",
        proof=_proof(context, found),
    )


def _whose(context: Context, hit: Bools) -> str:
    ranks = ranks_of(context, hit)
    if len(ranks) == 1 < len(hit):
        return f"rank {ranks[0]}'s GPU"
    return "the GPU" if len(hit) == 1 else f"the GPUs of {len(ranks)} ranks"


def _interrupted(context: Context, view: RankView) -> Stretch | None:
    """How much longer a rank's interrupted kernels are; None where that cannot be told.

    Measured against ranks that do the same work and where nothing starts late, else against the
    rank's own steps. Experts' tokens differ by rank and step: no kernel of theirs is the same.
    """
    if any(v.roles.exchange.any() for v in context.views):
        return None
    mine, work = view.host.kernel_lengths, view.host.operand_nelems[view.whole]
    others = [
        v.host.kernel_lengths
        for v in context.views
        if not len(v.host.late.row) and v.facts.products == view.facts.products
    ][:COMPARED_RANKS]
    found = stretch(mine, others) if others and not has_stages(context) else None
    if found is not None or np.ptp(work) > 0:
        return found
    return stretch(mine, ())


def _told(context: Context, found: Sequence[Stretch | None]) -> str:
    """What was found of interrupted kernels, of the rank where they take most, and what was not."""
    known = [(s, v.rank) for s, v in zip(found, context.views, strict=True) if s is not None]
    if not known:
        return (
            "whether kernels were interrupted cannot be told: no rank with the same work had its "
            "GPU to itself, and steps are not alike enough to compare them"
        )
    most, rank = max(known, key=lambda k: k[0].ns)
    against = "in other steps" if most.by_step else "on ranks where nothing starts late"
    if most.ns:
        text = (
            f"{most.count:.3g} kernels a step on rank {rank} last a time slice or more longer than "
            f"the same kernels {against}, the median one by {format_ns(most.each_ns)}: "
            f"{format_ns(most.ns)} a step"
        )
    else:
        text = f"no kernel lasts a time slice longer than the same kernel {against}"
    if any(s.by_step for s, _ in known):
        text += (
            " (one that is interrupted in most steps is not seen: no rank with the same work had "
            "its GPU to itself)"
        )
    return text


def _proof(context: Context, found: Sequence[Stretch | None]) -> tuple[Proof, ...]:
    by_rank = [0.0 if s is None else s.ns for s in found]
    at = int(np.argmax(by_rank))
    most = found[at]
    if most is None or not most.ns:
        return proof.of_moments(context, "stall")
    late = proof.of_moments(context, "stall", most=proof.PROOFS // 2)
    return late + proof.of_kernels(context, most.by_name, at)


def device_wait(context: Context) -> Iterator[Charge]:
    """Does launched work wait on an idle device for something that the recording does not show?

    Such are signals from the host or the network, kernels' modules that are loaded, and GPU work
    that was not recorded; a trace without it cannot tell them apart. Cost: those late starts that
    gpu_shared does not explain. Silent below `STALLS` of them and `INFO_SHARE` of the step.
    """
    shared = context.shared_gpu
    chosen = [~v.host.late.slices if shared else _all(v) for v in context.views]
    count, spent = _counts(context, chosen), _spent(context, chosen)
    at = int(spent.argmax())
    if count.max() < STALLS or spent[at] < INFO_SHARE * context.step_ns:
        return
    n = int(count.sum())
    pairs = list(zip(context.views, chosen, strict=True))
    queued = sum(_count(v, on & v.host.late.queued) for v, on in pairs)
    first = sum(_count(v, on & v.host.late.first) for v, on in pairs)
    yield charge(
        context,
        "device_wait",
        "The GPU waits for something that the recording does not show, {cost} a step",
        spent,
        ranks=ranks_of(context, count >= STALLS),
        evidence=(
            f"{n} times launched work started more than {format_ns(STALL_NS)} late on an idle "
            f"device; {queued} of them were in a queue, {first} the first of their kernel",
            "possible: work on the GPU that was not recorded (a sampled or filtered trace, lost "
            "buffers), a stream that waits for the host or the network, modules loaded at first "
            "use" + ("" if shared else ", another process on this GPU"),
            f"{format_ns(float(spent[at]))} a step on rank {context.views[at].rank}",
        ),
        remedy=_remedy(first, n),
        proof=proof.of_moments(context, "stall"),
    )


def _remedy(first: int, n: int) -> str:
    if 2 * first > n:
        return "let the job warm up before the recording starts: first uses load code"
    return (
        "record the whole of the GPU's work to decide: torch.profiler with CPU and CUDA activities "
        "and no filter, or nsys with -t cuda,nvtx,osrt; nvidia-smi shows other processes"
    )
