"""Ranks read on a Dask cluster: the same answer, whatever happens to its workers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from test_hard_runs import rank_of, run, said
from test_workers import die_once, fail, refuse, same, square

import tracelens
from tracelens import cluster
from tracelens.cli import main
from tracelens.errors import InputError, UsageError

pytest.importorskip("distributed", reason="the extra distributed is not installed")
#: What Dask leaves to the garbage collector is its own affair.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    from distributed import LocalCluster

    with LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as made:
        yield str(made.scheduler_address)


@pytest.fixture
def job(tmp_path: Path) -> Path:
    return run(tmp_path, {r: rank_of(r, 4, late_us=10 * r) for r in range(4)})


def test_the_same_to_the_last_bit(job: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    serial = tracelens.analyze(job)
    assert same(serial, tracelens.analyze(job, dask=address))
    monkeypatch.chdir(job.parent)  # the workers' folder is another
    here = tracelens.analyze(job.name, dask=address)
    assert here.run.paths == tracelens.analyze(job.name).run.paths


def test_order_and_errors(address: str) -> None:
    done: list[int] = []
    assert cluster.run(square, range(6), address, done.append) == [n * n for n in range(6)]
    assert sorted(done) == list(range(6))
    found = cluster.run(refuse, range(4), address)
    assert [f for f in found if isinstance(f, int)] == [0, 2]
    assert isinstance(found[1], InputError)
    with pytest.raises(KeyError):
        cluster.run(fail, [1], address)


def test_a_killed_worker_loses_nothing(address: str, tmp_path: Path) -> None:
    marks = [str(tmp_path / f"{i}.kill") for i in range(4)]
    for mark in marks[1:]:
        Path(mark).touch()
    found: list[Any] = cluster.run(die_once, marks, address)
    assert [str(f).split()[0] for f in found] == marks


def test_a_bad_rank(job: Path, address: str) -> None:
    (job / "rank2.pt.trace.json").write_bytes(b'{"traceEvents": [{"ph": "X", "na')
    a = tracelens.analyze(job, dask=address)
    assert [r.rank for r in a.ranks] == [0, 1, 3]
    assert "no whole event" in said(a, "unreadable_file")


def test_nobody_answers(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_PATIENCE_S", 1)
    done = CliRunner().invoke(main, ["analyze", str(job), "--dask", "tcp://127.0.0.1:9"])
    assert done.exit_code == 1
    assert "no Dask scheduler answers" in done.stderr


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match="needs the package"):
        cluster.run(square, [1], "tcp://127.0.0.1:9")
