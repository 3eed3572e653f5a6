"""The pages: a list that you can read."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from dash import Dash

from ..query import Query
from ..source import RunView, Source


@dataclass(frozen=True, slots=True)
class Page:
    """One page: where it is, what it is called, and the module beside this one that makes it.

    A module has ``layout(view, query, source)``, which makes the page of a run and a URL, and where
    `asks` is set ``register(app, source)`` for callbacks of its own. It is loaded with the
    application where `asks` is set, else when it is first looked at: what a page draws with takes
    longer to load than the verdict should take to show.
    """

    path: str
    title: str
    module: str
    asks: bool = False

    def layout(self, view: RunView, query: Query, source: Source) -> Any:
        """The page of a run, as the URL wants it."""
        return self._loaded().layout(view, query, source)

    def register(self, app: Dash, source: Source) -> None:
        """Add its callbacks."""
        if self.asks:
            self._loaded().register(app, source)

    def _loaded(self) -> Any:
        return import_module(f".{self.module}", __name__)


PAGES = (
    Page("/", "Overview", "overview", asks=True),
    Page("/timeline", "Timeline", "timeline", asks=True),
    Page("/overlap", "Overlap", "overlap"),
    Page("/ranks", "Ranks", "ranks"),
    Page("/setup", "Setup", "setup"),
    Page("/whatif", "What-if", "whatif", asks=True),
    Page("/compare", "Compare", "compare"),
    Page("/memory", "Memory", "memory"),
    Page("/flops", "FLOPs", "flops"),
)


@cache
def load_ahead(after_s: float = 2.0) -> threading.Thread:
    """Load all pages on a thread of its own, once: someone who reads the first opens others.

    Not at once: the first one's charts have to be drawn meanwhile.
    """
    thread = threading.Timer(after_s, lambda: [page._loaded() for page in PAGES])
    thread.daemon = True
    thread.start()
    return thread
