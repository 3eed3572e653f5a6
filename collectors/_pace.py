"""How long steps take, without making them longer.

On a GPU an event is recorded on the current stream at the end of each step, and read when the
device has long passed it: no synchronisation, a few microseconds of host time a step. Elsewhere the
host's clock is read.
"""

from __future__ import annotations

import time
from typing import Any

NS_PER_MS = 1_000_000


class Pace:
    """Marks at the ends of consecutive steps; the time between two marks is one step's."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch if torch.cuda.is_available() else None
        self._marks: list[Any] = []

    def mark(self) -> None:
        """A step ends here."""
        if self._torch is None:
            self._marks.append(time.perf_counter_ns())
            return
        event = self._torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append(event)

    def each_ms(self) -> list[float]:
        """Length of each step between two marks, ms. Waits for the device to reach the last one."""
        pairs = list(zip(self._marks, self._marks[1:]))  # noqa: B905  # one is shorter by design
        if self._torch is None:
            return [(b - a) / NS_PER_MS for a, b in pairs]
        if pairs:
            self._marks[-1].synchronize()
        return [float(a.elapsed_time(b)) for a, b in pairs]

    def summary(self, first_step: int) -> dict[str, object] | None:
        """The part of the manifest that tells these steps; None without a whole one."""
        each = self.each_ms()
        if not each:
            return None
        return {
            "first_step": first_step,
            "count": len(each),
            "mean_ms": round(sum(each) / len(each), 6),
            "each_ms": [round(v, 6) for v in each],
        }
