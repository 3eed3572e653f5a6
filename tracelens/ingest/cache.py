"""Columns of traces that were read before: the second look reads none of the file's text.

An entry is one file: a description (MessagePack), then every column as it lies in memory, which is
mapped and not copied. It is found by the content of the trace file, so a copy of a trace is found
too and a changed one never. Entries are written whole and then named, so processes do not meet;
what has not been used longest goes first. An entry that is damaged is as good as none, and so is a
folder that cannot be written.
"""

from __future__ import annotations

import hashlib
import os
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import numpy as np
import numpy.typing as npt

from tracelens.remote import Url, as_path
from tracelens.trace import Trace

#: Names the folder of the cache; ``off`` for none.
PLACE = "TRACELENS_CACHE"
#: Names the bytes that it may take; by default `MOST`.
LIMIT, MOST = "TRACELENS_CACHE_BYTES", 2_000_000_000
#: Smaller files are read about as quickly as they are looked up; packed ones hold 10 times more.
WORTH, WORTH_PACKED = 20_000_000, 2_000_000
_PACKED_NAMES = (".gz", ".xz", ".zst")
_MAGIC = b"TrLeCol1"
#: Magic, bytes of the description, bytes of the columns, crc32 of both.
_HEAD = struct.Struct("<8sQQI")
#: Columns begin at multiples of a cache line.
_ALIGNED = 64
_CHUNK = 1 << 20
#: Kinds of numpy numbers that columns have: bool, signed, unsigned, float.
_NUMBERS = "biuf"


def cached(path: str | os.PathLike[str], part: str | None, read: Callable[[], Trace]) -> Trace:
    """The trace at a path: from the cache if it is there, else as `read` reads it, and kept.

    Parameters
    ----------
    path : path
        Small files, and those by URL, are read each time.
    part : str or None
        Which of the file's ranks.
    read : callable
    """
    where, folder = as_path(path), _folder()
    if folder is None or isinstance(where, Url):
        return read()
    try:
        before = os.stat(where)
        if before.st_size < (WORTH_PACKED if where.suffix in _PACKED_NAMES else WORTH):
            return read()
        entry = folder / f"{_key(where, part)}.columns"
    except OSError:  # the reader says what is wrong with the file
        return read()
    found = _load(entry)
    if found is not None:
        return replace(found, info=replace(found.info, path=os.fspath(path)))
    trace = read()
    with suppress(OSError):
        after = os.stat(where)
        if (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns):
            _keep(trace, entry)
    return trace


def _folder() -> Path | None:
    """Where entries lie; None without a cache."""
    said = os.environ.get(PLACE, "")
    if said:
        return None if said == "off" else Path(said)
    try:
        home = Path.home()
    except RuntimeError:
        return None
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "tracelens"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home) / "tracelens" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "tracelens"


def _limit() -> int:
    said = os.environ.get(LIMIT, "")
    return int(said) if said.isdecimal() else MOST


def _key(path: Path, part: str | None) -> str:
    """Digest of a file's bytes, the part, and what a `Trace` is made of in this version.

    SHA-256 because processors have instructions for it: 1.8 GB/s, a fifteenth of reading.
    """
    digest = hashlib.sha256(f"{_shape()} {part}\n".encode())
    with open(path, "rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


@cache
def _shape() -> str:
    """Digest of the readers' source, and of the types that a `Trace` is made of."""
    seen: dict[str, str] = {}

    def describe(hint: Any) -> None:
        for inner in get_args(hint):
            describe(inner)
        if isinstance(hint, type) and is_dataclass(hint) and hint.__qualname__ not in seen:
            hints = get_type_hints(hint)
            seen[hint.__qualname__] = str([(f.name, str(hints[f.name])) for f in fields(hint)])
            for f in fields(hint):
                describe(hints[f.name])

    describe(Trace)
    text = f"{sys.byteorder} {_sources()} {sorted(seen.items())}"
    return hashlib.sha256(text.encode()).hexdigest()


def _sources() -> str:
    """Digest of the readers: what they read today may be more than what they read before."""
    digest, ingest = hashlib.sha256(), Path(__file__).parent
    for path in sorted((*ingest.rglob("*.py"), *ingest.parent.glob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()


# ----------------------------------------------------------------------------------- entries
def _keep(trace: Trace, entry: Path) -> None:
    """Write an entry whole, then name it; others go until there is room."""
    columns: list[npt.NDArray[Any]] = []
    at = 0

    def place(value: object) -> object:
        nonlocal at
        if not isinstance(value, np.ndarray):
            raise NotImplementedError(f"a trace holds a {type(value).__name__}")
        columns.append(np.ascontiguousarray(value))
        told = [value.dtype.str, len(value), at]
        at += _padded(value.nbytes)
        return told

    try:
        told = msgspec.msgpack.encode(trace, enc_hook=place)
    except UnicodeEncodeError:  # half a surrogate: no text at all
        return
    size = _padded(_HEAD.size) + _padded(len(told)) + at
    if size > _limit():
        return
    entry.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _make_room(entry.parent, size)
    handle, draft = tempfile.mkstemp(dir=entry.parent, suffix=".draft")
    try:
        with open(handle, "wb") as out:
            out.write(bytes(_padded(_HEAD.size)))
            crc = 0
            for data in (memoryview(told), *(c.view(np.uint8).data for c in columns)):
                padding = bytes(_padded(data.nbytes) - data.nbytes)
                crc = zlib.crc32(padding, zlib.crc32(data, crc))
                out.write(data)
                out.write(padding)
            out.seek(0)
            out.write(_HEAD.pack(_MAGIC, len(told), at, crc))
        os.replace(draft, entry)
    except BaseException:
        with suppress(OSError):
            os.unlink(draft)
        raise


def _padded(n: int) -> int:
    return -(-n // _ALIGNED) * _ALIGNED


def _make_room(folder: Path, wanted: int) -> None:
    """Remove the entries that were not used for longest, and drafts that nobody finished."""
    found = []
    for path in folder.iterdir():
        with suppress(OSError):  # another process was first
            if path.suffix in (".columns", ".draft"):
                state = path.stat()
                found.append((state.st_mtime_ns, state.st_size, path))
    room = _limit() - wanted - sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if room >= 0:
            break
        with suppress(OSError):  # on Windows one that is in use stays
            path.unlink()
            room += size


def _load(entry: Path) -> Trace | None:
    """The trace of an entry, its columns mapped; None if there is none, or a damaged one."""
    try:
        with open(entry, "rb") as file:
            head = file.read(_HEAD.size)
            size = os.fstat(file.fileno()).st_size
        magic, told, columns, crc = _HEAD.unpack(head)
        start, first = _padded(_HEAD.size), _padded(_HEAD.size) + _padded(told)
        if magic != _MAGIC or size != first + columns:
            return None
        data = np.memmap(entry, np.uint8, "r")
        if zlib.crc32(data[start:].data) != crc:
            return None
        os.utime(entry)  # used now
        text = data[start : start + told].tobytes()
        found = partial(_column, np.asarray(data[first:]))
        return msgspec.msgpack.decode(text, type=Trace, dec_hook=found)
    except (OSError, struct.error, msgspec.MsgspecError, ValueError):
        return None


def _column(data: npt.NDArray[np.uint8], hint: Any, told: Any) -> Any:
    """One column by its type, rows and place."""
    if (get_origin(hint) or hint) is not np.ndarray:
        raise NotImplementedError(f"a trace holds a {hint}")
    dtype, rows, at = told
    kind = np.dtype(dtype)
    if kind.kind not in _NUMBERS:
        raise ValueError(f"a column of {dtype}")
    return data[at : at + rows * kind.itemsize].view(kind)
