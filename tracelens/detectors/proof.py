"""Where in the trace a finding shows: the moments that weigh most, a few of each rank."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np

from tracelens.detectors.context import Context, RankView
from tracelens.findings import Proof
from tracelens.intervals import clip_lengths
from tracelens.moments import Moment
from tracelens.thresholds import MOMENTS
from tracelens.trace import Bools, Int64s

#: Moments that a finding points to, in all.
PROOFS = 8


def of_moments(
    context: Context,
    *kinds: str,
    ranks: Collection[int] | None = None,
    only: Callable[[RankView, Moment], bool] = lambda view, moment: True,
    most: int = PROOFS,
) -> tuple[Proof, ...]:
    """The longest moments of some kinds (see `Host.moments`) in whole steps."""
    found = []
    for view in _views(context, ranks):
        mine = [m for kind in kinds for m in view.host.moments[kind]]
        mine = [m for m in mine if m.step >= 0 and view.whole[m.step] and only(view, m)]
        found.append((view, sorted(mine, key=lambda m: m.start_ns - m.end_ns)))
    return _chosen([[_proof(v, m) for m in mine] for v, mine in found], most)


def of_rows(
    context: Context, masks: Sequence[Bools], *, ranks: Collection[int] | None = None
) -> tuple[Proof, ...]:
    """Communication that is exposed longest without waiting, where that is known."""
    found = []
    for view, mask in zip(context.views, masks, strict=True):
        if ranks is not None and view.rank not in ranks:
            continue
        c = view.comm
        arrived = c.start_ns + np.maximum(view.wait_ns, 0)
        exposed = c.end_ns - arrived - clip_lengths(view.compute, arrived, c.end_ns)
        found.append(list(_of_rows(view, mask, exposed, (arrived, c.end_ns))))
    return _chosen(found)


def of_waits(
    context: Context,
    masks: Sequence[Bools] | None = None,
    *,
    ranks: Collection[int] | None = None,
    most: int = PROOFS,
) -> tuple[Proof, ...]:
    """Communication that waits longest for another rank: the part in which it waits."""
    found = []
    for i, view in enumerate(context.views):
        if ranks is not None and view.rank not in ranks:
            continue
        c, wait = view.comm, np.maximum(view.wait_ns, 0)
        mask = masks[i] if masks is not None else wait > 0
        span = c.start_ns, c.start_ns + wait
        found.append(list(_of_rows(view, mask & (wait > 0), wait, span)))
    return _chosen(found, most)


def of_kernels(context: Context, above: dict[str, float], at: int) -> tuple[Proof, ...]:
    """The longest instance of the kernels that take most more on one rank than on the others."""
    view = context.views[at]
    names = sorted(above, key=lambda n: -above[n])
    kernels = view.host.kernel_moments
    found = [kernels[n] for n in names[:MOMENTS] if n in kernels and above[n] > 0]
    return tuple(_proof(view, m) for m in found)


def of_steps(context: Context, number: int) -> tuple[Proof, ...]:
    """The window of a step on every rank that has it."""
    found = []
    for view in context.views:
        rows = np.flatnonzero((view.steps.number == number) & view.whole)[:1].tolist()
        spans = [(int(view.steps.start_ns[k]), int(view.steps.end_ns[k])) for k in rows]
        found += [
            Proof(view.rank, number, a - view.first_ns, b - view.first_ns, f"step {number}", -1)
            for a, b in spans
        ]
    return tuple(found[:PROOFS])


def _views(context: Context, ranks: Collection[int] | None) -> Iterator[RankView]:
    return (v for v in context.views if ranks is None or v.rank in ranks)


def _of_rows(
    view: RankView, mask: Bools, weight: Int64s, span: tuple[Int64s, Int64s]
) -> Iterator[Proof]:
    c = view.comm
    on = np.flatnonzero(mask & (c.step >= 0) & view.whole[np.maximum(c.step, 0)] & (weight > 0))
    for k in on[np.argsort(-weight[on], kind="stable")][:MOMENTS].tolist():
        yield _proof(
            view,
            Moment(
                step=int(c.step[k]),
                start_ns=int(span[0][k]),
                end_ns=int(span[1][k]),
                name=c.kernels[c.kernel[k]],
                row=int(c.event[k]),
            ),
        )


def _proof(view: RankView, m: Moment) -> Proof:
    number = int(view.steps.number[m.step])
    zero = view.first_ns
    return Proof(view.rank, number, m.start_ns - zero, m.end_ns - zero, m.name, m.row)


def _chosen(found: Sequence[Sequence[Proof]], most: int = PROOFS) -> tuple[Proof, ...]:
    """The best of each rank, then the second best, until there are enough; in order of time."""
    turns = [p for k in range(MOMENTS) for proofs in found for p in proofs[k : k + 1]]
    return tuple(sorted(turns[:most], key=lambda p: (p.rank, p.start_ns)))
