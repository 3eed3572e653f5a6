"""What each piece of a program's work waits for: found once, for every pass of every simulation.

The order of issue is fixed, so it is known beforehand which work a wait is for. Most waits are for
work that is over anyway, because something before waited for it or for later work: they are left
out, and what is left is a fraction of the program.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracelens.replay.program import ALL, Act, Program
from tracelens.trace import Floats, Int64s


@dataclass(frozen=True, slots=True)
class Graph:
    """A program's dependences; rows as the program's.

    Attributes
    ----------
    before : int64 (m,)
        Of GPU work: the work before it on its stream; -1 none.
    after : dict of int to tuple of int
        Work that GPU work waits for beyond that, and work that a call of the host waits for.
    host_ns : float64 (m,)
        When the host reaches each row if it never waits, from where it begins.
    """

    before: Int64s
    after: dict[int, tuple[int, ...]]
    host_ns: Floats


def find_graph(p: Program) -> Graph:
    """The dependences of a program."""
    issued = p.act <= Act.MEET
    on = [np.flatnonzero(issued & (p.stream == s)) for s in range(len(p.streams))]
    before = np.full(len(p), -1, np.int64)
    for ops in on:
        before[ops[1:]] = ops[:-1]
    held = np.full(len(p), -1, np.int64)  # the work that a wait holds up
    waits = (p.act == Act.WAIT) & (p.stream >= 0)
    for s, ops in enumerate(on):
        at = np.flatnonzero(waits & (p.stream == s))
        k = np.searchsorted(ops, at)
        at, k = at[k < len(ops)], k[k < len(ops)]
        held[at] = ops[k]
    syncs = np.flatnonzero(p.act == Act.SYNC)
    held[syncs] = syncs
    return Graph(before, _after(p, on, held), _reached(p))


def _reached(p: Program) -> Floats:
    spent = p.gap_ns + p.cost_ns
    host: Floats = (np.cumsum(spent) - p.cost_ns).astype(float)
    return host


def _after(p: Program, on: list[Int64s], held: Int64s) -> dict[int, tuple[int, ...]]:
    """What is waited for, without what is over by then."""
    at = np.flatnonzero(held >= 0)
    row, meant = _meant(p, at, on)
    waiter = np.where(p.act[row] == Act.SYNC, -1, p.stream[row])  # -1: the host
    target = p.stream[meant]
    other = waiter != target
    row, meant, waiter, target = (c[other] for c in (row, meant, waiter, target))
    row = held[row]
    found: list[tuple[int, int]] = []
    for pair in np.unique(np.stack([waiter, target], axis=1), axis=0).tolist():
        mine = (waiter == pair[0]) & (target == pair[1])
        order = np.lexsort((meant[mine], row[mine]))
        r, k = row[mine][order], meant[mine][order]
        # ends ascend along a stream: only what is later than all that was waited for yet counts
        latest = np.maximum.accumulate(k)
        new = k > np.concatenate(([-1], latest[:-1]))
        r, k = r[new], k[new]
        last = np.concatenate((r[1:] != r[:-1], [True])) if len(r) else new[:0]
        found += zip(r[last].tolist(), k[last].tolist(), strict=True)
    after: dict[int, tuple[int, ...]] = {}
    for a, b in sorted(found):
        after[a] = (*after.get(a, ()), b)
    return after


def _meant(p: Program, at: Int64s, on: list[Int64s]) -> tuple[Int64s, Int64s]:
    """Pairs of a waiting row and work that is meant: the latest by then, or one by its `uid`."""
    until = p.until[at]
    rows, meant = [], []
    for s, ops in enumerate(on):
        k = np.searchsorted(ops, at) - 1
        hit = (until < 0) & ((p.target[at] == s) | (p.target[at] == ALL)) & (k >= 0)
        rows.append(at[hit])
        meant.append(ops[k[hit]])
    named = at[until >= 0]
    if len(named):
        order = np.argsort(p.uid, kind="stable")
        k = order[np.minimum(np.searchsorted(p.uid[order], p.until[named]), len(p) - 1)]
        hit = (p.uid[k] == p.until[named]) & (k < named) & (p.act[k] <= Act.MEET)
        rows.append(named[hit])
        meant.append(k[hit])
    return np.concatenate(rows), np.concatenate(meant)
