"""Work that an idle device starts late: another process has the GPU, or nobody can tell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tracelens.detectors import proof
from tracelens.detectors.context import Charge, Context, PerRank, RankView, charge, ranks_of
from tracelens.thresholds import INFO_SHARE, SLICED_SHARE, STALL_NS, STALLS
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
    slice. Cost: the sum of those delays, where it makes the step longer; collectives that it
    stretched are not told apart from slow links.
    """
    if not context.shared_gpu:
        return
    chosen = [v.host.late.slices for v in context.views]
    count, spent = _counts(context, chosen), _spent(context, chosen)
    yield charge(
        context,
        "gpu_shared",
        "Another process uses the GPU: launched work starts late on an idle device",
        spent,
        ranks=ranks_of(context, count >= STALLS),
        evidence=(
            f"{count.sum()} times launched work started more than {format_ns(STALL_NS)} late "
            f"on an idle device, {format_ns(float(spent.max()))} a step on one rank",
            "lengths of collectives are not trusted as bandwidth here",
        ),
        remedy="find the other process (nvidia-smi) and record again",
        proof=proof.of_moments(context, "stall"),
    )


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
