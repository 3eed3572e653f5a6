"""Arguments and options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import click

Decorator: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]

#: A recorded run: one path, or one a rank.
paths: Decorator = click.argument("paths", nargs=-1, required=True, type=click.Path())

ds_config: Decorator = click.option(
    "--ds-config",
    type=click.Path(dir_okay=False),
    help="The ds_config that the job was started with; by default the one in its manifest.",
)

step_ms: Decorator = click.option(
    "--step-ms",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MS",
    help="Mean step without a profiler; by default the one in the run's manifest.",
)


def as_json(what: str) -> Decorator:
    """``--json``, which prints `what`."""
    return click.option("--json", "as_json", is_flag=True, help=f"Print {what} as JSON.")


def some_ranks(does: str) -> Decorator:
    """``--rank``, several times; `does` is what happens to these ranks."""
    return click.option(
        "--rank",
        "ranks",
        type=click.IntRange(min=0),
        multiple=True,
        metavar="N",
        help=f"{does} this rank only; may be given several times.",
    )
