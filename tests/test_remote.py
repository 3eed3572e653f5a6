"""Runs by URL: as on disk to the last bit, fetched in blocks; or an error that says why."""

from __future__ import annotations

import functools
import http.server
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from click.testing import CliRunner
from nsys_builder import NsysBuilder, training_step
from test_hard_runs import rank_of, run

import tracelens
from tracelens import remote
from tracelens.cli import main
from tracelens.errors import InputError, UsageError
from tracelens.ingest import open_trace
from tracelens.ingest.bounds import Bounds
from tracelens.ingest.nsys.export import plain
from tracelens.ingest.source import Source
from tracelens.remote import Url, absolute, as_path
from tracelens.store import Store

fsspec = pytest.importorskip("fsspec")
URLS = ("s3://b/run/rank3.json.gz", "memory://x", "file:///tmp/a b/c.json", "https://h:1/x?a=b")


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """Four ranks, one of them packed, with a manifest-like file and a hidden one beside them."""
    folder = tmp_path / "run"
    folder.mkdir()
    run(folder, {r: rank_of(r, 4, late_us=10 * r) for r in range(3)})
    rank_of(3, 4).write(folder / "rank3.pt.trace.json.gz", gz=True)
    (folder / "config.json").write_text('{"a": 1}')
    (folder / ".hidden.json").write_text("x")
    return folder


@pytest.fixture
def memory(local: Path) -> Iterator[str]:
    """The same in fsspec's memory."""
    fs = fsspec.filesystem("memory")
    for path in local.iterdir():
        fs.pipe_file(f"/jobs/run/{path.name}", path.read_bytes())
    yield "memory://jobs/run"
    fs.rm("/jobs", recursive=True)


@pytest.fixture
def served(local: Path) -> Iterator[str]:
    """The same over HTTP, with ranges, on this machine."""
    pytest.importorskip("aiohttp")
    handler = functools.partial(Ranges, directory=os.fspath(local.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/run"
        server.shutdown()


class Ranges(http.server.SimpleHTTPRequestHandler):
    """A server of files that gives parts of them, as object stores do."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        path = Path(self.translate_path(self.path))
        if not wanted or not path.is_file():
            super().do_GET()
            return
        Ranges.asked.append(wanted)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        data = path.read_bytes()
        part = data[int(first) : int(last) + 1 if last else None]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
        self.end_headers()
        self.wfile.write(part)

    def end_headers(self) -> None:
        self.send_header("Accept-Ranges", "bytes")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def without_paths(a: tracelens.Analysis) -> dict[str, object]:
    told = a.to_json()
    return {**told, "run": {**told["run"], "paths": None}, "import": None}  # type: ignore[dict-item]


# ------------------------------------------------------------------------------------- names
@pytest.mark.parametrize("text", URLS)
def test_a_url_is_a_path_that_stays_a_url(text: str) -> None:
    url = as_path(text)
    assert isinstance(url, Url)
    assert isinstance(url, Path)
    assert (str(url), os.fspath(url), absolute(url)) == (text, text, text)
    for copy in (pickle.loads(pickle.dumps(url)), as_path(url)):
        assert (copy, type(copy), str(copy)) == (url, Url, text)
    inner = url / "rank0.json"
    assert (inner.name, type(inner), str(inner)) == ("rank0.json", Url, f"{text}/rank0.json")
    assert (inner.parent, type(inner.parent)) == (url, Url)


@pytest.mark.parametrize("text", ["run", "/a/b", "c:/x", "c:\\x", "a:b", "1://x", "./s3:/x"])
def test_others_are_paths_of_this_machine(text: str) -> None:
    assert type(as_path(text)) is type(Path("x"))


# ------------------------------------------------------------------------------------- runs
@pytest.mark.parametrize("where", ["memory", "served", "file"])
def test_a_folder_by_url_is_the_run(
    where: str, local: Path, request: pytest.FixtureRequest
) -> None:
    url = f"file://{local}" if where == "file" else request.getfixturevalue(where)
    a, b = tracelens.analyze(local), tracelens.analyze(url)
    assert without_paths(a) == without_paths(b)
    names = [f"rank{r}.pt.trace.json{'.gz' * (r == 3)}" for r in range(4)]
    assert list(b.run.paths) == [f"{url}/{name}" for name in names]
    assert [n.code for n in b.notes] == ["ignored_file"]  # the config; the hidden one is not seen
    assert len(b.open_rank(1).trace.slices) == len(a.open_rank(1).trace.slices)


def test_files_by_url_and_workers(served: str, local: Path) -> None:
    urls = [f"{served}/rank{r}.pt.trace.json" for r in range(3)]
    here = tracelens.analyze([local / f"rank{r}.pt.trace.json" for r in range(3)])
    assert without_paths(tracelens.analyze(urls, jobs=2)) == without_paths(here)


def test_a_file_is_streamed(served: str, local: Path) -> None:
    """A cut-off look asks for a beginning, reading asks for blocks one after the other."""
    big = local / "big.json"
    big.write_bytes(b"x" * 30_000_000)
    Ranges.asked.clear()
    with Source(f"{served}/big.json", ahead=remote.BEGINNING) as source:
        assert (source.size, len(source.read(1000))) == (30_000_000, 1000)
    assert sum(_length(r) for r in Ranges.asked) < 1_000_000
    Ranges.asked.clear()
    with Source(f"{served}/big.json") as source:
        while source.read(1 << 20):
            pass
        assert source.error is None
    spans = [_length(r) for r in Ranges.asked]
    assert max(spans) < remote.THROUGH + (1 << 21)
    assert len(spans) >= 3
    assert sum(spans) < 31_000_000


def _length(written: str) -> int:
    first, _, last = written.removeprefix("bytes=").partition("-")
    return int(last) - int(first) + 1


def test_an_export_is_downloaded_within_a_bound(tmp_path: Path) -> None:
    b = NsysBuilder()
    training_step(b, 0)
    path = b.write(tmp_path / "r.sqlite")
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/e/r.sqlite", path.read_bytes())
    try:
        there, here = open_trace("memory://e/r.sqlite"), open_trace(path)
        assert (there.slices.ts_ns == here.slices.ts_ns).all()
        copy = plain(as_path("memory://e/r.sqlite"))
        assert copy.parent.name.startswith("tracelens-")
        with pytest.raises(InputError, match="would have to be downloaded"):
            plain(as_path("memory://e/r.sqlite"), Bounds(download=1000))
    finally:
        fs.rm("/e", recursive=True)


def test_a_store_keeps_a_remote_run_by_its_content(memory: str, tmp_path: Path) -> None:
    db = tmp_path / "run.db"
    first = tracelens.analyze(memory, db=db)
    assert without_paths(tracelens.analyze(memory, db=db)) == without_paths(first)
    assert len(Store(db).runs()) == 1
    assert len(Store(db).get("1").open_rank(0).trace.slices) > 0
    rank_of(0, 4, late_us=5).write(tmp_path / "new.json")
    data = (tmp_path / "new.json").read_bytes()
    fsspec.filesystem("memory").pipe_file("/jobs/run/rank0.pt.trace.json", data)
    tracelens.analyze(memory, db=db)
    assert len(Store(db).runs()) == 2


# ------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize("what", ["nothing", "nothing/rank0.json"])
def test_what_is_not_there_is_said(served: str, what: str) -> None:
    base = served.rpartition("/")[0]
    for url in (f"memory://{what}", f"{base}/{what}"):
        with pytest.raises(InputError, match="no such file or folder") as caught:
            tracelens.analyze(url)
        assert url in str(caught.value)


def test_a_server_that_breaks_off_gives_what_came(
    served: str, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error while blocks are fetched is damage, not a crash."""
    path = local / "rank0.pt.trace.json"
    url = f"{served}/rank0.pt.trace.json"
    size = path.stat().st_size
    real = Ranges.do_GET

    def breaks(self: Ranges) -> None:
        if self.headers.get("Range", "bytes=0").startswith("bytes=0"):
            real(self)
        else:
            self.send_error(503)

    monkeypatch.setattr(Ranges, "do_GET", breaks)
    with Source(url, ahead=1000) as source:
        got = source.read(size)
    assert 0 < len(got) < size
    assert "503" in str(source.error)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="Protocol not known") as caught:
        tracelens.analyze("nonsense://x")
    assert "s3" in str(caught.value.hint)
    with pytest.raises(UsageError, match="chained"):
        tracelens.analyze("zip://x::memory://y")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    done = CliRunner().invoke(main, ["analyze", "gs://bucket/run"])
    assert done.exit_code == 2
    assert "hint: pip install gcsfs" in done.stderr
    monkeypatch.setitem(sys.modules, "fsspec", None)
    done = CliRunner().invoke(main, ["analyze", "s3://bucket/run"])
    assert done.exit_code == 2
    assert "hint: pip install fsspec s3fs" in done.stderr


def test_a_listing_leads_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a server lists beside the folder that was asked for is not read."""
    names = ["/jobs/run/a.json", "/jobs/other/b.json", "/etc/passwd", "/jobs/run/.x/c.json"]
    fs = fsspec.filesystem("memory")
    monkeypatch.setattr(type(fs), "find", lambda *a, **k: names)
    found = list(remote.below(Url("memory://jobs/run"), 2))
    assert [str(u) for u in found] == ["memory://jobs/run/a.json"]


def test_a_run_on_disk_needs_no_fsspec(local: Path) -> None:
    code = (
        "import sys; sys.modules['fsspec'] = None; import tracelens; "
        f"tracelens.analyze({os.fspath(local)!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_size_that_nobody_tells_is_an_error(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fs = fsspec.filesystem("memory")
    monkeypatch.setattr(type(fs), "size", lambda *_: None)
    with pytest.raises(InputError, match="does not say how large"):
        open_trace(f"{memory}/rank0.pt.trace.json")
