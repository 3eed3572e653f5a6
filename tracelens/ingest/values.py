"""From written values to typed ones: times, integers and texts of one stretch of events."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import msgspec
import numpy as np
from msgspec import Raw

from tracelens.ingest.schema import ABSENT, Number
from tracelens.trace import Bools, Int64s
from tracelens.units import EXACT_FLOAT_US, NS_PER_US, us_float_to_ns, us_text_to_ns

#: Times beyond this (146 years) are taken as damage: their sums would overflow int64.
MAX_NS = 2**62
#: Longest recording and longest event, ns (13 days): what lies further off is damage, and sums of
#: a few thousand such lengths still fit int64.
MAX_SPAN_NS = 2**50
#: Larger than any job; a file's number beyond it is damage, and lists of ranks stay small.
MAX_RANKS = 1_000_000
#: More elements than this are damage: sums of sizes stay exact in float64.
MAX_NELEMS = 2**48
_INT64 = range(-(2**63), 2**63)
#: CUPTI's "no stream" (uint32 -1) as some Kineto versions print it.
_UINT32_NONE = 2**32 - 1

_PLAIN = b"0123456789.,-"
_DOT, _COMMA = 46, 44
#: Digits of the largest int64.
_INT64_DIGITS = 19


def times_ns(texts: Sequence[Raw]) -> tuple[Int64s, Bools]:
    """Written microseconds to ns: exact, in bulk where the texts are alike.

    Returns
    -------
    ns : int64 (n,)
        0 where there is no usable time.
    usable : bool (n,)
    """
    n = len(texts)
    joined = b",".join(texts)
    # Letters, quotes and blanks go the slow way, and so does an empty text: it has no place.
    gap = b",," in joined or joined[:1] in (b"", b",") or joined[-1:] == b","
    if not gap and not joined.translate(None, _PLAIN):
        ns = _alike_ns(joined, n)
        if ns is not None:
            return ns, np.ones(n, bool)
    return _each_ns(texts)


def _alike_ns(joined: bytes, n: int) -> Int64s | None:
    """Plain decimals: all with three decimals, all integers, or all small enough for float64."""
    chars = np.frombuffer(joined, np.uint8)
    ends = np.append(np.flatnonzero(chars == _COMMA), len(chars))
    dots = np.flatnonzero(chars == _DOT)
    longest = int(np.diff(ends, prepend=-1).max()) - 1
    if len(ends) != n or longest > _INT64_DIGITS + 1:
        return None
    # what does not fit int64 comes back as its largest value, which is beyond the limits below
    if len(dots) == n and bool((ends - dots == 4).all()):  # Kineto's own form: 12.345
        ns = np.fromstring(joined.replace(b".", b""), np.int64, sep=",")
        return ns if int(np.abs(ns).max()) < MAX_NS else None
    if not len(dots) and longest <= _INT64_DIGITS:
        whole = np.fromstring(joined, np.int64, sep=",")
        return whole * NS_PER_US if int(np.abs(whole).max()) < MAX_NS // NS_PER_US else None
    us = np.fromstring(joined, np.float64, sep=",")
    if len(us) == n and float(np.abs(us).max()) < EXACT_FLOAT_US:
        return us_float_to_ns(us)
    return None


def _each_ns(texts: Sequence[Raw]) -> tuple[Int64s, Bools]:
    ns = np.zeros(len(texts), np.int64)
    usable = np.zeros(len(texts), bool)
    for i, text in enumerate(texts):
        value = time_ns(text)
        if value is not None:
            ns[i], usable[i] = value, True
    return ns, usable


def time_ns(text: Raw | bytes) -> int | None:
    """One written time (number or string) to ns; None if there is none.

    Examples
    --------
    >>> time_ns(b'"1712195495505582.988"'), time_ns(b"null"), time_ns(b"1e300")
    (1712195495505582988, None, None)
    """
    written = bytes(text).decode("utf-8", "replace").strip(' \t\r\n"')
    try:
        ns = us_text_to_ns(written)
    except (ValueError, ArithmeticError):
        return None
    return ns if abs(ns) < MAX_NS else None


def integers(values: Sequence[Number]) -> tuple[Int64s, int]:
    """Written numbers as int64, -1 where absent, and how many were not numbers at all."""
    try:
        return np.fromiter(values, np.int64, len(values)), 0
    except (TypeError, ValueError, OverflowError):
        pass
    found = [as_int(v) for v in values]
    odd = sum(f is None and v is not None for f, v in zip(found, values, strict=True))
    return np.array([-1 if f is None else f for f in found], np.int64), odd


def as_int(value: object) -> int | None:
    """An integer from however it was written; None if it is none or does not fit int64.

    Examples
    --------
    >>> as_int("0x10"), as_int(" 7 "), as_int(7.0), as_int(2**64 - 1), as_int("default")
    (16, 7, 7, None, None)
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        value = _number_in(value.strip())
    if isinstance(value, float):
        value = round(value) if math.isfinite(value) else None
    return value if isinstance(value, int) and value in _INT64 else None


def as_rank(value: object) -> int | None:
    """A rank, or a number of ranks; None for what cannot be one.

    Examples
    --------
    >>> as_rank("7"), as_rank(-1), as_rank(2**40)
    (7, None, None)
    """
    number = as_int(value)
    return number if number is not None and 0 <= number <= MAX_RANKS else None


def _number_in(text: str) -> int | float | None:
    try:
        return int(text, 16) if text[:2] in ("0x", "0X") else int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return None


def small_integers(values: Int64s) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """Streams and devices as int32: uint32 -1 is -1, and what does not fit is -1."""
    fits = (values >= -(2**31)) & (values < 2**31)
    if not fits.all():
        values = np.where(fits & (values != _UINT32_NONE), values, -1)
    return values.astype(np.int32)


def text_of(raw: Raw) -> str | None:
    """A string's content, or any other value as the JSON text that was written; None if absent.

    Examples
    --------
    >>> text_of(Raw(b'"[0, 1]"')), text_of(Raw(b"[0, 1]")), text_of(Raw(b"null"))
    ('[0, 1]', '[0, 1]', None)
    """
    if raw is ABSENT:
        return None
    written = bytes(raw)
    if written.startswith(b'"'):
        try:
            return msgspec.json.decode(written, type=str)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return str(json.loads(written.decode("utf-8", "replace"), strict=False))
    text = written.decode("utf-8", "replace").strip()
    return None if text in ("", "null") else text
