"""Long work on a thread of its own: progress, cancel, and a result or an error at the end."""

from __future__ import annotations

import sys
import threading
import traceback
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from tracelens.errors import TraceLensError

T = TypeVar("T")
Status: TypeAlias = Literal["waiting", "running", "done", "failed", "cancelled"]
Tick: TypeAlias = Callable[[str, int, int], None]
"""What work calls with (what it does, done, in all); raises `Cancelled` once that is wanted."""


class Cancelled(Exception):
    """The user does not want the result any more."""


@dataclass(frozen=True, slots=True)
class State:
    """How far a job is. `message` and `hint` say what went wrong."""

    status: Status
    what: str = ""
    done: int = 0
    total: int = 0
    message: str = ""
    hint: str = ""

    @property
    def percent(self) -> float:
        """Progress, 0 to 100; 0 where the work does not say how much there is."""
        return 100 * self.done / self.total if self.total else 0.0


class Job(Generic[T]):
    """One piece of work that can be started, watched, cancelled and started again.

    Parameters
    ----------
    work : callable
        Called on the thread with a `Tick`; what it returns is the job's result.
    """

    def __init__(self, work: Callable[[Tick], T]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._stop = threading.Event()  # of the thread that works now
        self._state = State("waiting")
        self._result: T | None = None

    @property
    def state(self) -> State:
        """How far it is now."""
        with self._lock:
            return self._state

    @property
    def result(self) -> T | None:
        """What the work returned; None until then."""
        with self._lock:
            return self._result

    def start(self) -> None:
        """Begin, or begin again after a failure; nothing where it runs or is done."""
        with self._lock:
            if self._state.status in ("running", "done"):
                return
            self._state = State("running")
            self._stop = stop = threading.Event()
            self._ended.clear()
        threading.Thread(target=self._run, args=(stop,), daemon=True).start()

    def cancel(self) -> None:
        """Cancelled at once for whoever watches; the work itself stops at its next tick."""
        with self._lock:
            if self._state.status == "running":
                self._stop.set()
                self._state = State("cancelled")
                self._ended.set()

    def wait(self, timeout_s: float | None = None) -> State:
        """Wait until the work has ended, or for so long; returns how far it is then."""
        self._ended.wait(timeout_s)
        return self.state

    def _run(self, stop: threading.Event) -> None:
        result = None
        try:
            result = self._work(partial(self._tick, stop))
            state = State("done")
        except Cancelled:
            state = State("cancelled")
        except TraceLensError as e:
            state = State("failed", message=str(e), hint=e.hint or "")
        except OSError as e:  # a disk or a permission, not a bug
            state = State("failed", message=str(e), hint="can you read the file yourself?")
        except Exception as e:  # a thread that dies silently would leave a page waiting for ever
            traceback.print_exc(file=sys.stderr)
            what = f"this is a bug in tracelens, please report it: {type(e).__name__}: {e}"
            state = State("failed", message=what)
        with self._lock:
            if stop.is_set():  # it may run again already, on another thread
                return
            self._state, self._result = state, result
            self._ended.set()

    def _tick(self, stop: threading.Event, what: str, done: int, total: int) -> None:
        with self._lock:
            if stop.is_set():
                raise Cancelled
            self._state = State("running", what, done, total)


class Jobs:
    """Jobs by name: asked for again, the same one answers. The oldest are forgotten.

    Parameters
    ----------
    keep : int
        How many are kept.
    """

    def __init__(self, keep: int = 64) -> None:
        self._keep = keep
        self._lock = threading.Lock()
        self._jobs: OrderedDict[str, Job[Any]] = OrderedDict()

    def get(self, name: str) -> Job[Any] | None:
        """A job that was asked for; None where there is none of that name."""
        with self._lock:
            return self._jobs.get(name)

    def ask(self, name: str, work: Callable[[Tick], T]) -> Job[T]:
        """The job of that name; where there is none it is made, and started."""
        with self._lock:
            job = self._jobs.get(name)
            if job is None:
                job = self._jobs[name] = Job(work)
                job.start()
            self._jobs.move_to_end(name)
            while len(self._jobs) > self._keep:
                _, oldest = self._jobs.popitem(last=False)
                oldest.cancel()
            return job
