"""How long `tracelens whatif` and `tracelens tune` take: fresh processes, reading included.

    python benchmarks/whatif_speed.py RUNS... [--repeat N] [--set KEY=VALUE]

Prints Markdown: the best wall and CPU time of each command on each run, seconds. CPU time is what
another program on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent


def measure(command: Sequence[str]) -> tuple[float, float]:
    """Wall and CPU time of one process and its children, seconds."""
    # a user's interpreter keeps what it has compiled
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    before, began = os.times(), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=env, cwd=ROOT)
    wall, after = time.perf_counter() - began, os.times()
    cpu = (after.children_user - before.children_user) + (
        after.children_system - before.children_system
    )
    return wall, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--set", default="reduce_bucket_size=2e8", metavar="KEY=VALUE")
    args = parser.parse_args()
    print("| run | files, MB | whatif, s | CPU, s | tune, s | CPU, s |\n|---|---|---|---|---|---|")
    base = [sys.executable, "-m", "tracelens"]
    for run in args.runs:
        size = sum(f.stat().st_size for f in run.rglob("*") if f.is_file()) / 1e6
        row = [run.name, f"{size:.0f}"]
        where = str(run.resolve())
        for command in (["whatif", where, "--set", args.set, "--json"], ["tune", where, "--json"]):
            taken = [measure([*base, *command]) for _ in range(args.repeat)]
            row += [f"{min(t[k] for t in taken):.2f}" for k in (0, 1)]
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
