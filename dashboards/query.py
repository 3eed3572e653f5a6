"""Where a page stands: run, rank, step and what else a page asks for, as they are in the URL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from urllib.parse import parse_qsl, urlencode

#: What moves along from page to page.
SHARED = ("run", "rank", "step")
#: Before the name of a setting that the What-if page is to change.
SET = "set."
#: Longest value of a parameter that is taken.
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class Query:
    """The parameters of a URL, all text."""

    values: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def parse(cls, search: str | None) -> Query:
        """The part of a URL from ``?`` on; of a repeated parameter the last counts.

        Examples
        --------
        >>> Query.parse("?run=2&rank=3").integer("rank")
        3
        """
        pairs = parse_qsl((search or "").removeprefix("?"))
        return cls(MappingProxyType({k: v for k, v in pairs if len(v) <= _LONGEST}))

    def text(self, name: str) -> str | None:
        """A parameter; None without."""
        return self.values.get(name)

    def integer(self, name: str) -> int | None:
        """A parameter that is a whole number of up to 18 digits; None otherwise."""
        text = self.values.get(name, "")
        return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None

    def search(self, **changes: object) -> str:
        """The same place with other values, as the URL's search; None removes one.

        Examples
        --------
        >>> Query.parse("?run=2&rank=3").search(rank=None, step=7)
        '?run=2&step=7'
        """
        merged = {**self.values, **changes}
        kept = {k: str(v) for k, v in merged.items() if v is not None and str(v)}
        return f"?{urlencode(kept)}" if kept else ""

    def link(self, path: str, **changes: object) -> str:
        """Another page at the same run, rank and step.

        Examples
        --------
        >>> Query.parse("?run=2&before=1").link("/ranks", rank=0)
        '/ranks?run=2&rank=0'
        """
        shared = {k: v for k, v in self.values.items() if k in SHARED}
        return path + Query(shared).search(**changes)
