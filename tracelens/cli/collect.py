"""``tracelens collect``: record a job without editing its script."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import click

from tracelens.cli import options
from tracelens.cli.output import printable
from tracelens.errors import InputError, UsageError

_JOB = {"ignore_unknown_options": True, "allow_interspersed_args": False}


@click.group()
def command() -> None:
    """Record a job without editing its script.

    What comes after -- is the command that starts the job, launcher and all.
    """


def _common(function: Any) -> Any:
    """The options that all have."""
    folder = click.option(
        "-o", "--out", required=True, type=click.Path(file_okay=False), help="Folder of the run."
    )
    job = click.argument("job", nargs=-1, required=True, type=click.UNPROCESSED)
    return folder(job(function))


@command.command("torch", context_settings=_JOB)
@_common
@options.some_ranks("Record")
@click.option(
    "--level",
    type=click.Choice(["light", "standard", "deep"]),
    default="standard",
    show_default=True,
    help="light: no operand shapes; deep: Python stacks, memory and synchronisation too.",
)
@click.option("--skip", type=click.IntRange(min=0), default=5, show_default=True)
@click.option("--timed", type=click.IntRange(min=0), default=10, show_default=True)
@click.option("--active", type=click.IntRange(min=1), default=3, show_default=True)
def torch_command(job: tuple[str, ...], out: str, ranks: tuple[int, ...], **how: Any) -> None:
    """Record some steps of JOB with torch.profiler, and time others without it.

    --skip steps run first, --timed ones are timed, --active ones recorded after two in which the
    profiler starts. A folder is put on PYTHONPATH whose sitecustomize.py follows the steps of the
    first DeepSpeed engine, else of the first optimizer. Jobs that step none (inference) are not
    recorded: put a TorchTraceCollector into the script.
    """
    schedule = {key: how[key] for key in ("skip", "timed", "active")}
    wanted = {"collector": "torch", "level": how["level"], "schedule": schedule}
    _run(job, out, ranks, wanted)


@command.command("flops", context_settings=_JOB)
@_common
@options.some_ranks("Record")
@click.option("--skip", type=click.IntRange(min=0), default=1, show_default=True)
def flops_command(job: tuple[str, ...], out: str, ranks: tuple[int, ...], skip: int) -> None:
    """Count the FLOPs of one step of JOB, after --skip steps, beside what lies in the folder.

    Modules are listed for DeepSpeed engines; of other jobs only totals are known.
    """
    _run(job, out, ranks, {"collector": "flops", "skip": skip})


def _run(job: tuple[str, ...], out: str, ranks: tuple[int, ...], wanted: dict[str, Any]) -> None:
    from collectors import _auto

    known: dict[str, Any] = {"run_dir": os.path.abspath(out), **wanted}
    if ranks:
        known["ranks"] = sorted(set(ranks))
    try:
        code = _auto.run(job, known)
    except FileNotFoundError as e:
        raise UsageError(f"{job[0]}: {e.strerror}", hint="give the job's command after --") from e
    written = sorted(Path(out).glob("*.run.json"))
    if not written:
        click.echo("nothing was recorded: did the job step an optimizer often enough?", err=True)
    else:
        click.echo(f"wrote {printable(out)}: {len(written)} ranks", err=True)
    click.get_current_context().exit(code)


@command.command("nsys", context_settings=_JOB)
@_common
@click.option("--per", type=click.Choice(["node", "rank"]), default="node", show_default=True)
@click.option(
    "--capture",
    type=click.Choice(["all", "api", "time"]),
    default="all",
    show_default=True,
    help="The whole job; what an NsysCollector in the script opens; --duration after --delay.",
)
@click.option("--delay", type=click.FloatRange(min=0), default=60, show_default=True, help="s")
@click.option("--duration", type=click.FloatRange(min=1), default=20, show_default=True, help="s")
@click.option("--dry-run", is_flag=True, help="Print the command and run nothing.")
def nsys_command(job: tuple[str, ...], out: str, dry_run: bool, **how: Any) -> None:
    """Record JOB with Nsight Systems and export it for tracelens.

    The environment of the recorded processes is taken out of the export; the report itself
    (.nsys-rep) still holds it.
    """
    from collectors import nsys

    recording = nsys.Recording(out, how["per"], how["capture"], how["delay"], how["duration"])
    try:
        if dry_run:
            click.echo(shlex.join(nsys.nsys_command(job, recording)))
            return
        code, exports = nsys.record(job, recording)
    except nsys.NsysError as e:
        raise InputError(str(e), hint="--dry-run prints the command, to run it elsewhere") from e
    for path in exports:
        click.echo(f"wrote {printable(str(path))}", err=True)
    click.get_current_context().exit(code)
