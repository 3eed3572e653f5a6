"""pandas at the edge: the tables of an `Analysis` as DataFrames, units in the column names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tracelens.classify import Op
from tracelens.overlap import BREAKDOWN
from tracelens.phases import Phase
from tracelens.trace import GPU_WORK, Floats
from tracelens.units import NS_PER_MS

if TYPE_CHECKING:
    from tracelens.analysis import Analysis, RankAnalysis, RankEvents
    from tracelens.trace import Int8s, Int32s, Int64s


def steps_frame(analysis: Analysis) -> pd.DataFrame:
    """One row a rank and step.

    Returns
    -------
    pandas.DataFrame
        ``rank``, ``step`` (the profiler's number), ``complete`` (False: left out of the means),
        the breakdown in ms, and ``kernels`` launched. ``exposed_wait_ms`` and
        ``exposed_transfer_ms`` split the exposed communication; NaN where ranks that take part were
        not read. Two identities hold:
        compute + exposed_comm + exposed_copy + idle = wall, exposed_comm + overlapped_comm = comm.
    """
    ranks = analysis.ranks
    columns: dict[str, object] = {
        "rank": np.repeat([r.rank for r in ranks], [len(r.steps) for r in ranks]),
        "step": np.concatenate([r.steps.number for r in ranks]),
        "complete": np.concatenate([r.steps.complete for r in ranks]),
    }
    for name in BREAKDOWN:
        ns = np.concatenate([getattr(r.breakdown, name) for r in ranks])
        columns[f"{name}_ms"] = ns / NS_PER_MS
    wait = np.concatenate([r.exposed_wait_ns for r in ranks])
    exposed = np.concatenate([r.breakdown.exposed_comm for r in ranks])
    columns["exposed_wait_ms"] = np.where(wait >= 0, wait / NS_PER_MS, np.nan)
    columns["exposed_transfer_ms"] = np.where(wait >= 0, (exposed - wait) / NS_PER_MS, np.nan)
    columns["kernels"] = np.concatenate([r.kernels for r in ranks])
    return pd.DataFrame(columns)


def collectives_frame(analysis: Analysis) -> pd.DataFrame:
    """One row a kind, phase, group and type of collective, longest first.

    Returns
    -------
    pandas.DataFrame
        Means per step and rank over whole steps: ``count_per_step``, ``bytes_per_step``,
        ``total_ms`` (waiting for other ranks included), ``exposed_ms``, ``overlapped_pct``. Missing
        where the trace does not say.
    """
    rows = analysis.collective_rows

    def number(values: Sequence[float | None]) -> Floats:
        return np.array([np.nan if v is None else v for v in values], float)

    def ms(values: Sequence[float | None]) -> Floats:
        return number(values) / NS_PER_MS

    total, exposed = ms([r.total_ns for r in rows]), ms([r.exposed_ns for r in rows])
    with np.errstate(invalid="ignore"):
        overlapped = 100 * (total - exposed) / total
    return pd.DataFrame(
        {
            "kind": pd.array([r.kind for r in rows], dtype="string"),
            "phase": pd.array([r.phase for r in rows], dtype="string"),
            "group": pd.array([r.group for r in rows], dtype="string"),
            "group_size": pd.array([r.group_size for r in rows], dtype="Int64"),
            "dtype": pd.array([r.dtype for r in rows], dtype="string"),
            "count_per_step": number([r.count_per_step for r in rows]),
            "bytes_per_step": number([r.bytes_per_step for r in rows]),
            "total_ms": total,
            "exposed_ms": exposed,
            "overlapped_pct": overlapped,
            "wait_ms": ms([r.wait_ns for r in rows]),
            "transfer_ms": ms([r.transfer_ns for r in rows]),
            "algbw_gbps": number([r.algbw_gbps for r in rows]),
            "busbw_gbps": number([r.busbw_gbps for r in rows]),
        }
    )


def comm_frame(analysis: Analysis) -> pd.DataFrame:
    """One row a communication kernel of a rank, ascending in rank and start.

    Returns
    -------
    pandas.DataFrame
        ``rank``, ``step`` (the profiler's number; missing outside all steps), ``kind``, ``phase``,
        ``micro_step``, ``group``, ``group_size``, ``dtype``, ``stream``, ``bytes`` (the larger side
        of the message), ``start_ns`` (since the rank's first event), ``dur_ns``, ``exposed_ns``
        (no compute beside it), ``wait_ns`` (its first part, in which a later rank was waited for)
        and ``number``, the same for the same collective on all its ranks. Missing where the trace
        does not say.
    """
    ranks = zip(analysis.ranks, analysis.matches.wait_ns, analysis.matches.number, strict=True)
    parts = [_comm_of_rank(r, wait, number) for r, wait, number in ranks]
    return pd.concat(parts, ignore_index=True)


def _comm_of_rank(r: RankAnalysis, wait_ns: Int64s, number: Int64s) -> pd.DataFrame:
    c = r.comm

    def known(values: Int64s | Int32s) -> Any:
        return pd.arrays.IntegerArray(values.astype(np.int64), values < 0)

    def named(codes: Int8s | Int32s, names: Sequence[str | None]) -> Any:
        """Names of codes; -1, and a name that is None, are missing."""
        return pd.array(np.array([*names, None], object)[codes], dtype="string")

    step = np.append(r.steps.number, -1)[c.step]
    sizes = np.array([*(g.size for g in c.groups), -1], np.int64)
    return pd.DataFrame(
        {
            "rank": np.full(len(c), r.rank, np.int64),
            "step": pd.arrays.IntegerArray(step, c.step < 0),
            "kind": named(c.kind, [o.label for o in Op]),
            "phase": named(c.phase, [p.label for p in Phase]),
            "micro_step": known(c.micro),
            "group": named(c.group, [g.label for g in c.groups]),
            "group_size": known(sizes[c.group]),
            "dtype": named(c.dtype, c.dtypes),
            "stream": c.stream,
            "bytes": known(c.bytes),
            "start_ns": c.start_ns - r.first_ns,
            "dur_ns": c.dur_ns,
            "exposed_ns": c.exposed_ns,
            "wait_ns": known(wait_ns),
            "number": known(number),
        }
    )


def findings_frame(analysis: Analysis) -> pd.DataFrame:
    """One row a finding, most expensive first; typed columns even when there is none."""
    rows = sorted(analysis.finding_rows, key=lambda f: -f.cost_ms_per_step)

    def objects(values: list[object]) -> pd.Series[Any]:
        return pd.Series(values, dtype=object)

    return pd.DataFrame(
        {
            "id": pd.array([f.id for f in rows], dtype="string"),
            "title": pd.array([f.title for f in rows], dtype="string"),
            "cost_ms_per_step": np.array([f.cost_ms_per_step for f in rows], float),
            "severity": pd.array([f.severity for f in rows], dtype="string"),
            "ranks": objects([f.ranks for f in rows]),
            "steps": objects([f.steps for f in rows]),
            "evidence": objects([f.evidence for f in rows]),
            "remedy": pd.array([f.remedy for f in rows], dtype="string"),
            "config": objects([f.config for f in rows]),
        }
    )


def events_frame(seen: RankEvents) -> pd.DataFrame:
    """One row an event of one rank, ascending in start.

    Returns
    -------
    pandas.DataFrame
        The columns of `Trace.to_frame` (-1 where an id or size is missing), then ``step`` (by
        launch for GPU work, by start for host events; missing outside all steps), and for GPU work
        ``op`` (what it is), ``phase``, ``micro_step`` and ``launch_ns``.
    """
    frame = seen.trace.to_frame()
    n, row = len(frame), seen.work.row

    def spread(values: Int64s | Int32s | Int8s) -> Int64s:
        column = np.full(n, -1, np.int64)
        column[row] = values
        return column

    step = _step_of_host(seen)
    step[row] = seen.found.of_work
    number = np.append(seen.found.steps.number, -1)[step]
    frame["step"] = pd.arrays.IntegerArray(number, step < 0)
    ops = pd.CategoricalDtype([o.label for o in Op])
    phases = pd.CategoricalDtype([p.label for p in Phase])
    frame["op"] = pd.Categorical.from_codes(spread(seen.work.op), dtype=ops)
    frame["phase"] = pd.Categorical.from_codes(spread(seen.phases.phase), dtype=phases)
    for name, values in (("micro_step", seen.phases.micro), ("launch_ns", seen.work.launch_ns)):
        column = spread(values)
        frame[name] = pd.arrays.IntegerArray(column, column < 0)
    return frame


def _step_of_host(seen: RankEvents) -> Int64s:
    """Step row of every event by its start on the host; -1 outside all steps and on the GPU."""
    s, steps = seen.trace.slices, seen.found.steps
    on_gpu = np.isin(s.kind, np.array(GPU_WORK, np.int8)) | (s.stream >= 0)
    return np.where(on_gpu, -1, steps.at_host(s.ts_ns))
