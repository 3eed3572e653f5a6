"""The application: a frame around the pages, and the callbacks that all pages share."""

from __future__ import annotations

import logging
import socket
import threading
from typing import Any

import dash_mantine_components as dmc
from dash import (
    ALL,
    MATCH,
    ClientsideFunction,
    Dash,
    Input,
    Output,
    State,
    ctx,
    dcc,
    html,
    no_update,
)
from dash.exceptions import PreventUpdate
from flask import request
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from tracelens.report.text import clean, plural

from . import guard, ui
from .first import first
from .pages import PAGES, Page
from .query import Query
from .source import OpenedRun, Source

_TITLE = "tracelens"
#: How long the page may wait for a run: reading one out of a store takes less, of a trace more.
_STORE_S = 0.2


def create_app(source: Source, host: str = "127.0.0.1") -> Dash:
    """The application over what was opened.

    Parameters
    ----------
    source : Source
    host : str
        The address that it will listen on: decides which names requests may ask for.

    Returns
    -------
    dash.Dash
        Its ``server`` is the WSGI application.
    """
    app = _App(
        source,
        __name__,
        title=_TITLE,
        update_title="",
        suppress_callback_exceptions=True,  # pages come and go with their parts
        serve_locally=True,
    )
    app.layout = _frame(source)
    _route(app, source)
    _watch_jobs(app, source)
    _keep_in_url(app)
    _save_tables(app)
    for page in PAGES:
        page.register(app, source)
    guard.install(app.server, host, app.csp_hashes())
    return app


class _App(Dash):
    """A Dash application whose page begins with the verdict, where that is asked for."""

    def __init__(self, source: Source, name: str, **options: Any) -> None:
        self._source = source
        super().__init__(name, **options)

    def interpolate_index(self, **parts: Any) -> str:  # type: ignore[override]
        """The page; called with each request for it."""
        run = self._source.get(Query.parse(request.query_string.decode()).text("run"))
        if request.path == PAGES[0].path and run is not None:
            run.job.start()
            run.job.wait(_STORE_S)
            if run.view is not None:
                parts["app_entry"] += first(run.view.document)
        return str(super().interpolate_index(**parts))  # type: ignore[no-untyped-call]


def make(source: Source, host: str, port: int) -> BaseWSGIServer:
    """A server that listens already; call its `serve_forever`. Port 0 takes a free one.

    Raises
    ------
    OSError
        If the address cannot be had.
    """
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line a request is no news
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)  # werkzeug's own would end the process where it cannot
        listening.listen()
        served = create_app(source, host).server
        return make_server(
            host, port, served, True, request_handler=_Handler, fd=listening.fileno()
        )


class _Handler(WSGIRequestHandler):
    """Sends the end of an answer at once, without waiting to hear that its beginning arrived."""

    disable_nagle_algorithm = True
    wbufsize = -1  # head and body in one piece


# ---------------------------------------------------------------------------------------- frame
def _frame(source: Source) -> Any:
    header = dmc.Group(
        [
            dmc.Anchor(_TITLE, href="/", className="brand", underline="never"),
            html.Div(id="run-choice"),
            dmc.Group(
                [
                    html.Div(id="run-facts"),
                    dmc.ColorSchemeToggle(
                        id="scheme",
                        lightIcon="☀",
                        darkIcon="☾",
                        variant="default",
                        size="md",
                        **{"aria-label": "Light or dark"},
                    ),
                ],
                gap="md",
                ml="auto",
            ),
        ],
        h="100%",
        px="md",
        gap="lg",
        wrap="nowrap",
    )
    return dmc.MantineProvider(
        [
            dcc.Location(id="url", refresh="callback-nav"),
            dcc.Store(id="ready"),
            dmc.AppShell(
                [
                    dmc.AppShellHeader(header),
                    dmc.AppShellNavbar(html.Nav(id="nav"), p="xs"),
                    dmc.AppShellMain(html.Div(id="page")),
                ],
                header={"height": 48},
                navbar={"width": 168, "breakpoint": "sm"},
                padding="md",
            ),
        ],
        defaultColorScheme="auto",
        theme={"primaryColor": "blue", "defaultRadius": "sm"},
    )


def _route(app: Dash, source: Source) -> None:
    """The page that the URL names, once its run is read."""

    @app.callback(
        Output("page", "children"),
        Output("nav", "children"),
        Output("run-choice", "children"),
        Output("run-facts", "children"),
        Input("url", "pathname"),
        Input("url", "search"),
        Input("ready", "data"),
    )
    def show(pathname: str, search: str, _: object) -> tuple[Any, Any, Any, Any]:
        query = Query.parse(search)
        page = next((p for p in PAGES if p.path == pathname), None)
        run = source.get(query.text("run"))
        nav = [_nav_link(p, query, p is page) for p in PAGES]
        choice = _run_choice(source, run)
        if page is None or run is None:
            what = "page" if page is None else "run"
            content: Any = ui.nothing(f"There is no such {what} here.", "Choose one on the left.")
            return content, nav, choice, ""
        run.job.start()
        if run.view is None:
            waiting = ui.pending(run.job_id, f"Reading {clean(run.name)}", run.job.state)
            return waiting, nav, choice, ""
        return page.layout(run.view, query, source), nav, choice, _facts(run)


def _nav_link(page: Page, query: Query, active: bool) -> Any:
    return dmc.NavLink(label=page.title, href=query.link(page.path), active=active, py=6)


def _run_choice(source: Source, run: OpenedRun | None) -> Any:
    if len(source.runs) == 1:
        return dmc.Text(clean(source.runs[0].name), fw=600, size="sm", truncate=True, maw=420)
    options = [(r.id, r.name) for r in source.runs]
    chosen = ui.select("run", "", options, run.id if run else None)
    chosen.label, chosen.w = None, 320
    return chosen


def _facts(run: OpenedRun) -> Any:
    if run.view is None:
        return ""
    facts = run.view.document["run"]
    parts = [plural(len(facts["ranks"]), "rank"), f"{facts['n_events']:,} events", facts["device"]]
    return dmc.Text(clean(" · ".join(p for p in parts if p)), size="xs", c="dimmed")


# --------------------------------------------------------------------------------- shared by pages
def _watch_jobs(app: Dash, source: Source) -> None:
    """How far the work is that a page waits for; once it is done the page itself follows."""

    @app.callback(
        Output("pending", "children"),
        Output("ready", "data"),
        Output("pending-tick", "disabled"),
        Output("pending-cancel", "disabled"),
        Output("pending-again", "disabled"),
        Input("pending-tick", "n_intervals"),
        Input("pending-cancel", "n_clicks"),
        Input("pending-again", "n_clicks"),
        State("pending-job", "data"),
        prevent_initial_call=True,
    )
    def watch(
        ticks: int | None, cancel: int | None, again: int | None, name: str
    ) -> tuple[Any, ...]:
        if not ticks and not cancel and not again:
            raise PreventUpdate  # it has just appeared; an answer now would not reach the page
        job = source.job(name)
        if job is None:  # forgotten: the page asks for it again
            return no_update, {"job": name, "at": ticks}, True, True, True
        if ctx.triggered_id == "pending-cancel" and cancel:
            job.cancel()
        elif ctx.triggered_id == "pending-again" and again:
            job.start()
        state = job.state
        runs = state.status == "running"
        done = {"job": name, "at": ticks} if state.status == "done" else no_update
        return ui.progress(state), done, not runs, not runs, runs


def _keep_in_url(app: Dash) -> None:
    """What is chosen on a page goes into the URL, from which the page follows."""

    @app.callback(
        Output("url", "search"),
        Input({"type": "param", "name": ALL, "shown": ALL}, "value"),
        State("url", "search"),
        prevent_initial_call=True,
    )
    def keep(_: list[str | None], search: str) -> Any:
        # a choice that has just appeared shows what the page is made of: that is no news
        chosen = {p["id"]["name"]: p for p in ctx.inputs_list[0] if p.get("value")}
        changed: dict[str, object] = {
            name: p["value"] for name, p in chosen.items() if p["value"] != p["id"]["shown"]
        }
        if not changed:
            return no_update
        if "run" in changed:  # ranks and steps are another run's
            changed |= {"rank": None, "step": None}
        for side in changed.keys() & {"before", "after"}:
            changed |= {f"{side}_rank": None, f"{side}_step": None}
        return Query.parse(search).search(**changed)


def _save_tables(app: Dash) -> None:
    app.clientside_callback(  # type: ignore[no-untyped-call]
        ClientsideFunction("tracelens", "clicked"),
        Output({"type": "grid", "name": MATCH}, "exportDataAsCsv"),
        Input({"type": "csv", "name": MATCH}, "n_clicks"),
        prevent_initial_call=True,
    )


def serve_in_thread(server: BaseWSGIServer) -> threading.Thread:
    """Let a server work on a thread of its own, until its `shutdown`."""
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    return thread
