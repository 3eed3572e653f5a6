"""The command ``tracelens``: parse, call, print. Data on stdout, talk on stderr.

Exit codes: 0 done; 1 the input cannot be used; 2 wrong usage; 3 a threshold that the user gave was
passed; 70 our own bug; 130 interrupted. One module a command, loaded when it is asked for; heavy
imports happen inside the commands, so that ``tracelens --help`` is quick.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import NoReturn

import click

from tracelens.cli.output import printable
from tracelens.errors import InputError, TraceLensError

#: The commands: each is ``command`` in the module of its name (``_`` for ``-``).
COMMANDS = (
    "analyze",
    "check",
    "collect",
    "compare",
    "critical-path",
    "dashboard",
    "memory",
    "runs",
    "tune",
    "whatif",
)
EXIT_BUG, EXIT_INTERRUPTED, EXIT_PIPE = 70, 130, 141
DEBUG = "TRACELENS_DEBUG"


class _Group(click.Group):
    """The one place where errors become messages and exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(
            f"{__name__}.{cmd_name.replace('-', '_')}"
        ).command
        return command

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
    click.echo(f"error: {printable(str(error))}", err=True)
    for line in (error.hint or "").splitlines():
        click.echo(f"hint: {printable(line)}", err=True)
    ctx.exit(error.exit_code)


def _bug(ctx: click.Context, error: Exception) -> NoReturn:
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    what = printable(f"{type(error).__name__}: {error}")
    click.echo(f"error: this is a bug in tracelens, please report it: {what}", err=True)
    if not os.environ.get(DEBUG):
        click.echo(f"hint: {DEBUG}=1 shows where it happened", err=True)
    ctx.exit(EXIT_BUG)


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
