"""A guest's manners: whatever goes wrong in here is one warning, never an error in the training."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

_Method = TypeVar("_Method", bound=Callable[..., Any])


class CollectorWarning(UserWarning):
    """A collector could not do its work; the training goes on without it."""


class Guest:
    """Base of the collectors: `broken` ones do nothing any more."""

    broken = False
    #: A DeepSpeed engine whose steps are counted; without one each call of `step` is a step.
    engine: Any = None
    _engine_steps: int | None = None

    def _watch_engine(self) -> None:
        """Count from here."""
        self._engine_steps = getattr(self.engine, "global_steps", None)

    def _counts(self) -> bool:
        """Whether this call ends a step of the optimizer, or a micro-step only."""
        if self._engine_steps is None:
            return True
        now = self.engine.global_steps
        moved = bool(now != self._engine_steps)
        self._engine_steps = now
        return moved

    def give_up(self, error: BaseException) -> None:
        """Say once what went wrong, and do nothing from now on."""
        if self.broken:
            return
        self.broken = True
        text = f"{type(self).__name__} stops recording: {type(error).__name__}: {error}"
        # never an error, also where the job turns warnings into errors
        with warnings.catch_warnings():
            warnings.simplefilter("always", CollectorWarning)
            warnings.warn(text, CollectorWarning, stacklevel=3)


_Self = TypeVar("_Self", bound="Collector")


class Collector(Guest):
    """Base of what is put around a training loop: a context manager with `step`."""

    def __enter__(self: _Self) -> _Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Begin; `with` does it."""
        raise NotImplementedError

    def step(self) -> None:
        """A step of training ends here: after the optimizer's."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop, and write what there is; `with` does it. More steps change nothing."""
        raise NotImplementedError


def guarded(method: _Method) -> _Method:
    """Let no error of a `Guest`'s method out; once broken, the method does nothing."""

    @functools.wraps(method)
    def safe(self: Guest, *args: Any, **kwargs: Any) -> Any:
        if self.broken:
            return None
        try:
            return method(self, *args, **kwargs)
        # the one place for it: a guest must not end a training run, whatever happens inside
        except Exception as e:
            self.give_up(e)
            return None

    return safe  # type: ignore[return-value]
