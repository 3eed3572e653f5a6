"""One axis for all ranks: each rank's clock, and how far it is ahead of the others'.

Times of traces are never rewritten; a `Clocks` says what to add to a rank's for display.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from tracelens.analysis import Analysis

#: What the ranks were aligned by.
How: TypeAlias = Literal["collectives", "clocks", "first steps"]


@dataclass(frozen=True, slots=True)
class Clocks:
    """Where each rank's times lie on the common axis.

    Attributes
    ----------
    ranks : tuple of int
    first_ns : tuple of int
        First event of each rank, in its own time.
    shift_ns : tuple of int
        Added to a rank's own time it gives the common one.
    how : str
        What ranks were aligned by: the ends of ``collectives`` that they share; their ``clocks``
        as recorded; the beginnings of their ``first steps``, where clocks cannot be compared.
    residual_ns : int or None
        How far ends of the same collective still lie apart, median.
    """

    ranks: tuple[int, ...]
    first_ns: tuple[int, ...]
    shift_ns: tuple[int, ...]
    how: How
    residual_ns: int | None

    def anchored(self, rank: int, anchor: int) -> int:
        """What to add to a rank's own time for ns since the anchor rank's first event."""
        i, a = self.ranks.index(rank), self.ranks.index(anchor)
        return self.shift_ns[i] - self.shift_ns[a] - self.first_ns[a]


def align(analysis: Analysis) -> Clocks:
    """The clocks of a run's ranks."""
    ranks = analysis.ranks
    zero = ranks[0].info.clock_zero_ns
    first = tuple(r.first_ns for r in ranks)
    shift = tuple(
        r.info.clock_zero_ns - zero - offset
        for r, offset in zip(ranks, analysis.matches.offset_ns, strict=True)
    )
    how: How = "collectives" if analysis.matches.n_matched else "clocks"
    if how == "clocks" and not _meet(analysis, shift):
        how, shift = "first steps", tuple(-int(r.steps.start_ns[0]) for r in ranks)
    return Clocks(tuple(r.rank for r in ranks), first, shift, how, analysis.matches.residual_ns)


def _meet(analysis: Analysis, shift: tuple[int, ...]) -> bool:
    """Whether there is a time at which all ranks were recorded."""
    starts = [int(r.steps.start_ns[0]) + s for r, s in zip(analysis.ranks, shift, strict=True)]
    ends = [int(r.steps.end_ns[-1]) + s for r, s in zip(analysis.ranks, shift, strict=True)]
    return max(starts) < min(ends)
