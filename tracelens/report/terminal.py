"""The report on a terminal: the verdict first, then what it was read from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tracelens.report import causes, tables
from tracelens.report.grid import Column, grid
from tracelens.report.palette import ASCII_BLOCKS, BLOCKS, TERMINAL
from tracelens.report.printing import print_report, put, section, to_text
from tracelens.report.tables import PARTS, BreakdownRow, SetupRow
from tracelens.report.terminal_causes import draw_causes
from tracelens.report.text import clean, digits_for, ms_cell, number, percent, plural, ranges, rate
from tracelens.report.verdict import hidden_communication, verdict
from tracelens.units import format_bytes, format_count

if TYPE_CHECKING:
    from tracelens.analysis import Analysis

#: Below this width evidence goes under its value instead of beside it.
SIDE_BY_SIDE = 90
#: More collectives than this are summed up in one line.
MAX_COLLECTIVES = 20
_BAR = (12, 48)  # least and most characters of a bar


def render_text(analysis: Analysis, width: int = 100) -> str:
    """The report as plain text.

    Parameters
    ----------
    analysis : Analysis
    width : int
        Columns to fit into.

    Returns
    -------
    str
        Lines without colour codes and without trailing blanks.
    """
    return to_text(lambda console: _render(analysis, console), width)


def render(analysis: Analysis, console: Console) -> None:
    """Print the report.

    Parameters
    ----------
    analysis : Analysis
    console : rich.console.Console
        Its width decides which columns are shown, its encoding which characters.
    """
    print_report(lambda c: _render(analysis, c), console)


def _render(analysis: Analysis, console: Console) -> None:
    width = console.width
    ascii_only = console.options.ascii_only
    put(console, _title(analysis))
    put(console, _verdict(analysis))
    section(console, causes.TITLE, draw_causes(analysis, width))
    section(console, "Setup", _setup(analysis, width, ascii_only))
    section(console, "Where each step went (ms)", _breakdown(analysis, width, ascii_only))
    section(console, "Communication (per step and rank)", _collectives(analysis, width, ascii_only))
    section(console, "GPU work by kind (per step and rank)", _split(analysis, width, ascii_only))
    section(console, "About the input", _notes(analysis))


def _title(analysis: Analysis) -> Text:
    run = analysis.run
    versions = (("torch", run.torch), ("NCCL", run.nccl))
    about = [
        f"{plural(len(run.ranks), 'rank')} read"
        + (f" of {run.world_size}" if run.world_size and run.world_size > len(run.ranks) else ""),
        f"{format_count(run.n_events)} events",
        run.source,
        *(f"{name} {clean(version)}" for name, version in versions if version),
    ]
    return Text.assemble(
        ("tracelens  ", "bold"), tables.run_name(analysis), "  ", (", ".join(about), "bright_black")
    )


def _verdict(analysis: Analysis) -> Panel:
    first, *rest = verdict(analysis)
    lines = Table.grid(padding=(0, 1, 0, 0))
    lines.add_column(width=1)
    lines.add_column(overflow="fold")
    for sentence in rest:
        lines.add_row("-", Text(sentence))
    return Panel(Group(Text(first, style="bold"), lines), title="Verdict", title_align="left")


# --------------------------------------------------------------------------------------- setup
def _setup(analysis: Analysis, width: int, ascii_only: bool) -> RenderableType | None:
    rows = tables.setup_rows(analysis)
    if not rows:
        return None
    silent = [r for r in rows if not r.known and not r.confidence]
    rows = tuple(r for r in rows if r.known or r.confidence)
    styles = ["" if r.known else "yellow" for r in rows]
    if width < SIDE_BY_SIDE:
        return Group(_stacked_setup(rows, styles), *_silent(silent))
    columns = [
        Column("key", [Text(r.key) for r in rows], "left"),
        Column("value", [Text(r.value, s) for r, s in zip(rows, styles, strict=True)], "left"),
        Column("sure", [Text(r.confidence) for r in rows], "left"),
        Column("because", [Text(r.reason) for r in rows], "left", minimum=28),
    ]
    return Group(grid(columns, width, ascii_only), *_silent(silent))


def _silent(rows: Sequence[SetupRow]) -> list[Text]:
    """The keys without any answer, by reason, in one paragraph."""
    by_reason: dict[str, list[str]] = {}
    for r in rows:
        by_reason.setdefault(r.reason, []).append(r.key)
    parts = [f"{', '.join(keys)}{f' ({why})' if why else ''}" for why, keys in by_reason.items()]
    return [Text(f"no answer: {'; '.join(parts)}", "bright_black")] if parts else []


def _stacked_setup(rows: Sequence[SetupRow], styles: Sequence[str]) -> Group:
    """Key, value and confidence on a line, the evidence indented below it."""
    lines: list[RenderableType] = []
    for r, style in zip(rows, styles, strict=True):
        sure = f"  ({r.confidence})" if r.known else "  (cannot tell)" if r.confidence else ""
        lines.append(Text.assemble((f"{r.key}: ", "bold"), (r.value, style), sure))
        if r.reason:
            lines.append(Padding(Text(r.reason, "bright_black"), (0, 0, 0, 4)))
    return Group(*lines)


# ----------------------------------------------------------------------------------- breakdown
def _breakdown(analysis: Analysis, width: int, ascii_only: bool) -> Group:
    ranks, choice = tables.shown_ranks(analysis)
    overall = tables.mean_row(analysis)
    rows = [*_with_steps(analysis, ranks), overall]
    digits = digits_for([r.wall for r in rows])

    names = [Text(_rank(r), _row_style(r)) for r in rows]
    if len(analysis.ranks) == 1:
        names[-1] = Text(str(analysis.ranks[0].rank))

    def column(title: str, name: str, drop: int) -> Column:
        cells = [Text(ms_cell(getattr(r, name), digits), _row_style(r)) for r in rows]
        cells.append(Text(percent(getattr(overall, name), overall.wall), "bright_black"))
        return Column(title, cells, drop=drop)

    columns = [
        Column("rank", [*names, Text("")], "left"),
        Column("step", [Text(_step(r), _row_style(r)) for r in rows] + [Text("")], "left"),
        column("wall", "wall", 0),
        column("compute", "compute", 2),
        column("exposed comm", "exposed_comm", 0),
        column("exposed copies", "exposed_copy", 5),
        column("idle", "idle", 1),
        column("hidden comm", "overlapped_comm", 4),
    ]
    bars = _bars(rows, width - sum(c.width + 2 for c in columns), ascii_only)
    if bars:
        columns.append(Column("", [*bars, Text("")], "left", minimum=_BAR[0], drop=6))
    return Group(
        grid(columns, width, ascii_only),
        *_breakdown_notes(analysis, rows, choice, bars, ascii_only),
    )


def _with_steps(analysis: Analysis, ranks: Sequence[BreakdownRow]) -> list[BreakdownRow]:
    """A mean row a rank, and the rank's steps below it while there are few."""
    by_rank = {r.rank: r for r in analysis.ranks}
    shown = [by_rank[r.rank] for r in ranks if r.rank is not None]
    if sum(len(r.steps) for r in shown) > tables.MAX_STEP_ROWS:
        return list(ranks)
    if len(shown) == 1:  # its mean is the mean of all
        return list(tables.step_rows(shown[0])) if len(shown[0].steps) > 1 else []
    rows = []
    for mean, r in zip(ranks, shown, strict=True):
        rows += [mean, *(tables.step_rows(r) if len(r.steps) > 1 else ())]
    return rows


def _rank(row: BreakdownRow) -> str:
    return "all" if row.rank is None else str(row.rank) if row.step is None else ""


def _step(row: BreakdownRow) -> str:
    if row.step is None:
        return f"mean of {row.n_steps}" if row.n_steps > 1 else "1 step"
    return f"  {row.step}{'' if row.complete else ' *'}"


def _row_style(row: BreakdownRow) -> str:
    return "" if row.step is None else "bright_black"


def _bars(rows: Sequence[BreakdownRow], room: int, ascii_only: bool) -> list[Text]:
    """One stacked bar a row, all to one scale; none where there is no room."""
    length = min(room, _BAR[1])
    longest = max(r.wall for r in rows)
    if length < _BAR[0] or not longest:
        return []
    blocks = ASCII_BLOCKS if ascii_only else BLOCKS
    return [_bar(r.parts, longest, length, blocks) for r in rows]


def _bar(
    parts: Mapping[str, float], longest: float, length: int, blocks: Mapping[str, str]
) -> Text:
    """A stacked bar; edges are rounded, so the parts add up to the whole bar."""
    bar, at, done = Text(), 0.0, 0
    for name, ns in parts.items():
        at += ns
        edge = round(length * at / longest)
        bar.append(blocks[name] * (edge - done), TERMINAL[name])
        done = edge
    return bar


def _breakdown_notes(
    analysis: Analysis,
    rows: Sequence[BreakdownRow],
    choice: str,
    bars: Sequence[Text],
    ascii_only: bool,
) -> list[Text]:
    notes = []
    if bars:
        blocks = ASCII_BLOCKS if ascii_only else BLOCKS
        legend = Text("bars: ", "bright_black")
        for name, label in PARTS.items():
            legend.append(f"{blocks[name]} ", TERMINAL[name]).append(f"{label}  ", "bright_black")
        notes.append(legend)
    if choice:
        notes.append(Text(choice, "bright_black"))
    if any(not r.complete for r in rows):
        notes.append(Text("* cut by the recording, left out of the means", "bright_black"))
    return notes


# ------------------------------------------------------------------------------- collectives
def _collectives(analysis: Analysis, width: int, ascii_only: bool) -> RenderableType:
    rows = analysis.collective_rows[:MAX_COLLECTIVES]
    if not rows:
        text = hidden_communication(analysis) or "No communication kernels in the steps."
        return Text(text, "bright_black")
    digits = digits_for([c.total_ns for c in rows])

    def column(title: str, cells: Sequence[str | None], drop: int, left: bool = False) -> Column:
        texts = [Text("-" if c is None else c) for c in cells]
        return Column(title, texts, "left" if left else "right", drop)

    size = [None if c.bytes_per_step is None else format_bytes(c.bytes_per_step) for c in rows]
    hidden = [percent(c.total_ns - c.exposed_ns, c.total_ns) for c in rows]
    columns = [
        column("collective", [clean(c.kind) for c in rows], 0, left=True),
        column("in", [_phase(c.phase) for c in rows], 1, left=True),
        column("ranks", [None if c.group_size is None else str(c.group_size) for c in rows], 4),
        column("type", [c.dtype for c in rows], 3, left=True),
        column("count", [number(c.count_per_step) for c in rows], 2),
        column("bytes", size, 3),
        column("total ms", [ms_cell(c.total_ns, digits) for c in rows], 1),
        column("exposed ms", [ms_cell(c.exposed_ns, digits) for c in rows], 0),
        column("hidden", hidden, 4),
    ]
    if any(c.wait_ns is not None for c in rows):
        waits = [None if c.wait_ns is None else ms_cell(c.wait_ns, digits) for c in rows]
        rates = [rate(c.busbw_gbps) for c in rows]
        columns += [column("waiting ms", waits, 2), column("busbw GB/s", rates, 3)]
    groups = [tables.group_name(c) for c in rows]
    if any(groups):
        columns.insert(2, column("group", [g[:24] or None for g in groups], 5, left=True))
    notes = []
    rest = analysis.collective_rows[MAX_COLLECTIVES:]
    if rest:
        spent = ms_cell(sum(c.total_ns for c in rest), digits)
        notes.append(Text(f"and {len(rest)} more kinds, {spent} ms in all", "bright_black"))
    notes.append(Text(tables.wait_note(analysis), "bright_black"))
    return Group(grid(columns, width, ascii_only), *notes)


def _phase(phase: str | None) -> str | None:
    return "optimizer" if phase == "step" else phase


# -------------------------------------------------------------------------- split and notes
def _split(analysis: Analysis, width: int, ascii_only: bool) -> RenderableType | None:
    split = {k: v for k, v in tables.compute_split(analysis).items() if v > 0}
    total = sum(split.values())
    if not split:
        return None
    order = sorted(split.items(), key=lambda p: -p[1])
    digits = digits_for(split.values())
    block = (ASCII_BLOCKS if ascii_only else BLOCKS)["compute"]
    length = max(1, min(width - 34, _BAR[1]))
    bars = [Text(block * max(1, round(length * v / order[0][1])), "blue") for _, v in order]
    columns = [
        Column("kind", [Text(k) for k, _ in order], "left"),
        Column("ms", [Text(ms_cell(v, digits)) for _, v in order]),
        Column("share", [Text(percent(v, total)) for _, v in order]),
        Column("", bars, "left", minimum=_BAR[0], drop=1),
    ]
    note = Text("Lengths are summed: work that runs at the same time counts twice.", "bright_black")
    return Group(grid(columns, width, ascii_only), note)


def _notes(analysis: Analysis) -> RenderableType:
    run = analysis.run
    lines = [
        f"{plural(len(run.paths), 'file')}, rank{'s' if len(run.ranks) > 1 else ''} "
        f"{ranges(run.ranks)} (ranks known from: {clean(run.rank_source)}); "
        f"steps from: {clean(analysis.ranks[0].step_source)}."
    ]
    dropped = sum(r.stats.events_dropped for r in analysis.ranks)
    if dropped:
        lines.append(f"{format_count(dropped)} events could not be used.")
    lines += tables.note_lines(analysis)
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=1)
    table.add_column(overflow="fold")
    for line in lines:
        table.add_row("-", Text(line))
    return Padding(table, 0)
