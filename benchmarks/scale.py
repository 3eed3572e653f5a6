"""How time and memory grow: sizes of files, packed or not, numbers of ranks, the second look.

Makes traces and runs in a temporary folder by repeating real ones, and runs each tool in fresh
processes. Prints the Markdown of docs/scale.md, or writes it there (--write). HTA needs an
interpreter of its own, as in against_hta.py; without it the table is of tracelens alone.
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

from against_hta import HERE, SAMPLE, hta_version, pack
from measure import ChildFailed, Run, run
from repeat_ranks import repeat_ranks

DOC = HERE.parent / "docs" / "scale.md"
MARKS = "<!-- scale: begin -->", "<!-- scale: end -->"
RANKS_OF = HERE.parent / "sample_traces" / "zero3"
ENV = {"PYTHONPATH": os.fspath(HERE.parent)}
#: Runs a call of the command line; the last line says the peak of this process.
_CLI = (
    "import json, resource, sys; from tracelens.cli import main; import contextlib, io\n"
    "with contextlib.redirect_stdout(io.StringIO()): main(sys.argv[1:], standalone_mode=False)\n"
    "print(json.dumps({'peak_bytes': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))"
)


def cli(*arguments: str) -> Run:
    """A command of tracelens in a fresh process, workers and all."""
    return run([sys.executable, "-c", _CLI, *arguments], ENV)


def sizes(a: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The table of file sizes."""
    version = hta_version(a.hta_python) if a.hta_python else None
    yield "| trace | events | tracelens, s (CPU) | peak MB | HTA, s (CPU) | peak MB | ratio |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for megabytes in a.megabytes:
        trace = folder / f"{megabytes}.pt.trace.json"
        maker = [sys.executable, HERE / "repeat_trace.py", SAMPLE, trace]
        subprocess.run([*maker, "--megabytes", str(megabytes)], check=True, capture_output=True)
        packed = pack(trace)
        for path in (trace, packed):
            mine = _median([run([sys.executable, os.fspath(HERE / "run_tracelens.py"),
                                 os.fspath(path)], ENV) for _ in range(a.repeats)])  # fmt: skip
            cells = f"{_times(mine)} | {mine.peak_bytes / 1e6:,.0f}"
            theirs = "| | |"
            if version is not None and megabytes <= a.hta_up_to:
                other = run([a.hta_python, os.fspath(HERE / "run_hta.py"), os.fspath(path)])
                theirs = (
                    f"| {_times(other)} | {other.peak_bytes / 1e6:,.0f} | "
                    f"{other.cpu_s / mine.cpu_s:.1f} times the CPU time, "
                    f"{other.peak_bytes / mine.peak_bytes:.1f} the memory |"
                )
            kind = "plain" if path is trace else "gz"
            size = path.stat().st_size / 1e6
            yield f"| {kind}, {size:,.0f} MB | {mine.answer['events']:,} | {cells} {theirs}"
            path.unlink()
            print(f"{path.name} is done", file=sys.stderr)


def _times(r: Run) -> str:
    """Wall and CPU time: the latter tells more on a machine that is shared."""
    return f"{r.wall_s:.1f} ({r.cpu_s:.1f})"


def _median(runs: list[Run]) -> Run:
    return sorted(runs, key=lambda r: r.wall_s)[len(runs) // 2]


def ranks(a: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The table of numbers of ranks."""
    yield "| ranks | on disk MB | workers | s (CPU) | CPU ms a rank | peak MB, all processes |"
    yield "|--:|--:|--:|--:|--:|--:|"
    for n in a.ranks:
        job = folder / f"ranks{n}"
        job.mkdir()
        size = repeat_ranks(RANKS_OF, job, n)
        for workers in (1, 2):
            got = cli("analyze", os.fspath(job), "--json", "--jobs", str(workers))
            yield (
                f"| {n:,} | {size / 1e6:,.0f} | {workers} | {_times(got)} | "
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
    parser.add_argument("--hta-up-to", type=int, default=400, metavar="MB", help="(default: 400)")
    parser.add_argument("--megabytes", type=int, nargs="+", default=[50, 400, 1000, 3000])
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 64, 1024])
    parser.add_argument("--repeats", type=int, default=1, help="runs of tracelens (default: 1)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where to make the files")
    parser.add_argument("--write", action="store_true", help=f"into {DOC.name}")
    return parser.parse_args()


def main() -> int:
    """Make, measure, print."""
    a = parse_args()
    lines = [f"Python {platform.python_version()}, {os.cpu_count()} cores.", ""]
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
