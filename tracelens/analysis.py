"""What is known of a run once it is understood: values that reports and stores read."""

from __future__ import annotations

from dataclasses import dataclass

from tracelens.collectives import CollectiveSummary, CommTable
from tracelens.detectors import Verdict
from tracelens.findings import Finding
from tracelens.host import Host
from tracelens.infer.facts import RankFacts
from tracelens.infer.result import Setup
from tracelens.ingest.run import RunPlan
from tracelens.intervals import Spans
from tracelens.links import GpuWork
from tracelens.matching import Matches
from tracelens.overlap import StepBreakdown
from tracelens.phases import Passes, Phases
from tracelens.steps import StepMap, Steps
from tracelens.trace import ImportStats, Int64s, Note, Trace, TraceInfo, _freeze


@dataclass(frozen=True, slots=True)
class RankAnalysis:
    """Everything measured on one rank; small, without the events themselves.

    `op_ns` int64 (k, number of `Op`): summed length of each kind of GPU work per step.
    `kernels` int64 (k,): GPU work launched per step.
    `compute`: when compute kernels run.
    `exposed_wait_ns` int64 (k,): part of the exposed communication that is waiting, -1 unknown.
    `host`: what the host did while the GPU was idle.
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
    backward: Spans
    exposed_wait_ns: Int64s
    host: Host
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
    plan : RunPlan
        The files of the run.
    matches : Matches
        How well the ranks' collectives and clocks agree.
    finding_rows : tuple of Finding
        Causes of a slow step, most expensive first.
    verdicts : tuple of Verdict
        How each detector's run ended.
    """

    run: RunInfo
    ranks: tuple[RankAnalysis, ...]
    setup: Setup
    collective_rows: tuple[CollectiveSummary, ...]
    summary: Summary
    notes: tuple[Note, ...]
    plan: RunPlan
    matches: Matches
    finding_rows: tuple[Finding, ...]
    verdicts: tuple[Verdict, ...]
