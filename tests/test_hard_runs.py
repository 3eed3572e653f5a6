"""Runs with something wrong about a rank: the rest is analysed, and the report says why."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from builder import BASE_NS, TraceBuilder

import tracelens
from tracelens.errors import InputError

STEP_US = 1000


def rank_of(
    rank: int, world: int, steps: Iterable[int] = range(1, 5), late_us: int = 0
) -> TraceBuilder:
    """A rank whose step `k` lies at k ms: a product, a reduction beside it, an update."""
    b = TraceBuilder(rank=rank, world_size=world)
    for k in steps:
        at = k * STEP_US
        b.step(k, at, STEP_US - 10)
        for i, (name, ts, dur) in enumerate((("gemm_kernel", 20, 300), ("adam_kernel", 700, 100))):
            corr = 100 * k + i
            b.cpu_op("aten::mm", ts=at + ts - 10, dur=8, ext=corr).launch(corr, ext=corr)
            b.kernel(name, at + ts, dur, corr=corr, ext=corr)
        corr = 100 * k + 50
        b.nccl(ts=at + 350 + late_us, dur=200 - late_us, nelems=4096, corr=corr, ext=corr,
               host_ts=at + 340)  # fmt: skip
    return b


def run(folder: Path, ranks: dict[int, TraceBuilder]) -> Path:
    for rank, built in ranks.items():
        built.write(folder / f"rank{rank}.pt.trace.json")
    return folder


def said(a: tracelens.Analysis, code: str) -> str:
    """The notes of a code, which must be in every report."""
    texts = [n.text for n in a.notes if n.code == code]
    assert texts, [n.code for n in a.notes]
    shown = a.report(width=400)
    listed = a.to_json()["import"]["notes"]  # type: ignore[index]
    for text in texts:
        assert text[:60] in shown
        assert text in [n["text"] for n in listed]
    return "\n".join(texts)


def ranks(a: tracelens.Analysis) -> list[int]:
    return [r.rank for r in a.ranks]


def test_all_is_well(tmp_path: Path) -> None:
    a = tracelens.analyze(run(tmp_path, {r: rank_of(r, 4, late_us=10 * r) for r in range(4)}))
    assert (ranks(a), a.notes) == ([0, 1, 2, 3], ())
    assert a.matches.n_unmatched == 0
    assert a.matches.n_matched == 4


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"<html>", "HTML"),
        (b'{"traceEvents": [{"ph": "X", "na', "no whole event"),
        (b"\x1f\x8b\x08\x00", "cut off"),
        (b'{"traceEvents": [{"ph": "X", "name": "x", "cat": "Node", "ts": 1}]}', "nothing in it"),
    ],
)
def test_a_bad_rank(tmp_path: Path, data: bytes, says: str) -> None:
    run(tmp_path, {r: rank_of(r, 4) for r in range(4)})
    (tmp_path / "rank2.pt.trace.json").write_bytes(data)
    a = tracelens.analyze(tmp_path)
    assert ranks(a) == [0, 1, 3]
    assert says in said(a, "unreadable_file")
    assert a.summary.n_steps == 12


def test_a_cut_rank(tmp_path: Path) -> None:
    run(tmp_path, {r: rank_of(r, 2) for r in range(2)})
    path = tmp_path / "rank1.pt.trace.json"
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"ProfilerStep#4") - 40])
    a = tracelens.analyze(tmp_path)
    assert ranks(a) == [0, 1]
    assert "rank 1" in said(a, "truncated")
    assert "rank 1 has steps 1-" in said(a, "uneven_steps")


def test_a_missing_rank(tmp_path: Path) -> None:
    a = tracelens.analyze(run(tmp_path, {r: rank_of(r, 4) for r in (0, 1, 3)}))
    assert said(a, "missing_ranks") == "No trace of 1 of 4 ranks: 2."
    assert ranks(a) == [0, 1, 3]
    assert a.matches.n_matched == 0
    assert a.summary.exposed_wait is None


@pytest.mark.parametrize("world", [2**40, -3, "many", 10**30, None, [4]])
def test_a_world_that_cannot_be(tmp_path: Path, world: object) -> None:
    """A number of ranks that no job has is none: nothing is counted up to it."""
    made = {r: rank_of(r, 2) for r in range(2)}
    for b in made.values():
        b.header["distributedInfo"]["world_size"] = world
    a = tracelens.analyze(run(tmp_path, made))
    assert (ranks(a), a.run.world_size) == ([0, 1], None)


def test_ranks_of_two_jobs(tmp_path: Path) -> None:
    made = {r: rank_of(r, 4) for r in range(3)} | {3: rank_of(0, 2), 4: rank_of(1, 2)}
    a = tracelens.analyze(run(tmp_path, made))
    assert ranks(a) == [0, 1, 2]
    text = said(a, "mixed_run")
    assert "world sizes 2, 4" in text
    assert "rank3.pt.trace.json" in text
    assert "rank4.pt.trace.json" in text


def test_ranks_of_two_runs_of_one_job(tmp_path: Path) -> None:
    made = {r: rank_of(r, 4) for r in range(4)}
    made[2].meta(baseTimeNanoseconds=BASE_NS + 5 * 3_600_000_000_000)
    a = tracelens.analyze(run(tmp_path, made))
    assert ranks(a) == [0, 1, 3]
    text = said(a, "mixed_run")
    assert text.startswith(
        "Left out: rank 2, recorded at another time than ranks 0-1, 3 (5.0 hours"
    )


def test_ranks_some_minutes_apart_are_asked_about(tmp_path: Path) -> None:
    made = {r: rank_of(r, 2) for r in range(2)}
    made[1].meta(baseTimeNanoseconds=BASE_NS + 300_000_000_000)
    a = tracelens.analyze(run(tmp_path, made))
    assert ranks(a) == [0, 1]
    assert "lie 5 minutes" in said(a, "apart_in_time")


def test_a_file_that_tells_no_clock_stays(tmp_path: Path) -> None:
    made = {r: rank_of(r, 2) for r in range(2)}
    made[1].meta(baseTimeNanoseconds=0)
    assert ranks(tracelens.analyze(run(tmp_path, made))) == [0, 1]


def test_steps_differ_in_number(tmp_path: Path) -> None:
    made = {r: rank_of(r, 4) for r in range(4)} | {1: rank_of(1, 4, range(2, 4))}
    a = tracelens.analyze(run(tmp_path, made))
    text = said(a, "uneven_steps")
    assert "ranks 0, 2-3 have steps 1-4; rank 1 has steps 2-3" in text
    assert "is known of steps 2-3" in text
    assert a.matches.n_matched == 2
    waits = {r.rank: r.exposed_wait_ns.tolist() for r in a.ranks}
    assert [w >= 0 for w in waits[0]] == [False, True, True, False]
    assert waits[1] == [0, 0]


def test_no_common_step(tmp_path: Path) -> None:
    made = {0: rank_of(0, 2, range(1, 4)), 1: rank_of(1, 2, range(7, 10))}
    a = tracelens.analyze(run(tmp_path, made))
    text = said(a, "no_common_step")
    assert "steps 1-3" in text
    assert "steps 7-9" in text
    assert a.matches.n_matched == 0
    assert a.summary.exposed_wait is None
    assert a.summary.n_steps == 6


def test_an_unfinished_file_beside_the_whole_one(tmp_path: Path) -> None:
    run(tmp_path, {0: rank_of(0, 1)})
    whole = (tmp_path / "rank0.pt.trace.json").read_bytes()
    (tmp_path / "rank0.pt.trace.json.tmp").write_bytes(whole[: len(whole) // 2])
    a = tracelens.analyze(tmp_path)
    assert [Path(p).name for p in a.run.paths] == ["rank0.pt.trace.json"]
    assert ".tmp" in said(a, "duplicate_rank")


def test_cpu_only(tmp_path: Path) -> None:
    b = TraceBuilder(rank=0, world_size=1)
    for k in range(3):
        b.step(k, k * 100, 90).cpu_op("aten::mm", ts=k * 100 + 5, dur=50)
    a = tracelens.analyze(run(tmp_path, {0: b}))
    assert (a.summary.compute, a.summary.n_steps) == (0, 3)
    assert "The recording holds no GPU work" in a.report()


def test_no_rank_is_left(tmp_path: Path) -> None:
    bad = b'{"traceEvents": [{"ph": "X", "na'
    for r in range(3):
        (tmp_path / f"rank{r}.json").write_bytes(bad)
    with pytest.raises(InputError, match="no rank of the run could be read") as caught:
        tracelens.analyze(tmp_path)
    assert str(caught.value.hint).count("no whole event") == 3


@pytest.mark.parametrize("listed", [True, False])
def test_groups_of_more_ranks_than_a_record_lists(tmp_path: Path, listed: bool) -> None:
    """Torch cuts lists of over 30 ranks; the file's groups hold them, or stand for all ranks."""
    world = 33
    made = {r: rank_of(r, world, range(1, 3), late_us=r) for r in range(world)}
    for b in made.values():
        for e in b.events:
            if "Process Group Ranks" in e.get("args", {}):
                first = ", ".join(map(str, range(30)))
                e["args"]["Process Group Ranks"] = f"[{first}, ...]"
        if not listed:
            b.header["distributedInfo"]["pg_config"][0]["ranks"] = []
    a = tracelens.analyze(run(tmp_path, made))
    assert (a.matches.n_matched, a.matches.n_unmatched) == (2, 0)
    assert a.ranks[0].exposed_wait_ns.tolist() == [32_000, 32_000]
    assert a.ranks[-1].exposed_wait_ns.tolist() == [0, 0]


def test_a_note_of_many_ranks_is_one_line(tmp_path: Path) -> None:
    made = {r: rank_of(r, 12, range(1, 3)) for r in range(12)}
    for r in range(10):
        made[r].event("X", "late", "soon", pid=1, tid=1)
    a = tracelens.analyze(run(tmp_path, made))
    found = [(n.count, n.text) for n in a.notes if n.code == "bad_time"]
    assert found == [(10, "ranks 0-9: Events without a usable start time were dropped.")]
    for r in range(9):
        (tmp_path / f"rank{r}.pt.trace.json").write_bytes(b'{"traceEvents": [{"ph": "X", "na')
    a = tracelens.analyze(tmp_path)
    assert sum(n.code == "unreadable_file" for n in a.notes) == 9
    assert a.report(width=300).count("no whole event") == 5
    assert "and 4 more like this" in a.report(width=300)
