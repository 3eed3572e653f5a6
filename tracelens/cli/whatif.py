"""``tracelens whatif``."""

from __future__ import annotations

import click

from tracelens.cli import options
from tracelens.cli.output import console, print_json
from tracelens.cli.reading import keep_prediction, read_modelled


@click.command()
@options.paths
@click.option(
    "--set",
    "settings",
    multiple=True,
    required=True,
    metavar="KEY=VALUE",
    help="What to change, as in a ds_config; may be given several times.",
)
@options.as_json("the prediction")
@options.ds_config
@options.step_ms
@options.no_cache
def command(
    paths: tuple[str, ...],
    settings: tuple[str, ...],
    as_json: bool,
    ds_config: str | None,
    step_ms: float | None,
) -> None:
    """Predict the step under another configuration.

    PATHS are one recorded run. KEYs are those of a ds_config (overlap_comm, reduce_bucket_size,
    stage3_prefetch_bucket_size, gradient_accumulation_steps ...), interconnect_speed (2 is twice as
    fast) and world_size.
    """
    from tracelens.replay import Predictor, parse_change

    change = parse_change(settings)
    found = Predictor(*read_modelled(paths, ds_config), step_ms).predict(change)
    if len(paths) == 1:
        keep_prediction(paths[0], found.to_json())
    if as_json:
        print_json(found.to_json())
    else:
        from tracelens.report.prediction import render

        render(found, console())
