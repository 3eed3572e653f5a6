"""Which stream waited for which, and what the host's synchronising calls waited for.

The profiler records that a stream was told to wait for an event, not which stream nor which event
(Kineto without ``enable_cuda_sync_events``). The timeline tells: work behind a wait never starts
before what was waited for has ended, and sometimes starts just then.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracelens.replay.program import ALL, NOTHING, Act, Columns, Program, edit
from tracelens.thresholds.replay import (
    EDGE_CHANCE,
    EDGE_MIN_BINDING,
    EDGE_SLACK_NS,
    EDGE_TIGHT_NS,
    HELD_NS,
    SYNC_RETURN_NS,
)
from tracelens.trace import Bools, Int32s, Int64s


@dataclass(frozen=True, slots=True)
class Calls:
    """The calls of a rank's host in order, and the GPU work that they launched.

    `ts`, `end` int64 (m,): on the host, ns. `is_wait`, `is_sync` bool (m,). `stream` int32 (m,),
    `start`, `done` int64 (m,): of the launched work; -1 for other calls.
    """

    ts: Int64s
    end: Int64s
    is_wait: Bools
    is_sync: Bools
    stream: Int32s
    start: Int64s
    done: Int64s

    def on(self, stream: int) -> Int64s:
        """Positions of the launches onto a stream, ascending."""
        return np.flatnonzero(self.stream == stream)


@dataclass(frozen=True, slots=True)
class Waits:
    """One row a wait of one stream for another.

    `at` int64 (e,): position of the call; `waiter`, `target` int32 (e,): streams; `until` int64
    (e,): position of the launch whose work was waited for; `latest` bool (e,): whether that was the
    last one on its stream by then.
    """

    at: Int64s
    waiter: Int32s
    target: Int32s
    until: Int64s
    latest: Bools

    def ready(self, calls: Calls) -> Int64s:
        """Earliest start of each launched work by its stream's waits, ns; -1 none. int64 (m,)."""
        ready = np.full(len(calls.ts), -1, np.int64)
        for stream in np.unique(self.waiter).tolist():
            mine = self.waiter == stream
            order = np.argsort(self.at[mine], kind="stable")
            at = self.at[mine][order]
            done = np.maximum.accumulate(calls.done[self.until[mine][order]])
            ops = calls.on(stream)
            k = np.searchsorted(at, ops, "right")
            ready[ops] = np.where(k > 0, done[np.maximum(k - 1, 0)], -1)
        return ready

    def joined(self, other: Waits) -> Waits:
        """These waits and others."""
        return Waits(
            *(
                np.concatenate((getattr(self, n), getattr(other, n)))
                for n in ("at", "waiter", "target", "until", "latest")
            )
        )

    def applied(self, program: Program) -> Program:
        """The program with a row for each of these waits: behind its call's, before a launch."""
        if not len(self.at):
            return program
        at, latest = self.at, self.latest
        new: Columns = {
            "act": np.full(len(at), Act.WAIT),
            "stream": self.waiter,
            "target": np.where(latest, self.target, NOTHING),
            "until": np.where(latest, -1, program.uid[self.until]),
            **{name: getattr(program, name)[at] for name in ("step", "micro", "hook")},
        }
        every = np.ones(len(program), bool)
        return edit(program, every, at + (program.act[at] == Act.WAIT), new)


def find_waits(calls: Calls, n_streams: int) -> Waits:
    """Pairs of streams that explain starts, at every call that made a stream wait.

    A pair counts where the waiter was seen to start just when the target ended, though it had been
    launched and its own stream was free. At a call where the waiter started earlier than the
    target's latest work ended, an older piece of work was meant, or another pair.
    """
    waits = np.flatnonzero(calls.is_wait)
    found: list[tuple[Int64s, Int64s, Int64s, Int64s, Bools]] = []
    for waiter in range(n_streams):
        ops = calls.on(waiter)
        k = np.searchsorted(ops, waits, "right")
        at, nxt = waits[k < len(ops)], ops[k[k < len(ops)]]
        if not len(at):
            continue
        before = np.where(k[k < len(ops)] > 0, ops[np.maximum(k[k < len(ops)] - 1, 0)], -1)
        free = np.where(before >= 0, calls.done[before], 0)
        late = calls.start[nxt] - np.maximum(free, calls.end[nxt])
        for target in range(n_streams):
            if target != waiter:
                found += _pair(calls, (waiter, target), (at, nxt, late))
    if not found:
        none = np.empty(0, np.int64)
        return Waits(none, none.astype(np.int32), none.astype(np.int32), none, none.astype(bool))
    at, waiters, targets, until, latest = (np.concatenate(c) for c in zip(*found, strict=True))
    return Waits(at, waiters.astype(np.int32), targets.astype(np.int32), until, latest)


def _pair(
    calls: Calls, pair: tuple[int, int], told: tuple[Int64s, Int64s, Int64s]
) -> list[tuple[Int64s, Int64s, Int64s, Int64s, Bools]]:
    """The waits of one pair of streams, if it explains any start."""
    at, nxt, late = told
    ops = calls.on(pair[1])
    k = np.searchsorted(ops, at, "left") - 1
    on = k >= 0
    at, nxt, late, k = at[on], nxt[on], late[on], k[on]
    if not len(at):
        return []
    start = calls.start[nxt]
    slack = start - calls.done[ops[k]]
    near = np.maximum(EDGE_TIGHT_NS, late * EDGE_CHANCE)
    tight = (late > EDGE_TIGHT_NS) & (slack >= -EDGE_SLACK_NS) & (slack <= near)
    # (several calls before one launch see the same start)
    binding = len(np.unique(nxt[tight]))
    # older work on the target's stream: ends ascend with the order of issue
    done = calls.done[ops]
    older = np.minimum(np.searchsorted(done, start + EDGE_SLACK_NS, "right") - 1, k)
    meant = (older >= 0) & (older < k) & (late > EDGE_TIGHT_NS)
    meant &= start - done[np.maximum(older, 0)] <= near
    binding += len(np.unique(nxt[meant]))
    if binding < min(EDGE_MIN_BINDING, len(np.unique(nxt))):
        return []
    latest = slack >= -EDGE_SLACK_NS
    use = latest | meant
    until = np.where(latest, ops[k], ops[np.maximum(older, 0)])[use]
    count = int(use.sum())
    return [
        (
            at[use],
            np.full(count, pair[0]),
            np.full(count, pair[1]),
            until,
            latest[use],
        )
    ]


def find_held(calls: Calls, late_ns: Int64s, n_streams: int) -> Waits:
    """What held up work that started late without a wait that tells why.

    Copies within the GPU queue behind copies of other streams, and kernels behind kernels that fill
    it: then the late work starts just when some earlier work elsewhere ends.

    Parameters
    ----------
    calls : Calls
    late_ns : int64 (m,)
        How much later each launched work started than all that is known of it explains.
    n_streams : int
    """
    late = np.flatnonzero(late_ns > HELD_NS)
    found: list[tuple[int, int, int, int]] = []
    ends = [(calls.on(b), np.maximum.accumulate(calls.done[calls.on(b)])) for b in range(n_streams)]
    for i in late.tolist():
        best = (EDGE_TIGHT_NS + 1, -1, -1)
        for b, (ops, done) in enumerate(ends):
            k = int(np.searchsorted(done, calls.start[i] + EDGE_SLACK_NS, "right")) - 1
            if b == calls.stream[i] or k < 0 or ops[k] >= i:
                continue
            best = min(best, (int(calls.start[i] - done[k]), b, int(ops[k])))
        if best[1] >= 0:
            found.append((i, int(calls.stream[i]), best[1], best[2]))
    table = np.array(found, np.int64).reshape(-1, 4)
    at, waiter, target, until = table.T
    return Waits(
        at, waiter.astype(np.int32), target.astype(np.int32), until, np.zeros(len(at), bool)
    )


@dataclass(frozen=True, slots=True)
class Syncs:
    """What synchronising calls waited for; rows as the calls'.

    `target` int32 (m,): stream, `ALL` or `NOTHING`; `until` int64 (m,): position of the launch; -1.
    `cost_ns` int64 (m,): how long the call lasted beyond that.
    """

    target: Int32s
    until: Int64s
    cost_ns: Int64s


def find_syncs(calls: Calls, is_device: Bools) -> Syncs:
    """The work whose end each synchronising call returned at.

    A call for the whole device waits for all streams. Another waits for the last launch before it,
    if that had ended when the call returned (``.item()`` copies and synchronises its stream); else
    for the work, issued before, that ended last before the call returned; a call that returned at
    once waited for nothing.
    """
    m = len(calls.ts)
    target, until = np.full(m, NOTHING, np.int32), np.full(m, -1, np.int64)
    cost = calls.end - calls.ts
    launches = np.flatnonzero(calls.stream >= 0)
    for i in np.flatnonzero(calls.is_sync).tolist():
        issued = launches[: np.searchsorted(launches, i)]
        if not len(issued):
            continue
        done = calls.done[issued]
        if is_device[i]:
            target[i] = ALL
            cost[i] = calls.end[i] - max(int(calls.ts[i]), min(int(done.max()), int(calls.end[i])))
            continue
        last = int(issued[-1])
        if calls.done[last] > calls.end[i]:
            ended = np.where(done <= calls.end[i], done, -1)
            last = int(issued[ended.argmax()])
            if calls.done[last] < calls.ts[i]:
                continue  # nothing ended while it waited
        if calls.end[i] - calls.done[last] > SYNC_RETURN_NS and calls.done[last] > calls.ts[i]:
            continue  # it waited for something that the recording does not show
        until[i] = last
        cost[i] = calls.end[i] - max(int(calls.ts[i]), int(calls.done[last]))
    return Syncs(target, until, cost)
