"""Attach a collector to a job that was not edited: ``tracelens collect torch|flops -- CMD``.

The command runs with one folder more on PYTHONPATH, whose sitecustomize.py calls `install`, and
with one variable, `OPTIONS`, that holds what to record. Then, in each process that trains:

- a DeepSpeed job: the first engine's ``_take_model_step`` is followed by the collector's `step`;
- another one: the first optimizer that steps is, by torch's own hook for it.

Processes that never step an optimizer (launchers, loaders, inference) are left alone.
"""

from __future__ import annotations

import atexit
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ._guard import Guest, guarded
from ._steps import Schedule
from .flops import FlopsCollector
from .torch_trace import TorchTraceCollector

#: DeepSpeed's launcher hands variables to other nodes if they begin with PYTHON, among others
#: (launcher/runner.py, EXPORT_ENVS).
OPTIONS = "PYTHON_TRACELENS_COLLECT"

_ENGINE, _OPTIMIZER = "deepspeed.runtime.engine", "torch.optim.optimizer"


def run(command: Sequence[str], options: dict[str, Any]) -> int:
    """Run a command with a collector attached.

    Parameters
    ----------
    command : sequence of str
    options : dict
        ``collector`` ("torch" or "flops"), ``run_dir``, and what that collector takes.

    Returns
    -------
    int
        The command's exit code.
    """
    hook = os.fspath(Path(__file__).resolve().parent / "_hook")
    path = [hook, *filter(None, [os.environ.get("PYTHONPATH")])]
    extra = {"PYTHONPATH": os.pathsep.join(path), OPTIONS: json.dumps(options)}
    return subprocess.run(list(command), env={**os.environ, **extra}, check=False).returncode


def install() -> None:
    """Wait for the job to import what trains."""
    told = os.environ.get(OPTIONS)
    if told:
        sys.meta_path.insert(0, _Waiting(_Attached(json.loads(told))))


class _Waiting(importlib.abc.MetaPathFinder):
    """Sees modules being imported, and calls back after the two that matter."""

    def __init__(self, attached: _Attached) -> None:
        self._then: dict[str, Callable[[Any], None]] = {
            _ENGINE: attached.to_engines,
            _OPTIMIZER: attached.to_optimizers,
        }

    def find_spec(
        self, fullname: str, path: Any = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        then = self._then.pop(fullname, None)
        if then is None:
            return None
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            load(module)
            then(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


class _Attached(Guest):
    """The collector of this process, and the hooks that drive it."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._collector: TorchTraceCollector | FlopsCollector | None = None
        self._undo: list[Callable[[], None]] = []
        self._clock: Any = None
        self._pid = os.getpid()

    @guarded
    def to_engines(self, module: Any) -> None:
        """DeepSpeed was imported: its engine's steps count."""
        engine_class = module.DeepSpeedEngine
        step = engine_class._take_model_step

        @functools.wraps(step)
        def then(engine: Any, *args: Any, **kwargs: Any) -> Any:
            result = step(engine, *args, **kwargs)
            self.stepped(engine, engine)
            return result

        engine_class._take_model_step = then
        self._undo.append(lambda: setattr(engine_class, "_take_model_step", step))

    @guarded
    def to_optimizers(self, module: Any) -> None:
        """Torch was imported: where there is no engine, the first optimizer's steps count."""

        def hook(optimizer: Any, args: Any, kwargs: Any) -> None:
            if _ENGINE not in sys.modules:
                self.stepped(optimizer, None)

        self._undo.append(module.register_optimizer_step_post_hook(hook).remove)

    @guarded
    def stepped(self, clock: Any, engine: Any) -> None:
        """A step of training has ended: the first one starts the collector."""
        if os.getpid() != self._pid:
            return
        if self._clock is None:
            self._clock = clock
            self._collector = self._new(engine)
            self._collector.start()
            atexit.register(self._collector.close)
        elif clock is self._clock and self._collector is not None:
            self._collector.step()
            if not self._collector.on:
                self._detach()

    def _new(self, engine: Any) -> TorchTraceCollector | FlopsCollector:
        told = dict(self._options)
        kind, folder = told.pop("collector"), told.pop("run_dir")
        if kind == "flops":
            return FlopsCollector(folder, engine, **told)
        schedule = Schedule(**told.pop("schedule", {}))
        return TorchTraceCollector(folder, engine=engine, schedule=schedule, **told)

    def _detach(self) -> None:
        for undo in self._undo:
            undo()
        self._undo.clear()
