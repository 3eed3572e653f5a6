"""The memory of a run on a terminal: its peaks, and the ZeRO table for its model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tracelens.report.grid import Column, grid
from tracelens.report.printing import print_report, put, section, to_text
from tracelens.report.text import clean
from tracelens.units import format_count

if TYPE_CHECKING:
    from tracelens.replay.footprint import Footprint

_GIB = 2**30
_FITS = {True: "yes", False: "no", None: "?"}


def render(found: Footprint, console: Console) -> None:
    """Print the memory of a run."""
    print_report(lambda c: _draw(found, c), console)


def render_text(found: Footprint, width: int = 100) -> str:
    """The memory of a run as plain text of at most `width` columns."""
    return to_text(lambda c: _draw(found, c), width)


def _draw(found: Footprint, console: Console) -> None:
    for line in _lines(found):
        put(console, Text(clean(line)))
    rows = found.to_json()["table"]
    section(console, "GiB on each GPU, by ZeRO stage", _table(rows, console))
    put(console, Text("* as recorded. Peaks: with the recorded batch and activations."))


def _lines(found: Footprint) -> list[str]:
    capacity = found.capacity_bytes
    gpu = f"a GPU with {_gib(capacity)} GiB" if capacity else "a GPU of unknown memory"
    lines = [
        f"{format_count(found.model.nelems)} parameters, the largest of "
        f"{format_count(found.model.largest_nelems)}; {found.setting.shards} ranks, each on {gpu}."
    ]
    seen, held = found.recorded, found.held()
    if seen is None:
        lines.append(
            "No allocator events were recorded (profile_memory=True): peaks are unknown, and a "
            "setting can be seen not to fit, never to fit."
        )
    else:
        lines += [
            f"Recorded peak {_gib(seen.peak_bytes)} GiB: {_gib(seen.forward_bytes)} in the forward "
            f"pass, {_gib(seen.reducing_bytes)} while gradients are reduced, "
            f"{_gib(seen.updating_bytes)} while the optimizer updates; "
            f"{_gib(seen.reserved_bytes)} reserved.",
            f"Between steps {_gib(seen.resident_bytes)} GiB, of which model states and standing "
            f"buffers explain {_gib(held.resident_bytes)}.",
        ]
    return [*lines, f"Assumed: {'; '.join(found.assumed)}."] if found.assumed else lines


def _table(rows: list[dict[str, Any]], console: Console) -> Table:
    def column(title: str, key: str, drop: int) -> Column:
        return Column(title, [Text(_gib(r[key])) for r in rows], drop=drop)

    paper = ["" if r["offload_optimizer"] else _gib(sum(r["paper_bytes"].values())) for r in rows]
    columns = [
        Column("stage", [Text(_name(r)) for r in rows], "left"),
        Column("ZeRO paper", [Text(p) for p in paper], drop=3),
        column("between steps", "resident_bytes", 0),
        column("buckets", "bucket_bytes", 2),
        column("gathered", "live_bytes", 4),
        column("states at most", "most_bytes", 1),
        column("host", "host_bytes", 5),
        column("peak", "peak_bytes", 0),
        Column("fits", [Text(_FITS[r["fits"]]) for r in rows], "left"),
    ]
    return grid(columns, console.width, console.options.ascii_only)


def _name(row: dict[str, Any]) -> str:
    text = str(row["stage"])
    if row["offload_param"]:
        text += ", all on the host"
    elif row["offload_optimizer"]:
        text += ", optimizer on the host"
    return f"{text} *" if row["recorded"] else text


def _gib(n: float | None) -> str:
    return "?" if n is None else f"{n / _GIB:.2f}"
