"""The findings on a terminal: cost, severity and title, then evidence and remedy below."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tracelens.report.causes import (
    INFO,
    CauseRow,
    info_text,
    looked_for,
    nothing_sentence,
    rest_sentence,
    shown,
    split_rows,
)
from tracelens.report.palette import TERMINAL_SEVERITY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tracelens.analysis import Analysis

#: Below this width cost and severity go above the title instead of beside it.
SIDE_BY_SIDE = 80
#: Evidence lines of one finding that are shown.
_EVIDENCE = 2
_SOFT = "bright_black"


def draw_causes(analysis: Analysis, width: int) -> RenderableType | None:
    """The section, or None for a recording without GPU work or without verdicts."""
    if not shown(analysis):
        return None
    rows, hidden = split_rows(analysis)
    parts: list[RenderableType] = []
    if rows:
        draw = _beside if width >= SIDE_BY_SIDE else _stacked
        parts += [draw(rows), Text(rest_sentence(analysis), _SOFT)]
    else:
        parts.append(Text(nothing_sentence(analysis)))
    if hidden:
        parts += [Text(INFO), _bullets([info_text(r) for r in hidden])]
    parts += [Text(line, _SOFT) for line in looked_for(analysis)]
    return Group(*parts)


def _beside(rows: Sequence[CauseRow]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for justify in ("right", "right", "left"):
        table.add_column(justify=justify, no_wrap=True)
    table.add_column(overflow="fold")
    for r in rows:
        severity = Text(r.severity, TERMINAL_SEVERITY[r.severity])
        table.add_row(Text(r.cost), Text(r.share), severity, _body(r))
    return table


def _stacked(rows: Sequence[CauseRow]) -> Group:
    lines: list[RenderableType] = []
    for r in rows:
        head = Text.assemble(f"{r.cost}  {r.share}  ", (r.severity, TERMINAL_SEVERITY[r.severity]))
        lines += [head, Padding(_body(r), (0, 0, 0, 2))]
    return Group(*lines)


def _body(r: CauseRow) -> Group:
    lines = [Text(r.title, "bold")]
    evidence = "; ".join(r.evidence[:_EVIDENCE])
    where = f"{r.where}: " if r.where else ""
    if evidence or where:
        lines.append(Text(f"{where}{evidence}", _SOFT))
    if r.remedy:
        lines.append(Text(f"remedy: {r.remedy}"))
    lines += [Text(f"config: {line}") for line in r.config]
    if r.predict:
        lines.append(Text(f"predict it: {r.predict}"))
    return Group(*lines)


def _bullets(lines: Sequence[str]) -> Table:
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=1)
    table.add_column(overflow="fold")
    for line in lines:
        table.add_row("-", Text(line, _SOFT))
    return table
