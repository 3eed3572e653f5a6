"""The communication of one rank, a row a kernel, and its summary over ranks."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tracelens.classify import Op
from tracelens.intervals import clip_lengths
from tracelens.links import GpuWork, TrackSpans, span_nelems
from tracelens.overlap import compute_spans
from tracelens.phases import Phase, Phases
from tracelens.steps import ACCUMULATE, EVALUATE, StepMap
from tracelens.trace import Bools, Int8s, Int32s, Int64s, Kind, Trace, _freeze

#: Short name and bytes of an element, by c10d's and NCCL's names (NCCL src/device/generate.py 2.28;
#: NCCL <= 2.18 kernel names end in the C type).
DTYPES: dict[str, tuple[str, int]] = {
    "bfloat16": ("bf16", 2), "bf16": ("bf16", 2), "__nv_bfloat16": ("bf16", 2),
    "half": ("fp16", 2), "float16": ("fp16", 2), "f16": ("fp16", 2),
    "float": ("fp32", 4), "float32": ("fp32", 4), "f32": ("fp32", 4),
    "double": ("fp64", 8), "float64": ("fp64", 8), "f64": ("fp64", 8),
    "byte": ("u8", 1), "uint8": ("u8", 1), "u8": ("u8", 1), "uint8_t": ("u8", 1),
    "char": ("i8", 1), "int8": ("i8", 1), "i8": ("i8", 1), "int8_t": ("i8", 1),
    "short": ("i16", 2), "int": ("i32", 4), "i32": ("i32", 4), "int32_t": ("i32", 4),
    "u32": ("u32", 4), "uint32_t": ("u32", 4), "u64": ("u64", 8), "uint64_t": ("u64", 8),
    "long": ("i64", 8), "i64": ("i64", 8), "int64_t": ("i64", 8), "bool": ("bool", 1),
    "float8_e4m3fn": ("f8", 1), "f8e4m3": ("f8", 1), "float8_e5m2": ("f8", 1), "f8e5m2": ("f8", 1),
}  # fmt: skip

_NCCL_DTYPE = re.compile(
    r"_(?:Sum|Prod|MinMax|Max|Min|PreMulSum|SumPostDiv)_"
    r"(u8|i8|i32|u32|i64|u64|f16|f32|f64|bf16|f8e4m3|f8e5m2|"
    r"__nv_bfloat16|half|float|double|u?int(?:8|32|64)_t)",
    re.IGNORECASE,
)

#: NCCL kernels that only move bytes print a fixed type in their names, whatever they carry.
_TYPELESS = frozenset({Op.ALL_GATHER, Op.BROADCAST, Op.P2P, Op.P2P_OR_ALL_TO_ALL, Op.ALL_TO_ALL})


@dataclass(frozen=True, slots=True)
class Group:
    """A communicator: its recorded name, description, size (-1 unknown) and ranks (text)."""

    name: str
    description: str
    size: int
    ranks: str


@dataclass(frozen=True, slots=True)
class CommTable:
    """Communication of one rank: one row a kernel (or peer copy), ascending in start.

    Attributes
    ----------
    work : int64 (m,)
        Row of `GpuWork`.
    start_ns, end_ns : int64 (m,)
    exposed_ns : int64 (m,)
        Part of the row in which no compute kernel runs.
    kind : int8 (m,)
        `Op`.
    step, micro : int32 (m,)
        Step row and micro-step; -1 outside or unknown.
    phase : int8 (m,)
        `Phase`; -1 unknown.
    in_nelems, out_nelems, bytes : int64 (m,)
        Message as recorded; `bytes` is the larger side, which is nccl-tests' "size". -1 unknown.
    dtype : int8 (m,)
        Index into `dtypes`; -1 unknown.
    group : int32 (m,)
        Index into `groups`; -1 unknown.
    stream : int32 (m,)
    host_ns : int64 (m,)
        Start of the launching call; -1 unknown.
    in_hook : bool (m,)
        Launched inside ``torch::autograd::AccumulateGrad``: a post-accumulate-grad hook.
    in_accumulate : bool (m,)
        Launched while the engine evaluated such a node: DDP's reducer hooks in there.
    in_node : bool (m,)
        Launched while the engine evaluated any autograd node on that thread.
    dtypes : tuple of str
    groups : tuple of Group
    """

    work: Int64s
    start_ns: Int64s
    end_ns: Int64s
    exposed_ns: Int64s
    kind: Int8s
    step: Int32s
    micro: Int32s
    phase: Int8s
    in_nelems: Int64s
    out_nelems: Int64s
    bytes: Int64s
    dtype: Int8s
    group: Int32s
    stream: Int32s
    host_ns: Int64s
    in_hook: Bools
    in_accumulate: Bools
    in_node: Bools
    dtypes: tuple[str, ...]
    groups: tuple[Group, ...]

    def __post_init__(self) -> None:
        _freeze(self)

    def __len__(self) -> int:
        return len(self.work)

    @property
    def dur_ns(self) -> Int64s:
        """Length of each row, ns: waiting for other ranks included."""
        return self.end_ns - self.start_ns

    @property
    def nelems(self) -> Int64s:
        """The larger side of each message, elements; -1 unknown."""
        return np.maximum(self.in_nelems, self.out_nelems)


def normal_dtype(name: str) -> tuple[str, int]:
    """Short name and element size of a recorded type; ``("", 0)`` if unknown.

    Examples
    --------
    >>> normal_dtype("BFloat16"), normal_dtype("c10::Half")
    (('bf16', 2), ('fp16', 2))
    """
    return DTYPES.get(name.removeprefix("c10::").removeprefix("at::").lower(), ("", 0))


def collect(trace: Trace, work: GpuWork, found: StepMap, phases: Phases) -> CommTable:
    """Tabulate the communication of a trace."""
    s, c = trace.slices, trace.collectives
    rows = np.flatnonzero(work.comm)
    call = work.call[rows]
    has = call >= 0
    dtype, dtypes, size = _dtypes(trace, work, rows)
    group, groups = _groups(trace, call)

    def recorded(column: Int64s) -> Int64s:
        return np.where(has, column[call], -1) if len(column) else np.full(len(rows), -1)

    n_in, n_out = recorded(c.in_nelems), recorded(c.out_nelems)
    n_in, n_out, size = _from_spans(trace, work, rows, (n_in, n_out, size))
    n_in, n_out = _from_bytes(s.bytes[work.row[rows]], work.op[rows], (n_in, n_out, size))
    largest = np.maximum(n_in, n_out)
    launch, host_ns = work.launch[rows], work.launch_ns[rows]
    track = np.where(launch >= 0, s.track[launch], -1).astype(np.int32)

    def inside(names: Int32s) -> Bools:
        spans = TrackSpans(s, trace.rows(Kind.CPU_OP, names))
        return np.asarray((track >= 0) & spans.contain(track, host_ns))

    start, end = work.start_ns[rows], work.end_ns[rows]
    return CommTable(
        work=rows,
        start_ns=start,
        end_ns=end,
        exposed_ns=end - start - clip_lengths(compute_spans(work), start, end),
        kind=np.where(work.op[rows] == Op.COPY_P2P, np.int8(Op.P2P), work.op[rows]).astype(np.int8),
        step=found.of_work[rows],
        micro=phases.micro[rows],
        # a pipeline's sends and receives lie between the passes and serve either
        phase=np.where(work.op[rows] == Op.P2P, np.int8(-1), phases.phase[rows]),
        in_nelems=n_in,
        out_nelems=n_out,
        bytes=np.where((largest >= 0) & (size > 0), largest * size, s.bytes[work.row[rows]]),
        dtype=dtype,
        group=group,
        stream=work.stream[rows],
        host_ns=host_ns,
        in_hook=inside(trace.names_where([ACCUMULATE])),
        in_accumulate=inside(trace.names_where([EVALUATE + ACCUMULATE])),
        in_node=inside(trace.names_starting(EVALUATE)),
        dtypes=dtypes,
        groups=groups,
    )


def _from_spans(
    trace: Trace, work: GpuWork, rows: Int64s, known: tuple[Int64s, Int64s, Int64s]
) -> tuple[Int64s, Int64s, Int64s]:
    """Sizes of messages whose only record is the range around their launch (torch before 2.3).

    The range shows the input. It is the larger side, except of an all-gather, whose output is
    larger by a group size that nothing tells.
    """
    n_in, n_out, size = (k.copy() for k in known)
    span = np.where(work.op[rows] == Op.ALL_GATHER, -1, work.span[rows])
    nelems = span_nelems(trace, span)
    has = nelems >= 0
    n_in[has] = nelems[has]
    same = has & np.isin(work.op[rows], (Op.ALL_REDUCE, Op.BROADCAST, Op.REDUCE))
    n_out[same] = nelems[same]
    types = trace.shapes.types[
        np.minimum(np.searchsorted(trace.shapes.row, span[has]), max(len(trace.shapes) - 1, 0))
    ]
    for code in np.unique(types).tolist():
        first = msgspec.json.decode(trace.strings[code])[:1] if code >= 0 else []
        size[np.flatnonzero(has)[types == code]] = normal_dtype(str(*first))[1]
    return n_in, n_out, size


def _from_bytes(
    message: Int64s, op: Int8s, known: tuple[Int64s, Int64s, Int64s]
) -> tuple[Int64s, Int64s]:
    """Elements of messages whose bytes alone were recorded (NCCL's own payloads).

    The bytes are those of the larger side: what an all-gather gives, else what goes in.
    """
    n_in, n_out, size = known
    has = (np.maximum(n_in, n_out) < 0) & (message >= 0) & (size > 0)
    nelems = message // np.maximum(size, 1)
    gathers = op == Op.ALL_GATHER
    same = np.isin(op, (Op.ALL_REDUCE, Op.BROADCAST, Op.REDUCE, Op.ALL_TO_ALL))
    return (
        np.where(has & ~gathers, nelems, n_in),
        np.where(has & (gathers | same), nelems, n_out),
    )


def _dtypes(trace: Trace, work: GpuWork, rows: Int64s) -> tuple[Int8s, tuple[str, ...], Int64s]:
    """Element type of each row: as recorded, else from the NCCL kernel's name."""
    names = tuple(dict.fromkeys(short for short, _ in DTYPES.values()))
    sizes = np.array([dict(DTYPES.values())[n] for n in names] + [0], np.int64)
    code = {name: i for i, name in enumerate(names)}
    result = np.full(len(rows), -1, np.int8)
    kernel_name = trace.slices.name[work.row[rows]]
    for i in np.unique(kernel_name).tolist():
        found = _NCCL_DTYPE.search(trace.strings[i])
        if found:
            result[kernel_name == i] = code[normal_dtype(found.group(1))[0]]
    result[np.isin(work.op[rows], np.array(sorted(_TYPELESS), np.int8))] = -1
    call = work.call[rows]
    recorded = (
        np.where(call >= 0, trace.collectives.dtype[call], -1)
        if len(trace.collectives)
        else np.full(len(rows), -1)
    )
    for i in np.unique(recorded[recorded >= 0]).tolist():
        short = normal_dtype(trace.strings[i])[0]
        if short:
            result[recorded == i] = code[short]
    return result, names, sizes[result]


def _groups(trace: Trace, call: Int64s) -> tuple[Int32s, tuple[Group, ...]]:
    c = trace.collectives
    result = np.full(len(call), -1, np.int32)
    groups: list[Group] = []
    if not len(c):
        return result, ()

    def text(code: int) -> str:
        return trace.strings[code] if code >= 0 else ""

    keys = np.stack([c.group, c.group_desc, c.group_size, c.ranks], axis=1)[call]
    keys[call < 0] = -1
    for key in np.unique(keys, axis=0).tolist():
        if key == [-1, -1, -1, -1]:
            continue
        result[(keys == key).all(axis=1)] = len(groups)
        groups.append(Group(text(key[0]), text(key[1]), key[2], text(key[3])))
    return result, tuple(groups)


@dataclass(frozen=True, slots=True)
class CollectiveSummary:
    """Collectives of one kind, phase, group and type: means per step and rank over whole steps.

    `wait_ns` and `transfer_ns` split `total_ns`; `algbw_gbps` and `busbw_gbps` (GB/s, 1e9 bytes)
    are of the transfer alone, by nccl-tests' formulas (doc/PERFORMANCE.md). All four need every
    rank of the group and are None without.
    """

    kind: str
    phase: str | None
    group: str | None
    group_size: int | None
    dtype: str | None
    count_per_step: float
    bytes_per_step: float | None
    total_ns: float
    exposed_ns: float
    wait_ns: float | None = None
    transfer_ns: float | None = None
    algbw_gbps: float | None = None
    busbw_gbps: float | None = None


_LABELS = ("kind", "phase", "group", "group_size", "dtype")

#: nccl-tests doc/PERFORMANCE.md: bus bandwidth over algorithm bandwidth, for n ranks.
_BUS_FACTOR = {
    "all_reduce": lambda n: 2 * (n - 1) / n,
    "all_gather": lambda n: (n - 1) / n,
    "reduce_scatter": lambda n: (n - 1) / n,
    "all_to_all": lambda n: (n - 1) / n,
}


def summarize(
    tables: Sequence[CommTable],
    whole_steps: Sequence[Bools],
    waits: Sequence[Int64s] | None = None,
) -> tuple[CollectiveSummary, ...]:
    """Summarise the collectives of whole steps, longest total first.

    Parameters
    ----------
    tables : sequence of CommTable
        One a rank.
    whole_steps : sequence of bool (k,)
        Which steps of each rank count.
    waits : sequence of int64 (m,), optional
        Waiting of each row, ns; -1 where it is unknown.
    """
    sums: dict[tuple[object, ...], NDArray[np.float64]] = {}
    n_steps = 0
    for i, (table, whole) in enumerate(zip(tables, whole_steps, strict=True)):
        n_steps += int(whole.sum())
        wait = waits[i] if waits is not None else np.full(len(table), -1, np.int64)
        on = np.flatnonzero((table.step >= 0) & whole[np.maximum(table.step, 0)])
        columns = (table.kind, table.phase, table.group, table.dtype)
        keys = np.stack([col[on].astype(np.int64) for col in columns], axis=1)
        for key in np.unique(keys, axis=0).tolist():
            hit = on[(keys == key).all(axis=1)]
            row = sums.setdefault(_label(table, key), np.zeros(5))
            size = table.bytes[hit].astype(float)
            row += (
                len(hit),
                np.where(size >= 0, size, np.nan).sum(),  # one unknown makes the sum unknown
                table.dur_ns[hit].sum(),
                table.exposed_ns[hit].sum(),
                np.where(wait[hit] >= 0, wait[hit], np.nan).sum(),
            )
    rows = [_summary(label, row / n_steps) for label, row in sums.items()]
    return tuple(sorted(rows, key=lambda r: -r.total_ns))


def _label(table: CommTable, key: list[int]) -> tuple[object, ...]:
    kind, phase, group, dtype = key
    g = table.groups[group] if group >= 0 else None
    return (
        Op(kind).label,
        Phase(phase).label if phase >= 0 else None,
        _group_label(g) if g else None,
        g.size if g and g.size >= 0 else None,
        table.dtypes[dtype] if dtype >= 0 else None,
    )


def _group_label(group: Group) -> str:
    """A group's description; its name where torch itself writes that it has none."""
    return group.name if group.description in ("", "undefined") else group.description


def _summary(label: tuple[object, ...], row: NDArray[np.float64]) -> CollectiveSummary:
    count, size, total, exposed, wait = (float(x) for x in row)
    named: dict[str, Any] = dict(zip(_LABELS, label, strict=True))
    known = not math.isnan(wait)
    transfer = total - wait
    algbw = size / transfer if known and transfer > 0 and not math.isnan(size) else None
    factor = _BUS_FACTOR.get(named["kind"])
    n = named["group_size"]
    return CollectiveSummary(
        **named,
        count_per_step=count,
        bytes_per_step=None if math.isnan(size) else size,
        total_ns=total,
        exposed_ns=exposed,
        wait_ns=wait if known else None,
        transfer_ns=transfer if known else None,
        algbw_gbps=algbw,
        busbw_gbps=algbw * factor(n) if algbw is not None and factor and n else None,
    )
