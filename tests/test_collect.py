"""``tracelens collect``: jobs that nobody edited, and Nsight Systems around them."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from nsys_builder import NsysBuilder, training_step

import tracelens
from collectors import _auto, nsys
from collectors._steps import Schedule
from tracelens.cli import main

REPO = Path(__file__).parent.parent
JOB = str(REPO / "tests" / "plain_job.py")


def tracelens_collect(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tracelens", "collect", *args],
        capture_output=True, text=True, check=False, cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(REPO)},
    )  # fmt: skip


def test_a_job_that_was_not_edited_is_recorded(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    out = tmp_path / "run"
    how = ["-o", str(out), "--skip", "1", "--timed", "2", "--active", "2"]
    done = tracelens_collect("torch", *how, "--", sys.executable, JOB, "7")
    assert done.returncode == 7, done.stderr  # the job's own
    assert "1 ranks" in done.stderr
    analysis = tracelens.analyze(out)
    assert analysis.ranks[0].steps.number.tolist() == [5, 6]  # skip 1, timed 2, two to start up
    assert analysis.manifest is not None
    assert analysis.manifest.unprofiled_step_ms
    assert _auto.OPTIONS not in (out / "rank0.run.json").read_text()


def test_flops_of_a_job_that_was_not_edited(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    done = tracelens_collect("flops", "-o", str(tmp_path), "--", sys.executable, JOB, "0")
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "rank0.run.json").read_text())["flops"]
    assert (told["forward"], told["backward"]) == (2 * 4 * 8 * 8, 2 * 4 * 8 * 8)


def test_the_environments_own_sitecustomize_still_runs(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('mine')")
    code = _auto.run([sys.executable, "-c", "pass"], {"collector": "torch", "run_dir": "x"})
    assert code == 0
    hook = REPO / "collectors" / "_hook"
    path = os.pathsep.join([str(hook), str(tmp_path)])
    told = json.dumps({"collector": "torch", "run_dir": str(tmp_path)})
    done = subprocess.run(
        [sys.executable, "-c", "import sys; print('collectors' in sys.modules, len(sys.path))"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, _auto.OPTIONS: told},
    )  # fmt: skip
    assert done.stdout.startswith("mine\n")
    assert "False" in done.stdout
    assert done.stderr == ""


def test_a_job_that_records_nothing_is_told(tmp_path: Path) -> None:
    done = tracelens_collect("torch", "-o", str(tmp_path / "x"), "--", sys.executable, "-c", "1")
    assert done.returncode == 0
    assert "nothing was recorded" in done.stderr


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    done = tracelens_collect("torch", "-o", str(tmp_path), "--", "no-such-launcher")
    assert done.returncode == 2
    assert "no-such-launcher" in done.stderr


# ------------------------------------------------------------------------------------------- nsys
BASE = "nsys profile -t cuda,nvtx -s none --cpuctxsw=none --cuda-graph-trace=node"


@pytest.mark.parametrize(
    ("job", "options", "line"),
    [
        ("torchrun --nproc-per-node=8 t.py", "", f"{BASE} -f true -o r/node_%h {{job}}"),
        (
            "deepspeed --num_gpus 8 t.py --deepspeed",
            "--per rank",
            f"deepspeed --no_python --no_local_rank --num_gpus 8 {BASE} -f true "
            "-o 'r/rank%q{{RANK}}' python -u t.py --deepspeed",
        ),
        (
            "torchrun --nproc-per-node=8 t.py a",
            "--per rank --capture api",
            f"torchrun --no-python --nproc-per-node=8 {BASE} -c cudaProfilerApi "
            "--capture-range-end=stop --kill=none -f true -o 'r/rank%q{{RANK}}' python -u t.py a",
        ),
        (
            "accelerate launch --num_processes 2 t.py",
            "--per rank",
            f"accelerate launch --no_python --num_processes 2 {BASE} -f true "
            "-o 'r/rank%q{{RANK}}' python -u t.py",
        ),
        (
            "python -m torch.distributed.run --nproc-per-node=2 t.py",
            "--capture time --delay 5 --duration 2.5",
            f"{BASE} --delay 5 --duration 2.5 --kill=none -f true -o r/node_%h {{job}}",
        ),
    ],
)
def test_the_command_for_each_launcher(job: str, options: str, line: str) -> None:
    args = ["collect", "nsys", "-o", "r", "--dry-run", *options.split(), "--", *job.split()]
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == line.format(job=job)


def test_a_command_that_has_no_rank_to_record() -> None:
    args = ["collect", "nsys", "-o", "r", "--dry-run", "--per", "rank", "--", "make", "train"]
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 1
    assert "needs a launcher" in done.stderr


def test_without_nsys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(nsys, "_PLACES", ())
    done = CliRunner().invoke(main, ["collect", "nsys", "-o", str(tmp_path / "r"), "--", "python"])
    assert done.exit_code == 1
    assert "nsys is not on PATH" in done.stderr
    assert "--dry-run" in done.stderr


SECRET = "TOKEN=tl-secret-4712"


def with_secrets(path: Path) -> Path:
    """An export of a step, with a secret in each place where nsys writes environments."""
    b = NsysBuilder()
    training_step(b, 0)
    b.string(f"PATH=/bin\0{SECRET}\0")
    b.add("META_DATA_CAPTURE", name="PROCESS_0:ENVIRONMENT_VARIABLE", value=SECRET)
    b.add("META_DATA_CAPTURE", name="PROCESS_0:ARGUMENT_1", value=f"--token={SECRET}")
    b.add("TARGET_INFO_SYSTEM_ENV", name="DeviceEnvironment", value=SECRET)
    b.add("DIAGNOSTIC_EVENT", severity=3, text=f"cannot open {SECRET}", globalPid=b.pid(10))
    return b.write(path)


NSYS = """#!{python}
import os, shutil, subprocess, sys
args = sys.argv[1:]
out = args[args.index("-o") + 1]
if args[0] == "profile":
    open(out.replace("%h", "host") + ".nsys-rep", "w").write("report")
    sys.exit(subprocess.run(args[args.index("-o") + 2:]).returncode)
assert args[0] == "export" and "--include-json=true" in args
shutil.copy({export!r}, out)
"""


def test_recorded_exported_and_scrubbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a program that stands for nsys: it is run, its report exported, the secret gone."""
    export = with_secrets(tmp_path / "export.sqlite")
    assert SECRET.encode() in export.read_bytes()
    program = tmp_path / "nsys"
    program.write_text(NSYS.format(python=sys.executable, export=str(export)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    args = ["collect", "nsys", "-o", str(tmp_path / "r"), "--"]
    done = CliRunner().invoke(main, [*args, sys.executable, "-c", "raise SystemExit(5)"])
    assert done.exit_code == 5, done.output
    target = tmp_path / "r" / "node_host.sqlite"
    assert SECRET.encode() not in target.read_bytes()
    kept = tracelens.analyze(target)
    assert kept.run.n_events == tracelens.analyze(export).run.n_events
    with closing(sqlite3.connect(target)) as db:
        names = {r[0] for r in db.execute("SELECT value FROM StringIds")}
    assert names


def test_outside_of_a_gpu_the_nsys_collector_gives_up_quietly(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.warns(nsys_warning(), match="there is no GPU to record"):
        collector = run_nsys_collector(tmp_path)
    assert collector.broken
    assert not list(tmp_path.iterdir())


class FakeCuda:
    """Writes down what is asked of torch.cuda; `nvtx` and `cudart()` are itself."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.nvtx = self

    def __getattr__(self, name: str) -> Any:
        return lambda *args: self.said.append(" ".join([name, *args])) or self

    def is_available(self) -> bool:
        return True


@pytest.mark.parametrize("warmup", [0, 2])
def test_ranges_and_capture_of_the_nsys_collector(tmp_path: Path, warmup: int) -> None:
    """The capture opens `warmup` steps early, and each recorded step has its range."""
    cuda = FakeCuda()
    schedule = Schedule(skip=1, timed=1, warmup=warmup, active=2)
    collector = nsys.NsysCollector(tmp_path, schedule=schedule)
    collector._open(SimpleNamespace(cuda=cuda))
    for n in range(1, schedule.total + 1):
        cuda.said.append(f"-- {n}")
        collector._tick(n)
    spoken = [w for w in cuda.said if w not in ("synchronize", "cudart")]
    first = 2 + warmup
    steps = [f"-- {n}" for n in range(1, first + 3)]
    expected = []
    for mark in steps:
        n = int(mark[3:])
        expected.append(mark)
        expected += ["range_pop"] * (first < n <= first + 2)
        expected += ["cudaProfilerStart"] * (n == 2)
        expected += [f"range_push step {n}"] * (first <= n < first + 2)
        expected += ["cudaProfilerStop"] * (n == first + 2)
    assert spoken == expected
    with pytest.warns(nsys_warning(), match="stops recording"):
        collector.give_up(RuntimeError("x"))  # closes nothing twice
    assert cuda.said.count("cudaProfilerStop") == 1


def nsys_warning() -> type[Warning]:
    from collectors import CollectorWarning

    return CollectorWarning


def run_nsys_collector(folder: Path) -> nsys.NsysCollector:
    with nsys.NsysCollector(folder, schedule=Schedule(0, 1, 0, 1)) as collector:
        for _ in range(4):
            collector.step()
    return collector
