"""What people use: `analyze`, and an `Analysis` that shows itself.

>>> import tracelens
>>> a = tracelens.analyze("run/")  # doctest: +SKIP
>>> print(a.report())  # doctest: +SKIP
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from tracelens import analysis, pipeline
from tracelens.analysis import RankEvents
from tracelens.pipeline import Paths, Progress

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


class Analysis(analysis.Analysis):
    """A recorded run, understood: `tracelens.analysis.Analysis` with ways to see its values.

    Tables are DataFrames with units in the column names, figures plotly objects.
    """

    @property
    def steps(self) -> pd.DataFrame:
        """One row a rank and step, times in ms."""
        from tracelens.frames import steps_frame

        return steps_frame(self)

    @property
    def collectives(self) -> pd.DataFrame:
        """One row a kind, phase, group and type: means per step and rank, times in ms."""
        from tracelens.frames import collectives_frame

        return collectives_frame(self)

    @property
    def findings(self) -> pd.DataFrame:
        """One row a cause of a slow step, most expensive first, ms per step."""
        from tracelens.frames import findings_frame

        return findings_frame(self)

    def open_rank(self, rank: int) -> RankEvents:
        """Read one rank's file again and link it.

        Raises
        ------
        InputError
            If the run has no such rank.
        """
        return pipeline.open_rank(self, rank)

    def events(self, rank: int | None = None) -> pd.DataFrame:
        """All events of one rank (the first by default), with step, phase and meaning."""
        from tracelens.frames import events_frame

        return events_frame(self.open_rank(self.ranks[0].rank if rank is None else rank))

    def report(self, *, width: int = 100) -> str:
        """The terminal report as plain text."""
        from tracelens.report.terminal import render_text

        return render_text(self, width=width)

    def to_json(self) -> dict[str, object]:
        """The report as the documented JSON structure (``format`` 1)."""
        from tracelens.report.json import to_json

        return to_json(self)

    def write_html(self, path: str | os.PathLike[str]) -> None:
        """Write the report as one self-contained HTML file, whole or not at all."""
        from tracelens.report.html import write_html

        write_html(self, path)

    def figure_steps(self) -> go.Figure:
        """Where each step's time went: a stacked bar a rank and step."""
        from tracelens.report.figures import step_breakdown_figure

        return step_breakdown_figure(self)

    def figure_overlap(self) -> go.Figure:
        """Overlapped and exposed time of each kind of collective."""
        from tracelens.report.figures import overlap_figure

        return overlap_figure(self)

    def figure_timeline(self, rank: int | None = None, step: int | None = None) -> go.Figure:
        """One step on the GPU streams and the host: by default a typical step."""
        from tracelens.report.timeline import timeline_of

        return timeline_of(self, rank, step)

    def _repr_html_(self) -> str:
        from tracelens.report.notebook import to_html

        return to_html(self)


def analyze(
    paths: Paths,
    *,
    ranks: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> Analysis:
    """Analyse a recorded run.

    Parameters
    ----------
    paths : path or sequence of paths
        Trace files, or folders with one file a rank.
    ranks : sequence of int, optional
        Read these ranks only.
    progress : callable, optional
        See `Progress`.

    Returns
    -------
    Analysis

    Raises
    ------
    InputError
        If nothing usable was found; names what was.

    Examples
    --------
    >>> import tracelens
    >>> a = tracelens.analyze("sample_traces/zero2_accumulation")  # doctest: +SKIP
    >>> a.setup["zero_stage"].value  # doctest: +SKIP
    2
    """
    found = pipeline.read_run(paths, ranks, progress)
    return Analysis(**{f.name: getattr(found, f.name) for f in fields(found)})
