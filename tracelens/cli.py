"""The command ``tracelens``: parse, call, print. Data on stdout, talk on stderr.

Exit codes: 0 done; 1 the input cannot be used; 2 wrong usage; 70 our own bug; 130 interrupted.
Heavy imports happen inside the commands, so that ``tracelens --help`` is quick.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import TYPE_CHECKING, NoReturn

import click

from tracelens.errors import InputError, TraceLensError, UsageError

if TYPE_CHECKING:
    from tracelens.api import Analysis

EXIT_BUG, EXIT_INTERRUPTED, EXIT_PIPE = 70, 130, 141
DEBUG = "TRACELENS_DEBUG"
#: Columns of a report that is not printed on a terminal, unless COLUMNS says otherwise.
PIPED_WIDTH = 100


class _Group(click.Group):
    """The one place where errors become messages and exit codes."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            value = super().invoke(ctx)
            sys.stdout.flush()  # a closed pipe shows here, not when Python shuts down
            return value
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            click.echo("\ninterrupted", err=True)
            ctx.exit(EXIT_INTERRUPTED)
        except BrokenPipeError:
            # the reader (head, less) has gone; give Python's last flush somewhere to go
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(EXIT_PIPE)
        except TraceLensError as e:
            _fail(ctx, e)
        except OSError as e:  # a disk or a permission, not a bug
            what = f"{e.filename}: {e.strerror}" if e.filename and e.strerror else str(e)
            _fail(ctx, InputError(what, hint="can you read the file yourself?"))
        except Exception as e:  # whatever else happens is our bug, and is said to be one
            _bug(ctx, e)


def _fail(ctx: click.Context, error: TraceLensError) -> NoReturn:
    if error.exit_code == EXIT_BUG:
        _bug(ctx, error)
    click.echo(f"error: {_printable(str(error))}", err=True)
    for line in (error.hint or "").splitlines():
        click.echo(f"hint: {_printable(line)}", err=True)
    ctx.exit(error.exit_code)


def _bug(ctx: click.Context, error: Exception) -> NoReturn:
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    what = _printable(f"{type(error).__name__}: {error}")
    click.echo(f"error: this is a bug in tracelens, please report it: {what}", err=True)
    if not os.environ.get(DEBUG):
        click.echo(f"hint: {DEBUG}=1 shows where it happened", err=True)
    ctx.exit(EXIT_BUG)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(f"tracelens {sys.modules['tracelens'].__version__}")
        ctx.exit()


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the version and exit.",
)
def main() -> None:
    """Trace analyzer for distributed training.

    Where each step's time went, what setup was running, and which communication is exposed.
    """


@main.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option(
    "--html",
    type=click.Path(dir_okay=False),
    help="Also write the report as one self-contained HTML file.",
)
@click.option(
    "--rank",
    "ranks",
    type=click.IntRange(min=0),
    multiple=True,
    metavar="N",
    help="Read this rank only; may be given several times.",
)
def analyze(
    paths: tuple[str, ...], as_json: bool, html: str | None, ranks: tuple[int, ...]
) -> None:
    """Analyze a recorded run.

    PATHS are trace files of torch.profiler (plain, .gz, .xz or .zst), or folders with one file a
    rank; together they are one run.
    """
    if html is not None:
        _check_folder(html)
    analysis = _read(paths, ranks)
    if html is not None:
        analysis.write_html(html)
        click.echo(f"wrote {_printable(html)}", err=True)
    if as_json:
        _print_json(analysis)
    else:
        _print_report(analysis)


def _check_folder(file: str) -> None:
    """Before minutes of reading: can the report be put where it is wanted?"""
    folder = os.path.dirname(os.path.abspath(file))
    if not os.path.isdir(folder):
        raise UsageError(f"--html {file}: there is no folder {folder}")


def _read(paths: tuple[str, ...], ranks: tuple[int, ...]) -> Analysis:
    from tracelens.api import analyze
    from tracelens.report.progress import ReadingBar

    with ReadingBar() as bar:
        return analyze(paths, ranks=sorted(set(ranks)) or None, progress=bar)


def _print_json(analysis: Analysis) -> None:
    import json

    click.echo(json.dumps(analysis.to_json(), indent=1, allow_nan=False))


def _print_report(analysis: Analysis) -> None:
    from rich.console import Console

    from tracelens.report.terminal import render

    on_terminal = sys.stdout.isatty()
    width = None if on_terminal or os.environ.get("COLUMNS") else PIPED_WIDTH
    render(analysis, Console(file=sys.stdout, width=width))
