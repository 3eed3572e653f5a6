"""Copies between host and GPU: which memory they touch, and what runs beside them."""

from __future__ import annotations

import numpy as np

from tracelens.classify import Op, is_comm, is_compute
from tracelens.intervals import clip_lengths, subtract, union
from tracelens.links import GpuWork
from tracelens.steps import StepMap, Steps
from tracelens.trace import Bools, Int64s, Trace


def is_pageable(trace: Trace, work: GpuWork) -> Bools:
    """Copies from or to pageable host memory."""
    names = np.array([i for i, t in enumerate(trace.strings) if "Pageable" in t], np.int32)
    return np.isin(trace.slices.name[work.row], names)


def pageable_of(
    trace: Trace, work: GpuWork, found: StepMap, direction: Op
) -> tuple[Int64s, Int64s]:
    """Exposed copies from or to pageable memory and their bytes, per step."""
    s, steps = trace.slices, found.steps
    on = is_pageable(trace, work) & (work.op == direction)
    size = np.zeros(len(steps), np.int64)
    inside = on & (found.of_work >= 0)
    np.add.at(size, found.of_work[inside], np.maximum(s.bytes[work.row[inside]], 0))
    return exposed_of(work, on, steps), size


def exposed_of(work: GpuWork, on: Bools, steps: Steps) -> Int64s:
    """Time in which some rows run and no kernel, per step."""
    kernels = is_compute(work.op) | is_comm(work.op)
    alone = subtract(
        union(work.start_ns[on], work.end_ns[on]),
        union(work.start_ns[kernels], work.end_ns[kernels]),
    )
    return clip_lengths(alone, steps.start_ns, steps.end_ns)
