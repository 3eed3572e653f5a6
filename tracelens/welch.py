"""Whether measurements differ by more than they scatter: two sets of them, or one in its course."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance

#: Two-sided confidence of `Welch.low` and `Welch.high`, the convention of the field.
CONFIDENCE = 0.95
#: Pairs of terms of the continued fraction: it takes about sqrt(max(a, b)) to reach float64's
#: precision (Numerical Recipes, 3rd edition, 6.4), so this serves up to 100 000 steps.
_TERMS = 300


@dataclass(frozen=True, slots=True)
class Welch:
    """Difference of two means.

    Attributes
    ----------
    delta : float
        Mean of the second minus mean of the first, in their unit.
    low, high : float or None
        95 % confidence interval of `delta`; None where a side has a single value.
    p_value : float or None
        Chance of a difference this large if there were none (two-sided); None as above.
    """

    delta: float
    low: float | None
    high: float | None
    p_value: float | None


def welch(before: Sequence[float], after: Sequence[float]) -> Welch:
    """Welch's t-test with its confidence interval: variances may differ, counts may be small.

    B. L. Welch, "The generalization of 'Student's' problem when several different population
    variances are involved", Biometrika 34 (1947). It takes values to be independent and about
    normal.

    Parameters
    ----------
    before, after : sequence of float
        At least one value each.

    Examples
    --------
    >>> w = welch([322.8, 321.0], [267.3, 271.3])
    >>> round(w.delta, 2), round(w.p_value, 4)
    (-52.6, 0.0087)
    """
    delta = fmean(after) - fmean(before)
    if min(len(before), len(after)) < 2:
        return Welch(delta, None, None, None)
    parts = [(variance(x) / len(x), len(x) - 1) for x in (before, after)]
    total = sum(v for v, _ in parts)
    if total == 0:  # all equal on both sides: nothing scatters
        return Welch(delta, delta, delta, 0.0 if delta else 1.0)
    freedom = total**2 / sum(v**2 / n for v, n in parts)
    error = math.sqrt(total)
    reach = error * _t_quantile(freedom)
    return Welch(delta, delta - reach, delta + reach, _two_sided(delta / error, freedom))


@dataclass(frozen=True, slots=True)
class Trend:
    """The straight line through a series.

    Attributes
    ----------
    first, last : float
        The line at the first and at the last value.
    p_value : float
        Chance of a slope this steep if there were none (two-sided).
    """

    first: float
    last: float
    p_value: float


def trend(values: Sequence[float]) -> Trend | None:
    """Least squares over the numbers of the values, and the t-test of the slope; None below three.

    G. W. Snedecor and W. G. Cochran, "Statistical Methods", 8th edition, 9.3: the slope over its
    standard error follows Student's t with n - 2 degrees of freedom.

    Examples
    --------
    >>> found = trend([10.0, 12.0, 13.0, 16.0, 17.0])
    >>> round(found.first, 1), round(found.last, 1), round(found.p_value, 4)
    (10.0, 17.2, 0.0016)
    """
    n = len(values)
    if n < 3:
        return None
    middle, mean = (n - 1) / 2, fmean(values)
    spread = sum((k - middle) ** 2 for k in range(n))
    slope = sum((k - middle) * v for k, v in enumerate(values)) / spread
    rest = sum((v - mean - slope * (k - middle)) ** 2 for k, v in enumerate(values))
    error = math.sqrt(rest / (n - 2) / spread)
    chance = _two_sided(slope / error, n - 2) if error else float(slope == 0)
    return Trend(mean - slope * middle, mean + slope * middle, chance)


def _two_sided(t: float, freedom: float) -> float:
    """Chance of a Student t beyond +-t: the regularised incomplete beta I_x(freedom/2, 1/2)."""
    return _beta(freedom / (freedom + t * t), freedom / 2, 0.5)


def _t_quantile(freedom: float) -> float:
    """The t that `CONFIDENCE` of the distribution lies within, by bisection."""
    low, high = 0.0, 1.0
    while _two_sided(high, freedom) > 1 - CONFIDENCE:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        if _two_sided(middle, freedom) > 1 - CONFIDENCE:
            low = middle
        else:
            high = middle
    return high


def _beta(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta function I_x(a, b) (NIST DLMF 8.17.22, continued fraction)."""
    if x <= 0 or x >= 1:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly, its mirror does not
        return 1 - _beta(1 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    return front * _fraction(x, a, b) / a


def _fraction(x: float, a: float, b: float) -> float:
    """1 / (1 + d1 / (1 + d2 / (1 + ...))), from its end to its front."""
    value = 1.0
    for m in range(_TERMS, 0, -1):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        value = 1 + even / value
        k = m - 1
        odd = -(a + k) * (a + b + k) * x / ((a + 2 * k) * (a + 2 * k + 1))
        value = 1 + odd / value
    return 1 / value
