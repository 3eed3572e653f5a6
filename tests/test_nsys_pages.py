"""Columns decoded from an SQLite file's pages are what SQLite itself says."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tracelens.ingest.nsys.pages import NotPlain, Pages

INT = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([0, 1, -1, 127, 128, -128, 2**15, -(2**23), 2**31, 2**47 - 1, 2**63 - 1]),
)


def made(path: Path, rows: list[tuple[object, ...]], page: int = 4096, **names: str) -> int:
    """A database with one table t of three columns; its root page."""
    con = sqlite3.connect(path)
    con.execute(f"PRAGMA page_size = {page}")
    con.execute("CREATE TABLE t (a INTEGER, b INTEGER, c TEXT)")
    con.executemany("INSERT INTO t VALUES (?, ?, ?)", rows)
    con.commit()
    root = int(con.execute("SELECT rootpage FROM sqlite_master").fetchone()[0])
    con.close()
    return root


def asked(path: Path) -> list[tuple[int, int]]:
    con = sqlite3.connect(path)
    found = con.execute("SELECT coalesce(a, -1), coalesce(b, -1) FROM t ORDER BY rowid").fetchall()
    con.close()
    return found


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(INT, INT, st.one_of(st.none(), st.text(max_size=70))), max_size=60),
    st.sampled_from([512, 1024, 4096, 65536]),
    st.integers(1, 40),
)
@example([(None, 0, None), (1, -1, ""), (2**63 - 1, -(2**63), "x" * 70)], 512, 30)
def test_pages_say_what_sqlite_says(rows: list[tuple[object, ...]], page: int, repeat: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.sqlite"
        root = made(path, rows * repeat, page)
        with Pages(path) as pages:
            found = pages.scan(root, {"a": 0, "b": 1})
        assert list(zip(found["a"].tolist(), found["b"].tolist(), strict=True)) == asked(path)


def test_conditions_leave_rows_out(tmp_path: Path) -> None:
    root = made(tmp_path / "t", [(i, i % 3, "x") for i in range(10_000)])
    with Pages(tmp_path / "t") as pages:
        found = pages.scan(root, {"a": 0, "b": 1}, [("b", lambda v: v == 2)])
    assert found["a"].tolist() == list(range(2, 10_000, 3))


def test_deleted_rows_are_not_seen(tmp_path: Path) -> None:
    root = made(tmp_path / "t", [(i, i, None) for i in range(5000)])
    con = sqlite3.connect(tmp_path / "t")
    con.execute("DELETE FROM t WHERE a % 7 = 0 OR a BETWEEN 1000 AND 3000")
    con.commit()
    con.close()
    with Pages(tmp_path / "t") as pages:
        found = pages.scan(root, {"a": 0, "b": 1})
    assert list(zip(found["a"].tolist(), found["b"].tolist(), strict=True)) == asked(tmp_path / "t")


def test_progress_ends_at_the_end(tmp_path: Path) -> None:
    root = made(tmp_path / "t", [(i, i, None) for i in range(200_000)])
    seen: list[tuple[int, int]] = []
    with Pages(tmp_path / "t") as pages:
        pages.scan(root, {"a": 0}, tick=lambda done, of: seen.append((done, of)))
    assert len(seen) > 1
    assert seen[-1][0] == seen[-1][1]
    assert sorted(seen) == seen


@pytest.mark.parametrize(
    "row",
    [
        (1.5, 2, None),
        ("a text of more than fifty-eight characters " * 3, 2, None),
        (b"blob", 1, None),
    ],
    ids=["float", "long text before", "blob"],
)
def test_what_is_not_plain_is_left_to_sqlite(tmp_path: Path, row: tuple[object, ...]) -> None:
    root = made(tmp_path / "t", [(1, 1, None), row])
    with Pages(tmp_path / "t") as pages, pytest.raises(NotPlain):
        pages.scan(root, {"a": 0, "b": 1})


def test_a_row_over_several_pages_is_left_to_sqlite(tmp_path: Path) -> None:
    root = made(tmp_path / "t", [(1, 1, "x" * 10_000)])
    with Pages(tmp_path / "t") as pages, pytest.raises(NotPlain):
        pages.scan(root, {"a": 0})


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damage_gives_an_answer_or_not_plain(data: st.DataObject) -> None:
    """Random bytes anywhere never crash the decoder nor make it read elsewhere."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t"
        root = made(path, [(i, 2**40 + i, "x") for i in range(300)], 512)
        raw = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 20))):
            raw[data.draw(st.integers(100, len(raw) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(bytes(raw[: data.draw(st.integers(600, len(raw)))]))
        try:
            with Pages(path) as pages:
                found = pages.scan(root, {"a": 0, "b": 1})
        except NotPlain:
            return
        assert len(found["a"]) == len(found["b"])
        assert found["a"].dtype == np.int64


@pytest.mark.parametrize("lead_to", ["itself", "one child"])
def test_pages_in_a_circle_are_no_tree(tmp_path: Path, lead_to: str) -> None:
    """Each level would hold the page that leads there again, thirty times as often."""
    path = tmp_path / "t"
    root = made(path, [(i, i, "x" * 50) for i in range(300)], 512)
    raw = bytearray(path.read_bytes())
    page = memoryview(raw)[512 * (root - 1) : 512 * root]
    assert page[0] == 5, "the root is no interior page"
    count = int.from_bytes(page[3:5], "big")
    assert count > 20
    cells = [int.from_bytes(page[12 + 2 * i : 14 + 2 * i], "big") for i in range(count)]
    child = root.to_bytes(4, "big") if lead_to == "itself" else bytes(page[8:12])
    for at in cells:
        page[at : at + 4] = child
    path.write_bytes(raw)
    with Pages(path) as pages, pytest.raises(NotPlain, match=r"leads back|two parents"):
        pages.scan(root, {"a": 0})


def test_a_write_ahead_log_is_left_to_sqlite(tmp_path: Path) -> None:
    made(tmp_path / "t", [(1, 1, None)])
    (tmp_path / "t-wal").write_bytes(b"x")
    with pytest.raises(NotPlain):
        Pages(tmp_path / "t")
