"""The same collective on all ranks: how long each waited, and how long the transfer took.

A collective's kernel runs from its own launch until all ranks have sent and received, so the
last rank to arrive does not wait and its kernel is the shortest: transfer is the shortest length
over ranks, and what a kernel lasts longer is waiting. No clock is compared for that. Clocks are
only needed to say how well the ranks agree; offsets are estimated from the collectives' ends and
kept as data.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tracelens.classify import Op
from tracelens.collectives import CommTable
from tracelens.intervals import Spans, clip_lengths, subtract, union
from tracelens.steps import Steps
from tracelens.trace import Bools, Int64s

#: Kinds that all ranks of a group call. (A broadcast's root can be done before others begin, so
#: its shortest kernel is a lower bound of the transfer.)
_SYNCHRONOUS = frozenset(
    {Op.ALL_GATHER, Op.REDUCE_SCATTER, Op.ALL_REDUCE, Op.ALL_TO_ALL, Op.BROADCAST, Op.REDUCE}
)


#: NCCL's own name of a communicator, the same on all its ranks (c10d's names are a rank's own).
_COMMUNICATOR = re.compile(r"^[0-9a-f]{16}$")


@dataclass(frozen=True, slots=True)
class RankComm:
    """What matching needs of one rank: its number, communication and step numbers.

    `step_number` int64 (m,): the profiler's number of the step of each row, -1 outside.
    `clock_zero_ns`: unix time of the trace's zero.
    """

    rank: int
    table: CommTable
    step_number: Int64s
    clock_zero_ns: int


@dataclass(frozen=True, slots=True)
class Matches:
    """Waiting of every communication row of every rank.

    Attributes
    ----------
    wait_ns : tuple of int64 (m,), one a rank
        First part of the row in which a later rank was waited for; -1 where it is unknown.
    number : tuple of int64 (m,), one a rank
        The same number for the same collective on all its ranks; -1 where it is unknown.
    offset_ns : tuple of int, one a rank
        How much the rank's clock is ahead of the others', by the ends of its collectives.
    residual_ns : int or None
        Median over collectives of how far their ends lie apart once offsets are taken off.
    n_matched, n_unmatched : int
        Collectives found on all their ranks, and rows of synchronous kinds that were not.
    messages : int64 (q, 4)
        Each send with its receive: index of the sending rank and row of its kernel, then those of
        the receiving one.
    """

    wait_ns: tuple[Int64s, ...]
    number: tuple[Int64s, ...]
    offset_ns: tuple[int, ...]
    residual_ns: int | None
    n_matched: int
    n_unmatched: int
    messages: Int64s


def match(ranks: Sequence[RankComm]) -> Matches:
    """Match the collectives of ranks by group, step and order within it, and sends with receives.

    A collective counts only if every rank of its group was read and shows the same kind and size
    at the same place, a send only if the ranks it connects show as many sends as receives in that
    step; everything else stays unknown.
    """
    wait = [np.full(len(r.table), -1, np.int64) for r in ranks]
    number = [w.copy() for w in wait]
    ends: list[tuple[list[int], list[int]]] = []
    for members, rows in _sequences(ranks):
        same = _same(ranks, members, rows)
        length = np.stack([ranks[i].table.dur_ns[r] for i, r in zip(members, rows, strict=True)])
        late = length - length.min(axis=0)
        for k, (i, r) in enumerate(zip(members, rows, strict=True)):
            wait[i][r[same]] = late[k][same]
            number[i][r[same]] = len(ends) + np.arange(int(same.sum()))
        stamp = np.stack(
            [
                ranks[i].table.end_ns[r] + (ranks[i].clock_zero_ns - ranks[0].clock_zero_ns)
                for i, r in zip(members, rows, strict=True)
            ]
        )
        ends += [(list(members), column) for column in stamp[:, same].T.tolist()]
    offset, residual = _clocks(len(ranks), ends)
    alone = [
        (r.table.step >= 0) & np.isin(r.table.kind, tuple(_SYNCHRONOUS)) & (w < 0)
        for r, w in zip(ranks, wait, strict=True)
    ]
    unmatched = sum(int(a.sum()) for a in alone)
    messages = _pairs(ranks)
    for w, found in zip(wait, _waits_of_messages(ranks, messages), strict=True):
        w[found >= 0] = found[found >= 0]
    return Matches(tuple(wait), tuple(number), offset, residual, len(ends), unmatched, messages)


def _pairs(ranks: Sequence[RankComm]) -> Int64s:
    """Each send with its receive, as `Matches.messages`.

    NCCL keeps the order of messages between two ranks of one communicator.
    """
    groups: dict[str, int] = {}
    parts = []
    for i, r in enumerate(ranks):
        m = r.table.messages
        names = [groups.setdefault(g.name, len(groups)) for g in r.table.groups]
        group = np.array([*names, -1])[r.table.group[m.row]]
        peer, own = _peers(ranks, r), np.full(len(m), r.rank)
        ends = np.where(m.sends, own, peer), np.where(m.sends, peer, own)
        key = group, *ends, r.step_number[m.row]
        parts.append(np.stack([*key, m.sends, np.full(len(m), i), m.row, m.nelems], axis=1))
    rows = np.concatenate(parts) if parts else np.zeros((0, 8), np.int64)
    rows = rows[(rows[:, 1:4] >= 0).all(axis=1)]
    _, rows[:, 0] = np.unique(rows[:, :4], axis=0, return_inverse=True)
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    sent, received = rows[rows[:, 4] == 1], rows[rows[:, 4] == 0]
    n = int(rows[:, 0].max(initial=-1)) + 1
    as_many = np.bincount(sent[:, 0], minlength=n) == np.bincount(received[:, 0], minlength=n)
    sent, received = sent[as_many[sent[:, 0]]], received[as_many[received[:, 0]]]
    sizes = np.stack([sent[:, 7], received[:, 7]])
    same = (sizes[0] == sizes[1]) | (sizes < 0).any(axis=0)
    return np.concatenate([sent[same, 5:7], received[same, 5:7]], axis=1)


def _peers(ranks: Sequence[RankComm], r: RankComm) -> Int64s:
    """Rank at the other end of each message; -1 where it is unknown."""
    m = r.table.messages
    peer = m.peer.astype(np.int64)
    for g, group in enumerate(r.table.groups):
        mine = (peer < 0) & (r.table.group[m.row] == g)
        if not mine.any():
            continue
        members = _group_ranks(group.ranks)
        if _COMMUNICATOR.match(group.name):
            have = [x.rank for x in ranks if group.name in {y.name for y in x.table.groups}]
            members = tuple(sorted(have)) if group.size in (-1, len(have)) else ()
        known = mine & (m.place >= 0) & (m.place < len(members))
        peer[known] = np.array(members, np.int64)[m.place[known]]
        if len(members) == 2 and r.rank in members:
            peer[mine & (m.place < 0)] = sum(members) - r.rank
    return peer


def _waits_of_messages(ranks: Sequence[RankComm], messages: Int64s) -> list[Int64s]:
    """Waiting of each row that sends or receives; -1 for others, and where it is unknown.

    A message takes no longer than the shorter of its two kernels, and a kernel no less than the
    longest of its messages; what it lasts longer is waiting for the other end. A copy engine waits
    for nobody.
    """
    length = [r.table.dur_ns for r in ranks]
    needed = [np.where(r.table.copied, d, 0) for r, d in zip(ranks, length, strict=True)]
    found = [np.zeros(len(d), np.int64) for d in length]
    for a, row, b, other in messages.tolist():
        shared = min(length[a][row], length[b][other])
        for i, k in ((a, row), (b, other)):
            needed[i][k] = max(needed[i][k], shared)
            found[i][k] += 1
    result = []
    for r, d, n, f in zip(ranks, length, needed, found, strict=True):
        carried = np.bincount(r.table.messages.row, minlength=len(d))
        whole = r.table.copied | ((carried > 0) & (f == carried))
        result.append(np.where(whole, d - n, -1))
    return result


def exposed_wait(table: CommTable, wait_ns: Int64s, compute: Spans, steps: Steps) -> Int64s:
    """Part of each step's exposed communication that is waiting for a later rank, ns.

    The rest of it is transfer. Time in which one collective waits while another transfers is
    transfer. int64 (k,); -1 for a step with communication whose waiting is unknown.
    """
    exposed = clip_lengths(waiting_spans(table, wait_ns, compute), steps.start_ns, steps.end_ns)
    blind = np.unique(table.step[(wait_ns < 0) & (table.step >= 0)])
    exposed[blind] = -1
    return exposed


def exposed_wait_of_rows(table: CommTable, wait_ns: Int64s, compute: Spans) -> Int64s:
    """The same for each row, ns; rows that wait at once each count it. int64 (m,)."""
    arrived = table.start_ns + np.maximum(wait_ns, 0)
    return clip_lengths(waiting_spans(table, wait_ns, compute), table.start_ns, arrived)


def waiting_spans(table: CommTable, wait_ns: Int64s, compute: Spans) -> Spans:
    """When some collective waits, none transfers and nothing is computed."""
    start, end = table.start_ns, table.end_ns
    arrived = start + np.maximum(wait_ns, 0)
    busy = union(np.concatenate((compute[0], arrived)), np.concatenate((compute[1], end)))
    return subtract(union(start, arrived), busy)


def _sequences(
    ranks: Sequence[RankComm],
) -> list[tuple[tuple[int, ...], list[Int64s]]]:
    """Rows of each group and step on all its ranks, in order: (indices of ranks, rows of each)."""
    index = {r.rank: i for i, r in enumerate(ranks)}
    found: dict[tuple[str, str, int], dict[int, Int64s]] = defaultdict(dict)
    for i, r in enumerate(ranks):
        table = r.table
        sync = np.isin(table.kind, tuple(_SYNCHRONOUS)) & (r.step_number >= 0) & (table.group >= 0)
        for g in np.unique(table.group[sync]).tolist():
            mine = np.flatnonzero(sync & (table.group == g))
            mine = mine[np.argsort(table.host_ns[mine], kind="stable")]
            for step in np.unique(r.step_number[mine]).tolist():
                key = (table.groups[g].name, table.groups[g].ranks, step)
                found[key][i] = mine[r.step_number[mine] == step]
    out = []
    for (name, text, _), rows in found.items():
        group = _sharers(ranks, rows) if _COMMUNICATOR.match(name) else _group_ranks(text)
        # (a group of all ranks is cut short in the record when it is large)
        members = tuple(sorted(index[x] for x in group if x in index))
        if len(members) < 2 or len(members) < len(group) or set(members) != set(rows):
            continue
        if len({len(rows[i]) for i in members}) == 1:
            out.append((members, [rows[i] for i in members]))
    return out


def _sharers(ranks: Sequence[RankComm], rows: dict[int, Int64s]) -> tuple[int, ...]:
    """Ranks that recorded the same communicator, if they are all that it has.

    NCCL's payloads name the communicator by a number of its own and tell its size only where it was
    made within the recording.
    """
    sizes = {
        ranks[i].table.groups[g].size
        for i, r in rows.items()
        for g in np.unique(ranks[i].table.group[r]).tolist()
    }
    found = tuple(sorted(ranks[i].rank for i in rows))
    return found if sizes <= {-1, len(found)} else ()


@lru_cache(maxsize=1024)  # each group's list comes once a rank and step
def _group_ranks(text: str) -> tuple[int, ...]:
    """Ranks of a group as c10d records them; empty where the list was cut (over 30 ranks)."""
    inner = text.strip().removeprefix("[").removesuffix("]")
    parts = [p.strip() for p in inner.split(",") if p.strip()]
    return (
        tuple(int(p) for p in parts)
        if parts and all(p.isdecimal() and len(p) < 10 for p in parts)
        else ()
    )


def _same(ranks: Sequence[RankComm], members: tuple[int, ...], rows: list[Int64s]) -> Bools:
    """Where all ranks show the same kind and size."""
    first = ranks[members[0]].table
    same = np.ones(len(rows[0]), bool)
    for i, r in zip(members[1:], rows[1:], strict=True):
        table = ranks[i].table
        same &= table.kind[r] == first.kind[rows[0]]
        # uneven all-to-alls differ in size by design
        uneven = first.kind[rows[0]] == Op.ALL_TO_ALL
        same &= uneven | (table.nelems[r] == first.nelems[rows[0]])
    return same


def _clocks(n: int, ends: list[tuple[list[int], list[int]]]) -> tuple[tuple[int, ...], int | None]:
    """Offset of each rank's clock and the spread of ends that it leaves."""
    ahead: list[list[float]] = [[] for _ in range(n)]
    for members, at in ends:
        middle = float(np.median(at))
        for i, t in zip(members, at, strict=True):
            ahead[i].append(t - middle)
    offset = [round(float(np.median(a))) if a else 0 for a in ahead]
    spread = []
    for members, at in ends:
        aligned = [t - offset[i] for i, t in zip(members, at, strict=True)]
        spread.append(max(aligned) - min(aligned))
    return tuple(offset), round(float(np.median(spread))) if spread else None
