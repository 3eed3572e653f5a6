"""GPU work, API calls and synchronisation of one rank, as pieces of a slice table."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tracelens.ingest.nsys.database import Database, Tick, Where
from tracelens.ingest.nsys.ranks import (
    GRAPH,
    KERNEL,
    MEMCPY,
    MEMSET,
    RUNTIME,
    TID_MASK,
    Part,
)
from tracelens.ingest.values import MAX_SPAN_NS
from tracelens.trace import HIDDEN_GRAPH, Int64s, Kind

SYNC = "CUPTI_ACTIVITY_KIND_SYNCHRONIZATION"
OVERHEAD = "PROFILER_OVERHEAD"

#: ``copyKind`` and ``srcKind``/``dstKind`` (CUPTI's CUpti_ActivityMemcpyKind and
#: CUpti_ActivityMemoryKind, cupti_activity.h), in Kineto's words.
_COPIES = {
    1: "HtoD", 2: "DtoH", 3: "HtoA", 4: "AtoH", 5: "AtoA", 6: "AtoD", 7: "DtoA", 8: "DtoD",
    9: "HtoH", 10: "PtoP",
}  # fmt: skip
_MEMORY = {
    0: "Pageable", 1: "Pinned", 2: "Device", 3: "Array", 4: "Managed", 5: "Device Static",
    6: "Managed Static",
}  # fmt: skip
_SYNCS = {1: "Event Sync", 2: "Stream Wait Event", 3: "Stream Sync", 4: "Context Sync"}

#: The runtime's binary interface version in a call's name: cudaLaunchKernel_v7000.
_INTERFACE = re.compile(r"_v\d{3,}$")


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows of a slice table. `name` are codes into `names`; `tid` is the host's globalTid.

    A column that is None is -1 throughout. `dropped` counts rows whose times make no sense.
    """

    kind: Kind
    start_ns: Int64s
    end_ns: Int64s
    name: Int64s
    names: tuple[str, ...]
    correlation: Int64s | None = None
    stream: Int64s | None = None
    bytes: Int64s | None = None
    tid: Int64s | None = None
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.start_ns)


def _sound(table: dict[str, Int64s]) -> tuple[dict[str, Int64s], int]:
    """Rows with an end at or after their start, in one recording; how many others there are."""
    start, end = table["start"], table["end"]
    keep = (end >= start) & (end > 0)
    if keep.any():
        middle = int(np.median(start[keep]))
        keep &= (start >= middle - MAX_SPAN_NS // 2) & (end <= middle + MAX_SPAN_NS // 2)
    if keep.all():
        return table, 0
    return {c: v[keep] for c, v in table.items()}, int((~keep).sum())


def _named(ids: Int64s, words: dict[int, str]) -> tuple[Int64s, tuple[str, ...]]:
    """Codes for ids, and the words that they stand for; equal words share a code."""
    distinct, inverse = np.unique(ids, return_inverse=True)
    names: dict[str, int] = {}
    code = [names.setdefault(words.get(int(i), ""), len(names)) for i in distinct]
    return np.array(code, np.int64)[inverse] if len(ids) else ids, tuple(names)


def _of(part: Part) -> list[Where]:
    return [
        ("globalPid", lambda v: v == part.global_pid),
        ("deviceId", lambda v: v == part.device),
    ]


def read_kernels(db: Database, part: Part, tick: Tick | None) -> Piece:
    """Kernels, by their full names where the export has them."""
    columns = ("start", "end", "deviceId", "streamId", "correlationId", "globalPid",
               "demangledName", "shortName")  # fmt: skip
    table, dropped = _sound(db.integers(KERNEL, columns, _of(part), tick))
    full = np.where(table["demangledName"] >= 0, table["demangledName"], table["shortName"])
    words = db.strings(np.unique(full).tolist())
    lost = ~np.isin(full, np.array([i for i, w in words.items() if w] or [-2], np.int64))
    full[lost] = table["shortName"][lost]
    words |= db.strings(np.unique(full[lost]).tolist())
    name, names = _named(full, words)
    return Piece(
        Kind.KERNEL, table["start"], table["end"], name, names,
        correlation=table["correlationId"], stream=table["streamId"], dropped=dropped,
    )  # fmt: skip


def read_copies(db: Database, part: Part) -> Piece:
    """Copies, named as Kineto names them: ``Memcpy HtoD (Pinned -> Device)``."""
    columns = ("start", "end", "deviceId", "streamId", "correlationId", "globalPid", "bytes",
               "copyKind", "srcKind", "dstKind")  # fmt: skip
    table, dropped = _sound(db.integers(MEMCPY, columns, _of(part)))
    keys = (table["copyKind"] + 1) << 16 | (table["srcKind"] + 1) << 8 | (table["dstKind"] + 1)
    words = {}
    for key in np.unique(keys).tolist():
        way = _COPIES.get((key >> 16) - 1, "Unknown")
        ends = [_MEMORY.get(k - 1, "Unknown") for k in (key >> 8 & 255, key & 255)]
        words[key] = f"Memcpy {way} ({ends[0]} -> {ends[1]})"
    name, names = _named(keys, words)
    return Piece(
        Kind.MEMCPY, table["start"], table["end"], name, names,
        correlation=table["correlationId"], stream=table["streamId"], bytes=table["bytes"],
        dropped=dropped,
    )  # fmt: skip


def read_memsets(db: Database, part: Part) -> Piece:
    """Memsets: ``Memset (Device)``."""
    columns = ("start", "end", "deviceId", "streamId", "correlationId", "globalPid", "bytes",
               "memKind")  # fmt: skip
    table, dropped = _sound(db.integers(MEMSET, columns, _of(part)))
    words = {k: f"Memset ({_MEMORY.get(k, 'Unknown')})" for k in np.unique(table["memKind"])}
    name, names = _named(table["memKind"], {int(k): w for k, w in words.items()})
    return Piece(
        Kind.MEMSET, table["start"], table["end"], name, names,
        correlation=table["correlationId"], stream=table["streamId"], bytes=table["bytes"],
        dropped=dropped,
    )  # fmt: skip


def read_graphs(db: Database, part: Part) -> Piece:
    """CUDA graphs recorded as one piece of work each.

    They are shown as kernels of one name: the GPU is busy, and with what was not recorded.
    """
    columns = ("start", "end", "deviceId", "streamId", "correlationId", "globalPid")
    table, dropped = _sound(db.integers(GRAPH, columns, _of(part)))
    return Piece(
        Kind.KERNEL, table["start"], table["end"], np.zeros(len(table["start"]), np.int64),
        (HIDDEN_GRAPH,), correlation=table["correlationId"], stream=table["streamId"],
        dropped=dropped,
    )  # fmt: skip


def read_syncs(db: Database, part: Part) -> Piece:
    """Synchronisation records. Their device is not to be trusted; the process is."""
    columns = ("start", "end", "streamId", "correlationId", "globalPid", "syncType")
    where: list[Where] = [("globalPid", lambda v: v == part.global_pid)]
    table, dropped = _sound(db.integers(SYNC, columns, where))
    name, names = _named(table["syncType"], _SYNCS)
    none = table["streamId"] >= 2**31 - 1  # 4294967295: no stream
    return Piece(
        Kind.SYNC, table["start"], table["end"], name, names,
        correlation=table["correlationId"], stream=np.where(none, -1, table["streamId"]),
        dropped=dropped,
    )  # fmt: skip


def read_calls(db: Database, part: Part, tick: Tick | None) -> Piece:
    """CUDA runtime and driver calls of the process."""
    columns = ("start", "end", "globalTid", "correlationId", "nameId")
    table, dropped = _sound(db.integers(RUNTIME, columns, _in_process(part), tick))
    words = {
        i: _INTERFACE.sub("", w) for i, w in db.strings(np.unique(table["nameId"]).tolist()).items()
    }
    name, names = _named(table["nameId"], words)
    return Piece(
        Kind.RUNTIME, table["start"], table["end"], name, names,
        correlation=table["correlationId"], tid=table["globalTid"], dropped=dropped,
    )  # fmt: skip


def read_overhead(db: Database, part: Part) -> Piece:
    """The profiler's own work: buffer flushes and the like."""
    columns = ("start", "end", "globalTid", "nameId")
    table, dropped = _sound(db.integers(OVERHEAD, columns, _in_process(part)))
    name, names = _named(table["nameId"], db.strings(np.unique(table["nameId"]).tolist()))
    return Piece(
        Kind.OVERHEAD, table["start"], table["end"], name, names, tid=table["globalTid"],
        dropped=dropped,
    )  # fmt: skip


def _in_process(part: Part) -> list[Where]:
    if part.global_pid < 0:
        return []
    return [("globalTid", lambda v: (v & ~TID_MASK) == part.global_pid)]


def device_names(db: Database, part: Part) -> tuple[str, ...]:
    """Names of the GPUs by the device numbers that the process used.

    `TARGET_INFO_GPU.id` is the driver's order, which need not be CUDA's; the map between them is
    in ``TARGET_INFO_CUDA_DEVICE`` since schema 3.17, and in `cuDevice` before.
    """
    pid = (part.global_pid >> 24) & TID_MASK if part.global_pid >= 0 else -1
    by_id = {i: str(n) for i, n in db.rows("TARGET_INFO_GPU", ("id", "name"))}
    found: dict[int, str] = {}
    for gpu, cuda, owner in db.rows("TARGET_INFO_CUDA_DEVICE", ("gpuId", "cudaId", "pid")):
        if isinstance(cuda, int) and gpu in by_id and owner == pid:
            found[cuda] = by_id[gpu]
    if not found:
        pairs = db.rows("TARGET_INFO_GPU", ("cuDevice", "name"))
        found = {c: str(n) for c, n in pairs if isinstance(c, int) and 0 <= c < 1024}
    if len(set(by_id.values())) == 1 and part.device not in found and part.device >= 0:
        found[part.device] = next(iter(by_id.values()))
    if part.device not in found:
        return ()
    return tuple(found.get(i, "") for i in range(max(found) + 1))


def events(pieces: Iterable[Piece]) -> int:
    """Rows read, those left out included."""
    return sum(len(p) + p.dropped for p in pieces)
