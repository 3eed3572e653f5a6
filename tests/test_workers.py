"""Ranks read in worker processes: the same answer, whatever happens to a worker."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from test_hard_runs import rank_of, run, said

import tracelens
from tracelens import workers
from tracelens.cli import main
from tracelens.errors import InputError, UsageError
from tracelens.reading import Effort
from tracelens.workers import Crew, Tick

REPO = Path(__file__).parent.parent
#: Workers import this module by its name.
TESTS = os.fspath(Path(__file__).parent)


# --------------------------------------------------------------- what the workers are given to do
def square(n: int, tick: Tick) -> int:
    tick(n, n)
    return n * n


def die_once(mark: str, _: Tick) -> str:
    """End this process, the first time that it is asked with this mark."""
    if not os.path.exists(mark):
        Path(mark).touch()
        os._exit(3) if mark.endswith("exit") else os.kill(os.getpid(), signal.SIGKILL)
    return f"{mark} {os.getpid()}"


def die_always(mark: str, _: Tick) -> str:
    if mark == "well":
        return mark
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def take(n_bytes: int, _: Tick) -> int:
    return int(np.ones(n_bytes, np.uint8).sum())


def refuse(n: int, _: Tick) -> int:
    if n % 2:
        raise InputError(f"{n} is odd", hint="give an even one")
    return n


def fail(n: int, _: Tick) -> int:
    raise KeyError(n)


def chatter(n: int, _: Tick) -> int:
    print("this must not reach the answers")
    os.write(1, b"nor this")
    return n


# ------------------------------------------------------------------------------------- the workers
@pytest.mark.parametrize("n", [0, 1, 3])
def test_results_come_in_the_order_of_tasks(n: int) -> None:
    done: dict[int, int] = {}
    found = workers.run(square, range(7), range(7), Crew(n), done.__setitem__)
    assert found == [n * n for n in range(7)]
    assert done.keys() <= set(range(7))


def test_more_workers_than_tasks() -> None:
    assert workers.run(square, [3], [1], Crew(8)) == [9]
    assert workers.run(square, [], [], Crew(2)) == []


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_a_dead_worker_costs_its_task_one_more_try(tmp_path: Path, how: str) -> None:
    marks = [str(tmp_path / f"{i}.{how}") for i in range(3)]
    Path(marks[0]).touch()
    Path(marks[2]).touch()
    found = workers.run(die_once, marks, [1, 1, 1], Crew(2))
    assert [str(f).split()[0] for f in found] == marks


def test_a_worker_that_dies_twice_is_told_and_others_go_on() -> None:
    tasks = ["well", "ill", "well", "well", "well"]
    found = workers.run(die_always, tasks, [1] * 5, Crew(2))
    assert [f for i, f in enumerate(found) if i != 1] == ["well"] * 4
    assert isinstance(found[1], InputError)
    assert "signal 9" in str(found[1])
    assert found[1].hint


def test_errors_of_a_task_are_its_own() -> None:
    for crew in (Crew(0), Crew(2)):
        found = workers.run(refuse, range(4), [1] * 4, crew)
        assert [f for f in found if isinstance(f, int)] == [0, 2]
        odd = found[3]
        assert isinstance(odd, InputError)
        assert (str(odd), odd.hint) == ("3 is odd", "give an even one")


def test_a_bug_is_raised_as_it_would_be_here() -> None:
    for crew in (Crew(0), Crew(1)):
        with pytest.raises(KeyError):
            workers.run(fail, [1], [1], crew)


def test_prints_do_not_get_into_answers() -> None:
    assert workers.run(chatter, [1, 2], [1, 1], Crew(1)) == [1, 2]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a process to its memory")
def test_memory_is_held() -> None:
    """600 MB do not fit a half of 1 GB, and fit all of it; 2 GB never do."""
    tasks = [600_000_000, 1_000, 2_000_000_000]
    found = workers.run(take, tasks, tasks, Crew(2, 1_000_000_000))
    assert found[:2] == tasks[:2]
    assert isinstance(found[2], InputError)
    assert "memory" in str(found[2])


def test_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "cores", lambda: 8)
    monkeypatch.setattr(workers, "free_memory", lambda: 10**9)
    assert workers.choose(None, None, [10**8] * 20) == Crew(8)
    assert workers.choose(None, None, [10**8] * 3) == Crew(3)
    assert workers.choose(None, None, [3 * 10**8] * 20) == Crew(3)
    assert workers.choose(4, None, [10**8] * 20) == Crew(4)
    assert workers.choose(None, None, [10**8]) == Crew(0)  # nothing to share
    limited = workers.choose(None, 500_000_000, [10**8] * 20)
    assert limited == Crew(3, 500_000_000 - workers.OWN_MEMORY)
    assert workers.choose(None, 500_000_000, [10**10] * 20).workers == 1
    with pytest.raises(UsageError, match="below what reading"):
        workers.choose(None, 1000, [1])


def test_cores_and_memory_are_known() -> None:
    assert workers.cores() >= 1
    free = workers.free_memory()
    assert free is None or free > 0


# ---------------------------------------------------------------------------------------- runs
@pytest.fixture
def job(tmp_path: Path) -> Path:
    return run(tmp_path, {r: rank_of(r, 4, late_us=10 * r) for r in range(4)})


def same(a: tracelens.Analysis, b: tracelens.Analysis) -> bool:
    """To the last bit, in every rank's arrays and in the report."""
    return equal(a.ranks, b.ranks) and a.to_json() == b.to_json()


def equal(x: Any, y: Any) -> bool:
    if isinstance(x, np.ndarray):
        return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
    if dataclasses.is_dataclass(x):
        return type(x) is type(y) and all(
            equal(getattr(x, f.name), getattr(y, f.name)) for f in dataclasses.fields(x)
        )
    if isinstance(x, (tuple, list)):
        return len(x) == len(y) and all(equal(i, j) for i, j in zip(x, y, strict=True))
    if isinstance(x, dict):
        return list(x) == list(y) and all(equal(x[k], y[k]) for k in x)
    return bool(x == y)


def test_the_comparison_can_fail(job: Path) -> None:
    a = tracelens.analyze(job)
    assert equal(a.ranks[0], a.ranks[0])
    assert not equal(a.ranks[0], a.ranks[1])


def test_the_same_to_the_last_bit(job: Path) -> None:
    serial = tracelens.analyze(job)
    for jobs in (2, 4):
        parallel = tracelens.analyze(job, jobs=jobs)
        assert same(serial, parallel)
        assert not parallel.ranks[0].compute[0].flags.writeable
    assert same(serial, tracelens.analyze(job, memory_limit=10**9))


def test_a_bad_rank_in_a_worker(job: Path) -> None:
    (job / "rank2.pt.trace.json").write_bytes(b'{"traceEvents": [{"ph": "X", "na')
    a = tracelens.analyze(job, jobs=2)
    assert [r.rank for r in a.ranks] == [0, 1, 3]
    assert "no whole event" in said(a, "unreadable_file")
    assert same(a, tracelens.analyze(job))


def test_progress_tells_ranks(job: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    total = sum(p.stat().st_size for p in job.iterdir())
    for jobs in (1, 2):
        seen.clear()
        tracelens.analyze(job, jobs=jobs, progress=lambda *told: seen.append(told))
        assert all(0 <= read <= total == of for _, read, of in seen)
        assert "of 4 ranks" in seen[-1][0]
    assert [read for _, read, _ in seen] == sorted(read for _, read, _ in seen)


def test_options(job: Path) -> None:
    plain = CliRunner().invoke(main, ["analyze", str(job), "--json"])
    told = ["--jobs", "2", "--memory-limit", "1.5GiB"]
    assert CliRunner().invoke(main, ["analyze", str(job), "--json", *told]).stdout == plain.stdout
    for bad in ("much", "5XB", "-1"):
        refused = CliRunner().invoke(main, ["analyze", str(job), "--memory-limit", bad])
        assert refused.exit_code == 2
    small = CliRunner().invoke(main, ["analyze", str(job), "--memory-limit", "1MB"])
    assert small.exit_code == 2
    assert "at least" in small.stderr


def test_a_script_needs_no_guard(job: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import tracelens\n"
        f"a = tracelens.analyze({str(job)!r}, jobs=2)\n"
        "print('once', len(a.ranks))\n"
    )
    env = os.environ | {"PYTHONPATH": os.fspath(REPO)}
    out = subprocess.run(
        [sys.executable, script], env=env, capture_output=True, text=True, check=True
    )
    assert out.stdout == "once 4\n"


def endless(_: int, tick: Tick) -> int:
    tick(1, 1)
    time.sleep(60)
    return 0


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_an_interrupt_ends_workers_and_caller(tmp_path: Path) -> None:
    """Ctrl-C goes to the caller, which ends its workers: nothing is left running."""
    script = (
        f"import sys; sys.path[:0] = [{TESTS!r}, {os.fspath(REPO)!r}]\n"
        "import test_workers as t\n"
        "from tracelens import workers\n"
        "workers.run(t.endless, [1, 2], [1, 1], workers.Crew(2), lambda *_: print('up', flush=1))"
    )
    caller = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert caller.stdout is not None
    assert caller.stdout.readline() == b"up\n"
    children = Path(f"/proc/{caller.pid}/task/{caller.pid}/children")
    # workers are started by threads, so they are listed with those
    tasks = [t / "children" for t in children.parent.parent.iterdir()]
    pids = [int(p) for t in tasks for p in t.read_text().split()]
    caller.send_signal(signal.SIGINT)
    _, err = caller.communicate(timeout=20)
    assert b"KeyboardInterrupt" in err
    assert pids
    for pid in pids:
        assert _gone(pid)


def _gone(pid: int) -> bool:
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_effort_is_alone_by_default() -> None:
    assert Effort() == Effort(jobs=1, memory_limit=None)
