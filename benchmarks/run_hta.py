"""Run HTA on one trace and print what it says as one line of JSON.

Runs under HTA's own interpreter, so it imports nothing of tracelens. It calls HTA's public API;
the communication time, which HTA does not print, is the denominator of its overlap: its own
`merge_kernel_intervals` of the kernels that its own `get_kernel_type` calls communication.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import math
import os
import re
import time
import traceback
import warnings
from pathlib import Path


def version() -> str:
    """HTA's distribution and version."""
    for name in ("traceinsight", "HolisticTraceAnalysis"):
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return "from source"


def own_peak() -> int:
    """The kernel's high-water mark of this process's memory, bytes; 0 where it does not say."""
    try:
        found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def measured(path: str) -> dict[str, object]:
    """Load and break down, timed: what the benchmark asks."""
    start = time.perf_counter()
    from hta.trace_analysis import TraceAnalysis

    imported = time.perf_counter()
    analysis = TraceAnalysis(trace_files={0: path}, trace_dir=os.path.dirname(path))
    loaded = time.perf_counter()
    overlap = analysis.get_comm_comp_overlap(visualize=False)
    analysis.get_temporal_breakdown(visualize=False)
    done = time.perf_counter()
    return {
        "import_s": imported - start,
        "load_s": loaded - imported,
        "breakdown_s": done - loaded,
        "overlap_pct": float(overlap["comp_comm_overlap_pctg"][0]),
        "peak_bytes": own_peak(),
    }


def compared(path: str, *, keep_last: bool) -> dict[str, object]:
    """Everything that the comparison asks, us; what failed is there as ``error``."""
    from hta.trace_analysis import TraceAnalysis
    from hta.utils.utils import get_kernel_type, merge_kernel_intervals

    found: dict[str, object] = {}
    try:
        analysis = TraceAnalysis(
            trace_files={0: path},
            trace_dir=os.path.dirname(path),
            include_last_profiler_step=keep_last,
        )
        names = analysis.t.symbol_table.get_sym_table()
        frame = analysis.t.get_trace(0)
        on_gpu = frame[frame["stream"].ne(-1)]
        is_comm = [get_kernel_type(names[i]) == "COMMUNICATION" for i in on_gpu["name"]]
        merged = merge_kernel_intervals(on_gpu[is_comm].copy())
        found["comm_us"] = float((merged["end"] - merged["ts"]).sum())
        found["gpu_rows"] = len(on_gpu)
        overlap = float(analysis.get_comm_comp_overlap(visualize=False).iloc[0, 1])
        found["overlap_pct"] = None if math.isnan(overlap) else overlap
        row = analysis.get_temporal_breakdown(visualize=False).iloc[0]
        found["compute_us"] = float(row["compute_time(us)"])
        found["idle_us"] = float(row["idle_time(us)"])
        found["span_us"] = float(row["kernel_time(us)"])
    except Exception as e:  # whatever HTA raises is part of the comparison
        where = traceback.extract_tb(e.__traceback__)[-1].name
        found["error"] = f"{type(e).__name__} in {where}: {e}".strip(": ")
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("trace", nargs="?", help="trace file (.json, .json.gz)")
    parser.add_argument(
        "--compare", action="store_true", help="all numbers, last step dropped and kept"
    )
    a = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    answer: dict[str, object] = {"version": version()}
    if a.trace is None:
        import hta  # noqa: F401  (is it there?)
    elif a.compare:
        answer["default"] = compared(a.trace, keep_last=False)
        answer["keep_last"] = compared(a.trace, keep_last=True)
    else:
        answer |= measured(a.trace)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
