"""The terminal report and its verdict: true, legible at any width, harmless."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builder import TraceBuilder
from rich.console import Console
from test_report_case import EVIL, run_at
from test_steps import ALL_REDUCE

import tracelens
from tracelens.infer.result import Inference, Setup
from tracelens.report.terminal import _bar, render, render_text
from tracelens.report.verdict import verdict
from tracelens.trace import Note

BLOCKS = {"compute": "#", "exposed_comm": "X", "exposed_copy": "o", "idle": "."}


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> tracelens.Analysis:
    return tracelens.analyze(run_at(tmp_path_factory.mktemp("case") / "run"))


def setup_of(*rows: tuple[str, object, tuple[object, ...]]) -> Setup:
    return Setup(
        tuple(
            Inference(key, value, candidates, 0.98, (f"{key} seen", f"{key} more"))  # type: ignore[arg-type]
            for key, value, candidates in rows
        )
    )


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 160])
def test_no_line_is_wider_than_the_terminal(analysis: tracelens.Analysis, width: int) -> None:
    lines = render_text(analysis, width).splitlines()
    assert max(map(len, lines)) <= width
    assert any("A step" in line for line in lines)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_numbers_stay_whole(analysis: tracelens.Analysis, width: int) -> None:
    """The mean row has its wall and exposed time at every width, unbroken."""
    rows = [line.split() for line in render_text(analysis, width).splitlines()]
    (mean,) = [r for r in rows if r[:4] == ["all", "mean", "of", "3"]]
    assert mean[4] == "1.00"
    assert "0.07" in mean


def test_first_screen_is_the_verdict(analysis: tracelens.Analysis) -> None:
    text = render_text(analysis, 100)
    assert text.index("Verdict") < text.index("Where each step went")


def test_no_colour_unless_on_a_terminal(analysis: tracelens.Analysis) -> None:
    assert "\x1b" not in render_text(analysis)
    out = io.StringIO()
    render(analysis, Console(file=out, force_terminal=True, color_system="standard", width=100))
    assert "\x1b[" in out.getvalue()


def test_no_color_is_honoured(
    analysis: tracelens.Analysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    render(analysis, Console(file=out, force_terminal=True, color_system="standard", width=100))
    assert "\x1b[31m" not in out.getvalue()
    assert "\x1b[34m" not in out.getvalue()


def test_ascii_output_is_ascii(analysis: tracelens.Analysis) -> None:
    noted = replace(analysis, notes=(Note("x", 1, "caf\u00e9 \u2192"),))
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    render(noted, Console(file=out, width=100))
    out.flush()
    text = raw.getvalue().decode("ascii")
    assert "caf? ?" in text
    assert "Verdict" in text


def test_names_are_neither_markup_nor_escape_codes(
    analysis: tracelens.Analysis, tmp_path: Path
) -> None:
    noted = replace(
        analysis,
        notes=(Note("x", 1, EVIL),),
        setup=setup_of(("framework", EVIL, (EVIL,))),
        run=replace(analysis.run, device=EVIL, nccl=EVIL),
    )
    for text in (render_text(noted, 100), render_text(noted, 60)):
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "[bold]" in text  # shown, not obeyed


def test_bars_add_up_to_their_length() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        parts = dict(zip(BLOCKS, rng.integers(0, 1000, 4).tolist(), strict=True))
        total = sum(parts.values())
        bar = _bar(parts, total or 1, 37, BLOCKS).plain
        assert len(bar) == (37 if total else 0)
        for name, ns in parts.items():
            assert abs(bar.count(BLOCKS[name]) - 37 * ns / (total or 1)) <= 1


def test_cut_steps_are_marked(analysis: tracelens.Analysis) -> None:
    first = analysis.ranks[0]
    steps = replace(first.steps, complete=np.array([True, False]))
    cut = replace(analysis, ranks=(replace(first, steps=steps), *analysis.ranks[1:]))
    text = render_text(cut, 100)
    assert "2 *" in text
    assert "left out of the means" in text


# -------------------------------------------------------------------------------- the verdict
def test_verdict_numbers_by_hand(analysis: tracelens.Analysis) -> None:
    text = " ".join(verdict(analysis))
    assert "takes 1.00 ms" in text
    assert "0.517 ms (52%) idle" in text
    assert "0.400 ms (40%) compute" in text
    assert "for 0.067 ms a step (7%), from 0 ms on rank 1 to 0.100 ms on rank 0:" in text
    assert "of it is waiting for other ranks (not to be told closer without rank 2)" in text
    assert "ZeRO" not in text
    assert "50% of the communication runs beside compute" in text


def test_verdict_has_three_to_seven_sentences(analysis: tracelens.Analysis) -> None:
    assert 3 <= len(verdict(analysis)) <= 7


def test_what_ran(analysis: tracelens.Analysis) -> None:
    setup = setup_of(
        ("framework", "deepspeed", ("deepspeed",)),
        ("zero_stage", 2, (2,)),
        ("overlap_comm", True, (True,)),
        ("precision", "bf16", ("bf16",)),
        ("gradient_accumulation_steps", 4, (4,)),
        ("offload_optimizer", "cpu", ("cpu",)),
        ("data_parallel_size", 4, (4,)),
        ("tensor_parallel_size", 1, (1,)),
    )
    assert verdict(replace(analysis, setup=setup))[0] == (
        "DeepSpeed ZeRO-2 with overlap_comm on, bf16, 4 micro-steps a step, "
        "optimizer offloaded to cpu, 4-way data parallel, on 3 ranks (Test GPU)."
    )


def test_an_undecided_stage_stays_undecided(analysis: tracelens.Analysis) -> None:
    setup = setup_of(("framework", "deepspeed", ("deepspeed",)), ("zero_stage", None, (1, 2)))
    first, second, *_ = verdict(replace(analysis, setup=setup))
    assert first.startswith("DeepSpeed ZeRO-1 or ZeRO-2,")
    assert second.startswith("This trace cannot tell which ZeRO stage")
    assert "zero_stage more" in second


def test_an_unknown_framework_is_not_guessed(analysis: tracelens.Analysis) -> None:
    for setup in (Setup(()), setup_of(("framework", None, ("ddp", "pytorch")))):
        assert verdict(replace(analysis, setup=setup))[0].startswith("A framework that this trace")


def test_weak_answers_do_not_enter_the_verdict(analysis: tracelens.Analysis) -> None:
    weak = Setup((Inference("precision", "fp16", ("fp16",), 0.5, ("hm",)),))
    assert "fp16" not in " ".join(verdict(replace(analysis, setup=weak)))


def test_no_communication(analysis: tracelens.Analysis, tmp_path: Path) -> None:
    from test_report_case import rank1

    rank1().write(tmp_path / "rank1.json")
    alone = tracelens.analyze(tmp_path)
    assert "No communication runs on the GPU in these steps." in verdict(alone)
    assert "No communication kernels" in render_text(alone)


def test_no_gpu_work_is_said(tmp_path: Path) -> None:
    from builder import TraceBuilder

    TraceBuilder().step(1, 0, 100).cpu_op("aten::mm", ts=1, dur=5).write(tmp_path / "a.json")
    nothing = tracelens.analyze(tmp_path / "a.json")
    assert any("no GPU work" in s for s in verdict(nothing))
    assert render_text(nothing, 80)
    assert nothing._repr_html_()


def test_where_no_step_is_whole_all_count_for_collectives_too(tmp_path: Path) -> None:
    built = TraceBuilder()
    at = 0
    for products in (10, 10, 20, 20):  # no step has as much work as the usual one
        for _ in range(products):
            built.kernel("gemm", at := at + 10, 9)
        built.kernel(ALL_REDUCE, at := at + 10, 9, stream=20)
        built.kernel("adam_kernel", at := at + 10, 9)
    a = tracelens.analyze(built.write(tmp_path / "rank0.json"))
    assert not any(r.steps.complete.any() for r in a.ranks)
    (row,) = a.collective_rows
    assert row.exposed_ns == row.total_ns == a.summary.comm == 9000.0
    assert "No step was recorded whole" in a.report()
    assert "No communication kernels" not in a.report()
