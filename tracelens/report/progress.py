"""A progress bar on standard error: on a terminal only, and only once a read takes a while."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from tracelens.report.text import clean

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

#: Seconds of reading before the bar appears: a short read needs none.
PATIENCE_S = 0.7


class ReadingBar:
    """Callable for ``analyze(progress=...)``, and a context that removes the bar at its end."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> ReadingBar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, what: str, read: int, total: int) -> None:
        """Show that `read` of `total` bytes are done, now in file `what`."""
        if self._bar is None:
            if time.monotonic() - self._since < PATIENCE_S or not sys.stderr.isatty():
                return
            self._start(total)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=read, total=total or None, what=clean(what))

    def _start(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining

        self._bar = Progress(
            TextColumn("reading {task.fields[what]}", markup=False),
            BarColumn(),
            DownloadColumn(),
            Remaining(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task("read", total=total or None, what="")
        self._bar.start()
