"""Arguments and options that several commands have."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from itertools import chain
from typing import Any, TypeAlias

import click

#: `tracelens.ingest.cache.PLACE`, which would take too long to import here.
CACHE = "TRACELENS_CACHE"

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


def _no_cache(_: click.Context, __: click.Parameter, wanted: bool) -> None:
    if wanted:  # workers inherit it
        os.environ[CACHE] = "off"


no_cache: Decorator = click.option(
    "--no-cache",
    is_flag=True,
    expose_value=False,
    callback=_no_cache,
    help="Read every file anew, and keep no columns of it for the next time.",
)


def as_json(what: str) -> Decorator:
    """``--json``, which prints `what`."""
    return click.option("--json", "as_json", is_flag=True, help=f"Print {what} as JSON.")


_SPAN = re.compile(r"\s*(\d{1,7})\s*(?:-\s*(\d{1,7})\s*)?")


def numbers(written: str) -> tuple[int, ...]:
    """Ranks, written as people do.

    Examples
    --------
    >>> numbers("3"), numbers("0-3, 64")
    ((3,), (0, 1, 2, 3, 64))
    """
    spans = [_SPAN.fullmatch(part) for part in written.split(",")]
    if not all(spans):
        raise click.BadParameter(f"{written!r} names no ranks; write 3, 0-7 or 0-7,64")
    return tuple(k for s in spans if s for k in range(int(s[1]), int(s[2] or s[1]) + 1))


def some_ranks(does: str) -> Decorator:
    """``--ranks``, several times; `does` is what happens to these ranks."""
    return click.option(
        "--ranks",
        "--rank",
        "ranks",
        type=numbers,
        multiple=True,
        callback=lambda _, __, given: tuple(chain(*given)),
        metavar="N",
        help=f"{does} these ranks only, such as 3 or 0-7,64; may be given several times.",
    )
