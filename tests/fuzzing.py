"""Wrong files from right ones, by chance.

A maker takes a folder and a source of chance and writes files there; `fuzz_check.check` analyses
them. Used by test_fuzz.py, a minute long, and by benchmarks/fuzz.py, as long as one likes.
"""

from __future__ import annotations

import copy
import gzip
import json
import lzma
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import zstandard
from builder import TraceBuilder
from nsys_builder import NsysBuilder, training_step

import tracelens

SAMPLES = Path(__file__).parent.parent / "sample_traces"
NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 7, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**62, 2**63 - 1, -(2**63),
    2**63, 2**64, 10**30, 0.5, -0.0, 1e-9, 1e15, 1e300, float("nan"), float("inf"), float("-inf"),
)  # fmt: skip
TEXTS = (
    "", " ", "0", "-1", "1.5", "0x10", "NaN", "null", "[]", "[0, 1]", "[[]]", "[0, ..., 1]",
    "stream 7", "ProfilerStep#1", "ProfilerStep#99999999999999999999",
    "step 99999999999999999999", "seq = 99999999999999999999", "nccl:all_reduce",
    "record_param_comms", "ncclDevKernel_AllReduce_Sum_bf16_RING_LL", "void gemm<float>",
    "autograd::engine::x", "\x1b[31m\x00", "\ud800", "\u202e", "<b>", "[bold]", "x" * 3000,
    "Memcpy HtoD", "cudaLaunchKernel", "Optimizer.step#x",
)  # fmt: skip
CATEGORIES = (
    "kernel", "cpu_op", "gpu_memcpy", "user_annotation", "cuda_runtime", "python_function", "x",
)  # fmt: skip
MARKS = (b'"', b"}", b"]", b",", b"[", b"{", b"\\", b"\xff", b"NaN")
PHASES = "XBEiMsftCbneNODPIRcv"


# ------------------------------------------------------------------------- values and bytes
def value(chance: Random, depth: int = 0) -> Any:
    """Any JSON value, mostly of a kind that somebody once wrote."""
    kind = chance.randrange(7 if depth < 3 else 5)
    if kind < 2:
        return chance.choice(NUMBERS)
    if kind < 4:
        return chance.choice(TEXTS)
    if kind == 4:
        return chance.choice((None, True, False))
    if kind == 5:
        return [value(chance, depth + 1) for _ in range(chance.randrange(4))]
    return {chance.choice(TEXTS): value(chance, depth + 1) for _ in range(chance.randrange(4))}


def damage(data: bytes, chance: Random, times: int) -> bytes:
    """Bytes flipped, cut out, repeated, moved, cut off."""
    out = bytearray(data)
    for _ in range(times):
        if not out:
            break
        at, n = chance.randrange(len(out)), chance.choice((1, 1, 2, 8, 64, 1000))
        match chance.randrange(6):
            case 0:
                out[at] = chance.randrange(256)
            case 1:
                del out[at : at + n]
            case 2:
                out[at:at] = out[at : at + n]
            case 3:
                out[at : at + n] = bytes(min(n, len(out) - at))
            case 4:
                to = chance.randrange(len(out))
                out[to:to] = chance.choice(MARKS)
            case _:
                if not chance.randrange(4):
                    del out[at:]
    return bytes(out)


def pack(data: bytes, chance: Random) -> bytes:
    """The same, packed somehow or not."""
    how = chance.choice((None, None, None, gzip.compress, lzma.compress, zstandard.compress))
    return data if how is None else how(data)


# ------------------------------------------------------------------------- traces
@cache
def good(rank: int) -> TraceBuilder:
    """A rank of two with every kind of event that a reader looks at."""
    b = TraceBuilder(rank=rank, world_size=2)
    for k in range(3):
        at = k * 1000
        b.step(k, at, 990).annotation("Optimizer.step#AdamW.step", ts=at + 690, dur=150)
        b.cpu_op("aten::mm", ts=at + 10, dur=8, ext=100 * k, dims=[[8, 8], [8, 8]], types=["bf16"])
        b.launch(100 * k).kernel("gemm_bf16", at + 20, 300, corr=100 * k, ext=100 * k)
        b.cpu_op("autograd::engine::evaluate_function: MmBackward0", ts=at + 200, dur=100, tid=101)
        one, two, three, four = range(100 * k + 1, 100 * k + 5)
        b.nccl(ts=at + 350, dur=200, nelems=4096, corr=one, ext=one, host_ts=at + 340)
        b.nccl("send" if rank else "recv", ts=at + 560, dur=40, nelems=64, corr=two, ext=two,
               host_ts=at + 555, **{"Src Rank": 1, "Dst Rank": 0})  # fmt: skip
        b.launch(three, ts=at + 700).kernel("multi_tensor_adam", at + 710, 80, corr=three)
        b.launch(four, ts=at + 800, name="cudaMemcpyAsync")
        b.memcpy("HtoD", at + 810, 20, nbytes=4096, corr=four).memset(at + 840, 2, nbytes=8)
        b.memory(at + 5, 512, allocated=1024, reserved=2048)
        b.python("train.py(3): step", ts=at, dur=9)
        b.event("B", "range", at + 900, cat="user_annotation", pid=100, tid=100)
        b.event("E", "", at + 950, pid=100, tid=100)
        b.event("s", "ac2g", at + 3, id=1, pid=100, tid=100)
    return b.thread_name(100, "main").process_name("python")


def wrong_trace(folder: Path, chance: Random) -> None:
    """One or two ranks of which the first has wrong fields, wrong bytes, or both."""
    b = copy.deepcopy(good(0))
    for _ in range(chance.choice((0, 1, 2, 5, 20))):
        _spoil(b.events, chance)
    if not chance.randrange(4):
        where = chance.choice((b.header, b.header["distributedInfo"]))
        where[chance.choice(sorted(where))] = value(chance)
    header = json.dumps(b.header)[:-1]
    events = ",\n".join(json.dumps(e, ensure_ascii=False) for e in b.events)
    text = f'{header}, "traceEvents": [{events}], "traceName": "x"}}'
    text = text if chance.randrange(4) else f"[{events}]"
    data = text.encode("utf-8", "surrogatepass")
    if chance.randrange(2):
        data = damage(data, chance, chance.choice((1, 3, 10)))
    data = pack(data, chance)
    if not chance.randrange(3):
        data = damage(data, chance, 1)
    (folder / "rank0.json").write_bytes(data)
    if not chance.randrange(3):
        good(1).write(folder / "rank1.json")


@cache
def recorded() -> dict[int, dict[str, Any]]:
    """Two steps of two ranks of a sample run, which every command has something to say about."""
    found = {}
    for rank in (0, 1):
        packed = SAMPLES / "zero2_slow_fabric" / f"rank{rank}.pt.trace.json.xz"
        trace = json.loads(lzma.decompress(packed.read_bytes()))
        steps = [e for e in trace["traceEvents"] if e["name"].startswith("ProfilerStep#")]
        until = sorted(e["ts"] + e["dur"] for e in steps if e.get("cat") == "user_annotation")[1]
        trace["traceEvents"] = [e for e in trace["traceEvents"] if e["ts"] < until]
        found[rank] = trace
    return found


def wrong_recording(folder: Path, chance: Random) -> None:
    """The same with wrong fields in some events of one kind: a name, a category."""
    for rank, trace in recorded().items():
        events = list(trace["traceEvents"])
        like = chance.choice(events)
        key = chance.choice(("name", "cat"))
        alike = [i for i, e in enumerate(events) if e.get(key) == like.get(key)]
        for i in chance.sample(alike, min(len(alike), chance.choice((0, 1, 3, 30)))):
            one = [copy.deepcopy(events[i])]
            _spoil(one, chance)
            events[i] = one[0]
        text = json.dumps({**trace, "traceEvents": events})
        (folder / f"rank{rank}.json").write_bytes(text.encode())


def _spoil(events: list[dict[str, Any]], chance: Random) -> None:
    e = chance.choice(events)
    fields = e if chance.randrange(2) or not isinstance(e.get("args"), dict) else e["args"]
    match chance.randrange(8):
        case 0 | 1 | 2 if fields:
            fields[chance.choice(sorted(fields))] = value(chance)
        case 3 if fields:
            del fields[chance.choice(sorted(fields))]
        case 4:
            e["ph"] = chance.choice(PHASES)
        case 5:
            e["cat"] = chance.choice(CATEGORIES)
        case 6:
            events.insert(chance.randrange(len(events)), copy.deepcopy(e))
        case _:
            e["ts"], e["dur"] = chance.choice(NUMBERS), chance.choice(NUMBERS)
    if not events:
        events.append({})


# ------------------------------------------------------------------------- databases
@cache
def good_export(folder: Path) -> bytes:
    """An export of two ranks."""
    b = NsysBuilder()
    for pid, device in ((10, 0), (11, 1)):
        b.domain(1, "NCCL", pid=pid)
        for i in range(3):
            training_step(b, 1000 * i, pid=pid, device=device, marked=f"step {i}")
        b.copy(3010, 3020, kind=1, nbytes=64, pid=pid, device=device)
    path = folder / "good.sqlite"
    path.unlink(missing_ok=True)
    return b.write(path).read_bytes()


def wrong_export(folder: Path, chance: Random) -> None:
    """An export with wrong cells, wrong tables, wrong bytes."""
    path = folder / "r.sqlite"
    path.write_bytes(good_export(folder.parent))
    if chance.randrange(3):
        _spoil_cells(path, chance)
    if chance.randrange(2):
        path.write_bytes(damage(path.read_bytes(), chance, chance.choice((1, 1, 5, 50))))
    if not chance.randrange(5):
        path.write_bytes(pack(path.read_bytes(), chance))


def _spoil_cells(path: Path, chance: Random) -> None:
    fit = (n for n in NUMBERS if not isinstance(n, int) or abs(n) < 2**63)
    cells = (*fit, *(t for t in TEXTS if "\ud800" not in t), None, b"\0\xff")
    with closing(sqlite3.connect(path)) as db:
        tables = [r[0] for r in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for _ in range(chance.choice((1, 2, 10))):
            table = chance.choice(tables)
            columns = [r[1] for r in db.execute(f'PRAGMA table_info("{table}")')]
            column = chance.choice(columns)
            rows = "" if chance.randrange(2) else " WHERE rowid % 3 = 0"
            try:
                match chance.randrange(8):
                    case 0:
                        db.execute(f'DELETE FROM "{table}"{rows}')
                    case 1:
                        db.execute(f'ALTER TABLE "{table}" RENAME "{column}" TO "c{len(columns)}"')
                    case 2:
                        db.execute(f'INSERT INTO "{table}" SELECT * FROM "{table}"')
                    case _:
                        cell = chance.choice(cells)
                        db.execute(f'UPDATE "{table}" SET "{column}" = ?{rows}', (cell,))
            except sqlite3.Error:  # a constraint, a name that is taken
                continue
        db.commit()


@cache
def good_store(folder: Path) -> bytes:
    """A store with one run."""
    run, path = folder / "good_run", folder / "good_run.db"
    run.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    for rank in range(2):
        good(rank).write(run / f"rank{rank}.json")
    tracelens.analyze(run, db=path)
    return path.read_bytes()


def wrong_store(folder: Path, chance: Random) -> None:
    """A store with wrong cells and wrong bytes."""
    path = folder / "run.db"
    path.write_bytes(good_store(folder.parent))
    if chance.randrange(3):
        _spoil_cells(path, chance)
    if chance.randrange(3):
        path.write_bytes(damage(path.read_bytes(), chance, chance.choice((1, 1, 5, 50))))


# ------------------------------------------------------------------------- reports
@cache
def good_report(folder: Path) -> dict[str, Any]:
    """The report of a run of two ranks."""
    run = folder / "good_run"
    run.mkdir(exist_ok=True)
    for rank in range(2):
        good(rank).write(run / f"rank{rank}.json")
    return json.loads(json.dumps(tracelens.analyze(run).to_json()))


def wrong_report(folder: Path, chance: Random) -> None:
    """A report with wrong values, or without some."""
    report = copy.deepcopy(good_report(folder.parent))
    for _ in range(chance.choice((1, 1, 3))):
        at: Any = report
        for _ in range(chance.randrange(4)):  # down to a place where something can be wrong
            inner = [v for v in (at.values() if isinstance(at, dict) else at) if _holds(v)]
            at = chance.choice(inner) if inner else at
        if not at:
            continue
        key = chance.choice(sorted(at)) if isinstance(at, dict) else chance.randrange(len(at))
        if chance.randrange(3):
            at[key] = value(chance)
        else:
            del at[key]
    data = json.dumps(report).encode()
    if not chance.randrange(6):
        data = damage(data, chance, 1)
    (folder / "report.json").write_bytes(data)


def _holds(value: object) -> bool:
    return isinstance(value, (dict, list)) and bool(value)


MAKERS: dict[str, Callable[[Path, Random], None]] = {
    "torch.profiler": wrong_trace,
    "recorded": wrong_recording,
    "nsys": wrong_export,
    "store": wrong_store,
    "report": wrong_report,
}
