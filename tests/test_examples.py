"""The examples: each has a collector in it, and those that need torch alone run on the CPU."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from test_collectors import launch

import tracelens

EXAMPLES = Path(__file__).parent.parent / "examples"
SCRIPTS = sorted(p for p in EXAMPLES.glob("*.py") if p.name != "common.py")
SMALL = ("--hidden", "64", "--layers", "1", "--sequence", "8", "--vocabulary", "50")


def test_there_is_one_for_each_setup() -> None:
    assert {p.stem for p in SCRIPTS} == {
        "accelerate_job", "ddp", "deepspeed_zero", "fsdp1", "fsdp2", "inference", "moe", "pipeline",
        "trainer", "ulysses",
    }  # fmt: skip


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.stem)
def test_each_is_short_and_records(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert len(text.splitlines()) <= 80
    calls = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and _named(n)}
    assert calls & {"collector", "trainer_callback", "record_accelerate"}
    assert f"examples/{path.name}" in (ast.get_docstring(tree) or "")


def _named(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Name)


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_it_runs_on_the_cpu(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU: two processes would need two")
    launch(f"../examples/{name}.py", tmp_path, "--out", str(tmp_path), *SMALL)
    analysis = tracelens.analyze(tmp_path)
    assert analysis.setup.value("framework") == name
    assert analysis.ranks[0].steps.number.tolist() == [17, 18, 19]
    assert analysis.manifest is not None
    assert analysis.manifest.unprofiled_step_ms
