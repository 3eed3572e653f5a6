"""A faster or slower interconnect, and another number of ranks: the transfers alone change."""

from __future__ import annotations

from dataclasses import replace

from tracelens.errors import CannotPredict
from tracelens.replay.model import Model

ALL_RANKS = "record all ranks: what a collective waits for other ranks is unknown without them"


def with_speed(model: Model, factor: float) -> Model:
    """The model on a link `factor` times as fast; latency stays, and so does all waiting.

    Raises
    ------
    CannotPredict
        If communication was not matched over all its ranks.
    """
    faster = {n: latency + rest / factor for n, (latency, rest) in _parts(model).items()}
    return replace(model, costs=replace(model.costs, transfer_ns=faster))


def with_ranks(model: Model, now: int, then: int) -> Model:
    """The model with another number of data-parallel ranks on links of the same speed.

    A ring moves (n - 1) / n of a message per rank (twice for an all-reduce) in n - 1 steps each way
    (NCCL, nccl-tests doc/PERFORMANCE.md). Each rank's batch stays; sharded updates shrink.

    Raises
    ------
    CannotPredict
        If communication was not matched over all its ranks.
    """
    parts = _parts(model)
    if now < 2 or then < 2:
        raise CannotPredict(
            "one rank does not communicate: nothing tells what two would",
            hint="record two ranks or more",
        )
    volume = ((then - 1) / then) / ((now - 1) / now)
    steps = (then - 1) / (now - 1)
    other = {n: latency * steps + rest * volume for n, (latency, rest) in parts.items()}
    return replace(model, costs=replace(model.costs, transfer_ns=other))


def _parts(model: Model) -> dict[int, tuple[float, float]]:
    """Latency and the rest of each transfer, ns; the shortest transfer is all latency."""
    if not model.matched:
        raise CannotPredict("waiting and transfer cannot be told apart here", hint=ALL_RANKS)
    transfer = model.costs.transfer_ns
    latency = min(transfer.values(), default=0.0)
    return {n: (min(t, latency), max(t - latency, 0.0)) for n, t in transfer.items()}
