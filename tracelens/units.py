"""Time and size units: text in, ns inside, text out. The only home of 1_000."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

NS_PER_US = 1_000
NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000

#: Below 2**43 us (101 days) a float64 holds three decimals of a microsecond exactly enough to be
#: rounded back to the written nanosecond; above, its spacing (0.002 us and more) loses some.
EXACT_FLOAT_US = 2.0**43


def us_text_to_ns(text: str) -> int:
    """Decimal microseconds, as written, to nanoseconds: exact, rounded to the nearest.

    Raises
    ------
    ValueError
        If the text is not a finite decimal number.

    Examples
    --------
    >>> us_text_to_ns("1712195495505582.988")
    1712195495505582988
    """
    try:
        value = Decimal(text.strip())
    except InvalidOperation as e:
        raise ValueError(f"not a number: {text!r}") from e
    if not value.is_finite():
        raise ValueError(f"not a finite number: {text!r}")
    return int((value * NS_PER_US).to_integral_value())


def us_float_to_ns(us: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Float64 microseconds to int64 ns; exact for three decimals below `EXACT_FLOAT_US`.

    The whole part is multiplied as an integer: ``x * 1000`` in float64 would round the last digit
    wrongly from 4.5e12 us on.

    Examples
    --------
    >>> import numpy as np
    >>> us_float_to_ns(np.array([4368926822274.926, 0.001])).tolist()
    [4368926822274926, 1]
    """
    import numpy as np  # texts are formatted by programs that need no numpy

    whole = np.floor(us)
    rest = np.rint((us - whole) * NS_PER_US)
    return np.asarray(whole.astype(np.int64) * NS_PER_US + rest.astype(np.int64), np.int64)


def ns_to_ms(ns: int | float) -> float:
    """Nanoseconds as milliseconds, for output only."""
    return float(ns) / NS_PER_MS


def ms_to_ns(ms: float) -> float:
    """Milliseconds to nanoseconds."""
    return ms * 1_000_000


def format_ns(ns: int | float) -> str:
    """Human text of a duration with three significant digits.

    Examples
    --------
    >>> format_ns(1_234_567), format_ns(950), format_ns(-2_500_000_000)
    ('1.23 ms', '950 ns', '-2.50 s')
    """
    sign, n = ("-", -ns) if ns < 0 else ("", ns)
    for unit, size in (("s", NS_PER_S), ("ms", NS_PER_MS), ("us", NS_PER_US)):
        if n >= size:
            value = n / size
            digits = 2 if value < 10 else 1 if value < 100 else 0
            return f"{sign}{value:.{digits}f} {unit}"
    return f"{sign}{n:.0f} ns"


def format_bytes(n: int | float) -> str:
    """Human text of a size in decimal units, as link speeds are quoted.

    Examples
    --------
    >>> format_bytes(1_071_714_304), format_bytes(512)
    ('1.07 GB', '512 B')
    """
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(n) >= size:
            value = n / size
            digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
            return f"{value:.{digits}f} {unit}"
    return f"{n:.0f} B"


def format_count(n: int) -> str:
    """An integer with thousands separators: ``470,321,152``."""
    return f"{n:,}"
