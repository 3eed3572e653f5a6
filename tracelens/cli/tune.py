"""``tracelens tune``."""

from __future__ import annotations

import os

import click

from tracelens.cli import options
from tracelens.cli.output import console, print_json, printable
from tracelens.cli.reading import read_modelled
from tracelens.errors import UsageError

#: Files of this ending get comments: DeepSpeed reads a ds_config as Hjson.
COMMENTED = ".hjson"


@click.command()
@options.paths
@options.as_json("what was tried")
@options.ds_config
@click.option(
    "--write",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write the tuned ds_config; a new file, with comments if it ends in .hjson.",
)
@options.step_ms
@options.no_cache
def command(
    paths: tuple[str, ...],
    as_json: bool,
    ds_config: str | None,
    write: str | None,
    step_ms: float | None,
) -> None:
    """Search the settings that matter for a recorded run.

    PATHS are one recorded run. Says so when no change is worth it.
    """
    from tracelens.replay import Predictor
    from tracelens.replay.tune import to_text, tune

    if write is not None and os.path.exists(write):
        raise UsageError(f"--write {write}: the file is there", hint="give another name")
    analysis, model = read_modelled(paths, ds_config)
    found = tune(Predictor(analysis, model, step_ms), analysis.ds_config)
    if write is not None:
        if found.best is None:
            click.echo("nothing is worth a change: nothing written", err=True)
        else:
            from tracelens.report.files import write_whole

            write_whole(write, to_text(found, comments=write.endswith(COMMENTED)))
            click.echo(f"wrote {printable(write)}", err=True)
    if as_json:
        print_json(found.to_json())
    else:
        from tracelens.report.prediction import render_tuning

        render_tuning(found, console())
