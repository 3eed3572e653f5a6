"""Slices of a trace file to event structs: strictly where possible, else event by event."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from tracelens.ingest.chunks import SLICE_BYTES, Piece
from tracelens.ingest.schema import events_decoder
from tracelens.ingest.tally import Tally
from tracelens.ingest.tolerant import read_events

#: What msgspec raises on text that is not as declared.
DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

#: Numbers that C++ and Python print and JSON does not have, as the value of a key.
_NOT_FINITE = re.compile(
    rb'((?<!\\)"\s*:\s*)-?(?:nan|NaN|inf|Infinity)(?:\(\w*\))?(?=\s*[,}])',
)
#: Where the array may end: after an event, or at once.
_CLOSING = re.compile(rb"(?:\}|\A)\s*\]")
#: How many such places to try before going event by event: arguments may hold lists of objects.
_CLOSING_TRIES = 4
#: How much unfinished text to carry on before taking it for damage: a real event that was cut in
#: two ends within the next slice.
_MAX_LEFT = 4 * SLICE_BYTES


@dataclass(frozen=True, slots=True)
class Decoded:
    """Events of one piece.

    `read` counts the entries met, `tail` is the text after the array's end (None before it).
    """

    events: list[Any]
    read: int
    tail: bytes | None = None


class PieceDecoder:
    """Decodes the pieces of one file in their order.

    Attributes
    ----------
    left : bytes
        Text of an event that is not finished yet; after the last piece, of one that was cut off.
    """

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._decoder = events_decoder()
        self.left = b""

    def __call__(self, piece: Piece) -> Decoded:
        """Decode one piece; its structs point into the piece's buffer."""
        found = None if self.left else self._strict(piece)
        if found is not None:
            return found
        mended = self._finite(piece)
        found = None if self.left or mended is piece else self._strict(mended)
        return found or self._repair(mended)

    def _finite(self, piece: Piece) -> Piece:
        """The piece with null for NaN and infinities; itself if it has none."""
        text, count = _NOT_FINITE.subn(rb"\1null", bytes(piece.view))
        if not count:
            return piece
        self._tally.add("not_finite", count)
        return replace(piece, view=memoryview(text))

    def _strict(self, piece: Piece) -> Decoded | None:
        if not piece.last:
            try:
                events = self._decoder.decode(piece.view)
            except DECODE_ERRORS:
                pass
            else:
                return Decoded(events, len(events))
        return self._closed(piece) or (self._unclosed(piece) if piece.last else None)

    def _closed(self, piece: Piece) -> Decoded | None:
        """The piece as events, the array's end and what follows it."""
        inner = piece.view[1:-1]
        for attempt, match in enumerate(_CLOSING.finditer(inner)):
            if attempt == _CLOSING_TRIES:
                break
            try:
                events = self._decoder.decode(piece.view[: 1 + match.end()])
            except DECODE_ERRORS:
                continue
            return Decoded(events, len(events), bytes(inner[match.end() :]))
        return None

    def _unclosed(self, piece: Piece) -> Decoded | None:
        """The last piece of a file that ends with a whole event but without the array's end."""
        try:
            events = self._decoder.decode(piece.view)
        except DECODE_ERRORS:
            return None
        return Decoded(events, len(events))

    def _repair(self, piece: Piece) -> Decoded:
        self._tally.add("tolerant_slices")
        final = piece.last or len(self.left) > _MAX_LEFT
        got = read_events(self.left + piece.events(), self._tally, final=final)
        self.left = got.left
        if self.left and not piece.last:
            if final:  # nothing can complete it any more
                self._tally.add("damaged_events")
                self.left = b""
            else:
                self.left += piece.separator
        return Decoded(got.events, got.read, got.tail)
