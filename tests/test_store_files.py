"""The file itself: other versions, other programs, other writers, and writers that die."""

from __future__ import annotations

import json
import lzma
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from test_report_case import run_at
from test_store import dump, query

import tracelens
from tracelens.cli import main
from tracelens.errors import InputError, StoreError, UsageError
from tracelens.store import Store, connect, is_store
from tracelens.store.migrations import VERSION
from tracelens.store.views import VIEWS

REPO = Path(__file__).parent.parent
V1 = Path(__file__).parent / "data" / "run_v1.db.xz"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return run_at(tmp_path / "run")


@pytest.fixture
def db(run: Path) -> Path:
    """A store with one run."""
    path = run.parent / "run.db"
    tracelens.analyze(run, db=path)
    return path


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A store of version 1, with a run and a prediction."""
    path = tmp_path / "old.db"
    path.write_bytes(lzma.decompress(V1.read_bytes()))
    return path


def run_command(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


# -------------------------------------------------------------------------------- other versions
def schema_of(path: Path) -> dict[str, Any]:
    """Columns by table, indexes and views."""
    tables = query(path, "SELECT name, strict FROM pragma_table_list WHERE type = 'table'")
    columns = 'SELECT name, type, "notnull", pk FROM pragma_table_info(?)'
    keys = 'SELECT "table", "from", "to", on_delete FROM pragma_foreign_key_list(?) ORDER BY 2'
    told: dict[str, Any] = {
        n: (s, query(path, columns, n), query(path, keys, n))
        for n, s in tables
        if n[:7] != "sqlite_"
    }
    others = "SELECT type, name, tbl_name FROM sqlite_schema WHERE type != 'table' ORDER BY 1, 2"
    return told | {"others": query(path, others)}


def test_an_older_file_is_not_read_but_upgraded(old: Path, db: Path) -> None:
    before = old.read_bytes()
    with pytest.raises(StoreError, match="earlier tracelens") as e:
        tracelens.open_store(old)
    assert "--upgrade" in (e.value.hint or "")
    assert old.read_bytes() == before

    assert run_command("runs", old, "--upgrade").exit_code == 0
    assert schema_of(old) == schema_of(db)
    assert query(old, "PRAGMA user_version") == [(VERSION,)]
    run = tracelens.open_store(old).get()
    assert (run.entry.id, run.entry.name, run.entry.n_ranks) == (1, "run", 2)
    assert run.document["summary"]["n_steps"] == 3
    assert len(run.steps) == 3
    assert run.predictions[0]["change"] == {"overlap_comm": True}
    assert query(old, "PRAGMA foreign_key_check") == []


def test_adding_a_run_upgrades_too(old: Path, run: Path) -> None:
    """The v1 run is the very one that is read now: read again, it keeps number and prediction."""
    tracelens.analyze(run, db=old)
    assert query(old, "PRAGMA user_version") == [(VERSION,)]
    (entry,) = tracelens.open_store(old).runs()
    assert entry.id == 1
    assert len(tracelens.open_store(old).get().predictions) == 1


def test_a_migration_that_fails_changes_nothing(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(db: Any) -> None:
        db.execute("CREATE TABLE half (x INTEGER)")
        raise KeyboardInterrupt

    before = dump(old)
    monkeypatch.setattr(connect, "MIGRATIONS", (fail,))
    with pytest.raises(KeyboardInterrupt):
        Store(old).upgrade()
    assert dump(old) == before


def test_a_later_file_is_left_alone(db: Path, run: Path) -> None:
    with sqlite3.connect(db) as c:
        c.execute(f"PRAGMA user_version = {VERSION + 1}")
    before = db.read_bytes()
    for attempt in (
        lambda: tracelens.open_store(db),
        lambda: tracelens.analyze(run, db=db),
        lambda: Store(db).delete(1),
        lambda: Store(db).upgrade(),
    ):
        with pytest.raises(StoreError, match="later tracelens"):
            attempt()
    assert db.read_bytes() == before


def test_views_are_those_of_the_writer(db: Path) -> None:
    with sqlite3.connect(db) as c:
        c.execute("DROP VIEW what_ran")
        c.execute("DROP VIEW slow_causes")
        c.execute("CREATE VIEW slow_causes AS SELECT 1")
        c.execute("CREATE VIEW mine AS SELECT 1")
    Store(db).upgrade()
    views = dict(query(db, "SELECT name, sql FROM sqlite_schema WHERE type = 'view'"))
    assert views.pop("mine") == "CREATE VIEW mine AS SELECT 1"
    assert views == {v.name: v.create for v in VIEWS}


# -------------------------------------------------------------------------------- no run.db at all
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"hello", "not a SQLite file"),
        (b"x" * 4096, "not a SQLite file"),
        ("sqlite", "SQLite file of another program"),
    ],
)
def test_other_files_are_left_alone(
    run: Path, tmp_path: Path, content: bytes | str, what: str
) -> None:
    path = tmp_path / "other.db"
    if isinstance(content, str):
        with sqlite3.connect(path) as c:
            c.execute("CREATE TABLE precious (x)")
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    for attempt in (lambda: tracelens.open_store(path), lambda: tracelens.analyze(run, db=path)):
        with pytest.raises(StoreError, match=what):
            attempt()
    assert path.read_bytes() == before
    assert not is_store(path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such file"):
        tracelens.open_store(tmp_path / "none.db")
    assert not (tmp_path / "none.db").exists()
    assert not is_store(tmp_path)


def test_an_empty_file_becomes_a_store(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "empty.db"
    path.touch()
    with pytest.raises(StoreError, match="not a SQLite file"):
        tracelens.open_store(path)
    tracelens.analyze(run, db=path)
    assert len(tracelens.open_store(path).runs()) == 1


def test_a_damaged_file_is_said(db: Path) -> None:
    data = bytearray(db.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    db.write_bytes(bytes(data))
    with pytest.raises(StoreError, match="damaged"):
        tracelens.open_store(db).get()


def test_a_store_among_traces_is_no_trace(db: Path, run: Path) -> None:
    shutil.copy(db, run / "run.db")
    cache = tracelens.open_store(db).get().cache
    inside = run / cache.parent.name / cache.name
    inside.mkdir(parents=True)
    (inside / "rank0.idx").write_bytes(b"\0\1")
    notes = tracelens.analyze(run).notes
    assert [n.code for n in notes if n.code == "unreadable_file"] == []
    with pytest.raises(UsageError, match="already read"):
        tracelens.analyze([run / "run.db", run])  # a store is read alone


# ------------------------------------------------------------------------------------ two writers
_WRITE = """
import sys, tracelens
from pathlib import Path
for run in sys.argv[2:]:
    tracelens.analyze(run, db=sys.argv[1])
"""


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    """Two processes make the file and fill it at once; half of their runs are the same."""
    runs = [run_at(tmp_path / f"run{i}", f"sm90_gemm_{i}") for i in range(6)]
    db = tmp_path / "run.db"
    orders = [runs[:4], runs[:1:-1]]
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITE, str(db), *map(str, order)],
            cwd=REPO,
            stderr=subprocess.PIPE,
            text=True,
        )
        for order in orders
    ]
    for writer in writers:
        assert writer.communicate()[1] == ""
        assert writer.returncode == 0
    entries = tracelens.open_store(db).runs()
    assert sorted(e.name for e in entries) == sorted(r.name for r in runs)
    assert query(db, "PRAGMA integrity_check") == [("ok",)]
    for entry in entries:
        direct = tracelens.analyze(tmp_path / entry.name).to_json()
        assert tracelens.open_store(db).get(entry.id).document == direct


def test_readers_see_whole_runs_while_others_write(tmp_path: Path) -> None:
    runs = [run_at(tmp_path / f"run{i}", f"sm90_gemm_{i}") for i in range(5)]
    db = tmp_path / "run.db"
    tracelens.analyze(runs[0], db=db)
    done, wrong = threading.Event(), []

    def read() -> None:
        store = tracelens.open_store(db)
        while not done.is_set():
            for entry in store.runs():
                if len(store.get(entry.id).steps) != 3:
                    wrong.append(entry)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for run in runs[1:]:
        tracelens.analyze(run, db=db)
    done.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert len(tracelens.open_store(db).runs()) == 5


def test_a_writer_that_does_not_end_is_said(
    db: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dump(db)
    monkeypatch.setattr(connect, "PATIENCE_S", 0.01)
    other = sqlite3.connect(db)
    other.execute("BEGIN EXCLUSIVE")
    for attempt in (lambda: tracelens.open_store(db), lambda: Store(db).delete(1)):
        with pytest.raises(StoreError, match="another program is writing"):
            attempt()
    other.rollback()
    other.close()
    assert dump(db) == before


# -------------------------------------------------------------------------------- writers that die
#: Fills the store from within a run's transaction until its pages are written, then dies.
_DIE = """
import os, signal, sys
from pathlib import Path
from tracelens.store.connect import writing
with writing(Path(sys.argv[1])) as db:
    db.execute("PRAGMA cache_size = 4")
    db.execute("DELETE FROM steps")
    for i in range(4000):
        db.execute(
            "INSERT INTO notes (run_id, code, count, text) VALUES (1, 'x', 1, ?)", ["y" * 500]
        )
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal")
@pytest.mark.parametrize("first", ["read", "write"])
def test_a_killed_writer_leaves_the_store_as_it_was(db: Path, run: Path, first: str) -> None:
    before = dump(db)
    size = db.stat().st_size
    done = subprocess.run([sys.executable, "-c", _DIE, str(db)], cwd=REPO, check=False)
    assert done.returncode == -signal.SIGKILL
    assert db.stat().st_size > size, "its pages were in the file"
    assert db.with_name("run.db-journal").exists()
    if first == "read":
        assert len(tracelens.open_store(db).get().steps) == 3
    else:
        Store(db).upgrade()
    assert dump(db) == before
    assert not db.with_name("run.db-journal").exists()


def test_a_run_that_cannot_be_kept_leaves_nothing(
    db: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    before = dump(db)
    monkeypatch.setattr("tracelens.store.rows.finding_rows", fail)
    with pytest.raises(KeyboardInterrupt):
        tracelens.analyze(run, ranks=[0], db=db)
    assert dump(db) == before


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere"
)
def test_a_read_only_place(db: Path, run: Path) -> None:
    db.chmod(0o444)
    db.parent.chmod(0o555)
    try:
        assert len(tracelens.open_store(db).runs()) == 1
        with pytest.raises(StoreError, match="cannot be written"):
            tracelens.analyze(run, ranks=[0], db=db)
    finally:
        db.parent.chmod(0o755)


# ------------------------------------------------------------------------------------ the command
def test_the_list(db: Path) -> None:
    done = run_command("runs", db)
    assert done.exit_code == 0
    assert "run" in done.stdout
    assert "2 of 3" in done.stdout
    (row,) = json.loads(run_command("runs", db, "--json").stdout)["runs"]
    assert (row["id"], row["name"], row["n_events"]) == (1, "run", 15)


def test_names_of_folders_reach_no_terminal(tmp_path: Path) -> None:
    folder = run_at(tmp_path / "\x1b[31mred[bold]")
    tracelens.analyze(folder, db=tmp_path / "run.db")
    for args in ((), ("--delete", "1")):
        done = run_command("runs", tmp_path / "run.db", *args)
        assert "\x1b" not in done.stdout + done.stderr
        assert "[bold]" in done.stdout + done.stderr


def test_deleting(db: Path) -> None:
    done = run_command("runs", db, "--delete", "run")
    assert done.exit_code == 0
    assert "deleted run 1" in done.stderr
    assert "No runs" in done.stdout
    assert run_command("runs", db, "--delete", "run").exit_code == 2


def test_export(db: Path, run: Path, tmp_path: Path) -> None:
    import pandas as pd

    tracelens.analyze(run, ranks=[1], db=db)
    folder = tmp_path / "tables"
    assert run_command("runs", db, "--export", folder).exit_code == 0
    steps = pd.read_csv(folder / "steps.csv")
    assert steps["run_id"].tolist() == [1, 1, 1, 2]
    assert steps["exposed_wait_ms"].isna().sum() == 2  # empty where the trace does not say
    assert run_command("runs", f"{db}#2", "--export", folder).exit_code == 0
    assert pd.read_csv(folder / "steps.csv")["run_id"].tolist() == [2]
    assert {p.suffix for p in folder.iterdir()} == {".csv"}


def test_parquet_without_pyarrow_is_said(
    db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = run_command("runs", db, "--export", tmp_path / "tables", "--format", "parquet")
    assert done.exit_code == 2
    assert "needs pyarrow" in done.stderr
    assert not (tmp_path / "tables").exists()


def test_parquet(db: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import pandas as pd

    folder = tmp_path / "tables"
    assert run_command("runs", db, "--export", folder, "--format", "parquet").exit_code == 0
    frame = pd.read_parquet(folder / "steps.parquet")
    assert frame["wall_ms"].tolist() == [1.0, 1.0, 1.0]


def test_commands_take_a_stored_run(db: Path, run: Path, tmp_path: Path) -> None:
    direct, kept = (run_command("analyze", p, "--json").stdout for p in (run, db))
    assert kept == direct
    assert run_command("analyze", db).stdout == run_command("analyze", run).stdout
    page = tmp_path / "r.html"
    assert run_command("analyze", f"{db}#run", "--html", page).exit_code == 0
    assert page.stat().st_size
    assert run_command("check", db, "--max-step-ms", 2).exit_code == 0
    assert run_command("compare", db, run, "--fail-if-slower", 0).exit_code == 0
    assert run_command("analyze", f"{db}#7").exit_code == 2
    assert run_command("runs", tmp_path / "none.db").exit_code == 1


def test_a_file_with_the_mark_in_its_name_is_that_file(db: Path, run: Path) -> None:
    odd = run.parent / "run.db#1"
    shutil.copy(run / "rank1.json", odd)
    assert tracelens.analyze(odd).run.n_events == tracelens.analyze(run, ranks=[1]).run.n_events


def test_keeping_is_talk_and_no_data(run: Path, tmp_path: Path) -> None:
    for _ in range(2):
        done = run_command("analyze", run, "--json", "--db", tmp_path / "new.db")
        assert done.exit_code == 0
        assert json.loads(done.stdout)["format"] == 1
        assert "new.db" in done.stderr
        assert "new.db" not in done.stdout


def test_a_missing_folder_is_said_before_reading(run: Path, tmp_path: Path) -> None:
    done = run_command("analyze", run, "--db", tmp_path / "none" / "run.db")
    assert done.exit_code == 2
    assert "no folder" in done.stderr


def test_trace_files_that_are_gone_are_said(db: Path, run: Path) -> None:
    shutil.rmtree(run)
    kept = tracelens.open_store(db).get()
    assert len(kept.steps) == 3
    with pytest.raises(InputError, match=r"rank0\.json"):
        kept.open_rank(0)
    with pytest.raises(UsageError):
        kept.open_rank(5)


def test_trace_files_that_are_others_by_now_are_said(db: Path, run: Path) -> None:
    """Also those of the same size, where the run was kept with a digest."""
    file = run / "rank0.json"
    file.write_bytes(file.read_bytes().replace(b"sm90_gemm", b"sm80_gemm"))
    kept = tracelens.open_store(db).get()
    with pytest.raises(StoreError, match="changed since the run was kept"):
        kept.open_rank(0)
    assert len(kept.open_rank(1).trace.slices)
    file.write_bytes(file.read_bytes() + b"\n")
    with pytest.raises(InputError, match="changed since it was analysed"):
        tracelens.analyze(db).events(0)


def test_a_prediction_is_kept_and_held_against_what_came(tmp_path: Path) -> None:
    """Asked of a run in a store, a what-if is kept there; compare finds it by the change."""
    traces = REPO.parent / "shared" / "traces"
    if not traces.is_dir():
        pytest.skip("the recorded runs are not beside this checkout")
    db = tmp_path / "run.db"
    for name in ("s_shm_z2_off_rb5e07", "s_shm_z2_on_rb5e07"):
        tracelens.analyze(traces / name, db=db)
    asked = run_command("whatif", f"{db}#1", "--set", "overlap_comm=true", "--json")
    assert asked.exit_code == 0
    (kept,) = tracelens.open_store(db).get(1).predictions
    assert kept == json.loads(asked.stdout)
    told = json.loads(run_command("compare", f"{db}#1", f"{db}#2", "--json").stdout)
    assert told["prediction"]["ratio"] == pytest.approx(kept["predicted"]["ratio"], abs=1e-6)
    assert told["prediction"]["measured_ratio"] == pytest.approx(0.834, abs=0.002)
    assert tracelens.compare(f"{db}#1", f"{db}#2").to_json() == told
    back = json.loads(run_command("compare", f"{db}#2", f"{db}#1", "--json").stdout)
    assert back["prediction"] is None
