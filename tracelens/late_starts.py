"""Work that was launched and that an idle device starts late: what did it wait for?

A kernel starts some 10 us after its launch if the device is free. One that starts much later has
waited for something that is not in the trace: another process's time slice, or work, a signal or a
module load that the recording lacks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracelens.intervals import Spans
from tracelens.links import GpuWork
from tracelens.steps import Steps
from tracelens.thresholds import SLICES_NS, STALL_NS
from tracelens.trace import Bools, Int64s, Trace, _freeze


@dataclass(frozen=True, slots=True)
class LateStarts:
    """Late starts (n), ascending.

    Attributes
    ----------
    start_ns, end_ns : int64 (n,)
        From the launch, or from when the device fell idle if that is later, to the start.
    row : int64 (n,)
        Row of `GpuWork` that starts late.
    queued : bool (n,)
        Whether it was launched before the device fell idle: it waited in a queue, and what it
        waited for may be work that the recording lacks.
    first : bool (n,)
        Whether the recording has no earlier work of that name: its module may have been loaded.
    cuda : bool (n,)
        Whether CUDA launched it: how others share a device between processes is not known here.
    """

    start_ns: Int64s
    end_ns: Int64s
    row: Int64s
    queued: Bools
    first: Bools
    cuda: Bools

    def __post_init__(self) -> None:
        _freeze(self)

    @property
    def spans(self) -> Spans:
        """When an idle device had work and did not start it."""
        return self.start_ns, self.end_ns

    @property
    def slices(self) -> Bools:
        """Which last no longer than other processes' time slices (n,)."""
        return self.end_ns - self.start_ns <= SLICES_NS

    @property
    def plain(self) -> Bools:
        """Which only another process explains (n,): short, nothing queued, nothing to be loaded."""
        return self.slices & ~self.queued & ~self.first & self.cuda

    def count(self, steps: Steps, on: Bools | None = None) -> Int64s:
        """How many begin in each step (k,)."""
        return self._per_step(steps, np.ones(len(self.row), np.int64), on)

    def length_ns(self, steps: Steps, on: Bools | None = None) -> Int64s:
        """How long those are that begin in each step (k,)."""
        return self._per_step(steps, self.end_ns - self.start_ns, on)

    def _per_step(self, steps: Steps, values: Int64s, on: Bools | None) -> Int64s:
        result = np.zeros(len(steps), np.int64)
        at = np.searchsorted(steps.start_ns, self.start_ns, "right") - 1
        chosen = (at >= 0) if on is None else (at >= 0) & on
        np.add.at(result, at[chosen], values[chosen])
        return result


def submitted_ns(trace: Trace, work: GpuWork) -> Int64s:
    """When the host had submitted each piece of work, ns; -1 unknown.

    The start of the launching call, which takes some 5 us. A call that takes longer than `STALL_NS`
    was held up on the host (its thread lost the core, a module was loaded, a copy was staged), and
    the work began at its end on recorded runs: then it is the end.
    """
    call = trace.slices.dur_ns[work.launch]
    held_up = (work.launch >= 0) & (call > STALL_NS)
    return np.where(held_up, work.launch_ns + call, work.launch_ns)


def late_starts(
    trace: Trace, work: GpuWork, gaps: Spans, turn_ns: Int64s, nxt: Int64s
) -> LateStarts:
    """Late starts among the idle gaps of a device.

    Parameters
    ----------
    trace : Trace
    work : GpuWork
    gaps : int64 (m,) each
        Start and end of gaps that end with work whose launch is known.
    turn_ns : int64 (m,)
        When the work that ends each gap was submitted, within the gap.
    nxt : int64 (m,)
        Row of `GpuWork` that ends each gap.
    """
    late = np.flatnonzero(gaps[1] - turn_ns > STALL_NS)
    row = nxt[late]
    name = trace.slices.name[work.row]
    _, earliest = np.unique(name, return_index=True)  # work ascends in start
    first = np.zeros(len(work), bool)
    first[earliest] = True
    return LateStarts(
        start_ns=turn_ns[late],
        end_ns=gaps[1][late],
        row=row,
        queued=turn_ns[late] == gaps[0][late],
        first=first[row],
        cuda=np.isin(trace.slices.name[work.launch[row]], trace.names_starting("cu")),
    )
