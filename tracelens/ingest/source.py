"""The bytes of a file, unpacked: plain, gzip, xz or zstandard, told apart by content.

A stream that ends early or breaks gives every byte before the break; what went wrong is then in
`Source.error`. Decompressors are driven by hand because the file objects of the standard library
throw away what they have already unpacked when the end is missing.
"""

from __future__ import annotations

import lzma
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import RawIOBase
from types import TracebackType
from typing import Any, Protocol, cast

from tracelens.errors import CorruptTrace
from tracelens.ingest.bounds import BOUNDS, HINT, Bounds
from tracelens.remote import BEGINNING, THROUGH, open_binary
from tracelens.units import format_bytes

BOM = b"\xef\xbb\xbf"

#: Bytes of plain text read at once where no caller's buffer sets the size.
_BLOCK = 1 << 16
#: Longest magic number below.
_MAGIC_BYTES = 6


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class _Codec:
    """How to unpack one format.

    `piece` is how many packed bytes to feed at once. It bounds what one call may unpack: deflate
    packs 1032:1 at best (zlib.net/zlib_tech.html), xz and zstd many thousands to one. It is also
    what is lost before a damaged place.
    """

    name: str
    magic: bytes
    piece: int
    new: Callable[[Bounds], _Decompressor]
    errors: Callable[[], tuple[type[Exception], ...]]


def _new_gzip(_: Bounds) -> _Decompressor:
    wbits = 31  # 16 + 15: gzip wrapper, any window (zlib manual, inflateInit2)
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib.decompressobj(wbits)
    made: _Decompressor = isal_zlib.decompressobj(wbits)
    return made


def _gzip_errors() -> tuple[type[Exception], ...]:
    try:
        from isal import isal_zlib
    except ImportError:
        return (zlib.error,)
    return (zlib.error, cast("type[Exception]", isal_zlib.error))


def _new_zstd(_: Bounds) -> _Decompressor:
    import zstandard

    made: _Decompressor = zstandard.ZstdDecompressor().decompressobj()
    return made


def _zstd_errors() -> tuple[type[Exception], ...]:
    import zstandard

    return (zstandard.ZstdError,)


def _new_xz(bounds: Bounds) -> _Decompressor:
    return lzma.LZMADecompressor(memlimit=bounds.dictionary)


_CODECS = (
    _Codec("gzip", b"\x1f\x8b", 1 << 14, _new_gzip, _gzip_errors),
    _Codec("xz", b"\xfd7zXZ\x00", 1 << 12, _new_xz, lambda: (lzma.LZMAError,)),
    _Codec("zstd", b"\x28\xb5\x2f\xfd", 1 << 10, _new_zstd, _zstd_errors),
)


class Source:
    """A file's unpacked bytes, read forward once.

    Parameters
    ----------
    path : path
        Or a URL.
    bounds : Bounds, optional
    ahead : int, optional
        Bytes that are fetched at once from a URL.

    Attributes
    ----------
    size : int
        Bytes of the file as it lies on disk.
    position : int
        Bytes of the file read so far, for progress.
    error : str or None
        Why the stream ended before its end.
    compressed : bool
        Whether the file is packed.
    bounds : Bounds
        What it may unpack to.

    Raises
    ------
    OSError
        If the file cannot be opened.
    CorruptTrace
        While reading, if more comes out than `bounds` allow.
    """

    def __init__(
        self, path: str | os.PathLike[str], bounds: Bounds = BOUNDS, ahead: int = THROUGH
    ) -> None:
        self.bounds = bounds
        self._unpacked = 0
        self._name = os.fspath(path)
        self._file, self.size = open_binary(path, ahead)
        self.position = 0
        self.error: str | None = None
        magic = self._file.read(_MAGIC_BYTES)
        self._file.seek(0)
        codec = next((c for c in _CODECS if magic.startswith(c.magic)), None)
        self.compressed = codec is not None
        self._codec = codec
        self._errors: tuple[type[Exception], ...] = (OSError, EOFError)
        if codec:
            self._errors += codec.errors()
        self._decompressor: Any = codec.new(bounds) if codec else None
        self._pending = memoryview(b"")
        try:
            self._skip_bom()
        except CorruptTrace:
            self.close()
            raise

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer` with the next bytes; fewer only at the end. Returns how many."""
        filled = 0
        while filled < len(buffer):
            if not self._pending:
                if self._codec is None:
                    got = self._read_plain(buffer[filled:])
                    if not got:
                        break
                    filled += got
                    continue
                if not self._unpack():
                    break
            n = min(len(buffer) - filled, len(self._pending))
            buffer[filled : filled + n] = self._pending[:n]
            self._pending = self._pending[n:]
            filled += n
        return filled

    def read(self, n: int = _BLOCK) -> bytes:
        """The next `n` bytes; fewer only at the end."""
        buffer = bytearray(n)
        return bytes(buffer[: self.readinto(memoryview(buffer))])

    def _read_plain(self, buffer: memoryview) -> int:
        try:
            got = cast("RawIOBase", self._file).readinto(buffer) or 0
        except OSError as e:
            self.error = str(e)
            return 0
        self.position += got
        return got

    def _unpack(self) -> bool:
        """Unpack the next pieces until there is output; False at the end."""
        codec = self._codec
        if codec is None or self.error is not None:
            return False
        while True:
            packed = b""
            try:
                if self._decompressor.eof:
                    packed = self._next_member(codec)
                packed = packed or self._file.read(codec.piece) or b""
                if not packed:
                    self._at_end(codec)
                    return False
                self.position = self._file.tell()
                out = self._decompressor.decompress(packed)
            except self._errors as e:
                self.error = f"{codec.name} stream is damaged: {e}"
                return False
            if out:
                self._pending = memoryview(out)
                self._count(len(out))
                return True

    def _count(self, n: int) -> None:
        self._unpacked += n
        most = self.bounds.unpacked(self.size)
        if self._unpacked > most:
            raise CorruptTrace(
                f"{self._name}: {format_bytes(self.size)} that unpack to more than "
                f"{format_bytes(most)}: a decompression bomb?",
                hint=HINT,
            )

    def _next_member(self, codec: _Codec) -> bytes:
        """Start on the bytes after a finished member: another member, padding or garbage."""
        rest = bytes(self._decompressor.unused_data) or self._file.read(codec.piece) or b""
        rest = rest.lstrip(b"\0")  # padding of tapes and of xz
        if not rest:
            return b""
        while 0 < len(rest) < _MAGIC_BYTES:
            more = self._file.read(codec.piece)
            if not more:
                break
            rest += more
        if not rest.startswith(codec.magic):
            raise EOFError("other data follows its end")
        self._decompressor = codec.new(self.bounds)
        return rest

    def _at_end(self, codec: _Codec) -> None:
        if not self._decompressor.eof:
            self.error = f"{codec.name} stream ends before its end: the file was cut off"

    def _skip_bom(self) -> None:
        start = self.read(len(BOM))
        if start == BOM:
            return
        self._pending = memoryview(start + bytes(self._pending))


def read_tail(path: str | os.PathLike[str], n: int) -> bytes:
    """The last `n` bytes of a plain file; nothing of a packed one, which has no cheap end."""
    with Source(path, ahead=BEGINNING) as source:
        if source.compressed:
            return b""
    file, size = open_binary(path, n)
    with file:
        file.seek(max(0, size - n))
        return file.read(n)
