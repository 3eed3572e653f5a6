"""The collectors in training jobs on the CPU: they record, and they behave."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from test_imports import HEAVY, loaded_by

import tracelens
from collectors import CollectorWarning, Schedule, TorchTraceCollector
from collectors.torch_trace import LEVELS

REPO = Path(__file__).parent.parent


def launch(job: str, folder: Path, *args: str, processes: int = 2) -> None:
    """Run a job of the tests in several processes, as torchrun would."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    world = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(REPO),
    }
    command = [sys.executable, str(REPO / "tests" / job), *(args or [str(folder)])]
    # into files: a process whose pipe is full would keep the others waiting
    where = Path(tempfile.mkdtemp())
    logs = [where / f"{r}.log" for r in range(processes)]
    started = []
    for r, log in enumerate(logs):
        ours = {**os.environ, **world, "RANK": str(r), "LOCAL_RANK": str(r)}
        with log.open("wb") as out:
            started.append(
                subprocess.Popen(command, env=ours, stdout=out, stderr=subprocess.STDOUT)
            )
    try:
        codes = [p.wait(timeout=120) for p in started]
    finally:
        for p in started:
            p.kill()
        said = [log.read_text(encoding="utf-8", errors="replace") for log in logs]
        shutil.rmtree(where)
    assert codes == [0] * processes, "\n".join(said)


def test_importing_the_collectors_loads_nothing_heavy() -> None:
    heavy = {*HEAVY, "deepspeed", "transformers", "accelerate", "tracelens", "click"}
    assert not loaded_by("import collectors") & heavy


def test_a_collector_that_is_off_does_nothing(tmp_path: Path) -> None:
    code = (
        "from collectors import TorchTraceCollector\n"
        f"with TorchTraceCollector({str(tmp_path / 'run')!r}, enabled=False) as t:\n"
        "    for _ in range(100): t.step()\n"
        "assert not t.on"
    )
    assert "torch" not in loaded_by(code)
    assert not (tmp_path / "run").exists()


def test_ranks_that_were_not_chosen_load_no_profiler(tmp_path: Path) -> None:
    code = (
        "from collectors import TorchTraceCollector\n"
        f"with TorchTraceCollector({str(tmp_path / 'run')!r}, ranks=[1]) as t: t.step()"
    )
    assert "torch" not in loaded_by(code)


def test_two_processes(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    launch("gloo_job.py", tmp_path)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == [
        "rank0.pt.trace.json.gz",
        "rank0.run.json",
        "rank1.pt.trace.json.gz",
        "rank1.run.json",
    ]
    analysis = tracelens.analyze(tmp_path)
    assert analysis.run.ranks == (0, 1)
    assert analysis.ranks[0].step_source == "ProfilerStep"
    assert [r.steps.number.tolist() for r in analysis.ranks] == [[6, 7, 8]] * 2
    manifest = analysis.manifest
    assert manifest is not None
    assert manifest.world_size == analysis.run.world_size == 2
    assert manifest.level == "standard"
    written = json.loads((tmp_path / "rank1.run.json").read_text())
    assert written["steps"]["unprofiled"]["first_step"] == 2
    assert len(written["steps"]["unprofiled"]["each_ms"]) == 3
    assert written["steps"]["profiled"]["first_step"] == 6
    assert written["steps"]["profiled"]["count"] == 3
    assert written["ds_config"] == {"train_batch_size": 64}
    assert written["ds_config_left_out"] == ["comet"]
    step = analysis.summary.wall / 1e6
    assert manifest.profiled_step_ms == pytest.approx(step, rel=0.5)


class Steps:
    """A training loop of nothing."""

    def __init__(self) -> None:
        self.global_steps = 0


def record(folder: Path, schedule: Schedule, steps: int, **more: Any) -> TorchTraceCollector:
    pytest.importorskip("torch", reason="torch is not installed")
    with TorchTraceCollector(folder, schedule=schedule, **more) as t:
        for _ in range(steps):
            t.step()
    return t


def test_a_job_that_ends_early_leaves_what_it_recorded(tmp_path: Path) -> None:
    record(tmp_path, Schedule(0, 1, 1, 5), 4)
    assert (tmp_path / "rank0.pt.trace.json.gz").exists()
    steps = json.loads((tmp_path / "rank0.run.json").read_text())["steps"]
    assert steps["unprofiled"]["count"] == 1
    assert steps["profiled"]["count"] == 2


def test_windows_are_run_folders_of_their_own(tmp_path: Path) -> None:
    record(tmp_path, Schedule(0, 0, 1, 1, repeat=2, pause=1), 9)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["window0", "window1"]
    first = [
        json.loads((tmp_path / w / "rank0.run.json").read_text())["steps"]["profiled"]["first_step"]
        for w in ("window0", "window1")
    ]
    assert first == [1, 4]


def test_with_an_engine_micro_steps_are_not_steps(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    engine = Steps()
    with TorchTraceCollector(tmp_path, engine=engine, schedule=Schedule(0, 0, 0, 2)) as t:
        for micro in range(4):
            engine.global_steps = (micro + 1) // 2
            t.step()
        assert not t.on
    written = json.loads((tmp_path / "rank0.run.json").read_text())
    assert written["steps"]["profiled"]["count"] == 2


def test_a_failure_to_write_is_one_warning(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    (tmp_path / "run").write_text("a file where the folder should be")
    with pytest.warns(CollectorWarning, match="stops recording") as caught:
        t = record(tmp_path / "run", Schedule(0, 0, 0, 1), 5)
    assert len([w for w in caught if w.category is CollectorWarning]) == 1
    assert t.broken


def test_errors_of_the_training_pass_through(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    t = TorchTraceCollector(tmp_path, schedule=Schedule(0, 9))

    def train() -> None:
        with t:
            t.step()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    assert not t.on


@pytest.mark.parametrize("wrong", [{"active": 0}, {"repeat": 0}, {"skip": -1}])
def test_a_schedule_that_cannot_be(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="schedule"):
        Schedule(**wrong)


def test_levels_record_more_and_more() -> None:
    light, standard, deep = (set(LEVELS[k]) for k in ("light", "standard", "deep"))
    assert light < standard < deep
    with pytest.raises(ValueError, match="level 'all'"):
        TorchTraceCollector("x", level="all")  # type: ignore[arg-type]
