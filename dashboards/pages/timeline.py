"""Timeline: what ran when. The page is a place for the canvas; the rest is ``timeline/``."""

from __future__ import annotations

from typing import Any

from dash import Dash, html

from ..query import Query
from ..source import RunView, Source
from ..timeline.mount import PREFIX, mount


def layout(view: RunView, query: Query, source: Source) -> Any:
    """The place that ``assets/timeline.js`` fills; it reads window and selection from the URL."""
    rank = query.integer("rank")
    told: dict[str, Any] = {
        "data-run": view.id,
        "data-rank": str(rank if rank in view.ranks else view.ranks[0]),
        "data-routes": PREFIX,
    }
    return html.Div(id="timeline", **told)


def register(app: Dash, source: Source) -> None:
    """Serve what the canvas asks for."""

    def find(run_id: str | None) -> RunView | None:
        opened = source.get(run_id)
        return opened.view if opened else None

    mount(app.server, find)
