"""How large the messages of communication are: recorded, from the range around, from bytes."""

from __future__ import annotations

import re

import numpy as np

from tracelens.classify import Op
from tracelens.links import GpuWork
from tracelens.operands import first_nelems
from tracelens.trace import Int8s, Int64s, Trace

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


def normal_dtype(name: str) -> tuple[str, int]:
    """Short name and element size of a recorded type; ``("", 0)`` if unknown.

    Examples
    --------
    >>> normal_dtype("BFloat16"), normal_dtype("c10::Half")
    (('bf16', 2), ('fp16', 2))
    """
    return DTYPES.get(name.removeprefix("c10::").removeprefix("at::").lower(), ("", 0))


def from_spans(
    trace: Trace, work: GpuWork, rows: Int64s, known: tuple[Int64s, Int64s, Int64s]
) -> tuple[Int64s, Int64s, Int64s]:
    """Sizes of messages whose only record is the range around their launch (torch before 2.3).

    The range shows the input. It is the larger side, except of an all-gather, whose output is
    larger by a group size that nothing tells.
    """
    n_in, n_out, size = (k.copy() for k in known)
    span = np.where(work.op[rows] == Op.ALL_GATHER, -1, work.span[rows])
    nelems = first_nelems(trace, span)
    has = nelems >= 0
    n_in[has] = nelems[has]
    same = has & np.isin(work.op[rows], (Op.ALL_REDUCE, Op.BROADCAST, Op.REDUCE))
    n_out[same] = nelems[same]
    types = trace.shapes.types[
        np.minimum(np.searchsorted(trace.shapes.row, span[has]), max(len(trace.shapes) - 1, 0))
    ]
    for code in np.unique(types).tolist():
        first = trace.listed(code)[:1]
        size[np.flatnonzero(has)[types == code]] = normal_dtype(str(*first))[1]
    return n_in, n_out, size


def from_bytes(
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


def dtypes_of(
    trace: Trace, work: GpuWork, rows: Int64s, call: Int64s
) -> tuple[Int8s, tuple[str, ...], Int64s]:
    """Element type of each row, all types, and bytes of an element.

    As recorded in its row `call` of `Collectives`, else from the NCCL kernel's name.
    """
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
