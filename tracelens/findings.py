"""A finding: something that makes the step longer, what it costs and what would help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Severity: TypeAlias = Literal["info", "low", "high", "critical"]


@dataclass(frozen=True, slots=True)
class Proof:
    """A place in the trace that shows a finding.

    Attributes
    ----------
    rank, step : int
        The step by the profiler's number.
    start_ns, end_ns : int
        Time since the rank's first event.
    name : str
        The event to look at; "" where it is the time that tells.
    row : int
        Its row among the rank's events (`Trace.slices`, `Analysis.events`); -1 without one.
    """

    rank: int
    step: int
    start_ns: int
    end_ns: int
    name: str
    row: int


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
    proof : tuple of Proof
        Where in the trace it shows, in order of rank and time; the moments that weigh most.
    recorded_ms_per_step : float, optional
        The cost in the recorded steps, where that without a profiler is known and another.
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
    proof: tuple[Proof, ...] = ()
    recorded_ms_per_step: float | None = None
