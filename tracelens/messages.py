"""Sends and receives of one rank: who sends what to whom, a row a message."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from tracelens.classify import Op
from tracelens.links import GpuWork
from tracelens.trace import Bools, Int32s, Int64s, Kind, Trace, _freeze

_SEND = re.compile(r"(^|:)i?send")
_RECEIVE = re.compile(r"(^|:)i?recv")
#: c10d's range around a call, with places in the group (ProcessGroupNCCL.cpp, send and recv).
_TITLE = re.compile(r"nccl:(?:send|recv) \d+(?:->|<-)(\d{1,9})")


@dataclass(frozen=True, slots=True)
class Messages:
    """Messages between two ranks, in the order of their calls.

    Attributes
    ----------
    row : int64 (q,)
        Row of the communication table: the kernel that carries the message. A batch carries
        several.
    sends : bool (q,)
        Sent by this rank; else received.
    peer : int32 (q,)
        The other rank, as recorded: of the job (c10d's arguments). -1 unknown.
    place : int32 (q,)
        The other rank's place in the group, where only that was recorded. -1 unknown.
    record : int64 (q,)
        Row of `Collectives`.
    nelems : int64 (q,)
        Elements; -1 unknown.
    """

    row: Int64s
    sends: Bools
    peer: Int32s
    place: Int32s
    record: Int64s
    nelems: Int64s

    def __post_init__(self) -> None:
        _freeze(self)

    def __len__(self) -> int:
        return len(self.row)

    def summed(self, sends: bool, n: int) -> Int64s:
        """Elements sent (or received) by each of `n` rows; -1 without, or where one is unknown."""
        on = self.sends == sends
        size = np.full(n, -1, np.int64)
        known = np.unique(self.row[on])
        size[known] = np.bincount(self.row[on], self.nelems[on], minlength=n)[known]
        size[self.row[on & (self.nelems < 0)]] = -1
        return size


def find_messages(trace: Trace, work: GpuWork, rows: Int64s) -> Messages:
    """Messages of some rows of the GPU work.

    A kernel of one send or receive carries its own record. A batch (``batch_isend_irecv``) does
    not: its members were recorded on the same thread before its launch, and after the one before.

    Parameters
    ----------
    trace : Trace
    work : GpuWork
    rows : int64 (m,)
        The communication among it.
    """
    c = trace.collectives
    if not len(c):
        none = np.zeros(0, np.int64)
        few = none.astype(np.int32)
        return Messages(none, none.astype(bool), few, few.copy(), none.copy(), none.copy())
    sent = _named(trace, _SEND)[c.call]
    either = sent | _named(trace, _RECEIVE)[c.call]
    p2p = np.flatnonzero(work.op[rows] == Op.P2P)
    call = work.call[rows[p2p]]
    own = (call >= 0) & either[call]
    in_batch, record = _members(trace, work, rows[p2p], np.flatnonzero(either))
    alone = ~own[in_batch]
    row = np.concatenate((p2p[own], p2p[in_batch[alone]]))
    record = np.concatenate((call[own], record[alone]))
    order = np.lexsort((c.row[record], work.launch_ns[rows[row]]))
    row, record = row[order], record[order]
    peer = np.where(sent[record], c.dst_rank[record], c.src_rank[record])
    other = np.maximum(c.dst_rank[record], c.src_rank[record])
    peer = np.where(peer >= 0, peer, other).astype(np.int32)
    place = _places(trace, work, rows[row], record, peer)
    if trace.info.source == "nsys":  # NCCL's payloads count within the communicator
        peer, place = np.full_like(peer, -1), peer
    nelems = np.maximum(c.in_nelems[record], c.out_nelems[record])
    return Messages(row, sent[record], peer, place, record, nelems)


def _named(trace: Trace, pattern: re.Pattern[str]) -> Bools:
    """For each string whether it matches; the last entry stands for -1."""
    return np.array([bool(pattern.search(s)) for s in trace.strings] + [False])


def _members(trace: Trace, work: GpuWork, rows: Int64s, records: Int64s) -> tuple[Int64s, Int64s]:
    """Pairs (place in `rows`, record): each host record with the next launch on its thread."""
    s, c = trace.slices, trace.collectives
    records = records[s.kind[c.row[records]] == Kind.CPU_OP]
    launch = work.launch[rows]
    places, found = [], []
    for track in np.unique(s.track[c.row[records]]).tolist():
        mine = records[s.track[c.row[records]] == track]
        here = np.flatnonzero((launch >= 0) & (s.track[launch] == track))
        here = here[np.argsort(work.launch_ns[rows[here]], kind="stable")]
        at = np.searchsorted(work.launch_ns[rows[here]], s.ts_ns[c.row[mine]], "left")
        inside = at < len(here)
        places.append(here[at[inside]])
        found.append(mine[inside])
    none = [np.zeros(0, np.int64)]
    return np.concatenate(places or none), np.concatenate(found or none)


def _places(trace: Trace, work: GpuWork, rows: Int64s, record: Int64s, peer: Int32s) -> Int32s:
    """Places of peers by the name of the range around the call; -1 unknown or not needed."""
    place = np.full(len(rows), -1, np.int32)
    titles = {}
    for code in np.unique(trace.slices.name[work.parent[rows[work.parent[rows] >= 0]]]).tolist():
        told = _TITLE.match(trace.strings[code])
        if told:
            titles[code] = int(told.group(1))
    for i in np.flatnonzero((peer < 0) & (work.parent[rows] >= 0)).tolist():
        place[i] = titles.get(int(trace.slices.name[work.parent[rows[i]]]), -1)
    return place
