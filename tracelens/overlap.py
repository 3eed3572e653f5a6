"""Where each nanosecond of a step went, exactly.

At any instant a rank's GPU runs compute kernels, or only communication (exposed communication), or
only copies (exposed copies), or nothing (idle). The four add up to the step's window; streams play
no part, and every kernel, copy and memset counts, whoever launched it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracelens.classify import is_comm, is_compute
from tracelens.intervals import Spans, clip_lengths, union
from tracelens.links import GpuWork
from tracelens.steps import Steps
from tracelens.trace import Bools, Int64s, _freeze

#: Columns of `StepBreakdown`, in the order of the reports.
BREAKDOWN = ("wall", "compute", "overlapped_comm", "exposed_comm", "exposed_copy", "idle", "comm")


@dataclass(frozen=True, slots=True)
class StepBreakdown:
    """One row a step, int64 ns. Two identities hold exactly:

    ``compute + exposed_comm + exposed_copy + idle == wall`` and
    ``exposed_comm + overlapped_comm == comm``.

    `compute` and `comm` are unions of kernels (concurrent ones count once); `exposed_copy` is time
    in which copies or memsets are all that runs.
    """

    wall: Int64s
    compute: Int64s
    comm: Int64s
    overlapped_comm: Int64s
    exposed_comm: Int64s
    exposed_copy: Int64s
    idle: Int64s

    def __post_init__(self) -> None:
        _freeze(self)

    def __len__(self) -> int:
        return len(self.wall)


def compute_spans(work: GpuWork, among: Bools | None = None) -> Spans:
    """When at least one compute kernel runs, of all or of some rows."""
    on = is_compute(work.op) if among is None else is_compute(work.op) & among
    return union(work.start_ns[on], work.end_ns[on])


def break_down(work: GpuWork, steps: Steps) -> StepBreakdown:
    """Split every step's window into compute, exposed communication, exposed copies and idle."""
    compute_on, comm_on = is_compute(work.op), is_comm(work.op)
    kernels = compute_on | comm_on
    start, end = steps.start_ns, steps.end_ns

    def covered(on: Bools) -> Int64s:
        return clip_lengths(union(work.start_ns[on], work.end_ns[on]), start, end)

    wall = end - start
    compute, comm = covered(compute_on), covered(comm_on)
    busy_kernels, busy = covered(kernels), covered(np.ones(len(work), bool))
    exposed_comm = busy_kernels - compute
    return StepBreakdown(
        wall=wall,
        compute=compute,
        comm=comm,
        overlapped_comm=comm - exposed_comm,
        exposed_comm=exposed_comm,
        exposed_copy=busy - busy_kernels,
        idle=wall - busy,
    )
