"""Hold the inferred setup of recorded runs against their truth, and write the table.

    python benchmarks/inference_table.py RUNS... --write docs/inference.md

A run is a folder with one trace a rank, or one Nsight Systems export, and a truth.json; RUNS are
such folders or folders of them.
For each key: ``+`` right, ``?`` cannot tell (the value is null), ``X`` wrong, ``.`` no truth.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent.parent / p) for p in (".", "tests")]

from truth import expected_setup

import tracelens
from tracelens.errors import TraceLensError

KEYS = (
    "framework", "mode", "zero_stage", "overlap_comm", "reduce_bucket_size",
    "gradient_accumulation_steps", "precision", "offload_optimizer", "offload_param",
    "activation_checkpointing", "contiguous_gradients", "reduce_scatter", "data_parallel_size",
    "tensor_parallel_size", "pipeline_parallel_size", "expert_parallel_size",
    "sequence_parallel_size",
)  # fmt: skip
MARKS = {"right": "+", "cannot tell": "?", "wrong": "X"}


def judge(folder: Path) -> tuple[str, dict[str, str], list[str]]:
    """Verdict by key of one run, and a line for each answer that is wrong."""
    truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    try:
        setup = tracelens.analyze(folder).setup
    except TraceLensError as e:
        return folder.name, {}, [f"{folder.name}: not analysed: {e}"]
    verdicts, wrong = {}, []
    for key, expected in expected_setup(truth).items():
        if key not in setup:
            continue
        value: Any = setup[key].value
        right = value == expected
        verdicts[key] = "right" if right else "cannot tell" if value is None else "wrong"
        if verdicts[key] == "wrong":
            found = f"{key} is {expected!r}, found {value!r}"
            wrong.append(f"{folder.name}: {found} ({'; '.join(setup[key].evidence)})")
    return folder.name, verdicts, wrong


def find_runs(paths: list[Path]) -> list[Path]:
    """Run folders given, or directly below what is given, that hold traces."""
    runs = []
    for path in paths:
        folders = [path] if (path / "truth.json").exists() else sorted(path.iterdir())
        runs += [f for f in folders if (f / "truth.json").exists() and _has_traces(f)]
    return runs


def _has_traces(folder: Path) -> bool:
    return any(folder.glob("rank*.json*")) or any(folder.glob("*.sqlite*"))


def table(judged: list[tuple[str, dict[str, str], list[str]]]) -> list[str]:
    """Markdown lines: one row a run, one column a key, and the sums."""
    head = ["run", *(k.replace("_", " ") for k in KEYS)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    sums: dict[str, Counter[str]] = {k: Counter() for k in KEYS}
    for name, verdicts, _ in judged:
        for key in KEYS:
            sums[key][verdicts.get(key, "")] += 1
        cells = [MARKS.get(verdicts.get(k, ""), ".") for k in KEYS]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    for verdict in MARKS:
        cells = [str(sums[k][verdict]) for k in KEYS]
        lines.append("| " + " | ".join([f"**{verdict}**", *cells]) + " |")
    return lines


def main() -> int:
    """Judge, print the sums and the wrong answers, and write the table where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, or folders of them")
    parser.add_argument("--write", type=Path, help="Markdown file: its table is replaced")
    parser.add_argument("--title", default="runs", help="heading of the table in the file")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    with ProcessPoolExecutor(args.jobs) as pool:
        judged = list(pool.map(judge, find_runs(args.runs)))
    counts = Counter(v for _, verdicts, _ in judged for v in verdicts.values())
    summary = f"{len(judged)} runs: " + ", ".join(f"{counts[v]} {v}" for v in MARKS)
    print(summary)
    for _, _, wrong in judged:
        for line in wrong:
            print("WRONG", line)
    if args.write:
        replace_section(args.write, args.title, [summary + ".", "", *table(judged)])
    return 1 if counts["wrong"] or any(w for _, _, w in judged) else 0


def replace_section(path: Path, title: str, lines: list[str]) -> None:
    """Put lines between the markers of a title in a Markdown file."""
    begin, end = f"<!-- table: {title} -->", f"<!-- end: {title} -->"
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(begin)
    if not rest:
        raise SystemExit(f"{path} has no line {begin}")
    after = rest.partition(end)[2]
    path.write_text("\n".join([before + begin, "", *lines, "", end]) + after, encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
