"""The breakdown of a step against a count of nanoseconds, and by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from random import Random
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracelens.classify import Op
from tracelens.links import GpuWork
from tracelens.overlap import StepBreakdown, break_down
from tracelens.steps import Steps

COMM = [op for op in Op if op <= Op.COMM_OTHER or op == Op.COPY_P2P]
COMPUTE = [Op.GEMM, Op.ATTENTION, Op.OPTIMIZER, Op.ELEMENTWISE, Op.COMPUTE_OTHER]
COPY = [Op.COPY_H2D, Op.COPY_D2H, Op.COPY_D2D, Op.COPY_OTHER, Op.MEMSET]

RANGE = 60


class Row(NamedTuple):
    """A piece of GPU work."""

    op: Op
    start: int
    end: int
    stream: int = 7


class Parts(NamedTuple):
    """The expected breakdown of one step, ns."""

    wall: int
    compute: int
    comm: int
    overlapped_comm: int
    exposed_comm: int
    exposed_copy: int
    idle: int


Windows = Sequence[tuple[int, int]]


def gpu_work(rows: Sequence[Row]) -> GpuWork:
    """GPU work whose causes are unknown: they play no part in the breakdown."""
    n = len(rows)
    columns = {f.name: np.full(n, -1, np.int64) for f in fields(GpuWork)}
    columns |= {
        "row": np.arange(n, dtype=np.int64),
        "start_ns": np.array([r.start for r in rows], np.int64),
        "end_ns": np.array([r.end for r in rows], np.int64),
        "op": np.array([r.op for r in rows], np.int8),
        "stream": np.array([r.stream for r in rows], np.int32),
        "device": np.zeros(n, np.int32),
    }
    return GpuWork(**columns)


def steps_of(windows: Windows) -> Steps:
    table = np.array(windows, np.int64).reshape(-1, 2)
    start, end = table[:, 0].copy(), table[:, 1].copy()
    return Steps(
        number=np.arange(len(table), dtype=np.int64),
        host_start_ns=start,
        host_end_ns=end,
        start_ns=start.copy(),
        end_ns=end.copy(),
        complete=np.ones(len(table), bool),
    )


def parts_of(rows: Sequence[Row], windows: Windows) -> list[Parts]:
    result = break_down(gpu_work(rows), steps_of(windows))
    return [
        Parts(*(int(getattr(result, name)[k]) for name in Parts._fields))
        for k in range(len(windows))
    ]


def counted(rows: Sequence[Row], window: tuple[int, int]) -> Parts:
    """Ask at every nanosecond what runs: the brute force."""
    parts = dict.fromkeys(Parts._fields, 0)
    for at in range(*window):
        running = {r.op for r in rows if r.start <= at < r.end}
        compute, comm = bool(running & set(COMPUTE)), bool(running & set(COMM))
        parts["wall"] += 1
        parts["compute"] += compute
        parts["comm"] += comm
        parts["overlapped_comm"] += comm and compute
        parts["exposed_comm"] += comm and not compute
        parts["exposed_copy"] += bool(running) and not compute and not comm
        parts["idle"] += not running
    return Parts(**parts)


def row(op: Op, a: int, b: int, stream: int) -> Row:
    return Row(op, min(a, b), max(a, b), stream)


instant = st.integers(0, RANGE)
row_lists = st.lists(st.builds(row, st.sampled_from(Op), instant, instant, instant), max_size=15)
#: Windows of steps tile a part of the time, as `steps` makes them; some are empty.
window_lists = st.lists(instant, min_size=1, max_size=6).map(
    lambda edges: list(zip(sorted(edges), sorted(edges)[1:], strict=False))
)


def test_every_op_is_exactly_one_of_compute_communication_and_copy() -> None:
    assert sorted(COMM + COMPUTE + COPY) == sorted(Op)


@given(row_lists, window_lists)
def test_equals_a_count_of_every_nanosecond(rows: list[Row], windows: Windows) -> None:
    assert parts_of(rows, windows) == [counted(rows, w) for w in windows]


@given(row_lists, window_lists)
def test_both_identities_hold_exactly(rows: list[Row], windows: Windows) -> None:
    b = break_down(gpu_work(rows), steps_of(windows))
    assert (b.compute + b.exposed_comm + b.exposed_copy + b.idle == b.wall).all()
    assert (b.exposed_comm + b.overlapped_comm == b.comm).all()
    assert all((getattr(b, f.name) >= 0).all() for f in fields(StepBreakdown))


@given(row_lists, window_lists, st.randoms(use_true_random=False))
def test_order_and_streams_play_no_part(rows: list[Row], windows: Windows, random: Random) -> None:
    moved = [r._replace(stream=3) for r in rows]
    random.shuffle(moved)
    assert parts_of(moved, windows) == parts_of(rows, windows)


@given(row_lists, st.integers(0, RANGE))
def test_a_cut_in_two_windows_adds_up_to_the_whole(rows: list[Row], cut: int) -> None:
    whole, left, right = parts_of(rows, [(0, RANGE), (0, cut), (cut, RANGE)])
    assert whole == Parts(*(a + b for a, b in zip(left, right, strict=True)))


# Each case: up to five rows, one window [0, 100), and the expected table:
# wall, compute, comm, overlapped comm, exposed comm, exposed copy, idle.
CASES = {
    "communication hidden under a gemm, all but its tail": (
        [Row(Op.GEMM, 0, 60), Row(Op.ALL_REDUCE, 10, 80, stream=20)],
        Parts(100, 60, 70, 50, 20, 0, 20),
    ),
    "two streams compute at once: the time counts once": (
        [Row(Op.GEMM, 0, 50), Row(Op.ELEMENTWISE, 10, 40, stream=8), Row(Op.ATTENTION, 45, 60, 9)],
        Parts(100, 60, 0, 0, 0, 0, 40),
    ),
    "two collectives at once: exposed time counts once": (
        [Row(Op.ALL_GATHER, 0, 40, 20), Row(Op.REDUCE_SCATTER, 20, 60, 21), Row(Op.GEMM, 50, 70)],
        Parts(100, 20, 60, 10, 50, 0, 30),
    ),
    "a copy under communication is not exposed": (
        [Row(Op.ALL_REDUCE, 0, 50, 20), Row(Op.COPY_H2D, 10, 70, 15), Row(Op.MEMSET, 80, 90)],
        Parts(100, 0, 50, 0, 50, 30, 20),
    ),
    "a collective on the stream of compute is communication all the same": (
        [Row(Op.GEMM, 0, 30, 7), Row(Op.ALL_REDUCE, 30, 70, 7), Row(Op.GEMM, 70, 100, 7)],
        Parts(100, 60, 40, 0, 40, 0, 0),
    ),
    "a copy between two GPUs is communication": (
        [Row(Op.COPY_P2P, 0, 30, 20), Row(Op.GEMM, 20, 50)],
        Parts(100, 30, 30, 10, 20, 0, 50),
    ),
    "work of no length takes no time": (
        [Row(Op.GEMM, 50, 50), Row(Op.ALL_REDUCE, 60, 60, 20), Row(Op.MEMSET, 0, 0)],
        Parts(100, 0, 0, 0, 0, 0, 100),
    ),
    "what reaches over the window's ends is cut there": (
        [Row(Op.GEMM, -50, 20), Row(Op.ALL_REDUCE, 90, 300, 20), Row(Op.GEMM, 200, 250)],
        Parts(100, 20, 10, 0, 10, 0, 70),
    ),
    "no work at all is idle": (
        [],
        Parts(100, 0, 0, 0, 0, 0, 100),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_by_hand(case: tuple[list[Row], Parts]) -> None:
    rows, expected = case
    assert parts_of(rows, [(0, 100)]) == [expected]
    assert counted(rows, (0, 100)) == expected, "the brute force disagrees with the table"


def test_a_nanosecond_at_unix_time_is_not_lost() -> None:
    now = 1_790_857_026_000_000_001  # does not fit a float64
    rows = [Row(Op.GEMM, now, now + 3), Row(Op.ALL_REDUCE, now + 2, now + 4)]
    assert parts_of(rows, [(now, now + 5)]) == [Parts(5, 3, 2, 1, 1, 0, 1)]
