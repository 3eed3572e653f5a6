"""What was running: each key with its evidence, beside the configuration that was given."""

from __future__ import annotations

from typing import Any

import dash_mantine_components as dmc
from dash import html

from tracelens.infer.result import STRUCTURAL
from tracelens.report.tables import value_text
from tracelens.report.text import clean, listing, plural

from .. import ui
from ..query import Query
from ..source import Document, RunView, Source


def layout(view: RunView, _query: Query, _source: Source) -> Any:
    """The page."""
    document = view.document
    setup = document["setup"]
    config = document["ds_config"]
    titles = ["key", "the trace shows", "sure", "because"]
    if config is not None:
        titles.insert(3, "ds_config says")
    head = dmc.TableThead(dmc.TableTr([dmc.TableTh(t) for t in titles]))
    body = dmc.TableTbody([_row(k, a, config is not None) for k, a in setup.items()])
    table = dmc.Table([head, body], striped="even", withRowBorders=False, className="setup")
    return dmc.Stack([*_compared(document), ui.card(table, title="Setup", note=_note(document))])


def _note(document: Document) -> str:
    setup = document["setup"]
    known = sum(a["value"] is not None for a in setup.values())
    return (
        f"Read off the recording: {known} of {len(setup)} keys are known. What the trace cannot "
        "tell is said, with what would decide."
    )


def _compared(document: Document) -> list[Any]:
    """How the trace and the given configuration agree."""
    config = document["ds_config"]
    if config is None:
        text = (
            "No ds_config was given: the collectors write it into their manifest, or give it with "
            "--ds-config."
        )
        return [dmc.Text(text, size="sm", c="dimmed")]
    said = {k: a for k, a in document["setup"].items() if "given" in a}
    wrong = [k for k, a in said.items() if a["contradicted"]]
    where = clean(config["source"])
    if wrong:
        title = f"The trace contradicts the ds_config in {plural(len(wrong), 'key')}"
        text = f"{listing(wrong)}: the job ran with something else than {where} says."
        return [dmc.Alert(text, title=title, color="orange")]
    text = f"{plural(len(said), 'key')} of the ds_config ({where}) can be checked, all agree."
    return [dmc.Alert(text, color="teal")]


def _row(key: str, answer: dict[str, Any], with_given: bool) -> Any:
    cells = [html.Code(key), _value(answer), _sure(answer)]
    if with_given:
        cells.append(_given(answer))
    cells.append([html.Div(clean(e)) for e in answer["evidence"]])
    wrong = bool(answer.get("contradicted"))
    return dmc.TableTr([dmc.TableTd(c) for c in cells], className="wrong" if wrong else "")


def _value(answer: dict[str, Any]) -> Any:
    if answer["value"] is not None:
        return html.B(value_text(answer["value"]))
    bounds = [
        f"{word} {value_text(answer[k])}"
        for word, k in (("at least", "low"), ("below", "high"))
        if answer.get(k) is not None
    ]
    options = [value_text(c) for c in answer["candidates"]]
    text = listing(bounds) or listing(options, "or")
    return html.Span(f"{text}?" if text else "–", className="unsure")


def _sure(answer: dict[str, Any]) -> Any:
    if answer["value"] is None:
        return ""
    sure = answer["confidence"] >= STRUCTURAL
    return html.Span(f"{100 * answer['confidence']:.0f}%", className="" if sure else "unsure")


def _given(answer: dict[str, Any]) -> Any:
    if "given" not in answer:
        return html.Span("–", className="unsure")
    text = value_text(answer["given"])
    return [html.B(text), " ✗ not so"] if answer["contradicted"] else text
