"""Stretches in which the host shows nothing, and in which it stands still whatever it does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracelens.intervals import Spans, union
from tracelens.links import GpuWork
from tracelens.steps import Steps
from tracelens.syncs import works_for_steps
from tracelens.thresholds import PAUSE_NS, STOP_NAMES, STOP_SHARE, STOPS
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


@dataclass(frozen=True, slots=True)
class Stops:
    """A host that does not run: how often it stood still inside operators, and what these are.

    `count` operators of `names` (most often first), which are short else, have a stretch longer
    than `PAUSE_NS` without any event within; the longest has `longest_ns`. Nothing is in it (0, 0
    and no names) unless they are `STOPS` and of `STOP_NAMES` kinds: then something else had the
    cores, for Python, its collector and sleeps do not run inside an operator.
    """

    count: int = 0
    longest_ns: int = 0
    names: tuple[str, ...] = ()

    @property
    def most_ns(self) -> int:
        """How long a pause may be that is one of them: another slice's worth is the host's own."""
        return self.longest_ns + PAUSE_NS if self.count else 0


def find_stops(trace: Trace, work: GpuWork) -> Stops:
    """Look for operators in which a rank's host stands still."""
    s = trace.slices
    events = _events(trace, work)
    long = events[s.dur_ns[events] > PAUSE_NS]
    if len(_short_operators(trace, np.unique(s.name[long]))) < STOP_NAMES:
        return Stops()
    edge = np.unique(np.concatenate((s.ts_ns[events], s.end_ns[events])))
    at = np.flatnonzero(np.diff(edge) > PAUSE_NS)
    inside = _innermost(trace, long, (edge[at], edge[at + 1]))
    length = (edge[at + 1] - edge[at])[inside >= 0]
    name = s.name[inside[inside >= 0]]
    short = np.isin(name, _short_operators(trace, np.unique(name)))
    codes, counts = np.unique(name[short], return_counts=True)
    if counts.sum() < STOPS or len(codes) < STOP_NAMES:
        return Stops()
    often = codes[np.argsort(-counts, kind="stable")].tolist()
    names = tuple(trace.strings[c] for c in often)
    return Stops(int(counts.sum()), int(length[short].max()), names)


#: How many long events that began later may have ended before the one that a stretch lies in.
_NEARBY = 8


def _innermost(trace: Trace, rows: Int64s, spans: Spans) -> Int64s:
    """Row of the last event to begin, of some, that each span lies in; -1 without one."""
    s = trace.slices
    rows = rows[np.argsort(s.ts_ns[rows], kind="stable")]
    last = np.searchsorted(s.ts_ns[rows], spans[0], "right") - 1
    found = np.full(len(last), -1, np.int64)
    for back in range(_NEARBY if len(rows) else 0):
        row = rows[np.maximum(last - back, 0)]
        found = np.where((found < 0) & (last >= back) & (s.end_ns[row] >= spans[1]), row, found)
    return found


def _short_operators(trace: Trace, codes: Int64s) -> list[int]:
    """Those of some names that are operators of ATen, and short as a rule."""
    s = trace.slices
    operators = [c for c in codes.tolist() if trace.strings[c].startswith("aten::")]
    usual = STOP_SHARE * PAUSE_NS
    return [c for c in operators if np.median(s.dur_ns[s.name == c]) < usual]


def _events(trace: Trace, work: GpuWork) -> Int64s:
    """Operators and calls of threads that work for the step.

    Threads that never run an op or launch work (NCCL's watchdog) do not count: their polling says
    nothing about the step.
    """
    s = trace.slices
    events = np.flatnonzero((s.kind == Kind.CPU_OP) | (s.kind == Kind.RUNTIME))
    return events[works_for_steps(trace, work)[s.track[events]]]


def find_pauses(trace: Trace, work: GpuWork, steps: Steps) -> tuple[Spans, tuple[Pause, ...]]:
    """Stretches longer than `PAUSE_NS` in which no thread that works for the step has an event."""
    s = trace.slices
    events = _events(trace, work)
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
