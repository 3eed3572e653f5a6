"""Record some steps with torch.profiler, and time some others without it."""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import time
import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Literal

from ._guard import guarded
from ._steps import Schedule, StepCollector

Level = Literal["light", "standard", "deep"]

#: What each level records beyond kernels, copies, calls and operators. Without operators ("CUDA
#: activities only") torch writes no arguments of collectives, so no level goes below them.
LEVELS: dict[str, dict[str, bool]] = {
    "light": {},
    "standard": {"record_shapes": True},
    "deep": {"record_shapes": True, "with_stack": True, "profile_memory": True},
}

#: gzip's fastest level: 6 makes a trace a quarter smaller and takes four times as long.
_GZIP_LEVEL = 1


class TorchTraceCollector(StepCollector):
    """Records a few steps of a training job into a run folder, one trace and manifest a rank.

    Use it as a context manager around the training loop and call `step` at the end of each step.
    It times `timed` steps without a profiler first, since a profiled step is a slower one.

    Parameters
    ----------
    run_dir : path
        Folder of the run, the same on all ranks. With `repeat` > 1 each window is a run folder in
        it: ``window0``, ``window1`` ...
    engine : DeepSpeed engine or dict, optional
        Its effective configuration is recorded, and with it `step` may be called after every
        ``engine.step()``: a step counts when the engine's ``global_steps`` has moved, so
        micro-steps of an accumulation count as one. Or the ds_config, where no engine is at hand.
    level : {"light", "standard", "deep"}
        light: kernels, copies, calls, operators and the arguments of collectives. standard: operand
        shapes too (bucket sizes are read from them). deep: Python stacks, allocator events and
        CUDA synchronisation too.
    schedule : Schedule, optional
    ranks : collection of int, optional
        Ranks that record; the others do nothing. All by default.
    enabled : bool
        False: do nothing at all.

    Notes
    -----
    No method raises: the first error inside is one `CollectorWarning`, and the collector does
    nothing from then on. Errors of the training loop pass through untouched.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        *,
        engine: Any = None,
        level: Level = "standard",
        schedule: Schedule | None = None,
        ranks: Collection[int] | None = None,
        enabled: bool = True,
    ) -> None:
        if level not in LEVELS:
            raise ValueError(f"level {level!r}: one of {', '.join(LEVELS)}")
        super().__init__(run_dir, engine, schedule, ranks, enabled)
        self.level = level
        self._profile: Any = None
        self._driving = False

    def give_up(self, error: BaseException) -> None:
        """Stop the profiler too: it must not go on recording."""
        profile, self._profile = self._profile, None
        super().give_up(error)
        # stopped a second time amid its own start or stop, it brings the process down
        if profile is not None and not self._driving:
            with contextlib.suppress(Exception):
                profile.on_trace_ready = None
                self._drive(profile.stop)

    def _open(self, torch: Any) -> None:
        self._profile = self._new_profile(torch)
        self._drive(self._profile.start)

    def _tick(self, n: int) -> None:
        if self.schedule.action(n - 1) == self.schedule.action(n) != "RECORD_AND_SAVE":
            self._profile.step()
        else:
            self._drive(self._profile.step)  # a window starts or ends; its end calls `_save`

    def _shut(self) -> None:
        profile, self._profile = self._profile, None
        self._drive(profile.stop)  # within a window: calls `_save`

    def _drive(self, transition: Callable[[], None]) -> None:
        """Let the profiler start or stop recording, whatever the job makes of warnings.

        Torch warns in the midst of it; where that is an error, the profiler is left half stopped.
        """
        self._driving = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            transition()
        self._driving = False

    def _new_profile(self, torch: Any) -> Any:
        from torch import profiler

        activities = [profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(profiler.ProfilerActivity.CUDA)
        more: dict[str, Any] = dict(LEVELS[self.level])
        if self.level == "deep":
            more["experimental_config"] = _sync_events()
        return profiler.profile(
            activities=activities,
            schedule=lambda step: profiler.ProfilerAction[self.schedule.action(step)],
            on_trace_ready=self._save,
            **more,
        )

    @guarded
    def _save(self, profile: Any) -> None:
        """Write a window's trace, then its manifest: a manifest never names a trace to come."""
        folder = self.run_dir
        if self.schedule.repeat > 1:
            folder = folder / f"window{self._window}"
        folder.mkdir(parents=True, exist_ok=True)
        since = time.perf_counter()
        name = f"rank{self.rank}.pt.trace.json.gz"
        _export(profile, folder / name)
        recording = {
            "collector": "torch",
            "level": self.level,
            "traces": [name],
            "switches": {"record_shapes": False, **LEVELS[self.level]},
            "export_s": round(time.perf_counter() - since, 3),
        }
        self._write(folder, recording)
        self._window += 1


def _sync_events() -> Any:
    """The switch for CUDA synchronisation records; None where torch has none (before 2.2)."""
    from torch._C._profiler import _ExperimentalConfig

    try:
        return _ExperimentalConfig(enable_cuda_sync_events=True)
    except TypeError:
        return None


def _export(profile: Any, path: Path) -> None:
    """Write the trace under another name first, then move it into place."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.part.json")
    packed = draft.with_suffix(".gz")
    try:
        profile.export_chrome_trace(os.fspath(draft))
        with open(draft, "rb") as source, gzip.open(packed, "wb", _GZIP_LEVEL) as out:
            shutil.copyfileobj(source, out, 1 << 20)
        os.replace(packed, path)
    finally:
        for left in (draft, packed):
            with contextlib.suppress(OSError):
                left.unlink()
