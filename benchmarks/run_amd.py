"""Run AMD's TraceLens on one trace and print what it says as one line of JSON.

Runs under an interpreter that has it installed, so it imports nothing of ours. What is called is
what its documentation calls for a breakdown of the GPU's time (docs/how-to/sdk-analysis.md):
`TreePerfAnalyzer.from_file`, then `get_df_gpu_timeline`. Its one-command report does the same and
more, and takes longer (``--report``).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from run_hta import own_peak

REPORT = "TraceLens_generate_perf_report_pytorch"


def measured(path: str) -> dict[str, object]:
    """Load and break down, timed: what the benchmark asks."""
    start = time.perf_counter()
    from TraceLens.TreePerf import TreePerfAnalyzer

    imported = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):  # it prints as it goes
        analyzer = TreePerfAnalyzer.from_file(path)
        loaded = time.perf_counter()
        timeline = analyzer.get_df_gpu_timeline()
    done = time.perf_counter()
    ms = dict(zip(timeline["type"], timeline["time ms"], strict=True))
    return {
        "import_s": imported - start,
        "load_s": loaded - imported,
        "breakdown_s": done - loaded,
        "exposed_comm_ms": float(ms["exposed_comm_time"]),
    }


def reported(path: str) -> dict[str, object]:
    """Its report as CSV, by its own command."""
    with tempfile.TemporaryDirectory() as folder:
        command = [Path(sys.executable).with_name(REPORT), "--profile_json_path", path]
        subprocess.run([*command, "--output_csvs_dir", folder], check=True, stdout=sys.stderr)
        return {"tables": len(list(Path(folder).iterdir()))}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("trace", nargs="?", help="trace file (.json, .json.gz)")
    parser.add_argument("--report", action="store_true", help="its report instead of its library")
    a = parser.parse_args()
    answer: dict[str, object] = {"version": f"TraceLens {importlib.metadata.version('TraceLens')}"}
    if a.trace is not None:
        answer |= (reported if a.report else measured)(a.trace)
    print(json.dumps(answer | {"peak_bytes": own_peak()}))


if __name__ == "__main__":
    main()
