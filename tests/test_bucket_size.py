"""What buckets of another size would save: the recurrence, what it is fed with, what is said.

The drawn pass has eight gradients of one size. Between them the compute stream works for 1 and 19
ms in turns, and a gradient takes the link 10 ms. Work beside a reduction takes a quarter longer
(`CONTENTION`): beside the 10 ms of a reduction 8 ms of work are done.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from builder import BACKWARD_TID, TraceBuilder
from hypothesis import given
from hypothesis import strategies as st
from test_detectors import HOOK, NODE, comm, context_of, found_in, how, op, us

import tracelens
from tracelens.detectors.buckets import find_reducing
from tracelens.detectors.context import Context, Profiler
from tracelens.findings import Finding
from tracelens.gradients import fill
from tracelens.host import Cause
from tracelens.reducing import Costs, Filling, Flush, fit_reductions, host_line, spend
from tracelens.replay import Predictor, load, make_change
from tracelens.thresholds import BUCKET_HOST_NS, BUCKET_LAG_NS
from tracelens.transfer import Line

TRACES = Path(__file__).parent.parent.parent / "shared" / "traces"

WORK = (0, 1, 19, 1, 19, 1, 19, 1)
#: Each recorded setting: kernels (start, length) between the gradients, and reductions (hook behind
#: whose work they begin, 8 for the end of the pass; start, length), ms from the first gradient.
#: A bucket a gradient: compute waits 8.75 ms for three of them, and the last two are alone.
SMALL = (
    ((0, 1), (1, 21), (22, 1.25), (32, 21), (53, 1.25), (63, 21), (84, 1.25)),
    ((1, 1, 10), (2, 22, 10), (3, 32, 10), (4, 53, 10), (5, 63, 10), (6, 84, 10), (7, 94, 10),
     (8, 104, 10)),
)  # fmt: skip
#: Two buckets of four gradients: the second begins when the first is done.
LARGE = (
    ((0, 1), (1, 19), (20, 1), (21, 19), (40, 1.25), (41.25, 23.75), (65, 1.25)),
    ((4, 40, 40), (8, 80, 40)),
)
#: Two gradients a bucket, and nothing beside a reduction.
OFF = (
    ((0, 1), (1, 19), (40, 1), (41, 19), (80, 1), (81, 19), (120, 1)),
    ((2, 20, 20), (4, 60, 20), (6, 100, 20), (8, 121, 20)),
)
#: ZeRO-1 without overlap: the same buckets, all behind the pass.
BEHIND = (
    ((0, 1), (1, 19), (20, 1), (21, 19), (40, 1), (41, 19), (60, 1)),
    ((8, 61, 20), (8, 81, 20), (8, 101, 20), (8, 121, 20)),
)
#: Two gradients a bucket with overlap, by the recurrence: 1 + 19, then three times 1.25 + 18.75 + 4
#: with a reduction of 20 beside the first two; the last begins when the one before has ended.
WITH_TWO = 20 + 24 + 24 + 20 + 20


@dataclass(frozen=True)
class Drawn:
    """Two ranks that reduce so."""

    table: tuple[tuple[tuple[float, float], ...], tuple[tuple[int, float, float], ...]]
    nelems: int = 1_000_000
    device: str = "Test GPU"

    def write(self, folder: Path) -> Path:
        for r in range(2):
            trace = TraceBuilder(rank=r, world_size=2)
            for k in (1, 2, 3):
                self._step(trace, k, 1 + 160.0 * (k - 1))
            names = [{"id": i, "name": self.device} for i in range(2)]
            trace.meta(deviceProperties=names).write(folder / f"rank{r}.json")
        return folder

    def _step(self, trace: TraceBuilder, k: int, zero: float) -> None:
        kernels, reductions = self.table
        trace.step(k, us(zero), us(160))
        op(trace, "aten::mm", zero, 0.1, seq=k)
        self._kernel(trace, zero + 0.05, zero + 0.1, 1.9)
        op(trace, "aten::wait", zero + 5, 154)
        for i in range(len(WORK)):
            at = zero + 1 + 0.2 * i
            op(trace, f"{NODE}MmBackward0", at, 0.05, seq=k, tid=BACKWARD_TID)
            if i:
                start, dur = kernels[i - 1]
                self._kernel(trace, at + 0.01, zero + 2 + start, dur)
            op(trace, HOOK, at + 0.1, 0.09, tid=BACKWARD_TID)
            size = {"dims": [[self.nelems]], "types": ["float"]}
            op(trace, "torch::autograd::AccumulateGrad", at + 0.105, 0.01, tid=BACKWARD_TID, **size)
        held = len(WORK) // len(reductions) * self.nelems
        for i, (hook, start, dur) in enumerate(reductions):
            if hook < len(WORK):
                comm(trace, (zero + 1.15 + 0.2 * hook, zero + 2 + start, dur), held)
            else:  # the main thread's, behind the pass
                corr, at = 5000 + len(trace), us(zero + 3 + 0.02 * i)
                ts, length = us(zero + 2 + start), us(dur)
                trace.nccl(ts=ts, dur=length, nelems=held, host_ts=at, corr=corr, ext=corr)

    def _kernel(self, trace: TraceBuilder, launch: float, start: float, dur: float) -> None:
        corr = 5000 + len(trace)
        trace.launch(corr, ts=us(launch), dur=5, tid=BACKWARD_TID)
        trace.kernel("gemm", us(start), us(dur), corr=corr)


def faster(table: tuple, by: float) -> tuple:  # type: ignore[type-arg]
    """The same with reductions that take less, where none holds compute up: `LARGE` only."""
    kernels, reductions = table
    return kernels, tuple((h, s, d / by) for h, s, d in reductions)


def context(
    drawn: Drawn, folder: Path, bucket: int, overlap: bool = True, stage: int = 2
) -> Context:
    setup = {"zero_stage": stage, "overlap_comm": overlap, "reduce_bucket_size": bucket}
    return context_of(drawn, folder, **setup)  # type: ignore[arg-type]


def finding(
    drawn: Drawn, folder: Path, id: str, bucket: int, overlap: bool = True, stage: int = 2
) -> Finding:
    seen = context(drawn, folder, bucket, overlap, stage)
    assert how(seen, id)[0] == "fired"
    return found_in(seen)[id]


MB = 1_000_000


def test_small_buckets_stall_compute_on_the_link(tmp_path: Path) -> None:
    """114 ms with a bucket a gradient; the host is far ahead and plays no part."""
    found = finding(Drawn(SMALL), tmp_path, "bucket_too_small", MB)
    assert found.cost_ms_per_step == pytest.approx(114 - WITH_TWO, abs=0.1)
    assert found.config == {"zero_optimization.reduce_bucket_size": 2 * MB}
    # two buffers of a million elements more, in bf16
    assert any("buffers take 4.00 MB more" in e for e in found.evidence)


def test_large_buckets_leave_the_last_one_alone(tmp_path: Path) -> None:
    """120 ms with two buckets."""
    found = finding(Drawn(LARGE), tmp_path, "bucket_too_large", 4 * MB)
    assert found.cost_ms_per_step == pytest.approx(120 - WITH_TWO, abs=0.1)
    assert found.config == {"zero_optimization.reduce_bucket_size": 2 * MB}
    assert any("1,000,000: -6.0, 2,000,000: -12.0" in e for e in found.evidence)


def test_overlap_off_is_the_same_recurrence_without_overlap(tmp_path: Path) -> None:
    """61 ms of work and 80 of reductions one after the other, and 6 for the synchronisation."""
    found = finding(Drawn(OFF), tmp_path, "overlap_off", 2 * MB, overlap=False)
    assert found.cost_ms_per_step == pytest.approx(61 + 80 - WITH_TWO - 6, abs=0.1)
    assert found.config == {"zero_optimization.overlap_comm": True}


def test_zero1_without_overlap_reduces_behind_the_pass(tmp_path: Path) -> None:
    """As long as above, though no reduction lies between gradients."""
    found = finding(Drawn(BEHIND), tmp_path, "overlap_off", 2 * MB, overlap=False, stage=1)
    assert found.cost_ms_per_step == pytest.approx(61 + 80 - WITH_TWO - 6, abs=0.1)


def test_hosts_are_as_fast_as_without_the_profiler(tmp_path: Path) -> None:
    """A host that takes half of its recorded time between gradients, and for a bucket."""
    recorded = context(Drawn(SMALL), tmp_path, MB)
    kept = np.ones(len(Cause))
    half = replace(recorded, profiler=Profiler(0.0, 0.0, kept, 0.5, np.zeros(2)))
    slow, fast = find_reducing(recorded), find_reducing(half)
    assert slow is not None
    assert fast is not None
    assert fast.host_ns.tolist() == (slow.host_ns / 2).tolist()
    between, shorter = (r.groups[0][0].host_ns[:, 1:] for r in (slow, fast))
    assert shorter.tolist() == (between / 2).tolist()


@pytest.mark.parametrize(
    ("table", "id", "bucket", "overlap", "saves"),
    [
        (SMALL, "bucket_too_small", 1, True, 114 - WITH_TWO),
        (LARGE, "bucket_too_large", 4, True, 120 - WITH_TWO),
        (OFF, "overlap_off", 2, False, 61 + 80 - WITH_TWO - 6),
    ],
)
def test_on_a_slow_link_the_link_has_the_cost_and_the_saving_is_said(
    table: tuple,
    id: str,
    bucket: int,
    overlap: bool,
    saves: float,
    tmp_path: Path,  # type: ignore[type-arg]
) -> None:
    """200 MB in 10 ms are 20 GB/s, where NVLink gives 337.5: at that speed little is left."""
    drawn = Drawn(table, 100 * MB, "NVIDIA H200")
    found = finding(drawn, tmp_path, id, bucket * 100 * MB, overlap)
    assert found.cost_ms_per_step < 0.1 * saves
    (said,) = [e for e in found.evidence if "if it stays" in e]
    assert float(said.split("saves ")[1].split(" ms")[0]) == pytest.approx(saves, abs=0.1)


def test_what_is_noise_is_no_claim(tmp_path: Path) -> None:
    """Reductions of 0.4 ms: two buckets are few, and no size saves 1 % of the step."""
    found = finding(Drawn(faster(LARGE, 100)), tmp_path, "bucket_too_large", 4 * MB)
    assert (found.cost_ms_per_step, found.severity, found.config) == (0, "info", None)
    assert "none by the recorded passes" in found.remedy


def test_when_gradients_were_ready_is_read_off_the_recording(tmp_path: Path) -> None:
    """The drawn kernels' times, and which of them ran beside a reduction."""
    a = tracelens.analyze(Drawn(SMALL).write(tmp_path))
    ready = a.ranks[0].ready
    assert ready.nelems.tolist() == [MB] * 24
    assert ready.work_ns[:8].tolist() == [int(1e6 * (w + b)) for w, b in zip(
        WORK, (0, 0, 2, 0.25, 2, 0.25, 2, 0.25), strict=True)]  # fmt: skip
    assert ready.beside_ns[:8].tolist() == [int(1e6 * b) for b in (
        0, 0, 10, 1.25, 10, 1.25, 10, 1.25)]  # fmt: skip
    zero = ready.ready_ns[0]
    assert ((ready.ready_ns[:8] - zero) / 1e6).tolist() == [0, 1, 22, 23.25, 53, 54.25, 84, 85.25]


# ------------------------------------------------------------------------------ the recurrence
def took(work: tuple[float, ...], flushes: list[Flush], overlap: bool, d: float) -> float:
    f = Filling((1,) * len(work), np.array([work], float), np.zeros((1, len(work))))
    return float(spend(f, flushes, overlap, Costs(Line(0, d, 0), np.zeros(1))).length[0])


def test_the_drawn_tables_are_the_recurrence_s() -> None:
    one = [Flush(i, 1) for i in range(1, 9)]
    two = [Flush(i, 2) for i in (2, 4, 6, 8)]
    assert took(WORK, one, True, 10) == 114
    assert took(WORK, two, True, 10) == WITH_TWO
    assert took(WORK, [Flush(4, 4), Flush(8, 4)], True, 10) == 120
    assert took(WORK, two, False, 10) == 61 + 80


def test_a_host_that_is_behind_pays_for_each_bucket() -> None:
    """Eight gradients 2 ms apart on the host, 1 ms each for reducing; the GPU needs 1 ms each."""
    f = Filling((1,) * 8, np.ones((1, 8)), np.full((1, 8), 2.0))
    costs = Costs(Line(0, 0, 0), np.ones(1))
    assert spend(f, [Flush(8, 8)], True, costs).length.tolist() == [16]
    assert spend(f, [Flush(i, 1) for i in range(1, 9)], True, costs).length.tolist() == [16 + 7]


TIMES = st.lists(st.integers(0, 20), min_size=1, max_size=8)


@given(TIMES, st.integers(1, 9), st.integers(0, 30), st.integers(0, 30))
def test_properties_of_the_recurrence(work: list[int], limit: int, d: int, more: int) -> None:
    """A slower link never ends a pass earlier, and overlap never later than no overlap does."""
    flushes = [Flush(b.at, b.nelems) for b in fill([1] * len(work), limit)]
    on, off = (took(tuple(work), flushes, x, d) for x in (True, False))
    assert max(sum(work), d) <= on + 1e-9
    assert on <= off + 1e-9
    assert on <= took(tuple(work), flushes, True, d + more) + 1e-9


def test_latency_is_read_where_sizes_differ() -> None:
    n = np.array([1, 2, 4, 8]) * MB
    line = fit_reductions(n, 10.0 * n, np.full(4, 3e5))
    assert (line.alpha_ns, line.beta_ns) == pytest.approx((3e5, 10))
    line = fit_reductions(n[:1], 10.0 * n[:1], np.array([np.nan]))
    assert (line.alpha_ns, line.beta_ns) == pytest.approx((BUCKET_LAG_NS, 10))
    line = fit_reductions(n[:1], 10.0 * n[:1], np.array([3e5]))
    assert (line.alpha_ns, line.beta_ns) == pytest.approx((BUCKET_LAG_NS, 10.2))


def test_one_size_of_bucket_shares_its_host_time_as_the_priors_say() -> None:
    """Of one gradient: all but that one's 0.06 ms. Of many: the bucket's prior."""
    assert host_line(np.ones(4), np.full(4, 8e5)) == (7.4e5, 0.6e5)
    assert host_line(np.full(4, 40.0), np.full(4, 1e6))[0] == BUCKET_HOST_NS


# ------------------------------------------------------------------------------ recorded runs
@pytest.mark.skipif(
    not (TRACES / "s_shm_z2_on_rb5e08").is_dir(),
    reason="the recorded runs over a slow link are not beside this checkout",
)
@pytest.mark.parametrize(
    ("run", "id", "values", "measured"),
    [
        ("s_shm_z2_on_rb5e08", "bucket_too_large", {"reduce_bucket_size": 50 * MB}, 16.7),
        ("s_shm_z2_off_rb5e07", "overlap_off", {"overlap_comm": True}, 42.0),
    ],
)
def test_what_a_slow_link_s_runs_say_was_measured(
    run: str, id: str, values: dict[str, object], measured: float
) -> None:
    """Within 8 ms of the difference of un-profiled steps (2 % of them is noise, 5 % a link drifts),
    and of the replay's.
    """
    a = tracelens.analyze(TRACES / run)
    (found,) = [f for f in a.finding_rows if f.id == id]
    texts = [e for e in found.evidence if "if it stays" in e]
    if "reduce_bucket_size" in values:
        texts = [e.split("50,000,000: -")[1] for e in found.evidence if "50,000,000: -" in e]
    said = float(texts[0].split("saves ")[-1].split(" ms")[0].split(",")[0])
    assert said == pytest.approx(measured, abs=8)
    predictor = Predictor(a, load(a))
    step = predictor.baseline.step_ms
    replayed = step * (1 - predictor.estimate(make_change(values)).ratio)
    assert said == pytest.approx(replayed, abs=8)
