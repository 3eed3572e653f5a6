"""NVTX ranges of one process: names, domains, nesting."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from tracelens.ingest.nsys.database import Database
from tracelens.ingest.nsys.ranks import NVTX, TID_MASK
from tracelens.ingest.values import MAX_SPAN_NS
from tracelens.trace import Bools, Int64s, Kind

#: ``eventType`` of ranges that nest on one thread, and of ranges that start and end anywhere.
_PUSH_POP, _START_END = 59, 60
_DOMAIN = 75

#: Domains whose names stand alone: they are known, or the program's own.
_PLAIN_DOMAINS = frozenset({"", "NCCL", "DeepSpeed"})

#: torch.autograd.profiler.emit_nvtx and ``nsys --pytorch=autograd-nvtx`` write an operator so
#: (torch/csrc/profiler/standalone/nvtx_observer.cpp, getNvtxStr).
_EMITTED = re.compile(r"^(.*?), (?=(?:seq|op_id|sizes|input_op_ids) = )(.*)$", re.DOTALL)
_SEQUENCE = re.compile(r"(?:^|, )seq = (\d{1,18})")
_OPERATOR = re.compile(r"^(aten|autograd|torch::autograd|c10d|prims|cuda)::?")
_OWN_RANGES = ("ProfilerStep#", "Optimizer.", "enumerate(DataLoader)")


@dataclass(frozen=True, slots=True)
class Ranges:
    """One row a closed range, ascending in start, longer ones first.

    `name` are codes into `names`; `kind` is CPU_OP for torch's operators, else ANNOTATION;
    `sequence` is the autograd sequence number, -1 without; `nests` tells push/pop ranges;
    `nccl` those of NCCL. `open` counts ranges that were never closed and are left out.
    """

    start_ns: Int64s
    end_ns: Int64s
    global_tid: Int64s
    name: Int64s
    kind: Int64s
    sequence: Int64s
    nests: Bools
    nccl: Bools
    names: tuple[str, ...]
    open: int

    def __len__(self) -> int:
        return len(self.start_ns)


def read_ranges(db: Database, global_pid: int) -> Ranges:
    """The ranges of a process (of all for -1)."""

    def mine(tid: Int64s) -> Bools:
        return np.asarray((tid & ~TID_MASK) == global_pid) if global_pid >= 0 else tid >= -1

    table, inline = _events(db)
    keep = mine(table["globalTid"])
    is_range = (table["eventType"] == _PUSH_POP) | (table["eventType"] == _START_END)
    closed = (table["end"] >= table["start"]) & _in_reach(table["start"], table["end"])
    domains = _domains(db, table, inline, global_pid)
    on = np.flatnonzero(keep & is_range & closed)
    on = on[np.lexsort((-table["end"][on], table["start"][on]))]
    text = np.where(inline[0][on] >= 0, -2 - inline[0][on], table["textId"][on])
    keys = np.stack([text, table["domainId"][on]], axis=1)
    distinct, inverse = np.unique(keys, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    known = db.strings(int(k) for k in distinct[:, 0] if k >= 0)
    names: dict[str, int] = {}
    resolved = np.zeros((len(distinct), 4), np.int64)
    for i, (key, domain) in enumerate(distinct.tolist()):
        raw = inline[1][-2 - key] if key <= -2 else known.get(key, "")
        label = domains.get(domain, "NCCL" if raw.startswith("nccl") and domain > 0 else "")
        name, kind, sequence = _meaning(raw, label)
        is_nccl = label == "NCCL" or (label == "" and raw.startswith("nccl"))
        resolved[i] = names.setdefault(name, len(names)), kind, sequence, is_nccl
    rows = resolved[inverse] if len(on) else np.zeros((0, 4), np.int64)
    return Ranges(
        start_ns=table["start"][on],
        end_ns=table["end"][on],
        global_tid=table["globalTid"][on],
        name=rows[:, 0],
        kind=rows[:, 1],
        sequence=rows[:, 2],
        nests=table["eventType"][on] == _PUSH_POP,
        nccl=rows[:, 3] > 0,
        names=tuple(names),
        open=int((keep & is_range & ~closed).sum()),
    )


def _in_reach(start: Int64s, end: Int64s) -> Bools:
    """Which ranges can be of one recording with most others."""
    if not len(start):
        return np.zeros(0, bool)
    middle, reach = int(np.median(start)), MAX_SPAN_NS // 2
    return np.asarray((start >= middle - reach) & (end <= middle + reach))


def _events(db: Database) -> tuple[dict[str, Int64s], tuple[Int64s, list[str]]]:
    """NVTX rows, and the names that are written in the row: (code, texts), -1 without."""
    columns = ("start", "end", "eventType", "globalTid", "textId", "domainId")
    written = (
        db.rows(NVTX, ("text",), "WHERE text IS NOT NULL LIMIT 1") if (db.has(NVTX, "text")) else []
    )
    if not written:
        table = db.integers(NVTX, columns)
        return table, (np.full(len(table["start"]), -1, np.int64), [])
    rows = db.rows(NVTX, (*columns, "text"))
    texts: dict[str, int] = {}
    code = [texts.setdefault(str(r[-1]), len(texts)) if r[-1] is not None else -1 for r in rows]
    numbers = np.array(
        [[v if isinstance(v, int) else -1 for v in r[:-1]] for r in rows], np.int64
    ).reshape(-1, len(columns))
    table = {c: np.ascontiguousarray(numbers[:, i]) for i, c in enumerate(columns)}
    return table, (np.array(code, np.int64), list(texts))


def _domains(
    db: Database, table: dict[str, Int64s], inline: tuple[Int64s, list[str]], global_pid: int
) -> dict[int, str]:
    """Domain names by number; the numbers are a process's own."""
    on = np.flatnonzero(table["eventType"] == _DOMAIN)
    if global_pid >= 0:
        on = on[(table["globalTid"][on] & ~TID_MASK) == global_pid]
    known = db.strings(table["textId"][on].tolist())
    names = {}
    for i in on.tolist():
        code = int(inline[0][i])
        name = inline[1][code] if code >= 0 else known.get(int(table["textId"][i]), "")
        names[int(table["domainId"][i])] = name
    return names


def _meaning(raw: str, domain: str) -> tuple[str, int, int]:
    """Name, kind and sequence number of a range.

    Examples
    --------
    >>> _meaning("aten::mm, seq = 12, op_id = 3", "")
    ('aten::mm', 0, 12)
    >>> _meaning("step 3", "trainer")[0]
    'trainer:step 3'
    """
    name, sequence = raw, -1
    emitted = _EMITTED.match(raw)
    if emitted:
        name = emitted.group(1)
        number = _SEQUENCE.search(emitted.group(2))
        sequence = int(number.group(1)) if number else -1
    if domain not in _PLAIN_DOMAINS:
        name = f"{domain}:{name}"
    operator = (emitted or _OPERATOR.match(name)) and not name.startswith(_OWN_RANGES)
    return name, int(Kind.CPU_OP if operator else Kind.ANNOTATION), sequence


def innermost(ranges: Ranges, tid: Int64s, at_ns: Int64s) -> Int64s:
    """Row of the innermost range around each instant of a thread; -1 where there is none."""
    found = np.full(len(at_ns), -1, np.int64)
    nesting = np.flatnonzero(ranges.nests)
    for thread in np.unique(ranges.global_tid[nesting]).tolist():
        rows = nesting[ranges.global_tid[nesting] == thread]
        here = np.flatnonzero(tid == thread)
        if not len(here):
            continue
        edges, row = _profile(ranges.start_ns[rows], ranges.end_ns[rows], rows)
        k = np.searchsorted(edges, at_ns[here], "right") - 1
        found[here] = np.where(k >= 0, row[np.maximum(k, 0)], -1)
    return found


def _profile(start: Int64s, end: Int64s, rows: Int64s) -> tuple[Int64s, Int64s]:
    """Edges of time and the innermost range from each edge on."""
    edges: list[int] = []
    inner: list[int] = []
    stack: list[tuple[int, int]] = []  # (end, row)

    def close(until: int) -> None:
        while stack and stack[-1][0] <= until:
            done, _ = stack.pop()
            edges.append(max(done, edges[-1]))  # a child that outlives its parent is cut
            inner.append(stack[-1][1] if stack else -1)

    for a, b, row in zip(start.tolist(), end.tolist(), rows.tolist(), strict=True):
        close(a)
        stack.append((b, row))
        edges.append(a)
        inner.append(row)
    close(np.iinfo(np.int64).max)
    return np.array(edges, np.int64), np.array(inner, np.int64)
