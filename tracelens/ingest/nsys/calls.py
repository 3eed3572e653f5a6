"""NCCL's calls: which range asked for which collective, of what size, on which communicator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracelens.ingest.nsys.database import Database
from tracelens.ingest.nsys.nvtx import Ranges
from tracelens.ingest.nsys.payload import Payload, read_calls
from tracelens.ingest.nsys.ranks import TID_MASK
from tracelens.trace import Int64s, ProcessGroup

#: NCCL's functions, in the words of torch's recorded calls (`classify.classify_call`).
_CALLS = {
    "ncclAllReduce": "all_reduce",
    "ncclAllGather": "all_gather",
    "ncclReduceScatter": "reduce_scatter",
    "ncclBroadcast": "broadcast",
    "ncclBcast": "broadcast",
    "ncclReduce": "reduce",
    "ncclAlltoAll": "all_to_all",
    "ncclGather": "gather",
    "ncclScatter": "scatter",
    "ncclSend": "nccl:send",
    "ncclRecv": "nccl:recv",
}
_GROUP_START, _GROUP_END = "ncclGroupStart", "ncclGroupEnd"
_SHARDED = ("all_gather", "reduce_scatter")
#: Sends of one group to at least this many peers are an all-to-all: a pipeline stage has two
#: neighbours.
_MANY_PEERS = 3


@dataclass(frozen=True, slots=True)
class NcclCalls:
    """One row a range that launched (or should have launched) a collective.

    `row` int64: row of `Ranges`. `call`: recorded call's name. `bytes` int64: the larger side of
    the message, -1 unknown. `group`: communicator as text, "" unknown; `size` int64: its ranks.
    `peer` int64. `groups`: the communicators that this process made in the recorded window.
    `sized`: how many calls came with a payload.
    """

    row: Int64s
    call: tuple[str, ...]
    bytes: Int64s
    group: tuple[str, ...]
    size: Int64s
    peer: Int64s
    groups: tuple[ProcessGroup, ...]
    sized: int


@dataclass(frozen=True, slots=True)
class _Call:
    row: int
    name: str
    payload: Payload


def nccl_calls(db: Database, ranges: Ranges, global_pid: int) -> NcclCalls:
    """Find the calls of one process; those of a group are one, at the group's end."""
    on = np.flatnonzero(ranges.nccl)
    payloads = (
        {(c.global_tid, c.start_ns, c.end_ns): c.payload for c in read_calls(db)} if len(on) else {}
    )
    sizes: dict[int, int] = {}
    own: dict[int, Payload] = {}
    for (tid, _, _), p in payloads.items():
        if p.ranks > 0:
            sizes[p.communicator] = p.ranks
            if global_pid < 0 or tid & ~TID_MASK == global_pid:
                own[p.communicator] = p
    found: list[_Call] = []
    for thread in np.unique(ranges.global_tid[on]).tolist():
        rows = on[ranges.global_tid[on] == thread].tolist()
        calls = [
            _Call(r, ranges.names[ranges.name[r]], payloads.get(key, Payload()))
            for r in rows
            for key in [(thread, int(ranges.start_ns[r]), int(ranges.end_ns[r]))]
        ]
        found += _ungrouped(calls, sizes)
    found.sort(key=lambda c: c.row)
    world = [sizes.get(c.payload.communicator, -1) for c in found]
    return NcclCalls(
        row=np.array([c.row for c in found], np.int64),
        call=tuple(c.name for c in found),
        bytes=np.array([_larger_side(c, n) for c, n in zip(found, world, strict=True)], np.int64),
        group=tuple(_label(c.payload.communicator) for c in found),
        size=np.array(world, np.int64),
        peer=np.array([c.payload.peer for c in found], np.int64),
        groups=tuple(
            ProcessGroup(_label(i), "", p.ranks, ()) for i, p in own.items() if p.ranks > 0
        ),
        sized=sum(c.payload.bytes >= 0 for c in found),
    )


def _label(communicator: int) -> str:
    return f"{communicator:016x}" if communicator >= 0 else ""


def _larger_side(call: _Call, world: int) -> int:
    """Bytes as nccl-tests counts them; a shard times the ranks that have one."""
    size = call.payload.bytes
    if size < 0 or call.name not in _SHARDED:
        return size
    return size * world if world > 0 else -1


def _ungrouped(calls: list[_Call], sizes: dict[int, int]) -> list[_Call]:
    """Calls of one thread; what stands between a group's start and end is launched by the end."""
    found: list[_Call] = []
    pending: list[_Call] = []
    depth = 0
    for call in calls:
        if call.name == _GROUP_START:
            depth += 1
        elif call.name == _GROUP_END:
            depth = max(depth - 1, 0)
            if depth == 0:
                joined = _join(call.row, pending, sizes)
                found += [joined] if joined else []
                pending = []
        elif call.name in _CALLS:
            named = _Call(call.row, _CALLS[call.name], call.payload)
            (pending if depth else found).append(named)
    return found


def _join(row: int, members: list[_Call], sizes: dict[int, int]) -> _Call | None:
    """A group of calls as one: of one kind, or the sends and receives of an all-to-all."""
    kinds = {m.name for m in members}
    if not members:
        return None
    communicator = members[0].payload.communicator
    sends = [m for m in members if m.name == "nccl:send"]
    if len(kinds) == 1 and not sends:
        kind = kinds.pop()
        peer = members[0].payload.peer if kind == "nccl:recv" and len(members) == 1 else -1
        size = _total(members)
    elif kinds <= {"nccl:send", "nccl:recv"}:
        peers = {m.payload.peer for m in sends} - {-1}
        whole = len(sends) > 1 and len(sends) == sizes.get(communicator)
        size = _total(sends)
        if whole or len(peers) >= _MANY_PEERS:
            kind, peer = "all_to_all", -1
        elif peers and len(peers) < _MANY_PEERS:
            kind, peer = "nccl:send", min(peers)
        else:
            return None  # two sends to unknown peers: either
    else:
        return None
    return _Call(row, kind, Payload(communicator=communicator, bytes=size, peer=peer))


def _total(members: list[_Call]) -> int:
    sizes = [m.payload.bytes for m in members]
    return sum(sizes) if sizes and min(sizes) >= 0 else -1
