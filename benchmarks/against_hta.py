"""tracelens against HTA (Holistic Trace Analysis): one large trace, time and peak memory.

Makes a trace of the wanted size by repeating a real one in a temporary folder, then runs in turn,
each in a fresh process: HTA loading it and computing its communication overlap and temporal
breakdown, and tracelens analysing it whole (which also links, finds phases and collectives, and
infers the setup). Prints Markdown: medians, and the ratios HTA / tracelens.

HTA needs an interpreter of its own:

    python -m venv hta-env && hta-env/bin/pip install traceinsight 'pandas<3'
    python benchmarks/against_hta.py --hta-python hta-env/bin/python
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from measure import ChildFailed, Run, run

HERE = Path(__file__).absolute().parent
SAMPLE = HERE.parent / "sample_traces" / "zero2_accumulation" / "rank0.pt.trace.json.xz"
HTA_ABSENT = """\
HTA is not there: {python} cannot run `import hta`.
hint: HTA wants an environment of its own (and pandas 2):
      python -m venv hta-env && hta-env/bin/pip install traceinsight 'pandas<3'
      then give --hta-python hta-env/bin/python"""


@dataclass(frozen=True)
class Tool:
    """One competitor: its name in the table and how to run it on a file."""

    name: str
    command: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()

    def __call__(self, trace: Path) -> Run:
        return run([*self.command, os.fspath(trace)], dict(self.env))


def hta_version(python: str) -> str | None:
    """HTA's version under an interpreter; None if it is not there."""
    try:
        out = subprocess.run(
            [python, HERE / "run_hta.py"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return str(json.loads(out.stdout)["version"])


def pack(trace: Path) -> Path:
    """The trace as .json.gz beside it, as torch packs it."""
    target = trace.with_suffix(".json.gz")
    with trace.open("rb") as plain, gzip.open(target, "wb", compresslevel=6) as packed:
        shutil.copyfileobj(plain, packed, 1 << 20)
    return target


def compete(tools: list[Tool], trace: Path, repeats: int) -> dict[str, list[Run]]:
    """Run every tool in turn, `repeats` times, on a warm page cache."""
    runs: dict[str, list[Run]] = {t.name: [] for t in tools}
    with trace.open("rb") as f:
        while f.read(1 << 24):
            pass
    for i in range(repeats):
        for tool in tools:
            runs[tool.name].append(tool(trace))
            last = runs[tool.name][-1]
            print(
                f"  {trace.name} {i + 1}/{repeats} {tool.name}: {last.wall_s:.1f} s,"
                f" {last.peak_bytes / 1e6:.0f} MB",
                file=sys.stderr,
            )
    return runs


def table(runs: dict[str, list[Run]]) -> str:
    """Markdown: a row a tool (median, and the range of wall times), then the ratios."""

    def median(name: str, column: str) -> float:
        return statistics.median(getattr(r, column) for r in runs[name])

    lines = [
        "| | wall s (range) | CPU s | peak MB |",
        "|---|--:|--:|--:|",
    ]
    for name, all_runs in runs.items():
        walls = [r.wall_s for r in all_runs]
        lines.append(
            f"| {name} | {median(name, 'wall_s'):.2f} ({min(walls):.2f} to {max(walls):.2f})"
            f" | {median(name, 'cpu_s'):.2f} | {median(name, 'peak_bytes') / 1e6:.0f} |"
        )
    first, second = runs
    ratio = {c: median(first, c) / median(second, c) for c in ("wall_s", "cpu_s", "peak_bytes")}
    lines.append(
        f"| **{first.split()[0]} / {second.split()[0]}** | **{ratio['wall_s']:.1f}** |"
        f" **{ratio['cpu_s']:.1f}** | **{ratio['peak_bytes']:.1f}** |"
    )
    return "\n".join(lines)


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--hta-python",
        default=sys.executable,
        metavar="PATH",
        help="Python interpreter that can `import hta` (default: this one)",
    )
    parser.add_argument(
        "--source", type=Path, default=SAMPLE, metavar="FILE", help="real trace to repeat"
    )
    parser.add_argument(
        "--megabytes", type=float, default=300, metavar="MB", help="at least (default: 300)"
    )
    parser.add_argument(
        "--repeats", type=int, default=3, metavar="N", help="runs of each tool (default: 3)"
    )
    parser.add_argument("--gz", action="store_true", help="a second table: the same trace as .gz")
    parser.add_argument(
        "--no-step-markers",
        action="store_true",
        help="leave the ProfilerStep ranges out: HTA's time grows with events times steps, so"
        " this is its best case",
    )
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="where to make the temporary folder"
    )
    return parser.parse_args()


def main() -> int:
    """Make the trace, run the competition, print the tables."""
    a = parse_args()
    version = hta_version(a.hta_python)
    if version is None:
        print(HTA_ABSENT.format(python=a.hta_python), file=sys.stderr)
        return 2
    path = os.pathsep.join(filter(None, (os.fspath(HERE.parent), os.environ.get("PYTHONPATH"))))
    tools = [
        Tool(f"HTA ({version})", (a.hta_python, os.fspath(HERE / "run_hta.py"))),
        Tool(
            "tracelens",
            (sys.executable, os.fspath(HERE / "run_tracelens.py")),
            (("PYTHONPATH", path),),
        ),
    ]
    with tempfile.TemporaryDirectory(prefix="against_hta_", dir=a.folder) as folder:
        trace = Path(folder) / "repeated.pt.trace.json"
        # in a process of its own: a parent that held the text would lend its size to the children
        maker = [sys.executable, HERE / "repeat_trace.py", a.source, trace]
        maker += ["--megabytes", str(a.megabytes)]
        maker += ["--no-step-markers"] * a.no_step_markers
        made = subprocess.run(maker, check=True, capture_output=True, text=True).stdout
        try:
            plain = compete(tools, trace, a.repeats)
            events = plain["tracelens"][0].answer["events"]
            print(f"{a.source.name} repeated: {made.split(': ', 1)[1].strip()}, {events:,} events.")
            print(f"Python {platform.python_version()}, {os.cpu_count()} cores,")
            print(f"median of {a.repeats} runs each, in turn, each in a fresh process.\n")
            print(f"Plain JSON\n\n{table(plain)}")
            if a.gz:
                packed = pack(trace)
                size = packed.stat().st_size / 1e6
                trace.unlink()
                as_gz = compete(tools, packed, a.repeats)
                print(f"\nThe same as .gz ({size:.0f} MB)\n\n{table(as_gz)}")
        except ChildFailed as e:
            print(e, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
