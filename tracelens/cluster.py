"""The same map over ranks on a Dask cluster, given its scheduler's address."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from tracelens.errors import InputError, TraceLensError, UsageError
from tracelens.workers import Work, answer, attempt

T = TypeVar("T")
R = TypeVar("R")

#: Seconds to wait for a scheduler to answer.
_PATIENCE_S = 20


def run(
    work: Work[T, R],
    tasks: Sequence[T],
    address: str,
    tick: Callable[[int], None] | None = None,
) -> list[R | TraceLensError]:
    """Do `work` on every task, as `workers.run` does, on the workers of a cluster.

    A worker that dies costs its tasks another try, on other workers; Dask gives a task up after
    four workers have died of it (distributed.scheduler.allowed-failures).

    Parameters
    ----------
    work, tasks
        As in `workers.run`; workers need the same tracelens, and to see the same files.
    address : str
        Of the scheduler, such as ``tcp://scheduler:8786``.
    tick : callable, optional
        Called in this thread with the index of each task that is done.

    Raises
    ------
    UsageError
        If the package distributed is not there.
    InputError
        If no scheduler answers.
    """
    try:
        dask: Any = importlib.import_module("distributed")
    except ImportError as e:
        raise UsageError(
            "--dask needs the package distributed",
            hint="pip install 'tracelens-deepspeed[distributed]'",
        ) from e
    try:
        client = dask.Client(address, timeout=_PATIENCE_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as e:
        raise InputError(f"no Dask scheduler answers at {address}: {e}") from e
    done: dict[int, Any] = {}
    with client:
        futures = {client.submit(attempt, work, t, _silent, pure=False): i
                   for i, t in enumerate(tasks)}  # fmt: skip
        for future in dask.as_completed(list(futures), loop=client.loop):
            i = futures[future]
            try:
                done[i] = future.result()
            except dask.KilledWorker as e:
                done[i] = InputError(f"its workers died: {e}", hint="do they have enough memory?")
            if tick is not None:
                tick(i)
    return [answer(done[i]) for i in range(len(tasks))]


def _silent(done: int, size: int) -> None:
    """Progress within a task stays on its worker."""
