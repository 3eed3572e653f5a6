"""What there is to know of one event, of what lies in one pixel, and where to find more of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tracelens.analysis import Analysis, RankAnalysis
from tracelens.classify import Op, is_comm
from tracelens.intervals import clip_lengths
from tracelens.phases import Phase
from tracelens.trace import Kind

from .classes import CLASSES
from .clocks import Clocks
from .lanes import RankLanes
from .lod import Row
from .wire import short

#: Links from an operator to its kernels that are drawn; all are counted.
MAX_LINKS = 64


@dataclass(frozen=True, slots=True)
class Frame:
    """What times are told in: ns since the anchor rank's first event."""

    analysis: Analysis
    clocks: Clocks
    anchor: int

    def shift(self, rank: int) -> int:
        """What to add to a rank's own time."""
        return self.clocks.anchored(rank, self.anchor)


def event(book: RankLanes, at: int, frame: Frame) -> dict[str, Any]:
    """Everything known of one row of a rank's `Slices`."""
    s, trace = book.seen.trace.slices, book.seen.trace
    told = place(book, at, frame)
    kind = Kind(int(s.kind[at]))
    track = int(s.track[at])
    told |= {
        "kind": kind.name.lower().replace("_", " "),
        "process": short(str(trace.tracks.process[track] or trace.tracks.pid[track])),
        "thread": short(str(trace.tracks.name[track] or trace.tracks.tid[track])),
        "bytes": int(s.bytes[at]) if s.bytes[at] >= 0 else None,
        "correlation": int(s.correlation[at]) if s.correlation[at] > 0 else None,
        "links": [],
        "same": [],
    }
    work = book.seen.work
    row = int(np.searchsorted(work.row, at))
    if row < len(work) and work.row[row] == at:
        _of_work(told, book, row, frame)
    else:
        _of_host(told, book, at, frame)
    return told


def place(book: RankLanes, at: int, frame: Frame) -> dict[str, Any]:
    """Where an event lies: rank, lane, depth, and when."""
    s = book.seen.trace.slices
    return {
        "rank": book.rank,
        "event": at,
        "lane": int(book.lane[at]),
        "depth": int(book.depth[at]),
        "name": short(book.strings[s.name[at]]),
        "t0": int(s.ts_ns[at]) + frame.shift(book.rank),
        "dur": int(s.dur_ns[at]),
    }


def _of_work(told: dict[str, Any], book: RankLanes, row: int, frame: Frame) -> None:
    """What is known of a kernel or copy: meaning, step, what launched it, its collective."""
    work, seen = book.seen.work, book.seen
    op = Op(int(work.op[row]))
    step = int(seen.found.of_work[row])
    phase = int(seen.phases.phase[row])
    told |= {
        "means": op.label.replace("_", " "),
        "stream": int(work.stream[row]),
        "device": int(work.device[row]),
        "step": int(seen.found.steps.number[step]) if step >= 0 else None,
        "phase": Phase(phase).label if phase >= 0 else None,
    }
    for how, at in (("launched by", int(work.launch[row])), ("within", int(work.parent[row]))):
        if at >= 0:
            told["links"].append({"how": how, **place(book, at, frame)})
    if work.launch_ns[row] >= 0:
        told["queued_ns"] = int(work.start_ns[row] - work.launch_ns[row])
    if is_comm(work.op[row : row + 1])[0]:
        _of_collective(told, book, row, frame)


def _of_collective(told: dict[str, Any], book: RankLanes, row: int, frame: Frame) -> None:
    """The same collective on all ranks: when each began, how long it waited."""
    found = frame.analysis
    index = frame.clocks.ranks.index(book.rank)
    comm = found.ranks[index].comm
    mine = np.flatnonzero(comm.work == row)
    if not len(mine):
        return
    i = int(mine[0])
    group = comm.groups[comm.group[i]] if comm.group[i] >= 0 else None
    told |= {
        "message_bytes": int(comm.bytes[i]) if comm.bytes[i] >= 0 else None,
        "dtype": comm.dtypes[comm.dtype[i]] if comm.dtype[i] >= 0 else None,
        "group": short(group.label) if group else None,
        "group_size": group.size if group and group.size >= 0 else None,
        "exposed_ns": int(comm.exposed_ns[i]),
    }
    number = int(found.matches.number[index][i])
    if number >= 0:
        told["same"] = [
            same
            for k, r in enumerate(found.ranks)
            for same in _on_rank(
                r, found.matches.number[k], found.matches.wait_ns[k], number, frame
            )
        ]


def _on_rank(
    r: RankAnalysis, numbers: np.ndarray, waits: np.ndarray, number: int, frame: Frame
) -> list[dict[str, Any]]:
    return [
        {
            "rank": r.rank,
            "t0": int(r.comm.start_ns[i]) + frame.shift(r.rank),
            "dur": int(r.comm.end_ns[i] - r.comm.start_ns[i]),
            "wait": int(waits[i]) if waits[i] >= 0 else None,
            "work": int(r.comm.work[i]),
        }
        for i in np.flatnonzero(numbers == number).tolist()
    ]


def _of_host(told: dict[str, Any], book: RankLanes, at: int, frame: Frame) -> None:
    """What an operator or call launched."""
    work = book.seen.work
    mine = np.flatnonzero((work.launch == at) | (work.parent == at))
    told["kernels"] = len(mine)
    told["kernels_ns"] = int((work.end_ns - work.start_ns)[mine].sum())
    told["links"] = [
        {"how": "launched", **place(book, int(work.row[i]), frame)} for i in mine[:MAX_LINKS]
    ]


def pixel(book: RankLanes, row: Row, t0: int, t1: int) -> dict[str, Any]:
    """What lies within ``[t0, t1)`` of a row, in the rank's own time."""
    first, stop = row.within(t0, t1)
    busy = {c: int(ns.sum()) for c, ns in row.busy(np.array([t0, t1])).items()}
    start, end = row.start_ns[first:stop], row.end_ns[first:stop]
    inside = np.minimum(end, t1) - np.maximum(start, t0)
    told: dict[str, Any] = {
        "n": stop - first,
        "classes": [[CLASSES[c].name, ns] for c, ns in sorted(busy.items(), key=_most) if ns],
        "exposed_ns": int(clip_lengths(row.exposed, np.array([t0]), np.array([t1]))[0]),
    }
    if stop > first:
        longest = first + int(inside.argmax())
        told["longest"] = {
            "name": short(book.strings[row.name[longest]]),
            "event": int(row.event[longest]),
            "dur": int(row.end_ns[longest] - row.start_ns[longest]),
        }
    return told


def _most(item: tuple[int, int]) -> int:
    return -item[1]
