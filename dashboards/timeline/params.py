"""The parameters of the timeline's requests: whole numbers within bounds, lanes by number.

Nothing in a request names a file; what is not a number of something that was opened is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from werkzeug.exceptions import BadRequest

_NUMBER = re.compile(r"-?[0-9]{1,18}\Z")
#: Wider than any screen, in pixels.
MAX_WIDTH = 16_384
#: More rows than any screen is high.
MAX_ROWS = 2_048
MAX_TEXT = 200


class Bad(BadRequest):
    """A parameter that cannot be used; the answer says which, not what it held."""


@dataclass(frozen=True, slots=True)
class Window:
    """A span of time, ns since the anchor rank's first event; ``t0 < t1``."""

    t0: int
    t1: int


def integer(args: Mapping[str, str], name: str, low: int, high: int) -> int:
    """A parameter that is a whole number from `low` to `high`.

    Raises
    ------
    Bad
    """
    text = args.get(name, "")
    if not _NUMBER.match(text) or not low <= int(text) <= high:
        raise Bad(f"{name} has to be a whole number from {low} to {high}")
    return int(text)


def window(args: Mapping[str, str]) -> Window:
    """The parameters ``t0`` and ``t1``.

    Raises
    ------
    Bad
    """
    most = 10**18
    t0, t1 = integer(args, "t0", -most, most), integer(args, "t1", -most, most)
    if t0 >= t1:
        raise Bad("t0 has to lie before t1")
    return Window(t0, t1)


def rows(args: Mapping[str, str]) -> list[tuple[int, int, int]]:
    """The parameter ``rows``: rank, lane and depth of each, as ``0.3.0,0.3.1``.

    Raises
    ------
    Bad
    """
    text = args.get("rows", "")
    parts = [p.split(".") for p in text.split(",")] if text else []
    if len(parts) > MAX_ROWS or not all(
        len(p) == 3 and all(re.fullmatch(r"[0-9]{1,6}", n) for n in p) for p in parts
    ):
        raise Bad(f"rows has to be up to {MAX_ROWS} of RANK.LANE.DEPTH")
    return [(int(a), int(b), int(c)) for a, b, c in parts]


def ranks(args: Mapping[str, str], name: str = "load") -> list[int]:
    """A list of ranks, as ``0,1``.

    Raises
    ------
    Bad
    """
    text = args.get(name, "")
    parts = text.split(",") if text else []
    if len(parts) > MAX_ROWS or not all(re.fullmatch(r"[0-9]{1,6}", p) for p in parts):
        raise Bad(f"{name} has to be a list of ranks")
    return [int(p) for p in parts]


def text(args: Mapping[str, str], name: str) -> str:
    """A parameter that is a short text.

    Raises
    ------
    Bad
    """
    found = args.get(name, "")
    if not found or len(found) > MAX_TEXT:
        raise Bad(f"{name} has to be a text of 1 to {MAX_TEXT} characters")
    return found
