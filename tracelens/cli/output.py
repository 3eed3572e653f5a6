"""How a command prints: JSON, a report as wide as its place, and names made harmless."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

#: Columns of a report that is not printed on a terminal, unless COLUMNS says otherwise.
PIPED_WIDTH = 100


def printable(text: str) -> str:
    """`text` with every character that a terminal could act on replaced."""
    return "".join(c if c.isprintable() else "?" for c in text)


def print_json(value: object) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(value, indent=1, allow_nan=False))


def console() -> Console:
    """Stdout for a report."""
    from rich.console import Console

    on_terminal = sys.stdout.isatty()
    width = None if on_terminal or os.environ.get("COLUMNS") else PIPED_WIDTH
    return Console(file=sys.stdout, width=width)
