"""Files that are written whole or not at all."""

from __future__ import annotations

import os

from tracelens.errors import InputError

_TEXT = ("utf-8", "backslashreplace")


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file through a temporary one beside it; an existing one survives a failure.

    Raises
    ------
    InputError
        If the folder does not exist or cannot be written, or the path is no ordinary file.
    """
    target = os.path.abspath(path)
    if os.path.lexists(target) and not os.path.isfile(target):
        raise InputError(f"{os.fspath(path)}: not an ordinary file", hint="name a file to write")
    temporary = os.path.join(
        os.path.dirname(target), f".{os.path.basename(target)}.{os.getpid()}.tmp"
    )
    try:
        with open(temporary, "xb") as f:
            f.write(content if isinstance(content, bytes) else content.encode(*_TEXT))
        os.replace(temporary, target)
    except OSError as e:
        raise InputError(
            f"{os.fspath(path)}: cannot be written: {e.strerror or e}",
            hint="does its folder exist, and may you write there?",
        ) from e
    finally:  # also on Ctrl-C
        if os.path.lexists(temporary):
            os.unlink(temporary)
