"""Where steps begin and end, on the host and on the GPU."""

from __future__ import annotations

from pathlib import Path

from builder import BACKWARD_TID, TraceBuilder

from tracelens.ingest import open_trace
from tracelens.links import link
from tracelens.overlap import break_down
from tracelens.steps import StepMap, find_steps

NODE = "autograd::engine::evaluate_function: MmBackward0"
ADAM = "void multi_tensor_apply_kernel<AdamFunctor<float>>()"
ALL_REDUCE = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(x)"
ALL_GATHER = "ncclDevKernel_AllGather_RING_LL(x)"
REDUCE_SCATTER = "ncclDevKernel_ReduceScatter_Sum_bf16_RING_LL(x)"


def steps_of(built: TraceBuilder, folder: Path) -> StepMap:
    trace = open_trace(built.write(folder / "trace.json"))
    return find_steps(trace, link(trace))


def windows(found: StepMap) -> list[tuple[int, int]]:
    """GPU windows, us."""
    s = found.steps
    return list(zip((s.start_ns // 1000).tolist(), (s.end_ns // 1000).tolist(), strict=True))


class Loop(TraceBuilder):
    """A trace with numbered launches: `work` launches a kernel at `at` that runs at `ts`."""

    def work(self, name: str, at: float, ts: float, dur: float, **where: int) -> Loop:
        corr = len(self.events) + 1
        self.launch(corr, ts=at, dur=0.5, tid=where.pop("tid", None))
        self.kernel(name, ts, dur, corr=corr, **where)
        return self

    def iteration(self, at: float, ts: float, *, seq: int, groups: int = 1) -> Loop:
        """Forward, backward, optimizer: 40 us on the host from `at`, 30 us on the GPU from `ts`."""
        self.cpu_op("aten::linear", ts=at, dur=5, seq=seq).work("gemm", at + 1, ts, 10)
        self.cpu_op(NODE, ts=at + 10, dur=5, seq=seq, tid=BACKWARD_TID)
        self.work("gemm", at + 11, ts + 10, 10, tid=BACKWARD_TID)
        for g in range(groups):
            t = at + 20 + 10 * g
            self.annotation("Optimizer.step#AdamW.step", ts=t, dur=5)
            self.work(ADAM, t + 1, ts + 20 + g * 5, 5)
        return self


def test_a_host_that_runs_ahead_leaks_nothing_into_the_next_step(tmp_path: Path) -> None:
    found = steps_of(
        Loop()
        .step(5, 0, 100)
        .step(6, 100, 100)
        .step(7, 200, 100)
        .work("gemm", 10, 50, 400)  # step 5 runs until step 7 was launched
        .work("gemm", 20, 450, 100)
        .work("gemm", 110, 550, 200)
        .work("gemm", 210, 760, 40),
        tmp_path,
    )
    assert found.steps.number.tolist() == [5, 6, 7]
    assert found.of_work.tolist() == [0, 0, 1, 2]
    assert windows(found) == [(50, 550), (550, 760), (760, 860)]
    assert found.steps.complete.all()


def test_windows_tile_so_that_every_nanosecond_counts_once(tmp_path: Path) -> None:
    built = Loop()
    for k in range(4):
        built.step(k, 100 * k, 100).work("gemm", 100 * k + 5, 100 * k + 30, 75 + k)
        built.work(ALL_REDUCE, 100 * k + 60, 100 * k + 90, 80, stream=20)
    trace = open_trace(built.write(tmp_path / "trace.json"))
    work = link(trace)
    steps = find_steps(trace, work).steps
    assert (steps.start_ns[1:] == steps.end_ns[:-1]).all()
    parts = break_down(work, steps)
    total = parts.compute + parts.exposed_comm + parts.exposed_copy + parts.idle
    assert (total == parts.wall).all()
    assert parts.wall.sum() == steps.end_ns[-1] - steps.start_ns[0] == (470 - 30) * 1000


def test_work_launched_before_the_first_mark_belongs_to_no_step(tmp_path: Path) -> None:
    built = Loop().work("gemm", 10, 120, 40).step(1, 100, 100).work("gemm", 110, 200, 50)
    found = steps_of(built.kernel("gemm", 105, 5), tmp_path)  # and one without a launch
    assert found.of_work.tolist() == [-1, -1, 0]
    assert windows(found) == [(200, 300)]


def test_the_last_window_ends_as_late_after_its_mark_as_it_began(tmp_path: Path) -> None:
    """What comes before the first work of the next step would otherwise count for no step."""
    built = Loop().step(1, 0, 100).step(2, 100, 100).work("gemm", 10, 20, 10)
    assert windows(steps_of(built.work("gemm", 110, 150, 200), tmp_path))[1] == (150, 350)
    built = Loop().step(1, 0, 100).step(2, 100, 100).work("gemm", 10, 20, 10)
    assert windows(steps_of(built.work("gemm", 110, 150, 10), tmp_path))[1] == (150, 250)


def test_a_pause_between_two_recorded_windows_belongs_to_no_step(tmp_path: Path) -> None:
    built = Loop()
    for k, at in ((3, 0), (4, 100), (13, 5000), (14, 5100)):
        built.step(k, at, 100).work("gemm", at + 10, at + 20, 60)
    found = steps_of(built, tmp_path)
    assert windows(found) == [(20, 120), (120, 220), (5020, 5120), (5120, 5220)]


def test_a_marked_step_without_gpu_work_is_not_whole(tmp_path: Path) -> None:
    built = Loop().step(1, 0, 100).step(2, 100, 50).work("gemm", 10, 20, 10)
    found = steps_of(built, tmp_path)
    assert found.steps.complete.tolist() == [True, False]
    assert windows(found) == [(20, 120), (100, 150)]


def test_the_mark_after_the_last_iteration_is_not_a_whole_step(tmp_path: Path) -> None:
    """step() after each iteration and no schedule: the last mark holds a read of the loss."""
    built = Loop()
    for k in range(3):
        built.step(k, 100 * k, 100)
        for i in range(30):
            built.work("gemm", 100 * k + 3 * i, 100 * k + 3 * i + 1, 2)
    built.step(3, 300, 20).launch(999, ts=305).memcpy("DtoH", 307, 1, corr=999)
    assert steps_of(built, tmp_path).steps.complete.tolist() == [True, True, True, False]


def test_without_marks_a_step_ends_after_the_optimizer(tmp_path: Path) -> None:
    built = Loop(world_size=2)
    for k in range(3):
        built.iteration(100 * k, 100 * k + 10, seq=k + 1)
        at = 100 * k + 40  # ZeRO-1 and 2 gather the parameters after the optimizer
        built.nccl("all_gather", ts=at + 5, dur=9, nelems=100, corr=500 + k, ext=70 + k, host_ts=at)
    found = steps_of(built, tmp_path)
    assert found.source == "optimizer ranges"
    assert found.steps.number.tolist() == [0, 1, 2]
    assert found.of_work.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert windows(found)[:2] == [(10, 110), (110, 210)]
    assert found.steps.complete.all()


def test_where_parameters_are_sharded_the_gather_is_the_next_step_s(tmp_path: Path) -> None:
    built = Loop(world_size=2)
    for k in range(3):
        at = 100 * k
        built.nccl("all_gather", ts=at + 5, dur=5, nelems=9, corr=500 + k, ext=70 + k, host_ts=at)
        built.iteration(at + 10, at + 20, seq=k + 1)
        late = at + 25
        built.nccl(
            "reduce_scatter", ts=at + 40, dur=5, nelems=9, corr=600 + k, ext=80 + k, host_ts=late
        )
    assert steps_of(built, tmp_path).of_work.tolist() == [0] * 5 + [1] * 5 + [2] * 5


def test_optimizer_ranges_of_several_parameter_groups_are_one_step(tmp_path: Path) -> None:
    built = Loop()
    for k in range(3):
        built.iteration(100 * k, 100 * k + 10, seq=k + 1, groups=3)
    found = steps_of(built, tmp_path)
    assert found.of_work.tolist() == [0] * 5 + [1] * 5 + [2] * 5


def test_loading_data_belongs_to_the_step_that_it_feeds(tmp_path: Path) -> None:
    built = Loop()
    for k in range(2):
        built.annotation("enumerate(DataLoader)#_SingleProcess.__next__", ts=100 * k, dur=5)
        built.launch(700 + k, ts=100 * k + 6).memcpy("HtoD", 100 * k + 8, 2, corr=700 + k)
        built.iteration(100 * k + 10, 100 * k + 20, seq=k + 1)
    found = steps_of(built, tmp_path)
    assert found.of_work.tolist() == [0] * 4 + [1] * 4
    assert windows(found)[0] == (8, 108)


def test_steps_that_the_window_cut_are_marked(tmp_path: Path) -> None:
    built = Loop()
    built.annotation("Optimizer.step#AdamW.step", ts=0, dur=5).work(ADAM, 1, 5, 5)
    for k in range(1, 5):
        built.iteration(100 * k, 100 * k + 10, seq=k)
    built.cpu_op("aten::linear", ts=500, dur=5).work("gemm", 501, 510, 10)  # its backward is cut
    found = steps_of(built, tmp_path)
    assert found.steps.complete.tolist()[0] is False
    assert found.steps.complete.tolist()[1:4] == [True] * 3


def test_kernels_alone_show_steps_by_their_optimizer(tmp_path: Path) -> None:
    built = TraceBuilder()
    for k in range(3):
        at = 100 * k
        built.kernel("gemm", at, 10).kernel("gemm", at + 10, 10)
        built.kernel(ALL_REDUCE, at + 20, 10, stream=20).kernel(ADAM, at + 30, 5)
        built.kernel(ADAM, at + 35, 5).kernel(ALL_GATHER, at + 40, 10, stream=20)
    found = steps_of(built, tmp_path)
    assert found.source == "optimizer kernels"
    assert found.of_work.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert windows(found)[:2] == [(0, 100), (100, 200)]


def test_kernels_alone_of_sharded_parameters_gather_for_the_next_step(tmp_path: Path) -> None:
    built = TraceBuilder()
    for k in range(3):
        at = 100 * k
        built.kernel(ALL_GATHER, at, 5, stream=20).kernel("gemm", at + 5, 10)
        built.kernel("gemm", at + 15, 10).kernel(REDUCE_SCATTER, at + 25, 5).kernel(
            ADAM, at + 30, 5
        )
    assert steps_of(built, tmp_path).of_work.tolist() == [0] * 5 + [1] * 5 + [2] * 5


def test_inference_without_marks_is_one_step(tmp_path: Path) -> None:
    built = TraceBuilder()
    for k in range(3):
        built.cpu_op("aten::mm", ts=100 * k, dur=5).launch(k + 1)
        built.kernel("gemm", 100 * k + 10, 10, corr=k + 1)
    found = steps_of(built, tmp_path)
    assert found.source == "whole trace"
    assert found.of_work.tolist() == [0, 0, 0]
    assert found.steps.start_ns.tolist() == [10_000]


def test_a_recording_without_gpu_work_has_its_marks(tmp_path: Path) -> None:
    found = steps_of(TraceBuilder().step(4, 0, 100).step(5, 100, 100), tmp_path)
    assert found.steps.number.tolist() == [4, 5]
    assert windows(found) == [(0, 100), (100, 200)]
    assert not found.steps.complete.any()
