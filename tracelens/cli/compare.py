"""``tracelens compare``."""

from __future__ import annotations

import click

from tracelens.cli import options
from tracelens.cli.output import console, print_json
from tracelens.cli.reading import read_prediction, read_report

EXIT_LIMIT = 3


@click.command()
@click.argument("before", type=click.Path())
@click.argument("after", type=click.Path())
@options.as_json("the comparison")
@click.option(
    "--fail-if-slower",
    type=click.FloatRange(min=0),
    metavar="PCT",
    help="Exit with 3 if the step got slower by more than PCT percent.",
)
@click.option(
    "--predicted",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Hold the change against what `whatif --json` or `tune --json` printed.",
)
@options.no_cache
def command(
    before: str, after: str, as_json: bool, fail_if_slower: float | None, predicted: str | None
) -> None:
    """Compare two recorded runs.

    BEFORE and AFTER are traces, folders of traces, or reports that `tracelens analyze --json`
    printed. A difference counts where it is more than noise.
    """
    from tracelens.comparison import compare
    from tracelens.keeping import predicted_of

    one, other = read_report(before), read_report(after)
    forecast = read_prediction(predicted) if predicted else predicted_of(before, one, other)
    told = compare(one, other, forecast)
    if as_json:
        print_json(told)
    else:
        from tracelens.report.comparison import render

        render(told, console())
    if fail_if_slower is not None:
        _gate(told["micro_step_ms"] or told["step_ms"], fail_if_slower)


def _gate(change: dict[str, float | None], limit: float) -> None:
    """Exit code 3 where the step is slower by more than `limit` % and that is not mere noise."""
    slower = change["delta_pct"]
    if slower is None or slower <= limit:
        return
    if change["significant"] is False:
        click.echo(f"{slower:+.1f} % is over the limit of {limit:g} %, but noise", err=True)
        return
    click.echo(f"slower by {slower:.1f} %, over the limit of {limit:g} %", err=True)
    if change["significant"] is None:
        click.echo("too few steps to tell this from noise: record more", err=True)
    click.get_current_context().exit(EXIT_LIMIT)
