"""One rank's recording as frozen column tables.

Every time is int64 ns since `TraceInfo.clock_zero_ns`; every missing id or size is -1; every name
is an index into `Trace.strings`. Rows of `Slices` are sorted by start, and by length descending
where starts are equal, so that on one host thread a parent precedes its children.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from tracelens.errors import InvariantError

if TYPE_CHECKING:
    import pandas as pd

Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
Int8s = npt.NDArray[np.int8]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


class Kind(enum.IntEnum):
    """What the profiler recorded (its own category, not what the work means)."""

    CPU_OP = 0  #: torch operator, autograd node or comm record on a host thread
    RUNTIME = 1  #: CUDA or HIP runtime or driver call
    ANNOTATION = 2  #: range on a host thread: record_function, ProfilerStep, NVTX
    PYTHON = 3  #: Python frame (with_stack)
    KERNEL = 4
    MEMCPY = 5
    MEMSET = 6
    GPU_ANNOTATION = 7  #: a host range projected onto a GPU stream
    SYNC = 8  #: synchronisation record on a GPU stream (cuda_sync)
    OVERHEAD = 9  #: the profiler's own work
    OTHER = 10


GPU_WORK = (Kind.KERNEL, Kind.MEMCPY, Kind.MEMSET)


def _freeze(table: object) -> None:
    """Make a table's arrays read-only and check that they have one length."""
    sizes = {}
    for f in fields(table):  # type: ignore[arg-type]
        column = getattr(table, f.name)
        if isinstance(column, np.ndarray):
            column.flags.writeable = False
            sizes[f.name] = len(column)
    if len(set(sizes.values())) > 1:
        raise InvariantError(f"{type(table).__name__}: columns differ in length: {sizes}")


def frozen_again(value: object) -> None:
    """Make every array within `value` read-only, as it was before another process sent it here."""
    if isinstance(value, np.ndarray):
        value.flags.writeable = False
    elif is_dataclass(value):
        for f in fields(value):
            frozen_again(getattr(value, f.name))
    elif isinstance(value, (tuple, list)):
        for item in value:
            frozen_again(item)
    elif isinstance(value, dict):
        for item in value.values():
            frozen_again(item)


@dataclass(frozen=True, slots=True)
class Slices:
    """One row an event with a duration.

    Attributes
    ----------
    ts_ns, dur_ns : int64 (n,)
        Start and length (>= 0).
    name : int32 (n,)
        Index into `Trace.strings`.
    kind : int8 (n,)
        `Kind`.
    track : int32 (n,)
        Row of `Tracks`.
    correlation : int64 (n,)
        Launch id that a runtime call and its GPU work share.
    external_id : int64 (n,)
        Id that a host op and the GPU work under it share.
    sequence : int64 (n,)
        Autograd sequence number; only ops that ran with gradients enabled have one.
    stream, device : int32 (n,)
        GPU stream and device; -1 on host rows.
    bytes : int64 (n,)
        Size of a copy or memset.
    """

    ts_ns: Int64s
    dur_ns: Int64s
    name: Int32s
    kind: Int8s
    track: Int32s
    correlation: Int64s
    external_id: Int64s
    sequence: Int64s
    stream: Int32s
    device: Int32s
    bytes: Int64s

    def __post_init__(self) -> None:
        _freeze(self)

    def __len__(self) -> int:
        return len(self.ts_ns)

    @property
    def end_ns(self) -> Int64s:
        """End of each slice, ns."""
        return self.ts_ns + self.dur_ns


@dataclass(frozen=True, slots=True)
class Tracks:
    """Where slices ran: one row a (process, thread) pair as the trace names them.

    `pid` and `tid` are as written (int or str); `name` is the thread's recorded name or "".
    """

    pid: tuple[int | str, ...]
    tid: tuple[int | str, ...]
    name: tuple[str, ...]
    process: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pid)


@dataclass(frozen=True, slots=True)
class Collectives:
    """Recorded arguments of communication: one row a slice that carries them.

    Both the host record (`record_param_comms`) and, since torch 2.3, the kernel carry them.

    Attributes
    ----------
    row : int64 (m,)
        Row of `Slices`, ascending.
    call : int32 (m,)
        String index of the recorded collective name (``allreduce``, ``_allgather_base`` ...).
    in_nelems, out_nelems : int64 (m,)
        Elements in and out, on this rank.
    group_size : int32 (m,)
    dtype : int32 (m,)
        String index (``BFloat16`` ...).
    group, group_desc, ranks : int32 (m,)
        String indices of the process group's name, description and rank list as written.
    in_split, out_split : int32 (m,)
        String indices of the split sizes as written (uneven all-to-all).
    src_rank, dst_rank : int32 (m,)
        Peers of a point-to-point call.
    seq : int64 (m,)
        Sequence number in the group (Kineto since 2026).
    """

    row: Int64s
    call: Int32s
    in_nelems: Int64s
    out_nelems: Int64s
    group_size: Int32s
    dtype: Int32s
    group: Int32s
    group_desc: Int32s
    ranks: Int32s
    in_split: Int32s
    out_split: Int32s
    src_rank: Int32s
    dst_rank: Int32s
    seq: Int64s

    def __post_init__(self) -> None:
        _freeze(self)

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True, slots=True)
class Shapes:
    """Recorded operands of chosen host ops (record_shapes), as the JSON text that was written.

    `row` int64 ascending into `Slices`; `dims`, `types`, `concrete` are string indices, -1 absent.
    Kept for the ops in `SHAPE_OPS` only.
    """

    row: Int64s
    dims: Int32s
    types: Int32s
    concrete: Int32s

    def __post_init__(self) -> None:
        _freeze(self)

    def __len__(self) -> int:
        return len(self.row)


#: Name of GPU work that stands for all kernels of a CUDA graph, where they were not recorded.
HIDDEN_GRAPH = "CUDA graph (its kernels were not recorded)"

#: Host ops whose operands the analysis reads; all others' shapes are skipped while reading.
SHAPE_OPS = frozenset(
    {
        "aten::empty",
        "torch::autograd::AccumulateGrad",
        "aten::mm",
        "aten::addmm",
        "aten::bmm",
        "aten::baddbmm",
        "aten::linear",
        "aten::matmul",
        "aten::embedding",
        "aten::convolution",
        "aten::scaled_dot_product_attention",
        "record_param_comms",
        "nccl:all_reduce",
        "nccl:_reduce_scatter_base",
        "nccl:_all_gather_base",
        "nccl:all_to_all",
        "nccl:broadcast",
        "nccl:reduce",
    }
)


@dataclass(frozen=True, slots=True)
class Memory:
    """Allocator events (profile_memory), ascending in time.

    `ts_ns` int64; `bytes` int64 (negative frees); `allocated`, `reserved` int64 totals after the
    event, -1 unknown; `device` int32 (-1 host); `track` int32.
    """

    ts_ns: Int64s
    bytes: Int64s
    allocated: Int64s
    reserved: Int64s
    device: Int32s
    track: Int32s

    def __post_init__(self) -> None:
        _freeze(self)

    def __len__(self) -> int:
        return len(self.ts_ns)


@dataclass(frozen=True, slots=True)
class Note:
    """Something about the input that the reader of the report should know.

    `code` is stable (for scripts), `count` how often, `text` a sentence.
    """

    code: str
    count: int
    text: str


@dataclass(frozen=True, slots=True)
class ImportStats:
    """What reading the file was like: nothing is left out without a trace here."""

    events_read: int
    events_dropped: int
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """One communicator of the job, as `distributedInfo.pg_config` lists it."""

    name: str
    description: str
    size: int
    ranks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TraceInfo:
    """What the file says about itself. None where it does not say.

    `source` is ``torch.profiler`` or ``nsys``; `clock_zero_ns` is the unix time, ns, of ts 0;
    `devices` are the names of the GPUs by device number, `device_bytes` their memory (-1 unknown);
    `record_shapes`, `with_stack`,
    `profile_memory` are the recording's own switches.
    """

    path: str
    source: str
    clock_zero_ns: int
    rank: int | None = None
    world_size: int | None = None
    backend: str | None = None
    devices: tuple[str, ...] = ()
    device_bytes: tuple[int, ...] = ()
    torch: str | None = None
    nccl: str | None = None
    cuda_runtime: int | None = None
    groups: tuple[ProcessGroup, ...] = ()
    record_shapes: bool | None = None
    with_stack: bool | None = None
    profile_memory: bool | None = None
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Trace:
    """One rank's recording: the value that readers return and every stage starts from."""

    info: TraceInfo
    strings: tuple[str, ...]
    tracks: Tracks
    slices: Slices
    collectives: Collectives
    shapes: Shapes
    memory: Memory
    stats: ImportStats

    def names_where(self, wanted: Sequence[str] | frozenset[str]) -> Int32s:
        """String indices of the given names that occur, ascending."""
        wanted = frozenset(wanted)
        return np.array([i for i, s in enumerate(self.strings) if s in wanted], np.int32)

    def names_starting(self, *prefixes: str) -> Int32s:
        """String indices of the names that start with one of the prefixes, ascending."""
        return np.array([i for i, s in enumerate(self.strings) if s.startswith(prefixes)], np.int32)

    def names_matching(self, pattern: re.Pattern[str]) -> Int32s:
        """String indices of the names in which the pattern is found, ascending."""
        return np.array([i for i, s in enumerate(self.strings) if pattern.search(s)], np.int32)

    def listed(self, code: int) -> list[Any]:
        """The JSON list that is written at a string index; empty if there is none."""
        try:
            found = msgspec.json.decode(self.strings[code]) if code >= 0 else []
        except (msgspec.MsgspecError, RecursionError):
            return []
        return found if isinstance(found, list) else []

    def rows(self, kind: Kind | Sequence[Kind], names: Int32s | None = None) -> Int64s:
        """Rows of the given kinds (and names), ascending in time."""
        kinds = (kind,) if isinstance(kind, Kind) else tuple(kind)
        mask = np.isin(self.slices.kind, np.array(kinds, np.int8))
        if names is not None:
            hit = np.zeros(len(self.strings) + 1, bool)
            hit[names] = True
            mask &= hit[self.slices.name]
        return np.flatnonzero(mask)

    def ranges(self, names: Int32s) -> Int64s:
        """Rows of host ranges of these names, ascending.

        torch before 1.11 recorded ``record_function`` ranges as operators.
        """
        return self.rows((Kind.CPU_OP, Kind.ANNOTATION), names)

    def to_frame(self) -> pd.DataFrame:
        """All slices as a DataFrame: strings resolved, units in the column names."""
        import pandas as pd

        s = self.slices
        names = np.array((*self.strings, ""), object)
        kinds = np.array([k.name.lower() for k in Kind], object)
        tid = np.array(self.tracks.tid, object)
        pid = np.array(self.tracks.pid, object)
        return pd.DataFrame(
            {
                "ts_ns": s.ts_ns,
                "dur_ns": s.dur_ns,
                "name": names[s.name],
                "kind": kinds[s.kind],
                "pid": pid[s.track],
                "tid": tid[s.track],
                "stream": s.stream,
                "device": s.device,
                "correlation": s.correlation,
                "external_id": s.external_id,
                "bytes": s.bytes,
            }
        )
