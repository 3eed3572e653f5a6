"""Events out of damaged or unusual JSON, one by one, picking up again after each bad place.

The standard library's parser finds where each event ends and lets pass what msgspec refuses (NaN,
raw control characters, numbers of any kind); each event is then decoded as usual if it can be, and
field by field if not. About ten times slower than the strict way, and used only where that fails.
"""

from __future__ import annotations

import codecs
import json
import re
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Raw

from tracelens.ingest import schema
from tracelens.ingest.chunks import BOUNDARY
from tracelens.ingest.schema import (
    ABSENT,
    Args,
    Begin,
    End,
    Instant,
    MemoryArgs,
    NameArgs,
    Naming,
    Slice,
)
from tracelens.ingest.tally import Tally

_DECODE_ERRORS = (msgspec.DecodeError, UnicodeError, RecursionError)
_BOUNDARY = re.compile(BOUNDARY.pattern.decode())
_BETWEEN = re.compile(r"[\s,]*")
_PHASE = re.compile(r'"ph"\s*:')
#: A parser that stops this close to the end of the text has probably met the end (\uXXXX is 6).
_NEAR_END = 6


class _Decimal(str):
    """A number with a fraction, as written."""


_JSON = json.JSONDecoder(strict=False, parse_float=_Decimal)


@dataclass(frozen=True, slots=True)
class Repaired:
    """Events of one stretch of text.

    `read` counts entries met, whole or not; `left` is an unfinished event at the end; `tail` is the
    text after the array's end, None if that was not met.
    """

    events: list[Any]
    read: int
    left: bytes = b""
    tail: bytes | None = None


def read_events(data: bytes, tally: Tally, *, final: bool) -> Repaired:
    """Read the events of `data`, which starts between two events.

    Parameters
    ----------
    data : bytes
        Events and what lies between them; perhaps the end of the array and more.
    tally : Tally
        Counts what is dropped.
    final : bool
        Whether no more text can come to complete an unfinished event.
    """
    text = _text(data, tally)
    decoder = schema.events_decoder()
    events: list[Any] = []
    read = at = 0
    while True:
        at = _end_of(_BETWEEN, text, at)
        if at >= len(text):
            return Repaired(events, read)
        if text[at] == "]":
            return Repaired(events, read, tail=text[at + 1 :].encode("utf-8", "replace"))
        try:
            value, end = _JSON.raw_decode(text, at)
        except (ValueError, RecursionError) as e:
            onward = _next_event(text, at, e, final=final)
            if onward is None:
                return Repaired(events, read, left=text[at:].encode("utf-8", "replace"))
            lost = max(1, len(_PHASE.findall(text, at, onward)))
            tally.add("damaged_events", lost)
            read += lost
            at = onward
            continue
        read += 1
        event = _event(decoder, text[at:end], value)
        if event is None:
            tally.add("not_an_event")
        else:
            events.append(event)
        at = end


def _text(data: bytes, tally: Tally) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as e:
        if e.end < len(data) or e.reason != "unexpected end of data":
            tally.add("not_utf8")
        # A character that the end of the file cuts in two is left out, not replaced.
        return codecs.getincrementaldecoder("utf-8")("replace").decode(data, final=False)


def _end_of(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at


def _next_event(text: str, at: int, error: Exception, *, final: bool) -> int | None:
    """Where to go on after the bad place at `at`; None if the text just ended too early."""
    if isinstance(error, json.JSONDecodeError) and not final:
        ran_out = error.msg.startswith("Unterminated") or error.pos >= len(text) - _NEAR_END
        if ran_out:
            return None
    boundary = _BOUNDARY.search(text, at)
    return boundary.end() if boundary else None


def _event(decoder: msgspec.json.Decoder[list[Any]], written: str, value: object) -> Any:
    """The struct of one event, None if it is none."""
    if not isinstance(value, dict) or not isinstance(value.get("ph"), str):
        return None
    try:
        return decoder.decode(f"[{written}]")[0]
    except _DECODE_ERRORS:
        return _from_fields(value)


def _from_fields(value: dict[str, Any]) -> Any:
    """The struct of an event whose fields are of unexpected types."""
    ts, pid, tid = _raw(value.get("ts")), _id(value.get("pid")), _id(value.get("tid"))
    name = _string(value.get("name", ""))
    args = value.get("args")
    args = args if isinstance(args, dict) else {}
    match value["ph"]:
        case "X" | "B" as phase:
            cat = _string(value.get("cat", ""))
            if phase == "B":
                raw = Raw(msgspec.json.encode(_plain(args)))
                return Begin(ts=ts, name=name, cat=cat, pid=pid, tid=tid, args=raw)
            dur, slice_args = _raw(value.get("dur")), _args(Args, args)
            return Slice(ts=ts, dur=dur, name=name, cat=cat, pid=pid, tid=tid, args=slice_args)
        case "E":
            return End(ts=ts, pid=pid, tid=tid)
        case "i":
            return Instant(ts=ts, name=name, pid=pid, tid=tid, args=_args(MemoryArgs, args))
        case "M":
            return Naming(name=name, pid=pid, tid=tid, args=_args(NameArgs, args))
    return schema.SKIPPED


def _args(struct: Any, args: dict[str, Any]) -> Any:
    """Arguments field by field."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(struct):
        if field.encode_name not in args:
            continue
        value = args[field.encode_name]
        if field.type is Raw:
            found[field.name] = Raw(msgspec.json.encode(_plain(value)))
        elif field.encode_name == "Collective name":
            found[field.name] = None if value is None else _string(value)
        elif isinstance(value, (int, float, str)) and not isinstance(value, bool):
            found[field.name] = _string(value) if isinstance(value, str) else value
        else:
            found[field.name] = None
    return struct(**found)


def _plain(value: Any) -> Any:
    """A value that msgspec can write: our decimals as numbers, no half surrogates."""
    if isinstance(value, _Decimal):
        return float(value)
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, int) and abs(value) >= 2**63:
        return float(value)
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {_string(k): _plain(v) for k, v in value.items()}
    return value


def _raw(value: object) -> Raw:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return ABSENT
    return Raw(str(value).encode("utf-8", "replace"))


def _id(value: object) -> int | str:
    if isinstance(value, _Decimal):
        return _whole(value)
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, int):
        return int(value)
    return -1 if value is None else _string(value)


def _whole(value: _Decimal) -> int | str:
    number = float(value)
    return int(number) if number.is_integer() else str(value)


def _string(value: object) -> str:
    """Text without half surrogates, which could not be written anywhere later."""
    return str(value).encode("utf-8", "replace").decode()
