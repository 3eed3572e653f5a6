"""The charts, as plotly figures: pure functions of arrays and texts.

Looks are those of the report's figures; names from a trace come in as `text_of` made them.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from tracelens.report.figures import GRID, INK, height_of, lay_out, text_of
from tracelens.report.palette import PARTS
from tracelens.report.tables import BreakdownRow, phase_words
from tracelens.report.text import duration, percent
from tracelens.units import NS_PER_MS

if TYPE_CHECKING:
    import pandas as pd

    from .measure import Floats, Sizes

#: A step with more communication kernels than this is drawn without its shortest ones.
MAX_LANE_BARS = 3000
#: Decimal units of bytes, as network rates have them.
UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
#: Colours of series that have no meaning of their own (Okabe and Ito).
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def compact(figure: go.Figure) -> go.Figure:
    """A figure of the report as it stands in a card: less room around it."""
    figure.update_xaxes(title={"standoff": 6}, automargin=True)
    legend = {"font": {"size": 12}, "entrywidth": 0}
    return figure.update_layout(margin={"l": 4, "r": 8, "t": 56, "b": 36}, legend=legend)


def mean_rows(rows: Sequence[BreakdownRow]) -> list[BreakdownRow]:
    """One mean row a rank over its whole steps (over all where none is whole), ascending."""
    means = []
    for rank in sorted({r.rank for r in rows if r.rank is not None}):
        mine = [r for r in rows if r.rank == rank]
        mine = [r for r in mine if r.complete] or mine
        names = ("wall", *mine[0].parts, "overlapped_comm", "comm")
        mean = {n: fmean(getattr(r, n) for r in mine) for n in names}
        means.append(BreakdownRow(rank, None, True, len(mine), **mean))
    return means


def plain_bars(labels: Sequence[str], values: Sequence[float], color: str, unit: str) -> go.Figure:
    """One horizontal bar a label, with its value beside it."""
    figure = go.Figure()
    figure.add_bar(
        orientation="h",
        y=list(labels),
        x=list(values),
        marker_color=color,
        text=[f"{v:,.2f}" for v in values],
        textposition="auto",
        textangle=0,
        hovertemplate="%{y}: %{x:,.3f} ms<extra></extra>",
    )
    lay_out(figure, height_of(len(labels)), unit)
    return figure.update_layout(margin={"l": 4, "r": 8, "t": 28, "b": 40})


def split_bars(
    labels: Sequence[str], parts: Sequence[tuple[str, str, Sequence[float]]], unit: str
) -> go.Figure:
    """A stacked bar a label.

    Parameters
    ----------
    labels : sequence of str
        Plotly text, bottom line last.
    parts : sequence of (name, colour, values)
        In the order in which they are stacked.
    unit : str
        Of the values, for the axis.
    """
    figure = go.Figure()
    for name, color, values in parts:
        if not any(values):
            continue
        figure.add_bar(
            orientation="h",
            y=list(labels),
            x=list(values),
            name=name,
            showlegend=True,
            marker_color=color,
            text=[f"{v:,.2f}" if v else "" for v in values],
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            hovertemplate=f"%{{y}}<br>{name}: %{{x:,.3f}} {unit}<extra></extra>",
        )
    return compact(lay_out(figure, height_of(len(labels)), unit))


def size_bandwidth(
    found: Sequence[Sizes], names: Sequence[str], lines: Sequence[tuple[str, Floats, Floats, str]]
) -> go.Figure:
    """Bandwidth of each message size, and the fitted lines of latency and bandwidth.

    Parameters
    ----------
    found : sequence of Sizes
    names : sequence of str
        Plotly text for each of them.
    lines : sequence of (name, bytes, GB/s, text)
        With the names of the series that they belong to, and what to tell on hovering.
    """
    figure = go.Figure()
    colors = dict(zip(names, SERIES * len(found), strict=False))
    for s, name in zip(found, names, strict=True):
        told = [
            f"{name}<br>{size_text(b)}: {g:,.3g} GB/s ({n} times)"
            for b, g, n in zip(s.bytes, s.busbw_gbps, s.count, strict=True)
        ]
        figure.add_scatter(
            x=s.bytes, y=s.busbw_gbps, mode="markers", name=name, legendgroup=name,
            marker={"color": colors[name], "size": 9}, hovertext=told,
            hovertemplate="%{hovertext}<extra></extra>",
        )  # fmt: skip
    for name, x, y, text in lines:
        figure.add_scatter(
            x=x, y=y, mode="lines", legendgroup=name, showlegend=False,
            line={"color": colors.get(name, INK), "width": 1.5, "dash": "dot"},
            hovertemplate=f"{text}<extra></extra>",
        )  # fmt: skip
    compact(lay_out(figure, 340, "bytes of a message"))
    figure.update_xaxes(type="log", exponentformat="SI")
    return figure.update_yaxes(
        type="log", autorange=True, title=axis("bus bandwidth, GB/s"), showgrid=True,
        gridcolor=GRID, exponentformat="none", dtick=1,
    )  # fmt: skip


def size_text(n_bytes: float) -> str:
    """A size in decimal units, as network rates are.

    Examples
    --------
    >>> size_text(1_071_714_304), size_text(4)
    ('1.07 GB', '4 B')
    """
    for unit, one in UNITS:
        if n_bytes >= one:
            return f"{n_bytes / one:,.3g} {unit}"
    return f"{n_bytes:,.0f} B"


def comm_lanes(
    lanes: Sequence[str],
    start_ms: Sequence[float],
    length_ms: Sequence[float],
    exposed: Sequence[float],
    texts: Sequence[str],
) -> go.Figure:
    """Communication of one step over time: a lane a kind and phase, redder where it is exposed.

    Parameters
    ----------
    lanes, texts : sequence of str
        Plotly text of each row: its lane, and what to tell on hovering.
    start_ms, length_ms, exposed : sequence of float
        Start in the step, length, and the share of it without compute beside.
    """
    figure = go.Figure()
    scale = [[0, PARTS["overlapped_comm"]], [1, PARTS["exposed_comm"]]]
    figure.add_bar(
        orientation="h",
        y=list(lanes),
        base=list(start_ms),
        x=list(length_ms),
        marker={
            "color": list(exposed), "colorscale": scale, "cmin": 0, "cmax": 1,
            "colorbar": {
                "title": {"text": "exposed"}, "tickformat": ".0%", "thickness": 10, "len": 1.0,
            },
        },
        hovertext=list(texts),
        hovertemplate="%{hovertext}<extra></extra>",
    )  # fmt: skip
    compact(lay_out(figure, height_of(len(set(lanes))) + 20, "ms since the step's first GPU work"))
    return figure.update_layout(barmode="overlay", margin={"t": 12})


def lane_rows(rows: pd.DataFrame, zero_ns: int) -> tuple[list[Any], ...]:
    """Communication as the arguments of `comm_lanes`, times since `zero_ns`."""
    import pandas as pd

    lanes, texts = [], []
    exposed = (rows["exposed_ns"] / rows["dur_ns"].clip(lower=1)).tolist()
    columns = ("kind", "phase", "dur_ns", "wait_ns", "bytes")
    values = zip(*(rows[c].tolist() for c in columns), exposed, strict=True)
    for kind, phase, dur_ns, wait_ns, n_bytes, share in values:
        name = kind if pd.isna(phase) else f"{kind} in {phase_words(phase)}"
        lanes.append(text_of(name, 48))
        lines = [f"<b>{lanes[-1]}</b>", f"{duration(dur_ns)}, {percent(share, 1)} exposed"]
        lines += [] if pd.isna(wait_ns) else [f"{duration(wait_ns)} of it waiting"]
        lines += [] if pd.isna(n_bytes) else [size_text(n_bytes)]
        texts.append("<br>".join(lines))
    start = ((rows["start_ns"] - zero_ns) / NS_PER_MS).round(6).tolist()
    return lanes, start, (rows["dur_ns"] / NS_PER_MS).tolist(), exposed, texts


def heat(
    values: Floats, x: Sequence[str], y: Sequence[str], texts: Sequence[Sequence[str]], unit: str
) -> go.Figure:
    """A map of times, ms: nothing is clear, much is vermillion. `texts` are told on hovering."""
    figure = go.Figure()
    figure.add_heatmap(
        z=values,
        x=list(x),
        y=list(y),
        colorscale=[[0, "rgba(213,94,0,0.06)"], [1, PARTS["exposed_comm"]]],
        zmin=0,
        hovertext=[list(row) for row in texts],
        hovertemplate="%{hovertext}<extra></extra>",
        hoverongaps=False,
        xgap=1 if len(x) <= 80 else 0,
        ygap=1 if len(y) <= 40 else 0,
        colorbar={"title": {"text": unit}, "thickness": 10},
    )
    height = int(min(640, max(220, 90 + 28 * len(y))))
    compact(lay_out(figure, height, "")).update_layout(margin={"t": 12})
    return figure.update_xaxes(showgrid=False)


def memory(
    series: Sequence[tuple[str, Floats, Floats]], steps: Sequence[tuple[float, str]]
) -> go.Figure:
    """Bytes over time, ms, with the beginnings of steps marked."""
    most = max((float(y.max()) for _, _, y in series), default=0.0)
    unit, one = next((u for u in UNITS if most >= u[1]), ("B", 1.0))
    figure = go.Figure()
    looks = ((PARTS["idle"], "rgba(180,186,194,0.15)"), (PARTS["overlapped_comm"], None))
    for (name, x, y), (color, fill) in zip(series, looks, strict=True):
        figure.add_scatter(
            x=x, y=y / one, name=name, mode="lines", fill="tozeroy", fillcolor=fill,
            line={"color": color, "width": 1.2, "shape": "hv"},
            hovertemplate=f"{name}: %{{y:,.4g}} {unit} at %{{x:,.2f}} ms<extra></extra>",
        )  # fmt: skip
    compact(lay_out(figure, 380, "ms since the rank's first event"))
    for at, text in steps:
        figure.add_vline(at, line={"color": INK, "width": 1, "dash": "dot"}, annotation_text=text)
    return figure.update_yaxes(
        type="linear", autorange=True, rangemode="tozero", title=axis(unit), showgrid=True,
        gridcolor=GRID,
    )  # fmt: skip


def axis(text: str) -> dict[str, object]:
    """The title of an axis."""
    return {"text": text, "font": {"size": 13}}


def predicted(
    labels: Sequence[str], step_ms: Sequence[float], band_ms: tuple[float, float]
) -> go.Figure:
    """A bar a label; the last one, the prediction, with its band."""
    figure = go.Figure()
    band = {
        "type": "data",
        "symmetric": False,
        "array": [band_ms[1] - step_ms[-1]],
        "arrayminus": [step_ms[-1] - band_ms[0]],
        "color": PARTS["exposed_comm"],
    }
    for rows, color, error in (
        (slice(0, -1), INK, None),
        (slice(-1, None), PARTS["compute"], band),
    ):
        figure.add_bar(
            orientation="h",
            y=list(labels[rows]),
            x=list(step_ms[rows]),
            marker_color=color,
            text=[f"{v:,.2f}" for v in step_ms[rows]],
            textposition="inside",
            insidetextanchor="start",
            textangle=0,
            error_x=error,
            hovertemplate="%{y}: %{x:,.3f} ms<extra></extra>",
            showlegend=False,
        )
    lay_out(figure, height_of(len(labels)), "ms a step")
    return compact(figure).update_layout(margin={"t": 28})
