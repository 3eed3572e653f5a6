"""Exposed transfer by purpose, and the link that it crosses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracelens.bounds import nvlink_gbps
from tracelens.classify import Op
from tracelens.detectors.context import Context, PerRank
from tracelens.thresholds import LARGE_MESSAGE_BYTES, NVLINK_REACHED, SLOW_LINK_SHARE
from tracelens.units import format_ns


@dataclass(frozen=True, slots=True)
class Link:
    """Bus bandwidth of large messages, GB/s, what NVLink would give, and whether it is slow."""

    reached: float
    expected: float
    slow: bool

    @property
    def excess(self) -> float:
        """Share of transfer time that a link as fast as expected would not take."""
        return 1 - self.reached / self.expected if self.slow else 0.0


def find_link(context: Context) -> Link | None:
    """The link by its large collectives; None if they or the GPU's NVLink speed are unknown."""
    speed = nvlink_gbps(context.device)
    busbw = []
    for view in context.views:
        c = view.comm
        sizes = np.array([g.size for g in c.groups] + [0], float)[c.group]
        factor = np.where(c.kind == Op.ALL_REDUCE, 2.0, 1.0) * (sizes - 1) / np.maximum(sizes, 1)
        kinds = np.isin(c.kind, (Op.ALL_REDUCE, Op.ALL_GATHER, Op.REDUCE_SCATTER))
        on = kinds & (c.bytes >= LARGE_MESSAGE_BYTES) & (view.wait_ns >= 0) & (sizes > 1)
        transfer = (c.dur_ns - view.wait_ns)[on]
        busbw += (factor[on] * c.bytes[on] / np.maximum(transfer, 1)).tolist()
    if speed is None or not busbw or context.shared_gpu:
        return None
    reached = float(np.median(busbw))
    return Link(reached, NVLINK_REACHED * speed, reached < SLOW_LINK_SHARE * speed)


def exposed_of(context: Context, role: str) -> PerRank:
    """Exposed transfer of a role, less what the slow link is charged for; at most, if unknown."""
    return _exposed(context, role, least=False)


def sure_of(context: Context, role: str) -> PerRank:
    """What of it is sure: the same, or the least that it can be where waiting is unknown."""
    return _exposed(context, role, least=True)


def _exposed(context: Context, role: str, *, least: bool) -> PerRank:
    link = find_link(context)
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
