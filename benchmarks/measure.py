"""Run a command in a fresh process and measure it: wall time, CPU time, peak memory."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Run:
    """One process: seconds, bytes, and the JSON object that its last line of output was."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    answer: dict[str, Any]


class ChildFailed(RuntimeError):
    """A measured process ended with an error; the text is the end of what it wrote."""


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():  # threads have children of their own
            found += [int(p) for p in (task / "children").read_text().split()]
    except OSError:  # it has ended meanwhile
        pass
    return found


def _tree_rss(pid: int) -> int:
    """Resident bytes of a process and all its descendants now."""
    try:
        total = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0
    return total + sum(_tree_rss(child) for child in _children(pid))


def run(command: Sequence[str], env: Mapping[str, str] | None = None) -> Run:
    """Run `command` and measure it.

    The peak is the larger of the kernel's high-water mark for the process itself (which the child
    reports as ``peak_bytes``, see `own_peak`) and the sum over its process tree, seen every 10 ms.

    Raises
    ------
    ChildFailed
        If it exits with an error or prints no JSON.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=out, stderr=err, env={**os.environ, **(env or {})})
        peak = 0
        while True:
            done, status, usage = os.wait4(child.pid, os.WNOHANG)
            wall = time.perf_counter() - start
            if done:
                break
            peak = max(peak, _tree_rss(child.pid))
            time.sleep(0.01)
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        lines, complaint = out.read().strip().splitlines(), err.read()
    if child.returncode or not lines:
        raise ChildFailed(f"{' '.join(command)}: exit {child.returncode}\n{complaint[-2000:]}")
    answer = json.loads(lines[-1])
    peak = max(peak, answer.get("peak_bytes", 0))
    return Run(wall, usage.ru_utime + usage.ru_stime, peak, answer)
