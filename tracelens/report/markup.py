"""HTML pieces that the page and the notebook share. Every text that comes in is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from tracelens.report import causes as cause_rows
from tracelens.report import tables
from tracelens.report.palette import SEVERITY
from tracelens.report.tables import PARTS, BreakdownRow
from tracelens.report.text import clean, digits_for, ms_cell, number, percent, rate
from tracelens.units import format_bytes

if TYPE_CHECKING:
    from tracelens.analysis import Analysis
    from tracelens.collectives import CollectiveSummary


def table(head: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int) -> str:
    """An HTML table of plain texts; all but the first `text_columns` are set as numbers."""

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f'<{tag} class="{"t" if i < text_columns else "n"}">{escape(clean(c))}</{tag}>'
            for i, c in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><thead><tr>{cells('th', head)}</tr></thead><tbody>{body}</tbody></table>"


def breakdown_table(analysis: Analysis, *, with_steps: bool) -> str:
    """Mean rows of the ranks (and their steps while they are few), then the mean of all."""
    ranks, _ = tables.shown_ranks(analysis)
    rows: list[BreakdownRow] = []
    n_steps = sum(len(r.steps) for r in analysis.ranks)
    for mean in ranks:
        rows.append(mean)
        if with_steps and n_steps <= tables.MAX_STEP_ROWS:
            rows += [s for r in analysis.ranks if r.rank == mean.rank for s in tables.step_rows(r)]
    overall = tables.mean_row(analysis)
    rows += [overall] if len(analysis.ranks) > 1 else []
    digits = digits_for([r.wall for r in rows])
    columns = ("wall", *PARTS, "overlapped_comm")
    body = [[*_who(r), *(ms_cell(getattr(r, c), digits) for c in columns)] for r in rows]
    body.append(["", "share", *(percent(getattr(overall, c), overall.wall) for c in columns)])
    head = ("rank", "step", "wall ms", *PARTS.values(), "hidden comm")
    return table(head, body, 2)


def _who(row: BreakdownRow) -> tuple[str, str]:
    if row.step is not None:
        return "", f"{row.step}{'' if row.complete else ' (cut)'}"
    rank = "all" if row.rank is None else str(row.rank)
    return rank, f"mean of {row.n_steps}"


def collectives_table(analysis: Analysis) -> str:
    """Communication per step and rank, longest first."""
    rows = analysis.collective_rows
    digits = digits_for([c.total_ns for c in rows])
    waits = any(c.wait_ns is not None for c in rows)
    grouped = any(tables.group_name(c) for c in rows)
    body = [
        [
            c.kind,
            "optimizer" if c.phase == "step" else c.phase or "-",
            *([tables.group_name(c) or "-"] if grouped else []),
            c.dtype or "-",
            "-" if c.group_size is None else str(c.group_size),
            number(c.count_per_step),
            "-" if c.bytes_per_step is None else format_bytes(c.bytes_per_step),
            ms_cell(c.total_ns, digits),
            ms_cell(c.exposed_ns, digits),
            percent(c.total_ns - c.exposed_ns, c.total_ns),
            *(_waiting(c, digits) if waits else ()),
        ]
        for c in rows
    ]
    head = ("collective", "in", *(["group"] if grouped else []), "type")
    numbers: tuple[str, ...] = ("ranks", "count", "bytes", "total ms", "exposed ms", "hidden")
    numbers += ("waiting ms", "busbw GB/s") if waits else ()
    return table((*head, *numbers), body, len(head))


def _waiting(c: CollectiveSummary, digits: int) -> tuple[str, str]:
    return "-" if c.wait_ns is None else ms_cell(c.wait_ns, digits), rate(c.busbw_gbps)


def split_table(analysis: Analysis) -> str:
    """Summed length of the kinds of GPU work, per step and rank."""
    split = {k: v for k, v in tables.compute_split(analysis).items() if v > 0}
    total, digits = sum(split.values()), digits_for(split.values())
    order = sorted(split.items(), key=lambda p: -p[1])
    body = [[k, ms_cell(v, digits), percent(v, total)] for k, v in order]
    return table(("kind", "ms", "share"), body, 1)


def setup_table(analysis: Analysis, *, all_evidence: bool) -> str:
    """The setup with its evidence: every sentence, or the one that tells most."""
    body = []
    for row in tables.setup_rows(analysis):
        sentences = row.evidence if all_evidence else (row.reason,)
        evidence = "<br>".join(escape(s) for s in sentences)
        state = "" if row.known else ' class="unknown"'
        sure = row.confidence.replace("?", "cannot tell")
        body.append(
            f"<tr{state}><th>{escape(row.key)}</th><td>{escape(row.value)}</td>"
            f"<td>{escape(sure)}</td><td class='evidence'>{evidence}</td></tr>"
        )
    head = "<tr><th>key</th><th>value</th><th>sure</th><th>because</th></tr>"
    return f"<table class='setup'><thead>{head}</thead><tbody>{''.join(body)}</tbody></table>"


def causes(analysis: Analysis, *, short: bool = False) -> str:
    """The findings as cards, then what is information only, and what was looked for.

    With `short`, cost and title only, in one list.
    """
    rows, hidden = cause_rows.split_rows(analysis)
    if short:
        items = [f"{r.cost} ({r.share}): {r.title}" for r in rows]
        return _list(items or [cause_rows.nothing_sentence(analysis)])
    parts = [_card(r) for r in rows]
    rest = cause_rows.rest_sentence(analysis) if rows else cause_rows.nothing_sentence(analysis)
    parts.append(f"<p>{escape(rest)}</p>")
    if hidden:
        parts.append(f"<p>{escape(cause_rows.INFO)}</p>")
        parts.append(_list([cause_rows.info_text(r) for r in hidden]))
    parts += [f'<p class="note">{escape(line)}</p>' for line in cause_rows.looked_for(analysis)]
    return "".join(parts)


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _card(r: cause_rows.CauseRow) -> str:
    evidence = [f"{r.where}: {e}" if r.where and not i else e for i, e in enumerate(r.evidence)]
    config = "".join(f"<code>{escape(line)}</code> " for line in r.config)
    if r.predict:
        config += f"predict it: <code>{escape(r.predict)}</code>"
    return (
        f'<div class="cause" style="--mark:{SEVERITY[r.severity]}">'
        f'<div class="price"><b>{escape(r.cost)}</b><span>{escape(r.share)} of the step</span>'
        f'<span class="severity">{escape(r.severity)}</span></div>'
        f'<div><h3>{escape(r.title)}</h3><p class="soft">{escape("; ".join(evidence))}</p>'
        f"<p>Remedy: {escape(r.remedy)}</p>{f'<p>{config}</p>' if config else ''}</div></div>"
    )
