"""Hosts that are stopped whatever they do, drawn: operators and pauses of one cause."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from builder import TraceBuilder
from test_detectors import Adds, Rank, Run, context_of, found_in, op

from tracelens.pauses import Stops

NAMES = ("aten::mul", "aten::linear", "aten::to")


def stopping(names: tuple[str, ...] = NAMES, stop: float = 4.0, pause: float = 5.0) -> Adds:
    """Two operators that stand still, and a pause after them; else the same take 10 us."""

    def add(trace: TraceBuilder, step: int, zero: float) -> None:
        for k in range(15):
            op(trace, names[k % len(names)], zero + 0.1 + 0.01 * k, 0.009)
        for k in range(2):
            op(trace, names[(2 * step + k) % len(names)], zero + 0.5 + 4.5 * k, stop)
        rest = zero + 5.0 + stop + pause
        op(trace, "aten::prepare", rest, zero + 30 - 0.02 - rest)

    return add


def late(add: Adds) -> Rank:
    return Rank(host=30, silent=True, add=add)


def test_pauses_of_a_stopped_host_are_its_lateness(tmp_path: Path) -> None:
    """28 ms late: 5 of them a pause as long as the stops of 4 ms, with 3 for the host's own."""
    context = context_of(Run((Rank(), late(stopping()), Rank())), tmp_path)
    assert context.views[1].host.stops == Stops(6, 4_000_000, ("aten::mul", *NAMES[1:]))
    assert [v.host.stops.count for v in context.views] == [0, 6, 0]
    assert context.views[1].host.stopped_ns.tolist() == [5_000_000] * 3
    found = found_in(context)
    assert "host_pause" not in found
    assert found["straggler_host"].cost_ms_per_step == pytest.approx(28, abs=0.1)
    assert (
        found["straggler_host"]
        .evidence[0]
        .startswith("rank 1's threads stand still 6 times for 3.00 ms to 4.00 ms inside operators")
    )


def test_a_longer_pause_is_another_thing(tmp_path: Path) -> None:
    """7.5 ms: more than 4 and 3."""
    context = context_of(Run((Rank(), late(stopping(pause=7.5)), Rank())), tmp_path)
    found = found_in(context)
    assert found["host_pause"].cost_ms_per_step == pytest.approx(7.5, abs=0.1)
    assert found["straggler_host"].cost_ms_per_step == pytest.approx(20.5, abs=0.1)


@pytest.mark.parametrize(
    "add",
    [
        pytest.param(stopping(names=("aten::copy_",)), id="one operator that is long at times"),
        pytest.param(stopping(names=NAMES[:2]), id="two"),
        pytest.param(stopping(stop=2.9), id="shorter than a slice"),
        pytest.param(stopping(names=("Function", "Hook", "Node")), id="Python may pause in these"),
    ],
)
def test_hosts_that_run(add: Adds, tmp_path: Path) -> None:
    """The pause is told as such."""
    context = context_of(Run((Rank(), late(add), Rank())), tmp_path)
    assert context.views[1].host.stops == Stops()
    assert found_in(context)["host_pause"].cost_ms_per_step == pytest.approx(5, abs=0.1)


def test_operators_that_are_always_long_are_no_stops(tmp_path: Path) -> None:
    def always(trace: TraceBuilder, step: int, zero: float) -> None:
        for k, name in enumerate(NAMES):
            op(trace, name, zero + 0.5 + 4.1 * k, 4.0)
        op(trace, "aten::prepare", zero + 18, 11.9)

    context = context_of(Run((Rank(), late(always), Rank())), tmp_path)
    assert context.views[1].host.stops == Stops()


def test_where_all_are_stopped_or_waiting_is_unknown_it_stays_a_pause(tmp_path: Path) -> None:
    """No rank is late then; the evidence says what it looks like."""
    everywhere = context_of(Run((late(stopping()), late(stopping()))), tmp_path)
    for context in (everywhere, replace(everywhere, views=everywhere.views[:1])):
        if len(context.views) == 1:
            none = context.explained[:1]
            context = replace(context, explained=none, explained_launch=none)
        found = found_in(context)["host_pause"]
        assert found.cost_ms_per_step == pytest.approx(5, abs=0.1)
        assert "stand still 6 times" in found.evidence[1]
