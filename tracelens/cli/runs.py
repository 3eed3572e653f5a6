"""``tracelens runs``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Literal

import click

from tracelens.cli import options
from tracelens.cli.output import console, print_json, printable


@click.command()
@click.argument("store", default="run.db", type=click.Path(), metavar="[run.db]")
@options.as_json("the list")
@click.option("--delete", multiple=True, metavar="RUN", help="Delete this run, by number or name.")
@click.option(
    "--export",
    "folder",
    type=click.Path(file_okay=False),
    metavar="FOLDER",
    help="Write the tables there, one file a table.",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["csv", "parquet"]),
    default="csv",
    show_default=True,
    help="Of the export; Parquet needs pyarrow.",
)
@click.option("--upgrade", is_flag=True, help="Bring a file of an earlier tracelens up to date.")
def command(
    store: str,
    as_json: bool,
    delete: tuple[str, ...],
    folder: str | None,
    kind: Literal["csv", "parquet"],
    upgrade: bool,
) -> None:
    """List the runs that a store holds; delete or export them.

    With run.db#2 only that run is listed or exported.
    """
    from tracelens.report.export import export
    from tracelens.report.runs import render
    from tracelens.store import Store, stored_at

    place, chosen = stored_at(store) or (Path(store), None)
    opened = Store(place)
    if upgrade:
        opened.upgrade()
    for run in delete:
        gone = opened.delete(run)
        click.echo(f"deleted run {gone.id}, {printable(gone.name)}", err=True)
    runs = opened.runs() if chosen is None else [opened.get(chosen).entry]
    if folder is not None:
        written = export(opened, Path(folder), [r.id for r in runs] if chosen else (), kind)
        click.echo(f"wrote {len(written)} tables to {printable(folder)}", err=True)
    if as_json:
        print_json({"format": 1, "runs": [asdict(r) for r in runs]})
    else:
        render(runs, console())
