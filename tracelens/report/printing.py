"""Printing on a console: names as they are, what it cannot encode replaced, no trailing blanks."""

from __future__ import annotations

import io
from collections.abc import Callable

from rich.console import Console, RenderableType
from rich.text import Text


def to_text(draw: Callable[[Console], None], width: int) -> str:
    """What `draw` prints, as lines of at most `width` columns without colours."""
    out = io.StringIO()
    print_report(draw, Console(file=out, width=width, color_system=None, force_terminal=False))
    return out.getvalue()


def print_report(draw: Callable[[Console], None], console: Console) -> None:
    """Print what `draw` prints in the console's width and encoding."""
    with console.capture() as got:
        draw(console)
    # names may hold what the output cannot encode; a closed pipe is the caller's to handle, so the
    # text is not written by rich, which would end the program
    encoding = console.encoding or "utf-8"
    text = got.get().encode(encoding, "replace").decode(encoding)
    if not console.is_terminal:
        text = "".join(f"{line.rstrip()}\n" for line in text.splitlines())
    console.file.write(text)


def section(console: Console, title: str, body: RenderableType | None) -> None:
    """A heading and what is below it; nothing where there is nothing."""
    if body is not None:
        put(console, Text(f"\n{title}", style="bold"))
        put(console, body)


def put(console: Console, body: RenderableType) -> None:
    """Print as it is: names in a trace are not markup."""
    console.print(body, markup=False, highlight=False, emoji=False)
