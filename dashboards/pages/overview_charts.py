"""The charts of the overview; they follow the verdict, which does not wait for what draws them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import dash_mantine_components as dmc

from tracelens.report.figures import MAX_BARS, step_bars
from tracelens.report.palette import PARTS
from tracelens.report.tables import BreakdownRow
from tracelens.units import NS_PER_MS

from .. import figures, ui
from ..source import Document

#: Names of the bars' parts where the room is small.
_SHORT = {
    "compute alone": "compute",
    "compute with communication beside it": "compute + comm",
    "exposed communication": "exposed comm",
    "exposed copies": "copies",
}
#: Room for the figure's buttons above the legend, pixels.
_ABOVE = 32
#: Height of the bars in pixels, however many there are.
_TALLEST = 620
#: Parts of the GPU's work and of its idle time, with the words for them.
_COMPUTE = {
    "gemm_ms": "matrix products",
    "attention_ms": "attention",
    "optimizer_ms": "optimizer",
    "elementwise_ms": "elementwise, norms",
    "other_ms": "other kernels",
    "copy_ms": "copies",
    "memset_ms": "memsets",
}
_IDLE = {
    "launch_ms": "host has not launched yet",
    "device_ms": "launched, not started",
    "sync_ms": "host waited for the GPU",
    "loader_ms": "data loader",
    "allocator_ms": "allocating GPU memory",
    "pause_ms": "host shows no event",
    "cpu_optimizer_ms": "optimizer on the host",
}


def steps(document: Document) -> Any:
    """A bar a rank and step, or a rank where they are many."""
    rows = [_row(r) for r in document["steps"]]
    note = "A bar a rank and step; click one to see it on the timeline."
    if len(rows) > MAX_BARS:
        rows = figures.mean_rows(rows)
        note = "Mean of whole steps, a bar a rank."
    figure = figures.compact(step_bars(rows))
    height = min(figure.layout.height + _ABOVE, _TALLEST)
    figure.update_layout(height=height, margin={"t": figure.layout.margin.t + _ABOVE})
    figure.for_each_trace(lambda t: t.update(name=_SHORT.get(t.name, t.name)))
    return ui.card(
        ui.graph(figure, "tracelens-steps", id="step-bars"),
        title="Where each step went",
        note=note,
    )


def _row(r: dict[str, Any]) -> BreakdownRow:
    names = ("wall", "compute", "exposed_comm", "exposed_copy", "idle", "overlapped_comm", "comm")
    parts = {n: r[f"{n}_ms"] * NS_PER_MS for n in names}
    return BreakdownRow(rank=r["rank"], step=r["step"], complete=r["complete"], n_steps=1, **parts)


def parts(document: Document, key: str, words: dict[str, str]) -> Any:
    """The split of GPU work, or of idle time, as bars."""
    title, note = {
        "compute": ("GPU work by kind", "Lengths are summed: work at the same time counts twice."),
        "idle": ("Idle time by cause", "What the host did while the GPU had nothing to do."),
    }[key]
    split = {words[k]: v for k, v in document[key].items() if v}
    if not split:
        return ui.card(dmc.Text("There is none.", size="sm"), title=title)
    order = dict(sorted(split.items(), key=lambda p: -p[1]))
    color = PARTS["compute"] if key == "compute" else PARTS["idle"]
    figure = figures.plain_bars(list(order), list(order.values()), color, "ms per step and rank")
    return ui.card(ui.graph(figure, f"tracelens-{key}"), title=title, note=note)


CHARTS: Final[dict[str, Callable[[Document], Any]]] = {
    "steps": steps,
    "compute": partial(parts, key="compute", words=_COMPUTE),
    "idle": partial(parts, key="idle", words=_IDLE),
}
