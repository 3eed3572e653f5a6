"""Welch's test against published values and against itself."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracelens.welch import _t_quantile, _two_sided, welch

#: Two-sided 5 % points of Student's t (NIST handbook, table 1.3.6.7.2, column 0.975).
T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 5: 2.571, 10: 2.228, 30: 2.042, 100: 1.984}


@pytest.mark.parametrize(("freedom", "t"), T_975.items())
def test_quantiles_are_those_of_the_tables(freedom: int, t: float) -> None:
    assert _t_quantile(freedom) == pytest.approx(t, abs=6e-4)
    assert _two_sided(t, freedom) == pytest.approx(0.05, abs=2e-4)


def test_two_freedoms_have_closed_forms() -> None:
    """Cauchy for one degree, t / sqrt(2 + t^2) for two."""
    import math

    for t in (0.1, 1.0, 5.0, 100.0):
        assert _two_sided(t, 1) == pytest.approx(1 - 2 * math.atan(t) / math.pi, rel=1e-9)
        assert _two_sided(t, 2) == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-7)


def test_one_value_has_no_scatter() -> None:
    w = welch([1.0], [2.0, 3.0])
    assert (w.delta, w.low, w.high, w.p_value) == (1.5, None, None, None)


def test_equal_values_scatter_not_at_all() -> None:
    assert welch([2.0, 2.0], [2.0, 2.0]).p_value == 1.0
    assert welch([2.0, 2.0], [3.0, 3.0]).p_value == 0.0


def test_the_same_distribution_is_called_different_in_one_of_twenty() -> None:
    """2000 draws of 3 and 5 values: 5 % within four standard errors."""
    draw = random.Random(0).gauss
    hits = sum(
        (welch([draw(10, 1) for _ in range(3)], [draw(10, 1) for _ in range(5)]).p_value or 1)
        < 0.05
        for _ in range(2000)
    )
    assert 60 <= hits <= 140


floats = st.lists(st.floats(1, 1e4), min_size=2, max_size=40)


@given(floats, floats)
def test_turning_the_question_round_turns_the_answer(a: list[float], b: list[float]) -> None:
    one, other = welch(a, b), welch(b, a)
    assert one.delta == -other.delta
    assert one.p_value == pytest.approx(other.p_value)
    assert one.low == pytest.approx(-(other.high or 0))
    assert 0 <= (one.p_value or 0) <= 1


@given(floats, floats)
def test_the_interval_excludes_nothing_exactly_when_it_is_significant(
    a: list[float], b: list[float]
) -> None:
    w = welch(a, b)
    assert w.low is not None
    assert w.high is not None
    assert w.p_value is not None
    assert w.low <= w.delta <= w.high
    if abs(w.p_value - 0.05) > 1e-6:
        assert (w.low * w.high > 0) == (w.p_value < 0.05)
