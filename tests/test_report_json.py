"""The JSON report, key by key: what scripts rely on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_report_case import run_at

import tracelens
from tracelens.findings import Finding, Proof
from tracelens.infer.result import Setup
from tracelens.trace import Note

NUMBER, TEXT, NONE = (int, float), str, type(None)
STEP = {
    "rank": int,
    "step": int,
    "wall_ms": NUMBER,
    "compute_ms": NUMBER,
    "overlapped_comm_ms": NUMBER,
    "exposed_comm_ms": NUMBER,
    "exposed_copy_ms": NUMBER,
    "idle_ms": NUMBER,
    "comm_ms": NUMBER,
    "exposed_wait_ms": (*NUMBER, NONE),
    "exposed_transfer_ms": (*NUMBER, NONE),
}
SCHEMA: dict[str, Any] = {
    "format": int,
    "run": {
        "source": TEXT,
        "paths": [TEXT],
        "ranks": [int],
        "world_size": (int, NONE),
        "device": (TEXT, NONE),
        "n_events": int,
        "torch": (TEXT, NONE),
        "nccl": (TEXT, NONE),
    },
    "verdict": [TEXT],
    "setup": dict,
    "steps": [STEP],
    "summary": {k: v for k, v in STEP.items() if k not in ("rank", "step")}
    | {"overlap_ratio": (*NUMBER, NONE), "exposed_comm_pct": (*NUMBER, NONE)},
    "collectives": [
        {
            "kind": TEXT,
            "phase": (TEXT, NONE),
            "group": (TEXT, NONE),
            "group_size": (int, NONE),
            "dtype": (TEXT, NONE),
            "count_per_step": NUMBER,
            "bytes_per_step": (*NUMBER, NONE),
            "total_ms": NUMBER,
            "exposed_ms": NUMBER,
            "wait_ms": (*NUMBER, NONE),
            "transfer_ms": (*NUMBER, NONE),
            "algbw_gbps": (*NUMBER, NONE),
            "busbw_gbps": (*NUMBER, NONE),
        }
    ],
    "findings": [
        {
            "id": TEXT,
            "title": TEXT,
            "cost_ms_per_step": NUMBER,
            "severity": TEXT,
            "ranks": [int],
            "steps": [int],
            "evidence": [TEXT],
            "remedy": TEXT,
            "config": (dict, NONE),
        }
    ],
    "detectors": [{"id": TEXT, "status": TEXT, "reason": (TEXT, NONE)}],
    "import": {
        "events_read": int,
        "events_dropped": int,
        "notes": [{"code": TEXT, "count": int, "text": TEXT}],
    },
}
INFERENCE = {"value": object, "candidates": list, "confidence": NUMBER, "evidence": [TEXT]}


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> tracelens.Analysis:
    return tracelens.analyze(run_at(tmp_path_factory.mktemp("case") / "run"))


def conform(value: object, schema: Any, at: str = "$") -> None:
    """Fail unless `value` has every key of the schema, with the right types; more are allowed."""
    if isinstance(schema, dict):
        assert isinstance(value, dict), at
        assert schema.keys() <= value.keys(), f"{at} lacks {schema.keys() - value.keys()}"
        for key, inner in schema.items():
            conform(value[key], inner, f"{at}.{key}")
    elif isinstance(schema, list):
        assert isinstance(value, list), at
        for i, row in enumerate(value):
            conform(row, schema[0] if schema else object, f"{at}[{i}]")
    else:
        assert isinstance(value, schema), f"{at} is {value!r}"


def test_every_key_of_the_contract(analysis: tracelens.Analysis) -> None:
    report = json.loads(json.dumps(analysis.to_json(), allow_nan=False))
    conform(report, SCHEMA)
    assert report["format"] == 1
    assert len(report["steps"]) == 3
    assert report["collectives"]
    assert report["import"]["notes"], "one of three ranks is missing: that is said"
    for key, row in report["setup"].items():
        conform(row, INFERENCE, f"$.setup.{key}")


def test_the_schema_check_can_fail(analysis: tracelens.Analysis) -> None:
    report: Any = analysis.to_json()
    del report["steps"][0]["idle_ms"]
    with pytest.raises(AssertionError, match="idle_ms"):
        conform(report, SCHEMA)


def test_it_is_plain_data(analysis: tracelens.Analysis) -> None:
    report = analysis.to_json()
    assert report == json.loads(json.dumps(report))


def test_rows_are_identities_after_rounding_too(analysis: tracelens.Analysis) -> None:
    """Six decimals of a ms are the ns, so nothing is lost on the way out."""
    report: Any = analysis.to_json()
    for row in report["steps"]:
        ns = {k: round(v * 1e6) for k, v in row.items() if k.endswith("_ms") and v is not None}
        parts = ("compute_ms", "exposed_comm_ms", "exposed_copy_ms", "idle_ms")
        assert sum(ns[p] for p in parts) == ns["wall_ms"]
        assert ns["exposed_comm_ms"] + ns["overlapped_comm_ms"] == ns["comm_ms"]


def test_idle_time_is_all_accounted_for(analysis: tracelens.Analysis) -> None:
    report: Any = analysis.to_json()
    assert sum(report["idle"].values()) == pytest.approx(report["summary"]["idle_ms"], abs=1e-5)
    assert report["idle"]["launch_ms"] > 0


def test_steps_start_where_their_first_work_does(analysis: tracelens.Analysis) -> None:
    """On rank 0 the first event is the marker at 0, the first kernels start at 100 and 1100 us."""
    report: Any = analysis.to_json()
    assert [row["start_ms"] for row in report["steps"]] == [0.1, 1.1, 0.0]


def test_what_was_given_stands_beside_what_is_seen(
    analysis: tracelens.Analysis, tmp_path: Path
) -> None:
    config = {"zero_optimization": {"stage": 3}, "gradient_accumulation_steps": 8}
    given = tmp_path / "ds.json"
    given.write_text(json.dumps(config))
    folder = Path(analysis.run.paths[0]).parent
    setup: Any = tracelens.analyze(folder, ds_config=given).to_json()["setup"]
    steps = setup["gradient_accumulation_steps"]
    assert (steps["given"], steps["contradicted"]) == (8, steps["value"] not in (8, None))
    assert setup["zero_stage"]["given"] == 3
    assert "given" not in setup["mode"]
    without: Any = analysis.to_json()["setup"]
    assert not any("given" in row for row in without.values())


def test_odd_nanoseconds_survive(analysis: tracelens.Analysis) -> None:
    first = analysis.ranks[0]
    wall = np.array([1_234_567_891, 900_001], np.int64)
    idle = wall - first.breakdown.wall + first.breakdown.idle
    breakdown = replace(first.breakdown, wall=wall, idle=idle)
    odd: Any = replace(analysis, ranks=(replace(first, breakdown=breakdown),)).to_json()
    assert [row["wall_ms"] for row in odd["steps"]] == [1234.567891, 0.900001]


def test_findings_are_of_the_contract(analysis: tracelens.Analysis) -> None:
    proof = Proof(rank=0, step=1, start_ns=5, end_ns=9, name="gemm", row=3)
    found = Finding("a", "A", 0.25, "critical", (0,), (1,), ("seen",), "do", {"k": None}, (proof,))
    said: Any = replace(analysis, finding_rows=(replace(found, id="b"), found)).to_json()
    report = json.loads(json.dumps(said))
    conform(report, SCHEMA)
    assert report["findings"][1] == {
        "id": "a",
        "title": "A",
        "cost_ms_per_step": 0.25,
        "recorded_ms_per_step": None,
        "severity": "critical",
        "ranks": [0],
        "steps": [1],
        "evidence": ["seen"],
        "remedy": "do",
        "config": {"k": None},
        "proof": [
            {"rank": 0, "step": 1, "start_ns": 5, "end_ns": 9, "name": "gemm", "row": 3},
        ],
    }


def test_every_check_ends_somehow(analysis: tracelens.Analysis) -> None:
    """Each id once; a reason just where it was not judged; what fired has a finding."""
    report: Any = analysis.to_json()
    ids = [d["id"] for d in report["detectors"]]
    assert len(ids) == len(set(ids)) > 20
    for d in report["detectors"]:
        assert d["status"] in ("fired", "clean", "not_applicable")
        assert (d["status"] == "not_applicable") == bool(d["reason"]), d
    fired = {d["id"] for d in report["detectors"] if d["status"] == "fired"}
    assert fired == {f["id"] for f in report["findings"]}
    costs = [f["cost_ms_per_step"] for f in report["findings"]]
    assert costs == sorted(costs, reverse=True)


def test_bounds_are_there_only_when_known() -> None:
    from tracelens.infer.result import Inference
    from tracelens.report.json import _inference

    bounded = _inference(Inference("reduce_bucket_size", None, (), 0.5, ("e",), low=3))
    assert bounded["low"] == 3
    assert "high" not in bounded
    assert bounded["value"] is None


def test_an_empty_setup_is_an_empty_object(analysis: tracelens.Analysis) -> None:
    assert replace(analysis, setup=Setup(())).to_json()["setup"] == {}


def test_notes_are_passed_on(analysis: tracelens.Analysis) -> None:
    noted: Any = replace(analysis, notes=(Note("code", 2, "text"),)).to_json()
    assert noted["import"]["notes"] == [{"code": "code", "count": 2, "text": "text"}]


def test_the_compute_split_by_hand(analysis: tracelens.Analysis) -> None:
    compute: Any = analysis.to_json()["compute"]
    # gemm 300, 400 and 500 us, and a copy of 50 us, in three steps
    assert compute["gemm_ms"] == pytest.approx(0.4)
    assert compute["copy_ms"] == pytest.approx(0.05 / 3, abs=1e-6)
    assert compute["attention_ms"] == 0
