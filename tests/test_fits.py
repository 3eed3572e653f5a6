"""Latency and bandwidth through transfers whose line is known, and reasons where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from builder import TraceBuilder
from hypothesis import given
from hypothesis import strategies as st

import tracelens
from tracelens.fits import Fit, _by_size, _line, fit_transfers

MB = 1_000_000


def fits_of(
    folder: Path, messages: list[tuple[str, int, float]], *, beside: int | None = None
) -> tuple[Fit, ...]:
    """Two ranks, messages (kind, MB, transfer in us) in a row; rank 0 waits 30 us for each.

    A product runs beside the message of number `beside`.
    """
    for rank in range(2):
        trace = TraceBuilder(rank=rank, world_size=2).step(1, 0, 90_000)
        at, wait = 100.0, 30 if rank == 0 else 0
        for i, (kind, mb, us) in enumerate(messages, start=1):
            peer = {"send": "Dst Rank", "recv": "Src Rank"}.get(kind)
            if rank == 1:
                kind = {"send": "recv", "recv": "send"}.get(kind, kind)
                peer = {"send": "Dst Rank", "recv": "Src Rank"}.get(kind)
            args = {peer: 1 - rank} if peer else {}
            trace.launch(i, ts=float(i), dur=0.5, tid=100)
            trace.nccl(kind, ts=at - wait, dur=us + wait, nelems=mb * MB // 2, corr=i, **args)
            if beside == i - 1:
                trace.launch(1000 + i, ts=float(i) + 0.6, dur=0.1, tid=100)
                trace.kernel("gemm", at, us, corr=1000 + i)
            at += us + 100
        trace.write(folder / f"rank{rank}.json")
    a = tracelens.analyze(folder)
    assert fit_transfers([r.comm for r in a.ranks], a.matches) == a.fits
    return a.fits


def test_a_line_is_found(tmp_path: Path) -> None:
    """20 us and 10 us a MB, which is 100 GB/s: 30, 60 and 120 us. Over two ranks busbw = algbw."""
    sizes = [("all_reduce", mb, 20 + 10 * mb) for mb in (1, 4, 10)]
    (fit,) = fits_of(tmp_path, sizes)
    assert (fit.kind, fit.group_size, fit.algorithm) == ("all_reduce", 2, "RING_LL")
    assert (fit.count, fit.sizes, fit.min_bytes, fit.max_bytes) == (3, 3, MB, 10 * MB)
    assert fit.latency_us == pytest.approx(20)
    assert fit.bandwidth_gbps == pytest.approx(100)
    assert fit.bus_bandwidth_gbps == pytest.approx(100)
    assert fit.residual_pct == pytest.approx(0, abs=1e-6)
    assert fit.algbw_gbps == pytest.approx(10 * MB / 120e3)  # measured: latency is in it
    assert (fit.alone, fit.reason) == (True, None)


def test_the_bus_carries_half_of_a_gather_over_two(tmp_path: Path) -> None:
    sizes = [("all_gather", mb, 20 + 10 * mb) for mb in (1, 4, 10)]
    (fit,) = fits_of(tmp_path, sizes)
    assert fit.bus_bandwidth_gbps == pytest.approx(50)


def test_messages_between_two_ranks_are_fitted(tmp_path: Path) -> None:
    """Sends and receives of both ranks are one kind: each message counts once."""
    sizes = [("send", 1, 30), ("recv", 4, 60), ("send", 10, 120)]
    (fit,) = fits_of(tmp_path, sizes)
    assert (fit.kind, fit.count, fit.algorithm) == ("p2p", 3, None)
    assert fit.latency_us == pytest.approx(20)
    assert fit.bus_bandwidth_gbps == pytest.approx(100)


def test_ranks_with_more_rows_than_others(tmp_path: Path) -> None:
    """A stage that also reduces has more rows than the other: messages are found by their rows."""
    for rank in range(2):
        trace = TraceBuilder(rank=rank, world_size=2).step(1, 0, 90_000)
        for i in range(1 if rank else 4):
            trace.launch(50 + i, ts=50 + i, dur=0.5, tid=100)
            trace.nccl("all_reduce", ts=50 + 100 * i, dur=20, nelems=MB, corr=50 + i)
        for i, us in enumerate((30, 60, 120), start=1):
            kind, peer = ("recv", "Src Rank") if rank else ("send", "Dst Rank")
            trace.launch(i, ts=60.0 + i, dur=0.5, tid=100)
            mb, args = us // 10 - 2, {peer: 1 - rank}
            trace.nccl(kind, ts=900.0 + 200 * i, dur=us, nelems=mb * MB // 2, corr=i, **args)
        trace.write(tmp_path / f"rank{rank}.json")
    p2p = [f for f in tracelens.analyze(tmp_path).fits if f.kind == "p2p"]
    assert [f.count for f in p2p] == [3]


def test_transfers_beside_compute_do_not_count_where_others_tell(tmp_path: Path) -> None:
    sizes = [("all_reduce", mb, 20 + 10 * mb) for mb in (1, 4, 10)]
    (fit,) = fits_of(tmp_path, [*sizes, ("all_reduce", 20, 600)], beside=3)
    assert fit.alone
    assert (fit.count, fit.sizes, fit.max_bytes) == (4, 3, 10 * MB)
    assert fit.latency_us == pytest.approx(20)


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ([(4, 60), (4, 60), (4, 60)], "sizes that differ: 1"),
        ([(4, 60), (10, 120)], "sizes that differ: 2"),
        ([(4, 60), (5, 70), (6, 80)], "1.5 times the smallest"),
        ([(1, 900), (4, 30), (10, 900)], "off any line"),
    ],
)
def test_no_line_without_sizes_that_tell(
    sizes: list[tuple[int, float]], reason: str, tmp_path: Path
) -> None:
    (fit,) = fits_of(tmp_path, [("all_reduce", mb, us) for mb, us in sizes])
    assert reason in str(fit.reason)
    assert (fit.latency_us, fit.bandwidth_gbps, fit.residual_pct) == (None, None, None)
    assert fit.algbw_gbps == pytest.approx(max(sizes)[0] * MB / (max(sizes)[1] * 1000))


def test_a_line_through_nothing_has_no_latency(tmp_path: Path) -> None:
    """10 us a MB, the smallest even faster."""
    (fit,) = fits_of(tmp_path, [("all_reduce", mb, us) for mb, us in ((1, 9), (4, 40), (10, 100))])
    assert fit.latency_us is None
    assert fit.bandwidth_gbps == pytest.approx(100, rel=0.1)


def test_one_rank_has_no_transfers(tmp_path: Path) -> None:
    fits_of(tmp_path, [("all_reduce", 1, 30)])
    assert tracelens.analyze(tmp_path, ranks=[0]).fits == ()


def test_shared_gpus_are_not_fitted() -> None:
    sample = Path(__file__).parent.parent.parent / "shared" / "traces" / "p_gc"
    if not sample.is_dir():
        pytest.skip("the recorded run p_gc is not beside this checkout")
    assert tracelens.analyze(sample).fits == ()


@given(
    st.floats(1e3, 1e6),
    st.floats(1e-3, 1),
    st.lists(st.integers(10, 10**9), min_size=3, max_size=8, unique=True),
)
def test_exact_lines_are_found(alpha: float, slope: float, sizes: list[int]) -> None:
    size = np.array(sizes, float)
    size, transfer = _by_size(size, alpha + slope * size)
    if len(size) < 3 or size[-1] < 4 * size[0] or size[-1] * slope < alpha / 100:
        return
    latency, found, residual = _line(size, transfer)
    assert residual < 0.05
    assert found == pytest.approx(slope, rel=0.3)
    assert latency is None or latency > 0
