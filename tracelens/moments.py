"""Moments of a trace that prove something: a step, a span of time, and an event to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tracelens.intervals import Spans
from tracelens.links import GpuWork
from tracelens.steps import Steps
from tracelens.thresholds import MOMENTS
from tracelens.trace import Int64s, Trace


@dataclass(frozen=True, slots=True)
class Moment:
    """A span of trace time in ns, the row of its step, and an event of `Slices`: name and row."""

    step: int
    start_ns: int
    end_ns: int
    name: str
    row: int


def before_end(trace: Trace, steps: Steps, spans: Spans, rows: Int64s) -> tuple[Moment, ...]:
    """The longest spans, each with the last of some events that begins before its end.

    `rows` ascend in time.
    """
    start, end = _longest(spans)
    at = np.searchsorted(trace.slices.ts_ns[rows], end, "left") - 1
    event = np.where(at >= 0, rows[at], -1) if len(rows) else np.full(len(start), -1)
    return _moments(trace, steps, (start, end), event)


def until_work(trace: Trace, steps: Steps, spans: Spans, work: GpuWork) -> tuple[Moment, ...]:
    """The longest spans, each with the GPU work that begins at its end or after."""
    start, end = _longest(spans)
    at = np.searchsorted(work.start_ns, end, "left")
    last = len(work) - 1
    event = np.where(at <= last, work.row[np.minimum(at, last)], -1) if len(work) else at * 0 - 1
    return _moments(trace, steps, (start, end), event)


def of_events(trace: Trace, steps: Steps, rows: Int64s) -> tuple[Moment, ...]:
    """The longest of some events."""
    s = trace.slices
    rows = rows[np.argsort(-s.dur_ns[rows], kind="stable")][:MOMENTS]
    return _moments(trace, steps, (s.ts_ns[rows], s.end_ns[rows]), rows)


def _longest(spans: Spans) -> Spans:
    order = np.argsort(spans[0] - spans[1], kind="stable")[:MOMENTS]
    return spans[0][order], spans[1][order]


def _moments(
    trace: Trace, steps: Steps, spans: Spans, rows: Int64s | Sequence[int]
) -> tuple[Moment, ...]:
    step = np.searchsorted(steps.start_ns, spans[0], "right") - 1
    found = zip(step.tolist(), spans[0].tolist(), spans[1].tolist(), list(rows), strict=True)
    names = trace.slices.name
    return tuple(
        Moment(k, a, b, trace.strings[names[row]] if row >= 0 else "", int(row))
        for k, a, b, row in found
    )
