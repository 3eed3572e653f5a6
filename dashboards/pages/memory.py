"""What each ZeRO setting keeps on a GPU, and what the allocator did over time where recorded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dash_mantine_components as dmc
import numpy as np
from dash import html

from tracelens.analysis import RankEvents
from tracelens.errors import CannotPredict
from tracelens.replay.footprint import footprint
from tracelens.report.palette import PARTS
from tracelens.report.text import clean
from tracelens.units import NS_PER_MS

from .. import figures, measure, places, ui
from ..jobs import Tick
from ..measure import Floats
from ..query import Query
from ..source import RunView, Source


@dataclass(frozen=True, slots=True)
class Curve:
    """One device's memory over time: bytes at ms since the rank's first event, at its peaks."""

    device: int
    events: int
    allocated: tuple[Floats, Floats]
    reserved: tuple[Floats, Floats]


@dataclass(frozen=True, slots=True)
class Found:
    """The memory of one rank: its curves, and what other settings would take, or why not known."""

    curves: list[Curve]
    settings: dict[str, Any] | None
    unknown: str


def layout(view: RunView, query: Query, _source: Source) -> Any:
    """The page."""
    rank, _ = ui.chosen(view, query)
    name = f"memory/{view.id}/{rank}"
    job = view.jobs.ask(name, lambda tick: look(view, rank, tick))
    controls = ui.controls(view, query, "rank")
    if job.result is None:
        return dmc.Stack([controls, ui.pending(name, f"Reading rank {rank}", job.state)])
    found = job.result
    parts = [_device(view, rank, c) for c in found.curves if c.device >= 0] or [
        ui.nothing(
            "No allocator events were recorded.",
            "Record with torch.profiler.profile(profile_memory=True) to see memory over time.",
        )
    ]
    host = [_device(view, rank, c) for c in found.curves if c.device < 0]
    return dmc.Stack([controls, *parts, _settings(found), *host])


def look(view: RunView, rank: int, tick: Tick) -> Found:
    """Read a rank and find what its memory held."""
    tick(f"rank {rank}", 0, 0)
    seen = view.open_rank(rank, tick)
    tick("what settings cost", 0, 0)
    try:
        told = footprint(view.analysis(), seen).to_json()
    except CannotPredict as e:
        return Found(curves(seen), None, str(e))
    return Found(curves(seen), told, "")


def curves(seen: RankEvents) -> list[Curve]:
    """The memory of each device of a rank, the host's last; empty without allocator events."""
    memory, found = seen.trace.memory, []
    for device in sorted(np.unique(memory.device).tolist(), key=lambda d: (d < 0, d)):
        on = (memory.device == device) & (memory.allocated >= 0)
        if on.any():
            at = (memory.ts_ns[on] - seen.trace.slices.ts_ns[0]) / NS_PER_MS
            used = measure.envelope(at, memory.allocated[on])
            held = measure.envelope(at, memory.reserved[on])
            found.append(Curve(device, int(on.sum()), used, held))
    return found


def _device(view: RunView, rank: int, curve: Curve) -> Any:
    at, used = curve.allocated
    peak = int(np.argmax(used))
    cells = [
        ui.stat("most allocated", figures.size_text(used[peak]), "by tensors at one time"),
        ui.stat("at", f"{at[peak]:,.1f} ms", "since the rank's first event"),
        ui.stat("most reserved", figures.size_text(curve.reserved[1].max()), "by the allocator"),
        ui.stat("events", f"{curve.events:,}", "allocations and frees"),
    ]
    bounds = [places.of_step(view.document, rank, s) for s in view.steps]
    steps = [(p.t0 / NS_PER_MS, f"step {p.step}") for p in bounds if p is not None]
    series = [("reserved", *curve.reserved), ("allocated", *curve.allocated)]
    where = f"GPU {curve.device}" if curve.device >= 0 else "the host"
    return ui.card(
        html.Div(cells, className="stats wide"),
        ui.graph(figures.memory(series, steps), f"tracelens-memory-{rank}"),
        title=f"Memory of {where}, rank {rank}",
        note="Totals after each allocation and free; where there are many, the highest of them.",
    )


# -------------------------------------------------------------------------------------- settings
def _settings(found: Found) -> Any:
    title = "What each ZeRO setting keeps on a GPU"
    told = found.settings
    if told is None:
        return ui.card(dmc.Text(clean(found.unknown), size="sm"), title=title)
    rows = told["table"]
    labels = [_setting(r) for r in rows]
    parts = (
        ("between steps", PARTS["compute"], [r["resident_bytes"] / 1e9 for r in rows]),
        (
            "more at most",
            PARTS["overlapped_comm"],
            [(r["most_bytes"] - r["resident_bytes"]) / 1e9 for r in rows],
        ),
    )
    figure = figures.split_bars(labels, parts, "GB")
    note = (
        f"Model states and buffers of {told['parameters']:,} parameters on "
        f"{told['data_parallel_size']} ranks, without activations."
    )
    if told["capacity_bytes"]:
        note += f" A GPU has {figures.size_text(told['capacity_bytes'])}."
    assumed = [html.Li(f"Assumed: {clean(a)}") for a in told["assumed"]]
    return ui.card(
        ui.graph(figure, "tracelens-settings"),
        html.Ul(assumed, className="quiet"),
        title=title,
        note=note,
    )


def _setting(row: dict[str, Any]) -> str:
    """A row's setting in words."""
    where = {(False, False): "", (True, False): ", optimizer on the host"}
    text = f"stage {row['stage']}"
    text += where.get((row["offload_optimizer"], row["offload_param"]), ", all on the host")
    text += " (this run)" if row["recorded"] else ""
    return text + (" – does not fit" if row["fits"] is False else "")
