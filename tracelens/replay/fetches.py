"""Where ZeRO-3's hooks fetched parameters, and whose: read from what the hooks leave in a trace.

Every module hook of DeepSpeed calls ``fetch_sub_module``, which ends by making the compute stream
wait for the gathering one (0.19.8 runtime/zero/partitioned_param_coordinator.py): a
``cudaStreamWaitEvent`` outside of all operators in the forward pass, directly inside the hook's
autograd node in the backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracelens.gradients import Gradients
from tracelens.links import TrackSpans, lookup
from tracelens.phases import Passes
from tracelens.steps import EVALUATE
from tracelens.trace import Bools, Int32s, Int64s, Kind, Trace

#: DeepSpeed's autograd function behind a module's outputs (runtime/zero/parameter_offload.py,
#: class PreBackwardFunctionForModule, since 0.13.2), and its node.
MARK = "PreBackwardFunctionForModule"
NODE = MARK + "Backward"

#: Operators in which the hooks' own collectives are launched and waited for.
_GATHERING = ("c10d::_allgather_base_", "c10d::allgather_", "record_param_comms")


@dataclass(frozen=True, slots=True)
class Fetches:
    """One row a call of ``fetch_sub_module``, in the order of the host.

    Attributes
    ----------
    uid : int64 (c,)
        Row of the program in which it made the compute stream wait.
    turn : int32 (c,)
        Forward and backward pass of the window that it belongs to, from 0.
    backward : bool (c,)
    owner : int64 (c,)
        The forward call of the same module, as a row; of a forward call itself. -1 unknown.
    hook : int32 (g,)
        For each gradient of the rank the backward call in whose module it appeared; -1 unknown.
    own : int64 (k,)
        `uid` of all rows that the hooks issued, copies apart: launches of gathers, waits.
    waits : int64
        `uid` of those rows of `own` that wait for a gather, before its parts are put together.
    """

    uid: Int64s
    turn: Int32s
    backward: Bools
    owner: Int64s
    hook: Int32s
    own: Int64s
    waits: Int64s

    def __len__(self) -> int:
        return len(self.uid)


def find_fetches(
    trace: Trace,
    passes: Passes,
    starts_ns: Int64s,
    calls: tuple[Int64s, Bools, Bools],
    gradients: Gradients,
) -> Fetches | None:
    """The fetch calls of a window; None where no hook of ZeRO-3 ran.

    Parameters
    ----------
    trace : Trace
    passes : Passes
    starts_ns : int64
        When each pass's step begins on the host.
    calls : (row, is_wait, is_sync)
        Runtime calls of the window, in the order of their `uid`: row of `Slices`, and whether it
        makes a stream or the host wait.
    gradients : Gradients
    """
    s = trace.slices
    row, is_wait, is_sync = calls
    nodes = trace.rows(Kind.CPU_OP, trace.names_where([NODE]))
    if not len(nodes) or not len(passes):
        return None
    hooks = trace.rows(Kind.CPU_OP, trace.names_where([NODE, EVALUATE + NODE]))
    gather = trace.rows(Kind.CPU_OP, trace.names_where(_GATHERING))
    every = trace.rows(Kind.CPU_OP)
    other = np.setdiff1d(every, np.concatenate((hooks, gather)), assume_unique=True)
    track, ts = s.track[row], s.ts_ns[row]
    inside = TrackSpans(s, hooks).contain(track, ts)
    mine = ~TrackSpans(s, other).contain(track, ts)
    turn = np.searchsorted(passes.end_ns, ts, "right")
    known = turn < len(passes)
    last = np.minimum(turn, len(passes) - 1)
    begun = ts >= starts_ns[last]
    forward = ~inside & begun & (ts < passes.start_ns[last])
    mine &= known & (inside | forward)
    gathering = TrackSpans(s, gather).contain(track, ts)
    call = mine & is_wait & ~gathering
    at, back = ts[call], inside[call]
    names = {i for i in np.unique(s.name[row]).tolist() if "EventSynchronize" in trace.strings[i]}
    held = is_sync & np.isin(s.name[row], list(names))
    launching = TrackSpans(s, trace.rows(Kind.CPU_OP, trace.names_where(_GATHERING[:2])))
    waits = mine & is_wait & gathering & ~launching.contain(track, ts)
    return Fetches(
        uid=np.flatnonzero(call) + 1,
        turn=(turn[call] - (turn[call].min() if call.any() else 0)).astype(np.int32),
        backward=back,
        owner=_owners(trace, at, back, nodes),
        hook=_hooks(at, back, gradients),
        own=np.flatnonzero(mine & (call | gathering | held)) + 1,
        waits=np.flatnonzero(waits) + 1,
    )


def _owners(trace: Trace, at: Int64s, back: Bools, nodes: Int64s) -> Int64s:
    """The forward call of each call's module: autograd numbers a function and its node alike.

    A module without children marks its outputs before the next module's call; later marks are its
    parents'.
    """
    s = trace.slices
    marks = trace.rows(Kind.CPU_OP, trace.names_where([MARK]))
    owner = np.where(back, -1, np.arange(len(at)))
    fore = np.flatnonzero(~back)
    before = np.searchsorted(at[fore], s.ts_ns[marks], "right") - 1
    first = (before >= 0) & (before != np.concatenate(([-1], before[:-1])))
    marks, before = marks[first], before[first]
    if not len(marks):
        return owner
    # the node in which each backward call ran
    k = np.searchsorted(s.ts_ns[nodes], at, "right") - 1
    number = np.where(back & (k >= 0), s.sequence[nodes[np.maximum(k, 0)]], -1)
    hit = lookup(s.sequence[marks], fore[before], number)
    return np.where(hit >= 0, hit, owner)


def _hooks(at: Int64s, back: Bools, gradients: Gradients) -> Int32s:
    """The backward call that each gradient follows."""
    calls = np.flatnonzero(back)
    k = np.searchsorted(at[calls], gradients.start_ns, "right") - 1
    if not len(calls):
        return np.full(len(gradients), -1, np.int32)
    return np.where(k >= 0, calls[np.maximum(k, 0)], -1).astype(np.int32)
