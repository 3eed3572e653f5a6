"""``tracelens dashboard``."""

from __future__ import annotations

import click

from tracelens.cli import options
from tracelens.cli.output import printable
from tracelens.errors import InputError


@click.command()
@options.paths
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8050, show_default=True, help="0: a free one."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@options.ds_config
@options.no_cache
def command(paths: tuple[str, ...], port: int, host: str, ds_config: str | None) -> None:
    """Look at recorded runs in a browser.

    Each of PATHS is a run, a trace file or a folder with one file a rank, or a run.db, of which all
    runs are opened (run.db#2: that one alone).
    """
    from dashboards.source import open_source

    source = open_source(paths, ds_config)
    source.runs[0].job.start()  # reads while the application is still being imported
    from dashboards.app import make
    from dashboards.guard import is_loopback

    if not is_loopback(host):
        click.secho(
            f"warning: listening on {printable(host)}: whoever reaches this machine over the "
            "network can read these runs; there is no password",
            fg="red",
            bold=True,
            err=True,
        )
    try:
        server = make(source, host, port)
    except OSError as e:
        raise InputError(
            f"cannot listen on {printable(host)} port {port}: {e.strerror or e}",
            hint="--port 0 takes a free one",
        ) from e
    shown = f"[{host}]" if ":" in host else host
    click.echo(f"http://{shown}:{server.port}/  (Ctrl+C ends it)")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        click.echo("", err=True)
