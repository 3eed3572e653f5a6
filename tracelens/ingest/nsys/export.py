"""A plain SQLite file for whatever was given: a report that needs exporting, a packed export.

What is made lies in a temporary folder that is removed when the program ends, so that a run that is
looked into and then read is exported once.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tracelens.errors import CorruptTrace, InputError, UnsupportedFormat
from tracelens.ingest.bounds import BOUNDS, Bounds
from tracelens.ingest.source import Source
from tracelens.remote import Url, as_path, open_binary, size_of
from tracelens.sqlite import MAGIC
from tracelens.units import format_bytes

#: First bytes of a report since 2020: product name, then its version (2024@6@2@225-...).
REPORT_MAGIC = b"NVIDIA Tegra Profiler Report"
REPORT_SUFFIXES = (".nsys-rep", ".qdrep")

_COPY_BYTES = 1 << 22
_made: dict[tuple[str, int, int], Path] = {}
_folder: list[str] = []


def is_report(path: Path, head: bytes) -> bool:
    """Whether a file is a report that only nsys can read."""
    return head.startswith(REPORT_MAGIC) or path.name.endswith(REPORT_SUFFIXES)


def command(path: Path) -> tuple[str, ...]:
    """The command line that exports a report."""
    target = path.with_suffix(".sqlite")
    return ("nsys", "export", "--type", "sqlite", "--include-json=true", "-o",
            os.fspath(target), os.fspath(path))  # fmt: skip


def plain(path: str | os.PathLike[str], bounds: Bounds = BOUNDS) -> Path:
    """The SQLite file to read for a path: itself, or one made from it.

    Raises
    ------
    UnsupportedFormat
        For a report while nsys is not on PATH; the hint is the command to run elsewhere.
    InputError
        If the export fails.
    CorruptTrace
        If a packed export ends early.
    """
    given = as_path(path)
    if isinstance(given, Url):
        given = _download(given, bounds)
    with open(given, "rb") as file:
        head = file.read(len(REPORT_MAGIC))
    if head.startswith(MAGIC):
        return given
    state = given.stat()
    key = (os.fspath(given.resolve()), state.st_size, state.st_mtime_ns)
    if key not in _made:
        target = _new_file(given)
        if is_report(given, head):
            _export(given, target)
        else:
            _unpack(given, target, bounds)
        _made[key] = target
    return _made[key]


def _download(url: Url, bounds: Bounds) -> Path:
    """A copy of a remote file: SQLite and nsys read files of this machine only."""
    size = size_of(url)
    if size > bounds.download:
        raise InputError(
            f"{url}: {format_bytes(size)}, which would have to be downloaded to be read; at most "
            f"{format_bytes(bounds.download)} are",
            hint="download it, and give the copy; or --raise-limits 10",
        )
    key = (str(url), size, 0)
    if key not in _made:
        target = _new_file(url).with_suffix(f".{url.name.rpartition('.')[2]}")
        try:
            file, _ = open_binary(url)
            with file, open(target, "wb") as out:
                while piece := file.read(_COPY_BYTES):
                    out.write(piece)
        except BaseException:
            with contextlib.suppress(OSError):
                target.unlink()
            raise
        _made[key] = target
    return _made[key]


def _new_file(given: Path) -> Path:
    if not _folder:
        _folder.append(tempfile.mkdtemp(prefix="tracelens-"))
        atexit.register(shutil.rmtree, _folder[0], ignore_errors=True)
    return Path(_folder[0]) / f"{len(_made)}-{given.name.partition('.')[0]}.sqlite"


def _export(given: Path, target: Path) -> None:
    line = command(given)
    program = shutil.which(line[0])
    if program is None:
        raise UnsupportedFormat(
            f"{given}: an Nsight Systems report can only be read by nsys, which is not on PATH; "
            f"run `{shlex.join(line)}` where it is",
            hint="give the .sqlite file that this writes",
        )
    talk = sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL  # nsys draws its progress
    try:
        done = subprocess.run(
            [program, *line[1:6], os.fspath(target), os.fspath(given)],
            stdin=subprocess.DEVNULL, stdout=talk, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    except BaseException:
        with contextlib.suppress(OSError):
            target.unlink()
        raise
    if done.returncode or not target.exists():
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise InputError(
            f"{given}: nsys export failed with code {done.returncode}: {' '.join(said[-2:])}",
            hint="a report is best exported by the nsys that recorded it, or a later one",
        )


def _unpack(given: Path, target: Path, bounds: Bounds) -> None:
    try:
        with Source(given, bounds) as source, open(target, "wb") as out:
            while piece := source.read(_COPY_BYTES):
                out.write(piece)
            error = source.error
    except BaseException:
        with contextlib.suppress(OSError):
            target.unlink()
        raise
    if error is not None:
        target.unlink()
        raise CorruptTrace(f"{given}: {error}", hint="copy the file again")
