"""Words and numbers of the reports: what every output writes the same way."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TypeVar

from tracelens.units import ns_to_ms

T = TypeVar("T")


#: What a spreadsheet takes for a formula at the beginning of a cell (OWASP, CSV injection).
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def clean(text: str) -> str:
    r"""A name from a trace, safe to print: control characters and bidi overrides become ``?``.

    Examples
    --------
    >>> clean("gemm\x1b[31m<float>\n")
    'gemm?[31m<float>?'
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def cell(value: T) -> T | str:
    """A value as it may stand in a spreadsheet: text there is text and no formula.

    Examples
    --------
    >>> cell("=1+1"), cell("gemm"), cell(-1.5)
    ("'=1+1", 'gemm', -1.5)
    """
    if not isinstance(value, str):
        return value
    text = clean(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def shorten(text: str, width: int) -> str:
    """A cleaned name cut in the middle to at most `width` characters: both ends tell.

    Examples
    --------
    >>> shorten("ampere_bf16_s16816gemm_bf16_128x128", 20)
    'ampere_bf16...28x128'
    """
    text = clean(text)
    if len(text) <= width:
        return text
    tail = (width - 3) * 2 // 5
    return f"{text[: width - 3 - tail]}...{text[len(text) - tail :]}"


def digits_for(values_ns: Iterable[float]) -> int:
    """Decimals for a column of ms, so that its largest value shows three digits or more."""
    largest = max((abs(ns_to_ms(v)) for v in values_ns), default=0.0)
    return 1 if largest >= 10 else 2 if largest >= 1 else 3


def ms(ns: float, digits: int) -> str:
    """Milliseconds with a fixed number of decimals, thousands separated.

    Examples
    --------
    >>> ms(1_234_567_890, 1)
    '1,234.6'
    """
    return f"{ns_to_ms(ns):,.{digits}f}"


def ms_cell(ns: float, digits: int) -> str:
    """`ms`, where something too small to show does not look like nothing.

    Examples
    --------
    >>> ms_cell(1_000, 1), ms_cell(0, 1)
    ('<0.1', '0.0')
    """
    text = ms(ns, digits)
    return f"<{10**-digits:.{digits}f}" if ns > 0 and not float(text.replace(",", "")) else text


def duration(ns: float) -> str:
    """One duration in running text, in ms, with three digits or so.

    Examples
    --------
    >>> duration(63_105_237), duration(0), duration(1_934), duration(5)
    ('63.1 ms', '0 ms', '0.002 ms', 'less than 0.001 ms')
    """
    if 0 < ns < 500:
        return "less than 0.001 ms"
    return f"{ms(ns, digits_for([ns]))} ms" if ns else "0 ms"


def percent(part: float, whole: float) -> str:
    """A share in whole percent that never rounds something to nothing, or nearly all to all.

    Examples
    --------
    >>> percent(1, 3), percent(0, 3), percent(1, 1000), percent(999, 1000), percent(1, 0)
    ('33%', '0%', '<1%', '>99%', '-')
    """
    if not whole:
        return "-"
    share = 100 * part / whole
    if 0 < share < 0.5:
        return "<1%"
    if 99.5 <= share < 100:
        return ">99%"
    return f"{share:.0f}%"


def number(value: float) -> str:
    """A count that may be a mean: ``2``, ``2.5``, ``1,024``.

    Examples
    --------
    >>> number(2.0), number(2.5), number(1024.0), number(0.3333)
    ('2', '2.5', '1,024', '0.33')
    """
    return f"{value:,.2f}".rstrip("0").rstrip(".")


def rate(gbps: float | None) -> str:
    """A bandwidth in GB/s; a dash where it is unknown.

    Examples
    --------
    >>> rate(335.04), rate(0.0004), rate(None)
    ('335.0', '<0.1', '-')
    """
    if gbps is None:
        return "-"
    return "<0.1" if 0 < gbps < 0.05 else f"{gbps:,.1f}"


def listing(words: Sequence[str], last: str = "and") -> str:
    """Words as a phrase.

    Examples
    --------
    >>> listing(["a", "b", "c"]), listing(["1", "2"], "or")
    ('a, b and c', '1 or 2')
    """
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {last} {words[-1]}"


def ranges(numbers: Iterable[int]) -> str:
    """Numbers as ranges.

    Examples
    --------
    >>> ranges([0, 1, 2, 5, 7, 8])
    '0-2, 5, 7, 8'
    """
    runs: list[list[int]] = []
    for n in sorted(numbers):
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    parts = [f"{r[0]}-{r[-1]}" if len(r) > 2 else ", ".join(map(str, r)) for r in runs]
    return ", ".join(parts)


def plural(n: int, word: str) -> str:
    """A count with its word.

    Examples
    --------
    >>> plural(1, "step"), plural(8, "step")
    ('1 step', '8 steps')
    """
    return f"{n:,} {word}" if n == 1 else f"{n:,} {word}s"


def tool_version() -> str:
    """Version of tracelens, from the package itself: a bare clone has no installed metadata."""
    return str(sys.modules["tracelens"].__version__)
