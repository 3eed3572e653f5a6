"""Two runs beside each other: whether the step changed by more than noise, and what did."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import dash_mantine_components as dmc
from dash import html

from tracelens.report import tables
from tracelens.report.figures import text_of
from tracelens.report.palette import PARTS
from tracelens.report.tables import value_text
from tracelens.report.text import clean, duration
from tracelens.units import NS_PER_MS

from .. import figures, places, ui
from ..query import Query
from ..source import Document, OpenedRun, RunView, Source
from ..timeline.mount import PREFIX

_COLORS = {
    "faster": "teal",
    "slower": "red",
    "no difference": "blue",
    "cannot tell": "gray",
    "different work": "orange",
}


def layout(_view: RunView, query: Query, source: Source) -> Any:
    """The page."""
    if len(source.runs) < 2:
        return ui.nothing(
            "One run is open.",
            "Open two to compare them: tracelens dashboard BEFORE AFTER, or a run.db with several.",
        )
    pair = _chosen(query, source)
    if pair is None:
        return ui.nothing("There is no such run here.", "Choose two of those that are open.")
    head = _controls(source, pair)
    views = []
    for run in pair:
        run.job.start()
        if run.view is None:
            waiting = ui.pending(run.job_id, f"Reading {clean(run.name)}", run.job.state)
            return dmc.Stack([head, waiting])
        views.append(run.view)
    before, after = views
    return dmc.Stack([head, *_compared(before, after, query)], gap="md")


def _chosen(query: Query, source: Source) -> tuple[OpenedRun, OpenedRun] | None:
    """The two runs that the URL names; by default the first two."""
    before = source.get(query.text("before"))
    if before is None:
        return None
    others = [r for r in source.runs if r is not before]
    name = query.text("after")
    after = others[0] if name is None else source.get(name)
    return None if after is None else (before, after)


def _controls(source: Source, pair: tuple[OpenedRun, OpenedRun]) -> Any:
    options = [(r.id, r.name) for r in source.runs]
    parts = []
    for name, run in zip(("before", "after"), pair, strict=True):
        chosen = ui.select(name, name, options, run.id)
        chosen.w = 320
        parts.append(chosen)
    return dmc.Group(parts, gap="sm")


def _compared(before: RunView, after: RunView, query: Query) -> list[Any]:
    from tracelens.api import compare

    told = compare(before.document, after.document).to_json()
    return [
        _verdict(told),
        dmc.Grid(
            [
                dmc.GridCol(_step(told, before, after), span={"base": 12, "lg": 7}),
                dmc.GridCol(_setup(told), span={"base": 12, "lg": 5}),
            ]
        ),
        _aligned(before, after, query),
        _findings(told),
        _deltas(told),
    ]


def _verdict(told: dict[str, Any]) -> Any:
    sentences = [dmc.Text(clean(s), size="sm") for s in told["sentences"]]
    title = told["outcome"].capitalize()
    return dmc.Alert(sentences, title=title, color=_COLORS.get(title.lower(), "gray"))


def _step(told: dict[str, Any], before: RunView, after: RunView) -> Any:
    labels = [f"before: {text_of(before.name, 24)}", f"after: {text_of(after.name, 24)}"]
    rows = (told["before"], told["after"])
    parts = [(words, PARTS[k], [r[f"{k}_ms"] for r in rows]) for k, words in tables.PARTS.items()]
    figure = figures.split_bars(labels, parts, "ms per step and rank")
    s = told["step_ms"]
    note = f"{duration(s['before'] * NS_PER_MS)} → {duration(s['after'] * NS_PER_MS)}"
    if s["delta_pct"] is not None:
        note += f", {s['delta_pct']:+.1f} %"
    if s["low_pct"] is not None:
        note += f" (95 % interval {s['low_pct']:+.1f} to {s['high_pct']:+.1f} %)"
    return ui.card(ui.graph(figure, "tracelens-compare"), title="The step", note=note)


def _setup(told: dict[str, Any]) -> Any:
    changes = {**told["run_changes"], **told["setup_changes"]}
    if not changes:
        text = dmc.Text("Nothing that the traces show: same setup, same versions.", size="sm")
        return ui.card(text, title="What was changed")
    rows = [
        dmc.TableTr([dmc.TableTd(html.Code(k)), *(dmc.TableTd(_value(v)) for v in pair)])
        for k, pair in changes.items()
    ]
    head = dmc.TableThead(dmc.TableTr([dmc.TableTh(t) for t in ("key", "before", "after")]))
    return ui.card(dmc.Table([head, dmc.TableTbody(rows)]), title="What was changed")


def _value(value: Any) -> str:
    return (
        value_text(value) if isinstance(value, (str, int)) or value is None else clean(str(value))
    )


def _aligned(before: RunView, after: RunView, query: Query) -> Any:
    """One step of each run on one axis from the steps' beginnings, with what differs beside."""
    title = "One step of each, aligned at its beginning"
    views = {"before": before, "after": after}
    chosen = {word: _step_of(view, query, word) for word, view in views.items()}
    controls = dmc.Group([_choice(view, *chosen[w], w) for w, view in views.items()], gap="xl")
    places_ = {w: places.of_step(v.document, *chosen[w]) for w, v in views.items()}
    if None in places_.values():
        text = dmc.Text("That rank has no such step.", size="sm")
        return ui.card(controls, text, title=title)
    told = {
        f"data-{w}": json.dumps(
            {"run": views[w].id, "name": clean(views[w].name), **asdict(p)}  # type: ignore[call-overload]
        )
        for w, p in places_.items()
    }
    rows = [_row_of(v.document, *chosen[w]) for w, v in views.items()]
    canvas = html.Div(id="pair", **{"data-routes": PREFIX}, **told)
    return ui.card(
        controls,
        dmc.Grid(
            [
                dmc.GridCol(canvas, span={"base": 12, "lg": 9}),
                dmc.GridCol(_differences(*rows), span={"base": 12, "lg": 3}),
            ],
            mt="sm",
        ),
        title=title,
        note="Both move together: drag, Ctrl + wheel, W A S D, F to fit.",
    )


def _step_of(view: RunView, query: Query, word: str) -> tuple[int, int]:
    """Rank and step of one side: those that the URL names for it, else those that it names."""
    own = {n: query.text(f"{word}_{n}") or query.text(n) for n in ("rank", "step")}
    return ui.chosen(view, Query({k: v for k, v in own.items() if v}))


def _choice(view: RunView, rank: int, step: int, word: str) -> Any:
    """The choice of one side's rank and step."""
    return dmc.Group(
        [
            ui.select(f"{word}_{name}", f"{word}: {name}", [(str(n), str(n)) for n in of], str(now))
            for name, of, now in (("rank", view.ranks, rank), ("step", view.steps, step))
        ],
        gap="xs",
    )


def _row_of(document: Document, rank: int, step: int) -> dict[str, Any]:
    return next(r for r in document["steps"] if r["rank"] == rank and r["step"] == step)


def _differences(before: dict[str, Any], after: dict[str, Any]) -> Any:
    """What each part of the step takes in both, and the difference."""
    words = {"wall": "the step", **tables.PARTS, "overlapped_comm": "hidden comm"}
    body = []
    for key, word in words.items():
        a, b = before[f"{key}_ms"], after[f"{key}_ms"]
        if not a and not b:
            continue
        change = "more" if b > a else "less" if b < a else ""
        cells = [f"{a:,.2f}", f"{b:,.2f}", f"{b - a:+,.2f}"]
        body.append(
            dmc.TableTr(
                [
                    dmc.TableTd(_swatched(key, word)),
                    *(dmc.TableTd(c, className="number") for c in cells[:2]),
                    dmc.TableTd(cells[2], className=f"number {change}"),
                ],
                className="whole" if key == "wall" else "",
            )
        )
    head = [dmc.TableTh("ms"), *(dmc.TableTh(t) for t in ("before", "after", "change"))]
    return dmc.Table(
        [dmc.TableThead(dmc.TableTr(head)), dmc.TableTbody(body)],
        className="differences",
        withRowBorders=False,
    )


def _swatched(key: str, word: str) -> Any:
    color = PARTS.get(key)
    mark = html.Span(className="swatch", style={"backgroundColor": color or "transparent"})
    return html.Span([mark, word])


def _findings(told: dict[str, Any]) -> Any:
    groups = (("gone", told["findings_gone"]), ("new", told["findings_new"]))
    rows = [
        {
            "change": word,
            "title": f["title"],
            "before_ms": f["cost_ms_per_step"] if word == "gone" else None,
            "after_ms": f["cost_ms_per_step"] if word == "new" else None,
            "id": f["id"],
        }
        for word, found in groups
        for f in found
    ]
    rows += [{"change": "kept", **f} for f in told["findings_kept"]]
    rows += [
        {"change": "not judged", "title": f.get("title") or f.get("reason"), **f}
        for f in told["findings_unjudged"]
    ]
    columns = [
        ui.column("change", "", minWidth=90),
        ui.column("title", "cause", flex=3, minWidth=320, wrapText=True, autoHeight=True),
        ui.column("before_ms", "before, ms a step", 2, minWidth=110),
        ui.column("after_ms", "after, ms a step", 2, minWidth=110),
        ui.column("id", "id", flex=1, minWidth=180),
    ]
    shown = [{c["field"]: r.get(c["field"]) for c in columns} for r in rows]
    return ui.card(ui.table("tracelens-causes", columns, shown), title="What slows the step")


def _deltas(told: dict[str, Any]) -> Any:
    rows = [{"metric": k, **v} for k, v in told["deltas"].items()]
    columns = [
        ui.column("metric", "metric", flex=1, minWidth=200),
        ui.column("before", "before", 3),
        ui.column("after", "after", 3),
        ui.column("delta", "difference", 3),
        ui.column("p_value", "p", 4),
    ]
    note = "Means per step and rank; p is of Welch's test over the steps, where steps have it."
    grid = ui.table("tracelens-differences", columns, rows)
    return ui.card(grid, title="All numbers", note=note)
