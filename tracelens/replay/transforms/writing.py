"""New rows of one rank's program, and the rules that hold for all of ZeRO-3's collectives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tracelens.replay.program import Act, Program, edit
from tracelens.trace import Int64s

#: Gathers, and reductions, that may be outstanding before the host waits (0.19.8
#: partitioned_param_coordinator.py, __max_ongoing_fetch_events; stage3.py,
#: max_param_reduce_events).
OUTSTANDING = 2


class Writer:
    """Rows in the order of issue, with their `uid`, events and numbers of collectives.

    Parameters
    ----------
    p : Program
    uid : int
        First free one.
    meet : int
        Number of the first new collective.

    Attributes
    ----------
    meets : dict
        Elements of each new collective by its row's `uid`.
    made : list of (position, row)
        The rows that have their place, as `listed` takes them.
    """

    def __init__(self, p: Program, uid: int, meet: int) -> None:
        self._p, self.uid, self._meet = p, uid, meet
        self._rows: list[dict[str, object]] = []
        self.made: list[tuple[int, dict[str, object]]] = []
        self._events: list[int] = []
        self.meets: dict[int, int] = {}

    def row(self, **columns: object) -> int:
        """One row; returns its `uid`."""
        uid = columns.setdefault("uid", self.uid)
        self.uid += 1
        self._rows.append(columns)
        return int(str(uid))

    def launch(self, work_ns: float, stream: int, late: tuple[int, int], **columns: object) -> int:
        """Work of this rank alone, with its lag and pause."""
        return self.row(
            act=Act.LAUNCH, work_ns=work_ns, stream=stream, lag_ns=late[0], pause_ns=late[1],
            **columns,
        )  # fmt: skip

    def meet(self, nelems: int, stream: int, late: tuple[int, int]) -> int:
        """A collective."""
        uid = self.row(
            act=Act.MEET, meet=self._meet, comm=True, stream=stream, lag_ns=late[0],
            pause_ns=late[1],
        )  # fmt: skip
        self._meet += 1
        self.meets[uid] = nelems
        return uid

    def hold_host(self, gap_ns: float, stream: int) -> None:
        """The host waits for the oldest event, if more than `OUTSTANDING` would be under way.

        Each call waits for one at most and adds one, so it is always the third from last.
        """
        k = len(self._events) - OUTSTANDING - 1
        if k >= 0:
            self.row(act=Act.SYNC, gap_ns=gap_ns, until=self._events[k])
        else:
            self.row(act=Act.WAIT, gap_ns=gap_ns, stream=stream)

    def event(self, stream: int) -> None:
        """An event on a stream: work of no length, so that it can be waited for."""
        self._events.append(self.row(act=Act.LAUNCH, stream=stream))

    def place(self, at: int, like: int) -> None:
        """The rows since the last time go before a position, into the step of another row."""
        p = self._p
        of = {name: int(getattr(p, name)[like]) for name in ("step", "micro", "phase")}
        self.made += [(at, row | of) for row in self._rows]
        self._rows = []


def in_turn(p: Program, uid: Int64s) -> Program:
    """The program with each of some collectives waiting for the one launched before it.

    NCCL runs the operations of one communicator in the order of their launch, whatever the streams
    (user guide, "CUDA Stream Semantics").
    """
    at = np.flatnonzero(np.isin(p.uid, uid))
    a, b = at[:-1], at[1:]
    apart = p.stream[a] != p.stream[b]
    a, b = a[apart], b[apart]
    new = {name: getattr(p, name)[b] for name in ("stream", "step", "micro", "hook", "phase")}
    new |= {"act": np.full(len(b), Act.WAIT), "until": p.uid[a]}
    return edit(p, np.ones(len(p), bool), b, new)


def with_streams(p: Program, count: int) -> Program:
    """The program with streams up to a number."""
    more = max(count - len(p.streams), 0)
    busy = (*p.busy_until_ns, *(0 for _ in range(more)))
    return replace(p, streams=(*p.streams, *(-1 for _ in range(more))), busy_until_ns=busy)
