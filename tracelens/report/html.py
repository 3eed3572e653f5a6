"""The report as one HTML file that opens offline: verdict, numbers, plots, setup, notes."""

from __future__ import annotations

import os
from html import escape
from typing import TYPE_CHECKING

from tracelens.errors import InputError
from tracelens.report import causes, markup, tables
from tracelens.report.figures import overlap_figure, step_breakdown_figure
from tracelens.report.files import write_whole
from tracelens.report.page import SCRIPT, STYLE
from tracelens.report.palette import PARTS as COLORS
from tracelens.report.tables import PARTS
from tracelens.report.text import clean, duration, percent, plural, ranges, tool_version
from tracelens.report.timeline import timeline_of, typical_step
from tracelens.report.verdict import hidden_communication, verdict
from tracelens.units import format_count

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from tracelens.analysis import Analysis


def write_html(analysis: Analysis, path: str | os.PathLike[str]) -> None:
    """Write the report to one self-contained file, whole or not at all.

    Parameters
    ----------
    analysis : Analysis
        One rank's file is read again for the timeline; the report says so where that fails.
    path : path
        Replaced only once the new file is complete.

    Raises
    ------
    InputError
        If the path cannot be written.
    """
    write_whole(path, page(analysis))


def page(analysis: Analysis) -> str:
    """The whole HTML document."""
    from plotly.offline import get_plotlyjs

    name = escape(tables.run_name(analysis))
    body = "\n".join(
        (
            _header(analysis, name),
            _verdict(analysis),
            _causes(analysis),
            _tiles(analysis),
            _steps(analysis),
            _communication(analysis),
            _timeline(analysis),
            _setup(analysis),
            _work(analysis),
            _input(analysis),
            f"<footer>tracelens {escape(tool_version())}</footer>",
        )
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name} - tracelens</title><style>{STYLE}</style></head>\n"
        f"<body><main>{body}</main>\n<script>{get_plotlyjs()}</script>\n"
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def _scroll(table: str) -> str:
    return f'<div class="scroll">{table}</div>'


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _plot(name: str, figure: go.Figure) -> str:
    """A place for a figure and its data, which cannot end the script element that holds it."""
    data = str(figure.to_json()).replace("<", "\\u003c")
    height = int(figure.layout.height or 400)
    return (
        f'<div class="plot" id="{name}" style="height:{height}px"></div>'
        f'<script type="application/json" id="{name}-data">{data}</script>'
    )


def _header(analysis: Analysis, name: str) -> str:
    run = analysis.run
    read = plural(len(run.ranks), "rank") + " read"
    if run.world_size and run.world_size > len(run.ranks):
        read += f" of {run.world_size}"
    about = [run.device, read, f"{format_count(run.n_events)} events", run.source]
    about += [f"torch {run.torch}" if run.torch else None, f"NCCL {run.nccl}" if run.nccl else None]
    line = " &middot; ".join(escape(clean(a)) for a in about if a)
    return f"<header><h1>{name}</h1><p>{line}</p></header>"


def _verdict(analysis: Analysis) -> str:
    first, *rest = verdict(analysis)
    items = "".join(f"<li>{escape(s)}</li>" for s in rest).replace(" ms", "&nbsp;ms")
    return f'<section class="verdict"><p class="lead">{escape(first)}</p><ul>{items}</ul></section>'


def _causes(analysis: Analysis) -> str:
    return _section(causes.TITLE, markup.causes(analysis)) if causes.shown(analysis) else ""


def _tiles(analysis: Analysis) -> str:
    s = analysis.summary
    tiles = [("step", duration(s.wall), f"mean of {s.n_steps}", "var(--soft)")]
    for name, label in PARTS.items():
        ns = getattr(s, name)
        tiles.append((label, percent(ns, s.wall), duration(ns), COLORS[name]))
    html = "".join(
        f'<div class="tile" style="--mark:{color}"><span>{label}</span><b>{escape(big)}</b>'
        f"<span>{escape(small)}</span></div>"
        for label, big, small, color in tiles
    )
    return f'<div class="tiles">{html}</div>'


def _steps(analysis: Analysis) -> str:
    _, choice = tables.shown_ranks(analysis)
    notes = [_note("Compute, exposed communication, exposed copies and idle add up to the step.")]
    if choice:
        notes.append(_note(choice))
    if not all(r.steps.complete.all() for r in analysis.ranks):
        notes.append(_note("Steps that the recording cut are pale and left out of the means."))
    plot = _plot("steps", step_breakdown_figure(analysis))
    table = _scroll(markup.breakdown_table(analysis, with_steps=False))
    return _section("Where each step went", plot, table, *notes)


def _communication(analysis: Analysis) -> str:
    if not analysis.collective_rows:
        text = hidden_communication(analysis) or "No communication kernels in the steps."
        return _section("Communication", _note(text))
    return _section(
        "Communication, per step and rank",
        _plot("overlap", overlap_figure(analysis)),
        _scroll(markup.collectives_table(analysis)),
        _note(f"{tables.wait_note(analysis)} Hidden is what runs beside compute."),
    )


def _timeline(analysis: Analysis) -> str:
    rank, step = typical_step(analysis)
    title = f"A typical step: rank {rank}, step {step}"
    try:
        figure = timeline_of(analysis, rank, step)
    except (
        InputError,
        OSError,
    ) as e:  # the file was there a moment ago; the rest of the report still holds
        return _section(title, _note(f"The trace could not be read again: {clean(str(e))}"))
    text = (
        "What is blank in the first row is idle. Short events closer than a pixel are drawn as "
        "one, which then says how many they are; zoom with the mouse, double-click to go back."
    )
    return _section(title, _plot("timeline", figure), _note(text))


def _setup(analysis: Analysis) -> str:
    if not len(analysis.setup):
        return ""
    return _section("Setup, as the trace shows it", markup.setup_table(analysis, all_evidence=True))


def _work(analysis: Analysis) -> str:
    note = _note("Lengths are summed: work that runs at the same time counts twice.")
    return _section("GPU work by kind, per step and rank", markup.split_table(analysis), note)


def _input(analysis: Analysis) -> str:
    run = analysis.run
    lines = [
        f"Ranks {ranges(run.ranks)}, known from: {run.rank_source}. "
        f"Steps from: {analysis.ranks[0].step_source}.",
        *(f"rank {r.rank}: {r.path}" for r in analysis.ranks),
    ]
    dropped = sum(r.stats.events_dropped for r in analysis.ranks)
    if dropped:
        lines.append(f"{format_count(dropped)} events could not be used.")
    lines += tables.note_lines(analysis)
    items = "".join(f"<li>{escape(clean(line))}</li>" for line in lines)
    return _section("About the input", f'<ul class="notes">{items}</ul>')
