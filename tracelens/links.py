"""Who caused what: GPU work to its launch, host op and collective call. Joins by sorting."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from tracelens.classify import Op, classify, classify_call, is_comm, is_compute
from tracelens.intervals import Spans, contains, union
from tracelens.trace import Bools, Int8s, Int32s, Int64s, Kind, Slices, Trace, _freeze

#: torch.optim wraps every optimizer's step in a range of this name (torch/optim/optimizer.py,
#: profile_hook_step, since torch 1.8).
OPTIMIZER_STEP = "Optimizer.step#"

#: c10d's ranges around a collective's launch: backend, then operation (torch/csrc/distributed/c10d,
#: ProcessGroupNCCL.cpp, profilingTitle); symmetric-memory operators (torch.ops.symm_mem).
COMM_RANGE = re.compile(
    r"(nccl|rccl|gloo|ucc|hccl|xccl|mpi):_?(all|reduce|broadcast|send|recv)|symm_mem::"
)


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
    span : int64 (n,)
        Row of the collective's own host range (``nccl:all_reduce``) around the launch of
        communication without recorded arguments (torch before 2.3); -1 unknown.
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
    span: Int64s
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
    parent = lookup(s.external_id[host], host, _external_ids(s, row, launch))
    call = _calls_of(trace, row, parent)
    as_kernel, as_copy = classify(trace)
    kind = s.kind[row]
    op = np.where(kind == Kind.KERNEL, as_kernel[s.name[row]], as_copy[s.name[row]])
    op = np.where(kind == Kind.MEMSET, np.int8(Op.MEMSET), op).astype(np.int8)
    span = np.where(is_comm(op) & (call < 0), _spans_around(trace, launch), -1)
    return GpuWork(
        row=row,
        start_ns=s.ts_ns[row],
        end_ns=s.ts_ns[row] + s.dur_ns[row],
        op=_refine(trace, op, launch, call, span),
        launch=launch,
        launch_ns=np.where(launch >= 0, s.ts_ns[launch], -1),
        parent=parent,
        call=call,
        span=span,
        stream=s.stream[row],
        device=s.device[row],
    )


def _external_ids(s: Slices, row: Int64s, launch: Int64s) -> Int64s:
    """Ids that GPU work shares with a host op: its own, else its launch's; -1 unknown.

    Kineto before 2023 wrote the correlation there instead, which would match by chance.
    """
    external = s.external_id[row]
    if len(row) and (external == s.correlation[row]).mean() > 0.5:
        return np.full(len(row), -1, np.int64)
    return np.where(external > 0, external, np.where(launch >= 0, s.external_id[launch], -1))


def comm_spans(trace: Trace) -> Int64s:
    """Rows of the host ranges that c10d puts around each collective's launch, ascending."""
    names = np.array([i for i, t in enumerate(trace.strings) if COMM_RANGE.match(t)], np.int32)
    return trace.rows((Kind.CPU_OP, Kind.ANNOTATION), names)


def _spans_around(trace: Trace, launch: Int64s) -> Int64s:
    """The collective's range (``nccl:all_reduce`` ...) around each launch; -1 where there is none.

    These ranges are the innermost of their collective, so on one thread they never nest.
    """
    s = trace.slices
    rows = comm_spans(trace)
    found = np.full(len(launch), -1, np.int64)
    known = np.flatnonzero(launch >= 0)
    if not len(rows) or not len(known):
        return found
    for track in np.unique(s.track[rows]).tolist():
        mine = rows[s.track[rows] == track]
        here = known[s.track[launch[known]] == track]
        at = s.ts_ns[launch[here]]
        k = np.searchsorted(s.ts_ns[mine], at, "right") - 1
        inside = (k >= 0) & (at < s.end_ns[mine[np.maximum(k, 0)]])
        found[here[inside]] = mine[k[inside]]
    return found


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


def _refine(trace: Trace, op: Int8s, launch: Int64s, call: Int64s, span: Int64s) -> Int8s:
    """What the names leave open: the collective behind a kernel, and the optimizer's work.

    Only kernels that are communication by name are refined; the copies and memsets that a
    collective issues around them stay what they are.
    """
    s, c = trace.slices, trace.collectives
    comm = is_comm(op)
    for has, code in ((call >= 0, c.call[call] if len(c) else call), (span >= 0, s.name[span])):
        for value in np.unique(code[comm & has]).tolist():
            meaning = classify_call(trace.strings[value]) if value >= 0 else None
            if meaning is not None:
                these = comm & has & (code == value)
                if meaning == Op.P2P:  # "coalesced" wraps any collective: only sends are refined
                    these &= (op == Op.P2P_OR_ALL_TO_ALL) | (op == Op.COMM_OTHER)
                op[these] = int(meaning)
    if (op == Op.P2P_OR_ALL_TO_ALL).any():
        # a coalesced batch carries no arguments of its own, but its members were recorded
        calls = [classify_call(trace.strings[i]) for i in np.unique(c.call).tolist() if i >= 0]
        members = [int(o) for o in (Op.P2P, Op.ALL_TO_ALL) if o in calls]
        if len(members) == 1:
            op[op == Op.P2P_OR_ALL_TO_ALL] = members[0]
    # what an optimizer launches is optimizer work, whatever its kernels are called
    updates = trace.ranges(trace.names_starting(OPTIMIZER_STEP))
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
