"""How time and memory grow: sizes of files, packed or not, numbers of ranks, the second look.

Makes traces and runs in a temporary folder by repeating real ones, and runs each tool in fresh
processes. Prints the Markdown of docs/scale.md, or writes it there (--write). HTA and AMD's
TraceLens need an interpreter of their own each (``make scale`` makes them); without one the table
is of tracelens alone.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from against_hta import HERE
from growth import growth, measure, ours, peer, table
from measure import ChildFailed, Most, Run, run
from repeat_ranks import repeat_ranks

DOC = HERE.parent / "docs" / "scale.md"
MARKS = "<!-- scale: begin -->", "<!-- scale: end -->"
RANKS_OF = HERE.parent / "sample_traces" / "zero3"
ENV = {"PYTHONPATH": os.fspath(HERE.parent)}
#: Runs a call of the command line; the last line says the peak of this process.
_CLI = (
    "import json, resource, sys; from tracelens.cli import main; import contextlib, io\n"
    "out = io.StringIO()\n"
    "with contextlib.redirect_stdout(out): main(sys.argv[1:], standalone_mode=False)\n"
    "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
    "run = json.loads(out.getvalue())['run']\n"
    "print(json.dumps({'peak_bytes': peak, 'events': run['n_events']}))"
)
#: A run of more ranks is read with two workers only.
_MOST_ALONE = 64


def cli(*arguments: str) -> Run:
    """A command of tracelens in a fresh process, workers and all."""
    return run([sys.executable, "-c", _CLI, *arguments], ENV)


def sizes(a: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The table of file sizes, and how each tool grows."""
    tools = [ours()]
    if a.hta_python:
        tools.append(peer("HTA", a.hta_python, "run_hta.py"))
    if a.amd_python:
        tools.append(peer("AMD's TraceLens", a.amd_python, "run_amd.py"))
    most = Most(60 * a.minutes, int(a.most_gb * 1e9))
    rows = list(measure(tools, a.megabytes, folder, most))
    yield from table(rows, tools)
    yield ""
    yield from growth(rows, tools)


def _times(r: Run) -> str:
    """Wall and CPU time: the latter tells more on a machine that is shared."""
    return f"{r.wall_s:.1f} ({r.cpu_s:.1f})"


def ranks(a: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The table of numbers of ranks."""
    yield (
        "| ranks | on disk MB | events | workers | s (CPU) | CPU ms a rank "
        "| peak MB, all processes |"
    )
    yield "|--:|--:|--:|--:|--:|--:|--:|"
    for n in a.ranks:
        job = folder / f"ranks{n}"
        job.mkdir()
        size = repeat_ranks(RANKS_OF, job, n)
        for workers in (1, 2):
            if workers == 1 and n > _MOST_ALONE:
                continue
            got = cli(
                "analyze", os.fspath(job), "--json", "--jobs", str(workers),
                "--memory-limit", a.memory_limit,
            )  # fmt: skip
            yield (
                f"| {n:,} | {size / 1e6:,.0f} | {got.answer['events']:,} | {workers} | "
                f"{_times(got)} | "
                f"{1000 * got.cpu_s / n:.0f} | {got.peak_bytes / 1e6:,.0f} |"
            )
        print(f"{n} ranks are done", file=sys.stderr)
        if n == max(a.ranks):
            yield from _second_look(job, folder)


def _second_look(job: Path, folder: Path) -> Iterator[str]:
    """What a run in a store costs to look at again."""
    store = os.fspath(folder / "run.db")
    first = cli("analyze", os.fspath(job), "--json", "--db", store)
    again = cli("analyze", os.fspath(job), "--json", "--db", store)
    yield ""
    yield (
        f"The largest of these kept in a store (`--db run.db`): {first.wall_s:.1f} s; the second "
        f"look, with the store told the files again: {again.wall_s:.1f} s, "
        f"{first.wall_s / again.wall_s:.0f} times faster; the report of the stored run alone "
        f"(`tracelens analyze run.db --json`): {cli('analyze', store, '--json').wall_s:.2f} s."
    )


def cold_start(times: int = 15) -> str:
    """How long ``tracelens --help`` takes."""
    walls = []
    for _ in range(times):
        begun = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "tracelens", "--help"],
            env=os.environ | ENV, check=True, capture_output=True,
        )  # fmt: skip
        walls.append(time.perf_counter() - begun)
    return (
        f"`tracelens --help`: {statistics.median(walls):.2f} s (median of {times}, "
        f"{min(walls):.2f} to {max(walls):.2f})."
    )


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--hta-python", metavar="PATH", help="interpreter that can `import hta`")
    parser.add_argument("--amd-python", metavar="PATH", help="one that has AMD's TraceLens")
    parser.add_argument(
        "--minutes", type=float, default=10, help="CPU time that a tool gets (default: 10)"
    )
    parser.add_argument(
        "--most-gb", type=float, default=16, help="memory that a tool gets (default: 16)"
    )
    parser.add_argument("--megabytes", type=int, nargs="+", default=[50, 400, 1000, 3000])
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 64, 1024])
    parser.add_argument("--memory-limit", default="2GB", help="of runs of ranks (default: 2GB)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where to make the files")
    parser.add_argument("--write", action="store_true", help=f"into {DOC.name}")
    return parser.parse_args()


def main() -> int:
    """Make, measure, print."""
    a = parse_args()
    lines = [
        f"Python {platform.python_version()}, {os.cpu_count()} cores. Each tool gets "
        f"{a.minutes:.0f} minutes of CPU time and {a.most_gb:.0f} GB for a file; ranks are read "
        f"with `--memory-limit {a.memory_limit}`.",
        "",
    ]
    try:
        with tempfile.TemporaryDirectory(prefix="scale_", dir=a.folder) as made:
            lines += [*sizes(a, Path(made)), "", *ranks(a, Path(made)), "", cold_start()]
    except ChildFailed as e:
        print(e, file=sys.stderr)
        return 1
    text = "\n".join(lines)
    print(text)
    if a.write:
        page = DOC.read_text(encoding="utf-8")
        inner = f"{MARKS[0]}\n{text}\n{MARKS[1]}"
        pattern = f"{MARKS[0]}.*?{MARKS[1]}"
        DOC.write_text(re.sub(pattern, lambda _: inner, page, flags=re.DOTALL), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
