"""The critical path: what each moment of the steps waited for, back from their end.

The replay knows for every piece of work what it waited for: its launch, the work before it on its
stream, work on another stream, or the last rank of a collective; and for every synchronising call
what the host waited for. Followed back from the end, that is one chain without a gap: its parts add
up to the steps. Work that is not on it is free: it could be faster without the step being so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tracelens.phases import Phase
from tracelens.replay.model import Model, RankModel
from tracelens.replay.program import Act
from tracelens.replay.simulate import HOST, Played
from tracelens.thresholds.replay import HELD_NS
from tracelens.trace import Int64s

#: Parts of the path, in the order of the report.
COMPUTE, TRANSFER, COPY = "compute", "transfer", "copy"
HOST_TIME, LAUNCH, PAUSE = "host", "launch", "gpu_scheduling"
#: Longer than the GPU needs between two pieces of work, and nothing recorded was in the way.
UNEXPLAINED = "unexplained"
KINDS = (COMPUTE, TRANSFER, COPY, HOST_TIME, LAUNCH, PAUSE, UNEXPLAINED)


@dataclass(frozen=True, slots=True)
class Part:
    """One stretch of the path, ns from the common beginning of the replay.

    `kind` is one of `KINDS`; `rank` where it was; `phase` of the row, -1 unknown; `row` the row of
    the rank's `GpuWork` (-1 for the host's time).
    """

    kind: str
    rank: int
    phase: int
    start_ns: float
    end_ns: float
    row: int


@dataclass(frozen=True, slots=True)
class CriticalPath:
    """The parts, first to last; `n_steps` of them make `length_ns`.

    `work_ns` maps compute and transfer to all work of that kind, on the path or not: mean over
    ranks.
    """

    parts: tuple[Part, ...]
    n_steps: int
    work_ns: dict[str, float]

    @property
    def length_ns(self) -> float:
        """Length of the path."""
        return self.parts[-1].end_ns - self.parts[0].start_ns if self.parts else 0.0

    def per_step_ns(self, kind: str) -> float:
        """Time of a kind on the path per step."""
        return sum(p.end_ns - p.start_ns for p in self.parts if p.kind == kind) / self.n_steps

    def by_rank_ns(self) -> dict[int, float]:
        """How much of a step the path spends on each rank."""
        found: dict[int, float] = {}
        for p in self.parts:
            found[p.rank] = found.get(p.rank, 0.0) + (p.end_ns - p.start_ns) / self.n_steps
        return found

    def free_ns(self, kind: str) -> float:
        """Work of a kind per step that is not on the path."""
        return max(self.work_ns.get(kind, 0.0) / self.n_steps - self.per_step_ns(kind), 0.0)

    def to_json(self) -> dict[str, Any]:
        """Shares of the path (docs/json.md), ms per step."""
        total = self.length_ns / self.n_steps
        return {
            "step_ms": round(total / 1e6, 3),
            "parts": [
                {
                    "kind": kind,
                    "ms": round(self.per_step_ns(kind) / 1e6, 3),
                    "pct": round(100 * self.per_step_ns(kind) / total, 2) if total else None,
                    "by_phase_ms": self._phases(kind),
                }
                for kind in KINDS
            ],
            "free_ms": {k: round(self.free_ns(k) / 1e6, 3) for k in (COMPUTE, TRANSFER)},
            "by_rank_ms": {
                str(r): round(ns / 1e6, 3) for r, ns in sorted(self.by_rank_ns().items())
            },
        }

    def _phases(self, kind: str) -> dict[str, float]:
        found: dict[str, float] = {}
        for p in self.parts:
            if p.kind == kind:
                name = Phase(p.phase).label if p.phase >= 0 else "unknown"
                found[name] = found.get(name, 0.0) + (p.end_ns - p.start_ns) / self.n_steps
        return {k: round(v / 1e6, 3) for k, v in found.items()}


@dataclass
class _Walk:
    """The way back; `at` is where it has come to."""

    parts: list[Part] = field(default_factory=list)
    at: float = 0.0

    def back(self, kind: str, m: RankModel, row: int, to: float) -> None:
        """The stretch from `to` to here was of a kind, by a row of a rank's program."""
        if to < self.at:
            p = m.program
            own = int(p.work[row]) if kind not in (HOST_TIME, LAUNCH) else -1
            self.parts.append(Part(kind, m.rank, int(p.phase[row]), to, self.at, own))
            self.at = to


def find_critical_path(model: Model, played: Sequence[Played] | None = None) -> CriticalPath:
    """Follow the replayed steps back from their end.

    Parameters
    ----------
    model : Model
    played : sequence of Played, optional
        The model's replay, where it has run already.
    """
    played = played if played is not None else model.replay().played()
    arrivals = _arrivals(model, played)
    blocked = [_blocking(m, x) for m, x in zip(model.ranks, played, strict=True)]
    rank = max(range(len(played)), key=lambda r: played[r].finish)
    begin = min(x.begin for x in played)
    walk = _Walk(at=played[rank].finish)
    place: tuple[int, int, bool] | None = _last(model.ranks[rank], played[rank], rank)
    while place is not None and walk.at > begin:
        r, row, on_gpu = place
        m, x = model.ranks[r], played[r]
        if not on_gpu:
            place = _along_host(walk, m, x, (r, row, int(blocked[r][row])))
            continue
        if m.program.act[row] == Act.MEET:
            r, row, start = arrivals[int(m.program.meet[row])]
            walk.back(TRANSFER, m, int(place[1]), start)
            m, x = model.ranks[r], played[r]
        else:
            walk.back(_kind(m, row), m, row, x.start[row])
        cause = x.cause[row]
        if cause == HOST:
            called = x.start[row] - float(m.program.lag_ns[row])
            walk.back(LAUNCH, m, row, called)
            place = (r, row, False)
        else:
            pause = walk.at - x.end[cause]
            walk.back(PAUSE if pause <= HELD_NS else UNEXPLAINED, m, row, x.end[cause])
            place = (r, cause, True)
    walk.back(HOST_TIME, model.ranks[rank], 0, begin)
    n = model.programs[0].n_steps
    return CriticalPath(tuple(reversed(walk.parts)), n, _work(model, played))


def _last(m: RankModel, x: Played, rank: int) -> tuple[int, int, bool]:
    """What ended last on a rank: its host, or a piece of work."""
    gpu = m.program.act <= Act.MEET
    end = np.where(gpu, x.end, 0.0)
    row = int(end.argmax())
    if end[row] >= x.finish:
        return rank, row, True
    return rank, len(m.program) - 1, False


def _kind(m: RankModel, row: int) -> str:
    if m.program.compute[row]:
        return COMPUTE
    return TRANSFER if m.program.comm[row] else COPY


def _along_host(
    walk: _Walk, m: RankModel, x: Played, where: tuple[int, int, int]
) -> tuple[int, int, bool] | None:
    """Back along a rank's host to the call that waited for the GPU, and to what it waited for."""
    r, row, sync = where
    if sync < 0:
        walk.back(HOST_TIME, m, row, x.begin)
        return None
    target = x.cause[sync]
    walk.back(HOST_TIME, m, row, x.end[target])
    return r, target, True


def _blocking(m: RankModel, x: Played) -> Int64s:
    """The last call before each row that waited for the GPU; -1 none."""
    held = (m.program.act == Act.SYNC) & (np.array(x.cause) >= 0)
    return np.maximum.accumulate(np.where(held, np.arange(len(held)), -1))


def _arrivals(model: Model, played: Sequence[Played]) -> dict[int, tuple[int, int, float]]:
    """Of each collective the rank that arrived last, its row, and when."""
    last: dict[int, tuple[int, int, float]] = {}
    for r, (m, x) in enumerate(zip(model.ranks, played, strict=True)):
        for row in np.flatnonzero(m.program.act == Act.MEET).tolist():
            number = int(m.program.meet[row])
            if number not in last or x.start[row] > last[number][2]:
                last[number] = r, row, x.start[row]
    return last


def _work(model: Model, played: Sequence[Played]) -> dict[str, float]:
    """All compute, and all transfers, of the steps: mean over ranks, ns."""
    compute, transfer = [], []
    for m, x in zip(model.ranks, played, strict=True):
        length = np.array(x.end) - np.array(x.start)
        compute.append(float(length[m.program.compute].sum()))
        met = m.program.meet[m.program.act == Act.MEET].tolist()
        alone = (m.program.act == Act.LAUNCH) & m.program.comm
        transfer.append(sum(model.costs.transfer_ns[n] for n in met) + float(length[alone].sum()))
    return {COMPUTE: float(np.mean(compute)), TRANSFER: float(np.mean(transfer))}
