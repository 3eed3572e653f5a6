"""Limits: what is kept, broken and not known, and the exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from test_comparison import answer, finding, report

import tracelens
from tracelens.cli import main
from tracelens.errors import UsageError
from tracelens.limits import MEASURES, check

SAMPLES = Path(__file__).parent.parent / "sample_traces"


@pytest.fixture
def told() -> dict[str, Any]:
    """Steps of 100 and 110 ms, a fifth of them exposed communication, none hidden."""
    r = report(100, 110, zero_stage=(1, 2), overlap_comm=True)
    r["summary"] |= {"overlap_ratio": 0.0, "exposed_wait_ms": None}
    r["efficiency"] = {"mfu": 0.4}
    r["findings"] = [finding("gc_pause", 5), finding("host_sync", 2) | {"severity": "info"}]
    r["detectors"] = [
        {"id": "gc_pause", "status": "fired", "reason": None},
        {"id": "launch_bound", "status": "clean", "reason": None},
        {"id": "slow_interconnect", "status": "not_applicable", "reason": "no link"},
    ]
    return r


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_step_ms", 105),
        ("max_exposed_comm_ms", 21),
        ("max_exposed_comm_pct", 20),
        ("max_exposed_copy_pct", 0),
        ("max_exposed_wait_ms", None),
        ("max_idle_ms", 0),
        ("max_idle_pct", 0),
        ("min_overlap_pct", 0),
        ("min_mfu_pct", 40),
        ("max_finding_ms", 5),
        ("max_step_spread_pct", 10),
    ],
)
def test_every_measure(told: dict[str, Any], name: str, value: float | None) -> None:
    def status(limit: float) -> str:
        (found,) = check(told, {name: limit})
        assert found.value == (None if value is None else pytest.approx(value))
        return found.status

    if value is None:
        assert status(0) == "unknown"
        return
    worse = 0.001 if name.startswith("min") else -0.001
    assert status(value) == "kept"
    assert status(value + worse) == "broken"
    assert status(value - worse) == "kept"


def test_no_measure_is_forgotten_above() -> None:
    marks = test_every_measure.pytestmark  # type: ignore[attr-defined]
    assert {case[0] for case in marks[0].args[1]} == set(MEASURES)


@pytest.mark.parametrize(
    ("lowest", "status"), [("info", "broken"), ("low", "broken"), ("high", "kept")]
)
def test_severity(told: dict[str, Any], lowest: str, status: str) -> None:
    (found,) = check(told, {}, fail_on=lowest)
    assert found.status == status


def test_findings_by_id(told: dict[str, Any]) -> None:
    ids = ("gc_pause", "launch_bound", "slow_interconnect")
    assert [x.status for x in check(told, {}, findings=ids)] == ["broken", "kept", "unknown"]
    with pytest.raises(UsageError, match="no finding oops"):
        check(told, {}, findings=["oops"])


@pytest.mark.parametrize(
    ("key", "value", "status"),
    [
        ("overlap_comm", True, "kept"),
        ("overlap_comm", False, "broken"),
        ("overlap_comm", 1, "broken"),  # a number is no truth value
        ("zero_stage", 2, "unknown"),
        ("zero_stage", 3, "broken"),  # neither of its candidates
    ],
)
def test_setup(told: dict[str, Any], key: str, value: Any, status: str) -> None:
    (found,) = check(told, {}, setup={key: value})
    assert found.status == status


def test_a_key_without_any_answer_breaks_nothing(told: dict[str, Any]) -> None:
    told["setup"]["precision"] = answer(())
    (found,) = check(told, {}, setup={"precision": "bf16"})
    assert (found.status, found.value) == ("unknown", None)


def test_one_step_has_no_spread() -> None:
    (found,) = check(report(100), {"max_step_spread_pct": 1})
    assert found.status == "unknown"


# ------------------------------------------------------------------------------ the command
def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["check", str(SAMPLES / "zero3"), *map(str, args)])


def test_exit_codes() -> None:
    wall = tracelens.analyze(SAMPLES / "zero3").summary.wall / 1e6
    assert run("--max-step-ms", wall + 1).exit_code == 0
    broken = run("--max-step-ms", wall - 1, "--expect", "zero_stage=3")
    assert broken.exit_code == 3
    assert "1 of 2 limits broken" in broken.stdout
    assert run().exit_code == 2
    assert run("--expect", "zero_stage").exit_code == 2
    assert run("--expect", "nonsense=1").exit_code == 2


def test_json() -> None:
    done = run("--json", "--expect", "precision=bf16", "--no-finding", "launch_bound")
    assert json.loads(done.stdout)["format"] == 1
    names = [x["name"] for x in json.loads(done.stdout)["limits"]]
    assert names == ["finding:launch_bound", "setup:precision"]


def test_every_measure_is_an_option_and_documented() -> None:
    text = CliRunner().invoke(main, ["check", "--help"]).output
    page = (SAMPLES.parent / "docs" / "compare.md").read_text(encoding="utf-8")
    for name in MEASURES:
        assert f"--{name.replace('_', '-')}" in text
        assert f"`--{name.replace('_', '-')}`" in page
