"""What collectors of some steps have in common: counting steps, timing them, the manifest."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import _job, _manifest
from ._guard import Collector, guarded
from ._pace import Pace


@dataclass(frozen=True)
class Schedule:
    """Which steps are what, from 0: `skip`, then `timed` without a profiler, then windows.

    A window is `warmup` steps in which the profiler starts up and `active` recorded ones; `repeat`
    windows follow each other, `pause` unrecorded steps apart.
    """

    skip: int = 5
    timed: int = 10
    warmup: int = 2
    active: int = 3
    repeat: int = 1
    pause: int = 0

    def __post_init__(self) -> None:
        if min(asdict(self).values()) < 0 or not (self.active and self.repeat):
            raise ValueError(f"a schedule has no negative numbers, active and repeat >= 1: {self}")

    @property
    def before(self) -> int:
        """Steps before the first window."""
        return self.skip + self.timed

    @property
    def total(self) -> int:
        """Steps until the recording is complete."""
        window = self.warmup + self.active
        return self.before + window * self.repeat + self.pause * (self.repeat - 1)

    @property
    def period(self) -> int:
        """Steps from one window to the next."""
        return self.warmup + self.active + self.pause

    def window(self, number: int) -> int:
        """First recorded step of a window."""
        return self.before + self.period * number + self.warmup

    def action(self, step: int) -> str:
        """What torch.profiler does in a step: the name of a ProfilerAction.

        Examples
        --------
        >>> [Schedule(1, 1, 1, 2).action(k) for k in range(6)]
        ['NONE', 'NONE', 'WARMUP', 'RECORD', 'RECORD_AND_SAVE', 'NONE']
        """
        window, within = divmod(step - self.before, self.period)
        recorded = within - self.warmup
        if not 0 <= window < self.repeat or recorded >= self.active:
            return "NONE"
        if recorded < 0:
            return "WARMUP"
        return "RECORD_AND_SAVE" if recorded == self.active - 1 else "RECORD"


class StepCollector(Collector):
    """Base of the collectors that record some steps.

    Subclasses say what happens in `_open` (once, before the first step), `_tick` (at the end of
    each step) and `_shut` (once).
    """

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        engine: Any,
        schedule: Schedule | None,
        ranks: Collection[int] | None,
        enabled: bool,
    ) -> None:
        self.run_dir, self.engine = Path(run_dir), engine
        self.schedule = schedule or Schedule()
        self.rank = -1
        self._ranks = None if ranks is None else frozenset(ranks)
        self._enabled = enabled
        self._running = False
        self._count = 0
        self._window = 0
        self._plain: Pace | None = None
        self._traced: Pace | None = None

    @property
    def on(self) -> bool:
        """Whether it is recording, or will: False once it is done, off, or broken."""
        return self._running and not self.broken

    @guarded
    def start(self) -> None:
        """Begin; `with` does it."""
        if not self._enabled or self._running:
            return
        self.rank = _job.rank()
        if self._ranks is not None and self.rank not in self._ranks:
            return
        import torch

        self._watch_engine()
        self._plain = Pace(torch)
        if self.schedule.skip == 0 and self.schedule.timed:
            self._plain.mark()
        self._running = True
        self._open(torch)
        if self.schedule.window(0) == 0:
            self._traced = self._started()

    @guarded
    def step(self) -> None:
        """A step of training ends here: after the optimizer's."""
        if not self._running or not self._counts():
            return
        self._count += 1
        s, n = self.schedule, self._count
        if self._plain is not None and s.skip <= n <= s.before and s.timed:
            self._plain.mark()
        first = s.window(self._window)
        if self._traced is not None:
            self._traced.mark()
        self._tick(n)
        if n == first:
            self._traced = self._started()
        if n >= s.total:
            self.close()

    @guarded
    def close(self) -> None:
        """Stop, and write what there is; `with` does it. More steps change nothing."""
        if self._running:
            self._running = False
            self._shut()

    def _open(self, torch: Any) -> None:
        raise NotImplementedError

    def _tick(self, n: int) -> None:
        raise NotImplementedError

    def _shut(self) -> None:
        raise NotImplementedError

    def _started(self) -> Pace:
        """Marks of a window, from the moment that it is recorded."""
        pace = Pace(sys.modules["torch"])
        pace.mark()
        return pace

    def _write(self, folder: Path, recording: Mapping[str, object]) -> None:
        """The manifest of a window, once its trace is in place."""
        s, traced = self.schedule, self._traced
        self._traced = None
        plain = self._plain.summary(s.skip) if self._plain is not None else None
        recorded = traced.summary(s.window(self._window)) if traced is not None else None
        config, left_out = self._ds_config()
        parts = {
            **_job.identity(),
            "device": _job.device(),
            "versions": _job.versions(),
            "recording": {**recording, "schedule": asdict(s), "window": self._window},
            "steps": {"unprofiled": plain, "profiled": recorded, "cost": _cost(plain, recorded)},
            "ds_config": config,
            "ds_config_left_out": left_out,
        }
        _manifest.update(folder, self.rank, parts)

    def _ds_config(self) -> tuple[dict[str, Any] | None, list[str]]:
        if isinstance(self.engine, Mapping):
            return _manifest.ds_config_parts(self.engine)
        if not hasattr(self.engine, "_config"):
            return None, []
        return _manifest.ds_config_parts(_manifest.effective_ds_config(self.engine))


def _cost(plain: dict[str, Any] | None, traced: dict[str, Any] | None) -> dict[str, float] | None:
    """What recording cost a step: profiled less un-profiled mean."""
    if plain is None or traced is None:
        return None
    more = traced["mean_ms"] - plain["mean_ms"]
    return {"ms_per_step": round(more, 6), "percent": round(100 * more / plain["mean_ms"], 3)}
