"""Columns that were read before: the same trace, for the same bytes only, whole or not at all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from nsys_builder import NsysBuilder, training_step
from test_hard_runs import rank_of

import tracelens
from tracelens.cli import main
from tracelens.errors import CorruptTrace
from tracelens.ingest import cache, open_trace
from tracelens.trace import Trace

SAMPLE = Path(__file__).parent.parent / "sample_traces" / "zero2_kernels_only"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, which small files are worth, too."""
    monkeypatch.setenv(cache.PLACE, str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "WORTH", 0)
    monkeypatch.setattr(cache, "WORTH_PACKED", 0)
    return tmp_path / "cache"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read, in order."""
    seen: list[str] = []
    real = cache.cached

    def counted(path: Any, part: str | None, read: Callable[[], Trace]) -> Trace:
        def noted() -> Trace:
            seen.append(Path(path).name)
            return read()

        return real(path, part, noted)

    monkeypatch.setattr("tracelens.ingest.cached", counted)
    return seen


def same(a: object, b: object) -> bool:
    """Equal to the last bit, types included."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes() and not b.flags.writeable
    if is_dataclass(a):
        return type(a) is type(b) and all(
            same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a)
        )
    return type(a) is type(b) and a == b


def test_the_second_look_is_the_same_trace(folder: Path, reads: list[str]) -> None:
    path = next(SAMPLE.glob("*.xz"))
    first, second = open_trace(path), open_trace(path)
    assert same(first, second)
    assert reads == [path.name]
    base: Any = second.slices.ts_ns
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    assert len(list(folder.iterdir())) == 1
    assert tracelens.analyze(SAMPLE).to_json() == tracelens.analyze(SAMPLE).to_json()


def test_every_table_comes_back(folder: Path, reads: list[str], tmp_path: Path) -> None:
    """Shapes, allocations, collectives, notes, groups; and odd names."""
    b = rank_of(0, 2).memory(1500, 512, allocated=5).python("a\u202e\x00b", ts=1, dur=1)
    b.cpu_op("aten::mm", ts=1, dur=1, dims=[[2, 3]], types=["float"]).thread_name("x", "t")
    b.event("X", "no time", None, cat="cpu_op")
    path = b.write(tmp_path / "rank0.json")
    first = open_trace(path)
    assert min(map(len, (first.shapes, first.memory, first.collectives, first.stats.notes))) > 0
    assert same(first, open_trace(path))
    assert reads == ["rank0.json"]


def test_exports_and_their_parts(folder: Path, reads: list[str], tmp_path: Path) -> None:
    b = NsysBuilder()
    training_step(b, 0)
    training_step(b, 0, pid=11, device=1)
    path = b.write(tmp_path / "r.sqlite")
    a = tracelens.analyze(path)
    assert len(a.ranks) == 2
    assert tracelens.analyze(path).to_json() == a.to_json()
    assert reads == ["r.sqlite"] * 2


# ------------------------------------------------------------------------------------- content
def test_a_copy_is_known_and_a_change_is_not(
    folder: Path, reads: list[str], tmp_path: Path
) -> None:
    path = rank_of(0, 1).write(tmp_path / "rank0.json")
    open_trace(path)
    copy = tmp_path / "elsewhere.json"
    shutil.copy(path, copy)
    assert open_trace(copy).info.path == str(copy)
    state = path.stat()
    data = path.read_bytes()
    path.write_bytes(data.replace(b"gemm_kernel", b"GEMM_kernel"))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # same size, same time
    assert "GEMM_kernel" in open_trace(path).strings
    assert reads == ["rank0.json", "rank0.json"]


def test_a_file_that_changes_while_it_is_read_is_not_kept(folder: Path, tmp_path: Path) -> None:
    path = rank_of(0, 1).write(tmp_path / "rank0.json")
    trace = open_trace(path)
    shutil.rmtree(folder)

    def read() -> Trace:
        path.write_bytes(path.read_bytes() + b" ")
        return trace

    cache.cached(path, None, read)
    assert not folder.exists()


def test_an_error_is_no_entry(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "rank0.json").write_text('{"traceEvents": [{"ph": "X", "na')
    for _ in range(2):
        with pytest.raises(CorruptTrace):
            open_trace(tmp_path / "rank0.json")
    assert not folder.exists()


@pytest.mark.parametrize("what", ["cut", "flipped", "empty", "other", "longer", "described"])
def test_a_damaged_entry_is_none(what: str, folder: Path, reads: list[str], tmp_path: Path) -> None:
    path = rank_of(0, 1).write(tmp_path / "rank0.json")
    first = open_trace(path)
    (entry,) = folder.iterdir()
    data = bytearray(entry.read_bytes())
    if what == "cut":
        del data[-100:]
    elif what == "flipped":
        data[-70] ^= 1
    elif what == "empty":
        data.clear()
    elif what == "other":
        data[:8] = b"x" * 8
    elif what == "longer":
        data += b"x"
    else:
        data[100] ^= 0xFF
    entry.write_bytes(data)
    assert same(open_trace(path), first)
    assert same(open_trace(path), first)
    assert len(reads) == 2  # and kept again


# ------------------------------------------------------------------------------------- room
def test_the_oldest_go_first(
    folder: Path, reads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [rank_of(r, 4).write(tmp_path / f"rank{r}.json") for r in range(4)]
    open_trace(paths[0])
    size = sum(p.stat().st_size for p in folder.iterdir())
    monkeypatch.setenv(cache.LIMIT, str(3 * size + 3000))
    for at, p in enumerate(paths[1:3], 1):
        open_trace(p)
        for entry in folder.iterdir():  # a clock that is fine enough
            if entry.stat().st_mtime_ns > 10**15:
                os.utime(entry, ns=(at, at))
    open_trace(paths[0])  # used now
    open_trace(paths[3])
    assert sum(p.stat().st_size for p in folder.iterdir()) <= 3 * size + 3000
    reads.clear()
    open_trace(paths[0])
    open_trace(paths[3])
    assert reads == []
    monkeypatch.setenv(cache.LIMIT, "100")
    open_trace(rank_of(5, 6).write(tmp_path / "more.json"))
    assert reads == ["more.json"]


def test_small_files_and_no_cache_leave_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = rank_of(0, 1).write(tmp_path / "rank0.json")
    assert CliRunner().invoke(main, ["analyze", str(path), "--no-cache"]).exit_code == 0
    assert not folder.exists()
    monkeypatch.setenv(cache.PLACE, str(folder))
    monkeypatch.setattr(cache, "WORTH", 10**6)
    open_trace(path)
    assert not folder.exists()
    monkeypatch.setattr(cache, "WORTH", 0)
    assert CliRunner().invoke(main, ["analyze", str(path)]).exit_code == 0
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_is_no_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(cache.PLACE, str(tmp_path / "file" / "x"))
    assert len(open_trace(rank_of(0, 1).write(tmp_path / "rank0.json")).slices)


def test_two_processes_write_one_entry(folder: Path, tmp_path: Path) -> None:
    """Both read, both write, both find the whole of it."""
    path = rank_of(0, 1).write(tmp_path / "rank0.json")
    code = (
        "import sys; from tracelens.ingest import cache, open_trace; cache.WORTH = 0\n"
        "for _ in range(30): print(len(open_trace(sys.argv[1]).slices))\n"
        "import shutil, os; shutil.rmtree(os.environ['TRACELENS_CACHE'], ignore_errors=True)\n"
        "for _ in range(30): print(len(open_trace(sys.argv[1]).slices))"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    told = {line for p in started for line in p.communicate()[0].split()}
    assert [p.returncode for p in started] == [0, 0]
    assert told == {str(len(open_trace(path).slices)).encode()}
    assert not [p for p in folder.iterdir() if p.suffix != ".columns"]


def test_another_version_reads_anew(
    folder: Path, reads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = rank_of(0, 1).write(tmp_path / "rank0.json")
    first = open_trace(path)
    monkeypatch.setattr(cache, "_shape", lambda: "another")
    assert same(open_trace(path), first)
    assert len(reads) == 2


def test_what_is_compared_can_differ(folder: Path, tmp_path: Path) -> None:
    a = open_trace(rank_of(0, 1).write(tmp_path / "rank0.json"))
    assert not same(a, replace(a, strings=(*a.strings, "x")))
    other = a.slices.ts_ns + 1
    other.flags.writeable = False
    assert not same(a, replace(a, slices=replace(a.slices, ts_ns=other)))
