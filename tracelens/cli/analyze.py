"""``tracelens analyze``."""

from __future__ import annotations

import os

import click

from tracelens.cli import options
from tracelens.cli.output import console, print_json, printable
from tracelens.cli.reading import read, read_report, size
from tracelens.errors import UsageError


@click.command()
@options.paths
@options.as_json("the report")
@click.option(
    "--html",
    type=click.Path(dir_okay=False),
    help="Also write the report as one self-contained HTML file.",
)
@options.some_ranks("Read")
@options.ds_config
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Ranks read at once; by default as many as cores and memory carry.",
)
@click.option(
    "--memory-limit",
    type=size,
    metavar="SIZE",
    help="Memory that all processes may take together, such as 8GB.",
)
@click.option(
    "--dask",
    metavar="ADDRESS",
    help="Read the ranks on the workers of this Dask scheduler, such as tcp://host:8786.",
)
@click.option(
    "--raise-limits",
    type=click.FloatRange(min=1),
    default=1,
    metavar="TIMES",
    help="Let files be so many times larger, unpacked, than a trace usually is.",
)
@click.option(
    "--db",
    type=click.Path(dir_okay=False),
    metavar="run.db",
    help="Keep the run in this store. A run that is in it already is not read again.",
)
@options.no_cache
def command(  # noqa: PLR0913 - an option each
    paths: tuple[str, ...],
    as_json: bool,
    html: str | None,
    ranks: tuple[int, ...],
    ds_config: str | None,
    jobs: int | None,
    memory_limit: int | None,
    raise_limits: float,
    dask: str | None,
    db: str | None,
) -> None:
    """Analyze a recorded run.

    PATHS are trace files of torch.profiler (plain, .gz, .xz or .zst), or folders with one file a
    rank; together they are one run. A run in a store is run.db, or run.db#2 where it holds several.
    """
    from tracelens.store.place import stored_at

    for option, file in (("--html", html), ("--db", db)):
        if file is not None:
            _check_folder(option, file)
    plain = html is None and db is None and ds_config is None and not ranks
    if as_json and plain and len(paths) == 1 and stored_at(paths[0]):
        print_json(read_report(paths[0]))
        return
    analysis = read(
        paths,
        ranks,
        ds_config,
        jobs=jobs,
        memory_limit=memory_limit,
        raise_limits=raise_limits,
        dask=dask,
        db=db,
    )
    if db is not None:
        click.echo(f"kept in {printable(db)}", err=True)
    if html is not None:
        analysis.write_html(html)
        click.echo(f"wrote {printable(html)}", err=True)
    if as_json:
        print_json(analysis.to_json())
    else:
        from tracelens.report.terminal import render

        render(analysis, console())


def _check_folder(option: str, file: str) -> None:
    """Before minutes of reading: can the report be put where it is wanted?"""
    folder = os.path.dirname(os.path.abspath(file))
    if not os.path.isdir(folder):
        raise UsageError(f"{option} {file}: there is no folder {folder}")
