"""run.db: what goes in comes out, by whoever writes, whenever they die."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from pandas.testing import assert_frame_equal
from test_report_case import EVIL, run_at

import tracelens
from tracelens.cli import main
from tracelens.errors import StoreError, UsageError
from tracelens.sqlite import RUN_DB
from tracelens.store import StoredRun, cache_of
from tracelens.store.describe import to_markdown
from tracelens.store.schema import TABLES
from tracelens.store.views import VIEWS

REPO = Path(__file__).parent.parent
SAMPLES = sorted(p for p in (REPO / "sample_traces").iterdir() if p.is_dir())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return run_at(tmp_path / "run")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with every sample run."""
    path = tmp_path_factory.mktemp("store") / "run.db"
    for sample in SAMPLES:
        tracelens.analyze(sample, db=path)
    return path


def query(path: Path, sql: str, *args: object) -> list[tuple[Any, ...]]:
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
        return db.execute(sql, args).fetchall()


def dump(path: Path) -> list[str]:
    """All that a store holds."""
    with sqlite3.connect(path) as db:
        return list(db.iterdump())


# ----------------------------------------------------------------------------- the same comes out
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda p: p.name)
def test_what_is_kept_is_what_was_read(samples: Path, sample: Path) -> None:
    direct = tracelens.analyze(sample)
    kept = tracelens.open_store(samples).get(kept_name(sample))
    assert kept.document == json.loads(json.dumps(direct.to_json()))
    loaded = tracelens.analyze(f"{samples}#{kept.entry.id}")
    assert loaded.to_json() == direct.to_json()
    assert loaded.report() == direct.report()
    assert_frame_equal(kept.steps, direct.steps)
    assert_frame_equal(kept.collectives, direct.collectives, rtol=0, atol=1e-5)
    assert_frame_equal(kept.comm, direct.comm)
    assert_frame_equal(kept.findings, direct.findings, rtol=0, atol=1e-6)
    for name in ("steps", "collectives", "comm"):
        assert_frame_equal(getattr(loaded, name), getattr(direct, name))


def kept_name(sample: Path) -> str:
    files = [p for p in sample.iterdir() if p.name.startswith("rank")]
    return sample.name if len(files) > 1 else f"{sample.name}/{files[0].name}"


def test_the_events_are_read_from_the_files(samples: Path) -> None:
    direct = tracelens.analyze(REPO / "sample_traces" / "zero3")
    kept = tracelens.open_store(samples).get("zero3")
    assert np.array_equal(kept.open_rank(2).work.start_ns, direct.open_rank(2).work.start_ns)
    with pytest.raises(UsageError, match="no rank 9"):
        kept.open_rank(9)


def test_from_any_folder(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths that were relative when a run was kept lead to its files from elsewhere."""
    monkeypatch.chdir(run.parent)
    tracelens.analyze("run", db="run.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    loaded = tracelens.analyze("../run.db")
    assert len(loaded.events(1)) == len(tracelens.analyze(run).events(1))
    assert len(tracelens.open_store("../run.db").get().open_rank(1).trace.slices)


@pytest.mark.parametrize("more", [["--rank", "0"], ["--ds-config", "x.json"], ["--db", "y.db"]])
@pytest.mark.parametrize("how", [[], ["--json"]])
def test_a_kept_run_takes_no_options_of_reading(
    run: Path, tmp_path: Path, how: list[str], more: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not silently: what is printed would not be what was asked for."""
    monkeypatch.chdir(tmp_path)
    tracelens.analyze(run, db="run.db")
    done = CliRunner().invoke(main, ["analyze", "run.db", *how, *more])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "already read" in done.stderr


def test_all_columns_of_tables_are_filled_by_something(samples: Path) -> None:
    """No column that nothing is ever written to, but for what needs other recordings."""
    empty = {
        f"{t.name}.{c.name}"
        for t in TABLES
        for c in t.columns
        if not query(samples, f"SELECT 1 FROM {t.name} WHERE {c.name} IS NOT NULL LIMIT 1")
    }
    rare = {"ranks.part", "runs.torch", "setup.low", "setup.high", "fits.algorithm"}
    assert {e for e in empty if not e.startswith("predictions.")} <= rare


def test_rows_agree_with_the_report(samples: Path) -> None:
    kept = tracelens.open_store(samples).get("zero3")
    summary = query(
        samples,
        "SELECT metric, value FROM breakdowns WHERE run_id = ? AND section = 'summary'",
        kept.entry.id,
    )
    assert dict(summary) == kept.document["summary"]
    setup = query(samples, "SELECT key, value FROM setup WHERE run_id = ?", kept.entry.id)
    assert [k for k, _ in setup] == list(kept.document["setup"])
    assert dict(setup)["zero_stage"] == "3"
    sentences = query(
        samples,
        "SELECT text FROM setup_evidence JOIN setup USING (setup_id) "
        "WHERE setup.run_id = ? AND key = 'zero_stage' ORDER BY position",
        kept.entry.id,
    )
    assert [t for (t,) in sentences] == kept.document["setup"]["zero_stage"]["evidence"]


# ------------------------------------------------------------------------------- the file itself
def test_tables_are_strict_and_sound(samples: Path) -> None:
    tables = query(samples, "SELECT name, strict FROM pragma_table_list WHERE type = 'table'")
    ours = {n: s for n, s in tables if not n.startswith("sqlite_")}
    assert ours == {t.name: 1 for t in TABLES}
    assert query(samples, "PRAGMA foreign_key_check") == []
    assert query(samples, "PRAGMA integrity_check") == [("ok",)]
    assert query(samples, "PRAGMA application_id") == [(RUN_DB,)]


def test_columns_are_those_documented(samples: Path) -> None:
    for t in TABLES:
        rows = query(samples, "SELECT name, type FROM pragma_table_info(?)", t.name)
        assert rows == [(c.name, c.type) for c in t.columns]
        assert all(c.doc for c in t.columns)


def test_the_page_is_the_code(update_golden: bool) -> None:
    page = REPO / "docs" / "schema.md"
    if update_golden:
        page.write_text(to_markdown(), encoding="utf-8")
    assert page.read_text(encoding="utf-8") == to_markdown()


@pytest.mark.parametrize("view", VIEWS, ids=lambda v: v.name)
def test_views_show_something(samples: Path, view: Any) -> None:
    rows = query(samples, f"SELECT * FROM {view.name}")
    assert rows
    assert any(all(v is not None for v in row) or len(row) > 8 for row in rows)


def test_views_say_what_they_should(samples: Path) -> None:
    (row,) = query(
        samples, "SELECT framework, zero_stage, step_ms FROM run_overview WHERE name = 'zero3'"
    )
    summary = tracelens.analyze(REPO / "sample_traces" / "zero3").summary
    assert row == ("deepspeed", "3", pytest.approx(summary.wall / 1e6, abs=1e-3))
    told = query(samples, "SELECT zero_stage FROM run_overview WHERE name = 'zero1_overlap'")
    assert told == [("1 or 2",)]
    steps = query(samples, "SELECT count(*) FROM finding_steps WHERE run = 'zero3'")
    assert steps[0][0] >= 4


def test_names_from_a_trace_are_data(tmp_path: Path) -> None:
    evil = "x'); DROP TABLE runs; --"
    folder = run_at(tmp_path / evil, EVIL)
    tracelens.analyze(folder, db=tmp_path / "run.db")
    assert tracelens.open_store(tmp_path / "run.db").get().entry.name == evil


# ------------------------------------------------------------------------------ known by content
def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr("tracelens.keeping.read_run", fail)


def test_a_run_is_read_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db = run.parent / "run.db"
    first = tracelens.analyze(run, db=db)
    forbid_reading(monkeypatch)
    assert tracelens.analyze(run, db=db).to_json() == first.to_json()
    assert len(tracelens.open_store(db).runs()) == 1


def test_a_file_that_was_only_touched_is_not_read_again(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = run.parent / "run.db"
    tracelens.analyze(run, db=db)
    os.utime(run / "rank0.json", (1, 1))
    forbid_reading(monkeypatch)
    tracelens.analyze(run, db=db)


def test_the_same_files_elsewhere_are_the_same_run(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db, there = run.parent / "run.db", run.parent / "moved"
    tracelens.analyze(run, db=db)
    tracelens.open_store(db).add_prediction(None, {"predicted": {"step_ms": 1.0}})
    shutil.move(run, there)
    with monkeypatch.context() as m:
        forbid_reading(m)
        again = tracelens.analyze(there, db=db)
    assert again.to_json()["run"] == tracelens.analyze(there).to_json()["run"]
    (entry,) = tracelens.open_store(db).runs()
    assert (entry.id, entry.name) == (1, "moved")
    kept = tracelens.open_store(db).get()
    assert kept.document["run"]["paths"] == [str(there / f"rank{i}.json") for i in (0, 1)]
    assert len(kept.open_rank(0).trace.slices)
    assert len(kept.predictions) == 1


def test_changed_files_are_another_run(run: Path) -> None:
    """Also where size and time of change stay, within the two seconds that times can hide."""
    db = run.parent / "run.db"
    tracelens.analyze(run, db=db)
    file = run / "rank0.json"
    stat = file.stat()
    file.write_bytes(file.read_bytes().replace(b"sm90_gemm", b"sm80_gemm"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    tracelens.analyze(run, db=db)
    assert [r.id for r in tracelens.open_store(db).runs()] == [1, 2]


def test_other_ranks_are_another_run(run: Path) -> None:
    db = run.parent / "run.db"
    tracelens.analyze(run, db=db)
    one = tracelens.analyze(run, ranks=[1], db=db)
    assert one.run.ranks == (1,)
    assert [r.n_ranks for r in tracelens.open_store(db).runs()] == [2, 1]


def test_another_ds_config_is_another_run(run: Path) -> None:
    db, config = run.parent / "run.db", run.parent / "ds.json"
    tracelens.analyze(run, db=db)
    config.write_text('{"zero_optimization": {"stage": 2}}')
    tracelens.analyze(run, db=db, ds_config=config)
    assert len(tracelens.open_store(db).runs()) == 2


def test_what_another_version_read_is_read_again(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = run.parent / "run.db"
    with monkeypatch.context() as m:
        m.setattr("tracelens.keeping.tool_version", lambda: "0.0.1")
        tracelens.analyze(run, db=db)
    assert query(db, "SELECT tracelens FROM runs") == [("0.0.1",)]
    tracelens.analyze(run, db=db)
    assert query(db, "SELECT run_id, tracelens FROM runs") == [(1, tracelens.__version__)]


def test_files_that_change_while_they_are_read_are_not_kept(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tracelens import keeping

    read = keeping.read_run

    def change(*args: Any) -> Any:
        found = read(*args)
        (run / "rank0.json").write_bytes((run / "rank0.json").read_bytes() + b"\n")
        return found

    monkeypatch.setattr(keeping, "read_run", change)
    with pytest.raises(StoreError, match=r"rank0\.json: changed while it was read"):
        tracelens.analyze(run, db=run.parent / "run.db")
    assert not (run.parent / "run.db").exists()


def test_an_analysis_of_other_types_is_not_decoded(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What draws needs the same tracelens; the report and the tables do not."""
    db = run.parent / "run.db"
    tracelens.analyze(run, db=db)
    with sqlite3.connect(db) as c:
        c.execute("UPDATE reports SET shape = 'another'")
    with pytest.raises(StoreError, match="kept by another version"):
        tracelens.analyze(db)
    kept = tracelens.open_store(db).get()
    assert kept.analysis is None
    assert kept.document["format"] == 1
    assert len(kept.steps) == 3
    tracelens.analyze(run, db=db)  # reads it again
    assert tracelens.analyze(db).run.ranks == (0, 1)


def test_a_damaged_analysis_is_said(run: Path) -> None:
    db = run.parent / "run.db"
    tracelens.analyze(run, db=db)
    with sqlite3.connect(db) as c:
        c.execute("UPDATE reports SET analysis = X'00'")
    with pytest.raises(StoreError, match="damaged"):
        tracelens.analyze(db)


# --------------------------------------------------------------------------------- finding a run
def test_runs_by_number_and_name(samples: Path) -> None:
    store = tracelens.open_store(samples)
    entries = store.runs()
    assert [e.id for e in entries] == list(range(1, len(SAMPLES) + 1))
    by_name = {e.name: e for e in entries}
    assert isinstance(store.get("zero3"), StoredRun)
    assert store.get(by_name["zero3"].id).entry == store.get("zero3").entry
    with pytest.raises(UsageError, match="holds 7 runs"):
        store.get()
    with pytest.raises(UsageError, match="holds no run 99"):
        store.get(99)


def test_what_is_kept_takes_no_options(samples: Path, tmp_path: Path) -> None:
    for options in ({"ranks": [0]}, {"db": tmp_path / "x.db"}, {"ds_config": "x"}):
        with pytest.raises(UsageError, match="already read"):
            tracelens.analyze(f"{samples}#1", **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="already read"):
        tracelens.analyze([f"{samples}#1", SAMPLES[0]])


def test_runs_in_a_store_can_be_compared(samples: Path) -> None:
    c = tracelens.compare(f"{samples}#zero1_overlap", f"{samples}#zero2_slow_fabric")
    assert (
        c.to_json()
        == tracelens.compare(
            REPO / "sample_traces" / "zero1_overlap", REPO / "sample_traces" / "zero2_slow_fabric"
        ).to_json()
    )


def test_predictions_are_kept_with_their_run(run: Path) -> None:
    db = run.parent / "run.db"
    tracelens.analyze(run, db=db)
    store = tracelens.open_store(db)
    document = {
        "format": 1,
        "change": {"overlap_comm": True},
        "predicted": {"step_ms": 90.0, "low_ms": 88.0, "high_ms": 92.0, "ratio": 0.9},
        "confidence": "high",
    }
    store.add_prediction(1, document)
    assert store.get().predictions == [document]
    assert query(db, "SELECT change, ratio FROM predictions") == [('{"overlap_comm": true}', 0.9)]
    with pytest.raises(UsageError):
        store.add_prediction(2, document)


def test_deleting_takes_all_of_a_run_and_nothing_else(run: Path) -> None:
    db = run.parent / "run.db"
    tracelens.analyze(run, ranks=[1], db=db)
    before = dump(db)
    tracelens.analyze(run, db=db)
    store = tracelens.open_store(db)
    cache = store.get(2).cache
    cache.mkdir(parents=True)
    (cache / "rank0.idx").write_bytes(b"x")
    assert store.delete(2).id == 2
    assert dump(db) == before
    assert not cache.exists()
    assert cache == cache_of(db, cache.name)
