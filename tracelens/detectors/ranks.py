"""Differences between ranks: a late host, more work, slower kernels; a GPU that is shared."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from tracelens.detectors import proof
from tracelens.detectors.context import Charge, Context, PerRank, charge
from tracelens.detectors.other_work import difference
from tracelens.detectors.pauses import stopped, stops_text
from tracelens.detectors.stages import has_stages, uneven_stages
from tracelens.detectors.work import from_tokens
from tracelens.host import Cause
from tracelens.lengths import stretch
from tracelens.matching import exposed_wait_of_rows
from tracelens.thresholds import EXTRA_WORK_SHARE, LATE_SHARE
from tracelens.units import format_ns


def work_differences(context: Context) -> tuple[PerRank, PerRank]:
    """Kernel time above the median rank's: from more or other work, and from slower kernels."""
    sums = [v.host.kernel_sums for v in context.views]
    more, slower = np.zeros(len(sums)), np.zeros(len(sums))
    for name in set().union(*sums):
        count = np.array([s.get(name, (0.0, 0.0))[0] for s in sums])
        spent = np.array([s.get(name, (0.0, 0.0))[1] for s in sums])
        usual = float(np.median(count))
        above = spent - np.median(spent)
        same = np.abs(count - usual) <= EXTRA_WORK_SHARE * max(usual, 1.0)
        slower += np.where(same, above, 0.0)
        more += np.where(same, 0.0, above)
    products = {v.facts.products for v in context.views}
    if len(products) > 1 or products == {frozenset()}:
        # other sizes (or sizes that were not recorded): the same kernels do not mean equal work
        return more + slower, slower * 0.0
    return more, slower


def straggler_host(context: Context) -> Iterator[Charge]:
    """Is one rank's host thread late, so that the others wait for it?

    Fires where the last rank's lateness costs `LATE_SHARE` of the step and at least half of it is
    more host-caused idle time than the median rank has. Cost: until the second last rank, in each
    collective (it need not be the same one), and in sum.
    """
    slack, at = context.slack, context.critical
    if slack is None or at is None:
        return
    late = _lateness(context, slack, at)
    if late < LATE_SHARE * context.step_ns:
        return
    idle = context.idle(Cause.LAUNCH) + context.idle(Cause.DEVICE)
    idle += context.hosts(stopped(context), Cause.PAUSE)
    extra = float(idle[at] - np.median(idle))
    if extra < 0.5 * late:
        return
    rank = context.views[at].rank
    others = np.delete(slack, at) - slack[at]
    rest = ", what is found above taken off" if np.ptp(context.charged) > 0.1 * late else ""
    cause = np.zeros(len(context.views))
    cause[at] = late
    yield charge(
        context,
        "straggler_host",
        f"Rank {rank}'s host is late, {{cost}} a step",
        cause,
        of_launch=True,
        ranks=(rank,),
        evidence=(
            *stops_text(context.views[at]),
            f"the other ranks wait {format_ns(float(others.min()))} to "
            f"{format_ns(float(others.max()))} a step longer in collectives than rank {rank}{rest}",
            f"its GPU idles {format_ns(extra)} a step longer than the median rank's because its "
            "host launches later, with the same kernels to launch",
        ),
        remedy="look at that rank's host: cores pinned to it (numactl, --bind_cores_to_rank), other"
        " processes, CPU frequency, logging or saving on one rank only",
        proof=proof.of_moments(context, "launch", ranks=(rank,), most=4)
        + proof.of_waits(context, ranks=[v.rank for v in context.views if v.rank != rank], most=4),
    )


def _lateness(context: Context, slack: PerRank, at: int) -> float:
    """How much earlier the step would end if rank `at` came with the second last, ns."""
    number = max((int(v.collective.max(initial=-1)) for v in context.views), default=-1) + 1
    waits = np.full((len(context.views), number), np.inf)
    for row, v in zip(waits, context.views, strict=True):
        on = (v.collective >= 0) & v.whole[np.maximum(v.comm.step, 0)]
        row[v.collective[on]] = exposed_wait_of_rows(v.comm, v.wait_ns, v.compute)[on]
    there = np.isfinite(waits[at])
    others = np.delete(waits, at, axis=0)[:, there].min(axis=0)
    room = float(others[np.isfinite(others)].sum()) / max(int(context.views[at].whole.sum()), 1)
    return min(room, float(np.partition(slack, 1)[1] - slack[at]))


def uneven_work(context: Context) -> Iterator[Charge]:
    """Has one rank more or other GPU work than the rest?

    Cost: the extra kernel time, unless that rank's GPU idles for its host anyway, or another rank
    is later: then it is hidden and costs nothing. Kernels that run at once on several streams
    slow each other: this and straggler_compute cost no more than the time in which any runs.
    """
    if has_stages(context):
        yield from uneven_stages(context)
        return
    more, _ = _capped_differences(context)
    what = "more kernels, other kernels or other sizes"
    yield from _uneven(context, "uneven_work", (more, what), _other_work)


def straggler_compute(context: Context) -> Iterator[Charge]:
    """Do the same kernels take longer on one rank than on the rest? Cost: as of uneven_work."""
    _, slower = _capped_differences(context)
    what = "the same kernels, slower"
    yield from _uneven(context, "straggler_compute", (slower, what), _slow_kernels)


def _capped_differences(context: Context) -> tuple[PerRank, PerRank]:
    more, slower = work_differences(context)
    compute = context.per_rank([v.breakdown.compute for v in context.views])
    room = np.maximum(compute - np.median(compute), 0.0)
    more = np.minimum(more, room)
    return more, np.minimum(slower, room - np.maximum(more, 0.0))


def _kernels_above(context: Context, at: int) -> dict[str, float]:
    """Time of each kernel on one rank above the median rank's, ns a step."""
    sums = [v.host.kernel_sums for v in context.views]
    return {
        name: spent - float(np.median([s.get(name, (0.0, 0.0))[1] for s in sums]))
        for name, (_, spent) in sums[at].items()
    }


def _uneven(
    context: Context,
    id: str,
    found: tuple[PerRank, str],
    told: Callable[[Context, int], tuple[tuple[str, ...], str]],
) -> Iterator[Charge]:
    """Charge a rank's kernel time above the median's; `told` says what shows it, and the remedy."""
    above, what = found
    compute = context.per_rank([v.breakdown.compute for v in context.views])
    at = int(above.argmax())
    if len(above) < 2 or above[at] <= EXTRA_WORK_SHARE * float(np.median(compute)):
        return
    idle = context.idle(Cause.LAUNCH)
    cause = np.zeros(len(above))
    cause[at] = max(float(above[at] - idle[at] - from_tokens(context)[at]), 0.0)
    rank = context.views[at].rank
    hidden = "" if context.saving(cause) > 0 else "; hidden behind its idle GPU or a later rank"
    evidence, remedy = told(context, at)
    yield charge(
        context,
        id,
        f"Rank {rank} computes {format_ns(float(above[at]))} a step longer than the median rank"
        + hidden,
        cause,
        ranks=(rank,),
        evidence=(
            f"{format_ns(float(above[at]))} a step above the median rank from {what} (compute "
            f"{format_ns(float(compute[at]))}, median {format_ns(float(np.median(compute)))})",
            *evidence,
        ),
        remedy=remedy,
        proof=proof.of_kernels(context, _kernels_above(context, at), at),
    )


_BALANCE = "balance the batch (tokens, not samples) and the layers over ranks"
_FIND = (
    "find what that rank alone runs (the timeline shows which operators launch these kernels): "
    "another attention backend, a branch by rank, evaluation or logging"
)


def _other_work(context: Context, at: int) -> tuple[tuple[str, ...], str]:
    """What shows that a rank has other work, and what to do."""
    how, evidence = difference(context, at)
    return evidence, {"sizes": _BALANCE, "besides": _FIND, "unknown": f"{_BALANCE}; or {_FIND}"}[
        how
    ]


def _slow_kernels(context: Context, at: int) -> tuple[tuple[str, ...], str]:
    """Whether the kernels of a rank are slow throughout or now and then, and what to do."""
    mine, others = context.views[at], [v for i, v in enumerate(context.views) if i != at]
    found = stretch(mine.host.kernel_lengths, [v.host.kernel_lengths for v in others])
    check = "check that GPU's clocks, temperature, power limit and neighbours (nvidia-smi -q)"
    if found is None or not found.ns:
        return (), check
    said = (
        f"{found.count:.3g} kernels a step last a time slice or more longer than on the other "
        f"ranks, the median one by {format_ns(found.each_ns)}, and the rest do not: a process that "
        "takes turns with this one on that GPU looks so, a low clock does not"
    )
    return (said,), f"look for another process on that GPU (nvidia-smi); else {check}"
