"""Of many ranks those to look at: one of each position, outliers, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from test_hard_runs import rank_of, run

import tracelens
from tracelens.analysis import RankAnalysis
from tracelens.cli import main
from tracelens.cli.options import numbers
from tracelens.report.tables import MAX_RANKS, shown_ranks
from tracelens.representatives import positions, representatives

SAMPLES = Path(__file__).parent.parent / "sample_traces"


@pytest.fixture(scope="module")
def analysis() -> tracelens.Analysis:
    """One recorded rank."""
    return tracelens.analyze(SAMPLES / "zero2_slow_fabric", ranks=[0])


def many(
    analysis: tracelens.Analysis,
    groups: Mapping[int, tuple[int, ...]],
    more: Mapping[int, float] | None = None,
) -> tracelens.Analysis:
    """Ranks like that one, each reducing gradients with its group.

    Their compute is longer by a few percent of the step: `more`, or five values in turn up to 0.4.
    """
    like = analysis.ranks[0]
    table, b = like.facts.comm, like.breakdown
    step = float(b.wall[like.steps.complete].mean())
    made = []
    for rank, members in groups.items():
        named = [replace(g, ranks=str(list(members)), size=len(members)) for g in table.groups]
        facts = replace(like.facts, rank=rank, comm=replace(table, groups=tuple(named)))
        extra = np.int64(step * (more or {}).get(rank, rank % 5 / 10) / 100)
        longer = replace(b, compute=b.compute + extra, idle=b.idle - extra)
        made.append(replace(like, rank=rank, facts=facts, breakdown=longer))
    return replace(analysis, ranks=tuple(made))


def of(ranks: tuple[RankAnalysis, ...]) -> dict[int, tuple[int, ...]]:
    return {c.rank: c.stands_for for c in representatives(ranks)}


def test_a_position_is_who_reduces_gradients_together(analysis: tracelens.Analysis) -> None:
    """Two stages of a pipeline, each on four ranks; within them compute differs by a little."""
    groups = {r: (0, 1, 2, 3) if r < 4 else (4, 5, 6, 7) for r in range(8)}
    found = many(analysis, groups)
    assert positions(found.ranks) == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert of(found.ranks) == {1: (0, 1, 2, 3), 6: (4, 5, 6, 7)}  # compute 0 1 2 3 and 4 0 1 2


def test_an_outlier_is_far_from_its_like(analysis: tracelens.Analysis) -> None:
    groups = {r: tuple(range(16)) for r in range(16)}
    found = representatives(many(analysis, groups, {5: 20, 9: 6}).ranks)
    assert [(c.rank, bool(c.stands_for)) for c in found[1:]] == [(5, False), (9, False)]
    assert found[1].why.endswith("ms a step more compute than its like")
    assert found[0].rank not in (5, 9)


def test_a_stage_with_more_work_is_no_outlier(analysis: tracelens.Analysis) -> None:
    """The last stage of a pipeline computes more, all of it: that is its position."""
    groups = {r: tuple(range(8 * (r // 8), 8 * (r // 8) + 8)) for r in range(16)}
    more = {r: 20 + r % 3 / 10 for r in range(8, 16)}
    assert set(of(many(analysis, groups, more).ranks).values()) == {
        tuple(range(8)), tuple(range(8, 16)),
    }  # fmt: skip


def test_three_have_no_outlier(analysis: tracelens.Analysis) -> None:
    found = many(analysis, dict.fromkeys(range(3), (0, 1, 2)), {2: 25})
    assert list(of(found.ranks)) == [1]


def test_reports_show_them_and_say_why(analysis: tracelens.Analysis) -> None:
    groups = {r: tuple(range(4 * (r // 4), 4 * (r // 4) + 4)) for r in range(48)}
    found = many(analysis, groups, {r: r % 4 / 10 + 25 * (r in (3, 30)) for r in range(48)})
    rows, text = shown_ranks(found)
    shown = [r.rank for r in rows]
    assert len(shown) == MAX_RANKS
    assert {3, 30} <= set(shown)
    assert "Shown are 8 of 48 ranks" in text
    assert "3 has" in text
    assert "6 more were chosen" in text
    assert "Shown are 8 of 48 ranks" in found.report(width=120)
    told = found.to_json()["representatives"]
    assert len(told) == 14  # twelve positions and two outliers
    assert set(told[0]) == {"rank", "stands_for", "why"}


def test_equal_ranks_show_how_far_they_lie_apart(analysis: tracelens.Analysis) -> None:
    found = many(analysis, {r: tuple(range(9)) for r in range(9)})
    ranks = [
        replace(r, breakdown=replace(r.breakdown, wall=r.breakdown.wall + np.int64(9 - r.rank)))
        for r in found.ranks
    ]
    rows, text = shown_ranks(replace(found, ranks=tuple(ranks)))
    assert [r.rank for r in rows] == [0, 2, 8]
    assert text == (
        "Shown are 3 of 9 ranks: 0 has the longest step; 2 is in the middle of all ranks; "
        "8 has the shortest step."
    )


def test_few_ranks_are_all_shown(analysis: tracelens.Analysis) -> None:
    rows, text = shown_ranks(analysis)
    assert ([r.rank for r in rows], text) == ([0], "")


# ---------------------------------------------------------------------------------- by hand
@pytest.mark.parametrize("bad", ["", "x", "1-", "-1", "1,,2", "0-99999999", "1.5"])
def test_wrong_ranks_are_wrong_usage(bad: str) -> None:
    assert CliRunner().invoke(main, ["analyze", ".", "--ranks", bad]).exit_code == 2


def test_ranks_by_hand(tmp_path: Path) -> None:
    run(tmp_path, {r: rank_of(r, 6) for r in range(6)})
    done = CliRunner().invoke(main, ["analyze", str(tmp_path), "--ranks", "0-2,4", "--rank", "4"])
    assert done.exit_code == 0
    assert "ranks 0-2, 4" in done.stdout
    assert numbers("5-3") == ()
