"""Communication: what hides beside compute, what is waiting, how fast it moves, and when."""

from __future__ import annotations

from typing import Any

import dash_mantine_components as dmc
from dash import html

from tracelens.report.figures import text_of
from tracelens.report.palette import PARTS
from tracelens.report.tables import phase_words
from tracelens.report.text import duration, percent
from tracelens.units import NS_PER_MS

from .. import figures, measure, places, ui
from ..query import Query
from ..source import Document, RunView, Source

_UNKNOWN = "Whether it is waiting or transfer needs every rank of the group."


def layout(view: RunView, query: Query, _source: Source) -> Any:
    """The page."""
    document = view.document
    if not document["collectives"]:
        return ui.nothing(
            "No communication runs on the GPU in these steps.",
            "A run on one rank has none; else the trace does not hold it.",
        )
    return dmc.Stack(
        [
            _stats(document),
            dmc.Grid(
                [
                    dmc.GridCol(_hidden(document), span={"base": 12, "lg": 6}),
                    dmc.GridCol(_waiting(document), span={"base": 12, "lg": 6}),
                ],
            ),
            _lanes(view, query),
            _bandwidth(view),
            _table(document),
        ],
        gap="md",
    )


def _stats(document: Document) -> Any:
    s = document["summary"]
    ratio = s["overlap_ratio"]

    def time(key: str) -> str:
        value = s[key]
        return "not known" if value is None else duration(value * NS_PER_MS)

    hidden = "–" if ratio is None else percent(ratio, 1)
    cells = [
        ui.stat("communication", time("comm_ms"), "a step and rank"),
        ui.stat(
            "runs beside compute", hidden, time("overlapped_comm_ms"), PARTS["overlapped_comm"]
        ),
        ui.stat("exposed", time("exposed_comm_ms"), "no compute beside it", PARTS["exposed_comm"]),
        ui.stat("exposed: waiting", time("exposed_wait_ms"), "for the last rank to arrive"),
        ui.stat("exposed: transfer", time("exposed_transfer_ms"), "bytes on the move"),
    ]
    return ui.card(html.Div(cells, className="stats wide"))


def _by_kind(document: Document, *keys: str) -> dict[str, list[float | None]]:
    """Sums of columns over the rows of each kind and phase; None where one is not known."""
    sums: dict[str, list[float | None]] = {}
    for c in document["collectives"]:
        name = text_of(f"{c['kind']} in {phase_words(c['phase'])}" if c["phase"] else c["kind"], 48)
        row = sums.setdefault(name, [0.0] * len(keys))
        for i, key in enumerate(keys):
            had, more = row[i], c[key]
            row[i] = None if had is None or more is None else had + more
    return sums


def _hidden(document: Document) -> Any:
    sums = _by_kind(document, "total_ms", "exposed_ms")
    rows = [(t or 0.0, e or 0.0) for t, e in sums.values()]
    parts = (
        ("beside compute", PARTS["overlapped_comm"], [max(t - e, 0.0) for t, e in rows]),
        ("exposed", PARTS["exposed_comm"], [e for _, e in rows]),
    )
    figure = figures.split_bars(list(sums), parts, "ms per step and rank")
    return ui.card(ui.graph(figure, "tracelens-overlap"), title="Exposed and hidden")


def _waiting(document: Document) -> Any:
    sums = _by_kind(document, "total_ms", "wait_ms", "transfer_ms")
    rows = list(sums.values())
    parts = (
        ("waiting for the last rank", WAITING, [r[1] or 0.0 for r in rows]),
        ("transfer", TRANSFER, [r[2] or 0.0 for r in rows]),
        ("not known", PARTS["idle"], [(r[0] or 0.0) if r[1] is None else 0.0 for r in rows]),
    )
    figure = figures.split_bars(list(sums), parts, "ms per step and rank")
    note = _UNKNOWN if any(r[1] is None for r in rows) else ""
    return ui.card(ui.graph(figure, "tracelens-waiting"), title="Waiting and transfer", note=note)


#: Not the colours of exposed and hidden: this is another question.
WAITING, TRANSFER = "#CC79A7", "#009E73"


# -------------------------------------------------------------------------------------- in time
def _lanes(view: RunView, query: Query) -> Any:
    rank, step = ui.chosen(view, query)
    place = places.of_step(view.document, rank, step)
    comm = view.comm
    rows = comm[(comm["rank"] == rank) & (comm["step"] == step).fillna(False)]
    title, left_out = "When it ran", len(rows) - figures.MAX_LANE_BARS
    rows = rows.nlargest(figures.MAX_LANE_BARS, "dur_ns").sort_values("start_ns")
    controls = ui.controls(view, query)
    if place is None or not len(rows):
        text = f"Rank {rank} has no communication in step {step}."
        return ui.card(controls, dmc.Text(text, size="sm", mt="sm"), title=title)
    figure = figures.comm_lanes(*figures.lane_rows(rows, place.t0))
    see = dmc.Anchor(
        "See it on the timeline →",
        href=query.link("/timeline", run=view.id, rank=rank, t0=place.t0, t1=place.t1),
        size="sm",
    )
    note = "Each collective of one step, by kind and phase."
    note += f" The {left_out:,} shortest are left out." if left_out > 0 else ""
    row = dmc.Group([controls, see], justify="space-between", align="end")
    return ui.card(row, ui.graph(figure, "tracelens-collectives-in-time"), title=title, note=note)


# ------------------------------------------------------------------------------------ bandwidth
def _bandwidth(view: RunView) -> Any:
    found = measure.sizes(view.comm)
    title = "Size and bandwidth"
    if not found:
        return ui.card(dmc.Text(_UNKNOWN, size="sm"), title=title)
    groups = {s.group for s in found}

    def name(kind: str, group: str) -> str:
        return text_of(f"{kind} ({group})" if len(groups) > 1 else kind, 40)

    lines = []
    for f in view.document["fits"]:
        if f["bandwidth_gbps"] is not None and f["bus_bandwidth_gbps"] is not None:
            x, y = measure.fitted(f)
            text = f"{f['latency_us'] or 0:,.1f} us + bytes / {f['bandwidth_gbps']:,.0f} GB/s"
            beside = ", no compute beside it" if f["alone"] else ""
            label = name(str(f["kind"]), str(f["group"]))
            lines.append((label, x, y, f"{label}{beside}<br>{text}"))
    note = (
        "Of the transfer alone, waiting taken off: the median of each message size. Dotted: "
        "latency + bytes / bandwidth, where there are sizes enough to fit it."
    )
    names = [name(s.kind, s.group) for s in found]
    figure = figures.size_bandwidth(found, names, lines)
    return ui.card(ui.graph(figure, "tracelens-bandwidth"), title=title, note=note)


def _table(document: Document) -> Any:
    columns = [
        ui.column("kind", "kind", minWidth=116),
        ui.column("phase", "phase", minWidth=88),
        ui.column("group", "group", minWidth=96),
        ui.column("group_size", "ranks", 0),
        ui.column("dtype", "type"),
        ui.column("count_per_step", "a step", 1),
        ui.size_column("bytes_per_step", "bytes a step", minWidth=84),
        ui.column("total_ms", "total ms", 3),
        ui.column("exposed_ms", "exposed ms", 3),
        ui.column("wait_ms", "wait ms", 3),
        ui.column("transfer_ms", "transfer ms", 3),
        ui.column("algbw_gbps", "alg GB/s", 1),
        ui.column("busbw_gbps", "bus GB/s", 1),
    ]
    grid = ui.table("tracelens-collectives", columns, document["collectives"])
    note = "Means per step and rank. Total and exposed include waiting; bandwidths do not."
    return ui.card(grid, title="All collectives", note=note)
