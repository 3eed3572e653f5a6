"""Which step the timeline shows: a typical one, unless one is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tracelens.analysis import counted_steps
from tracelens.errors import InputError
from tracelens.pipeline import open_rank
from tracelens.report.figures import timeline_figure
from tracelens.report.marks import step_timeline
from tracelens.report.text import ranges

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from tracelens.analysis import Analysis, RankAnalysis


def typical_step(analysis: Analysis, rank: int | None = None) -> tuple[int, int]:
    """Rank and step number of the counted step whose length is nearest to the median."""
    rows = [
        (int(r.breakdown.wall[k]), r.rank, int(r.steps.number[k]))
        for r, use in zip(analysis.ranks, counted_steps(analysis.ranks), strict=True)
        if rank in (None, r.rank)
        for k in np.flatnonzero(use).tolist()
    ]
    if not rows:  # this rank has no whole step: its longest one
        r = _rank(analysis, rank)
        return r.rank, int(r.steps.number[int(r.breakdown.wall.argmax())])
    median = float(np.median([wall for wall, _, _ in rows]))
    _, at_rank, number = min(rows, key=lambda row: (abs(row[0] - median), row[1], row[2]))
    return at_rank, number


def timeline_of(analysis: Analysis, rank: int | None = None, step: int | None = None) -> go.Figure:
    """The timeline of one step, read again from its file.

    Parameters
    ----------
    analysis : Analysis
    rank : int, optional
    step : int, optional
        The step's number as in ``analysis.steps``. A typical step by default.

    Raises
    ------
    InputError
        If there is no such rank or step.
    """
    if step is None:
        rank, step = typical_step(analysis, rank)
    r = _rank(analysis, rank)
    rows = np.flatnonzero(r.steps.number == step)
    if not len(rows):
        have = ranges(r.steps.number.tolist())
        raise InputError(f"rank {r.rank} has no step {step}", hint=f"its steps: {have}")
    return timeline_figure(step_timeline(open_rank(analysis, r.rank), int(rows[0])))


def _rank(analysis: Analysis, rank: int | None) -> RankAnalysis:
    for r in analysis.ranks:
        if rank in (None, r.rank):
            return r
    have = ranges(r.rank for r in analysis.ranks)
    raise InputError(f"the run has no rank {rank}", hint=f"ranks read: {have}")
