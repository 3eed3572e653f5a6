"""What the recorded steps would be under another configuration: predictions and the search."""

from __future__ import annotations

import json
from typing import Any

import dash_mantine_components as dmc
from dash import dcc, html

from tracelens.errors import CannotPredict, InputError
from tracelens.replay import Predictor, load, make_change
from tracelens.replay.tune import tune
from tracelens.report.tables import value_text
from tracelens.report.text import clean, duration
from tracelens.units import NS_PER_MS

from .. import figures, ui
from ..jobs import Cancelled, Tick
from ..source import RunView


def _predictor(view: RunView, tick: Tick) -> Predictor:
    """The run's predictor: made once, by a job of its own."""
    job = view.jobs.ask(f"replay/{view.id}", lambda inner: _load(view, inner))
    while job.result is None:
        state = job.wait(0.1)
        try:
            tick(f"reading the recording again: {state.what}", state.done, state.total)
        except Cancelled:
            job.cancel()
            raise
        if state.status == "failed":
            raise InputError(state.message, hint=state.hint)
        if state.status == "cancelled":
            job.start()
    return job.result


def _load(view: RunView, tick: Tick) -> Predictor:
    analysis = view.analysis()
    return Predictor(analysis, load(analysis, progress=tick))


def predicted(view: RunView, change: dict[str, str]) -> tuple[bool, Any]:
    """Whether the prediction is there, and it or how far it is."""
    words = ", ".join(f"{k} = {v}" for k, v in change.items())

    def work(tick: Tick) -> dict[str, Any]:
        wanted = make_change(change)
        predictor = _predictor(view, tick)
        tick("replaying", 0, 0)
        try:
            told = predictor.predict(wanted).to_json()
        except CannotPredict as e:
            return {"cannot": str(e), "hint": e.hint or ""}
        tick("keeping it", 0, 0)
        return told | {"kept": view.keep_prediction(told)}

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
        dmc.Text(clean(told["kept"]), size="xs", c="dimmed"),
        title=f"With {clean(words)}",
    )


def _ms(value: float) -> str:
    return duration(value * NS_PER_MS)


# -------------------------------------------------------------------------------------- search
def searched(view: RunView) -> Any:
    """The settings that were found best, or how far the search is."""

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
        *(ui.column(k, k, minWidth=max(90, 9 * len(k))) for k in keys),
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
