"""Files in, `Trace` out.

`open_trace` reads one rank of one file whatever its format; `READERS` lists the formats. A reader
is a name, a `sniff` that says from a file's first unpacked bytes whether it is its own, and a
`read`. A file may hold several ranks; `part` tells which one is meant (`run.RankFile`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple, Protocol

from tracelens.errors import CorruptTrace, InputError, UnsupportedFormat
from tracelens.ingest import kineto, nsys
from tracelens.ingest.bounds import BOUNDS, Bounds
from tracelens.ingest.cache import cached
from tracelens.ingest.nsys.export import is_report
from tracelens.ingest.source import Source
from tracelens.remote import BEGINNING, as_path
from tracelens.trace import Trace

#: Unpacked bytes that a reader sees to recognise its files: Kineto's header with the properties of
#: eight GPUs and a few process groups is about 10 kB.
HEAD_BYTES = 256_000


class _Read(Protocol):
    def __call__(
        self,
        path: str | os.PathLike[str],
        *,
        progress: Callable[[int, int], None] | None = None,
        part: str | None = None,
        bounds: Bounds = BOUNDS,
    ) -> Trace: ...


class Reader(NamedTuple):
    """One format: its name, how to recognise it, how to read it."""

    name: str
    sniff: Callable[[bytes], bool]
    read: _Read


def _read_kineto(
    path: str | os.PathLike[str],
    *,
    progress: Callable[[int, int], None] | None = None,
    part: str | None = None,
    bounds: Bounds = BOUNDS,
) -> Trace:
    """One file is one rank: there are no parts."""
    return kineto.read(path, progress=progress, bounds=bounds)


READERS: tuple[Reader, ...] = (
    Reader("torch.profiler", kineto.sniff, _read_kineto),
    Reader("nsys", nsys.sniff, nsys.read),
)

_EXPORT_HINT = "give the Chrome trace that torch.profiler's export_chrome_trace writes"

_UTF8_HINT = "save it as UTF-8: iconv -f UTF-16 -t UTF-8 FILE > NEW"
_PACK_HINT = "unpack it first; gzip, xz and zstandard are read as they are"

#: Where and how a tar archive says that it is one (POSIX ustar header).
_TAR = slice(257, 262), b"ustar"

#: What a file is, and what to do, by its first bytes: files that people try.
_KNOWN_OTHERS = (
    (b"PK\x03\x04", "a zip archive", "unpack it first"),
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the file itself",
        "run `git lfs pull`",
    ),
    (b"\x80\x02", "a Python pickle", _EXPORT_HINT),
    (b"\x80\x03", "a Python pickle", _EXPORT_HINT),
    (b"\x80\x04", "a Python pickle", _EXPORT_HINT),
    (b"\x80\x05", "a Python pickle", _EXPORT_HINT),
    (b"\xff\xfe", "UTF-16 text", _UTF8_HINT),
    (b"\xfe\xff", "UTF-16 text", _UTF8_HINT),
    (b"{\0", "UTF-16 text", _UTF8_HINT),
    (b"[\0", "UTF-16 text", _UTF8_HINT),
    (b"\0{", "UTF-16 text", _UTF8_HINT),
    (b"\0[", "UTF-16 text", _UTF8_HINT),
    (b"\x1f\x8b", "gzip within a compressed file", "unpack it once"),
    (b"BZh", "a bzip2 file", _PACK_HINT),
    (b"\x04\x22\x4d\x18", "an lz4 file", _PACK_HINT),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it first"),
    (b"\x89HDF", "an HDF5 file", _EXPORT_HINT),
    (b"PAR1", "a Parquet file", _EXPORT_HINT),
    (b"\x7fELF", "a program", _EXPORT_HINT),
)


def recognise(head: bytes) -> Reader | None:
    """The reader of a file that starts with these unpacked bytes."""
    return next((r for r in READERS if r.sniff(head)), None)


def unsupported(path: str | os.PathLike[str], head: bytes) -> UnsupportedFormat:
    """The error for a file that no reader takes: what it is instead, and what to do."""
    name = os.fspath(path)
    if not head:
        return UnsupportedFormat(
            f"{name}: the file is empty",
            hint="was the job ended before the profiler had written its trace?",
        )
    for magic, what, hint in _KNOWN_OTHERS:
        if head.startswith(magic):
            return UnsupportedFormat(f"{name}: this is {what}", hint=hint)
    if head[_TAR[0]] == _TAR[1]:
        return UnsupportedFormat(f"{name}: this is a tar archive", hint="unpack it first")
    start = head.lstrip()[:64].lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<")):
        what, hint = "an HTML or XML page", "was a login page saved instead of the trace?"
    elif start.startswith((b"{", b"[")):
        what, hint = "JSON, but not a trace: it has no traceEvents", _EXPORT_HINT
    else:
        what, hint = "not a format that tracelens knows", _EXPORT_HINT
    return UnsupportedFormat(f"{name}: this is {what}", hint=hint)


def open_trace(
    path: str | os.PathLike[str],
    progress: Callable[[int, int], None] | None = None,
    part: str | None = None,
    bounds: Bounds = BOUNDS,
) -> Trace:
    """Read one rank's trace, whatever its format.

    Parameters
    ----------
    path : path
        File; packed (gzip, xz, zstandard) or not, by content. An Nsight Systems report is exported
        first, where nsys is on PATH.
    progress : callable, optional
        Called now and then with (bytes read, bytes of the file).
    part : str, optional
        Which of a file's ranks, as `run.RankFile.part` names it; the first if it is left out.
    bounds : Bounds, optional
        Where to stop a file that grows too large.

    Large files are read once: their columns are cached (see `cache`).

    Raises
    ------
    UnsupportedFormat
        If no reader takes the file; the message says what it is instead.
    CorruptTrace
        If it is a trace and nothing of it can be read.
    InputError
        If the file cannot be opened.
    """
    try:
        return cached(path, part, lambda: _open(path, progress, part, bounds))
    except OSError as e:
        raise InputError(f"{os.fspath(path)}: {e.strerror or e}", hint="check the path") from e


def _open(
    path: str | os.PathLike[str],
    progress: Callable[[int, int], None] | None,
    part: str | None,
    bounds: Bounds,
) -> Trace:
    with Source(path, bounds, BEGINNING) as source:
        head, error = source.read(HEAD_BYTES), source.error
    if is_report(as_path(path), head):
        return nsys.read(path, progress=progress, part=part, bounds=bounds)
    if error is not None and not head:
        raise CorruptTrace(
            f"{os.fspath(path)}: {error}", hint="copy the file again, or record again"
        )
    reader = recognise(head)
    if reader is None and head.lstrip()[:1] != b"{":
        raise unsupported(path, head)
    if reader is None:
        return _long_header(path, head, progress, bounds)
    return reader.read(path, progress=progress, part=part, bounds=bounds)


def _long_header(
    path: str | os.PathLike[str],
    head: bytes,
    progress: Callable[[int, int], None] | None,
    bounds: Bounds,
) -> Trace:
    """An object whose event array, if it has one, starts past the head."""
    if len(head) < HEAD_BYTES:
        raise unsupported(path, head)
    try:
        return kineto.read(path, progress=progress, bounds=bounds)
    except UnsupportedFormat as e:
        raise unsupported(path, head) from e
