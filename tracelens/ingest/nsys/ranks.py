"""The ranks inside one export: pairs of a process and a device that did GPU work."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache

from tracelens.ingest.nsys.database import Database
from tracelens.ingest.nsys.payload import Payload, init_calls
from tracelens.trace import Int64s

KERNEL = "CUPTI_ACTIVITY_KIND_KERNEL"
MEMCPY = "CUPTI_ACTIVITY_KIND_MEMCPY"
MEMSET = "CUPTI_ACTIVITY_KIND_MEMSET"
RUNTIME = "CUPTI_ACTIVITY_KIND_RUNTIME"
GRAPH = "CUPTI_ACTIVITY_KIND_GRAPH_TRACE"
NVTX = "NVTX_EVENTS"

#: A thread's number within `globalTid`: 24 bits below the process's (vm:8, pid:24, tid:24).
TID_BITS = 24
TID_MASK = (1 << TID_BITS) - 1

#: A device on which a process runs less than this share of the kernels of its busiest device is
#: not a rank of its own: CUDA contexts opened by accident run a few memsets there.
_STRAY_SHARE = 0.01


def pid_of(global_id: int) -> int:
    """The operating system's process number in a `globalPid` or `globalTid`."""
    return (global_id >> TID_BITS) & TID_MASK


@dataclass(frozen=True, slots=True)
class Part:
    """One rank's share of an export: a process's work on one device.

    `global_pid` -1 and `device` -1 stand for the whole export (no GPU work). `rank` and `world`
    are what NCCL recorded, None without. `stray` counts GPU work of the process on devices that
    are no ranks.
    """

    global_pid: int
    device: int
    work: int
    rank: int | None = None
    world: int | None = None
    stray: int = 0

    @property
    def key(self) -> str:
        """Short text that finds this part again."""
        return f"{self.global_pid}/{self.device}"


@lru_cache(maxsize=16)
def _remembered(path: str, size: int, changed_ns: int) -> tuple[Part, ...]:
    """The parts of a file as it is now: a run asks once to find its ranks, and once for each."""
    with Database(path) as db:
        return _find(db)


def find_parts(db: Database) -> tuple[Part, ...]:
    """The ranks in an export, by recorded rank, else by device and then process.

    An export without GPU work is one part.
    """
    state = os.stat(db.path)
    return _remembered(db.path, state.st_size, state.st_mtime_ns)


def _find(db: Database) -> tuple[Part, ...]:
    counts = _work(db)
    if not counts:
        return (Part(-1, -1, 0),)
    ranks = _recorded(db)
    parts = []
    for pid in {p for p, _ in counts}:
        mine = {d: n for (p, d), n in counts.items() if p == pid}
        busiest = max(mine.values())
        real = [d for d, n in mine.items() if n >= _STRAY_SHARE * busiest]
        stray = sum(n for d, n in mine.items() if d not in real)
        found = ranks.get(pid) if len(real) == 1 else None
        for device in real:
            rank, world = (found.rank, found.ranks) if found else (None, None)
            parts.append(Part(pid, device, mine[device], rank, world, stray))
    by_rank = all(p.rank is not None for p in parts)
    return tuple(
        sorted(parts, key=lambda p: (p.rank or 0 if by_rank else 0, p.device, p.global_pid))
    )


def _work(db: Database) -> dict[tuple[int, int], int]:
    """Pieces of GPU work by (globalPid, deviceId): kernels and graphs, else copies and memsets."""
    for tables in ((KERNEL, GRAPH), (MEMCPY, MEMSET)):
        counts: dict[tuple[int, int], int] = {}
        for table in tables:
            found = db.integers(table, ("deviceId", "globalPid"))
            for pid, device, n in _pairs(found["globalPid"], found["deviceId"]):
                counts[pid, device] = counts.get((pid, device), 0) + n
        if counts:
            return counts
    return {}


def _pairs(pid: Int64s, device: Int64s) -> list[tuple[int, int, int]]:
    """Distinct (pid, device) and how often each occurs: there are few, so nothing is sorted."""
    found = []
    while len(pid):
        here = (pid == pid[0]) & (device == device[0])
        found.append((int(pid[0]), int(device[0]), int(here.sum())))
        pid, device = pid[~here], device[~here]
    return found


def _recorded(db: Database) -> dict[int, Payload]:
    """Each process's place in its largest communicator, if all agree on how large that is."""
    largest: dict[int, Payload] = {}
    for call in init_calls(db):
        pid = call.global_tid & ~TID_MASK
        if pid not in largest or call.payload.ranks > largest[pid].ranks:
            largest[pid] = call.payload
    ranks = [p.rank for p in largest.values()]
    one_job = len({p.ranks for p in largest.values()}) == 1 and len(set(ranks)) == len(ranks)
    return largest if one_job and min(ranks, default=-1) >= 0 else {}
