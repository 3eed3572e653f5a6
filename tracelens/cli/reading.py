"""Reading a run for a command."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import click

from tracelens.cli.output import printable
from tracelens.errors import InputError

if TYPE_CHECKING:
    from tracelens import analysis
    from tracelens.api import Analysis
    from tracelens.replay.model import Model


_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kKMGT])?(i)?B?\s*")


def size(written: str) -> int:
    """Bytes, written as people do.

    Examples
    --------
    >>> size("500MB"), size("1.5 GiB"), size("64")
    (500000000, 1610612736, 64)
    """
    found = _SIZE.fullmatch(written)
    if found is None:
        raise click.BadParameter(f"{written!r} is no size; write it as 500MB, 8GB or 8GiB")
    unit = 1024 if found[3] else 1000
    return round(float(found[1]) * float(unit ** " KMGT".index((found[2] or " ").upper())))


def read(  # noqa: PLR0913 - what the options say
    paths: tuple[str, ...],
    ranks: tuple[int, ...] = (),
    ds_config: str | None = None,
    *,
    jobs: int | None = None,
    memory_limit: int | None = None,
    raise_limits: float = 1,
    dask: str | None = None,
    db: str | None = None,
) -> Analysis:
    """The run at `paths`, with a progress bar on a terminal; kept in `db`, if one is given."""
    from tracelens.api import analyze
    from tracelens.report.progress import ReadingBar

    with ReadingBar() as bar:
        return analyze(
            paths,
            ranks=sorted(set(ranks)) or None,
            progress=bar,
            ds_config=ds_config,
            jobs=jobs,
            memory_limit=memory_limit,
            raise_limits=raise_limits,
            dask=dask,
            db=db,
        )


def read_modelled(
    paths: tuple[str, ...], ds_config: str | None = None
) -> tuple[analysis.Analysis, Model]:
    """The run at `paths` and its replay, with a progress bar on a terminal."""
    from tracelens.api import modelled
    from tracelens.report.progress import ReadingBar

    with ReadingBar() as bar:
        return modelled(paths, progress=bar, ds_config=ds_config)


def read_report(path: str) -> dict[str, Any]:
    """The report of a run, of one in a store, or one that ``analyze --json`` printed to a file."""
    from tracelens.comparison.document import check_report
    from tracelens.keeping import report_of

    if _is_report(path):
        document = read_json(path)
        check_report(document, path)
        return document
    kept = report_of(path)
    return read((path,)).to_json() if kept is None else kept


def keep_prediction(path: str, document: dict[str, Any]) -> None:
    """Keep what a what-if said with the run in a store that it was asked of, if it was."""
    from tracelens.errors import StoreError
    from tracelens.store import stored_at

    if place := stored_at(path):
        from tracelens.store import Store

        try:
            Store(place[0]).add_prediction(place[1], document)
        except StoreError as e:  # what was asked for is there all the same
            click.echo(f"not kept: {printable(str(e))}", err=True)


def read_prediction(path: str) -> dict[str, Any]:
    """What ``whatif --json`` or ``tune --json`` printed to a file."""
    from tracelens.comparison.document import check_prediction

    document = read_json(path)
    check_prediction(document, path)
    return document


def read_json(path: str) -> dict[str, Any]:
    """A JSON object from a file.

    Raises
    ------
    InputError
        If the file is not there or holds no JSON object.
    """
    import msgspec

    try:
        with open(path, "rb") as file:
            value = msgspec.json.decode(file.read())  # without NaN, infinity and endless nesting
    except OSError as e:
        raise InputError(f"{path}: {e.strerror or e}", hint="check the path") from e
    except (msgspec.MsgspecError, ValueError, RecursionError) as e:
        raise InputError(f"{path}: not JSON: {e}", hint="was it written to its end?") from e
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a JSON object")
    return value


def _is_report(path: str) -> bool:
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return b"".join(file.read(64).split()).startswith(b'{"format":')
