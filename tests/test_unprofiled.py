"""Costs of runs whose steps were timed without a profiler, too: what recording takes is in none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builder import TraceBuilder
from hypothesis import given
from hypothesis import strategies as st
from test_detectors import Rank, Run, context_of, found_in, how, op
from test_host import rank_of, two_kernels
from test_manifest import trace, write

import tracelens
from dashboards.verdict import judged_ms
from tracelens.detectors import Context, drift, without_profiler
from tracelens.host import Cause
from tracelens.welch import trend


def timed(context: Context, *each_ms: float) -> Context:
    """The run with steps timed without a profiler."""
    each = tuple(ms * 1e6 for ms in each_ms)
    return replace(context, unprofiled_ns=sum(each) / len(each), unprofiled_each_ns=each)


# ------------------------------------------------------------------------- work before idle time
def work_us(trace: TraceBuilder, folder: Path) -> dict[str, float]:
    work = rank_of(trace, folder).host.work_ns[0].tolist()
    return {Cause(c).name: ns / 1000 for c, ns in enumerate(work) if ns}


def test_work_is_counted_from_when_the_gpu_was_dry_last(tmp_path: Path) -> None:
    """Idle 200-300: 150 of work since the launch at 50, and 100 in it.

    Idle 400-1100: 100 since the launch at 300, and 700 in it.
    """
    assert work_us(two_kernels(), tmp_path) == {"LAUNCH": 150 + 100 + 100 + 700}


def test_work_before_the_host_waits_for_its_gpu_comes_to_nothing(tmp_path: Path) -> None:
    """The same, blocked from 150 to 260: of 200-300 only 260-300 is work."""
    trace = two_kernels().launch(9, ts=150, dur=110, name="cudaDeviceSynchronize", tid=100)
    assert work_us(trace, tmp_path)["LAUNCH"] == 40 + 100 + 700


def test_a_pause_is_no_work_but_what_led_up_to_it_is(tmp_path: Path) -> None:
    """An op 0-1000, nothing until 9000; idle 200-9000: 150 of work before it, 800 in it.

    8000 of 8800 are the pause, and so is that share of the 150; the rest is launching's.
    """
    trace = two_kernels(step=10_000, second=9000).cpu_op("aten::mm", ts=0, dur=1000)
    found = work_us(trace, tmp_path)
    assert found["PAUSE"] == pytest.approx(150 * 8000 / 8800, abs=0.01)
    later = (9080 + 20 - 9000) + (10_100 - 9100)  # since the launch at 9000, up to the window's end
    assert found["LAUNCH"] == pytest.approx(150 * 800 / 8800 + 800 + later, abs=0.01)


# ------------------------------------------------------------------------------------- costs
def half_asleep(trace: TraceBuilder, step: int, zero: float) -> None:
    """60 of the 100 ms before the launch are work, then the host shows nothing."""
    op(trace, "aten::prepare", zero + 0.1, 59.9)


SLEEPY = Rank(host=100, compute=30, silent=True, add=half_asleep)


def test_work_is_scaled_and_a_sleep_by_what_led_up_to_it(tmp_path: Path) -> None:
    """Steps of 138 ms, idle for 60 of work and 40 of sleep; 38 of work run beside the GPU before.

    The 38 are shared 60 to 40: 82.8 of work are launching's, 15.2 the sleep's. 18 ms too long is
    p = 18 / 98, so launching loses 82.8 p = 15.2 and the sleep 15.2 p = 2.8.
    """
    context = context_of(Run((SLEEPY, SLEEPY)), tmp_path)
    before = found_in(context)
    assert before["host_pause"].cost_ms_per_step == pytest.approx(40, abs=0.1)
    found = found_in(timed(context, 119, 120, 121))
    assert found["host_pause"].cost_ms_per_step == pytest.approx(37.2, abs=0.1)
    assert found["launch_bound"].cost_ms_per_step == pytest.approx(44.8, abs=0.1)
    assert found["host_pause"].evidence[1] == (
        "40.0 ms a step in the recorded steps, 37.2 ms without the profiler"
    )
    assert found["launch_bound"].recorded_ms_per_step == pytest.approx(60, abs=0.1)
    assert found["exposed_gradient_reduction"].recorded_ms_per_step is None
    assert found["launch_bound"].evidence[0] == before["launch_bound"].evidence[0]
    assert "18.0 ms of it is the host's" in found["profiler_overhead"].evidence[1]


def test_a_late_host_is_as_late_as_without_the_profiler(tmp_path: Path) -> None:
    """Rank 1 launches after 62 ms, the others after 2: they wait 60 of the 160 ms.

    Their hosts' 160 ms of work a step lead up to 66 ms of idle time in all, so idle time shrinks by
    a share x on all ranks. 10 ms too long: 62 x = 10, and the others then wait 60 - 60 x.
    """
    context = context_of(Run((Rank(), Rank(host=62), Rank())), tmp_path)
    assert found_in(context)["straggler_host"].cost_ms_per_step == pytest.approx(60, abs=0.1)
    found = found_in(timed(context, 150, 150, 150))["straggler_host"]
    assert found.cost_ms_per_step == pytest.approx(60 - 60 * 10 / 62, abs=0.1)
    assert found.severity == "critical"


def test_a_host_that_only_the_profiler_makes_late(tmp_path: Path) -> None:
    """Without it the steps are the other ranks': rank 1 is not late, and that is said."""
    context = context_of(Run((Rank(), Rank(host=22), Rank())), tmp_path)
    assert found_in(context)["straggler_host"].cost_ms_per_step == pytest.approx(20, abs=0.1)
    context = timed(context, 100, 100, 100)
    assert how(context, "straggler_host") == ("clean", None)
    said = found_in(context)["profiler_overhead"].evidence[-1]
    assert said == "only in the recorded steps: straggler_host (20.0 ms)"


def test_severity_is_of_the_step_without_the_profiler(tmp_path: Path) -> None:
    """8 of 58 ms of reduction are 14 % of the recorded step and 22 % of the other."""
    slow = Rank(host=20, compute=30)
    context = context_of(Run((slow, slow)), tmp_path)
    assert found_in(context)["exposed_gradient_reduction"].severity == "high"
    found = found_in(timed(context, 46, 47, 46))
    assert found["exposed_gradient_reduction"].severity == "critical"


def test_the_profiler_takes_no_more_than_half_of_the_host(tmp_path: Path) -> None:
    """138 ms and 10 without a profiler: other steps than these. Half of 138 of work a step."""
    slow = Rank(host=100, compute=30)
    context = timed(context_of(Run((slow, slow)), tmp_path), 10, 10, 10)
    known = without_profiler(context).profiler
    assert known is not None
    assert known.pace == pytest.approx(0.5)
    assert known.taken_ns == pytest.approx(138e6 / 2, rel=0.01)
    assert "is in no cost" in found_in(context)["profiler_overhead"].evidence[2]


# ------------------------------------------------------------------------ where it cannot be told
def taken(context: Context) -> bool:
    return without_profiler(context).profiler is not None


def test_small_differences_have_to_be_sure(tmp_path: Path) -> None:
    """138 ms against 135: less than 5 %, and told only where the steps repeat that well."""
    slow = Rank(host=100, compute=30)
    context = context_of(Run((slow, slow)), tmp_path)
    assert taken(timed(context, 135, 135.5, 134.5))
    assert not taken(timed(context, 125, 135, 145))
    assert not taken(timed(context, 140, 140, 140))
    assert not taken(replace(context, unprofiled_ns=135e6))
    assert taken(replace(context, unprofiled_ns=120e6))


def test_one_long_step_is_no_profiler(tmp_path: Path) -> None:
    """Steps of 100 ms, one of 160 when it was recorded: by medians nothing is longer."""
    context = context_of(Run((Rank(), Rank(host=62, only=3), Rank()), steps=4), tmp_path)
    context = timed(context, 100, 100, 100, 100)
    assert context.step_ns > 1.1e8
    assert not taken(context)
    assert found_in(context)["slow_step_outlier"].cost_ms_per_step == pytest.approx(15)


GROWING = (100, 104, 110, 114, 121, 126)


def test_steps_that_grow_on_their_own_do_not_tell(tmp_path: Path) -> None:
    slow = Rank(host=100, compute=30)
    context = context_of(Run((slow, slow)), tmp_path)
    assert taken(timed(context, *[112.5] * 6))
    growing = timed(context, *GROWING)
    assert found_in(growing) == found_in(context)
    assert how(growing, "profiler_overhead") == (
        "not_applicable",
        "steps became longer or shorter while they were timed without a profiler",
    )
    # 2 % of the step is no drift that matters, and scatter is none at all
    assert drift(timed(context, 100, 100.4, 100.8, 101.2, 101.6, 102)) is None
    assert drift(timed(context, 100, 126, 104, 121, 114, 110)) is None


def test_the_comms_logger_says_that_its_steps_grow(tmp_path: Path) -> None:
    from test_detectors import logging_ranks

    context = context_of(Run(logging_ranks()), tmp_path)
    said = found_in(timed(context, *GROWING))["comms_logger"].evidence[1]
    assert said.startswith("steps without a profiler became longer while they were timed, from 99.")
    assert "became" not in "".join(found_in(context)["comms_logger"].evidence)


def test_a_drift_is_noted(tmp_path: Path) -> None:
    from test_manifest import steps, trace, write

    for rank in (0, 1):
        trace(tmp_path, rank)
        of = steps(112.5, 130.0)
        of["unprofiled"]["each_ms"] = list(GROWING)
        write(tmp_path, rank, steps=of)
    notes = {n.code: n.text for n in tracelens.analyze(tmp_path).notes}
    assert notes["drifting_steps"].startswith("Steps without a profiler became longer")


def test_the_report_has_both_costs(tmp_path: Path) -> None:
    """From the files on: what is taken is in `manifest.profiler_ms`, shares are of the rest."""
    from test_manifest import steps, write

    slow = Rank(host=100, compute=30)
    Run((slow, slow)).write(tmp_path)
    for rank in (0, 1):
        traces = {"collector": "torch", "level": "light", "traces": [f"rank{rank}.json"]}
        write(tmp_path, rank, steps=steps(120.0, 138.0), recording=traces)
    analysis = tracelens.analyze(tmp_path)
    report: Any = analysis.to_json()
    (found,) = (f for f in report["findings"] if f["id"] == "launch_bound")
    assert found["recorded_ms_per_step"] - found["cost_ms_per_step"] == pytest.approx(18, abs=0.01)
    assert report["manifest"]["profiler_ms"] == pytest.approx(18, abs=0.01)
    share = f"{100 * found['cost_ms_per_step'] / 120:.0f}%"
    assert share in " ".join(report["verdict"])
    assert share != f"{100 * found['cost_ms_per_step'] / 138:.0f}%"
    assert judged_ms(report) == pytest.approx(120, abs=0.01)
    assert judged_ms(report | {"manifest": None}) == pytest.approx(138, abs=0.01)
    said = " ".join(analysis.report().split())
    assert "100.0 ms a step in the recorded steps, 82.0 ms without the profiler" in said
    assert "a step would take about 30.0 ms" in said
    assert "note that the profiler" not in found["remedy"]


# ------------------------------------------------------------------------------------- the line
def test_a_trend_of_exact_lines() -> None:
    found = trend([5.0, 7.0, 9.0])
    assert found is not None
    assert (found.first, found.last, found.p_value) == (5.0, 9.0, 0.0)
    level = trend([5.0, 5.0, 5.0])
    assert level is not None
    assert level.p_value == 1.0
    assert trend([5.0, 7.0]) is None


@given(st.lists(st.integers(-100, 100), min_size=3, max_size=12))
def test_a_trend_backwards_is_the_same_line(values: Sequence[int]) -> None:
    there, back = trend([float(v) for v in values]), trend([float(v) for v in reversed(values)])
    assert there is not None
    assert back is not None
    assert there.first == pytest.approx(back.last, abs=1e-6)
    assert there.p_value == pytest.approx(back.p_value, abs=1e-6)


@pytest.mark.parametrize(
    "pace",
    [
        {"mean_ms": 0, "each_ms": []},
        {"mean_ms": -5.0, "each_ms": [-5.0, -5.0]},
        {"mean_ms": 20.0, "each_ms": [0.0, 40.0]},
    ],
)
def test_steps_that_take_no_time_were_not_timed(tmp_path: Path, pace: dict[str, Any]) -> None:
    for rank in (0, 1):
        trace(tmp_path, rank)
        write(tmp_path, rank, steps={"unprofiled": pace, "profiled": pace})
    analysis = tracelens.analyze(tmp_path)
    assert analysis.manifest is not None
    assert analysis.manifest.unprofiled_step_ms is None
    assert analysis.manifest.profiled_step_ms is None
    assert analysis.manifest.unprofiled_each_ms == ()
