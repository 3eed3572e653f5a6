"""HTA's definition on tracelens's tables, and the repeated trace that the benchmark measures.

The case worked by hand in docs/hta.md is tested here; that the definition gives what
HTA itself says is what benchmarks/compare_hta.py checks, where HTA is installed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from builder import TraceBuilder

import tracelens

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from hta_definition import HtaView, Streams, is_hta_comm, is_hta_compute, stages
from repeat_trace import repeat

REPO = Path(__file__).parent.parent
GEMM = "sm80_xmma_gemm_f16"

#: docs/hta.md, one case by hand: start, end, beside compute, launched at (us).
CASE = (
    (12_149, 42_818, 13_838, 12_136),
    (42_824, 105_607, 1_685, 21_173),
    (213_434, 225_161, 5_085, 158_805),
    (266_268, 313_920, 2_460, 265_402),
    (503_093, 545_589, 0, 440_719),
    (658_868, 726_695, 0, 627_336),
    (772_456, 793_580, 4_469, 772_224),
    (1_048_838, 1_060_957, 11_461, 987_260),
    (1_064_099, 1_100_257, 20_218, 991_081),
    (1_103_662, 1_167_306, 0, 1_053_413),
)
ZERO = 10_000  # keeps the first step's start positive


def by_hand(tmp_path: Path) -> Path:
    trace = TraceBuilder(rank=0, world_size=2)
    trace.step(551, ZERO - 2_936, 607_312).step(552, ZERO + 604_425, 622_928)
    for i, (start, end, beside, launched) in enumerate(CASE, start=1):
        trace.launch(i, ts=ZERO + launched)
        trace.nccl(ts=ZERO + start, dur=end - start, nelems=8, corr=i)
        if beside:
            trace.launch(100 + i, ts=ZERO + launched)
            trace.kernel(GEMM, ZERO + start, beside, corr=100 + i)
    return trace.write(tmp_path / "trace.json")


def test_the_case_worked_by_hand(tmp_path: Path) -> None:
    path = by_hand(tmp_path)
    found = stages(tracelens.open_trace(path), tracelens.analyze(path).ranks[0], Streams())
    assert (found["default"].comm_us, found["default"].overlapped_us) == (195_327, 23_068)
    assert found["default"].overlap_pct == 11.81
    assert (found["keep_last"].comm_us, found["keep_last"].overlapped_us) == (396_199, 59_216)
    assert found["keep_last"].overlap_pct == 14.95
    assert found["steps"].comm_us == found["keep_last"].comm_us
    assert found["steps"].overlap_pct == 14.95


def test_the_page_lists_that_case() -> None:
    page = (REPO / "docs" / "hta.md").read_text(encoding="utf-8")
    for start, end, beside, launched in CASE:
        row = f"| {start:,} | {end:,} | {end - start:,} | {beside:,} | {launched:,} |"
        assert row in page


@pytest.mark.parametrize(
    ("start", "length", "rounded_us"),
    [(10.3, 10.5, 9.0), (10.0, 10.0, 10.0), (10.3, 0.5, -1.0)],
    ids=["both ends cut", "whole microseconds", "within one microsecond: negative"],
)
def test_hta_rounds_inwards(tmp_path: Path, start: float, length: float, rounded_us: float) -> None:
    trace = TraceBuilder().launch(1, ts=1, dur=1).nccl(ts=start, dur=length, nelems=1, corr=1)
    view = HtaView(tracelens.open_trace(trace.write(tmp_path / "t.json")), Streams())
    assert view.measure(keep_last=True, rounded=True).comm_us == rounded_us
    assert view.measure(keep_last=True, rounded=False).comm_us == pytest.approx(length)


def test_hta_drops_rows_without_a_launch_from_two_steps_on(tmp_path: Path) -> None:
    one = TraceBuilder().step(1, 0, 100).nccl(ts=10, dur=20, nelems=1, corr=9)
    two = TraceBuilder().step(1, 0, 100).step(2, 100, 100).nccl(ts=10, dur=20, nelems=1, corr=9)
    for trace, expected_us in ((one, 20), (two, 0)):
        view = HtaView(tracelens.open_trace(trace.write(tmp_path / "t.json")), Streams())
        assert view.measure(keep_last=True, rounded=True).comm_us == expected_us


@pytest.mark.parametrize(
    ("name", "comm", "compute"),
    [
        ("ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgs)", True, False),
        ("void ncclKernel_Generic()", True, False),
        ("hipMemcpyAsync", True, False),
        ("Memcpy HtoD (Pinned -> Device)", False, False),
        ("Context Sync", False, False),
        ("void rcclGenericKernel<1>(ncclDevKernelArgs)", False, True),
        (GEMM, False, True),
    ],
)
def test_names_as_hta_takes_them(name: str, comm: bool, compute: bool) -> None:
    assert (is_hta_comm(name), is_hta_compute(name)) == (comm, compute)


def test_a_repeated_trace_repeats_its_steps(tmp_path: Path) -> None:
    sample = REPO / "sample_traces" / "ddp" / "rank0.pt.trace.json.xz"
    once = tracelens.analyze(sample).ranks[0]
    target = tmp_path / "repeated.json"
    copies = repeat(sample, target, megabytes=15)
    many = tracelens.analyze(target).ranks[0]
    assert copies == 2
    assert many.steps.number.tolist() == [
        *once.steps.number.tolist(),
        *(once.steps.number + len(once.steps)).tolist(),
    ]
    for column in ("compute", "comm", "overlapped_comm"):
        repeated = getattr(many.breakdown, column)
        assert np.array_equal(repeated, np.tile(getattr(once.breakdown, column), copies))
    assert np.array_equal(many.kernels, np.tile(once.kernels, copies))
