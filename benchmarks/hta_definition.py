"""HTA's definition of communication and overlap, computed from tracelens's tables.

This shows that tracelens and HTA differ by definition and not by error: `stages` starts from HTA's
default, changes one rule at a time and ends at tracelens's own numbers; what HTA itself says for
the first three stages has to be what comes out here. The rules are those of HTA 0.6.1
(`hta/common/trace.py`, `trace_parser.py`, `types.py`, `analyzers/communication_analysis.py`,
`breakdown_analysis.py`), rewritten from their behaviour.

Run as a script on a trace, it prints one line of JSON for `compare_hta.py`.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from repeat_trace import read_text, split_events

import tracelens
from tracelens.analysis import RankAnalysis
from tracelens.classify import is_comm, is_compute
from tracelens.links import GpuWork, link
from tracelens.trace import GPU_WORK, Bools, Int64s, Kind, Trace
from tracelens.units import us_text_to_ns

Name = Callable[[str], bool]

STEP = re.compile(r"ProfilerStep#\d+")
SYNCS = ("Event Sync", "Context Sync")
UINT32_NONE = 2**32 - 1
HOST = ("cpu_op", "user_annotation", "cuda_runtime", "cuda_driver")


def is_hta_comm(name: str) -> bool:
    """Communication by HTA's name rule: also hipMemcpy, hipblasLt ..."""
    return name.startswith(("nccl", "hip", "hccl")) or "ncclKernel" in name


def is_hta_compute(name: str) -> bool:
    """Compute by HTA's name rule: all that no other rule takes."""
    if is_hta_comm(name) or name.startswith(("Stream Wait Event", "runFunction", "job_exe")):
        return False
    if name.startswith(("packet", "pe_exe", "cpum_exe_subgraph", "collective_subgraph_execution")):
        return False
    if re.match(r"cuda.*LaunchKernel", name):
        return False
    return not any(part in name for part in ("Memcpy", "Memset", "dma", "Sync"))


@dataclass(frozen=True)
class Measure:
    """What one definition says, us (float: exact to the ns)."""

    rows: int
    comm_us: float
    overlapped_us: float
    compute_us: float
    idle_us: float
    span_us: float

    @property
    def overlap_pct(self) -> float | None:
        """As HTA rounds it; None where nothing communicates."""
        return round(100 * self.overlapped_us / self.comm_us, 2) if self.comm_us else None


def merge(start: Int64s, end: Int64s) -> tuple[Int64s, Int64s]:
    """Merge spans as HTA does, where rounding may have made an end precede its start."""
    order = np.argsort(start, kind="stable")
    start, end = start[order], end[order]
    if not len(start):
        return start, end
    head = np.flatnonzero(np.append(True, start[1:] > np.maximum.accumulate(end)[:-1]))
    return start[head], np.maximum.reduceat(end, head)


def sweep(a: tuple[Int64s, Int64s], b: tuple[Int64s, Int64s]) -> int:
    """Time in which two merged sets both run, by HTA's running sum of starts and ends."""
    time = np.concatenate([*a, *b])
    change = np.repeat([1, -1, 2, -2], [len(a[0]), len(a[1]), len(b[0]), len(b[1])])
    order = np.argsort(time, kind="stable")
    time, running = time[order], np.cumsum(change[order])
    return int(np.diff(time)[running[:-1] == 3].sum())


def measure(start: Int64s, end: Int64s, comm: Bools, compute: Bools) -> Measure:
    """Communication, overlap and breakdown of some rows, ns in."""
    busy, on_comm = merge(start, end), merge(start[comm], end[comm])
    on_compute = merge(start[compute], end[compute])
    span = int(busy[1][-1] - busy[0][0]) if len(busy[0]) else 0

    def total(spans: tuple[Int64s, Int64s]) -> int:
        return int((spans[1] - spans[0]).sum())

    return Measure(
        rows=len(start),
        comm_us=total(on_comm) / 1e3,
        overlapped_us=sweep(on_comm, on_compute) / 1e3,
        compute_us=total(on_compute) / 1e3,
        idle_us=(span - total(busy)) / 1e3,
        span_us=span / 1e3,
    )


@dataclass(frozen=True)
class Streams:
    """How a file writes streams where tracelens's tables mean another thing than HTA.

    `unsigned`: stream -1 is written as 4294967295, which HTA takes for a stream. `bare`: name and
    start of device rows without a stream, host rows to HTA (tracelens uses their track).
    `host`: names of host rows with one, which HTA takes for device rows (Triton's launches).
    """

    unsigned: bool = False
    bare: frozenset[tuple[str, int]] = frozenset()
    host: frozenset[str] = frozenset()


def written_streams(path: Path) -> Streams:
    """Look at a file's own text for how it writes streams."""
    unsigned, bare, host = False, set(), set()
    for _, event in split_events(read_text(path))[1]:
        if event.get("ph") != "X":
            continue
        stream = (event.get("args") or {}).get("stream")
        unsigned = unsigned or stream == UINT32_NONE
        if event.get("cat") in HOST:
            if isinstance(stream, int) and stream >= 0:
                host.add(event["name"])
        elif stream is None:
            bare.add((event["name"], us_text_to_ns(str(event["ts"]))))
    return Streams(unsigned, frozenset(bare), frozenset(host))


class HtaView:
    """A trace as HTA sees it.

    Parameters
    ----------
    trace : Trace
    written : Streams
    """

    def __init__(self, trace: Trace, written: Streams) -> None:
        s = trace.slices
        self._trace = trace
        self._name = s.name
        self._correlation = s.correlation
        stream = s.stream.astype(np.int64)
        stream[s.kind == Kind.GPU_ANNOTATION] = -1  # written without one
        if written.unsigned:
            stream[(s.kind == Kind.SYNC) & (stream == -1)] = UINT32_NONE
        for row in np.flatnonzero(np.isin(s.kind, GPU_WORK)) if written.bare else ():
            if (trace.strings[s.name[row]], int(s.ts_ns[row])) in written.bare:
                stream[row] = -1
        on_host = np.isin(s.kind, (Kind.CPU_OP, Kind.ANNOTATION, Kind.RUNTIME))
        stream[self._named(written.host.__contains__) & on_host] = 0
        self._on_stream = stream != -1
        self._gpu = ((stream >= 0) & (s.correlation >= 0)) | self._named(lambda n: n in SYNCS)
        self._step = self._named(lambda n: STEP.match(n) is not None) & ~self._gpu

    def _named(self, rule: Name) -> Bools:
        hit = np.array([rule(n) for n in self._trace.strings] + [False], bool)
        return np.asarray(hit[self._name])

    def _times(self, *, rounded: bool) -> tuple[Int64s, Int64s]:
        """Start and end, ns; rounded to whole us inwards (start up, end down) as HTA does."""
        s = self._trace.slices
        if not rounded:
            return s.ts_ns, s.end_ns
        # float64 us, as HTA parses them; ns since 1970 as they are would not fit a float64
        start, length = (ns // 1000 + ns % 1000 / 1e3 for ns in (s.ts_ns, s.dur_ns))
        return tuple(
            edge.astype(np.int64) * 1000 for edge in (np.ceil(start), np.floor(start + length))
        )

    def _kept(self, start: Int64s, *, keep_last: bool) -> Bools:
        """Rows that HTA keeps: launched by a host event before the last step's start."""
        if len(np.unique(self._name[self._step])) < 2:
            return np.ones(len(start), bool)
        host = ~self._gpu
        if not keep_last:
            host &= start < start[self._step].max()
        launched = np.isin(self._correlation, np.unique(self._correlation[host]))
        return host | (self._gpu & launched)

    def measure(self, *, keep_last: bool, rounded: bool, linked_only: bool = True) -> Measure:
        """What HTA says, or would say under other rules."""
        start, end = self._times(rounded=rounded)
        keep = self._on_stream
        if linked_only:
            keep = keep & self._kept(start, keep_last=keep_last)
        comm, compute = self._named(is_hta_comm)[keep], self._named(is_hta_compute)[keep]
        return measure(start[keep], end[keep], comm, compute)


def of_work(work: GpuWork) -> Measure:
    """The whole trace by tracelens's meaning of each kernel, copy and memset."""
    return measure(work.start_ns, work.end_ns, is_comm(work.op), is_compute(work.op))


def of_steps(rank: RankAnalysis) -> Measure:
    """The answer of tracelens itself: the sum over whole steps of their windows."""
    b, whole = rank.breakdown, rank.steps.complete
    return Measure(
        rows=int(rank.kernels[whole].sum()),
        comm_us=int(b.comm[whole].sum()) / 1e3,
        overlapped_us=int(b.overlapped_comm[whole].sum()) / 1e3,
        compute_us=int(b.compute[whole].sum()) / 1e3,
        idle_us=int(b.idle[whole].sum()) / 1e3,
        span_us=int(b.wall[whole].sum()) / 1e3,
    )


def stages(trace: Trace, rank: RankAnalysis, written: Streams) -> dict[str, Measure]:
    """From HTA's definition to tracelens's, one rule changed at a time."""
    view = HtaView(trace, written)
    return {
        "default": view.measure(keep_last=False, rounded=True),
        "keep_last": view.measure(keep_last=True, rounded=True),
        "exact": view.measure(keep_last=True, rounded=False),
        "unlinked": view.measure(keep_last=True, rounded=False, linked_only=False),
        "meaning": of_work(link(trace)),
        "steps": of_steps(rank),
    }


def describe(path: Path) -> dict[str, object]:
    """All that the comparison needs of one trace."""
    try:
        analysis = tracelens.analyze(path)
    except tracelens.TraceLensError as e:
        return {"error": f"{type(e).__name__}: {e}".replace(str(path), path.name)}
    rank = analysis.ranks[0]
    trace = tracelens.open_trace(path)
    found = stages(trace, rank, written_streams(path))
    return {
        "rank": rank.rank,
        "events": analysis.run.n_events,
        "gpu_work": len(link(trace)),
        "all_steps": len(rank.steps),
        "whole_steps": int(rank.steps.complete.sum()),
        "step_source": rank.step_source,
        **{k: asdict(m) | {"overlap_pct": m.overlap_pct} for k, m in found.items()},
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("trace", type=Path, help="trace file")
    print(json.dumps(describe(parser.parse_args().trace)))


if __name__ == "__main__":
    main()
