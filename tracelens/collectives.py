"""The communication of one rank, a row a kernel, and its summary over ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracelens.classify import Op
from tracelens.intervals import clip_lengths
from tracelens.links import GpuWork, TrackSpans
from tracelens.messages import Messages, find_messages
from tracelens.overlap import compute_spans
from tracelens.phases import Phase, Phases
from tracelens.sizes import dtypes_of, from_bytes, from_spans
from tracelens.steps import ACCUMULATE, EVALUATE, StepMap
from tracelens.trace import Bools, Floats, Int8s, Int32s, Int64s, Kind, Trace, TraceInfo, _freeze


@dataclass(frozen=True, slots=True)
class Group:
    """A communicator: its recorded name, description, size (-1 unknown) and ranks (text)."""

    name: str
    description: str
    size: int
    ranks: str

    @property
    def label(self) -> str:
        """The description; the name where torch itself writes that it has none."""
        return self.name if self.description in ("", "undefined") else self.description


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
    in_accumulate : bool (m,)
        Launched while the engine evaluated a ``torch::autograd::AccumulateGrad`` node: by a hook.
    in_node : bool (m,)
        Launched while the engine evaluated any autograd node on that thread.
    event : int64 (m,)
        Row of `Slices`.
    kernel : int32 (m,)
        Index into `kernels`.
    copied : bool (m,)
        Moved by a copy engine, which waits for nobody.
    dtypes : tuple of str
    groups : tuple of Group
    kernels : tuple of str
        Names of the kernels as recorded.
    messages : Messages
        What the sends and receives among the rows carry.
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
    in_accumulate: Bools
    in_node: Bools
    event: Int64s
    kernel: Int32s
    copied: Bools
    dtypes: tuple[str, ...]
    groups: tuple[Group, ...]
    kernels: tuple[str, ...]
    messages: Messages

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


def collect(trace: Trace, work: GpuWork, found: StepMap, phases: Phases) -> CommTable:
    """Tabulate the communication of a trace."""
    s = trace.slices
    rows = np.flatnonzero(work.comm)
    messages = find_messages(trace, work, rows)
    call = _with_batches(work.call[rows], messages)
    dtype, dtypes, size = dtypes_of(trace, work, rows, call)
    group, groups = _groups(trace, call)
    n_in, n_out, size = _sizes(trace, work, rows, (call, size, messages))
    largest = np.maximum(n_in, n_out)
    launch, host_ns = work.launch[rows], work.launch_ns[rows]
    track = np.where(launch >= 0, s.track[launch], -1).astype(np.int32)

    def inside(names: Int32s) -> Bools:
        spans = TrackSpans(s, trace.rows(Kind.CPU_OP, names))
        return np.asarray((track >= 0) & spans.contain(track, host_ns))

    start, end = work.start_ns[rows], work.end_ns[rows]
    names, kernel = np.unique(s.name[work.row[rows]], return_inverse=True)
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
        in_accumulate=inside(trace.names_where([EVALUATE + ACCUMULATE])),
        in_node=inside(trace.names_starting(EVALUATE)),
        event=work.row[rows],
        kernel=kernel.astype(np.int32),
        copied=work.op[rows] == Op.COPY_P2P,
        dtypes=dtypes,
        groups=groups,
        kernels=tuple(trace.strings[i] for i in names.tolist()),
        messages=messages,
    )


def _sizes(
    trace: Trace, work: GpuWork, rows: Int64s, told: tuple[Int64s, Int64s, Messages]
) -> tuple[Int64s, Int64s, Int64s]:
    """Elements in and out of each row and bytes of one, as far as any record tells."""
    c, (call, size, messages) = trace.collectives, told
    several = np.bincount(messages.row, minlength=len(rows)) > 1

    def recorded(column: Int64s, sends: bool) -> Int64s:
        own = np.where(call >= 0, column[call], -1) if len(column) else np.full(len(rows), -1)
        return np.where(several, messages.summed(sends, len(rows)), own)

    sizes = recorded(c.in_nelems, True), recorded(c.out_nelems, False), size
    sizes = from_spans(trace, work, rows, sizes)
    n_in, n_out = from_bytes(trace.slices.bytes[work.row[rows]], work.op[rows], sizes)
    return n_in, n_out, sizes[2]


def _with_batches(call: Int64s, messages: Messages) -> Int64s:
    """Row of `Collectives` of each row, batches of sends and receives by their first member."""
    call = call.copy()
    call[messages.row[::-1]] = messages.record[::-1]
    return call


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
        name = text(key[0])
        ranks = _whole_list(text(key[3]), name, key[2], trace.info)
        groups.append(Group(name, text(key[1]), key[2], ranks))
    return result, tuple(groups)


def _whole_list(written: str, name: str, size: int, info: TraceInfo) -> str:
    """A group's ranks as recorded; from the file's list of groups where the record was cut.

    torch writes the first 30 ranks of a larger group, then ``...`` (torch/csrc/profiler/util.cpp,
    format_list). Its pg_config holds all, or none for a group of all ranks (torch 2.3).
    """
    start, cut, _ = written.strip("[]").partition("...")
    if not cut:
        return written
    for group in info.groups:
        ranks = group.ranks or (range(size) if size == info.world_size else ())
        listed = ", ".join(map(str, ranks))
        if (group.name, group.size) == (name, size) and listed.startswith(start):
            return f"[{listed}]"
    return written


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

#: nccl-tests doc/PERFORMANCE.md: bus bandwidth over algorithm bandwidth is 1, or a multiple of
#: (n - 1) / n for n ranks.
_BUS_RING = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0, "all_to_all": 1.0}
_BUS_ONE = frozenset({"broadcast", "reduce", "p2p"})


def bus_factor(kind: str, n: int | None) -> float | None:
    """Bus bandwidth over algorithm bandwidth of a kind over `n` ranks; None where unknown.

    Examples
    --------
    >>> bus_factor("all_reduce", 4), bus_factor("all_gather", None), bus_factor("p2p", None)
    (1.5, None, 1.0)
    """
    if kind in _BUS_ONE:
        return 1.0
    return _BUS_RING[kind] * (n - 1) / n if n and kind in _BUS_RING else None


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
    sums: dict[tuple[object, ...], Floats] = {}
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
        g.label if g else None,
        g.size if g and g.size >= 0 else None,
        table.dtypes[dtype] if dtype >= 0 else None,
    )


def _summary(label: tuple[object, ...], row: Floats) -> CollectiveSummary:
    count, size, total, exposed, wait = (float(x) for x in row)
    named: dict[str, Any] = dict(zip(_LABELS, label, strict=True))
    known = not math.isnan(wait)
    transfer = total - wait
    algbw = size / transfer if known and transfer > 0 and not math.isnan(size) else None
    factor = bus_factor(named["kind"], named["group_size"])
    return CollectiveSummary(
        **named,
        count_per_step=count,
        bytes_per_step=None if math.isnan(size) else size,
        total_ns=total,
        exposed_ns=exposed,
        wait_ns=wait if known else None,
        transfer_ns=transfer if known else None,
        algbw_gbps=algbw,
        busbw_gbps=algbw * factor if algbw is not None and factor else None,
    )
