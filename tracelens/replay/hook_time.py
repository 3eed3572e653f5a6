"""Host time of ZeRO-3's hooks by what they do, measured on the calls of the recording."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tracelens.replay.coordinator import Fetched
from tracelens.replay.gathering import Recorded
from tracelens.replay.program import Program, host_ns
from tracelens.thresholds.replay import BEHIND_LAUNCH_NS, FETCH_HOST_SHARES, FETCH_PRIOR_SPREAD
from tracelens.trace import Bools, Floats, Int64s


@dataclass(frozen=True, slots=True)
class Tasks:
    """Host time, ns, of each thing that a hook does.

    `own` and `ahead`: launching a gather of the module's parameters, or one in advance, whose
    parameters have to be found first; `part`: each parameter in either. `wait` and `unpack`:
    waiting for a gather, and each parameter put together behind it; `pop`: each parameter of the
    module that was under way; `free`: each that is given up.
    """

    own: float
    ahead: float
    part: float
    wait: float
    unpack: float
    pop: float
    free: float

    def before(self, e: Fetched, freed: int) -> float:
        """Time of a call until the compute stream waits; `freed`: by the call before."""
        return float(np.dot(_before(e, freed), self._all()))

    def after(self, e: Fetched) -> float:
        """Time of a call behind that."""
        return float(np.dot(_after(e), self._all()))

    def launch(self, count: int) -> float:
        """Time of launching a gather of so many parameters of the module's own."""
        return self.own + self.part * count

    def _all(self) -> tuple[float, ...]:
        return (self.own, self.ahead, self.part, self.wait, self.unpack, self.pop, self.free)


def _before(e: Fetched, freed: int) -> tuple[int, ...]:
    unpacked = sum(len(x) for x in e.waited if len(x) > 1)
    return (int(bool(e.own)), 0, len(e.own), len(e.waited), unpacked, e.popped, freed)


def _after(e: Fetched) -> tuple[int, ...]:
    return (0, int(bool(e.ahead)), len(e.ahead), 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Spent:
    """Host time of each call of a rank as recorded, ns.

    `before` float (c,): until the compute stream waits. `after` (c,): behind that, with what is
    left to do when the hook returns. `rest` int64 (c,): position of the first row behind the call
    if that is none of the hooks', -1 otherwise.
    """

    before: Floats
    after: Floats
    rest: Int64s


def measure_spent(p: Program, recorded: Recorded) -> Spent:
    """Host time of the hooks' rows, call by call."""
    rows = recorded.rows
    spent = np.where(rows, host_ns(p), 0)
    total = np.concatenate(([0], np.cumsum(spent)))
    call_at = recorded.call_at
    last, short = call_at.copy(), np.ones(len(call_at), np.int64)
    for x, at in zip(recorded.made, recorded.gather_at.tolist(), strict=True):
        if x.ahead:
            last[x.call], short[x.call] = at, BEHIND_LAUNCH_NS
    ends = last + 1  # behind the last row of each call, and behind waits that take no time
    for c, limit in enumerate(short.tolist()):
        while ends[c] < len(p) and rows[ends[c]] and spent[ends[c]] < limit:
            ends[c] += 1
    begins = np.concatenate(([0], ends[:-1]))
    rest = np.where((ends < len(p)) & ~rows[np.minimum(ends, len(p) - 1)], ends, -1)
    tail = np.where(rest >= 0, p.gap_ns[np.maximum(rest, 0)], 0)
    return Spent(
        before=(total[call_at + 1] - total[begins]).astype(float),
        after=(total[ends] - total[call_at + 1] + tail).astype(float),
        rest=rest.astype(np.int64),
    )


def _flat(recorded: Recorded) -> tuple[list[Fetched], list[int], Bools]:
    """What each call of a rank did, how many parameters the call before gave up, and whether it
    was in the backward pass.
    """
    done = [e for turn in recorded.fetched for e in turn]
    freed = [k for turn in recorded.fetched for k in (0, *(e.freed for e in turn[:-1]))]
    return done, freed, recorded.backward


def fit_tasks(spent: Sequence[Spent], recorded: Sequence[Recorded]) -> Tasks:
    """Host time of each task, from all calls of all ranks.

    Least squares, so that sums are kept, drawn to the shares of a plain call's time that other runs
    showed: a recording that never does something cannot tell what it takes.
    """
    x, y, kind = [], [], []
    for s, r in zip(spent, recorded, strict=True):
        done, freed, b = _flat(r)
        x += [_before(e, f) for e, f in zip(done, freed, strict=True)]
        x += [_after(e) for e in done]
        y += [s.before, s.after]
        kind += [np.where(b, 1, 0), np.where(s.rest < 0, 4, np.where(b, 3, 2))]
    design, time, group = np.array(x, float), np.concatenate(y), np.concatenate(kind)
    ones = np.eye(5)[group]
    plain = (design.sum(axis=1) == 0) & (group == 0)
    unit = float(time[plain].mean()) if plain.any() else float(time.mean())
    prior = np.array(FETCH_HOST_SHARES) * unit
    noise = float(time[plain].std()) if plain.any() else 0.0
    weight = (noise or unit) / (FETCH_PRIOR_SPREAD * prior)
    a = np.block([[ones, design], [np.zeros((7, 5)), np.diag(weight)]])
    b = np.concatenate((time, weight * prior))
    found, *_ = np.linalg.lstsq(a, b, rcond=None)
    return Tasks(*np.maximum(found[5:], 0.0).tolist())
