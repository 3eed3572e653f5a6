"""``tracelens check``."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from tracelens.cli import options
from tracelens.cli.compare import EXIT_LIMIT
from tracelens.cli.output import console, print_json
from tracelens.cli.reading import read_report
from tracelens.errors import UsageError
from tracelens.limits import MEASURES, check, to_json


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """One option a measure."""
    for name, what in reversed(MEASURES.items()):
        option = f"--{name.replace('_', '-')}"
        text = f"{'Least' if name.startswith('min') else 'Most'} {what}."
        command = click.option(option, name, type=float, metavar="X", help=text)(command)
    return command


@click.command()
@click.argument("path", type=click.Path())
@_options
@click.option(
    "--fail-on",
    type=click.Choice(["info", "low", "high", "critical"]),
    help="Allow no finding of this severity or above.",
)
@click.option("--no-finding", multiple=True, metavar="ID", help="Do not allow this finding.")
@click.option(
    "--expect",
    multiple=True,
    metavar="KEY=VALUE",
    help="Setup that must have run, as in the report: zero_stage=3, overlap_comm=true.",
)
@options.as_json("the outcome")
@options.no_cache
def command(
    path: str,
    fail_on: str | None,
    no_finding: tuple[str, ...],
    expect: tuple[str, ...],
    as_json: bool,
    **limits: float | None,
) -> None:
    """Hold a recorded run against limits: a gate for CI.

    PATH is a trace, a folder of traces, or a report that `tracelens analyze --json` printed. Exit
    code 3 if a limit is broken. What the trace does not tell breaks no limit, and is said.
    """
    asked = {name: limit for name, limit in limits.items() if limit is not None}
    setup = dict(map(_pair, expect))
    if not (asked or fail_on or no_finding or setup):
        raise UsageError("no limit was given", hint="for example --max-exposed-comm-pct 10")
    report = read_report(path)
    told = check(report, asked, fail_on=fail_on, findings=no_finding, setup=setup)
    if as_json:
        print_json(to_json(told))
    else:
        from tracelens.report.limits import render

        render(told, console())
    if any(x.status == "broken" for x in told):
        click.get_current_context().exit(EXIT_LIMIT)


def _pair(text: str) -> tuple[str, Any]:
    """``KEY=VALUE``; the value as JSON where it is, else as it stands."""
    key, sign, value = text.partition("=")
    if not (key and sign and value):
        raise UsageError(f"--expect {text}: not KEY=VALUE", hint="for example zero_stage=3")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
