"""Where on the timeline a finding can be seen: a rank and a window of its time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tracelens.units import NS_PER_MS

if TYPE_CHECKING:
    from .source import Document, RunView

#: Room left and right of what is shown, as a share of its length.
_MARGIN = 0.25


@dataclass(frozen=True, slots=True)
class Place:
    """A window of a rank's time, ns since its first event."""

    rank: int
    step: int
    t0: int
    t1: int


def of_step(document: Document, rank: int, step: int) -> Place | None:
    """The window of a step on the GPU; None where the rank has no such step."""
    for row in document["steps"]:
        if row["rank"] == rank and row["step"] == step:
            start = round(row["start_ms"] * NS_PER_MS)
            return Place(rank, step, start, start + round(row["wall_ms"] * NS_PER_MS))
    return None


def of_proof(proof: dict[str, Any]) -> Place:
    """A moment that proves a finding, with room around it."""
    start, end = proof["start_ns"], proof["end_ns"]
    room = round(_MARGIN * (end - start))
    return Place(proof["rank"], proof["step"], max(start - room, 0), end + room)


def of_finding(view: RunView, finding: dict[str, Any]) -> Place | None:
    """Where a finding is seen best: its longest proof, else a step of median length.

    None where the rank that it was seen on has no step.
    """
    if finding["proof"]:
        return of_proof(max(finding["proof"], key=lambda p: p["end_ns"] - p["start_ns"]))
    rank = finding["ranks"][0] if finding["ranks"] else view.ranks[0]
    mine = [r for r in view.document["steps"] if r["rank"] == rank]
    mine = [r for r in mine if r["step"] in finding["steps"]] or mine
    mine = sorted([r for r in mine if r["complete"]] or mine, key=lambda r: float(r["wall_ms"]))
    return of_step(view.document, rank, mine[len(mine) // 2]["step"]) if mine else None
