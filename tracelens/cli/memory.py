"""``tracelens memory``."""

from __future__ import annotations

import click

from tracelens.cli import options
from tracelens.cli.output import console, print_json
from tracelens.cli.reading import read


@click.command()
@options.paths
@options.as_json("it")
@options.ds_config
@options.no_cache
def command(paths: tuple[str, ...], as_json: bool, ds_config: str | None) -> None:
    """Tell what the run keeps in GPU memory, and what other ZeRO stages would.

    PATHS are one recorded run. Peaks need allocator events: profile_memory=True.
    """
    from tracelens.pipeline import open_rank
    from tracelens.replay.footprint import footprint

    analysis = read(paths, (), ds_config)
    found = footprint(analysis, open_rank(analysis, analysis.ranks[0].rank))
    if as_json:
        print_json(found.to_json())
    else:
        from tracelens.report.memory import render

        render(found, console())
