"""How long a transfer takes by its size: latency and time per element."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracelens.thresholds.replay import BESIDE_SHARE, MAX_LATENCIES, MAX_SLOWDOWN, MIN_SIZE_RATIO
from tracelens.trace import Floats, Int64s


@dataclass(frozen=True, slots=True)
class Line:
    """Time = `alpha_ns` + `beta_ns` x elements. `spread` is the relative error it leaves (rms)."""

    alpha_ns: float
    beta_ns: float
    spread: float

    def scaled(self, by: float) -> Line:
        """The line of a link on which everything takes `by` times as long."""
        return Line(self.alpha_ns * by, self.beta_ns * by, self.spread)

    def at(self, nelems: float) -> float:
        """Time of a transfer, ns."""
        return self.alpha_ns + self.beta_ns * nelems


def fit_line(
    nelems: Int64s,
    time_ns: Floats,
    beside_ns: Floats | None = None,
    latency_ns: float = np.inf,
    prior: float = 0.0,
) -> tuple[Line, float]:
    """Least squares of relative errors; without two sizes that differ, time is by size alone.

    Parameters
    ----------
    nelems : int64 (n,)
    time_ns : float64 (n,)
        Transfer times, waiting excluded.
    beside_ns : float64 (n,), optional
        For how long of it kernels ran too, mean over ranks.
    latency_ns : float, optional
        What the smallest message takes: large ones do not tell latency, which is of its order.
    prior : float
        What kernels slow a transfer by if the recording does not tell.

    Returns
    -------
    Line
        Of transfers with nothing beside them.
    float
        Time that a transfer takes longer per time of kernels beside it.
    """
    x, y = nelems.astype(float), np.maximum(time_ns, 1.0)
    slow = 0.0
    if beside_ns is not None:
        slow = _slowed(x, y, beside_ns, prior)
        y = np.maximum(y - slow * beside_ns, 1.0)
    beta = float(y.sum() / x.sum())
    alpha = 0.0
    if x.max() >= MIN_SIZE_RATIO * x.min():
        design = np.stack([1 / y, x / y], axis=1)
        (alpha, slope), *_ = np.linalg.lstsq(design, np.ones(len(x)), rcond=None)
        alpha = min(max(float(alpha), 0.0), MAX_LATENCIES * latency_ns)
        # what the line moves in all is what was measured in all
        beta = float((y.sum() - alpha * len(x)) / x.sum()) if slope > 0 else beta
        if beta <= 0:
            alpha, beta = 0.0, float(y.sum() / x.sum())
    error = (alpha + beta * x) / y - 1
    return Line(alpha, beta, float(np.sqrt((error**2).mean()))), slow


def _slowed(x: Floats, y: Floats, beside: Floats, prior: float) -> float:
    """How much kernels slow a transfer: those of one size, with kernels beside them and without.

    Small messages move at rates of their own, so sizes are not compared with each other.
    """
    share = beside / y
    free, full = share <= 1 - BESIDE_SHARE, share > BESIDE_SHARE
    longer = together = 0.0
    for size in np.unique(x):
        a, b = free & (x == size), full & (x == size)
        count = min(int(a.sum()), int(b.sum()))
        if count:
            longer += count * float(np.median(y[b]) - np.median(y[a]))
            together += count * float(np.median(beside[b]) - np.median(beside[a]))
    if together <= 0:
        return prior
    return min(max(longer / together, 0.0), 1 - 1 / MAX_SLOWDOWN)
