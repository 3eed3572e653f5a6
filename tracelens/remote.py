"""Files by URL (``s3://``, ``gs://``, ``hf://``, ``https://``, ``memory://`` ...), through fsspec.

A `Url` is a path: whatever asks a path for its name, its folder or its suffix need not know. What
opens files, lists folders or asks for sizes comes here. Nothing is copied: blocks are fetched as
they are read, one ahead. fsspec is imported when the first URL is met.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PosixPath, WindowsPath
from typing import IO, TYPE_CHECKING, Any, TypeAlias, cast

from tracelens.errors import UsageError

if TYPE_CHECKING or sys.platform != "win32":
    _Base: TypeAlias = PosixPath
else:
    _Base = WindowsPath

_URL = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)  # a drive has one letter
#: What fsspec needs beside itself for a protocol (fsspec/registry.py).
_PACKAGES = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub",
    "http": "aiohttp", "https": "aiohttp", "az": "adlfs", "abfs": "adlfs",
}  # fmt: skip
#: Bytes fetched at once where a file is read through, and where only its beginning is looked at.
THROUGH, BEGINNING = 8_000_000, 300_000


class Url(_Base):
    """A file or folder by URL."""

    def __str__(self) -> str:
        protocol, _, rest = super().__str__().replace("\\", "/").partition(":/")
        return f"{protocol}://{'/' * (protocol == 'file')}{rest}"

    def __fspath__(self) -> str:
        return str(self)


def as_path(path: str | os.PathLike[str]) -> Path:
    """A path, or a `Url` where it is one.

    Raises
    ------
    UsageError
        For chained URLs (``zip://x::s3://y``).

    Examples
    --------
    >>> as_path("s3://bucket/run/rank3.json.gz").name, str(as_path("s3://bucket/run").parent)
    ('rank3.json.gz', 's3://bucket')
    >>> type(as_path("run/rank3.json")) is type(Path("x"))
    True
    """
    text = os.fspath(path)
    if not _URL.match(text):
        return Path(path)
    if "::" in text:
        raise UsageError(f"{text}: chained URLs are not read", hint="give a plain URL")
    return Url(text)


def absolute(path: str | os.PathLike[str]) -> str:
    """A path as it is called from everywhere; a URL is."""
    text = os.fspath(path)
    return text if _URL.match(text) else os.path.abspath(text)


def open_binary(path: str | os.PathLike[str], ahead: int = THROUGH) -> tuple[IO[bytes], int]:
    """Open a file for reading; -> the file, its size.

    Parameters
    ----------
    path : path
    ahead : int, optional
        Bytes that are fetched at once, where it is a URL.

    Raises
    ------
    OSError
        If it cannot be opened, or its size is not known.
    """
    where = as_path(path)
    if not isinstance(where, Url):
        file = open(where, "rb", buffering=0)  # noqa: SIM115 - the caller's to close
        return file, os.fstat(file.fileno()).st_size
    fs, inner = _system(where)
    size = size_of(where)
    with _Said(where):
        opened = fs.open(inner, "rb", block_size=ahead, cache_type="readahead")
    return cast("IO[bytes]", _File(where, opened)), size


def size_of(path: str | os.PathLike[str]) -> int:
    """Bytes of a file.

    Raises
    ------
    OSError
        If there is none, or a server does not say.
    """
    where = as_path(path)
    if not isinstance(where, Url):
        return os.stat(where).st_size
    fs, inner = _system(where)
    with _Said(where):
        size = fs.size(inner)
    if not isinstance(size, int):
        raise OSError(0, "the server does not say how large it is: download it first", str(where))
    return size


def is_folder(path: Path) -> bool:
    """Whether there is a folder of this name."""
    if not isinstance(path, Url):
        return path.is_dir()
    fs, inner = _system(path)
    with _Said(path):
        return bool(fs.isdir(inner))


def exists(path: Path) -> bool:
    """Whether there is a file or folder of this name."""
    if not isinstance(path, Url):
        return path.exists()
    fs, inner = _system(path)
    with _Said(path):
        return bool(fs.exists(inner))


def below(folder: Url, depth: int) -> Iterator[Url]:
    """Files below a folder, so many levels deep, in order of name; hidden ones are left out."""
    fs, inner = _system(folder)
    with _Said(folder):
        found = sorted(fs.find(inner, maxdepth=depth + 1))
    root = inner.rstrip("/") + "/"
    for name in found:
        inside = name.removeprefix(root)
        # a listing is what a server says: nothing beside the folder that was given
        if name.startswith(root) and not any(part.startswith(".") for part in inside.split("/")):
            yield Url(f"{str(folder).rstrip('/')}/{inside}")


def _system(url: Url) -> tuple[Any, str]:
    """The file system of a URL, and what the file is called there."""
    text = str(url)
    protocol = text.partition("://")[0].lower()
    try:
        import fsspec
    except ImportError as e:
        wanted = " ".join(filter(None, ("fsspec", _PACKAGES.get(protocol))))
        raise UsageError(
            f"{text}: reading by URL needs fsspec, which is not installed",
            hint=f"pip install {wanted}",
        ) from e
    try:
        fs, inner = fsspec.core.url_to_fs(text)
    except ImportError as e:
        raise UsageError(
            f"{text}: {protocol}:// needs a package that is not installed",
            hint=f"pip install {_PACKAGES.get(protocol) or e}",
        ) from e
    except ValueError as e:
        raise UsageError(f"{text}: {e}", hint="s3, gs, hf, https and memory are known") from e
    return fs, inner


class _Said:
    """Whatever a protocol's package raises, as an OSError: each has exceptions of its own."""

    def __init__(self, url: Url | str) -> None:
        self._url = str(url)

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, tb: object) -> None:
        if error is None or not isinstance(error, Exception):
            return
        missing = isinstance(error, FileNotFoundError)
        why = "no such file or folder" if missing else f"{type(error).__name__}: {error}"
        raise OSError(0, why, self._url) from error


class _File:
    """A file of fsspec's that says as an OSError what went wrong."""

    def __init__(self, url: Url, file: Any) -> None:
        self._url, self._file = url, file

    def read(self, n: int) -> bytes:
        with _Said(self._url):
            return bytes(self._file.read(n))

    def readinto(self, buffer: memoryview) -> int:
        with _Said(self._url):
            return int(self._file.readinto(buffer))

    def seek(self, at: int) -> None:
        with _Said(self._url):
            self._file.seek(at)

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        with _Said(self._url):
            self._file.close()

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
