"""An `Analysis` in a notebook: the verdict, the causes in short, small tables; no scripts."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from tracelens.report import causes, markup, tables
from tracelens.report.verdict import verdict

if TYPE_CHECKING:
    from tracelens.analysis import Analysis

_STYLE = """<style>
.tracelens table{border-collapse:collapse;margin:.2em 0 1em}
.tracelens th,.tracelens td{padding:.15em .7em;text-align:left;vertical-align:top}
.tracelens .n{text-align:right;font-variant-numeric:tabular-nums}
.tracelens details{margin:.4em 0}
.tracelens .unknown td{opacity:.75;font-style:italic}
</style>"""


def to_html(analysis: Analysis) -> str:
    """A readable summary for ``_repr_html_``."""
    first, *rest = verdict(analysis)
    items = "".join(f"<li>{escape(s)}</li>" for s in rest)
    parts = [
        f"<p><b>{escape(tables.run_name(analysis))}</b></p>",
        f"<p><b>{escape(first)}</b></p><ul>{items}</ul>",
    ]
    if causes.shown(analysis):
        parts.append(f"<p><b>{causes.TITLE}</b></p>{markup.causes(analysis, short=True)}")
    parts.append(markup.breakdown_table(analysis, with_steps=False))
    if analysis.collective_rows:
        parts.append(markup.collectives_table(analysis))
    if len(analysis.setup):
        setup = markup.setup_table(analysis, all_evidence=False)
        parts.append(f"<details><summary>Setup and evidence</summary>{setup}</details>")
    return f'{_STYLE}<div class="tracelens">{"".join(parts)}</div>'
