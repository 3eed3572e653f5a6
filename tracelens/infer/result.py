"""An answer with its evidence, and the set of answers that describe a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import pandas as pd

Value: TypeAlias = str | int | bool | None

#: Confidence classes: a unique name or exact arithmetic; structure; structure that a script by hand
#: could leave, too; statistics; a weak sign.
CERTAIN, STRUCTURAL, LIKELY, STATISTICAL, WEAK = 0.98, 0.9, 0.8, 0.7, 0.5


@dataclass(frozen=True, slots=True)
class Inference:
    """One inferred property of the run.

    Attributes
    ----------
    key : str
        Name of the property, as in the JSON report.
    value : str, int, bool or None
        None where the trace cannot tell.
    candidates : tuple
        What is possible, most likely first; the value alone when it is known.
    confidence : float
        0 to 1, in the value, or in the list of candidates being complete.
    evidence : tuple of str
        Sentences that a reader can check against the trace, then what would decide.
    low, high : int, optional
        Bounds of a size that can only be bounded: it is at least `low`, and below `high`.
    """

    key: str
    value: Value
    candidates: tuple[Value, ...] = ()
    confidence: float = 0.0
    evidence: tuple[str, ...] = ()
    low: int | None = None
    high: int | None = None


class Setup(Mapping[str, Inference]):
    """The inferred properties by key, in the order of the report."""

    def __init__(self, inferences: tuple[Inference, ...]) -> None:
        self._by_key = {i.key: i for i in inferences}

    def __getitem__(self, key: str) -> Inference:
        return self._by_key[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_key)

    def __len__(self) -> int:
        return len(self._by_key)

    def __repr__(self) -> str:
        return f"Setup({', '.join(f'{k}={i.value!r}' for k, i in self.items())})"

    def value(self, key: str) -> Value:
        """The value of a key; None if it is unknown or was not asked."""
        found = self._by_key.get(key)
        return found.value if found else None

    def to_frame(self) -> pd.DataFrame:
        """One row a key: value, candidates, confidence, evidence."""
        import pandas as pd

        columns = ("value", "candidates", "confidence", "evidence", "low", "high")
        rows = [[getattr(i, c) for c in columns] for i in self.values()]
        return pd.DataFrame(rows, index=list(self), columns=list(columns), dtype=object)

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><th>{escape(k)}</th><td>{escape(str(i.value))}</td>"
            f"<td>{i.confidence:.2f}</td><td>{escape('; '.join(i.evidence))}</td></tr>"
            for k, i in self.items()
        )
        head = "<tr><th>key</th><th>value</th><th>confidence</th><th>evidence</th></tr>"
        return f"<table>{head}{cells}</table>"
