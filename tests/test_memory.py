"""Memory: the ZeRO table by hand, what DeepSpeed held on GPUs, and peaks of recorded runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builder import BACKWARD_TID, TraceBuilder
from click.testing import CliRunner

from tracelens import analyze, whatif
from tracelens.cli import main
from tracelens.errors import CannotPredict
from tracelens.ingest import open_trace
from tracelens.pipeline import look, open_rank
from tracelens.replay.change import make_change
from tracelens.replay.footprint import Footprint, changed, footprint, stages
from tracelens.replay.memory import ModelSize, Widths, ZeroSetting, held, paper_states
from tracelens.replay.peaks import Recorded, find_peaks
from tracelens.report.memory import render_text
from tracelens.report.prediction import render_text as prediction_text

REPO = Path(__file__).parent.parent
TRACES = REPO.parent / "shared" / "traces"
MEASURED = json.loads((REPO / "tests" / "data" / "memory_h200.json").read_text(encoding="utf-8"))
MIB = 2**20
#: Workspaces of cuBLAS, the batch and scalars: on both models, at all stages, 64 to 65 MiB.
BESIDE = 65 * MIB


def cases() -> list[dict[str, Any]]:
    return [dict(zip(MEASURED["columns"], row, strict=True)) for row in MEASURED["rows"]]


def name_of(case: dict[str, Any]) -> str:
    keys = ("model", "ranks", "stage", "overlap_comm", "reduce_bucket_size", "micro_steps")
    return "-".join(str(case[k]) for k in (*keys, "stage3_prefetch_bucket_size"))


def size_of(case: dict[str, Any]) -> ModelSize:
    return ModelSize(case["parameters"], MEASURED["largest"][case["model"]])


def setting_of(case: dict[str, Any]) -> ZeroSetting:
    prefetch = case["stage3_prefetch_bucket_size"]
    return ZeroSetting(
        stage=case["stage"],
        shards=case["ranks"],
        overlap_comm=case["overlap_comm"],
        accumulates=case["micro_steps"] > 1,
        reduce_bucket_nelems=case["reduce_bucket_size"],
        prefetch_nelems=50_000_000 if prefetch is None else prefetch,
    )


CASES = cases()


# ------------------------------------------------------------------ by hand


@pytest.mark.parametrize(
    ("stage", "expected"),
    [(0, (16, 16, 96)), (1, (16, 16, 24)), (2, (16, 4, 24)), (3, (4, 4, 24))],
)
def test_the_papers_table(stage: int, expected: tuple[int, ...]) -> None:
    """8 parameters on 4 GPUs: 2 bytes, 2 bytes, 12 bytes each, whole or a quarter."""
    found = paper_states(8, stage, 4, Widths())
    assert (found.parameters_bytes, found.gradients_bytes, found.optimizer_bytes) == expected
    assert found.total_bytes == sum(expected)


SMALL = ModelSize(800, 100)
FOUR = ZeroSetting(2, 4, reduce_bucket_nelems=50)


def moments(setting: ZeroSetting) -> tuple[float, ...]:
    h = held(SMALL, setting)
    return h.resident_bytes, h.forward_bytes, h.reducing_bytes, h.updating_bytes


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        # 800 x (2 + 4 + 8); then all gradients beside a copy of them; in float32, twice
        (replace(FOUR, stage=0), (11200, 11200, 11200 + 1600 + 1600, 11200 + 1600 + 6400)),
        # 1600 + 200 x 12; one bucket of 100, a quarter of the gradients; 200 x (2 + 2 + 4)
        (FOUR, (4000, 4000, 4000 + 100 + 400, 4000 + 1600)),
        (replace(FOUR, overlap_comm=True), (4000, 4000, 4000 + 200 + 400, 5600)),
        (replace(FOUR, contiguous_gradients=False), (4000, 4000, 4400, 5600)),
        (replace(FOUR, accumulates=True), (4000, 4400, 4400 + 100 + 400, 5600)),
        # stage 1 reduces after the pass, or at the last micro-step: whole gradients until then
        (replace(FOUR, stage=1), (4000, 4000, 4000 + 100 + 400 + 1600, 5600)),
        (replace(FOUR, stage=1, overlap_comm=True), (4000, 4000, 4600, 5600)),
        (replace(FOUR, stage=1, accumulates=True), (4000, 5600, 5600 + 100 + 400, 5600)),
        # 200 x (2 + 4 + 8 + 2) and a bucket; all 800 gathered; the bucket's copy; 200 x (2 + 4)
        (replace(FOUR, stage=3), (3300, 4900, 5000, 4500)),
        (replace(FOUR, stage=3, max_live_nelems=300), (3300, 3900, 4000, 4500)),
        (replace(FOUR, stage=3, max_live_nelems=10), (3300, 3500, 3600, 4500)),
        (replace(FOUR, stage=3, prefetch_nelems=0, max_reuse_nelems=800), (3300, 4100, 4200, 4500)),
        (replace(FOUR, stage=3, sub_group_nelems=50), (3300, 4900, 5000, 3600)),
        # what stays: parameters and a staging buffer of the largest; nothing is updated here
        (replace(FOUR, offload_optimizer=True), (1800, 1800, 1900, 1800)),
        (replace(FOUR, stage=3, offload_optimizer=True), (500, 2100, 2200, 500)),
        (
            replace(FOUR, stage=3, offload_optimizer=True, offload_parameters=True),
            (100, 1700, 1800, 100),
        ),
    ],
)
def test_deepspeeds_moments(setting: ZeroSetting, expected: tuple[float, ...]) -> None:
    assert moments(setting) == expected


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (FOUR, 0),
        # 200 x (4 + 8 + 4 + 2), and the staging buffer
        (replace(FOUR, offload_optimizer=True), 3800),
        (replace(FOUR, offload_optimizer=True, accumulates=True), 4200),
        (replace(FOUR, stage=3, offload_optimizer=True), 3600),
        (replace(FOUR, stage=3, offload_optimizer=True, offload_parameters=True), 4000),
    ],
)
def test_what_the_host_holds(setting: ZeroSetting, expected: float) -> None:
    assert held(SMALL, setting).host_bytes == expected


def test_float32_without_adam() -> None:
    """4-byte parameters and gradients, a master copy all the same, one moment (Lion)."""
    size = replace(SMALL, widths=Widths(4, 4, 4, 4))
    assert held(size, FOUR).resident_bytes == 3200 + 200 * 8
    assert held(size, FOUR).bucket_bytes == 200


@pytest.mark.parametrize(
    "setting",
    [
        replace(FOUR, stage=4),
        replace(FOUR, shards=0),
        replace(FOUR, offload_parameters=True),
        replace(FOUR, stage=0, offload_optimizer=True),
    ],
)
def test_settings_that_there_are_not(setting: ZeroSetting) -> None:
    with pytest.raises(ValueError, match=r"stage|parameters"):
        held(SMALL, setting)


# ------------------------------------------------------------------ as measured


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_bytes_on_the_gpu(case: dict[str, Any]) -> None:
    """After initialize() all but the optimizer's states is there: to the byte, but for padding."""
    h = held(size_of(case), setting_of(case))
    assert abs(case["initialized_bytes"] - (h.resident_bytes - h.optimizer_bytes)) < MIB
    assert 64 * MIB <= case["resident_bytes"] - h.resident_bytes < BESIDE


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_peaks_under_another_setting(case: dict[str, Any]) -> None:
    """From one recorded peak of a model to all others: stages, ranks, buckets, prefetch, steps.

    All of these runs peak before the first gradient.
    """
    base = next(c for c in CASES if c["model"] == case["model"] and c["stage"] == 2)
    now = held(size_of(base), setting_of(base))
    then = held(size_of(case), setting_of(case))
    predicted = base["peak_bytes"] + then.forward_bytes - now.forward_bytes
    assert predicted == pytest.approx(case["peak_bytes"], rel=0.01)


def test_that_is_not_for_want_of_differences() -> None:
    peaks = [c["peak_bytes"] for c in CASES if c["model"] == "b1300m"]
    assert max(peaks) > 1.3 * min(peaks)


# ------------------------------------------------------------------ a run's footprint


def a_run(recorded: Recorded | None, capacity: int | None = 10_000) -> Footprint:
    return Footprint(SMALL, FOUR, recorded, capacity, ())


SEEN = Recorded(4100, 6000, 5000, 5700, 6200)


def test_each_moment_moves_by_its_own() -> None:
    """Bucket of 1000 elements: 1900 bytes more while gradients are reduced, nothing before."""
    run = a_run(SEEN)
    larger = replace(FOUR, reduce_bucket_nelems=1000)
    assert run.peak_bytes(FOUR) == 6000
    assert run.peak_bytes(replace(FOUR, reduce_bucket_nelems=500)) == 6000
    assert run.peak_bytes(larger) == 5000 + 1900
    assert run.growth_bytes(larger) == 900
    assert a_run(None).growth_bytes(larger) == 1900
    assert a_run(None).peak_bytes(larger) is None


@pytest.mark.parametrize(
    ("recorded", "capacity", "bucket", "expected"),
    [
        (SEEN, 10_000, 50, True),
        (SEEN, 6300, 50, None),  # it ran, yet little is left
        (SEEN, 6800, 1000, False),
        (SEEN, None, 50, None),
        (None, 10_000, 50, None),
        (None, 3900, 50, False),
    ],
)
def test_what_fits(
    recorded: Recorded | None, capacity: int | None, bucket: int, expected: bool | None
) -> None:
    assert a_run(recorded, capacity).fits(replace(FOUR, reduce_bucket_nelems=bucket)) is expected


def test_a_change_becomes_a_setting() -> None:
    change = make_change(
        {"stage": 3, "overlap_comm": True, "reduce_bucket_size": 7, "world_size": 8,
         "gradient_accumulation_steps": 4, "stage3_max_live_parameters": 9,
         "stage3_prefetch_bucket_size": 0, "allgather_bucket_size": 5}
    )  # fmt: skip
    assert changed(FOUR, change) == ZeroSetting(
        3, 8, overlap_comm=True, accumulates=True, reduce_bucket_nelems=7,
        max_live_nelems=9, prefetch_nelems=0,
    )  # fmt: skip


def test_stages_that_offload_less_drop_it() -> None:
    now = replace(FOUR, stage=3, offload_optimizer=True, offload_parameters=True)
    assert changed(now, make_change({"stage": 2})) == replace(FOUR, offload_optimizer=True)
    assert changed(now, make_change({"stage": 0})) == replace(FOUR, stage=0)


def test_why_a_change_does_not_fit() -> None:
    gib = 2**30
    size = replace(SMALL, nelems=gib)
    run = Footprint(size, FOUR, Recorded(*(n * gib for n in (5, 6, 6, 8, 9))), 9 * gib, ())
    assert run.overflow(make_change({"overlap_comm": True})) is None
    # the update's 8, with (14 + 2 + 8) bytes a parameter in place of (5 + 2)
    assert run.overflow(make_change({"stage": 0})) == (
        "does not fit: it would take 25.0 GiB of the GPU's 9.0"
    )
    blind = replace(run, recorded=None)
    assert blind.overflow(make_change({"stage": 0})) == (
        "does not fit: model states alone take 14.0 GiB of the GPU's 9.0"
    )


def test_the_table_marks_what_ran_and_what_does_not_fit() -> None:
    rows = a_run(SEEN, 6000).to_json()["table"]
    assert [r["stage"] for r in rows if r["recorded"]] == [2]
    assert [(s.stage, s.offload_optimizer, s.offload_parameters) for s in stages(FOUR)] == [
        (r["stage"], r["offload_optimizer"], r["offload_param"]) for r in rows
    ]
    assert rows[0]["fits"] is False
    text = render_text(a_run(SEEN, 6000))
    assert "2 *" in text
    assert "no" in next(line.split() for line in text.splitlines() if line.startswith("0 "))


def test_peaks_by_moment(tmp_path: Path) -> None:
    """Forward up to the hook, reducing until the bucket is freed, then the update."""
    t = TraceBuilder().step(1, 0, 100).cpu_op("aten::mm", ts=5, dur=1, ext=1)
    t.launch(ts=5, corr=1).kernel("gemm", ts=20, dur=30, corr=1, ext=1)
    evaluate = "autograd::engine::evaluate_function: torch::autograd::AccumulateGrad"
    t.cpu_op(
        "autograd::engine::evaluate_function: MmBackward0", ts=38, dur=1, seq=1, tid=BACKWARD_TID
    )
    t.cpu_op(evaluate, ts=40, dur=10, tid=BACKWARD_TID)
    t.cpu_op("torch::autograd::AccumulateGrad", ts=41, dur=2, tid=BACKWARD_TID)
    table = [  # us, bytes, allocated
        (1, 0, 1000), (10, 500, 1500), (42, 80, 1400), (45, 100, 1480), (60, 20, 1490),
        (70, -80, 1100), (80, 250, 1350), (90, -250, 900),
    ]  # fmt: skip
    for ts, size, allocated in table:
        t.memory(ts, size, allocated=allocated, reserved=2000)
    seen = look(open_trace(t.write(tmp_path / "t.json")))
    assert find_peaks(seen, 0, [40]) == Recorded(900, 1500, 1490, 1350, 2000)
    assert find_peaks(seen, 0, []) == Recorded(900, 1500, 1480, 1490, 2000)
    assert find_peaks(seen, 1, [40]) is None


def test_memory_of_the_gpus(tmp_path: Path) -> None:
    devices = [{"id": 1, "name": "B", "totalGlobalMem": 5}, {"id": 2}, {"id": "x"}]
    t = TraceBuilder().step(1, 0, 9).launch(corr=1).kernel("k", ts=1, dur=1, corr=1)
    t.meta(deviceProperties=devices)
    assert open_trace(t.write(tmp_path / "t.json")).info.device_bytes == (-1, 5, -1)


# ------------------------------------------------------------------ recorded runs


def test_the_command_on_a_sample() -> None:
    run = REPO / "sample_traces" / "zero2_slow_fabric"
    truth = json.loads((run / "truth.json").read_text(encoding="utf-8"))
    said = CliRunner().invoke(main, ["memory", str(run), "--json"], catch_exceptions=False)
    found = json.loads(said.stdout)
    assert found["parameters"] == truth["params"]
    assert found["recorded"] is None
    assert [r["stage"] for r in found["table"] if r["recorded"]] == [2]
    shown = CliRunner().invoke(main, ["memory", str(run)], catch_exceptions=False)
    assert "No allocator events" in shown.stdout


def test_not_for_ddp() -> None:
    run = analyze(REPO / "sample_traces" / "ddp")
    with pytest.raises(CannotPredict, match="DeepSpeed"):
        footprint(run, open_rank(run, run.ranks[0].rank))


@pytest.mark.skipif(not TRACES.exists(), reason="the recorded corpus is not here")
def test_recorded_allocator_events() -> None:
    """The peak is the one that torch counted; states explain what is there between steps."""
    run = analyze(TRACES / "w4_z2_mem")
    truth = json.loads((TRACES / "w4_z2_mem" / "truth.json").read_text(encoding="utf-8"))
    found = footprint(run, open_rank(run, run.ranks[0].rank))
    assert found.recorded is not None
    assert found.model.nelems == truth["params"]
    assert found.recorded.peak_bytes == pytest.approx(truth["peak_gib"] * 2**30, rel=1e-6)
    beside = found.recorded.resident_bytes - found.held().resident_bytes
    assert 64 * MIB <= beside < BESIDE
    # two buckets of half a billion elements are its peak
    small = replace(found.setting, reduce_bucket_nelems=50_000_000)
    assert found.growth_bytes(small) < -(2**30)


def test_a_prediction_tells_its_memory() -> None:
    """Two buckets of half a billion elements of 2 bytes become two of a tenth."""
    run = analyze(REPO / "sample_traces" / "zero2_slow_fabric")
    found = whatif(run, {"reduce_bucket_size": 50_000_000})
    assert found.to_json()["predicted"]["memory_delta_bytes"] == 0  # the forward pass
    larger = whatif(run, {"reduce_bucket_size": 600_000_000})
    assert larger.to_json()["predicted"]["memory_delta_bytes"] == 400_000_000


@pytest.mark.skipif(not TRACES.exists(), reason="the recorded corpus is not here")
@pytest.mark.parametrize("name", ["s_nv_z1_on_rb5e07", "s_nv_z3_on_rb5e07_pf5e07", "w4_z0"])
def test_parameters_of_recorded_runs(name: str) -> None:
    run = analyze(TRACES / name)
    truth = json.loads((TRACES / name / "truth.json").read_text(encoding="utf-8"))
    assert footprint(run, open_rank(run, 0)).model.nelems == truth["params"]


def test_a_prediction_shows_its_memory() -> None:
    run = analyze(REPO / "sample_traces" / "zero2_slow_fabric")
    shown = prediction_text(whatif(run, {"reduce_bucket_size": 600_000_000}))
    assert "peak of a GPU's memory: +0.37 GiB at most" in shown
