"""What was opened: recorded runs, each read on a thread of its own when it is first looked at."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from tracelens.errors import StoreError, UsageError
from tracelens.remote import absolute, as_path, exists

from .jobs import Job, Jobs, Tick

if TYPE_CHECKING:
    import pandas as pd

    from tracelens.analysis import RankEvents
    from tracelens.api import Analysis
    from tracelens.store import RunEntry, Store, StoredRun

Document: TypeAlias = "dict[str, Any]"
"""The report as `tracelens analyze --json` prints it, ``format`` 1."""


class OpenRank(Protocol):
    """Reads one rank's events again."""

    def __call__(self, rank: int, tick: Tick | None = None, /) -> RankEvents:
        """The events; `tick` is called now and then, and may raise to stop it."""


@dataclass(frozen=True, slots=True)
class RunView:
    """One run as the pages see it.

    Attributes
    ----------
    id, name : str
        As in the URL, and for people.
    document : dict
        The JSON report, ``format`` 1.
    read_comm : callable
        Gives `comm`; the first page does without.
    open_rank : callable
        Reads one rank's events again, from the files that were opened.
    analysis : callable
        Gives what a replay starts from; may have to read the traces again.
    jobs : Jobs
        Where pages have longer work done.
    keep_prediction : callable
        Keeps what a what-if said with the run; returns in words whether, empty where there is no
        store to keep it in.
    """

    id: str
    name: str
    document: Document
    read_comm: Callable[[], pd.DataFrame]
    open_rank: OpenRank
    analysis: Callable[[], Analysis]
    jobs: Jobs
    keep_prediction: Callable[[Document], str] = lambda _: ""

    @property
    def comm(self) -> pd.DataFrame:
        """Its communication, row by row: see `tracelens.frames.comm_frame`."""
        return self.read_comm()

    @property
    def ranks(self) -> list[int]:
        """Ranks read, ascending."""
        return list(self.document["run"]["ranks"])

    @property
    def steps(self) -> list[int]:
        """Numbers of the steps that any rank has, ascending."""
        return sorted({row["step"] for row in self.document["steps"]})


@dataclass(frozen=True, slots=True)
class OpenedRun:
    """A run that can be read: its id in URLs, its name, and the job that reads it."""

    id: str
    name: str
    job: Job[RunView]

    @property
    def job_id(self) -> str:
        """The name of the job among `Jobs`."""
        return f"run/{self.id}"

    @property
    def view(self) -> RunView | None:
        """The run once it is read."""
        return self.job.result


class Source:
    """All runs that were opened, in the order given; pages reach nothing else.

    Parameters
    ----------
    runs : sequence of OpenedRun
        At least one, with ids of their own.
    jobs : Jobs
        Those that the runs' pages ask for work.
    """

    def __init__(self, runs: Sequence[OpenedRun], jobs: Jobs) -> None:
        if not runs:
            raise UsageError("there is nothing to open", hint="give a trace, a folder or a run.db")
        self.runs, self.jobs = tuple(runs), jobs
        self._by_id = {r.id: r for r in self.runs}

    def get(self, run_id: str | None) -> OpenedRun | None:
        """A run by its id, the first without one; None where there is no such run."""
        return self.runs[0] if run_id is None else self._by_id.get(run_id)

    def job(self, job_id: str) -> Job[Any] | None:
        """A run's job or one of `jobs`; None where there is none of that name."""
        run = next((r for r in self.runs if r.job_id == job_id), None)
        return run.job if run else self.jobs.get(job_id)


def open_source(
    paths: Sequence[str | os.PathLike[str]], ds_config: str | os.PathLike[str] | None = None
) -> Source:
    """What is at the given paths: a trace or a folder is a run, a run.db all that it holds.

    Nothing is read yet but the lists of runs.

    Parameters
    ----------
    paths : sequence of path
        Also ``run.db#2`` and ``run.db#name``: that run alone.
    ds_config : path, optional
        The configuration that the runs were started with, for those that are read from traces.

    Raises
    ------
    UsageError
        If there is nothing at a path, or no such run in a store.
    """
    from tracelens.store import Store, stored_at

    runs: list[OpenedRun] = []
    jobs = Jobs()
    for path in paths:
        place = stored_at(path)
        if place is not None:
            store = Store(place[0])
            wanted = [store.get(place[1]).entry] if place[1] else store.runs()
            runs += [_stored(str(len(runs) + i), store, e, jobs) for i, e in enumerate(wanted, 1)]
        elif exists(as_path(path)):
            runs.append(_recorded(str(len(runs) + 1), as_path(path), ds_config, jobs))
        else:
            raise UsageError(f"{os.fspath(path)}: there is no such file or folder")
    return Source(runs, jobs)


def _recorded(
    run_id: str, path: Path, ds_config: str | os.PathLike[str] | None, jobs: Jobs
) -> OpenedRun:
    """A trace file or a folder of traces."""
    name = os.path.basename(absolute(path))

    def read(tick: Tick) -> RunView:
        from tracelens.api import analyze

        tick("looking at the files", 0, 0)
        found = analyze(path, progress=tick, ds_config=ds_config)
        tick("drawing up the report", 0, 0)
        comm = found.comm
        return RunView(
            run_id, name, found.to_json(), lambda: comm, found.open_rank, lambda: found, jobs
        )

    return OpenedRun(run_id, name, Job(read))


def _stored(run_id: str, store: Store, entry: RunEntry, jobs: Jobs) -> OpenedRun:
    """A run that a store keeps."""

    def read(tick: Tick) -> RunView:
        tick("reading the store", 0, 0)
        run = store.get(entry.id)
        return RunView(
            run_id,
            entry.name,
            run.document,
            cache(lambda: run.comm),
            partial(_events, run),
            lambda: _analysis(run),
            jobs,
            lambda told: _kept(store, entry.id, told),
        )

    return OpenedRun(run_id, entry.name, Job(read))


def _events(run: StoredRun, rank: int, tick: Tick | None = None) -> RankEvents:
    """A rank's events: from the cache beside the store, else from the trace and into it."""
    from tracelens.store import events

    found = events.kept(run.cache, rank)
    if found is None:
        found = run.open_rank(rank, tick)
        told = (run.cache, rank, found)
        threading.Thread(target=events.keep, args=told, daemon=True).start()  # nobody waits for it
    return found


def _kept(store: Store, run: int, told: Document) -> str:
    """Keep a prediction with its run, once; a store that cannot be written is no failure."""
    where = f"{store.path.name}, run {run}"
    try:
        if told not in store.get(run).predictions:
            store.add_prediction(run, told)
    except StoreError as e:
        return f"Not kept in {where}: {e}"
    return f"Kept in {where}."


def _analysis(run: StoredRun) -> Analysis:
    """What a stored run was analysed to; read again where another tracelens kept it."""
    from tracelens.api import Analysis, analyze

    kept = run.analysis
    if kept is None:
        return analyze(run.document["run"]["paths"])
    return Analysis(**{f.name: getattr(kept, f.name) for f in fields(kept)})
