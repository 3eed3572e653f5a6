"""analyze(paths) -> Analysis: the one bundle that reports, store and dashboard read."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tracelens.classify import Op
from tracelens.collectives import CollectiveSummary, CommTable, collect, summarize
from tracelens.errors import EmptyTrace, InputError
from tracelens.infer.facts import RankFacts, gather
from tracelens.infer.result import Setup
from tracelens.infer.rules import infer_setup
from tracelens.ingest import open_trace
from tracelens.ingest.run import RunPlan, discover
from tracelens.intervals import Spans
from tracelens.links import GpuWork, link
from tracelens.matching import Matches, RankComm, exposed_wait, match
from tracelens.overlap import StepBreakdown, break_down, compute_spans
from tracelens.phases import Passes, Phases, find_phases
from tracelens.steps import StepMap, Steps, find_steps
from tracelens.trace import ImportStats, Int64s, Note, Trace, TraceInfo, _freeze

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from tracelens.findings import Finding

Progress = Callable[[str, int, int], None]
"""Called with (what is read, bytes read, bytes in all)."""


@dataclass(frozen=True, slots=True)
class RankAnalysis:
    """Everything measured on one rank; small, without the events themselves.

    `op_ns` int64 (k, number of `Op`): summed length of each kind of GPU work per step.
    `kernels` int64 (k,): GPU work launched per step.
    `compute`: when compute kernels run.
    `exposed_wait_ns` int64 (k,): part of the exposed communication that is waiting, -1 unknown.
    """

    rank: int
    path: str
    info: TraceInfo
    stats: ImportStats
    steps: Steps
    step_source: str
    breakdown: StepBreakdown
    comm: CommTable
    passes: Passes
    op_ns: Int64s
    kernels: Int64s
    compute: Spans
    exposed_wait_ns: Int64s
    facts: RankFacts

    def __post_init__(self) -> None:
        _freeze(self)


@dataclass(frozen=True, slots=True)
class RunInfo:
    """Where the run came from. None where the traces do not say."""

    source: str
    paths: tuple[str, ...]
    ranks: tuple[int, ...]
    rank_source: str
    world_size: int | None
    device: str | None
    n_events: int
    torch: str | None
    nccl: str | None


@dataclass(frozen=True, slots=True)
class Summary:
    """Means over whole steps and ranks, ns, and two ratios. None where there is nothing to share.

    `exposed_wait` and `exposed_transfer` add up to `exposed_comm`; None unless known of all.

    `overlap_ratio` is overlapped_comm / comm; `exposed_comm_pct` is the share of the wall.
    """

    n_steps: int
    wall: float
    compute: float
    comm: float
    overlapped_comm: float
    exposed_comm: float
    exposed_copy: float
    idle: float
    overlap_ratio: float | None
    exposed_comm_pct: float | None
    exposed_wait: float | None
    exposed_transfer: float | None


@dataclass(frozen=True, slots=True)
class RankEvents:
    """A rank's trace and what was linked in it, for a look at single events."""

    trace: Trace
    work: GpuWork
    found: StepMap
    phases: Phases


@dataclass(frozen=True)
class Analysis:
    """A recorded run, understood.

    Attributes
    ----------
    run : RunInfo
    ranks : tuple of RankAnalysis
        Ascending in rank.
    setup : Setup
        What was running, key by key, with evidence.
    collective_rows : tuple of CollectiveSummary
    summary : Summary
    notes : tuple of Note
        What the reader of the report should know about the input.
    finding_rows : tuple of Finding
        Causes of a slow step.
    """

    run: RunInfo
    ranks: tuple[RankAnalysis, ...]
    setup: Setup
    collective_rows: tuple[CollectiveSummary, ...]
    summary: Summary
    notes: tuple[Note, ...]
    plan: RunPlan
    matches: Matches
    finding_rows: tuple[Finding, ...] = ()

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
        for r in self.ranks:
            if r.rank == rank:
                return _look(open_trace(r.path))
        have = ", ".join(str(r.rank) for r in self.ranks)
        raise InputError(f"the run has no rank {rank}", hint=f"ranks read: {have}")

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
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
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
    many = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    plan = discover(many)
    plan = plan if ranks is None else plan.select(ranks)
    done: list[RankAnalysis] = []
    notes: list[Note] = list(plan.notes)
    total, before = sum(f.bytes for f in plan.files), 0
    for f in plan.files:
        tick = None
        if progress is not None:
            tick = _tick(progress, os.path.basename(f.path), before, total)
        try:
            trace = open_trace(f.path, progress=tick)
        except InputError as e:
            if len(plan.files) == 1:
                raise
            notes.append(Note("unreadable_file", 1, f"rank {f.rank} is left out: {e}"))
            continue
        done.append(analyze_rank(trace, f.rank))
        before += f.bytes
    if not done:
        raise InputError("no rank of the run could be read", hint="\n".join(n.text for n in notes))
    return _assemble(plan, tuple(done), notes)


def _tick(progress: Progress, what: str, before: int, total: int) -> Callable[[int, int], None]:
    def tick(read: int, _: int) -> None:
        progress(what, before + read, total)

    return tick


def _look(trace: Trace) -> RankEvents:
    work = link(trace)
    found = find_steps(trace, work)
    return RankEvents(trace, work, found, find_phases(trace, work, found))


def analyze_rank(trace: Trace, rank: int) -> RankAnalysis:
    """Measure one rank: links, steps, phases, breakdown, collectives, facts for the inference."""
    if not len(trace.slices):
        raise EmptyTrace(f"{trace.info.path}: no events", hint="was anything recorded?")
    seen = _look(trace)
    work, found = seen.work, seen.found
    comm = collect(trace, work, found, seen.phases)
    inside = found.of_work >= 0
    op_ns = np.zeros((len(found.steps), len(Op)), np.int64)
    np.add.at(
        op_ns,
        (found.of_work[inside], work.op[inside].astype(np.int64)),
        (work.end_ns - work.start_ns)[inside],
    )
    return RankAnalysis(
        rank=rank,
        path=trace.info.path,
        info=trace.info,
        stats=trace.stats,
        steps=found.steps,
        step_source=found.source,
        breakdown=break_down(work, found.steps),
        comm=comm,
        passes=seen.phases.passes,
        op_ns=op_ns,
        kernels=np.bincount(found.of_work[inside], minlength=len(found.steps)),
        compute=compute_spans(work),
        exposed_wait_ns=np.full(len(found.steps), -1, np.int64),
        facts=gather(trace, seen.work, seen.found, seen.phases, comm),
    )


def _with_waits(ranks: tuple[RankAnalysis, ...]) -> tuple[tuple[RankAnalysis, ...], Matches]:
    """The ranks with what matching their collectives tells about waiting."""
    seen = [
        RankComm(
            r.rank,
            r.comm,
            np.where(r.comm.step >= 0, r.steps.number[r.comm.step], -1),
            r.info.clock_zero_ns,
        )
        for r in ranks
    ]
    matches = match(seen)
    told = [
        replace(r, exposed_wait_ns=exposed_wait(r.comm, w, r.compute, r.steps))
        for r, w in zip(ranks, matches.wait_ns, strict=True)
    ]
    return tuple(told), matches


def _assemble(plan: RunPlan, ranks: tuple[RankAnalysis, ...], notes: list[Note]) -> Analysis:
    ranks, matches = _with_waits(ranks)
    info = ranks[0].info
    world = {r.info.world_size for r in ranks if r.info.world_size is not None}
    for r in ranks:
        notes += [Note(n.code, n.count, f"rank {r.rank}: {n.text}") for n in r.stats.notes]
    run = RunInfo(
        source=info.source,
        paths=tuple(r.path for r in ranks),
        ranks=tuple(r.rank for r in ranks),
        rank_source=plan.files[0].rank_source,
        world_size=world.pop() if len(world) == 1 else None,
        device=info.devices[0] if info.devices else None,
        n_events=sum(r.stats.events_read for r in ranks),
        torch=info.torch,
        nccl=info.nccl,
    )
    whole = [r.steps.complete for r in ranks]
    return Analysis(
        run=run,
        ranks=ranks,
        setup=infer_setup(tuple(r.facts for r in ranks), run.world_size),
        collective_rows=summarize([r.comm for r in ranks], whole, matches.wait_ns),
        summary=_summarize(ranks),
        notes=tuple(notes),
        plan=plan,
        matches=matches,
    )


def _summarize(ranks: Sequence[RankAnalysis]) -> Summary:
    """Means over the whole steps of all ranks; over all steps where none is whole."""
    any_whole = any(r.steps.complete.any() for r in ranks)
    use = [r.steps.complete if any_whole else np.ones(len(r.steps), bool) for r in ranks]

    def mean(column: str) -> float:
        parts = [getattr(r.breakdown, column)[u] for r, u in zip(ranks, use, strict=True)]
        return float(np.concatenate(parts).mean())

    columns = ("wall", "compute", "comm", "overlapped_comm", "exposed_comm", "exposed_copy", "idle")
    means = {c: mean(c) for c in columns}
    waits = np.concatenate([r.exposed_wait_ns[u] for r, u in zip(ranks, use, strict=True)])
    wait = float(waits.mean()) if (waits >= 0).all() else None
    return Summary(
        n_steps=sum(int(u.sum()) for u in use),
        **means,
        overlap_ratio=means["overlapped_comm"] / means["comm"] if means["comm"] else None,
        exposed_comm_pct=100 * means["exposed_comm"] / means["wall"] if means["wall"] else None,
        exposed_wait=wait,
        exposed_transfer=means["exposed_comm"] - wait if wait is not None else None,
    )
