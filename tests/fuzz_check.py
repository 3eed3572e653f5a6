"""What must hold of a wrong file: an answer or an error made on purpose, soon, in little memory."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from click.testing import CliRunner

import tracelens
from tracelens.cli import main
from tracelens.errors import TraceLensError
from tracelens.ingest.bounds import Bounds

#: Small enough that a bomb of a few kB meets them.
SMALL = Bounds(unpacked_least=20_000_000, event=4_000_000, header=4_000_000, dictionary=100_000_000)
#: Seconds of CPU time that a file of a few kB may take; far more than any does.
PATIENCE_S = 20


@contextmanager
def held_memory(most: int = 4_000_000_000) -> Iterator[None]:
    """Within this, more memory than any wrong file of a few kB may take is a MemoryError."""
    try:
        import resource
    except ImportError:  # Windows
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


#: What is asked of files in turn, beside their report.
QUESTIONS = (
    ("whatif", "RUN", "--set", "overlap_comm=true"),
    ("whatif", "RUN", "--set", "reduce_bucket_size=1000", "--json"),
    ("whatif", "RUN", "--set", "stage=3"),
    ("whatif", "RUN", "--set", "gradient_accumulation_steps=2"),
    ("whatif", "RUN", "--set", "interconnect_speed=2"),
    ("tune", "RUN", "--json"),
    ("memory", "RUN"),
    ("critical-path", "RUN"),
    ("compare", "RUN", "RUN"),
    ("check", "RUN", "--max-step-ms", "1"),
    ("analyze", "RUN", "--html", "PAGE"),
)


#: And of reports.
OF_REPORTS = (
    ("compare", "RUN", "RUN"),
    ("compare", "RUN", "RUN", "--json", "--fail-if-slower", "1"),
    ("check", "RUN", "--max-step-ms", "1", "--max-idle-pct", "1", "--max-step-spread-pct", "1"),
    ("check", "RUN", "--fail-on", "low", "--no-finding", "gc_pause", "--expect", "zero_stage=3"),
)


def check(folder: Path, question: int = 0) -> str:
    """Analyse and report what lies in `folder`, and ask one of `QUESTIONS` about it.

    Returns
    -------
    str
        ``read``, ``noted`` (read, and something said about it), or the error's name.

    Raises
    ------
    Exception
        Whatever is no error made on purpose: a finding.
    """
    begun = time.process_time()  # what others do on the machine takes no CPU time of ours
    try:
        outcome = _outcome(folder, question)
    except TraceLensError as e:
        if e.exit_code == 70:
            raise
        str(e).encode()
        outcome = type(e).__name__
    took = time.process_time() - begun
    if took > PATIENCE_S:
        raise AssertionError(f"{took:.0f} s of CPU time for a file of a few kB")
    return outcome


def _outcome(folder: Path, question: int) -> str:
    stored, report = folder / "run.db", folder / "report.json"
    if report.exists():
        code = _ask(report, OF_REPORTS[question % len(OF_REPORTS)])
        return {0: "read", 3: "read", 1: "InputError", 2: "UsageError"}[code]
    place = stored if stored.exists() else folder
    a = tracelens.analyze(place)
    text = json.dumps(a.to_json(), allow_nan=False) + a.report()
    text.encode()
    _ask(place, QUESTIONS[question % len(QUESTIONS)])
    return "noted" if a.notes else "read"


def _ask(run: Path, question: tuple[str, ...]) -> int:
    """Put a question to the command line: an answer, or an error made on purpose."""
    places = {"RUN": str(run), "PAGE": str(run.parent / "page.html")}
    done = CliRunner(env={"TRACELENS_DEBUG": "1"}).invoke(
        main, [places.get(w, w) for w in question]
    )
    if done.exit_code not in (0, 1, 2, 3):
        raise AssertionError(f"{' '.join(question)}: {done.stderr[-600:]}")
    return done.exit_code
