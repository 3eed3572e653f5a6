"""Terminal tables that fit: columns are dropped, last ones first, before a number is broken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.table import Table
from rich.text import Text

_ASCII_HEAD = box.Box("    \n    \n -- \n" + "    \n" * 5, ascii=True)

#: Blank columns between two columns.
GAP = 2


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a terminal table.

    Attributes
    ----------
    title : str
    cells : sequence of rich Text
    justify : {"left", "right"}
    drop : int
        0 stays; of the others the highest goes first when the terminal is too narrow.
    minimum : int, optional
        Given for a column whose cells may be wrapped: its least useful width.
    """

    title: str
    cells: Sequence[Text]
    justify: Literal["left", "right"] = "right"
    drop: int = 0
    minimum: int | None = None

    @property
    def width(self) -> int:
        """Characters needed, wrapping only where that is allowed."""
        head = max((len(word) for word in self.title.split()), default=0)
        if self.minimum is not None:
            return max(head, self.minimum)
        return max([head, *(c.cell_len for c in self.cells)])


def fitting(columns: Sequence[Column], width: int) -> tuple[Column, ...]:
    """The columns that fit side by side into `width`, in their order."""
    kept = list(columns)
    while sum(c.width + GAP for c in kept) - GAP > width:
        worst = max(kept, key=lambda c: c.drop)
        if not worst.drop:
            break
        kept.remove(worst)
    return tuple(kept)


def grid(columns: Sequence[Column], width: int, ascii_only: bool) -> Table:
    """A table of the columns that fit into `width`."""
    kept = fitting(columns, width)
    table = Table(
        box=_ASCII_HEAD if ascii_only else box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, GAP - 1, 0, 0),
        header_style="bold",
        expand=False,
    )
    for c in kept:
        flexible = c.minimum is not None
        table.add_column(
            Text(c.title),
            justify=c.justify,
            vertical="top",
            overflow="fold",
            width=None if flexible else c.width,
        )
    for row in zip(*(c.cells for c in kept), strict=True):
        table.add_row(*row)
    return table
