"""The critical path on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tracelens.phases import Phase
from tracelens.replay.critical import (
    COMPUTE,
    COPY,
    HOST_TIME,
    KINDS,
    LAUNCH,
    PAUSE,
    TRANSFER,
    UNEXPLAINED,
)
from tracelens.report.grid import Column, grid
from tracelens.report.printing import print_report, put, section, to_text
from tracelens.report.text import percent
from tracelens.units import NS_PER_MS

if TYPE_CHECKING:
    from tracelens.replay.critical import CriticalPath

#: What each part of the path is, for people.
NAMES = {
    COMPUTE: "kernels",
    TRANSFER: "transfers",
    COPY: "copies",
    HOST_TIME: "the host",
    LAUNCH: "launches",
    PAUSE: "the GPU's scheduling",
    UNEXPLAINED: "waits for nothing recorded",
}


def render(path: CriticalPath, console: Console) -> None:
    """Print a critical path."""
    print_report(lambda c: _draw(path, c), console)


def render_text(path: CriticalPath, width: int = 100) -> str:
    """A critical path as plain text of at most `width` columns."""
    return to_text(lambda c: _draw(path, c), width)


def verdict(path: CriticalPath) -> str:
    """What the step's length comes from, most first."""
    total = path.length_ns / path.n_steps
    share = sorted(((path.per_step_ns(k), NAMES[k]) for k in KINDS), reverse=True)
    most = ", ".join(f"{name} {percent(ns, total)}" for ns, name in share[:3] if ns > 0)
    return f"A step of {total / NS_PER_MS:.1f} ms is as long as it is because of: {most}."


def _draw(path: CriticalPath, console: Console) -> None:
    put(console, Text(verdict(path), style="bold"))
    for kind in (COMPUTE, TRANSFER):
        free = path.free_ns(kind) / NS_PER_MS
        if free >= 0.05:
            what = f"{free:.1f} ms a step of {NAMES[kind]}"
            put(console, Text(f"- {what} are off the path: faster ones gain nothing"))
    section(console, "Parts of the path (ms a step)", _table(path, console))
    by_rank = path.by_rank_ns()
    if len(by_rank) > 1:
        ranks = ", ".join(f"rank {r} {ns / NS_PER_MS:.1f}" for r, ns in sorted(by_rank.items()))
        put(console, Text(f"\nThe path runs over {ranks} ms."))


def _table(path: CriticalPath, console: Console) -> Table:
    total = path.length_ns / path.n_steps
    told = {part["kind"]: part["by_phase_ms"] for part in path.to_json()["parts"]}
    columns = [
        Column("part", [Text(NAMES[k]) for k in KINDS], "left"),
        Column("ms", [Text(f"{path.per_step_ns(k) / NS_PER_MS:.2f}") for k in KINDS]),
        Column("share", [Text(percent(path.per_step_ns(k), total)) for k in KINDS]),
    ]
    for phase in Phase:
        cells = [Text(f"{told[k].get(phase.label, 0.0):.2f}") for k in KINDS]
        columns.append(Column(phase.label, cells, drop=1))
    return grid(columns, console.width, console.options.ascii_only)
