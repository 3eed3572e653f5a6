"""The (process, thread) pairs of a trace and their recorded names."""

from __future__ import annotations

import numpy as np

from tracelens.ingest.schema import Naming
from tracelens.trace import Int32s, Tracks

Id = int | str

#: A process number below this may be a GPU's; Kineto writes a GPU's rows under (device, stream).
_MAX_DEVICES = 1024


class _Rows(dict[tuple[Id, Id], int]):
    """(pid, tid) -> row, in order of first sight."""

    def __missing__(self, key: tuple[Id, Id]) -> int:
        self[key] = row = len(self)
        return row


class TrackTable:
    """Collects tracks while reading.

    Attributes
    ----------
    row : dict
        (pid, tid) as written -> row; asking for a new pair adds it.
    """

    def __init__(self) -> None:
        self.row = _Rows()
        self._threads: dict[tuple[Id, Id], str] = {}
        self._processes: dict[Id, str] = {}
        self._labels: dict[Id, str] = {}

    def rename(self, event: Naming) -> None:
        """Take a metadata event; those that name nothing are passed over."""
        if event.name == "thread_name" and event.args.name is not None:
            self._threads[event.pid, event.tid] = str(event.args.name)
        elif event.name == "process_name" and event.args.name is not None:
            self._processes[event.pid] = str(event.args.name)
        elif event.name == "process_labels" and event.args.labels is not None:
            self._labels[event.pid] = str(event.args.labels)

    def _process(self, pid: Id) -> str:
        name, label = self._processes.get(pid, ""), self._labels.get(pid, "")
        return f"{name} ({label})" if name and label else name or label

    def table(self) -> Tracks:
        """The finished table; a process is ``name (label)``, such as ``python3 (GPU 0)``."""
        keys = tuple(self.row)
        return Tracks(
            pid=tuple(pid for pid, _ in keys),
            tid=tuple(tid for _, tid in keys),
            name=tuple(self._threads.get(key, "") for key in keys),
            process=tuple(self._process(pid) for pid, _ in keys),
        )

    def numbers(self) -> tuple[Int32s, Int32s]:
        """Device and stream of each track if it is a GPU's, else -1."""
        pairs = [_device_and_stream(pid, tid) for pid, tid in self.row]
        table = np.array(pairs, np.int32).reshape(-1, 2)
        return table[:, 0], table[:, 1]


def _device_and_stream(pid: Id, tid: Id) -> tuple[int, int]:
    if isinstance(tid, str):  # torch 1.8: "stream 7"
        number = tid.removeprefix("stream ")
        tid = int(number) if number.isdecimal() and len(number) < 10 else -1
    if not isinstance(pid, int) or not 0 <= pid < _MAX_DEVICES or not 0 <= tid < 2**31:
        return -1, -1
    return pid, tid
