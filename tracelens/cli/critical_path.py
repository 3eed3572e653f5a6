"""``tracelens critical-path``."""

from __future__ import annotations

import click

from tracelens.cli import options
from tracelens.cli.output import console, print_json
from tracelens.cli.reading import read_modelled


@click.command("critical-path")
@options.paths
@options.as_json("the path")
@options.no_cache
def command(paths: tuple[str, ...], as_json: bool) -> None:
    """Where a step's length comes from.

    PATHS are one recorded run. What each moment waited for, followed back from the end over the
    host's threads, the streams and the ranks: only what is on this path makes the step longer.
    """
    from tracelens.replay.critical import find_critical_path

    path = find_critical_path(read_modelled(paths)[1])
    if as_json:
        print_json({"format": 1, "critical_path": path.to_json()})
    else:
        from tracelens.report.critical import render

        render(path, console())
