"""The dashboard without a browser: who may ask, what is answered, jobs, places and numbers."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from builder import TraceBuilder
from click.testing import CliRunner
from dash_case import evil_run, open_runs, read_all, serving
from flask.testing import FlaskClient
from test_report_case import run_at

import tracelens
from dashboards import measure, places, ui
from dashboards.app import create_app
from dashboards.guard import is_loopback
from dashboards.jobs import Cancelled, Job, Jobs, Tick
from dashboards.pages import PAGES, ranks
from dashboards.query import Query
from dashboards.source import RunView, Source, open_source
from tracelens.cli import main
from tracelens.errors import InputError, UsageError


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("case")
    return open_runs(evil_run(folder), run_at(folder / "run"))


@pytest.fixture(scope="module")
def client(source: Source) -> FlaskClient:
    return create_app(source).server.test_client()


@pytest.fixture
def view(source: Source) -> RunView:
    found = source.runs[1].view
    assert found is not None
    return found


HERE = {"Host": "127.0.0.1:8050"}


# ------------------------------------------------------------------------------------ who may ask
@pytest.mark.parametrize("host", ["127.0.0.1:8050", "localhost:9999", "localhost", "[::1]:8050"])
def test_names_of_this_machine_are_answered(client: FlaskClient, host: str) -> None:
    assert client.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8050", "127.0.0.1.evil.example", ""]
)
def test_a_rebound_name_is_refused(client: FlaskClient, host: str) -> None:
    assert client.get("/", headers={"Host": host}).status_code in (400, 403)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "http://127.0.0.1:8050"}, 200),
    ],
)
def test_other_sites_pages_are_refused(
    client: FlaskClient, headers: dict[str, str], status: int
) -> None:
    assert client.get("/", headers=HERE | headers).status_code == status


def test_a_post_is_never_a_navigation(client: FlaskClient) -> None:
    headers = HERE | {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client.post("/_dash-update-component", headers=headers).status_code == 403


def test_another_address_answers_to_its_own_names(source: Source) -> None:
    client = create_app(source, "0.0.0.0").server.test_client()
    assert client.get("/", headers={"Host": "10.1.2.3:8050"}).status_code == 200
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 403


def test_what_is_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "localhost.evil.example")))


def test_browsers_may_load_from_here_only(client: FlaskClient) -> None:
    policy = client.get("/", headers=HERE).headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe-eval" not in policy
    assert "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]
    assert "http" not in policy


def test_no_file_of_the_machine_is_served(client: FlaskClient) -> None:
    for path in (
        "/assets/../app.py",
        "/assets/%2e%2e/app.py",
        "/etc/passwd",
        "/assets//etc/passwd",
    ):
        answer = client.get(path, headers=HERE)
        assert b"create_app" not in answer.data
        assert b"root:" not in answer.data


def test_all_scripts_come_from_here(client: FlaskClient) -> None:
    text = client.get("/", headers=HERE).get_data(as_text=True)
    assert 'src="/_dash-component-suites' in text
    assert 'src="http' not in text
    assert 'href="http' not in text


# ----------------------------------------------------------------------------------------- pages
def ask(client: FlaskClient, pathname: str, search: str = "") -> str:
    """What the routing callback answers to a URL, as JSON text."""
    outputs = ["page.children", "nav.children", "run-choice.children", "run-facts.children"]
    body = {
        "output": f"..{'...'.join(outputs)}..",
        "outputs": [{"id": o.split(".")[0], "property": "children"} for o in outputs],
        "inputs": [
            {"id": "url", "property": "pathname", "value": pathname},
            {"id": "url", "property": "search", "value": search},
            {"id": "ready", "property": "data", "value": None},
        ],
        "changedPropIds": ["url.pathname"],
    }
    answer = client.post("/_dash-update-component", json=body, headers=HERE)
    assert answer.status_code == 200, answer.data[:500]
    return answer.get_data(as_text=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.path)
@pytest.mark.parametrize("search", ["", "?run=2&rank=1&step=1", "?rank=99&step=99&run=2"])
def test_every_page_answers(client: FlaskClient, page: Any, search: str) -> None:
    text = ask(client, page.path, search)
    assert json.loads(text)["response"]["page"]["children"]


def test_the_overview_opens_at_the_verdict(client: FlaskClient) -> None:
    text = ask(client, "/", "?run=2")
    assert "takes 1.00 ms" in text
    assert text.index("a step takes") < text.index("What slows the step")


def test_unknown_places_are_said(client: FlaskClient) -> None:
    assert "There is no such page here" in ask(client, "/nowhere")
    assert "There is no such run here" in ask(client, "/", "?run=../../etc")


def test_nothing_is_markdown_or_raw_html(client: FlaskClient) -> None:
    """Names are the text of components; no component that reads HTML or Markdown is used."""
    for page in PAGES:
        text = ask(client, page.path, "?run=1")
        assert "dangerously" not in text
        assert '"type":"Markdown"' not in text


def test_formulas_are_no_cells() -> None:
    rows = [{"a": "=cmd|' /C calc'!A0", "b": "gemm", "c": -1.5}]
    grid = ui.table("t", [], rows).children[0]
    assert grid.rowData == [{"a": "'=cmd|' /C calc'!A0", "b": "gemm", "c": -1.5}]


# ------------------------------------------------------------------------------------------ URLs
def test_a_query_keeps_what_it_does_not_know() -> None:
    query = Query.parse("?run=1&rank=0&t0=5&q=%3Cb%3E")
    assert query.search(rank=3) == "?run=1&rank=3&t0=5&q=%3Cb%3E"
    assert query.link("/ranks") == "/ranks?run=1&rank=0"


@pytest.mark.parametrize("text", ["-1", "1.5", "x", "", "9" * 30, "²"])
def test_no_number_is_none(text: str) -> None:
    assert Query.parse(f"?rank={text}").integer("rank") is None


# ------------------------------------------------------------------------------------------ jobs
def test_a_job_can_be_cancelled_and_started_again() -> None:
    go = threading.Event()

    def work(tick: Tick) -> int:
        while not go.wait(0.001):
            tick("waiting", 1, 4)
        return 7

    job = Job(work)
    job.start()
    job.cancel()
    assert job.wait(10).status == "cancelled"
    go.set()
    job.start()
    assert job.wait(10).status == "done"
    assert job.result == 7


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (InputError("no such trace", hint="look"), "no such trace"),
        (OSError("disk"), "disk"),
        (ValueError("odd"), "this is a bug in tracelens"),
    ],
)
def test_a_job_says_what_went_wrong(
    error: Exception, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(_: Tick) -> None:
        raise error

    job = Job(work)
    job.start()
    state = job.wait(10)
    assert state.status == "failed"
    assert says in state.message
    assert ("Traceback" in capsys.readouterr().err) == isinstance(error, ValueError)


def test_the_same_question_is_asked_once_and_old_ones_are_forgotten() -> None:
    jobs = Jobs(keep=2)
    calls: list[str] = []

    def work(name: str) -> Any:
        return lambda _: calls.append(name)

    for name in ("a", "a", "b", "a", "c"):
        jobs.ask(name, work(name)).wait(10)
    assert calls == ["a", "b", "c"]
    assert jobs.get("b") is None
    assert jobs.get("a") is not None


def test_reading_can_be_cancelled(tmp_path: Path) -> None:
    run = open_source([run_at(tmp_path / "run")]).runs[0]

    def tick(*_: object) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        run.job._work(tick)


def test_a_broken_run_is_told(tmp_path: Path) -> None:
    (tmp_path / "rank0.json").write_text("{")
    run = open_source([tmp_path]).runs[0]
    run.job.start()
    state = run.job.wait(10)
    assert state.status == "failed"
    assert "rank0.json" in state.message


def test_what_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        open_source([tmp_path / "none"])


# ---------------------------------------------------------------------------------------- places
def test_a_step_is_where_it_was(view: RunView) -> None:
    place = places.of_step(view.document, 0, 2)
    assert place == places.Place(0, 2, 1_100_000, 2_100_000)
    assert places.of_step(view.document, 0, 9) is None


def test_a_finding_leads_to_its_longest_proof(view: RunView) -> None:
    moments = ((300_000, 600_000), (1_300_000, 1_400_000))
    proof = [
        {"rank": 0, "step": i, "start_ns": a, "end_ns": b, "name": "nccl", "row": -1}
        for i, (a, b) in enumerate(moments, 1)
    ]
    place = places.of_finding(view, {"ranks": [0], "steps": [], "proof": proof})
    # a quarter of its length on either side
    assert place == places.Place(0, 1, 225_000, 675_000)


def test_a_finding_without_proof_leads_to_a_step(view: RunView) -> None:
    place = places.of_finding(view, {"ranks": [1], "steps": [], "proof": []})
    assert place == places.Place(1, 1, 0, 1_000_000)
    assert places.of_finding(view, {"ranks": [7], "steps": [], "proof": []}) is None


# ----------------------------------------------------------------------------------------- store
def test_a_store_opens_all_its_runs_and_shows_the_same(tmp_path: Path) -> None:
    folders = [run_at(tmp_path / "a"), evil_run(tmp_path)]
    for folder in folders:
        tracelens.analyze(folder, db=tmp_path / "run.db")
    kept, read = open_runs(tmp_path / "run.db"), open_runs(*folders)
    assert [r.name for r in kept.runs] == [r.name for r in read.runs]
    for a, b in zip(kept.runs, read.runs, strict=True):
        assert a.view is not None
        assert b.view is not None
        assert a.view.document == b.view.document
        pd.testing.assert_frame_equal(a.view.comm, b.view.comm)
        assert len(a.view.open_rank(0).trace.slices) == len(b.view.open_rank(0).trace.slices)
        assert a.view.analysis() is not None
    (one,) = open_runs(f"{tmp_path / 'run.db'}#2").runs
    assert one.name == folders[1].name


def test_a_store_and_a_folder_can_be_compared(tmp_path: Path) -> None:
    tracelens.analyze(run_at(tmp_path / "a"), db=tmp_path / "run.db")
    source = open_runs(tmp_path / "run.db", run_at(tmp_path / "b"))
    text = ask(create_app(source).server.test_client(), "/compare")
    assert "What was changed" in text


def test_flops_are_shown_where_they_were_counted(tmp_path: Path) -> None:
    from test_manifest import write

    counted = {
        "step": 1, "micro_steps": 1, "forward": 10**9, "backward": 2 * 10**9, "recompute": 0,
        "parameters": 1000, "by_op": {}, "not_counted": [],
        "modules": [
            {"name": "blocks.<b>0", "type": "Block", "calls": 1, "forward": 10**9,
             "latency_ms": 0.5, "parameters": 1000}
        ],
    }  # fmt: skip
    write(run_at(tmp_path / "a"), 0, flops=counted)
    text = ask(create_app(open_runs(tmp_path / "a")).server.test_client(), "/flops")
    assert "3 GFLOP" in text
    assert "blocks.<b>0" in text.encode().decode("unicode_escape")


def test_of_many_ranks_a_map_shows_those_that_wait_most() -> None:
    weights = np.zeros(500)
    weights[[7, 444]] = 5
    keep = ranks._most(weights)
    assert len(keep) == 64
    assert {7, 444} <= set(keep)
    assert "64 of 500" in ranks._left_out(500, len(keep))


def test_the_given_configuration_stands_beside_the_trace(tmp_path: Path) -> None:
    config = tmp_path / "ds.json"
    config.write_text(json.dumps({"zero_optimization": {"stage": 3}}))
    source = read_all(open_source([run_at(tmp_path / "a")], config))
    text = ask(create_app(source).server.test_client(), "/setup")
    assert "ds_config says" in text
    assert "ds.json" in text


# --------------------------------------------------------------------------------------- numbers
@pytest.fixture(scope="module")
def waits(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Two ranks, two all-reduces: rank 1 is 40 us late to the first, rank 0 10 us to the second."""
    folder = tmp_path_factory.mktemp("waits")
    starts = {0: (100, 510), 1: (140, 500)}
    for rank, (a, b) in starts.items():
        trace = TraceBuilder(rank=rank, world_size=2).step(1, 0, 1000)
        trace.launch(1, ts=60, dur=5).launch(2, ts=70, dur=5)
        trace.nccl(ts=a, dur=200 - a, nelems=1000, corr=1)
        trace.nccl(ts=b, dur=600 - b, nelems=100_000, corr=2)
        trace.write(folder / f"rank{rank}.json")
    return tracelens.analyze(folder).comm


def test_who_waits_for_whom(waits: pd.DataFrame) -> None:
    found = measure.waits_for(waits, {0: {1}, 1: {1}})
    assert found is not None
    order, matrix = found
    assert order == [0, 1]
    assert matrix == pytest.approx(np.array([[0, 0.04], [0.01, 0]]))
    assert measure.waits_for(waits, {0: set(), 1: set()}) is None


def test_waiting_by_collective(waits: pd.DataFrame) -> None:
    found = measure.skew(waits, 1)
    assert found is not None
    assert found.wait_ms == pytest.approx(np.array([[0.04, 0], [0, 0.01]]))
    merged = measure.skew(waits, 1, max_columns=1)
    assert merged is not None
    assert merged.merged == 2
    assert merged.wait_ms == pytest.approx(np.array([[0.04], [0.01]]))
    assert measure.skew(waits, 5) is None


def test_bandwidth_is_of_the_transfer(waits: pd.DataFrame) -> None:
    (found,) = measure.sizes(waits)
    assert found.bytes.tolist() == [2000, 200_000]
    assert found.transfer_ns.tolist() == [60_000, 90_000]
    assert found.busbw_gbps == pytest.approx([2000 / 60_000, 200_000 / 90_000])


def test_no_peak_is_lost() -> None:
    x = np.arange(100_000.0)
    y = np.zeros(100_000, np.int64)
    y[77_777] = 5
    at, high = measure.envelope(x, y, 100)
    assert len(at) <= 100
    assert high.max() == 5
    assert measure.envelope(x[:50], y[:50], 100)[0].tolist() == x[:50].tolist()


# --------------------------------------------------------------------------------------- command
@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is interrupted as soon as it would wait for requests."""
    from werkzeug.serving import BaseWSGIServer

    def interrupt(self: BaseWSGIServer, *_: object) -> None:
        self.server_close()
        raise KeyboardInterrupt

    monkeypatch.setattr(BaseWSGIServer, "serve_forever", interrupt)


@pytest.mark.usefixtures("once")
def test_the_command_tells_where_it_is(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["dashboard", str(run_at(tmp_path / "r")), "--port", "0"])
    assert result.exit_code == 0, result.output
    assert "http://127.0.0.1:" in result.stdout
    assert "warning" not in result.stderr


@pytest.mark.usefixtures("once")
def test_the_command_warns_of_other_addresses(tmp_path: Path) -> None:
    arguments = ["dashboard", str(run_at(tmp_path / "r")), "--port", "0", "--host", "0.0.0.0"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "there is no password" in result.stderr


def test_a_port_in_use_is_an_error(source: Source, tmp_path: Path) -> None:
    with serving(source) as address:
        port = address.rsplit(":", 1)[1]
        arguments = ["dashboard", str(run_at(tmp_path / "r")), "--port", port]
        result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert "--port 0 takes a free one" in result.stderr
