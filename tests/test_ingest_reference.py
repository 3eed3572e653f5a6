"""All columns against a plain reader (json.load, one loop, sort), on real traces if any."""

from __future__ import annotations

import gzip
import json
import lzma
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tracelens.ingest import open_trace
from tracelens.trace import SHAPE_OPS, Kind, Trace

REPO = Path(__file__).parent.parent
SAMPLES = sorted((REPO / "sample_traces").glob("*/*.json*"))
REAL = sorted((REPO.parent / "shared" / "traces").glob("*/rank*.json.xz"))
#: One run of each sort; the whole set takes minutes.
CHOSEN = {
    "w4_z2_mem",  # allocator events
    "w4_z3_offload_opt",  # CPU optimizer
    "w4_moe_ep2_z2",  # all-to-all
    "w4_z2_cudaonly",  # no host ops
    "w4_z3_stack",  # Python frames
}
REAL = [p for p in REAL if p.parent.name in CHOSEN and p.name.startswith("rank0")]

KINDS = {
    "cpu_op": Kind.CPU_OP,
    "user_annotation": Kind.ANNOTATION,
    "cuda_runtime": Kind.RUNTIME,
    "cuda_driver": Kind.RUNTIME,
    "python_function": Kind.PYTHON,
    "kernel": Kind.KERNEL,
    "gpu_memcpy": Kind.MEMCPY,
    "gpu_memset": Kind.MEMSET,
    "gpu_user_annotation": Kind.GPU_ANNOTATION,
    "cuda_sync": Kind.SYNC,
    "overhead": Kind.OVERHEAD,
    "Trace": Kind.OTHER,
}
CALL_TEXTS = {
    "call": "Collective name",
    "dtype": "dtype",
    "group": "Process Group Name",
    "group_desc": "Process Group Description",
    "ranks": "Process Group Ranks",
    "in_split": "In split size",
    "out_split": "Out split size",
}
CALL_NUMBERS = {
    "in_nelems": "In msg nelems",
    "out_nelems": "Out msg nelems",
    "group_size": "Group size",
    "src_rank": "Src Rank",
    "dst_rank": "Dst Rank",
    "seq": "Seq",
}


def load(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    unpack = {b"\x1f\x8b": gzip.decompress, b"\xfd7": lzma.decompress}.get(data[:2], bytes)
    return json.loads(unpack(data), parse_float=Decimal)


def reference_rows(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Slices as dicts with everything that the tables keep, in their order."""
    rows = []
    for e in events:
        if e["ph"] != "X":
            continue
        args = e.get("args", {})
        gpu = KINDS[e["cat"]] in (Kind.KERNEL, Kind.MEMCPY, Kind.MEMSET, Kind.SYNC)
        row = {
            "ts_ns": int(Decimal(e["ts"]) * 1000),
            "dur_ns": int(Decimal(e["dur"]) * 1000),
            "name": e["name"],
            "kind": KINDS[e["cat"]],
            "track": (e["pid"], e["tid"]),
            "correlation": args.get("correlation", -1),
            "external_id": args.get("External id", -1),
            "sequence": args.get("Sequence number", -1),
            "stream": args["stream"] if gpu else -1,
            "device": args["device"] if gpu else -1,
            "bytes": args.get("bytes", -1),
            "args": args,
        }
        if row["kind"] == Kind.GPU_ANNOTATION:  # written under (device, stream)
            row["device"], row["stream"] = row["track"]
        rows.append(row)
    return sorted(rows, key=lambda r: (r["ts_ns"], -r["dur_ns"]))


def check_slices(trace: Trace, rows: list[dict[str, Any]]) -> None:
    s = trace.slices
    assert len(s) == len(rows)
    for column in ("ts_ns", "dur_ns", "kind", "correlation", "external_id", "sequence"):
        assert getattr(s, column).tolist() == [r[column] for r in rows], column
    for column in ("stream", "device", "bytes"):
        assert getattr(s, column).tolist() == [r[column] for r in rows], column
    assert [trace.strings[i] for i in s.name] == [r["name"] for r in rows]
    tracks = list(zip(trace.tracks.pid, trace.tracks.tid, strict=True))
    assert [tracks[i] for i in s.track] == [r["track"] for r in rows]


def check_collectives(trace: Trace, rows: list[dict[str, Any]]) -> None:
    table, strings = trace.collectives, (*trace.strings, None)
    wanted = [i for i, r in enumerate(rows) if "Collective name" in r["args"]]
    assert table.row.tolist() == wanted
    for column, key in CALL_TEXTS.items():
        got = [strings[i] for i in getattr(table, column)]
        assert got == [rows[i]["args"].get(key) for i in wanted], column
    for column, key in CALL_NUMBERS.items():
        got = getattr(table, column).tolist()
        assert got == [rows[i]["args"].get(key, -1) for i in wanted], column


def check_shapes(trace: Trace, rows: list[dict[str, Any]]) -> None:
    table, strings = trace.shapes, (*trace.strings, "null")
    wanted = [i for i, r in enumerate(rows) if r["name"] in SHAPE_OPS and "Input Dims" in r["args"]]
    assert table.row.tolist() == wanted
    keys = {"dims": "Input Dims", "types": "Input type", "concrete": "Concrete Inputs"}
    for column, key in keys.items():
        got = [json.loads(strings[i]) for i in getattr(table, column)]
        assert got == [rows[i]["args"].get(key) for i in wanted], column


def check_memory(trace: Trace, events: list[dict[str, Any]]) -> None:
    rows = [e for e in events if e["ph"] == "i" and e["name"] == "[memory]"]
    rows.sort(key=lambda e: Decimal(e["ts"]))
    m = trace.memory
    assert m.ts_ns.tolist() == [int(Decimal(e["ts"]) * 1000) for e in rows]
    columns = {"bytes": "Bytes", "allocated": "Total Allocated", "reserved": "Total Reserved"}
    for column, key in columns.items():
        assert getattr(m, column).tolist() == [e["args"][key] for e in rows]
    device = [e["args"]["Device Id"] if e["args"]["Device Type"] else -1 for e in rows]
    assert m.device.tolist() == device


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(p, id=f"{p.parent.name}-{p.name}")
        for p in [p for p in SAMPLES if "trace" in p.name][:3] + REAL
    ]
    + [
        pytest.param(
            None, id=run, marks=pytest.mark.skip(reason=f"{run} is not beside this checkout")
        )
        for run in sorted(CHOSEN - {p.parent.name for p in REAL})
    ],
)
def test_all_columns_equal_the_plain_reader(path: Path) -> None:
    document = load(path)
    events = document["traceEvents"]
    trace = open_trace(path)
    rows = reference_rows(events)
    assert trace.stats.events_read == len(events)
    assert trace.stats.events_dropped == 0
    assert trace.stats.notes == ()
    check_slices(trace, rows)
    check_collectives(trace, rows)
    check_shapes(trace, rows)
    check_memory(trace, events)
    assert np.all(np.diff(trace.slices.ts_ns) >= 0)
    info = document["distributedInfo"]
    assert (trace.info.rank, trace.info.world_size) == (info["rank"], info["world_size"])
    assert len(trace.info.groups) == len(info["pg_config"])
    assert trace.info.clock_zero_ns == document["baseTimeNanoseconds"]
