"""The limits of ``tracelens check`` on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from tracelens.limits import Limit
from tracelens.report.grid import Column, grid
from tracelens.report.printing import print_report, put
from tracelens.report.text import clean

_STYLE = {"kept": "green", "broken": "bold red", "unknown": "yellow"}


def render(limits: Sequence[Limit], console: Console) -> None:
    """Print one line a limit, and a line that sums up."""
    print_report(lambda c: _draw(limits, c), console)


def _draw(limits: Sequence[Limit], console: Console) -> None:
    columns = [
        Column("", [Text(x.status, _STYLE[x.status]) for x in limits], "left"),
        Column("what", [Text(clean(x.what)) for x in limits], "left", minimum=24),
        Column("found", [Text(_show(x.value)) for x in limits]),
        Column("limit", [Text(_limit(x)) for x in limits]),
    ]
    put(console, grid(columns, console.width, console.options.ascii_only))
    broken, unknown = (sum(x.status == s for x in limits) for s in ("broken", "unknown"))
    text = f"{broken} of {len(limits)} limits broken" if broken else "No limit is broken"
    text += f"; {unknown} cannot be told from this trace." if unknown else "."
    put(console, Text(text, "bold"))


def _limit(x: Limit) -> str:
    sign = {"max": "<= ", "min": ">= "}.get(x.name[:3], "")
    return f"{sign}{_show(x.limit)}"


def _show(value: object) -> str:
    if value is None:
        return "not known"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:,.2f}".rstrip("0").rstrip(".")
    if isinstance(value, list):
        return clean(", ".join(map(_show, value))) or "none"
    return clean(str(value))
