"""The ranks of a run that the timeline has read: each on a thread of its own, one at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeAlias

from tracelens.api import Analysis

from ..jobs import Job, Jobs, Tick
from ..source import OpenRank
from .clocks import Clocks, align
from .lanes import RankLanes, build

#: Reading a rank takes the interpreter's lock anyway; one at a time needs less memory.
_READING = threading.Lock()


class Run(Protocol):
    """What the timeline needs of a run; `dashboards.source.RunView` is one."""

    @property
    def id(self) -> str:
        """As in the URL."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def ranks(self) -> list[int]:
        """Ranks read, ascending."""

    @property
    def open_rank(self) -> OpenRank:
        """Reads one rank's events."""

    @property
    def analysis(self) -> Callable[[], Analysis]:
        """Gives what is known of the run; may have to read it."""

    @property
    def jobs(self) -> Jobs:
        """Where the reading is done."""


Find: TypeAlias = "Callable[[str | None], Run | None]"
"""Gives the run of an id (of none: the first); None where it is not there, or not read yet."""


@dataclass(frozen=True, slots=True)
class Understood:
    """What is needed of a run before any of its ranks can be placed."""

    analysis: Analysis
    clocks: Clocks


def understood(run: Run) -> Job[Understood]:
    """The job that aligns the run's clocks; started when first asked for."""

    def work(tick: Tick) -> Understood:
        tick("aligning clocks", 0, 0)
        analysis = run.analysis()
        return Understood(analysis, align(analysis))

    return run.jobs.ask(f"timeline/{run.id}", work)


def rank_job(run: Run, rank: int) -> Job[RankLanes]:
    """The job that reads a rank; started when first asked for."""

    def work(tick: Tick) -> RankLanes:
        tick("waiting for its turn", 0, 0)
        with _READING:
            tick("reading its events", 0, 0)
            seen = run.open_rank(rank, partial(_reading, tick))
            return build(rank, seen, tick)

    return run.jobs.ask(_name(run, rank), work)


def _reading(tick: Tick, _: str, done: int, total: int) -> None:
    tick("reading its events", done, total)


def known(run: Run, rank: int) -> Job[RankLanes] | None:
    """The same if it was asked for before."""
    return run.jobs.get(_name(run, rank))


def _name(run: Run, rank: int) -> str:
    return f"timeline/{run.id}/{rank}"
