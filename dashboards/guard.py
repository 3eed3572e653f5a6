"""Who may talk to the dashboard: no other site's page, no rebound name, nothing from outside.

A page on the internet can make its visitor's browser ask 127.0.0.1. Two things stop it: requests
must name this server as it is known here (a name of the attacker's that now resolves to 127.0.0.1
is refused: DNS rebinding), and what they come from must be this site.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from typing import Final

from flask import Flask, Request, Response, abort, request

#: What browsers may load and do: this site only. Components write styles into elements; figures
#: are exported through data and blob addresses.
_POLICY: Final = (
    "default-src 'self'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_FROM_HERE: Final = ("same-origin", "none")


def is_loopback(host: str) -> bool:
    """Whether a name or address reaches this machine only.

    Examples
    --------
    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def install(server: Flask, host: str, script_hashes: Sequence[str]) -> None:
    """Check every request and say in every answer what browsers may do with it.

    Parameters
    ----------
    server : Flask
    host : str
        The address that the server listens on.
    script_hashes : sequence of str
        Of the inline scripts of the page itself, as a Content-Security-Policy names them.
    """
    policy = _POLICY.format(scripts=" ".join(script_hashes))

    @server.before_request
    def check() -> None:
        if not _named_well(request, host) or not _from_here(request):
            abort(403)

    @server.after_request
    def mark(answer: Response) -> Response:
        answer.headers["Content-Security-Policy"] = policy
        answer.headers["X-Content-Type-Options"] = "nosniff"
        answer.headers["Referrer-Policy"] = "no-referrer"
        answer.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        return answer


def _named_well(asked: Request, host: str) -> bool:
    """Whether the request's Host is a name of this server: an address cannot be rebound."""
    name = (asked.host or "").rpartition(":")[0] or asked.host or ""
    if asked.host.endswith("]"):  # an IPv6 address without a port
        name = asked.host
    name = name.strip("[]").lower()
    if is_loopback(host):
        return is_loopback(name)
    return name in {"localhost", host.lower(), socket.gethostname().lower()} or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _from_here(asked: Request) -> bool:
    """Whether the request comes from a page of this server, or from no page at all.

    Following a link from elsewhere (a GET of a page) is fine: that site does not see the answer.
    """
    origin = asked.headers.get("Origin")
    if origin is not None and origin.partition("://")[2].lower() != asked.host.lower():
        return False
    site = asked.headers.get("Sec-Fetch-Site", "none")
    if site in _FROM_HERE:
        return True
    return asked.method == "GET" and asked.headers.get("Sec-Fetch-Mode") == "navigate"
