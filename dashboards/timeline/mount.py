"""Where the timeline's routes are. What answers them is loaded with the first question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flask import Blueprint, Flask, Response
from werkzeug.exceptions import BadRequest, Conflict

if TYPE_CHECKING:
    from .book import Find

#: No page of the dashboard begins with an underscore.
PREFIX: Final = "/_timeline"
ROUTES: Final = {
    **dict.fromkeys(("meta", "view", "event", "pixel", "stats", "find", "export"), "GET"),
    "cancel": "POST",  # another site's link must not stop anything: see `guard`
}


def mount(server: Flask, find: Find) -> None:
    """Serve the timeline of runs on a Flask application.

    Parameters
    ----------
    server : flask.Flask
    find : callable
    """
    routes = Blueprint("timeline", __name__, url_prefix=PREFIX)

    for path, method in ROUTES.items():

        def serve(path: str = path) -> Response:
            from .routes import answer

            return answer(path, find)

        routes.add_url_rule(f"/{path}", path, serve, methods=[method])

    @routes.errorhandler(BadRequest)
    @routes.errorhandler(Conflict)
    def refuse(e: BadRequest | Conflict) -> tuple[Response, int]:
        from .routes import refused

        return refused(e)

    server.register_blueprint(routes)
