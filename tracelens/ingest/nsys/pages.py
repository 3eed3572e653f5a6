"""Integer columns of an SQLite table, decoded from the file's pages by numpy.

A report of a training job has millions of rows of small integers. SQLite hands them over one
Python object at a time; decoding the b-tree's leaf pages as arrays takes a fraction of that. The
format is public and fixed (https://www.sqlite.org/fileformat2.html, sections 1.3, 1.6 and 2.1);
whatever is not the plain case raises `NotPlain`, and the caller asks SQLite instead.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from types import TracebackType

import numpy as np
import numpy.typing as npt

from tracelens.sqlite import HEADER_BYTES, MAGIC
from tracelens.trace import Bools, Int64s

Bytes = npt.NDArray[np.uint8]
Columns = dict[str, Int64s]

_LEAF, _INTERIOR = 13, 5
#: Leaf pages decoded at once: their intermediate arrays stay in a core's cache.
_PAGES_AT_ONCE = 256
#: NULL, as every missing id or size in a `Trace`.
MISSING = -1

#: Bytes of a value by its serial type (section 2.1); types of text and blobs are computed.
_WIDTH = np.array([0, 1, 2, 3, 4, 6, 8, 8, 0, 0, 0, 0, *((n - 12) // 2 for n in range(12, 256))])
_WIDTH8 = _WIDTH.astype(np.int64)
#: How far to shift the eight bytes at a value's place to leave the value alone.
#: Longest variable-length number (sqlite.org/fileformat2.html#varint).
_VARINT_BYTES = 9
_SHIFT = np.array([63, 56, 48, 40, 32, 16, 0, 0, 63, 63], np.int64)


class NotPlain(Exception):
    """The table is stored in a way that this decoder leaves to SQLite."""


class Pages:
    """An SQLite file as pages.

    Parameters
    ----------
    path : path

    Raises
    ------
    NotPlain
        If the file is no plain SQLite file: odd header, write-ahead log in use.
    OSError
        If it cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        wal = os.fspath(path) + "-wal"
        if os.path.exists(wal) and os.path.getsize(wal):
            raise NotPlain("changes wait in a write-ahead log")
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by __exit__
        head = self._file.read(100)
        if len(head) < HEADER_BYTES or not head.startswith(MAGIC):
            self._file.close()
            raise NotPlain("no SQLite header")
        size = int.from_bytes(head[16:18], "big")
        self.page_size = 65536 if size == 1 else size
        if self.page_size < 512:  # sqlite.org/fileformat2.html#page_size
            self._file.close()
            raise NotPlain("no page size")
        self._usable = self.page_size - head[20]
        self.n_pages = os.fstat(self._file.fileno()).st_size // self.page_size

    def __enter__(self) -> Pages:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._file.close()

    def _read(self, numbers: npt.NDArray[np.int64], into: Bytes) -> None:
        """Read pages; neighbours in one go."""
        if (numbers < 1).any() or (numbers > self.n_pages).any():
            raise NotPlain("a page lies beyond the end of the file")
        size = self.page_size
        breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
        edges = [0, *breaks.tolist(), len(numbers)]
        target = into.data
        for a, b in pairwise(edges):
            self._file.seek((int(numbers[a]) - 1) * size)
            piece = target[a * size : b * size]
            if self._file.readinto(piece) != len(piece):
                raise NotPlain("the file ends early")

    def leaves(self, root: int) -> npt.NDArray[np.int64]:
        """Numbers of a table's leaf pages, in order of row id."""
        level = np.array([root], np.int64)
        size = self.page_size
        page = np.empty(size, np.uint8)
        seen = np.zeros(self.n_pages + 1, bool)
        while True:
            if int(level.max()) > self.n_pages or seen[level].any():
                raise NotPlain("a page lies beyond the end, or leads back to one above it")
            if len(np.unique(level)) < len(level):
                raise NotPlain("a page has two parents")
            seen[level] = True
            below: list[npt.NDArray[np.int64]] = []
            for k, number in enumerate(level):
                self._read(level[k : k + 1], page)
                kind = int(page[100 if number == 1 else 0])
                if kind == _LEAF and not below:
                    return level  # a b-tree's leaves all have one depth
                if kind != _INTERIOR or number == 1:
                    raise NotPlain("not a table's b-tree")
                below.append(self._children(page))
            level = np.concatenate(below)

    def _children(self, page: Bytes) -> npt.NDArray[np.int64]:
        count = int.from_bytes(page[3:5].tobytes(), "big")
        at = page[12 : 12 + 2 * count].view(">u2").astype(np.int64)
        if len(at) != count or int(at.max(initial=0)) > len(page) - 4:
            raise NotPlain("a damaged page")
        children = page[at[:, None] + np.arange(4)].copy().view(">u4").ravel().astype(np.int64)
        return np.append(children, int.from_bytes(page[8:12].tobytes(), "big"))

    def scan(
        self,
        root: int,
        wanted: Mapping[str, int],
        where: Sequence[tuple[str, Callable[[Int64s], Bools]]] = (),
        tick: Callable[[int, int], None] | None = None,
    ) -> Columns:
        """Some integer columns of a table's rows, in order of row id.

        Parameters
        ----------
        root : int
            The table's root page (``sqlite_master.rootpage``).
        wanted : mapping of str to int
            Names and places of the columns.
        where : sequence of (str, callable)
            Conditions on wanted columns; a row is left out where one is False.
        tick : callable, optional
            Called now and then with (pages read, pages of the table).

        Raises
        ------
        NotPlain
        """
        leaves = self.leaves(root)
        out = {name: np.empty(0, np.int64) for name in wanted}
        n = 0
        for done, cells in self._cells(leaves):
            rows = _Rows(*cells, max(wanted.values()) + 1, self._usable)
            for name, test in where:
                rows = rows.only(test(rows.column(wanted[name])))
            room = len(next(iter(out.values())))
            if n + len(rows) > room:  # as many as there will be if all pages are like those so far
                room = max(2 * room, (n + len(rows)) * len(leaves) // done + 1)
                out = {name: _grown(column, n, room) for name, column in out.items()}
            for name, place in wanted.items():
                rows.column(place, out[name][n : n + len(rows)])
            n += len(rows)
            if tick is not None:
                tick(done, len(leaves))
        return {name: column[:n] for name, column in out.items()}

    def _cells(
        self, leaves: npt.NDArray[np.int64]
    ) -> Iterator[tuple[int, tuple[Bytes, npt.NDArray[np.int64]]]]:
        """Pieces of the file as flat bytes, with the places of their cells."""
        size = self.page_size
        for first in range(0, len(leaves), _PAGES_AT_ONCE):
            numbers = leaves[first : first + _PAGES_AT_ONCE]
            flat = np.zeros(len(numbers) * size + 8, np.uint8)  # 8 more: values are read as 8 bytes
            self._read(numbers, flat[:-8])
            pages = flat[:-8].reshape(len(numbers), size)
            start = np.where(numbers == 1, 100, 0)
            row = np.arange(len(numbers))
            if (pages[row, start] != _LEAF).any():
                raise NotPlain("not a table's b-tree")
            count = pages[row, start + 3].astype(np.int64) << 8 | pages[row, start + 4]
            slot = np.arange(int(count.max(initial=0)))
            if int(start.max()) + 8 + 2 * len(slot) > size:
                raise NotPlain("more cells than a page can hold")
            at = (start + 8)[:, None] + 2 * slot
            place = pages[row[:, None], at].astype(np.int64) << 8 | pages[row[:, None], at + 1]
            place += (row * size)[:, None]
            yield first + len(numbers), (flat, place[slot < count[:, None]])


def _grown(column: Int64s, n: int, room: int) -> Int64s:
    larger = np.empty(room, np.int64)
    larger[:n] = column[:n]
    return larger


class _Rows:
    """Rows of one piece: where each record's header and values are."""

    def __init__(
        self,
        flat: Bytes,
        cell: npt.NDArray[np.int64],
        n_needed: int,
        usable: int,
    ) -> None:
        self._flat = flat
        # every place as the big-endian number in its eight bytes: one gather reads a value
        self._eight = np.ndarray((len(flat) - 7,), ">i8", flat, strides=(1,))
        head, payload = _varint(flat, cell)
        head, _ = _varint(flat, head)
        if len(cell) and int(payload.max()) > usable - 35:
            raise NotPlain("a row goes over several pages")
        if int(head.max(initial=0)) + n_needed >= len(flat):
            raise NotPlain("a row goes beyond its page")
        length = flat[head].astype(np.int64)
        if (length <= n_needed).any() or (length >= 128).any():
            raise NotPlain("a row without all the columns wanted, or with very many")
        self._serial = flat[(head + 1)[:, None] + np.arange(n_needed)]
        if (self._serial >= 128).any():
            raise NotPlain("a long text before the columns wanted")
        self._value = np.empty((len(cell), n_needed), np.int64)
        width = _WIDTH8[self._serial]
        np.cumsum(width[:, :-1], axis=1, out=self._value[:, 1:])
        self._value[:, 0] = 0
        self._value += (head + length)[:, None]
        if len(cell) and int((self._value[:, -1] + width[:, -1]).max()) > len(flat) - 8:
            raise NotPlain("a row goes beyond its page")

    def only(self, keep: Bools) -> _Rows:
        """The same rows without those that are not to be kept."""
        if keep.all():
            return self
        rows = object.__new__(_Rows)
        rows._flat, rows._eight = self._flat, self._eight
        rows._serial, rows._value = self._serial[keep], self._value[keep]
        return rows

    def __len__(self) -> int:
        return len(self._value)

    def column(self, place: int, out: Int64s | None = None) -> Int64s:
        """Values of one column; NULL is -1."""
        serial = self._serial[:, place]
        value = np.empty(len(serial), np.int64) if out is None else out
        if not len(serial):
            return value
        if int(serial.max()) > 9 or (serial == 7).any():
            raise NotPlain("not an integer")
        np.right_shift(self._eight[self._value[:, place]], _SHIFT[serial], out=value)
        if int(serial.min()) == 0 or int(serial.max()) > 7:
            value[serial == 0] = MISSING
            value[serial == 8] = 0  # 8 and 9 are the numbers 0 and 1 without any bytes
            value[serial == 9] = 1
        return value


def _varint(
    flat: Bytes, at: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where the variable-length number at each place ends, and its value."""
    if len(at) and int(at.max()) + _VARINT_BYTES > len(flat):
        raise NotPlain("a row beyond its page")
    value = flat[at].astype(np.int64)
    end = at + 1
    more = np.flatnonzero(value > 127)
    value &= 127
    for _ in range(_VARINT_BYTES - 1):
        if not len(more):
            break
        byte = flat[end[more]].astype(np.int64)
        value[more] = (value[more] << 7) | (byte & 127)
        end[more] += 1
        more = more[byte > 127]
    return end, value
