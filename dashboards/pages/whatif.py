"""What another configuration would give: knobs, the predicted step, and a search over them."""

from __future__ import annotations

import math
from typing import Any

import dash_mantine_components as dmc
from dash import ALL, Dash, Input, Output, State, ctx, html, no_update

from .. import ui
from ..query import SET, Query
from ..source import Document, RunView, Source

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
    from . import replays

    change = _change(query)
    right: list[Any] = []
    done = True
    if change:
        done, part = replays.predicted(view, change)
        right.append(part)
    if query.text("tune") and done:  # one job at a time is watched
        right.append(replays.searched(view))
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
        cleared: dict[str, object] = {k: None for k in query.values if k.startswith(SET)}
        if button == "clear":
            return query.search(**cleared, tune=None)
        wanted = {SET + n: _text(n, v) for n, v in zip(names, values, strict=True)}
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
    return {k.removeprefix(SET): v for k, v in sorted(query.values.items()) if k.startswith(SET)}


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
    from tracelens.report.tables import value_text

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
