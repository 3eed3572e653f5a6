"""One rank's steps as a program: what the host issued, in order, and what the GPU did with it.

A row is one call of the host that matters to the GPU's timeline. Time that the host spends between
two such calls is the later row's `gap_ns`, whatever it did.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias

import numpy as np

from tracelens.trace import Bools, Int8s, Int32s, Int64s, _freeze


class Act(enum.IntEnum):
    """What a row does."""

    LAUNCH = 0  #: GPU work of this rank alone
    MEET = 1  #: GPU work that starts when all ranks of its group have arrived
    WAIT = 2  #: a stream waits for another
    SYNC = 3  #: the host waits for a stream, or for all


Columns: TypeAlias = "dict[str, np.ndarray]"
"""New rows of a `Program`, a column each."""

#: `Program.target` of a wait for everything that the GPU has been given.
ALL = -2
NOTHING = -1


@dataclass(frozen=True, slots=True)
class Program:
    """What one rank's host issued over some steps; rows in the order of issue.

    Attributes
    ----------
    act : int8 (m,)
        `Act`.
    gap_ns : int64 (m,)
        Host time between the end of the previous row's call and the beginning of this one's.
    cost_ns : int64 (m,)
        Host time of the call itself, without waiting for the GPU.
    stream : int32 (m,)
        Stream that works or waits: index into `streams`; -1 for `SYNC`.
    target : int32 (m,)
        `WAIT`, `SYNC`: the stream whose work issued so far is waited for; `ALL`, `NOTHING`.
    until : int64 (m,)
        The same, but for one piece of work: its `uid`; -1 where `target` says it.
    work_ns : int64 (m,)
        Length of the GPU work with nothing beside it. Of a `MEET`: as recorded on this rank.
    lag_ns : int64 (m,)
        From the beginning of the call to the earliest start on the GPU.
    pause_ns : int64 (m,)
        From the end of what the work waited for to its start.
    compute, comm : bool (m,)
        Compute kernels, and kernels of communication: beside each other they are slower.
    fills : bool (m,)
        Compute kernels that take all of the GPU: others start when they let go.
    meet : int64 (m,)
        Number of the collective, the same on all its ranks; -1.
    step, micro, hook : int32 (m,)
        Step row, micro-step, and gradient hook of the rank (-1 outside of hooks).
    phase : int8 (m,)
        `Phase`; -1 unknown.
    work : int64 (m,)
        Row of the rank's `GpuWork`; -1 for what was not recorded.
    uid : int64 (m,)
        Stays with a row when others come and go; distinct.
    streams : tuple of int
        The trace's stream numbers.
    busy_until_ns : tuple of int
        When each stream is through with earlier work; relative to `begin_ns`.
    begin_ns : int
        When the host begins, on the clock that all ranks share.
    recorded_ns : int
        Length of the steps in the recording: from `begin_ns`, or from the end of earlier work, to
        the end of the last row.
    n_steps : int
    """

    act: Int8s
    gap_ns: Int64s
    cost_ns: Int64s
    stream: Int32s
    target: Int32s
    until: Int64s
    work_ns: Int64s
    lag_ns: Int64s
    pause_ns: Int64s
    compute: Bools
    comm: Bools
    fills: Bools
    meet: Int64s
    step: Int32s
    micro: Int32s
    hook: Int32s
    phase: Int8s
    work: Int64s
    uid: Int64s
    streams: tuple[int, ...]
    busy_until_ns: tuple[int, ...]
    begin_ns: int
    recorded_ns: int
    n_steps: int

    def __post_init__(self) -> None:
        _freeze(self)

    def __len__(self) -> int:
        return len(self.act)


COLUMNS = tuple(f.name for f in fields(Program))[:19]
_EMPTY = {
    "stream": -1,
    "target": NOTHING,
    "until": -1,
    "meet": -1,
    "hook": -1,
    "phase": -1,
    "work": -1,
}


def host_ns(p: Program) -> Int64s:
    """Host time of each row without waiting for the GPU, ns; int64 (m,).

    Of a synchronising call nothing counts: where it is not known what it waited for, all of its
    time would.
    """
    return p.gap_ns + np.where(p.act == Act.SYNC, 0, p.cost_ns)


def rows(count: int, **columns: object) -> Columns:
    """Columns of new rows; what is not given is 0 or, for references, none.

    Parameters
    ----------
    count : int
    **columns : scalar or array (count,)
    """
    like = {"act": np.int8, "phase": np.int8, "compute": np.bool_, "comm": np.bool_}
    like["fills"] = np.bool_
    short = {"stream", "target", "step", "micro", "hook"}
    made: Columns = {}
    for name in COLUMNS:
        kind = like.get(name, np.int32 if name in short else np.int64)
        made[name] = np.full(count, columns.get(name, _EMPTY.get(name, 0)), kind)
    return made


def listed(made: Sequence[tuple[int, Mapping[str, object]]]) -> tuple[Int64s, Columns]:
    """Positions and columns of new rows from one mapping a row, as `edit` takes them.

    Parameters
    ----------
    made : sequence of (position, mapping)
    """
    named = {name for _, row in made for name in row}
    at = np.array([at for at, _ in made], np.int64)
    return at, {n: np.array([row.get(n, _EMPTY.get(n, 0)) for _, row in made]) for n in named}


def edit(program: Program, keep: Bools, at: Int64s, new: Columns) -> Program:
    """The program without some rows and with new ones.

    Parameters
    ----------
    keep : bool (m,)
        Rows that stay. Waits for work that goes become waits for nothing.
    at : int64 (n,)
        New rows go before the old row of that position (m: behind the last), in their order.
    new : dict of array (n,)
        Columns of the new rows; those that are left out are as in `rows`. Rows whose `uid` is 0
        get one.
    """
    order = np.argsort(np.concatenate([np.flatnonzero(keep) + 0.5, at]), kind="stable")
    fresh = int(program.uid.max(initial=0)) + 1
    filled = rows(len(at), **new)
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(program, name)[keep], filled[name]])[order]
        for name in COLUMNS
    }
    unnamed = np.flatnonzero(columns["uid"] == 0)
    columns["uid"][unnamed] = fresh + np.arange(len(unnamed))
    gone = (columns["until"] >= 0) & ~np.isin(columns["until"], columns["uid"])
    columns["until"] = np.where(gone, -1, columns["until"])
    return replace(program, **columns)
