"""What the recording itself costs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tracelens.detectors.context import Charge, Context, charge
from tracelens.host import Cause
from tracelens.thresholds import PROFILER_SHARE
from tracelens.units import format_ns


def profiler_overhead(context: Context) -> Iterator[Charge]:
    """How much longer are the recorded steps than those without a profiler?

    Fires at `PROFILER_SHARE` of the step and more. The job saves nothing by it, so it costs 0. But
    the profiler slows the host: as much of the time in which every GPU idles for its host is
    explained, and taken off `launch_bound`.
    """
    plain = context.unprofiled_ns
    if plain is None or context.step_ns < (1 + PROFILER_SHARE) * plain:
        return
    extra = context.step_ns - plain
    slower = np.full(len(context.views), min(extra, float(context.idle(Cause.LAUNCH).min())))
    found = charge(
        context,
        "profiler_overhead",
        f"Recording makes the step {format_ns(extra)} longer: {context.step_ns / plain:.2f} times",
        np.zeros(len(context.views)),
        ranks=tuple(v.rank for v in context.views),
        evidence=(
            f"{format_ns(context.step_ns)} a recorded step, {format_ns(plain)} without a profiler "
            "(the run's manifest)",
            f"{format_ns(float(slower[0]))} of it are taken off what the host costs; other "
            "costs are those of recorded steps",
        ),
        remedy="record fewer steps, without shapes, stacks and memory where they are not needed",
    )
    yield Charge(found.finding, slower, of_launch=slower)
