"""What another configuration would give: knobs, the predicted step, and a search over them."""

from __future__ import annotations

import json
import math
from typing import Any

import dash_mantine_components as dmc
from dash import ALL, Dash, Input, Output, State, ctx, dcc, html, no_update

from tracelens.errors import CannotPredict, InputError
from tracelens.replay import Predictor, load, make_change
from tracelens.replay.tune import tune
from tracelens.report.tables import value_text
from tracelens.report.text import clean, duration
from tracelens.units import NS_PER_MS

from .. import figures, ui
from ..jobs import Tick
from ..query import Query
from ..source import Document, RunView, Source

#: Before a knob's name in the URL.
_SET = "set."
#: The knobs: key, words, what the setup calls it, and the values to choose from; without values a
#: number is typed.
_KNOBS: tuple[tuple[str, str, str | None, tuple[str, ...]], ...] = (
    ("stage", "ZeRO stage", "zero_stage", ("0", "1", "2", "3")),
    ("overlap_comm", "overlap_comm", "overlap_comm", ("true", "false")),
    ("reduce_bucket_size", "reduce_bucket_size, elements", "reduce_bucket_size", ()),
    ("stage3_prefetch_bucket_size", "stage3_prefetch_bucket_size, elements", None, ()),
    (
        "gradient_accumulation_steps",
        "gradient_accumulation_steps",
        "gradient_accumulation_steps",
        (),
    ),
    ("world_size", "ranks", "data_parallel_size", ()),
)
_SPEED = "interconnect_speed"
_KEEP = "as it is"
#: Marks of the slider of the link's speed, as powers of two.
_SPEEDS = range(-3, 4)


def layout(view: RunView, query: Query, _source: Source) -> Any:
    """The page."""
    change = _change(query)
    right: list[Any] = []
    done = True
    if change:
        done, part = _predicted(view, change)
        right.append(part)
    if query.text("tune") and done:  # one job at a time is watched
        right.append(_searched(view))
    if not right:
        right.append(
            ui.nothing(
                "Nothing is changed yet.",
                "Set a knob and predict, or search for better settings: the recorded steps are "
                "replayed with the change, nothing is run.",
            )
        )
    return dmc.Grid(
        [
            dmc.GridCol(_knobs(view.document, query), span={"base": 12, "lg": 4}),
            dmc.GridCol(dmc.Stack(right), span={"base": 12, "lg": 8}),
        ]
    )


def register(app: Dash, _source: Source) -> None:
    """The buttons put the knobs into the URL; the patch is downloaded."""

    @app.callback(
        Output("url", "search", allow_duplicate=True),
        Input({"type": "whatif", "name": ALL}, "n_clicks"),
        State({"type": "knob", "name": ALL}, "value"),
        State("url", "search"),
        prevent_initial_call=True,
    )
    def ask(clicks: list[int | None], values: list[Any], search: str) -> Any:
        if not any(clicks) or not isinstance(ctx.triggered_id, dict):
            return no_update
        query = Query.parse(search)
        button = ctx.triggered_id["name"]
        if button == "tune":
            return query.search(tune=1)
        names = [s["id"]["name"] for s in ctx.states_list[0]]
        cleared: dict[str, object] = {k: None for k in query.values if k.startswith(_SET)}
        if button == "clear":
            return query.search(**cleared, tune=None)
        wanted = {_SET + n: _text(n, v) for n, v in zip(names, values, strict=True)}
        return query.search(**cleared | wanted)

    @app.callback(
        Output("patch", "data"),
        Input("patch-save", "n_clicks"),
        State("patch-text", "children"),
        prevent_initial_call=True,
    )
    def save(clicks: int | None, text: str) -> Any:
        return {"content": text, "filename": "ds_config.tuned.json"} if clicks else no_update


def _text(name: str, value: Any) -> str | None:
    """A knob's value as it stands in the URL; None where it stays as it is."""
    if value in (None, "", _KEEP):
        return None
    if name == _SPEED:
        return f"{2.0**value:g}" if value else None
    return str(value)


def _change(query: Query) -> dict[str, str]:
    return {k.removeprefix(_SET): v for k, v in sorted(query.values.items()) if k.startswith(_SET)}


# ---------------------------------------------------------------------------------------- knobs
def _knobs(document: Document, query: Query) -> Any:
    change = _change(query)
    parts = [_knob(document, change, *knob) for knob in _KNOBS]
    return ui.card(
        dmc.Stack(
            [
                *parts,
                _speed(change.get(_SPEED)),
                dmc.Group(
                    [
                        _button("predict", "Predict", "filled"),
                        _button("tune", "Search for better", "default"),
                        _button("clear", "Clear", "subtle"),
                    ],
                    gap="xs",
                ),
            ],
            gap="sm",
        ),
        title="Change",
    )


def _button(name: str, text: str, variant: str) -> Any:
    return dmc.Button(text, id={"type": "whatif", "name": name}, size="xs", variant=variant)


def _knob(document: Document, change: dict[str, str], key: str, words: str, *more: Any) -> html.Div:
    seen, values = more
    name = {"type": "knob", "name": key}
    answer = document["setup"].get(seen) if seen else None
    now = answer["value"] if answer else None
    label = dmc.Group(
        [
            dmc.Text(words, size="xs", fw=600),
            dmc.Text("" if now is None else f"now {value_text(now)}", size="xs", c="dimmed"),
        ],
        justify="space-between",
    )
    if values:
        data = [{"value": v, "label": {"true": "on", "false": "off"}.get(v, v)} for v in values]
        data.insert(0, {"value": _KEEP, "label": _KEEP})
        field: Any = dmc.SegmentedControl(
            id=name, data=data, value=change.get(key, _KEEP), size="xs", fullWidth=True
        )
    else:
        field = dmc.NumberInput(
            id=name, value=change.get(key, ""), placeholder=_KEEP, size="xs", min=1,
            thousandSeparator=",", allowDecimal=False, hideControls=True,
        )  # fmt: skip
    return html.Div([label, field])


def _speed(value: str | None) -> html.Div:
    try:
        power = round(math.log2(float(value or 1)), 2)
    except ValueError:
        power = 0.0
    return html.Div(
        [
            dmc.Text("speed of the link between ranks", size="xs", fw=600),
            dmc.Slider(
                id={"type": "knob", "name": _SPEED},
                min=_SPEEDS[0], max=_SPEEDS[-1], step=0.5, value=power, label=None,
                marks=[{"value": p, "label": f"{2.0**p:g}x"} for p in _SPEEDS], mb="lg", px="sm",
            ),
        ]
    )  # fmt: skip


# ------------------------------------------------------------------------------------ prediction
def _predictor(view: RunView, tick: Tick) -> Predictor:
    """The run's predictor: made once, by a job of its own."""
    job = view.jobs.ask(f"replay/{view.id}", lambda inner: _load(view, inner))
    while job.result is None:
        state = job.wait(0.1)
        tick("reading the recording again", 0, 0)
        if state.status == "failed":
            raise InputError(state.message, hint=state.hint)
        if state.status == "cancelled":
            job.start()
    return job.result


def _load(view: RunView, tick: Tick) -> Predictor:
    tick("reading the recording again", 0, 0)
    analysis = view.analysis()
    return Predictor(analysis, load(analysis))


def _predicted(view: RunView, change: dict[str, str]) -> tuple[bool, Any]:
    """Whether the prediction is there, and it or how far it is."""
    words = ", ".join(f"{k} = {v}" for k, v in change.items())

    def work(tick: Tick) -> dict[str, Any]:
        wanted = make_change(change)
        predictor = _predictor(view, tick)
        tick("replaying", 0, 0)
        try:
            return predictor.predict(wanted).to_json()
        except CannotPredict as e:
            return {"cannot": str(e), "hint": e.hint or ""}

    name = f"whatif/{view.id}/{json.dumps(change, sort_keys=True)}"
    job = view.jobs.ask(name, work)
    if job.result is None:
        return False, ui.pending(name, f"With {clean(words)}", job.state)
    if "cannot" in job.result:
        lines = [clean(job.result["cannot"]), *clean(job.result["hint"]).splitlines()]
        return True, ui.nothing(f"With {clean(words)}: this recording cannot tell", *lines)
    return True, _told(job.result, words)


def _told(told: dict[str, Any], words: str) -> Any:
    base, then = told["baseline"], told["predicted"]
    band = f"{_ms(then['low_ms'])} to {_ms(then['high_ms'])}"
    off = f"the replay is {base['replay_error_pct']:+.1f} % off"
    noise = "no more than noise" if then["within_noise"] else "of the replayed step"
    cells = [
        ui.stat("a step takes", _ms(base["step_ms"]), "as recorded"),
        ui.stat("predicted", _ms(then["step_ms"]), band),
        ui.stat("that is", f"{100 * (then['ratio'] - 1):+.1f} %", noise),
        ui.stat("confidence", clean(told["confidence"]), off),
    ]
    if then["unprofiled_step_ms"] is not None:
        now = _ms(base["unprofiled_step_ms"])
        cells.append(ui.stat("without a profiler", _ms(then["unprofiled_step_ms"]), f"now {now}"))
    if then["memory_delta_bytes"] is not None:
        delta = then["memory_delta_bytes"]
        sign = "-" if delta < 0 else "+"
        cells.append(ui.stat("memory", f"{sign}{figures.size_text(abs(delta))}", "a GPU"))
    figure = figures.predicted(
        ["recorded", "replayed", "predicted"],
        [base["step_ms"], base["replayed_step_ms"], then["step_ms"]],
        (then["low_ms"], then["high_ms"]),
    )
    notes = [html.Li(clean(n)) for n in told["notes"]]
    return ui.card(
        html.Div(cells, className="stats wide"),
        ui.graph(figure, "tracelens-whatif"),
        html.Ul(notes, className="quiet"),
        title=f"With {clean(words)}",
    )


def _ms(value: float) -> str:
    return duration(value * NS_PER_MS)


# ---------------------------------------------------------------------------------------- search
def _searched(view: RunView) -> Any:
    def work(tick: Tick) -> dict[str, Any]:
        predictor, given = _predictor(view, tick), view.analysis().ds_config
        return tune(predictor, given, lambda i, n: tick("settings tried:", i, n)).to_json()

    name = f"tune/{view.id}"
    job = view.jobs.ask(name, work)
    if job.result is None:
        return ui.pending(name, "Searching for better settings", job.state)
    return _table(job.result)


def _table(told: dict[str, Any]) -> Any:
    keys = list(dict.fromkeys(k for c in told["candidates"] for k in c["change"]))
    rows = [
        {
            **{k: value_text(v) for k, v in c["change"].items()},
            **{k: c["predicted"][k] for k in ("step_ms", "low_ms", "high_ms")},
            "gain": 100 * (c["predicted"]["ratio"] - 1),
            "confidence": c["confidence"],
            "noise": "noise" if c["predicted"]["within_noise"] else "",
        }
        for c in told["candidates"]
    ]
    columns = [
        *(ui.column(k, k, minWidth=120) for k in keys),
        ui.column("step_ms", "step ms", 2),
        ui.column("low_ms", "from", 2),
        ui.column("high_ms", "to", 2),
        ui.column("gain", "change %", 1),
        ui.column("noise", ""),
        ui.column("confidence", "confidence", minWidth=96),
    ]
    parts: list[Any] = [ui.table("tracelens-tune", columns, rows)]
    if told["not_worth_it"]:
        parts.insert(0, dmc.Alert(clean(told["not_worth_it"]), color="gray", mb="sm"))
    lines = [n["why"] for n in told["no_effect"]]
    lines += [f"{n['key']} was not tried: {n['why']}" for n in told["refused"]]
    parts += [dmc.Text(clean(line), size="sm", c="dimmed", mt="xs") for line in lines]
    if told["ds_config"]:
        parts += [
            html.Pre(json.dumps(told["ds_config"], indent=1), id="patch-text", className="config"),
            dmc.Button("Save as ds_config", id="patch-save", size="xs", variant="default", mt="xs"),
            dcc.Download(id="patch"),
        ]
    return ui.card(*parts, title="Better settings", note="Predicted by replay, best first.")
