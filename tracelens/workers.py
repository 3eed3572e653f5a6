"""One function over many tasks, in worker processes that may die.

A worker is a fresh interpreter that runs this module's `serve`; tasks and results travel through
its standard input and output. It imports what the function needs and nothing of the caller's main
module, so a script needs no ``if __name__ == "__main__"``. A worker that dies, or runs out of the
memory that it may have, costs its task one more try, alone and with all the memory; other tasks do
not notice.
"""

from __future__ import annotations

import json
import os

# only between our own processes, through pipes that nobody else holds
import pickle  # nosec B403
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import IO, Any, Generic, TypeVar

from tracelens.errors import InputError, TraceLensError, UsageError
from tracelens.units import format_bytes

T = TypeVar("T")
#: How often whoever waits for workers is asked whether they still want to, s.
_BEAT_S = 0.3

R = TypeVar("R")
#: Called with how much of a task is done, in whatever unit `run` is given sizes in.
Tick = Callable[[int, int], None]
Work = Callable[[T, Tick], R]

#: What a worker runs: the caller's module path, then this module.
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from tracelens.workers import serve; serve(int(sys.argv[2]))"
)
#: An interpreter with numpy and the readers takes 60 MB, and a slice of a file a few more.
MIN_MEMORY = 128_000_000
#: What this process itself takes beside its workers: the same, and what it is sent.
OWN_MEMORY = 128_000_000
#: Seconds between two reports of how far a worker is.
_TICK_S = 0.1


@dataclass(frozen=True, slots=True)
class Crew:
    """How many workers there are (0: the work is done in this process) and their memory in all.

    `memory_limit` is of all workers together, in bytes, None for no limit; each may have an equal
    share.
    """

    workers: int
    memory_limit: int | None = None


@dataclass(frozen=True, slots=True)
class _Died:
    """A try that ended without an answer, and why."""

    why: str


@dataclass(frozen=True, slots=True)
class _Bug:
    """An error that is our own; raised again by whoever started the work."""

    error: Exception


def run(
    work: Work[T, R],
    tasks: Sequence[T],
    sizes: Sequence[int],
    crew: Crew,
    tick: Callable[[int, int], None] | None = None,
) -> list[R | TraceLensError]:
    """Do `work` on every task.

    Parameters
    ----------
    work : callable
        A function of a module: it is sent to workers by its name. Called with a task and a tick
        that takes (done, size).
    tasks, sizes : sequence
        What to do and how large each is; the largest are begun first.
    crew : Crew
    tick : callable, optional
        Called in this thread with (index of a task, how much of its size is done).

    Returns
    -------
    list
        The results in the order of tasks; a `TraceLensError` where one was raised, or where a
        worker died twice.

    Raises
    ------
    Exception
        Whatever else `work` raises, which is a bug.
    """
    if not crew.workers:
        return [_here(work, t, i, tick) for i, t in enumerate(tasks)]
    order = sorted(range(len(tasks)), key=lambda i: (-sizes[i], i))
    share = crew.memory_limit and crew.memory_limit // crew.workers
    done = _Gang(work, tasks, share).finish(order, crew.workers, tick)
    again = [i for i in order if isinstance(done[i], _Died)]
    if again:
        done |= _Gang(work, tasks, crew.memory_limit).finish(again, 1, tick)
    return [answer(done[i]) for i in range(len(tasks))]


def _here(
    work: Work[T, R], task: T, i: int, tick: Callable[[int, int], None] | None
) -> R | TraceLensError:
    try:
        return work(task, lambda n, _: tick(i, n) if tick is not None else None)
    except TraceLensError as e:
        return e


def answer(outcome: Any) -> Any:
    """What became of a task, from what `attempt` gave; a bug is raised."""
    if isinstance(outcome, _Bug):
        raise outcome.error
    if isinstance(outcome, _Died):
        return InputError(outcome.why, hint="raise --memory-limit, or read fewer ranks at once")
    return outcome


class _Gang(Generic[T, R]):
    """Workers that share a list of tasks; each is driven by a thread of its own."""

    def __init__(self, work: Work[T, R], tasks: Sequence[T], memory: int | None) -> None:
        self._work, self._tasks, self._memory = work, tasks, memory
        self._news: queue.SimpleQueue[tuple[int, Any, bool]] = queue.SimpleQueue()
        self._left: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopping = False

    def finish(
        self, order: Iterable[int], workers: int, tick: Callable[[int, int], None] | None
    ) -> dict[int, Any]:
        """Do these tasks; -> what became of each."""
        waiting = list(order)
        for i in waiting:
            self._left.put(i)
        for _ in range(min(workers, len(waiting))):
            threading.Thread(target=self._drive, daemon=True).start()
        done: dict[int, Any] = {}
        last: tuple[int, int] | None = None
        try:
            while len(done) < len(waiting):
                try:
                    i, value, final = self._news.get(timeout=_BEAT_S)
                except queue.Empty:
                    if tick is not None and last is not None:
                        tick(*last)  # who waits may have changed their mind
                    continue
                if final:
                    done[i] = value
                elif tick is not None:
                    last = i, value
                    tick(i, value)
        finally:  # on Ctrl-C too
            self._stopping = True
            for process in list(self._running):
                process.kill()
        return done

    def _drive(self) -> None:
        process: subprocess.Popen[bytes] | None = None
        try:
            while not self._stopping:
                try:
                    i = self._left.get_nowait()
                except queue.Empty:
                    break
                try:
                    process = process or self._new()
                    outcome = self._ask(process, i)
                except (OSError, EOFError, pickle.UnpicklingError) as e:
                    outcome, process = _Died(self._why(process, e)), None
                except Exception as e:  # handed on to the thread that waits
                    outcome = _Bug(e)
                self._news.put((i, outcome, True))
        finally:
            if process is not None:
                self._end(process)

    def _new(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", _START, json.dumps(sys.path), str(self._memory or 0)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._running.add(process)
        return process

    def _ask(self, process: subprocess.Popen[bytes], i: int) -> Any:
        to, back = process.stdin, process.stdout
        if to is None or back is None:
            raise EOFError("no pipes")
        pickle.dump((self._work, self._tasks[i]), to)
        to.flush()
        while True:
            value, final = pickle.load(back)  # nosec B301
            if final:
                return value
            self._news.put((i, value, False))

    def _why(self, process: subprocess.Popen[bytes] | None, error: Exception) -> str:
        if process is None:
            return f"no worker process could be started: {error}"
        self._end(process)
        code = process.returncode
        if code >= 0:
            return f"the worker process ended with exit code {code}"
        killed = " (killed; out of memory?)" if -code == getattr(signal, "SIGKILL", 0) else ""
        return f"the worker process was ended by signal {-code}{killed}"

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        for pipe in (process.stdin, process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:  # what was not sent any more
                pass
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._running.discard(process)


# ------------------------------------------------------------------------- in a worker
def serve(memory: int) -> None:
    """Answer tasks from standard input until it ends.

    Parameters
    ----------
    memory : int
        Bytes of memory of its own that this process may have; 0 for any.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to handle
    back = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not write into our answers
    if memory:
        _limit(memory)
    while True:
        try:
            work, task = pickle.load(sys.stdin.buffer)  # nosec B301
        except EOFError:
            return
        try:
            _send(back, attempt(work, task, _Ticker(back)), True)
        except BrokenPipeError:  # the caller is gone
            return


def attempt(work: Work[T, R], task: T, tick: Tick) -> Any:
    """One task's result, or what stands for its failure."""
    try:
        return work(task, tick)
    except TraceLensError as e:
        return e
    except MemoryError:
        return _Died("it needs more memory than the limit leaves")
    except BrokenPipeError:
        raise
    except Exception as e:
        return _Bug(e)


class _Ticker:
    """Tells the caller now and then how far a task is."""

    def __init__(self, back: IO[bytes]) -> None:
        self._back, self._last = back, 0.0

    def __call__(self, done: int, _: int) -> None:
        now = time.monotonic()
        if now - self._last >= _TICK_S:
            self._last = now
            _send(self._back, done, False)


def _send(back: IO[bytes], value: Any, final: bool) -> None:
    pickle.dump((value, final), back, protocol=pickle.HIGHEST_PROTOCOL)
    back.flush()


def _limit(memory: int) -> None:
    """Let this process allocate so much and no more, where the system can hold it to that."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    except (ImportError, ValueError, OSError):  # not on Windows; the number of workers still counts
        pass


# ------------------------------------------------------------------------- how many
def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not say."""
    found = [_meminfo("MemAvailable"), _cgroup_room()]
    known = [n for n in found if n is not None]
    return min(known) if known else None


def _meminfo(key: str) -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith(key + ":"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


def _cgroup_room() -> int | None:
    """What the control group (a container's, a job's) still allows; cgroup v2 only."""
    numbers = []
    for name in ("memory.max", "memory.current"):
        try:
            with open(f"/sys/fs/cgroup/{name}", encoding="ascii") as file:
                numbers.append(int(file.read()))
        except (OSError, ValueError):  # no cgroup v2, or "max"
            return None
    return max(0, numbers[0] - numbers[1])


def choose(jobs: int | None, memory_limit: int | None, needs: Sequence[int]) -> Crew:
    """How many workers to have.

    Parameters
    ----------
    jobs : int or None
        What was asked for; None for as many as the cores and the memory carry.
    memory_limit : int or None
        Bytes that this process and all workers may have together; None for what is free.
    needs : sequence of int
        Bytes that each task is expected to need at its peak.

    Raises
    ------
    UsageError
        If the limit is below what any task needs.
    """
    largest = max(needs, default=0)
    least = MIN_MEMORY + OWN_MEMORY
    if memory_limit is not None and memory_limit < least:
        raise UsageError(
            f"a memory limit of {format_bytes(memory_limit)} is below what reading anything takes",
            hint=f"give at least {format_bytes(least)}",
        )
    room = free_memory() if memory_limit is None else memory_limit - OWN_MEMORY
    fit = len(needs) if room is None or not largest else max(1, room // largest)
    wanted = cores() if jobs is None else jobs
    workers = max(1, min(wanted, fit, len(needs)))
    if memory_limit is None:
        return Crew(workers if workers > 1 else 0)
    return Crew(workers, memory_limit - OWN_MEMORY)
