"""Counting what was odd about a file, so that it ends up in `ImportStats`."""

from __future__ import annotations

from tracelens.trace import ImportStats, Note

#: Codes whose events are lost.
DROPPED = ("damaged_events", "not_an_event", "bad_time", "unmatched_begin_end", "repeated_events")

#: What each code says. Order is that of the notes.
_TEXTS = {
    "truncated": "The file ends before its end; all whole events before the cut are here.",
    "damaged_stream": "The compressed stream is damaged: {detail}.",
    "no_events": "The trace has no events.",
    "damaged_events": "Events that are not valid JSON were dropped.",
    "not_an_event": "Entries that are not trace events were dropped.",
    "bad_time": "Events without a usable start time were dropped.",
    "unmatched_begin_end": "Begin or end events without their partner were dropped.",
    "repeated_events": "Events that the file holds twice were taken once.",
    "missing_dur": "Events without a usable duration were kept with duration 0.",
    "negative_dur": "Negative durations were set to 0.",
    "odd_values": "Arguments that should be numbers and are not were taken as absent.",
    "not_finite": "Numbers that are not finite (NaN, inf) were taken as absent.",
    "not_utf8": "Parts of the file are not UTF-8; such characters show as U+FFFD.",
    "tolerant_slices": "Parts of the file broke the JSON rules and were read event by event.",
    "bad_header": "The file's header is not valid JSON; what could be read of it was used.",
    "unknown_schema": "The file's schema version is {detail}; what is known of version 1 was read.",
    "trailing_data": "Text after the end of the trace was ignored.",
}


class Tally:
    """Counts by code, with the detail of the first occurrence."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._details: dict[str, str] = {}

    def add(self, code: str, count: int = 1, *, detail: str = "") -> None:
        """Count `count` more of `code` (a key of the table above)."""
        if count:
            self._counts[code] = self._counts.get(code, 0) + count
            self._details.setdefault(code, detail)

    def __getitem__(self, code: str) -> int:
        return self._counts.get(code, 0)

    @property
    def dropped(self) -> int:
        """Events lost so far."""
        return sum(self[code] for code in DROPPED)

    def stats(self, events_read: int) -> ImportStats:
        """What was counted, as notes in a fixed order."""
        notes = tuple(
            Note(code, self._counts[code], text.format(detail=self._details[code]))
            for code, text in _TEXTS.items()
            if code in self._counts
        )
        return ImportStats(events_read=events_read, events_dropped=self.dropped, notes=notes)
