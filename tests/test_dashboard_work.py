"""What pages have done behind them: charts that follow, what is kept, what can be cancelled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import pytest
from dash_case import SAMPLES, open_runs

import tracelens
from dashboards import verdict
from dashboards.app import create_app
from dashboards.first import first
from dashboards.jobs import Job, Tick
from dashboards.pages import PAGES, load_ahead, overview, replays
from dashboards.pages.replays import predicted
from dashboards.query import Query
from dashboards.source import RunView, Source, open_source
from dashboards.timeline.book import rank_job
from tracelens.store import events

HERE = {"Host": "127.0.0.1:8050"}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    tracelens.analyze(SAMPLES / "zero2_slow_fabric", db=tmp_path / "run.db")
    return tmp_path / "run.db"


def view_of(source: Source) -> RunView:
    found = source.runs[0].view
    assert found is not None
    return found


# ---------------------------------------------------------------------------------------- charts
def chart(client: Any, run: str, name: str) -> Any:
    """What the overview gets when it asks for a chart."""
    place = {"type": "chart", "run": run, "name": name}
    body = {
        "output": '{"name":["MATCH"],"run":["MATCH"],"type":"chart"}.children',
        "outputs": {"id": place, "property": "children"},
        "inputs": [{"id": place, "property": "id", "value": place}],
        "changedPropIds": [],
    }
    return client.post("/_dash-update-component", json=body, headers=HERE)


def test_charts_follow_the_verdict() -> None:
    source = open_runs(SAMPLES / "zero2_slow_fabric")
    page = str(overview.layout(view_of(source), Query(), source))
    assert page.count("Graph(") == 1  # an empty one, for which the browser loads plotly
    client = create_app(source).server.test_client()
    titles = {"steps": "Where each step went", "compute": "GPU work by kind", "idle": "Idle time"}
    for name, title in titles.items():
        assert f"'name': '{name}'" in page
        text = chart(client, "1", name).get_data(as_text=True)
        assert title in text
        assert '"type":"Graph"' in text


def headline(**other: Any) -> list[str]:
    """The words at the top of the overview, of a report with other values for some keys."""
    document = view_of(open_runs(SAMPLES / "zero2_kernels_only")).document | other
    told = verdict.headline(document)
    assert all(escape(w) in first(document) for w in (told.label, told.title, told.more))
    return [told.label, told.title, told.more]


def test_the_overview_begins_with_the_largest_cause_as_the_report_names_it() -> None:
    document = view_of(open_runs(SAMPLES / "zero2_kernels_only")).document
    said = next(s for s in document["verdict"] if s.startswith("Largest cause"))
    label, cause, more = headline()
    assert f"{label}: {cause} {more}".strip() == said
    unsure = "Largest cause that is sure: Late host (9 ms a step, 7%). Exposed takes more."
    assert headline(verdict=["It ran.", unsure]) == [
        "Largest cause that is sure",
        "Late host (9 ms a step, 7%).",
        "Exposed takes more.",
    ]


def test_a_run_without_large_causes_does_not_begin_with_an_alarm() -> None:
    label, cause, _ = headline(verdict=["It ran."])
    assert label == "No cause is large; the largest"
    assert cause.endswith("of the step).")
    assert headline(findings=[]) == ["", "No cause found that is sure to cost anything.", ""]
    summary = view_of(open_runs(SAMPLES / "zero2_kernels_only")).document["summary"]
    nothing = {"idle_ms": 9.0, "wall_ms": 9.0}
    said = headline(findings=[], summary=summary | nothing, verdict=["It ran.", "No GPU work."])
    assert said == ["", "No GPU work.", ""]


def test_the_page_itself_holds_the_verdict_and_names_in_it_are_text(store: Path) -> None:
    client = create_app(open_source([store])).server.test_client()  # nothing is read yet
    page = client.get("/", headers=HERE).get_data(as_text=True)
    document = tracelens.open_store(store).get(1).document
    assert escape(verdict.headline(document).title) in page
    assert 'id="first"' not in client.get("/setup", headers=HERE).get_data(as_text=True)
    assert 'id="first"' not in client.get("/?run=7", headers=HERE).get_data(as_text=True)
    named = document | {"verdict": ["<script>alert(1)</script>{%config%}", "Largest cause: <b>."]}
    made = first(named)
    assert "<script" not in made
    assert "<b>" not in made
    assert "{%" not in made


@pytest.mark.parametrize(("run", "name"), [("9", "steps"), ("1", "../etc")])
def test_what_is_no_chart_is_not_drawn(run: str, name: str) -> None:
    client = create_app(open_runs(SAMPLES / "zero2_kernels_only")).server.test_client()
    assert "Graph" not in chart(client, run, name).get_data(as_text=True)


def test_every_page_can_be_loaded() -> None:
    load_ahead().join(60)
    for page in PAGES:
        assert callable(page._loaded().layout)
        assert callable(getattr(page._loaded(), "register", None)) == page.asks


# ------------------------------------------------------------------------------------- predictions
def predict(source: Source, **change: str) -> str:
    """What the what-if page says of a change, once it is there."""
    view = view_of(source)
    done, _ = predicted(view, change)
    if not done:
        (name,) = [n for n in view.jobs._jobs if n.startswith("whatif/")]
        state = view.jobs.ask(name, lambda _: None).wait(120)
        assert state.status == "done", state
    done, part = predicted(view, change)
    assert done
    return str(part)


def test_a_prediction_is_kept_with_its_run_once(store: Path) -> None:
    assert "Kept in run.db, run 1." in predict(open_runs(store), overlap_comm="false")
    (kept,) = tracelens.open_store(store).get(1).predictions
    assert kept["change"] == {"overlap_comm": False}
    assert "Kept in run.db, run 1." in predict(open_runs(store), overlap_comm="false")
    assert tracelens.open_store(store).get(1).predictions == [kept]


def test_a_prediction_is_shown_where_the_store_cannot_be_written(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tracelens.errors import StoreError
    from tracelens.store import Store

    def full(*_: object) -> None:
        raise StoreError("run.db: the disk is full")

    monkeypatch.setattr(Store, "add_prediction", full)
    text = predict(open_runs(store), overlap_comm="false")
    assert "Not kept in run.db, run 1: run.db: the disk is full" in text
    assert "of the replayed step" in text


def test_a_prediction_of_a_folder_is_kept_nowhere() -> None:
    text = predict(open_runs(SAMPLES / "zero2_slow_fabric"), overlap_comm="false")
    assert "of the replayed step" in text
    assert "ept in" not in text


# ------------------------------------------------------------------------------------- cancelling
def until(what: Callable[[], object], why: str) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end, why
        time.sleep(0.01)


def test_who_cancels_does_not_wait_for_the_work() -> None:
    """Work that is deep in one long call stops when it comes up; the page is free before."""
    go, came_up = threading.Event(), threading.Event()

    def work(tick: Tick) -> int:
        go.wait(60)  # a long call that does not tick
        came_up.set()
        tick("on", 1, 2)
        return 1

    job = Job(work)
    job.start()
    job.cancel()
    assert job.state.status == "cancelled"
    assert not came_up.is_set()
    go.set()
    assert came_up.wait(60)
    time.sleep(0.05)
    assert job.state.status == "cancelled"
    assert job.result is None


def test_work_begun_again_is_not_disturbed_by_what_was_cancelled() -> None:
    gates, began = [threading.Event(), threading.Event()], threading.Event()
    turn = iter(gates)
    results = iter(["old", "new"])

    def work(_: Tick) -> str:
        mine, result = next(turn), next(results)
        began.set()
        mine.wait(60)
        return result

    job = Job(work)
    job.start()
    until(began.is_set, "it did not begin")
    job.cancel()
    job.start()
    assert job.state.status == "running"
    gates[0].set()  # the first comes back late, with a result that nobody wants
    time.sleep(0.1)
    assert job.state.status == "running"
    gates[1].set()
    assert job.wait(60).status == "done"
    assert job.result == "new"


def test_a_cancelled_job_that_is_done_stays_done() -> None:
    job = Job(lambda _: 3)
    job.start()
    job.wait(60)
    job.cancel()
    assert (job.state.status, job.result) == ("done", 3)


def test_reading_the_recording_again_stops_with_the_prediction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stopped, went = threading.Event(), threading.Event()

    def endless(_: object, progress: Tick) -> None:
        went.set()
        try:
            while True:
                progress("rank 0", 1, 2)
                time.sleep(0.001)
        finally:
            stopped.set()

    monkeypatch.setattr(replays, "load", endless)
    view = view_of(open_runs(SAMPLES / "zero2_slow_fabric"))
    predicted(view, {"overlap_comm": "false"})
    assert went.wait(60)
    (name,) = [n for n in view.jobs._jobs if n.startswith("whatif/")]
    view.jobs.ask(name, lambda _: None).cancel()
    assert stopped.wait(60)


def test_reading_a_rank_tells_how_far_it_is() -> None:
    told: list[tuple[str, int, int]] = []
    view_of(open_runs(SAMPLES / "zero2_slow_fabric")).open_rank(2, lambda *a: told.append(a))
    assert told
    assert told[-1][0] == "rank 2"
    assert told[-1][1] <= told[-1][2]


def test_only_a_page_of_ours_can_cancel() -> None:
    source = open_runs(SAMPLES / "zero2_slow_fabric")
    client = create_app(source).server.test_client()
    at = "/_timeline/cancel?run=1&load=0"
    go = threading.Event()
    view = view_of(source)
    slow = replace(view, open_rank=lambda *_: go.wait(60) and view.open_rank(0))
    source.runs[0].job._result = slow
    job = rank_job(slow, 0)
    other = HERE | {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client.post(at, headers=other).status_code == 403
    client.get(at, headers=HERE)  # a link from anywhere can do this
    assert job.state.status == "running"
    assert client.post(at, headers=HERE).status_code == 200
    assert job.state.status == "cancelled"
    go.set()
    again = client.get("/_timeline/meta?run=1&load=0", headers=HERE)
    assert again.status_code == 200
    assert rank_job(view_of(source), 0).wait(60).status == "done"


# -------------------------------------------------------------------------------- events are kept
def test_events_are_read_once_and_kept_beside_the_store(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "WORTH_EVENTS", 1)
    run = tracelens.open_store(store).get(1)
    first = view_of(open_runs(store)).open_rank(1)
    until(lambda: events.kept(run.cache, 1), "nothing was kept")
    told: list[Any] = []
    again = view_of(open_runs(store)).open_rank(1, lambda *a: told.append(a))
    assert not told, "the trace was read again"
    assert again.trace.slices.ts_ns.tolist() == first.trace.slices.ts_ns.tolist()


def test_a_run_that_is_read_shows_progress_and_stops_when_cancelled() -> None:
    run = open_source([SAMPLES / "zero3"]).runs[0]
    run.job.start()
    run.job.cancel()
    assert run.job.state.status == "cancelled"
    run.job.start()
    assert run.job.wait(120).status == "done"
