"""Recorded runs with planted causes: found where they are, at the price that was measured.

The truth was measured on these recordings by hand: from their rows, from ranks and steps without
the plant, and from steps that were not profiled. The table in docs/diagnosis.md is checked here.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import tracelens
from tracelens.findings import Finding

REPO = Path(__file__).parent.parent
TRACES = REPO.parent / "shared" / "traces"

pytestmark = pytest.mark.skipif(
    not (TRACES / "p_slow_data").is_dir(),
    reason="the recorded runs with planted causes are not beside this checkout",
)

#: The host is the limit in most of these runs, and that is said first where it costs most.
GENERAL = {"launch_bound"}
ALL = (0, 1, 2, 3)


class Plant(NamedTuple):
    """What was planted, on which ranks and in which steps, and its range of ms a step if known."""

    id: str
    ranks: tuple[int, ...] = ALL
    steps: tuple[int, ...] = ()
    low: float | None = None
    high: float | None = None


#: Plants that make the step longer: the first specific finding.
COSTLY = {
    "p_slow_data": Plant("dataloader_stall", low=51.1, high=51.2),
    "p_empty_cache": Plant("allocator_churn", low=30, high=30),  # on the last rank; 24 on others
    "p_checkpoint": Plant("checkpoint_save", (0,), (1,), low=150, high=150),  # 450 in 3 steps
    "p_tiny_buckets": Plant("bucket_too_small", low=34, high=43),
    "p_gc": Plant("host_pause", ALL, (1, 2, 3), low=4850, high=6600),
    "p_launch_bound": Plant("launch_bound", (0, 1)),  # ranks 2 and 3 are not at hand
    "p_nop2p_z1_off": Plant("slow_interconnect", low=82, high=82),
    "p_nop2p_z3_on": Plant("slow_interconnect", low=62, high=62),
}
#: Plants whose work or calls are there and cost nothing, or next to it.
HIDDEN = {"p_straggler": Plant("uneven_work", (1,)), "p_host_sync": Plant("host_sync")}
SHARED = {"p_gc", "p_nop2p_z2_off", "p_nop2p_z2_on"}
RUNS = sorted({*COSTLY, *HIDDEN, *SHARED, "p_healthy_z2"})


@cache
def analysis_of(run: str) -> tracelens.Analysis:
    return tracelens.analyze(TRACES / run)


def finding(run: str, id: str) -> Finding:
    (found,) = [f for f in analysis_of(run).finding_rows if f.id == id]
    return found


def share(run: str, id: str) -> float:
    return finding(run, id).cost_ms_per_step * 1e6 / analysis_of(run).summary.wall


@pytest.mark.parametrize("run", COSTLY)
def test_the_plant_is_the_first_specific_finding(run: str) -> None:
    plant = COSTLY[run]
    general = GENERAL - {plant.id}
    first = next(f for f in analysis_of(run).finding_rows if f.id not in general)
    assert first.id == plant.id
    assert first.ranks == plant.ranks
    assert first.steps == plant.steps
    assert first.severity == "critical"


@pytest.mark.parametrize("run", [r for r, p in COSTLY.items() if p.low is not None])
def test_its_cost_is_within_a_quarter_of_the_measured_one(run: str) -> None:
    plant = COSTLY[run]
    assert plant.low is not None
    assert plant.high is not None
    cost = finding(run, plant.id).cost_ms_per_step
    assert 0.75 * plant.low <= cost <= 1.25 * plant.high


@pytest.mark.parametrize("run", HIDDEN)
def test_a_hidden_plant_is_seen_and_not_blamed(run: str) -> None:
    found = finding(run, HIDDEN[run].id)
    assert found.ranks == HIDDEN[run].ranks
    assert found.severity in ("info", "low")
    assert share(run, found.id) < 0.02
    assert analysis_of(run).finding_rows[0].id != found.id


def test_extra_work_behind_a_slow_host_costs_nothing() -> None:
    """36 products more on rank 1, 6.1 ms a step; its GPU idles through half of the step."""
    found = finding("p_straggler", "uneven_work")
    assert (found.cost_ms_per_step, found.severity) == (0, "info")
    assert re.search(r"6\.\d+ ms a step above the median rank", found.evidence[0])
    assert "straggler_compute" not in {f.id for f in analysis_of("p_straggler").finding_rows}


@pytest.mark.parametrize("run", RUNS)
def test_a_shared_gpu_is_recognised_and_its_bandwidth_is_not_trusted(run: str) -> None:
    status = {v.id: v.status for v in analysis_of(run).verdicts}
    assert (status["gpu_shared"] == "fired") == (run in SHARED)
    if run in SHARED:
        assert status["slow_interconnect"] == "not_applicable"
        assert status["exposed_gradient_reduction"] == "not_applicable"


def test_nothing_planted_no_alarm() -> None:
    """A run of a larger micro-batch. One rank's host is slow there, by nature."""
    loud = {f.id: f for f in analysis_of("p_healthy_z2").finding_rows if f.severity != "info"}
    loud = {k: f for k, f in loud.items() if f.severity != "low"}
    assert loud.keys() == {"straggler_host"}
    assert loud["straggler_host"].ranks == (1,)


@pytest.mark.parametrize("run", RUNS)
def test_costs_add_up_to_less_than_the_step(run: str) -> None:
    a = analysis_of(run)
    assert sum(f.cost_ms_per_step for f in a.finding_rows) <= a.summary.wall / 1e6
    for r in a.ranks:
        assert r.host.idle_ns.sum(axis=1).tolist() == r.breakdown.idle.tolist()


def test_other_plants_are_not_found_where_they_are_not() -> None:
    planted = {p.id: set() for p in COSTLY.values()}
    for run, plant in COSTLY.items():
        planted[plant.id].add(run)
    loud = ("high", "critical")
    for run in RUNS:
        fired = {f.id for f in analysis_of(run).finding_rows if f.severity in loud}
        wrong = {i for i in fired & planted.keys() - GENERAL if run not in planted[i]}
        assert not wrong, run


def test_the_table_in_the_docs_is_what_is_reported() -> None:
    text = (REPO / "docs" / "diagnosis.md").read_text(encoding="utf-8")
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines()]
    table = {r[0]: (r[3], r[4], r[5]) for r in rows if r and r[0].startswith("p_")}
    assert table.keys() == set(RUNS)
    for run, (id, cost, before) in table.items():
        assert f"{finding(run, id).cost_ms_per_step:,.1f}" == cost, run
        if run in COSTLY:
            assert id == COSTLY[run].id
            order = [f.id for f in analysis_of(run).finding_rows]
            assert ", ".join(order[: order.index(id)]) == before
