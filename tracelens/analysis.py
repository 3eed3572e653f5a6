"""What is known of a run once it is understood: values that reports and stores read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tracelens.collectives import CollectiveSummary, CommTable
from tracelens.detectors import Verdict
from tracelens.efficiency import Efficiency
from tracelens.findings import Finding
from tracelens.fits import Fit
from tracelens.gradients import Ready
from tracelens.host import Host
from tracelens.infer.facts import RankFacts
from tracelens.infer.result import Setup
from tracelens.ingest.ds_config import DsConfig
from tracelens.ingest.manifest import Manifest
from tracelens.ingest.run import RunPlan
from tracelens.intervals import Spans
from tracelens.links import GpuWork
from tracelens.matching import Matches
from tracelens.overlap import StepBreakdown
from tracelens.phases import Passes, Phases
from tracelens.steps import StepMap, Steps
from tracelens.trace import Bools, ImportStats, Int64s, Note, Trace, TraceInfo, _freeze


@dataclass(frozen=True, slots=True)
class RankAnalysis:
    """Everything measured on one rank; small, without the events themselves.

    `first_ns`: start of the first event, so that times can be told from there.
    `op_ns` int64 (k, number of `Op`): summed length of each kind of GPU work per step.
    `kernels` int64 (k,): GPU work launched per step.
    `compute`: when compute kernels run.
    `exposed_wait_ns` int64 (k,): part of the exposed communication that is waiting, -1 unknown.
    `host`: what the host did while the GPU was idle.
    `ready`: when the gradients of backward passes were ready.
    """

    rank: int
    path: str
    info: TraceInfo
    stats: ImportStats
    first_ns: int
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
    ready: Ready
    facts: RankFacts

    def __post_init__(self) -> None:
        _freeze(self)


def counted_steps(ranks: Sequence[RankAnalysis]) -> tuple[Bools, ...]:
    """Which steps of each rank the means of a run are over: the whole ones.

    All of them where no rank has a whole one; a rank without one, where others have, counts for
    nothing.
    """
    if any(r.steps.complete.any() for r in ranks):
        return tuple(r.steps.complete for r in ranks)
    return tuple(np.ones(len(r.steps), bool) for r in ranks)


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
    fits : tuple of Fit
        Latency and bandwidth by kind, group and kernel; none where the GPUs were shared.
    finding_rows : tuple of Finding
        Causes of a slow step, most expensive first.
    verdicts : tuple of Verdict
        How each detector's run ended.
    wait_bounds : (float, float) or None
        Least and most of the exposed communication that is waiting, ns, mean over whole steps and
        ranks, where `Summary.exposed_wait` is unknown; None where it is known, or cannot be bounded
        since another process used the GPUs.
    manifest : Manifest or None
        What the collectors wrote down beside the traces (steps timed without a profiler ...).
    ds_config : DsConfig or None
        What the job was configured to do: as given by the user, else as in the manifest.
    efficiency : Efficiency or None
        Achieved TFLOP/s, MFU and HFU; None where no FLOPs were counted.
    profiler_ns : float or None
        How much of a recorded step the profiler takes by slowing the host, which no cost has; None
        where that cannot be told.
    """

    run: RunInfo
    ranks: tuple[RankAnalysis, ...]
    setup: Setup
    collective_rows: tuple[CollectiveSummary, ...]
    summary: Summary
    notes: tuple[Note, ...]
    plan: RunPlan
    matches: Matches
    fits: tuple[Fit, ...]
    finding_rows: tuple[Finding, ...]
    verdicts: tuple[Verdict, ...]
    wait_bounds: tuple[float, float] | None
    manifest: Manifest | None = None
    ds_config: DsConfig | None = None
    efficiency: Efficiency | None = None
    profiler_ns: float | None = None

    @property
    def judged_step_ns(self) -> float:
        """The mean step that costs are part of: without the profiler's doing, as far as known."""
        return self.summary.wall - (self.profiler_ns or 0.0)
