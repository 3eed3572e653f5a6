"""A finding: something that makes the step longer, what it costs and what would help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Severity: TypeAlias = Literal["info", "low", "high", "critical"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One cause of a slow step.

    Attributes
    ----------
    id : str
        Stable name of the cause.
    title : str
        One line in plain words.
    cost_ms_per_step : float
        What the step would save if this cause alone were gone.
    severity : {"info", "low", "high", "critical"}
    ranks, steps : tuple of int
        Where it was seen.
    evidence : tuple of str
        Sentences that a reader can check against the trace.
    remedy : str
        What to do about it.
    config : mapping, optional
        Configuration keys and values that would help; None where no key does.
    """

    id: str
    title: str
    cost_ms_per_step: float
    severity: Severity
    ranks: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()
    evidence: tuple[str, ...] = ()
    remedy: str = ""
    config: Mapping[str, object] | None = None
