"""Findings on the screen: what they cost first, nothing that no detector found, harmless."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
from test_report_case import EVIL, run_at

import tracelens
from tracelens.detectors import Verdict
from tracelens.findings import Finding
from tracelens.host import Cause
from tracelens.infer.result import Inference, Setup
from tracelens.report import causes
from tracelens.report.html import page
from tracelens.report.palette import SEVERITY, TERMINAL_SEVERITY
from tracelens.report.terminal import render_text
from tracelens.report.verdict import verdict

#: The case's mean step is 1 ms, 1200 / 3 us = 0.4 ms of it compute.
LARGE = Finding(
    "allocator_churn",
    "Driver allocations cost 290 us a step",
    0.29,
    "critical",
    (1,),
    (1, 2),
    ("80 calls a step", "idle for 290 us"),
    "remove empty_cache",
    {"zero_optimization.offload_optimizer": None, "zero_optimization.overlap_comm": True},
)
SMALL = Finding("slow_interconnect", "Collectives are slow", 0.014, "low", (0, 1), remedy="look")
HIDDEN = Finding("uneven_work", "Rank 1 computes more; hidden", 0.0, "info", (1,), (), ("6 ms",))
VERDICTS = (
    Verdict("allocator_churn", "fired"),
    Verdict("slow_interconnect", "fired"),
    Verdict("uneven_work", "fired"),
    Verdict("gpu_shared", "clean"),
    Verdict("host_pause", "clean"),
    Verdict("dataloader_stall", "not_applicable", "no range was recorded"),
    Verdict("straggler_host", "not_applicable", "not all ranks were read"),
    Verdict("straggler_compute", "not_applicable", "not all ranks were read"),
)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tracelens.Analysis:
    return tracelens.analyze(run_at(tmp_path_factory.mktemp("case") / "run"))


@pytest.fixture(scope="module")
def analysis(case: tracelens.Analysis) -> tracelens.Analysis:
    # not in order: the report sorts
    return replace(case, finding_rows=(HIDDEN, SMALL, LARGE), verdicts=VERDICTS)


def section(text: str) -> str:
    """The section about causes of a terminal report, in one line."""
    body = text.split(f"\n{causes.TITLE}\n")[1].split("\nSetup\n")[0]
    return " ".join(body.split())


@pytest.mark.parametrize("width", [60, 80, 100, 140, 160])
def test_everything_is_said_at_any_width(analysis: tracelens.Analysis, width: int) -> None:
    text = render_text(analysis, width)
    assert max(map(len, text.splitlines())) <= width
    said = section(text)
    for part in (
        "0.290 ms 29% critical Driver allocations cost 290 us a step",
        "rank 1, steps 1, 2: 80 calls a step; idle for 290 us",
        "remedy: remove empty_cache",
        "config: zero_optimization.offload_optimizer: null",
        "config: zero_optimization.overlap_comm: true",
        # 1000 - 290 - 14 = 696 us; compute is 350 us a step on rank 0 and 500 on rank 1
        "would take about 0.696 ms: 0.425 ms of compute on the median rank and 0.271 ms that no",
        f"{causes.INFO} - Rank 1 computes more; hidden. 6 ms",
        "Looked for and not found: gpu_shared, host_pause.",
        "Not judged: dataloader_stall (no range was recorded); straggler_host, straggler_compute "
        "(not all ranks were read).",
    ):
        assert part in said


def test_the_most_expensive_comes_first(analysis: tracelens.Analysis) -> None:
    for text in (section(render_text(analysis)), page(analysis), analysis._repr_html_()):
        at = [text.index(t) for t in ("Driver allocations", "Collectives are slow")]
        assert at == sorted(at)
    assert [r.id for r in causes.cause_rows(analysis)] == [
        "allocator_churn",
        "slow_interconnect",
        "uneven_work",
    ]


def test_nothing_is_a_cause_that_no_detector_found(case: tracelens.Analysis) -> None:
    clean = replace(case, finding_rows=(), verdicts=VERDICTS[3:])
    said = section(render_text(clean))
    assert said.startswith("No cause found that is sure to cost anything; 2 of 5 checks")
    assert "remedy" not in said
    assert not any(s.startswith("Largest cause") for s in verdict(clean))


@pytest.mark.parametrize(
    ("config", "command"),
    [
        ({"zero_optimization.overlap_comm": True}, "tracelens whatif RUN --set overlap_comm=true"),
        ({"zero_optimization.offload_param": None}, ""),  # not a key that can be replayed
        (None, ""),
    ],
)
def test_a_finding_names_the_command_that_predicts_it(
    case: tracelens.Analysis, config: Mapping[str, object] | None, command: str
) -> None:
    told = Inference("framework", "deepspeed", ("deepspeed",), 1.0)
    rows = [i for i in case.setup.values() if i.key != "framework"]
    found = replace(LARGE, config=config)
    case = replace(case, finding_rows=(found,), setup=Setup((*rows, told)))
    assert causes.cause_rows(case)[0].predict == command
    assert ("predict it: " in section(render_text(case))) == bool(command)
    other = replace(case, setup=Setup((*rows, replace(told, value="ddp"))))
    assert causes.cause_rows(other)[0].predict == ""


def test_a_smaller_cause_is_not_the_largest(case: tracelens.Analysis) -> None:
    """With one rank of several exposed communication has no cause: it may be the larger one."""
    unsure = replace(case.summary, exposed_wait=None, exposed_comm=0.6 * case.summary.wall)
    known = replace(unsure, exposed_wait=0.1 * case.summary.wall)
    case = replace(case, run=replace(case.run, world_size=8))
    for summary, start in ((unsure, "Largest cause that is sure: "), (known, "Largest cause: ")):
        said = verdict(replace(case, finding_rows=(LARGE,), summary=summary))[1]
        assert said.startswith(start)
        assert ("(60%)" in said) == (summary is unsure)


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        # the cost is in the title, or it is added
        (LARGE, "Largest cause: Driver allocations cost 290 us a step (29% of the step)."),
        (
            replace(SMALL, cost_ms_per_step=0.08),
            "Largest cause: Collectives are slow (0.080 ms a step, 8%).",
        ),
        (SMALL, None),  # 1.4 % is not worth a sentence
        (HIDDEN, None),
    ],
)
def test_the_verdict_names_what_is_worth_it(
    case: tracelens.Analysis, found: Finding, sentence: str | None
) -> None:
    said = [s for s in verdict(replace(case, finding_rows=(found,))) if "cause" in s]
    assert said == ([sentence] if sentence else [])


def test_idle_is_told_by_what_the_host_did(case: tracelens.Analysis) -> None:
    """The case idles 1550 / 3 us a step; here all but 100 us of each step is the loader's."""
    ranks = []
    for r in case.ranks:
        idle = np.zeros_like(r.host.idle_ns)
        idle[:, Cause.LOADER] = r.breakdown.idle - 100_000
        idle[:, Cause.DEVICE] = 100_000
        ranks.append(replace(r, host=replace(r.host, idle_ns=idle)))
    said = verdict(replace(case, ranks=tuple(ranks)))[-1]
    assert said == (
        "The GPU is idle 0.517 ms a step (52%): for 0.417 ms the data loader is at work and for "
        "0.100 ms launched work has not started yet."
    )


def test_every_cause_of_idle_time_has_words() -> None:
    assert set(causes._IDLE) == {c.name for c in Cause}


def test_names_are_text(analysis: tracelens.Analysis) -> None:
    evil = Finding("x", EVIL, 0.5, "critical", (1,), (), (EVIL,), EVIL, {EVIL: EVIL})
    bad = replace(analysis, finding_rows=(evil, replace(evil, severity="info")))
    for text in (render_text(bad, 100), render_text(bad, 60)):
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "[bold]" in text
    for html in (page(bad), bad._repr_html_()):
        assert "<script>alert" not in html
        assert "\u202e" not in html
        assert "<script>alert(1)</script>[bold]?[31m?gemm" in unescape(html)


def test_the_page_has_a_card_a_finding(analysis: tracelens.Analysis) -> None:
    html = page(analysis)
    cards = re.findall(r'class="cause" style="--mark:(#\w+)"', html)
    assert cards == [SEVERITY["critical"], SEVERITY["low"]]
    assert "<code>zero_optimization.overlap_comm: true</code>" in html
    assert html.index("lead") < html.index(causes.TITLE) < html.index("Where each step went")
    assert "Not judged: dataloader_stall" in html


def test_the_notebook_has_titles_and_costs_only(analysis: tracelens.Analysis) -> None:
    html = analysis._repr_html_()
    assert "0.290 ms (29%): Driver allocations cost 290 us a step" in html
    assert "remove empty_cache" not in html
    assert "hidden</li>" not in html


def test_without_gpu_work_there_is_nothing_to_judge(case: tracelens.Analysis) -> None:
    idle = [replace(r, kernels=np.zeros_like(r.kernels)) for r in case.ranks]
    nothing = replace(case, ranks=tuple(idle))
    assert causes.TITLE not in render_text(nothing)
    assert causes.TITLE not in page(nothing)


def test_severities_have_a_colour_each() -> None:
    assert list(SEVERITY) == list(TERMINAL_SEVERITY) == ["critical", "high", "low", "info"]
    assert len(set(SEVERITY.values())) == 4


def test_bandwidths_of_a_shared_gpu_come_with_a_warning(case: tracelens.Analysis) -> None:
    shared = replace(case, verdicts=(Verdict("gpu_shared", "fired"),))
    for text, warned in ((render_text(shared), True), (page(shared), True), (page(case), False)):
        assert ("lengths and bandwidths are not the link" in text) == warned
