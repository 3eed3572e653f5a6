"""The pages: a list that you can read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dash import Dash

from ..query import Query
from ..source import RunView, Source
from . import compare, flops, memory, overlap, overview, ranks, setup, timeline, whatif


@dataclass(frozen=True, slots=True)
class Page:
    """One page: where it is, what it is called, and what makes it of a run and a URL."""

    path: str
    title: str
    layout: Callable[[RunView, Query, Source], Any]
    register: Callable[[Dash, Source], None] | None = None


PAGES = (
    Page("/", "Overview", overview.layout, overview.register),
    Page("/timeline", "Timeline", timeline.layout, timeline.register),
    Page("/overlap", "Overlap", overlap.layout),
    Page("/ranks", "Ranks", ranks.layout),
    Page("/setup", "Setup", setup.layout),
    Page("/whatif", "What-if", whatif.layout, whatif.register),
    Page("/compare", "Compare", compare.layout),
    Page("/memory", "Memory", memory.layout),
    Page("/flops", "FLOPs", flops.layout),
)
