"""GPU work that a setup asks for: activations computed twice, experts of unequal load."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tracelens.classify import Op
from tracelens.detectors import proof
from tracelens.detectors.context import Charge, Context, PerRank, charge, ranks_of, spread
from tracelens.host import Cause
from tracelens.matching import exposed_wait_of_rows
from tracelens.thresholds import RECOMPUTE_COST_SHARE, UNEVEN_TOKENS
from tracelens.trace import Floats


def activation_recompute(context: Context) -> Iterator[Charge]:
    """How long does the backward pass compute activations again?

    Cost: compute kernels that forward operators launch in the backward pass, less the time in which
    that rank's GPU idles for its host anyway. Silent below `RECOMPUTE_COST_SHARE` of the compute.
    """
    again = context.per_rank([v.host.recomputed_ns for v in context.views])
    compute = context.per_rank([v.breakdown.compute for v in context.views])
    if (again <= RECOMPUTE_COST_SHARE * compute).all():
        return
    cause = np.maximum(again - context.idle(Cause.LAUNCH), 0.0)
    share = 100 * float((again / np.maximum(compute, 1.0)).max())
    yield charge(
        context,
        "activation_recompute",
        "Activations are computed again in the backward pass, {cost} a step",
        cause,
        ranks=ranks_of(context, again > 0),
        evidence=(
            f"kernels of forward operators in the backward pass: {spread(again)} a step",
            f"{share:.0f}% of the compute",
            *context.setup["activation_checkpointing"].evidence,
        ),
        remedy="the price of the memory that it saves: where some is left, checkpoint fewer layers "
        "or only what is cheap to compute again (selective recomputation, arXiv:2205.05198)",
    )


def moe_imbalance(context: Context) -> Iterator[Charge]:
    """Do some ranks' experts get more tokens than others, so that the others wait for them?

    Cost: in each exchange whose sizes differ by `UNEVEN_TOKENS` between ranks, and for which a rank
    with more than its share comes last, how much earlier that is ready with equal shares: at the
    mean of all ranks' arrivals.
    """
    found = _unequal(context)
    if found is None:
        return
    cause, ratio, waits = found
    masks = [v.roles.exchange for v in context.views]
    yield charge(
        context,
        "moe_imbalance",
        "Experts get unequal numbers of tokens, {cost} a step",
        cause,
        ranks=ranks_of(context, cause > 0),
        evidence=(
            f"in {len(ratio)} exchanges one rank has {float(ratio.min()):.2f} to "
            f"{float(ratio.max()):.2f} times the mean of all ranks, and comes last",
            f"the others wait {spread(waits)} a step for it",
        ),
        remedy="balance the router (auxiliary loss, bias), a capacity factor with dropped tokens, "
        "experts placed so that busy ones are apart",
        proof=proof.of_waits(context, masks),
    )


def from_tokens(context: Context) -> PerRank:
    """How much of each rank's work is what `moe_imbalance` charges, ns a step."""
    found = _unequal(context)
    return np.zeros(len(context.views)) if found is None else found[0]


def _unequal(context: Context) -> tuple[PerRank, Floats, Floats] | None:
    """What unequal exchanges take of each rank, their largest shares, and what ranks wait for them.

    Largest over mean number of tokens of each; times in ns a step.
    """
    if not any(v.roles.exchange.any() for v in context.views) or context.waits is None:
        return None
    if context.setup.value("expert_parallel_size") == 1:
        return None
    wait, tokens = _exchanges(context)
    if not wait.size:
        return None
    mean = tokens.mean(axis=0)
    ratio = tokens.max(axis=0) / np.maximum(mean, 1.0)
    heavy = tokens[wait.argmin(axis=0), np.arange(wait.shape[1])] > mean
    on = (ratio >= UNEVEN_TOKENS) & heavy
    n = max(int(context.views[0].whole.sum()), 1)
    early = np.maximum(wait.mean(axis=0) - wait, 0.0)
    cause = early[:, on].sum(axis=1) / n
    return (cause, ratio[on], wait[:, on].sum(axis=1) / n) if cause.max() > 0 else None


def _exchanges(context: Context) -> tuple[Floats, Floats]:
    """Exposed waiting (ns) and tokens, ranks x exchanges, of exchanges among all ranks.

    Tokens are those of the side that differs more: what experts get before they work, and what
    they give back after it.
    """
    number = max((int(v.collective.max(initial=-1)) for v in context.views), default=-1) + 1
    wait = np.full((len(context.views), number), np.nan)
    sides = np.full((2, *wait.shape), -1.0)
    for i, v in enumerate(context.views):
        c = v.comm
        on = (v.collective >= 0) & (c.kind == Op.ALL_TO_ALL) & v.roles.exchange
        wait[i, v.collective[on]] = exposed_wait_of_rows(c, v.wait_ns, v.compute)[on]
        sides[0, i, v.collective[on]] = c.in_nelems[on]
        sides[1, i, v.collective[on]] = c.out_nelems[on]
    known = ~np.isnan(wait).any(axis=0) & (sides >= 0).all(axis=(0, 1))
    wait, sides = wait[:, known], sides[:, :, known]
    share = sides.max(axis=1) / np.maximum(sides.mean(axis=1), 1.0)
    return wait, np.where(share[0] > share[1], sides[0], sides[1])
