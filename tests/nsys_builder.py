"""Writes tiny Nsight Systems exports, as several versions of its schema lay them out.

Column lists are those of real exports (2022.2 writes schema 2.9.1, 2024.6 3.16.1, 2026.3 3.27.0);
tables appear only where they have rows, as nsys does.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

_ID = "start end deviceId contextId {green} streamId correlationId globalPid"
_KERNEL = (
    "demangledName shortName mangledName launchType cacheConfig registersPerThread gridX gridY "
    "gridZ blockX blockY blockZ staticSharedMemory dynamicSharedMemory localMemoryPerThread "
    "localMemoryTotal gridId sharedMemoryExecuted graphNodeId sharedMemoryLimitConfig"
)
_COPY = "bytes copyKind deprecatedSrcId srcKind dstKind srcDeviceId dstDeviceId graphNodeId"
_NVTX = (
    "start end eventType rangeId category color text globalTid endGlobalTid textId domainId "
    "uint64Value int64Value doubleValue uint32Value int32Value floatValue jsonTextId jsonText"
)


def columns(schema: tuple[int, int, int]) -> dict[str, list[str]]:
    """Columns of each table in a version of the schema."""
    green = "greenContextId" if schema >= (3, 13, 2) else ""
    ident = _ID.format(green=green)
    late = " qmdBulkReleaseDone graphId clusterX" if schema >= (3, 24, 0) else ""
    tables = {
        "CUPTI_ACTIVITY_KIND_KERNEL": f"{ident} {_KERNEL}{late}",
        "CUPTI_ACTIVITY_KIND_MEMCPY": f"{ident} {_COPY}",
        "CUPTI_ACTIVITY_KIND_MEMSET": f"{ident} value bytes graphNodeId memKind",
        "CUPTI_ACTIVITY_KIND_SYNCHRONIZATION": f"{ident} syncType eventId",
        "CUPTI_ACTIVITY_KIND_GRAPH_TRACE": f"{ident} graphId graphExecId",
        "CUPTI_ACTIVITY_KIND_RUNTIME": "start end eventClass globalTid correlationId nameId "
        "returnValue callchainId",
        "NVTX_EVENTS": _NVTX + (" binaryData" if schema >= (3, 16, 1) else ""),
        "NVTX_PAYLOAD_SCHEMA_ENTRIES": "domainId schemaId idx flags type name description "
        "arrayOrUnionDetail offset",
        "TARGET_INFO_GPU": "vmId id name busLocation cuDevice",
        "TARGET_INFO_SESSION_START_TIME": "utcEpochNs utcTime localTime",
        "TARGET_INFO_SYSTEM_ENV": "globalVid devStateName name nameEnum value",
        "META_DATA_CAPTURE": "name value",
        "META_DATA_EXPORT" if schema >= (3, 6, 0) else "EXPORT_META_DATA": "name value",
        "PROCESSES": "globalPid pid name",
        "ThreadNames": "nameId priority globalTid",
        "DIAGNOSTIC_EVENT": "timestamp timestampType source severity text globalPid",
    }
    if schema >= (3, 17, 2):
        tables["TARGET_INFO_CUDA_DEVICE"] = "gpuId cudaId pid"
    return {name: text.split() for name, text in tables.items()}


_TEXT = frozenset({"text", "jsonText", "binaryData", "name", "value", "tensorSizeMinusOneElements"})


class NsysBuilder:
    """Collects rows, then writes them.

    Processes are numbers as the system gives them (pid); threads are 1, 2 ... within one.
    """

    def __init__(self, schema: tuple[int, int, int] = (3, 27, 0), *, utc_ns: int = 10**18) -> None:
        self.schema = schema
        self.columns = columns(schema)
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self._strings: dict[str | bytes, int] = {}
        self._correlation = 0
        meta = "META_DATA_EXPORT" if schema >= (3, 6, 0) else "EXPORT_META_DATA"
        self.add(meta, name="EXPORT_SCHEMA_VERSION", value=".".join(map(str, schema)))
        self.add("TARGET_INFO_SESSION_START_TIME", utcEpochNs=utc_ns)

    @staticmethod
    def pid(pid: int) -> int:
        """`globalPid` of a process."""
        return 1 << 48 | pid << 24

    def tid(self, pid: int, thread: int = 1) -> int:
        """`globalTid` of a thread."""
        return self.pid(pid) | thread

    def string(self, text: str | bytes) -> int:
        """Id of a string; bytes are written as they are."""
        return self._strings.setdefault(text, len(self._strings) + 100)

    def add(self, table: str, **row: Any) -> None:
        """A row; columns that this version lacks are left out."""
        self.rows.setdefault(table, []).append(row)

    def kernel(  # noqa: PLR0913 - each has a default
        self, name: str, start: int, end: int, *, pid: int = 10, device: int = 0, stream: int = 7,
        launched: int | None = None, thread: int = 1, short: str | None = None,
    ) -> int:  # fmt: skip
        """A kernel and the call that launched it (at `launched`, by default as it starts)."""
        self._correlation += 1
        self.add(
            "CUPTI_ACTIVITY_KIND_KERNEL", start=start, end=end, deviceId=device, contextId=1,
            streamId=stream, correlationId=self._correlation, globalPid=self.pid(pid),
            demangledName=self.string(name), shortName=self.string(short or name.split("(")[0]),
        )  # fmt: skip
        at = start if launched is None else launched
        self.call("cudaLaunchKernel_v7000", at, at + 2, pid=pid, thread=thread)
        return self._correlation

    def call(self, name: str, start: int, end: int, *, pid: int = 10, thread: int = 1) -> None:
        """A runtime call with the last correlation id."""
        self.add(
            "CUPTI_ACTIVITY_KIND_RUNTIME", start=start, end=end, eventClass=0,
            globalTid=self.tid(pid, thread), correlationId=self._correlation,
            nameId=self.string(name), returnValue=0,
        )  # fmt: skip

    def copy(  # noqa: PLR0913 - each has a default
        self, start: int, end: int, *, kind: int, nbytes: int, ends: tuple[int, int] = (1, 2),
        pid: int = 10, device: int = 0,
    ) -> None:  # fmt: skip
        """A copy; kind and ends in CUPTI's numbers."""
        self._correlation += 1
        self.add(
            "CUPTI_ACTIVITY_KIND_MEMCPY", start=start, end=end, deviceId=device, contextId=1,
            streamId=7, correlationId=self._correlation, globalPid=self.pid(pid), bytes=nbytes,
            copyKind=kind, srcKind=ends[0], dstKind=ends[1],
        )  # fmt: skip
        self.call("cudaMemcpyAsync_v3020", start, start + 1, pid=pid)

    def range(  # noqa: PLR0913 - each has a default
        self, name: str, start: int, end: int | None, *, pid: int = 10, thread: int = 1,
        domain: int = 0, inline: bool = False, payload: dict[str, Any] | bytes | None = None,
        event: int = 59,
    ) -> None:  # fmt: skip
        """An NVTX range, its name in the row or in the string table."""
        row: dict[str, Any] = {"start": start, "end": end, "eventType": event, "domainId": domain}
        row["globalTid"] = self.tid(pid, thread)
        row["text" if inline else "textId"] = name if inline else self.string(name)
        if isinstance(payload, bytes):
            row["binaryData"] = payload
        elif payload is not None:
            row["jsonText"] = json.dumps(payload)
        self.add("NVTX_EVENTS", **row)

    def domain(self, number: int, name: str, *, pid: int = 10) -> None:
        """The row that names a domain of a process."""
        self.add(
            "NVTX_EVENTS", start=0, eventType=75, domainId=number, text=name,
            globalTid=self.tid(pid),
        )  # fmt: skip

    def nccl(  # noqa: PLR0913 - each has a default
        self, call: str, kernel: str, start: int, end: int, *, pid: int = 10, device: int = 0,
        stream: int = 9, payload: dict[str, Any] | bytes | None = None, launched: int | None = None,
    ) -> None:  # fmt: skip
        """A collective: its range, with its launch inside, and its kernel."""
        at = start if launched is None else launched
        self.range(call, at - 1, at + 5, pid=pid, domain=1, payload=payload)
        self.kernel(kernel, start, end, pid=pid, device=device, stream=stream, launched=at)

    def write(self, path: Path, *, without: Sequence[str] = ()) -> Path:
        """Write the export, without some tables."""
        con = sqlite3.connect(path)
        con.execute("CREATE TABLE StringIds (id INTEGER NOT NULL PRIMARY KEY, value TEXT NOT NULL)")
        for text, number in self._strings.items():
            value = "CAST(? AS TEXT)"  # bytes that are no UTF-8, too
            con.execute(f"INSERT INTO StringIds VALUES (?, {value})", (number, text))
        for table, rows in self.rows.items():
            if table in without:
                continue
            names = self.columns[table]
            kinds = [f'"{c}" {"TEXT" if c in _TEXT else "INTEGER"}' for c in names]
            con.execute(f"CREATE TABLE {table} ({', '.join(kinds)})")
            marks = ", ".join("?" * len(names))
            con.executemany(
                f"INSERT INTO {table} VALUES ({marks})", [[r.get(c) for c in names] for r in rows]
            )
        con.commit()
        con.close()
        return path


def training_step(
    b: NsysBuilder, at: int, *, pid: int = 10, device: int = 0, late: int = 0, marked: str = ""
) -> None:
    """One step of 1000 ns with ZeRO-2 and overlap: gradients 300-400, norm, update, gather.

    Launches lie at the kernels' starts. `late` shifts the start (not the end) of collectives.
    """

    def k(name: str, start: int, end: int, stream: int = 7) -> None:
        b.kernel(name, at + start, at + end, pid=pid, device=device, stream=stream)

    def comm(call: str, name: str, span: tuple[int, int], stream: int) -> None:
        start, end = at + span[0] + late, at + span[1]
        b.nccl(call, name, start, end, pid=pid, device=device, stream=stream, launched=at + span[0])

    k("nvjet_sm90_forward", 10, 100)
    k("nvjet_sm90_backward", 150, 350)
    comm("ncclAllReduce", "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(x)", (300, 400), 9)
    comm("ncclAllReduce", "ncclDevKernel_AllReduce_Sum_u8_RING_LL(x)", (450, 460), 7)
    comm("ncclAllReduce", "ncclDevKernel_AllReduce_Sum_f32_RING_LL(x)", (470, 480), 7)
    k("multi_tensor_adam_kernel", 500, 600)
    comm("ncclAllGather", "ncclDevKernel_AllGather_RING_LL(x)", (700, 800), 7)
    if marked:
        b.range(marked, at, at + 1000, pid=pid)


def engine_ranges(b: NsysBuilder, at: int, *, pid: int = 10, domain: int = 0) -> None:
    """DeepSpeed's ranges around such a step."""
    spans: Iterable[tuple[str, int, int]] = (
        ("DeepSpeedEngine.forward", 5, 120),
        ("DeepSpeedEngine.backward", 140, 440),
        ("DeepSpeedEngine.allreduce_gradients", 290, 430),
    )
    for name, start, end in spans:
        b.range(name, at + start, at + end, pid=pid, domain=domain)
