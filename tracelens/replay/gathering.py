"""What a rank's program does to fetch ZeRO-3's parameters, and what its coordinator makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from tracelens.errors import CannotPredict
from tracelens.gradients import Gradients
from tracelens.replay.coordinator import Call, Fetched, FetchSetting, emulate
from tracelens.replay.fetches import Fetches
from tracelens.replay.model import RankModel
from tracelens.replay.program import Act, Program
from tracelens.replay.transforms.bucket_plan import SHAPES, positions
from tracelens.trace import Bools, Int64s


@dataclass(frozen=True, slots=True)
class Turn:
    """One forward and backward pass: its calls as rows of `Fetches`, and its parameters."""

    calls: tuple[int, ...]
    modules: tuple[Call, ...]
    nelems: tuple[int, ...]

    def run(self, setting: FetchSetting) -> tuple[Fetched, ...]:
        """What its calls fetch with a setting."""
        return emulate(self.modules, self.nelems, setting)


def find_turns(f: Fetches, g: Gradients) -> tuple[Turn, ...]:
    """The passes of a rank, with the parameters of each call's module.

    A parameter belongs to the module in whose backward call its gradient appears.

    Raises
    ------
    CannotPredict
        If the gradients' sizes were not recorded.
    """
    if not len(g) or (g.nelems < 0).any():
        raise CannotPredict("the parameters' sizes were not recorded", hint=SHAPES)
    turns = []
    owner = np.where(f.hook >= 0, f.owner[np.maximum(f.hook, 0)], -1)
    for k in np.unique(f.turn).tolist():
        calls = np.flatnonzero(f.turn == k)
        mine = np.flatnonzero((f.hook >= 0) & (f.turn[np.maximum(f.hook, 0)] == k))
        # (the larger first: a module's weight comes before its bias)
        mine = mine[np.lexsort((-g.nelems[mine], owner[mine]))]
        of: dict[int, list[int]] = {}
        for number, i in enumerate(mine.tolist()):
            of.setdefault(int(owner[i]), []).append(number)
        modules = [Call(tuple(of.get(int(f.owner[c]), ()))) for c in calls.tolist()]
        turns.append(Turn(tuple(calls.tolist()), tuple(modules), tuple(g.nelems[mine].tolist())))
    return tuple(turns)


@dataclass(frozen=True, slots=True)
class Gather:
    """One gather: call (row of `Fetches`), whether in advance, elements a rank, parameters."""

    call: int
    ahead: bool
    nelems: int
    count: int


def gathers(turn: Turn, fetched: Sequence[Fetched], world: int) -> tuple[Gather, ...]:
    """The gathers of a pass in the order of their launch.

    A rank's part of a parameter is padded: ceil(elements / ranks).
    """
    made = []
    for c, e in zip(turn.calls, fetched, strict=True):
        for ahead, params in ((False, e.own), (True, e.ahead)):
            if params:
                part = sum(ceil(turn.nelems[p] / world) for p in params)
                made.append(Gather(c, ahead, part, len(params)))
    return tuple(made)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a rank's program does to fetch parameters now.

    Attributes
    ----------
    turns : tuple of Turn
    fetched : tuple of tuple of Fetched
        What each turn's calls fetched.
    call_at : int64 (c,)
        Position of each call's own wait.
    backward : bool (c,)
    gather_at : int64 (k,)
        Positions of the gathers; `made` has one each.
    made : tuple of Gather
    rows : bool (m,)
        All that the hooks issued.
    packing, unpacking : int64
        Positions of the copies that put a rank's parts into one, and gathered parts into tensors.
    """

    turns: tuple[Turn, ...]
    fetched: tuple[tuple[Fetched, ...], ...]
    call_at: Int64s
    backward: Bools
    gather_at: Int64s
    made: tuple[Gather, ...]
    rows: Bools
    packing: Int64s
    unpacking: Int64s


def read_recorded(m: RankModel, now: FetchSetting, world: int) -> Recorded:
    """Find a rank's fetches, and hold the coordinator's rules against them.

    Raises
    ------
    CannotPredict
        If the hooks were not recorded, or the rules with these settings do not gather what was
        gathered.
    """
    f, p = m.host.fetches, m.program
    if f is None or not len(f) or not len(m.fetches):
        raise CannotPredict(
            "no module hook of ZeRO-3 was recorded",
            hint="record CPU activities with torch.profiler",
        )
    turns = find_turns(f, m.host.gradients)
    fetched = tuple(t.run(now) for t in turns)
    made = tuple(x for t, e in zip(turns, fetched, strict=True) for x in gathers(t, e, world))
    call_at, gather_at = positions(p, f.uid), np.sort(positions(p, m.fetches))
    _hold(m, made, call_at, gather_at, now)
    rows, packing, unpacking = _issued(p, f, call_at, gather_at, made)
    return Recorded(turns, fetched, call_at, f.backward, gather_at, made, rows, packing, unpacking)


def _hold(
    m: RankModel, made: Sequence[Gather], call_at: Int64s, gather_at: Int64s, now: FetchSetting
) -> None:
    seen = [m.nelems[int(u)] for u in m.program.uid[gather_at].tolist()]
    ends = np.append(call_at, len(m.program))
    held = [x.nelems for x in made] == seen and all(
        (ends[x.call] < at < ends[x.call + 1]) if x.ahead else at < ends[x.call]
        for x, at in zip(made, gather_at.tolist(), strict=True)
    )
    if not held:
        raise CannotPredict(
            "the parameters gathered in this recording are not what DeepSpeed 0.19.8 gathers with "
            f"stage3_prefetch_bucket_size {now.prefetch_bucket_size:,} and "
            f"stage3_max_live_parameters {now.max_live_parameters:,}",
            hint="give the job's configuration with --ds-config; frozen or tied parameters, "
            "activation checkpointing and leaf modules gather in ways of their own",
        )


def _issued(
    p: Program, f: Fetches, call_at: Int64s, gather_at: Int64s, made: Sequence[Gather]
) -> tuple[Bools, Int64s, Int64s]:
    """All rows of the hooks; those that pack a rank's parts; those that unpack gathered ones."""
    own = np.isin(p.uid, f.own)
    gone = own.copy()
    work = p.act <= Act.MEET
    packing, unpacking = [], []
    for x, at in zip(made, gather_at.tolist(), strict=True):
        if x.count > 1:
            before = np.flatnonzero(work[:at] & ~own[:at])
            packing.append(int(before[-1]))
    waits = np.flatnonzero(np.isin(p.uid, f.waits))
    ends = call_at[np.minimum(np.searchsorted(call_at, waits), len(call_at) - 1)]
    for first, end in zip(waits.tolist(), ends.tolist(), strict=True):
        unpacking += (np.flatnonzero(work[first:end] & ~own[first:end]) + first).tolist()
        gone[first:end] = True
    gone[packing] = True
    return (
        _with_found_waits(p, gone),
        np.array(packing, np.int64),
        np.unique(unpacking).astype(np.int64),
    )


def _with_found_waits(p: Program, gone: Bools) -> Bools:
    """Also the waits that were found at these calls, and before this work (`edges`)."""
    found = (p.act == Act.WAIT) & (p.gap_ns == 0) & (p.cost_ns == 0)
    at = np.arange(len(p))
    before = np.maximum.accumulate(np.where(found, -1, at))
    after = np.minimum.accumulate(np.where(found, len(p), at)[::-1])[::-1]
    b, a = np.maximum(before, 0), np.minimum(after, len(p) - 1)
    behind = (before >= 0) & gone[b] & (p.act[b] == Act.WAIT)
    ahead = (after < len(p)) & gone[a] & (p.act[a] <= Act.MEET)
    every: Bools = gone | (found & (behind | ahead))
    return every
