"""What a store holds, on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from tracelens.report.grid import Column, grid
from tracelens.report.printing import print_report, put
from tracelens.report.text import clean
from tracelens.store import RunEntry


def render(runs: Sequence[RunEntry], console: Console) -> None:
    """Print one line a run."""
    print_report(lambda c: _draw(runs, c), console)


def _draw(runs: Sequence[RunEntry], console: Console) -> None:
    if not runs:
        put(console, Text("No runs."))
        return
    columns = [
        Column("run", [Text(str(r.id)) for r in runs]),
        Column("name", [Text(clean(r.name)) for r in runs], "left"),
        Column("added (UTC)", [Text(r.added_at[:16].replace("T", " ")) for r in runs], "left", 2),
        Column("ranks", [Text(_ranks(r)) for r in runs], drop=3),
        Column("device", [Text(clean(r.device or "-")) for r in runs], "left", 4),
        Column("step ms", [Text("-" if r.step_ms is None else f"{r.step_ms:,.1f}") for r in runs]),
        Column(
            "largest cause",
            [Text(clean(r.largest_cause or "-")) for r in runs],
            "left",
            drop=1,
            minimum=24,
        ),
    ]
    put(console, grid(columns, console.width, console.options.ascii_only))


def _ranks(r: RunEntry) -> str:
    """Ranks read, and of how many where they are not all."""
    if r.world_size is None or r.world_size <= r.n_ranks:
        return str(r.n_ranks)
    return f"{r.n_ranks} of {r.world_size}"
