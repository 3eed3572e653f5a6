"""What ran, what slows it most, and where each step went."""

from __future__ import annotations

import json
from typing import Any

import dash_mantine_components as dmc
from dash import MATCH, Dash, Input, Output, State, html, no_update

from tracelens.replay.change import settings_of
from tracelens.report.text import clean, duration, percent, plural, ranges
from tracelens.units import NS_PER_MS

from .. import places, ui, verdict
from ..query import SET, Query
from ..source import Document, RunView, Source


def layout(view: RunView, query: Query, _source: Source) -> Any:
    """The page."""
    document = view.document
    return dmc.Stack(
        [
            _verdict(view, query),
            dmc.Grid(
                [
                    dmc.GridCol(_findings(view, query), span={"base": 24, "lg": 13}),
                    dmc.GridCol(_chart(view, "steps"), span={"base": 24, "lg": 11}),
                ],
                columns=24,
                gutter="md",
            ),
            dmc.Grid(
                [
                    dmc.GridCol(_chart(view, "compute"), span={"base": 12, "lg": 6}),
                    dmc.GridCol(_chart(view, "idle"), span={"base": 12, "lg": 6}),
                ],
                gutter="md",
            ),
            _input(document),
            ui.load_plotly(),
        ],
        gap="md",
    )


def _chart(view: RunView, name: str) -> html.Div:
    """The place of a chart, which is asked for once the verdict is on the screen."""
    return html.Div(id={"type": "chart", "run": view.id, "name": name}, className="later")


def register(app: Dash, source: Source) -> None:
    """Charts follow the verdict; a click on a step's bar leads to that step on the timeline."""

    @app.callback(
        Output({"type": "chart", "run": MATCH, "name": MATCH}, "children"),
        Input({"type": "chart", "run": MATCH, "name": MATCH}, "id"),
    )
    def draw(place: dict[str, str]) -> Any:
        from . import load_ahead
        from .overview_charts import CHARTS

        load_ahead()
        run = source.get(place["run"])
        if run is None or run.view is None or place["name"] not in CHARTS:
            return no_update
        return CHARTS[place["name"]](run.view.document)

    @app.callback(
        Output("url", "href"),
        Input("step-bars", "clickData"),
        State("url", "search"),
        prevent_initial_call=True,
    )
    def see(clicked: dict[str, Any] | None, search: str) -> Any:
        if not clicked:
            return no_update
        rank, step = clicked["points"][0]["customdata"]
        return Query.parse(search).link("/timeline", rank=int(rank), step=step)


def _verdict(view: RunView, query: Query) -> Any:
    """What slows the step most, what ran, and where a step goes."""
    document = view.document
    rest = [clean(s) for s in document["verdict"][1:]]
    return ui.card(
        *_headline(view, query),
        dmc.Text(verdict.ran(document), size="sm", c="dimmed", mb="sm"),
        html.Div(
            [ui.stat(s.label, s.value, s.note, s.color) for s in verdict.stats(document)],
            className="stats wide",
        ),
        html.Details(
            [
                html.Summary("The verdict in sentences"),
                html.Ul([html.Li(s) for s in rest], className="verdict"),
            ],
            className="quiet",
        ),
    )


def _headline(view: RunView, query: Query) -> list[Any]:
    """The largest cause, in the words of the report, and where it is seen."""
    told = verdict.headline(view.document)
    title = dmc.Title(told.title, order=2, size="h4")
    if told.finding is None:
        return [title]
    return [
        dmc.Text(told.label, size="xs", c="dimmed"),
        dmc.Group([title, *_show_me(view, query, told.finding)], gap="md", align="baseline"),
        *([dmc.Text(told.more, size="sm")] if told.more else []),
    ]


def _show_me(view: RunView, query: Query, finding: dict[str, Any]) -> list[Any]:
    """A link to where a finding is seen best, if there is such a place."""
    place = places.of_finding(view, finding)
    if place is None:
        return []
    where = query.link("/timeline", run=view.id, rank=place.rank, t0=place.t0, t1=place.t1)
    return [dmc.Anchor("Show me on the timeline →", href=where, size="sm", fw=600)]


# ------------------------------------------------------------------------------------- findings
def _findings(view: RunView, query: Query) -> Any:
    document = view.document
    paid = verdict.paid(document)
    told = [f for f in document["findings"] if f["severity"] == "info"]
    parts: list[Any] = []
    if paid:
        items = [_finding(view, query, f) for f in paid]
        parts.append(dmc.Accordion(items, multiple=True, value=[items[0].value], variant="filled"))
    else:
        parts.append(dmc.Text(verdict.NO_CAUSE, size="sm"))
    if told:
        items = [_finding(view, query, f) for f in told]
        parts.append(dmc.Text("Seen, at no cost that is sure:", size="sm", c="dimmed", mt="sm"))
        parts.append(dmc.Accordion(items, multiple=True, variant="filled"))
    parts.append(_checks(document))
    note = "Each cost is what the step would save if that cause alone were gone."
    return ui.card(*parts, title="What slows the step", note=note)


def _finding(view: RunView, query: Query, finding: dict[str, Any]) -> dmc.AccordionItem:
    cost, step = finding["cost_ms_per_step"], verdict.judged_ms(view.document)
    head = html.Div(
        [
            ui.severity(finding["severity"]),
            html.Span(clean(finding["title"]), className="finding-title"),
            html.Span(
                [html.B(duration(cost * NS_PER_MS)), f" {percent(cost, step)}"],
                className="finding-cost",
            ),
        ],
        className="finding-head",
    )
    return dmc.AccordionItem(
        [dmc.AccordionControl(head), dmc.AccordionPanel(_told(view, query, finding))],
        value=finding["id"],
    )


def _told(view: RunView, query: Query, finding: dict[str, Any]) -> list[Any]:
    """The evidence of a finding, what to do, and the way to where it is seen."""
    parts: list[Any] = [html.Ul([html.Li(clean(e)) for e in finding["evidence"]])]
    if finding["remedy"]:
        parts.append(html.Div([html.B("What helps: "), clean(finding["remedy"])]))
    if finding["config"]:
        text = "\n".join(f"{clean(k)}: {json.dumps(v)}" for k, v in finding["config"].items())
        parts.append(html.Pre(text, className="config"))
        parts += _predict(view, query, finding["config"])
    parts += _proof(view, query, finding)
    row = _show_me(view, query, finding)
    seen = [f"rank {ranges(finding['ranks'])}"] if finding["ranks"] else []
    seen += [f"step {ranges(finding['steps'])}"] if finding["steps"] else []
    row.append(dmc.Text(", ".join([*seen, finding["id"]]), size="xs", c="dimmed"))
    parts.append(dmc.Group(row, justify="space-between", mt="xs"))
    return parts


def _predict(view: RunView, query: Query, config: dict[str, Any]) -> list[Any]:
    """A link to what the replay gives with a remedy's settings, where it can tell."""
    settings = settings_of(config)
    if not settings or view.document["setup"]["framework"]["value"] != "deepspeed":
        return []
    where = query.link("/whatif", run=view.id, **{SET + k: v for k, v in settings.items()})
    return [dmc.Anchor("Predict it →", href=where, size="sm", fw=600)]


def _proof(view: RunView, query: Query, finding: dict[str, Any]) -> list[Any]:
    """The moments that prove a finding, each a link to the timeline."""
    if not finding["proof"]:
        return []
    links = []
    for proof in finding["proof"]:
        place = places.of_proof(proof)
        text = f"rank {proof['rank']}, step {proof['step']}: "
        text += duration(proof["end_ns"] - proof["start_ns"])
        where = query.link("/timeline", run=view.id, rank=place.rank, t0=place.t0, t1=place.t1)
        title = clean(proof["name"])
        links.append(html.Li(dmc.Anchor(text, href=where, size="sm"), title=title))
    count = plural(len(links), "moment")
    return [html.Details([html.Summary(f"{count} that show it"), html.Ul(links)])]


def _checks(document: Document) -> Any:
    """What was looked for and not found, and what could not be judged."""
    clear = [v["id"] for v in document["detectors"] if v["status"] == "clean"]
    blind = [v for v in document["detectors"] if v["status"] == "not_applicable"]
    lines: list[Any] = []
    if clear:
        lines.append(html.P([html.B("Looked for and not found: "), ", ".join(clear)]))
    lines += [html.P([html.B(f"{v['id']} not judged: "), clean(v["reason"] or "")]) for v in blind]
    summary = f"{len(clear)} other causes looked for and not found"
    summary += f", {len(blind)} not judged" if blind else ""
    return html.Details([html.Summary(summary), *lines], className="quiet")


def _input(document: Document) -> Any:
    run, read = document["run"], document["import"]
    lines = [
        f"Ranks {ranges(run['ranks'])}, known from: {run['rank_source']}. "
        f"Steps from: {run['step_source']}.",
        f"{read['events_read']:,} events read, {read['events_dropped']:,} could not be used.",
        *(f"Read: {p}" for p in run["paths"]),
        *(n["text"] for n in read["notes"]),
    ]
    items = [html.Li(clean(line)) for line in lines]
    count = len(read["notes"])
    title = f"About the input ({count} note{'s' if count != 1 else ''})"
    return html.Details([html.Summary(title), html.Ul(items)], className="quiet")
