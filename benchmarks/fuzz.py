"""Files that chance made wrong, for as long as one likes: is there a crash, a hang, a leak?

Makes files as tests/fuzzing.py does, each kind for its share of the time, analyses each and counts
how it ended. Prints the Markdown of docs/robustness.md, or writes it there (--write). A crash is
printed with the seed that makes the file again.
"""

from __future__ import annotations

import argparse
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from unittest.mock import patch

HERE = Path(__file__).absolute().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

import fuzz_check
import fuzzing

DOC = HERE.parent / "docs" / "robustness.md"
#: What stands between these lines in the page is written by this program.
MARKS = "<!-- fuzz: begin -->", "<!-- fuzz: end -->"


@dataclass
class Tally:
    """How the files of one kind ended."""

    ends: Counter[str] = field(default_factory=Counter)
    crashes: dict[str, int] = field(default_factory=dict)
    slowest_s: float = 0.0

    def line(self, kind: str) -> str:
        """The row of the table."""
        ends = ", ".join(f"{name} {n:,}" for name, n in self.ends.most_common() if name != "crash")
        return (
            f"| {kind} | {self.ends.total():,} | {self.ends['crash']} | {self.slowest_s:.1f} "
            f"| {ends} |"
        )


def fuzz(kind: str, seconds: float, seed: int, tally: Tally) -> int:
    """Make and check files until the time is over; -> the next seed."""
    until = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="fuzz-") as base:
        folder = Path(base) / "case"
        while time.monotonic() < until:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            fuzzing.MAKERS[kind](folder, Random(seed))
            begun = time.process_time()
            try:
                tally.ends[fuzz_check.check(folder, seed)] += 1
            except Exception as e:  # what this program looks for
                tally.ends["crash"] += 1
                frame = traceback.extract_tb(e.__traceback__)[-1]
                what = f"{type(e).__name__} at {Path(frame.filename).name}:{frame.lineno}: {e}"
                if tally.crashes.setdefault(what, seed) == seed:
                    print(f"{kind}, seed {seed}: {what}", file=sys.stderr)
            tally.slowest_s = max(tally.slowest_s, time.process_time() - begun)
            seed += 1
    return seed


def table(tallies: dict[str, Tally], minutes: float) -> str:
    """The Markdown."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    lines = [
        f"{minutes:.0f} minutes on one core; the process never took more than {peak:,.0f} MB.",
        "",
        "| files | made | crashes | slowest, CPU s | how they ended |",
        "|---|--:|--:|--:|---|",
    ]
    return "\n".join([*lines, *(t.line(kind) for kind, t in tallies.items())])


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=10, help="in all (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the first file (default: 0)")
    parser.add_argument("--write", action="store_true", help=f"into {DOC.name}")
    a = parser.parse_args()
    warnings.simplefilter("error")
    tallies = {kind: Tally() for kind in fuzzing.MAKERS}
    with patch("tracelens.reading.BOUNDS", fuzz_check.SMALL), fuzz_check.held_memory():
        for kind, tally in tallies.items():
            fuzz(kind, 60 * a.minutes / len(tallies), a.seed, tally)
    text = table(tallies, a.minutes)
    if a.write:
        page = DOC.read_text(encoding="utf-8")
        inner = f"{MARKS[0]}\n{text}\n{MARKS[1]}"
        pattern = f"{MARKS[0]}.*?{MARKS[1]}"
        DOC.write_text(re.sub(pattern, lambda _: inner, page, flags=re.DOTALL), encoding="utf-8")
    print(text)
    return int(any(t.crashes for t in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
