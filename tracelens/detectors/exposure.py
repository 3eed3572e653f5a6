"""Exposed transfer by purpose, less what a slow link is charged for."""

from __future__ import annotations

from tracelens.detectors.context import Context, PerRank
from tracelens.units import format_ns


def exposed_of(context: Context, role: str) -> PerRank:
    """Exposed transfer of a role, less what the slow link is charged for; at most, if unknown."""
    return _exposed(context, role, least=False)


def sure_of(context: Context, role: str) -> PerRank:
    """What of it is sure: the same, or the least that it can be where waiting is unknown."""
    return _exposed(context, role, least=True)


def _exposed(context: Context, role: str, *, least: bool) -> PerRank:
    link = context.link
    masks = [getattr(r, role) for r in context.roles()]
    exposed = context.exposed_transfer(masks, least=least)
    return exposed * (1 - (link.excess if link else 0.0))


def amount_text(context: Context, role: str) -> str:
    """How much of a role is exposed, and whether waiting is in it."""
    exposed = exposed_of(context, role)
    if context.waits is not None:
        return f"{format_ns(float(exposed.min()))} a step of transfer has no compute beside it"
    low = format_ns(float(sure_of(context, role).min()))
    high = format_ns(float(exposed.max()))
    return (
        f"{low} to {high} a step of transfer has no compute beside it: bounds, for waiting for "
        "other ranks cannot be told from transfer here"
    )
