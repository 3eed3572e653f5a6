"""All inference rules, in the order of the report."""

from __future__ import annotations

from collections.abc import Sequence

from tracelens.infer.facts import RankFacts
from tracelens.infer.result import Setup


def infer_setup(ranks: Sequence[RankFacts], world_size: int | None) -> Setup:
    """Infer what was running from the facts of all ranks.

    Parameters
    ----------
    ranks : sequence of RankFacts
        At least one.
    world_size : int or None
        Ranks of the job, where the traces say so.
    """
    return Setup(())
