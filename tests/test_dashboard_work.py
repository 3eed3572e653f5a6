"""What pages have done behind them: charts that follow, predictions that are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dash_case import SAMPLES, open_runs

import tracelens
from dashboards.app import create_app
from dashboards.pages import PAGES, load_ahead, overview
from dashboards.pages.replays import predicted
from dashboards.query import Query
from dashboards.source import RunView, Source

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
    assert "Graph" not in page
    client = create_app(source).server.test_client()
    titles = {"steps": "Where each step went", "compute": "GPU work by kind", "idle": "Idle time"}
    for name, title in titles.items():
        assert f"'name': '{name}'" in page
        text = chart(client, "1", name).get_data(as_text=True)
        assert title in text
        assert '"type":"Graph"' in text


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
