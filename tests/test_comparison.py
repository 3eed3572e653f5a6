"""Two runs compared: what is claimed, what is not, and why."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import tracelens
from tracelens.cli import main
from tracelens.comparison import compare
from tracelens.comparison.prediction import made_for
from tracelens.comparison.steps import values
from tracelens.errors import UsageError

REPO = Path(__file__).parent.parent
SAMPLES = REPO / "sample_traces"

TRACES = REPO.parent / "shared" / "traces"

Report = dict[str, Any]


def report(*walls: float, ranks: int = 2, **setup: Any) -> Report:
    """A report whose steps last `walls` ms: a fifth exposed communication, the rest compute."""
    keys = ("wall", "compute", "comm", "overlapped_comm", "exposed_comm", "exposed_copy", "idle")
    shares = (1.0, 0.8, 0.2, 0.0, 0.2, 0.0, 0.0)
    split = dict(zip(keys, shares, strict=True))
    mean = sum(walls) / len(walls)
    rows = [
        {"rank": r, "step": k, "complete": True, "exposed_wait_ms": None}
        | {f"{name}_ms": share * wall for name, share in split.items()}
        for r in range(ranks)
        for k, wall in enumerate(walls)
    ]
    return {
        "format": 1,
        "run": {"paths": ["/x/rank0.json"], "ranks": list(range(ranks)), "device": "NVIDIA H200"},
        "setup": {k: answer(v) for k, v in setup.items()},
        "steps": rows,
        "summary": {f"{n}_ms": s * mean for n, s in split.items()}
        | {"n_steps": len(rows)}
        | dict.fromkeys(
            ("exposed_wait_ms", "exposed_transfer_ms", "overlap_ratio", "exposed_comm_pct")
        ),
        "compute": {"gemm_ms": 0.5 * mean},
        "idle": {"launch_ms": 0.0},
        "findings": [],
        "detectors": [{"id": "gc_pause", "status": "clean", "reason": None}],
    }


def answer(value: Any) -> dict[str, Any]:
    """An inference: a tuple is a value of None with these candidates."""
    if isinstance(value, tuple):
        return {"value": None, "candidates": list(value), "confidence": 0.9, "evidence": []}
    return {"value": value, "candidates": [value], "confidence": 0.9, "evidence": []}


def finding(id_: str, cost: float) -> dict[str, Any]:
    return {"id": id_, "title": id_, "cost_ms_per_step": cost, "severity": "low", "ranks": [0]}


STEADY = (100.0, 101.0, 99.0, 100.5, 99.5, 100.0)


@pytest.mark.parametrize(
    ("before", "after", "outcome", "significant"),
    [
        (STEADY, [0.8 * w for w in STEADY], "faster", True),
        (STEADY, [1.05 * w for w in STEADY], "slower", True),
        (STEADY, STEADY, "no difference", False),
        (STEADY, [1.01 * w for w in STEADY], "no difference", False),  # within recordings' noise
        ((100, 101), (80, 81), "faster", True),  # few steps, but far apart
        ((100, 101), (94, 94.5), "cannot tell", None),  # under what few steps differ by
        ((100, 120), (70, 110), "cannot tell", None),  # too much scatter
        ((100, 130, 80, 120, 90), (95, 125, 70, 115, 100), "cannot tell", None),
        ((100,), (60,), "cannot tell", None),  # one step has no scatter
        ((100, 100.5), (100, 100.5), "no difference", False),
    ],
)
def test_outcomes(before: Any, after: Any, outcome: str, significant: bool | None) -> None:
    told = compare(report(*before), report(*after))
    assert told["outcome"] == outcome
    assert told["step_ms"]["significant"] is significant
    assert told["verdict"].startswith(outcome.capitalize())


def test_ranks_are_no_measurements_of_their_own() -> None:
    """Sixteen ranks of two steps are two steps."""
    few, many = (compare(report(100, 120, ranks=n), report(90, 105, ranks=n)) for n in (1, 16))
    assert few["step_ms"] == many["step_ms"]
    assert many["step_ms"]["n_steps"] == [2, 2]


def test_turned_round_gains_are_losses() -> None:
    a, b = report(*STEADY), report(*(0.7 * w for w in STEADY))
    there, back = compare(a, b), compare(b, a)
    assert (there["outcome"], back["outcome"]) == ("faster", "slower")
    assert there["step_ms"]["delta"] == -back["step_ms"]["delta"]


def test_steps_that_were_cut_are_left_out() -> None:
    a = report(100, 101, 500)
    for row in a["steps"]:
        row["complete"] = row["step"] != 2
    assert values(a, "wall_ms") == [100, 101]


def test_a_micro_step_is_compared_where_accumulation_differs() -> None:
    a = report(*STEADY, gradient_accumulation_steps=1)
    b = report(*(3 * w for w in STEADY), gradient_accumulation_steps=4)
    told = compare(a, b)
    assert told["step_ms"]["delta_pct"] == pytest.approx(200)
    assert told["micro_step_ms"]["delta_pct"] == pytest.approx(-25)
    assert told["outcome"] == "faster"
    assert told["setup_changes"] == {"gradient_accumulation_steps": [1, 4]}


def test_other_work_is_not_compared() -> None:
    """Three times the matrix products and no micro-steps to explain them: another model."""
    told = compare(report(*STEADY), report(*(3 * w for w in STEADY)))
    assert told["outcome"] == "different work"
    assert "matrix products take 50.0 ms before and 150.0 ms after" in told["verdict"]
    b = report(*(3 * w for w in STEADY))
    b["run"]["device"] = "NVIDIA L4"  # the same work on a slower GPU
    assert compare(report(*STEADY), b)["outcome"] == "slower"


def test_a_profiler_on_a_slow_host_is_not_told_from_a_change_of_framework() -> None:
    a, b = (report(*STEADY, framework=f) for f in ("ddp", "deepspeed"))
    b = report(*(0.7 * w for w in STEADY), framework="deepspeed")
    assert compare(a, b)["outcome"] == "faster"
    a["findings"] = b["findings"] = [finding("launch_bound", 20)]
    told = compare(a, b)
    assert told["outcome"] == "cannot tell"
    assert "the host is the limit on both sides" in told["verdict"]
    a["setup"]["framework"] = answer("deepspeed")
    same = compare(a, b)
    assert same["outcome"] == "faster"
    assert "the profiler slows it" in same["verdict"]


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        (2, 3, True),
        (2, 2, False),
        (2, (1, 2), False),  # may be the same
        (3, (1, 2), True),
        ((1, 2), (2, 1), False),
        (2, (), False),  # nothing is known
        (1, True, True),  # a number is no truth value
    ],
)
def test_only_what_cannot_be_equal_is_a_change(before: Any, after: Any, changed: bool) -> None:
    told = compare(report(*STEADY, zero_stage=before), report(*STEADY, zero_stage=after))
    assert (told["setup_changes"] != {}) is changed
    back = compare(report(*STEADY, zero_stage=after), report(*STEADY, zero_stage=before))
    assert (back["setup_changes"] != {}) is changed


@pytest.mark.parametrize(
    ("bounds", "outside", "inside"),
    [
        ({"low": 100, "high": 200}, (50, 200), (100, 199)),
        ({"low": 100}, (99,), (100, 10**9)),
        ({"high": 200}, (200, 201), (1, 199)),
    ],
)
def test_bounds_exclude_what_lies_outside(
    bounds: dict[str, int], outside: tuple[int, ...], inside: tuple[int, ...]
) -> None:
    a, b = report(*STEADY, reduce_bucket_size=50), report(*STEADY, reduce_bucket_size=())
    b["setup"]["reduce_bucket_size"] |= bounds
    for value in outside:
        a["setup"]["reduce_bucket_size"] = answer(value)
        assert compare(a, b)["setup_changes"] == {"reduce_bucket_size": [value, None]}
    for value in inside:
        a["setup"]["reduce_bucket_size"] = answer(value)
        assert compare(a, b)["setup_changes"] == {}


def test_findings_go_come_and_cannot_be_judged() -> None:
    a, b = report(*STEADY), report(*STEADY)
    a["findings"] = [finding("gc_pause", 5), finding("host_sync", 2), finding("launch_bound", 9)]
    b["findings"] = [finding("launch_bound", 4), finding("slow_interconnect", 3)]
    a["detectors"] = [{"id": "slow_interconnect", "status": "clean", "reason": None}]
    b["detectors"].append({"id": "host_sync", "status": "not_applicable", "reason": "no ops"})
    told = compare(a, b)
    assert [f["id"] for f in told["findings_gone"]] == ["gc_pause"]
    assert [f["id"] for f in told["findings_new"]] == ["slow_interconnect"]
    (kept,) = told["findings_kept"]
    assert (kept["id"], kept["before_ms"], kept["after_ms"]) == ("launch_bound", 9, 4)
    (unjudged,) = told["findings_unjudged"]
    assert (unjudged["id"], unjudged["in"], unjudged["reason"]) == ("host_sync", "before", "no ops")


def test_metrics_add_up() -> None:
    """The parts' differences are the step's."""
    a, b = (tracelens.analyze(SAMPLES / run).to_json() for run in ("zero3", "zero1_overlap"))
    deltas = compare(a, b)["deltas"]
    parts = ("compute_ms", "exposed_comm_ms", "exposed_copy_ms", "idle_ms")
    assert sum(deltas[p]["delta"] for p in parts) == pytest.approx(deltas["wall_ms"]["delta"])
    assert "p_value" in deltas["idle_ms"]
    assert deltas["compute.gemm_ms"]["before"] == a["compute"]["gemm_ms"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("document", "inside"),
    [
        ({"baseline": {"step_ms": 90}, "predicted": {"step_ms": 72}}, None),
        (
            {"predicted": {"step_ms": 72, "ratio": 0.8, "low_ms": 70, "high_ms": 74}, "change": {}},
            True,
        ),
        (
            {"best": {"predicted": {"step_ms": 9, "ratio": 0.9, "low_ms": 8.9, "high_ms": 9.1}}},
            False,
        ),
    ],
)
def test_what_was_predicted(document: Report, inside: bool | None) -> None:
    told = compare(report(*STEADY), report(*(0.81 * w for w in STEADY)), document)
    p = told["prediction"]
    assert p["measured_ratio"] == pytest.approx(0.81)
    assert p["inside_band"] is inside
    assert "redicted" in told["verdict"]


def test_steps_without_a_profiler_come_first() -> None:
    """The prediction is held against them, and a profiler that turns the sign is told of."""
    a, b = report(*STEADY), report(*(0.8 * w for w in STEADY))
    a["manifest"], b["manifest"] = {"unprofiled_step_ms": 90.0}, {"unprofiled_step_ms": 81.0}
    told = compare(a, b, {"predicted": {"step_ms": 89, "ratio": 0.89}})
    assert told["unprofiled_step_ms"]["delta_pct"] == pytest.approx(-10)
    assert told["prediction"]["measured"] == "unprofiled"
    assert told["prediction"]["measured_ratio"] == pytest.approx(0.9)
    assert "Without a profiler it went from 90.0 to 81.0 ms (-10.0 %)." in told["sentences"]
    b["manifest"]["unprofiled_step_ms"] = 99.0
    assert "the profiler makes the difference" in compare(a, b)["verdict"]
    b["manifest"]["unprofiled_step_ms"] = None
    assert compare(a, b)["unprofiled_step_ms"] is None


def test_what_the_configurations_say() -> None:
    """Keys that no trace shows are told from the ds_config, where both sides have one."""
    a, b = report(*STEADY), report(*STEADY)
    a["ds_config"] = {"source": "x", "values": {"zero_optimization": {"stage": 3, "prefetch": 1}}}
    assert compare(a, b)["config_changes"] == {}
    b["ds_config"] = {"source": "y", "values": {"zero_optimization": {"stage": 3}, "fp16": {}}}
    assert compare(a, b)["config_changes"] == {"zero_optimization.prefetch": [1, None]}
    assert "zero_optimization.prefetch 1 -> unknown" not in compare(a, b)["verdict"]
    assert "zero_optimization.prefetch 1 -> not set" in compare(a, b)["verdict"]


@pytest.mark.parametrize(
    ("change", "after", "found"),
    [
        ({"overlap_comm": True}, {"overlap_comm": True, "zero_stage": 2}, True),
        ({"overlap_comm": True}, {"overlap_comm": False, "zero_stage": 2}, False),
        ({"overlap_comm": True}, {"overlap_comm": True, "zero_stage": 3}, False),
        ({"overlap_comm": True, "stage": 3}, {"overlap_comm": True, "zero_stage": 3}, True),
        ({"interconnect_speed": 2.0}, {"overlap_comm": False, "zero_stage": 2}, False),
        ({}, {"overlap_comm": False, "zero_stage": 2}, False),
    ],
)
def test_a_prediction_is_of_the_change_that_came(change: Report, after: Any, found: bool) -> None:
    a = report(*STEADY, overlap_comm=False, zero_stage=2)
    made = {"change": change, "predicted": {"step_ms": 1.0}}
    told = made_for([{"change": {"stage": 1}}, made], a, report(*STEADY, **after))
    assert (told == made) is found


def test_what_is_no_prediction_is_said() -> None:
    with pytest.raises(UsageError, match="no predicted step time"):
        compare(report(*STEADY), report(*STEADY), {"best": None})


@pytest.mark.parametrize("bad", [{}, {"format": 2, "steps": [1]}, {"format": 1, "steps": []}])
def test_what_is_no_report_is_said(bad: Report) -> None:
    with pytest.raises(UsageError, match="AFTER is not a report"):
        compare(report(*STEADY), bad)


def test_the_api_takes_runs_analyses_and_reports() -> None:
    run = SAMPLES / "zero2_accumulation"
    analysis = tracelens.analyze(run)
    for other in (run, analysis, analysis.to_json()):
        c = tracelens.compare(analysis, other)
        assert c.outcome in ("no difference", "cannot tell")
        assert c.to_json()["step_ms"]["delta"] == 0
        assert c.verdict.splitlines()[0].split(":")[0] in c.report(width=80)


# ------------------------------------------------------------------------------ the command
def run_command(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Path]:
    """A run as reports on disk, and the same a quarter slower."""
    paths = tmp_path / "a.json", tmp_path / "b.json"
    for path, factor in zip(paths, (1, 1.25), strict=True):
        path.write_text(json.dumps(report(*(factor * w for w in STEADY)), indent=1))
    return paths


def test_the_command_prints_json(saved: tuple[Path, Path]) -> None:
    done = run_command("compare", *saved, "--json")
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert (told["format"], told["outcome"]) == (1, "slower")
    contract = ("before", "after", "setup_changes", "step_ms", "deltas", "verdict")
    assert {*contract, "findings_gone", "findings_new"} <= set(told)


@pytest.mark.parametrize(("limit", "code"), [(10, 3), (30, 0)])
def test_the_gate_on_slower_steps(saved: tuple[Path, Path], limit: int, code: int) -> None:
    done = run_command("compare", *saved, "--fail-if-slower", limit)
    assert done.exit_code == code
    assert ("over the limit" in done.stderr) == (code == 3)
    back = run_command("compare", *reversed(saved), "--fail-if-slower", 0)
    assert back.exit_code == 0


def test_the_gate_lets_noise_pass_and_says_when_it_cannot_tell(tmp_path: Path) -> None:
    def gate(before: Report, after: Report) -> Result:
        (tmp_path / "a.json").write_text(json.dumps(before))
        (tmp_path / "b.json").write_text(json.dumps(after))
        args = ("compare", tmp_path / "a.json", tmp_path / "b.json", "--fail-if-slower", "0.5")
        return run_command(*args)

    noise = gate(report(*STEADY), report(*(1.01 * w for w in STEADY)))
    assert (noise.exit_code, "noise" in noise.stderr) == (0, True)
    unsure = gate(report(100, 120), report(110, 130))
    assert (unsure.exit_code, "too few steps" in unsure.stderr) == (3, True)


def test_bad_reports_are_bad_input(tmp_path: Path, saved: tuple[Path, Path]) -> None:
    cut = tmp_path / "cut.json"
    cut.write_text('{"format": 1, "run"')
    done = run_command("compare", saved[0], cut)
    assert done.exit_code == 1
    assert "cut.json" in done.stderr
    assert run_command("compare", saved[0], tmp_path / "none").exit_code == 1


def test_names_in_a_report_reach_no_terminal(tmp_path: Path) -> None:
    a = report(*STEADY)
    a["findings"] = [finding("gc_pause", 1) | {"title": "\x1b[31m[bold]x"}]
    a["run"]["paths"] = ["/x/\x1b[31m.json"]
    text = tracelens.compare(a, report(*STEADY)).report()
    assert "\x1b" not in text
    assert "[bold]x" in text


# ------------------------------------------------------------------- recorded runs, their truth
def recorded_runs(family: str) -> dict[str, tuple[Report, float, int]]:
    """Runs of one fabric: report, mean of the un-profiled step times, parameters."""
    told = {}
    for folder in sorted(TRACES.glob(f"{family}_*")):
        truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
        walls, accumulated = truth["step_ms"], truth["spec"].get("ga", 1)
        if "params" in truth:
            mean = sum(walls) / len(walls) / accumulated
            told[folder.name] = (tracelens.analyze(folder).to_json(), mean, truth["params"])
    return told


@pytest.mark.skipif(not TRACES.is_dir(), reason="the recorded runs are not beside this checkout")
@pytest.mark.parametrize("family", ["s_shm", "s_nv", "w4"])
def test_no_wrong_claim_on_recorded_pairs(family: str) -> None:
    """Every claim has the sign of the un-profiled step times, which differ by 2 % or more."""
    claims, wrong = 0, []
    pairs = permutations(recorded_runs(family).items(), 2)
    for (a, (before, old, size)), (b, (after, new, other)) in pairs:
        if size != other:
            continue
        told = compare(before, after)
        if told["outcome"] not in ("faster", "slower"):
            continue
        claims += 1
        truth = new / old - 1
        if (truth < 0) != (told["outcome"] == "faster") or abs(truth) < 0.02:
            wrong.append((a, b, told["step_ms"]["delta_pct"], truth))
    assert claims >= 20
    assert not wrong
