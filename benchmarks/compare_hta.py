"""Compare tracelens with HTA (Holistic Trace Analysis) on a folder of traces.

Every trace is given to HTA (in its own interpreter) and to tracelens, each in a fresh process. Two
tables come out, as Markdown on stdout and as CSV with all columns (--csv):

1. Agreement. What HTA says (last step dropped, its default; last step kept; and without its
   rounding to microseconds) beside the same definition computed from tracelens's tables.
2. From one definition to the other. Communication time and overlap as one rule after another is
   changed from HTA's to tracelens's, so that every difference has its cause.

HTA needs an interpreter of its own:

    python -m venv hta-env && hta-env/bin/pip install traceinsight 'pandas<3'
    git clone https://github.com/facebookresearch/HolisticTraceAnalysis hta
    python benchmarks/compare_hta.py hta/tests/data --hta-python hta-env/bin/python
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import ChildFailed, run

HERE = Path(__file__).absolute().parent
SUFFIXES = (".json", ".json.gz", ".raw.gz")
QUANTITIES = ("comm_us", "overlap_pct", "compute_us", "idle_us", "span_us")

#: Stages of `hta_definition.stages` after HTA's default: what changed, in the words of the table.
RULES = {
    "keep_last": "last step kept",
    "exact": "no rounding to µs",
    "unlinked": "GPU rows without a launch in the file count",
    "meaning": "only kernels, copies and memsets; tracelens's meaning of names",
    "steps": "windows of whole steps",
}


@dataclass(frozen=True)
class Case:
    """One trace: what each program answered. `hta` and `hta_exact` hold default and keep_last."""

    name: str
    ours: dict[str, Any]
    hta: dict[str, Any]
    hta_exact: dict[str, Any]

    def pairs(self) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
        """(variant, HTA's answer, the same definition from tracelens's tables)."""
        yield "default", self.hta["default"], self.ours["default"]
        yield "keep_last", self.hta["keep_last"], self.ours["keep_last"]
        yield "exact", self.hta_exact["keep_last"], self.ours["exact"]


def ask(command: list[str], env: dict[str, str]) -> dict[str, Any]:
    """One program's answer on one trace."""
    try:
        return run(command, env).answer
    except ChildFailed as e:
        last = str(e).strip().splitlines()[-1]
        return {"error": last, "default": {"error": last}, "keep_last": {"error": last}}


def examine(folder: Path, trace: Path, hta_python: str) -> Case:
    """Ask both programs about one trace."""
    path = os.pathsep.join(filter(None, (os.fspath(HERE.parent), os.environ.get("PYTHONPATH"))))
    hta = [hta_python, os.fspath(HERE / "run_hta.py"), "--compare", os.fspath(trace)]
    ours = [sys.executable, os.fspath(HERE / "hta_definition.py"), os.fspath(trace)]
    return Case(
        name=os.fspath(trace.relative_to(folder)),
        ours=ask(ours, {"PYTHONPATH": path}),
        hta=ask(hta, {"HTA_DISABLE_NS_ROUNDING": "0"}),
        hta_exact=ask(hta, {"HTA_DISABLE_NS_ROUNDING": "1"}),
    )


def differences(theirs: dict[str, Any], same: dict[str, Any], slack_us: float) -> dict[str, float]:
    """Quantities in which HTA and its definition from tracelens's tables differ."""
    found = {}
    for q in QUANTITIES:
        a, b = theirs.get(q), same[q]
        if a is None and b is None:
            continue
        slack = slack_us / 90 if q == "overlap_pct" else slack_us
        if a is None or b is None or abs(a - b) > slack:
            found[q] = b if a is None else float("nan") if b is None else b - a
    return found


def verdict(variant: str, theirs: dict[str, Any], same: dict[str, Any]) -> str:
    """One cell: equal, or what differs, or HTA's error.

    Equal means equal; but where HTA does not round it adds up float64 microseconds since 1970 or
    boot, so there 1 us (and 0.01 %) is no difference.
    """
    odd = differences(theirs, same, 1.0 if variant == "exact" else 0.0)
    odd = {q: d for q, d in odd.items() if q in theirs}
    text = "; ".join(f"{q} {d:+,.2f}" for q, d in odd.items()) if odd else "equal"
    if "error" in theirs:
        text = f"HTA: {theirs['error'][:60]}" + (
            f" (before it: {text})" if "comm_us" in theirs else ""
        )
    return text


def cell(answer: dict[str, Any]) -> str:
    """Communication ms and overlap % of one answer."""
    if answer.get("comm_us") is None:
        return "–"
    overlap = answer.get("overlap_pct")
    share = "" if overlap is None else f" / {overlap:.2f} %"
    return f"{answer['comm_us'] / 1e3:.3f}{share}"


def reasons(ours: dict[str, Any]) -> str:
    """The rules that changed communication or overlap, with by how much."""
    before, found = ours["default"], []
    for stage, rule in RULES.items():
        now = ours[stage]
        delta = (now["comm_us"] - before["comm_us"]) / 1e3
        if cell(now) != cell(before):
            change = (
                f"{delta:+.3f} ms"
                if abs(delta) >= 0.0005
                else f"overlap {cell(now).split(' / ')[-1]}"
            )
            found.append(f"{rule}: {change}")
        before = now
    return "; ".join(found) or "no difference"


def markdown(cases: list[Case]) -> str:
    """Both tables."""
    usable = [c for c in cases if "error" not in c.ours and c.ours["gpu_work"]]
    talking = [c for c in usable if c.ours["unlinked"]["comm_us"] or c.ours["meaning"]["comm_us"]]
    lines = [
        "| trace | rank | GPU rows | HTA default | last step kept | without rounding |",
        "|---|--:|--:|---|---|---|",
    ]
    for c in usable:
        cells = " | ".join(verdict(*pair) for pair in c.pairs())
        lines.append(f"| {c.name} | {c.ours['rank']} | {c.ours['gpu_work']:,} | {cells} |")
    lines += [
        "",
        "| trace | rank | HTA | HTA, last step kept | tracelens | why |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for c in talking:
        ours = c.ours
        steps = f"{ours['whole_steps']} of {ours['all_steps']}"
        lines.append(
            f"| {c.name} | {ours['rank']} | {cell(c.hta['default'])} |"
            f" {cell(c.hta['keep_last'])} | {cell(ours['steps'])} ({steps} steps) |"
            f" {reasons(ours)} |"
        )
    lines += ["", "| not compared | why |", "|---|---|"]
    for c in cases:
        if c not in usable:
            lines.append(f"| {c.name} | {c.ours.get('error', 'no GPU work in it')} |")
    return "\n".join(lines)


def write_csv(cases: list[Case], path: Path) -> None:
    """One row a trace, program and definition."""
    with path.open("w", newline="") as f:
        out = csv.writer(f)
        out.writerow(["trace", "rank", "program", "definition", *QUANTITIES, "error"])
        for c in cases:
            rank = c.ours.get("rank", "")
            answers = (
                [("HTA", v, theirs) for v, theirs, _ in c.pairs()] if "error" not in c.ours else []
            )
            answers += [("tracelens", s, c.ours[s]) for s in ("default", *RULES) if s in c.ours]
            if "error" in c.ours:
                answers = [("tracelens", "", c.ours)]
            for program, definition, a in answers:
                values = [a.get(q, "") for q in QUANTITIES]
                out.writerow([c.name, rank, program, definition, *values, a.get("error", "")])


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder with traces, searched through")
    parser.add_argument(
        "--hta-python",
        default=sys.executable,
        metavar="PATH",
        help="Python interpreter that can `import hta` (default: this one)",
    )
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="all numbers, one row a definition"
    )
    a = parser.parse_args()
    traces = sorted(p for p in a.folder.rglob("*") if p.name.endswith(SUFFIXES))
    if not traces:
        print(f"no trace (.json, .json.gz) under {a.folder}", file=sys.stderr)
        return 2
    probe = subprocess.run([a.hta_python, HERE / "run_hta.py"], capture_output=True, text=True)
    if probe.returncode:
        print(f"{a.hta_python} cannot `import hta`; see --help", file=sys.stderr)
        return 2
    cases = []
    for trace in traces:
        print(f"  {trace}", file=sys.stderr)
        cases.append(examine(a.folder, trace, a.hta_python))
    print(f"HTA: {json.loads(probe.stdout)['version']}\n")
    print(markdown(cases))
    if a.csv:
        write_csv(cases, a.csv)
    return 0


if __name__ == "__main__":
    sys.exit(main())
