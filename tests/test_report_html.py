"""The HTML file, the notebook view and the figures: self-contained, escaped, bounded, true."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builder import TraceBuilder
from test_report_case import EVIL, GROUP, run_at

import tracelens
from tracelens.errors import InputError
from tracelens.report import files
from tracelens.report.figures import text_of, timeline_figure
from tracelens.report.html import page
from tracelens.report.marks import EXPOSED, GPU_LANE, HOST_LANE, step_timeline
from tracelens.trace import Note


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose kernels, groups and folder have names that try to be HTML."""
    return run_at(tmp_path_factory.mktemp("case") / "<img src=x>", EVIL)


@pytest.fixture(scope="module")
def analysis(folder: Path) -> tracelens.Analysis:
    return tracelens.analyze(folder)


@pytest.fixture(scope="module")
def html(analysis: tracelens.Analysis) -> str:
    return page(replace(analysis, notes=(*analysis.notes, Note("evil", 1, EVIL))))


class Outline(HTMLParser):
    """Elements and their attributes outside of scripts, and the JSON of the plots."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.plots: dict[str, Any] = {}
        self._data: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        is_data = tag == "script" and dict(attrs).get("type") == "application/json"
        self._data = str(dict(attrs)["id"]) if is_data else None

    def handle_data(self, data: str) -> None:
        if self._data:
            self.plots[self._data] = json.loads(data)
            self._data = None


def without_scripts(html: str) -> str:
    return re.sub(r"<script\b.*?</script>", "", html, flags=re.DOTALL)


def test_nothing_is_fetched(html: str) -> None:
    for tag, attrs in Outline(html).seen:
        assert tag not in ("link", "iframe", "img", "base")
        assert not attrs.keys() & {"src", "href", "srcset"}
    assert "@import" not in html[: html.index("</style>")]


def test_plotly_is_there_once(html: str) -> None:
    assert html.count("plotly.js v") == 1
    assert len(html) < 8_000_000


def test_names_are_text_everywhere(html: str) -> None:
    assert "<script>alert" not in html
    visible = without_scripts(html)
    assert "&lt;img src=x&gt;" in visible  # the title and the header
    assert "<img" not in visible
    assert "&lt;b&gt;evil &amp; co&lt;/b&gt;" in visible
    assert "&lt;script&gt;alert(1)&lt;/script&gt;[bold]?[31m?gemm" in visible
    assert "\x1b" not in html
    assert "\u202e" not in html


def test_hover_texts_are_escaped(html: str) -> None:
    plots = Outline(html).plots
    assert plots.keys() == {"steps-data", "overlap-data", "timeline-data"}
    hovers = [t for trace in plots["timeline-data"]["data"] for t in trace["hovertext"]]
    evil = [t for t in hovers if "alert" in t]
    assert evil
    assert all("&lt;script&gt;" in t and "<script" not in t for t in evil)


def test_the_verdict_comes_first(html: str) -> None:
    titles = ('class="lead"', "Where each step went", "A typical step", "About the input")
    assert [html.index(t) for t in titles] == sorted(html.index(t) for t in titles)


def test_a_lost_trace_costs_the_timeline_only(folder: Path, tmp_path: Path) -> None:
    lost = tracelens.analyze(run_at(tmp_path / "run"))
    for f in (tmp_path / "run").iterdir():
        f.unlink()
    text = page(lost)
    assert "could not be read again" in text
    assert "Where each step went" in text


# ------------------------------------------------------------------------------------- writing
def test_the_file_is_written_whole(analysis: tracelens.Analysis, tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    target.write_text("old")
    analysis.write_html(target)
    text = target.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert text.endswith("</html>\n")
    assert os.listdir(tmp_path) == ["report.html"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_old_file_survives_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    target = tmp_path / "report.html"
    target.write_text("old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises((InputError, KeyboardInterrupt)):
        files.write_whole(target, "new")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.html"]


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not an ordinary file"):
        files.write_whole(tmp_path, "x")
    with pytest.raises(InputError, match="cannot be written"):
        files.write_whole(tmp_path / "none" / "x.html", "x")


# ----------------------------------------------------------------------------------- notebook
def test_the_notebook_view_has_no_script(analysis: tracelens.Analysis) -> None:
    html = analysis._repr_html_()
    assert "<script" not in html
    assert "&lt;b&gt;evil" in html
    assert "takes 1.00 ms" in html


# ------------------------------------------------------------------------------------ figures
def test_step_bars_add_up_to_the_wall(analysis: tracelens.Analysis) -> None:
    fig = analysis.figure_steps()
    assert list(fig.data[0].y) == ["rank 0 step 1", "rank 0 step 2", "rank 1 step 1"]
    total = np.sum([t.x for t in fig.data], axis=0)
    assert total == pytest.approx([1.0, 1.0, 1.0])


def test_overlap_bars(analysis: tracelens.Analysis) -> None:
    hidden, exposed = analysis.figure_overlap().data
    assert list(hidden.x) == pytest.approx([0.2 / 3])
    assert list(exposed.x) == pytest.approx([0.2 / 3])


def test_timeline_by_hand(analysis: tracelens.Analysis) -> None:
    timeline = step_timeline(analysis.open_rank(0), 0)
    assert timeline.lanes == (GPU_LANE, "stream 7 (compute)", "stream 20 (all_reduce)")
    assert timeline.window_ns == (100_000, 1_100_000)
    got = {(m.lane, m.kind, m.start_ns // 1000, m.end_ns // 1000) for m in timeline.marks}
    assert got == {
        (GPU_LANE, "compute", 100, 400),
        (GPU_LANE, EXPOSED, 400, 600),
        (GPU_LANE, "copy", 700, 750),
        ("stream 7 (compute)", "gemm", 100, 400),
        ("stream 7 (compute)", "copy", 700, 750),
        ("stream 20 (all_reduce)", "overlapped communication", 300, 400),
        ("stream 20 (all_reduce)", EXPOSED, 400, 600),
    }


def test_a_step_can_be_asked_for(analysis: tracelens.Analysis) -> None:
    fig = analysis.figure_timeline(rank=0, step=2)
    assert max(max(np.add(t.base, t.x)) for t in fig.data) == pytest.approx(0.4)
    with pytest.raises(InputError, match="no step 7"):
        analysis.figure_timeline(rank=0, step=7)
    with pytest.raises(InputError, match="no rank 5"):
        analysis.figure_timeline(rank=5)


def busy(n: int) -> TraceBuilder:
    """One step with n kernels of 1 us, every 3 us, and one long collective at their end."""
    trace = TraceBuilder().step(1, 0, 3 * n + 1000)
    for i in range(n):
        trace.kernel("gemm" if i % 2 else "vectorized_elementwise_kernel", 3 * i, 1)
    return trace.nccl(ts=3 * n, dur=500, nelems=1000)


def test_many_events_are_few_marks_and_none_is_lost(tmp_path: Path) -> None:
    n = 20_000
    seen = tracelens.analyze(busy(n).write(tmp_path / "a.json")).open_rank(0)
    for limit in (4000, 300):
        timeline = step_timeline(seen, 0, max_marks=limit)
        assert len(timeline.marks) <= limit
        on_stream = [m for m in timeline.marks if m.lane == "stream 7 (compute)"]
        assert sum(m.count for m in on_stream) == n
        assert sum(m.busy_ns for m in on_stream) == 1000 * n
        (comm,) = [m for m in timeline.marks if m.lane.startswith("stream 20")]
        assert (comm.kind, comm.busy_ns) == (EXPOSED, 500_000)
    figure = timeline_figure(timeline)
    hovers = [t for trace in figure.data for t in trace.hovertext]
    assert any("events</b>" in t for t in hovers)


def test_host_phases_are_a_lane(tmp_path: Path) -> None:
    trace = (
        TraceBuilder()
        .step(1, 0, 1000)
        .cpu_op("aten::mm", ts=10, dur=8, seq=1)
        .launch(1)
        .kernel("gemm", 20, 30, corr=1)
        .cpu_op("autograd::engine::evaluate_function: MmBackward0", ts=100, dur=8, seq=1, tid=101)
        .launch(2)
        .kernel("gemm", 120, 30, corr=2)
    )
    timeline = step_timeline(tracelens.analyze(trace.write(tmp_path / "a.json")).open_rank(0), 0)
    assert timeline.lanes[-1] == HOST_LANE
    assert {m.kind for m in timeline.marks if m.lane == HOST_LANE} == {"forward", "backward"}


def test_labels_are_plotly_text() -> None:
    assert text_of(GROUP) == "&lt;b&gt;evil &amp; co&lt;/b&gt;"
    assert len(text_of("x" * 500)) <= 90
