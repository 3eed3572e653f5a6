"""Names, sizes and stores that somebody made to do harm, in every output but the report.

tests/test_hostile.py has the report itself, tests/test_timeline_routes.py what the timeline gives.
"""

from __future__ import annotations

import copy
import csv
import json
import re
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import fuzzing
import pytest
import zstandard
from builder import BACKWARD_TID, TraceBuilder
from click.testing import CliRunner, Result
from dash_case import open_runs
from test_dashboard_server import ask
from test_hard_runs import rank_of, run
from test_hostile import NAMES, harmless, hostile

import tracelens
from dashboards.app import create_app
from dashboards.pages import PAGES
from tracelens.cli import main
from tracelens.errors import StoreError
from tracelens.gradients import find_gradients
from tracelens.ingest import open_trace
from tracelens.links import comm_spans
from tracelens.operands import first_nelems
from tracelens.pipeline import look
from tracelens.report.figures import overlap_figure, step_breakdown_figure
from tracelens.store import Store, codec

FORMULA = ("=", "+", "-", "@", "\t", "\r")


def call(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


# ----------------------------------------------------------------------------------- names
@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks whose every name is hostile, in a folder of such a name."""
    folder = tmp_path_factory.mktemp("evil") / "=cmd|' !A0<img src=x>\x1b[31m"
    folder.mkdir()
    return run(folder, {r: hostile(r) for r in range(2)})


@pytest.fixture(scope="module")
def renamed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recorded run with its operators, kernels and ranges named so as well: all is predicted."""
    folder = tmp_path_factory.mktemp("renamed") / "[bold red]\x1b[2J"
    folder.mkdir()
    for rank, trace in copy.deepcopy(fuzzing.recorded()).items():
        for i, e in enumerate(e for e in trace["traceEvents"] if e.get("ph") == "X"):
            if i % 3 == 0 and "nccl" not in e["name"] and e.get("cat") in ("kernel", "cpu_op"):
                e["name"] += NAMES[i // 3 % len(NAMES)]
        trace["deviceProperties"][0]["name"] = NAMES[0]
        (folder / f"rank{rank}.json").write_text(json.dumps(trace), encoding="utf-8")
    return folder


#: What is no error of a recorded run: that errors are harmless would prove little.
ANSWERED = (("whatif", "--set", "overlap_comm=false"), ("tune",), ("critical-path",), ("compare",))


@pytest.mark.parametrize("run_of", ["evil", "renamed"])
@pytest.mark.parametrize(
    "question",
    [
        ("whatif", "--set", "overlap_comm=false"),
        ("whatif", "--set", "interconnect_speed=2"),
        ("tune",),
        ("memory",),
        ("critical-path",),
        ("check", "--max-step-ms", "0.001"),
        ("compare",),
    ],
)
def test_names_in_a_terminal(
    run_of: str, question: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(run_of)
    places = (folder, folder) if question[0] == "compare" else (folder,)
    for extra in ((), ("--json",)):
        done = call(question[0], *places, *question[1:], *extra)
        answers = run_of == "renamed" and question in ANSWERED
        assert done.exit_code in ((0,) if answers else (0, 1, 3)), done.stderr
        assert harmless(done.stdout), (question, extra)
        assert harmless(done.stderr), (question, extra)
        if extra and done.stdout:
            json.loads(done.stdout)


def cells(folder: Path) -> Iterator[str]:
    for path in folder.glob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.reader(file):
                yield from row


def test_exported_tables_hold_no_formulas(evil: Path, tmp_path: Path) -> None:
    store, folder = tmp_path / "run.db", tmp_path / "tables"
    tracelens.analyze(evil, db=store)
    done = call("runs", store, "--export", folder)
    assert done.exit_code == 0
    assert harmless(done.stdout + done.stderr)
    told = list(cells(folder))
    assert any(c.startswith("'=cmd") for c in told)
    for text in told:
        assert harmless(text)
        assert not text.startswith(FORMULA) or _is_number(text), text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def test_several_lines_stay_several(evil: Path, tmp_path: Path) -> None:
    """The verdict of a run is sentences, a line each."""
    store, folder = tmp_path / "run.db", tmp_path / "tables"
    told = tracelens.analyze(evil, db=store).to_json()["verdict"]
    assert call("runs", store, "--export", folder).exit_code == 0
    with (folder / "runs.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert len(row["verdict"].split("\n")) == len(told)


def test_a_tuned_config_holds_values_only(renamed: Path, tmp_path: Path) -> None:
    config = tmp_path / "ds.json"
    zero = {"stage": 1, "overlap_comm": False, "reduce_bucket_size": 5e8}
    config.write_text(json.dumps({NAMES[0]: NAMES[7], "zero_optimization": zero}))
    for name in ("tuned.json", "tuned.hjson"):
        done = call("tune", renamed, "--ds-config", config, "--write", tmp_path / name)
        assert done.exit_code == 0, done.stderr
        assert harmless(done.stdout + done.stderr)
        if (tmp_path / name).exists():
            assert harmless((tmp_path / name).read_text(encoding="utf-8"))


# ----------------------------------------------------------------------------------- pages
#: What plotly itself is asked to draw; it would make a link of an ``<a>``.
DRAWN = {"b", "br", "extra", "i"}


def figures_in(told: object) -> Iterator[dict[str, Any]]:
    """Plotly's figures anywhere within JSON."""
    if isinstance(told, dict):
        if {"data", "layout"} <= set(told):
            yield told
        for value in told.values():
            yield from figures_in(value)
    elif isinstance(told, list):
        for value in told:
            yield from figures_in(value)


def tags_in(figure: object) -> set[str]:
    """Elements that its texts would become."""
    return {m.lower() for m in re.findall(r"</?\s*([A-Za-z][\w-]*)", json.dumps(figure))}


def test_names_in_charts(evil: Path) -> None:
    """Names are escaped in every chart of every page and report, so in PNG files too."""
    client = create_app(open_runs(evil)).server.test_client()
    drawn = []
    for page in PAGES:
        drawn += figures_in(json.loads(ask(client, page.path, "?run=1")))
    a = tracelens.analyze(evil)
    drawn += [f.to_dict() for f in (step_breakdown_figure(a), overlap_figure(a))]
    assert len(drawn) > 5
    found = set().union(*(tags_in(json.loads(json.dumps(f, default=str))) for f in drawn))
    assert found <= DRAWN
    assert tags_in({"text": f"{NAMES[2]} {NAMES[4]}"}) >= {"script", "img", "a"}


# ----------------------------------------------------------------------------------- sizes
HUGE = ([2**40, 2**40], [2**31] * 40, [2**62, 2], [-(2**40), -8], [10**30], [float("1e300")])


def vast(rank: int) -> TraceBuilder:
    """A rank whose tensors are larger than any memory, before torch 2.3: sizes are shapes."""
    b = rank_of(rank, 2)
    b.events = [e for e in b.events if "nccl" not in e["name"] and "comms" not in e["name"]]
    node = "autograd::engine::evaluate_function: torch::autograd::AccumulateGrad"
    for step in range(1, 5):
        for i, dims in enumerate(HUGE):
            at, corr = step * 1000 + 340 + 20 * i, step * 1000 + i
            b.cpu_op("nccl:all_reduce", ts=at, dur=5, dims=[dims], types=["float"]).launch(corr)
            b.kernel("ncclKernel_AllReduce_RING_LL_Sum_float", at + 6, 9, stream=20, corr=corr)
            b.cpu_op("aten::mm", ts=at + 6, dur=1, dims=[dims, dims], types=["float", "float"])
            b.cpu_op(node, ts=at + 8, dur=4, tid=BACKWARD_TID, dims=[dims])
            b.cpu_op("torch::autograd::AccumulateGrad", ts=at + 9, dur=2, tid=BACKWARD_TID,
                     dims=[dims])  # fmt: skip
    return b


def test_absurd_tensors_have_no_size(tmp_path: Path) -> None:
    seen = look(open_trace(vast(0).write(tmp_path / "rank0.json")))
    spans = comm_spans(seen.trace)
    assert len(spans) == 4 * len(HUGE)
    assert set(first_nelems(seen.trace, spans).tolist()) == {-1}
    found = find_gradients(seen.trace, 0, 2**40)
    assert len(found) == 4 * len(HUGE)
    assert set(found.nelems.tolist()) == {-1}


def test_absurd_tensors_in_every_output(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    run(folder, {r: vast(r) for r in range(2)})
    a = tracelens.analyze(folder, db=tmp_path / "run.db")
    assert a.report()
    assert [c.bytes_per_step for c in a.collective_rows] == [None] * len(a.collective_rows)
    assert call("analyze", tmp_path / "run.db").exit_code == 0
    for question in (("whatif", "--set", "stage=1"), ("tune",), ("memory",), ("critical-path",)):
        done = call(question[0], folder, *question[1:])
        assert done.exit_code in (0, 1), done.stderr


# ----------------------------------------------------------------------------------- stores
@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    tracelens.analyze(run(folder, {r: rank_of(r, 2) for r in range(2)}), db=tmp_path / "run.db")
    return tmp_path / "run.db"


def plant(store: Path, blob: bytes) -> None:
    with closing(sqlite3.connect(store)) as db, db:
        db.execute("UPDATE reports SET analysis = ?", (blob,))


def packed_zeros(size: int, *, say: bool) -> bytes:
    """So many zeros in a frame that says so, or not; never in memory at once."""
    packer = zstandard.ZstdCompressor().compressobj(size=size if say else -1)
    block = bytes(1 << 24)
    parts = [packer.compress(block) for _ in range(size // len(block))]
    return b"".join([*parts, packer.flush()])


def lying() -> bytes:
    """A frame of 1000 bytes that claims a few more."""
    frame = bytearray(zstandard.compress(b"x" * 1000))
    assert frame[4] & 0xC0 == 0x40  # its size is written in two bytes
    frame[5:7] = b"\xff\xff"
    return bytes(frame)


@pytest.mark.parametrize("kind", ["says so", "does not say", "lies", "exabytes"])
def test_a_bomb_in_a_store_is_not_unpacked(store: Path, kind: str) -> None:
    blob = {
        "says so": lambda: packed_zeros(1 << 31, say=True),
        "does not say": lambda: packed_zeros(1 << 31, say=False),
        "lies": lying,
        "exabytes": lambda: b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 7 + b"\x0f" + bytes(20),
    }[kind]()
    plant(store, blob)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(StoreError, match="damaged"):
        _ = Store(store).get("1").analysis
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
    assert call("analyze", store).exit_code == 1
    assert call("analyze", store, "--json").exit_code == 0  # the report itself is whole


@pytest.mark.parametrize("dtype", [b"|O8", b"<U8", b"<x9", b"(3)", b"<i2"])
def test_columns_of_a_store_are_whole_numbers(store: Path, dtype: bytes) -> None:
    good = zstandard.decompress(codec.encode(tracelens.analyze(store)))
    assert good.count(b"\xa3<i8") > 10
    plant(store, zstandard.compress(good.replace(b"\xa3<i8", b"\xa3" + dtype)))
    with pytest.raises(StoreError, match="damaged"):
        _ = Store(store).get("1").analysis
