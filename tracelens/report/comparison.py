"""A comparison of two runs on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tracelens.comparison.words import PARTS, show, signed
from tracelens.report.grid import Column, grid
from tracelens.report.printing import print_report, put, section, to_text
from tracelens.report.text import clean, ranges

Told = Mapping[str, Any]

#: Rows of the table of times: the step, the parts it is the sum of, then parts of those.
_ROWS = {
    "wall_ms": "step",
    **PARTS,
    "overlapped_comm_ms": "hidden communication",
    "exposed_wait_ms": "exposed waiting",
    "exposed_transfer_ms": "exposed transfer",
}
_SUMMED = 1 + len(PARTS)
_STYLE = {"faster": "green", "slower": "red"}


def render_text(told: Told, width: int = 100) -> str:
    """The comparison as plain text of at most `width` columns."""
    return to_text(lambda console: _draw(told, console), width)


def render(told: Told, console: Console) -> None:
    """Print a comparison, the JSON structure of `tracelens.comparison.compare`."""
    print_report(lambda c: _draw(told, c), console)


def _draw(told: Told, console: Console) -> None:
    width, ascii_only = console.width, console.options.ascii_only
    put(console, _title(told))
    put(console, _verdict(told))
    section(console, "Where the step's time went (ms)", _times(told, width, ascii_only))
    section(console, "What changed", _changes(told, width, ascii_only))
    section(console, "What slows the step", _findings(told, width, ascii_only))


def _title(told: Told) -> Text:
    names = [clean(name(told["runs"][side])) for side in ("before", "after")]
    return Text.assemble(("tracelens  ", "bold"), names[0], ("  ->  ", "bright_black"), names[1])


def name(run: Told) -> str:
    """A run by where it lies and which ranks were read.

    Examples
    --------
    >>> name({"paths": ["/data/a/rank0.json", "/data/a/rank1.json"], "ranks": [0, 1]})
    'a (ranks 0, 1)'
    >>> name({"paths": ["/data/a/rank0.json"], "ranks": [0]})
    'a/rank0.json (rank 0)'
    """
    parts = str(run["paths"][0]).replace("\\", "/").split("/")
    where = "/".join(parts[-2:-1] if len(run["paths"]) > 1 else parts[-2:]) or parts[-1]
    return f"{where} (rank{'s' if len(run['ranks']) > 1 else ''} {ranges(run['ranks'])})"


def _verdict(told: Told) -> Panel:
    first, *rest = told["sentences"]
    lines = Table.grid(padding=(0, 1, 0, 0))
    lines.add_column(width=1)
    lines.add_column(overflow="fold")
    for sentence in rest:
        lines.add_row("-", Text(clean(sentence)))
    head = Text(clean(first), style=f"bold {_STYLE.get(told['outcome'], '')}".strip())
    return Panel(Group(head, lines), title="Verdict", title_align="left")


def _times(told: Told, width: int, ascii_only: bool) -> RenderableType:
    rows = [(label, told["deltas"][k]) for k, label in _ROWS.items() if k in told["deltas"]]
    rows = [r for r in rows if r[1]["before"] or r[1]["after"]]
    labels = [label for label, _ in rows]
    shown = [label if label in list(_ROWS.values())[:_SUMMED] else f"  {label}" for label in labels]
    columns = [
        Column("", [Text(s) for s in shown], "left"),
        Column("before", [Text(_ms(d["before"])) for _, d in rows]),
        Column("after", [Text(_ms(d["after"])) for _, d in rows]),
        Column("change", [_delta(d) for _, d in rows]),
        Column("%", [Text(_percent(d)) for _, d in rows], drop=1),
        Column("p", [Text(_chance(d.get("p_value"))) for _, d in rows], drop=2),
    ]
    counts = " and ".join(map(str, told["step_ms"]["n_steps"]))
    note = (
        f"Means over {counts} steps. p: how likely chance alone makes such a difference, by the "
        "scatter of the steps (Welch's t-test); what recordings differ by is not in it."
    )
    return Group(grid(columns, width, ascii_only), Text(note, "bright_black"))


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}"


def _delta(d: Told) -> Text:
    delta = d["delta"]
    if delta is None:
        return Text("-")
    text = f"{delta:+,.2f}"
    return Text("0.00" if text[1:] == "0.00" else text)


def _percent(d: Told) -> str:
    if d["delta"] is None or not d["before"]:
        return "-"
    return signed(100 * d["delta"] / d["before"])


def _chance(p: float | None) -> str:
    return "-" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _changes(told: Told, width: int, ascii_only: bool) -> RenderableType:
    seen = {**told["run_changes"], **told["setup_changes"]}
    rows = [(k, show(a), show(b)) for k, (a, b) in seen.items()]
    for k, (a, b) in told["config_changes"].items():
        rows.append((k, show(a, "not set"), show(b, "not set")))
    if not rows:
        return Text("Nothing that the traces show.", "bright_black")
    titles = ("key", "before", "after")
    columns = [
        Column(title, [Text(clean(row[i])) for row in rows], "left")
        for i, title in enumerate(titles)
    ]
    return grid(columns, width, ascii_only)


def _findings(told: Told, width: int, ascii_only: bool) -> RenderableType:
    """One table: gone, new, and on both sides, with costs; then what could not be judged."""
    rows: list[tuple[str, str, float | None, float | None]] = [
        *(("gone", f["title"], f["cost_ms_per_step"], None) for f in told["findings_gone"]),
        *(("new", f["title"], None, f["cost_ms_per_step"]) for f in told["findings_new"]),
        *(("both", f["title"], f["before_ms"], f["after_ms"]) for f in told["findings_kept"]),
    ]
    unjudged = _unjudged(told["findings_unjudged"])
    if not rows:
        return Group(Text("Nothing was found on either side.", "bright_black"), *unjudged)
    columns = [
        Column("", [Text(word) for word, *_ in rows], "left"),
        Column("before ms", [Text(_ms(a)) for _, _, a, _ in rows]),
        Column("after ms", [Text(_ms(b)) for *_, b in rows]),
        Column("cause", [Text(clean(title)) for _, title, *_ in rows], "left", minimum=28),
    ]
    return Group(grid(columns, width, ascii_only), *unjudged)


def _unjudged(rows: Sequence[Told]) -> list[Text]:
    lines = []
    for f in rows:
        other = "after" if f["in"] == "before" else "before"
        why = f": {f['reason']}" if f["reason"] else ""
        text = f"{f['id']} is found {f['in']} and cannot be judged {other}{why}"
        lines.append(Text(clean(text), "bright_black"))
    return lines
