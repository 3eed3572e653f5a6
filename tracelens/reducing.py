"""How long backward passes of ZeRO-1 and 2 take by their buckets: a small recurrence.

DeepSpeed's overlap_comm is a pipeline of depth one (0.19.8 runtime/zero/stage_1_and_2.py,
average_tensor; pull request 5606): a bucket's reduction begins when the compute stream is there and
the reduction before has ended, and the compute stream waits for that one, too. With the work w_i of
the compute stream and h_i of the host between gradients, and d_k = alpha + beta n_k a reduction:

    t_i = max(t_i-1 + w_i, host)      where a bucket is reduced:   host += what that takes
    S_k = max(t_i, R_k-1),  R_k = S_k + d_k,  t_i = S_k            overlap_comm on
    t_i = t_i + d_k                                                off

and a pass lasts until max(t, R). Work beside a reduction takes longer (`CONTENTION`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tracelens.thresholds import BUCKET_HOST_NS, BUCKET_LAG_NS, CONTENTION
from tracelens.thresholds.replay import GRADIENT_HOST_NS, MIN_SIZE_RATIO
from tracelens.trace import Floats, Int64s, _freeze
from tracelens.transfer import Line, fit_line


class Flush(NamedTuple):
    """A bucket that is reduced: behind the work before gradient `at`, and how large it is."""

    at: int
    nelems: int


@dataclass(frozen=True, slots=True)
class Filling:
    """Backward passes in which the same gradients become ready in the same order.

    Attributes
    ----------
    nelems : tuple of int, one a gradient
    work_ns, host_ns : float64 (passes, gradients)
        Work of the compute stream alone, and of the host without reductions, since the gradient
        before. Of the first: 0, and how far the host is behind the compute stream there.
    """

    nelems: tuple[int, ...]
    work_ns: Floats
    host_ns: Floats

    def __post_init__(self) -> None:
        _freeze(self)


@dataclass(frozen=True, slots=True)
class Costs:
    """What a reduction takes: of the link by its elements, and of each pass's host, ns.

    `host_ns` float64 (passes,).
    """

    line: Line
    host_ns: Floats


class Spent(NamedTuple):
    """How long passes last, and for how much of that nothing is computed, ns: float64 (passes,)."""

    length: Floats
    idle: Floats


def spend(f: Filling, flushes: Sequence[Flush], overlap: bool, costs: Costs) -> Spent:
    """The time of each pass from its first gradient on.

    Examples
    --------
    Two gradients, 10 of work between them, reductions of 6 each:

    >>> f = Filling((1, 1), np.array([[0.0, 10.0]]), np.zeros((1, 2)))
    >>> costs = Costs(Line(0.0, 6.0, 0.0), np.zeros(1))
    >>> spend(f, [Flush(2, 2)], True, costs)
    Spent(length=array([22.]), idle=array([12.]))
    >>> spend(f, [Flush(1, 1), Flush(2, 1)], False, costs)
    Spent(length=array([22.]), idle=array([12.]))
    """
    reduced: dict[int, list[int]] = defaultdict(list)
    for b in flushes:
        reduced[b.at].append(b.nelems)
    n = len(f.nelems)
    host, compute, done, busy = (np.zeros(len(f.work_ns)) for _ in range(4))
    for i in range(n + 1):
        if i < n:
            host = host + f.host_ns[:, i]
            took = _beside(compute, f.work_ns[:, i], done)
            busy += took
            compute = np.maximum(compute + took, host)
        for size in reduced.get(i, ()):
            if i < n:
                host = host + costs.host_ns
            begin = np.maximum(compute, host)
            if overlap:
                compute = np.maximum(compute, done)
                done = np.maximum(begin, done) + costs.line.at(size)
            else:
                compute = begin + costs.line.at(size)
    length = np.maximum(compute, done)
    return Spent(length, length - busy)


def _beside(begin: Floats, work: Floats, until: Floats) -> Floats:
    """How long work takes that begins then, longer as long as a reduction runs."""
    hidden = np.minimum(work, np.maximum(until - begin, 0) * (1 - CONTENTION))
    return work + hidden * CONTENTION / (1 - CONTENTION)


def fit_reductions(
    nelems: Int64s, transfer_ns: Floats, lag_ns: Floats, latency_ns: float = np.inf
) -> Line:
    """What reductions take by their elements.

    `lag_ns` is what each took besides its transfer once the last rank was ready (dividing it,
    starting it), NaN where that is not known. Sizes that do not differ leave it to its prior.
    `latency_ns`: what the smallest message takes.
    """
    line, _ = fit_line(nelems, transfer_ns, None, latency_ns)
    known = np.isfinite(lag_ns)
    n, lag = nelems[known].astype(float), np.maximum(lag_ns[known], 0.0)
    alpha, beta = affine(n, lag)
    if not len(n):
        alpha, beta = BUCKET_LAG_NS, 0.0
    elif n.max() < MIN_SIZE_RATIO * n.min():
        alpha = min(float(lag.mean()), BUCKET_LAG_NS)
        beta = (float(lag.mean()) - alpha) / float(n.mean())
    return Line(line.alpha_ns + alpha, line.beta_ns + beta, line.spread)


def host_line(gradients: Floats, time_ns: Floats) -> tuple[float, float]:
    """Host time of reducing a bucket: (of a bucket, of each gradient in it), ns.

    Buckets of one size do not tell the two apart; then the bucket's own share is its prior, or what
    the gradients' prior leaves.
    """
    if not len(gradients):
        return BUCKET_HOST_NS, GRADIENT_HOST_NS
    if gradients.max() >= 2 * gradients.min():
        return affine(gradients, time_ns)
    mean, count = max(float(time_ns.mean()), 0.0), float(gradients.mean())
    own = min(mean, max(BUCKET_HOST_NS, mean - GRADIENT_HOST_NS * count))
    return own, (mean - own) / count


def affine(x: Floats, y: Floats) -> tuple[float, float]:
    """Least squares y = a + b x with a, b >= 0: host time adds up, so means must be kept.

    Examples
    --------
    >>> a, b = affine(np.array([1.0, 2.0, 3.0]), np.array([5.0, 7.0, 9.0]))
    >>> round(a, 6), round(b, 6)
    (3.0, 2.0)
    """
    if not len(x):
        return 0.0, 0.0
    mean_x, mean_y = float(x.mean()), max(float(y.mean()), 0.0)
    spread = float(((x - mean_x) ** 2).sum())
    slope = float(((x - mean_x) * (y - y.mean())).sum()) / spread if spread > 0 else 0.0
    slope = min(max(slope, 0.0), mean_y / mean_x if mean_x > 0 else 0.0)
    return mean_y - slope * mean_x, slope
