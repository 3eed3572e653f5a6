"""What a simulation leaves out changes nothing: against a plain one that leaves out nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracelens.replay.graph import find_graph
from tracelens.replay.program import ALL, NOTHING, Act, Columns, Program, rows
from tracelens.replay.simulate import Costs, simulate

STREAMS = 3
Row = dict[str, int]


def program(made: list[Row]) -> Program:
    columns: Columns = {
        name: np.concatenate([c[name] for c in [rows(1, **row) for row in made]])
        for name in rows(0)
    }
    columns["uid"] = np.arange(len(made)) + 1
    return Program(
        **columns, streams=tuple(range(STREAMS)), busy_until_ns=(0, 7, 0), begin_ns=0,
        recorded_ns=1, n_steps=1,
    )  # fmt: skip


def plain(made: list[Row]) -> tuple[list[float], list[int]]:
    """Start of each row and what it waited for, row by row as the host issues them."""
    host = 0.0
    free, last = [0.0, 7.0, 0.0], [-1] * STREAMS
    start, end, cause = [0.0] * len(made), [0.0] * len(made), [-1] * len(made)
    held: list[list[int]] = [[] for _ in range(STREAMS)]
    for i, row in enumerate(made):
        host += row["gap_ns"]
        target, until = row.get("target", NOTHING), row.get("until", -1)
        meant = [last[target]] if target >= 0 else last if target == ALL else []
        if until >= 0:
            meant = [k for k in range(i) if k == until - 1 and made[k]["act"] == Act.LAUNCH]
        meant = [k for k in meant if k >= 0]
        if row["act"] == Act.LAUNCH:
            s = row["stream"]
            ready, cause[i] = free[s], last[s]
            for k in held[s]:
                if end[k] > ready:
                    ready, cause[i] = end[k], k
            ready += row["pause_ns"]
            if host + row["lag_ns"] >= ready:
                ready, cause[i] = host + row["lag_ns"], -1
            start[i], end[i] = ready, ready + row["work_ns"]
            free[s], last[s], held[s] = end[i], i, []
        elif row["act"] == Act.WAIT:
            start[i] = host
            held[row["stream"]] += meant
        else:
            start[i] = host
            host = max([host, *(end[k] for k in meant)])
        host += row["cost_ns"]
    return start, cause


times = st.integers(0, 30)
common = {"gap_ns": times, "cost_ns": times}
launches = st.fixed_dictionaries(
    {"act": st.just(int(Act.LAUNCH)), "stream": st.integers(0, STREAMS - 1), "work_ns": times,
     "lag_ns": times, "pause_ns": st.integers(0, 3), **common}
)  # fmt: skip
meant = st.one_of(
    st.fixed_dictionaries({"target": st.sampled_from([0, 1, 2, ALL, NOTHING])}),
    st.fixed_dictionaries({"until": st.integers(1, 12)}),
)
waits = st.tuples(
    st.fixed_dictionaries(
        {"act": st.just(int(Act.WAIT)), "stream": st.integers(0, STREAMS - 1), **common}
    ),
    meant,
).map(lambda pair: {**pair[0], **pair[1]})
syncs = st.tuples(st.fixed_dictionaries({"act": st.just(int(Act.SYNC)), **common}), meant).map(
    lambda pair: {**pair[0], **pair[1]}
)


@given(st.lists(st.one_of(launches, launches, waits, syncs), min_size=1, max_size=25))
def test_starts_are_those_of_a_plain_simulation(made: list[Row]) -> None:
    (x,) = simulate([program(made)], Costs({})).played()
    start, cause = plain(made)
    assert x.start.tolist() == start
    causes = zip(made, x.cause.tolist(), cause, strict=True)
    assert all(a == b for row, a, b in causes if row["act"] == Act.LAUNCH)


def test_what_is_over_is_not_waited_for() -> None:
    launch = {"act": int(Act.LAUNCH), "stream": 0, "gap_ns": 1, "work_ns": 5}
    wait = {"act": int(Act.WAIT), "stream": 1, "target": 0}
    p = program([launch, wait, wait, {**launch, "stream": 1}, wait, {**launch, "stream": 1}])
    assert find_graph(p).after == {3: (0,)}


@pytest.mark.parametrize("slower", [1.0, 1.5])
def test_a_run_that_begins_where_another_ended_finds_the_same(slower: float) -> None:
    kernel = {"act": int(Act.LAUNCH), "stream": 0, "gap_ns": 10, "work_ns": 400, "compute": 1}
    moved = {"act": int(Act.LAUNCH), "gap_ns": 10, "work_ns": 900, "stream": 1, "comm": 1}
    p = program([kernel, kernel, moved, kernel, kernel, {**moved, "gap_ns": 700}] * 4)
    usual = Costs({}, compute_slowdown=1.2)
    varied = replace(usual, compute_slowdown=slower, host=0.5)
    again = simulate([p], usual).again(varied)
    assert again.length_ns == pytest.approx(simulate([p], varied).length_ns, rel=2e-3)
