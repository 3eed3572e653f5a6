"""One line for Hugging Face's Trainer, one for Accelerate.

Trainer(..., callbacks=[trainer_callback("runs/a")])

model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
record_accelerate(accelerator, "runs/a")
"""

from __future__ import annotations

import atexit
import os
from typing import Any

from ._guard import Guest, guarded
from .torch_trace import TorchTraceCollector


def trainer_callback(run_dir: str | os.PathLike[str], **options: Any) -> Any:
    """A callback for ``transformers.Trainer`` that records as a `TorchTraceCollector` does.

    Parameters
    ----------
    run_dir : path
    **options
        What `TorchTraceCollector` takes. A ds_config is taken from the Trainer's arguments, with
        Hugging Face's "auto" values filled in.
    """
    from transformers import TrainerCallback

    class Recorder(TrainerCallback):  # type: ignore[misc]  # transformers is not there for mypy
        """Starts with the training, steps with it, ends with it."""

        def __init__(self) -> None:
            self.collector: TorchTraceCollector | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            config = getattr(getattr(args, "hf_deepspeed_config", None), "config", None)
            self.collector = TorchTraceCollector(run_dir, **{"engine": config, **options})
            self.collector.start()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.collector is not None:
                self.collector.step()

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.collector is not None:
                self.collector.close()

    return Recorder()


class _Accelerated(Guest):
    """Follows the first prepared optimizer's steps, and lets go when the recording is done."""

    def __init__(self, accelerator: Any, collector: TorchTraceCollector) -> None:
        self._accelerator, self._collector = accelerator, collector
        self._optimizer: Any = None

    @guarded
    def attach(self) -> None:
        optimizers = self._accelerator._optimizers
        if not optimizers:
            raise ValueError("nothing is prepared: call it after accelerator.prepare(...)")
        self._collector.start()
        if not self._collector.on:
            return
        self._optimizer = optimizers[0]
        step = self._optimizer.step

        def then(*args: Any, **kwargs: Any) -> Any:
            result = step(*args, **kwargs)
            self.stepped()
            return result

        self._optimizer.step = then
        atexit.register(self._collector.close)

    @guarded
    def stepped(self) -> None:
        if self._accelerator.sync_gradients:  # the last micro-step of an accumulation
            self._collector.step()
        if not self._collector.on and self._optimizer is not None:
            del self._optimizer.step  # the method of its class again
            self._optimizer = None


def record_accelerate(
    accelerator: Any, run_dir: str | os.PathLike[str], **options: Any
) -> TorchTraceCollector:
    """Record a job of Accelerate, once its model and optimizer are prepared.

    Parameters
    ----------
    accelerator : Accelerator
        After ``prepare``.
    run_dir : path
    **options
        What `TorchTraceCollector` takes; the DeepSpeed engine is found where there is one.

    Returns
    -------
    TorchTraceCollector
        It closes itself when its schedule is over or the job ends.
    """
    wrapped = getattr(accelerator, "deepspeed_engine_wrapped", None)
    collector = TorchTraceCollector(
        run_dir, **{"engine": getattr(wrapped, "engine", None), **options}
    )
    _Accelerated(accelerator, collector).attach()
    return collector
