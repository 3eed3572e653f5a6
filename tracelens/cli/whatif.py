"""``tracelens whatif``."""

from __future__ import annotations

import click

from tracelens.cli.output import console, print_json
from tracelens.cli.reading import keep_prediction, read


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path())
@click.option(
    "--set",
    "settings",
    multiple=True,
    required=True,
    metavar="KEY=VALUE",
    help="What to change, as in a ds_config; may be given several times.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the prediction as JSON.")
@click.option(
    "--ds-config",
    type=click.Path(dir_okay=False),
    help="The ds_config that the job was started with; by default the one in its manifest.",
)
@click.option(
    "--step-ms",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MS",
    help="Mean step without a profiler; by default the one in the run's manifest.",
)
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
    from tracelens.replay import Predictor, load, parse_change

    change = parse_change(settings)
    analysis = read(paths, (), ds_config)
    found = Predictor(analysis, load(analysis), step_ms).predict(change)
    if len(paths) == 1:
        keep_prediction(paths[0], found.to_json())
    if as_json:
        print_json(found.to_json())
    else:
        from tracelens.report.prediction import render

        render(found, console())
