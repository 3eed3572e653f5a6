"""What people use: `analyze`, and an `Analysis` that shows itself.

>>> import tracelens
>>> a = tracelens.analyze("run/")  # doctest: +SKIP
>>> print(a.report())  # doctest: +SKIP
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tracelens import analysis, comparison, pipeline
from tracelens.analysis import RankEvents
from tracelens.errors import UsageError
from tracelens.pipeline import Paths
from tracelens.reading import Effort, Progress

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from tracelens.replay import Prediction
    from tracelens.replay.critical import CriticalPath
    from tracelens.replay.model import Model
    from tracelens.replay.tune import Tuning
    from tracelens.store import Store

Run: TypeAlias = "analysis.Analysis | Mapping[str, Any] | Paths"
"""A run that was analysed, its report as a dict, or where to find it."""


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
    def comm(self) -> pd.DataFrame:
        """One row a communication kernel of a rank, times in ns since the rank's first event."""
        from tracelens.frames import comm_frame

        return comm_frame(self)

    @property
    def findings(self) -> pd.DataFrame:
        """One row a cause of a slow step, most expensive first, ms per step."""
        from tracelens.frames import findings_frame

        return findings_frame(self)

    def open_rank(self, rank: int, progress: Progress | None = None) -> RankEvents:
        """Read one rank's file again and link it.

        `progress` is called now and then with (what is read, bytes read, bytes of the file).

        Raises
        ------
        InputError
            If the run has no such rank.
        """
        return pipeline.open_rank(self, rank, progress=progress)

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


def analyze(  # noqa: PLR0913 - an option each
    paths: Paths,
    *,
    ranks: Sequence[int] | None = None,
    progress: Progress | None = None,
    ds_config: str | os.PathLike[str] | None = None,
    jobs: int | None = 1,
    memory_limit: int | None = None,
    raise_limits: float = 1,
    dask: str | None = None,
    db: str | os.PathLike[str] | None = None,
) -> Analysis:
    """Analyse a recorded run.

    Parameters
    ----------
    paths : path or sequence of paths
        Trace files, or folders with one file a rank; or a run in a store, as ``run.db#2``.
    ranks : sequence of int, optional
        Read these ranks only.
    progress : callable, optional
        See `Progress`.
    ds_config : path, optional
        The configuration that the job was started with; by default the one in the run's manifest.
    jobs : int, optional
        Ranks that are read at once, each in a process of its own; None for as many as cores and
        memory carry.
    memory_limit : int, optional
        Bytes that all processes may take together.
    raise_limits : float, optional
        How many times more than usual a file may unpack to, for files that you know.
    dask : str, optional
        Address of a Dask scheduler whose workers read the ranks (extra ``distributed``).
    db : path, optional
        A store to keep the run in (made if it is not there). A run that is in it is not read again.

    Returns
    -------
    Analysis

    Raises
    ------
    InputError
        If nothing usable was found; names what was.
    StoreError
        If the store cannot be used.

    Examples
    --------
    >>> import tracelens
    >>> a = tracelens.analyze("sample_traces/zero2_accumulation")  # doctest: +SKIP
    >>> a.setup["zero_stage"].value  # doctest: +SKIP
    2
    """
    from tracelens.store.place import stored_at

    many = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if any(stored_at(p) for p in many):
        if len(many) > 1 or ranks is not None or ds_config is not None or db is not None:
            raise UsageError("a run in a store is already read, alone and with all its options")
        from tracelens import keeping

        return _shown(keeping.load(many[0]))
    effort = Effort(jobs, memory_limit, raise_limits, dask)
    if db is None:
        return _shown(pipeline.read_run(many, ranks, progress, ds_config, effort))
    from tracelens import keeping

    return _shown(keeping.read_or_load(many, ranks, progress, ds_config, effort, db))


def _shown(found: analysis.Analysis) -> Analysis:
    """The same with methods that show it."""
    return Analysis(**{f.name: getattr(found, f.name) for f in fields(found)})


def open_store(path: str | os.PathLike[str]) -> Store:
    """Open a run.db.

    Returns
    -------
    Store
        Its `runs` lists what is kept, its `get` returns one run: the report and the tables.

    Raises
    ------
    StoreError
        If it is none, damaged, or of another version.

    Examples
    --------
    >>> import tracelens
    >>> store = tracelens.open_store("run.db")  # doctest: +SKIP
    >>> [run.name for run in store.runs()]  # doctest: +SKIP
    >>> run = store.get(1)  # doctest: +SKIP
    >>> run.document["summary"], run.steps, run.comm  # doctest: +SKIP
    """
    from tracelens.store import Store

    store = Store(Path(path))
    store.runs()
    return store


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs beside each other; `told` is the documented JSON structure (docs/compare.md)."""

    told: Mapping[str, Any]

    @property
    def outcome(self) -> str:
        """``faster``, ``slower``, ``no difference``, ``cannot tell`` or ``different work``."""
        return str(self.told["outcome"])

    @property
    def verdict(self) -> str:
        """What came of it, in a few sentences."""
        return str(self.told["verdict"])

    def to_json(self) -> dict[str, Any]:
        """What ``tracelens compare --json`` prints."""
        return dict(self.told)

    def report(self, *, width: int = 100) -> str:
        """What ``tracelens compare`` prints, as plain text."""
        from tracelens.report.comparison import render_text

        return render_text(self.told, width=width)


def compare(before: Run, after: Run, *, predicted: Mapping[str, Any] | None = None) -> Comparison:
    """Compare two runs: what changed, and whether the step did by more than noise.

    Parameters
    ----------
    before, after : Analysis, mapping or paths
        What `analyze` returned, its `Analysis.to_json`, or what `analyze` takes.
    predicted : mapping, optional
        What a what-if said of the change (``tracelens whatif --json``); by default what the store
        of `before` keeps of it.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        If a path holds no run.
    UsageError
        If a mapping is no report.

    Examples
    --------
    >>> import tracelens
    >>> c = tracelens.compare("before/", "after/")  # doctest: +SKIP
    >>> print(c.verdict)  # doctest: +SKIP
    """
    from tracelens.keeping import predicted_of

    one, other = _report(before), _report(after)
    forecast = predicted_of(before, one, other) if predicted is None else predicted
    return Comparison(comparison.compare(one, other, forecast))


def _report(run: Run) -> Mapping[str, Any]:
    from tracelens.keeping import report_of
    from tracelens.report.json import to_json

    if isinstance(run, Mapping):
        return run
    if isinstance(run, (str, os.PathLike)) and (kept := report_of(run)) is not None:
        return kept
    return to_json(run if isinstance(run, analysis.Analysis) else analyze(run))


def whatif(run: Analysis | Paths, change: Mapping[str, object]) -> Prediction:
    """Predict the step under another configuration, from one recorded run.

    Parameters
    ----------
    run : Analysis or paths
    change : mapping
        Keys of a ds_config (``zero_optimization.`` may be left out), ``interconnect_speed`` or
        ``world_size``, and the values that they are to have.

    Returns
    -------
    Prediction

    Raises
    ------
    CannotPredict
        If the recording does not show what it would take; the hint says what to record.
    UsageError
        If a key or a value is none.

    Examples
    --------
    >>> import tracelens
    >>> p = tracelens.whatif("run/", {"overlap_comm": True})  # doctest: +SKIP
    >>> p.step_ms, p.low * p.baseline.step_ms, p.confidence  # doctest: +SKIP
    """
    from tracelens.replay import Predictor, make_change

    return Predictor(*modelled(run)).predict(make_change(change))


def tune(run: Analysis | Paths) -> Tuning:
    """Try the settings that matter for what was running, and say whether a change is worth it.

    Parameters
    ----------
    run : Analysis or paths

    Returns
    -------
    Tuning
    """
    from tracelens.replay import Predictor
    from tracelens.replay.tune import tune as search

    found, model = modelled(run)
    return search(Predictor(found, model), found.ds_config)


def modelled(
    run: analysis.Analysis | Paths,
    *,
    progress: Progress | None = None,
    ds_config: str | os.PathLike[str] | None = None,
) -> tuple[analysis.Analysis, Model]:
    """A run and its replay, which is what `tracelens.replay.Predictor` takes.

    Parameters
    ----------
    run : Analysis or paths
    progress, ds_config
        As for `analyze`.
    """
    from tracelens.replay import load, read_and_load
    from tracelens.store.place import stored_at

    if isinstance(run, analysis.Analysis):
        return run, load(run)
    many = [run] if isinstance(run, (str, os.PathLike)) else list(run)
    if any(stored_at(p) for p in many):
        found = analyze(many, ds_config=ds_config)
        return found, load(found)
    return read_and_load(many, progress, ds_config)


def critical_path(run: Analysis | Paths) -> CriticalPath:
    """Where a step's length comes from: what each moment waited for, back from the end.

    Parameters
    ----------
    run : Analysis or paths

    Returns
    -------
    CriticalPath
    """
    from tracelens.replay.critical import find_critical_path

    return find_critical_path(modelled(run)[1])
