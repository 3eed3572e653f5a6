"""Files that somebody made to do harm: bombs are stopped, names are text, nothing is run."""

from __future__ import annotations

import ast
import gzip
import json
import lzma
import resource
from html.parser import HTMLParser
from pathlib import Path

import pytest
import zstandard
from builder import TraceBuilder
from click.testing import CliRunner
from test_hard_runs import rank_of, run

import tracelens
from tracelens.cli import main
from tracelens.errors import CorruptTrace, InputError, UnsupportedFormat
from tracelens.ingest import open_trace
from tracelens.ingest.bounds import BOUNDS, Bounds

REPO = Path(__file__).parent.parent
START = b'{"traceEvents": [{"ph": "X", "cat": "cpu_op", "name": "a", "ts": 1, "dur": 1}'
PACK = {
    "gzip": lambda data: gzip.compress(data, 9),
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor(19).compress,
}


# ----------------------------------------------------------------------------------- sizes
@pytest.mark.parametrize("how", PACK)
@pytest.mark.parametrize(
    "filler", [b" ", b',{"ph":"s"}', b"[", b"x"], ids=["blank", "events", "[", "x"]
)
def test_a_bomb_is_stopped(tmp_path: Path, how: str, filler: bytes) -> None:
    path = tmp_path / "rank0.json"
    path.write_bytes(PACK[how](START + filler * (20_000_000 // len(filler))))
    small = Bounds(unpacked_least=1_000_000)
    with pytest.raises(CorruptTrace, match=r"unpack to more than|no event boundary") as caught:
        open_trace(path, bounds=small)
    assert "--raise-limits" in str(caught.value.hint)


def test_a_bomb_in_a_header_is_stopped(tmp_path: Path) -> None:
    path = tmp_path / "rank0.json.gz"
    path.write_bytes(gzip.compress(b'{"schemaVersion": 1, "x": "' + b"x" * 20_000_000))
    with pytest.raises(CorruptTrace, match="decompression bomb"):
        open_trace(path, bounds=Bounds(unpacked_least=1_000_000))
    with pytest.raises(UnsupportedFormat, match="array in the first"):
        open_trace(path, bounds=Bounds(header=1_000_000))


def test_a_bomb_in_a_packed_export_is_stopped(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite.gz"
    path.write_bytes(gzip.compress(b"SQLite format 3\0" + bytes(20_000_000)))
    with pytest.raises(InputError, match="decompression bomb"):
        open_trace(path, bounds=Bounds(unpacked_least=1_000_000))


def test_an_xz_that_asks_for_gigabytes_gets_none(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": 2**20}]
    data = bytearray(lzma.compress(START + b"]}", filters=filters))
    path = tmp_path / "rank0.json.xz"
    path.write_bytes(data)
    assert len(open_trace(path).slices) == 1
    with pytest.raises(CorruptTrace, match=r"[Mm]emory usage limit"):
        open_trace(path, bounds=Bounds(dictionary=2**19))


def test_the_flag_raises_every_bound(tmp_path: Path) -> None:
    b = BOUNDS.times(10)
    assert (b.unpacked_ratio, b.unpacked_least, b.event, b.header, b.dictionary, b.download) == (
        1000, 10**10, 10 * 2**28, 640_000_000, 2_560_000_000, 2 * 10**11,
    )  # fmt: skip
    assert b.unpacked(10**9) == 10**12
    run(tmp_path, {0: rank_of(0, 1)})
    done = CliRunner().invoke(main, ["analyze", str(tmp_path), "--raise-limits", "10", "--json"])
    assert done.exit_code == 0
    assert CliRunner().invoke(main, ["analyze", "x", "--raise-limits", "0.5"]).exit_code == 2


def test_a_bomb_among_the_ranks_is_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracelens.reading.BOUNDS", Bounds(unpacked_least=1_000_000))
    run(tmp_path, {r: rank_of(r, 3) for r in range(3)})
    (tmp_path / "rank1.pt.trace.json").write_bytes(
        gzip.compress(rank_of(1, 3).text()[:-40] + b" " * 30_000_000)
    )
    a = tracelens.analyze(tmp_path)
    assert [r.rank for r in a.ranks] == [0, 2]
    assert any("decompression bomb" in n.text for n in a.notes)
    assert len(tracelens.analyze(tmp_path, raise_limits=100).ranks) == 3


def test_nesting_takes_neither_stack_nor_memory(tmp_path: Path) -> None:
    path = tmp_path / "rank0.json"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for brackets in (b"[", b'{"a":'):
        deep = START[:-1] + b', "args": {"x": ' + brackets * 1_000_000 + b"}},"
        path.write_bytes(deep + START[START.index(b"[") + 1 :] + b"]}")
        assert len(open_trace(path).slices) >= 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


# ----------------------------------------------------------------------------------- names
#: Each would do something in a terminal, a page, a table or a path, were it not only text.
NAMES = (
    "\x1b[2J\x1b]0;title\x07\x1b[31m",
    "\x9b31m\u202egnp.exe\u2066",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "</script><svg onload=alert(1)>",
    "\"'><a href=javascript:alert(1)>x</a>",
    "[x](javascript:alert(1)) ![x](http://evil.example/x.png) `|`",
    "[bold red]markup[/] [link=http://evil.example]x[/link]",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "@SUM(A1)",
    "../../../../etc/passwd",
    "'; DROP TABLE runs; --",
    "%s%n{0.__class__}${x}{{7*7}}",
    "__import__('os').system('x')",
    "line\r\nbreak\0end",
)


def hostile(rank: int) -> TraceBuilder:
    """A rank whose every name is one of them."""
    b = rank_of(rank, 2)
    for i, bad in enumerate(NAMES):
        at = 1020 + i
        b.cpu_op(bad, ts=at, dur=0.5, dims=[[bad]], args={"Input type": [bad]})
        b.annotation(bad, ts=at, dur=0.5).python(bad, ts=at, dur=0.4)
        b.kernel(bad, 1330 + 2 * i, 1, corr=9000 + i, stream=9)
        b.nccl(ts=1400 + 2 * i, dur=1, nelems=8, corr=9500 + i, host_ts=1395 + 2 * i, dtype=bad,
               **{"Process Group Name": bad, "Process Group Description": bad,
                  "Process Group Ranks": bad, "Collective name": bad})  # fmt: skip
        b.thread_name(5000 + i, bad).process_name(bad, pid=5000 + i)
    b.header["deviceProperties"] = [{"id": i, "name": NAMES[2]} for i in range(2)]
    b.header["distributedInfo"] |= {"backend": NAMES[2], "nccl_version": NAMES[0]}
    b.header["distributedInfo"]["pg_config"] += [
        {"pg_name": n, "pg_desc": n, "pg_size": 2, "ranks": [0, 1]} for n in NAMES
    ]
    return b.meta(torch_version=NAMES[0] + NAMES[2])


@pytest.fixture
def analysed(tmp_path: Path) -> tracelens.Analysis:
    folder = tmp_path / "<img src=x>\x1b[31m"
    folder.mkdir()
    return tracelens.analyze(run(folder, {r: hostile(r) for r in range(2)}))


def harmless(text: str) -> bool:
    """Whether no character of `text` can steer a terminal."""
    return all(c.isprintable() or c == "\n" for c in text)


def test_the_check_can_fail() -> None:
    assert not any(harmless(n) for n in (NAMES[0], NAMES[1], NAMES[-1]))
    assert harmless("gemm\n\u2588")


def test_operands_larger_than_any_memory(tmp_path: Path) -> None:
    huge = [2**40, 2**40]
    for rank in range(2):
        b = rank_of(rank, 2)
        for name in ("aten::mm", "aten::embedding", "nccl:all_reduce"):
            b.cpu_op(name, ts=1021, dur=0.5, dims=[huge, [3] * 5000, [-1, 2], [8, 4]])
        run(tmp_path, {rank: b})
    analysis = tracelens.analyze(tmp_path)
    assert all(r.facts.weights == {32} for r in analysis.ranks)
    assert all(0 <= r.host.operand_nelems.max() < 2**48 for r in analysis.ranks)
    assert analysis.to_json()["setup"]


def test_names_in_a_terminal(analysed: tracelens.Analysis, tmp_path: Path) -> None:
    assert harmless(analysed.report(width=200))
    folder = str(Path(analysed.run.paths[0]).parent)
    for extra in ([], ["--json"], ["--rank", "7"], ["--html", str(tmp_path / "x.html")]):
        done = CliRunner().invoke(main, ["analyze", folder, *extra])
        assert harmless(done.stdout), extra
        assert harmless(done.stderr), extra


class Tags(HTMLParser):
    """What a browser would act on: elements and their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def acts(self) -> list[str]:
        """Elements that would load, run or lead somewhere else."""
        wrong = [t for t, _ in self.elements if t in ("img", "iframe", "object", "embed", "base")]
        for tag, attrs in self.elements:
            wrong += [f"{tag} {a}" for a in attrs if a.startswith("on")]
            links = [attrs.get(k) or "" for k in ("href", "src", "action", "formaction")]
            wrong += [u for u in links if u and not u.startswith(("#", "data:"))]
        return wrong


def test_names_in_a_page(analysed: tracelens.Analysis, tmp_path: Path) -> None:
    analysed.write_html(tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    for shown in (page, analysed._repr_html_()):
        assert not Tags(shown).acts()
        assert "<script>alert" not in shown
        assert "&lt;script&gt;alert" in shown
    assert len(Tags(page).elements) > 50


def test_the_tags_can_fail() -> None:
    for bad in NAMES[2:5]:
        assert Tags(f"<p title='x'>{bad}").acts() or "<script>" in bad


def test_names_in_json_are_json(analysed: tracelens.Analysis) -> None:
    text = json.dumps(analysed.to_json())
    assert harmless(text)
    assert json.loads(text) == analysed.to_json()


def test_names_choose_no_file(analysed: tracelens.Analysis, tmp_path: Path) -> None:
    """All that is written is what was asked for."""
    before = set(tmp_path.rglob("*"))
    analysed.write_html(tmp_path / "r.html")
    analysed.report()
    analysed.to_json()
    assert set(tmp_path.rglob("*")) - before == {tmp_path / "r.html"}


# ----------------------------------------------------------------------------- nothing is run
#: Modules and calls that turn data into code.
RUNS = {"pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle", "yaml", "code", "runpy"}
CALLS = {"eval", "exec", "compile", "__import__", "execfile"}


def test_nothing_of_a_file_is_unpickled_or_evaluated() -> None:
    """`pickle` is used in one module, between our own processes, through pipes."""
    wrong = []
    for path in sorted((REPO / "tracelens").rglob("*.py")):
        where = str(path.relative_to(REPO))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [n.name.split(".")[0] for n in node.names if n.name.split(".")[0] in RUNS]
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in RUNS:
                names = [str(node.module)]
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                names = [node.func.id] if node.func.id in CALLS else []
            if isinstance(node, ast.keyword) and node.arg in ("shell", "allow_pickle"):
                names = [node.arg] if getattr(node.value, "value", None) is not False else []
            wrong += [f"{where}: {n}" for n in names]
    assert wrong == ["tracelens/workers.py: pickle"]


def test_a_pickle_is_refused_unread(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    evil = b"\x80\x04cposix\nsystem\n(V" + f"touch {mark}".encode() + b"\ntR."
    for name in ("rank0.json", "memory_snapshot.pickle", "run.db"):
        (tmp_path / name).write_bytes(evil)
        with pytest.raises(InputError, match=r"pickle|not a"):
            tracelens.analyze(tmp_path / name)
    assert not mark.exists()
