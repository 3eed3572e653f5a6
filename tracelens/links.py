"""Who caused what: GPU work to its launch, host op and collective call. Joins by sorting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracelens.classify import Op, classify, classify_call, is_comm, is_compute
from tracelens.intervals import Spans, contains, union
from tracelens.trace import Bools, Int8s, Int32s, Int64s, Kind, Slices, Trace, _freeze

#: torch.optim wraps every optimizer's step in a range of this name (torch/optim/optimizer.py,
#: profile_hook_step, since torch 1.8).
OPTIMIZER_STEP = "Optimizer.step#"


@dataclass(frozen=True, slots=True)
class GpuWork:
    """One row a kernel, copy or memset, ascending in start. Every GPU row of the trace is here.

    Attributes
    ----------
    row : int64 (n,)
        Row of `Slices`.
    start_ns, end_ns : int64 (n,)
    op : int8 (n,)
        `Op`; communication is refined by the recorded call where there is one.
    launch : int64 (n,)
        Row of the runtime call that launched it; -1 if the recording has none.
    launch_ns : int64 (n,)
        Start of that call; -1 if unknown.
    parent : int64 (n,)
        Row of the innermost host op or annotation around the launch; -1 unknown.
    call : int64 (n,)
        Row of `Collectives` with the arguments of the communication; -1 unknown.
    stream, device : int32 (n,)
    """

    row: Int64s
    start_ns: Int64s
    end_ns: Int64s
    op: Int8s
    launch: Int64s
    launch_ns: Int64s
    parent: Int64s
    call: Int64s
    stream: Int32s
    device: Int32s

    def __post_init__(self) -> None:
        _freeze(self)

    def __len__(self) -> int:
        return len(self.row)

    @property
    def comm(self) -> Bools:
        """Rows that are communication."""
        return is_comm(self.op)


def lookup(keys: Int64s, rows: Int64s, wanted: Int64s) -> Int64s:
    """For each wanted key the row of its first occurrence in `keys`; -1 where there is none.

    Keys <= 0 never match: profilers write 0 or nothing where there is no id.

    Examples
    --------
    >>> lookup(np.array([7, 5, 0]), np.array([10, 11, 12]), np.array([5, 0, 9])).tolist()
    [11, -1, -1]
    """
    usable = keys > 0
    keys, rows = keys[usable], rows[usable]
    found = np.full(len(wanted), -1, np.int64)
    if not len(keys):
        return found
    order = np.argsort(keys, kind="stable")
    keys, rows = keys[order], rows[order]
    at = np.minimum(np.searchsorted(keys, wanted, "left"), len(keys) - 1)
    hit = (keys[at] == wanted) & (wanted > 0)
    found[hit] = rows[at[hit]]
    return found


def link(trace: Trace) -> GpuWork:
    """Find all GPU work of a trace and what caused it."""
    s = trace.slices
    row = np.flatnonzero((s.kind >= Kind.KERNEL) & (s.kind <= Kind.MEMSET))
    runtime = np.flatnonzero(s.kind == Kind.RUNTIME)
    launch = lookup(s.correlation[runtime], runtime, s.correlation[row])
    host = np.flatnonzero((s.kind == Kind.CPU_OP) | (s.kind == Kind.ANNOTATION))
    external = s.external_id[row]
    from_launch = np.where(launch >= 0, s.external_id[launch], -1)
    external = np.where(external > 0, external, from_launch)
    parent = lookup(s.external_id[host], host, external)
    call = _calls_of(trace, row, parent)
    return GpuWork(
        row=row,
        start_ns=s.ts_ns[row],
        end_ns=s.ts_ns[row] + s.dur_ns[row],
        op=_meaning(trace, row, launch, call),
        launch=launch,
        launch_ns=np.where(launch >= 0, s.ts_ns[launch], -1),
        parent=parent,
        call=call,
        stream=s.stream[row],
        device=s.device[row],
    )


def _calls_of(trace: Trace, row: Int64s, parent: Int64s) -> Int64s:
    """Collectives row of each GPU row: its own arguments, else those of the op that launched it."""
    carriers = trace.collectives.row
    if not len(carriers):
        return np.full(len(row), -1, np.int64)
    own = np.minimum(np.searchsorted(carriers, row), len(carriers) - 1)
    call = np.where(carriers[own] == row, own, -1)
    above = np.minimum(np.searchsorted(carriers, parent), len(carriers) - 1)
    inherited = (carriers[above] == parent) & (parent >= 0) & (call < 0)
    return np.where(inherited, above, call)


def _meaning(trace: Trace, row: Int64s, launch: Int64s, call: Int64s) -> Int8s:
    s = trace.slices
    as_kernel, as_copy = classify(trace)
    kind = s.kind[row]
    op = np.where(kind == Kind.KERNEL, as_kernel[s.name[row]], as_copy[s.name[row]])
    op = np.where(kind == Kind.MEMSET, np.int8(Op.MEMSET), op).astype(np.int8)
    # a recorded call refines kernels that are communication by name; the copies and memsets
    # that a collective issues around its kernels stay what they are
    refined = is_comm(op) & (call >= 0)
    for code in np.unique(trace.collectives.call[call[refined]]):
        meaning = classify_call(trace.strings[code]) if code >= 0 else None
        if meaning is not None:
            op[refined & (trace.collectives.call[call] == code)] = meaning
    if (op == Op.P2P_OR_ALL_TO_ALL).any():
        # a coalesced batch carries no arguments of its own, but its members were recorded
        kinds = {
            classify_call(trace.strings[c]) for c in np.unique(trace.collectives.call) if c >= 0
        }
        seen = kinds & {Op.P2P, Op.ALL_TO_ALL}
        if len(seen) == 1:
            op[op == Op.P2P_OR_ALL_TO_ALL] = seen.pop()
    # what an optimizer launches is optimizer work, whatever its kernels are called
    updates = trace.rows(Kind.ANNOTATION, trace.names_starting(OPTIMIZER_STEP))
    track = np.where(launch >= 0, s.track[launch], -1).astype(np.int32)
    inside = (launch >= 0) & TrackSpans(s, updates).contain(track, s.ts_ns[launch])
    op[inside & is_compute(op)] = Op.OPTIMIZER
    return op


class TrackSpans:
    """The union of some slices on every track, for "does this happen inside one of those".

    Parameters
    ----------
    slices : Slices
    rows : int64 (k,)
        The slices that count.
    """

    def __init__(self, slices: Slices, rows: Int64s) -> None:
        self._zero = int(slices.ts_ns[0]) if len(slices) else 0
        last = int(slices.end_ns.max()) if len(slices) else 0
        self._band = last - self._zero + 1  # one band of time per track, so that one union does all
        start = self._key(slices.track[rows], slices.ts_ns[rows])
        self._spans: Spans = union(start, start + slices.dur_ns[rows])

    def _key(self, track: Int32s, at_ns: Int64s) -> Int64s:
        return track.astype(np.int64) * self._band + (at_ns - self._zero)

    def contain(self, track: Int32s, at_ns: Int64s) -> Bools:
        """Whether each instant of each track lies inside one of the slices."""
        return contains(self._spans, self._key(track, at_ns))
