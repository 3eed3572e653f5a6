"""A trace file's event array in slices of whole events.

Cutting where ``}, {"ph":`` (or another event key) matches is safe: if a slice starts at a true
boundary and is valid JSON in brackets, its end is a true boundary too, and so on by induction. A
slice that is not valid is repaired by its reader (see `decode`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tracelens.errors import CorruptTrace, UnsupportedFormat
from tracelens.ingest.bounds import HINT
from tracelens.ingest.source import Source
from tracelens.units import format_bytes

#: Keys with which an event may start (Chrome "Trace Event Format"; "args" where keys are sorted).
_FIRST_KEYS = b"ph|name|cat|pid|tid|ts|args|dur|id|id2|s|bp|sf|tts|tdur|cname|scope|bind_id"
_EVENT_START = rb'\{\s*"(?:' + _FIRST_KEYS + rb')"\s*:'
BOUNDARY = re.compile(rb"\}(\s*,\s*)(?=" + _EVENT_START + rb")")
_ARRAY = re.compile(rb'"traceEvents"\s*:\s*\[')

#: Bytes of one slice (0.5 to 8 MB measured alike; more is slower and takes memory).
SLICE_BYTES = 2_000_000
#: Where the last boundary of a slice is looked for first.
_WINDOW = 1 << 15


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of whole events.

    `view` is ``[`` + events + ``]`` in a buffer that is used again for the next piece; `separator`
    is what was cut away after it; `last` says that the file ends here, so that `view` holds
    whatever was left, the array's end and the tail included.
    """

    view: memoryview
    separator: bytes
    last: bool

    def events(self) -> bytes:
        """A copy of the bytes without our brackets."""
        return bytes(self.view[1:-1])


class EventStream:
    """The event array of a trace file.

    Attributes
    ----------
    header : bytes
        Text before the array, from the opening brace; empty for a bare array.
    bare : bool
        Whether the file is an array without an object around it.

    Raises
    ------
    UnsupportedFormat
        If there is no event array.
    """

    def __init__(self, source: Source, slice_bytes: int = SLICE_BYTES) -> None:
        self._source = source
        self._slice_bytes = slice_bytes
        self._carry = b""
        self.header, self.bare = b"", False
        self._find_array()

    def _find_array(self) -> None:
        head = b""
        while len(head) < self._source.bounds.header:
            block = self._source.read(max(1 << 16, len(head)))
            head += block
            start = head.lstrip()
            if start.startswith(b"["):
                self.bare, self._carry = True, start[1:]
                return
            found = _ARRAY.search(head)
            if found:
                self.header, self._carry = head[: found.start()].lstrip(), head[found.end() :]
                return
            if not block or (start and not start.startswith(b"{")):
                break
        raise UnsupportedFormat(
            f'no "traceEvents" array in the first {format_bytes(len(head))}',
            hint="expected is a Chrome trace as torch.profiler's export_chrome_trace writes it; "
            "was the file cut off?",
        )

    def __iter__(self) -> Iterator[Piece]:
        buffer = bytearray(self._slice_bytes + 2)
        while True:
            view = memoryview(buffer)
            filled, at_end = self._fill(view)
            cut = None if at_end else _last_boundary(view, filled)
            if cut is None and not at_end:
                self._carry = bytes(view[1 : 1 + filled]) + self._carry
                buffer = self._larger(buffer)
                continue
            stop, separator = cut or (1 + filled, b"")
            self._carry = bytes(view[stop + len(separator) : 1 + filled]) + self._carry
            view[0], view[stop] = ord("["), ord("]")
            yield Piece(view[: stop + 1], separator, at_end)
            if at_end:
                return
            if len(buffer) > self._slice_bytes + 2 and len(self._carry) < self._slice_bytes:
                buffer = bytearray(self._slice_bytes + 2)  # a huge event is over

    def _fill(self, view: memoryview) -> tuple[int, bool]:
        """Fill between the bracket places; -> bytes there, whether the file ends with them."""
        room = len(view) - 2
        filled = min(len(self._carry), room)
        view[1 : 1 + filled] = self._carry[:filled]
        self._carry = self._carry[filled:]
        filled += self._source.readinto(view[1 + filled : 1 + room])
        return filled, filled < room

    def _larger(self, buffer: bytearray) -> bytearray:
        if 2 * len(buffer) > self._source.bounds.event:
            raise CorruptTrace(
                f"no event boundary within {format_bytes(len(buffer))}: damaged, or not a trace",
                hint=HINT,
            )
        return bytearray(2 * len(buffer))

    def rest(self, start: bytes, separator: bytes) -> bytes:
        """All text after the array, of which `start` was in the last piece."""
        text = bytearray(start + separator + self._carry)
        self._carry = b""
        while len(text) < self._source.bounds.header:
            block = self._source.read()
            if not block:
                break
            text += block
        return bytes(text)


def _last_boundary(view: memoryview, filled: int) -> tuple[int, bytes] | None:
    """Where the last whole event of the filled part ends, and the separator after it."""
    stop, window = 1 + filled, _WINDOW
    while True:
        start = max(1, stop - window)
        found = [(m.start(1), m.group(1)) for m in BOUNDARY.finditer(view[start:stop])]
        if found:
            return start + found[-1][0], found[-1][1]
        if start == 1:
            return None
        window *= 4
