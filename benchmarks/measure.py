"""Run a command in a fresh process and measure it: wall time, CPU time, peak memory."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: What is measured is reading, not finding what was read before.
_ENV = {"TRACELENS_CACHE": "off"}
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


class LimitPassed(RuntimeError):
    """A measured process took more than it may and was ended; the text says more of what."""


@dataclass(frozen=True)
class Most:
    """What a measured process and its descendants may take: seconds of CPU time, bytes."""

    cpu_s: float
    bytes: int

    def check(self, cpu_s: float, peak: int) -> None:
        """Raise a LimitPassed beyond it, or where the machine itself has too little left."""
        if cpu_s > self.cpu_s:
            raise LimitPassed(f"not done after {self.cpu_s:,.0f} s of CPU time")
        if peak > self.bytes:
            raise LimitPassed(f"more than {self.bytes / 1e9:,.0f} GB, not done")
        if _available() < _LEFT:
            raise LimitPassed(f"{peak / 1e9:,.1f} GB, and the machine had no more")


#: The machine keeps so much for others, bytes.
_LEFT = 1_500_000_000


def _available() -> int:
    found = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text())
    return int(found[1]) * 1024 if found else _LEFT


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


def _tree_cpu(pid: int) -> float:
    """Seconds of CPU time of a process and its descendants so far."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    mine = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # with children that ended
    return mine + sum(_tree_cpu(child) for child in _children(pid))


def _end(child: subprocess.Popen[Any]) -> None:
    for pid in _descendants(child.pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:  # it has ended meanwhile
            continue
    child.kill()
    child.wait()


def _descendants(pid: int) -> list[int]:
    found = _children(pid)
    return [*found, *(p for child in found for p in _descendants(child))]


def run(
    command: Sequence[str], env: Mapping[str, str] | None = None, most: Most | None = None
) -> Run:
    """Run `command` and measure it.

    The peak is the larger of the kernel's high-water mark for the process itself (which the child
    reports as ``peak_bytes``, see `own_peak`) and the sum over its process tree, seen every 10 ms.

    Raises
    ------
    ChildFailed
        If it exits with an error or prints no JSON.
    LimitPassed
        If it takes more than `most`; it is ended then.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.perf_counter()
        child = subprocess.Popen(
            command, stdout=out, stderr=err, env=os.environ | _ENV | dict(env or {})
        )
        peak = 0
        while True:
            done, status, usage = os.wait4(child.pid, os.WNOHANG)
            wall = time.perf_counter() - start
            if done:
                break
            peak = max(peak, _tree_rss(child.pid))
            if most is not None:
                try:
                    most.check(_tree_cpu(child.pid), peak)
                except LimitPassed:
                    _end(child)
                    raise
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
