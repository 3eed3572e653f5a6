"""The same collective on several ranks: waiting, transfer, clocks; unknown where it must be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from builder import BASE_NS, TraceBuilder
from hypothesis import given
from hypothesis import strategies as st

import tracelens
from tracelens.collectives import CommTable
from tracelens.intervals import union
from tracelens.matching import exposed_wait
from tracelens.steps import Steps

UNKNOWN = -1


class Call(NamedTuple):
    """A collective on one rank: its kernel in us, its message, and the ranks it is among."""

    start: float
    dur: float
    nelems: int = 1000
    op: str = "all_reduce"
    ranks: str = ""
    stream: int = 20


def write(folder: Path, *ranks: list[Call], world: int | None = None, clock_ns: int = 0) -> Path:
    """One trace a rank; calls are launched in the order of the list. Rank 1's clock is ahead."""
    world = len(ranks) if world is None else world
    for rank, calls in enumerate(ranks):
        shift = clock_ns // 1000 if rank == 1 else 0
        trace = TraceBuilder(rank=rank, world_size=world).step(1, shift, 1000)
        for i, c in enumerate(calls, start=1):
            args = (
                {"Process Group Ranks": c.ranks, "Process Group Name": c.ranks} if c.ranks else {}
            )
            trace.launch(i, ts=shift + i, tid=100).nccl(
                c.op,
                ts=shift + c.start,
                dur=c.dur,
                nelems=c.nelems,
                corr=i,
                stream=c.stream,
                **args,
            )
        trace.write(folder / f"rank{rank}.json")
    return folder


def waits(analysis: tracelens.Analysis) -> list[list[float]]:
    """Waiting of each rank's rows by their start, us."""
    return [[w / 1000 if w >= 0 else w for w in ws.tolist()] for ws in analysis.matches.wait_ns]


def test_the_last_rank_does_not_wait(tmp_path: Path) -> None:
    """All end at 600: those that started 100 and 150 us before the last wait that long."""
    a = tracelens.analyze(write(tmp_path, [Call(100, 500)], [Call(50, 550)], [Call(200, 400)]))
    assert waits(a) == [[100], [150], [0]]
    assert (a.matches.n_matched, a.matches.n_unmatched) == (1, 0)
    (row,) = a.collective_rows
    assert row.transfer_ns == 400_000
    assert row.wait_ns == pytest.approx(250_000 / 3)


def test_clocks_are_not_needed(tmp_path: Path) -> None:
    """A clock that is 40 us ahead shifts every start and end, but no length."""
    calls = [
        [Call(100, 300), Call(500, 100)],
        [Call(200, 200), Call(450, 150)],
        [Call(150, 250), Call(500, 100)],
    ]
    (tmp_path / "even").mkdir()
    (tmp_path / "ahead").mkdir()
    even = tracelens.analyze(write(tmp_path / "even", *calls))
    ahead = tracelens.analyze(write(tmp_path / "ahead", *calls, clock_ns=40_000))
    assert waits(even) == waits(ahead) == [[100, 0], [0, 50], [50, 0]]
    assert even.matches.offset_ns == (0, 0, 0)
    assert ahead.matches.offset_ns == (0, 40_000, 0)
    assert even.matches.residual_ns == ahead.matches.residual_ns == 0


def test_traces_may_count_from_different_times(tmp_path: Path) -> None:
    """A base time 1 s later with times 1 s earlier is the same clock."""
    for rank, (base, zero) in enumerate(((0, 0.0), (-1, 1e6))):
        trace = TraceBuilder(rank=rank, world_size=2).step(1, zero, 1000)
        trace.meta(baseTimeNanoseconds=BASE_NS + base * 1_000_000_000)
        trace.launch(1, ts=zero + 1, tid=100).nccl(ts=zero + 100, dur=300, nelems=8, corr=1)
        trace.write(tmp_path / f"rank{rank}.json")
    assert tracelens.analyze(tmp_path).matches.offset_ns == (0, 0)


def test_residual_says_how_badly_ends_agree(tmp_path: Path) -> None:
    """Ends of the second and third collective lie 30 us apart, those of the first agree."""
    a = tracelens.analyze(
        write(
            tmp_path,
            [Call(0, 100), Call(200, 100), Call(400, 100)],
            [Call(0, 100), Call(230, 100), Call(370, 100)],
            [Call(0, 100), Call(200, 100), Call(400, 100)],
        )
    )
    assert a.matches.offset_ns == (0, 0, 0)
    assert a.matches.residual_ns == 30_000


def test_groups_are_matched_within_themselves(tmp_path: Path) -> None:
    """Two pairs of ranks; of the second, one rank alone was read."""
    calls = [
        [Call(100, 300, ranks="[0, 1]")],
        [Call(200, 200, ranks="[0, 1]")],
        [Call(0, 900, ranks="[2, 3]")],
        [Call(300, 600, ranks="[2, 3]")],
    ]
    assert waits(tracelens.analyze(write(tmp_path, *calls))) == [[100], [0], [300], [0]]
    (tmp_path / "rank3.json").unlink()
    some = tracelens.analyze(tmp_path)
    assert waits(some) == [[100], [0], [UNKNOWN]]
    assert some.steps["exposed_wait_ms"].isna().tolist() == [False, False, True]
    assert some.summary.exposed_wait is None
    assert (some.matches.n_matched, some.matches.n_unmatched) == (1, 1)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ([Call(200, 200, 1001), Call(500, 100)], "another size"),
        ([Call(200, 200, op="broadcast"), Call(500, 100)], "another kind"),
    ],
)
def test_what_differs_is_unknown_and_the_rest_is_not(
    tmp_path: Path, other: list[Call], why: str
) -> None:
    a = tracelens.analyze(write(tmp_path, [Call(100, 300), Call(450, 150)], other))
    assert waits(a) == [[UNKNOWN, 50], [UNKNOWN, 0]], why
    assert (a.matches.n_matched, a.matches.n_unmatched) == (1, 2)


def test_another_order_or_number_is_unknown(tmp_path: Path) -> None:
    gather = Call(450, 150, op="all_gather")
    a = tracelens.analyze(write(tmp_path, [Call(100, 300), gather], [gather, Call(100, 300)]))
    assert waits(a) == [[UNKNOWN, UNKNOWN]] * 2
    a = tracelens.analyze(write(tmp_path, [Call(100, 300), gather], [Call(100, 300)]))
    assert waits(a) == [[UNKNOWN, UNKNOWN], [UNKNOWN]]
    assert a.matches.n_matched == 0
    assert a.matches.residual_ns is None


def test_a_missing_rank_leaves_all_unknown(tmp_path: Path) -> None:
    a = tracelens.analyze(write(tmp_path, [Call(100, 300)], [Call(200, 200)], world=3))
    assert waits(a) == [[UNKNOWN]] * 2


def test_a_cut_list_of_ranks_is_unknown(tmp_path: Path) -> None:
    """c10d records the first thirty ranks of a group and dots."""
    cut = Call(100, 300, ranks="[0, 1, ...]")
    assert waits(tracelens.analyze(write(tmp_path, [cut], [cut]))) == [[UNKNOWN]] * 2


def test_the_order_is_the_hosts(tmp_path: Path) -> None:
    """On two streams the second call's kernel may start first; rows are listed by start."""
    a = tracelens.analyze(
        write(
            tmp_path,
            [Call(100, 300, 1), Call(50, 550, 2, stream=21)],
            [Call(60, 340, 1), Call(80, 520, 2, stream=21)],
        )
    )
    assert waits(a) == [[30, 0], [40, 0]]


def test_uneven_all_to_alls_match_by_place(tmp_path: Path) -> None:
    """Experts get different numbers of tokens: sizes differ by design."""
    a = tracelens.analyze(
        write(
            tmp_path,
            [Call(100, 300, 10, "all_to_all")],
            [Call(150, 250, 70, "all_to_all")],
        )
    )
    assert waits(a) == [[50], [0]]


# --------------------------------------------------------------------------- sends and receives
class Move(NamedTuple):
    """A kernel of sends and receives: its times in us, and (peer, elements); sends are positive."""

    start: float
    dur: float
    peers: Sequence[tuple[int, int]]


def moves(folder: Path, *ranks: list[Move], told: bool = True, batch: bool = False) -> Path:
    """One trace a rank. As a batch, the records precede one kernel that has none of its own."""
    for rank, kernels in enumerate(ranks):
        trace = TraceBuilder(rank=rank, world_size=len(ranks)).step(1, 0, 10_000)
        for i, move in enumerate(kernels, start=1):
            at = 100 * i
            for k, (peer, nelems) in enumerate(move.peers):
                kind, key = ("send", "Dst Rank") if nelems > 0 else ("recv", "Src Rank")
                args = {key: peer} if told else {}
                if not batch:
                    trace.launch(i, ts=at, tid=100)
                    trace.nccl(
                        kind, ts=move.start, dur=move.dur, nelems=abs(nelems), corr=i, **args
                    )
                    continue
                record = {
                    "Collective name": kind, "In msg nelems": abs(nelems), "dtype": "Float",
                    "Out msg nelems": abs(nelems), "Process Group Name": "0", **args,
                }  # fmt: skip
                trace.cpu_op("record_param_comms", ts=at + k, dur=0.5, args=record)
            if batch:
                trace.launch(i, ts=at + 20, tid=100)
                trace.kernel("ncclDevKernel_SendRecv(x)", move.start, move.dur, corr=i)
        trace.write(folder / f"rank{rank}.json")
    return folder


def test_a_receive_waits_for_its_send(tmp_path: Path) -> None:
    """Both end at 400; the sender came 50 us after the receiver. Then the sender is early."""
    a = tracelens.analyze(
        moves(
            tmp_path,
            [Move(150, 250, [(1, 1000)]), Move(500, 90, [(1, 7)])],
            [Move(100, 300, [(0, -1000)]), Move(560, 30, [(0, -7)])],
        )
    )
    assert waits(a) == [[0, 60], [50, 0]]
    assert a.matches.messages.tolist() == [[0, 0, 1, 0], [0, 1, 1, 1]]
    assert [r.exposed_wait_ns.tolist() for r in a.ranks] == [[60_000], [50_000]]


def test_messages_are_matched_between_their_two_ranks(tmp_path: Path) -> None:
    """Rank 1 receives from 2 first, which sends last; order counts within a pair only."""
    a = tracelens.analyze(
        moves(
            tmp_path,
            [Move(100, 300, [(1, 8)])],
            [Move(300, 20, [(2, -9)]), Move(350, 50, [(0, -8)])],
            [Move(310, 10, [(1, 9)])],
        )
    )
    assert waits(a) == [[250], [10, 0], [0]]


def test_in_a_pair_the_other_end_needs_no_name(tmp_path: Path) -> None:
    ranks = [Move(100, 300, [(1, 5)])], [Move(150, 250, [(0, -5)])]
    assert waits(tracelens.analyze(moves(tmp_path, *ranks, told=False))) == [[50], [0]]


def test_of_three_it_does(tmp_path: Path) -> None:
    a = tracelens.analyze(
        moves(tmp_path, [Move(0, 30, [(1, 5)])], [Move(0, 30, [(0, -5)])], [], told=False)
    )
    assert waits(a) == [[UNKNOWN], [UNKNOWN], []]
    assert [r.exposed_wait_ns.tolist() for r in a.ranks] == [[UNKNOWN], [UNKNOWN], [0]]


@pytest.mark.parametrize("received", [(-5, -5), (-6,)])
def test_sends_without_their_receives_stay_unknown(
    received: tuple[int, ...], tmp_path: Path
) -> None:
    """Two receives for one send, or another size."""
    theirs = [Move(100 * k, 30, [(0, n)]) for k, n in enumerate(received)]
    a = tracelens.analyze(moves(tmp_path, [Move(0, 30, [(1, 5)])], theirs))
    assert waits(a) == [[UNKNOWN], [UNKNOWN] * len(theirs)]


def test_a_batch_lasts_as_long_as_its_longest_message(tmp_path: Path) -> None:
    """Rank 1 receives from 0 and sends to 2 in one kernel; rank 2 comes last.

    With rank 0 the message took at most 30 us, with rank 2 at most 20: rank 1 needed 30 of its 80.
    """
    a = tracelens.analyze(
        moves(
            tmp_path,
            [Move(100, 30, [(1, 5)])],
            [Move(60, 80, [(0, -5), (2, 6)])],
            [Move(120, 20, [(1, -6)])],
            batch=True,
        )
    )
    assert waits(a) == [[0], [50], [0]]
    assert [r.comm.bytes.tolist() for r in a.ranks] == [[20], [24], [24]]
    assert (a.ranks[1].comm.in_nelems[0], a.ranks[1].comm.out_nelems[0]) == (6, 5)


def test_copy_engines_wait_for_nobody(tmp_path: Path) -> None:
    trace = TraceBuilder(world_size=2).step(1, 0, 100).launch(1, ts=5, tid=100)
    trace.memcpy("PtoP", 10, 20, nbytes=64, corr=1).write(tmp_path / "rank0.json")
    a = tracelens.analyze(tmp_path)
    assert waits(a) == [[0]]
    assert a.ranks[0].exposed_wait_ns.tolist() == [0]


# ------------------------------------------------------------------- exposed wait and transfer
def test_wait_and_transfer_by_hand(tmp_path: Path) -> None:
    """Rank 0 waits 100-400 and transfers 400-600; a gemm covers 150-250 and 500-550.

    Of the 350 us exposed 200 us are waiting (100-150, 250-400), 150 us transfer.
    """
    for rank, start in enumerate((100, 400)):
        trace = TraceBuilder(rank=rank, world_size=2).step(1, 0, 1000)
        trace.launch(1, ts=1, tid=100).nccl(ts=start, dur=600 - start, nelems=8, corr=1)
        if rank == 0:
            trace.launch(2, ts=2, tid=100).kernel("gemm", 150, 100, corr=2)
            trace.launch(3, ts=3, tid=100).kernel("gemm", 500, 50, corr=3)
        trace.write(tmp_path / f"rank{rank}.json")
    first, second = tracelens.analyze(tmp_path).ranks
    assert first.breakdown.exposed_comm.tolist() == [350_000]
    assert first.exposed_wait_ns.tolist() == [200_000]
    assert second.breakdown.exposed_comm.tolist() == [200_000]
    assert second.exposed_wait_ns.tolist() == [0]


def comm_table(rows: list[tuple[int, int]]) -> CommTable:
    """Rows (start, end) in one step; nothing else is known of them."""
    n = len(rows)
    columns: dict[str, object] = {f.name: np.full(n, -1, np.int64) for f in fields(CommTable)}
    columns |= {
        "start_ns": np.array([a for a, _ in rows], np.int64),
        "end_ns": np.array([b for _, b in rows], np.int64),
        "step": np.zeros(n, np.int32),
        "dtypes": (),
        "groups": (),
    }
    return CommTable(**columns)  # type: ignore[arg-type]


SPAN = st.tuples(st.integers(0, 30), st.integers(0, 12)).map(lambda p: (p[0], p[0] + p[1]))


@given(st.lists(st.tuples(SPAN, st.floats(0, 1)), max_size=6), st.lists(SPAN, max_size=4))
def test_exposed_wait_is_a_count_of_instants(
    comm: list[tuple[tuple[int, int], float]], compute: list[tuple[int, int]]
) -> None:
    """An instant is exposed waiting if some row waits, none transfers and nothing computes.

    So waiting and transfer add up to the exposed communication.
    """
    comm = sorted(comm)
    rows = [span for span, _ in comm]
    wait = [round(share * (b - a)) for (a, b), share in comm]
    spans = union(
        np.array([a for a, _ in compute], np.int64), np.array([b for _, b in compute], np.int64)
    )
    edge = np.array([0], np.int64), np.array([50], np.int64)
    steps = Steps(np.zeros(1, np.int64), *edge, *edge, np.ones(1, bool))
    got = exposed_wait(comm_table(rows), np.array(wait, np.int64), spans, steps)
    waiting = transfer = 0
    for t in range(50):
        if any(a <= t < b for a, b in compute):
            continue
        moves = any(a + w <= t < b for (a, b), w in zip(rows, wait, strict=True))
        waits = any(a <= t < a + w for (a, _), w in zip(rows, wait, strict=True))
        transfer += moves
        waiting += waits and not moves
    exposed = sum(
        any(a <= t < b for a, b in rows) and not any(a <= t < b for a, b in compute)
        for t in range(50)
    )
    assert got.tolist() == [waiting]
    assert waiting + transfer == exposed
