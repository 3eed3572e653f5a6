"""How much of the GPU's peak the job reaches, and in which modules, where FLOPs were counted."""

from __future__ import annotations

from typing import Any

import dash_mantine_components as dmc
from dash import html

from tracelens.report.text import clean, duration
from tracelens.units import NS_PER_MS

from .. import ui
from ..query import Query
from ..source import RunView, Source

#: Modules in the table: deeper ones add little.
_MODULES = 200


def layout(view: RunView, _query: Query, _source: Source) -> Any:
    """The page."""
    found = view.document["efficiency"]
    if found is None:
        return ui.nothing(
            "No FLOPs were counted.",
            "The collectors count them in one step beside the recording: tracelens collect flops.",
        )
    peak = found["peak_tflops"]
    timed = {"unprofiled": "timed without a profiler", "trace": "as recorded"}
    cells = [
        ui.stat("model FLOPs", _flops(found["model_flops"]), "a rank and step"),
        ui.stat("achieved", f"{found['tflops']:,.1f} TFLOP/s", "a GPU"),
        ui.stat("MFU", _share(found["mfu"]), f"of {peak:,.4g} TFLOP/s" if peak else "peak unknown"),
        ui.stat("HFU", _share(found["hfu"]), "with what is computed again"),
        ui.stat("step", duration(found["step_ms"] * NS_PER_MS), timed[found["step_source"]]),
    ]
    lines = [*found["notes"], *([f"Peak: {found['source']}"] if found["source"] else [])]
    top = ui.card(
        html.Div(cells, className="stats wide"),
        html.Ul([html.Li(clean(line)) for line in lines], className="quiet"),
        title="Use of the GPU",
    )
    return dmc.Stack([top, _modules(found["modules"])])


def _modules(modules: list[dict[str, Any]]) -> Any:
    columns = [
        ui.column("name", "module", flex=2, minWidth=240),
        ui.column("type", "type", flex=1, minWidth=140),
        ui.column("calls", "calls a step", 0),
        ui.size_column("forward", "forward FLOPs a step", unit=""),
        ui.column("latency_ms", "a call, ms", 3),
        ui.size_column("parameters", "parameters", unit=""),
    ]
    rows = [{**m, "name": m["name"] or "(the model)"} for m in modules[:_MODULES]]
    note = "" if len(modules) <= _MODULES else f"The first {_MODULES} of {len(modules)}."
    return ui.card(ui.table("tracelens-modules", columns, rows), title="Modules", note=note)


def _flops(value: float) -> str:
    """FLOPs with the prefix that fits.

    Examples
    --------
    >>> _flops(30e12)
    '30 TFLOP'
    """
    for prefix, one in (("P", 1e15), ("T", 1e12), ("G", 1e9)):
        if value >= one:
            return f"{value / one:,.3g} {prefix}FLOP"
    return f"{value:,.0f} FLOP"


def _share(value: float | None) -> str:
    return "not known" if value is None else f"{100 * value:.1f} %"
