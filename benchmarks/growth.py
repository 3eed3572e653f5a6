"""Tools beside each other on traces of growing size: the table of sizes of docs/scale.md.

A peer is a Python interpreter that has it installed and a program here that runs under it. It gets
the same file as tracelens, in a fresh process, and is given up where it takes more than it may.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from against_hta import HERE, SAMPLE, pack
from measure import ChildFailed, LimitPassed, Most, Run, run

OURS = "tracelens"


@dataclass(frozen=True)
class Tool:
    """A tool: its name in the table, and the command that analyses a file."""

    name: str
    command: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Row:
    """What each tool took for a file: a `Run`, or why there is none."""

    trace: str
    events: int
    took: dict[str, Run | str]


def ours() -> Tool:
    """What lies in this checkout."""
    script = os.fspath(HERE / "run_tracelens.py")
    return Tool(OURS, (sys.executable, script), (("PYTHONPATH", os.fspath(HERE.parent)),))


def peer(name: str, python: str, script: str) -> Tool:
    """A peer under its interpreter, its version in its name.

    Raises
    ------
    SystemExit
        If it is not there.
    """
    command = (python, os.fspath(HERE / script))
    try:
        out = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as e:
        raise SystemExit(
            f"{python} cannot run {script}: {e}\nhint: `make scale` installs it"
        ) from e
    version = json.loads(out.stdout)["version"].split()[-1].partition("+")[0]
    return Tool(f"{name} {version}", command)


def measure(tools: list[Tool], megabytes: list[int], folder: Path, most: Most) -> Iterator[Row]:
    """Each tool on each file, plain and packed; a peer that gave up gets no larger file."""
    gave_up: dict[str, str] = {}
    for size in megabytes:
        plain = folder / f"{size}.pt.trace.json"
        # in a process of its own: a parent that held the text would lend its size to the children
        maker = [sys.executable, HERE / "repeat_trace.py", SAMPLE, plain]
        subprocess.run([*maker, "--megabytes", str(size)], check=True, capture_output=True)
        packed = pack(plain)
        for path in (plain, packed):
            took: dict[str, Run | str] = {}
            for tool in tools:
                took[tool.name] = gave_up.get(tool.name) or _run(tool, path, most)
                outcome = took[tool.name]
                print(f"{path.name} {tool.name}: {_brief(outcome)}", file=sys.stderr, flush=True)
                if isinstance(outcome, str):
                    gave_up.setdefault(tool.name, "not tried")
            mine = took[OURS]
            events = mine.answer["events"] if isinstance(mine, Run) else 0
            kind = "gz" if path is packed else "plain"
            yield Row(f"{kind}, {path.stat().st_size / 1e6:,.0f} MB", events, took)
            path.unlink()


def _run(tool: Tool, path: Path, most: Most) -> Run | str:
    try:
        return run([*tool.command, os.fspath(path)], dict(tool.env), most)
    except LimitPassed as e:
        return str(e)
    except ChildFailed as e:
        if tool.name == OURS:
            raise
        return f"failed: {str(e).strip().splitlines()[-1][:80]}"


def _brief(outcome: Run | str) -> str:
    if isinstance(outcome, str):
        return outcome
    return f"{outcome.wall_s:.1f} s, {outcome.cpu_s:.1f} s CPU, {outcome.peak_bytes / 1e6:,.0f} MB"


def table(rows: list[Row], tools: list[Tool]) -> list[str]:
    """Markdown: CPU time and peak memory of each, and peers as multiples of ours."""
    head = "".join(f" {t.name}, s (CPU) | peak MB |" for t in tools)
    lines = [f"| trace | events |{head}", f"|---|--:|{'--:|--:|' * len(tools)}"]
    for row in rows:
        cells = [_cells(row.took[t.name], row.took[OURS]) for t in tools]
        lines.append(f"| {row.trace} | {row.events:,} | {' | '.join(cells)} |")
    return lines


def _cells(took: Run | str, mine: Run | str) -> str:
    if isinstance(took, str):
        return f"{took} |"
    time, memory = f"{took.wall_s:.1f} ({took.cpu_s:.1f})", f"{took.peak_bytes / 1e6:,.0f}"
    if took is mine or isinstance(mine, str):
        return f"{time} | {memory}"
    times, more = took.cpu_s / mine.cpu_s, took.peak_bytes / mine.peak_bytes
    return f"{time}: {_multiple(times)} times | {memory}: {_multiple(more)} times"


def _multiple(x: float) -> str:
    return f"**{x:.0f}**" if x >= 9.95 else f"**{x:.1f}**"


def growth(rows: list[Row], tools: list[Tool]) -> Iterator[str]:
    """How each tool grew from the smallest plain file to the largest that it finished."""
    yield "| from the smallest plain file to the largest finished | events | CPU time | peak |"
    yield "|---|--:|--:|--:|"
    for tool in tools:
        found = [(r, t) for r in rows if isinstance(t := r.took[tool.name], Run)]
        found = [(r, t) for r, t in found if r.trace.startswith("plain")]
        if len(found) < 2:
            continue
        (small, least), (large, most) = found[0], found[-1]
        yield (
            f"| {tool.name}, to {large.trace.removeprefix('plain, ')} "
            f"| {large.events / small.events:.1f} times | {most.cpu_s / least.cpu_s:.1f} times "
            f"| {most.peak_bytes / least.peak_bytes:.1f} times |"
        )
