"""Stretches in which the host shows nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracelens.intervals import Spans, union
from tracelens.links import GpuWork
from tracelens.steps import Steps
from tracelens.syncs import works_for_steps
from tracelens.thresholds import PAUSE_NS
from tracelens.trace import Int64s, Kind, Trace


@dataclass(frozen=True, slots=True)
class Pause:
    """A stretch without any host event: step row, start and length in ns, events around it.

    `frame`: the innermost Python frame that spans it (with_stack), "" where none was recorded.
    """

    step: int
    start_ns: int
    dur_ns: int
    after: str
    before: str
    frame: str = ""


def find_pauses(trace: Trace, work: GpuWork, steps: Steps) -> tuple[Spans, tuple[Pause, ...]]:
    """Stretches longer than `PAUSE_NS` in which no thread that works for the step has an event.

    Threads that never run an op or launch work (NCCL's watchdog) do not count: their polling says
    nothing about the step.
    """
    s = trace.slices
    events = np.flatnonzero((s.kind == Kind.CPU_OP) | (s.kind == Kind.RUNTIME))
    events = events[works_for_steps(trace, work)[s.track[events]]]
    start, end = union(s.ts_ns[events], s.end_ns[events])
    gap_start, gap_end = end[:-1], start[1:]
    long = gap_end - gap_start > PAUSE_NS
    gaps = gap_start[long], gap_end[long]
    step = np.searchsorted(steps.host_start_ns, gaps[0], "right") - 1
    # (a gap lies between two events)
    before = events[np.searchsorted(s.ts_ns[events], gaps[0], "left") - 1]
    after = events[np.searchsorted(s.ts_ns[events], gaps[1], "left")]
    frames = trace.rows(Kind.PYTHON)
    pauses = [
        Pause(k, a, b - a, trace.strings[i], trace.strings[j], _frame(trace, frames, (a, b)))
        for k, a, b, i, j in zip(
            *(x.tolist() for x in (step, *gaps, s.name[before], s.name[after])), strict=True
        )
        if k >= 0
    ]
    return gaps, tuple(pauses)


def _frame(trace: Trace, frames: Int64s, gap: tuple[int, int]) -> str:
    """The shortest of some Python frames that is open over the middle nine tenths of a gap."""
    s, margin = trace.slices, (gap[1] - gap[0]) // 20
    rows = frames[: np.searchsorted(s.ts_ns[frames], gap[0] + margin, "right")]
    rows = rows[s.ts_ns[rows] + s.dur_ns[rows] >= gap[1] - margin]
    return trace.strings[s.name[rows[s.dur_ns[rows].argmin()]]] if len(rows) else ""
