"""The plots, as plotly figures: pure functions of an `Analysis` or of marks.

Backgrounds are transparent and greys are neutral, so that a figure sits on a light or dark page.
Names from the trace are escaped: plotly reads a little HTML.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from tracelens.report import tables
from tracelens.report.marks import HOST_LANE
from tracelens.report.palette import PARTS, PHASES, WORK
from tracelens.report.tables import BreakdownRow
from tracelens.report.text import duration, percent, shorten
from tracelens.units import ns_to_ms

if TYPE_CHECKING:
    from tracelens.analysis import Analysis
    from tracelens.report.marks import Mark, Timeline

INK, GRID = "#77808C", "rgba(128,136,148,0.25)"
#: Up to this many steps each have a bar; more are shown as one mean a rank.
MAX_BARS = 48
_NAME_WIDTH = 90

_SEGMENTS = (
    ("compute", "compute alone", PARTS["compute"]),
    ("overlapped_comm", "compute with communication beside it", PARTS["overlapped_comm"]),
    ("exposed_comm", "exposed communication", PARTS["exposed_comm"]),
    ("exposed_copy", "exposed copies", PARTS["exposed_copy"]),
    ("idle", "idle", PARTS["idle"]),
)


def text_of(name: str, width: int = _NAME_WIDTH) -> str:
    """A name from a trace as plotly text: cleaned, shortened, escaped."""
    return escape(shorten(name, width), quote=False)


def lay_out(fig: go.Figure, height: int, x_title: str) -> go.Figure:
    """Give a figure of horizontal bars the look of all figures."""
    fig.update_layout(
        template="none",
        barmode="stack",
        bargap=0.25,
        height=height,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13, "color": INK},
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
        margin={"l": 10, "r": 16, "t": 48, "b": 48},
        hoverlabel={"align": "left", "font": {"family": "system-ui, sans-serif"}},
        modebar={
            "bgcolor": "rgba(0,0,0,0)",
            "color": INK,
            "activecolor": PARTS["compute"],
            "remove": ["select2d", "lasso2d"],
        },
        uniformtext={"minsize": 10, "mode": "hide"},
    )
    fig.update_xaxes(
        title={"text": x_title, "font": {"size": 13}},
        gridcolor=GRID,
        zeroline=False,
        ticks="outside",
        tickcolor=GRID,
    )
    fig.update_yaxes(
        autorange="reversed",
        automargin=True,
        showgrid=False,
        type="category",
        ticks="outside",
        ticklen=6,
        tickcolor="rgba(0,0,0,0)",  # room between label and bar
    )
    return fig


def height_of(bars: int) -> int:
    """Height in pixels of so many horizontal bars."""
    return int(min(1400, 110 + 30 * max(bars, 2)))


def step_breakdown_figure(analysis: Analysis) -> go.Figure:
    """Where each step's time went: a stacked bar a rank and step, or a rank where there are many.

    See `step_bars`.
    """
    rows = [row for r in analysis.ranks for row in tables.step_rows(r)]
    if len(rows) > MAX_BARS:
        rows = list(tables.rank_rows(analysis))
    return step_bars(rows)


def step_bars(rows: Sequence[BreakdownRow]) -> go.Figure:
    """A stacked bar a row, which adds up to its wall time.

    Compute is shown in two parts: alone, and with communication hidden beside it. Each bar carries
    its (rank, step) as custom data.
    """
    labels = [_bar_label(r) for r in rows]
    fig = go.Figure()
    for name, title, color in _SEGMENTS:
        values = [_segment(r, name) for r in rows]
        if not any(values):
            continue
        fig.add_bar(
            orientation="h",
            y=labels,
            x=[ns_to_ms(v) for v in values],
            name=title,
            marker={"color": color, "opacity": [1.0 if r.complete else 0.45 for r in rows]},
            text=[f"{ns_to_ms(v):.1f}" for v in values],
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            customdata=[[r.rank, r.step] for r in rows],
            hovertext=[_hover(r, title, v) for r, v in zip(rows, values, strict=True)],
            hovertemplate="%{hovertext}<extra></extra>",
        )
    return lay_out(fig, height_of(len(rows)), "ms")


def _bar_label(row: BreakdownRow) -> str:
    if row.step is None:
        return f"rank {row.rank}"
    return f"rank {row.rank} step {row.step}{'' if row.complete else ' (cut)'}"


def _segment(row: BreakdownRow, name: str) -> float:
    return row.compute - row.overlapped_comm if name == "compute" else float(getattr(row, name))


def _hover(row: BreakdownRow, title: str, ns: float) -> str:
    return (
        f"<b>{title}</b>: {duration(ns)} ({percent(ns, row.wall)})<br>"
        f"{_bar_label(row)}: {duration(row.wall)}"
    )


def overlap_figure(analysis: Analysis) -> go.Figure:
    """Hidden and exposed time per step of each kind and phase of communication."""
    sums: dict[str, list[float]] = {}
    for c in analysis.collective_rows:
        row = sums.setdefault(tables.where(c), [0.0, 0.0])
        row[0] += c.total_ns - c.exposed_ns
        row[1] += c.exposed_ns
    labels = [text_of(name, 48) for name in sums]
    fig = go.Figure()
    parts = (("hidden beside compute", "overlapped_comm"), ("exposed", "exposed_comm"))
    for k, (title, color) in enumerate(parts):
        values = [row[k] for row in sums.values()]
        hover = [
            f"<b>{title}</b>: {duration(row[k])} a step ({percent(row[k], sum(row))})<br>{label}"
            for label, row in zip(labels, sums.values(), strict=True)
        ]
        fig.add_bar(
            orientation="h",
            y=labels,
            x=[ns_to_ms(v) for v in values],
            name=title,
            marker_color=PARTS[color],
            text=[f"{ns_to_ms(v):.1f}" if v else "" for v in values],
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            hovertext=hover,
            hovertemplate="%{hovertext}<extra></extra>",
        )
    return lay_out(fig, height_of(len(sums)), "ms per step and rank")


def timeline_figure(timeline: Timeline) -> go.Figure:
    """One step on a rank's GPU streams, over what its host was launching.

    Parameters
    ----------
    timeline : Timeline
        From `marks.step_timeline`.
    """
    colors = {"compute": PARTS["compute"], **WORK, **PHASES}
    fig = go.Figure()
    zero = timeline.window_ns[0]
    for kind, color in colors.items():
        marks = [m for m in timeline.marks if m.kind == kind]
        if marks:
            _add_marks(fig, marks, color, timeline)
    lay_out(fig, 150 + 44 * max(3, len(timeline.lanes)), "ms since the step's first GPU work")
    fig.update_layout(
        barmode="overlay",
        bargap=0.2,
        legend={"y": -58 / (44 * max(3, len(timeline.lanes))), "yanchor": "top"},
        margin={"t": 30, "b": 100},
    )
    fig.update_yaxes(
        categoryorder="array",
        categoryarray=[text_of(lane, 48) for lane in timeline.lanes],
    )
    first = min([zero, *(m.start_ns for m in timeline.marks)])
    fig.update_xaxes(range=[ns_to_ms(first - zero), ns_to_ms(timeline.window_ns[1] - zero)])
    return fig


def _add_marks(fig: go.Figure, marks: Sequence[Mark], color: str, timeline: Timeline) -> None:
    zero = timeline.window_ns[0]
    # a mark thinner than half a pixel would vanish: it is drawn that wide
    least = timeline.resolution_ns / 4
    fig.add_bar(
        orientation="h",
        y=[text_of(m.lane, 48) for m in marks],
        base=[round(ns_to_ms(m.start_ns - zero), 6) for m in marks],
        x=[round(ns_to_ms(max(m.end_ns - m.start_ns, least)), 6) for m in marks],
        name=marks[0].kind,
        showlegend=marks[0].kind != "compute",  # gemm has the same colour and says so
        marker={"color": color, "line": {"width": 0}, "opacity": [_density(m) for m in marks]},
        text=[m.name if m.lane == HOST_LANE else "" for m in marks],
        textposition="inside",
        insidetextanchor="middle",
        textangle=0,
        hovertext=[_mark_text(m, zero) for m in marks],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _density(m: Mark) -> float:
    """Paler where short events leave gaps between them."""
    length = m.end_ns - m.start_ns
    return 1.0 if m.count == 1 or not length else round(0.3 + 0.7 * min(1, m.busy_ns / length), 2)


def _mark_text(m: Mark, zero: int) -> str:
    at = f"at {ns_to_ms(m.start_ns - zero):,.3f} ms"
    if m.count == 1:
        what = "" if m.kind == m.name else f"{m.kind}, "
        return f"{text_of(m.name)}<br>{what}{duration(m.busy_ns)} {at}"
    parts = "<br>".join(f"{kind}: {duration(ns)}" for kind, ns in m.parts)
    return f"<b>{m.count} events</b> {at}<br>{parts}<br>longest: {text_of(m.name)}"
