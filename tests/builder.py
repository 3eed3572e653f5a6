"""Tiny Chrome traces, as torch.profiler (Kineto) writes them, from readable calls.

Times are microseconds, as in the file; every method returns the builder, so that a trace reads
like a table:

>>> trace = (
...     TraceBuilder(rank=0, world_size=2)
...     .step(1, 0, 100)
...     .cpu_op("aten::mm", ts=10, dur=8, ext=5)
...     .launch(corr=77)
...     .kernel("gemm", ts=20, dur=30, corr=77, ext=5)
...     .nccl("all_reduce", ts=25, dur=40, nelems=1024, dtype="BFloat16")
... )
>>> trace.events[1]["name"], len(trace)
('aten::mm', 5)

`write` puts it on disk, `text` gives the bytes. What a method does not offer goes through `args=`
(merged into the event's args), `event` (any event) or `meta` (any top-level key).
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

#: Unix time of ts 0 of every built trace, ns.
BASE_NS = 1_700_000_000_000_000_000
#: Process and thread of host events, and the thread of the backward pass.
HOST_PID, MAIN_TID, BACKWARD_TID = 100, 100, 101

_NCCL = {  # name in c10d -> (name in the kernel, recorded collective name)
    "all_reduce": ("AllReduce_Sum_bf16_RING_LL", "allreduce"),
    "all_gather": ("AllGather_RING_LL", "_allgather_base"),
    "reduce_scatter": ("ReduceScatter_Sum_bf16_RING_LL", "_reduce_scatter_base"),
    "reduce": ("Reduce_Sum_bf16_RING_LL", "reduce"),
    "broadcast": ("Broadcast_RING_LL", "broadcast"),
    "all_to_all": ("SendRecv", "all_to_allv"),
    "send": ("SendRecv", "send"),
    "recv": ("SendRecv", "recv"),
}


class TraceBuilder:
    """A trace of one rank.

    Parameters
    ----------
    rank, world_size : int or None
        Go to ``distributedInfo``; with None for the rank there is none.
    device : int or None
        GPU of kernels; the rank (or 0) by default.
    """

    def __init__(
        self, rank: int | None = 0, world_size: int | None = 1, *, device: int | None = None
    ) -> None:
        self.events: list[dict[str, Any]] = []
        self.device = (rank or 0) if device is None else device
        self.rank, self.world_size = rank, world_size
        self.header: dict[str, Any] = {
            "schemaVersion": 1,
            "deviceProperties": [{"id": i, "name": "Test GPU"} for i in range(self.device + 1)],
        }
        if rank is not None:
            ranks = list(range(world_size or 0))
            group = {"pg_name": "0", "pg_desc": "default_pg", "pg_size": world_size, "ranks": ranks}
            self.header["distributedInfo"] = {
                "backend": "nccl",
                "rank": rank,
                "world_size": world_size,
                "pg_count": 1,
                "pg_config": [group],
                "nccl_version": "2.21.5",
            }
        self._host: tuple[float, float, int] = (0.0, 1.0, MAIN_TID)  # the last host op

    def __len__(self) -> int:
        return len(self.events)

    # ------------------------------------------------------------------ any event
    def event(
        self, ph: str, name: str, ts: float | str | None = None, **fields: Any
    ) -> TraceBuilder:
        """Any event; `fields` are its other keys (`cat`, `dur`, `pid`, `tid`, `args` ...)."""
        event: dict[str, Any] = {"ph": ph, "name": name, **fields}
        if ts is not None:
            event["ts"] = ts
        self.events.append(event)
        return self

    def meta(self, **keys: Any) -> TraceBuilder:
        """Set top-level keys of the file; None removes one."""
        for key, value in keys.items():
            if value is None:
                self.header.pop(key, None)
            else:
                self.header[key] = value
        return self

    def host(
        self, cat: str, name: str, ts: float, dur: float, *, tid: int = MAIN_TID, **args: Any
    ) -> TraceBuilder:
        """A host event of category `cat`; args that are None are left out."""
        args = {k: v for k, v in args.items() if v is not None}
        return self.event("X", name, ts, cat=cat, dur=dur, pid=HOST_PID, tid=tid, args=args)

    def gpu(
        self, cat: str, name: str, ts: float, dur: float, *, stream: int = 7, **args: Any
    ) -> TraceBuilder:
        """A GPU event of category `cat` on `stream`; args that are None are left out."""
        device = args.pop("device", self.device)
        where = {"device": device, "context": 1, "stream": stream}
        args = where | {k: v for k, v in args.items() if v is not None}
        return self.event("X", name, ts, cat=cat, dur=dur, pid=device, tid=stream, args=args)

    # ------------------------------------------------------------------ host side
    def step(self, number: int, ts: float, dur: float) -> TraceBuilder:
        """``ProfilerStep#number`` on the main thread."""
        return self.annotation(f"ProfilerStep#{number}", ts=ts, dur=dur)

    def annotation(self, name: str, *, ts: float, dur: float, tid: int = MAIN_TID) -> TraceBuilder:
        """A record_function range."""
        return self.host("user_annotation", name, ts, dur, tid=tid)

    def cpu_op(
        self,
        name: str,
        *,
        ts: float,
        dur: float,
        ext: int | None = None,
        seq: int | None = None,
        tid: int = MAIN_TID,
        **shapes: Any,
    ) -> TraceBuilder:
        """A torch operator; `shapes` may be `dims`, `types`, `concrete` and `args`."""
        keys = {"dims": "Input Dims", "types": "Input type", "concrete": "Concrete Inputs"}
        args = {keys[k]: v for k, v in shapes.items() if k != "args"} | shapes.get("args", {})
        self._host = (ts, dur, tid)
        args = {"External id": ext, "Sequence number": seq} | args
        return self.host("cpu_op", name, ts, dur, tid=tid, **args)

    def launch(
        self,
        corr: int,
        *,
        ts: float | None = None,
        dur: float | None = None,
        name: str = "cudaLaunchKernel",
        ext: int | None = None,
        tid: int | None = None,
    ) -> TraceBuilder:
        """A runtime call; by default it starts with the last host op, on its thread, 1 us long."""
        start, length, thread = self._host
        ts = start if ts is None else ts
        dur = min(1.0, length) if dur is None else dur
        tid = thread if tid is None else tid
        args = {"correlation": corr, "External id": ext}
        return self.host("cuda_runtime", name, ts, dur, tid=tid, **args)

    def python(self, name: str, *, ts: float, dur: float, tid: int = MAIN_TID) -> TraceBuilder:
        """A Python frame (with_stack)."""
        return self.host("python_function", name, ts, dur, tid=tid)

    def memory(
        self,
        ts: float,
        nbytes: int,
        *,
        allocated: int = -1,
        reserved: int = -1,
        device: int | None = None,
    ) -> TraceBuilder:
        """An allocator event (profile_memory); device -1 is the host."""
        device = self.device if device is None else device
        args = {
            "Total Reserved": reserved,
            "Total Allocated": allocated,
            "Bytes": nbytes,
            "Device Id": device,
            "Device Type": 0 if device < 0 else 1,
        }
        where = {"cat": "cpu_instant_event", "pid": HOST_PID, "tid": MAIN_TID, "s": "t"}
        return self.event("i", "[memory]", ts, **where, args=args)

    def thread_name(self, tid: int | str, name: str, *, pid: int | str = HOST_PID) -> TraceBuilder:
        """The metadata event that names a thread."""
        return self.event("M", "thread_name", 0, pid=pid, tid=tid, args={"name": name})

    def process_name(self, name: str, *, pid: int | str = HOST_PID) -> TraceBuilder:
        """The metadata event that names a process."""
        return self.event("M", "process_name", 0, pid=pid, tid=0, args={"name": name})

    # ------------------------------------------------------------------ GPU side
    def kernel(  # noqa: PLR0913 - the keywords of a table row
        self,
        name: str,
        ts: float,
        dur: float,
        *,
        stream: int = 7,
        corr: int | None = None,
        ext: int | None = None,
        args: dict[str, Any] | None = None,
    ) -> TraceBuilder:
        """A kernel."""
        args = {"correlation": corr, "External id": ext} | (args or {})
        return self.gpu("kernel", name, ts, dur, stream=stream, **args)

    def memcpy(
        self,
        kind: str,
        ts: float,
        dur: float,
        *,
        nbytes: int = 0,
        stream: int = 7,
        corr: int | None = None,
    ) -> TraceBuilder:
        """A copy: `kind` is ``HtoD``, ``DtoH``, ``DtoD`` ..."""
        name = f"Memcpy {kind} (Pinned -> Device)"
        return self.gpu("gpu_memcpy", name, ts, dur, stream=stream, bytes=nbytes, correlation=corr)

    def memset(self, ts: float, dur: float, *, nbytes: int = 0, stream: int = 7) -> TraceBuilder:
        """A memset."""
        return self.gpu("gpu_memset", "Memset (Device)", ts, dur, stream=stream, bytes=nbytes)

    def nccl(  # noqa: PLR0913 - the keywords of a table row
        self,
        op: str = "all_reduce",
        *,
        ts: float,
        dur: float,
        nelems: int,
        out_nelems: int | None = None,
        dtype: str = "BFloat16",
        stream: int = 20,
        corr: int | None = None,
        ext: int | None = None,
        host_ts: float | None = None,
        **args: Any,
    ) -> TraceBuilder:
        """A collective's kernel with its recorded call.

        With `host_ts` the host's ``record_param_comms`` (5 us long) comes before it. `args` are
        further recorded arguments by their written names (``**{"Group size": 8}``).
        """
        kernel, call = _NCCL[op]
        size = self.world_size or 1
        recorded = {
            "Collective name": call,
            "In msg nelems": nelems,
            "Out msg nelems": nelems if out_nelems is None else out_nelems,
            "Group size": size,
            "dtype": dtype,
            "In split size": "[]",
            "Out split size": "[]",
            "Process Group Name": "0",
            "Process Group Description": "default_pg",
            "Process Group Ranks": str(list(range(size))),
        } | args
        if host_ts is not None:
            self.cpu_op("record_param_comms", ts=host_ts, dur=5, ext=ext, args=recorded)
            if corr is not None:
                self.launch(corr, ts=host_ts + 1, name="cudaLaunchKernelExC", ext=ext)
        name = f"ncclDevKernel_{kernel}(ncclDevKernelArgsStorage<4096ul>)"
        return self.kernel(name, ts, dur, stream=stream, corr=corr, ext=ext, args=recorded)

    # ------------------------------------------------------------------ out
    def text(self, *, style: str = "object", absolute: bool = False) -> bytes:
        """The file: ``object`` (with header, as Kineto writes) or ``list`` (bare array).

        With `absolute` the times are unix microseconds, as torch 2.2 wrote them, and there is no
        ``baseTimeNanoseconds``. Numbers in ts and dur get three decimals; strings stay strings.
        """
        zero = BASE_NS if absolute else 0
        array = ",\n".join(_render(e, zero) for e in self.events)
        if style == "list":
            return f"[\n{array}\n]\n".encode()
        header = dict(self.header)
        if not absolute:
            header.setdefault("baseTimeNanoseconds", BASE_NS)
        head = json.dumps(header, indent=1)[:-2]
        return f'{head},\n"traceEvents": [\n{array}\n],\n"traceName": "built"\n}}\n'.encode()

    def write(
        self, path: Path, *, style: str = "object", gz: bool = False, absolute: bool = False
    ) -> Path:
        """Write the file and return its path."""
        data = self.text(style=style, absolute=absolute)
        path.write_bytes(gzip.compress(data) if gz else data)
        return path


def _render(event: dict[str, Any], zero_ns: int) -> str:
    """One event as JSON text, with ts and dur as exact decimals."""
    parts = []
    for key, value in event.items():
        written = json.dumps(value)
        if key in ("ts", "dur") and isinstance(value, (int, float)):
            ns = round(value * 1000) + (zero_ns if key == "ts" else 0)
            sign, ns = ("-", -ns) if ns < 0 else ("", ns)
            written = f"{sign}{ns // 1000}.{ns % 1000:03d}"
        parts.append(f'"{key}": {written}')
    return "{" + ", ".join(parts) + "}"
