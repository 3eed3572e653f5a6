"""Record with Nsight Systems: the command around a job, the export after it, and steps inside.

    nsys_command(["torchrun", "--nproc-per-node=8", "train.py"], Recording("runs/a"))

gives the command line; `record` runs it and exports what it wrote. Inside the script an
`NsysCollector` marks the steps, opens and closes the recorded range, and writes the manifest.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ._steps import Schedule, StepCollector

#: Where installers put it when it is not on PATH.
_PLACES = ("/opt/nvidia/nsight-systems/*/bin", "/opt/nvidia/nsight-systems-cli/*/bin",
           "/usr/local/cuda/bin")  # fmt: skip

#: Launchers: the words that start them, and the flags with which they start any program rather than
#: a Python script (deepspeed passes --local_rank to it otherwise).
_LAUNCHERS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("deepspeed",), ("--no_python", "--no_local_rank")),
    (("torchrun",), ("--no-python",)),
    (("accelerate", "launch"), ("--no_python",)),
    (("-m", "torch.distributed.run"), ("--no-python",)),
    (("-m", "torch.distributed.launch"), ("--no-python",)),
    (("-m", "deepspeed.launcher.runner"), ("--no_python", "--no_local_rank")),
)

#: Tables of an export that hold environments and output of the recorded processes.
_PRIVATE = ("TARGET_INFO_SYSTEM_ENV", "ProcessStreams", "ANALYSIS_FILE")
#: Columns by which rows name a string.
_NAMES = ("nameId", "textId", "jsonTextId", "demangledName", "shortName", "mangledName")


class NsysError(RuntimeError):
    """Nsight Systems cannot be run, or did not do what it was asked."""


@dataclass(frozen=True)
class Recording:
    """How to record.

    `per`: one report for each node (ranks of one clock, any launcher) or each rank. `capture`: the
    whole job, the range between cudaProfilerStart and Stop (an `NsysCollector` calls them), or
    `duration_s` seconds after `delay_s`.
    """

    run_dir: str | os.PathLike[str]
    per: Literal["node", "rank"] = "node"
    capture: Literal["all", "api", "time"] = "all"
    delay_s: float = 60.0
    duration_s: float = 20.0
    nsys: str = "nsys"


def find_nsys() -> str | None:
    """The program, on PATH or where installers put it; None without one."""
    if found := shutil.which("nsys"):
        return found
    for place in _PLACES:
        for folder in sorted(Path("/").glob(place.lstrip("/")), reverse=True):
            if os.access(folder / "nsys", os.X_OK):
                return os.fspath(folder / "nsys")
    return None


def nsys_command(command: Sequence[str], how: Recording) -> list[str]:
    """The command line that records a job.

    Raises
    ------
    NsysError
        If `per` is "rank" and no launcher and script is recognised in the command.

    Examples
    --------
    >>> nsys_command(["python", "train.py"], Recording("runs/a"))[-4:]
    ['-o', 'runs/a/node_%h', 'python', 'train.py']
    """
    name = "node_%h" if how.per == "node" else "rank%q{RANK}"
    profile = [how.nsys, "profile", "-t", "cuda,nvtx", "-s", "none", "--cpuctxsw=none",
               "--cuda-graph-trace=node"]  # fmt: skip
    if how.capture == "api":
        profile += ["-c", "cudaProfilerApi", "--capture-range-end=stop", "--kill=none"]
    elif how.capture == "time":
        profile += ["--delay", f"{how.delay_s:g}", "--duration", f"{how.duration_s:g}",
                    "--kill=none"]  # fmt: skip
    profile += ["-f", "true", "-o", os.path.join(os.fspath(how.run_dir), name)]
    if how.per == "node":
        return [*profile, *command]
    return _inside(list(command), profile)


def _inside(command: list[str], profile: list[str]) -> list[str]:
    """The launcher starts nsys, which starts the script: once a rank."""
    script = next((i for i, word in enumerate(command) if word.endswith(".py")), None)
    for words, flags in _LAUNCHERS:
        at = _find(command, words)
        if at is None or script is None or script < at:
            continue
        end = at + len(words)
        return [*command[:end], *flags, *command[end:script], *profile, "python", "-u",
                *command[script:]]  # fmt: skip
    if script is not None and Path(command[0]).name.startswith("python"):
        return [*profile, *command]
    raise NsysError(
        "one report a rank needs a launcher (deepspeed, torchrun, accelerate launch) and a script "
        "that ends in .py; a report for each node works with any command"
    )


def _find(command: list[str], words: tuple[str, ...]) -> int | None:
    """Where these words stand in the command, the first by its base name."""
    for i in range(len(command) - len(words) + 1):
        part = command[i : i + len(words)]
        if (Path(part[0]).name, *part[1:]) == words:
            return i
    return None


def record(command: Sequence[str], how: Recording) -> tuple[int, list[Path]]:
    """Run a job under nsys and export what was recorded.

    Returns
    -------
    int
        Exit code of the job.
    list of Path
        The exports.

    Raises
    ------
    NsysError
        If nsys is not there, recorded nothing, or cannot export.
    """
    program = find_nsys() if how.nsys == "nsys" else shutil.which(how.nsys)
    if program is None:
        raise NsysError("nsys is not on PATH: Nsight Systems is not installed here")
    folder = Path(how.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    before = {p: p.stat().st_mtime_ns for p in folder.glob("*.nsys-rep")}
    line = nsys_command(command, how)
    at = line.index(how.nsys)
    line[at] = program
    code = subprocess.run(line, check=False).returncode
    new = [p for p in sorted(folder.glob("*.nsys-rep")) if before.get(p) != p.stat().st_mtime_ns]
    if not new:
        raise NsysError(f"nsys wrote no report into {folder}; the job ended with code {code}")
    return code, [export(p, program) for p in new]


def export(report: Path, program: str = "nsys") -> Path:
    """Export a report to SQLite with message sizes, then take the environment out of it.

    Raises
    ------
    NsysError
        If nsys cannot.
    """
    target = report.with_suffix(".sqlite")
    done = subprocess.run(
        [program, "export", "--type", "sqlite", "--include-json=true", "-f", "true", "-o",
         os.fspath(target), os.fspath(report)],
        capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    if done.returncode or not target.exists():
        said = " ".join(done.stderr.split()[-40:])
        raise NsysError(f"{report}: nsys export failed with code {done.returncode}: {said}")
    scrub(target)
    return target


def scrub(path: Path) -> None:
    """Remove environments, output and unnamed strings of the recorded processes from an export."""
    with closing(sqlite3.connect(path)) as db:
        tables = [r[0] for r in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in _PRIVATE:
            if table in tables:
                db.execute(f'DROP TABLE "{table}"')
        if "META_DATA_CAPTURE" in tables:
            db.execute("DELETE FROM META_DATA_CAPTURE WHERE name LIKE '%ENVIRONMENT%'")
            db.execute("DELETE FROM META_DATA_CAPTURE WHERE name LIKE '%ARGUMENT%'")
        if "DIAGNOSTIC_EVENT" in tables:  # quotes paths and options
            db.execute("UPDATE DIAGNOSTIC_EVENT SET text = ''")
        if "StringIds" in tables:
            named = [
                f'SELECT "{column}" FROM "{table}"'
                for table in tables
                if table not in (*_PRIVATE, "StringIds")
                for _, column, *_ in db.execute(f'PRAGMA table_info("{table}")').fetchall()
                if column in _NAMES
            ]
            kept = " UNION ".join(named) or "SELECT NULL"
            db.execute("CREATE TEMP TABLE kept (id INTEGER PRIMARY KEY)")
            db.execute(f"INSERT OR IGNORE INTO kept SELECT * FROM ({kept}) WHERE 1")
            db.execute("DELETE FROM StringIds WHERE id NOT IN (SELECT id FROM kept)")
        db.commit()
        db.execute("VACUUM")


class NsysCollector(StepCollector):
    """Marks steps for Nsight Systems and records a window of them, from inside the script.

    Use it like a `TorchTraceCollector`, in a job started under ``nsys profile -c cudaProfilerApi``
    (`tracelens collect nsys --capture api`) or under one that records all. Each recorded step is an
    NVTX range, ``step 17``; steps are timed before the range opens. Without nsys around the job the
    ranges go nowhere, and the manifest says how long steps took.

    Parameters
    ----------
    run_dir : path
        Where the manifest goes: the folder that nsys writes to.
    engine, schedule, ranks, enabled
        As for `TorchTraceCollector`. There is one window; the capture begins `warmup` steps before
        its first range, since the first steps in it are slow.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        *,
        engine: Any = None,
        schedule: Schedule | None = None,
        ranks: Collection[int] | None = None,
        enabled: bool = True,
    ) -> None:
        super().__init__(run_dir, engine, schedule, ranks, enabled)
        self._cuda: Any = None
        self._capturing = self._in_step = False

    def give_up(self, error: BaseException) -> None:
        """Close the range too."""
        self._leave()
        super().give_up(error)

    def _open(self, torch: Any) -> None:
        if not torch.cuda.is_available():
            raise NsysError("there is no GPU to record")
        self._cuda = torch.cuda
        self._begin(0)

    def _tick(self, n: int) -> None:
        if self._in_step:
            self._in_step = False
            self._cuda.nvtx.range_pop()
        self._begin(n)

    def _begin(self, n: int) -> None:
        """Before step `n`: the capture starts `warmup` steps before the first range."""
        s = self.schedule
        first = s.window(0)
        if n == s.before:
            self._cuda.synchronize()  # what was launched before is no part of the window
            self._cuda.cudart().cudaProfilerStart()
            self._capturing = True
        if first <= n < first + s.active:
            self._cuda.nvtx.range_push(f"step {n}")
            self._in_step = True
        elif self._capturing and n >= first:
            self._leave()

    def _leave(self) -> None:
        if self._in_step:
            self._cuda.nvtx.range_pop()
        if self._capturing:
            self._cuda.synchronize()
            self._cuda.cudart().cudaProfilerStop()
        self._in_step = self._capturing = False

    def _shut(self) -> None:
        self._leave()
        if self._traced is not None:
            self._write(self.run_dir, {"collector": "nsys", "level": None, "traces": []})
