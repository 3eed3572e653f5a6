"""Which files make a run, and whose rank each is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builder import BASE_NS, TraceBuilder

from tracelens.errors import InputError, UsageError
from tracelens.ingest.peek import rank_in_name
from tracelens.ingest.run import RunPlan, compact, discover


def built(rank: int | None = None, world_size: int | None = 2) -> TraceBuilder:
    return TraceBuilder(rank=rank, world_size=world_size).kernel("k", 1, 2)


def found(plan: RunPlan) -> list[tuple[str, int, str]]:
    return [(f.path.name, f.rank, f.rank_source) for f in plan.files]


def notes(plan: RunPlan) -> dict[str, str]:
    return {n.code: n.text for n in plan.notes}


def test_ranks_come_from_the_header_not_the_name(tmp_path: Path) -> None:
    built(1).write(tmp_path / "rank0.json")
    built(0).write(tmp_path / "rank1.json.gz", gz=True)
    plan = discover([tmp_path])
    assert found(plan) == [
        ("rank1.json.gz", 0, "distributedInfo"),
        ("rank0.json", 1, "distributedInfo"),
    ]
    assert (plan.world_size, plan.notes, plan.ranks) == (2, (), (0, 1))
    assert plan.files[0].bytes == (tmp_path / "rank1.json.gz").stat().st_size


def test_a_rank_written_after_the_events(tmp_path: Path) -> None:
    text = built().text()[:-3] + b', "distributedInfo": {"rank": 3, "world_size": 4}}'
    array = b'"traceEvents": ['
    (tmp_path / "a.json").write_bytes(text.replace(array, array + b" " * 300_000))
    plan = discover([tmp_path / "a.json"])
    assert found(plan) == [("a.json", 3, "distributedInfo")]


def test_a_rank_before_a_very_long_group_list(tmp_path: Path) -> None:
    trace = built(2, 4096)
    trace.header["distributedInfo"]["pg_config"] *= 20
    trace.write(tmp_path / "a.json")
    plan = discover([tmp_path])
    assert found(plan) == [("a.json", 2, "distributedInfo")]
    assert plan.world_size == 4096


def test_names_then_order(tmp_path: Path) -> None:
    built().write(tmp_path / "trace_rank-1.json")
    built().write(tmp_path / "x.json")
    built().write(tmp_path / "y.json")
    assert found(discover([tmp_path])) == [
        ("x.json", 0, "order"),
        ("trace_rank-1.json", 1, "file name"),
        ("y.json", 2, "order"),
    ]


@pytest.mark.parametrize(
    ("name", "rank"),
    [
        ("rank0.json", 0),
        ("rank_3.pt.trace.json.gz", 3),
        ("trace_rank-12.json", 12),
        ("myRank7.json", None),
        ("worker0.pt.trace.json", 0),
        ("worker3.1712195495505.pt.trace.json", 3),
        ("trace_5.json", 5),
        ("host_123.1712195495505.pt.trace.json", None),
        ("worker3_4242.1712195495505582988.pt.trace.json.gz", None),
        ("gpu17.json", None),
        ("node-12-8.json", None),
        ("rank-0.Apr_03_18_51_38.1102.pt.trace.json.gz", 0),
        ("frank3.json", None),
    ],
)
def test_ranks_in_names(name: str, rank: int | None) -> None:
    assert rank_in_name(Path(name)) == rank


def test_folders_of_ranks_are_looked_into(tmp_path: Path) -> None:
    for rank in (0, 1):
        folder = tmp_path / "run" / f"rank{rank}"
        folder.mkdir(parents=True)
        built().write(folder / "trace.json")
    assert [f.rank for f in discover([tmp_path]).files] == [0, 1]


def test_other_json_is_ignored_and_named(tmp_path: Path) -> None:
    built(0, 1).write(tmp_path / "rank0.json")
    (tmp_path / "truth.json").write_text(json.dumps({"world_size": 4}))
    (tmp_path / "run.json").write_text("[]")
    plan = discover([tmp_path])
    assert len(plan.files) == 1
    assert "truth.json" in notes(plan)["ignored_file"]
    assert plan.notes[0].count == 2


def test_a_bad_file_does_not_sink_the_run(tmp_path: Path) -> None:
    built(0, 1).write(tmp_path / "rank0.json")
    (tmp_path / "rank1.json").write_bytes(b"")
    (tmp_path / "rank2.json.gz").write_bytes(b"\x1f\x8b\x08\x00")
    (tmp_path / "report.sqlite").write_bytes(b"SQLite format 3\0")
    plan = discover([tmp_path])
    texts = [n.text for n in plan.notes if n.code == "unreadable_file"]
    assert len(plan.files) == 1
    assert ["empty" in t for t in texts] == [True, False, False]
    assert ["cut off" in t for t in texts] == [False, True, False]
    assert ["Nsight" in t for t in texts] == [False, False, True]


def test_the_newest_of_two_files_of_a_rank_is_used(tmp_path: Path) -> None:
    built(0, 1).meta(baseTimeNanoseconds=BASE_NS + 5).write(tmp_path / "a.json")
    built(0, 1).write(tmp_path / "b.json")
    plan = discover([tmp_path])
    assert found(plan) == [("a.json", 0, "distributedInfo")]
    text = notes(plan)["duplicate_rank"]
    assert "a.json" in text
    assert "b.json" in text


def test_repeats_of_the_tensorboard_handler(tmp_path: Path) -> None:
    for time in (1712195495505, 1712195499999):
        built(0, 1).write(tmp_path / f"host_77.{time}.pt.trace.json")
    plan = discover([tmp_path])
    assert plan.files[0].path.name == "host_77.1712195499999.pt.trace.json"


def test_missing_ranks_are_named(tmp_path: Path) -> None:
    for rank in (0, 4, 5):
        built(rank, 9).write(tmp_path / f"{rank}.json")
    plan = discover([tmp_path])
    assert notes(plan)["missing_ranks"] == "No trace of 6 of 9 ranks: 1-3, 6-8."


def test_files_of_different_jobs(tmp_path: Path) -> None:
    built(0, 2).write(tmp_path / "a.json")
    built(1, 4).write(tmp_path / "b.json")
    plan = discover([tmp_path])
    assert "world sizes 2, 4" in notes(plan)["mixed_run"]
    assert "a.json" in notes(plan)["mixed_run"]
    assert (plan.world_size, plan.ranks) == (4, (1,))


def test_differing_group_counts(tmp_path: Path) -> None:
    built(0, 2).write(tmp_path / "a.json")
    other = built(1, 2)
    other.header["distributedInfo"]["pg_count"] = 5
    other.write(tmp_path / "b.json")
    assert "1, 5 process groups" in notes(discover([tmp_path]))["mixed_run"]


def test_selecting_ranks(tmp_path: Path) -> None:
    for rank in (0, 1):
        built(rank, 2).write(tmp_path / f"{rank}.json")
    plan = discover([tmp_path])
    assert plan.select([1]).ranks == (1,)
    with pytest.raises(UsageError, match="no trace of rank 2") as caught:
        plan.select([0, 2])
    assert caught.value.hint == "there are ranks 0-1"


def test_the_same_file_twice_is_one(tmp_path: Path) -> None:
    path = built(0, 1).write(tmp_path / "a.json")
    assert len(discover([path, path, tmp_path]).files) == 1


@pytest.mark.parametrize("content", [None, b"{}", b"hello"])
def test_no_trace_at_all_says_what_is_there(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "thing.json").write_bytes(content)
    with pytest.raises(InputError, match="there are no files" if content is None else "thing.json"):
        discover([tmp_path])


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        discover([tmp_path / "nothing"])


def test_compact() -> None:
    assert compact([]) == ""
    assert compact([3, 1, 1, 2, 9]) == "1-3, 9"
