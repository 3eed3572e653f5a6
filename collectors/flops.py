"""Count the FLOPs of one step of training, and time the model's modules in another."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from . import _job, _manifest
from ._flop_count import Counts, counting
from ._guard import Collector, guarded

#: Modules that are listed, most FLOPs first.
_LISTED = 200


class FlopsCollector(Collector):
    """Counts the FLOPs of one optimizer step on this rank and writes them into the manifest.

    Use it as a context manager around the training loop and call `step` at the end of each step.
    Step `skip` (from 0) is counted, with all its micro-steps; it is a slow step. In the next one
    the modules are timed with CUDA events, nothing else added.

    Parameters
    ----------
    run_dir : path
        Folder of the run.
    model : module or DeepSpeed engine, optional
        Whose modules are listed and parameters counted.
    skip : int
        Steps before the counted one: at least 1 with ZeRO-3, which gathers its parameters
        differently in the first.
    deepspeed : bool
        In a third step, also run DeepSpeed's FlopsProfiler over the first forward pass and record
        its count beside ours. It replaces functions of torch while it runs, and an error in one of
        them is an error in your forward pass: hence off.
    ranks : collection of int, optional
        Ranks that count; all by default.
    enabled : bool
        False: do nothing at all.

    Notes
    -----
    Counted are matrix products, convolutions and attention (torch.utils.flop_counter), two FLOPs a
    multiply-add, attention whole also where it is causal. Not counted: what never passes torch's
    dispatcher (kernels launched by C++ or Triton code directly), what is compiled, element-wise
    work. Custom operators without a formula are listed under ``not_counted``.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        model: Any = None,
        *,
        skip: int = 1,
        deepspeed: bool = False,
        ranks: Collection[int] | None = None,
        enabled: bool = True,
    ) -> None:
        self.run_dir = Path(run_dir)
        self.engine = model if hasattr(model, "global_steps") else None
        self.model = getattr(model, "module", model)
        self.skip, self.deepspeed = skip, deepspeed
        self._ranks = None if ranks is None else frozenset(ranks)
        self._enabled = enabled
        self._count = -1
        self._told = Counts()
        self._mode: Any = None
        self._watch: _Modules | None = None
        self._check: _DeepSpeedCheck | None = None

    @property
    def on(self) -> bool:
        """Whether it is counting, or will."""
        return self._count >= 0 and not self.broken

    @guarded
    def start(self) -> None:
        """Begin; `with` does it."""
        if not self._enabled or self._count >= 0:
            return
        self.rank = _job.rank()
        if self._ranks is not None and self.rank not in self._ranks:
            return
        self._watch_engine()
        self._count = 0
        self._begin()

    @guarded
    def step(self) -> None:
        """A step of training ends here."""
        if self._count < 0 or not self._counts():
            return
        self._end()
        self._count += 1
        if self._count > self.skip + 1 + self.deepspeed:
            self.close()
        else:
            self._begin()

    @guarded
    def close(self) -> None:
        """Stop, and write what was counted; `with` does it."""
        if self._count < 0:
            return
        whole = self._count > self.skip
        self._end()
        self._count = -1
        if whole:
            _manifest.update(self.run_dir, self.rank, self._parts(), of_another_run=True)

    def give_up(self, error: BaseException) -> None:
        """Leave the job as it was."""
        super().give_up(error)
        self._count = -1
        for undo in (self._leave, self._unwatch, self._uncheck):
            try:
                undo()
            # whatever is left of one must not keep the others in the job
            except Exception:
                continue

    # -- inside -----------------------------------------------------------------------------------

    def _begin(self) -> None:
        import torch

        if self._count == self.skip:
            self._watch = None if self.model is None else _Modules(self.model, self._told)
            self._mode = counting(torch, self._told)
            self._mode.__enter__()
        elif self._count == self.skip + 1:
            if self._watch is not None:
                self._watch.time(torch)
        elif self._count == self.skip + 2 and self.model is not None:
            self._check = _DeepSpeedCheck(self.model)

    def _end(self) -> None:
        self._leave()
        if self._watch is not None:
            self._watch.remove()
        if self._check is not None:
            self._check.stop()

    def _leave(self) -> None:
        mode, self._mode = self._mode, None
        if mode is not None:
            mode.__exit__(None, None, None)

    def _unwatch(self) -> None:
        if self._watch is not None:
            self._watch.remove()

    def _uncheck(self) -> None:
        if self._check is not None:
            self._check.stop()

    def _parts(self) -> dict[str, object]:
        counts, watch = self._told, self._watch
        flops: dict[str, object] = {
            "step": self.skip,
            "micro_steps": watch.micro_steps if watch else None,
            "forward": counts.forward,
            "backward": counts.backward,
            "recompute": counts.recompute,
            "parameters": None if self.model is None else _parameters(self.model),
            "by_op": dict(counts.by_op.most_common()),
            "not_counted": sorted(counts.unknown),
            "modules": watch.table() if watch else [],
            "deepspeed": self._check.told if self._check else None,
        }
        about = {**_job.identity(), "device": _job.device(), "versions": _job.versions()}
        return {**about, "flops": flops}


def _parameters(model: Any) -> int:
    """Parameters of the whole model: of a ZeRO-3 shard, what it is a shard of."""
    return sum(int(getattr(p, "ds_numel", None) or p.numel()) for p in model.parameters())


class _Modules:
    """Hooks on a model: FLOPs of each module's forward pass, then its time on the device."""

    def __init__(self, model: Any, counts: Counts) -> None:
        self._model, self._counts = model, counts
        self._handles: list[Any] = []
        self._open: list[tuple[str, Any]] = []
        self.micro_steps = 0
        self._rows: dict[str, dict[str, Any]] = {
            name: {
                "name": name,
                "type": type(module).__name__,
                "calls": 0,
                "forward": 0,
                "latency_ms": None,
                "parameters": _parameters(module),
            }
            for name, module in model.named_modules()
        }
        self._spans: list[tuple[str, Any, Any]] = []
        self._attach(lambda: counts.forward, self._counted)

    def _attach(self, now: Any, done: Any) -> None:
        """Call `done(name, before, after)` for each module call in a forward pass."""

        def enter(name: str) -> Any:
            return lambda *_: self._open.append((name, now()))

        def leave(name: str) -> Any:
            def hook(*_: Any) -> None:
                # a module that raised, or was run again in backward, leaves its entry behind
                while self._open:
                    opened, before = self._open.pop()
                    if opened == name:
                        done(name, before, now())
                        return

            return hook

        for name, module in self._model.named_modules():
            self._handles.append(module.register_forward_pre_hook(enter(name)))
            self._handles.append(module.register_forward_hook(leave(name)))

    def _counted(self, name: str, before: int, after: int) -> None:
        row = self._rows[name]
        if name == "" and after > before:
            self.micro_steps += 1
        if after > before or not row["forward"]:
            row["calls"] += 1
        row["forward"] += after - before

    def time(self, torch: Any) -> None:
        """From now on, time the modules; of each the mean of its calls."""
        if not torch.cuda.is_available():
            return

        def now() -> Any:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            return event

        self._open.clear()
        self._attach(now, lambda name, a, b: self._spans.append((name, a, b)))

    def remove(self) -> None:
        """Take all hooks off; read the events."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        spans, self._spans = self._spans, []
        if not spans:
            return
        spans[-1][2].synchronize()
        lengths: dict[str, list[float]] = {}
        for name, a, b in spans:
            lengths.setdefault(name, []).append(float(a.elapsed_time(b)))
        for name, each in lengths.items():
            self._rows[name]["latency_ms"] = round(sum(each) / len(each), 6)

    def table(self) -> list[dict[str, Any]]:
        """The modules with FLOPs in their forward pass, most first; the model itself leads."""
        rows = [r for r in self._rows.values() if r["forward"]]
        return sorted(rows, key=lambda r: -int(r["forward"]))[:_LISTED]


class _DeepSpeedCheck:
    """DeepSpeed's own count of one forward pass; it leaves torch as it found it."""

    def __init__(self, model: Any) -> None:
        import torch
        from deepspeed.profiling.flops_profiler.profiler import FlopsProfiler
        from torch.nn import functional

        # 0.19.6 and before do not put these back
        self._functional, self._functions = functional, dict(vars(functional))
        self._tensor = torch.Tensor
        self._methods = {n: getattr(torch.Tensor, n) for n in ("__matmul__", "matmul", "bmm")}
        self.told: dict[str, int] | None = None
        self._profiler: Any = FlopsProfiler(model)
        self._profiler.start_profile()
        self._handle = model.register_forward_hook(lambda *_: self.stop())

    def stop(self) -> None:
        """Read the counts and take the profiler off."""
        profiler, self._profiler = self._profiler, None
        if profiler is None:
            return
        self._handle.remove()
        profiler.stop_profile()
        self.told = {
            "forward": int(profiler.get_total_flops()),
            "parameters": int(profiler.get_total_params()),
        }
        profiler.end_profile()
        for name, function in self._functions.items():
            if getattr(self._functional, name, None) is not function:
                setattr(self._functional, name, function)
        for name, method in self._methods.items():
            if getattr(self._tensor, name) is not method:
                setattr(self._tensor, name, method)
