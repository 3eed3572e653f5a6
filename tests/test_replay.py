"""The recorded steps as a program: simulated by hand-made cases, replayed on real runs."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import numpy as np
import pytest
from builder import TraceBuilder

from tracelens.api import analyze, modelled
from tracelens.errors import CannotPredict, InvariantError
from tracelens.replay import Predictor, make_change
from tracelens.replay.contention import Kernels, measure
from tracelens.replay.contention import alone as alone_of
from tracelens.replay.critical import (
    COMPUTE,
    HOST_TIME,
    PAUSE,
    TRANSFER,
    UNEXPLAINED,
    find_critical_path,
)
from tracelens.replay.model import Model, load
from tracelens.replay.program import ALL, COLUMNS, Act, Columns, Program, edit, rows
from tracelens.replay.simulate import Costs, Played, simulate
from tracelens.thresholds.replay import OTHERS_SLOWED, PRIOR_PRODUCT_SLOWDOWN
from tracelens.trace import Int64s

REPO = Path(__file__).parent.parent
SAMPLES = sorted(p for p in (REPO / "sample_traces").iterdir() if p.is_dir())


def launch(
    stream: int, work: int, *, gap: int = 1, compute: bool = True, **more: object
) -> Columns:
    """A kernel whose launch takes the host 1 ns."""
    return rows(1, act=Act.LAUNCH, stream=stream, work_ns=work, gap_ns=gap, compute=compute, **more)


def meet(stream: int, number: int, *, gap: int = 1) -> Columns:
    return rows(1, act=Act.MEET, stream=stream, meet=number, gap_ns=gap, comm=True)


def wait(stream: int, target: int) -> Columns:
    return rows(1, act=Act.WAIT, stream=stream, target=target)


def sync(target: int = ALL, cost: int = 0) -> Columns:
    return rows(1, act=Act.SYNC, target=target, cost_ns=cost)


def program(*parts: Columns, streams: int = 2, begin: int = 0) -> Program:
    columns = {name: np.concatenate([p[name] for p in parts]) for name in COLUMNS}
    columns["uid"] = np.arange(len(parts)) + 1
    return Program(
        **columns,
        streams=tuple(range(streams)),
        busy_until_ns=(0,) * streams,
        begin_ns=begin,
        recorded_ns=1,
        n_steps=1,
    )


def finish(*programs: Program, costs: Costs | None = None) -> list[float]:
    return [x.finish for x in simulate(programs, costs or Costs({})).played()]


def alone(p: Program, costs: Costs | None = None) -> Played:
    """The only rank of a simulation."""
    (x,) = simulate([p], costs or Costs({})).played()
    return x


def test_a_stream_works_in_order_and_the_host_runs_ahead() -> None:
    p = program(launch(0, 100), launch(0, 50))
    x = alone(p)
    assert x.start.tolist() == [1, 101]
    assert x.finish == 151
    assert x.cause.tolist() == [-1, 0]


def test_an_idle_gpu_waits_for_the_launch() -> None:
    assert finish(program(launch(0, 5), launch(0, 5, gap=100))) == [106]


def test_lag_counts_from_the_call_and_pause_from_what_was_waited_for() -> None:
    p = program(launch(0, 10, lag_ns=7), launch(0, 10, lag_ns=7, pause_ns=3))
    x = alone(p)
    assert x.start.tolist() == [8, 21]


def test_streams_run_beside_each_other_until_one_waits() -> None:
    free = program(launch(0, 100), launch(1, 100))
    assert finish(free) == [102]
    held = program(launch(0, 100), wait(1, 0), launch(1, 100))
    assert finish(held) == [201]


def test_a_wait_is_for_what_was_issued_before_it() -> None:
    p = program(launch(0, 10), wait(1, 0), launch(0, 1000), launch(1, 5))
    x = alone(p)
    assert x.start[3] == 11


def test_a_wait_for_one_piece_of_work() -> None:
    early = rows(1, act=Act.WAIT, stream=1, until=1)
    p = program(launch(0, 10), launch(0, 1000), early, launch(1, 5))
    x = alone(p)
    assert x.start[3] == 11


def test_the_host_waits_for_the_device() -> None:
    p = program(launch(0, 100), sync(cost=4), launch(0, 10))
    x = alone(p)
    assert x.start[2] == 106  # 1 + 100, 4 of the call, 1 of the host
    assert x.cause[1] == 0


def test_a_collective_starts_with_its_last_rank() -> None:
    fast, slow = program(meet(0, 7)), program(launch(0, 500), meet(0, 7))
    assert finish(fast, slow, costs=Costs({7: 40.0})) == [541, 541]


def test_ranks_need_not_begin_at_one_time() -> None:
    assert finish(program(meet(0, 7)), program(meet(0, 7), begin=90), costs=Costs({7: 10.0})) == [
        101,
        101,
    ]


def test_collectives_in_two_orders_are_said_to_be() -> None:
    a, b = program(meet(0, 1), meet(0, 2)), program(meet(0, 2), meet(0, 1))
    with pytest.raises(InvariantError, match="one order"):
        simulate([a, b], Costs({1: 1.0, 2: 1.0}))


def test_kernels_beside_communication_are_slower() -> None:
    """60 of work: 10 alone, then beside a transfer of 20 at half speed, then alone."""
    p = program(launch(0, 60, gap=0), meet(1, 3, gap=10))
    x = alone(p, Costs({3: 20.0}, compute_slowdown=2.0))
    assert x.start[1] == 10
    assert x.end[1] == 30
    assert x.end[0] == pytest.approx(10 + 20 + 40)  # 10 + 20 / 2 are done at 30


def test_products_beside_communication_have_a_factor_of_their_own() -> None:
    p = program(
        launch(0, 10, gap=0, fills=True), launch(0, 10, gap=0), meet(1, 3, gap=0), streams=2
    )
    x = alone(p, Costs({3: 1000.0}, product_slowdown=3.0, compute_slowdown=2.0))
    assert (x.end - x.start)[:2].tolist() == [30, 20]


def test_a_kernel_behind_a_transfer_hides_it_from_no_kernel_beside_it() -> None:
    """Issue order is not the order of time: what the reducing stream runs later is issued first."""
    p = program(meet(1, 3, gap=0), launch(1, 5, gap=0), launch(0, 40, gap=0), launch(0, 40, gap=0))
    x = alone(p, Costs({3: 200.0}, compute_slowdown=2.0))
    assert x.start[1] == 200
    assert x.end[3] == 160  # both at half speed: they are done while the transfer still runs


def test_communication_beside_kernels_is_slower() -> None:
    p = program(launch(0, 100, gap=0), meet(1, 3, gap=0))
    x = alone(p, Costs({3: 20.0}, comm_slowdown=0.5))
    assert x.end[1] == pytest.approx(20 * 2, rel=0.05)  # each ns of transfer meets a ns of kernels


def contended(count: int = 60) -> tuple[Program, Kernels, tuple[Int64s, Int64s]]:
    """Two products and a copy, again and again; every other time beside a transfer.

    They last 100, 10 and 20; beside a transfer products 1.5 times as long, copies 1.1 times.
    """
    parts, code, end, at = [], [], [], 0
    for i in range(count):
        near = i % 2 == 1
        lengths = [(100, 1, True), (10, 2, True), (20, 3, False)]
        total = sum(n * (1.5 if f else 1.1) if near else n for n, _, f in lengths)
        begin = at
        for n, kind, fills in lengths:
            lasts = round(n * (1.5 if fills else 1.1)) if near else n
            parts.append(launch(0, lasts, fills=fills))
            code.append(kind)
            end.append((at, at + lasts))
            at += lasts
        if near:
            parts.append(meet(1, i))
            code.append(-1)
            end.append((begin, begin + round(total)))
        at += 50
    times = np.array(end).T
    kernels = Kernels(np.array(code), np.array(code) < 3)
    return program(*parts), kernels, (times[0], times[1])


def test_contention_is_measured_for_products_and_for_the_rest() -> None:
    p, kernels, times = contended()
    found = measure([p], [kernels], [times])
    assert found.products == pytest.approx(1.5, rel=0.01)
    assert found.others == pytest.approx(1.1, rel=0.01)
    assert found.measured
    length = alone_of(p, found, *times)[p.compute]
    assert length.reshape(-1, 3).tolist() == pytest.approx(
        np.tile([100, 10, 20], (len(length) // 3, 1)), abs=1
    )


def test_where_too_little_can_be_compared_the_prior_is_used() -> None:
    p, kernels, times = contended(2)
    found = measure([p], [kernels], [times])
    assert (found.products, found.measured) == (PRIOR_PRODUCT_SLOWDOWN, False)
    assert found.others == 1 + OTHERS_SLOWED * (PRIOR_PRODUCT_SLOWDOWN - 1)


def test_a_few_kernels_do_not_speak_for_all() -> None:
    """Products of 40 sizes: of all but one, none ran alone."""
    p, kernels, times = contended()
    code = kernels.code.copy()
    large = np.flatnonzero((code == 1) & (p.work_ns > 100))
    code[large] = 100 + np.arange(len(large))
    found = measure([p], [Kernels(code, kernels.sized)], [times])
    assert not found.measured
    assert found.products == PRIOR_PRODUCT_SLOWDOWN


def test_editing_keeps_references_and_drops_those_to_what_is_gone() -> None:
    early = rows(1, act=Act.WAIT, stream=1, until=1)
    p = program(launch(0, 10), launch(0, 1000), early, launch(1, 5))
    longer = edit(p, np.ones(len(p), bool), np.array([0]), launch(1, 77))
    assert longer.uid.tolist() == [5, 1, 2, 3, 4]
    assert finish(longer) == finish(program(launch(1, 77), launch(0, 10), launch(0, 1000)))
    without = edit(p, np.array([False, True, True, True]), np.array([], int), {})
    assert without.until.tolist() == [-1, -1, -1]


def test_the_critical_path_of_a_straggler_leads_to_it() -> None:
    fast, slow = (
        program(meet(0, 7), launch(0, 5)),
        program(launch(0, 500), meet(0, 7), launch(0, 9)),
    )
    model = _model(fast, slow, transfer={7: 40.0})
    path = find_critical_path(model)
    assert [(p.kind, p.rank) for p in path.parts] == [
        (HOST_TIME, 1),
        (COMPUTE, 1),
        (TRANSFER, 1),
        (COMPUTE, 1),
    ]
    assert path.length_ns == 550
    assert path.per_step_ns(TRANSFER) == 40


def test_waits_that_nothing_recorded_explains_are_not_the_gpus_scheduling() -> None:
    """Two kernels follow others on their stream: 10 us later, as GPUs do, and 150 us later."""
    late = [launch(0, 500_000, pause_ns=ns) for ns in (0, 10_000, 150_000)]
    path = find_critical_path(_model(program(*late), transfer={}))
    told = [(p.kind, p.end_ns - p.start_ns) for p in path.parts if p.kind != COMPUTE]
    assert told[-2:] == [(PAUSE, 10_000), (UNEXPLAINED, 150_000)]


def _model(*programs: Program, transfer: dict[int, float]) -> Model:
    from types import SimpleNamespace

    ranks = tuple(SimpleNamespace(rank=i, program=p) for i, p in enumerate(programs))
    return SimpleNamespace(  # type: ignore[return-value]
        ranks=ranks,
        programs=programs,
        costs=Costs(transfer),
        replay=lambda: simulate(programs, Costs(transfer)),
    )


@pytest.fixture(scope="module", params=SAMPLES, ids=lambda p: p.name)
def recorded(request: pytest.FixtureRequest) -> Model:
    return load(analyze(request.param))


def test_recorded_steps_are_reproduced(recorded: Model) -> None:
    error = 100 * (recorded.replay().step_ns / recorded.recorded_ns - 1)
    assert abs(error) < 0.5


def test_recorded_starts_are_reproduced(recorded: Model) -> None:
    """Not the sum alone: nine in ten pieces of work start within 2 % of a step of the recording."""
    m, x = recorded.ranks[0], recorded.replay().played()[0]
    seen = recorded.analysis.open_rank(m.rank)  # type: ignore[attr-defined]
    own = m.program.work >= 0
    start = x.start[own]
    truth = seen.work.start_ns[m.program.work[own]]
    late = (start - start[0]) - (truth - truth[0])
    assert np.quantile(np.abs(late), 0.9) < 0.02 * recorded.recorded_ns


def test_the_critical_path_has_no_gap(recorded: Model) -> None:
    played = recorded.replay().played()
    path = find_critical_path(recorded, played)
    edges = [(a.end_ns, b.start_ns) for a, b in zip(path.parts[:-1], path.parts[1:], strict=True)]
    assert all(a == b for a, b in edges)
    assert path.parts[-1].end_ns == max(x.finish for x in played)
    assert path.parts[0].start_ns == pytest.approx(min(x.begin for x in played))


@pytest.mark.parametrize(
    ("numbers", "steps"), [((1, 2, 3), 3), ((3, 2, 1), 1), ((2, 3, 1), 2), ((1, 3, 5), 1)]
)
def test_steps_that_count_backwards_are_no_window(
    numbers: tuple[int, ...], steps: int, tmp_path: Path
) -> None:
    """A window is steps that follow each other in number and in time."""
    b = TraceBuilder()
    for i, n in enumerate(numbers):
        b.step(n, 100 * i, 90).cpu_op("aten::mm", ts=100 * i + 5, dur=9, ext=i + 1)
        b.launch(i + 1).kernel("gemm", 100 * i + 20, 30, corr=i + 1, ext=i + 1)
    model = load(analyze(b.write(tmp_path / "rank0.json")))
    assert [p.n_steps for p in model.programs] == [steps]


def test_a_small_run_is_read_once_for_its_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    from tracelens import pipeline

    read: list[Path] = []
    plain = pipeline.open_trace

    def counted(path: Path, *args: object, **more: object) -> object:
        read.append(path)
        return plain(path, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "open_trace", counted)
    run = REPO / "sample_traces" / "zero2_slow_fabric"
    _, model = modelled(run)
    assert len(read) == len(set(read)) == len(model.ranks)
    apart = load(analyze(run))
    assert len(read) == 3 * len(model.ranks)
    assert model.replay().step_ns == apart.replay().step_ns


@pytest.mark.parametrize("name", ["zero1", "zero3"])
def test_communication_alone_is_refused(name: str, tmp_path: Path) -> None:
    """A filtered trace: collectives are there, and no kernel that computes."""
    for path in sorted((REPO / "sample_traces" / name).glob("*.xz"))[:2]:
        trace = json.loads(lzma.decompress(path.read_bytes()))
        trace["traceEvents"] = [
            e for e in trace["traceEvents"] if e.get("cat") != "kernel" or "nccl" in e["name"]
        ]
        (tmp_path / path.stem).write_text(json.dumps(trace))
    analysis = analyze(tmp_path)
    predictor = Predictor(analysis, load(analysis))
    with pytest.raises(CannotPredict, match="shows no compute"):
        predictor.predict(make_change({"reduce_bucket_size": 10**6}))
