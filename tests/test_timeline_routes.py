"""What the timeline's routes answer, to good questions and to hostile ones."""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dash_case import SAMPLES, evil_run, open_runs

from dashboards.app import create_app
from dashboards.source import Source
from tracelens.classify import is_comm

BASE = "http://127.0.0.1:8050"


class Client:
    """Asks the application for the timeline of a run whose ranks are all read."""

    def __init__(self, source: Source, run: str = "1") -> None:
        self.client = create_app(source).server.test_client()
        self.run = run
        ranks = source.get(run).view.ranks  # type: ignore[union-attr]
        told = self.json(f"meta?load={','.join(map(str, ranks))}")
        until = time.monotonic() + 60
        while not all("lanes" in r for r in told["ranks"]) or not told["ranks"]:
            assert time.monotonic() < until, told
            time.sleep(0.05)
            told = self.json("meta")
        self.meta = told

    def get(self, what: str) -> Any:
        more = "&" if "?" in what else "?"
        return self.client.get(f"/_timeline/{what}{more}run={self.run}", base_url=BASE)

    def json(self, what: str) -> Any:
        answer = self.get(what)
        assert answer.status_code == 200, answer.data
        return answer.get_json()

    def rows(self, *kinds: str) -> list[str]:
        return [
            f"{r['rank']}.{i}.{d}"
            for r in self.meta["ranks"]
            for i, lane in enumerate(r["lanes"])
            if lane["kind"] in kinds
            for d in range(lane["rows"])
        ]

    def view(self, t0: int, t1: int, w: int, rows: list[str]) -> dict[str, Any]:
        raw = self.get(f"view?t0={t0}&t1={t1}&w={w}&rows={','.join(rows)}").data
        size = int.from_bytes(raw[:4], "little")
        return {"head": json.loads(raw[4 : 4 + size]), "body": raw[4 + size :]}


@pytest.fixture(scope="module")
def source() -> Source:
    return open_runs(SAMPLES / "zero2_slow_fabric")


@pytest.fixture(scope="module")
def client(source: Source) -> Client:
    return Client(source)


@pytest.fixture
def span(client: Client) -> tuple[int, int]:
    ranks = client.meta["ranks"]
    return min(r["t0"] for r in ranks), max(r["t1"] for r in ranks)


def test_every_event_is_on_a_lane(client: Client) -> None:
    for rank in client.meta["ranks"]:
        kinds = ("stream", "range", "thread")
        assert sum(lane["n"] for lane in rank["lanes"] if lane["kind"] in kinds) == rank["n"]


def test_a_viewport_tells_all_events_at_every_zoom(client: Client, span: tuple[int, int]) -> None:
    rows = client.rows("stream", "thread", "range")
    for width in (1, 50, 2_000):
        head = client.view(span[0], span[1] + 1, width, rows)["head"]
        assert sum(r["n"] for r in head["rows"]) == sum(r["n"] for r in client.meta["ranks"])


def test_the_body_is_as_long_as_the_header_says(client: Client, span: tuple[int, int]) -> None:
    width = 777
    told = client.view(*span, width, client.rows("stream", "whole", "band", "thread"))

    def padded(n: int) -> int:
        return n + -n % 4

    size = 0
    for r in told["head"]["rows"]:
        size += 16 * r["marks"] + padded(r["marks"])
        size += 2 * padded(width) if r["pixels"] else 0
        size += padded(width) if r["exposed"] else 0
    assert size == len(told["body"])


def test_a_rank_spends_its_time_as_the_report_says(client: Client, source: Source) -> None:
    """The parts of a selected step are those of the breakdown, which is computed elsewhere."""
    document = source.runs[0].view.document  # type: ignore[union-attr]
    for row in document["steps"]:
        rank = next(r for r in client.meta["ranks"] if r["rank"] == row["rank"])
        _, t0, t1 = next(s for s in rank["steps"] if s[0] == row["step"])
        lanes = f"{row['rank']}.0.0"
        (told,) = client.json(f"stats?t0={t0}&t1={t1}&rows={lanes}")["ranks"]
        assert told["wall"] / 1e6 == pytest.approx(row["wall_ms"], abs=1e-3)
        for key in ("compute", "exposed_comm", "exposed_copy", "idle"):
            assert told[key] / 1e6 == pytest.approx(row[f"{key}_ms"], abs=2e-3), (row["step"], key)


def test_an_event_knows_its_launch_and_the_same_collective(client: Client, source: Source) -> None:
    view = source.runs[0].view
    assert view is not None
    work = view.open_rank(0).work
    comm = np.flatnonzero(is_comm(work.op))
    at = int(work.row[comm[len(comm) // 2]])
    told = client.json(f"event?of=0&event={at}")
    assert told["links"][0]["how"] == "launched by"
    assert told["links"][0]["t0"] < told["t0"]
    assert [s["rank"] for s in told["same"]] == [0, 1, 2, 3]
    ends = [s["t0"] + s["dur"] for s in told["same"]]
    assert max(ends) - min(ends) < 2_000_000, "clocks are aligned: a collective ends everywhere"
    launch = client.json(f"event?of=0&event={told['links'][0]['event']}")
    assert at in [link["event"] for link in launch["links"]]


def test_search_goes_round_and_counts(client: Client) -> None:
    told = client.json("find?q=allreduce&after=-1000000000&forward=1")
    assert told["n"] == sum(told["bins"]) > 10
    seen, after = set(), -(10**9)
    for _ in range(told["n"]):
        found = client.json(f"find?q=ALLREDUCE&after={after}&forward=1")["next"]
        assert "allreduce" in found["name"].lower()
        seen.add((found["rank"], found["event"]))
        after = found["t0"]
    assert len(seen) == told["n"]
    assert client.json("find?q=no+such+name&after=0&forward=1") == {
        "n": 0,
        "bins": [],
        "next": None,
    }


def test_a_merged_pixel_tells_what_is_in_it(client: Client, span: tuple[int, int]) -> None:
    row = client.rows("stream")[0]
    told = client.json(f"pixel?rows={row}&t0={span[0]}&t1={span[1]}")
    lane = client.meta["ranks"][0]["lanes"][int(row.split(".")[1])]
    assert told["n"] == lane["n"]
    assert told["longest"]["dur"] > 0


def test_chrome_json_can_be_read_again(
    client: Client, span: tuple[int, int], tmp_path: Path
) -> None:
    from tracelens.ingest import open_trace
    from tracelens.trace import Kind

    rows = ",".join(r for r in client.rows("stream", "thread") if r.startswith("0."))
    answer = client.get(f"export?t0={span[0]}&t1={span[1]}&rows={rows}&format=json")
    told = json.loads(answer.data)["traceEvents"]
    n = sum(
        lane["n"]
        for lane in client.meta["ranks"][0]["lanes"]
        if lane["kind"] in ("stream", "thread")
    )
    assert sum(e["ph"] == "X" for e in told) == n
    starts = {e["id"] for e in told if e["ph"] == "s"}
    assert starts == {e["id"] for e in told if e["ph"] == "f"} != set()
    path = tmp_path / "window.json"
    path.write_bytes(answer.data)
    assert len(open_trace(path).slices) == n
    assert Kind.OTHER in open_trace(path).slices.kind  # a Chrome trace, no profiler's own


def test_csv_has_all_events_of_the_window(client: Client, span: tuple[int, int]) -> None:
    rows = ",".join(client.rows("stream"))
    answer = client.get(f"export?t0={span[0]}&t1={span[1]}&rows={rows}&format=csv")
    told = list(csv.DictReader(io.StringIO(answer.get_data(as_text=True))))
    n = [lane["n"] for r in client.meta["ranks"] for lane in r["lanes"] if lane["kind"] == "stream"]
    assert len(told) == sum(n)
    assert all(int(r["exposed_ns"]) <= int(r["dur_ns"]) for r in told)
    assert answer.headers["Content-Disposition"].startswith("attachment; filename=timeline_")


HOSTILE = [
    "view", "view?t0=1&t1=0&w=9", "view?t0=0&t1=1&w=0", "view?t0=0&t1=1&w=999999999",
    "view?t0=0&t1=1e9&w=9", "view?t0=0&t1=99999999999999999999&w=9", "view?t0=0&t1=9&w=9&rows=0",
    "view?t0=0&t1=9&w=9&rows=0.999.0", "view?t0=0&t1=9&w=9&rows=0.0.999",
    "view?t0=0&t1=9&w=9&rows=77.0.0", "view?t0=0&t1=9&w=9&rows=-1.0.0", "view?t0=٣&t1=9&w=9",
    "view?t0=0&t1=9&w=9&rows=../../etc/passwd", "event?of=0&event=-1", "event?of=0&event=99999999",
    "event?of=/etc&event=1", "meta?load=../x", "meta?load=99", "meta?rank=99", "meta?rank=a",
    "find?q=&after=0&forward=1", f"find?q={'x' * 5000}&after=0&forward=1",
    "find?q=a&after=0&forward=2", "stats?t0=0", "pixel?t0=0&t1=9",
    "pixel?t0=0&t1=9&rows=0.0.0,0.1.0",
    "export?t0=0&t1=9&rows=0.0.0&format=../x", "export?t0=0&t1=9&rows=0.0.0",
]  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_questions_are_refused(client: Client, what: str) -> None:
    answer = client.get(what)
    assert answer.status_code == 400
    assert set(answer.get_json()) == {"error"}
    assert "etc" not in answer.get_data(as_text=True)


@pytest.mark.parametrize("run", ["2", "../..", "/etc/passwd", "1'"])
def test_no_other_run_can_be_asked_for(client: Client, run: str) -> None:
    answer = client.client.get("/_timeline/meta", query_string={"run": run}, base_url=BASE)
    assert answer.status_code == 400


def test_nothing_can_be_written(client: Client) -> None:
    assert client.client.post("/_timeline/meta", base_url=BASE).status_code == 405


def test_a_rank_that_is_not_read_is_said_so() -> None:
    app = create_app(open_runs(SAMPLES / "zero3"))
    ask = app.server.test_client()
    until = time.monotonic() + 60
    while ask.get("/_timeline/meta", base_url=BASE).get_json()["state"]["status"] != "done":
        assert time.monotonic() < until
        time.sleep(0.05)
    told = ask.get("/_timeline/view?t0=0&t1=9&w=9&rows=0.0.0", base_url=BASE)
    assert told.status_code == 409


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(open_runs(evil_run(tmp_path_factory.mktemp("evil"))))


def test_hostile_names_are_data(evil: Client) -> None:
    """Markup stays text in JSON, and a formula does not reach a spreadsheet."""
    (rank, *_) = evil.meta["ranks"]
    rows = ",".join(evil.rows("stream", "thread"))
    where = f"t0={rank['t0']}&t1={rank['t1'] + 1}&rows={rows}"
    told = evil.get(f"stats?{where}")
    assert told.content_type == "application/json"
    answer = evil.get(f"export?{where}&format=csv").get_data(as_text=True)
    for row in csv.reader(io.StringIO(answer)):
        assert not row[3].startswith(("=", "+", "@"))
