"""The small parts that pages are put together from. Text from a trace goes in as text only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dash_ag_grid as dag
import dash_mantine_components as dmc
from dash import dcc, html

from tracelens.report.palette import SEVERITY
from tracelens.report.text import cell, clean

from .jobs import State
from .query import Query
from .source import RunView

if TYPE_CHECKING:
    import plotly.graph_objects as go

#: How often a page asks how far a job is, ms.
POLL_MS = 250
_NUMBER = {"function": "params.value == null ? '–' : d3.format('{}')(params.value)"}


def card(*children: Any, title: str = "", note: str = "", **props: Any) -> dmc.Paper:
    """A framed part of a page, with a title and a line that explains it."""
    head: list[Any] = []
    if title:
        head.append(dmc.Title(title, order=3, size="h5"))
    if note:
        head.append(dmc.Text(note, size="sm", c="dimmed"))
    top = [dmc.Stack(head, gap=2, mb="xs")] if head else []
    return dmc.Paper([*top, *children], withBorder=True, p="md", radius="md", **props)


def graph(figure: go.Figure, name: str, **props: Any) -> dcc.Graph:
    """A figure that can be zoomed and saved as PNG under `name`."""
    config: Any = {
        "displaylogo": False,
        "responsive": True,
        "toImageButtonOptions": {"format": "png", "filename": name, "scale": 2},
        "showSendToCloud": False,  # plotly's own default offers to upload the data
        "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    }
    height = figure.layout.height
    style = {"height": f"{int(height)}px"} if height else {}
    return dcc.Graph(figure=figure, config=config, style=style, **props)


def load_plotly() -> dcc.Graph:
    """Nothing to see: the browser loads what draws figures while there is something else to see."""
    return dcc.Graph(style={"display": "none"}, config={"displayModeBar": False})


def stat(label: str, value: str, note: str = "", color: str = "") -> html.Div:
    """One number of the run, with what it is."""
    return html.Div(
        [
            html.Div(label, className="stat-label"),
            html.Div(value, className="stat-value"),
            html.Div(note, className="stat-note"),
        ],
        className="stat",
        style={"borderLeftColor": color} if color else {},
    )


def severity(word: str) -> html.Span:
    """How bad a finding is."""
    return html.Span(word, className="severity", style={"backgroundColor": SEVERITY[word]})


def nothing(title: str, *lines: str) -> dmc.Alert:
    """What to say where there is nothing to show: why, and what would help."""
    return dmc.Alert([dmc.Text(line, size="sm") for line in lines], title=title, color="gray")


def select(name: str, label: str, options: Sequence[tuple[str, str]], value: str | None) -> Any:
    """A choice that is kept in the URL's parameter `name`."""
    return dmc.Select(
        id={"type": "param", "name": name, "shown": value or ""},
        data=[{"value": v, "label": clean(text)} for v, text in options],
        value=value,
        label=label,
        size="xs",
        w=180,
        allowDeselect=False,
        searchable=len(options) > 12,
    )


def column(field: str, title: str, digits: int | None = None, **more: Any) -> dict[str, Any]:
    """A column of `table`; with `digits` a number with so many decimals."""
    definition: dict[str, Any] = {"field": field, "headerName": title, **more}
    if digits is not None:
        text = _NUMBER["function"].format(f",.{digits}f")
        definition |= {"type": "rightAligned", "valueFormatter": {"function": text}}
        definition.setdefault("filter", "agNumberColumnFilter")
    return definition


def size_column(field: str, title: str, unit: str = "B", **more: Any) -> dict[str, Any]:
    """A column of `table` with large numbers: three digits, a prefix and the unit."""
    text = f"params.value == null ? '–' : d3.format('.3s')(params.value) + '{unit}'"
    return column(field, title, 0, **more) | {"valueFormatter": {"function": text}}


def table(
    name: str, columns: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]], **options: Any
) -> html.Div:
    """A table that can be sorted, filtered and saved as CSV under `name`."""
    grid = dag.AgGrid(
        id={"type": "grid", "name": name},
        rowData=[{k: cell(v) for k, v in row.items()} for row in rows],
        columnDefs=list(columns),
        defaultColDef={
            "sortable": True,
            "filter": True,
            "resizable": True,
            "minWidth": 70,
            "wrapHeaderText": True,
            "autoHeaderHeight": True,
            "suppressHeaderFilterButton": True,  # the menu is on the right button
        },
        columnSize="responsiveSizeToFit",
        csvExportParams={"fileName": f"{name}.csv"},
        dashGridOptions={
            "theme": "themeQuartz",
            "domLayout": "autoHeight" if len(rows) <= 25 else "normal",
            "enableCellTextSelection": True,
            "ensureDomOrder": True,
            "rowHeight": 32,
            "headerHeight": 34,
            **options,
        },
        style={"height": None if len(rows) <= 25 else "560px"},
    )
    button = dmc.Button(
        "Save as CSV", id={"type": "csv", "name": name}, size="compact-xs", variant="default"
    )
    return html.Div([grid, dmc.Group([button], justify="flex-end", mt=6)])


def chosen(view: RunView, query: Query) -> tuple[int, int]:
    """The rank and step that the URL names, or the first rank and its second step (else first).

    The first recorded step often holds warm-up.
    """
    rank = query.integer("rank")
    rank = rank if rank in view.ranks else view.ranks[0]
    step = query.integer("step")
    mine = [r["step"] for r in view.document["steps"] if r["rank"] == rank and r["complete"]]
    mine = mine or view.steps
    return rank, step if step in view.steps else mine[min(1, len(mine) - 1)]


def controls(view: RunView, query: Query, *names: str) -> Any:
    """The choice of rank and step (or of those named), kept in the URL."""
    rank, step = chosen(view, query)
    parts = {
        "rank": lambda: select(
            "rank", "rank", [(str(r), f"rank {r}") for r in view.ranks], str(rank)
        ),
        "step": lambda: select(
            "step", "step", [(str(s), f"step {s}") for s in view.steps], str(step)
        ),
    }
    return dmc.Group([parts[n]() for n in names or parts], gap="sm")


def pending(job_id: str, title: str, state: State) -> Any:
    """How far a job is, with a way to cancel it; the page follows once it is done."""
    return card(
        dcc.Store(id="pending-job", data=job_id),
        html.Div(progress(state), id="pending"),
        dmc.Group(
            [
                dmc.Button("Cancel", id="pending-cancel", variant="default", size="xs"),
                dmc.Button("Again", id="pending-again", variant="default", size="xs"),
            ],
            mt="md",
        ),
        dcc.Interval(id="pending-tick", interval=POLL_MS),
        load_plotly(),
        title=title,
        maw=640,
    )


def progress(state: State) -> Any:
    """How far a job is, or how it ended."""
    if state.status == "failed":
        lines = [clean(line) for line in (state.message, *state.hint.splitlines()) if line]
        return dmc.Alert(
            [dmc.Text(line, size="sm") for line in lines], title="That did not work", color="red"
        )
    if state.status == "cancelled":
        return dmc.Text("Cancelled.", size="sm")
    size = ""
    if state.total >= 1e6:  # bytes
        size = f"{state.done / 1e6:,.0f} of {state.total / 1e6:,.0f} MB"
    elif state.total:
        size = f"{state.done:,} of {state.total:,}"
    return [
        dmc.Progress(value=state.percent or 100, animated=True, size="lg"),
        dmc.Text(f"{clean(state.what)} {size}", size="sm", c="dimmed", mt="xs"),
    ]
